//! Keeps a checkpoint and a restart of the WAL apart where SQLite does not: its WAL-reset bug (docs/wal-reset.md).
//!
//! ```text
//! checkpointer                                     writer
//! xShmLock(CHECKPOINT)       salts are remembered
//!   copies the header: M frames
//!                                                  xShmLock(READ 1..4)   takes CHECKPOINT as well, or is refused
//!                                                    restarts the WAL, sets nBackfill = 0
//!                                                  xShmUnlock(READ 1..4) and CHECKPOINT
//!   nBackfill < M: goes on, wrongly
//! xShmLock(READ 0)           other salts: refused
//!   would set nBackfill = M, of a WAL that is gone
//! ```
//!
//! Each side alone is enough: the left one where another program restarts the WAL, the right one where another program
//! runs the checkpoint. A checkpoint that is refused here does nothing, as one that readers hold up; a restart that is
//! refused is made by a later commit. Under the writer's lock nobody else restarts, so nothing is looked at.
//! Source: `sqlite3WalCheckpoint`, `walCheckpoint`, `walRestartLog` of `wal.c`; mended in SQLite 3.51.3, which compares
//! the salts at the same place.

use std::ffi::c_int;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};

use libsqlite3_sys as sys;

use super::api::Api;
use super::connection_file::SHM_REGION_BYTES;

/// Lock slots of the wal-index, first and how many (walformat.html section 2.3.1).
const WRITE: (c_int, c_int) = (0, 1);
const CHECKPOINT: (c_int, c_int) = (1, 1);
/// Of a recovery of the wal-index, which SQLite up to 3.31 follows up with `READ_1_TO_4`; nothing is restarted there.
const RECOVERY: (c_int, c_int) = (1, 2);
const READ_0: (c_int, c_int) = (3, 1);
const READ_1_TO_4: (c_int, c_int) = (4, 4);
const LEFT_OUT: &str = "a checkpoint was left out, because the WAL was started over since it began";
/// Where the salts are in the wal-index header, in words.
const SALTS: [usize; 2] = [8, 9];

/// Whether this SQLite has the bug: 3.7.0 to 3.51.2, without the two releases that it was mended in as well.
pub(super) fn has_bug(version: c_int) -> bool {
    version < 3_051_003 && !matches!(version, 3_044_006..=3_044_999 | 3_050_007..=3_050_999)
}

/// What is known of one connection's locks. Only its own thread asks.
#[derive(Default)]
pub(super) struct ResetGuard {
    is_on: AtomicBool,
    holds_checkpoint: AtomicBool,
    holds_write: AtomicBool,
    recovers: AtomicBool,
    /// The checkpoint lock is held for a restart, without SQLite's knowledge.
    is_borrowed: AtomicBool,
    /// As they were when the checkpoint began.
    salts: AtomicU64,
}

impl ResetGuard {
    pub(super) fn turn_on(&self) {
        self.is_on.store(true, Ordering::Relaxed);
    }

    /// An EXCLUSIVE lock must not be asked for now.
    ///
    /// # Safety
    /// `file` is the connection's open base file, inside its xShmLock.
    pub(super) unsafe fn refuses(
        &self,
        file: *mut sys::sqlite3_file,
        slots: (c_int, c_int),
        api: &Api,
    ) -> bool {
        if !self.is_on.load(Ordering::Relaxed) {
            return false;
        }
        let in_checkpoint = self.holds_checkpoint.load(Ordering::Relaxed);
        match slots {
            READ_0 if in_checkpoint && !self.holds_write.load(Ordering::Relaxed) => {
                // SAFETY: by contract.
                let is_another = unsafe { salts(file) } != self.salts.load(Ordering::Relaxed);
                if is_another {
                    api.write_log(sys::SQLITE_BUSY, LEFT_OUT);
                }
                is_another
            }
            READ_1_TO_4 if !in_checkpoint && !self.recovers.load(Ordering::Relaxed) => {
                // SAFETY: by contract.
                let granted = unsafe { shm_lock(file, CHECKPOINT, sys::SQLITE_SHM_LOCK) };
                self.is_borrowed.store(granted, Ordering::Relaxed);
                !granted
            }
            _ => false,
        }
    }

    /// An EXCLUSIVE lock was asked for.
    ///
    /// # Safety
    /// As [`ResetGuard::refuses`].
    pub(super) unsafe fn locked(
        &self,
        file: *mut sys::sqlite3_file,
        slots: (c_int, c_int),
        is_granted: bool,
    ) {
        match slots {
            CHECKPOINT if is_granted => {
                self.holds_checkpoint.store(true, Ordering::Relaxed);
                // SAFETY: by contract.
                unsafe { self.remember(file) };
            }
            RECOVERY => self.recovers.store(is_granted, Ordering::Relaxed),
            WRITE if is_granted => self.holds_write.store(true, Ordering::Relaxed),
            // SAFETY: by contract.
            READ_1_TO_4 if !is_granted => unsafe { self.give_back(file) },
            _ => {}
        }
    }

    /// An EXCLUSIVE lock is about to be given back.
    ///
    /// # Safety
    /// As [`ResetGuard::refuses`].
    pub(super) unsafe fn unlocking(&self, file: *mut sys::sqlite3_file, slots: (c_int, c_int)) {
        match slots {
            CHECKPOINT => self.holds_checkpoint.store(false, Ordering::Relaxed),
            RECOVERY => self.recovers.store(false, Ordering::Relaxed),
            WRITE => {
                self.holds_write.store(false, Ordering::Relaxed);
                // The checkpoint itself has recovered the wal-index, under this lock.
                // SAFETY: by contract.
                unsafe { self.remember(file) };
            }
            _ => {}
        }
    }

    /// An EXCLUSIVE lock was given back.
    ///
    /// # Safety
    /// As [`ResetGuard::refuses`].
    pub(super) unsafe fn unlocked(&self, file: *mut sys::sqlite3_file, slots: (c_int, c_int)) {
        if slots == READ_1_TO_4 {
            // SAFETY: by contract.
            unsafe { self.give_back(file) };
        }
    }

    unsafe fn remember(&self, file: *mut sys::sqlite3_file) {
        if self.is_on.load(Ordering::Relaxed) && self.holds_checkpoint.load(Ordering::Relaxed) {
            // SAFETY: by contract of the caller.
            self.salts.store(unsafe { salts(file) }, Ordering::Relaxed);
        }
    }

    unsafe fn give_back(&self, file: *mut sys::sqlite3_file) {
        if self.is_borrowed.swap(false, Ordering::Relaxed) {
            // SAFETY: by contract of the caller; the lock is held.
            unsafe { shm_lock(file, CHECKPOINT, sys::SQLITE_SHM_UNLOCK) };
        }
    }
}

unsafe fn shm_lock(file: *mut sys::sqlite3_file, slots: (c_int, c_int), how: c_int) -> bool {
    // SAFETY: by contract of the caller; a file that is locked has the method.
    unsafe {
        let method = (*(*file).pMethods).xShmLock.expect("BUG: forwarded only if present");
        method(file, slots.0, slots.1, how | sys::SQLITE_SHM_EXCLUSIVE) == sys::SQLITE_OK
    }
}

/// The salts of the wal-index; 0 without one, which SQLite maps before it asks for any lock.
unsafe fn salts(file: *mut sys::sqlite3_file) -> u64 {
    let mut memory = ptr::null_mut();
    // SAFETY: by contract of the caller; the region stays mapped while the connection is inside xShmLock, and other
    // processes write it in whole words.
    unsafe {
        let Some(method) = (*(*file).pMethods).xShmMap else { return 0 };
        let rc = method(file, 0, SHM_REGION_BYTES as c_int, 0, &raw mut memory);
        if !matches!(rc & 0xff, sys::SQLITE_OK | sys::SQLITE_READONLY) || memory.is_null() {
            return 0;
        }
        // The counterpart of the barrier between the salts and what a restart changes after them.
        fence(Ordering::SeqCst);
        let [first, second] =
            SALTS.map(|word| AtomicU32::from_ptr(memory.cast::<u32>().add(word)).load(Ordering::Relaxed));
        u64::from(first) << 32 | u64::from(second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_versions_with_the_bug_are_known() {
        for version in [3_007_000, 3_040_001, 3_044_005, 3_045_000, 3_050_006, 3_051_002] {
            assert!(has_bug(version), "{version}");
        }
        for version in [3_044_006, 3_050_007, 3_051_003, 3_052_000, 3_053_002] {
            assert!(!has_bug(version), "{version}");
        }
    }
}
