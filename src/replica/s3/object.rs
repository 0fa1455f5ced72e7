//! The bytes of one object, read in order from wherever the reader seeks to, always of the object that was listed; or
//! a part of them, asked for alone, so that the connection can serve the next request.
//!
//! A body that breaks off is asked for again from where it broke, a few times in a row: reads are safe to repeat.

use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;
use std::time::Duration;

use super::super::client::cannot_read;
use super::store::Store;
use crate::clock;
use crate::error::{Error, Kind, Result};
use crate::types::Etag;

/// Attempts in a row that bring no byte.
const TRIES_MAX: u32 = 4;
const PAUSE: Duration = Duration::from_millis(50);
/// What is nearer than this is read over rather than asked for.
const SKIP_BYTES_MAX: u64 = 256 << 10;

pub struct Object {
    store: Arc<Store>,
    key: String,
    etag: Etag,
    size: u64,
    /// Nothing past it is asked for.
    end: Option<u64>,
    /// Where the reader stands, and where the body does.
    at: u64,
    body_at: u64,
    body: Option<Box<dyn Read + Send>>,
}

impl Object {
    /// Asks for the whole object, so that one that is gone or another shows now.
    ///
    /// # Errors
    /// `NotFound` when the key is free, `Conflict` when it holds another object.
    pub fn open(store: Arc<Store>, key: String, etag: Etag, size: u64) -> Result<Object> {
        let mut object = Object { store, key, etag, size, end: None, at: 0, body_at: 0, body: None };
        object.ask()?;
        Ok(object)
    }

    /// Fills `buffer` from `offset` on, with one request if all goes well.
    ///
    /// # Errors
    /// As [`Object::open`].
    pub fn read_part(
        store: Arc<Store>,
        key: String,
        etag: Etag,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<()> {
        if buffer.is_empty() {
            return Ok(());
        }
        let end = offset + buffer.len() as u64;
        let mut object =
            Object { store, key, etag, size: end, end: Some(end), at: offset, body_at: 0, body: None };
        object.ask()?;
        let read = object.read_exact(buffer);
        read.map_err(|error| cannot_read(&format!("{}/{}", object.store, object.key), error))?;
        // The connection is free for the next request once the end of the body was seen. Whether it was is no matter.
        let _ = object.body.as_mut().map(|body| body.read(&mut [0]));
        Ok(())
    }

    fn ask(&mut self) -> Result<()> {
        let answer = self.store.get(&self.key, self.etag.as_str(), self.at, self.end).map_err(|error| {
            if error.kind() != Kind::Exists {
                return error;
            }
            Error::conflict(format!(
                "{}/{} is another object than was listed: list again",
                self.store, self.key
            ))
        })?;
        // A store that does not know ranges sends everything.
        self.body_at = if answer.status == 206 { self.at } else { 0 };
        self.body = Some(Box::new(answer.into_reader()));
        Ok(())
    }

    fn read_once(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.body.is_none() {
            self.ask().map_err(io::Error::other)?;
        }
        let body = self.body.as_mut().expect("BUG: just asked for");
        if self.body_at < self.at {
            let skipped = io::copy(&mut body.take(self.at - self.body_at), &mut io::sink())?;
            self.body_at += skipped;
            if self.body_at < self.at {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let want = buffer.len().min(usize::try_from(self.size - self.at).unwrap_or(usize::MAX));
        let read = body.read(&mut buffer[..want])?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += read as u64;
        self.body_at = self.at;
        Ok(read)
    }
}

impl Read for Object {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at >= self.size || buffer.is_empty() {
            return Ok(0);
        }
        let mut tries = 1;
        loop {
            match self.read_once(buffer) {
                Err(error) if tries < TRIES_MAX => {
                    self.body = None;
                    // Gone or another: no use in asking again.
                    if error.get_ref().and_then(|e| e.downcast_ref::<Error>()).is_some_and(is_final) {
                        return Err(error);
                    }
                    clock::pause(PAUSE * tries);
                    tries += 1;
                }
                other => return other,
            }
        }
    }
}

fn is_final(error: &Error) -> bool {
    matches!(error.kind(), Kind::NotFound | Kind::Conflict | Kind::Invalid)
}

impl Seek for Object {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.size.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        let Some(target) = target else { return Err(io::ErrorKind::InvalidInput.into()) };
        if target < self.body_at || target - self.body_at > SKIP_BYTES_MAX {
            self.body = None;
        }
        self.at = target;
        Ok(target)
    }
}
