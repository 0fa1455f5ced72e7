//! Single pages of a stored file, asked for in ascending order.
//!
//! A small file is in memory whole; of a large one a stretch of its index, and one of its records.

use crate::error::Result;
use crate::ltx::Crc64;
use crate::ltx::index::{END_MARK_BYTES, Entry};
use crate::ltx::index_reader::IndexReader;
use crate::ltx::parts::Records;
use crate::replica::{Client, Indexed};
use crate::types::{FileInfo, Pgno};

/// Files up to here are read with one request.
const SMALL_BYTES: u64 = if cfg!(test) { 2 << 10 } else { 256 << 10 };
/// Bytes of records that are read at once: one request for neighbours, and little in vain for a page alone.
const STRETCH_BYTES: u64 = if cfg!(test) { 1 << 10 } else { 64 << 10 };

pub struct Source<'a> {
    client: &'a dyn Client,
    stored: Indexed,
    index: IndexReader,
    records: Records,
    /// The entry that the index stands at; `None`: it is over.
    next: Option<Entry>,
    /// Bytes of a large file, and where they begin.
    stretch: Vec<u8>,
    at: u64,
}

impl<'a> Source<'a> {
    /// # Errors
    /// As [`Indexed::open`].
    pub fn open(client: &'a dyn Client, file: &FileInfo) -> Result<Source<'a>> {
        let stored = Indexed::open(client, file, SMALL_BYTES)?;
        let mut index = stored.index()?;
        let next = stored.next(client, &mut index)?;
        let records = Records::new(stored.parts.header.page_size);
        Ok(Source { client, stored, index, records, next, stretch: Vec::new(), at: 0 })
    }

    /// Fills `page` if the file has it. Each call asks for a later page than the one before.
    ///
    /// # Errors
    /// `Corrupt` with file, offset and reason; as the store says.
    pub fn read(&mut self, pgno: Pgno, page: &mut [u8]) -> Result<bool> {
        while self.next.is_some_and(|entry| entry.pgno < pgno) {
            self.next = self.stored.next(self.client, &mut self.index)?;
        }
        let Some(entry) = self.next.filter(|entry| entry.pgno == pgno) else { return Ok(false) };
        if self.stored.content.is_none() && !self.holds(entry) {
            let records_end = self.stored.parts.index_at - END_MARK_BYTES;
            let bytes = entry.length.max(STRETCH_BYTES).min(records_end - entry.offset);
            self.stretch.resize(bytes as usize, 0);
            self.at = entry.offset;
            self.client.read_at(&self.stored.file, entry.offset, &mut self.stretch)?;
        }
        let bytes = self.stored.content.as_ref().unwrap_or(&self.stretch);
        let record = &bytes[(entry.offset - self.at) as usize..][..entry.length as usize];
        let decoded = self.records.decode(entry, record, page, &mut Crc64::new());
        decoded.map_err(|damage| damage.at(&self.stored.name, entry.offset))?;
        Ok(true)
    }

    fn holds(&self, entry: Entry) -> bool {
        entry.offset >= self.at && entry.offset + entry.length <= self.at + self.stretch.len() as u64
    }
}
