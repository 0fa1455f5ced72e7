//! The connections of this process to one database: what they have mapped, and what they hold.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::followed::Database;
use super::shm_wal::ShmWal;
use crate::lock::Mutex;
use crate::types::Txid;

/// Names a connection's main file for its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionId(u64);

/// One connection's hold on its database: what the SQL functions find behind a schema.
pub struct Connected {
    pub db: Arc<Database>,
    pub id: ConnectionId,
    /// Number of the group that holds this connection's last commit, at the latest; 0: no commit yet.
    txid: AtomicU64,
}

impl Connected {
    pub fn new(db: Arc<Database>, id: ConnectionId) -> Connected {
        Connected { db, id, txid: AtomicU64::new(0) }
    }

    /// This connection has committed; call it after the commit is published.
    pub fn committed(&self) {
        self.txid.store(self.db.state.open_txid().map_or(1, Txid::get), Ordering::SeqCst);
        self.db.committed();
    }

    /// Txid of the first group that holds this connection's last commit.
    pub fn txid(&self) -> Option<Txid> {
        let newest = self.db.txid();
        match Txid::new(self.txid.load(Ordering::SeqCst)) {
            Some(own) => newest.map(|newest| own.min(newest)),
            None => newest,
        }
    }
}

/// What a connection does to the database file, in a rollback mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Writing {
    /// Nothing since its last commit.
    #[default]
    No,
    /// Each write found a journal on disk to undo it: the transaction lasts as long as that one is hot.
    Journaled,
    /// A transaction is open until its commit or until the lock goes.
    Unknown,
}

struct Entry {
    id: ConnectionId,
    wal: Arc<ShmWal>,
    /// EXCLUSIVE is held.
    exclusive: bool,
    writing: Writing,
    /// It asks for the lock of who writes, or holds it. Known where a lease decides over who may.
    is_writer: bool,
}

#[derive(Default)]
struct Inner {
    next: u64,
    entries: Vec<Entry>,
    /// WAL files open in this process.
    wal_files: usize,
    shm_unmapped: bool,
}

/// See [`Connections::as_writer`].
pub struct AsWriter<'a>(&'a Connections, ConnectionId);

impl Drop for AsWriter<'_> {
    fn drop(&mut self) {
        self.0.set_writer(self.1, false);
    }
}

#[derive(Default)]
pub struct Connections {
    // Guards the table; never held across I/O.
    inner: Mutex<Inner>,
    /// How many hold RESERVED, in rollback modes: one, or none.
    reserved: AtomicUsize,
}

impl Connections {
    /// A connection of this process has a transaction open that may write, in a rollback mode.
    pub fn set_reserved(&self, is_reserved: bool) {
        if is_reserved {
            self.reserved.fetch_add(1, Ordering::Relaxed);
        } else {
            self.reserved.fetch_sub(1, Ordering::Relaxed);
        }
    }

    pub fn is_reserved(&self) -> bool {
        self.reserved.load(Ordering::Relaxed) > 0
    }

    pub fn add(&self, wal: Arc<ShmWal>) -> ConnectionId {
        let mut inner = self.inner.lock();
        inner.next += 1;
        let id = ConnectionId(inner.next);
        inner.entries.push(Entry { id, wal, exclusive: false, writing: Writing::No, is_writer: false });
        id
    }

    /// `true`: that was the last one.
    pub fn remove(&self, id: ConnectionId) -> bool {
        let mut inner = self.inner.lock();
        inner.entries.retain(|e| e.id != id);
        inner.entries.is_empty()
    }

    pub fn is_empty(&self) -> bool {
        self.inner.lock().entries.is_empty()
    }

    /// A connection that has shared memory mapped, if any.
    pub fn mapped(&self) -> Option<Arc<ShmWal>> {
        let inner = self.inner.lock();
        if let [only] = &inner.entries[..] {
            let only = Arc::clone(&only.wal);
            drop(inner);
            return only.is_mapped().then_some(only);
        }
        let candidates: Vec<_> = inner.entries.iter().map(|e| Arc::clone(&e.wal)).collect();
        drop(inner);
        candidates.into_iter().find(|wal| wal.is_mapped())
    }

    /// Connections that have shared memory mapped.
    pub fn mapped_count(&self) -> usize {
        let candidates: Vec<_> = self.inner.lock().entries.iter().map(|e| Arc::clone(&e.wal)).collect();
        candidates.iter().filter(|wal| wal.is_mapped()).count()
    }

    pub fn wal_opened(&self) {
        let mut inner = self.inner.lock();
        inner.wal_files += 1;
        inner.shm_unmapped = false;
    }

    /// A close of a WAL gave its shared memory back, having noted everything. The last one holds EXCLUSIVE and has
    /// nothing mapped, and is no connection that works without shared memory.
    pub fn shm_unmapped(&self) {
        self.inner.lock().shm_unmapped = true;
    }

    /// A connection works on the WAL without shared memory.
    pub fn is_exclusive_wal(&self) -> bool {
        self.exclusive().is_some() && self.mapped().is_none() && !self.inner.lock().shm_unmapped
    }

    /// `true`: no WAL is open any more.
    pub fn wal_closed(&self) -> bool {
        let mut inner = self.inner.lock();
        inner.wal_files = inner.wal_files.saturating_sub(1);
        inner.wal_files == 0
    }

    pub fn has_wal(&self) -> bool {
        self.inner.lock().wal_files > 0
    }

    pub fn set_exclusive(&self, id: ConnectionId, exclusive: bool) {
        self.with(id, |e| e.exclusive = exclusive);
    }

    pub fn set_writing(&self, id: ConnectionId, writing: Writing) {
        self.with(id, |e| e.writing = writing);
    }

    pub fn set_writer(&self, id: ConnectionId, is_writer: bool) {
        self.with(id, |e| e.is_writer = is_writer);
    }

    /// Counts as one who writes, on behalf of that connection, for as long as the value lives.
    pub fn as_writer(&self, id: ConnectionId) -> AsWriter<'_> {
        self.set_writer(id, true);
        AsWriter(self, id)
    }

    /// A connection asks for the lock of who writes, or holds it; with `locking_mode=EXCLUSIVE` for good. `but`: that one
    /// does not count.
    pub fn has_writer(&self, but: Option<ConnectionId>) -> bool {
        self.inner.lock().entries.iter().any(|e| e.is_writer && Some(e.id) != but)
    }

    /// A connection holds that lock for a transaction, or asks for it.
    pub fn has_locked_writer(&self) -> bool {
        self.inner.lock().entries.iter().any(|e| e.is_writer && !e.exclusive)
    }

    /// This connection is in a transaction that writes. `is_autocommit`: nobody began one by name.
    pub fn is_in_write(&self, id: ConnectionId, is_autocommit: bool) -> bool {
        let inner = self.inner.lock();
        let own = inner.entries.iter().find(|e| e.id == id);
        // With `locking_mode=EXCLUSIVE` the locks say nothing.
        own.is_some_and(|e| e.is_writer && !(e.exclusive && is_autocommit))
    }

    /// Some connection of ours holds EXCLUSIVE, and does this.
    pub fn exclusive(&self) -> Option<Writing> {
        self.inner.lock().entries.iter().find(|e| e.exclusive).map(|e| e.writing)
    }

    fn with(&self, id: ConnectionId, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.inner.lock().entries.iter_mut().find(|e| e.id == id) {
            change(entry);
        }
    }
}
