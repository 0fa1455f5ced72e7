//! Locks that a forked child can go on with: the standard library's, without poisoning and with guards that a
//! condition variable takes by reference.
//!
//! A lock that another thread held at the fork stays locked in the child, which therefore leaves alone what is of the
//! generation before (`ffi::os`). But each lock is a word of its own: no table of waiting threads is shared by the
//! whole process, where a child would find the stacks of threads that it does not have.

use std::ops::{Deref, DerefMut};
use std::sync::{self, PoisonError, TryLockError};
use std::time::{Duration, Instant};

pub use std::sync::{RwLockReadGuard, RwLockWriteGuard};

use crate::clock::{self, Deadline};

/// Pause between two attempts at a lock that cannot be waited for.
const AGAIN: Duration = Duration::from_micros(50);
/// Attempts at once before the first pause.
const ATTEMPTS_MAX: u32 = 200;

#[derive(Debug, Default)]
pub struct Mutex<T>(sync::Mutex<T>);

/// Unlocks when it is dropped.
pub struct MutexGuard<'a, T>(Option<sync::MutexGuard<'a, T>>);

impl<T> Mutex<T> {
    pub const fn new(value: T) -> Mutex<T> {
        Mutex(sync::Mutex::new(value))
    }

    pub fn into_inner(self) -> T {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard(Some(self.0.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        match self.0.try_lock() {
            Ok(guard) => Some(MutexGuard(Some(guard))),
            Err(TryLockError::Poisoned(poisoned)) => Some(MutexGuard(Some(poisoned.into_inner()))),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// For the end of the process, where the holder may be gone; elsewhere wait with [`Mutex::lock`].
    pub fn try_lock_for(&self, patience: Duration) -> Option<MutexGuard<'_, T>> {
        let deadline = Deadline::after(patience);
        loop {
            match self.try_lock() {
                None if !deadline.passed() => clock::pause(AGAIN),
                answer => return answer,
            }
        }
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.0.as_ref().expect("BUG: a guard is empty only inside a wait")
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_mut().expect("BUG: a guard is empty only inside a wait")
    }
}

/// Whether a wait ended by its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitResult(bool);

impl WaitResult {
    pub fn timed_out(self) -> bool {
        self.0
    }
}

#[derive(Debug, Default)]
pub struct Condvar(sync::Condvar);

impl Condvar {
    pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        let held = guard.0.take().expect("BUG: a guard is empty only inside a wait");
        guard.0 = Some(self.0.wait(held).unwrap_or_else(PoisonError::into_inner));
    }

    pub fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, patience: Duration) -> WaitResult {
        let held = guard.0.take().expect("BUG: a guard is empty only inside a wait");
        let (held, result) = self.0.wait_timeout(held, patience).unwrap_or_else(PoisonError::into_inner);
        guard.0 = Some(held);
        WaitResult(result.timed_out())
    }

    pub fn wait_until<T>(&self, guard: &mut MutexGuard<'_, T>, at: Instant) -> WaitResult {
        self.wait_for(guard, at.saturating_duration_since(Instant::now()))
    }

    pub fn notify_one(&self) {
        self.0.notify_one();
    }

    pub fn notify_all(&self) {
        self.0.notify_all();
    }
}

/// Readers go first, always: one that holds it may take it again while a writer wants it. Writers are rare and
/// readers brief, or this is the wrong lock.
#[derive(Debug, Default)]
pub struct RwLock<T>(sync::RwLock<T>);

impl<T> RwLock<T> {
    pub const fn new(value: T) -> RwLock<T> {
        RwLock(sync::RwLock::new(value))
    }

    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Never queues: a queued writer would keep out readers that hold the lock already.
    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        for attempt in 0u32.. {
            match self.0.try_write() {
                Ok(guard) => return guard,
                Err(TryLockError::Poisoned(poisoned)) => return poisoned.into_inner(),
                Err(TryLockError::WouldBlock) if attempt < ATTEMPTS_MAX => std::hint::spin_loop(),
                Err(TryLockError::WouldBlock) => clock::pause(AGAIN),
            }
        }
        unreachable!("BUG: attempts without end ended")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn reader_takes_the_lock_again_while_a_writer_wants_it() {
        let lock = RwLock::new(1);
        let wanted = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let outer = lock.read();
            scope.spawn(|| {
                wanted.store(true, Ordering::SeqCst);
                *lock.write() = 2;
            });
            while !wanted.load(Ordering::SeqCst) {
                std::hint::spin_loop();
            }
            for _ in 0..10_000 {
                assert_eq!(*lock.read(), 1);
            }
            drop(outer);
        });
        assert_eq!(*lock.read(), 2);
    }

    #[test]
    fn wait_gives_the_lock_away_and_takes_it_back() {
        let (mutex, changed) = (Mutex::new(0), Condvar::default());
        std::thread::scope(|scope| {
            let mut guard = mutex.lock();
            assert!(mutex.try_lock().is_none());
            assert!(mutex.try_lock_for(Duration::ZERO).is_none());
            scope.spawn(|| {
                *mutex.lock() = 7;
                changed.notify_all();
            });
            while *guard == 0 {
                changed.wait(&mut guard);
            }
            assert_eq!(*guard, 7);
            assert!(changed.wait_for(&mut guard, Duration::ZERO).timed_out());
        });
        assert_eq!(mutex.try_lock().map(|g| *g), Some(7));
    }
}
