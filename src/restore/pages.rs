//! The pages of the output, each written once: files come newest first, and the first to have a page wins.
//!
//! A page counts only up to the smallest page count of its own file and every newer one: a database that
//! shrank and grew again has its new pages in the file that grew it.

use crate::error::{Error, Result};
use crate::fs::durable::Temp;
use crate::ltx::{Decoder, Header, page_checksum};
use crate::types::{Checksum, PageSize, Pgno};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes of neighbouring pages that become one write.
const RUN_BYTES: usize = 256 << 10;

/// A database file being filled.
pub struct Pages<'a> {
    file: &'a File,
    path: &'a Path,
    page_size: PageSize,
    page_count: u32,
    /// Pages past this were cut off by a newer file.
    page_count_max: u32,
    /// One bit a page.
    written: Vec<u64>,
    missing: u32,
    checksum: Checksum,
    page_checksums: Option<Vec<Checksum>>,
    /// Neighbouring pages not written yet, the first at `run_offset`.
    run: Vec<u8>,
    run_offset: u64,
}

impl<'a> Pages<'a> {
    /// An output of the size that the newest file says, all zeros: what the lock-byte page stays.
    pub fn new(temp: &'a Temp, newest: &Header, page_checksums: bool) -> Result<Pages<'a>> {
        let (page_size, page_count) = (newest.page_size, newest.page_count);
        let length = page_count as u64 * page_size.get() as u64;
        let io = |e| Error::io("resize", temp.path(), e);
        temp.file().set_len(0).map_err(io)?;
        temp.file().set_len(length).map_err(io)?;
        let lock_page = (page_size.lock_pgno().get() <= page_count) as u32;
        Ok(Pages {
            file: temp.file(),
            path: temp.path(),
            page_size,
            page_count,
            page_count_max: page_count,
            written: vec![0; page_count as usize / 64 + 1],
            missing: page_count - lock_page,
            checksum: Checksum::EMPTY,
            page_checksums: page_checksums.then(|| vec![Checksum::EMPTY; page_count as usize]),
            run: Vec::with_capacity(RUN_BYTES + page_size.bytes()),
            run_offset: 0,
        })
    }

    /// Whether every page is there, so that older files cannot add any.
    pub fn is_complete(&self) -> bool {
        self.missing == 0
    }

    /// Reads a file to its end and takes the pages that no newer file had.
    pub fn take<R: Read>(&mut self, decoder: &mut Decoder<R>) -> Result<()> {
        self.page_count_max = self.page_count_max.min(decoder.header().page_count);
        let mut page = vec![0; self.page_size.bytes()];
        while let Some(pgno) = decoder.next_page(&mut page)? {
            if pgno.get() <= self.page_count_max && self.mark(pgno) {
                self.add(pgno, &page)?;
            }
        }
        self.flush()
    }

    /// The checksum of the database, and of each page if wanted.
    ///
    /// # Errors
    /// `Corrupt` with the first page that no file had.
    pub fn finish(self) -> Result<(Checksum, Option<Vec<Checksum>>)> {
        if self.missing > 0 {
            let lock = self.page_size.lock_pgno().get();
            let gone = (1..=self.page_count).find(|&pgno| pgno != lock && !self.is_written(pgno));
            return Err(Error::corrupt(format!(
                "page {} of {} is in no file that reaches the target, nor are {} others",
                gone.expect("BUG: a page that is missing is not written"),
                self.page_count,
                self.missing - 1
            )));
        }
        Ok((self.checksum, self.page_checksums))
    }

    fn is_written(&self, pgno: u32) -> bool {
        self.written[pgno as usize / 64] & (1 << (pgno % 64)) != 0
    }

    /// Notes that a page is there; `false` when it was.
    fn mark(&mut self, pgno: Pgno) -> bool {
        if self.is_written(pgno.get()) {
            return false;
        }
        self.written[pgno.get() as usize / 64] |= 1 << (pgno.get() % 64);
        self.missing -= 1;
        true
    }

    fn add(&mut self, pgno: Pgno, page: &[u8]) -> Result<()> {
        let checksum = page_checksum(pgno, page);
        self.checksum = self.checksum.toggle(checksum);
        if let Some(checksums) = &mut self.page_checksums {
            checksums[pgno.get() as usize - 1] = checksum;
        }
        let offset = pgno.offset(self.page_size);
        if offset != self.run_offset + self.run.len() as u64 || self.run.len() >= RUN_BYTES {
            self.flush()?;
            self.run_offset = offset;
        }
        self.run.extend_from_slice(page);
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let written = self.file.write_all_at(&self.run, self.run_offset);
        self.run.clear();
        written.map_err(|e| Error::io("write", self.path, e))
    }
}
