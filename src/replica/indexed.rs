//! A stored file that is read by its page index: its frame, and of a small one every byte.

use super::client::{Client, check_range, describe};
use crate::error::Result;
use crate::ltx::index::{END_MARK_BYTES, Entry};
use crate::ltx::index_reader::IndexReader;
use crate::ltx::parts::{Parts, TAIL_BYTES};
use crate::ltx::{Damage, Header};
use crate::types::FileInfo;

pub struct Indexed {
    pub file: FileInfo,
    /// For errors.
    pub name: String,
    pub parts: Parts,
    pub content: Option<Vec<u8>>,
}

impl Indexed {
    /// Reads first and last bytes; a file of at most `whole_up_to` bytes with one request.
    ///
    /// # Errors
    /// `Corrupt` with file, offset and reason for a damaged frame, or a file under a wrong name; as [`Client::open`].
    pub fn open(client: &dyn Client, file: &FileInfo, whole_up_to: u64) -> Result<Indexed> {
        let name = describe(file);
        let least = Header::BYTES as u64 + END_MARK_BYTES + TAIL_BYTES;
        if file.size < least {
            return Err(Damage::Truncated.at(&name, file.size));
        }
        let content = if file.size <= whole_up_to {
            let mut bytes = vec![0; file.size as usize];
            client.read_at(file, 0, &mut bytes)?;
            Some(bytes)
        } else {
            None
        };
        let (mut head, mut tail) = ([0; Header::BYTES], [0; TAIL_BYTES as usize]);
        read_at(client, file, content.as_deref(), 0, &mut head)?;
        read_at(client, file, content.as_deref(), file.size - TAIL_BYTES, &mut tail)?;
        let parts = Parts::new(file.size, &head, &tail).map_err(|(damage, at)| damage.at(&name, at))?;
        check_range(file, parts.header.range)?;
        Ok(Indexed { file: *file, name, parts, content })
    }

    /// Its index, of which nothing has been read yet.
    ///
    /// # Errors
    /// `Corrupt` when the file has no room for what it must hold.
    pub fn index(&self) -> Result<IndexReader> {
        IndexReader::new(&self.parts, &self.name)
    }

    /// The next entry of an index of this file; `None` at its end.
    ///
    /// # Errors
    /// As [`IndexReader::next`] and [`Client::read_at`].
    pub fn next(&self, client: &dyn Client, index: &mut IndexReader) -> Result<Option<Entry>> {
        index.next(|from, buffer| read_at(client, &self.file, self.content.as_deref(), from, buffer))
    }
}

/// From memory, where the whole file is there.
fn read_at(
    client: &dyn Client,
    file: &FileInfo,
    content: Option<&[u8]>,
    offset: u64,
    buffer: &mut [u8],
) -> Result<()> {
    match content {
        Some(content) => buffer.copy_from_slice(&content[offset as usize..][..buffer.len()]),
        None => client.read_at(file, offset, buffer)?,
    }
    Ok(())
}
