//! What the worker does with one database: one cycle of collect, seal, upload, acknowledge.
//!
//! Runs under the capture lock of the local log, so that of several processes one works at a time; who finds that
//! another worked last, or that its own last cycle failed, reads the position from the newest file of the log.
//! Nothing is sealed while the home replica lacks a sealed group: offline, the noted set is the one open group, and it
//! grows without costing memory or disk. Sending is in [`super::sending`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::connections::Writing;
use super::followed::Database;
use super::live::{LiveFiles, LiveQuiet, wal_bytes};
use super::overwrite::rejoin;
use super::sending::Stored;
use crate::capture::rollback_pages;
use crate::capture::{Base, Collected, NotNow, PageBuffer, Phase, Shape, Work, group, wal_pages};
use crate::clock;
use crate::config::ReplicaUrl;
use crate::error::Result;
use crate::fs::LockFile;
use crate::sqlite::header;
use crate::sqlite::wal_index::Salts;
use crate::staging::checksums::PageChecksums;
use crate::staging::groups::Groups;
use crate::staging::log::{Recorded, Sealed};
use crate::staging::stand_in::{self, StandIn};
use crate::types::{Pgno, Txid};
use crate::upload::Uploader;

/// Pause before the next attempt when a transaction or another process was in the way.
const SOON: Duration = Duration::from_millis(2);
/// Pause while no connection shows what the WAL holds: until one of them reads, or the last one is gone.
const NO_VIEW: Duration = Duration::from_millis(20);
/// Pause before another look at a database whose page size is not known.
const UNREADABLE: Duration = Duration::from_millis(200);
/// Cycles without stillness in a rollback mode after which one reading holds SHARED.
const BUSY_CYCLES_MAX: u32 = 20;
/// Groups sealed in one cycle before the capture lock is given to another process.
const GROUPS_MAX: u32 = 4;
/// Rest after a group, in times of what it took, while programs without the extension commit in a rollback mode: each of
/// our writes to disk makes one of theirs longer, and with it the time in which others find the database locked.
const COLD_REST: u32 = 24;
/// Longest gathering of committers that wait, before a group begins.
const GATHER_MAX: Duration = Duration::from_millis(50);
/// Longest rest after a group.
const REST_MAX: Duration = Duration::from_secs(1);

/// What hinders a look at the database, for who waits for it.
const UNKNOWN_END: &str = "a transaction in locking_mode=EXCLUSIVE has written to the database file, and SQLite does not \
     tell when such a one is rolled back; if it was, the next commit, or leaving that mode, or the close shows it";
const BUSY: &str = "a transaction is open, or a journal waits to be played back";
const OUTRUN: &str = "transactions follow each other faster than their pages can be read";
const NOT_SHOWN: &str =
    "there is a WAL, and no connection of this process shows what it holds before it has read";

/// What a cycle came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cycle {
    /// Everything that was committed when it began is in the home replica.
    Done,
    /// Everything that was committed when it began is stored there; the run that is due already acknowledges it.
    Stored,
    /// Something is left.
    Later(Duration),
}

/// One replica as the engine sees it.
pub struct Replica {
    pub url: ReplicaUrl,
    /// `None`: not reached yet, or its history is not ours.
    pub uploader: Option<Uploader>,
    /// When a copy that failed is tried again; `None`: it did not fail, and gets the next group at once.
    pub retry_at: Option<Instant>,
}

pub struct Engine {
    /// `None` once the database is closed.
    pub lock: Option<LockFile>,
    pub checksums: PageChecksums,
    pub live: LiveFiles,
    pub recorded: Option<Recorded>,
    /// The log's sealed groups, as of this engine's last cycle.
    pub groups: Groups,
    pub stored: Option<Stored>,
    /// When the look for the newest sealed group began, monotonic: what was committed before is in it.
    pub looked_ms: u64,
    /// What the state page shows as long as no other process has worked since.
    pub name: u64,
    pub replicas: Vec<Replica>,
    pub stand_ins: Vec<StandIn>,
    pub busy: u32,
    /// A group that starts from nothing in the middle of the history, and whose snapshot is not stored yet.
    pub whole: Option<Txid>,
    /// The state page is on disk, so that a loss of power does not bring back the clean mark of the last close.
    pub marked: bool,
    /// How long the home replica took for the newest group.
    pub put_took: Duration,
    /// When this engine last made a group survive a loss of power in the local log, monotonic.
    pub durable_at_ms: u64,
}

impl Engine {
    /// One cycle. Call it on one thread at a time.
    ///
    /// # Errors
    /// A fault of the disk or the store: try again after a pause.
    pub fn cycle(&mut self, db: &Arc<Database>) -> Result<Cycle> {
        if self.lock.is_some() && self.live.base().has_moved() {
            db.end(
                Phase::Refused,
                "the database file was renamed, replaced or deleted while it was open; reopen it to go on",
            );
            return Ok(Cycle::Done);
        }
        self.alone(db, Engine::work)
    }

    /// Tries the copies again whose time has come, and nothing else. Call it as [`Engine::cycle`].
    ///
    /// # Errors
    /// A fault of the disk or the home replica; one of a copy is its own.
    pub fn retry_copies(&mut self, db: &Arc<Database>) -> Result<Cycle> {
        self.alone(db, |engine, db| engine.send_copies(db).map(|()| Cycle::Done))
    }

    /// When the next copy is to be tried again.
    pub fn retry_at(&self) -> Option<Instant> {
        self.lock.as_ref().and_then(|_| self.replicas.iter().filter_map(|r| r.retry_at).min())
    }

    /// Under the capture lock, with what other processes did meanwhile.
    fn alone(
        &mut self,
        db: &Arc<Database>,
        body: fn(&mut Engine, &Arc<Database>) -> Result<Cycle>,
    ) -> Result<Cycle> {
        let Some(lock) = &self.lock else { return Ok(Cycle::Done) };
        if !lock.try_exclusive()? {
            // Whoever has it may have acknowledged commits of ours.
            db.tickets.nudge();
            return Ok(Cycle::Later(SOON));
        }
        let outcome = self.after_others(db, body);
        if outcome.is_err() {
            db.state.set_worked_last(0);
        }
        if let Some(lock) = &self.lock {
            lock.unlock()?;
        }
        outcome
    }

    fn after_others(
        &mut self,
        db: &Arc<Database>,
        body: fn(&mut Engine, &Arc<Database>) -> Result<Cycle>,
    ) -> Result<Cycle> {
        if db.state.worked_last() != self.name {
            if let Some(pause) = rest(db) {
                return Ok(Cycle::Later(pause));
            }
            self.refresh(db)?;
        }
        body(self, db)
    }

    pub(super) fn work(&mut self, db: &Arc<Database>) -> Result<Cycle> {
        for _ in 0..GROUPS_MAX {
            if db.waits_for_replica() {
                db.tickets.gather((self.put_took / 2).min(GATHER_MAX));
            }
            let look = Look::begin(db);
            self.send(db)?;
            if db.phase() == Phase::Fenced {
                return self.acknowledge(db).map(|()| Cycle::Done);
            }
            let looked_ms = clock::monotonic_ms();
            let next = self.recorded.map_or(Txid::FIRST, |r| r.position.txid.next());
            // Before the wal-index is read: who commits after this reads the number of the group after this one.
            db.state.set_open_txid(next.next());
            let collected = self.collect(db);
            let sealed = match collected {
                Ok(Collected::Pages(buffer, shape)) => self.seal(db, &buffer, shape),
                Ok(Collected::Nothing) => Ok(None),
                Ok(Collected::NotNow(why)) => {
                    db.state.set_open_txid(next);
                    self.acknowledge(db)?;
                    return Ok(self.not_now(db, &why, look));
                }
                Err(error) => Err(error),
            };
            if !matches!(sealed, Ok(Some(_))) {
                db.state.set_open_txid(next);
            }
            // What was stored before is, whatever became of this one.
            let sealed = match sealed {
                Err(error) => return self.acknowledge(db).and(Err(error)),
                Ok(sealed) => sealed,
            };
            let Some(sealed) = sealed else {
                db.noted.settle();
                db.healed();
                self.acknowledge(db)?;
                look.serve(db);
                return Ok(Cycle::Done);
            };
            self.busy = 0;
            db.noted.settle();
            // At most half of the time is for us, and far less while programs without the extension make us compare
            // every page again and again: the longer a group takes, the more the next one collects.
            let share = if db.phase() == Phase::Cold { COLD_REST } else { 1 };
            let worked = Duration::from_millis(clock::monotonic_ms() - looked_ms);
            let pause = (worked * share).min(REST_MAX).max(db.settings.interval);
            db.state.set_next_at_ns(clock::machine_ns() + pause.as_nanos() as u64);
            db.healed();
            db.state.push_position(sealed.recorded().position);
            if db.connections.has_wal() && wal_bytes(&db.path) == 0 {
                // Cut while the pages were read, or before.
                db.wal_goes();
            }
            (self.recorded, self.looked_ms) = (Some(sealed.recorded()), looked_ms);
            self.send(db)?;
            if db.phase() == Phase::Fenced {
                return self.acknowledge(db).map(|()| Cycle::Done);
            }
            let more = db.noted.has_open();
            if (more || db.is_due()) && !db.tickets.is_wanted() && !db.settings.interval.is_zero() {
                self.follow_up(db)?;
                let is_soon = db.is_due() && pause == db.settings.interval;
                return Ok(if is_soon { Cycle::Stored } else { Cycle::Later(pause) });
            }
            self.acknowledge(db)?;
            look.serve(db);
            if !more {
                return Ok(Cycle::Done);
            }
        }
        Ok(Cycle::Later(SOON))
    }

    fn not_now(&mut self, db: &Database, why: &NotNow, look: Look) -> Cycle {
        match why {
            NotNow::Empty => {
                look.serve(db);
                Cycle::Done
            }
            NotNow::Busy => {
                self.busy += 1;
                let unknown = db.connections.exclusive() == Some(Writing::Unknown);
                db.tickets.hindered(if unknown { UNKNOWN_END } else { BUSY });
                if db.connections.is_reserved() {
                    db.tickets.is_hopeless(look.ticket);
                }
                Cycle::Later(SOON)
            }
            NotNow::Unreadable => {
                let text = format!(
                    "page 1 of {} is not that of a plain SQLite database (is it encrypted?), and its page size is not \
                     known before this process commits to it or uses it in WAL mode",
                    db.path.display()
                );
                if db.notices().last_error.as_ref() != Some(&text) {
                    db.notices().error(text);
                }
                db.tickets.is_hopeless(look.ticket);
                Cycle::Later(UNREADABLE)
            }
            NotNow::Outrun => {
                db.tickets.hindered(OUTRUN);
                Cycle::Later(SOON)
            }
            NotNow::NoView => {
                db.tickets.hindered(NOT_SHOWN);
                Cycle::Later(NO_VIEW)
            }
        }
    }

    /// Another process has sealed and sent meanwhile, or this engine has just begun, or failed.
    pub(super) fn refresh(&mut self, db: &Database) -> Result<()> {
        db.state.set_worked_last(self.name);
        self.groups = Groups::read(&db.log)?;
        self.stand_ins = db.log.stand_ins()?;
        self.stored = None;
        if db.log.rejoining()?.is_some() {
            if db.phase() != Phase::Fenced {
                db.fence(
                    "a process died while it brought the database to the history of another writer",
                    Some(rejoin::HOW),
                );
            }
        } else if db.log.is_rolling() {
            // Who rolled it forward is gone, and the database may be where it was.
            db.noted.note_all();
            db.went_cold("a process died while it rolled the database forward");
            db.log.end_rolling()?;
        }
        // What follows ours may be sealed, sent and forgotten: only the newest name says where the history stands.
        let newest = db.log.recorded_after(self.groups.newest())?;
        if newest != self.recorded {
            self.recorded = newest;
            if let Some(recorded) = &self.recorded {
                db.set_page_size(recorded.page_size);
                if !group::reapply(&db.log, &mut self.checksums, recorded)? {
                    db.noted.note_all();
                }
            }
        }
        let home = self.replicas[0].uploader.as_mut();
        home.map_or(Ok(()), |home| home.follow(db.state.acknowledged(0)))
    }

    pub(super) fn base(&self) -> Base<'_> {
        Base { recorded: self.recorded, checksums: &self.checksums }
    }

    fn work_of<'a>(&'a self, db: &'a Database, base: Base<'a>) -> Work<'a> {
        let (noted, state, folder) = (&db.noted, &db.state, db.log.folder());
        let page_size = db.page_1_written().or(self.recorded.map(|r| r.page_size));
        Work { files: &self.live, noted, state, base, page_size, folder }
    }

    /// Reads the noted pages. A page 1 that stands for that of the base is no change by itself, and comes with every other.
    pub(super) fn collect(&self, db: &Database) -> Result<Collected> {
        let mut collected = self.collect_noted(db)?;
        let page_1 = self.checksums.get(Pgno::FIRST);
        if let Some(stand_in) = self.stand_ins.iter().find(|s| Some(s.page) == page_1) {
            if matches!(&collected, Collected::Pages(buffer, _) if !buffer.contains(Pgno::FIRST)) {
                db.noted.note(Pgno::FIRST);
                collected = self.collect_noted(db)?;
            }
            if self.is_stand_in_alone(&collected, stand_in)? {
                return Ok(Collected::Nothing);
            }
        }
        Ok(collected)
    }

    fn is_stand_in_alone(&self, collected: &Collected, stand_in: &StandIn) -> Result<bool> {
        let Collected::Pages(buffer, shape) = collected else { return Ok(false) };
        if buffer.len() != 1 || !buffer.contains(Pgno::FIRST) || self.base().shape() != Some(*shape) {
            return Ok(false);
        }
        let mut page = vec![0; shape.page_size.bytes()];
        buffer.read(Pgno::FIRST, &mut page)?;
        Ok(stand_in::rest_of(&page) == stand_in.rest)
    }

    /// Whether what is noted is as it was, so that it makes no group; it stays noted. `None`: it cannot be read now.
    pub(super) fn is_unchanged(&self, db: &Database) -> Result<Option<bool>> {
        Ok(match self.collect(db)? {
            Collected::Nothing | Collected::NotNow(NotNow::Empty) => Some(true),
            Collected::Pages(buffer, shape) => {
                Some(group::plan(&self.base(), &buffer, shape, db.state.writer(), clock::now()).is_none())
            }
            Collected::NotNow(_) => None,
        })
    }

    fn collect_noted(&self, db: &Database) -> Result<Collected> {
        self.collect_against(db, self.base(), false)
    }

    /// Reads what is noted, or all of it, against `base`; `is_locked`: a connection of our own holds SQLite's write lock.
    pub(super) fn collect_against(
        &self,
        db: &Database,
        base: Base<'_>,
        is_locked: bool,
    ) -> Result<Collected> {
        self.live.open_wal()?;
        let collected = self.collect_from(db, base, is_locked);
        self.live.close_wal();
        collected
    }

    fn collect_from(&self, db: &Database, base: Base<'_>, is_locked: bool) -> Result<Collected> {
        let shm = db.connections.mapped();
        let owned = db.connections.has_wal() && db.connections.exclusive().is_some();
        if shm.is_some() || owned {
            if shm.is_none() {
                db.refresh_exclusive(&self.live, None)?;
            }
            let reader = wal_pages::Reader {
                work: self.work_of(db, base),
                view: shm.as_deref().map_or(&db.exclusive_wal as &dyn crate::capture::WalView, |s| s),
                notes: &db.notes,
                cold: &|| db.went_cold("a program without the extension changed the WAL"),
            };
            return reader.collect();
        }
        if db.connections.has_wal() || wal_bytes(&db.path) > 0 {
            return Ok(Collected::NotNow(NotNow::NoView));
        }
        self.collect_rollback(db, base, is_locked)
    }

    fn collect_rollback(&self, db: &Database, base: Base<'_>, is_locked: bool) -> Result<Collected> {
        let mut bytes = [0; 100];
        let there = self.live.base().read(0, &mut bytes)? == bytes.len();
        let tag = header::tag_of(&bytes);
        let known = !there || tag == db.state.tag();
        let in_wal_mode = header::parse(&bytes).is_none_or(|h| h.wal) || (!known && db.is_wal_left());
        // The header of an open transaction, perhaps the switch to WAL mode itself, is not looked at.
        if there && in_wal_mode && (is_locked || !self.live.base().check_reserved()?) {
            db.check_rest();
            db.state.set_tag(tag);
        }
        let held = !is_locked && self.busy >= BUSY_CYCLES_MAX && self.live.base().lock(1)?;
        if held {
            db.notices().event("the database was never still; one scan held a read lock");
        }
        let quiet = LiveQuiet {
            path: &db.path,
            files: &self.live,
            connections: &db.connections,
            writes: &db.writes,
            held: held || is_locked,
            standing: &db.standing,
        };
        let reader =
            rollback_pages::Reader { work: self.work_of(db, base), quiet: &quiet, handoff: &db.handoff };
        let outcome = reader.collect();
        if held {
            self.live.base().unlock(0)?;
        }
        // A WAL that stays through a switch to a rollback mode (PERSIST_WAL) is used on by whoever has it open, and what
        // is committed there leaves page 1 alone. Only a commit in a rollback mode proves that nobody has.
        if !(known && outcome.as_ref().is_ok_and(|(_, foreign)| !foreign.0)) && db.is_wal_left() {
            db.state.set_tag(0);
        }
        let (collected, foreign) = outcome?;
        if foreign.0 {
            db.went_cold("a program without the extension committed");
        }
        Ok(collected)
    }

    fn seal(&mut self, db: &Arc<Database>, buffer: &PageBuffer, shape: Shape) -> Result<Option<Sealed>> {
        let Some(plan) = group::plan(&self.base(), buffer, shape, db.state.writer(), clock::now()) else {
            return Ok(None);
        };
        if group::rebuild(&mut self.checksums, self.recorded, &plan, buffer)? {
            db.set_page_size(shape.page_size);
            return Ok(None);
        }
        db.pass_healing()?;
        self.mark(db)?;
        let unneeded = self.groups.take_unneeded(&db.log)?;
        let sealed = group::seal(&db.log, unneeded, &mut self.checksums, &plan, buffer)?;
        if plan.whole && sealed.txid > Txid::FIRST {
            self.whole = Some(sealed.txid);
        }
        db.set_page_size(shape.page_size);
        self.groups.add(sealed);
        db.log.drop_stand_ins(&mut self.stand_ins, self.checksums.get(Pgno::FIRST))?;
        Ok(Some(sealed))
    }
}

/// What was committed before a look at the database began: once that is acknowledged, all of it is.
#[derive(Clone, Copy)]
struct Look {
    ticket: u64,
    /// For those who wait in other processes.
    position: Option<(Salts, u32)>,
}

impl Look {
    fn begin(db: &Database) -> Look {
        let position = db.connections.mapped().and_then(|wal| wal.position());
        Look { ticket: db.tickets.newest(), position }
    }

    fn serve(self, db: &Database) {
        if db.waits_for_replica() {
            db.state.set_covered(self.position);
        }
        db.tickets.serve(self.ticket);
    }
}

/// How long until the group after another process's is due, unless somebody waits. Processes that write the same
/// database seal together as often as one of them would.
fn rest(db: &Database) -> Option<Duration> {
    if db.tickets.is_wanted() {
        return None;
    }
    let rest = db.state.next_at_ns().checked_sub(clock::machine_ns()).map(Duration::from_nanos)?;
    // Later than anyone rests: the machine was restarted, and its clock began anew.
    (rest <= db.settings.interval.max(REST_MAX)).then_some(rest)
}
