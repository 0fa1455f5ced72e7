//! Checksum of every page as of the newest sealed group, 8 bytes a page, mapped.
//!
//! ```text
//! word 0  magic   word 1  page size   word 2  page count   words 8..  checksum of page 1, 2, ...; 0: no page
//! ```
//!
//! Written only under the capture lock, after the group is sealed. A process killed half-way leaves a mixture,
//! which [`PageChecksums::total`] shows; applying the group again mends it.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};
use crate::fs::SharedMap;
#[cfg(test)]
use crate::testing::mutation::{self, Mutation};
use crate::types::{Checksum, PageSize, Pgno};

const MAGIC: u64 = u64::from_be_bytes(*b"SQLRSUM1");
const PAGE_SIZE: usize = 1;
const PAGE_COUNT: usize = 2;
const FIRST: usize = 8;

pub struct PageChecksums {
    map: SharedMap,
}

impl PageChecksums {
    /// # Errors
    /// `Corrupt` when the file is of another kind; `Full` or `Io` from the mapping.
    pub fn open(path: &Path) -> Result<PageChecksums> {
        let map = SharedMap::open(path, FIRST)?;
        match map.words()[0].compare_exchange(0, MAGIC, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) | Err(MAGIC) => Ok(PageChecksums { map }),
            Err(_) => Err(Error::corrupt(format!(
                "{} holds no page checksums of this format; move the folder away to start from a full scan",
                path.display()
            ))),
        }
    }

    /// `None` before the first group.
    pub fn page_size(&self) -> Option<PageSize> {
        PageSize::new(self.word(PAGE_SIZE).load(Ordering::Acquire) as u32)
    }

    pub fn page_count(&self) -> u32 {
        self.word(PAGE_COUNT).load(Ordering::Acquire) as u32
    }

    /// `None` for a page past the end, the lock-byte page, or one never stored.
    pub fn get(&self, pgno: Pgno) -> Option<Checksum> {
        if pgno.get() > self.page_count() {
            return None;
        }
        self.map.words().get(index(pgno)).and_then(|w| Checksum::from_wire(w.load(Ordering::Acquire)))
    }

    /// Room for `page_count` pages, so that the stores of [`PageChecksums::apply`] cannot fail.
    ///
    /// # Errors
    /// `Full` or `Io`; nothing is changed.
    pub fn reserve(&mut self, page_count: u32) -> Result<()> {
        self.map.grow(FIRST + page_count as usize)
    }

    /// Takes in what another process made the file longer by.
    ///
    /// # Errors
    /// `Io`; nothing is changed.
    pub fn take_in(&mut self) -> Result<()> {
        self.map.take_in()
    }

    /// Becomes the state after a group: its pages, its size. Pages past the new end are forgotten.
    ///
    /// # Panics
    /// Without a [`PageChecksums::reserve`] of `page_count` before.
    pub fn apply(
        &mut self,
        page_size: PageSize,
        page_count: u32,
        pages: impl IntoIterator<Item = (Pgno, Checksum)>,
    ) {
        assert!(self.map.words().len() >= FIRST + page_count as usize, "BUG: page checksums without room");
        if self.page_size() != Some(page_size) {
            self.clear();
        }
        for (pgno, checksum) in pages {
            assert!(pgno.get() <= page_count, "BUG: page {pgno} past the end at {page_count}");
            #[cfg(test)]
            if pgno.get() == 2 && self.get(pgno).is_some() && mutation::is(Mutation::StalePageChecksum) {
                continue;
            }
            self.word(index(pgno)).store(checksum.get(), Ordering::Release);
        }
        // What a loss of power left may say more than there is.
        for gone in page_count..self.page_count().min(self.room()) {
            self.word(FIRST + gone as usize).store(0, Ordering::Release);
        }
        self.word(PAGE_SIZE).store(u64::from(page_size.get()), Ordering::Release);
        self.word(PAGE_COUNT).store(u64::from(page_count), Ordering::Release);
    }

    /// Forgets everything: the state before the first group.
    pub fn clear(&mut self) {
        for word in &self.map.words()[FIRST..] {
            word.store(0, Ordering::Release);
        }
        self.word(PAGE_SIZE).store(0, Ordering::Release);
        self.word(PAGE_COUNT).store(0, Ordering::Release);
    }

    /// Checksum of the whole database: XOR over all pages. O(pages), no I/O but the mapping's.
    pub fn total(&self) -> Checksum {
        (1..=self.page_count().min(self.room()))
            .filter_map(Pgno::new)
            .filter_map(|p| self.get(p))
            .fold(Checksum::EMPTY, Checksum::toggle)
    }

    /// # Errors
    /// `Io`.
    pub fn sync(&self) -> Result<()> {
        self.map.sync()
    }

    /// Pages that there is room for.
    fn room(&self) -> u32 {
        u32::try_from(self.map.words().len() - FIRST).unwrap_or(u32::MAX)
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        &self.map.words()[index]
    }
}

fn index(pgno: Pgno) -> usize {
    FIRST + pgno.get() as usize - 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Folder;

    fn sum(n: u64) -> Checksum {
        Checksum::from_crc(n)
    }

    #[test]
    fn growing_shrinking_and_another_page_size_keep_the_total() {
        let dir = Folder::new();
        let mut map = PageChecksums::open(&dir.path().join("checksums")).unwrap();
        assert_eq!((map.total(), map.page_size()), (Checksum::EMPTY, None));
        let (small, large) = (PageSize::new(512).unwrap(), PageSize::new(8192).unwrap());
        let page = |n| Pgno::new(n).unwrap();
        map.reserve(3).unwrap();
        map.apply(small, 3, [(page(1), sum(1)), (page(2), sum(2)), (page(3), sum(4))]);
        assert_eq!(map.total(), sum(7));
        map.apply(small, 2, [(page(1), sum(8))]);
        assert_eq!((map.total(), map.get(page(3))), (sum(10), None));
        map.reserve(3).unwrap();
        map.apply(small, 3, []);
        assert_eq!(map.get(page(3)), None, "a page that was cut off does not come back");
        map.apply(large, 1, [(page(1), sum(5))]);
        assert_eq!((map.total(), map.page_size(), map.get(page(2))), (sum(5), Some(large), None));
    }

    #[test]
    fn a_page_count_that_a_loss_of_power_left_behind_takes_no_room_and_no_time() {
        let dir = Folder::new();
        let path = dir.path().join("checksums");
        let mut map = PageChecksums::open(&path).unwrap();
        map.word(PAGE_COUNT).store(u64::from(u32::MAX), Ordering::Release);
        map.take_in().unwrap();
        assert_eq!(map.total(), Checksum::EMPTY);
        let small = PageSize::new(512).unwrap();
        map.reserve(1).unwrap();
        map.apply(small, 1, [(Pgno::FIRST, sum(1))]);
        assert_eq!((map.page_count(), map.total()), (1, sum(1)));
        assert!(std::fs::metadata(&path).unwrap().len() < 1 << 20);
    }
}
