//! A file that was refused: it carries the reason until the application can be told.
//!
//! xOpen can answer a code only. So a refused main database "opens" as this stub, which creates nothing, and the
//! automatic extension that runs at the end of `sqlite3_open` fails the open with our text. Where none runs
//! (ATTACH, a host that reset its automatic extensions) the first lock fails with SQLITE_CANTOPEN, the text goes
//! to sqlite3_log, and any PRAGMA answers it. During an open a stub sees one read of 100 bytes and xClose.

use std::ffi::{c_char, c_int, c_void};
use std::ptr;

use libsqlite3_sys as sys;

use super::vfs::Registration;

#[repr(C)]
struct StubFile {
    methods: *const sys::sqlite3_io_methods,
    refusal: *mut Refusal,
}

struct Refusal {
    vfs: &'static Registration,
    text: String,
}

/// Answers an xOpen with a refusal.
///
/// # Safety
/// As sqlite3_vfs.xOpen; no file is open at `file`.
pub(super) unsafe fn open(
    vfs: &'static Registration,
    file: *mut sys::sqlite3_file,
    flags: c_int,
    out: *mut c_int,
    text: &str,
) -> c_int {
    vfs.api().write_log(sys::SQLITE_CANTOPEN, text);
    if flags & sys::SQLITE_OPEN_MAIN_DB == 0 {
        // SAFETY: by contract; a failed open leaves no methods.
        unsafe { (*file).pMethods = ptr::null() };
        return sys::SQLITE_CANTOPEN;
    }
    let refusal = Box::into_raw(Box::new(Refusal { vfs, text: text.to_owned() }));
    // SAFETY: by contract the memory is large enough for two pointers; `out` is NULL or an int.
    unsafe {
        file.cast::<StubFile>().write(StubFile { methods: &raw const METHODS, refusal });
        if !out.is_null() {
            *out = flags;
        }
    }
    sys::SQLITE_OK
}

/// Why this file was refused; `None` for every other file.
///
/// # Safety
/// `file` is NULL or an open file, and its connection's mutex is held.
pub(super) unsafe fn text_of<'a>(file: *mut sys::sqlite3_file) -> Option<&'a str> {
    // SAFETY: by contract; our methods mean a StubFile.
    unsafe {
        if file.is_null() || !ptr::eq((*file).pMethods, &raw const METHODS) {
            return None;
        }
        Some(&refusal(file).text)
    }
}

/// # Safety
/// `file` is a stub that is open.
unsafe fn refusal<'a>(file: *mut sys::sqlite3_file) -> &'a Refusal {
    // SAFETY: by contract.
    unsafe { &*(*file.cast::<StubFile>()).refusal }
}

static METHODS: sys::sqlite3_io_methods = sys::sqlite3_io_methods {
    iVersion: 1,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(level),
    xFileSize: Some(file_size),
    xLock: Some(level),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(zero),
    xDeviceCharacteristics: Some(zero),
    xShmMap: None,
    xShmLock: None,
    xShmBarrier: None,
    xShmUnmap: None,
    xFetch: None,
    xUnfetch: None,
};

/// # Safety
/// As io_methods.xClose.
unsafe extern "C" fn close(file: *mut sys::sqlite3_file) -> c_int {
    // SAFETY: by contract; SQLite closes a file once.
    unsafe {
        let stub = file.cast::<StubFile>();
        drop(Box::from_raw((*stub).refusal));
        (*stub).methods = ptr::null();
    }
    sys::SQLITE_OK
}

/// An empty file, as far as reading goes.
///
/// # Safety
/// As io_methods.xRead.
unsafe extern "C" fn read(_: *mut sys::sqlite3_file, buffer: *mut c_void, length: c_int, _: i64) -> c_int {
    // SAFETY: by contract `buffer` has `length` bytes.
    unsafe { ptr::write_bytes(buffer.cast::<u8>(), 0, usize::try_from(length).unwrap_or(0)) };
    sys::SQLITE_IOERR_SHORT_READ
}

unsafe extern "C" fn write(_: *mut sys::sqlite3_file, _: *const c_void, _: c_int, _: i64) -> c_int {
    sys::SQLITE_CANTOPEN
}

unsafe extern "C" fn truncate(_: *mut sys::sqlite3_file, _: i64) -> c_int {
    sys::SQLITE_CANTOPEN
}

/// xLock and xSync.
unsafe extern "C" fn level(_: *mut sys::sqlite3_file, _: c_int) -> c_int {
    sys::SQLITE_CANTOPEN
}

unsafe extern "C" fn unlock(_: *mut sys::sqlite3_file, _: c_int) -> c_int {
    sys::SQLITE_OK
}

/// # Safety
/// As io_methods.xFileSize.
unsafe extern "C" fn file_size(_: *mut sys::sqlite3_file, size: *mut i64) -> c_int {
    // SAFETY: by contract.
    unsafe { *size = 0 };
    sys::SQLITE_OK
}

/// # Safety
/// As io_methods.xCheckReservedLock.
unsafe extern "C" fn check_reserved_lock(_: *mut sys::sqlite3_file, out: *mut c_int) -> c_int {
    // SAFETY: by contract.
    unsafe { *out = 0 };
    sys::SQLITE_OK
}

/// # Safety
/// As io_methods.xFileControl.
unsafe extern "C" fn file_control(file: *mut sys::sqlite3_file, op: c_int, argument: *mut c_void) -> c_int {
    if op != sys::SQLITE_FCNTL_PRAGMA {
        return sys::SQLITE_NOTFOUND;
    }
    // SAFETY: for a PRAGMA the argument is an array of strings, whose first takes our malloc'ed answer.
    unsafe {
        let refusal = refusal(file);
        *argument.cast::<*mut c_char>() = refusal.vfs.api().c_copy(&refusal.text);
    }
    sys::SQLITE_ERROR
}

/// xSectorSize and xDeviceCharacteristics: SQLite's defaults, nothing claimed.
unsafe extern "C" fn zero(_: *mut sys::sqlite3_file) -> c_int {
    0
}
