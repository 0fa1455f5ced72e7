//! What is watched at the main database file of one connection.
//!
//! ```text
//! WAL      commit phase two     compare the wal-index with what was last seen
//!          lock slots 4..8      a restart: note what is left, before bytes vanish
//!          shm unmap            the last look at this wal-index
//! rollback RESERVED granted     compare the change tag with what we last wrote
//!          write                note the pages first
//!          commit phase two     note them again, hand pages to the worker if it asks
//! ```
//!
//! In `locking_mode=EXCLUSIVE` nobody tells of a rollback; there a rollback journal that was put away does. A first
//! transaction under such a lock, or one without a journal file, that is rolled back after it wrote to the file keeps
//! capture waiting until the next commit or close.
//!
//! Promise: with `replica_durability=async` no call here waits for the replica, takes a lock that the worker holds for
//! long, or changes what SQLite is told. With `commit`, phase two waits, and may answer that the replica lacks it. Sequences: SQLite's `wal.c` (walRestartLog, walCheckpoint) and `pager.c` (pager_end_transaction).

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::capture::{Files, cycle_of};
use crate::clock::Deadline;
use crate::database::{
    Connected, ConnectionId, Database, FRAMES_LONG, Runtime, ShmWal, Writing, beside, flush, is_hot,
};
use crate::error::{Error, Kind, Result};
use crate::ffi::hooks::{ConnectionFile, MainHooks, MayNotWrite, NotAcknowledged, ShmRegion};
use crate::lock::Mutex;
use crate::sqlite::header::{TAG_LEN, TAG_OFFSET, change_tag};
use crate::sqlite::wal_index::NO_SALTS;
#[cfg(test)]
use crate::testing::mutation::{self, Mutation};

/// Lock slots of the readers 1 to 4: a restart of the WAL asks for all of them at once.
const READERS: (i32, i32) = (4, 4);
/// Lock slot of who writes to the WAL.
const WRITE: i32 = 0;
/// Lock slot of who runs a checkpoint.
const CHECKPOINT: i32 = 1;
const RESERVED: i32 = 2;
const EXCLUSIVE: i32 = 4;
/// Reads of the end of the WAL until one falls between two commits.
const POSITION_TRIES: u32 = 16;
/// Writes of one transaction that are remembered to be noted again at its commit; beyond that, every page is.
const WRITES_MAX: usize = 1 << 16;

/// What a rollback-mode transaction has written.
#[derive(Default)]
struct Transaction {
    writes: Vec<(u64, usize)>,
    many: bool,
    doing: Writing,
    /// The journal as it was opened at the first write; looked at only where the lock is never given back.
    journal: Option<std::fs::File>,
}

pub struct MainFile {
    /// The same as `connected.db`, for short.
    db: Arc<Database>,
    connected: Connected,
    file: ConnectionFile,
    wal: Arc<ShmWal>,
    /// This connection has written since its last commit, in a rollback mode.
    writing: AtomicBool,
    exclusive: AtomicBool,
    /// RESERVED was asked for. EXCLUSIVE without it plays back a journal that somebody left.
    reserved: AtomicBool,
    /// It asks for the lock of who writes, or holds it, and who hands the lease back knows.
    is_writer: AtomicBool,
    /// EXCLUSIVE has outlived a commit: `locking_mode=EXCLUSIVE`, where nobody tells of a rollback.
    kept: AtomicBool,
    // Guards the list of writes; only this connection's thread takes it.
    transaction: Mutex<Transaction>,
    /// Salts of the cycle that was noted to its end before a restart was tried; 0: none.
    drained: AtomicU64,
    // Guards salts and last frame as they were at the last commit.
    seen: Mutex<Option<(u32, u32, u32)>>,
}

impl MainFile {
    pub fn new(db: Arc<Database>, id: ConnectionId, file: ConnectionFile, wal: Arc<ShmWal>) -> MainFile {
        MainFile {
            connected: Connected::new(Arc::clone(&db), id),
            db,
            file,
            wal,
            writing: AtomicBool::new(false),
            exclusive: AtomicBool::new(false),
            reserved: AtomicBool::new(false),
            is_writer: AtomicBool::new(false),
            kept: AtomicBool::new(false),
            transaction: Mutex::default(),
            drained: AtomicU64::new(0),
            seen: Mutex::new(None),
        }
    }

    fn tag(&self) -> Option<u64> {
        let mut bytes = [0; TAG_LEN];
        let there = self.file.read(TAG_OFFSET, &mut bytes).ok()?;
        (there == TAG_LEN).then(|| change_tag(&bytes))
    }

    /// Notes everything this wal-index shows.
    fn note_wal(&self) -> Option<u64> {
        let noted = self.db.notes.note(&*self.wal, &self.db.state, &self.db.noted)?;
        if noted.went_cold {
            self.db.went_cold("a program without the extension restarted the WAL");
        }
        Some(noted.header.salts)
    }

    fn committed_wal(&self) -> bool {
        let now = self.wal.glance();
        let mut seen = self.seen.lock();
        let changed = *seen != now;
        *seen = now;
        changed
    }

    fn committed_exclusive(&self) {
        if let Err(error) = self.db.committed_exclusive(self.db.take_written()) {
            // What cannot be read now is read when the WAL is next looked at; until then nothing is proven.
            self.db.noted.note_all();
            self.db.went_cold(&error.to_string());
        }
    }

    fn committed_rollback(&self) -> bool {
        if !self.writing.swap(false, Ordering::Relaxed) {
            return false;
        }
        let state = &self.db.state;
        let written = state.tag_written();
        if written != 0 {
            state.set_tag(written);
            state.set_tag_written(0);
        }
        let transaction = std::mem::take(&mut *self.transaction.lock());
        if transaction.many {
            self.db.noted.note_all();
        }
        // A note can have been taken between it and the write it announced.
        transaction.writes.iter().for_each(|&(offset, len)| self.db.note_write(offset, len));
        self.db.connections.set_writing(self.connected.id, Writing::No);
        self.kept.store(self.exclusive.load(Ordering::Relaxed), Ordering::Relaxed);
        self.db.at_rest();
        if self.db.handoff.is_wanted() {
            self.db.handoff.serve(&OwnFile(&self.file), &self.db.noted);
        }
        true
    }

    fn wait_for_replica(&self, in_wal_mode: bool) -> Result<(), NotAcknowledged> {
        let _stand = (!in_wal_mode).then(|| self.db.standing.stand());
        let frames = self.wal.glance().map_or(0, |(_, _, frames)| frames);
        // Somebody who commits this moment hides it; then the worker of this process says when it is over.
        let position = (0..POSITION_TRIES).find_map(|_| self.wal.position());
        if frames > FRAMES_LONG {
            // What hinders it costs disk, no more.
            let _ = self.file.release_read_mark();
        }
        self.db.wait_for_commit(frames, position).map_err(|error| NotAcknowledged(error.to_string()))
    }

    /// Who hands the lease back closes the gate first and looks for writers then: one of the two sees the other.
    fn may_write(&self) -> Result<(), MayNotWrite> {
        self.set_writer(self.db.is_leased());
        self.db.pass_gate().map_err(|error| {
            self.set_writer(false);
            match error.kind() {
                Kind::Busy => MayNotWrite::Yet(error.to_string()),
                _ => MayNotWrite::AnyMore(error.to_string()),
            }
        })
    }

    fn set_writer(&self, is_writer: bool) {
        if self.is_writer.swap(is_writer, Ordering::Relaxed) != is_writer {
            self.db.connections.set_writer(self.connected.id, is_writer);
        }
    }

    /// This transaction writes under a lock that was there before it, and without a journal, which would have been asked
    /// whether the lease is held: nobody was.
    fn is_ungated(&self) -> bool {
        self.db.is_leased()
            && self.kept.load(Ordering::Relaxed)
            && !self.db.connections.has_wal()
            && self.doing(&mut self.transaction.lock().journal) != Writing::Journaled
    }

    /// The file holds these bytes: SQLite rolls back what was refused, and must be let to.
    fn is_there(&self, offset: u64, bytes: &[u8]) -> bool {
        let mut there = vec![0; bytes.len()];
        self.file.read(offset, &mut there).is_ok_and(|read| read == bytes.len()) && there == bytes
    }

    /// Whether this write can be undone from a journal on disk.
    fn doing(&self, journal: &mut Option<std::fs::File>) -> Writing {
        if !self.kept.load(Ordering::Relaxed) {
            return Writing::Unknown;
        }
        let path = beside(&self.db.path, "-journal");
        if journal.is_none() {
            *journal = std::fs::File::open(&path).ok();
        }
        let hot = journal.as_ref().is_some_and(|file| is_hot(file, &path).unwrap_or(false));
        if hot { Writing::Journaled } else { Writing::Unknown }
    }

    fn write_rollback(&self, offset: u64, bytes: &[u8]) {
        self.db.writes.fetch_add(1, Ordering::SeqCst);
        let mut transaction = self.transaction.lock();
        let first = !self.writing.swap(true, Ordering::Relaxed);
        let doing = if first || transaction.doing == Writing::Journaled {
            self.doing(&mut transaction.journal)
        } else {
            transaction.doing
        };
        if transaction.doing != doing {
            transaction.doing = doing;
            self.db.connections.set_writing(self.connected.id, doing);
        }
        self.db.note_write(offset, bytes.len());
        if transaction.writes.len() < WRITES_MAX {
            transaction.writes.push((offset, bytes.len()));
        } else {
            transaction.many = true;
        }
        drop(transaction);
        let end = (TAG_OFFSET as usize) + TAG_LEN;
        if offset == 0 && bytes.len() >= end {
            let tag = bytes[TAG_OFFSET as usize..end].try_into().expect("BUG: a range of 16 bytes");
            self.db.state.set_tag_written(change_tag(tag));
        }
    }
}

/// The connection's own file, inside its hooks.
struct OwnFile<'a>(&'a ConnectionFile);

impl Files for OwnFile<'_> {
    fn read_database(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        self.0.read(offset, buffer)
    }

    fn database_size(&self) -> Result<u64> {
        self.0.size()
    }

    fn read_wal(&self, _: u64, _: &mut [u8]) -> Result<usize> {
        Err(Error::invalid("a database in a rollback mode has no WAL"))
    }

    fn wal_size(&self) -> Result<u64> {
        Ok(0)
    }
}

impl MainHooks for MainFile {
    fn as_any(&self) -> &dyn Any {
        &self.connected
    }

    fn admit_write(&self, offset: u64, bytes: &[u8]) -> Result<(), MayNotWrite> {
        if self.is_ungated() && !self.is_there(offset, bytes) {
            return Err(MayNotWrite::AnyMore(self.db.cannot_gate()));
        }
        Ok(())
    }

    fn before_write(&self, offset: u64, bytes: &[u8]) {
        if !self.db.connections.has_wal() {
            // Where nothing is let through, nothing is changed either.
            if !self.is_ungated() {
                self.write_rollback(offset, bytes);
            }
        } else {
            self.db.file_changes();
            if !self.wal.is_mapped() {
                self.db.exclusive_wal.checkpointing();
            }
        }
    }

    fn before_truncate(&self, _: u64) {
        self.db.file_changes();
        if !self.db.connections.has_wal() {
            self.db.writes.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn committed(&self) -> Result<(), NotAcknowledged> {
        let in_wal_mode = self.db.connections.has_wal();
        let changed = if self.wal.is_mapped() {
            self.committed_wal()
        } else if self.db.connections.has_wal() {
            self.committed_exclusive();
            true
        } else {
            self.committed_rollback()
        };
        if changed {
            self.db.changed();
            self.connected.committed();
        }
        if changed && self.db.waits_for_replica() { self.wait_for_replica(in_wal_mode) } else { Ok(()) }
    }

    fn waits_for_replica(&self) -> bool {
        self.db.waits_for_replica()
    }

    fn before_reserved(&self) -> Result<(), MayNotWrite> {
        self.may_write()
    }

    fn before_wal_write(&self) -> Result<(), MayNotWrite> {
        // Without a header it is for a recovery, which readers need too.
        if self.wal.position().is_some() { self.may_write() } else { Ok(()) }
    }

    fn write_lock_refused(&self) {
        self.set_writer(false);
    }

    fn locked(&self, level: i32) {
        if level == RESERVED && !self.reserved.swap(true, Ordering::Relaxed) {
            self.db.connections.set_reserved(true);
        }
        if level == EXCLUSIVE && !self.exclusive.swap(true, Ordering::Relaxed) {
            if !self.reserved.load(Ordering::Relaxed) {
                self.writing.store(true, Ordering::Relaxed);
                self.transaction.lock().doing = Writing::Journaled;
                self.db.connections.set_writing(self.connected.id, Writing::Journaled);
            }
            self.db.connections.set_exclusive(self.connected.id, true);
        }
        if level != RESERVED || self.db.connections.has_wal() {
            return;
        }
        // Nobody can commit from here on; has anybody since our last commit?
        let Some(tag) = self.tag() else { return };
        let state = &self.db.state;
        // A tag that we wrote and did not commit is no proof: it was rolled back, and who commits next counts the same.
        if tag != state.tag() {
            self.db.noted.note_all();
            self.db.went_cold("a program without the extension committed");
            // Where page 1 proves nothing, only the commit makes it a proof again.
            if state.tag() != 0 {
                state.set_tag(tag);
            }
        }
    }

    fn before_unlock(&self, level: i32) {
        if level >= EXCLUSIVE {
            return;
        }
        self.set_writer(false);
        if self.reserved.swap(false, Ordering::Relaxed) {
            self.db.connections.set_reserved(false);
        }
        self.kept.store(false, Ordering::Relaxed);
        if self.exclusive.swap(false, Ordering::Relaxed) {
            self.db.connections.set_exclusive(self.connected.id, false);
        }
        if self.writing.swap(false, Ordering::Relaxed) {
            // Rolled back: the pages stay noted and will be found unchanged.
            self.db.connections.set_writing(self.connected.id, Writing::No);
            *self.transaction.lock() = Transaction::default();
        }
    }

    fn shm_region(&self, region: u32, view: ShmRegion) {
        let first = region == 0 && self.db.connections.mapped().is_none();
        self.wal.add(region, view);
        if first && self.db.state.cycle().is_none() && !self.db.is_at_rest() {
            self.db.noted.note_all();
            self.db.went_cold("the database was changed before its WAL was opened");
        }
    }

    fn after_shm_lock(&self, first: i32, _: i32) {
        if first == CHECKPOINT {
            self.db.turn.began();
        }
    }

    fn before_shm_lock(&self, first: i32, count: i32) {
        #[cfg(test)]
        if (first, count) == READERS && mutation::is(Mutation::LostDrain) {
            let shown = crate::capture::WalView::header(&*self.wal).map_or(NO_SALTS, |header| header.salts);
            return self.drained.store(shown, Ordering::Relaxed);
        }
        if (first, count) == READERS {
            self.drained.store(self.note_wal().unwrap_or(NO_SALTS), Ordering::Relaxed);
        }
    }

    fn after_shm_unlock(&self, first: i32, count: i32) {
        if first == WRITE {
            self.set_writer(false);
        }
        if first == CHECKPOINT {
            self.db.turn.ended();
        }
        let drained = self.drained.swap(NO_SALTS, Ordering::Relaxed);
        if (first, count) == READERS && cycle_of(drained).is_some() {
            self.db.notes.restarted(drained, &*self.wal, &self.db.state);
        }
    }

    fn before_shm_unmap(&self, delete: bool) {
        if self.note_wal().is_none() {
            self.db.noted.note_all();
            self.db.went_cold("the wal-index could not be read at the end");
        }
        self.db.connections.shm_unmapped();
        if delete {
            // Checkpointed, and EXCLUSIVE is held: the file is the whole state from here on.
            self.db.state.set_cycle(None);
            self.db.state.set_tag(self.tag().unwrap_or(0));
            self.db.at_rest();
            self.db.wal_goes();
        } else if self.db.connections.mapped_count() == 1 {
            flush(&self.db, Deadline::after(self.db.settings.flush_timeout));
        }
    }

    fn after_close(&self) {
        Runtime::get().closed(&self.db, self.connected.id);
    }

    fn panicked(&self, text: &str) {
        self.db.halt(text);
    }
}
