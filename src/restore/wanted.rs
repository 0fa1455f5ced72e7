//! Which pages of the output are still to be had, a bit a page: files come newest first, and the first to have a page wins.
//!
//! A page counts only up to the smallest page count of its own file and every newer one: a database that
//! shrank and grew again has its new pages in the file that grew it.

use crate::error::{Error, Result};
use crate::ltx::Header;
use crate::types::{PageSize, Pgno};

pub struct Wanted {
    page_size: PageSize,
    page_count: u32,
    /// Pages past this were cut off by a newer file.
    page_count_max: u32,
    had: Vec<u64>,
    missing: u32,
}

impl Wanted {
    /// Every page of the state after the newest file but the lock-byte page, which no file has.
    pub fn new(newest: &Header) -> Wanted {
        let (page_size, page_count) = (newest.page_size, newest.page_count);
        let lock_page = u32::from(page_size.lock_pgno().get() <= page_count);
        Wanted {
            page_size,
            page_count,
            page_count_max: page_count,
            had: vec![0; page_count as usize / 64 + 1],
            missing: page_count - lock_page,
        }
    }

    /// The next older file comes.
    pub fn begin(&mut self, file: &Header) {
        self.page_count_max = self.page_count_max.min(file.page_count);
    }

    /// Whether the page of this file is wanted; from now on it is not.
    pub fn take(&mut self, pgno: Pgno) -> bool {
        let (word, bit) = (pgno.get() as usize / 64, 1 << (pgno.get() % 64));
        if pgno.get() > self.page_count_max || self.had[word] & bit != 0 {
            return false;
        }
        self.had[word] |= bit;
        self.missing -= 1;
        true
    }

    /// Whether every page was there, so that older files cannot add any.
    pub fn is_complete(&self) -> bool {
        self.missing == 0
    }

    /// # Errors
    /// `Corrupt` with the first page that no file had.
    pub fn check_complete(&self) -> Result<()> {
        if self.is_complete() {
            return Ok(());
        }
        let lock = self.page_size.lock_pgno().get();
        let had = |pgno: u32| self.had[pgno as usize / 64] & (1 << (pgno % 64)) != 0;
        let gone = (1..=self.page_count).find(|&pgno| pgno != lock && !had(pgno));
        Err(Error::corrupt(format!(
            "page {} of {} is in no file that reaches the target, nor are {} others",
            gone.expect("BUG: a page that is missing was not had"),
            self.page_count,
            self.missing - 1
        )))
    }
}
