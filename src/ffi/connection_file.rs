//! The base file of an application's connection, and the wal-index regions it has mapped.
//!
//! Both belong to a connection, which may close at any time: each access checks that it has not, and closing waits
//! for accesses that have begun. Source: <https://sqlite.org/walformat.html> section 2.

use std::ffi::{c_int, c_void};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicUsize, Ordering, fence};

use super::base::{file_size, read_file};
use super::read_mark::ReadMark;
use super::vfs::Registration;
use super::wal_reset::{ResetGuard, has_bug};
use super::{code, os};
use crate::error::{Error, Result};
use crate::lock::{RwLock, RwLockReadGuard};
use libsqlite3_sys as sys;

/// Size of a wal-index region; SQLite uses no other (walformat.html section 2.2).
pub const SHM_REGION_BYTES: usize = 32 * 1024;
/// The same in 32-bit words.
pub const SHM_REGION_WORDS: usize = SHM_REGION_BYTES / 4;

/// The base file of an application's connection. Clones share it.
///
/// `read` and `size` work only inside a hook of this very file: elsewhere the connection's own thread may be
/// using it. `shm_map` works on any thread.
#[derive(Clone)]
pub struct ConnectionFile(Arc<FileLife>);

/// What a [`ConnectionFile`] and its regions share with the shim's file.
pub(super) struct FileLife {
    file: *mut sys::sqlite3_file,
    /// The thread that is inside a hook of this file, as [`thread_token`]; 0: none.
    in_hook: AtomicUsize,
    /// Held for reading while a region is pinned, for writing to unmap.
    mapping: RwLock<Mapping>,
    generation: u32,
    pub(super) mark: ReadMark,
    pub(super) resets: ResetGuard,
    vfs: &'static Registration,
}

/// The shared memory of a connection comes and goes with its journal mode.
#[derive(Clone, Copy, Default)]
struct Mapping {
    is_there: bool,
    /// Counts mappings, so that a region of an earlier one is never taken for one of the present.
    epoch: u64,
}

// SAFETY: `file` is used only under the rules of `read`, `size` and `shm_map` below.
unsafe impl Send for FileLife {}
// SAFETY: as above.
unsafe impl Sync for FileLife {}

/// A number that no other living thread has. The variable has no destructor, so it works at process exit too.
fn thread_token() -> usize {
    thread_local!(static HERE: u8 = const { 0 });
    HERE.with(|here| std::ptr::from_ref(here) as usize)
}

impl FileLife {
    /// # Safety
    /// `file` stays at its place and open until [`FileLife::unmapped`] and the last hook have returned.
    pub(super) unsafe fn new(vfs: &'static Registration, file: *mut sys::sqlite3_file) -> Arc<FileLife> {
        Arc::new(FileLife {
            file,
            in_hook: AtomicUsize::new(0),
            mapping: RwLock::default(),
            generation: os::fork_generation(),
            mark: ReadMark::new(),
            resets: ResetGuard::default(),
            vfs,
        })
    }

    pub(super) fn handle(self: &Arc<Self>) -> ConnectionFile {
        ConnectionFile(Arc::clone(self))
    }

    pub(super) fn generation(&self) -> u32 {
        self.generation
    }

    pub(super) fn enter_hook(&self) {
        self.in_hook.store(thread_token(), Ordering::Release);
    }

    pub(super) fn leave_hook(&self) {
        self.in_hook.store(0, Ordering::Release);
    }

    /// xShmMap answered `memory` on the connection's own account.
    ///
    /// # Safety
    /// It is [`SHM_REGION_BYTES`] long and stays until [`FileLife::unmapped`].
    pub(super) unsafe fn mapped(self: &Arc<Self>, memory: NonNull<c_void>) -> ShmRegion {
        let mut now = *self.mapping.read();
        if !now.is_there {
            let mut mapping = self.mapping.write();
            now = Mapping { is_there: true, epoch: mapping.epoch + 1 };
            *mapping = now;
        }
        ShmRegion { life: Arc::clone(self), words: memory.cast(), epoch: now.epoch }
    }

    /// Call before xShmUnmap and before xClose: waits for pinned regions, and no later pin succeeds.
    pub(super) fn unmapped(&self) {
        // A forked child has a copy of the lock, but not the thread that may hold it.
        if self.generation == os::fork_generation() {
            self.mapping.write().is_there = false;
        }
    }
}

impl ConnectionFile {
    /// As [`BaseFile::read`].
    ///
    /// # Errors
    /// `Io`; `Busy` outside a hook of this file.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let file = self.file_in_hook()?;
        // SAFETY: inside a hook the file is open and its connection waits for us.
        unsafe { read_file(file, offset, buffer) }
            .map_err(|rc| code::fault(rc, 0, "read", Path::new("the database")))
    }

    /// # Errors
    /// As `read`.
    pub fn size(&self) -> Result<u64> {
        let file = self.file_in_hook()?;
        // SAFETY: as in `read`.
        unsafe { file_size(file) }.map_err(|rc| code::fault(rc, 0, "size", Path::new("the database")))
    }

    /// Gives the read mark back that a commit in WAL mode still holds, so that the WAL can start over while the committer
    /// waits; not where somebody may be reading under it. Only inside [`MainHooks::committed`] of this file.
    ///
    /// [`MainHooks::committed`]: super::hooks::MainHooks::committed
    ///
    /// # Errors
    /// As `read`.
    pub fn release_read_mark(&self) -> Result<bool> {
        let file = self.file_in_hook()?;
        // SAFETY: inside the hook the file is open and its connection waits for us.
        Ok(unsafe { self.0.mark.release(self.0.vfs.api(), file) })
    }

    /// Whether the SQLite of this connection has its WAL-reset bug.
    #[must_use]
    pub fn has_wal_reset_bug(&self) -> bool {
        // SAFETY: takes no argument and may be called at any time (c3ref/libversion.html).
        has_bug(unsafe { (self.0.vfs.api().libversion_number)() })
    }

    /// From now on a checkpoint of this connection, and a restart of the WAL by it, never meet the other.
    pub fn keep_resets_apart(&self) {
        self.0.resets.turn_on();
    }

    fn file_in_hook(&self) -> Result<*mut sys::sqlite3_file> {
        if self.0.in_hook.load(Ordering::Acquire) != thread_token() {
            return Err(Error::busy("cannot use a connection's file outside its hooks"));
        }
        Ok(self.0.file)
    }

    /// The wal-index region, if the connection has shared memory now and the region exists; never extends it.
    #[must_use]
    pub fn shm_map(&self, region: u32) -> Option<ShmRegion> {
        if self.0.generation != os::fork_generation() {
            return None;
        }
        let mapping = self.0.mapping.read();
        if !mapping.is_there {
            return None;
        }
        let mut memory: *mut c_void = std::ptr::null_mut();
        let _calling = os::not_during_fork();
        // SAFETY: while `mapping` is held neither xShmUnmap nor xClose has begun, and the base's xShmMap locks
        // its own mutex once the file has shared memory (os_unix.c, unixShmMap).
        let rc = unsafe {
            let method = (*(*self.0.file).pMethods).xShmMap?;
            let bytes = SHM_REGION_BYTES as c_int;
            method(self.0.file, c_int::try_from(region).ok()?, bytes, 0, &raw mut memory)
        };
        let memory =
            NonNull::new(memory).filter(|_| matches!(rc & 0xff, sys::SQLITE_OK | sys::SQLITE_READONLY))?;
        Some(ShmRegion { life: Arc::clone(&self.0), words: memory.cast(), epoch: mapping.epoch })
    }
}

/// One 32 KiB region of a wal-index. Owning it pins nothing; see [`ShmRegion::pin`].
#[derive(Clone)]
pub struct ShmRegion {
    life: Arc<FileLife>,
    words: NonNull<u32>,
    epoch: u64,
}

// SAFETY: memory shared between processes, read only by atomic loads through a pin.
unsafe impl Send for ShmRegion {}
// SAFETY: as above.
unsafe impl Sync for ShmRegion {}

impl ShmRegion {
    /// The region's words, held in place: the connection's xShmUnmap and xClose wait for the view to go. So
    /// keep it for one bounded scan, and wait for nothing meanwhile. Several may be held at once.
    /// `None` once the connection has let go of its shared memory, and in a forked child.
    #[must_use]
    pub fn pin(&self) -> Option<ShmView<'_>> {
        if self.life.generation != os::fork_generation() {
            return None;
        }
        let mapping = self.life.mapping.read();
        let is_there = mapping.is_there && mapping.epoch == self.epoch;
        is_there.then_some(ShmView { words: self.words, _mapping: mapping })
    }
}

/// A pinned region. All loads are relaxed: put [`ShmView::fence`] where order matters.
pub struct ShmView<'a> {
    words: NonNull<u32>,
    _mapping: RwLockReadGuard<'a, Mapping>,
}

impl ShmView<'_> {
    /// The native-endian word `0..8192`.
    ///
    /// # Panics
    /// When `word` is out of range.
    #[must_use]
    pub fn load(&self, word: usize) -> u32 {
        assert!(word < SHM_REGION_WORDS, "BUG: a region has 8192 words");
        // SAFETY: in range and mapped while the view lives; other processes write it in whole words.
        unsafe { AtomicU32::from_ptr(self.words.as_ptr().add(word)) }.load(Ordering::Relaxed)
    }

    /// The native-endian half word `0..16384`.
    ///
    /// # Panics
    /// When `index` is out of range.
    #[must_use]
    pub fn load_u16(&self, index: usize) -> u16 {
        assert!(index < SHM_REGION_WORDS * 2, "BUG: a region has 16384 half words");
        // SAFETY: as in `load`.
        unsafe { AtomicU16::from_ptr(self.words.as_ptr().cast::<u16>().add(index)) }.load(Ordering::Relaxed)
    }

    /// Loads before it happen before loads after it; the counterpart of the writer's xShmBarrier.
    pub fn fence(&self) {
        fence(Ordering::SeqCst);
    }
}
