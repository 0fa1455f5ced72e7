//! What is watched at the WAL file of one connection: where it starts over, and, in `locking_mode=EXCLUSIVE`
//! without shared memory, which frames a transaction has written. And, where a lease decides over who may write, at
//! WAL and journal: that no transaction begins to write there without it, whatever locks are held.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::database::Database;
use crate::ffi::hooks::{MayNotWrite, WalHooks};
use crate::sqlite::wal::{FRAME_HEADER_LEN, HEADER_LEN, parse_header};
use crate::types::PageSize;

/// Zeros over the beginning of a journal end its transaction (zeroJournalHdr in SQLite's `pager.c`).
const JOURNAL_END: usize = 28;

pub struct WalFile {
    db: Arc<Database>,
    page_size: AtomicU32,
}

impl WalFile {
    pub fn new(db: Arc<Database>) -> WalFile {
        db.connections.wal_opened();
        let page_size = AtomicU32::new(db.page_size().map_or(0, PageSize::get));
        WalFile { db, page_size }
    }

    /// Before bytes of a WAL without wal-index vanish: note what it holds.
    fn drain_exclusive(&self) {
        if let Err(error) = self.db.committed_exclusive(None) {
            self.db.noted.note_all();
            self.db.went_cold(&error.to_string());
        }
    }

    fn is_exclusive(&self) -> bool {
        self.db.connections.is_exclusive_wal()
    }
}

impl WalHooks for WalFile {
    /// With `locking_mode=EXCLUSIVE` no lock is asked for before a frame is written.
    fn admit_write(&self, _: u64, bytes: &[u8]) -> Result<(), MayNotWrite> {
        if self.db.is_leased() && matches!(bytes.len(), HEADER_LEN | FRAME_HEADER_LEN) {
            return admit(&self.db);
        }
        Ok(())
    }

    fn before_write(&self, offset: u64, bytes: &[u8]) {
        if offset == 0 && bytes.len() == HEADER_LEN {
            let Some(header) = parse_header(bytes) else { return };
            self.page_size.store(header.page_size.get(), Ordering::Relaxed);
            self.db.changed();
            if self.is_exclusive() {
                self.drain_exclusive();
                self.db.exclusive_wal.begin(header.salts);
                self.db.notes.begins(header.salts, None, &self.db.state);
            } else if let Some(wal) = self.db.connections.mapped() {
                self.db.notes.begins(header.salts, Some(&*wal), &self.db.state);
            }
            return;
        }
        let page_size = self.page_size.load(Ordering::Relaxed);
        if bytes.len() == FRAME_HEADER_LEN && page_size > 0 && offset >= HEADER_LEN as u64 {
            let frame = (offset - HEADER_LEN as u64) / (FRAME_HEADER_LEN as u64 + u64::from(page_size)) + 1;
            self.db.written(frame as u32);
        }
    }

    fn before_truncate(&self, size: u64) {
        if self.is_exclusive() {
            self.drain_exclusive();
        }
        if size == 0 {
            self.db.wal_goes();
        }
    }

    fn closed(&self) {
        let exclusive = self.is_exclusive();
        if exclusive {
            self.drain_exclusive();
            // The last close has checkpointed; the file is the whole state from here on.
            self.db.at_rest();
            self.db.wal_goes();
        }
        if self.db.connections.wal_closed() && exclusive {
            self.db.exclusive_wal.clear();
            self.db.forget_cycle();
        }
    }

    fn panicked(&self, text: &str) {
        self.db.halt(text);
    }
}

/// The rollback journal of a database that is open with a lease.
pub struct JournalFile(pub Arc<Database>);

impl WalHooks for JournalFile {
    /// A transaction begins with the header; what ends one is shorter.
    fn admit_write(&self, offset: u64, bytes: &[u8]) -> Result<(), MayNotWrite> {
        if offset == 0 && bytes.len() > JOURNAL_END { admit(&self.0) } else { Ok(()) }
    }

    fn panicked(&self, text: &str) {
        self.0.halt(text);
    }
}

/// It cannot be waited for here.
fn admit(db: &Arc<Database>) -> Result<(), MayNotWrite> {
    db.go_on_with_lease().map_err(|error| MayNotWrite::AnyMore(error.to_string()))
}
