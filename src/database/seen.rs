//! What the connections of this process saw of the files of a database: writes in rollback modes, frames, and the file at
//! rest.
//!
//! A write is noted before it reaches the file. Between WALs nothing tells of a commit but the file's times and inode: the
//! **rest** is how it stood when it was last proven to be what we know, and any other look means that every page is noted.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use super::followed::Database;
use super::live::{LiveFiles, beside, read_at};
use crate::capture::Files;
use crate::error::{Error, Result};
use crate::fs::FileStat;
use crate::lock::Mutex;
#[cfg(test)]
use crate::testing::mutation::{self, Mutation};
use crate::types::{PageSize, Pgno};

pub struct Seen {
    /// 0: not known.
    page_size: AtomicU32,
    /// Bytes of page 1 when this process last wrote it in a rollback mode; 0: not yet.
    page_1_len: AtomicU32,
    /// The last frame written since the last commit; 0: none.
    frames_written: AtomicU32,
    /// Frames of a WAL whose salts are zero, which prove less.
    pub(super) zero_salt_frames: AtomicU64,
    /// The clean mark of the last close is off the disk, too.
    is_unmarked: AtomicBool,
    // Guards how the file stood when it was last proven to be what we know.
    rest: Mutex<Option<FileStat>>,
}

impl Seen {
    pub(super) fn new(page_size: Option<PageSize>, rest: Option<FileStat>) -> Seen {
        Seen {
            page_size: AtomicU32::new(page_size.map_or(0, PageSize::get)),
            page_1_len: AtomicU32::new(0),
            frames_written: AtomicU32::new(0),
            zero_salt_frames: AtomicU64::new(0),
            is_unmarked: AtomicBool::new(false),
            rest: Mutex::new(rest),
        }
    }
}

impl Database {
    /// Notes the pages that a write of `len` bytes at `offset` of the database file touches.
    pub fn note_write(&self, offset: u64, len: usize) {
        self.file_changes();
        if offset == 0 {
            self.seen.page_1_len.store(u32::try_from(len).unwrap_or(0), Ordering::Relaxed);
        }
        match self.page_size().and_then(|size| written_page(offset, len, size)) {
            #[cfg(test)]
            Some(pgno) if pgno.get() % 3 == 0 && mutation::is(Mutation::ForgottenWrite) => {}
            Some(pgno) => self.noted.note(pgno),
            None => self.noted.note_all(),
        }
    }

    /// The database is no longer as the last close left it.
    pub fn changed(&self) {
        if self.state.clean().is_some() {
            self.state.set_clean(None);
        }
    }

    /// Before the database file itself changes, in any mode: a loss of power must not bring the clean mark back beside a file
    /// that is another by then, as its times may be the old ones. Once; where it fails, the next change tries again.
    pub fn file_changes(&self) {
        if !self.seen.is_unmarked.load(Ordering::Relaxed) {
            self.state.set_clean(None);
            let is_off = self.state.sync().is_ok();
            self.seen.is_unmarked.store(is_off, Ordering::Relaxed);
        }
        self.changed();
    }

    /// What [`Database::file_changes`] does has been done.
    pub(super) fn is_unmarked(&self) {
        self.seen.is_unmarked.store(true, Ordering::Relaxed);
    }

    /// Reads what an EXCLUSIVE connection committed, and notes it.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn refresh_exclusive(&self, live: &LiveFiles, written: Option<u32>) -> Result<()> {
        let found = self.exclusive_wal.refresh(&|offset, buffer| live.read_wal(offset, buffer), written)?;
        self.seen.zero_salt_frames.fetch_add(u64::from(found.0), Ordering::Relaxed);
        Ok(())
    }

    /// The same on the connection's own thread, at its commit: the engine may be busy, so the WAL is opened anew.
    ///
    /// # Errors
    /// `Io`.
    pub fn committed_exclusive(&self, written: Option<u32>) -> Result<()> {
        let path = beside(&self.path, "-wal");
        let file = std::fs::File::open(&path).map_err(|e| Error::io("open", &path, e))?;
        let read = |offset, buffer: &mut [u8]| read_at(&file, &path, offset, buffer);
        let found = self.exclusive_wal.refresh(&read, written)?;
        self.seen.zero_salt_frames.fetch_add(u64::from(found.0), Ordering::Relaxed);
        if self.notes.note(&self.exclusive_wal, &self.state, &self.noted).is_some_and(|n| n.went_cold) {
            self.went_cold("the WAL was changed while nobody watched");
        }
        Ok(())
    }

    /// A frame was written to the WAL.
    pub fn written(&self, frame: u32) {
        self.seen.frames_written.fetch_max(frame, Ordering::Relaxed);
    }

    /// The last frame written since the last commit.
    pub fn take_written(&self) -> Option<u32> {
        Some(self.seen.frames_written.swap(0, Ordering::Relaxed)).filter(|&frame| frame > 0)
    }

    /// The WAL is cut to nothing, or goes: all of it is in the database file. After a loss of power nothing else would tell that
    /// what the replica has by now is there, too.
    pub fn wal_goes(&self) {
        if let Some(newest) = self.state.positions().next().filter(|p| self.state.synced() != Some(p.txid)) {
            self.state.set_synced(Some(newest.txid));
            // Where it does not last, the next open is in doubt.
            let _ = self.state.sync();
        }
    }

    /// The WAL is gone, and everything in it is noted.
    pub fn forget_cycle(&self) {
        self.state.set_cycle(None);
    }

    /// The file stands as we know it at this moment; a first look at an empty WAL compares with it.
    pub fn at_rest(&self) {
        *self.seen.rest.lock() = FileStat::of(&self.path).ok();
    }

    /// A WAL file is there, perhaps an empty one.
    pub(super) fn is_wal_left(&self) -> bool {
        beside(&self.path, "-wal").exists()
    }

    /// The file is in WAL mode, without a WAL: only that it stands as it did proves that nobody wrote. Page 1 does
    /// not, because commits in WAL mode leave its change counter alone.
    pub(super) fn check_rest(&self) {
        let now = FileStat::of(&self.path).ok();
        let mut rest = self.seen.rest.lock();
        if now.is_none() || *rest != now {
            // The look came first: what is written after it shows as another change.
            *rest = now;
            drop(rest);
            self.noted.note_all();
            self.went_cold("the database was changed before its WAL was opened");
        }
    }

    /// Whether the file is still as [`Database::at_rest`] saw it.
    pub fn is_at_rest(&self) -> bool {
        let now = FileStat::of(&self.path).ok();
        now.is_some() && *self.seen.rest.lock() == now
    }

    /// Page size by the newest write of page 1 in this process, which an encrypted page 1 does not tell.
    pub fn page_1_written(&self) -> Option<PageSize> {
        PageSize::new(self.seen.page_1_len.load(Ordering::Relaxed))
    }

    pub fn page_size(&self) -> Option<PageSize> {
        PageSize::new(self.seen.page_size.load(Ordering::Relaxed))
    }

    pub(super) fn set_page_size(&self, size: PageSize) {
        self.seen.page_size.store(size.get(), Ordering::Relaxed);
    }
}

/// The page that a write covers. `None`: it is not one page of this size. SQLite writes whole pages, so the page size
/// is changing, and what the known one would call page 7 may be another page of the next group.
fn written_page(offset: u64, len: usize, size: PageSize) -> Option<Pgno> {
    if len != size.bytes() || !offset.is_multiple_of(u64::from(size.get())) {
        return None;
    }
    u32::try_from(offset / u64::from(size.get()) + 1).ok().and_then(Pgno::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn write_in_another_page_size_than_the_known_one_is_no_page() {
        let size = PageSize::new(1024).unwrap();
        assert_eq!(written_page(2048, 1024, size), Pgno::new(3));
        for (offset, len) in [(2048, 512), (2048, 2048), (512, 1024)] {
            assert_eq!(written_page(offset, len, size), None, "{offset} {len}");
        }
    }
}
