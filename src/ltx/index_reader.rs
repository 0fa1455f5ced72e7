//! The page index of a file as it passes by, a stretch at a time: of an index of any size only that much is in memory.

use super::checksum::Crc64;
use super::damage::Damage;
use super::index::{END_MARK_BYTES, Entry, Step, Walk};
use super::parts::{Parts, Sum, longest_record};
use crate::error::Result;

/// Bytes of an index that are read at once.
const STRETCH_BYTES: u64 = if cfg!(test) { 64 } else { 256 << 10 };

pub struct IndexReader {
    /// Of the file, for errors.
    name: String,
    walk: Walk,
    at: u64,
    bytes: u64,
    /// Longest record of a page.
    record_max: u64,
    /// A stretch of the index, parsed up to a byte of it; how many bytes were read, and their sum.
    stretch: Vec<u8>,
    parsed: usize,
    read: u64,
    crc: Crc64,
    is_over: bool,
}

impl IndexReader {
    /// # Errors
    /// `Corrupt` when the file has no room for what it must hold.
    pub fn new(parts: &Parts, name: &str) -> Result<IndexReader> {
        Ok(IndexReader {
            name: name.to_owned(),
            walk: parts.walk().map_err(|damage| damage.at(name, 0))?,
            at: parts.index_at,
            bytes: parts.index_bytes,
            record_max: longest_record(parts.header.page_size),
            stretch: Vec::new(),
            parsed: 0,
            read: 0,
            crc: Crc64::new(),
            is_over: false,
        })
    }

    /// The next entry; `None` at the end of the index. `read_at` fills a buffer from an offset in the file.
    ///
    /// # Errors
    /// `Corrupt` with file, offset and reason; those of `read_at`.
    pub fn next(&mut self, mut read_at: impl FnMut(u64, &mut [u8]) -> Result<()>) -> Result<Option<Entry>> {
        while !self.is_over {
            let mut rest = &self.stretch[self.parsed..];
            let step = self.walk.next(&mut rest, self.read == self.bytes);
            let step = step.map_err(|damage| damage.at(&self.name, self.at))?;
            self.parsed = self.stretch.len() - rest.len();
            match step {
                Step::More => self.read_stretch(&mut read_at)?,
                Step::End => self.is_over = true,
                Step::Entry(entry) if entry.length > self.record_max => {
                    return Err(Damage::PayloadSize(entry.length as u32).at(&self.name, self.at));
                }
                Step::Entry(entry) => return Ok(Some(entry)),
            }
        }
        Ok(None)
    }

    /// Of what was read so far.
    pub fn sum(&self) -> Sum {
        Sum { crc: self.crc.value(), bytes: self.read }
    }

    /// With the first stretch the mark in front of the index is read, too.
    fn read_stretch(&mut self, read_at: &mut impl FnMut(u64, &mut [u8]) -> Result<()>) -> Result<()> {
        let mark = if self.read == 0 { END_MARK_BYTES } else { 0 };
        let from = self.at + self.read - mark;
        let bytes = STRETCH_BYTES.min(self.bytes - self.read);
        self.stretch.drain(..self.parsed);
        self.parsed = 0;
        let mut stretch = vec![0; (mark + bytes) as usize];
        read_at(from, &mut stretch)?;
        let (mark, stretch) = stretch.split_at(mark as usize);
        if mark.iter().any(|byte| *byte != 0) {
            return Err(Damage::EndMark.at(&self.name, from));
        }
        self.crc.update(stretch);
        self.read += bytes;
        self.stretch.extend_from_slice(stretch);
        Ok(())
    }
}
