//! What a request carries. Its hash goes ahead of it, so a part of a file is read twice, and never held whole in memory.

use std::io::{Read, SeekFrom};

use super::sign::{Sha256, sha256};
use crate::error::{Error, Kind, Result};
use crate::replica::client::ReadSeek;

/// Objects below this are read once and kept.
pub const SMALL_BYTES: u64 = 64 << 10;

pub enum Payload<'a> {
    Bytes(&'a [u8]),
    /// `len` bytes of `source` from `start` on.
    Part {
        source: &'a mut dyn ReadSeek,
        start: u64,
        len: u64,
    },
}

impl Payload<'_> {
    pub fn len(&self) -> u64 {
        match self {
            Payload::Bytes(bytes) => bytes.len() as u64,
            Payload::Part { len, .. } => *len,
        }
    }

    /// In hexadecimal.
    ///
    /// # Errors
    /// `Io` when the source cannot be read.
    pub fn sha256(&mut self) -> Result<String> {
        if let Payload::Bytes(bytes) = self {
            return Ok(sha256(bytes));
        }
        let (mut hash, mut buffer) = (Sha256::new(), vec![0; SMALL_BYTES as usize]);
        let mut reader = self.reader()?;
        loop {
            match reader.read(&mut buffer).map_err(unreadable)? {
                0 => return Ok(hash.finish()),
                n => hash.update(&buffer[..n]),
            }
        }
    }

    /// The bytes from their beginning.
    ///
    /// # Errors
    /// As `sha256`.
    pub fn reader(&mut self) -> Result<Box<dyn Read + '_>> {
        match self {
            Payload::Bytes(bytes) => Ok(Box::new(*bytes)),
            Payload::Part { source, start, len } => {
                source.seek(SeekFrom::Start(*start)).map_err(unreadable)?;
                Ok(Box::new(source.take(*len)))
            }
        }
    }
}

pub fn unreadable(error: std::io::Error) -> Error {
    Error::new(Kind::Io, format!("cannot read what is to be stored: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    #[test]
    fn part_of_a_file_is_hashed_and_read_like_its_bytes() {
        let bytes: Vec<u8> = (0..200_000u32).map(|n| n as u8).collect();
        let mut file = Cursor::new(bytes.clone());
        let mut part = Payload::Part { source: &mut file, start: 1000, len: 150_000 };
        let mut whole = Payload::Bytes(&bytes[1000..151_000]);
        assert_eq!((part.len(), part.sha256().unwrap()), (whole.len(), whole.sha256().unwrap()));
        let mut read = Vec::new();
        part.reader().unwrap().read_to_end(&mut read).unwrap();
        assert_eq!(read, &bytes[1000..151_000]);
    }
}
