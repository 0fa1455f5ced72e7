//! The one run of a database that is due, and the request to run once more; what `src/loom/` tries in every order.
//!
//! ```text
//! committer                            worker
//! publishes a commit                   takes the run that is due
//! looks whether a run is due           looks at the database
//! ```
//!
//! One of the two sees the other: a commit that finds a run due is seen by that run. So both look past a fence.

use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::time::Instant;

use crate::lock::{Mutex, MutexGuard};

#[derive(Default)]
pub struct Due {
    // Guards when the next run is due; `None`: none is.
    at: Mutex<Option<Instant>>,
    /// A run is due: the same, for a look at every commit.
    is_set: AtomicBool,
}

impl Due {
    /// A run is due, which sees everything that was published before this look.
    pub fn is_set(&self) -> bool {
        fence(Ordering::SeqCst);
        self.is_set.load(Ordering::Acquire)
    }

    /// Makes a run due at `at`. Where one is due already it stays, or with `instead` this one takes its place; but who
    /// wants it at `now` keeps the place in the queue of one that is overdue. `true`: this one is due.
    pub fn set(&self, at: Instant, instead: bool, now: impl Fn() -> Instant) -> bool {
        let mut due = self.at.lock();
        if due.is_some_and(|due| !instead || stays(due, at, now())) {
            return false;
        }
        *due = Some(at);
        self.is_set.store(true, Ordering::Release);
        true
    }

    /// Takes the run that is due at `at`; `false`: another took its place. Look at the database afterwards.
    pub fn take(&self, at: Instant) -> bool {
        let mut due = self.at.lock();
        if *due != Some(at) {
            return false;
        }
        *due = None;
        self.is_set.store(false, Ordering::Release);
        fence(Ordering::SeqCst);
        true
    }
}

/// Whether a run that is due at `due` stays although one is wanted at `at`: that would be later, and no pause is meant.
fn stays(due: Instant, at: Instant, now: Instant) -> bool {
    due <= at && at <= now
}

/// Somebody found taken what one thread holds at a time, and wanted it.
#[derive(Default)]
pub struct Again(AtomicBool);

impl Again {
    /// The lock, or a request to who holds it.
    pub fn lock_or_ask<'a, T>(&self, held: &'a Mutex<T>) -> Option<MutexGuard<'a, T>> {
        held.try_lock().or_else(|| {
            self.0.store(true, Ordering::SeqCst);
            fence(Ordering::SeqCst);
            // It may have let go before it could see the request.
            held.try_lock()
        })
    }

    /// Whether somebody asked meanwhile: everybody who held the lock looks, after it has let go.
    pub fn was_asked(&self) -> bool {
        fence(Ordering::SeqCst);
        self.0.swap(false, Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn who_waits_in_an_overdue_database_does_not_lose_its_place() {
        let due = Instant::now();
        let ms = |n| due + Duration::from_millis(n);
        assert!(stays(due, ms(5), ms(5)), "overdue");
        assert!(!stays(ms(9), ms(5), ms(5)), "not due yet: now is earlier");
        assert!(!stays(due, ms(55), ms(5)), "a pause after a failure");
    }

    #[test]
    fn who_finds_the_lock_taken_is_heard_by_who_lets_go() {
        let (again, held) = (Again::default(), Mutex::new(()));
        let guard = held.lock();
        assert!(again.lock_or_ask(&held).is_none());
        drop(guard);
        assert!(again.was_asked() && !again.was_asked());
        assert!(again.lock_or_ask(&held).is_some());
    }
}
