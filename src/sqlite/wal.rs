//! The WAL file (SQLite file format 4.1 and 4.2): header, frame headers, and the chain of checksums that says which
//! frames a recovery would accept.
//!
//! ```text
//! header, 32 bytes big-endian: magic 0x377f0682|3, version 3007000, page size, checkpoint, salt-1, salt-2, checksum x2
//! frame, 24 + page size:       pgno, database size if commit else 0, salt-1, salt-2, checksum x2, page
//! ```

use std::collections::HashMap;

use crate::sqlite::wal_index::{Salts, salts_of};
use crate::types::{PageSize, Pgno};

pub const HEADER_LEN: usize = 32;
pub const FRAME_HEADER_LEN: usize = 24;

/// Byte offset of the header of `frame` (from 1).
pub fn frame_offset(frame: u32, page_size: PageSize) -> u64 {
    HEADER_LEN as u64 + u64::from(frame - 1) * (FRAME_HEADER_LEN as u64 + u64::from(page_size.get()))
}

/// Byte offset of the page in `frame` (from 1).
pub fn page_offset(frame: u32, page_size: PageSize) -> u64 {
    frame_offset(frame, page_size) + FRAME_HEADER_LEN as u64
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalHeader {
    pub page_size: PageSize,
    pub salts: Salts,
    big_endian_checksum: bool,
    checksum: (u32, u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    pub pgno: Pgno,
    /// Database size in pages after this frame, when it ends a commit.
    pub commit: Option<u32>,
    pub salts: Salts,
    checksum: (u32, u32),
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn salts_at(bytes: &[u8], at: usize) -> Salts {
    salts_of(&bytes[at..at + 8].try_into().expect("BUG: a range of 8 bytes"))
}

/// `None` when a recovery would treat the WAL as empty: short, bad magic, version, page size or checksum.
pub fn parse_header(bytes: &[u8]) -> Option<WalHeader> {
    if bytes.len() < HEADER_LEN || u32_at(bytes, 0) & !1 != 0x377f_0682 || u32_at(bytes, 4) != 3_007_000 {
        return None;
    }
    let big = u32_at(bytes, 0) & 1 == 1;
    let sum = checksum(big, (0, 0), &bytes[..24]);
    if sum != (u32_at(bytes, 24), u32_at(bytes, 28)) {
        return None;
    }
    Some(WalHeader {
        page_size: PageSize::new(u32_at(bytes, 8))?,
        salts: salts_at(bytes, 16),
        big_endian_checksum: big,
        checksum: sum,
    })
}

/// `None` for page number 0.
pub fn parse_frame_header(bytes: &[u8]) -> Option<FrameHeader> {
    if bytes.len() < FRAME_HEADER_LEN {
        return None;
    }
    let commit = u32_at(bytes, 4);
    Some(FrameHeader {
        pgno: Pgno::new(u32_at(bytes, 0))?,
        commit: if commit == 0 { None } else { Some(commit) },
        salts: salts_at(bytes, 8),
        checksum: (u32_at(bytes, 16), u32_at(bytes, 20)),
    })
}

/// SQLite's WAL checksum over `bytes` (a multiple of 8), continuing from `from`.
fn checksum(big_endian: bool, from: (u32, u32), bytes: &[u8]) -> (u32, u32) {
    let (mut a, mut b) = from;
    for pair in bytes.chunks_exact(8) {
        let word = |half: &[u8]| {
            let four = [half[0], half[1], half[2], half[3]];
            if big_endian { u32::from_be_bytes(four) } else { u32::from_le_bytes(four) }
        };
        a = a.wrapping_add(word(&pair[..4])).wrapping_add(b);
        b = b.wrapping_add(word(&pair[4..])).wrapping_add(a);
    }
    (a, b)
}

impl WalHeader {
    /// Where the chain of checksums starts.
    pub fn checksum(&self) -> (u32, u32) {
        self.checksum
    }
}

/// What a frame (header and page) says, and the chain of checksums after it. `None` when a recovery would stop before
/// it: another length, other salts, another checksum than its bytes and the chain `before` give, or page 0.
pub fn proven(header: &WalHeader, before: (u32, u32), frame: &[u8]) -> Option<(FrameHeader, (u32, u32))> {
    let found = parse_frame_header(frame)?;
    if frame.len() != FRAME_HEADER_LEN + header.page_size.bytes() || found.salts != header.salts {
        return None;
    }
    let big = header.big_endian_checksum;
    let sum = checksum(big, checksum(big, before, &frame[..8]), &frame[FRAME_HEADER_LEN..]);
    (sum == found.checksum).then_some((found, sum))
}

/// Follows a WAL frame by frame, as a recovery would, and keeps the last committed frame of each page.
///
/// Used where no wal-index is to be had: a database at rest, and `locking_mode=EXCLUSIVE` without shared memory.
#[derive(Debug)]
pub struct Chain {
    header: WalHeader,
    /// Last frame accepted, and the checksum up to it.
    end: u32,
    checksum: (u32, u32),
    committed_checksum: (u32, u32),
    /// Last frame that ended a commit, and the database size it says.
    committed: u32,
    page_count: u32,
    last: HashMap<Pgno, u32>,
    open: Vec<(Pgno, u32)>,
}

impl Chain {
    pub fn new(header: WalHeader) -> Chain {
        Chain {
            header,
            end: 0,
            checksum: header.checksum,
            committed_checksum: header.checksum,
            committed: 0,
            page_count: 0,
            last: HashMap::new(),
            open: Vec::new(),
        }
    }

    pub fn header(&self) -> &WalHeader {
        &self.header
    }

    /// Last committed frame; 0: none.
    pub fn committed(&self) -> u32 {
        self.committed
    }

    /// Database size in pages after the last commit; 0: none.
    pub fn page_count(&self) -> u32 {
        self.page_count
    }

    pub fn find(&self, pgno: Pgno) -> Option<u32> {
        self.last.get(&pgno).copied()
    }

    pub fn pages(&self) -> impl Iterator<Item = Pgno> + '_ {
        self.last.keys().copied()
    }

    /// Offers the bytes of the next frame (header and page). `false` when a recovery would stop before it.
    pub fn accept(&mut self, frame: &[u8]) -> bool {
        let Some((header, sum)) = proven(&self.header, self.checksum, frame) else { return false };
        self.checksum = sum;
        self.push(header);
        true
    }

    /// Takes a frame that is known to be committed although its salts or checksum are not right (SQLite before
    /// 3.53.4 can leave zeros there). The chain of checksums ends here; only such calls may follow.
    pub fn accept_unproven(&mut self, header: FrameHeader) {
        self.push(header);
    }

    fn push(&mut self, header: FrameHeader) {
        self.end += 1;
        self.open.push((header.pgno, self.end));
        if let Some(page_count) = header.commit {
            self.committed = self.end;
            self.committed_checksum = self.checksum;
            self.page_count = page_count;
            self.last.extend(self.open.drain(..));
        }
    }

    /// Frame number that [`Chain::accept`] expects next.
    pub fn next_frame(&self) -> u32 {
        self.end + 1
    }

    /// Forgets frames accepted after the last commit: they may yet be overwritten. Read again from
    /// [`Chain::next_frame`].
    pub fn rewind(&mut self) {
        self.end = self.committed;
        self.checksum = self.committed_checksum;
        self.open.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wal(frames: &[(u32, u32, u8)]) -> (Vec<u8>, Vec<Vec<u8>>) {
        let mut header = Vec::new();
        for word in [0x377f_0682u32, 3_007_000, 512, 0, 11, 22] {
            header.extend(word.to_be_bytes());
        }
        let mut sum = checksum(false, (0, 0), &header);
        header.extend([sum.0.to_be_bytes(), sum.1.to_be_bytes()].concat());
        let frames = frames.iter().map(|&(pgno, commit, fill)| {
            let mut frame = [pgno.to_be_bytes(), commit.to_be_bytes()].concat();
            let page = [fill; 512];
            sum = checksum(false, checksum(false, sum, &frame), &page);
            frame.extend([11u32, 22, sum.0, sum.1].iter().flat_map(|w| w.to_be_bytes()));
            frame.extend(page);
            frame
        });
        let frames = frames.collect();
        (header, frames)
    }

    #[test]
    fn chain_ends_at_last_commit_and_rewinds_what_is_open() {
        let (header, frames) = wal(&[(1, 0, 1), (2, 2, 2), (2, 0, 3)]);
        let mut chain = Chain::new(parse_header(&header).unwrap());
        for frame in &frames {
            assert!(chain.accept(frame));
        }
        assert_eq!((chain.committed(), chain.page_count(), chain.next_frame()), (2, 2, 4));
        assert_eq!(chain.find(Pgno::new(2).unwrap()), Some(2));
        chain.rewind();
        assert_eq!(chain.next_frame(), 3);
        assert!(chain.accept(&frames[2]), "the same frame again");
    }

    #[test]
    fn refuses_frame_with_old_salt_or_changed_byte() {
        let (header, frames) = wal(&[(1, 1, 1)]);
        for at in [3, 9, 17, 300] {
            let mut frame = frames[0].clone();
            frame[at] ^= 1;
            assert!(!Chain::new(parse_header(&header).unwrap()).accept(&frame), "byte {at}");
        }
        let mut bad = header.clone();
        bad[20] ^= 1;
        assert_eq!(parse_header(&bad), None);
    }
}
