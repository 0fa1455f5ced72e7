//! One SQLite library that loaded us, and what we registered with it. Never freed: SQLite keeps pointers.

use std::ptr::NonNull;
use std::sync::{Arc, OnceLock};

use libsqlite3_sys as sys;

use super::api::{Api, InitFn};
use super::base::BaseVfs;
use super::hooks::VfsHooks;
use super::vfs::Registration;
use crate::lock::Mutex;

/// The name users open databases with.
pub const VFS_NAME: &str = "replvfs";

pub(super) struct Library {
    api: Api,
    table: usize,
    slot: usize,
    base: BaseVfs,
    vfs: OnceLock<&'static Registration>,
}

/// How many SQLite libraries one process may bring; a guess with room: two have been seen.
pub(super) const LIBRARIES_MAX: usize = 8;

/// Filled from the front, under [`JOINING`]; read without a lock.
static LIBRARIES: [OnceLock<&'static Library>; LIBRARIES_MAX] = [const { OnceLock::new() }; LIBRARIES_MAX];
static JOINING: Mutex<()> = Mutex::new(());

impl Library {
    /// The library behind `table`, made known at its first call: VFS registered, `on_connection` called at
    /// the end of each later `sqlite3_open`. Later calls find it as it is.
    ///
    /// # Safety
    /// `table` is what SQLite handed to an extension's entry point.
    pub(super) unsafe fn load(
        table: *const sys::sqlite3_api_routines,
        default_name: &str,
        hooks: impl FnOnce() -> Arc<dyn VfsHooks>,
        on_connection: InitFn,
    ) -> Result<&'static Library, String> {
        // SAFETY: by contract.
        let library = unsafe { Library::known_or_new(table) }?;
        let mut failed = Ok(());
        library.vfs.get_or_init(|| {
            let registration = Registration::new(library, library.base, VFS_NAME, default_name, hooks());
            failed = registration.register();
            registration
        });
        failed?;
        // SAFETY: c3ref/auto_extension.html; the function is there for the life of the process (NODELETE).
        match unsafe { (library.api.auto_extension)(Some(on_connection)) } {
            sys::SQLITE_OK => Ok(library),
            code => Err(format!("cannot register the automatic extension: code {code}")),
        }
    }

    unsafe fn known_or_new(table: *const sys::sqlite3_api_routines) -> Result<&'static Library, String> {
        let _joining = JOINING.lock();
        if let Some(library) = Library::known(table) {
            return Ok(library);
        }
        let slot = Library::all().count();
        if slot == LIBRARIES_MAX {
            return Err(format!("already loaded by {LIBRARIES_MAX} SQLite libraries in this process"));
        }
        // SAFETY: by contract.
        let api = unsafe { Api::of_host(table) }?;
        // SAFETY: c3ref/vfs_find.html; names are NUL-terminated.
        let (taken, base) =
            unsafe { ((api.vfs_find)(c"replvfs".as_ptr()), (api.vfs_find)(std::ptr::null())) };
        if !taken.is_null() {
            return Err("another copy of this library has already registered the VFS replvfs here".to_owned());
        }
        let base = NonNull::new(base).ok_or("this SQLite has no default VFS to stand on")?;
        // SAFETY: registered, and no VFS we know of is ever unregistered while its library lives.
        let base = unsafe { BaseVfs::new(base) };
        let library: &'static Library =
            Box::leak(Box::new(Library { api, table: table as usize, slot, base, vfs: OnceLock::new() }));
        Ok(LIBRARIES[slot].get_or_init(|| library))
    }

    /// The library behind `table`, if it has loaded us.
    pub(super) fn known(table: *const sys::sqlite3_api_routines) -> Option<&'static Library> {
        Library::all().find(|library| library.table == table as usize)
    }

    pub(super) fn all() -> impl Iterator<Item = &'static Library> {
        LIBRARIES.iter().map_while(|slot| slot.get().copied())
    }

    pub(super) fn in_slot(slot: usize) -> &'static Library {
        LIBRARIES[slot].get().expect("BUG: a function is registered by a library in its slot")
    }

    pub(super) fn slot(&self) -> usize {
        self.slot
    }

    pub(super) fn api(&self) -> &Api {
        &self.api
    }

    pub(super) fn base(&self) -> BaseVfs {
        self.base
    }

    /// The VFS of users; `None` while the first load is under way.
    pub(super) fn vfs(&self) -> Option<&'static Registration> {
        self.vfs.get().copied()
    }
}
