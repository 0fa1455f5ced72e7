//! The fence: every `unsafe` of the crate, and nothing else that could live elsewhere.
//!
//! ```text
//! entry --> library --> vfs --> file, stub     C outside, one object each per SQLite library, VFS, open file
//!                        |        |  methods
//!                      hooks <----+            safe traits: what the VFS asks of the rest of the crate
//!                      base, connection_file   safe handles: SQLite's own VFS and files, for our reads; read_mark, wal_reset
//!                      sql, table              safe SQL functions and tables
//!                      os, map, writeback      forks, exit, threads; shared mappings; a hint to the disk
//!                      engine                  the SQLite linked into the command line and tests
//!                      signals                 the ends that the command line is asked for
//! ```
//! Each `unsafe` block cites the C contract it meets, from <https://sqlite.org/c3ref/vfs.html>,
//! <https://sqlite.org/c3ref/io_methods.html> or a manual page.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::ptr;

use libsqlite3_sys as sys;

mod api;
pub mod base;
pub mod code;
pub mod connection_file;
#[cfg(test)]
pub(crate) mod counted;
pub mod engine;
pub mod entry;
mod file;
mod guard;
pub mod hooks;
mod library;
pub mod map;
mod methods;
pub mod os;
pub mod overwrite;
#[cfg(test)]
pub(crate) mod probe;
mod read_mark;
#[cfg(feature = "program")]
pub mod signals;
pub mod sql;
pub mod stats;
mod stub;
pub mod table;
pub mod vfs;
mod wal_reset;
pub mod writeback;

pub use library::VFS_NAME;

/// The file behind a schema's database; NULL for an unknown schema.
///
/// # Safety
/// `db` is an open connection of `api`'s library, usable by this thread.
unsafe fn file_of_main(api: &api::Api, db: *mut sys::sqlite3, schema: &CStr) -> *mut sys::sqlite3_file {
    let mut file: *mut sys::sqlite3_file = ptr::null_mut();
    // SAFETY: SQLITE_FCNTL_FILE_POINTER writes one pointer, and nothing when the schema is unknown.
    unsafe {
        (api.file_control)(db, schema.as_ptr(), sys::SQLITE_FCNTL_FILE_POINTER, (&raw mut file).cast())
    };
    file
}
