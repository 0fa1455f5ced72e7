//! The rollback journal (SQLite file format 3): what a reader plays back when a transaction did not end.
//!
//! ```text
//! header, padded to a sector:  magic, records, nonce, pages of the database before, sector size, page size
//! record:                      pgno, the page as it was, checksum
//! (a journal that was synced more than once has several headers, each at a sector boundary)
//! end, of a transaction over several files: lock-byte pgno, name of the super-journal, its length, sum, magic
//! ```
//!
//! Pure: a function that reads goes in, where the pages lie comes out. It stops where SQLite's own playback stops, so
//! that both find the same state.

use std::collections::BTreeMap;

use crate::error::Result;
use crate::types::{PageSize, Pgno};

pub const MAGIC: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];
/// Bytes of the header that mean something.
const HEADER_LEN: usize = 28;
/// Sector of the journals that we write: the smallest there is.
pub const SECTOR: u32 = 512;
const SECTOR_MAX: u32 = 65536;
/// A number of records that was never written, because nothing was to be synced: as many as the file holds.
const UNCOUNTED: u32 = u32::MAX;
/// Every so many bytes of a page count in the checksum of its record.
const CHECKSUM_STEP: usize = 200;
/// Longest name of a super-journal that is looked at.
const NAME_MAX: u64 = 4096;

/// Reads bytes of a journal; answers how many there were.
pub type Read<'a> = dyn Fn(u64, &mut [u8]) -> Result<usize> + 'a;

/// What playing a journal back gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Playback {
    pub page_size: PageSize,
    /// Size of the database afterwards.
    pub page_count: u32,
    /// Where in the journal the pages lie that go back.
    pub pages: BTreeMap<Pgno, u64>,
}

/// The first sector of a journal of `records` pages, of a database of `page_count` pages before the transaction.
pub fn header(records: u32, nonce: u32, page_count: u32, page_size: PageSize) -> Vec<u8> {
    let mut bytes = vec![0; SECTOR as usize];
    bytes[..8].copy_from_slice(&MAGIC);
    for (field, value) in [records, nonce, page_count, SECTOR, page_size.get()].into_iter().enumerate() {
        bytes[8 + field * 4..12 + field * 4].copy_from_slice(&value.to_be_bytes());
    }
    bytes
}

/// One record.
pub fn record(pgno: Pgno, page: &[u8], nonce: u32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(page.len() + 8);
    bytes.extend_from_slice(&pgno.get().to_be_bytes());
    bytes.extend_from_slice(page);
    bytes.extend_from_slice(&checksum(nonce, page).to_be_bytes());
    bytes
}

/// SQLite's check of a record: the nonce and one byte in 200.
fn checksum(nonce: u32, page: &[u8]) -> u32 {
    let mut sum = nonce;
    let mut at = page.len() - CHECKSUM_STEP;
    while at > 0 {
        sum = sum.wrapping_add(u32::from(page[at]));
        at = at.saturating_sub(CHECKSUM_STEP);
    }
    sum
}

/// What the journal of `size` bytes gives back. `None`: SQLite would throw it away unread, because it is empty, was put
/// away, or belongs to a super-journal that is gone (`exists` tells) and so to a transaction that was committed.
///
/// # Errors
/// Those of reading.
pub fn parse(size: u64, read: &Read<'_>, exists: &dyn Fn(&[u8]) -> bool) -> Result<Option<Playback>> {
    let Some(first) = header_at(0, size, SECTOR, read)? else { return Ok(None) };
    let (Some(page_size), true) = (PageSize::new(first.page_size), is_sector(first.sector)) else {
        return Ok(None);
    };
    if super_journal(size, read)?.is_some_and(|name| !exists(&name)) {
        return Ok(None);
    }
    let mut playback = Playback { page_size, page_count: first.page_count, pages: BTreeMap::new() };
    let record_len = u64::from(page_size.get()) + 8;
    let sector = u64::from(first.sector);
    let mut header = Some(first);
    let mut at = 0;
    let mut page = vec![0; page_size.bytes()];
    while let Some(now) = header {
        at += sector;
        let records = if now.records == UNCOUNTED {
            size.saturating_sub(sector) / record_len
        } else {
            now.records.into()
        };
        for _ in 0..records {
            if at + record_len > size || !playback.take(at, now.nonce, &mut page, read)? {
                return Ok(Some(playback));
            }
            at += record_len;
        }
        at = at.next_multiple_of(sector);
        header = header_at(at, size, first.sector, read)?;
    }
    Ok(Some(playback))
}

impl Playback {
    /// Takes the record at `at`. `false`: playback ends before it.
    fn take(&mut self, at: u64, nonce: u32, page: &mut [u8], read: &Read<'_>) -> Result<bool> {
        let mut word = [0; 4];
        read(at, &mut word)?;
        let pgno = Pgno::new(u32::from_be_bytes(word)).filter(|&p| p != self.page_size.lock_pgno());
        let Some(pgno) = pgno else { return Ok(false) };
        if pgno.get() > self.page_count {
            return Ok(true);
        }
        read(at + 4, page)?;
        read(at + 4 + page.len() as u64, &mut word)?;
        let is_whole = checksum(nonce, page) == u32::from_be_bytes(word);
        if is_whole {
            self.pages.insert(pgno, at + 4);
        }
        Ok(is_whole)
    }
}

#[derive(Clone, Copy)]
struct Header {
    records: u32,
    nonce: u32,
    page_count: u32,
    sector: u32,
    page_size: u32,
}

fn header_at(at: u64, size: u64, sector: u32, read: &Read<'_>) -> Result<Option<Header>> {
    let mut bytes = [0; HEADER_LEN];
    if at + u64::from(sector) > size || read(at, &mut bytes)? < HEADER_LEN || bytes[..8] != MAGIC {
        return Ok(None);
    }
    let field = |n: usize| u32::from_be_bytes([bytes[n], bytes[n + 1], bytes[n + 2], bytes[n + 3]]);
    let (records, nonce, page_count) = (field(8), field(12), field(16));
    Ok(Some(Header { records, nonce, page_count, sector: field(20), page_size: field(24) }))
}

fn is_sector(bytes: u32) -> bool {
    bytes.is_power_of_two() && (32..=SECTOR_MAX).contains(&bytes)
}

/// The name that a transaction over several files leaves at the end of each of their journals.
fn super_journal(size: u64, read: &Read<'_>) -> Result<Option<Vec<u8>>> {
    let mut tail = [0; 16];
    if size < 16 || read(size - 16, &mut tail)? < 16 || tail[8..] != MAGIC {
        return Ok(None);
    }
    let length = u64::from(u32::from_be_bytes([tail[0], tail[1], tail[2], tail[3]]));
    let sum = u32::from_be_bytes([tail[4], tail[5], tail[6], tail[7]]);
    if length == 0 || length > NAME_MAX || length > size - 16 {
        return Ok(None);
    }
    let mut name = vec![0; length as usize];
    read(size - 16 - length, &mut name)?;
    // Of signed bytes, as SQLite adds them.
    let found = name.iter().fold(0u32, |sum, &byte| sum.wrapping_add(byte as i8 as u32));
    Ok((found == sum).then_some(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(bytes: &[u8]) -> Option<Playback> {
        let read = |at: u64, out: &mut [u8]| {
            let there = bytes.get(at as usize..).unwrap_or_default();
            let n = there.len().min(out.len());
            out[..n].copy_from_slice(&there[..n]);
            Ok(n)
        };
        parse(bytes.len() as u64, &read, &|name| name == b"/there").unwrap()
    }

    fn page(byte: u8) -> Vec<u8> {
        vec![byte; 512]
    }

    fn pgno(n: u32) -> Pgno {
        Pgno::new(n).unwrap()
    }

    fn journal(records: u32, pages: &[(u32, u8)]) -> Vec<u8> {
        let mut bytes = header(records, 77, 9, PageSize::new(512).unwrap());
        pages.iter().for_each(|&(n, byte)| bytes.extend(record(pgno(n), &page(byte), 77)));
        bytes
    }

    fn pages(playback: Option<Playback>) -> Vec<u32> {
        playback.unwrap().pages.keys().map(|p| p.get()).collect()
    }

    #[test]
    fn records_are_found_where_they_lie() {
        let bytes = journal(2, &[(3, 1), (5, 2)]);
        let playback = parsed(&bytes).unwrap();
        assert_eq!((playback.page_count, playback.page_size.get()), (9, 512));
        assert_eq!(playback.pages[&pgno(5)], 512 + 520 + 4);
        assert_eq!(pages(parsed(&journal(u32::MAX, &[(3, 1), (5, 2)]))), [3, 5], "as many as there are");
    }

    #[test]
    fn playback_ends_at_a_torn_record_and_passes_over_pages_past_the_end() {
        let mut bytes = journal(3, &[(3, 1), (12, 1), (5, 2)]);
        assert_eq!(pages(parsed(&bytes)), [3, 5]);
        let at = bytes.len() - 1;
        bytes[at] ^= 1;
        assert_eq!(pages(parsed(&bytes)), [3]);
        bytes.truncate(at);
        assert_eq!(pages(parsed(&bytes)), [3]);
    }

    #[test]
    fn sector_larger_than_the_journal_is_passed_over() {
        let mut bytes = journal(u32::MAX, &[(3, 1)]);
        bytes[20..24].copy_from_slice(&SECTOR_MAX.to_be_bytes());
        assert_eq!(pages(parsed(&bytes)), [0; 0]);
    }

    #[test]
    fn later_segments_begin_at_a_sector() {
        let mut bytes = journal(1, &[(3, 1)]);
        bytes.resize(1536, 0);
        bytes.extend(journal(1, &[(4, 1)]));
        assert_eq!(pages(parsed(&bytes)), [3, 4]);
    }

    #[test]
    fn journal_that_was_put_away_or_of_a_committed_super_journal_is_none() {
        let mut bytes = journal(1, &[(3, 1)]);
        let with = |name: &[u8]| {
            let mut bytes = bytes.clone();
            bytes.extend(PageSize::new(512).unwrap().lock_pgno().get().to_be_bytes());
            bytes.extend(name);
            bytes.extend((name.len() as u32).to_be_bytes());
            bytes.extend(name.iter().map(|&b| u32::from(b)).sum::<u32>().to_be_bytes());
            bytes.extend(MAGIC);
            bytes
        };
        assert_eq!(pages(parsed(&with(b"/there"))), [3]);
        assert_eq!(parsed(&with(b"/gone")), None);
        bytes[..28].fill(0);
        assert_eq!(parsed(&bytes), None);
        assert_eq!(parsed(&[]), None);
    }
}
