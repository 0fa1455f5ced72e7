//! When the replicas of a database are kept up: merged, snapshotted, pruned.
//!
//! ```text
//! a group is acknowledged -> due at the next tick of the lowest level -> run, in a lane of its own -> due again, or never
//! ```
//!
//! Only who has added to the history keeps it: the process whose engine worked last, after something of its own was
//! acknowledged. A database that nobody writes is due until everything is merged and let go, and then makes no request.
//!
//! The run looks at the replica alone, up to what is acknowledged, and takes no lock of the database. The engine waits for it
//! only while the page checksums are copied from which a snapshot is begun.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::engine::Engine;
use super::followed::Database;
use super::runtime::Runtime;
use crate::capture::Phase;
use crate::clock;
use crate::config::{ReplicaUrl, Settings};
use crate::error::{Kind, Result};
use crate::lock::Mutex;
use crate::staging::log::Log;
use crate::staging::sent::Sent;
use crate::staging::sums::Sums;
use crate::types::{Checksum, Pgno, Timestamp};
use crate::upkeep::levels::next_tick;
use crate::upkeep::{DatabaseAt, Keeper, keeper::Done};

/// Bytes of sent groups that are kept until they are merged: what a busy database sends in 30 s, mostly.
const SENT_BYTES_MAX: u64 = 16 << 20;
/// Pause after a failure.
const RETRY: Duration = Duration::from_secs(30);
/// Longest wait for the engine, which lets go when what it seals is sent.
const ENGINE_WAIT: Duration = Duration::from_secs(2);
/// Part of the lowest interval over which the databases of a process spread.
const SPREAD: u32 = 3;

pub struct Upkeep {
    /// Of the engine of this process.
    engine: u64,
    // Guards when the next run is due; `None`: none is.
    due: Mutex<Option<Instant>>,
    // Guards what was sent and is not merged yet.
    pub(super) sent: Mutex<Sent>,
}

impl Upkeep {
    pub fn new(engine: u64, log: &Log, settings: &Settings) -> Upkeep {
        // A folder is read as cheaply as the log.
        let reads_back = matches!(settings.replicas[0], ReplicaUrl::Bucket(..));
        let merges = !settings.levels.rungs().is_empty();
        let bytes_max = if reads_back && merges { SENT_BYTES_MAX.min(settings.log_bytes_max / 4) } else { 0 };
        Upkeep { engine, due: Mutex::new(None), sent: Mutex::new(Sent::new(log, bytes_max)) }
    }
}

impl Database {
    /// Something was acknowledged.
    pub(super) fn wants_upkeep(self: &Arc<Self>) {
        let soon = self.lowest_interval().saturating_mul(2);
        if self.upkeep.due.lock().is_none_or(|due| due > Instant::now() + soon) {
            self.schedule_upkeep(next_tick(clock::now(), self.lowest_interval()));
        }
        if self.wants_verification() {
            self.schedule_house();
        }
    }

    fn lowest_interval(&self) -> Duration {
        let levels = &self.settings.levels;
        levels.rungs().first().map_or(levels.snapshot, |rung| rung.interval.min(levels.snapshot))
    }

    /// Spread, so that the databases of a process are not all due at the tick.
    fn schedule_upkeep(self: &Arc<Self>, at: Timestamp) {
        let until = Duration::from_millis(u64::try_from(at.0 - clock::now().0).unwrap_or(0));
        let share = self.upkeep.engine as u32 as f64 / f64::from(u32::MAX);
        let due = Instant::now() + until + (self.lowest_interval() / SPREAD).mul_f64(share);
        *self.upkeep.due.lock() = Some(due);
        self.schedule_house();
    }

    /// The next run, for whatever is due first.
    fn schedule_house(self: &Arc<Self>) {
        let (keep, verify) = (*self.upkeep.due.lock(), *self.verifying.due.lock());
        if let Some(due) = keep.into_iter().chain(verify).min() {
            Runtime::get().schedule_upkeep(self, due);
        }
    }

    /// Does what is due.
    pub(super) fn run_upkeep(self: &Arc<Self>) {
        if !self.may_keep() {
            // What is acknowledged next makes it due again.
            *self.upkeep.due.lock() = None;
            *self.verifying.due.lock() = None;
            return;
        }
        let caught = catch_unwind(AssertUnwindSafe(|| {
            let keep = self.upkeep.due.lock().take_if(|due| *due <= Instant::now());
            if let Some(next) = keep.and_then(|_| self.keep_replicas()) {
                self.schedule_upkeep(next);
            }
            self.verify_part();
        }));
        match caught {
            Ok(()) => self.schedule_house(),
            Err(_) => {
                self.notices().error("upkeep has ended after a bug; commits go on, and the replica grows")
            }
        }
    }

    fn may_keep(&self) -> bool {
        matches!(self.phase(), Phase::Live | Phase::Cold)
            && !self.connections.is_empty()
            && self.state.worked_last() == self.upkeep.engine
            && self.may_write_now()
    }

    /// When the next run is due.
    fn keep_replicas(self: &Arc<Self>) -> Option<Timestamp> {
        let count = self.settings.replicas.len();
        let next = (0..count).filter_map(|index| match self.keep(index) {
            Ok(done) => done.next,
            Err(error) => {
                self.notices.lock()[index]
                    .error(format!("upkeep of {}: {error}", self.settings.replicas[index]));
                Some(Timestamp(clock::now().0 + RETRY.as_millis() as i64))
            }
        });
        next.min()
    }

    fn keep(self: &Arc<Self>, index: usize) -> Result<Done> {
        let Some(newest) = self.state.acknowledged(index) else { return Ok(Done::default()) };
        let client = Runtime::get().config.client(&self.settings, index, None)?;
        let keeper = Keeper {
            client: &*client,
            levels: &self.settings.levels,
            policy: self.settings.retention,
            scratch: self.log.folder(),
            database: &|| self.database_at(index),
            copy: &|file| if index == 0 { self.upkeep.sent.lock().open(file) } else { None },
            must_stop: &|| !self.may_keep(),
        };
        let done = keeper.run(newest, clock::now())?;
        if let Some(merged) = done.merged.filter(|_| index == 0) {
            self.upkeep.sent.lock().forget_to(merged)?;
        }
        if done.created > 0 {
            self.wants_verification();
        }
        Ok(done)
    }

    /// The database as it stands in a replica; `None` while it is ahead of it, or others work on it.
    fn database_at(self: &Arc<Self>, index: usize) -> Result<Option<DatabaseAt>> {
        let found = self.alone(ENGINE_WAIT, |engine| engine.database_at(self, index));
        self.schedule(Instant::now(), false);
        found.or_else(|error| if error.kind() == Kind::Busy { Ok(None) } else { Err(error) })
    }
}

impl Engine {
    fn database_at(&self, db: &Database, index: usize) -> Result<Option<DatabaseAt>> {
        let is_ours = db.state.worked_last() == self.name;
        let acknowledged = db.state.acknowledged(index);
        let Some(at) =
            self.recorded.filter(|r| self.lock.is_some() && is_ours && acknowledged == Some(r.position.txid))
        else {
            return Ok(None);
        };
        let mut sums = Sums::default();
        sums.grow(at.page_count, db.log.folder())?;
        let mut total = Checksum::EMPTY;
        for pgno in (1..=at.page_count).filter_map(Pgno::new) {
            let sum = self.checksums.get(pgno);
            total = sum.map_or(total, |sum| total.toggle(sum));
            sums.set(pgno, sum)?;
        }
        if total != at.position.checksum || self.checksums.page_size() != Some(at.page_size) {
            return Ok(None);
        }
        let file = self.live.base().another()?;
        Ok(Some(DatabaseAt { at, sums, read: Box::new(move |offset, buffer| file.read(offset, buffer)) }))
    }
}
