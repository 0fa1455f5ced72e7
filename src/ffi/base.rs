//! What lies below us: SQLite's own VFS, and files that we open through it.
//!
//! Opening and closing a database file with the operating system's calls drops every POSIX lock that this
//! process holds on it. [`BaseFile`] goes through the base VFS, which knows of that; use it for all reads of a
//! database file. Source: <https://sqlite.org/howtocorrupt.html#_posix_advisory_locks_canceled_by_a_separate_thread_doing_close_>.

use std::cell::UnsafeCell;
use std::ffi::{CStr, OsStr, OsString, c_char, c_int, c_void};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;

use libsqlite3_sys as sys;

use super::{code, os};
use crate::error::{Error, Result};

/// SQLite never asks a VFS for more than a page at once, and the built-in ones assert less than twice this.
const READ_BYTES_MAX: usize = 65536;

/// The VFS that replvfs stands on. Cheap to copy; valid for the life of the process.
#[derive(Clone, Copy, Debug)]
pub struct BaseVfs(NonNull<sys::sqlite3_vfs>);

// SAFETY: a registered sqlite3_vfs is called by SQLite from every thread (c3ref/vfs.html), never written after.
unsafe impl Send for BaseVfs {}
// SAFETY: as above.
unsafe impl Sync for BaseVfs {}

impl BaseVfs {
    /// # Safety
    /// `vfs` is registered with its SQLite library and stays so for the life of the process.
    pub(super) unsafe fn new(vfs: NonNull<sys::sqlite3_vfs>) -> BaseVfs {
        BaseVfs(vfs)
    }

    /// The default VFS of the SQLite linked into this program: for the command line and tests. The shared
    /// library must not reach this function, else it would carry a SQLite of its own.
    #[must_use]
    pub fn linked() -> BaseVfs {
        // SAFETY: vfs_find initialises the library; its built-in VFS live for ever.
        let found = unsafe { sys::sqlite3_vfs_find(std::ptr::null()) };
        BaseVfs(NonNull::new(found).expect("BUG: the linked SQLite has a default VFS"))
    }

    pub(super) fn as_ptr(self) -> *mut sys::sqlite3_vfs {
        self.0.as_ptr()
    }

    fn raw(&self) -> &sys::sqlite3_vfs {
        // SAFETY: registered for the life of the process; SQLite changes only pNext, which is not read here.
        unsafe { self.0.as_ref() }
    }

    /// Opens an existing database file for reading, or for reading and locking (locks need `read_only` false).
    ///
    /// # Errors
    /// `NotFound`, `Io`, ... as the base answers.
    pub fn open(&self, path: &Path, read_only: bool) -> Result<BaseFile> {
        BaseFile::open(*self, path, read_only)
    }

    /// The absolute path, symlinks resolved where the base does so.
    ///
    /// # Errors
    /// `Io` when the base cannot tell.
    pub fn full_pathname(&self, path: &Path) -> Result<PathBuf> {
        let name = c_name(path)?;
        let mut out = vec![0u8; usize::try_from(self.raw().mxPathname).unwrap_or(0) + 1];
        let method = self.raw().xFullPathname.expect("BUG: a VFS has xFullPathname");
        // SAFETY: name is NUL-terminated, out has the length that is told (c3ref/vfs.html).
        let rc = unsafe {
            method(self.as_ptr(), name.as_ptr().cast(), out.len() as c_int, out.as_mut_ptr().cast())
        };
        // SQLITE_OK_SYMLINK is a success too.
        if rc & 0xff != sys::SQLITE_OK {
            return Err(self.fault(rc, "resolve", path));
        }
        out.truncate(out.iter().position(|&byte| byte == 0).unwrap_or(0));
        Ok(PathBuf::from(OsString::from_vec(out)))
    }

    /// Deletes a file. `sync_dir`: the folder is fsynced too.
    ///
    /// # Errors
    /// `NotFound` when it is not there.
    pub fn delete(&self, path: &Path, sync_dir: bool) -> Result<()> {
        let name = c_name(path)?;
        let method = self.raw().xDelete.expect("BUG: a VFS has xDelete");
        // SAFETY: name is NUL-terminated (c3ref/vfs.html).
        let rc = unsafe { method(self.as_ptr(), name.as_ptr().cast(), c_int::from(sync_dir)) };
        if rc == sys::SQLITE_IOERR_DELETE_NOENT {
            return Err(Error::not_found(format!("cannot delete {}: no such file", path.display())));
        }
        if rc == sys::SQLITE_OK { Ok(()) } else { Err(self.fault(rc, "delete", path)) }
    }

    /// The name it is registered under, as `unix`.
    #[must_use]
    pub fn name(&self) -> String {
        // SAFETY: zName is a NUL-terminated string that lives as long as the VFS.
        unsafe { CStr::from_ptr(self.raw().zName) }.to_string_lossy().into_owned()
    }

    fn fault(&self, rc: c_int, verb: &str, path: &Path) -> Error {
        let errno = match self.raw().xGetLastError {
            // SAFETY: a NULL buffer of length 0 asks for the number alone, as sqlite3_system_errno does.
            Some(method) => unsafe { method(self.as_ptr(), 0, std::ptr::null_mut()) },
            None => 0,
        };
        code::fault(rc, errno, verb, path)
    }
}

/// A path as C wants it, with room around it: 4 zero bytes before, several after. SQLite looks for URI
/// parameters and for the database's name in those places (sqlite3_create_filename).
fn padded_name(path: &Path) -> Result<Vec<u8>> {
    let bytes = path.as_os_str().as_bytes();
    if bytes.contains(&0) {
        return Err(Error::invalid(format!("path {} holds a zero byte", path.display())));
    }
    let mut name = vec![0; 4];
    name.extend_from_slice(bytes);
    name.extend_from_slice(&[0; 4]);
    Ok(name)
}

fn c_name(path: &Path) -> Result<Vec<u8>> {
    Ok(padded_name(path)?.split_off(4))
}

/// A database file opened by us through the base VFS, beside SQLite's own connections. Closes on drop.
pub struct BaseFile {
    /// The memory of the C file: `szOsFile` bytes, 8-aligned, never moved.
    file: Box<[UnsafeCell<u64>]>,
    /// The base keeps a pointer into it.
    _name: Vec<u8>,
    vfs: BaseVfs,
    path: PathBuf,
}

// SAFETY: a sqlite3_file may be used by any thread, one at a time (io_methods.html); BaseFile is not Sync.
unsafe impl Send for BaseFile {}

impl BaseFile {
    fn open(vfs: BaseVfs, path: &Path, read_only: bool) -> Result<BaseFile> {
        let words = usize::try_from(vfs.raw().szOsFile).unwrap_or(0).div_ceil(8).max(1);
        let name = padded_name(path)?;
        let file: Box<[UnsafeCell<u64>]> = (0..words).map(|_| UnsafeCell::new(0)).collect();
        let access = if read_only { sys::SQLITE_OPEN_READONLY } else { sys::SQLITE_OPEN_READWRITE };
        let mut granted: c_int = 0;
        let method = vfs.raw().xOpen.expect("BUG: a VFS has xOpen");
        // SAFETY: name is laid out as for a main database and outlives the file; the file has szOsFile bytes.
        let rc = unsafe {
            let name = name.as_ptr().add(4).cast::<c_char>();
            let file = UnsafeCell::raw_get(file.as_ptr()).cast::<sys::sqlite3_file>();
            let _calling = os::not_during_fork();
            method(vfs.as_ptr(), name, file, access | sys::SQLITE_OPEN_MAIN_DB, &raw mut granted)
        };
        let mut opened = BaseFile { file, _name: name, vfs, path: path.to_owned() };
        if rc != sys::SQLITE_OK {
            let error = vfs.fault(rc, "open", path);
            drop(opened);
            return Err(error);
        }
        if !read_only && granted & sys::SQLITE_OPEN_READONLY != 0 {
            opened.close();
            return Err(Error::new(crate::error::Kind::Io, format!("{} is read-only", path.display())));
        }
        Ok(opened)
    }

    /// Another handle for reading, for another thread.
    ///
    /// # Errors
    /// As [`BaseVfs::open`].
    pub fn another(&self) -> Result<BaseFile> {
        BaseFile::open(self.vfs, &self.path, true)
    }

    fn as_ptr(&self) -> *mut sys::sqlite3_file {
        UnsafeCell::raw_get(self.file.as_ptr()).cast()
    }

    /// Reads at `offset`; returns how many bytes are in the file. The rest of `buffer` is zeroed.
    ///
    /// # Errors
    /// `Io`.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        // SAFETY: the file is open until drop, and used by this thread alone (not Sync).
        unsafe { read_file(self.as_ptr(), offset, buffer) }
            .map_err(|rc| self.vfs.fault(rc, "read", &self.path))
    }

    /// Writes at `offset`. Only under SQLite's EXCLUSIVE lock.
    ///
    /// # Errors
    /// `Full`, `Io`.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let method = self.methods().xWrite.expect("BUG: a file has xWrite");
        for (piece, at) in bytes.chunks(READ_BYTES_MAX).zip((offset..).step_by(READ_BYTES_MAX)) {
            let (Ok(length), Ok(start)) = (c_int::try_from(piece.len()), i64::try_from(at)) else {
                return Err(self.vfs.fault(sys::SQLITE_IOERR_WRITE, "write", &self.path));
            };
            // SAFETY: as in `read`; the piece has `length` bytes.
            let rc = unsafe { method(self.as_ptr(), piece.as_ptr().cast::<c_void>(), length, start) };
            if rc != sys::SQLITE_OK {
                return Err(self.vfs.fault(rc, "write", &self.path));
            }
        }
        Ok(())
    }

    /// Cuts the file to `size` bytes. Only under SQLite's EXCLUSIVE lock.
    ///
    /// # Errors
    /// `Io`.
    pub fn truncate(&self, size: u64) -> Result<()> {
        let method = self.methods().xTruncate.expect("BUG: a file has xTruncate");
        // SAFETY: as in `read`.
        let rc = unsafe { method(self.as_ptr(), i64::try_from(size).unwrap_or(i64::MAX)) };
        if rc == sys::SQLITE_OK { Ok(()) } else { Err(self.vfs.fault(rc, "cut", &self.path)) }
    }

    /// Brings what was written to disk.
    ///
    /// # Errors
    /// `Io`.
    pub fn sync(&self) -> Result<()> {
        let method = self.methods().xSync.expect("BUG: a file has xSync");
        // SAFETY: as in `read`.
        let rc = unsafe { method(self.as_ptr(), sys::SQLITE_SYNC_FULL) };
        if rc == sys::SQLITE_OK { Ok(()) } else { Err(self.vfs.fault(rc, "sync", &self.path)) }
    }

    /// # Errors
    /// `Io`.
    pub fn size(&self) -> Result<u64> {
        // SAFETY: as in `read`.
        unsafe { file_size(self.as_ptr()) }.map_err(|rc| self.vfs.fault(rc, "size", &self.path))
    }

    /// Takes a lock: 1 SHARED first, then 2 RESERVED or 4 EXCLUSIVE. False: another holds it.
    ///
    /// # Errors
    /// `Io`.
    pub fn lock(&self, level: i32) -> Result<bool> {
        let method = self.methods().xLock.expect("BUG: a file has xLock");
        let _calling = os::not_during_fork();
        // SAFETY: as in `read`.
        match unsafe { method(self.as_ptr(), level) } {
            sys::SQLITE_OK => Ok(true),
            rc if rc & 0xff == sys::SQLITE_BUSY => Ok(false),
            rc => Err(self.vfs.fault(rc, "lock", &self.path)),
        }
    }

    /// Goes down to `level`: 1 SHARED or 0 none.
    ///
    /// # Errors
    /// `Io`.
    pub fn unlock(&self, level: i32) -> Result<()> {
        let method = self.methods().xUnlock.expect("BUG: a file has xUnlock");
        let _calling = os::not_during_fork();
        // SAFETY: as in `read`.
        let rc = unsafe { method(self.as_ptr(), level) };
        if rc == sys::SQLITE_OK { Ok(()) } else { Err(self.vfs.fault(rc, "unlock", &self.path)) }
    }

    /// Whether any connection, of any process, holds RESERVED or more.
    ///
    /// # Errors
    /// `Io`.
    pub fn check_reserved(&self) -> Result<bool> {
        let method = self.methods().xCheckReservedLock.expect("BUG: a file has xCheckReservedLock");
        let mut held: c_int = 0;
        let _calling = os::not_during_fork();
        // SAFETY: as in `read`; `held` receives the answer.
        let rc = unsafe { method(self.as_ptr(), &raw mut held) };
        if rc == sys::SQLITE_OK {
            Ok(held != 0)
        } else {
            Err(self.vfs.fault(rc, "check the lock of", &self.path))
        }
    }

    /// Whether the path no longer leads to this file: renamed, replaced or deleted. False where unknown.
    #[must_use]
    pub fn has_moved(&self) -> bool {
        let mut moved: c_int = 0;
        let method = self.methods().xFileControl.expect("BUG: a file has xFileControl");
        // SAFETY: as in `read`; HAS_MOVED writes an int (c3ref/c_fcntl_begin_atomic_write.html).
        let rc = unsafe { method(self.as_ptr(), sys::SQLITE_FCNTL_HAS_MOVED, (&raw mut moved).cast()) };
        rc == sys::SQLITE_OK && moved != 0
    }

    fn methods(&self) -> &sys::sqlite3_io_methods {
        // SAFETY: pMethods is set by a successful xOpen and stays until xClose.
        unsafe { &*(*self.as_ptr()).pMethods }
    }

    fn close(&mut self) {
        let file = self.as_ptr();
        let _calling = os::not_during_fork();
        // SAFETY: pMethods is NULL or valid; cleared here, so that xClose runs once (c3ref/vfs.html, xOpen).
        unsafe {
            if let Some(methods) = (*file).pMethods.as_ref() {
                methods.xClose.expect("BUG: a file has xClose")(file);
                (*file).pMethods = std::ptr::null();
            }
        }
    }
}

impl Drop for BaseFile {
    fn drop(&mut self) {
        self.close();
    }
}

/// # Safety
/// `file` is open and no other thread uses it now.
pub(super) unsafe fn read_file(
    file: *mut sys::sqlite3_file,
    offset: u64,
    buffer: &mut [u8],
) -> std::result::Result<usize, c_int> {
    let mut done = 0;
    for piece in buffer.chunks_mut(READ_BYTES_MAX) {
        let at = offset + done as u64;
        let (Ok(length), Ok(start)) = (c_int::try_from(piece.len()), i64::try_from(at)) else {
            return Err(sys::SQLITE_IOERR_READ);
        };
        // SAFETY: open by contract; the piece has `length` bytes.
        let rc = unsafe {
            let method = (*(*file).pMethods).xRead.expect("BUG: a file has xRead");
            method(file, piece.as_mut_ptr().cast::<c_void>(), length, start)
        };
        match rc {
            sys::SQLITE_OK => done += piece.len(),
            sys::SQLITE_IOERR_SHORT_READ => {
                // SAFETY: open by contract.
                let size = unsafe { file_size(file) }?;
                let there = usize::try_from(size.saturating_sub(at)).unwrap_or(usize::MAX);
                return Ok(done + there.min(piece.len()));
            }
            rc => return Err(rc),
        }
    }
    Ok(done)
}

/// # Safety
/// As for `read_file`.
pub(super) unsafe fn file_size(file: *mut sys::sqlite3_file) -> std::result::Result<u64, c_int> {
    let mut size = 0i64;
    // SAFETY: open by contract; `size` receives the answer.
    let rc = unsafe {
        let method = (*(*file).pMethods).xFileSize.expect("BUG: a file has xFileSize");
        method(file, &raw mut size)
    };
    if rc == sys::SQLITE_OK { Ok(u64::try_from(size).unwrap_or(0)) } else { Err(rc) }
}

/// The bytes of a C string as a path; `None` for NULL.
///
/// # Safety
/// `name` is NULL or NUL-terminated and lives for `'a`.
pub(super) unsafe fn path_of<'a>(name: *const c_char) -> Option<&'a Path> {
    if name.is_null() {
        return None;
    }
    // SAFETY: by contract.
    let bytes = unsafe { CStr::from_ptr(name) }.to_bytes();
    Some(Path::new(OsStr::from_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::testing::Folder;

    #[test]
    fn a_short_read_tells_its_length_and_zeroes_the_rest() {
        let folder = Folder::new();
        let path = folder.path().join("short");
        std::fs::write(&path, b"abcdef").expect("write");
        let file = BaseVfs::linked().open(&path, true).expect("open");
        let mut buffer = [7u8; 8];
        assert_eq!(file.read(2, &mut buffer).expect("read"), 4);
        assert_eq!(&buffer, b"cdef\0\0\0\0");
        assert_eq!(file.read(100, &mut buffer).expect("read past the end"), 0);
        assert_eq!(file.size().expect("size"), 6);
    }

    #[test]
    fn opening_a_missing_file_creates_nothing_and_says_not_found() {
        let folder = Folder::new();
        let path = folder.path().join("missing");
        let error = BaseVfs::linked().open(&path, false).err().expect("must fail");
        assert_eq!(error.kind(), Kind::NotFound, "{error}");
        assert!(!path.exists());
    }

    #[test]
    fn a_reserved_lock_is_seen_by_another_file_and_a_moved_file_knows_it() {
        let folder = Folder::new();
        let path = folder.path().join("locks");
        std::fs::write(&path, [0u8; 512]).expect("write");
        let vfs = BaseVfs::linked();
        let (one, two) = (vfs.open(&path, false).expect("open"), vfs.open(&path, false).expect("open"));
        assert!(one.lock(1).expect("shared") && one.lock(2).expect("reserved"));
        assert!(two.check_reserved().expect("check"));
        assert!(two.lock(1).expect("shared") && !two.lock(2).expect("second reserved"));
        one.unlock(0).expect("unlock");
        assert!(!two.check_reserved().expect("check"));
        assert!(!one.has_moved());
        std::fs::rename(&path, folder.path().join("elsewhere")).expect("rename");
        assert!(one.has_moved());
    }

    #[test]
    fn what_is_written_is_read_back_and_cut() {
        let folder = Folder::new();
        let path = folder.path().join("written");
        std::fs::write(&path, b"abc").expect("write");
        let file = BaseVfs::linked().open(&path, false).expect("open");
        let bytes: Vec<u8> = (0..150_000u32).map(|n| n as u8).collect();
        file.write(2, &bytes).expect("write");
        file.sync().expect("sync");
        let mut found = vec![0; bytes.len()];
        assert_eq!(file.read(2, &mut found).expect("read"), bytes.len());
        assert!(found == bytes);
        file.truncate(2).expect("truncate");
        drop(file);
        assert_eq!(std::fs::read(&path).expect("read"), b"ab");
    }

    #[test]
    fn a_full_path_is_absolute_and_a_second_delete_says_not_found() {
        let folder = Folder::new();
        let vfs = BaseVfs::linked();
        assert!(vfs.full_pathname(Path::new("some.db")).expect("resolve").is_absolute());
        let path = folder.path().join("gone");
        std::fs::write(&path, b"x").expect("write");
        vfs.delete(&path, false).expect("delete");
        assert_eq!(vfs.delete(&path, false).expect_err("must fail").kind(), Kind::NotFound);
    }
}
