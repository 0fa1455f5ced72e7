//! The threads that serve every database of the process, a small fixed number of them.
//!
//! ```text
//! schedule(database, when) -> heap by time -> a thread runs Database::run, which schedules the next run, if any
//! ```
//!
//! Nobody is woken for a commit: the first commit of a group schedules the group's end. Without traffic the
//! threads sleep, but for a look twice a second at what other programs may have committed.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::followed::Database;
use crate::clock;
use crate::config::Config;
use crate::doctor::{self, Finding};
use crate::error::{Error, Kind, Result};
use crate::ffi::os;
use crate::lock::{Condvar, Mutex};
use crate::types::Level;

/// One slow replica must not hold up the others, and a thousand databases must not mean a thousand threads.
const THREADS: usize = 2;
/// The worker yields to the application: a writer never waits for a compressor.
const NICE: u8 = 10;
/// Pace of the look at what programs without the extension committed.
const FOREIGN_POLL: Duration = Duration::from_millis(500);

struct Due {
    at: Instant,
    order: u64,
    database: Arc<Database>,
}

impl PartialEq for Due {
    fn eq(&self, other: &Due) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Due) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Due) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

#[derive(Default)]
struct Queue {
    heap: BinaryHeap<Reverse<Due>>,
    order: u64,
    threads: usize,
    /// When the next look at other programs' commits is due; `None`: nobody has a database open.
    next_poll: Option<Instant>,
}

/// The databases to look at, for the poll.
pub trait Everyone: Send + Sync {
    fn open_databases(&self) -> Vec<Arc<Database>>;
}

#[derive(Default)]
pub struct Worker {
    // Guards the heap of what is due.
    queue: Mutex<Queue>,
    woken: Condvar,
}

impl Worker {
    /// Runs `database` at `at`, on a thread of ours.
    pub fn schedule(&self, database: &Arc<Database>, at: Instant) {
        let mut queue = self.queue.lock();
        queue.order += 1;
        let order = queue.order;
        let earliest = queue.heap.peek().is_none_or(|Reverse(due)| at < due.at);
        queue.heap.push(Reverse(Due { at, order, database: Arc::clone(database) }));
        drop(queue);
        if earliest {
            self.woken.notify_one();
        }
    }

    /// Starts the threads, once. They live as long as the process.
    ///
    /// # Errors
    /// `Io` when the system gives no thread.
    pub fn start(&'static self, everyone: &'static dyn Everyone) -> Result<()> {
        let mut queue = self.queue.lock();
        queue.next_poll.get_or_insert_with(|| Instant::now() + FOREIGN_POLL);
        while queue.threads < THREADS {
            os::spawn_quiet("sqlreplicate", NICE, move || self.work(everyone)).map_err(|e| {
                Error::new(crate::error::Kind::Io, format!("cannot start a worker thread: {e}"))
            })?;
            queue.threads += 1;
        }
        drop(queue);
        self.woken.notify_one();
        Ok(())
    }

    fn work(&'static self, everyone: &'static dyn Everyone) {
        loop {
            match self.next() {
                Some((database, at)) => database.run(at),
                None => {
                    let open = everyone.open_databases();
                    if open.is_empty() {
                        self.queue.lock().next_poll = None;
                    }
                    open.iter().for_each(|database| database.poll());
                }
            }
        }
    }

    /// The next database that is due; `None`: the poll is due.
    fn next(&self) -> Option<(Arc<Database>, Instant)> {
        let mut queue = self.queue.lock();
        loop {
            let now = Instant::now();
            if queue.heap.peek().is_some_and(|Reverse(due)| due.at <= now) {
                return queue.heap.pop().map(|Reverse(due)| (due.database, due.at));
            }
            if queue.next_poll.is_some_and(|at| at <= now) {
                queue.next_poll = Some(now + FOREIGN_POLL);
                return None;
            }
            let due = queue.heap.peek().map(|Reverse(due)| due.at);
            match [due, queue.next_poll].into_iter().flatten().min() {
                Some(at) => drop(self.woken.wait_until(&mut queue, at)),
                None => self.woken.wait(&mut queue),
            }
        }
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
