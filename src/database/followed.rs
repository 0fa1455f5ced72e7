//! One database file that this process follows.

use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::commit_wait::Standing;
use super::connections::Connections;
use super::engine::{Cycle, Engine};
use super::exclusive_wal::ExclusiveWal;
use super::gate::Gate;
use super::live::{LiveFiles, beside};
use super::poll::Polled;
use super::queue::Lane;
use super::runtime::Runtime;
use super::sync::Tickets;
use super::turn::Turn;
use super::upkeep::Upkeep;
use super::verifying::Verifying;
use super::worker::Urgency;
use crate::capture::rollback_pages::Handoff;
use crate::capture::{Files, Phase, WalNotes};
use crate::clock::{self, Deadline};
use crate::config::{Claim, ReplicaUrl, Settings};
use crate::error::{Error, Kind, Result};
use crate::fs::{FileStat, LockFile};
use crate::lock::{Mutex, MutexGuard};
use crate::staging::log::Log;
use crate::staging::noted::NotedSet;
use crate::staging::state::State;
use crate::status::Notices;
use crate::types::{PageSize, Pgno, Txid};

/// Shared by the hooks of its connections and the worker. Lives until the last connection of this process closes.
pub struct Database {
    pub path: PathBuf,
    pub settings: Settings,
    pub log: Log,
    pub state: State,
    pub noted: NotedSet,
    pub notes: WalNotes,
    pub handoff: Handoff,
    pub connections: Connections,
    pub exclusive_wal: ExclusiveWal,
    pub tickets: Tickets,
    pub(super) gate: Gate,
    pub(super) upkeep: Upkeep,
    pub(super) verifying: Verifying,
    /// Writes to the database file by this process, in rollback modes.
    pub writes: AtomicU64,
    pub standing: Standing,
    pub turn: Turn,
    // Guards the users' lock; `None` once the database is closed.
    pub(super) users: Mutex<Option<LockFile>>,
    // Guards everything that only one thread may do at a time; never taken on an application's thread.
    pub(super) engine: Mutex<Engine>,
    // Guards errors and events, of the database and home first, then of each copy.
    pub(super) notices: Mutex<Vec<Notices>>,
    phase: Mutex<Phase>,
    /// The last connection is gone, and who works on it closes it.
    is_left: AtomicBool,
    /// Somebody wanted a run while one was under way.
    again: AtomicBool,
    // Guards when the next run is due; `None`: none is.
    due: Mutex<Option<Instant>>,
    // Guards when copies that failed are due again, whatever the home replica does; `None`: none is.
    copies_due: Mutex<Option<Instant>>,
    /// A run is due: the same, for a look at every commit.
    scheduled: AtomicBool,
    /// When the oldest commit that is not acknowledged was seen, monotonic; 0: none.
    pub(super) dirty_since_ms: AtomicU64,
    /// Everything committed before this moment is acknowledged, monotonic.
    covered_ms: AtomicU64,
    page_size: AtomicU32,
    /// Bytes of page 1 when this process last wrote it in a rollback mode; 0: not yet.
    page_1_len: AtomicU32,
    pub(super) zero_salt_frames: AtomicU64,
    pub(super) single_writer: AtomicBool,
    frames_written: AtomicU32,
    /// The file at rest when it was last proven to be what we know.
    rest: Mutex<Option<FileStat>>,
    pub(super) polled: Mutex<Polled>,
    // Guards the right to replica and log folder; `None` once the database is closed, though the worker may still look.
    pub(super) claim: Mutex<Option<Claim>>,
}

/// What there is to say of the database and its home replica, as long as this lives.
pub(super) struct HomeNotices<'a>(MutexGuard<'a, Vec<Notices>>);

impl Deref for HomeNotices<'_> {
    type Target = Notices;
    fn deref(&self) -> &Notices {
        &self.0[0]
    }
}

impl DerefMut for HomeNotices<'_> {
    fn deref_mut(&mut self) -> &mut Notices {
        &mut self.0[0]
    }
}

/// Everything that [`Database::new`] puts together.
pub struct Parts {
    pub settings: Settings,
    pub log: Log,
    pub state: State,
    pub noted: NotedSet,
    pub users: LockFile,
    pub engine: Engine,
    pub claim: Claim,
    pub phase: Phase,
    pub rest: Option<FileStat>,
    pub event: Option<String>,
    pub error: Option<String>,
    pub gate: Gate,
}

impl Database {
    pub fn new(parts: Parts) -> Database {
        let mut notices = vec![Notices::default(); parts.engine.replicas.len()];
        notices[0].last_event = parts.event;
        if let Some(error) = parts.error {
            notices[0].error(error);
        }
        let page_size = parts.engine.recorded.map_or(0, |r| r.page_size.get());
        let database = Database {
            path: parts.settings.database.clone(),
            settings: parts.settings,
            log: parts.log,
            state: parts.state,
            noted: parts.noted,
            notes: WalNotes::default(),
            handoff: Handoff::default(),
            connections: Connections::default(),
            exclusive_wal: ExclusiveWal::default(),
            tickets: Tickets::default(),
            gate: parts.gate,
            upkeep: Upkeep::of(parts.engine.name),
            verifying: Verifying::of(parts.engine.replicas.len()),
            writes: AtomicU64::new(0),
            standing: Standing::default(),
            turn: Turn::default(),
            users: Mutex::new(Some(parts.users)),
            engine: Mutex::new(parts.engine),
            notices: Mutex::new(notices),
            phase: Mutex::new(parts.phase),
            is_left: AtomicBool::new(false),
            again: AtomicBool::new(false),
            due: Mutex::new(None),
            copies_due: Mutex::new(None),
            scheduled: AtomicBool::new(false),
            dirty_since_ms: AtomicU64::new(0),
            covered_ms: AtomicU64::new(0),
            page_size: AtomicU32::new(page_size),
            page_1_len: AtomicU32::new(0),
            zero_salt_frames: AtomicU64::new(0),
            single_writer: AtomicBool::new(false),
            frames_written: AtomicU32::new(0),
            polled: Mutex::new(Polled::at(parts.rest.clone())),
            rest: Mutex::new(parts.rest),
            claim: Mutex::new(Some(parts.claim)),
        };
        if parts.phase == Phase::Fenced {
            let text = database.notices().last_error.clone().unwrap_or_default();
            database.tickets.end(&text);
        }
        database
    }

    // ---- for the hooks, on application threads

    /// Something was committed, or may have been. Wakes nobody unless a group must be opened.
    pub fn committed(self: &Arc<Self>) {
        if self.dirty_since_ms.load(Ordering::Relaxed) == 0 {
            self.dirty_since_ms.store(clock::monotonic_ms().max(1), Ordering::Relaxed);
        }
        if !self.scheduled.load(Ordering::Relaxed) {
            self.schedule(Instant::now() + self.settings.interval, false);
        }
    }

    /// Has the worker run this database at `at`. One run is due at a time: where one is, it stays, or with `instead`
    /// this one takes its place. Who wants it now keeps the place in the queue of one that is overdue.
    pub(super) fn schedule(self: &Arc<Self>, at: Instant, instead: bool) {
        let mut due = self.due.lock();
        if due.is_some_and(|due| !instead || stays(due, at, Instant::now())) {
            return;
        }
        *due = Some(at);
        self.scheduled.store(true, Ordering::Release);
        drop(due);
        Runtime::get().schedule(self, at);
    }

    /// A run is due.
    pub(super) fn is_due(&self) -> bool {
        self.scheduled.load(Ordering::Acquire)
    }

    /// Takes the run that is due at `at`; `false`: another took its place.
    fn take_due(&self, at: Instant) -> bool {
        let mut due = self.due.lock();
        if *due != Some(at) {
            return false;
        }
        *due = None;
        self.scheduled.store(false, Ordering::Release);
        true
    }

    /// Has the worker try the copies again at `at`, instead of when it would have before.
    fn schedule_copies(self: &Arc<Self>, at: Option<Instant>) {
        let before = std::mem::replace(&mut *self.copies_due.lock(), at);
        if let Some(at) = at.filter(|_| before != at) {
            Runtime::get().schedule(self, at);
        }
    }

    /// Notes the pages that a write of `len` bytes at `offset` of the database file touches.
    pub fn note_write(&self, offset: u64, len: usize) {
        self.changed();
        if offset == 0 {
            self.page_1_len.store(u32::try_from(len).unwrap_or(0), Ordering::Relaxed);
        }
        match self.page_size().and_then(|size| written_page(offset, len, size)) {
            Some(pgno) => self.noted.note(pgno),
            None => self.noted.note_all(),
        }
    }

    /// The database is no longer as the last close left it.
    pub fn changed(&self) {
        if self.state.clean().is_some() {
            self.state.set_clean(None);
        }
    }

    /// Reads what an EXCLUSIVE connection committed, and notes it.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn refresh_exclusive(&self, live: &LiveFiles, written: Option<u32>) -> Result<()> {
        let found = self.exclusive_wal.refresh(&|offset, buffer| live.read_wal(offset, buffer), written)?;
        self.zero_salt_frames.fetch_add(u64::from(found.0), Ordering::Relaxed);
        Ok(())
    }

    /// The same on the connection's own thread, at its commit: the engine may be busy, so the WAL is opened anew.
    ///
    /// # Errors
    /// `Io`.
    pub fn committed_exclusive(&self, written: Option<u32>) -> Result<()> {
        let path = beside(&self.path, "-wal");
        let file = std::fs::File::open(&path).map_err(|e| Error::io("open", &path, e))?;
        let read = |offset, buffer: &mut [u8]| super::live::read_at(&file, &path, offset, buffer);
        let found = self.exclusive_wal.refresh(&read, written)?;
        self.zero_salt_frames.fetch_add(u64::from(found.0), Ordering::Relaxed);
        if self.notes.note(&self.exclusive_wal, &self.state, &self.noted).is_some_and(|n| n.went_cold) {
            self.went_cold("the WAL was changed while nobody watched");
        }
        Ok(())
    }

    /// A frame was written to the WAL.
    pub fn written(&self, frame: u32) {
        self.frames_written.fetch_max(frame, Ordering::Relaxed);
    }

    /// The last frame written since the last commit.
    pub fn take_written(&self) -> Option<u32> {
        Some(self.frames_written.swap(0, Ordering::Relaxed)).filter(|&frame| frame > 0)
    }

    /// The WAL is gone, and everything in it is noted.
    pub fn forget_cycle(&self) {
        self.state.set_cycle(None);
    }

    /// The file stands as we know it at this moment; a first look at an empty WAL compares with it.
    pub fn at_rest(&self) {
        *self.rest.lock() = FileStat::of(&self.path).ok();
    }

    /// A WAL file is there, perhaps an empty one.
    pub(super) fn is_wal_left(&self) -> bool {
        beside(&self.path, "-wal").exists()
    }

    /// The file is in WAL mode, without a WAL: only that it stands as it did proves that nobody wrote. Page 1 does
    /// not, because commits in WAL mode leave its change counter alone.
    pub(super) fn check_rest(&self) {
        let now = FileStat::of(&self.path).ok();
        let mut rest = self.rest.lock();
        if now.is_none() || *rest != now {
            // The look came first: what is written after it shows as another change.
            *rest = now;
            drop(rest);
            self.noted.note_all();
            self.went_cold("the database was changed before its WAL was opened");
        }
    }

    /// Whether the file is still as [`Database::at_rest`] saw it.
    pub fn is_at_rest(&self) -> bool {
        let now = FileStat::of(&self.path).ok();
        now.is_some() && *self.rest.lock() == now
    }

    /// Page size by the newest write of page 1 in this process, which an encrypted page 1 does not tell.
    pub fn page_1_written(&self) -> Option<PageSize> {
        PageSize::new(self.page_1_len.load(Ordering::Relaxed))
    }

    pub fn page_size(&self) -> Option<PageSize> {
        PageSize::new(self.page_size.load(Ordering::Relaxed))
    }

    pub(super) fn set_page_size(&self, size: PageSize) {
        self.page_size.store(size.get(), Ordering::Relaxed);
    }

    // ---- for waiters and the status

    /// Waits until everything committed so far is in the home replica; returns the newest txid there.
    ///
    /// # Errors
    /// `Busy` with what is in the way when the time is up; `Fenced` when nothing more comes.
    pub fn sync(self: &Arc<Self>, timeout: Duration) -> Result<Option<Txid>> {
        let ticket = self.ask_for_sync();
        self.tickets.wait(ticket, Deadline::after(timeout)).map_err(|error| match error.kind() {
            Kind::Busy => {
                let why = match self.why_not() {
                    why if why.is_empty() => "; it goes on in the background".to_owned(),
                    why => why,
                };
                Error::busy(format!("{error} after {} ms{why}", timeout.as_millis()))
            }
            _ => error,
        })?;
        Ok(self.state.acknowledged(0))
    }

    /// The same without waiting: a ticket to wait for.
    pub(super) fn ask_for_sync(self: &Arc<Self>) -> u64 {
        let ticket = self.tickets.draw();
        self.schedule(Instant::now(), true);
        ticket
    }

    /// What is in the way of who waits, as the end of a sentence; empty: nothing is known.
    pub(super) fn why_not(&self) -> String {
        let notices = self.notices();
        let hindrance = self.tickets.hindrance().filter(|_| !notices.is_failing()).map(str::to_owned);
        hindrance.or_else(|| notices.last_error.clone()).map_or_else(String::new, |why| format!(": {why}"))
    }

    /// Txid of the first group that holds everything committed so far, sealed or still open.
    pub fn txid(&self) -> Option<Txid> {
        let sealed = self.log.recorded().ok().flatten().map(|r| r.position.txid);
        let dirty = !self.noted.is_empty() || self.dirty_since_ms.load(Ordering::Relaxed) != 0;
        if dirty { Some(sealed.map_or(Txid::FIRST, Txid::next)) } else { sealed }
    }

    pub fn phase(&self) -> Phase {
        *self.phase.lock()
    }

    // ---- for the worker

    pub(super) fn urgency(&self) -> Urgency {
        if self.waits_for_replica() { Urgency::Waited } else { Urgency::Low }
    }

    /// What a run that begins now may wait for.
    pub(super) fn lane(&self) -> Lane {
        let is_folder = |url: &ReplicaUrl| matches!(url, ReplicaUrl::File(_));
        if self.notices.lock().iter().any(Notices::is_failing) {
            Lane::Failing
        } else if self.settings.replicas.iter().all(is_folder) {
            Lane::Folder
        } else {
            Lane::Bucket
        }
    }

    /// The run of the engine that is due at `at`; schedules the next one itself, if there must be one.
    pub fn run(self: &Arc<Self>, lane: Lane, at: Instant) {
        if lane == Lane::Upkeep {
            return self.run_upkeep();
        }
        let home = self.take_due(at);
        let copies = self.copies_due.lock().take_if(|due| *due == at).is_some();
        if !(home || copies) || !matches!(self.phase(), Phase::Live | Phase::Cold) {
            return;
        }
        let Some(engine) = self.lock_engine() else { return };
        if home {
            self.run_cycle(engine)
        } else {
            self.run_copies(engine)
        }
        self.close_if_left();
    }

    fn run_cycle(self: &Arc<Self>, mut engine: MutexGuard<'_, Engine>) {
        let dirty = self.dirty_since_ms.swap(0, Ordering::AcqRel);
        let before = self.state.acknowledged(0);
        let outcome = self.caught(&mut engine, Engine::cycle);
        self.schedule_copies(engine.retry_at());
        drop(engine);
        if self.state.acknowledged(0) > before {
            self.wants_upkeep();
        }
        let again = self.again.swap(false, Ordering::SeqCst);
        let pause = match outcome {
            Ok(_) if again => Some(Duration::ZERO),
            Ok(Cycle::Done) => return,
            Ok(Cycle::Stored) => None,
            Ok(Cycle::Later(pause)) => Some(pause),
            Err(error) => Some(self.notices().failed(&error)),
        };
        // Older than anything that came in meanwhile.
        let since = if dirty == 0 { clock::monotonic_ms().max(1) } else { dirty };
        let since = since.max(self.covered_ms.load(Ordering::Acquire));
        self.dirty_since_ms.store(since, Ordering::Release);
        if let Some(pause) = pause {
            self.schedule(Instant::now() + pause, true);
        }
    }

    fn run_copies(self: &Arc<Self>, mut engine: MutexGuard<'_, Engine>) {
        let pause = match self.caught(&mut engine, Engine::retry_copies) {
            Ok(Cycle::Done | Cycle::Stored) => None,
            Ok(Cycle::Later(pause)) => Some(pause),
            Err(error) => Some(self.notices().failed(&error)),
        };
        self.schedule_copies(pause.map(|pause| Instant::now() + pause).or(engine.retry_at()));
        drop(engine);
        if self.again.swap(false, Ordering::SeqCst) {
            self.schedule(Instant::now(), true);
        }
    }

    /// A panic of ours ends the replication, not the thread.
    fn caught(
        self: &Arc<Self>,
        engine: &mut Engine,
        body: fn(&mut Engine, &Arc<Database>) -> Result<Cycle>,
    ) -> Result<Cycle> {
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| body(engine, self)));
        caught.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map_or("a bug was caught", |s| s);
            self.end(
                Phase::Halted,
                &format!("replication halted: {text}; the database itself is not affected"),
            );
            Ok(Cycle::Done)
        })
    }

    /// Has whoever works on it now close it afterwards; the engine, if that was nobody any more.
    pub(super) fn leave_to_worker(&self) -> Option<MutexGuard<'_, Engine>> {
        self.is_left.store(true, Ordering::SeqCst);
        // It may have let go before it could see the request.
        self.engine.try_lock()
    }

    /// Closes what was left to us.
    fn close_if_left(self: &Arc<Self>) {
        if self.is_left.load(Ordering::SeqCst)
            && self.connections.is_empty()
            && let Some(engine) = self.engine.try_lock()
        {
            Runtime::get().close(self, engine);
        }
    }

    /// The engine, or a request to the thread that runs it to go on once more.
    fn lock_engine(&self) -> Option<MutexGuard<'_, Engine>> {
        self.engine.try_lock().or_else(|| {
            self.again.store(true, Ordering::SeqCst);
            // It may have let go before it could see the request.
            self.engine.try_lock()
        })
    }

    pub(super) fn notices(&self) -> HomeNotices<'_> {
        HomeNotices(self.notices.lock())
    }

    /// Everything committed before `moment_ms` is acknowledged.
    pub(super) fn covered(&self, moment_ms: u64) {
        self.covered_ms.fetch_max(moment_ms, Ordering::AcqRel);
    }

    pub(super) fn home_succeeded(&self) {
        self.notices().succeeded();
    }

    /// Records what an attempt at a copy came to; the pause before the next one if it failed.
    pub(super) fn copy_tried(&self, index: usize, outcome: Result<()>) -> Option<Duration> {
        let notices = &mut self.notices.lock()[index];
        match outcome {
            Ok(()) => {
                notices.succeeded();
                None
            }
            Err(error) => Some(notices.failed(&error)),
        }
    }

    /// Every page was noted, because something may have changed unseen. While that is being healed, a second reason
    /// is no news.
    pub fn went_cold(&self, why: &str) {
        let was_live = self.enter_cold();
        if was_live {
            self.notices().event(format!("healing by difference: {why}"));
        }
    }

    /// Something of ours makes it compare pages: the home replica was emptied, or the database was overwritten with its head.
    pub(super) fn cold_by_event(&self, event: &str) {
        self.enter_cold();
        self.notices().event(event);
    }

    fn enter_cold(&self) -> bool {
        let mut phase = self.phase.lock();
        let was_live = *phase == Phase::Live;
        if was_live {
            *phase = Phase::Cold;
        }
        was_live
    }

    pub(super) fn healed(&self) {
        let mut phase = self.phase.lock();
        if *phase == Phase::Cold {
            *phase = Phase::Live;
        }
    }

    /// A panic was caught in a hook of one of the files.
    pub fn halt(&self, text: &str) {
        let why = format!("replication halted by a bug: {text}; the database itself is not affected");
        self.end(Phase::Halted, &why);
    }

    /// One of the three ends. The application goes on; nothing more is captured.
    pub fn end(&self, phase: Phase, why: &str) {
        *self.phase.lock() = phase;
        self.notices().error(why);
        self.tickets.end(why);
    }
}

/// Whether a run that is due at `due` stays although one is wanted at `at`: that would be later, and no pause is meant.
fn stays(due: Instant, at: Instant, now: Instant) -> bool {
    due <= at && at <= now
}

/// The page that a write covers. `None`: it is not one page of this size. SQLite writes whole pages, so the page size
/// is changing, and what the known one would call page 7 may be another page of the next group.
fn written_page(offset: u64, len: usize, size: PageSize) -> Option<Pgno> {
    if len != size.bytes() || !offset.is_multiple_of(u64::from(size.get())) {
        return None;
    }
    u32::try_from(offset / u64::from(size.get()) + 1).ok().and_then(Pgno::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_in_an_overdue_database_does_not_lose_its_place() {
        let due = Instant::now();
        let ms = |n| due + Duration::from_millis(n);
        assert!(stays(due, ms(5), ms(5)), "overdue");
        assert!(!stays(ms(9), ms(5), ms(5)), "not due yet: now is earlier");
        assert!(!stays(due, ms(55), ms(5)), "a pause after a failure");
    }

    #[test]
    fn write_in_another_page_size_than_the_known_one_is_no_page() {
        let size = PageSize::new(1024).unwrap();
        assert_eq!(written_page(2048, 1024, size), Pgno::new(3));
        for (offset, len) in [(2048, 512), (2048, 2048), (512, 1024)] {
            assert_eq!(written_page(offset, len, size), None, "{offset} {len}");
        }
    }
}
