//! The output: pages go where they belong, neighbours in one write.

use super::wanted::Wanted;
use crate::error::{Error, Result};
use crate::fs::durable::Temp;
use crate::lock::Mutex;
use crate::ltx::{Decoder, Header, page_checksum};
use crate::types::{Checksum, PageSize, Pgno};
use std::io::Read;
use std::os::unix::fs::FileExt;

/// Bytes of pages that are collected before they are written; neighbours become one write.
const RUNS_BYTES: usize = 1 << 20;

/// Makes the output as long as the newest file says, all zeros: what the lock-byte page stays.
///
/// # Errors
/// As the system says.
pub fn resize(temp: &Temp, newest: &Header) -> Result<()> {
    let length = u64::from(newest.page_count) * u64::from(newest.page_size.get());
    let resized = temp.file().set_len(0).and_then(|()| temp.file().set_len(length));
    resized.map_err(|e| Error::io("resize", temp.path(), e))
}

/// The output as several threads fill it.
pub struct Output<'a> {
    temp: &'a Temp,
    // Held while pages are written: the system lets one thread at a time write to a file, and who waits for that spins.
    writing: Mutex<()>,
}

impl<'a> Output<'a> {
    pub fn new(temp: &'a Temp) -> Output<'a> {
        Output { temp, writing: Mutex::new(()) }
    }
}

/// Pages of one thread that are not written yet.
pub struct Runs<'a> {
    output: &'a Output<'a>,
    page_size: PageSize,
    /// Room for pages, of which so many bytes hold some.
    buffer: Vec<u8>,
    filled: usize,
    /// Neighbours among them: where they go, and where they end in the buffer.
    runs: Vec<(u64, usize)>,
}

impl<'a> Runs<'a> {
    pub fn new(output: &'a Output<'a>, page_size: PageSize) -> Runs<'a> {
        Runs { output, page_size, buffer: vec![0; RUNS_BYTES], filled: 0, runs: Vec::new() }
    }

    /// Room for the next page, whatever it will be.
    ///
    /// # Errors
    /// Those of writing.
    pub fn room(&mut self) -> Result<&mut [u8]> {
        if self.filled == self.buffer.len() {
            self.flush()?;
        }
        Ok(&mut self.buffer[self.filled..self.filled + self.page_size.bytes()])
    }

    /// What lies in the room is this page.
    pub fn keep(&mut self, pgno: Pgno) {
        let start = self.filled;
        self.filled += self.page_size.bytes();
        let offset = pgno.offset(self.page_size);
        let before = self.runs.len().checked_sub(2).map_or(0, |at| self.runs[at].1);
        match self.runs.last_mut() {
            Some((at, end)) if *at + (start - before) as u64 == offset => *end = self.filled,
            _ => self.runs.push((offset, self.filled)),
        }
    }

    /// # Errors
    /// Those of writing.
    pub fn flush(&mut self) -> Result<()> {
        let temp = self.output.temp;
        let writing = self.output.writing.lock();
        let (mut start, first) = (0, self.runs.first().map_or(0, |run| run.0));
        let mut after = first;
        for (offset, end) in self.runs.drain(..) {
            after = offset + (end - start) as u64;
            let written = temp.file().write_all_at(&self.buffer[start..end], offset);
            written.map_err(|e| Error::io("write", temp.path(), e))?;
            start = end;
        }
        drop(writing);
        let span = after.saturating_sub(first);
        if self.filled > RUNS_BYTES / 4 && span / 2 <= self.filled as u64 {
            temp.begin_sync(first, span);
        }
        self.filled = 0;
        Ok(())
    }
}

/// A database file being filled by one reader.
pub struct Pages<'a> {
    runs: Runs<'a>,
    wanted: Wanted,
    checksum: Checksum,
    page_checksums: Option<Vec<Checksum>>,
}

impl<'a> Pages<'a> {
    /// Of the size that the newest file says.
    ///
    /// # Errors
    /// As the system says.
    pub fn new(output: &'a Output<'a>, newest: &Header, page_checksums: bool) -> Result<Pages<'a>> {
        resize(output.temp, newest)?;
        Ok(Pages {
            runs: Runs::new(output, newest.page_size),
            wanted: Wanted::new(newest),
            checksum: Checksum::EMPTY,
            page_checksums: page_checksums.then(|| vec![Checksum::EMPTY; newest.page_count as usize]),
        })
    }

    /// Whether every page is there, so that older files cannot add any.
    pub fn is_complete(&self) -> bool {
        self.wanted.is_complete()
    }

    /// Reads a file to its end and takes the pages that no newer file had.
    ///
    /// # Errors
    /// Those of the decoder, and of writing.
    pub fn take<R: Read>(&mut self, decoder: &mut Decoder<R>) -> Result<()> {
        self.wanted.begin(decoder.header());
        loop {
            let page = self.runs.room()?;
            let Some(pgno) = decoder.next_page(page)? else { return self.runs.flush() };
            if self.wanted.take(pgno) {
                let checksum = page_checksum(pgno, page);
                self.checksum = self.checksum.toggle(checksum);
                if let Some(checksums) = &mut self.page_checksums {
                    checksums[pgno.get() as usize - 1] = checksum;
                }
                self.runs.keep(pgno);
            }
        }
    }

    /// The checksum of the database, and of each page if wanted.
    ///
    /// # Errors
    /// `Corrupt` with the first page that no file had.
    pub fn finish(self) -> Result<(Checksum, Option<Vec<Checksum>>)> {
        self.wanted.check_complete()?;
        Ok((self.checksum, self.page_checksums))
    }
}
