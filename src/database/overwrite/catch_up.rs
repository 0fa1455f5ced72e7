//! Brings a database that is open to the end of its home replica, on demand: an outdated node need not be closed.
//!
//! ```text
//! nothing is noted and nothing unsent; the way from the recorded position is proven         (capture lock)
//! the head is restored beside; SQLite's write lock; still nothing noted?                     (no commit can slip in)
//! page 1 to be gets a stand-in; mark "rolling"; the log stands at the head; SQLite commits the restored file; mark away
//! ```
//!
//! The transaction is SQLite's own, so that other connections and processes see it as any commit. It counts up fields of
//! page 1, which is no change ([`crate::staging::stand_in`]): nothing is added to the history, and no lease is needed. Killed
//! between the marks, the next open reads the file whole and decides: the old state is rolled forward, the new one goes on.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::capture::{Collected, Phase};
use crate::catalog::Target;
use crate::clock::{self, Deadline};
use crate::database::engine::Engine;
use crate::database::followed::Database;
use crate::database::live::{beside, read_at, wal_bytes};
use crate::database::way::{Files, History};
use crate::error::{Error, Result};
use crate::ffi::overwrite::Overwrite;
use crate::restore;
use crate::sqlite::header;
use crate::staging::stand_in::StandIn;
use crate::types::{Checksum, Pgno, Txid};
use crate::upload::Head;

/// Pause between two tries for the capture lock.
const SOON: Duration = Duration::from_millis(2);

/// A transaction that holds the write lock of the database, and overwrites it with a file when it commits.
pub trait Pending {
    /// # Errors
    /// As SQLite says; nothing is changed then.
    fn commit(self: Box<Self>) -> Result<()>;
}

/// Begins such a transaction from the file at a path.
pub type Begin<'a> = dyn FnMut(&Path) -> Result<Box<dyn Pending>> + 'a;

/// A database restored beside the log, gone with the value.
pub(in crate::database) struct Restored(PathBuf);

impl Restored {
    /// What an earlier one left there goes.
    pub(in crate::database) fn new(path: PathBuf) -> Restored {
        let restored = Restored(path);
        restored.remove();
        restored
    }

    pub(in crate::database) fn path(&self) -> &Path {
        &self.0
    }

    fn remove(&self) {
        for suffix in ["", "-wal", "-shm", "-journal"] {
            let _ = std::fs::remove_file(beside(&self.0, suffix));
        }
    }
}

impl Drop for Restored {
    fn drop(&mut self) {
        self.remove();
    }
}

impl Database {
    /// Overwrites the database with the head of its home replica, unless it is there; the txid of that head. For each
    /// lock it waits at most `wait`.
    ///
    /// # Errors
    /// `Busy` while others work on the database or the log; `Conflict` when it has commits that are not in the replica, or
    /// no files prove the way; those of restoring and of `begin`.
    pub fn catch_up(self: &Arc<Self>, wait: Duration, begin: &mut Begin<'_>) -> Result<Option<Txid>> {
        let outcome = self.alone(wait, |engine| engine.catch_up(self, begin));
        self.schedule(Instant::now(), true);
        outcome
    }

    /// As [`Database::catch_up`], on a thread of the worker.
    pub(in crate::database) fn catch_up_by_itself(self: &Arc<Self>, wait: Duration) -> Result<Option<Txid>> {
        self.catch_up(wait, &mut |source| self.begin_overwrite(source, wait))
    }

    /// A transaction of the SQLite that this database is open in, without a connection of the application.
    pub(in crate::database) fn begin_overwrite(
        &self,
        source: &Path,
        wait: Duration,
    ) -> Result<Box<dyn Pending>> {
        Ok(Box::new(Overwrite::begin_below(self.base, &self.path, source, wait)?))
    }

    /// Whether everything that was committed is in a group. True as long as the caller holds SQLite's write lock.
    ///
    /// # Errors
    /// `Busy` while others work on the database or the log.
    pub(in crate::database) fn is_all_captured(self: &Arc<Self>, wait: Duration) -> Result<bool> {
        self.alone(wait, |engine| {
            engine.refresh(self)?;
            engine.is_settled(self)
        })
    }

    /// With the engine and the capture lock.
    pub(in crate::database) fn alone<T>(
        self: &Arc<Self>,
        wait: Duration,
        body: impl FnOnce(&mut Engine) -> Result<T>,
    ) -> Result<T> {
        let outcome = self.with_engine(wait, body);
        self.run_if_asked();
        outcome
    }

    fn with_engine<T>(&self, wait: Duration, body: impl FnOnce(&mut Engine) -> Result<T>) -> Result<T> {
        let busy = || Error::busy("this database is being replicated at this moment; try again");
        let deadline = Deadline::after(wait);
        let mut engine = self.engine.try_lock_for(wait).ok_or_else(busy)?;
        while !engine.lock.as_ref().ok_or_else(busy)?.try_exclusive()? {
            if deadline.passed() {
                return Err(busy());
            }
            clock::pause(SOON);
        }
        let outcome = body(&mut engine);
        if outcome.is_err() {
            self.state.set_worked_last(0);
        }
        if let Some(lock) = &engine.lock {
            lock.unlock()?;
        }
        outcome
    }
}

impl Engine {
    fn catch_up(&mut self, db: &Arc<Database>, begin: &mut Begin<'_>) -> Result<Option<Txid>> {
        if !matches!(db.phase(), Phase::Live | Phase::Cold) {
            let why = db.last_error().unwrap_or_default();
            return Err(Error::conflict(format!("cannot roll forward while {}: {why}", db.phase().name())));
        }
        self.refresh(db)?;
        let client = match &self.replicas[0].uploader {
            Some(home) => home.shared_client(),
            // A process that joined another has not reached it; what is found there must not fence it now.
            None => db.home_client()?,
        };
        let head = Head::of(&*client)?;
        let (Some(head), Some(recorded)) = (head, self.recorded) else {
            return Ok(self.recorded.map(|r| r.position.txid));
        };
        let post = head.header.proof.map(|p| p.post);
        if recorded.position.txid == head.txid() && Some(recorded.position.checksum) == post {
            return Ok(Some(head.txid()));
        }
        let unsent = || {
            Error::conflict(format!(
                "{} has commits that are not in {}, which goes on to txid {}: they cannot both be kept; SELECT \
                 replica_rejoin() saves what only this database has and goes on from there",
                db.path.display(),
                client.url(),
                head.txid()
            ))
        };
        if db.state.acknowledged(0) != Some(recorded.position.txid) || !self.is_settled(db)? {
            return Err(unsent());
        }
        let history = History { home: &*client, head: Some(&head), log: &db.log, following: Vec::new() };
        let same_size = head.header.page_size == recorded.page_size;
        let local = |pgno: Pgno| self.checksums.get(pgno).filter(|_| same_size);
        let way = history.way(Some(recorded.position.checksum), &local, Files::Any)?.filter(|_| same_size);
        let Some(way) = way else {
            return Err(Error::conflict(format!(
                "the files of {} do not prove what {} would become, or its page size changed: close the database and \
                 open it again",
                client.url(),
                db.path.display()
            )));
        };
        let restored = Restored::new(db.log.folder().join("head.db"));
        let target = Target::Txid(head.txid());
        let found = restore::restore(&*client, target, &restored.0, restore::Options::default())?;
        if found.position != way.end().position {
            return Err(Error::conflict(format!("{} changed while it was read; try again", client.url())));
        }
        let pending = begin(&restored.0)?;
        if !self.is_settled(db)? {
            return Err(unsent());
        }
        let end = way.end();
        let gone = (end.page_count.saturating_add(1)..=recorded.page_count).filter_map(Pgno::new);
        let touched = way.overlay.changes().map(|(pgno, _)| pgno).chain(gone);
        let old: Vec<(Pgno, Checksum)> =
            touched.filter_map(|pgno| Some((pgno, self.checksums.get(pgno)?))).collect();
        self.checksums.reserve(end.page_count.max(recorded.page_count))?;
        self.let_stand_in(db, &restored)?;
        db.log.begin_rolling()?;
        db.log.set_base(end)?;
        self.checksums.apply(end.page_size, end.page_count, way.overlay.changes());
        assert_eq!(self.checksums.total(), end.position.checksum, "BUG: caught up with another state");
        if let Err(error) = pending.commit() {
            db.log.drop_base(end.position)?;
            self.checksums.apply(recorded.page_size, recorded.page_count, old);
            db.log.end_rolling()?;
            return Err(error);
        }
        (self.recorded, self.stored) = (Some(end), None);
        db.state.push_position(end.position);
        db.state.set_acknowledged(0, Some(end.position.txid));
        if let Some(home) = self.replicas[0].uploader.as_mut() {
            home.follow(Some(end.position.txid))?;
        }
        db.log.end_rolling()?;
        let (from, to) = (recorded.position.txid, end.position.txid);
        db.cold_by_event(&format!("the database was rolled forward from {from} to {to} while it was open"));
        self.compare_overwritten(db);
        Ok(Some(to))
    }

    /// What SQLite makes of page 1 of `restored`, when it overwrites the database with it, stands for that page.
    pub(in crate::database) fn let_stand_in(&mut self, db: &Database, restored: &Restored) -> Result<()> {
        let path = restored.path();
        let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
        let mut header = [0; 100];
        read_at(&file, path, 0, &mut header)?;
        let Some(found) = header::parse(&header) else { return Ok(()) };
        let mut page_1 = vec![0; found.page_size.bytes()];
        read_at(&file, path, 0, &mut page_1)?;
        let stand_in = StandIn::of(&page_1);
        db.log.add_stand_in(stand_in)?;
        self.stand_ins.push(stand_in);
        Ok(())
    }

    /// SQLite wrote every page of the database: they are as they should be. Whatever is in the way, the worker does it.
    pub(in crate::database) fn compare_overwritten(&mut self, db: &Database) {
        let page_1 = self.checksums.get(Pgno::FIRST);
        // What stays is not in force.
        let _ = db.log.drop_stand_ins(&mut self.stand_ins, page_1);
        if let Ok(Collected::Nothing) = self.collect(db) {
            db.noted.settle();
            db.healed();
        }
    }

    /// The database is as recorded: nothing is noted, and nobody committed unseen.
    fn is_settled(&mut self, db: &Database) -> Result<bool> {
        let not_shown =
            || Error::busy("no connection of this process shows what the WAL holds; read from it first");
        if let Some(wal) = db.connections.mapped() {
            db.notes.note(&*wal, &db.state, &db.noted).ok_or_else(not_shown)?;
        } else if db.connections.has_wal() || wal_bytes(&db.path) > 0 {
            return Err(not_shown());
        } else {
            let mut tag = [0; header::TAG_LEN];
            let there = self.live.base().read(header::TAG_OFFSET, &mut tag)? == tag.len();
            if !there || (header::change_tag(&tag) != db.state.tag() && !db.is_at_rest()) {
                return Ok(false);
            }
        }
        if db.noted.is_empty() {
            return Ok(true);
        }
        // What was noted may be as it was; what is not stays noted.
        let busy = || Error::busy("the database is being written; try again");
        let same = self.is_unchanged(db)?.ok_or_else(busy)?;
        if same {
            db.noted.settle();
            db.healed();
        }
        Ok(same)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::Runtime;
    use crate::ffi::engine::Engine as Connection;
    use crate::testing::Folder;

    #[test]
    fn a_run_that_found_the_engine_taken_is_made_up_for() {
        let folder = Folder::new();
        let (path, replica) = (folder.path().join("a.db"), folder.path().join("replica"));
        let uri = format!("file:{}?vfs=replvfs&replica=file://{}", path.display(), replica.display());
        let connection = Connection::open(&uri, Some("replvfs")).unwrap();
        connection.exec("PRAGMA journal_mode=WAL; CREATE TABLE t(x)").unwrap();
        connection.value("SELECT replica_sync(20)").unwrap();
        let database = Runtime::get().find(&std::fs::canonicalize(&path).unwrap()).unwrap();
        let asked = database.alone(Duration::from_secs(10), |_| {
            let ticket = database.ask_for_sync();
            while database.is_due() {
                clock::pause(SOON);
            }
            // The worker has taken the run, and comes for the engine.
            clock::pause(10 * SOON);
            Ok(ticket)
        });
        database.tickets.wait(asked.unwrap(), Deadline::after(Duration::from_secs(20))).unwrap();
    }
}
