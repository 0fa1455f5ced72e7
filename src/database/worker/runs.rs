//! When a database runs next, and what a run comes to: it schedules the next one itself, if there must be one.
//!
//! ```text
//! the first commit of a group --committed()--> due, an interval later -> Runtime::schedule -> a worker calls run(at)
//! run: takes what is due -> Engine::cycle -> nothing left: no next run | a pause, after which it is due again
//! ```
//!
//! One run is due at a time; one thread runs the engine at a time, and who finds it busy has it run once more. Copies that
//! failed are due by themselves, whatever the home replica does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::capture::Phase;
use crate::clock;
use crate::config::ReplicaUrl;
use crate::database::engine::{Cycle, Engine};
use crate::database::followed::Database;
use crate::database::runtime::Runtime;
use crate::database::worker::due::{Again, Due};
use crate::database::worker::queue::Lane;
use crate::database::worker::threads::Urgency;
use crate::error::{Kind, Result};
use crate::lock::{Mutex, MutexGuard};
use crate::status::Notices;

#[derive(Default)]
pub struct Runs {
    due: Due,
    // Guards when copies that failed are due again, whatever the home replica does; `None`: none is.
    copies_due: Mutex<Option<Instant>>,
    /// Somebody wanted a run while the engine was taken.
    again: Again,
    /// The last connection is gone, and who works on it closes it.
    is_left: AtomicBool,
    /// It does not end a fence by itself: somebody must decide.
    pub(in crate::database) stays_fenced: AtomicBool,
    /// When the oldest commit that is not acknowledged was seen, monotonic; 0: none.
    dirty_since_ms: AtomicU64,
    /// Everything committed before this moment is acknowledged, monotonic.
    covered_ms: AtomicU64,
}

impl Runs {
    /// When the oldest commit that is not acknowledged was seen, monotonic.
    pub(in crate::database) fn dirty_since_ms(&self) -> Option<u64> {
        Some(self.dirty_since_ms.load(Ordering::Relaxed)).filter(|&since| since != 0)
    }
}

impl Database {
    /// Something was committed, or may have been. Wakes nobody unless a group must be opened.
    pub fn committed(self: &Arc<Self>) {
        if self.runs.dirty_since_ms().is_none() {
            self.runs.dirty_since_ms.store(clock::monotonic_ms().max(1), Ordering::Relaxed);
        }
        if !self.runs.due.is_set() {
            self.schedule(Instant::now() + self.settings.interval, false);
        }
    }

    /// Has the worker run this database at `at`. One run is due at a time: where one is, it stays, or with `instead`
    /// this one takes its place. Who wants it now keeps the place in the queue of one that is overdue.
    pub(in crate::database) fn schedule(self: &Arc<Self>, at: Instant, instead: bool) {
        if self.runs.due.set(at, instead, Instant::now) {
            Runtime::get().schedule(self, at);
        }
    }

    /// A run is due.
    pub(in crate::database) fn is_due(&self) -> bool {
        self.runs.due.is_set()
    }

    /// Has the worker try the copies again at `at`, instead of when it would have before.
    fn schedule_copies(self: &Arc<Self>, at: Option<Instant>) {
        let before = std::mem::replace(&mut *self.runs.copies_due.lock(), at);
        if let Some(at) = at.filter(|_| before != at) {
            Runtime::get().schedule(self, at);
        }
    }

    /// Everything committed before `moment_ms` is acknowledged.
    pub(in crate::database) fn covered(&self, moment_ms: u64) {
        self.runs.covered_ms.fetch_max(moment_ms, Ordering::AcqRel);
    }

    pub(in crate::database) fn urgency(&self) -> Urgency {
        if self.waits_for_replica() { Urgency::Waited } else { Urgency::Low }
    }

    /// What a run that begins now may wait for.
    pub(in crate::database) fn lane(&self) -> Lane {
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
        if lane == Lane::Lease {
            return self.run_lease();
        }
        let home = self.runs.due.take(at);
        if self.is_to_rejoin() {
            return self.run_rejoin();
        }
        let copies = self.runs.copies_due.lock().take_if(|due| *due == at).is_some();
        if !(home || copies) || !matches!(self.phase(), Phase::Live | Phase::Cold) {
            return;
        }
        let Some(engine) = self.runs.again.lock_or_ask(&self.engine) else { return };
        if home {
            self.run_cycle(engine)
        } else {
            self.run_copies(engine)
        }
        self.close_if_left();
    }

    fn run_cycle(self: &Arc<Self>, mut engine: MutexGuard<'_, Engine>) {
        let dirty = self.runs.dirty_since_ms.swap(0, Ordering::AcqRel);
        let before = self.state.acknowledged(0);
        let outcome = self.caught(&mut engine, Engine::cycle);
        self.schedule_copies(engine.retry_at());
        drop(engine);
        if self.state.acknowledged(0) > before {
            self.wants_upkeep();
        }
        let again = self.runs.again.was_asked() || self.is_to_rejoin();
        let pause = match outcome {
            Ok(_) if again => Some(Duration::ZERO),
            Ok(Cycle::Done) => return,
            Ok(Cycle::Stored) => None,
            Ok(Cycle::Later(pause)) => Some(pause),
            Err(error) => Some(self.notices().failed(&error)),
        };
        // Older than anything that came in meanwhile.
        let since = if dirty == 0 { clock::monotonic_ms().max(1) } else { dirty };
        let since = since.max(self.runs.covered_ms.load(Ordering::Acquire));
        self.runs.dirty_since_ms.store(since, Ordering::Release);
        if let Some(pause) = pause {
            self.schedule(Instant::now() + pause, true);
        }
    }

    /// It was fenced, and goes on by itself.
    fn run_rejoin(self: &Arc<Self>) {
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.rejoin_by_itself()));
        match caught {
            Ok(Ok(_)) => {}
            Ok(Err(error)) if error.kind() == Kind::Conflict => {
                self.runs.stays_fenced.store(true, Ordering::Relaxed);
                self.notices().error(error.to_string());
            }
            Ok(Err(error)) => {
                let pause = self.notices().failed(&error);
                self.schedule(Instant::now() + pause, true);
            }
            Err(_) => self.halt("a bug was caught while it rejoined"),
        }
        self.close_if_left();
    }

    fn run_copies(self: &Arc<Self>, mut engine: MutexGuard<'_, Engine>) {
        let pause = match self.caught(&mut engine, Engine::retry_copies) {
            Ok(Cycle::Done | Cycle::Stored) => None,
            Ok(Cycle::Later(pause)) => Some(pause),
            Err(error) => Some(self.notices().failed(&error)),
        };
        self.schedule_copies(pause.map(|pause| Instant::now() + pause).or(engine.retry_at()));
        drop(engine);
        self.run_if_asked();
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
    pub(in crate::database) fn leave_to_worker(&self) -> Option<MutexGuard<'_, Engine>> {
        self.runs.is_left.store(true, Ordering::SeqCst);
        // It may have let go before it could see the request.
        self.engine.try_lock()
    }

    /// Closes what was left to us.
    fn close_if_left(self: &Arc<Self>) {
        if self.runs.is_left.load(Ordering::SeqCst)
            && self.connections.is_empty()
            && let Some(engine) = self.engine.try_lock()
        {
            Runtime::get().close(self, engine);
        }
    }

    /// For who held the engine and let go: a run that found it taken is made up for.
    pub(in crate::database) fn run_if_asked(self: &Arc<Self>) {
        if self.runs.again.was_asked() {
            self.schedule(Instant::now(), true);
        }
    }
}
