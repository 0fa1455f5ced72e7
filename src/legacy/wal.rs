//! WAL segments onto a database file, commit by commit, without SQLite.
//!
//! ```text
//! segments of one index -> one WAL: header, frames -> salts and chain of checksums right -> pages of an open transaction
//!                                                     -> its commit frame -> the database, cut to the size it says
//! ```
//!
//! A frame that SQLite's recovery would stop at, the end of the bytes inside a frame, and a WAL whose last transaction
//! has no commit are errors: each would be a shorter database. The last segment of an index ends with a commit, so that
//! one that is missing is not seen.

use super::frame::Frame;
use super::plan::Segment;
use crate::error::{Error, Result};
use crate::fs::durable::Temp;
use crate::replica::Objects;
use crate::sqlite::wal::{FRAME_HEADER_LEN, HEADER_LEN, WalHeader, parse_header, proven};
use crate::types::{PageSize, Pgno};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes of one transaction's pages in memory; what is more waits in a file beside the database.
const OPEN_BYTES_MAX: usize = 16 << 20;

/// A database file being made.
pub struct Database<'a> {
    pub temp: &'a Temp,
    pub output: &'a Path,
    /// As the database's own header says; an encrypted one says nothing, and its first WAL does.
    pub page_size: Option<PageSize>,
    /// Bytes.
    pub length: u64,
}

impl Database<'_> {
    pub fn write(&mut self, bytes: &[u8], offset: u64) -> Result<()> {
        let written = self.temp.file().write_all_at(bytes, offset);
        written.map_err(|e| Error::io("write", self.temp.path(), e))?;
        self.length = self.length.max(offset + bytes.len() as u64);
        Ok(())
    }

    fn cut(&mut self, length: u64) -> Result<()> {
        self.temp.file().set_len(length).map_err(|e| Error::io("resize", self.temp.path(), e))?;
        self.length = length;
        Ok(())
    }
}

/// Applies the segments of one index, which are in order and begin at offset 0.
///
/// # Errors
/// `Gap` for a missing segment; `Corrupt` with object and place; `Invalid` for an encrypted object; else as the store
/// or the system says.
pub fn apply(objects: &dyn Objects, segments: &[Segment], database: &mut Database<'_>) -> Result<()> {
    let mut bytes = Bytes { objects, segments: segments.iter(), frame: None, name: "", at: 0 };
    let header = header(&mut bytes, database)?;
    let mut frame = vec![0; FRAME_HEADER_LEN + header.page_size.bytes()];
    let mut sum = header.checksum();
    let mut open =
        Transaction { page_size: header.page_size, pages: Vec::new(), bytes: Vec::new(), spool: None };
    loop {
        let begins = bytes.at;
        match bytes.fill(&mut frame)? {
            0 => break,
            filled if filled < frame.len() => {
                return Err(damaged(bytes.name, bytes.at, "the WAL ends inside a frame"));
            }
            _ => {}
        }
        let Some((found, next)) = proven(&header, sum, &frame) else {
            return Err(damaged(
                bytes.name,
                begins,
                "a frame has not the salts or the checksum that continue the WAL",
            ));
        };
        sum = next;
        open.push(found.pgno, &frame[FRAME_HEADER_LEN..], database.output)?;
        if let Some(page_count) = found.commit {
            open.commit(page_count, database)?;
        }
    }
    match open.pages.is_empty() {
        true => Ok(()),
        false => Err(damaged(
            bytes.name,
            bytes.at,
            "the WAL ends inside a transaction, so that a segment after it is missing; restore an earlier time",
        )),
    }
}

fn header(bytes: &mut Bytes<'_>, database: &mut Database<'_>) -> Result<WalHeader> {
    let mut header = [0; HEADER_LEN];
    let filled = bytes.fill(&mut header)?;
    let Some(header) = parse_header(&header[..filled]) else {
        return Err(damaged(bytes.name, 0, "no WAL begins here"));
    };
    let page_size = *database.page_size.get_or_insert(header.page_size);
    if page_size != header.page_size || !database.length.is_multiple_of(u64::from(page_size.get())) {
        return Err(damaged(
            bytes.name,
            0,
            &format!(
                "the WAL has page size {}, the database before it {page_size} and {} bytes",
                header.page_size, database.length
            ),
        ));
    }
    Ok(header)
}

/// `at`: byte of the WAL.
fn damaged(name: &str, at: u64, why: &str) -> Error {
    Error::corrupt(format!("{name} is damaged at byte {at} of its WAL: {why}"))
}

/// The content of segments, one after the other.
struct Bytes<'a> {
    objects: &'a dyn Objects,
    segments: std::slice::Iter<'a, Segment>,
    frame: Option<Frame>,
    /// Of the segment being read.
    name: &'a str,
    /// Bytes read.
    at: u64,
}

impl Bytes<'_> {
    /// Fills `bytes` as far as the segments go.
    fn fill(&mut self, bytes: &mut [u8]) -> Result<usize> {
        let mut filled = 0;
        while filled < bytes.len() {
            let Some(frame) = &mut self.frame else {
                if self.turn()? {
                    continue;
                }
                break;
            };
            let count = frame.fill(&mut bytes[filled..])?;
            filled += count;
            self.at += count as u64;
            if filled < bytes.len() {
                self.frame = None;
            }
        }
        Ok(filled)
    }

    /// Opens the next segment, which must begin where the one before ended. `false` after the last.
    fn turn(&mut self) -> Result<bool> {
        let Some(segment) = self.segments.next() else { return Ok(false) };
        if segment.offset != self.at {
            return Err(Error::gap(format!(
                "a WAL segment is missing: {} follows {}, which ends at offset {:08x}; restore an earlier time",
                segment.object.name, self.name, self.at
            )));
        }
        self.name = &segment.object.name;
        self.frame = Some(Frame::new(self.objects.read(&segment.object)?, self.name)?);
        Ok(true)
    }
}

/// Pages that wait for their commit.
struct Transaction {
    page_size: PageSize,
    pages: Vec<Pgno>,
    /// The last of them; those before are in the spool.
    bytes: Vec<u8>,
    spool: Option<(Temp, u64)>,
}

impl Transaction {
    fn push(&mut self, pgno: Pgno, page: &[u8], output: &Path) -> Result<()> {
        self.pages.push(pgno);
        self.bytes.extend_from_slice(page);
        if self.bytes.len() < OPEN_BYTES_MAX {
            return Ok(());
        }
        if self.spool.is_none() {
            self.spool = Some((Temp::unnamed(output)?, 0));
        }
        let (temp, length) = self.spool.as_mut().expect("BUG: just made");
        let written = temp.file().write_all_at(&self.bytes, *length);
        written.map_err(|e| Error::io("write", temp.path(), e))?;
        *length += self.bytes.len() as u64;
        self.bytes.clear();
        Ok(())
    }

    fn commit(&mut self, page_count: u32, database: &mut Database<'_>) -> Result<()> {
        let size = self.page_size.bytes();
        let spooled = self.spool.as_ref().map_or(0, |(_, length)| *length as usize / size);
        let mut page = vec![0; size];
        for (at, pgno) in self.pages.iter().enumerate() {
            let bytes = match &self.spool {
                Some((temp, _)) if at < spooled => {
                    let read = temp.file().read_exact_at(&mut page, (at * size) as u64);
                    read.map_err(|e| Error::io("read", temp.path(), e))?;
                    &page
                }
                _ => &self.bytes[(at - spooled) * size..(at - spooled + 1) * size],
            };
            if pgno.get() <= page_count {
                database.write(bytes, pgno.offset(self.page_size))?;
            }
        }
        self.pages.clear();
        self.bytes.clear();
        self.spool = None;
        database.cut(u64::from(page_count) * size as u64)
    }
}
