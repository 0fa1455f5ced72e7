//! The SQLite that is linked into the command line and the tests, as safe Rust.
//!
//! The shared library must not reach this file: it would then carry a SQLite of its own.

use std::ffi::{CStr, CString, c_int};
use std::ptr;
use std::sync::Arc;

use libsqlite3_sys as sys;

use super::base::BaseVfs;
use super::entry::linked_init;
use super::hooks::VfsHooks;
use super::library::Library;
use super::sql::{Connection, Value, bytes};
use super::vfs::Registration;
use crate::error::{Error, Kind, Result};

impl Library {
    /// The linked library, with everything registered that loading the extension registers.
    pub(super) fn linked() -> &'static Library {
        // SAFETY: c3ref/auto_extension.html; registering twice is harmless; the function never goes away.
        unsafe { sys::sqlite3_auto_extension(Some(linked_init)) };
        if Library::all().next().is_none() {
            // The first connection runs the entry point.
            drop(Engine::open_raw(":memory:", None).expect("BUG: the linked SQLite loads the extension"));
        }
        Library::all().next().expect("BUG: the first connection has registered the library")
    }
}

/// Registers a further VFS over the linked library's default one, with hooks of its own. For the command line
/// and tests; the name must be new to the process. It stays for ever.
pub fn register_vfs(name: &str, hooks: Arc<dyn VfsHooks>) {
    let library = Library::linked();
    register_over(library.base(), name, hooks);
}

/// The same over another VFS than the default.
pub(super) fn register_over(base: BaseVfs, name: &str, hooks: Arc<dyn VfsHooks>) {
    let vfs = Registration::new(Library::linked(), base, name, &format!("{name}-default"), hooks);
    vfs.register().expect("BUG: a complete VFS registers");
}

/// A connection of the linked SQLite, with our extension loaded. Closes on drop.
pub struct Engine {
    db: *mut sys::sqlite3,
}

// SAFETY: the linked SQLite is built with SQLITE_THREADSAFE=1, and opened in serialized mode.
unsafe impl Send for Engine {}

impl Engine {
    /// Opens a path or a `file:` URI, creating the file unless the URI says otherwise. `vfs` names the VFS.
    ///
    /// # Errors
    /// `Io` with SQLite's text.
    pub fn open(name: &str, vfs: Option<&str>) -> Result<Engine> {
        Library::linked();
        Engine::open_raw(name, vfs)
    }

    fn open_raw(name: &str, vfs: Option<&str>) -> Result<Engine> {
        let c_name = CString::new(name).map_err(|_| Error::invalid("a database name holds a zero byte"))?;
        let c_vfs =
            vfs.map(CString::new).transpose().map_err(|_| Error::invalid("a VFS name holds a zero byte"))?;
        let flags = sys::SQLITE_OPEN_READWRITE
            | sys::SQLITE_OPEN_CREATE
            | sys::SQLITE_OPEN_URI
            | sys::SQLITE_OPEN_FULLMUTEX
            | sys::SQLITE_OPEN_EXRESCODE;
        let mut db: *mut sys::sqlite3 = ptr::null_mut();
        // SAFETY: c3ref/open.html; a handle is closed even when the open failed.
        let rc = unsafe {
            let vfs = c_vfs.as_ref().map_or(ptr::null(), |vfs| vfs.as_ptr());
            sys::sqlite3_open_v2(c_name.as_ptr(), &raw mut db, flags, vfs)
        };
        let engine = Engine { db };
        if rc == sys::SQLITE_OK { Ok(engine) } else { Err(engine.fault(rc, &format!("open {name}"))) }
    }

    fn fault(&self, rc: c_int, what: &str) -> Error {
        // SAFETY: c3ref/errcode.html; copied at once. A NULL handle answers "out of memory".
        let text = unsafe { CStr::from_ptr(sys::sqlite3_errmsg(self.db)) }.to_string_lossy();
        let kind = if rc & 0xff == sys::SQLITE_BUSY { Kind::Busy } else { Kind::Io };
        Error::new(kind, format!("cannot {what}: {text} (code {rc})"))
    }

    /// The extended code of the last call.
    #[must_use]
    pub fn code(&self) -> i32 {
        // SAFETY: c3ref/errcode.html.
        unsafe { sys::sqlite3_extended_errcode(self.db) }
    }

    /// Runs statements, rows thrown away.
    ///
    /// # Errors
    /// `Busy`, or `Io` with SQLite's text and code.
    pub fn exec(&self, sql: &str) -> Result<()> {
        let c_sql = CString::new(sql).map_err(|_| Error::invalid("SQL holds a zero byte"))?;
        // SAFETY: c3ref/exec.html, without callback and message.
        let rc =
            unsafe { sys::sqlite3_exec(self.db, c_sql.as_ptr(), None, ptr::null_mut(), ptr::null_mut()) };
        if rc == sys::SQLITE_OK { Ok(()) } else { Err(self.fault(rc, &format!("run {sql:.200}"))) }
    }

    /// Runs one statement and takes all its rows.
    ///
    /// # Errors
    /// As `exec`.
    pub fn query(&self, sql: &str) -> Result<Vec<Vec<Value>>> {
        let c_sql = CString::new(sql).map_err(|_| Error::invalid("SQL holds a zero byte"))?;
        let mut statement: *mut sys::sqlite3_stmt = ptr::null_mut();
        let mut rows = Vec::new();
        // SAFETY: c3ref/prepare.html; finalized once, whose answer repeats the last error.
        let rc = unsafe {
            let rc =
                sys::sqlite3_prepare_v2(self.db, c_sql.as_ptr(), -1, &raw mut statement, ptr::null_mut());
            if rc == sys::SQLITE_OK {
                while sys::sqlite3_step(statement) == sys::SQLITE_ROW {
                    let columns = sys::sqlite3_column_count(statement);
                    rows.push((0..columns).map(|column| column_value(statement, column)).collect());
                }
                sys::sqlite3_finalize(statement)
            } else {
                rc
            }
        };
        if rc == sys::SQLITE_OK { Ok(rows) } else { Err(self.fault(rc, &format!("run {sql:.200}"))) }
    }

    /// The one value of a statement that answers one row of one column; `Null` without a row.
    ///
    /// # Errors
    /// As `exec`.
    pub fn value(&self, sql: &str) -> Result<Value> {
        Ok(self.query(sql)?.into_iter().flatten().next().unwrap_or(Value::Null))
    }

    /// What a function called on this connection would get.
    #[must_use]
    pub fn connection(&self) -> Connection<'_> {
        // SAFETY: open until drop, and serialized by SQLite's own mutex.
        unsafe { Connection::new(self.db, Library::linked()) }
    }

    /// The committed pages of a schema one after the other, read in one transaction; none of an empty database.
    ///
    /// # Errors
    /// As `exec`.
    pub fn image(&self, schema: &str) -> Result<Vec<u8>> {
        if self.value(&format!("PRAGMA {schema}.page_count"))? == Value::Integer(0) {
            return Ok(Vec::new()); // SQLite would give it a first page
        }
        let c_schema = CString::new(schema).map_err(|_| Error::invalid("a schema holds a zero byte"))?;
        let mut size = 0;
        // SAFETY: c3ref/serialize.html; copied and freed at once.
        unsafe {
            let image = sys::sqlite3_serialize(self.db, c_schema.as_ptr(), &raw mut size, 0);
            if image.is_null() {
                return Err(self.fault(sys::sqlite3_errcode(self.db), &format!("read {schema}")));
            }
            let copy = std::slice::from_raw_parts(image, usize::try_from(size).unwrap_or(0)).to_vec();
            sys::sqlite3_free(image.cast());
            Ok(copy)
        }
    }

    /// No transaction was begun by hand.
    #[must_use]
    pub fn is_autocommit(&self) -> bool {
        // SAFETY: c3ref/get_autocommit.html.
        unsafe { sys::sqlite3_get_autocommit(self.db) != 0 }
    }

    /// Replaces main by the main of another connection, page by page, with SQLite's backup interface.
    ///
    /// # Errors
    /// As `exec`; main is unchanged.
    pub fn copy_from(&self, source: &Engine) -> Result<()> {
        // SAFETY: c3ref/backup_finish.html; finished at once, whatever the step answered.
        let rc = unsafe {
            let main = c"main".as_ptr();
            let backup = sys::sqlite3_backup_init(self.db, main, source.db, main);
            if backup.is_null() {
                sys::sqlite3_errcode(self.db)
            } else {
                let step = sys::sqlite3_backup_step(backup, -1);
                let end = sys::sqlite3_backup_finish(backup);
                if step == sys::SQLITE_DONE { end } else { step }
            }
        };
        if rc == sys::SQLITE_OK { Ok(()) } else { Err(self.fault(rc, "copy a database")) }
    }

    /// How long a statement waits for locks; 0 not at all.
    pub fn busy_timeout(&self, milliseconds: i32) {
        // SAFETY: c3ref/busy_timeout.html; it cannot fail on an open handle.
        unsafe { sys::sqlite3_busy_timeout(self.db, milliseconds) };
    }
}

/// # Safety
/// A row of `statement` is at hand.
unsafe fn column_value(statement: *mut sys::sqlite3_stmt, column: c_int) -> Value {
    // SAFETY: c3ref/column_blob.html: pointer first, then length, copied at once.
    unsafe {
        match sys::sqlite3_column_type(statement, column) {
            sys::SQLITE_INTEGER => Value::Integer(sys::sqlite3_column_int64(statement, column)),
            sys::SQLITE_FLOAT => Value::Real(sys::sqlite3_column_double(statement, column)),
            sys::SQLITE_TEXT => {
                let text = sys::sqlite3_column_text(statement, column);
                let text = bytes(text, sys::sqlite3_column_bytes(statement, column));
                Value::Text(String::from_utf8_lossy(text).into_owned())
            }
            sys::SQLITE_BLOB => {
                let blob = sys::sqlite3_column_blob(statement, column).cast();
                Value::Blob(bytes(blob, sys::sqlite3_column_bytes(statement, column)).to_vec())
            }
            _ => Value::Null,
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // SAFETY: c3ref/close.html; every statement has been finalized. NULL is harmless.
        unsafe { sys::sqlite3_close(self.db) };
    }
}
