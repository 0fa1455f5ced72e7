//! The database of the model: a few pages of 512 bytes, each of which names the commit that wrote it; and everything that was
//! ever committed, by checksum.

use std::cell::RefCell;
use std::collections::HashMap;

use crate::capture::Shape;
use crate::capture::at_rest::AtRest;
use crate::error::Result;
use crate::fs::FileStat;
use crate::ltx::page_checksum;
use crate::restore::apply::Place;
use crate::types::{Checksum, PageSize, Pgno};

pub const PAGE_SIZE: PageSize = PageSize::new(512).unwrap();
const BYTES: usize = PAGE_SIZE.bytes();
/// Commits of one schedule.
pub const COMMITS_MAX: usize = 256;

/// Commits, by number.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Commits([u64; COMMITS_MAX / 64]);

impl Commits {
    #[must_use]
    pub fn with(mut self, commit: usize) -> Commits {
        self.0[commit / 64] |= 1 << (commit % 64);
        self
    }

    #[must_use]
    pub fn and(self, other: Commits) -> Commits {
        Commits(std::array::from_fn(|i| self.0[i] | other.0[i]))
    }

    #[must_use]
    pub fn without(self, other: Commits) -> Commits {
        Commits(std::array::from_fn(|i| self.0[i] & !other.0[i]))
    }

    #[must_use]
    pub fn common(self, other: Commits) -> Commits {
        Commits(std::array::from_fn(|i| self.0[i] & other.0[i]))
    }

    pub fn is_empty(self) -> bool {
        self.0.iter().all(|&word| word == 0)
    }

    pub fn count(self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }
}

impl std::fmt::Display for Commits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let commits = (0..COMMITS_MAX).filter(|c| self.0[c / 64] >> (c % 64) & 1 == 1);
        commits.map(|c| format!("c{c}")).collect::<Vec<_>>().join(" ").fmt(f)
    }
}

/// The checksum of each page, from page 1.
pub type Sums = Vec<Checksum>;

pub fn total(sums: &[Checksum]) -> Checksum {
    sums.iter().fold(Checksum::EMPTY, |total, &sum| total.toggle(sum))
}

/// A state that somebody committed.
#[derive(Clone)]
pub struct Committed {
    pub sums: Sums,
    /// The commits that led there.
    pub lineage: Commits,
}

/// Every state that was ever committed.
#[derive(Default)]
pub struct Register {
    states: HashMap<u64, Committed>,
    count: usize,
}

impl Register {
    pub fn get(&self, state: Checksum) -> Option<&Committed> {
        self.states.get(&state.get())
    }

    pub fn lineage(&self, state: Checksum) -> Commits {
        self.get(state).map_or_else(Commits::default, |committed| committed.lineage)
    }

    /// The number of a new commit; `None`: there were enough.
    pub fn draw(&mut self) -> Option<usize> {
        let commit = self.count;
        (commit < COMMITS_MAX).then(|| self.count += 1)?;
        Some(commit)
    }

    pub fn commit(&mut self, commit: usize, before: Option<Checksum>, sums: Sums) -> Checksum {
        let lineage = before.map_or_else(Commits::default, |before| self.lineage(before)).with(commit);
        let state = total(&sums);
        self.states.insert(state.get(), Committed { sums, lineage });
        state
    }
}

/// The file at one commit.
#[derive(Clone)]
pub struct Image {
    pub bytes: Vec<u8>,
    pub sums: Sums,
    pub state: Checksum,
}

impl Image {
    pub fn of(bytes: Vec<u8>) -> Image {
        let sums: Sums = pages_of(&bytes).map(|(pgno, page)| page_checksum(pgno, page)).collect();
        let state = total(&sums);
        Image { bytes, sums, state }
    }

    pub fn page_count(&self) -> u32 {
        self.sums.len() as u32
    }

    pub fn page(&self, pgno: Pgno) -> &[u8] {
        &self.bytes[(pgno.get() as usize - 1) * BYTES..][..BYTES]
    }

    pub fn shape(&self) -> Shape {
        Shape { page_size: PAGE_SIZE, page_count: self.page_count() }
    }
}

pub fn pages_of(bytes: &[u8]) -> impl Iterator<Item = (Pgno, &[u8])> {
    (1..).filter_map(Pgno::new).zip(bytes.chunks_exact(BYTES))
}

/// A database file and what lies beside it.
#[derive(Clone)]
pub struct Db {
    /// WAL mode: a commit reaches the disk with the next checkpoint only, and page 1 need not change.
    pub wal: bool,
    /// Every state since the disk was last sure to have one, oldest first. The last one is what readers see. Empty: no file.
    pub images: Vec<Image>,
    pub inode: u64,
    /// Counts changes of the file that show in its times.
    pub changes: u64,
    /// Names the life of the WAL, or the page 1, that our own programs left; others leave another.
    pub cycle: u64,
}

impl Db {
    pub fn now(&self) -> Option<&Image> {
        self.images.last()
    }

    pub fn state(&self) -> Option<Checksum> {
        self.now().map(|image| image.state)
    }

    /// The disk has what readers see.
    pub fn sync(&mut self) {
        let last = self.images.len().saturating_sub(1);
        self.images.drain(..last);
    }

    pub fn put(&mut self, image: Image) {
        self.images.push(image);
        self.changes += 1;
        if !self.wal {
            self.sync();
        }
    }

    /// In place of what was there, and on disk.
    pub fn replace(&mut self, image: Option<Image>) {
        self.images = image.into_iter().collect();
        self.changes += 1;
    }

    pub fn stat(&self) -> FileStat {
        let size = self.now().map_or(0, |image| image.bytes.len() as u64);
        let at = self.changes as i64;
        FileStat { device: 1, inode: self.inode, size, modified_ns: at, changed_ns: at }
    }

    /// The file as the next reader finds it.
    pub fn at_rest(&self) -> Option<AtRest> {
        let image = self.now()?;
        let before = &self.images[..self.images.len() - 1];
        Some(AtRest {
            shape: image.shape(),
            checksum: image.state,
            pages: image.sums.clone(),
            before: before.iter().map(|image| image.state).collect(),
            wal: None,
            rest_of_page_1: Checksum::EMPTY,
            page_1: *image.bytes.first_chunk().expect("BUG: a page has more than 100 bytes"),
        })
    }

    /// What commit `commit` makes of it: `pages` are written, `page_count` of them are there afterwards.
    pub fn written(&self, commit: usize, pages: &[u32], page_count: u32) -> Image {
        let mut bytes = self.now().map(|image| image.bytes.clone()).unwrap_or_default();
        let old = bytes.len() / BYTES;
        bytes.resize(page_count as usize * BYTES, 0);
        let counts = !self.wal || pages.contains(&1);
        let changes =
            self.now().map_or(0, |image| u32::from_be_bytes(*image.bytes[24..].first_chunk().unwrap()));
        for pgno in 1..=page_count {
            if pages.contains(&pgno) || pgno as usize > old || (pgno == 1 && counts) {
                let page = &mut bytes[(pgno as usize - 1) * BYTES..][..BYTES];
                write_page(page, pgno, commit);
                if pgno == 1 {
                    write_header(page, changes + 1, page_count, self.wal);
                }
            }
        }
        Image::of(bytes)
    }
}

fn write_page(page: &mut [u8], pgno: u32, commit: usize) {
    page.fill(0);
    // The pages of a commit change alike, in the same bits at the same place, as those of an `UPDATE` do.
    let text = format!("page {pgno:>3} of commit {commit:>5}.");
    page[128..][..text.len()].copy_from_slice(text.as_bytes());
}

fn write_header(page: &mut [u8], changes: u32, page_count: u32, wal: bool) {
    page[..16].copy_from_slice(b"SQLite format 3\0");
    page[16..18].copy_from_slice(&512u16.to_be_bytes());
    page[18..20].fill(if wal { 2 } else { 1 });
    page[24..28].copy_from_slice(&changes.to_be_bytes());
    page[28..32].copy_from_slice(&page_count.to_be_bytes());
    page[92..96].copy_from_slice(&changes.to_be_bytes());
}

/// The pages of a database in memory while they are overwritten.
pub struct InMemory {
    pub database: RefCell<Vec<u8>>,
    journal: RefCell<Vec<u8>>,
}

impl InMemory {
    pub fn of(bytes: Vec<u8>) -> InMemory {
        InMemory { database: RefCell::new(bytes), journal: RefCell::default() }
    }
}

fn read_from(bytes: &[u8], offset: u64, buffer: &mut [u8]) -> usize {
    let there = &bytes[bytes.len().min(offset as usize)..];
    let n = there.len().min(buffer.len());
    buffer[..n].copy_from_slice(&there[..n]);
    buffer[n..].fill(0);
    n
}

fn write_to(file: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let end = offset as usize + bytes.len();
    file.resize(file.len().max(end), 0);
    file[offset as usize..end].copy_from_slice(bytes);
}

impl Place for InMemory {
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        Ok(read_from(&self.database.borrow(), offset, buffer))
    }
    fn size(&self) -> Result<u64> {
        Ok(self.database.borrow().len() as u64)
    }
    fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        write_to(&mut self.database.borrow_mut(), offset, bytes);
        Ok(())
    }
    fn truncate(&self, size: u64) -> Result<()> {
        self.database.borrow_mut().truncate(size as usize);
        Ok(())
    }
    fn sync(&self) -> Result<()> {
        Ok(())
    }
    fn read_journal(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        Ok(read_from(&self.journal.borrow(), offset, buffer))
    }
    fn begin_journal(&self) -> Result<()> {
        self.journal.borrow_mut().clear();
        Ok(())
    }
    fn write_journal(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        write_to(&mut self.journal.borrow_mut(), offset, bytes);
        Ok(())
    }
    fn sync_journal(&self) -> Result<()> {
        Ok(())
    }
    fn remove_journal(&self) -> Result<()> {
        self.journal.borrow_mut().clear();
        Ok(())
    }
    fn read_wal(&self, _: u64, _: &mut [u8]) -> Result<usize> {
        Ok(0)
    }
    fn remove_wal(&self) -> Result<()> {
        Ok(())
    }
}
