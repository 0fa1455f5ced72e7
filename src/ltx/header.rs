//! The 100 bytes at the start of an LTX file.
//!
//! ```text
//!  0 magic "LTX1"   4 flags          8 page size     12 page count after the file
//! 16 min txid      24 max txid      32 timestamp ms  40 pre-apply checksum
//! 48 WAL offset    56 WAL size      64 two WAL salts 72 writer id
//! 80 tag "SQR2"    84 pre           92 post
//! ```
//!
//! The last line is ours, in bytes that the format reserves: the checksum of the database before and after the file, of
//! mixed CRCs ([`page_checksum`](super::page_checksum)), which the format's own fields cannot hold. A file without the tag is
//! *unproven*; a snapshot starts from nothing, so its pre is the checksum of the empty database. The format's own checksum
//! fields are written as "none" (flags 0x2): the stock restore fails on a file that has them. Files that do have them
//! (flags 0) are read.

use super::damage::Damage;
use crate::types::{Checksum, PageSize, Timestamp, Txid, TxidRange};

const MAGIC: [u8; 4] = *b"LTX1";
const TAG: [u8; 4] = *b"SQR2";
/// The format's own checksum fields are zero.
const NO_CHECKSUM: u32 = 2;

/// Checksum of the whole database before and after a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proof {
    pub pre: Checksum,
    pub post: Checksum,
}

const FRAME_HEADER_BYTES: u64 = 24;

/// The stretch of SQLite's WAL that a file was made from: salts, and how far it goes. Litestream's own writer looks at it, and
/// we do after a loss of power.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalSpan {
    pub offset: u64,
    pub size: u64,
    pub salt1: u32,
    pub salt2: u32,
}

impl WalSpan {
    /// Of a merged file.
    pub const NONE: WalSpan = WalSpan { offset: 0, size: 0, salt1: 0, salt2: 0 };
    /// Of every level-0 file: with offset 0, a `litestream replicate` that takes over never syncs again.
    pub const CAPTURED: WalSpan = WalSpan { offset: 32, size: 0, salt1: 0, salt2: 0 };

    /// The same of one that was read at a frame of a WAL with these salts.
    pub fn up_to(salts: (u32, u32), frame: u32, page_size: PageSize) -> WalSpan {
        let size = u64::from(frame) * (FRAME_HEADER_BYTES + u64::from(page_size.get()));
        WalSpan { size, salt1: salts.0, salt2: salts.1, ..WalSpan::CAPTURED }
    }

    /// Its salts and last frame; `None`: it was not read from a WAL.
    pub fn end(&self, page_size: PageSize) -> Option<((u32, u32), u32)> {
        let frame = self.size / (FRAME_HEADER_BYTES + u64::from(page_size.get()));
        let salts = (self.salt1, self.salt2);
        (salts != (0, 0)).then_some((salts, u32::try_from(frame).ok()?))
    }
}

/// What an LTX file says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub page_size: PageSize,
    /// Pages of the database after the file; never 0, which the format cannot express.
    pub page_count: u32,
    pub range: TxidRange,
    pub timestamp: Timestamp,
    pub wal: WalSpan,
    /// Information, never a proof; 0 in files of others.
    pub writer_id: u64,
    pub proof: Option<Proof>,
}

impl Header {
    pub const BYTES: usize = 100;

    /// Whether the file holds every page: it starts at the first txid.
    pub fn is_snapshot(&self) -> bool {
        self.range.min == Txid::FIRST
    }

    /// The bytes, or the first field that would make an unreadable file.
    pub fn encode(&self) -> Result<[u8; Header::BYTES], Damage> {
        let mut bytes = [0; Header::BYTES];
        bytes[0..4].copy_from_slice(&MAGIC);
        put_u32(&mut bytes, 4, NO_CHECKSUM);
        put_u32(&mut bytes, 8, self.page_size.get());
        put_u32(&mut bytes, 12, self.page_count);
        put_u64(&mut bytes, 16, self.range.min.get());
        put_u64(&mut bytes, 24, self.range.max.get());
        put_u64(&mut bytes, 32, self.timestamp.0 as u64);
        put_u64(&mut bytes, 48, self.wal.offset);
        put_u64(&mut bytes, 56, self.wal.size);
        put_u32(&mut bytes, 64, self.wal.salt1);
        put_u32(&mut bytes, 68, self.wal.salt2);
        put_u64(&mut bytes, 72, self.writer_id);
        if let Some(proof) = self.proof {
            bytes[80..84].copy_from_slice(&TAG);
            put_u64(&mut bytes, 84, proof.pre.get());
            put_u64(&mut bytes, 92, proof.post.get());
        }
        let (decoded, _) = Header::decode(&bytes)?;
        assert_eq!(decoded, *self, "BUG: a header must read back as written");
        Ok(bytes)
    }

    /// The header, and whether the format's own checksums are on, so that the trailer must hold one.
    pub fn decode(bytes: &[u8; Header::BYTES]) -> Result<(Header, bool), Damage> {
        if bytes[0..4] != MAGIC {
            return Err(Damage::Magic);
        }
        let flags = get_u32(bytes, 4);
        if flags & !NO_CHECKSUM != 0 {
            return Err(Damage::Flags(flags));
        }
        let checksums = flags & NO_CHECKSUM == 0;
        let page_size = PageSize::new(get_u32(bytes, 8)).ok_or(Damage::PageSize(get_u32(bytes, 8)))?;
        let page_count = get_u32(bytes, 12);
        if page_count == 0 {
            return Err(Damage::PageCount);
        }
        let (min, max) = (get_u64(bytes, 16), get_u64(bytes, 24));
        let range = Txid::new(min)
            .zip(Txid::new(max))
            .and_then(|(min, max)| TxidRange::new(min, max))
            .ok_or(Damage::Txids { min, max })?;
        let snapshot = range.min == Txid::FIRST;
        check_pre(get_u64(bytes, 40), checksums && !snapshot)?;
        let header = Header {
            page_size,
            page_count,
            range,
            timestamp: Timestamp(get_u64(bytes, 32) as i64),
            wal: decode_wal(bytes)?,
            writer_id: get_u64(bytes, 72),
            proof: decode_proof(bytes, snapshot)?,
        };
        Ok((header, checksums))
    }
}

fn check_pre(pre: u64, wanted: bool) -> Result<(), Damage> {
    if wanted == Checksum::from_wire(pre).is_some() && (wanted || pre == 0) {
        Ok(())
    } else {
        Err(Damage::Pre(pre))
    }
}

fn decode_wal(bytes: &[u8; Header::BYTES]) -> Result<WalSpan, Damage> {
    let wal = WalSpan {
        offset: get_u64(bytes, 48),
        size: get_u64(bytes, 56),
        salt1: get_u32(bytes, 64),
        salt2: get_u32(bytes, 68),
    };
    let negative = wal.offset > i64::MAX as u64 || wal.size > i64::MAX as u64;
    if negative || (wal.offset == 0 && wal != WalSpan::NONE) { Err(Damage::Wal) } else { Ok(wal) }
}

fn decode_proof(bytes: &[u8; Header::BYTES], snapshot: bool) -> Result<Option<Proof>, Damage> {
    if bytes[80..84] != TAG {
        return Ok(None);
    }
    let pre = Checksum::from_wire(get_u64(bytes, 84)).ok_or(Damage::Proof)?;
    let post = Checksum::from_wire(get_u64(bytes, 92)).ok_or(Damage::Proof)?;
    if snapshot && pre != Checksum::EMPTY {
        return Err(Damage::Proof);
    }
    Ok(Some(Proof { pre, post }))
}

fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

fn put_u64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_be_bytes());
}

fn get_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("BUG: a slice of four has four bytes"))
}

fn get_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().expect("BUG: a slice of eight has eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            page_size: PageSize::new(4096).unwrap(),
            page_count: 7,
            range: TxidRange::new(Txid::new(5).unwrap(), Txid::new(9).unwrap()).unwrap(),
            timestamp: Timestamp(-3),
            wal: WalSpan::CAPTURED,
            writer_id: 0x0123_4567_89ab_cdef,
            proof: Some(Proof { pre: Checksum::from_crc(1), post: Checksum::from_crc(2) }),
        }
    }

    /// The bytes of `header()` with `value` put at `at`.
    fn patched(at: usize, value: &[u8]) -> Result<(Header, bool), Damage> {
        let mut bytes = header().encode().unwrap();
        bytes[at..at + value.len()].copy_from_slice(value);
        Header::decode(&bytes)
    }

    #[test]
    fn header_reads_back() {
        let bytes = header().encode().unwrap();
        assert_eq!(Header::decode(&bytes), Ok((header(), false)));
        assert_eq!(bytes[80..84], *b"SQR2");
        let unproven = Header { proof: None, ..header() };
        assert_eq!(Header::decode(&unproven.encode().unwrap()), Ok((unproven, false)));
    }

    #[test]
    fn every_bad_field_is_refused_by_name() {
        assert_eq!(patched(0, b"LTX2"), Err(Damage::Magic));
        assert_eq!(patched(4, &[0, 0, 0, 3]), Err(Damage::Flags(3)));
        assert_eq!(patched(8, &[0, 0, 0x10, 1]), Err(Damage::PageSize(4097)));
        assert_eq!(patched(12, &[0; 4]), Err(Damage::PageCount));
        assert_eq!(patched(16, &[0; 8]), Err(Damage::Txids { min: 0, max: 9 }));
        assert_eq!(patched(24, &4u64.to_be_bytes()), Err(Damage::Txids { min: 5, max: 4 }));
        assert_eq!(patched(40, &1u64.to_be_bytes()), Err(Damage::Pre(1)));
        assert_eq!(patched(48, &[0xff; 8]), Err(Damage::Wal));
        assert_eq!(patched(56, &[0xff; 8]), Err(Damage::Wal));
        assert_eq!(patched(84, &[0]), Err(Damage::Proof));
        assert_eq!(patched(92, &[0]), Err(Damage::Proof));
        assert_eq!(patched(16, &1u64.to_be_bytes()), Err(Damage::Proof), "a snapshot starts from nothing");
    }

    #[test]
    fn wal_size_or_salt_needs_an_offset() {
        for wal in [WalSpan { size: 1, ..WalSpan::NONE }, WalSpan { salt1: 1, ..WalSpan::NONE }] {
            assert_eq!(Header { wal, ..header() }.encode(), Err(Damage::Wal));
            assert!(Header { wal: WalSpan { offset: 32, ..wal }, ..header() }.encode().is_ok());
        }
    }

    #[test]
    fn own_checksums_of_the_format_are_read() {
        let mut bytes = header().encode().unwrap();
        bytes[7] = 0;
        assert_eq!(Header::decode(&bytes), Err(Damage::Pre(0)), "required past the first txid");
        bytes[40] = 0x80;
        assert_eq!(Header::decode(&bytes), Ok((header(), true)));
    }
}
