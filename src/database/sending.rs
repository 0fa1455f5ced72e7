//! What the engine does with sealed groups: to the home replica in order, then to the copies; acknowledge; forget.
//!
//! ```text
//! sealed --put--> stored in the home replica --survives a loss of power--> acknowledged --every copy has it--> forgotten
//! ```
//!
//! A group is stored when its name is there and continues the history ([`crate::upload`]). To make its name last costs
//! a second write of the filesystem's journal, unless the next group's own does it; so, while commits keep coming and
//! nobody waits, a group is acknowledged together with the storing of the next one.

use std::sync::Arc;
use std::time::Instant;

use super::engine::Engine;
use super::followed::Database;
use super::overwrite::rejoin;
use crate::clock;
use crate::error::{Error, Kind, Result};
use crate::staging::groups::Groups;
use crate::types::Txid;
use crate::upload::{Outcome, Uploader};

/// The log's newest group is made to survive a loss of power at most this often.
const POSITION_SYNC_MS: u64 = 1000;
/// And when as many groups, or as much time, has passed. Each costs two fsyncs, as many as the replica's own.
const POSITION_SYNC_GROUPS: u64 = 16;
const POSITION_SYNC_MS_MAX: u64 = 16_000;

/// A group that the home replica stores, while it is not acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    pub txid: Txid,
    /// Monotonic time of a moment before which everything committed is in it, or in an earlier one; 0: unknown.
    pub holds_until_ms: u64,
}

impl Engine {
    /// Puts what is sealed into the home replica.
    pub(super) fn send(&mut self, db: &Arc<Database>) -> Result<()> {
        if !self.reached_home(db)? {
            return Ok(());
        }
        for txid in self.groups.after(self.stored.map(|s| s.txid).or(db.state.acknowledged(0))) {
            let sent = self.send_home(db, txid);
            if sent.is_err() {
                self.acknowledge_stored(db);
            }
            if !sent? {
                return Ok(());
            }
        }
        db.home_succeeded();
        Ok(())
    }

    fn reached_home(&mut self, db: &Arc<Database>) -> Result<bool> {
        let reached = self.reach_home(db);
        if reached.is_err()
            && let Some(unsent) =
                self.groups.newest().filter(|&newest| db.state.acknowledged(0) < Some(newest))
        {
            // The replica lacks it for now, so it must last here.
            make_durable(db, unsent)?;
        }
        reached
    }

    /// Acknowledges what is stored, although what comes after it is not: who waits for it need not wait for that, and
    /// the next attempt need not begin with it.
    fn acknowledge_stored(&mut self, db: &Database) {
        // Should it not last, it is put again.
        if let Some(stored) = self.stored.take()
            && self.home().is_some_and(|home| home.make_durable().is_ok())
        {
            acknowledged(db, stored);
        }
    }

    /// Makes what is stored last, and acknowledges it.
    pub(super) fn acknowledge(&mut self, db: &Database) -> Result<()> {
        if let Some(stored) = self.stored.take() {
            self.home().expect("BUG: stored in a replica that is not reached").make_durable()?;
            acknowledged(db, stored);
        }
        self.follow_up(db)
    }

    /// What comes after an acknowledgement: the copies, and what need not be kept any longer.
    pub(super) fn follow_up(&mut self, db: &Database) -> Result<()> {
        self.snapshot_after_whole(db)?;
        self.keep_position_durable(db)?;
        self.send_copies(db)
    }

    /// Sends to the copies what the home replica has, and forgets what all have. One that failed waits for its time.
    pub(super) fn send_copies(&mut self, db: &Database) -> Result<()> {
        for index in 1..self.replicas.len() {
            if self.replicas[index].retry_at.is_none_or(|at| at <= Instant::now()) {
                let pause = db.copy_tried(index, self.send_copy(db, index));
                self.replicas[index].retry_at = pause.map(|pause| Instant::now() + pause);
            }
        }
        self.forget(db)
    }

    /// Keeps what the log itself says after a loss of power of where the history stands from growing old.
    fn keep_position_durable(&mut self, db: &Database) -> Result<()> {
        let Some(recorded) = self.recorded else { return Ok(()) };
        let now = clock::monotonic_ms();
        let newest = recorded.position.txid;
        let groups = db.state.log_durable().map(|durable| newest.get().saturating_sub(durable.get()));
        if is_position_old(groups, now - self.durable_at_ms)
            && self.groups.contains(newest)
            && make_durable(db, newest)?
        {
            self.durable_at_ms = now;
        }
        Ok(())
    }

    fn home(&self) -> Option<&Uploader> {
        self.replicas[0].uploader.as_ref()
    }

    /// Once, before the log has a new group or the replica one of ours: a loss of power must not bring back the clean mark of
    /// the last close.
    pub(super) fn mark(&mut self, db: &Database) -> Result<()> {
        if !self.marked {
            db.state.sync()?;
            // Nothing is changed yet, and the mark stands: not for good.
            self.marked = db.state.clean().is_none();
            if self.marked {
                db.is_unmarked();
            }
        }
        Ok(())
    }

    fn send_home(&mut self, db: &Arc<Database>, txid: Txid) -> Result<bool> {
        self.mark(db)?;
        let sealed = self.groups.get(&db.log, txid)?;
        if txid == Txid::FIRST {
            // Without a position that lasts the log says nothing of a replica with history.
            make_durable(db, txid)?;
        }
        let home =
            self.replicas[0].uploader.as_mut().expect("BUG: sending before the home replica is reached");
        let began = Instant::now();
        let outcome = match home.put(&db.log, &sealed) {
            Ok(outcome) => {
                self.put_took = began.elapsed();
                if home.client().is_single_writer() {
                    db.is_single_writer(&self.replicas[0].url);
                }
                outcome
            }
            Err(error) => {
                // The replica lacks it for now, so it must last here.
                make_durable(db, txid)?;
                return Err(error);
            }
        };
        match outcome {
            Outcome::Stored => {
                let is_newest = self.recorded.is_some_and(|recorded| recorded.position.txid == txid);
                let holds_until_ms = if is_newest { self.looked_ms } else { 0 };
                if let Some(before) = self.stored.replace(Stored { txid, holds_until_ms }) {
                    acknowledged(db, before);
                }
                Ok(true)
            }
            Outcome::Fenced(text) => {
                db.fence(&text, Some(rejoin::HOW));
                Ok(false)
            }
            Outcome::SetBack(text) => {
                db.fence(&text, None);
                Ok(false)
            }
            Outcome::Emptied => {
                self.start_over(db)?;
                Ok(false)
            }
        }
    }

    /// A group that starts from nothing (another page size, a lost base) needs a snapshot of its own: no merge
    /// may span it.
    fn snapshot_after_whole(&mut self, db: &Database) -> Result<()> {
        let Some(txid) = self.whole.filter(|&whole| db.state.acknowledged(0) >= Some(whole)) else {
            return Ok(());
        };
        let Some(home) = self.home().map(Uploader::client) else { return Ok(()) };
        match crate::upkeep::snapshot_to(home, home, txid, db.log.folder()) {
            Err(error) if error.kind() != Kind::Exists => Err(error),
            _ => {
                self.whole = None;
                Ok(())
            }
        }
    }

    /// Somebody emptied the home replica: numbering starts over with all pages.
    pub(super) fn start_over(&mut self, db: &Database) -> Result<()> {
        let old = self.recorded.map(|r| r.position.to_string()).unwrap_or_default();
        db.upkeep.sent.lock().clear()?;
        db.log.reset()?;
        self.groups = Groups::default();
        self.stored = None;
        db.state.set_log_durable(None);
        db.state.set_synced(None);
        self.checksums.clear();
        self.recorded = None;
        db.noted.note_all();
        for index in 0..self.replicas.len() {
            db.state.set_acknowledged(index, None);
        }
        let url = self.replicas[0].url.clone();
        // It is reached anew, and found to hold nothing.
        self.replicas[0].uploader = None;
        db.cold_by_event(&format!(
            "{url} was emptied; the history starts over at txid 1 (it stood at {old})"
        ));
        Err(Error::busy(format!("{url} was emptied; starting over with a full copy")))
    }

    fn send_copy(&mut self, db: &Database, index: usize) -> Result<()> {
        let Some(home) = db.state.acknowledged(0) else { return Ok(()) };
        let url = self.replicas[index].url.clone();
        self.reach_copy(db, index)?;
        let (homes, copies) = self.replicas.split_at_mut(index);
        let (home_client, copy) = (&homes[0].uploader, &mut copies[0].uploader);
        let (Some(home_client), Some(copy)) = (home_client.as_ref(), copy.as_mut()) else { return Ok(()) };
        copy.follow(db.state.acknowledged(index))?;
        while db.state.acknowledged(index).is_none_or(|a| a < home) {
            let next = db.state.acknowledged(index).map_or(Txid::FIRST, Txid::next);
            if !self.groups.contains(next) {
                let snapshot =
                    crate::upkeep::snapshot_to(home_client.client(), copy.client(), home, db.log.folder())?;
                copy.found(snapshot);
                db.state.set_acknowledged(index, Some(home));
                break;
            }
            match copy.put(&db.log, &self.groups.get(&db.log, next)?)? {
                Outcome::Stored => {
                    copy.make_durable()?;
                    db.state.set_acknowledged(index, Some(next));
                }
                Outcome::Fenced(text) | Outcome::SetBack(text) => return Err(Error::fenced(text)),
                Outcome::Emptied => {
                    self.replicas[index].uploader = None;
                    db.state.set_acknowledged(index, None);
                    return Err(Error::busy(format!("{url} was emptied; starting it over")));
                }
            }
        }
        Ok(())
    }

    /// Removes sealed groups that every replica has, and, when the log is full, those that only copies lack.
    /// The newest one stays.
    fn forget(&mut self, db: &Database) -> Result<()> {
        let everywhere = (0..self.replicas.len()).map(|i| db.state.acknowledged(i)).min().flatten();
        let full = self.groups.bytes() > db.settings.log_bytes_max;
        let gone = if full { db.state.acknowledged(0) } else { everywhere };
        let Some(gone) = gone else { return Ok(()) };
        self.groups.forget_to(&db.log, gone, db.state.log_durable(), &mut db.upkeep.sent.lock())
    }
}

/// Whether the position that survives a loss of power in the log, `groups` behind the newest and `age_ms` old, is to be
/// brought up to it; `None`: none does.
fn is_position_old(groups: Option<u64>, age_ms: u64) -> bool {
    groups.is_none_or(|groups| {
        age_ms >= POSITION_SYNC_MS && (groups >= POSITION_SYNC_GROUPS || age_ms >= POSITION_SYNC_MS_MAX)
    })
}

/// Makes a group survive a loss of power in the log. `false`: the one that was made to last there is this one.
fn make_durable(db: &Database, txid: Txid) -> Result<bool> {
    if db.state.log_durable() == Some(txid) {
        return Ok(false);
    }
    db.log.make_durable(txid)?;
    db.state.set_log_durable(Some(txid));
    Ok(true)
}

fn acknowledged(db: &Database, stored: Stored) {
    assert!(db.state.acknowledged(0) < Some(stored.txid), "BUG: {} is acknowledged again", stored.txid);
    db.state.set_acknowledged(0, Some(stored.txid));
    db.covered(stored.holds_until_ms);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_keeps_its_position_by_time_and_by_number_of_groups() {
        for (groups, age_ms, is_old) in [
            (None, 0, true),
            (Some(1000), 999, false),
            (Some(16), 1000, true),
            (Some(15), 15_999, false),
            (Some(1), 16_000, true),
        ] {
            assert_eq!(is_position_old(groups, age_ms), is_old, "{groups:?} groups, {age_ms} ms");
        }
    }
}
