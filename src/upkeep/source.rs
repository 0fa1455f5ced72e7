//! Single pages of a stored file, asked for in ascending order.
//!
//! A small file is in memory whole; of a large one a stretch of its index, and one of its records.

use crate::error::Result;
use crate::ltx::index::{END_MARK_BYTES, Entry};
use crate::ltx::index_reader::IndexReader;
use crate::ltx::parts::{Parts, Records, TAIL_BYTES};
use crate::ltx::{Crc64, Damage, Header};
use crate::replica::{Client, check_range, describe};
use crate::types::{FileInfo, Pgno};

/// Files up to here are read with one request.
const SMALL_BYTES: u64 = if cfg!(test) { 2 << 10 } else { 256 << 10 };
/// Bytes of records that are read at once: one request for neighbours, and little in vain for a page alone.
const STRETCH_BYTES: u64 = if cfg!(test) { 1 << 10 } else { 64 << 10 };

pub struct Source<'a> {
    client: &'a dyn Client,
    file: FileInfo,
    name: String,
    index: IndexReader,
    /// Where the records end.
    end: u64,
    records: Records,
    /// The entry that the index stands at; `None`: it is over.
    next: Option<Entry>,
    /// Bytes of the file, and where they begin.
    bytes: Vec<u8>,
    at: u64,
}

impl<'a> Source<'a> {
    /// # Errors
    /// `Corrupt` for a damaged frame; as the store says.
    pub fn open(client: &'a dyn Client, file: &FileInfo) -> Result<Source<'a>> {
        let name = describe(file);
        let least = Header::BYTES as u64 + END_MARK_BYTES + TAIL_BYTES;
        if file.size < least {
            return Err(Damage::Truncated.at(&name, file.size));
        }
        let (mut head, mut tail) = ([0; Header::BYTES], [0; TAIL_BYTES as usize]);
        let mut bytes = Vec::new();
        if file.size <= SMALL_BYTES {
            bytes.resize(file.size as usize, 0);
        }
        client.read_at(file, 0, &mut bytes)?;
        read(client, file, &bytes, 0, &mut head)?;
        read(client, file, &bytes, file.size - TAIL_BYTES, &mut tail)?;
        let parts = Parts::new(file.size, &head, &tail).map_err(|(damage, at)| damage.at(&name, at))?;
        check_range(file, parts.header.range)?;
        let mut source = Source {
            client,
            file: *file,
            index: IndexReader::new(&parts, &name)?,
            end: parts.index_at - END_MARK_BYTES,
            records: Records::new(parts.header.page_size),
            name,
            next: None,
            bytes,
            at: 0,
        };
        source.advance()?;
        Ok(source)
    }

    /// Fills `page` if the file has it. Each call asks for a later page than the one before.
    ///
    /// # Errors
    /// `Corrupt` with file, offset and reason; as the store says.
    pub fn read(&mut self, pgno: Pgno, page: &mut [u8]) -> Result<bool> {
        while self.next.is_some_and(|entry| entry.pgno < pgno) {
            self.advance()?;
        }
        let Some(entry) = self.next.filter(|entry| entry.pgno == pgno) else { return Ok(false) };
        if !self.holds(entry) {
            let bytes = entry.length.max(STRETCH_BYTES).min(self.end - entry.offset);
            self.bytes.resize(bytes as usize, 0);
            self.at = entry.offset;
            self.client.read_at(&self.file, entry.offset, &mut self.bytes)?;
        }
        let from = (entry.offset - self.at) as usize;
        let record = &self.bytes[from..from + entry.length as usize];
        let decoded = self.records.decode(entry, record, page, &mut Crc64::new());
        decoded.map_err(|damage| damage.at(&self.name, entry.offset))?;
        Ok(true)
    }

    fn holds(&self, entry: Entry) -> bool {
        entry.offset >= self.at && entry.offset + entry.length <= self.at + self.bytes.len() as u64
    }

    fn advance(&mut self) -> Result<()> {
        let (client, file) = (self.client, &self.file);
        let whole: &[u8] = if self.bytes.len() as u64 == file.size { &self.bytes } else { &[] };
        self.next = self.index.next(|from, buffer| read(client, file, whole, from, buffer))?;
        Ok(())
    }
}

/// From memory, where the whole file is there.
fn read(client: &dyn Client, file: &FileInfo, whole: &[u8], from: u64, buffer: &mut [u8]) -> Result<()> {
    if whole.is_empty() {
        return client.read_at(file, from, buffer);
    }
    buffer.copy_from_slice(&whole[from as usize..][..buffer.len()]);
    Ok(())
}
