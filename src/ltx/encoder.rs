//! Writes an LTX file: header, pages in ascending order, page index, trailer.
//!
//! A page record is `pgno u32 | flags u16 = 1 | length u32 | LZ4 block`. The file checksum covers the
//! uncompressed pages. Time goes into LZ4 (nine tenths) and the CRC, so every buffer is used again for the
//! next page. The index stays in memory until the end: about 8 bytes a page.

use super::checksum::Crc64;
use super::damage::Damage;
use super::header::Header;
use super::index::{END_MARK_BYTES, Packed, TRAILER_BYTES};
use super::name;
use crate::error::{Error, Result};
use crate::types::{Checksum, Pgno};
use lz4_flex::block::{CompressTable, compress_into_with_table, get_maximum_output_size};
use std::io::Write;
use std::path::Path;

/// Page number, flags, payload length.
pub(super) const RECORD_HEADER_BYTES: usize = 10;
/// Page flag: a length and an LZ4 block follow.
pub(super) const FLAG_BLOCK: u16 = 1;

/// Bytes of the index that are written at once.
const INDEX_BYTES: usize = if cfg!(test) { 16 } else { 32 << 10 };

/// What a finished file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    pub header: Header,
    /// Page records in the file.
    pub pages: u32,
    /// Bytes of the file.
    pub size: u64,
    pub file_checksum: Checksum,
}

/// An LTX file being written.
///
/// ```text
/// let mut encoder = Encoder::new(&mut bytes, header)?;
/// encoder.page(Pgno::FIRST, &page)?;
/// let summary = encoder.finish()?;
/// ```
pub struct Encoder<W> {
    out: W,
    header: Header,
    crc: Crc64,
    index: Packed,
    /// Bytes written so far.
    offset: u64,
    last: Option<Pgno>,
    pages: u32,
    record: Vec<u8>,
    table: CompressTable,
}

impl<W: Write> Encoder<W> {
    /// Writes the header. Each page is one write; put a `BufWriter` between when `out` is a file.
    ///
    /// # Errors
    /// `Invalid` when no reader would accept the header; those of writing.
    pub fn new(out: W, header: Header) -> Result<Encoder<W>> {
        let bytes = header.encode().map_err(|damage| refused(&header, damage))?;
        let page_bytes = header.page_size.bytes();
        let mut encoder = Encoder {
            out,
            header,
            crc: Crc64::new(),
            index: Packed::default(),
            offset: 0,
            last: None,
            pages: 0,
            record: vec![0; RECORD_HEADER_BYTES + get_maximum_output_size(page_bytes)],
            table: if page_bytes < u16::MAX as usize {
                CompressTable::small()
            } else {
                CompressTable::large()
            },
        };
        encoder.write_hashed(&bytes)?;
        Ok(encoder)
    }

    /// Appends a page.
    ///
    /// # Errors
    /// `Invalid` for a page out of order, the lock-byte page, a page past the page count, a page missing
    /// before it in a snapshot; those of writing.
    ///
    /// # Panics
    /// When `data` is not one page long.
    pub fn page(&mut self, pgno: Pgno, data: &[u8]) -> Result<()> {
        assert_eq!(data.len(), self.header.page_size.bytes(), "BUG: a page must have the page size");
        check_order(&self.header, self.last, pgno).map_err(|damage| refused(&self.header, damage))?;
        let length = compress_into_with_table(data, &mut self.record[RECORD_HEADER_BYTES..], &mut self.table)
            .expect("BUG: the buffer holds the largest LZ4 block of a page");
        self.record[0..4].copy_from_slice(&pgno.get().to_be_bytes());
        self.record[4..6].copy_from_slice(&FLAG_BLOCK.to_be_bytes());
        self.record[6..10].copy_from_slice(&(length as u32).to_be_bytes());
        self.crc.update(&self.record[..RECORD_HEADER_BYTES]);
        self.crc.update(data);
        let bytes = RECORD_HEADER_BYTES + length;
        self.out.write_all(&self.record[..bytes]).map_err(|e| cannot_write(&self.header, e))?;
        self.index.push(pgno, bytes as u64);
        self.offset += bytes as u64;
        self.last = Some(pgno);
        self.pages += 1;
        Ok(())
    }

    /// Writes index and trailer, and flushes.
    ///
    /// # Errors
    /// `Invalid` when a snapshot lacks its last pages; those of writing.
    pub fn finish(mut self) -> Result<Summary> {
        check_complete(&self.header, self.last).map_err(|damage| refused(&self.header, damage))?;
        self.write_hashed(&[0; END_MARK_BYTES as usize])?;
        self.write_index()?;
        self.write_hashed(&[0; TRAILER_BYTES as usize - 8])?;
        let file_checksum = Checksum::from_crc(self.crc.value());
        self.out
            .write_all(&file_checksum.get().to_be_bytes())
            .and_then(|()| self.out.flush())
            .map_err(|e| cannot_write(&self.header, e))?;
        Ok(Summary { header: self.header, pages: self.pages, size: self.offset + 8, file_checksum })
    }

    fn write_index(&mut self) -> Result<()> {
        let (index, from) = (std::mem::take(&mut self.index), self.offset);
        let mut bytes = Vec::with_capacity(2 * INDEX_BYTES);
        for entry in index.entries() {
            entry.encode(|entry| bytes.extend_from_slice(entry));
            if bytes.len() >= INDEX_BYTES {
                self.write_hashed(&bytes)?;
                bytes.clear();
            }
        }
        bytes.push(0);
        self.write_hashed(&bytes)?;
        let length = self.offset - from;
        self.write_hashed(&length.to_be_bytes())
    }

    fn write_hashed(&mut self, bytes: &[u8]) -> Result<()> {
        self.crc.update(bytes);
        self.offset += bytes.len() as u64;
        self.out.write_all(bytes).map_err(|e| cannot_write(&self.header, e))
    }
}

/// Whether `pgno` may follow `last` in a file with this header.
pub(super) fn check_order(
    header: &Header,
    last: Option<Pgno>,
    pgno: Pgno,
) -> std::result::Result<(), Damage> {
    let found = pgno.get();
    if last >= Some(pgno) {
        return Err(Damage::PageOrder { last: last.map_or(0, Pgno::get), found });
    }
    if pgno == header.page_size.lock_pgno() {
        return Err(Damage::LockPage(found));
    }
    if found > header.page_count {
        return Err(Damage::PastEnd { pgno: found, page_count: header.page_count });
    }
    let expected = successor(header, last);
    if header.is_snapshot() && found as u64 != expected {
        return Err(Damage::MissingPage { expected: expected as u32, found: Some(found) });
    }
    Ok(())
}

/// Whether a file with this header may end after `last`.
pub(super) fn check_complete(header: &Header, last: Option<Pgno>) -> std::result::Result<(), Damage> {
    let expected = successor(header, last);
    if header.is_snapshot() && expected <= header.page_count as u64 {
        return Err(Damage::MissingPage { expected: expected as u32, found: None });
    }
    Ok(())
}

/// The next stored page number after `last`: the lock-byte page is passed over.
fn successor(header: &Header, last: Option<Pgno>) -> u64 {
    let next = last.map_or(0, Pgno::get) as u64 + 1;
    if next == header.page_size.lock_pgno().get() as u64 { next + 1 } else { next }
}

fn refused(header: &Header, damage: Damage) -> Error {
    Error::invalid(format!("cannot write {}: {damage}", name::format(header.range)))
}

fn cannot_write(header: &Header, error: std::io::Error) -> Error {
    Error::io("write", Path::new(&name::format(header.range)), error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::ltx::WalSpan;
    use crate::types::{PageSize, Timestamp, Txid, TxidRange};

    fn header(min: u64, page_size: u32, page_count: u32) -> Header {
        Header {
            page_size: PageSize::new(page_size).unwrap(),
            page_count,
            range: TxidRange::new(Txid::new(min).unwrap(), Txid::new(9).unwrap()).unwrap(),
            timestamp: Timestamp(0),
            wal: WalSpan::NONE,
            writer_id: 0,
            proof: None,
        }
    }

    fn encode(header: Header, pgnos: &[u32]) -> Result<Summary> {
        let page = vec![0; header.page_size.bytes()];
        let mut encoder = Encoder::new(std::io::sink(), header)?;
        for pgno in pgnos {
            encoder.page(Pgno::new(*pgno).unwrap(), &page)?;
        }
        encoder.finish()
    }

    #[test]
    fn pages_must_ascend_within_the_page_count() {
        assert_eq!(encode(header(2, 512, 9), &[1, 5, 9]).unwrap().pages, 3);
        for pgnos in [[5, 4], [5, 5], [1, 10]] {
            assert_eq!(encode(header(2, 512, 9), &pgnos).unwrap_err().kind(), Kind::Invalid, "{pgnos:?}");
        }
    }

    #[test]
    fn a_snapshot_holds_every_page() {
        assert!(encode(header(1, 512, 3), &[1, 2, 3]).is_ok());
        for pgnos in [&[2, 3][..], &[1, 3], &[1, 2], &[]] {
            let error = encode(header(1, 512, 3), pgnos).unwrap_err();
            assert!(error.to_string().contains("a snapshot lacks page"), "{error}");
        }
    }

    #[test]
    fn the_lock_byte_page_is_refused_and_passed_over() {
        let error = encode(header(2, 65536, 20000), &[16385]).unwrap_err();
        assert!(error.to_string().contains("lock-byte page"), "{error}");
        let snapshot = header(1, 65536, 16386);
        assert_eq!(check_order(&snapshot, Pgno::new(16384), Pgno::new(16386).unwrap()), Ok(()));
        assert_eq!(check_complete(&header(1, 65536, 16385), Pgno::new(16384)), Ok(()));
    }

    #[test]
    fn a_full_disk_names_the_file() {
        let error = match Encoder::new(&mut [0u8; 50][..], header(1, 512, 1)) {
            Ok(_) => panic!("50 bytes hold no header"),
            Err(error) => error,
        };
        assert!(
            error.to_string().starts_with("cannot write 0000000000000001-0000000000000009.ltx"),
            "{error}"
        );
    }
}
