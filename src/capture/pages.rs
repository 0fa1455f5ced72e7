//! Pages read for a group: the first 8 MiB in memory, the rest in a spool file without a name.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::blocks::{self, BLOCK, MEMORY_MAX};
use crate::error::{Error, Result};
use crate::fs::Scratch;
use crate::ltx::{WalSpan, page_checksum};
use crate::types::{Checksum, PageSize, Pgno};

/// The first block grows: most groups are a few pages.
const FIRST_BLOCK: usize = 16 << 10;

/// The newest read version of each page, with its checksum.
pub struct PageBuffer {
    page_size: PageSize,
    /// Where in the WAL the state is.
    wal: WalSpan,
    /// Pages that are as the base knows them are kept too.
    keeps_all: bool,
    index: BTreeMap<Pgno, (u32, Checksum)>,
    /// The first block.
    first: Vec<u8>,
    /// Further blocks, each made when it is needed: growing one vector would copy it and hold both.
    more: Vec<Scratch>,
    memory_slots: u32,
    slots: u32,
    folder: PathBuf,
    spool: Option<File>,
}

impl PageBuffer {
    /// `folder`: where the spool goes when there is more than fits.
    pub fn new(page_size: PageSize, folder: &Path) -> PageBuffer {
        PageBuffer {
            page_size,
            wal: WalSpan::CAPTURED,
            keeps_all: false,
            index: BTreeMap::new(),
            first: Vec::new(),
            more: Vec::new(),
            memory_slots: (MEMORY_MAX / page_size.bytes()) as u32,
            slots: 0,
            folder: folder.to_owned(),
            spool: None,
        }
    }

    /// From here on every page offered is kept.
    #[must_use]
    pub fn keeping_all(mut self, keeps_all: bool) -> PageBuffer {
        self.keeps_all = keeps_all;
        self
    }

    pub fn page_size(&self) -> PageSize {
        self.page_size
    }

    /// Where in the WAL the state is that the pages are of.
    pub fn wal(&self) -> WalSpan {
        self.wal
    }

    pub fn set_wal(&mut self, wal: WalSpan) {
        self.wal = wal;
    }

    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    pub fn len(&self) -> usize {
        self.index.len()
    }

    pub fn contains(&self, pgno: Pgno) -> bool {
        self.index.contains_key(&pgno)
    }

    /// Offers a page as it is now. It is kept when it is here already, or when it is not as `known` says.
    ///
    /// # Errors
    /// `Full`, `Io` from the spool.
    pub fn offer(&mut self, pgno: Pgno, data: &[u8], known: Option<Checksum>) -> Result<()> {
        assert_eq!(data.len(), self.page_size.bytes(), "BUG: a page of another size");
        let checksum = page_checksum(pgno, data);
        let slot = match self.index.get(&pgno) {
            Some(&(_, same)) if same == checksum => return Ok(()),
            Some(&(slot, _)) => slot,
            None if known == Some(checksum) && !self.keeps_all => return Ok(()),
            None => {
                self.slots += 1;
                self.slots - 1
            }
        };
        self.put(slot, data)?;
        self.index.insert(pgno, (slot, checksum));
        Ok(())
    }

    /// Forgets pages past the end of the database.
    pub fn truncate(&mut self, page_count: u32) {
        self.index.retain(|pgno, _| pgno.get() <= page_count);
    }

    /// Page numbers and checksums, ascending.
    pub fn checksums(&self) -> impl Iterator<Item = (Pgno, Checksum)> + '_ {
        self.index.iter().map(|(&pgno, &(_, checksum))| (pgno, checksum))
    }

    /// Copies a page out.
    ///
    /// # Errors
    /// `Io` from the spool.
    ///
    /// # Panics
    /// When the page is not here.
    pub fn read(&self, pgno: Pgno, out: &mut [u8]) -> Result<()> {
        let (slot, _) = *self.index.get(&pgno).expect("BUG: read of a page that was not collected");
        if slot < self.memory_slots {
            let (block, range) = self.place(slot);
            let memory = if block == 0 { &self.first[..] } else { &self.more[block - 1][..] };
            out.copy_from_slice(&memory[range]);
            return Ok(());
        }
        let spool = self.spool.as_ref().expect("BUG: a slot past memory without a spool");
        spool
            .read_exact_at(out, self.spool_offset(slot))
            .map_err(|e| Error::io("read the spool in", &self.folder, e))
    }

    fn put(&mut self, slot: u32, data: &[u8]) -> Result<()> {
        if slot < self.memory_slots {
            let (block, range) = self.place(slot);
            if block > 0 {
                if self.more.len() < block {
                    self.more.push(blocks::take()?);
                }
                self.more[block - 1][range].copy_from_slice(data);
            } else if range.start == self.first.len() {
                self.first.reserve(if range.start == 0 { FIRST_BLOCK } else { 0 });
                self.first.extend_from_slice(data);
            } else {
                self.first[range].copy_from_slice(data);
            }
            return Ok(());
        }
        let offset = self.spool_offset(slot);
        let spool = match &mut self.spool {
            Some(spool) => spool,
            none => none.insert(unnamed_file(&self.folder)?),
        };
        spool.write_all_at(data, offset).map_err(|e| Error::io("write the spool in", &self.folder, e))
    }

    /// Block and bytes of a slot in memory; a block holds whole pages.
    fn place(&self, slot: u32) -> (usize, Range<usize>) {
        let at = slot as usize * self.page_size.bytes();
        (at / BLOCK, at % BLOCK..at % BLOCK + self.page_size.bytes())
    }

    fn spool_offset(&self, slot: u32) -> u64 {
        u64::from(slot - self.memory_slots) * u64::from(self.page_size.get())
    }
}

impl Drop for PageBuffer {
    fn drop(&mut self) {
        blocks::give(std::mem::take(&mut self.more));
    }
}

/// A file that is gone when it is closed, or when the process dies.
fn unnamed_file(folder: &Path) -> Result<File> {
    let temp = crate::fs::durable::Temp::create(&folder.join("spool"))?;
    // Dropping the temp removes the name; the clone keeps the file.
    temp.file().try_clone().map_err(|e| Error::io("open", temp.path(), e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Folder;

    #[test]
    fn pages_come_back_from_memory_and_spool() {
        let dir = Folder::new();
        let size = PageSize::new(65536).unwrap();
        let mut buffer = PageBuffer::new(size, dir.path());
        let page = |n: u32| vec![n as u8; 65536];
        for n in (1..=200u32).rev() {
            buffer.offer(Pgno::new(n).unwrap(), &page(n), None).unwrap();
        }
        buffer.offer(Pgno::new(3).unwrap(), &page(77), None).unwrap();
        buffer.offer(Pgno::new(199).unwrap(), &page(78), None).unwrap();
        buffer.truncate(199);
        let mut out = page(0);
        for (pgno, checksum) in buffer.checksums() {
            buffer.read(pgno, &mut out).unwrap();
            let want = match pgno.get() {
                3 => 77,
                199 => 78,
                n => n,
            };
            assert_eq!((&out, checksum), (&page(want), page_checksum(pgno, &page(want))), "page {pgno}");
        }
        assert_eq!(buffer.len(), 199);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "the spool has no name");
    }

    #[test]
    fn unchanged_page_is_not_kept_unless_it_was_kept_before() {
        let dir = Folder::new();
        let size = PageSize::new(512).unwrap();
        let (one, two) = ([1; 512], [2; 512]);
        let known = Some(page_checksum(Pgno::FIRST, &one));
        let mut buffer = PageBuffer::new(size, dir.path());
        buffer.offer(Pgno::FIRST, &one, known).unwrap();
        assert!(buffer.is_empty());
        buffer.offer(Pgno::FIRST, &two, known).unwrap();
        buffer.offer(Pgno::FIRST, &one, known).unwrap();
        let mut out = [0; 512];
        buffer.read(Pgno::FIRST, &mut out).unwrap();
        assert_eq!(out, one, "the later version wins");
    }
}
