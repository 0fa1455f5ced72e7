//! Commits in, sealed groups out.
//!
//! ```text
//!            note_all: position not proven          every noted page read at one commit
//!   Live ------------------------------------> Cold -----------------------------------> Live
//!    |  noted pages read at one commit: next txid    (the same road, over every page)
//!    +-> Fenced   a create was lost to another writer
//!    +-> Refused  not our file, or not our replica
//!    +-> Halted   our own bug
//! ```
//!
//! A group is the difference between the pages of the noted set, as they are at one commit, and the page
//! checksums of the newest sealed group. Who notes: `wal_notes` (frames of the wal-index), and the writer itself
//! in rollback modes. Who reads: `wal_pages` and `rollback_pages`. Who writes: `group`.
//!
//! Promises: a state that SQLite did not commit is never read as one; nothing blocks a writer; no lock of SQLite's
//! is taken, but one SHARED in rollback modes after every lock-free way has failed for seconds.

pub mod at_rest;
pub mod blocks;
pub mod bounds;
pub mod group;
pub mod pages;
pub mod rollback_pages;
#[cfg(test)]
mod tests;
pub mod wal_notes;
pub mod wal_pages;
pub mod work;

use crate::error::Result;
use crate::sqlite::wal_index::{Header, Salts};
use crate::types::{PageSize, Pgno};

pub use group::Group;
pub use pages::PageBuffer;
pub use wal_notes::WalNotes;
pub use work::{Base, Work};

/// What capture knows of this database now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The noted set is complete.
    Live,
    /// Every page is noted: something may have changed unseen.
    Cold,
    /// Another writer created our next txid.
    Fenced,
    /// Not our file, or not our replica.
    Refused,
    /// A bug of ours was caught.
    Halted,
    /// Opened for reading only: nothing is captured.
    ReadOnly,
}

impl Phase {
    pub fn name(self) -> &'static str {
        match self {
            Phase::Live => "Live",
            Phase::Cold => "Cold",
            Phase::Fenced => "Fenced",
            Phase::Refused => "Refused",
            Phase::Halted => "Halted",
            Phase::ReadOnly => "ReadOnly",
        }
    }
}

/// The committed frames of a WAL, from shared memory or from the file itself.
pub trait WalView {
    /// `None` while a writer changes it, or when it is gone.
    fn header(&self) -> Option<Header>;
    /// Calls `each` with the page number of the committed frames after `from` up to `to`, in order. `false`: one of them
    /// cannot be read now.
    fn pages_of(&self, from: u32, to: u32, each: &mut dyn FnMut(Pgno)) -> bool;
    /// Last frame of each page among the first `mx_frame`, into `frames`; `Err` when the WAL was restarted meanwhile.
    #[allow(clippy::result_unit_err)]
    fn find(&self, pages: &[Pgno], mx_frame: u32, frames: &mut Vec<Option<u32>>) -> Result<(), ()>;
    /// Last frame that a checkpoint may have copied into the database file.
    fn backfill_attempted(&self) -> Option<u32>;
    /// Last frame that is in the database file for certain, where that is known.
    fn backfilled(&self) -> Option<u32> {
        None
    }
}

/// Reads of the live files, without locks.
pub trait Files {
    /// Bytes of the database file; returns how many there were, the rest is zeroed.
    ///
    /// # Errors
    /// `Io`.
    fn read_database(&self, offset: u64, buffer: &mut [u8]) -> Result<usize>;
    /// # Errors
    /// `Io`.
    fn database_size(&self) -> Result<u64>;
    /// Bytes of the WAL; returns how many there were.
    ///
    /// # Errors
    /// `Io`.
    fn read_wal(&self, offset: u64, buffer: &mut [u8]) -> Result<usize>;
    /// Bytes of the WAL; 0: there is none.
    ///
    /// # Errors
    /// `Io`.
    fn wal_size(&self) -> Result<u64>;
}

/// Why there was nothing to seal now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotNow {
    /// The writer was faster than we in every pass.
    Outrun,
    /// A transaction is open, or the file is in a state between two commits.
    Busy,
    /// The database has no pages yet.
    Empty,
    /// Page 1 is not that of a plain database, and nothing says its page size yet.
    Unreadable,
    /// Nobody of this process can say what the WAL holds.
    NoView,
}

/// The outcome of reading the noted pages.
pub enum Collected {
    /// The noted pages, at one commit.
    Pages(PageBuffer, Shape),
    /// Nothing was noted.
    Nothing,
    NotNow(NotNow),
}

/// Size of a database at one commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub page_size: PageSize,
    pub page_count: u32,
}

/// The name of a WAL cycle as the state page keeps it: none while the WAL is empty and new.
pub fn cycle_of(salts: Salts) -> Option<Salts> {
    if salts == crate::sqlite::wal_index::NO_SALTS { None } else { Some(salts) }
}
