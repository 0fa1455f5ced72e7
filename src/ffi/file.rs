//! A file we follow: our struct first, the base VFS's file right after it in the memory SQLite gave.
//!
//! ```text
//! | pMethods | state |  base VFS's sqlite3_file ...  |     szOsFile = 16 + base's, a multiple of 8
//! ```
//!
//! Promises: every method and every file control reaches the base with its arguments, and its answer goes back
//! unchanged; the methods' version is the base file's; no capability is claimed, one (BATCH_ATOMIC: commits
//! without a journal) is hidden; hooks are called as [`super::hooks`] says. `state` lives from open to close.
//! Source: <https://sqlite.org/c3ref/io_methods.html>.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use libsqlite3_sys as sys;

use super::base::FileLife;
use super::hooks::{MainHooks, PendingMain, WalHooks};
use super::stats::{Method, count};
use super::vfs::Registration;
use super::{guard, os, stub};

#[repr(C)]
struct ShimFile {
    methods: *const sys::sqlite3_io_methods,
    state: *mut FileState,
}

struct FileState {
    vfs: &'static Registration,
    life: Arc<FileLife>,
    follow: Follow,
    /// A hook of this file panicked.
    halted: AtomicBool,
}

enum Follow {
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
    fn is_silent(&self) -> bool {
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
    fn main<R>(&self, fallback: R, call: impl FnOnce(&dyn MainHooks) -> R) -> R {
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

    fn wal(&self, call: impl FnOnce(&dyn WalHooks)) {
        let Follow::Wal(hooks) = &self.follow else { return };
        if self.is_silent() {
            return;
        }
        if let Err(text) = guard::catch(|| call(&**hooks)) {
            self.halt(&text);
        }
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
        let life = FileLife::new(below(file));
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
        wrap(vfs, file, FileLife::new(below(file)), Follow::Wal(hooks))
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
        let methods = methods_for(&*(*below(file)).pMethods);
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
        if file.is_null() || !METHODS.as_ptr_range().contains(&(*file).pMethods) {
            return None;
        }
        let state = state(file);
        match &state.follow {
            Follow::Main(hooks) if !state.is_silent() => Some(Arc::clone(hooks)),
            _ => None,
        }
    }
}

/// The base's version and its shared memory decide; where the base has no xShmMap, SQLite must see none.
fn methods_for(base: &sys::sqlite3_io_methods) -> &'static sys::sqlite3_io_methods {
    let has_shm = base.iVersion >= 2 && base.xShmMap.is_some();
    match (base.iVersion, has_shm) {
        (..=1, _) => &METHODS[0],
        (2, false) => &METHODS[1],
        (2, true) => &METHODS[2],
        (_, false) => &METHODS[3],
        (_, true) => &METHODS[4],
    }
}

static METHODS: [sys::sqlite3_io_methods; 5] =
    [methods(1, false), methods(2, false), methods(2, true), methods(3, false), methods(3, true)];

const fn methods(version: c_int, has_shm: bool) -> sys::sqlite3_io_methods {
    let mut table = sys::sqlite3_io_methods {
        iVersion: version,
        xClose: Some(close),
        xRead: Some(read),
        xWrite: Some(write),
        xTruncate: Some(truncate),
        xSync: Some(sync),
        xFileSize: Some(file_size),
        xLock: Some(lock),
        xUnlock: Some(unlock),
        xCheckReservedLock: Some(check_reserved_lock),
        xFileControl: Some(file_control),
        xSectorSize: Some(sector_size),
        xDeviceCharacteristics: Some(device_characteristics),
        xShmMap: None,
        xShmLock: None,
        xShmBarrier: None,
        xShmUnmap: None,
        xFetch: None,
        xUnfetch: None,
    };
    if has_shm {
        table.xShmMap = Some(shm_map);
        table.xShmLock = Some(shm_lock);
        table.xShmBarrier = Some(shm_barrier);
        table.xShmUnmap = Some(shm_unmap);
    }
    if version >= 3 {
        table.xFetch = Some(fetch);
        table.xUnfetch = Some(unfetch);
    }
    table
}

/// The base's file: right behind our struct.
fn below(file: *mut sys::sqlite3_file) -> *mut sys::sqlite3_file {
    file.cast::<ShimFile>().wrapping_add(1).cast()
}

/// # Safety
/// `file` was made by `wrap` and not closed.
unsafe fn state<'a>(file: *mut sys::sqlite3_file) -> &'a FileState {
    // SAFETY: by contract.
    unsafe { &*(*file.cast::<ShimFile>()).state }
}

/// # Safety
/// As for `state`.
unsafe fn base_methods<'a>(file: *mut sys::sqlite3_file) -> &'a sys::sqlite3_io_methods {
    // SAFETY: by contract the base file is open, so its methods are set.
    unsafe { &*(*below(file)).pMethods }
}

/// # Safety
/// As io_methods.xClose.
unsafe extern "C" fn close(file: *mut sys::sqlite3_file) -> c_int {
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

/// # Safety
/// As io_methods.xRead.
unsafe extern "C" fn read(
    file: *mut sys::sqlite3_file,
    buffer: *mut c_void,
    length: c_int,
    offset: i64,
) -> c_int {
    count(Method::Read);
    // SAFETY: by contract.
    unsafe { base_methods(file).xRead.expect("BUG: a file has xRead")(below(file), buffer, length, offset) }
}

/// # Safety
/// As io_methods.xWrite.
unsafe extern "C" fn write(
    file: *mut sys::sqlite3_file,
    buffer: *const c_void,
    length: c_int,
    offset: i64,
) -> c_int {
    count(Method::Write);
    // SAFETY: by contract `buffer` has `length` bytes.
    unsafe {
        let bytes = std::slice::from_raw_parts(buffer.cast::<u8>(), usize::try_from(length).unwrap_or(0));
        let at = u64::try_from(offset).unwrap_or(0);
        match &state(file).follow {
            Follow::Main(_) => state(file).main((), |hooks| hooks.before_write(at, bytes)),
            _ => state(file).wal(|hooks| hooks.before_write(at, bytes)),
        }
        base_methods(file).xWrite.expect("BUG: a file has xWrite")(below(file), buffer, length, offset)
    }
}

/// # Safety
/// As io_methods.xTruncate.
unsafe extern "C" fn truncate(file: *mut sys::sqlite3_file, size: i64) -> c_int {
    count(Method::Truncate);
    let bytes = u64::try_from(size).unwrap_or(0);
    // SAFETY: by contract.
    unsafe {
        match &state(file).follow {
            Follow::Main(_) => state(file).main((), |hooks| hooks.before_truncate(bytes)),
            _ => state(file).wal(|hooks| hooks.before_truncate(bytes)),
        }
        base_methods(file).xTruncate.expect("BUG: a file has xTruncate")(below(file), size)
    }
}

/// # Safety
/// As io_methods.xSync.
unsafe extern "C" fn sync(file: *mut sys::sqlite3_file, flags: c_int) -> c_int {
    count(Method::Sync);
    // SAFETY: by contract.
    unsafe { base_methods(file).xSync.expect("BUG: a file has xSync")(below(file), flags) }
}

/// # Safety
/// As io_methods.xFileSize.
unsafe extern "C" fn file_size(file: *mut sys::sqlite3_file, size: *mut i64) -> c_int {
    count(Method::FileSize);
    // SAFETY: by contract.
    unsafe { base_methods(file).xFileSize.expect("BUG: a file has xFileSize")(below(file), size) }
}

/// # Safety
/// As io_methods.xLock.
unsafe extern "C" fn lock(file: *mut sys::sqlite3_file, level: c_int) -> c_int {
    count(Method::Lock);
    // SAFETY: by contract.
    unsafe {
        let rc = base_methods(file).xLock.expect("BUG: a file has xLock")(below(file), level);
        if rc == sys::SQLITE_OK {
            state(file).main((), |hooks| hooks.locked(level));
        }
        rc
    }
}

/// # Safety
/// As io_methods.xUnlock.
unsafe extern "C" fn unlock(file: *mut sys::sqlite3_file, level: c_int) -> c_int {
    count(Method::Unlock);
    // SAFETY: by contract.
    unsafe {
        state(file).main((), |hooks| hooks.before_unlock(level));
        base_methods(file).xUnlock.expect("BUG: a file has xUnlock")(below(file), level)
    }
}

/// # Safety
/// As io_methods.xCheckReservedLock.
unsafe extern "C" fn check_reserved_lock(file: *mut sys::sqlite3_file, out: *mut c_int) -> c_int {
    count(Method::CheckReservedLock);
    // SAFETY: by contract.
    unsafe {
        let method = base_methods(file).xCheckReservedLock.expect("BUG: a file has xCheckReservedLock");
        method(below(file), out)
    }
}

/// # Safety
/// As io_methods.xFileControl.
unsafe extern "C" fn file_control(file: *mut sys::sqlite3_file, op: c_int, argument: *mut c_void) -> c_int {
    count(Method::FileControl);
    // SAFETY: by contract.
    unsafe {
        if op == sys::SQLITE_FCNTL_CKPT_START {
            state(file).main((), |hooks| hooks.checkpoint_started());
        }
        let method = base_methods(file).xFileControl.expect("BUG: a file has xFileControl");
        let rc = method(below(file), op, argument);
        match op {
            sys::SQLITE_FCNTL_COMMIT_PHASETWO if matches!(rc, sys::SQLITE_OK | sys::SQLITE_NOTFOUND) => {
                match state(file).main(sys::SQLITE_OK, |hooks| hooks.committed()) {
                    sys::SQLITE_OK => rc,
                    code => code,
                }
            }
            sys::SQLITE_FCNTL_VFSNAME if rc == sys::SQLITE_OK => {
                put_name_before(state(file).vfs, argument.cast());
                rc
            }
            _ => rc,
        }
    }
}

/// Turns the base's `unix` into `replvfs/unix`; leaves it when memory is out.
///
/// # Safety
/// `name` is NULL, or leads to NULL or to a string made by this SQLite's allocator.
unsafe fn put_name_before(vfs: &'static Registration, name: *mut *mut c_char) {
    // SAFETY: by contract; the old string is freed by who takes its place.
    unsafe {
        if name.is_null() || (*name).is_null() {
            return;
        }
        let below = CStr::from_ptr(*name).to_string_lossy();
        let both = vfs.api().c_copy(&format!("{}/{below}", vfs.name().to_string_lossy()));
        if !both.is_null() {
            (vfs.api().free)((*name).cast());
            *name = both;
        }
    }
}

/// # Safety
/// As io_methods.xSectorSize.
unsafe extern "C" fn sector_size(file: *mut sys::sqlite3_file) -> c_int {
    count(Method::SectorSize);
    // SAFETY: by contract.
    unsafe { base_methods(file).xSectorSize.expect("BUG: a file has xSectorSize")(below(file)) }
}

/// # Safety
/// As io_methods.xDeviceCharacteristics.
unsafe extern "C" fn device_characteristics(file: *mut sys::sqlite3_file) -> c_int {
    count(Method::DeviceCharacteristics);
    // SAFETY: by contract.
    let has = unsafe {
        let method =
            base_methods(file).xDeviceCharacteristics.expect("BUG: a file has xDeviceCharacteristics");
        method(below(file))
    };
    has & !sys::SQLITE_IOCAP_BATCH_ATOMIC
}

/// # Safety
/// As io_methods.xShmMap.
unsafe extern "C" fn shm_map(
    file: *mut sys::sqlite3_file,
    region: c_int,
    bytes: c_int,
    extend: c_int,
    out: *mut *mut c_void,
) -> c_int {
    count(Method::ShmMap);
    // SAFETY: by contract; what the base maps stays until xShmUnmap (io_methods.html).
    unsafe {
        let method = base_methods(file).xShmMap.expect("BUG: forwarded only if present");
        let rc = method(below(file), region, bytes, extend, out);
        let usable = matches!(rc & 0xff, sys::SQLITE_OK | sys::SQLITE_READONLY);
        if let (true, Some(memory), Ok(region)) = (usable, NonNull::new(*out), u32::try_from(region)) {
            debug_assert_eq!(bytes as usize, super::base::SHM_REGION_BYTES);
            let state = state(file);
            if !state.is_silent() {
                let view = state.life.mapped(memory);
                state.main((), |hooks| hooks.shm_region(region, view));
            }
        }
        rc
    }
}

/// # Safety
/// As io_methods.xShmLock.
unsafe extern "C" fn shm_lock(
    file: *mut sys::sqlite3_file,
    first: c_int,
    slots: c_int,
    flags: c_int,
) -> c_int {
    count(Method::ShmLock);
    let is_exclusive = flags & sys::SQLITE_SHM_EXCLUSIVE != 0;
    let is_lock = flags & sys::SQLITE_SHM_LOCK != 0;
    // SAFETY: by contract.
    unsafe {
        let method = base_methods(file).xShmLock.expect("BUG: forwarded only if present");
        if is_exclusive && is_lock {
            state(file).main((), |hooks| hooks.before_shm_lock(first, slots));
        }
        let rc = method(below(file), first, slots, flags);
        if is_exclusive && rc == sys::SQLITE_OK {
            state(file).main((), |hooks| {
                if is_lock {
                    hooks.after_shm_lock(first, slots)
                } else {
                    hooks.after_shm_unlock(first, slots)
                }
            });
        }
        rc
    }
}

/// # Safety
/// As io_methods.xShmBarrier.
unsafe extern "C" fn shm_barrier(file: *mut sys::sqlite3_file) {
    count(Method::ShmBarrier);
    // SAFETY: by contract.
    unsafe { base_methods(file).xShmBarrier.expect("BUG: forwarded only if present")(below(file)) }
}

/// # Safety
/// As io_methods.xShmUnmap.
unsafe extern "C" fn shm_unmap(file: *mut sys::sqlite3_file, delete: c_int) -> c_int {
    count(Method::ShmUnmap);
    // SAFETY: by contract.
    unsafe {
        state(file).main((), |hooks| hooks.before_shm_unmap(delete != 0));
        state(file).life.unmapped();
        base_methods(file).xShmUnmap.expect("BUG: forwarded only if present")(below(file), delete)
    }
}

/// # Safety
/// As io_methods.xFetch.
unsafe extern "C" fn fetch(
    file: *mut sys::sqlite3_file,
    offset: i64,
    length: c_int,
    out: *mut *mut c_void,
) -> c_int {
    count(Method::Fetch);
    // SAFETY: by contract.
    unsafe {
        base_methods(file).xFetch.expect("BUG: forwarded only if present")(below(file), offset, length, out)
    }
}

/// # Safety
/// As io_methods.xUnfetch.
unsafe extern "C" fn unfetch(file: *mut sys::sqlite3_file, offset: i64, page: *mut c_void) -> c_int {
    count(Method::Unfetch);
    // SAFETY: by contract.
    unsafe { base_methods(file).xUnfetch.expect("BUG: forwarded only if present")(below(file), offset, page) }
}
