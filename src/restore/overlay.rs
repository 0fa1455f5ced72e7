//! The pages that the newest files of a history wrote, as they are at its end, laid over a local state.
//!
//! ```text
//! checksum(local pages, those of the files K+1..N in their place) == post(N)   =>   these pages make local into N
//! ```
//!
//! Files are taken newest first, as few as make that true: the first to have a page wins. The equation proves that
//! nothing but pages which those files wrote differs from N; that the local state is an earlier one, and not one that
//! somebody made on the same pages, the caller must know otherwise.

use crate::error::{Error, Result};
use crate::fs::durable::Temp;
use crate::ltx::{Decoder, Header, page_checksum};
use crate::types::{Checksum, Pgno};
use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Checksum of a page of the local state; `None` where it has no such page.
pub type Local<'a> = dyn Fn(Pgno) -> Option<Checksum> + 'a;

/// Where the content of a page is; `None`: it is the local one.
type Slot = Option<u32>;

/// Pages on their way over a local state.
pub struct Overlay {
    end: Header,
    /// Pages past this were cut off by a newer file.
    page_count_max: u32,
    pages: BTreeMap<Pgno, (Checksum, Slot)>,
    slots: u32,
    /// Pages of the end that neither the local state nor a file has.
    unknown: u32,
    total: Checksum,
    spool: Temp,
}

impl Overlay {
    /// Nothing over the local state yet; `end` is the header of the newest file. What is taken is kept in a passing file
    /// beside `scratch`.
    ///
    /// # Errors
    /// As [`Temp::create`].
    pub fn new(end: Header, local: &Local<'_>, scratch: &Path) -> Result<Overlay> {
        let lock = end.page_size.lock_pgno();
        let (mut total, mut unknown) = (Checksum::EMPTY, 0);
        for pgno in (1..=end.page_count).filter_map(Pgno::new).filter(|&p| p != lock) {
            match local(pgno) {
                Some(sum) => total = total.toggle(sum),
                None => unknown += 1,
            }
        }
        let spool = Temp::create(scratch)?;
        let pages = BTreeMap::new();
        Ok(Overlay { end, page_count_max: end.page_count, pages, slots: 0, unknown, total, spool })
    }

    /// Takes the pages of the next older file that no newer one has. `false`: it has another page size.
    ///
    /// # Errors
    /// `Corrupt` for a damaged file; `Full`, `Io`.
    pub fn take<R: Read>(&mut self, decoder: &mut Decoder<R>, local: &Local<'_>) -> Result<bool> {
        if decoder.header().page_size != self.end.page_size {
            return Ok(false);
        }
        self.page_count_max = self.page_count_max.min(decoder.header().page_count);
        let mut page = vec![0; self.end.page_size.bytes()];
        while let Some(pgno) = decoder.next_page(&mut page)? {
            if pgno.get() <= self.page_count_max && !self.pages.contains_key(&pgno) {
                self.put(pgno, &page, local(pgno))?;
            }
        }
        Ok(true)
    }

    fn put(&mut self, pgno: Pgno, page: &[u8], local: Option<Checksum>) -> Result<()> {
        let sum = page_checksum(pgno, page);
        let slot = if local == Some(sum) { None } else { Some(self.slots) };
        if let Some(slot) = slot {
            let offset = u64::from(slot) * page.len() as u64;
            let written = self.spool.file().write_all_at(page, offset);
            written.map_err(|e| Error::io("write", self.spool.path(), e))?;
            self.slots += 1;
        }
        match local {
            Some(old) => self.total = self.total.toggle(old),
            None => self.unknown -= 1,
        }
        self.total = self.total.toggle(sum);
        self.pages.insert(pgno, (sum, slot));
        Ok(())
    }

    /// The header of the newest file.
    pub fn end(&self) -> &Header {
        &self.end
    }

    /// What is taken makes the local state into that at the end.
    pub fn is_proven(&self) -> bool {
        self.unknown == 0 && self.end.proof.is_some_and(|proof| proof.post == self.total)
    }

    /// Every page is taken: whatever the local state is, nothing of it is left.
    pub fn is_whole(&self) -> bool {
        let lock = u32::from(self.end.page_size.lock_pgno().get() <= self.end.page_count);
        self.pages.len() as u32 + lock == self.end.page_count
    }

    /// Pages that are not as the local state has them, with their checksums, ascending.
    pub fn changes(&self) -> impl Iterator<Item = (Pgno, Checksum)> + '_ {
        self.pages.iter().filter(|(_, (_, slot))| slot.is_some()).map(|(&pgno, &(sum, _))| (pgno, sum))
    }

    /// Every page of the end with its checksum, ascending, the lock-byte page left out.
    pub fn sums<'a>(&'a self, local: &'a Local<'_>) -> impl Iterator<Item = (Pgno, Checksum)> + 'a {
        let lock = self.end.page_size.lock_pgno();
        let pages = (1..=self.end.page_count).filter_map(Pgno::new).filter(move |&p| p != lock);
        pages.filter_map(|pgno| {
            let sum = self.pages.get(&pgno).map(|&(sum, _)| sum).or_else(|| local(pgno));
            sum.map(|sum| (pgno, sum))
        })
    }

    /// Whether [`Overlay::read`] has it.
    pub fn changes_page(&self, pgno: Pgno) -> bool {
        self.pages.get(&pgno).is_some_and(|(_, slot)| slot.is_some())
    }

    /// Reads one of [`Overlay::changes`].
    ///
    /// # Errors
    /// `Io`.
    ///
    /// # Panics
    /// For another page.
    pub fn read(&self, pgno: Pgno, page: &mut [u8]) -> Result<()> {
        let slot =
            self.pages.get(&pgno).and_then(|&(_, slot)| slot).expect("BUG: a page that does not change");
        let offset = u64::from(slot) * page.len() as u64;
        let read = self.spool.file().read_exact_at(page, offset);
        read.map_err(|e| Error::io("read", self.spool.path(), e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ltx::Proof;
    use crate::ltx::sample::{file, header};
    use crate::testing::Folder;

    fn page(byte: u8) -> Vec<u8> {
        vec![byte; 512]
    }

    fn sum(n: u32, byte: u8) -> Checksum {
        page_checksum(Pgno::new(n).unwrap(), &page(byte))
    }

    fn total(state: &[u8]) -> Checksum {
        (1..).zip(state).fold(Checksum::EMPTY, |total, (n, &byte)| total.toggle(sum(n, byte)))
    }

    /// Lays files, oldest first, over a state of one byte a page; which of the pages change once it is proven.
    fn overlay(local: &[u8], end: &[u8], files: &[(u32, &[(u32, u8)])]) -> Option<Vec<u32>> {
        let dir = Folder::new();
        let proof = Some(Proof { pre: Checksum::EMPTY, post: total(end) });
        let newest = Header { proof, ..header(9, 9, 512, end.len() as u32) };
        let local = |p: Pgno| local.get(p.get() as usize - 1).map(|&byte| sum(p.get(), byte));
        let mut overlay = Overlay::new(newest, &local, &dir.path().join("x")).unwrap();
        for (count, pages) in files.iter().rev() {
            let pages: Vec<_> = pages.iter().map(|&(n, byte)| (n, page(byte))).collect();
            let bytes = file(header(9, 9, 512, *count), &pages);
            assert!(!overlay.is_proven(), "an older file is asked for only where it is needed");
            overlay.take(&mut Decoder::new(&bytes[..], "x").unwrap(), &local).unwrap();
        }
        overlay.is_proven().then(|| {
            let mut found = page(0);
            overlay
                .changes()
                .map(|(pgno, _)| {
                    overlay.read(pgno, &mut found).unwrap();
                    assert_eq!(found, page(end[pgno.get() as usize - 1]), "page {pgno}");
                    pgno.get()
                })
                .collect()
        })
    }

    #[test]
    fn earlier_state_is_proven_and_only_what_differs_changes() {
        let files: &[(u32, &[(u32, u8)])] = &[(3, &[(2, 7)]), (4, &[(1, 5), (3, 3), (4, 4)])];
        assert_eq!(overlay(&[1, 2, 3], &[5, 7, 3, 4], files), Some(vec![1, 2, 4]));
        assert_eq!(overlay(&[1, 7, 3], &[5, 7, 3, 4], &files[1..]), Some(vec![1, 4]), "one file is enough");
    }

    #[test]
    fn state_between_two_positions_is_proven() {
        let files: &[(u32, &[(u32, u8)])] = &[(3, &[(1, 5), (3, 9)])];
        assert_eq!(overlay(&[4, 2, 3], &[5, 2, 9], files), Some(vec![1, 3]), "page 1 as no file has it");
    }

    #[test]
    fn change_that_no_file_has_fails_the_proof() {
        let files: &[(u32, &[(u32, u8)])] = &[(3, &[(2, 7)]), (3, &[(1, 5)])];
        assert_eq!(overlay(&[1, 2, 8], &[5, 7, 3], files), None);
        assert_eq!(overlay(&[1, 2], &[5, 7, 3], files), None, "a page that nobody has");
    }

    #[test]
    fn shrinking_cuts_pages_that_older_files_have() {
        let files: &[(u32, &[(u32, u8)])] = &[(4, &[(2, 7), (3, 8), (4, 8)]), (2, &[(1, 5)]), (3, &[(3, 3)])];
        assert_eq!(overlay(&[1, 2, 9, 9, 9], &[5, 7, 3], files), Some(vec![1, 2, 3]));
    }
}
