//! The VFS object: a shim that asks [`VfsHooks`] what to do with each open and forwards everything else.
//!
//! ```text
//! sqlite3_vfs "replvfs"            named by the application      --+
//! sqlite3_vfs "replvfs-default"    registered when made default  --+--> Registration --> base VFS
//! ```
//! Two C objects lead to one registration, because only so is it known whether the application named the VFS.
//!
//! Promises: zName is passed on as the same pointer (URI parameters lie behind it); the base's flags, versions
//! and limits are passed on; a failed xOpen leaves pMethods NULL; a file we do not follow is opened straight
//! with the base's methods. Source: <https://sqlite.org/c3ref/vfs.html>.

use std::cell::UnsafeCell;
use std::ffi::{CStr, CString, OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use libsqlite3_sys as sys;

use super::api::Api;
use super::base::{BaseVfs, path_of};
use super::hooks::{FileKind, OpenPlan, OpenRequest, VfsHooks};
use super::library::Library;
use super::stats::{Method, count};
use super::{file, guard, stub};
#[cfg(test)]
use crate::testing::mutation::{self, Mutation};

/// One VFS of ours in one SQLite library. Never freed.
pub(super) struct Registration {
    library: &'static Library,
    base: BaseVfs,
    name: CString,
    _default_name: CString,
    hooks: Arc<dyn VfsHooks>,
    /// A panic in `hooks`: every later open passes through.
    halted: AtomicBool,
    is_default: AtomicBool,
    /// SQLite writes pNext.
    named: UnsafeCell<sys::sqlite3_vfs>,
    default: UnsafeCell<sys::sqlite3_vfs>,
}

// SAFETY: the two C objects are written by SQLite alone, under its own mutex, after registration.
unsafe impl Send for Registration {}
// SAFETY: as above.
unsafe impl Sync for Registration {}

impl Registration {
    pub(super) fn new(
        library: &'static Library,
        base: BaseVfs,
        name: &str,
        default_name: &str,
        hooks: Arc<dyn VfsHooks>,
    ) -> &'static Registration {
        let name = CString::new(name).expect("BUG: a VFS name holds no zero byte");
        let default_name = CString::new(default_name).expect("BUG: a VFS name holds no zero byte");
        let (named, default) = (object(base, name.as_ptr()), object(base, default_name.as_ptr()));
        let registration: &'static Registration = Box::leak(Box::new(Registration {
            library,
            base,
            name,
            _default_name: default_name,
            hooks,
            halted: AtomicBool::new(false),
            is_default: AtomicBool::new(false),
            named: UnsafeCell::new(named),
            default: UnsafeCell::new(default),
        }));
        for object in [registration.named.get(), registration.default.get()] {
            // SAFETY: not registered yet, so nobody else has the object.
            unsafe { (*object).pAppData = ptr::from_ref(registration).cast_mut().cast() };
        }
        registration
    }

    pub(super) fn register(&self) -> Result<(), String> {
        self.register_object(self.named.get(), false)
    }

    /// From now on opens that name no VFS come to us. Connections that are open stay where they are.
    pub(super) fn make_default(&self) -> Result<(), String> {
        self.is_default.store(true, Ordering::Release);
        self.register_object(self.default.get(), true)
    }

    fn register_object(&self, object: *mut sys::sqlite3_vfs, default: bool) -> Result<(), String> {
        // SAFETY: the object is complete and never freed (c3ref/vfs_find.html).
        match unsafe { (self.api().vfs_register)(object, c_int::from(default)) } {
            sys::SQLITE_OK => Ok(()),
            code => Err(format!("cannot register the VFS: code {code}")),
        }
    }

    pub(super) fn api(&self) -> &'static Api {
        self.library.api()
    }

    pub(super) fn base(&self) -> BaseVfs {
        self.base
    }

    pub(super) fn name(&self) -> &CStr {
        &self.name
    }

    pub(super) fn is_default(&self) -> bool {
        self.is_default.load(Ordering::Acquire)
    }

    /// Whether `vfs` is the object that applications name.
    pub(super) fn is_named(&self, vfs: *const sys::sqlite3_vfs) -> bool {
        ptr::eq(vfs, self.named.get())
    }

    /// The registration behind a VFS that SQLite uses, if it is one of ours.
    ///
    /// # Safety
    /// `vfs` is NULL or registered.
    pub(super) unsafe fn behind(vfs: *mut sys::sqlite3_vfs) -> Option<&'static Registration> {
        // SAFETY: by contract; only objects of ours have this xOpen.
        unsafe {
            let method = vfs.as_ref()?.xOpen?;
            ptr::fn_addr_eq(method, open as OpenFn).then(|| registration(vfs))
        }
    }

    /// Asks the hooks; `fallback` once they have panicked.
    pub(super) fn ask<R>(&self, fallback: R, question: impl FnOnce(&dyn VfsHooks) -> R) -> R {
        if self.halted.load(Ordering::Relaxed) {
            return fallback;
        }
        match guard::catch(|| question(&*self.hooks)) {
            Ok(answer) => answer,
            Err(text) => {
                self.halted.store(true, Ordering::Relaxed);
                self.report_panic(&text);
                fallback
            }
        }
    }

    /// A panic while one file was opened, which is not the end of the others.
    pub(super) fn report_panic(&self, text: &str) {
        self.tell_panic(text);
        // Whatever goes wrong while telling of a panic has nobody left to be told.
        let _ = guard::catch(|| self.hooks.panicked(text));
    }

    pub(super) fn tell_panic(&self, text: &str) {
        self.api().write_log(
            sys::SQLITE_INTERNAL,
            &format!("sqlitereplicate: {text}; passing through from now on"),
        );
    }
}

type OpenFn = unsafe extern "C" fn(
    *mut sys::sqlite3_vfs,
    *const c_char,
    *mut sys::sqlite3_file,
    c_int,
    *mut c_int,
) -> c_int;

/// The C object: the base's own limits and versions, our methods where the base has one.
fn object(base: BaseVfs, name: *const c_char) -> sys::sqlite3_vfs {
    // SAFETY: the base is registered for the life of the process; a plain copy of its members.
    let below = unsafe { *base.as_ptr() };
    let version = below.iVersion.min(3);
    sys::sqlite3_vfs {
        iVersion: version,
        szOsFile: file::size_with(below.szOsFile),
        mxPathname: below.mxPathname,
        pNext: ptr::null_mut(),
        zName: name,
        pAppData: ptr::null_mut(),
        xOpen: Some(open),
        xDelete: Some(delete),
        xAccess: Some(access),
        xFullPathname: Some(full_pathname),
        xDlOpen: below.xDlOpen.and(Some(dl_open)),
        xDlError: below.xDlError.and(Some(dl_error)),
        xDlSym: below.xDlSym.and(Some(dl_sym)),
        xDlClose: below.xDlClose.and(Some(dl_close)),
        xRandomness: Some(randomness),
        xSleep: Some(sleep),
        xCurrentTime: below.xCurrentTime.and(Some(current_time)),
        xGetLastError: below.xGetLastError.and(Some(get_last_error)),
        xCurrentTimeInt64: if version >= 2 {
            below.xCurrentTimeInt64.and(Some(current_time_int64))
        } else {
            None
        },
        xSetSystemCall: if version >= 3 { below.xSetSystemCall.and(Some(set_system_call)) } else { None },
        xGetSystemCall: if version >= 3 { below.xGetSystemCall.and(Some(get_system_call)) } else { None },
        xNextSystemCall: if version >= 3 { below.xNextSystemCall.and(Some(next_system_call)) } else { None },
    }
}

/// # Safety
/// `vfs` is an object made by [`Registration::new`].
unsafe fn registration(vfs: *mut sys::sqlite3_vfs) -> &'static Registration {
    // SAFETY: pAppData was set there and never changes; registrations are never freed.
    unsafe { &*(*vfs).pAppData.cast::<Registration>() }
}

/// # Safety
/// As for `registration`.
unsafe fn below(vfs: *mut sys::sqlite3_vfs) -> *mut sys::sqlite3_vfs {
    // SAFETY: by contract.
    unsafe { registration(vfs) }.base().as_ptr()
}

/// # Safety
/// As sqlite3_vfs.xOpen: the file has szOsFile bytes, a main database's name has its URI parameters behind it.
unsafe extern "C" fn open(
    vfs: *mut sys::sqlite3_vfs,
    name: *const c_char,
    file: *mut sys::sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    count(Method::Open);
    // SAFETY: by contract; SQLite closes a file whose pMethods is set even when xOpen failed.
    unsafe {
        (*file).pMethods = ptr::null();
        let this = registration(vfs);
        let request = request(this, vfs, name, flags);
        match this.ask(OpenPlan::PassThrough, |hooks| hooks.open(&request)) {
            OpenPlan::Main(pending) if request.kind == FileKind::Main => {
                file::open_main(this, name, file, flags, out, pending)
            }
            OpenPlan::Wal(hooks) if matches!(request.kind, FileKind::Wal | FileKind::MainJournal) => {
                file::open_wal(this, name, file, flags, out, hooks)
            }
            OpenPlan::Refuse(text) => stub::open(this, file, flags, out, &text),
            OpenPlan::PassThrough | OpenPlan::Main(_) | OpenPlan::Wal(_) => {
                let base = this.base().as_ptr();
                (*base).xOpen.expect("BUG: a VFS has xOpen")(base, name, file, flags, out)
            }
        }
    }
}

/// # Safety
/// As for `open`.
unsafe fn request<'a>(
    this: &'static Registration,
    vfs: *mut sys::sqlite3_vfs,
    name: *const c_char,
    flags: c_int,
) -> OpenRequest<'a> {
    let kind = match flags {
        _ if flags & sys::SQLITE_OPEN_MAIN_DB != 0 => FileKind::Main,
        _ if flags & sys::SQLITE_OPEN_WAL != 0 => FileKind::Wal,
        _ if flags & sys::SQLITE_OPEN_MAIN_JOURNAL != 0 => FileKind::MainJournal,
        _ => FileKind::Other,
    };
    let default_vfs = this.is_default();
    OpenRequest {
        // SAFETY: by contract, NULL or NUL-terminated.
        path: unsafe { path_of(name) },
        kind,
        read_only: flags & sys::SQLITE_OPEN_READONLY != 0,
        create: flags & sys::SQLITE_OPEN_CREATE != 0,
        flags,
        named_explicitly: this.is_named(vfs),
        default_vfs,
        base: this.base(),
        // SAFETY: only a main database's name is followed by parameters.
        parameters: if kind == FileKind::Main { unsafe { uri_parameters(name) } } else { Vec::new() },
    }
}

/// The list behind a main database's name: `name NUL (key NUL value NUL)* NUL` (c3ref/uri_boolean.html,
/// sqlite3_create_filename).
///
/// # Safety
/// `name` is NULL or such a list.
pub(super) unsafe fn uri_parameters<'a>(name: *const c_char) -> Vec<(&'a OsStr, &'a OsStr)> {
    let mut found = Vec::new();
    if name.is_null() {
        return found;
    }
    // SAFETY: by contract every string is closed, and an empty one closes the list.
    unsafe {
        let next = |at: *const c_char| at.add(CStr::from_ptr(at).count_bytes() + 1);
        let text = |at: *const c_char| OsStr::from_bytes(CStr::from_ptr(at).to_bytes());
        let mut at = next(name);
        while *at != 0 {
            let value = next(at);
            found.push((text(at), text(value)));
            at = next(value);
        }
    }
    found
}

/// # Safety
/// As sqlite3_vfs.xDelete.
unsafe extern "C" fn delete(vfs: *mut sys::sqlite3_vfs, name: *const c_char, sync_dir: c_int) -> c_int {
    count(Method::Delete);
    // SAFETY: by contract.
    unsafe {
        if let Some(path) = path_of(name) {
            registration(vfs).ask((), |hooks| hooks.before_delete(path));
        }
        let base = below(vfs);
        let rc = (*base).xDelete.expect("BUG: a VFS has xDelete")(base, name, sync_dir);
        #[cfg(test)]
        if rc == sys::SQLITE_IOERR_DELETE_NOENT && mutation::is(Mutation::FlattenedDelete) {
            return sys::SQLITE_OK;
        }
        rc
    }
}

/// # Safety
/// As sqlite3_vfs.xAccess.
unsafe extern "C" fn access(
    vfs: *mut sys::sqlite3_vfs,
    name: *const c_char,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    count(Method::Access);
    // SAFETY: by contract.
    unsafe {
        let base = below(vfs);
        (*base).xAccess.expect("BUG: a VFS has xAccess")(base, name, flags, out)
    }
}

/// # Safety
/// As sqlite3_vfs.xFullPathname.
unsafe extern "C" fn full_pathname(
    vfs: *mut sys::sqlite3_vfs,
    name: *const c_char,
    length: c_int,
    out: *mut c_char,
) -> c_int {
    count(Method::FullPathname);
    // SAFETY: by contract.
    unsafe {
        let base = below(vfs);
        (*base).xFullPathname.expect("BUG: a VFS has xFullPathname")(base, name, length, out)
    }
}

/// # Safety
/// As sqlite3_vfs.xDlOpen.
unsafe extern "C" fn dl_open(vfs: *mut sys::sqlite3_vfs, name: *const c_char) -> *mut c_void {
    count(Method::DlOpen);
    // SAFETY: by contract; registered only where the base has it.
    unsafe {
        let base = below(vfs);
        (*base).xDlOpen.expect("BUG: forwarded only if present")(base, name)
    }
}

/// # Safety
/// As sqlite3_vfs.xDlError.
unsafe extern "C" fn dl_error(vfs: *mut sys::sqlite3_vfs, length: c_int, text: *mut c_char) {
    count(Method::DlError);
    // SAFETY: by contract; registered only where the base has it.
    unsafe {
        let base = below(vfs);
        (*base).xDlError.expect("BUG: forwarded only if present")(base, length, text);
    }
}

/// # Safety
/// As sqlite3_vfs.xDlSym.
unsafe extern "C" fn dl_sym(
    vfs: *mut sys::sqlite3_vfs,
    library: *mut c_void,
    symbol: *const c_char,
) -> Option<unsafe extern "C" fn(*mut sys::sqlite3_vfs, *mut c_void, *const c_char)> {
    count(Method::DlSym);
    // SAFETY: by contract; registered only where the base has it.
    unsafe {
        let base = below(vfs);
        (*base).xDlSym.expect("BUG: forwarded only if present")(base, library, symbol)
    }
}

/// # Safety
/// As sqlite3_vfs.xDlClose.
unsafe extern "C" fn dl_close(vfs: *mut sys::sqlite3_vfs, library: *mut c_void) {
    count(Method::DlClose);
    // SAFETY: by contract; registered only where the base has it.
    unsafe {
        let base = below(vfs);
        (*base).xDlClose.expect("BUG: forwarded only if present")(base, library);
    }
}

/// # Safety
/// As sqlite3_vfs.xRandomness.
unsafe extern "C" fn randomness(vfs: *mut sys::sqlite3_vfs, length: c_int, out: *mut c_char) -> c_int {
    count(Method::Randomness);
    // SAFETY: by contract.
    unsafe {
        let base = below(vfs);
        (*base).xRandomness.expect("BUG: a VFS has xRandomness")(base, length, out)
    }
}

/// # Safety
/// As sqlite3_vfs.xSleep.
unsafe extern "C" fn sleep(vfs: *mut sys::sqlite3_vfs, microseconds: c_int) -> c_int {
    count(Method::Sleep);
    // SAFETY: by contract.
    unsafe {
        let base = below(vfs);
        (*base).xSleep.expect("BUG: a VFS has xSleep")(base, microseconds)
    }
}

/// # Safety
/// As sqlite3_vfs.xCurrentTime.
unsafe extern "C" fn current_time(vfs: *mut sys::sqlite3_vfs, out: *mut f64) -> c_int {
    count(Method::CurrentTime);
    // SAFETY: by contract; registered only where the base has it.
    unsafe {
        let base = below(vfs);
        (*base).xCurrentTime.expect("BUG: forwarded only if present")(base, out)
    }
}

/// # Safety
/// As sqlite3_vfs.xGetLastError.
unsafe extern "C" fn get_last_error(vfs: *mut sys::sqlite3_vfs, length: c_int, out: *mut c_char) -> c_int {
    count(Method::GetLastError);
    // SAFETY: by contract; registered only where the base has it.
    unsafe {
        let base = below(vfs);
        (*base).xGetLastError.expect("BUG: forwarded only if present")(base, length, out)
    }
}

/// # Safety
/// As sqlite3_vfs.xCurrentTimeInt64.
unsafe extern "C" fn current_time_int64(vfs: *mut sys::sqlite3_vfs, out: *mut i64) -> c_int {
    count(Method::CurrentTimeInt64);
    // SAFETY: by contract; registered only where the base has it.
    unsafe {
        let base = below(vfs);
        (*base).xCurrentTimeInt64.expect("BUG: forwarded only if present")(base, out)
    }
}

/// # Safety
/// As sqlite3_vfs.xSetSystemCall.
unsafe extern "C" fn set_system_call(
    vfs: *mut sys::sqlite3_vfs,
    name: *const c_char,
    call: sys::sqlite3_syscall_ptr,
) -> c_int {
    count(Method::SetSystemCall);
    // SAFETY: by contract; registered only where the base has it.
    unsafe {
        let base = below(vfs);
        (*base).xSetSystemCall.expect("BUG: forwarded only if present")(base, name, call)
    }
}

/// # Safety
/// As sqlite3_vfs.xGetSystemCall.
unsafe extern "C" fn get_system_call(
    vfs: *mut sys::sqlite3_vfs,
    name: *const c_char,
) -> sys::sqlite3_syscall_ptr {
    count(Method::GetSystemCall);
    // SAFETY: by contract; registered only where the base has it.
    unsafe {
        let base = below(vfs);
        (*base).xGetSystemCall.expect("BUG: forwarded only if present")(base, name)
    }
}

/// # Safety
/// As sqlite3_vfs.xNextSystemCall.
unsafe extern "C" fn next_system_call(vfs: *mut sys::sqlite3_vfs, name: *const c_char) -> *const c_char {
    count(Method::NextSystemCall);
    // SAFETY: by contract; registered only where the base has it.
    unsafe {
        let base = below(vfs);
        (*base).xNextSystemCall.expect("BUG: forwarded only if present")(base, name)
    }
}

/// Registers our VFS as the default one of every SQLite library that loaded us: opens that name no VFS come
/// to [`VfsHooks::open`] with `named_explicitly` false.
///
/// # Errors
/// The reason, should a library refuse.
pub fn make_default() -> Result<(), String> {
    for library in Library::all() {
        if let Some(vfs) = library.vfs() {
            vfs.make_default()?;
        }
    }
    Ok(())
}
