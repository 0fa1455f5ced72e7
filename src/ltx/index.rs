//! The page index near the end of a file: where each page record lies, for readers of single pages.
//!
//! One entry a page, ascending: three LEB128 varints `pgno, offset, length` (the whole record, its header
//! included), then a zero byte, then a u64 with the bytes of all that but itself; the trailer follows.

use super::damage::Damage;
use super::encoder::{check_complete, check_order};
use super::header::Header;
use crate::types::Pgno;

/// Bytes of the checksum of the database and of the file at the end.
pub const TRAILER_BYTES: u64 = 16;
/// Bytes after the last page record: page number 0, flags 0.
pub const END_MARK_BYTES: u64 = 6;
/// The longest entry: a page number, an offset and a length as varints.
const ENTRY_BYTES_MAX: usize = 25;

/// Where one page record lies in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub pgno: Pgno,
    pub offset: u64,
    pub length: u64,
}

impl Entry {
    /// Calls `sink` with the bytes of this entry.
    pub fn encode(&self, sink: impl FnOnce(&[u8])) {
        let mut bytes = [0; ENTRY_BYTES_MAX];
        let mut length = 0;
        for value in [self.pgno.get() as u64, self.offset, self.length] {
            length += put_varint(&mut bytes[length..], value);
        }
        sink(&bytes[..length]);
    }
}

/// The index of a file that is being written: two varints a page, three bytes of memory mostly, where the index itself takes
/// a dozen. Records lie end to end.
#[derive(Default)]
pub struct Packed {
    bytes: Vec<u8>,
    last: u32,
}

impl Packed {
    /// Adds the record that follows the one before.
    pub fn push(&mut self, pgno: Pgno, length: u64) {
        let mut bytes = [0; ENTRY_BYTES_MAX];
        let mut end = put_varint(&mut bytes, u64::from(pgno.get() - self.last));
        end += put_varint(&mut bytes[end..], length);
        self.bytes.extend_from_slice(&bytes[..end]);
        self.last = pgno.get();
    }

    /// The entries, the first record at the end of the header.
    pub fn entries(&self) -> impl Iterator<Item = Entry> {
        let mut rest = &self.bytes[..];
        let (mut pgno, mut offset) = (0, Header::BYTES as u64);
        std::iter::from_fn(move || {
            let (step, length) = varint(&mut rest).zip(varint(&mut rest))?;
            pgno += step as u32;
            let entry = Entry { pgno: Pgno::new(pgno)?, offset, length };
            offset += length;
            Some(entry)
        })
    }
}

/// How many bytes it took.
fn put_varint(out: &mut [u8], mut value: u64) -> usize {
    let mut length = 0;
    while value >= 0x80 {
        out[length] = value as u8 | 0x80;
        value >>= 7;
        length += 1;
    }
    out[length] = value as u8;
    length + 1
}

/// The entries of a page index, read a stretch at a time. They are checked to be those of a file with this header, and
/// that their records lie end to end from the header to the end mark.
#[derive(Debug)]
pub struct Walk {
    header: Header,
    last: Option<Pgno>,
    /// Where the next record begins, and where the last one must end.
    offset: u64,
    end: u64,
}

/// What a walk comes upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Entry(Entry),
    /// The index is over, and in order.
    End,
    /// More bytes must follow to tell.
    More,
}

impl Walk {
    /// `index_at`: where the index begins.
    ///
    /// # Errors
    /// `Truncated` when nothing can lie before it.
    pub fn new(header: &Header, index_at: u64) -> Result<Walk, Damage> {
        let offset = Header::BYTES as u64;
        let end =
            index_at.checked_sub(END_MARK_BYTES).filter(|end| *end >= offset).ok_or(Damage::Truncated)?;
        Ok(Walk { header: *header, last: None, offset, end })
    }

    /// The next entry in `bytes`, which lose it. `is_all`: nothing follows them.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn next(&mut self, bytes: &mut &[u8], is_all: bool) -> Result<Step, Damage> {
        if !is_all && bytes.len() < ENTRY_BYTES_MAX {
            return Ok(Step::More);
        }
        let number = varint(bytes).and_then(|number| u32::try_from(number).ok()).ok_or(Damage::Index)?;
        let Some(pgno) = Pgno::new(number) else {
            let in_order = bytes.is_empty() && is_all && self.offset == self.end;
            check_complete(&self.header, self.last)?;
            return if in_order { Ok(Step::End) } else { Err(Damage::Index) };
        };
        let (offset, length) = varint(bytes).zip(varint(bytes)).ok_or(Damage::Index)?;
        let end = offset.checked_add(length).filter(|end| *end <= self.end);
        check_order(&self.header, self.last, pgno)?;
        if offset != self.offset || length == 0 {
            return Err(Damage::Index);
        }
        self.offset = end.ok_or(Damage::Index)?;
        self.last = Some(pgno);
        Ok(Step::Entry(Entry { pgno, offset, length }))
    }
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let part = (byte & 0x7f) as u64;
        if (part << shift) >> shift != part {
            return None;
        }
        value |= part << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ltx::sample::header;

    #[test]
    fn entry_reads_back_at_the_edges_of_its_varints() {
        for value in [1, 0x7f, 0x80, 0x3fff, 0x4000, u32::MAX as u64, u64::MAX] {
            let entry = Entry { pgno: Pgno::new(value as u32).unwrap(), offset: value, length: value };
            entry.encode(|bytes| {
                let mut rest = bytes;
                assert_eq!(varint(&mut rest), Some(entry.pgno.get() as u64));
                assert_eq!(varint(&mut rest), Some(value));
                assert_eq!(varint(&mut rest), Some(value));
                assert!(rest.is_empty());
            });
        }
    }

    #[test]
    fn varint_refuses_what_does_not_fit() {
        assert_eq!(varint(&mut &[0x80u8; 11][..]), None);
        assert_eq!(varint(&mut &[0xffu8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2][..]), None);
        assert_eq!(varint(&mut &[0x80u8][..]), None);
    }

    /// The entries of an index in front of `index_at`, given in stretches of `stretch` bytes.
    fn walk(bytes: &[u8], index_at: u64, stretch: usize) -> Result<Vec<Entry>, Damage> {
        let mut walk = Walk::new(&header(2, 2, 512, 9), index_at)?;
        let (mut there, mut entries) = (stretch.min(bytes.len()), Vec::new());
        let mut at = 0;
        loop {
            let mut rest = &bytes[at..there];
            match walk.next(&mut rest, there == bytes.len())? {
                Step::Entry(entry) => entries.push(entry),
                Step::End => return Ok(entries),
                Step::More => {
                    there = (there + stretch).min(bytes.len());
                    continue;
                }
            }
            at = there - rest.len();
        }
    }

    fn index(entries: &[(u32, u64, u64)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for &(pgno, offset, length) in entries {
            let entry = Entry { pgno: Pgno::new(pgno).unwrap(), offset, length };
            entry.encode(|b| bytes.extend_from_slice(b));
        }
        bytes.push(0);
        bytes
    }

    #[test]
    fn records_must_lie_end_to_end() {
        for stretch in 1..60 {
            assert_eq!(walk(&index(&[(1, 100, 20), (3, 120, 10)]), 136, stretch).unwrap().len(), 2);
        }
        assert_eq!(walk(&index(&[]), 106, 9), Ok(vec![]));
        assert_eq!(refused(&[(1, 100, 20), (3, 121, 10)], 137), Damage::Index, "a hole");
        assert_eq!(refused(&[(1, 100, 20), (3, 119, 10)], 135), Damage::Index, "an overlap");
        assert_eq!(refused(&[(1, 100, 20)], 127), Damage::Index, "bytes left");
        assert_eq!(refused(&[(1, 100, u64::MAX)], 105 + 6), Damage::Index, "overflow");
        assert_eq!(refused(&[], 100), Damage::Truncated, "no room for the header");
        assert_eq!(walk(&[], 106, 9), Err(Damage::Index));
        assert_eq!(walk(&[0, 0], 106, 9), Err(Damage::Index), "bytes after the end");
        assert_eq!(walk(&[0x80; 30], 106, 9), Err(Damage::Index));
    }

    #[test]
    fn pages_must_be_those_that_the_header_allows() {
        let order = refused(&[(1, 100, 20), (1, 120, 10)], 136);
        assert_eq!(order, Damage::PageOrder { last: 1, found: 1 });
        assert_eq!(refused(&[(10, 100, 20)], 126), Damage::PastEnd { pgno: 10, page_count: 9 });
        let mut walk = Walk::new(&header(1, 1, 512, 2), 126).unwrap();
        let bytes = index(&[(1, 100, 20)]);
        let mut rest = &bytes[..];
        assert!(matches!(walk.next(&mut rest, true), Ok(Step::Entry(_))));
        assert_eq!(walk.next(&mut rest, true), Err(Damage::MissingPage { expected: 2, found: None }));
    }

    fn refused(entries: &[(u32, u64, u64)], index_at: u64) -> Damage {
        walk(&index(entries), index_at, 99).unwrap_err()
    }
}
