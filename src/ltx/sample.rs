//! Small files and seeded noise for the tests of every room that reads LTX.

use super::index::Step;
use super::parts::{Parts, Records, Sum};
use super::{Crc64, Damage, Encoder, Header, WalSpan, page_checksum};
use crate::types::{PageSize, Pgno, Timestamp, Txid, TxidRange};

/// An xorshift generator: the same numbers from the same seed.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// From 0 to `end - 1`.
    pub fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 11) % end
    }

    /// A page of noise, of one byte, or of text that repeats.
    pub fn page(&mut self, page_size: PageSize) -> Vec<u8> {
        let kind = self.below(3);
        let byte = self.next() as u8;
        let period = 1 + self.below(90);
        (0..page_size.bytes() as u64)
            .map(|i| match kind {
                0 => self.next() as u8,
                1 => byte,
                _ => ((i % period) * 7) as u8 ^ byte,
            })
            .collect()
    }
}

pub fn header(min: u64, max: u64, page_size: u32, page_count: u32) -> Header {
    Header {
        page_size: PageSize::new(page_size).unwrap(),
        page_count,
        range: TxidRange::new(Txid::new(min).unwrap(), Txid::new(max).unwrap()).unwrap(),
        timestamp: Timestamp(1_700_000_000_000 + max as i64),
        wal: WalSpan::CAPTURED,
        writer_id: 0,
        proof: None,
    }
}

pub fn file(header: Header, pages: &[(u32, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, header).unwrap();
    for (pgno, page) in pages {
        encoder.page(Pgno::new(*pgno).unwrap(), page).unwrap();
    }
    assert_eq!(encoder.finish().unwrap().size, bytes.len() as u64);
    bytes
}

/// Reads a file by its parts and checks all that can be checked.
pub fn read_in_parts(bytes: &[u8]) -> Result<Vec<(u32, Vec<u8>)>, Damage> {
    let size = bytes.len() as u64;
    let head = bytes.first_chunk().ok_or(Damage::Truncated)?;
    let parts = Parts::new(size, head, bytes.last_chunk().unwrap()).map_err(|(damage, _)| damage)?;
    let records = Records::new(parts.header.page_size);
    let mut index = &bytes[parts.index_at as usize..][..parts.index_bytes as usize];
    let mut sum = Crc64::new();
    sum.update(index);
    let sum = Sum { crc: sum.value(), bytes: parts.index_bytes };
    let (mut walk, mut pages, mut sums) = (parts.walk()?, Vec::new(), Vec::new());
    while let Step::Entry(entry) = walk.next(&mut index, true)? {
        let mut page = vec![0; parts.header.page_size.bytes()];
        let record = &bytes[entry.offset as usize..][..entry.length as usize];
        let mut crc = Crc64::new();
        let checksum = records.decode(entry, record, &mut page, &mut crc)?;
        assert_eq!(checksum, page_checksum(entry.pgno, &page));
        sums.push(Sum { crc: crc.value(), bytes: records.summed_bytes() });
        pages.push((entry.pgno.get(), page));
    }
    if bytes[parts.index_at as usize - 6..parts.index_at as usize] != [0; 6] {
        return Err(Damage::EndMark);
    }
    parts.check(sums.into_iter(), &sum).map(|()| pages)
}
