//! What is due, of all databases of the process, in lanes: a store that answers late, or never, takes a part of the
//! threads, and what waits for it does not stand before the others.
//!
//! ```text
//! lane      what a run waits for           threads that may be in it at the same time
//! Folder    a disk                         all
//! Bucket    the answer of a store          all; all but one where there are folders or leases too
//! Failing   what did not work last time    a third of them, at least one
//! Upkeep    a disk or a store, for long    one, and never the last
//! Lease     the answer of a store, soon    a third of them, at least one: one hangs, and others are to be renewed
//! ```
//!
//! Promise: among what its limit allows to run, the earliest due goes first. A database that always has something to do
//! comes again only after all that were due before its next time: nobody waits for more than one run of each other one.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    Folder,
    Bucket,
    Failing,
    /// Of replicas: merging, snapshots, retention. Nobody waits for it.
    Upkeep,
    /// What must not wait for any of the others.
    Lease,
}

const LANES: [Lane; 5] = [Lane::Folder, Lane::Bucket, Lane::Failing, Lane::Upkeep, Lane::Lease];

struct Due<T> {
    at: Instant,
    order: u64,
    what: T,
}

impl<T> PartialEq for Due<T> {
    fn eq(&self, other: &Due<T>) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}

impl<T> Eq for Due<T> {}

impl<T> PartialOrd for Due<T> {
    fn partial_cmp(&self, other: &Due<T>) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Due<T> {
    fn cmp(&self, other: &Due<T>) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// Something to run now; give its lane back to [`Queue::finished`].
pub struct Run<T> {
    pub lane: Lane,
    pub at: Instant,
    pub what: T,
}

pub struct Queue<T> {
    heaps: [BinaryHeap<Reverse<Due<T>>>; LANES.len()],
    running: [usize; LANES.len()],
    order: u64,
    has_hurried: bool,
}

impl<T> Default for Queue<T> {
    fn default() -> Queue<T> {
        Queue { heaps: Default::default(), running: Default::default(), order: 0, has_hurried: false }
    }
}

impl<T> Queue<T> {
    /// There will be something to run in this lane.
    pub fn expect(&mut self, lane: Lane) {
        self.has_hurried |= matches!(lane, Lane::Folder | Lane::Lease);
    }

    pub fn push(&mut self, lane: Lane, at: Instant, what: T) {
        self.order += 1;
        self.heaps[lane as usize].push(Reverse(Due { at, order: self.order, what }));
    }

    /// Takes out what `is_gone` names of a lane. O(what waits in it).
    pub fn remove(&mut self, lane: Lane, is_gone: impl Fn(&T) -> bool) {
        self.heaps[lane as usize].retain(|Reverse(due)| !is_gone(&due.what));
    }

    /// The earliest that may run, of `threads` threads, if it is due at `now`.
    pub fn pop(&mut self, now: Instant, threads: usize) -> Option<Run<T>> {
        let lane = self.earliest(threads).filter(|&(at, _, _)| at <= now)?.2;
        let Reverse(Due { at, what, .. }) =
            self.heaps[lane as usize].pop().expect("BUG: the earliest is gone under the lock");
        self.running[lane as usize] += 1;
        Some(Run { lane, at, what })
    }

    /// When the earliest that may run is due, as long as nothing is pushed and nothing finishes.
    pub fn next_at(&self, threads: usize) -> Option<Instant> {
        self.earliest(threads).map(|(at, _, _)| at)
    }

    /// How many databases collect a group.
    pub fn collecting(&self) -> usize {
        LANES
            .into_iter()
            .filter(|&lane| !matches!(lane, Lane::Upkeep | Lane::Lease))
            .map(|lane| self.heaps[lane as usize].len())
            .sum()
    }

    /// What was popped from `lane` has run.
    pub fn finished(&mut self, lane: Lane) {
        let running = &mut self.running[lane as usize];
        *running = running.checked_sub(1).expect("BUG: finished more than was begun");
    }

    fn earliest(&self, threads: usize) -> Option<(Instant, u64, Lane)> {
        let first = |lane: Lane| self.heaps[lane as usize].peek().map(|Reverse(d)| (d.at, d.order, lane));
        LANES
            .into_iter()
            .filter(|&lane| self.may_run(lane, threads))
            .filter_map(first)
            .min_by_key(|d| (d.0, d.1))
    }

    fn may_run(&self, lane: Lane, threads: usize) -> bool {
        let [_, bucket, failing, upkeep, lease] = self.running;
        let kept = usize::from(self.has_hurried && threads > 1);
        let is_free = bucket + failing + upkeep + kept < threads;
        match lane {
            Lane::Folder => true,
            Lane::Bucket => is_free,
            Lane::Failing => is_free && failing < (threads / 3).max(1),
            Lane::Upkeep => is_free && upkeep == 0,
            Lane::Lease => lease < (threads / 3).max(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// Pops everything that may run now.
    fn pop_all(queue: &mut Queue<u32>, now: Instant, threads: usize) -> Vec<(Lane, u32)> {
        std::iter::from_fn(|| queue.pop(now, threads).map(|run| (run.lane, run.what))).collect()
    }

    #[test]
    fn the_earliest_goes_first_and_equals_in_their_order() {
        let now = Instant::now();
        let ms = |n| now + Duration::from_millis(n);
        let mut queue = Queue::default();
        for (lane, at, what) in
            [(Lane::Folder, 9, 4), (Lane::Bucket, 5, 1), (Lane::Folder, 7, 2), (Lane::Folder, 7, 3)]
        {
            queue.push(lane, ms(at), what);
        }
        assert_eq!(queue.next_at(6), Some(ms(5)));
        assert!(queue.pop(ms(4), 6).is_none(), "nothing is due yet");
        let found = pop_all(&mut queue, ms(8), 6);
        assert_eq!(found, [(Lane::Bucket, 1), (Lane::Folder, 2), (Lane::Folder, 3)]);
        assert_eq!(queue.next_at(6), Some(ms(9)));
    }

    #[test]
    fn stores_that_hang_leave_a_thread_to_the_folders() {
        let now = Instant::now();
        let mut queue = Queue::default();
        queue.expect(Lane::Bucket);
        (0..20).for_each(|n| queue.push(Lane::Bucket, now, n));
        assert_eq!(pop_all(&mut queue, now, 6).len(), 6, "there are none");
        queue.finished(Lane::Bucket);
        queue.expect(Lane::Folder);
        queue.push(Lane::Folder, now + Duration::from_secs(1), 100);
        assert_eq!(
            queue.next_at(6),
            Some(now + Duration::from_secs(1)),
            "no bucket may run before one finishes"
        );
        assert_eq!(pop_all(&mut queue, now + Duration::from_secs(1), 6), [(Lane::Folder, 100)]);
        queue.finished(Lane::Bucket);
        assert_eq!(pop_all(&mut queue, now, 6), [(Lane::Bucket, 6)]);
    }

    #[test]
    fn what_fails_takes_a_third_of_the_threads_and_one_at_least() {
        let now = Instant::now();
        for (threads, limit, others) in [(2, 1, 0), (6, 2, 3)] {
            let mut queue = Queue::default();
            queue.expect(Lane::Folder);
            (0..20).for_each(|n| queue.push(Lane::Failing, now, n));
            assert_eq!(pop_all(&mut queue, now, threads).len(), limit, "{threads} threads");
            (0..20).for_each(|n| queue.push(Lane::Bucket, now, n));
            assert_eq!(pop_all(&mut queue, now, threads).len(), others, "{threads} threads");
            queue.push(Lane::Folder, now, 100);
            assert_eq!(pop_all(&mut queue, now, threads), [(Lane::Folder, 100)]);
        }
    }

    #[test]
    fn nobody_waits_for_two_runs_of_another() {
        let mut now = Instant::now();
        let mut queue = Queue::default();
        (0..50).for_each(|n| queue.push(Lane::Bucket, now, n));
        let mut runs = [0u32; 50];
        // Each run takes a while, and each database has the next group at once.
        for _ in 0..1000 {
            let run = queue.pop(now, 2).expect("all of them are due");
            runs[run.what as usize] += 1;
            assert!(runs.iter().max().unwrap() - runs.iter().min().unwrap() <= 1, "{runs:?}");
            now += Duration::from_millis(1);
            queue.push(run.lane, now, run.what);
            queue.finished(run.lane);
        }
        assert_eq!(runs, [20; 50]);
    }
}
