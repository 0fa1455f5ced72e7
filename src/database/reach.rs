//! Reaching a replica that was not asked at the open: where does its history end, and is that one of our states?

use std::sync::Arc;

use super::engine::Engine;
use super::followed::Database;
use super::overwrite::rejoin;
use super::runtime::Runtime;
use crate::error::{Error, Result};
use crate::replica::Client;
use crate::types::{Checksum, Txid};
use crate::upload::{Head, Uploader};

impl Database {
    /// The home replica, as somebody asks it who may wait for the answer.
    ///
    /// # Errors
    /// As the settings of the store are refused.
    pub(super) fn home_client(&self) -> Result<Arc<dyn Client>> {
        Runtime::get().config.client(&self.settings, 0, None)
    }
}

impl Engine {
    /// Reaches the home replica: a process that joined another, or one that opened while the store was silent. `false`:
    /// nothing may be sent to it.
    ///
    /// # Errors
    /// Those of the store: nothing is known then.
    pub(super) fn reach_home(&mut self, db: &Arc<Database>) -> Result<bool> {
        if self.replicas[0].uploader.is_some() {
            return Ok(true);
        }
        let acknowledged = db.state.acknowledged(0);
        let client = db.home_client()?;
        if acknowledged.is_none() {
            // What has held something must not be made anew: its disk may be away.
            client.prepare()?;
        }
        let head = Head::of(&*client)?;
        let Some(head) = head else {
            if acknowledged.is_some() {
                self.start_over(db)?;
            }
            self.replicas[0].uploader = Some(uploader(db, client, None));
            return Ok(true);
        };
        if !self.was_ours(db, &head) || !self.continues(db, &head)? {
            db.fence(
                &format!(
                    "{} ends at txid {} in a state that this database did not send: another writer won, or its newest \
                     files were removed; this database's own files stay in {}",
                    client.url(),
                    head.txid(),
                    db.log.folder().display()
                ),
                Some(rejoin::HOW),
            );
            return Ok(false);
        }
        db.state.set_acknowledged(0, Some(head.txid()));
        self.replicas[0].uploader = Some(uploader(db, client, Some(&head)));
        Ok(true)
    }

    /// Reaches a copy, which may be empty, or hold a state that this database was in.
    pub(super) fn reach_copy(&mut self, db: &Database, index: usize) -> Result<()> {
        if self.replicas[index].uploader.is_some() {
            return Ok(());
        }
        let client = Runtime::get().config.client(&db.settings, index, None)?;
        client.prepare()?;
        let head = Head::of(&*client)?;
        if let Some(head) = head.as_ref().filter(|head| !self.was_ours(db, head)) {
            return Err(Error::invalid(format!(
                "{} ends at txid {} in a state that this database never had: it is a copy of another one, or older than \
                 what the local log remembers; empty it or choose another place",
                client.url(),
                head.txid()
            )));
        }
        db.state.set_acknowledged(index, head.as_ref().map(Head::txid));
        self.replicas[index].uploader = Some(uploader(db, client, head.as_ref()));
        Ok(())
    }

    /// Whether a replica ends in a state that this database was in, by checksum.
    fn was_ours(&self, db: &Database, head: &Head) -> bool {
        let known = |txid: Txid| -> Option<Checksum> {
            let ring = db.state.positions().find(|p| p.txid == txid).map(|p| p.checksum);
            ring.or(self.recorded.filter(|r| r.position.txid == txid).map(|r| r.position.checksum))
        };
        let post = head.header.proof.map(|p| p.post);
        post.is_some() && known(head.txid()) == post
    }

    /// Whether what the log holds after the end of a replica goes on from there.
    fn continues(&self, db: &Database, head: &Head) -> Result<bool> {
        match self.groups.after(Some(head.txid())).first() {
            None => Ok(self.recorded.is_none_or(|r| r.position.txid == head.txid())),
            Some(&next) => {
                let sealed = self.groups.get(&db.log, next)?;
                Ok(head.header.proof.is_some_and(|p| p.post == sealed.proof.pre))
            }
        }
    }
}

fn uploader(db: &Database, client: Arc<dyn Client>, head: Option<&Head>) -> Uploader {
    Uploader::new(client, head.map(|h| h.file), db.settings.retention.l0)
}
