//! What the VFS asks of the rest of the crate, as safe traits.
//!
//! ```text
//! xOpen --> VfsHooks::open --> PassThrough          base file, no wrapper
//!                              Refuse(text)         stub file; the open fails with the text
//!                              Main(pending)        base opened, pending.opened(file) --> MainHooks
//!                              Wal(hooks)           base opened, WalHooks; also for a rollback journal
//! ```
//!
//! Promises to the implementor:
//! - every call is made inside a guard. A panic is caught, told to `panicked`, and from then on that file
//!   passes straight through to the base VFS: no hook of it is called again, `after_close` and `closed` apart;
//! - calls on one file never overlap (SQLite holds the connection's mutex); calls on two files may;
//! - after a `fork`, in the child, no hook of a file opened before is ever called, and the hooks objects are
//!   leaked instead of dropped.
//!
//! Asked of the implementor: no network and no long work, but in the calls that may refuse; no panic across threads of its own.
//! Source: the sequences of <https://sqlite.org/c3ref/io_methods.html> and <https://sqlite.org/walformat.html>.

use std::any::Any;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;

pub use super::base::{BaseFile, BaseVfs};
pub use super::connection_file::{ConnectionFile, ShmRegion, ShmView};

/// Decisions for a whole VFS; one object serves every SQLite library of the process.
pub trait VfsHooks: Send + Sync {
    /// Every xOpen, before the base VFS is asked. Nothing has been created yet.
    fn open(&self, request: &OpenRequest<'_>) -> OpenPlan;

    /// Every xDelete, before it. `path` is as SQLite gives it (normally absolute).
    fn before_delete(&self, path: &Path) {
        let _ = path;
    }

    /// The end of every `sqlite3_open` of a library that loaded us, whatever its VFS.
    ///
    /// # Errors
    /// The open fails with SQLITE_CANTOPEN and this text.
    fn connection_opened(&self, opened: &OpenedConnection<'_>) -> Result<(), String> {
        let _ = opened;
        Ok(())
    }

    /// A panic was caught in a call on this object: later calls are not made, all later opens pass through. Or in
    /// [`PendingMain::opened`]: then only that file passes through.
    fn panicked(&self, text: &str) {
        let _ = text;
    }
}

/// What kind of file SQLite opens, as far as we care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    Main,
    MainJournal,
    Wal,
    /// Temporary databases and journals, sub-journals, super-journals.
    Other,
}

/// One xOpen.
pub struct OpenRequest<'a> {
    /// `None`: an unnamed temporary file. Main databases come with the full path, symlinks resolved by SQLite.
    pub path: Option<&'a Path>,
    pub kind: FileKind,
    pub read_only: bool,
    pub create: bool,
    /// The raw `SQLITE_OPEN_*` bits.
    pub flags: i32,
    /// The application named `replvfs` (as argument or `vfs=`); false when it came to us as the default VFS.
    pub named_explicitly: bool,
    /// We are registered as the default VFS of this SQLite library.
    pub default_vfs: bool,
    /// The VFS below us, to keep for own reads.
    pub base: BaseVfs,
    pub(in crate::ffi) parameters: Vec<(&'a OsStr, &'a OsStr)>,
}

impl<'a> OpenRequest<'a> {
    /// The URI parameter `name`, percent-decoded; the first one when it is given twice. Main databases only.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&'a OsStr> {
        self.parameters().find(|(key, _)| *key == name).map(|(_, value)| value)
    }

    /// All URI parameters in order, percent-decoded, byte for byte. Main databases only.
    pub fn parameters(&self) -> impl Iterator<Item = (&'a OsStr, &'a OsStr)> + '_ {
        self.parameters.iter().copied()
    }
}

/// A connection whose `sqlite3_open` is about to succeed.
pub struct OpenedConnection<'a> {
    /// The main database; `None` for `:memory:`, `mode=memory` and unnamed temporary databases, where
    /// SQLite never calls xOpen and keeps no URI parameters.
    pub path: Option<&'a Path>,
    /// Its VFS is ours.
    pub ours: bool,
    /// As in [`OpenRequest::named_explicitly`]; false unless `ours`.
    pub named_explicitly: bool,
}

/// The answer to [`VfsHooks::open`].
pub enum OpenPlan {
    /// The base VFS's file, without a wrapper: we never see it again.
    PassThrough,
    /// The open fails and the application reads this text; nothing is created.
    Refuse(String),
    /// Open the base, then ask for the hooks. Only for [`FileKind::Main`].
    Main(Box<dyn PendingMain>),
    /// Open the base and follow it. Only for [`FileKind::Wal`] and [`FileKind::MainJournal`].
    Wal(Arc<dyn WalHooks>),
}

/// A commit is durable locally and has not reached the replica. The text says why, and what becomes of it.
pub struct NotAcknowledged(pub String);

/// A write that may not begin; nothing is changed. The text says why.
pub enum MayNotWrite {
    /// SQLITE_BUSY: it may be tried again.
    Yet(String),
    /// `SQLITE_READONLY | (200 << 8)`.
    AnyMore(String),
}

/// A main database about to be opened. Dropped when the base VFS could not open it.
pub trait PendingMain {
    /// The base xOpen succeeded.
    ///
    /// # Errors
    /// The base file is closed again (a file it created stays) and the open fails with this text.
    fn opened(self: Box<Self>, file: ConnectionFile) -> Result<Arc<dyn MainHooks>, String>;
}

/// A main database file of one connection. All calls come on the thread that uses the connection.
pub trait MainHooks: Send + Sync {
    /// For `Connection::main_hooks`: the way back from a schema name to the implementor's own type.
    fn as_any(&self) -> &dyn Any;

    /// Before xWrite, and before [`MainHooks::before_write`].
    ///
    /// # Errors
    /// The write is not made, and SQLite is told; the text goes to sqlite3_log.
    fn admit_write(&self, offset: u64, bytes: &[u8]) -> Result<(), MayNotWrite> {
        let _ = (offset, bytes);
        Ok(())
    }

    /// Before xWrite. Comes for rollback commits, journal playback and checkpoints alike.
    fn before_write(&self, offset: u64, bytes: &[u8]) {
        let _ = (offset, bytes);
    }

    /// Before xTruncate to `size` bytes.
    fn before_truncate(&self, size: u64) {
        let _ = size;
    }

    /// SQLITE_FCNTL_COMMIT_PHASETWO, after the base answered it: the transaction is durable locally.
    /// Also sent for transactions that changed nothing. WAL: the read mark is still held, the WRITE lock is
    /// not. Rollback modes: EXCLUSIVE is held.
    ///
    /// # Errors
    /// COMMIT answers `SQLITE_IOERR | (200 << 8)`; the text goes to sqlite3_log.
    fn committed(&self) -> Result<(), NotAcknowledged> {
        Ok(())
    }

    /// Whether COMMIT may only succeed when [`MainHooks::committed`] says so. Reads what never changes.
    fn waits_for_replica(&self) -> bool {
        false
    }

    /// Before RESERVED is asked for, in a rollback mode: a transaction is about to write.
    ///
    /// # Errors
    /// The statement fails; the text goes to sqlite3_log.
    fn before_reserved(&self) -> Result<(), MayNotWrite> {
        Ok(())
    }

    /// Before the lock slot of who writes to the WAL is asked for: by who writes, resets or truncates it, and by who recovers it.
    ///
    /// # Errors
    /// As those of [`MainHooks::before_reserved`].
    fn before_wal_write(&self) -> Result<(), MayNotWrite> {
        Ok(())
    }

    /// RESERVED, or the lock slot of who writes to the WAL, was asked for and not granted.
    fn write_lock_refused(&self) {}

    /// xLock succeeded. Levels: 1 SHARED, 2 RESERVED, 3 PENDING, 4 EXCLUSIVE.
    fn locked(&self, level: i32) {
        let _ = level;
    }

    /// Before xUnlock down to `level` (0 or 1).
    fn before_unlock(&self, level: i32) {
        let _ = level;
    }

    /// xShmMap succeeded for `region` (each time SQLite asks; normally once per region and connection).
    fn shm_region(&self, region: u32, view: ShmRegion) {
        let _ = (region, view);
    }

    /// Before an EXCLUSIVE xShmLock of slots `first..first + count` is asked for: it may still fail.
    fn before_shm_lock(&self, first: i32, count: i32) {
        let _ = (first, count);
    }

    /// An EXCLUSIVE xShmLock was granted.
    fn after_shm_lock(&self, first: i32, count: i32) {
        let _ = (first, count);
    }

    /// After an EXCLUSIVE xShmLock was given back.
    fn after_shm_unlock(&self, first: i32, count: i32) {
        let _ = (first, count);
    }

    /// Before xShmUnmap. When it returns, regions can no longer be pinned: see [`ShmRegion::pin`].
    fn before_shm_unmap(&self, delete: bool) {
        let _ = delete;
    }

    /// SQLITE_FCNTL_CKPT_START: before the first write of a checkpoint. Absent from SQLite 3.31.
    fn checkpoint_started(&self) {}

    /// Before xClose: the last moment the [`ConnectionFile`] works.
    fn before_close(&self) {}

    /// After xClose; also after a panic. The hooks object is dropped next (unless others hold it).
    fn after_close(&self) {}

    /// A panic was caught in a call on this object: the file passes straight through from now on.
    fn panicked(&self, text: &str) {
        let _ = text;
    }
}

/// The WAL file of one connection, or its rollback journal.
pub trait WalHooks: Send + Sync {
    /// As [`MainHooks::admit_write`].
    ///
    /// # Errors
    /// The same.
    fn admit_write(&self, offset: u64, bytes: &[u8]) -> Result<(), MayNotWrite> {
        let _ = (offset, bytes);
        Ok(())
    }

    fn before_write(&self, offset: u64, bytes: &[u8]) {
        let _ = (offset, bytes);
    }

    fn before_truncate(&self, size: u64) {
        let _ = size;
    }

    /// After xClose; also after a panic.
    fn closed(&self) {}

    /// As [`MainHooks::panicked`].
    fn panicked(&self, text: &str) {
        let _ = text;
    }
}
