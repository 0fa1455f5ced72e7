//! What can be wrong with the bytes of an LTX file, exactly; folded into `Corrupt` for everyone else.

use crate::error::Error;
use crate::types::{Checksum, PageSize};
use std::fmt;

/// One reason to refuse a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    Magic,
    Flags(u32),
    PageSize(u32),
    PageCount,
    Txids { min: u64, max: u64 },
    Wal,
    Pre(u64),
    Post(u64),
    Proof,
    Truncated,
    PageFlags(u16),
    EndMark,
    PageOrder { last: u32, found: u32 },
    LockPage(u32),
    PastEnd { pgno: u32, page_count: u32 },
    MissingPage { expected: u32, found: Option<u32> },
    PayloadSize(u32),
    Payload,
    PageLength { expected: PageSize, found: usize },
    FrameHeader,
    FrameEnd,
    Index,
    IndexSize { expected: u64, found: u64 },
    PostChecksum { expected: Checksum, found: u64 },
    FileChecksum { expected: Checksum, found: u64 },
    TrailingBytes,
}

impl Damage {
    /// The crate's error for damage found at byte `offset` of `file`.
    pub fn at(self, file: &str, offset: u64) -> Error {
        Error::corrupt(format!("{file} is damaged at byte {offset}: {self}"))
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Damage::Magic => write!(f, "not an LTX file, expected magic \"LTX1\""),
            Damage::Flags(flags) => write!(f, "unknown header flags {flags:#010x}"),
            Damage::PageSize(size) => write!(f, "page size {size} is not a power of two from 512 to 65536"),
            Damage::PageCount => write!(f, "page count is 0"),
            Damage::Txids { min, max } => write!(f, "invalid txid range {min:016x}-{max:016x}"),
            Damage::Wal => write!(f, "invalid WAL offset, size or salts"),
            Damage::Pre(found) => write!(f, "invalid pre-apply checksum {found:016x}"),
            Damage::Post(found) => write!(f, "invalid post-apply checksum {found:016x}"),
            Damage::Proof => write!(f, "invalid database checksums in the reserved header bytes"),
            Damage::Truncated => write!(f, "the file ends too early"),
            Damage::PageFlags(flags) => write!(f, "unknown page flags {flags:#06x}"),
            Damage::EndMark => write!(f, "the mark after the last page is not six zero bytes"),
            Damage::PageOrder { last, found } => {
                write!(f, "page {found} follows page {last}, expected ascending")
            }
            Damage::LockPage(pgno) => write!(f, "page {pgno} is the lock-byte page, which is never stored"),
            Damage::PastEnd { pgno, page_count } => {
                write!(f, "page {pgno} lies past the page count {page_count}")
            }
            Damage::MissingPage { expected, found: Some(found) } => {
                write!(f, "a snapshot lacks page {expected}, found page {found}")
            }
            Damage::MissingPage { expected, found: None } => {
                write!(f, "a snapshot lacks page {expected}, found the end")
            }
            Damage::PayloadSize(size) => write!(f, "a page record of {size} bytes is too large"),
            Damage::Payload => write!(f, "the LZ4 data of a page is invalid"),
            Damage::PageLength { expected, found } => {
                write!(f, "a page has {found} bytes uncompressed, expected {expected}")
            }
            Damage::FrameHeader => {
                write!(f, "expected an LZ4 frame with independent blocks and content checksum")
            }
            Damage::FrameEnd => write!(f, "an LZ4 frame holds more than a page"),
            Damage::Index => write!(f, "the page index does not match the pages"),
            Damage::IndexSize { expected, found } => {
                write!(f, "page index size {found}, expected {expected}")
            }
            Damage::PostChecksum { expected, found } => {
                write!(f, "post-apply checksum {found:016x}, but the pages have checksum {expected}")
            }
            Damage::FileChecksum { expected, found } => {
                write!(f, "file checksum {found:016x}, expected {expected}")
            }
            Damage::TrailingBytes => write!(f, "bytes follow the trailer"),
        }
    }
}
