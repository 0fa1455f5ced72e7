//! An LTX file that is read in parts, by several readers at once: where they lie, and what proves them.
//!
//! ```text
//! header | records ... | six zero bytes | page index | its size, post checksum, file checksum: the last 24 bytes
//! ```
//!
//! The first and the last bytes say where the index lies, the index says where each record lies, and each record must be
//! the one that the index says. The file checksum covers them all in the order of the file, pages uncompressed; the
//! checksums of its parts give it, whoever computed them ([`super::checksum::Shift`]).

use super::checksum::{Crc64, Shift, mixed};
use super::damage::Damage;
use super::encoder::{FLAG_BLOCK, RECORD_HEADER_BYTES};
use super::header::Header;
use super::index::{END_MARK_BYTES, Entry, TRAILER_BYTES, Walk};
use crate::types::{Checksum, PageSize};
use lz4_flex::block::{decompress_into, get_maximum_output_size};

/// Bytes at the end of a file that must be known first.
pub const TAIL_BYTES: u64 = 8 + TRAILER_BYTES;

/// No record is shorter: ten bytes of header and four of LZ4.
pub const RECORD_BYTES_MIN: u64 = 14;

/// The frame of a file.
#[derive(Debug)]
pub struct Parts {
    pub header: Header,
    /// Where the page index lies, and its bytes.
    pub index_at: u64,
    pub index_bytes: u64,
    /// CRC of the header.
    head: Crc64,
    tail: [u8; TAIL_BYTES as usize],
}

impl Parts {
    /// The frame of a file of `size` bytes with these first and last ones.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn new(
        size: u64,
        head: &[u8; Header::BYTES],
        tail: &[u8; TAIL_BYTES as usize],
    ) -> Result<Parts, (Damage, u64)> {
        let (header, checksums) = Header::decode(head).map_err(|damage| (damage, 0))?;
        let around = Header::BYTES as u64 + END_MARK_BYTES + TAIL_BYTES;
        let room = size.checked_sub(around).ok_or((Damage::Truncated, size))?;
        let index_bytes = number(tail, 0);
        if index_bytes == 0 || index_bytes > room {
            return Err((Damage::IndexSize { expected: room, found: index_bytes }, size - TAIL_BYTES));
        }
        let post = number(tail, 8);
        if checksums != Checksum::from_wire(post).is_some() || (!checksums && post != 0) {
            return Err((Damage::Post(post), size - TRAILER_BYTES));
        }
        let mut crc = Crc64::new();
        crc.update(head);
        let index_at = size - TAIL_BYTES - index_bytes;
        Ok(Parts { header, index_at, index_bytes, head: crc, tail: *tail })
    }

    /// The entries of the index, of which nothing has been read yet.
    ///
    /// # Errors
    /// `Truncated` when there is no room for the end mark.
    pub fn walk(&self) -> Result<Walk, Damage> {
        Walk::new(&self.header, self.index_at)
    }

    /// Compares the file checksum with that of the parts: of the records, in the order of the file, and of the index.
    ///
    /// # Errors
    /// `FileChecksum`.
    pub fn check(&self, records: impl Iterator<Item = Sum>, index: &Sum) -> Result<(), Damage> {
        let mut crc = self.head.clone();
        records.for_each(|part| crc.append_bytes(part.crc, part.bytes));
        crc.update(&[0; END_MARK_BYTES as usize]);
        crc.append_bytes(index.crc, index.bytes);
        crc.update(&self.tail[..16]);
        let (expected, found) = (Checksum::from_crc(crc.value()), number(&self.tail, 16));
        if found == expected.get() { Ok(()) } else { Err(Damage::FileChecksum { expected, found }) }
    }
}

fn number(tail: &[u8; TAIL_BYTES as usize], at: usize) -> u64 {
    u64::from_be_bytes(tail[at..at + 8].try_into().expect("BUG: a slice of eight has eight bytes"))
}

/// CRC of a part of a file, and how many bytes of it the file checksum covers: of a record those uncompressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    pub crc: u64,
    pub bytes: u64,
}

/// Bytes of the longest record of a page of this size.
pub fn longest_record(page_size: PageSize) -> u64 {
    (RECORD_HEADER_BYTES + get_maximum_output_size(page_size.bytes())) as u64
}

/// Decodes single records of one page size.
pub struct Records {
    page_size: PageSize,
    payload_max: usize,
    shift: Shift,
}

impl Records {
    pub fn new(page_size: PageSize) -> Records {
        let page = page_size.bytes();
        Records { page_size, payload_max: get_maximum_output_size(page), shift: Shift::new(page as u64) }
    }

    /// Fills `page` from the record of an entry and goes on with the sum of its file; returns the page's checksum.
    ///
    /// # Errors
    /// What is wrong with the record, or that it is not the one of the entry.
    ///
    /// # Panics
    /// When `page` is not one page long, or `record` not what the entry says.
    pub fn decode(
        &self,
        entry: Entry,
        record: &[u8],
        page: &mut [u8],
        sum: &mut Crc64,
    ) -> Result<Checksum, Damage> {
        assert_eq!(record.len() as u64, entry.length, "BUG: a record must be as long as its entry says");
        let Some((head, payload)) = record.split_first_chunk::<RECORD_HEADER_BYTES>() else {
            return Err(Damage::Index);
        };
        let [a, b, c, d, f, g, rest @ ..] = *head;
        if u32::from_be_bytes([a, b, c, d]) != entry.pgno.get() {
            return Err(Damage::Index);
        }
        if u16::from_be_bytes([f, g]) != FLAG_BLOCK {
            return Err(Damage::PageFlags(u16::from_be_bytes([f, g])));
        }
        let length = u32::from_be_bytes(rest);
        if length as usize != payload.len() {
            return Err(Damage::Index);
        }
        if payload.len() > self.payload_max {
            return Err(Damage::PayloadSize(length));
        }
        match decompress_into(payload, page) {
            Ok(found) if found == self.page_size.bytes() => {}
            Ok(found) => return Err(Damage::PageLength { expected: self.page_size, found }),
            Err(_) => return Err(Damage::Payload),
        }
        let mut content = Crc64::new();
        content.update(page);
        sum.update(head);
        sum.append(content.value(), &self.shift);
        let mut own = Crc64::new();
        own.update(&entry.pgno.get().to_be_bytes());
        own.append(content.value(), &self.shift);
        Ok(mixed(own.value()))
    }

    /// Bytes of a record that its file's checksum covers.
    pub fn summed_bytes(&self) -> u64 {
        (RECORD_HEADER_BYTES + self.page_size.bytes()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ltx::sample::{Random, file, header, read_in_parts};

    fn noise(seed: u64) -> Vec<(u32, Vec<u8>)> {
        let mut random = Random::new(seed);
        (1..=5).map(|pgno| (pgno, random.page(PageSize::new(512).unwrap()))).collect()
    }

    #[test]
    fn parts_give_the_pages_and_the_file_checksum() {
        let pages = noise(1);
        assert_eq!(read_in_parts(&file(header(1, 3, 512, 5), &pages)).unwrap(), pages);
        assert_eq!(read_in_parts(&file(header(2, 3, 512, 5), &pages[1..3])).unwrap(), pages[1..3]);
        assert_eq!(read_in_parts(&file(header(2, 2, 512, 5), &[])).unwrap(), []);
    }

    #[test]
    fn any_flipped_bit_and_any_lost_byte_are_noticed_or_mean_nothing() {
        let pages = noise(2);
        let good = file(header(2, 3, 512, 5), &pages);
        for at in (0..good.len()).step_by(crate::testing::STRIDE) {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            assert!(read_in_parts(&bad).map_or(true, |found| found == pages), "byte {at}");
            bad.truncate(at);
            assert!(bad.len() < 124 || read_in_parts(&bad).is_err(), "cut at {at}");
        }
    }
}
