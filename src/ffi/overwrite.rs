//! Overwrites a database that is open, also in other processes, with the content of another file: one transaction of a
//! connection of our own, under SQLite's locks.
//!
//! The connection goes to the base VFS: for the rest of the crate this is a commit of another program, which is found as
//! each of those is. SQLite's backup writes every page, and counts up the schema cookie of page 1.
//! Source: <https://sqlite.org/c3ref/backup_finish.html>.

use std::ffi::{CStr, CString, c_int};
use std::path::Path;
use std::ptr;
use std::time::Duration;

use libsqlite3_sys as sys;

use super::api::Api;
use super::base::BaseVfs;
use super::library::Library;
use super::sql::{Connection, c_string};
use crate::error::{Error, Kind, Result};

/// The write lock of the target is held, and nothing is written yet. Dropped, everything stays as it is.
pub struct Overwrite {
    api: &'static Api,
    source: Handle,
    target: Handle,
    backup: *mut sys::sqlite3_backup,
}

/// A connection of our own; closes on drop.
struct Handle(&'static Api, *mut sys::sqlite3);

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: c3ref/close.html; opened by `open`, or NULL, which is harmless.
        unsafe { (self.0.close)(self.1) };
    }
}

impl Handle {
    fn open(api: &'static Api, path: &Path, vfs: &CStr) -> Result<Handle> {
        use std::os::unix::ffi::OsStrExt;
        let name = CString::new(path.as_os_str().as_bytes())
            .map_err(|_| Error::invalid(format!("path {} holds a zero byte", path.display())))?;
        let flags = sys::SQLITE_OPEN_READWRITE | sys::SQLITE_OPEN_FULLMUTEX | sys::SQLITE_OPEN_PRIVATECACHE;
        let mut db: *mut sys::sqlite3 = ptr::null_mut();
        // SAFETY: c3ref/open.html; a handle is closed even when the open failed.
        let rc = unsafe { (api.open_v2)(name.as_ptr(), &raw mut db, flags, vfs.as_ptr()) };
        let handle = Handle(api, db);
        if rc == sys::SQLITE_OK {
            Ok(handle)
        } else {
            Err(handle.fault(rc, &format!("open {}", path.display())))
        }
    }

    fn fault(&self, rc: c_int, what: &str) -> Error {
        // SAFETY: c3ref/errcode.html; copied at once. A NULL handle answers "out of memory".
        let text = unsafe { CStr::from_ptr((self.0.errmsg)(self.1)) }.to_string_lossy();
        let kind = match rc & 0xff {
            sys::SQLITE_BUSY | sys::SQLITE_LOCKED => Kind::Busy,
            sys::SQLITE_FULL => Kind::Full,
            _ => Kind::Io,
        };
        Error::new(kind, format!("cannot {what}: {text} (code {rc})"))
    }
}

impl Overwrite {
    /// Takes the write lock of `target`, which is to become what `source` holds. Waits at most `wait` for each lock.
    ///
    /// # Errors
    /// `Busy` while another connection writes, or, in a rollback mode, reads; `Io` with SQLite's text.
    pub fn begin(
        connection: &Connection<'_>,
        target: &Path,
        source: &Path,
        wait: Duration,
    ) -> Result<Overwrite> {
        Overwrite::begin_in(connection.library, target, source, wait)
    }

    /// The same in the SQLite whose VFS is `base`: another one in this process would not know of its locks.
    ///
    /// # Errors
    /// As [`Overwrite::begin`].
    pub fn begin_below(base: BaseVfs, target: &Path, source: &Path, wait: Duration) -> Result<Overwrite> {
        let library = Library::all().find(|library| library.base().as_ptr() == base.as_ptr());
        Overwrite::begin_in(library.expect("BUG: a VFS of no library"), target, source, wait)
    }

    fn begin_in(
        library: &'static Library,
        target: &Path,
        source: &Path,
        wait: Duration,
    ) -> Result<Overwrite> {
        let (api, vfs) = (library.api(), c_string(&library.base().name())?);
        let source = Handle::open(api, source, &vfs)?;
        let target = Handle::open(api, target, &vfs)?;
        let wait = c_int::try_from(wait.as_millis()).unwrap_or(c_int::MAX);
        // SAFETY: both connections are open and ours; a NULL backup leaves its error with the target.
        let backup = unsafe {
            (api.busy_timeout)(target.1, wait);
            (api.backup_init)(target.1, c"main".as_ptr(), source.1, c"main".as_ptr())
        };
        if backup.is_null() {
            return Err(target.fault(sys::SQLITE_ERROR, "begin to overwrite the database"));
        }
        let overwrite = Overwrite { api, source, target, backup };
        // The transaction of the target begins with the first page and stays until the last.
        overwrite.step(0)?;
        Ok(overwrite)
    }

    /// Writes everything and commits.
    ///
    /// # Errors
    /// As SQLite says; nothing is changed then.
    pub fn commit(mut self) -> Result<()> {
        let stepped = self.step(-1);
        // SAFETY: finished once; what is not complete is rolled back.
        let rc = unsafe { (self.api.backup_finish)(std::mem::replace(&mut self.backup, ptr::null_mut())) };
        stepped?;
        if rc == sys::SQLITE_OK { Ok(()) } else { Err(self.target.fault(rc, "overwrite the database")) }
    }

    fn step(&self, pages: c_int) -> Result<()> {
        // SAFETY: the backup is under way.
        match unsafe { (self.api.backup_step)(self.backup, pages) } {
            sys::SQLITE_OK | sys::SQLITE_DONE => Ok(()),
            // A backup keeps its errors to itself until it is finished.
            rc if matches!(rc & 0xff, sys::SQLITE_BUSY | sys::SQLITE_LOCKED) => Err(Error::busy(format!(
                "cannot overwrite the database: another connection has it locked (code {rc})"
            ))),
            rc => Err(self.target.fault(rc, "overwrite the database")),
        }
    }
}

impl Drop for Overwrite {
    fn drop(&mut self) {
        if !self.backup.is_null() {
            // SAFETY: finished once; it rolls back. The connections close after it.
            unsafe { (self.api.backup_finish)(self.backup) };
        }
        let _ = &self.source;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ffi::engine::Engine;
    use crate::ffi::sql::Value;
    use crate::testing::Folder;

    #[test]
    fn open_database_becomes_the_other_one_and_is_locked_from_the_beginning() {
        for journal in ["delete", "wal"] {
            let folder = Folder::new();
            let path = |name| folder.path().join(name);
            let open = |name| Engine::open(path(name).to_str().expect("utf-8"), None).expect("open");
            let (old, new) = (open("old"), open("new"));
            for (engine, value) in [(&old, 1), (&new, 2)] {
                engine.exec(&format!("PRAGMA journal_mode={journal}")).expect("journal");
                engine.exec(&format!("CREATE TABLE t(x); INSERT INTO t VALUES ({value})")).expect("fill");
            }
            drop(new);
            let begin = || {
                let wait = Duration::from_millis(10);
                Overwrite::begin(&old.connection(), &path("old"), &path("new"), wait)
            };
            let pending = begin().expect("begin");
            let error = old.exec("INSERT INTO t VALUES (3)").expect_err("locked");
            assert_eq!(error.kind(), Kind::Busy, "{error}");
            drop(pending);
            assert_eq!(old.value("SELECT x FROM t").expect("read"), Value::Integer(1));
            old.exec("BEGIN IMMEDIATE").expect("write lock");
            assert_eq!(begin().err().expect("must fail").kind(), Kind::Busy);
            old.exec("ROLLBACK").expect("rollback");
            begin().expect("begin").commit().expect("commit");
            assert_eq!(old.value("SELECT x FROM t").expect("read"), Value::Integer(2));
        }
    }
}
