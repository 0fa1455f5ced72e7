//! A file we follow: our struct first, the base VFS's file right after it in the memory SQLite gave.
//!
//! ```text
//! | pMethods | state |  base VFS's sqlite3_file ...  |     szOsFile = 16 + base's, a multiple of 8
//! ```
//!
//! `state` lives from open to close. Calls on hooks are made here, each in a guard; the methods themselves are in
//! [`super::methods`]. Source: <https://sqlite.org/c3ref/io_methods.html>.

use std::ffi::{c_char, c_int};
use std::mem;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use libsqlite3_sys as sys;

use super::connection_file::FileLife;
use super::hooks::{MainHooks, NotAcknowledged, PendingMain, WalHooks};
use super::stats::{Method, count};
use super::vfs::Registration;
use super::{guard, methods, os, stub};

#[repr(C)]
struct ShimFile {
    methods: *const sys::sqlite3_io_methods,
    state: *mut FileState,
}

pub(super) struct FileState {
    pub(super) vfs: &'static Registration,
    pub(super) life: Arc<FileLife>,
    pub(super) follow: Follow,
    /// A hook of this file panicked.
    halted: AtomicBool,
}

pub(super) enum Follow {
    Main(Arc<dyn MainHooks>),
    Wal(Arc<dyn WalHooks>),
    Nothing,
}

/// szOsFile for a base that wants `base` bytes. The pager puts a second file right behind the first.
pub(super) fn size_with(base: c_int) -> c_int {
    let ours = mem::size_of::<ShimFile>() as c_int;
    (ours + base + 7) / 8 * 8
}

impl FileState {
    pub(super) fn is_silent(&self) -> bool {
        self.halted.load(Ordering::Relaxed) || self.life.generation() != os::fork_generation()
    }

    fn halt(&self, text: &str) {
        self.halted.store(true, Ordering::Relaxed);
        self.vfs.tell_panic(text);
        // Whatever goes wrong while telling of a panic has nobody left to be told.
        let _ = guard::catch(|| match &self.follow {
            Follow::Main(hooks) => hooks.panicked(text),
            Follow::Wal(hooks) => hooks.panicked(text),
            Follow::Nothing => {}
        });
    }

    /// A call on a main database's hooks.
    pub(super) fn main<R>(&self, fallback: R, call: impl FnOnce(&dyn MainHooks) -> R) -> R {
        let Follow::Main(hooks) = &self.follow else { return fallback };
        if self.is_silent() {
            return fallback;
        }
        self.life.enter_hook();
        let answer = guard::catch(|| call(&**hooks));
        self.life.leave_hook();
        answer.unwrap_or_else(|text| {
            self.halt(&text);
            fallback
        })
    }

    /// What COMMIT answers where nobody can say that it may succeed.
    pub(super) fn unanswered_commit(&self) -> Result<(), NotAcknowledged> {
        match &self.follow {
            Follow::Main(hooks) if guard::catch(|| hooks.waits_for_replica()).unwrap_or(true) => {
                Err(NotAcknowledged(
                    "replication has halted in this process: nothing is acknowledged any more".into(),
                ))
            }
            _ => Ok(()),
        }
    }

    /// A call on the hooks of a WAL or a journal.
    pub(super) fn wal<R>(&self, fallback: R, call: impl FnOnce(&dyn WalHooks) -> R) -> R {
        let Follow::Wal(hooks) = &self.follow else { return fallback };
        if self.is_silent() {
            return fallback;
        }
        guard::catch(|| call(&**hooks)).unwrap_or_else(|text| {
            self.halt(&text);
            fallback
        })
    }

    /// The file is closed: tell the hooks, also those that panicked. A forked child leaks them: their drop may
    /// wait for a thread that it does not have.
    fn closed(self: Box<Self>) {
        if self.life.generation() != os::fork_generation() {
            mem::forget(self);
            return;
        }
        let told = guard::catch(|| match &self.follow {
            Follow::Main(hooks) => hooks.after_close(),
            Follow::Wal(hooks) => hooks.closed(),
            Follow::Nothing => {}
        });
        if let Err(text) = told {
            self.halt(&text);
        }
        if let Err(text) = guard::catch(|| drop(self)) {
            // The state is gone; the panic hook has printed it.
            debug_assert!(!text.is_empty());
        }
    }
}

/// Opens the base file behind our struct; when that fails, no method is left set and nothing stays open.
///
/// # Safety
/// As sqlite3_vfs.xOpen, with room for [`size_with`] bytes at `file`.
unsafe fn open_base(
    vfs: &'static Registration,
    name: *const c_char,
    file: *mut sys::sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    // SAFETY: by contract; a file whose methods are set after a failed xOpen must be closed (c3ref/vfs.html).
    unsafe {
        let base = vfs.base().as_ptr();
        let below = below(file);
        (*below).pMethods = ptr::null();
        let rc = (*base).xOpen.expect("BUG: a VFS has xOpen")(base, name, below, flags, out);
        if rc != sys::SQLITE_OK {
            close_base(file);
        }
        rc
    }
}

/// # Safety
/// `file` is one of ours; its base file is closed, or open and used by nobody.
unsafe fn close_base(file: *mut sys::sqlite3_file) -> c_int {
    // SAFETY: by contract; pMethods is NULL or valid, and NULL after the one xClose.
    unsafe {
        let below = below(file);
        let Some(methods) = (*below).pMethods.as_ref() else { return sys::SQLITE_OK };
        let rc = methods.xClose.expect("BUG: a file has xClose")(below);
        (*below).pMethods = ptr::null();
        rc
    }
}

/// Opens a main database and asks `pending` for its hooks.
///
/// # Safety
/// As `open_base`.
pub(super) unsafe fn open_main(
    vfs: &'static Registration,
    name: *const c_char,
    file: *mut sys::sqlite3_file,
    flags: c_int,
    out: *mut c_int,
    pending: Box<dyn PendingMain>,
) -> c_int {
    // SAFETY: by contract.
    unsafe {
        let rc = open_base(vfs, name, file, flags, out);
        if rc != sys::SQLITE_OK {
            if let Err(text) = guard::catch(|| drop(pending)) {
                vfs.report_panic(&text);
            }
            return rc;
        }
        let life = FileLife::new(vfs, below(file));
        life.enter_hook();
        let handle = life.handle();
        let answer = guard::catch(|| pending.opened(handle).map(Follow::Main)).unwrap_or_else(|text| {
            vfs.report_panic(&text);
            Ok(Follow::Nothing)
        });
        life.leave_hook();
        match answer {
            Ok(follow) => wrap(vfs, file, life, follow),
            Err(text) => {
                close_base(file);
                stub::open(vfs, file, flags, out, &text)
            }
        }
    }
}

/// Opens a WAL and follows it.
///
/// # Safety
/// As `open_base`.
pub(super) unsafe fn open_wal(
    vfs: &'static Registration,
    name: *const c_char,
    file: *mut sys::sqlite3_file,
    flags: c_int,
    out: *mut c_int,
    hooks: Arc<dyn WalHooks>,
) -> c_int {
    // SAFETY: by contract.
    unsafe {
        let rc = open_base(vfs, name, file, flags, out);
        if rc != sys::SQLITE_OK {
            if let Err(text) = guard::catch(|| drop(hooks)) {
                vfs.report_panic(&text);
            }
            return rc;
        }
        wrap(vfs, file, FileLife::new(vfs, below(file)), Follow::Wal(hooks))
    }
}

/// # Safety
/// The base file behind `file` is open.
unsafe fn wrap(
    vfs: &'static Registration,
    file: *mut sys::sqlite3_file,
    life: Arc<FileLife>,
    follow: Follow,
) -> c_int {
    let state = Box::new(FileState { vfs, life, follow, halted: AtomicBool::new(false) });
    // SAFETY: the memory has room for our struct, by szOsFile.
    unsafe {
        let methods = methods::for_base(&*(*below(file)).pMethods);
        file.cast::<ShimFile>().write(ShimFile { methods, state: Box::into_raw(state) });
    }
    sys::SQLITE_OK
}

/// The hooks behind a file that SQLite uses, if it is a main database of ours.
///
/// # Safety
/// `file` is NULL or an open file, and its connection's mutex is held.
pub(super) unsafe fn main_hooks(file: *mut sys::sqlite3_file) -> Option<Arc<dyn MainHooks>> {
    // SAFETY: by contract; methods in our own tables mean a ShimFile.
    unsafe {
        if file.is_null() || !methods::TABLES.as_ptr_range().contains(&(*file).pMethods) {
            return None;
        }
        let state = state(file);
        match &state.follow {
            Follow::Main(hooks) if !state.is_silent() => Some(Arc::clone(hooks)),
            _ => None,
        }
    }
}

/// The base's file: right behind our struct.
pub(super) fn below(file: *mut sys::sqlite3_file) -> *mut sys::sqlite3_file {
    file.cast::<ShimFile>().wrapping_add(1).cast()
}

/// # Safety
/// `file` was made by `wrap` and not closed.
pub(super) unsafe fn state<'a>(file: *mut sys::sqlite3_file) -> &'a FileState {
    // SAFETY: by contract.
    unsafe { &*(*file.cast::<ShimFile>()).state }
}

/// # Safety
/// As for `state`.
pub(super) unsafe fn base_methods<'a>(file: *mut sys::sqlite3_file) -> &'a sys::sqlite3_io_methods {
    // SAFETY: by contract the base file is open, so its methods are set.
    unsafe { &*(*below(file)).pMethods }
}

/// # Safety
/// As io_methods.xClose.
pub(super) unsafe extern "C" fn close(file: *mut sys::sqlite3_file) -> c_int {
    count(Method::Close);
    // SAFETY: by contract; the state is taken back once, as SQLite closes a file once.
    unsafe {
        state(file).main((), |hooks| hooks.before_close());
        state(file).life.unmapped();
        let rc = close_base(file);
        let shim = file.cast::<ShimFile>();
        Box::from_raw(mem::replace(&mut (*shim).state, ptr::null_mut())).closed();
        (*shim).methods = ptr::null();
        rc
    }
}
