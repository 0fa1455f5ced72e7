//! For tests of the C contract: a VFS's files called method by method, with the bare codes; and a VFS to stand on
//! that answers what a test tells it to.

use std::cell::UnsafeCell;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};

use libsqlite3_sys as sys;

use super::base::BaseVfs;
use super::engine::register_over;
use super::hooks::VfsHooks;

/// SQLite's numbers, for tests outside the fence.
pub(crate) use libsqlite3_sys::{
    SQLITE_CANTOPEN, SQLITE_ERROR, SQLITE_FCNTL_PRAGMA, SQLITE_FCNTL_VFSNAME, SQLITE_IOCAP_BATCH_ATOMIC,
    SQLITE_IOERR_DELETE_NOENT, SQLITE_IOERR_SHORT_READ, SQLITE_NOTFOUND, SQLITE_OK,
};

fn find(vfs: &str) -> *mut sys::sqlite3_vfs {
    let name = CString::new(vfs).expect("a name");
    // SAFETY: c3ref/vfs_find.html.
    let found = unsafe { sys::sqlite3_vfs_find(name.as_ptr()) };
    assert!(!found.is_null(), "no VFS named {vfs}");
    found
}

/// The limits and the version that a VFS tells SQLite.
pub(crate) fn limits(vfs: &str) -> (i32, i32, i32) {
    // SAFETY: registered VFSes stay.
    let vfs = unsafe { &*find(vfs) };
    (vfs.iVersion, vfs.mxPathname, vfs.szOsFile)
}

/// xDelete's code.
pub(crate) fn delete(vfs: &str, path: &Path) -> i32 {
    let (vfs, name) = (find(vfs), CString::new(path.as_os_str().as_bytes()).expect("a path"));
    // SAFETY: c3ref/vfs.html.
    unsafe { (*vfs).xDelete.expect("xDelete")(vfs, name.as_ptr(), 0) }
}

/// xCurrentTimeInt64's answer, and what xCurrentTime says in the same unit: milliseconds of the Julian day.
pub(crate) fn times(vfs: &str) -> (i64, i64) {
    let (vfs, mut exact, mut days) = (find(vfs), 0, 0.0);
    // SAFETY: c3ref/vfs.html.
    unsafe {
        let method = (*vfs).xCurrentTimeInt64.expect("xCurrentTimeInt64");
        assert_eq!(method(vfs, &raw mut exact), SQLITE_OK);
        assert_eq!((*vfs).xCurrentTime.expect("xCurrentTime")(vfs, &raw mut days), SQLITE_OK);
    }
    #[allow(clippy::cast_possible_truncation)] // some 2e14
    (exact, (days * 86_400_000.0).round() as i64)
}

/// A file opened as SQLite opens a main database, or its WAL. Closes on drop.
pub(crate) struct RawFile {
    file: Box<[UnsafeCell<u64>]>,
    _name: Vec<u8>,
}

impl RawFile {
    /// The code of xOpen and whether it left methods behind, when it failed.
    pub(crate) fn open(vfs: &str, path: &Path) -> Result<RawFile, (i32, bool)> {
        RawFile::open_as(vfs, path, sys::SQLITE_OPEN_MAIN_DB)
    }

    /// The same of a WAL.
    pub(crate) fn open_wal(vfs: &str, path: &Path) -> Result<RawFile, (i32, bool)> {
        RawFile::open_as(vfs, path, sys::SQLITE_OPEN_WAL)
    }

    fn open_as(vfs: &str, path: &Path, kind: i32) -> Result<RawFile, (i32, bool)> {
        let vfs = find(vfs);
        let mut name = vec![0; 4];
        name.extend_from_slice(path.as_os_str().as_bytes());
        name.extend_from_slice(&[0; 4]);
        // SAFETY: a registered VFS; the file has szOsFile bytes, filled with ones to see that xOpen clears it.
        unsafe {
            let words = usize::try_from((*vfs).szOsFile).expect("a size").div_ceil(8);
            let file: Box<[_]> = (0..words).map(|_| UnsafeCell::new(u64::MAX)).collect();
            let opened = RawFile { file, _name: name };
            let mut out = 0;
            let flags = sys::SQLITE_OPEN_READWRITE | sys::SQLITE_OPEN_CREATE | kind;
            let start = opened._name.as_ptr().add(4).cast();
            let rc = (*vfs).xOpen.expect("xOpen")(vfs, start, opened.as_ptr(), flags, &raw mut out);
            if rc == SQLITE_OK { Ok(opened) } else { Err((rc, !(*opened.as_ptr()).pMethods.is_null())) }
        }
    }

    fn as_ptr(&self) -> *mut sys::sqlite3_file {
        UnsafeCell::raw_get(self.file.as_ptr()).cast()
    }

    fn methods(&self) -> &sys::sqlite3_io_methods {
        // SAFETY: set by a successful xOpen.
        unsafe { &*(*self.as_ptr()).pMethods }
    }

    pub(crate) fn version(&self) -> i32 {
        self.methods().iVersion
    }

    pub(crate) fn read(&self, offset: i64, buffer: &mut [u8]) -> i32 {
        let length = c_int::try_from(buffer.len()).expect("a length");
        // SAFETY: io_methods.html, here and below: the file is open, buffers have the length told.
        unsafe {
            self.methods().xRead.expect("xRead")(self.as_ptr(), buffer.as_mut_ptr().cast(), length, offset)
        }
    }

    pub(crate) fn write(&self, offset: i64, bytes: &[u8]) -> i32 {
        let length = c_int::try_from(bytes.len()).expect("a length");
        // SAFETY: as in `read`.
        unsafe {
            self.methods().xWrite.expect("xWrite")(self.as_ptr(), bytes.as_ptr().cast(), length, offset)
        }
    }

    pub(crate) fn truncate(&self, size: i64) -> i32 {
        // SAFETY: as in `read`.
        unsafe { self.methods().xTruncate.expect("xTruncate")(self.as_ptr(), size) }
    }

    pub(crate) fn sync(&self) -> i32 {
        // SAFETY: as in `read`.
        unsafe { self.methods().xSync.expect("xSync")(self.as_ptr(), sys::SQLITE_SYNC_NORMAL) }
    }

    pub(crate) fn lock(&self, level: i32) -> i32 {
        // SAFETY: as in `read`.
        unsafe { self.methods().xLock.expect("xLock")(self.as_ptr(), level) }
    }

    pub(crate) fn unlock(&self, level: i32) -> i32 {
        // SAFETY: as in `read`.
        unsafe { self.methods().xUnlock.expect("xUnlock")(self.as_ptr(), level) }
    }

    /// The code and the answer.
    pub(crate) fn check_reserved(&self) -> (i32, i32) {
        let mut held = -1;
        let method = self.methods().xCheckReservedLock.expect("xCheckReservedLock");
        // SAFETY: as in `read`.
        let rc = unsafe { method(self.as_ptr(), &raw mut held) };
        (rc, held)
    }

    /// The code and the answer.
    pub(crate) fn size(&self) -> (i32, i64) {
        let mut size = -1;
        // SAFETY: as in `read`.
        let rc = unsafe { self.methods().xFileSize.expect("xFileSize")(self.as_ptr(), &raw mut size) };
        (rc, size)
    }

    pub(crate) fn sector_size(&self) -> i32 {
        // SAFETY: as in `read`.
        unsafe { self.methods().xSectorSize.expect("xSectorSize")(self.as_ptr()) }
    }

    pub(crate) fn device_characteristics(&self) -> i32 {
        // SAFETY: as in `read`.
        unsafe { self.methods().xDeviceCharacteristics.expect("a method")(self.as_ptr()) }
    }

    /// The code, and whether there is memory.
    pub(crate) fn shm_map(&self, region: i32, extend: bool) -> (i32, bool) {
        let mut memory: *mut c_void = ptr::null_mut();
        let method = self.methods().xShmMap.expect("xShmMap");
        // SAFETY: as in `read`.
        let rc = unsafe { method(self.as_ptr(), region, 32768, c_int::from(extend), &raw mut memory) };
        (rc, !memory.is_null())
    }

    pub(crate) fn shm_unmap(&self, delete: bool) -> i32 {
        // SAFETY: as in `read`.
        unsafe { self.methods().xShmUnmap.expect("xShmUnmap")(self.as_ptr(), c_int::from(delete)) }
    }

    /// A file control whose argument is an array of strings, the first of them the answer.
    pub(crate) fn control_text(&self, op: i32) -> (i32, String) {
        let mut strings: [*mut c_char; 4] = [ptr::null_mut(); 4];
        let method = self.methods().xFileControl.expect("xFileControl");
        // SAFETY: as in `read`; the answer is NULL or from sqlite3_malloc.
        unsafe {
            let rc = method(self.as_ptr(), op, strings.as_mut_ptr().cast());
            let text = if strings[0].is_null() {
                String::new()
            } else {
                CStr::from_ptr(strings[0]).to_string_lossy().into_owned()
            };
            sys::sqlite3_free(strings[0].cast());
            (rc, text)
        }
    }
}

impl Drop for RawFile {
    fn drop(&mut self) {
        // SAFETY: pMethods is NULL after a failed open, else the file is closed once.
        unsafe {
            if let Some(methods) = (*self.as_ptr()).pMethods.as_ref() {
                methods.xClose.expect("xClose")(self.as_ptr());
            }
        }
    }
}

/// Runs `child` in a forked child; true if it did.
pub(crate) fn in_forked_child(child: impl FnOnce() -> bool) -> bool {
    // SAFETY: the callers' `child` takes no lock and allocates nothing that another thread could hold.
    unsafe {
        let pid = libc::fork();
        if pid == 0 {
            libc::_exit(i32::from(!child()));
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(pid, &raw mut status, 0), pid);
        status == 0
    }
}

/// What every fallible method of a file on the odd VFS answers instead of calling unix; 0: unix's answer.
pub(crate) static ODD_CODE: AtomicI32 = AtomicI32::new(0);
pub(crate) const ODD_SECTOR: i32 = 8192;
pub(crate) const ODD_PATHNAME: i32 = 777;

static UNIX: OnceLock<(usize, sys::sqlite3_io_methods)> = OnceLock::new();
static ODD_METHODS: OnceLock<sys::sqlite3_io_methods> = OnceLock::new();

/// Registers `name` with `hooks` over a VFS that is unix with limits and capabilities of its own, and with
/// the codes of [`ODD_CODE`].
pub(crate) fn register_over_odd(name: &str, hooks: Arc<dyn VfsHooks>) {
    let unix = find("unix");
    // SAFETY: a copy of plain data; leaked, as a registered VFS must be.
    let odd = unsafe {
        let mut odd = *unix;
        odd.zName = c"odd".as_ptr();
        odd.mxPathname = ODD_PATHNAME;
        odd.xOpen = Some(odd_open);
        odd.pNext = ptr::null_mut();
        Box::leak(Box::new(odd))
    };
    // SAFETY: it stays for ever and needs no registration, as nobody looks it up.
    register_over(unsafe { BaseVfs::new(NonNull::from(odd)) }, name, hooks);
}

/// # Safety
/// As sqlite3_vfs.xOpen.
unsafe extern "C" fn odd_open(
    _: *mut sys::sqlite3_vfs,
    name: *const c_char,
    file: *mut sys::sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    let unix = find("unix");
    // SAFETY: by contract; the methods of all unix files on one system are the same table.
    unsafe {
        let rc = (*unix).xOpen.expect("xOpen")(unix, name, file, flags, out);
        if rc == SQLITE_OK {
            let (_, below) = UNIX.get_or_init(|| ((*file).pMethods as usize, *(*file).pMethods));
            let odd = ODD_METHODS.get_or_init(|| sys::sqlite3_io_methods {
                xRead: Some(odd_read),
                xWrite: Some(odd_write),
                xTruncate: Some(odd_truncate),
                xSync: Some(odd_sync),
                xFileSize: Some(odd_file_size),
                xLock: Some(odd_lock),
                xUnlock: Some(odd_unlock),
                xSectorSize: Some(odd_sector_size),
                xDeviceCharacteristics: Some(odd_device_characteristics),
                ..*below
            });
            (*file).pMethods = odd;
        }
        rc
    }
}

fn unix_methods() -> &'static sys::sqlite3_io_methods {
    &UNIX.get().expect("a file is open").1
}

fn odd_code() -> Option<c_int> {
    Some(ODD_CODE.load(Ordering::SeqCst)).filter(|&code| code != 0)
}

unsafe extern "C" fn odd_read(
    file: *mut sys::sqlite3_file,
    to: *mut c_void,
    length: c_int,
    offset: i64,
) -> c_int {
    // SAFETY: as io_methods.xRead.
    odd_code().unwrap_or_else(|| unsafe { unix_methods().xRead.expect("xRead")(file, to, length, offset) })
}

unsafe extern "C" fn odd_write(
    file: *mut sys::sqlite3_file,
    of: *const c_void,
    length: c_int,
    at: i64,
) -> c_int {
    // SAFETY: as io_methods.xWrite.
    odd_code().unwrap_or_else(|| unsafe { unix_methods().xWrite.expect("xWrite")(file, of, length, at) })
}

unsafe extern "C" fn odd_truncate(file: *mut sys::sqlite3_file, size: i64) -> c_int {
    // SAFETY: as io_methods.xTruncate.
    odd_code().unwrap_or_else(|| unsafe { unix_methods().xTruncate.expect("xTruncate")(file, size) })
}

unsafe extern "C" fn odd_sync(file: *mut sys::sqlite3_file, flags: c_int) -> c_int {
    // SAFETY: as io_methods.xSync.
    odd_code().unwrap_or_else(|| unsafe { unix_methods().xSync.expect("xSync")(file, flags) })
}

unsafe extern "C" fn odd_file_size(file: *mut sys::sqlite3_file, size: *mut i64) -> c_int {
    // SAFETY: as io_methods.xFileSize.
    odd_code().unwrap_or_else(|| unsafe { unix_methods().xFileSize.expect("xFileSize")(file, size) })
}

unsafe extern "C" fn odd_lock(file: *mut sys::sqlite3_file, level: c_int) -> c_int {
    // SAFETY: as io_methods.xLock.
    odd_code().unwrap_or_else(|| unsafe { unix_methods().xLock.expect("xLock")(file, level) })
}

unsafe extern "C" fn odd_unlock(file: *mut sys::sqlite3_file, level: c_int) -> c_int {
    // SAFETY: as io_methods.xUnlock.
    odd_code().unwrap_or_else(|| unsafe { unix_methods().xUnlock.expect("xUnlock")(file, level) })
}

unsafe extern "C" fn odd_sector_size(_: *mut sys::sqlite3_file) -> c_int {
    ODD_SECTOR
}

unsafe extern "C" fn odd_device_characteristics(_: *mut sys::sqlite3_file) -> c_int {
    sys::SQLITE_IOCAP_BATCH_ATOMIC | sys::SQLITE_IOCAP_SAFE_APPEND
}
