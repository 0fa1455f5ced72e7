//! The page index near the end of a file: where each page record lies, for readers of single pages.
//!
//! One entry a page, ascending: three LEB128 varints `pgno, offset, length` (the whole record, its header
//! included), then a zero byte, then a u64 with the bytes of all that but itself; the trailer follows.

use super::damage::Damage;
use super::header::Header;
use crate::error::{Error, Result};
use crate::types::Pgno;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

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
    pub(super) fn encode(&self, sink: impl FnOnce(&[u8])) {
        let mut bytes = [0; ENTRY_BYTES_MAX];
        let mut length = 0;
        for value in [self.pgno.get() as u64, self.offset, self.length] {
            let mut rest = value;
            while rest >= 0x80 {
                bytes[length] = rest as u8 | 0x80;
                rest >>= 7;
                length += 1;
            }
            bytes[length] = rest as u8;
            length += 1;
        }
        sink(&bytes[..length]);
    }
}

/// Reads the page index of a whole file. `name` is the file's, for messages.
///
/// Memory is bounded by the size of the index in the file. The entries are checked to be ascending and to
/// cover exactly the bytes between header and index; the pages themselves are not read.
///
/// # Errors
/// `Corrupt` with file and offset; `Io`.
pub fn read(file: &mut (impl Read + Seek), name: &str) -> Result<Vec<Entry>> {
    let io = |e| Error::io("read", Path::new(name), e);
    let size = file.seek(SeekFrom::End(0)).map_err(io)?;
    let around = Header::BYTES as u64 + END_MARK_BYTES + 8 + TRAILER_BYTES;
    let room = size.checked_sub(around).ok_or_else(|| Damage::Truncated.at(name, size))?;
    let size_at = size - TRAILER_BYTES - 8;
    file.seek(SeekFrom::Start(size_at)).map_err(io)?;
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(io)?;
    let length = u64::from_be_bytes(length);
    if length > room {
        return Err(Damage::IndexSize { expected: room, found: length }.at(name, size_at));
    }
    let index_at = size_at - length;
    file.seek(SeekFrom::Start(index_at)).map_err(io)?;
    let mut bytes = vec![0; length as usize];
    file.read_exact(&mut bytes).map_err(io)?;
    parse(&bytes, index_at - END_MARK_BYTES).ok_or_else(|| Damage::Index.at(name, index_at))
}

/// The entries in `bytes`, whose records must lie end to end from the header to `end`.
fn parse(bytes: &[u8], end: u64) -> Option<Vec<Entry>> {
    let mut entries = Vec::with_capacity(bytes.len() / 4);
    let mut rest = bytes;
    let mut offset = Header::BYTES as u64;
    let mut last = 0;
    loop {
        let Some(pgno) = Pgno::new(u32::try_from(varint(&mut rest)?).ok()?) else {
            return (rest.is_empty() && offset == end).then_some(entries);
        };
        let entry = Entry { pgno, offset: varint(&mut rest)?, length: varint(&mut rest)? };
        if pgno.get() <= last || entry.offset != offset {
            return None;
        }
        last = pgno.get();
        offset = offset.checked_add(entry.length)?;
        entries.push(entry);
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

    #[test]
    fn records_must_lie_end_to_end() {
        let index = |entries: &[(u32, u64, u64)]| {
            let mut bytes = Vec::new();
            for &(pgno, offset, length) in entries {
                let entry = Entry { pgno: Pgno::new(pgno).unwrap(), offset, length };
                entry.encode(|b| bytes.extend_from_slice(b));
            }
            bytes.push(0);
            bytes
        };
        assert_eq!(parse(&index(&[(1, 100, 20), (3, 120, 10)]), 130).unwrap().len(), 2);
        assert_eq!(parse(&index(&[]), 100), Some(vec![]));
        assert_eq!(parse(&index(&[(1, 100, 20), (3, 121, 10)]), 131), None, "a hole");
        assert_eq!(parse(&index(&[(1, 100, 20), (1, 120, 10)]), 130), None, "twice");
        assert_eq!(parse(&index(&[(1, 100, 20)]), 121), None, "bytes left");
        assert_eq!(parse(&index(&[(1, 100, u64::MAX)]), 99), None, "overflow");
        assert_eq!(parse(&[], 100), None);
    }
}
