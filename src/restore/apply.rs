//! Overwrites a database file with later pages in one transaction of SQLite's own making.
//!
//! ```text
//! settle   play back the journal that is there, copy the WAL into the file         (what SQLite's next reader would do)
//! apply    journal: old pages, sync, header, sync   -- from here SQLite plays it back
//!          new pages, cut, sync, read back
//!          remove the journal                       -- from here the new state stands
//! ```
//!
//! Promises: killed or without power at any step, SQLite's own next reader finds the old state or the new one, whole;
//! after an error the old state is back, or the journal still says how to come to it. Cost: two writes for each page
//! that changes, none for the others.
//!
//! The caller holds SQLite's EXCLUSIVE lock. The journal is that of a PERSIST-mode transaction until its header is
//! written: a first byte of zero is no journal.

use super::overlay::Overlay;
use crate::error::{Error, Result};
use crate::ltx::page_checksum;
use crate::sqlite::journal::{self, Playback};
use crate::sqlite::wal::{self, Chain};
use crate::types::{PageSize, Pgno};

/// A database file under SQLite's EXCLUSIVE lock, with what lies beside it.
pub trait Place {
    /// Bytes of the database file; how many there were, the rest is zeroed.
    ///
    /// # Errors
    /// `Io`, as of all the others; `Full` of those that write.
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<usize>;
    fn size(&self) -> Result<u64>;
    fn write(&self, offset: u64, bytes: &[u8]) -> Result<()>;
    fn truncate(&self, size: u64) -> Result<()>;
    fn sync(&self) -> Result<()>;
    /// Bytes of the journal, where there is one.
    fn read_journal(&self, offset: u64, buffer: &mut [u8]) -> Result<usize>;
    /// Makes an empty journal, in place of one that was put away.
    fn begin_journal(&self) -> Result<()>;
    fn write_journal(&self, offset: u64, bytes: &[u8]) -> Result<()>;
    /// Makes the journal last, and its name.
    fn sync_journal(&self) -> Result<()>;
    /// Removes the journal, so that it stays away.
    fn remove_journal(&self) -> Result<()>;
    /// Bytes of the WAL, where there is one.
    fn read_wal(&self, offset: u64, buffer: &mut [u8]) -> Result<usize>;
    /// Removes the WAL, so that it stays away.
    fn remove_wal(&self) -> Result<()>;
}

/// Brings the file to the state that it has for SQLite, so that nothing beside it is needed any longer. `hot`: the
/// journal that is there is to be played back.
///
/// # Errors
/// `Full`, `Io`: SQLite, or another call, can do it all again.
pub fn settle(place: &dyn Place, hot: Option<&Playback>) -> Result<()> {
    if let Some(playback) = hot {
        play_back(place, playback)?;
    }
    let mut bytes = [0; wal::HEADER_LEN];
    let there = place.read_wal(0, &mut bytes)?;
    if there == 0 {
        return Ok(());
    }
    if let Some(header) = wal::parse_header(&bytes).filter(|_| there == bytes.len()) {
        checkpoint(place, header)?;
    }
    place.remove_wal()
}

/// Copies the committed frames of the WAL into the file.
fn checkpoint(place: &dyn Place, header: wal::WalHeader) -> Result<()> {
    let page_size = header.page_size;
    let mut chain = Chain::new(header);
    let mut frame = vec![0; wal::FRAME_HEADER_LEN + page_size.bytes()];
    loop {
        let there = place.read_wal(wal::frame_offset(chain.next_frame(), page_size), &mut frame)?;
        if there < frame.len() || !chain.accept(&frame) {
            break;
        }
    }
    if chain.committed() == 0 {
        return Ok(());
    }
    let mut pages: Vec<Pgno> = chain.pages().filter(|p| p.get() <= chain.page_count()).collect();
    pages.sort_unstable();
    let page = &mut frame[wal::FRAME_HEADER_LEN..];
    for pgno in pages {
        let at = chain.find(pgno).expect("BUG: a page of the chain has a frame");
        if place.read_wal(wal::page_offset(at, page_size), page)? < page.len() {
            return Err(Error::corrupt("the WAL became shorter while it was copied"));
        }
        place.write(pgno.offset(page_size), page)?;
    }
    resize(place, chain.page_count(), page_size)?;
    place.sync()
}

/// Plays the journal back and removes it.
fn play_back(place: &dyn Place, playback: &Playback) -> Result<()> {
    let mut page = vec![0; playback.page_size.bytes()];
    for (pgno, &at) in &playback.pages {
        if place.read_journal(at, &mut page)? < page.len() {
            return Err(Error::corrupt("the journal became shorter while it was played back"));
        }
        place.write(pgno.offset(playback.page_size), &page)?;
    }
    resize(place, playback.page_count, playback.page_size)?;
    place.sync()?;
    place.remove_journal()
}

fn resize(place: &dyn Place, page_count: u32, page_size: PageSize) -> Result<()> {
    let (size, wanted) = (place.size()?, u64::from(page_count) * u64::from(page_size.get()));
    match size {
        _ if size > wanted => place.truncate(wanted),
        _ if size < wanted => place.write(wanted - u64::from(page_size.get()), &vec![0; page_size.bytes()]),
        _ => Ok(()),
    }
}

/// Makes the settled file into the end of the overlay. `page_size`: of the file as it is. Returns the pages written.
///
/// # Errors
/// `Corrupt` when the file does not read back as it was written; `Full`, `Io`. The old state is back, or a journal that
/// SQLite plays back.
pub fn apply(place: &dyn Place, change: &Overlay, page_size: PageSize, nonce: u32) -> Result<usize> {
    assert!(change.is_proven(), "BUG: overwriting a database without the proof of what it becomes");
    let written = match save_old(place, change, page_size, nonce) {
        Ok(saved) => write_new(place, change).map_err(|error| (error, Some(saved))),
        Err(error) => Err((error, None)),
    };
    let (error, saved) = match written {
        Ok(written) => return Ok(written),
        Err(failed) => failed,
    };
    let undone = match saved {
        Some(playback) => play_back(place, &playback),
        None => place.remove_journal(),
    };
    Err(match undone {
        Ok(()) => error,
        Err(second) => error
            .while_doing(format!("undoing it failed too ({second}), and is left to SQLite's next reader")),
    })
}

/// Saves every page that will be overwritten or cut in the journal.
fn save_old(place: &dyn Place, change: &Overlay, page_size: PageSize, nonce: u32) -> Result<Playback> {
    let page_count = u32::try_from(place.size()?.div_ceil(page_size.get().into()))
        .map_err(|_| Error::invalid("the database has more pages than SQLite allows"))?;
    let lock = page_size.lock_pgno();
    let old: Vec<Pgno> = if page_size == change.end().page_size {
        let overwritten = change.changes().map(|(pgno, _)| pgno).take_while(|p| p.get() <= page_count);
        let cut = (change.end().page_count.saturating_add(1)..=page_count).filter_map(Pgno::new);
        overwritten.chain(cut).filter(|&p| p != lock).collect()
    } else {
        (1..=page_count).filter_map(Pgno::new).filter(|&p| p != lock).collect()
    };
    let mut playback = Playback { page_size, page_count, pages: Default::default() };
    let mut at = u64::from(journal::SECTOR);
    place.begin_journal()?;
    place.write_journal(0, &vec![0; journal::SECTOR as usize])?;
    let mut page = vec![0; page_size.bytes()];
    for &pgno in &old {
        place.read(pgno.offset(page_size), &mut page)?;
        let record = journal::record(pgno, &page, nonce);
        place.write_journal(at, &record)?;
        playback.pages.insert(pgno, at + 4);
        at += record.len() as u64;
    }
    place.sync_journal()?;
    place.write_journal(0, &journal::header(old.len() as u32, nonce, page_count, page_size))?;
    place.sync_journal()?;
    Ok(playback)
}

fn write_new(place: &dyn Place, change: &Overlay) -> Result<usize> {
    let end = change.end();
    let mut page = vec![0; end.page_size.bytes()];
    let mut written = 0;
    for (pgno, _) in change.changes() {
        change.read(pgno, &mut page)?;
        place.write(pgno.offset(end.page_size), &page)?;
        written += 1;
    }
    resize(place, end.page_count, end.page_size)?;
    place.sync()?;
    for (pgno, sum) in change.changes() {
        place.read(pgno.offset(end.page_size), &mut page)?;
        if page_checksum(pgno, &page) != sum {
            return Err(Error::corrupt(format!("page {pgno} does not read back as it was written")));
        }
    }
    place.remove_journal()?;
    Ok(written)
}

#[cfg(test)]
mod tests;
