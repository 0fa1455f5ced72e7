//! The threads that serve every database of the process, a small fixed number of them: more once a bucket is opened,
//! because a thread waits as long as a store takes.
//!
//! ```text
//! schedule(database, when) -> queue by lane and time -> a thread runs Database::run, which schedules the next run, if any
//! ```
//!
//! Nobody is woken for a commit: the first commit of a group schedules the group's end. Without traffic the
//! threads sleep, but for a look at what other programs may have committed ([`crate::database::poll`] has its pace).
//! Databases whose commits wait for the replica have a worker of their own at the application's priority.
//! Of those that sleep one watches the clock, so that not all of them wake for each run; who goes to work calls
//! another one to watch it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::capture::blocks;
use crate::clock;
use crate::config::Config;
use crate::database::followed::Database;
use crate::database::worker::queue::{Lane, Queue, Run};
use crate::doctor::{self, Finding};
use crate::error::{Error, Kind, Result};
use crate::ffi::os;
use crate::lock::{Condvar, Mutex, MutexGuard};
use crate::types::Level;

/// Threads for databases of one urgency that have folders only, and with a bucket. A thousand databases must not mean a
/// thousand threads; a put of 50 ms holds one that long; while one waits for its disk, another works.
const THREADS: [(Urgency, usize, usize); 2] = [(Urgency::Low, 2, 5), (Urgency::Waited, 2, 2)];
/// What nobody waits for yields to the application: a writer never waits for a compressor.
const NICE: u8 = 10;
/// Pace of the look at what programs without the extension committed, of which quiet databases leave most out.
const FOREIGN_POLL: Duration = Duration::from_millis(500);
/// A fleet is served a few at a time: where so many collect their groups, whose time has come waits for those that come
/// soon after. To wake costs as much as a good part of a group.
const CROWD: usize = 4;
const CROWD_WAITS: Duration = Duration::from_millis(5);
/// Longest sleep while nothing is due; any will do.
const SLEEP_MAX: Duration = Duration::from_secs(3600);

#[derive(Default)]
struct Plan {
    due: Queue<Arc<Database>>,
    threads: usize,
    /// When the one wakes that watches the clock; `None`: nobody sleeps, or who was called is on its way.
    watched_until: Option<Instant>,
    /// How many sleep until they are called.
    uncalled: usize,
    /// When the next look at other programs' commits is due; `None`: nobody has a database open.
    next_poll: Option<Instant>,
}

impl Plan {
    fn next_at(&self) -> Option<Instant> {
        [self.due.next_at(self.threads), self.next_poll].into_iter().flatten().min()
    }

    /// Until when to sleep while nothing is due.
    fn wake_at(&self) -> Option<Instant> {
        let patience = if self.due.collecting() >= CROWD { CROWD_WAITS } else { Duration::ZERO };
        self.next_at().map(|at| at + patience)
    }

    /// The one that watches the clock sleeps past its time.
    fn is_overslept(&self) -> bool {
        self.watched_until.zip(self.wake_at()).is_some_and(|(until, at)| at < until)
    }
}

/// The databases to look at, for the poll.
pub trait Everyone: Send + Sync {
    fn open_databases(&self) -> Vec<Arc<Database>>;

    /// Whoever writes them is another program.
    fn is_sidecar(&self) -> bool;
}

/// Whose work it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// Of the background.
    Low,
    /// An application's thread waits for it.
    Waited,
}

pub struct Worker {
    urgency: Urgency,
    // Guards what is due, and who sleeps.
    plan: Mutex<Plan>,
    /// Wakes the one that watches the clock.
    earlier: Condvar,
    /// Wakes one of the others.
    called: Condvar,
}

enum Next {
    Run(Run<Arc<Database>>),
    Poll,
}

impl Worker {
    pub fn new(urgency: Urgency) -> Worker {
        Worker { urgency, plan: Mutex::default(), earlier: Condvar::default(), called: Condvar::default() }
    }

    /// Runs `database` at `at`, on a thread of ours.
    pub fn schedule(&self, database: &Arc<Database>, at: Instant) {
        self.schedule_in(database.lane(), database, at);
    }

    /// The same in a lane that the caller chooses.
    pub fn schedule_in(&self, lane: Lane, database: &Arc<Database>, at: Instant) {
        let mut plan = self.plan.lock();
        plan.due.push(lane, at, Arc::clone(database));
        let is_urgent = plan.watched_until.is_some_and(|until| at < until) && at <= Instant::now();
        let is_overslept = plan.is_overslept();
        drop(plan);
        if is_urgent || is_overslept {
            self.earlier.notify_one();
        }
    }

    /// What was scheduled of `database` in a lane is not run any more, and does not keep it alive.
    pub fn forget(&self, lane: Lane, database: &Arc<Database>) {
        self.plan.lock().due.remove(lane, |other| Arc::ptr_eq(other, database));
    }

    /// Starts the threads that a database in `lane` needs, as far as they are not there. They live as long as the process.
    ///
    /// # Errors
    /// `Io` when the system gives no thread.
    pub fn start(&'static self, everyone: &'static dyn Everyone, lane: Lane) -> Result<()> {
        let (_, folders, bucket) =
            THREADS.into_iter().find(|t| t.0 == self.urgency).expect("BUG: no row for an urgency");
        let threads = match lane {
            Lane::Upkeep => 1,
            // One of them is never taken by what lasts.
            Lane::Lease => 2,
            Lane::Folder => folders,
            Lane::Bucket | Lane::Failing => bucket,
        };
        let mut plan = self.plan.lock();
        plan.due.expect(lane);
        plan.next_poll.get_or_insert_with(|| Instant::now() + FOREIGN_POLL);
        while plan.threads < threads {
            let nice = if self.urgency == Urgency::Low { NICE } else { 0 };
            os::spawn_quiet("sqlreplicate", nice, move || self.work(everyone))
                .map_err(|e| Error::new(Kind::Io, format!("cannot start a worker thread: {e}")))?;
            plan.threads += 1;
        }
        drop(plan);
        self.earlier.notify_one();
        Ok(())
    }

    fn work(&'static self, everyone: &'static dyn Everyone) {
        let mut ran = None;
        loop {
            match self.next(ran.take()) {
                Next::Run(run) => {
                    run.what.run(run.lane, run.at);
                    ran = Some(run.lane);
                }
                Next::Poll => {
                    let mut open = everyone.open_databases();
                    open.retain(|database| database.urgency() == self.urgency);
                    if open.is_empty() {
                        self.plan.lock().next_poll = None;
                        blocks::forget();
                    }
                    let is_sidecar = everyone.is_sidecar();
                    open.iter().for_each(|database| database.poll(is_sidecar));
                    blocks::forget_unused();
                }
            }
        }
    }

    /// What to do next, after a run in the lane `ran`.
    fn next(&self, ran: Option<Lane>) -> Next {
        let mut plan = self.plan.lock();
        if let Some(lane) = ran {
            plan.due.finished(lane);
        }
        let next = loop {
            let now = Instant::now();
            if plan.next_poll.is_some_and(|at| at <= now) {
                plan.next_poll = Some(now + FOREIGN_POLL);
                break Next::Poll;
            }
            let threads = plan.threads;
            if let Some(run) = plan.due.pop(now, threads) {
                break Next::Run(run);
            }
            self.sleep(&mut plan);
        };
        match plan.watched_until {
            None if plan.uncalled > 0 => self.called.notify_one(),
            // The run that has just ended may let another one go.
            Some(_) if plan.is_overslept() => self.earlier.notify_one(),
            _ => {}
        }
        next
    }

    /// Until something may be due.
    fn sleep(&self, plan: &mut MutexGuard<'_, Plan>) {
        if plan.watched_until.is_some() {
            plan.uncalled += 1;
            self.called.wait(plan);
            plan.uncalled -= 1;
            return;
        }
        let until = plan.wake_at().unwrap_or_else(|| Instant::now() + SLEEP_MAX);
        plan.watched_until = Some(until);
        self.earlier.wait_until(plan, until);
        plan.watched_until = None;
    }
}

/// Examines the store behind a replica's URL, with threads of this room, in a place of its own that is gone afterwards.
///
/// # Errors
/// `Invalid` for the URL; when the store cannot be asked at all.
pub fn examine(config: &Config, url: &str) -> Result<Vec<Finding>> {
    // What is not there yet must not come to be by an examination.
    config.replica(url)?.list(Level::CAPTURED)?;
    let name = format!("probe-{:x}-{:x}", std::process::id(), clock::machine_ns());
    let (client, folder) = config.beside_replica(url, &name)?;
    let findings = doctor::examine(&*client, &|count, task| {
        os::in_parallel(count, task).map_err(|e| Error::new(Kind::Io, format!("cannot start a thread: {e}")))
    });
    if let Some(folder) = folder {
        std::fs::remove_dir_all(&folder).map_err(|e| Error::io("remove", &folder, e))?;
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_never_more_than_eight_threads_with_the_application_s_own() {
        assert!(THREADS.iter().map(|&(_, folders, bucket)| folders.max(bucket)).sum::<usize>() < 8);
    }
}
