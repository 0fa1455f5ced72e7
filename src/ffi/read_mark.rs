//! The read mark of the wal-index that a connection holds, and its early release.
//!
//! ```text
//! xShmLock(READ k, SHARED)   a transaction begins         mark = k
//! COMMIT_PHASETWO            the committer may wait here; SQLite's next call would be the unlock below
//!   released early           base unlocked now            checkpoints may pass, the WAL may start over
//! xShmUnlock(READ k)         SQLite's own                 swallowed, if it was released early
//! ```
//!
//! A committer that waits for a replica would otherwise hold its mark for the length of an upload; with many of them the
//! WAL always has a reader and never starts over. Releasing is right only when nobody reads under the mark any more:
//! after the commit SQLite ends the read transaction too, unless another statement of the connection is still
//! running (btree.c, btreeEndTransaction), or other connections share its cache. Both are looked at; when in doubt the
//! mark is kept.

use std::ffi::c_int;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU32, Ordering};

use libsqlite3_sys as sys;

use super::api::Api;

/// Lock slots of the read marks begin here (walformat.html section 2.3.1).
const FIRST_READER: c_int = 3;
const NONE: c_int = -1;

pub(super) struct ReadMark {
    /// The slot that SQLite holds SHARED.
    held: AtomicI32,
    /// It was given back without SQLite's knowledge.
    is_released: AtomicBool,
    /// Where SQLite keeps the connection of this file; NULL before it said so.
    connection: AtomicPtr<*mut sys::sqlite3>,
    /// Connections that were told of; the second one shares the cache of the first.
    users: AtomicU32,
}

impl ReadMark {
    pub(super) fn new() -> ReadMark {
        ReadMark {
            held: AtomicI32::new(NONE),
            is_released: AtomicBool::new(false),
            connection: AtomicPtr::new(ptr::null_mut()),
            users: AtomicU32::new(0),
        }
    }

    /// SQLite told which connection the file belongs to (SQLITE_FCNTL_PDB, once for each that opens it: btree.c,
    /// sqlite3BtreeOpen). The place is valid while the file is open. Of a shared cache xOpen is not told.
    pub(super) fn belongs_to(&self, connection: *mut *mut sys::sqlite3) {
        self.users.fetch_add(1, Ordering::AcqRel);
        self.connection.store(connection, Ordering::Release);
    }

    /// A SHARED lock was granted.
    pub(super) fn locked(&self, first: c_int) {
        if first >= FIRST_READER {
            self.held.store(first, Ordering::Relaxed);
        }
    }

    /// SQLite gives a SHARED lock back. `true`: it is given back already.
    pub(super) fn unlocking(&self, first: c_int) -> bool {
        if self.held.load(Ordering::Relaxed) != first {
            return false;
        }
        self.held.store(NONE, Ordering::Relaxed);
        self.is_released.swap(false, Ordering::Relaxed)
    }

    /// Gives the mark back early, if nobody can be reading under it. `true`: it is free now.
    ///
    /// # Safety
    /// Called inside SQLITE_FCNTL_COMMIT_PHASETWO of `file`, an open base file, in WAL mode.
    pub(super) unsafe fn release(&self, api: &Api, file: *mut sys::sqlite3_file) -> bool {
        let slot = self.held.load(Ordering::Relaxed);
        let connection = self.connection.load(Ordering::Acquire);
        if slot == NONE || self.users.load(Ordering::Acquire) != 1 || connection.is_null() {
            return false;
        }
        if self.is_released.load(Ordering::Relaxed) {
            return true;
        }
        // SAFETY: by contract the connection's mutex is held by this thread, so its statements stand still; the
        // base file is open and holds the slot.
        unsafe {
            if running(api, *connection) > 1 {
                return false;
            }
            let Some(method) = (*(*file).pMethods).xShmLock else { return false };
            let flags = sys::SQLITE_SHM_UNLOCK | sys::SQLITE_SHM_SHARED;
            self.is_released.store(method(file, slot, 1, flags) == sys::SQLITE_OK, Ordering::Relaxed);
        }
        self.is_released.load(Ordering::Relaxed)
    }
}

/// Statements of the connection that have begun and not ended, the committing one included.
///
/// # Safety
/// The connection is open, and its mutex is held by this thread.
unsafe fn running(api: &Api, connection: *mut sys::sqlite3) -> usize {
    let (mut count, mut statement) = (0, ptr::null_mut());
    loop {
        // SAFETY: by contract; each statement stays while the mutex is held (c3ref/next_stmt.html).
        unsafe {
            statement = (api.next_stmt)(connection, statement);
            if statement.is_null() {
                return count;
            }
            count += usize::from((api.stmt_busy)(statement) != 0);
        }
    }
}
