//! Where SQLite enters: the two init functions, and the end of every `sqlite3_open` afterwards.
//!
//! `sqlite3_sqlitereplicate_init` is found by the library's own name, `sqlite3_extension_init` by any other.
//! They answer SQLITE_OK_LOAD_PERMANENTLY: the VFS and a worker outlive the connection that loaded them. Nothing
//! is registered before the last check that can refuse. Loading again, from any thread, finds things as they are.
//! Source: <https://sqlite.org/loadext.html>.

use std::ffi::{c_char, c_int};
use std::panic;
use std::path::PathBuf;
use std::ptr;
use std::sync::Once;

use libsqlite3_sys as sys;

use super::base::path_of;
use super::hooks::OpenedConnection;
use super::library::Library;
use super::sql::Connection;
use super::vfs::Registration;
use super::{file_of_main, guard, stats, stub};
use crate::extension;

/// What the composition root decides for this process.
pub struct Settings {
    /// Be the default VFS from the start.
    pub default_vfs: bool,
    /// The name under which the default VFS is registered; only SQLite's own test suite wants another.
    pub default_vfs_name: String,
    /// Append call counts to this file when the process ends.
    pub stats_file: Option<PathBuf>,
    /// Kill the process at that call on a followed file.
    pub kill_at: Option<u64>,
}

/// The entry point under the library's own name.
///
/// # Safety
/// Called by SQLite's extension loader, or with the same arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sqlite3_sqlitereplicate_init(
    db: *mut sys::sqlite3,
    error: *mut *mut c_char,
    table: *const sys::sqlite3_api_routines,
) -> c_int {
    // SAFETY: by contract.
    let code =
        unsafe { enter(db, error, table, sys::SQLITE_OK_LOAD_PERMANENTLY, |db, table| load(db, table)) };
    if code == sys::SQLITE_OK_LOAD_PERMANENTLY {
        log_panics();
    }
    code
}

/// A panic of ours is a line in the application's sqlite3_log, not on its stderr. A shared library has a std of
/// its own, so the hook of a host written in Rust is not touched.
fn log_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        panic::set_hook(Box::new(|info| {
            stats::count(stats::Method::Panic);
            if let Some(library) = Library::all().next() {
                let line = info.to_string().replace('\n', " ");
                library.api().write_log(sys::SQLITE_INTERNAL, &format!("sqlitereplicate: {line}"));
            }
        }));
    });
}

/// The entry point of a renamed library.
///
/// # Safety
/// As [`sqlite3_sqlitereplicate_init`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sqlite3_extension_init(
    db: *mut sys::sqlite3,
    error: *mut *mut c_char,
    table: *const sys::sqlite3_api_routines,
) -> c_int {
    // SAFETY: by contract.
    unsafe { sqlite3_sqlitereplicate_init(db, error, table) }
}

/// The same for a SQLite that is linked to us: an automatic extension that answers anything but 0 fails the open.
///
/// # Safety
/// As [`sqlite3_sqlitereplicate_init`].
pub(super) unsafe extern "C" fn linked_init(
    db: *mut sys::sqlite3,
    error: *mut *mut c_char,
    table: *const sys::sqlite3_api_routines,
) -> c_int {
    // SAFETY: by contract.
    unsafe { enter(db, error, table, sys::SQLITE_OK, |db, table| load(db, table)) }
}

/// The automatic extension: every connection opened after the first load ends here.
///
/// # Safety
/// Called by SQLite at the end of `sqlite3_open`, with the table that [`Library::load`] has seen.
unsafe extern "C" fn on_connection(
    db: *mut sys::sqlite3,
    error: *mut *mut c_char,
    table: *const sys::sqlite3_api_routines,
) -> c_int {
    // SAFETY: by contract.
    unsafe { enter(db, error, table, sys::SQLITE_OK, |db, table| check_connection(db, table)) }
}

/// Runs `body` where neither an error nor a panic can leave; its text goes to SQLite.
///
/// # Safety
/// The arguments come from SQLite.
unsafe fn enter(
    db: *mut sys::sqlite3,
    error: *mut *mut c_char,
    table: *const sys::sqlite3_api_routines,
    success: c_int,
    body: unsafe fn(*mut sys::sqlite3, *const sys::sqlite3_api_routines) -> Result<(), String>,
) -> c_int {
    // SAFETY: by contract.
    match guard::catch(|| unsafe { body(db, table) }).unwrap_or_else(Err) {
        Ok(()) => success,
        Err(text) => {
            // SAFETY: by contract.
            unsafe { answer_error(error, table, &format!("sqlitereplicate: {text}")) };
            sys::SQLITE_CANTOPEN
        }
    }
}

/// Puts `text` where SQLite takes an error message from, also in hosts whose table we refused.
///
/// # Safety
/// The arguments come from SQLite.
unsafe fn answer_error(error: *mut *mut c_char, table: *const sys::sqlite3_api_routines, text: &str) {
    // sqlite3_malloc is at place 68 in every table since loadable extensions exist.
    const MALLOC: usize = 68;
    if error.is_null() || table.is_null() {
        return;
    }
    // SAFETY: by contract; the copy has room for the text and its NUL.
    unsafe {
        let slots = table.cast::<Option<unsafe extern "C" fn(c_int) -> *mut std::ffi::c_void>>();
        let (Some(malloc), Ok(length)) = (*slots.add(MALLOC), c_int::try_from(text.len() + 1)) else {
            return;
        };
        let copy = malloc(length).cast::<u8>();
        if copy.is_null() {
            return;
        }
        ptr::copy_nonoverlapping(text.as_ptr(), copy, text.len());
        *copy.add(text.len()) = 0;
        *error = copy.cast();
    }
}

/// # Safety
/// The arguments come from SQLite.
unsafe fn load(db: *mut sys::sqlite3, table: *const sys::sqlite3_api_routines) -> Result<(), String> {
    let settings = extension::settings()?;
    // SAFETY: by contract.
    let library =
        unsafe { Library::load(table, &settings.default_vfs_name, extension::vfs_hooks, on_connection) }?;
    if let Some(file) = settings.stats_file {
        stats::write_at_exit(file);
    }
    if let Some(calls) = settings.kill_at {
        stats::kill_at(calls);
    }
    if let (true, Some(vfs)) = (settings.default_vfs, library.vfs()) {
        vfs.make_default()?;
    }
    // SAFETY: the connection that loads us, of this library, is in use by this thread.
    let connection = unsafe { Connection::new(db, library) };
    extension::register_sql(&connection).map_err(|e| e.to_string())
}

/// # Safety
/// The arguments come from SQLite.
unsafe fn check_connection(
    db: *mut sys::sqlite3,
    table: *const sys::sqlite3_api_routines,
) -> Result<(), String> {
    let Some(library) = Library::known(table) else { return Ok(()) };
    // SAFETY: by contract, as in `load`; the main file is open or NULL while its connection opens.
    unsafe {
        if let Some(text) = stub::text_of(file_of_main(library.api(), db, c"main")) {
            return Err(text.to_owned());
        }
        let connection = Connection::new(db, library);
        extension::register_sql(&connection).map_err(|e| e.to_string())?;
        let mut used: *mut sys::sqlite3_vfs = ptr::null_mut();
        (library.api().file_control)(
            db,
            c"main".as_ptr(),
            sys::SQLITE_FCNTL_VFS_POINTER,
            (&raw mut used).cast(),
        );
        let path = path_of((library.api().db_filename)(db, c"main".as_ptr()));
        let ours = Registration::behind(used);
        let opened = OpenedConnection {
            path: path.filter(|path| !path.as_os_str().is_empty()),
            ours: ours.is_some(),
            named_explicitly: ours.is_some_and(|vfs| vfs.is_named(used)),
        };
        let Some(vfs) = ours.or(library.vfs()) else { return Ok(()) };
        vfs.ask(Ok(()), |hooks| hooks.connection_opened(&opened))
    }
}
