//! The wal-index (`-shm`), SQLite file format 4.5 and `wal.c`: which frames are committed, and which page each holds.
//!
//! ```text
//! region 0, u32 words, native endian:
//!   0  version 3007000     2  change counter   3  isInit u8, bigEndCksum u8, page size u16
//!   4  mxFrame             5  nPage            6-7 frame checksum   8-9 salts as in the file   10-11 checksum
//!   12..24 the same again  24 nBackfill        25-29 read marks     30-31 locks   32 nBackfillAttempted
//!   34.. page numbers of frames 1..4062, then 8192 u16 hash slots from byte 16384
//! region k > 0: page numbers of frames 4063+4096*(k-1).., then hash slots
//! ```
//!
//! Nothing is written here and no lock is taken. Every answer is one that SQLite gave at some moment; whoever
//! needs two answers of one moment reads the header again and compares.

use crate::types::{PageSize, Pgno};

/// Words of 32 KiB regions of shared memory.
pub trait Regions {
    /// One u32, native endian; `None` when the region is not mapped (yet).
    fn word(&self, region: usize, word: usize) -> Option<u32>;
    /// Orders what was read before against what is read after.
    fn fence(&self);
}

/// Salt-1 and salt-2 of a WAL as a number: the name of one life of the WAL between two restarts.
pub type Salts = u64;

/// Salts of a wal-index built over an empty WAL.
pub const NO_SALTS: Salts = 0;

const FIRST_REGION_FRAMES: u32 = 4062;
const REGION_FRAMES: u32 = 4096;
const HASH_SLOTS: usize = 8192;

/// The header, as one consistent copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub salts: Salts,
    /// Last committed frame; 0: none since the restart.
    pub mx_frame: u32,
    /// Database size in pages after that frame; 0 where no frame says it.
    pub page_count: u32,
    /// `None` while the WAL is empty and new.
    pub page_size: Option<PageSize>,
    /// Grows with each commit.
    pub change: u32,
}

/// Salts of a WAL header (bytes 16..24) or frame header (bytes 8..16), as the wal-index has them.
pub fn salts_of(bytes: &[u8; 8]) -> Salts {
    u64::from_be_bytes(*bytes)
}

/// Salt-1, which counts restarts up, and salt-2, which is random.
pub fn halves(salts: Salts) -> (u32, u32) {
    ((salts >> 32) as u32, salts as u32)
}

/// Reads the header torn-safe, as SQLite's `walIndexTryHdr` does: both copies equal, initialised, checksum right.
/// `None` while a writer is in the middle of changing it, or before it is there.
pub fn read_header(regions: &impl Regions) -> Option<Header> {
    let copy = |from: usize| -> Option<[u32; 12]> {
        let mut words = [0; 12];
        for (i, word) in words.iter_mut().enumerate() {
            *word = regions.word(0, from + i)?;
        }
        Some(words)
    };
    let first = copy(0)?;
    regions.fence();
    let second = copy(12)?;
    if first != second || first[3].to_ne_bytes()[0] == 0 || checksum(&first[..10]) != [first[10], first[11]] {
        return None;
    }
    let packed = first[3].to_ne_bytes();
    let page_size = u16::from_ne_bytes([packed[2], packed[3]]);
    // wal.c: 65536 is stored as 1.
    let page_size = (u32::from(page_size) & 0xfe00) + ((u32::from(page_size) & 1) << 16);
    let mut salts = [0; 8];
    salts[..4].copy_from_slice(&first[8].to_ne_bytes());
    salts[4..].copy_from_slice(&first[9].to_ne_bytes());
    Some(Header {
        salts: salts_of(&salts),
        mx_frame: first[4],
        page_count: first[5],
        page_size: PageSize::new(page_size),
        change: first[2],
    })
}

/// SQLite's WAL checksum in native byte order, over an even number of words.
fn checksum(words: &[u32]) -> [u32; 2] {
    let (mut a, mut b) = (0u32, 0u32);
    for pair in words.chunks_exact(2) {
        a = a.wrapping_add(pair[0]).wrapping_add(b);
        b = b.wrapping_add(pair[1]).wrapping_add(a);
    }
    [a, b]
}

/// Last frame that a checkpoint has begun to copy into the database file. `None` when not mapped.
pub fn backfill_attempted(regions: &impl Regions) -> Option<u32> {
    regions.word(0, 32)
}

/// Last frame that a checkpoint has copied into the database file, and synced there. `None` when not mapped.
pub fn backfilled(regions: &impl Regions) -> Option<u32> {
    regions.word(0, 24)
}

/// Region and word index of the page number of `frame` (from 1).
fn place(frame: u32) -> (usize, usize) {
    let at = frame as usize + 33;
    (at >> 12, at & 4095)
}

/// Regions that must be mapped to look up frames up to `frame`.
pub fn regions_for(frame: u32) -> usize {
    place(frame.max(1)).0 + 1
}

/// Page number of a committed frame; `None` when its region is not mapped or the entry is empty.
pub fn pgno_of(regions: &impl Regions, frame: u32) -> Option<Pgno> {
    let (region, word) = place(frame);
    regions.word(region, word).and_then(Pgno::new)
}

/// Last frame of `pgno` among the first `mx_frame`, through SQLite's own hash tables (`walFindFrame`).
///
/// `Err(())` when a region is missing or a table is not as SQLite leaves it, which happens only when the WAL was
/// restarted meanwhile: read the header again.
#[allow(clippy::result_unit_err)]
pub fn find(regions: &impl Regions, pgno: Pgno, mx_frame: u32) -> Result<Option<u32>, ()> {
    if mx_frame == 0 {
        return Ok(None);
    }
    for region in (0..regions_for(mx_frame)).rev() {
        let (zero, first_word) = match region {
            0 => (0, 34),
            k => (FIRST_REGION_FRAMES + (k as u32 - 1) * REGION_FRAMES, 0),
        };
        let mut found = None;
        let mut key = pgno.get().wrapping_mul(383) as usize & (HASH_SLOTS - 1);
        for probes in 0.. {
            // A table of 8192 slots never holds more than 4096 entries: a longer walk is a table being rewritten.
            if probes > HASH_SLOTS {
                return Err(());
            }
            let pair = regions.word(region, 4096 + key / 2).ok_or(())?.to_ne_bytes();
            let slot = u16::from_ne_bytes(if key.is_multiple_of(2) {
                [pair[0], pair[1]]
            } else {
                [pair[2], pair[3]]
            });
            if slot == 0 {
                break;
            }
            let frame = zero.saturating_add(u32::from(slot));
            let word = first_word + (usize::from(slot) - 1);
            if word < 4096 && frame <= mx_frame && regions.word(region, word) == Some(pgno.get()) {
                found = Some(found.unwrap_or(0).max(frame));
            }
            key = (key + 1) & (HASH_SLOTS - 1);
        }
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Memory(Vec<Vec<u32>>);

    impl Regions for Memory {
        fn word(&self, region: usize, word: usize) -> Option<u32> {
            self.0.get(region).map(|r| r[word])
        }
        fn fence(&self) {}
    }

    impl Memory {
        fn with_frames(pgnos: &[u32]) -> Memory {
            let mut memory = Memory(vec![vec![0; 8192]; regions_for(pgnos.len() as u32)]);
            for (i, &pgno) in pgnos.iter().enumerate() {
                let (region, word) = place(i as u32 + 1);
                memory.0[region][word] = pgno;
                let slot = (word - if region == 0 { 34 } else { 0 } + 1) as u16;
                let mut key = (pgno as usize * 383) & 8191;
                loop {
                    let mut pair = memory.0[region][4096 + key / 2].to_ne_bytes();
                    let half = if key.is_multiple_of(2) { 0..2 } else { 2..4 };
                    if pair[half.clone()] == [0, 0] {
                        pair[half].copy_from_slice(&slot.to_ne_bytes());
                        memory.0[region][4096 + key / 2] = u32::from_ne_bytes(pair);
                        break;
                    }
                    key = (key + 1) & 8191;
                }
            }
            memory
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "10,000 frames")]
    fn finds_last_frame_of_page_across_regions() {
        let pgnos: Vec<u32> = (0..10_000u32).map(|i| i % 3_000 + 1).collect();
        let memory = Memory::with_frames(&pgnos);
        for (mx, pgno, want) in [
            (10_000, 1, Some(9_001)),
            (9_000, 1, Some(6_001)),
            (3_000, 3_000, Some(3_000)),
            (2_999, 3_000, None),
            (10_000, 3_001, None),
            (0, 1, None),
            (4_062, 1_062, Some(4_062)),
            (4_063, 1_063, Some(4_063)),
        ] {
            assert_eq!(find(&memory, Pgno::new(pgno).unwrap(), mx), Ok(want), "page {pgno} up to {mx}");
        }
        for frame in [1, 4_062, 4_063, 8_158, 8_159, 10_000] {
            assert_eq!(pgno_of(&memory, frame).unwrap().get(), pgnos[frame as usize - 1]);
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "5,000 frames")]
    fn missing_region_is_not_an_absent_page() {
        let mut memory = Memory::with_frames(&vec![7; 5_000]);
        memory.0.pop();
        assert_eq!(find(&memory, Pgno::new(7).unwrap(), 5_000), Err(()));
    }

    #[test]
    fn header_needs_two_equal_copies_and_its_checksum() {
        let mut words = vec![0u32; 8192];
        words[0] = 3_007_000;
        let size = 4096u16.to_ne_bytes();
        words[3] = u32::from_ne_bytes([1, 0, size[0], size[1]]);
        words[4] = 5;
        words[5] = 9;
        let sum = checksum(&words[..10]);
        words[10..12].copy_from_slice(&sum);
        let (a, b) = words.split_at_mut(12);
        b[..12].copy_from_slice(a);
        let mut memory = Memory(vec![words]);
        let header = read_header(&memory).unwrap();
        assert_eq!((header.mx_frame, header.page_count, header.page_size), (5, 9, PageSize::new(4096)));
        memory.0[0][4] = 6;
        assert_eq!(read_header(&memory), None, "copies differ");
        memory.0[0][16] = 6;
        assert_eq!(read_header(&memory), None, "checksum is wrong");
    }

    #[test]
    fn any_number_of_frames_has_a_place_or_none() {
        let memory = Memory::with_frames(&[1, 2]);
        assert_eq!(pgno_of(&memory, u32::MAX), None);
        assert_eq!(find(&memory, Pgno::FIRST, u32::MAX), Err(()));
    }
}
