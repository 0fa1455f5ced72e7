//! The methods of a file we follow: each reaches the base, and some tell a hook before or after.
//!
//! Promises: every method and every file control reaches the base with its arguments, and its answer goes back
//! unchanged, but for a commit that the replica lacks, a write that may not begin, a read mark that was given back
//! early ([`super::read_mark`]), and a checkpoint or restart of the WAL that would meet the other ([`super::wal_reset`]); the methods' version is the base file's; no capability is claimed, one (BATCH_ATOMIC:
//! commits without a journal) is hidden; hooks are called when [`super::hooks`] says.
//! Source: <https://sqlite.org/c3ref/io_methods.html>.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::NonNull;

use libsqlite3_sys as sys;

use super::code::{MAY_NOT_WRITE, NOT_ACKNOWLEDGED};
use super::file::{Follow, base_methods, below, close, state};
use super::hooks::{MayNotWrite, NotAcknowledged};
use super::stats::{Method, count};
use super::vfs::Registration;
#[cfg(test)]
use crate::testing::mutation::{self, Mutation};

/// The level of xLock at which a transaction of a rollback mode begins to write.
const RESERVED: c_int = 2;
/// The slot of xShmLock that who writes to the WAL holds (WAL_WRITE_LOCK in `wal.c`).
const WAL_WRITE: c_int = 0;

/// The base's version and its shared memory decide; where the base has no xShmMap, SQLite must see none.
pub(super) fn for_base(base: &sys::sqlite3_io_methods) -> &'static sys::sqlite3_io_methods {
    let has_shm = base.iVersion >= 2 && base.xShmMap.is_some();
    match (base.iVersion, has_shm) {
        (..=1, _) => &TABLES[0],
        (2, false) => &TABLES[1],
        (2, true) => &TABLES[2],
        (_, false) => &TABLES[3],
        (_, true) => &TABLES[4],
    }
}

pub(super) static TABLES: [sys::sqlite3_io_methods; 5] =
    [table(1, false), table(2, false), table(2, true), table(3, false), table(3, true)];

const fn table(version: c_int, has_shm: bool) -> sys::sqlite3_io_methods {
    let mut methods = sys::sqlite3_io_methods {
        iVersion: version,
        xClose: Some(close),
        xRead: Some(read),
        xWrite: Some(write),
        xTruncate: Some(truncate),
        xSync: Some(sync),
        xFileSize: Some(file_size),
        xLock: Some(lock),
        xUnlock: Some(unlock),
        xCheckReservedLock: Some(check_reserved_lock),
        xFileControl: Some(file_control),
        xSectorSize: Some(sector_size),
        xDeviceCharacteristics: Some(device_characteristics),
        xShmMap: None,
        xShmLock: None,
        xShmBarrier: None,
        xShmUnmap: None,
        xFetch: None,
        xUnfetch: None,
    };
    if has_shm {
        methods.xShmMap = Some(shm_map);
        methods.xShmLock = Some(shm_lock);
        methods.xShmBarrier = Some(shm_barrier);
        methods.xShmUnmap = Some(shm_unmap);
    }
    if version >= 3 {
        methods.xFetch = Some(fetch);
        methods.xUnfetch = Some(unfetch);
    }
    methods
}

/// # Safety
/// As io_methods.xRead.
unsafe extern "C" fn read(
    file: *mut sys::sqlite3_file,
    buffer: *mut c_void,
    length: c_int,
    offset: i64,
) -> c_int {
    count(Method::Read);
    // SAFETY: by contract.
    let rc = unsafe {
        base_methods(file).xRead.expect("BUG: a file has xRead")(below(file), buffer, length, offset)
    };
    #[cfg(test)]
    if rc == sys::SQLITE_IOERR_SHORT_READ && mutation::is(Mutation::FlattenedShortRead) {
        return sys::SQLITE_OK;
    }
    rc
}

/// # Safety
/// As io_methods.xWrite.
unsafe extern "C" fn write(
    file: *mut sys::sqlite3_file,
    buffer: *const c_void,
    length: c_int,
    offset: i64,
) -> c_int {
    count(Method::Write);
    // SAFETY: by contract `buffer` has `length` bytes.
    unsafe {
        let bytes = std::slice::from_raw_parts(buffer.cast::<u8>(), usize::try_from(length).unwrap_or(0));
        let at = u64::try_from(offset).unwrap_or(0);
        let admitted = match &state(file).follow {
            Follow::Main(_) => state(file).main(Ok(()), |hooks| {
                hooks.admit_write(at, bytes)?;
                hooks.before_write(at, bytes);
                Ok(())
            }),
            _ => state(file).wal(Ok(()), |hooks| {
                hooks.admit_write(at, bytes)?;
                hooks.before_write(at, bytes);
                Ok(())
            }),
        };
        if let Err(refused) = admitted {
            return answer(file, refused);
        }
        base_methods(file).xWrite.expect("BUG: a file has xWrite")(below(file), buffer, length, offset)
    }
}

/// # Safety
/// As io_methods.xTruncate.
unsafe extern "C" fn truncate(file: *mut sys::sqlite3_file, size: i64) -> c_int {
    count(Method::Truncate);
    let bytes = u64::try_from(size).unwrap_or(0);
    // SAFETY: by contract.
    unsafe {
        match &state(file).follow {
            Follow::Main(_) => state(file).main((), |hooks| hooks.before_truncate(bytes)),
            _ => state(file).wal((), |hooks| hooks.before_truncate(bytes)),
        }
        base_methods(file).xTruncate.expect("BUG: a file has xTruncate")(below(file), size)
    }
}

/// # Safety
/// As io_methods.xSync.
unsafe extern "C" fn sync(file: *mut sys::sqlite3_file, flags: c_int) -> c_int {
    count(Method::Sync);
    // SAFETY: by contract.
    let rc = unsafe { base_methods(file).xSync.expect("BUG: a file has xSync")(below(file), flags) };
    #[cfg(test)]
    if mutation::is(Mutation::FlattenedSync) {
        return rc & 0xff;
    }
    rc
}

/// # Safety
/// As io_methods.xFileSize.
unsafe extern "C" fn file_size(file: *mut sys::sqlite3_file, size: *mut i64) -> c_int {
    count(Method::FileSize);
    // SAFETY: by contract.
    unsafe { base_methods(file).xFileSize.expect("BUG: a file has xFileSize")(below(file), size) }
}

/// Tells SQLite that a write may not begin.
///
/// # Safety
/// `file` is an open file of ours.
unsafe fn answer(file: *mut sys::sqlite3_file, refused: MayNotWrite) -> c_int {
    let (code, text) = match refused {
        MayNotWrite::Yet(text) => (sys::SQLITE_BUSY, text),
        MayNotWrite::AnyMore(text) => (MAY_NOT_WRITE, text),
    };
    // SAFETY: by contract.
    unsafe { state(file).vfs.api().write_log(code, &text) };
    code
}

/// # Safety
/// As io_methods.xLock.
unsafe extern "C" fn lock(file: *mut sys::sqlite3_file, level: c_int) -> c_int {
    count(Method::Lock);
    // SAFETY: by contract.
    unsafe {
        if level == RESERVED
            && let Err(refused) = state(file).main(Ok(()), |hooks| hooks.before_reserved())
        {
            return answer(file, refused);
        }
        let rc = base_methods(file).xLock.expect("BUG: a file has xLock")(below(file), level);
        if rc == sys::SQLITE_OK {
            state(file).main((), |hooks| hooks.locked(level));
        } else if level == RESERVED {
            state(file).main((), |hooks| hooks.write_lock_refused());
        }
        rc
    }
}

/// # Safety
/// As io_methods.xUnlock.
unsafe extern "C" fn unlock(file: *mut sys::sqlite3_file, level: c_int) -> c_int {
    count(Method::Unlock);
    // SAFETY: by contract.
    unsafe {
        state(file).main((), |hooks| hooks.before_unlock(level));
        base_methods(file).xUnlock.expect("BUG: a file has xUnlock")(below(file), level)
    }
}

/// # Safety
/// As io_methods.xCheckReservedLock.
unsafe extern "C" fn check_reserved_lock(file: *mut sys::sqlite3_file, out: *mut c_int) -> c_int {
    count(Method::CheckReservedLock);
    // SAFETY: by contract.
    unsafe {
        let method = base_methods(file).xCheckReservedLock.expect("BUG: a file has xCheckReservedLock");
        let rc = method(below(file), out);
        #[cfg(test)]
        if mutation::is(Mutation::FlattenedReserved) {
            *out = 0;
        }
        rc
    }
}

/// # Safety
/// As io_methods.xFileControl.
unsafe extern "C" fn file_control(file: *mut sys::sqlite3_file, op: c_int, argument: *mut c_void) -> c_int {
    count(Method::FileControl);
    // SAFETY: by contract.
    unsafe {
        match op {
            sys::SQLITE_FCNTL_CKPT_START => state(file).main((), |hooks| hooks.checkpoint_started()),
            sys::SQLITE_FCNTL_PDB => state(file).life.mark.belongs_to(argument.cast()),
            _ => {}
        }
        let method = base_methods(file).xFileControl.expect("BUG: a file has xFileControl");
        let rc = method(below(file), op, argument);
        match op {
            sys::SQLITE_FCNTL_COMMIT_PHASETWO if matches!(rc, sys::SQLITE_OK | sys::SQLITE_NOTFOUND) => {
                let state = state(file);
                match state
                    .main(None, |hooks| Some(hooks.committed()))
                    .unwrap_or_else(|| state.unanswered_commit())
                {
                    Ok(()) => rc,
                    Err(NotAcknowledged(text)) => {
                        state.vfs.api().write_log(NOT_ACKNOWLEDGED, &text);
                        NOT_ACKNOWLEDGED
                    }
                }
            }
            sys::SQLITE_FCNTL_VFSNAME if rc == sys::SQLITE_OK => {
                put_name_before(state(file).vfs, argument.cast());
                rc
            }
            _ => rc,
        }
    }
}

/// Turns the base's `unix` into `replvfs/unix`; leaves it when memory is out.
///
/// # Safety
/// `name` is NULL, or leads to NULL or to a string made by this SQLite's allocator.
unsafe fn put_name_before(vfs: &'static Registration, name: *mut *mut c_char) {
    // SAFETY: by contract; the old string is freed by who takes its place.
    unsafe {
        if name.is_null() || (*name).is_null() {
            return;
        }
        let below = CStr::from_ptr(*name).to_string_lossy();
        let both = vfs.api().c_copy(&format!("{}/{below}", vfs.name().to_string_lossy()));
        if !both.is_null() {
            (vfs.api().free)((*name).cast());
            *name = both;
        }
    }
}

/// # Safety
/// As io_methods.xSectorSize.
unsafe extern "C" fn sector_size(file: *mut sys::sqlite3_file) -> c_int {
    count(Method::SectorSize);
    // SAFETY: by contract.
    unsafe { base_methods(file).xSectorSize.expect("BUG: a file has xSectorSize")(below(file)) }
}

/// # Safety
/// As io_methods.xDeviceCharacteristics.
unsafe extern "C" fn device_characteristics(file: *mut sys::sqlite3_file) -> c_int {
    count(Method::DeviceCharacteristics);
    // SAFETY: by contract.
    let has = unsafe {
        let method =
            base_methods(file).xDeviceCharacteristics.expect("BUG: a file has xDeviceCharacteristics");
        method(below(file))
    };
    has & !sys::SQLITE_IOCAP_BATCH_ATOMIC
}

/// # Safety
/// As io_methods.xShmMap.
unsafe extern "C" fn shm_map(
    file: *mut sys::sqlite3_file,
    region: c_int,
    bytes: c_int,
    extend: c_int,
    out: *mut *mut c_void,
) -> c_int {
    count(Method::ShmMap);
    // SAFETY: by contract; what the base maps stays until xShmUnmap (io_methods.html).
    unsafe {
        let method = base_methods(file).xShmMap.expect("BUG: forwarded only if present");
        #[cfg(test)]
        let extend = if mutation::is(Mutation::ExtendedShm) { 1 } else { extend };
        let rc = method(below(file), region, bytes, extend, out);
        let usable = matches!(rc & 0xff, sys::SQLITE_OK | sys::SQLITE_READONLY);
        if let (true, Some(memory), Ok(region)) = (usable, NonNull::new(*out), u32::try_from(region)) {
            debug_assert_eq!(bytes as usize, super::connection_file::SHM_REGION_BYTES);
            let state = state(file);
            if !state.is_silent() {
                let view = state.life.mapped(memory);
                state.main((), |hooks| hooks.shm_region(region, view));
            }
        }
        rc
    }
}

/// # Safety
/// As io_methods.xShmLock.
unsafe extern "C" fn shm_lock(
    file: *mut sys::sqlite3_file,
    first: c_int,
    slots: c_int,
    flags: c_int,
) -> c_int {
    count(Method::ShmLock);
    let is_exclusive = flags & sys::SQLITE_SHM_EXCLUSIVE != 0;
    let is_lock = flags & sys::SQLITE_SHM_LOCK != 0;
    // SAFETY: by contract.
    unsafe {
        let mark = &state(file).life.mark;
        if !is_exclusive && !is_lock && mark.unlocking(first) {
            return sys::SQLITE_OK;
        }
        let method = base_methods(file).xShmLock.expect("BUG: forwarded only if present");
        let resets = &state(file).life.resets;
        if is_exclusive && is_lock {
            if resets.refuses(below(file), (first, slots), state(file).vfs.api()) {
                return sys::SQLITE_BUSY;
            }
            if (first, slots) == (WAL_WRITE, 1)
                && let Err(refused) = state(file).main(Ok(()), |hooks| hooks.before_wal_write())
            {
                return answer(file, refused);
            }
            state(file).main((), |hooks| hooks.before_shm_lock(first, slots));
        } else if is_exclusive {
            resets.unlocking(below(file), (first, slots));
        }
        let rc = method(below(file), first, slots, flags);
        if is_exclusive && is_lock {
            resets.locked(below(file), (first, slots), rc == sys::SQLITE_OK);
        } else if is_exclusive {
            resets.unlocked(below(file), (first, slots));
        }
        if !is_exclusive && is_lock && rc == sys::SQLITE_OK {
            mark.locked(first);
        }
        if is_exclusive && is_lock && rc != sys::SQLITE_OK && (first, slots) == (WAL_WRITE, 1) {
            state(file).main((), |hooks| hooks.write_lock_refused());
        }
        if is_exclusive && rc == sys::SQLITE_OK {
            state(file).main((), |hooks| {
                if is_lock {
                    hooks.after_shm_lock(first, slots)
                } else {
                    hooks.after_shm_unlock(first, slots)
                }
            });
        }
        rc
    }
}

/// # Safety
/// As io_methods.xShmBarrier.
unsafe extern "C" fn shm_barrier(file: *mut sys::sqlite3_file) {
    count(Method::ShmBarrier);
    // SAFETY: by contract.
    unsafe { base_methods(file).xShmBarrier.expect("BUG: forwarded only if present")(below(file)) }
}

/// # Safety
/// As io_methods.xShmUnmap.
unsafe extern "C" fn shm_unmap(file: *mut sys::sqlite3_file, delete: c_int) -> c_int {
    count(Method::ShmUnmap);
    // SAFETY: by contract.
    unsafe {
        state(file).main((), |hooks| hooks.before_shm_unmap(delete != 0));
        state(file).life.unmapped();
        base_methods(file).xShmUnmap.expect("BUG: forwarded only if present")(below(file), delete)
    }
}

/// # Safety
/// As io_methods.xFetch.
unsafe extern "C" fn fetch(
    file: *mut sys::sqlite3_file,
    offset: i64,
    length: c_int,
    out: *mut *mut c_void,
) -> c_int {
    count(Method::Fetch);
    // SAFETY: by contract.
    unsafe {
        base_methods(file).xFetch.expect("BUG: forwarded only if present")(below(file), offset, length, out)
    }
}

/// # Safety
/// As io_methods.xUnfetch.
unsafe extern "C" fn unfetch(file: *mut sys::sqlite3_file, offset: i64, page: *mut c_void) -> c_int {
    count(Method::Unfetch);
    // SAFETY: by contract.
    unsafe { base_methods(file).xUnfetch.expect("BUG: forwarded only if present")(below(file), offset, page) }
}
