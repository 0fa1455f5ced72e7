//! The state of a database that nobody has open: its file, as the journal left beside it would restore it, and the
//! committed frames of a WAL left beside it. Nothing is changed.

use super::{Files, Shape, bounds};
use crate::capture::wal_pages::stated_shape;
use crate::error::Result;
use crate::ltx::page_checksum;
use crate::sqlite::journal::{self, Playback};
use crate::sqlite::wal::{self, Chain};
use crate::sqlite::wal_index::Salts;
use crate::staging::stand_in::{self, StandIn};
use crate::types::{Checksum, PageSize, Pgno};

/// A whole database, by checksums.
pub struct AtRest {
    pub shape: Shape,
    pub checksum: Checksum,
    /// Of each page, by page number from 1; the lock-byte page is [`Checksum::EMPTY`].
    pub pages: Vec<Checksum>,
    /// The states before it: that of the file without the WAL, then that after each commit in the WAL but the last. One
    /// that a checkpoint has begun to overwrite in the file is in no history.
    pub before: Vec<Checksum>,
    /// Salts of the WAL beside it, and its last committed frame.
    pub wal: Option<(Salts, u32)>,
    /// The start of page 1.
    pub page_1: [u8; 100],
    /// As [`crate::staging::stand_in`] has it.
    pub rest_of_page_1: Checksum,
}

impl AtRest {
    /// Checksum of a page; `None` past the end.
    pub fn page(&self, pgno: Pgno) -> Option<Checksum> {
        self.pages.get(pgno.get() as usize - 1).copied()
    }

    /// Takes page 1 for the one it stands for, if that makes this a known state.
    pub fn without_stand_in(mut self, all: &[StandIn], is_known: &dyn Fn(Checksum) -> bool) -> AtRest {
        let standing = all.iter().filter(|stand_in| stand_in.rest == self.rest_of_page_1);
        let known = standing.map(|s| (s.page, self.checksum.toggle(self.pages[0]).toggle(s.page)));
        if let Some((page, state)) =
            known.filter(|_| !is_known(self.checksum)).find(|(_, state)| is_known(*state))
        {
            (self.pages[0], self.checksum) = (page, state);
        }
        self
    }

    /// Every page with its checksum, the lock-byte page left out.
    pub fn stored(&self) -> impl Iterator<Item = (Pgno, Checksum)> + '_ {
        let lock = self.shape.page_size.lock_pgno();
        (1u32..).filter_map(Pgno::new).zip(self.pages.iter().copied()).filter(move |&(p, _)| p != lock)
    }
}

/// A journal that the next reader would play back, and how to read it.
pub struct Hot<'a> {
    pub playback: Playback,
    pub read: &'a journal::Read<'a>,
}

/// Reads the whole database as SQLite would find it at its next open. `None`: it has no pages, nothing says their size, or
/// it would be larger than its files can hold.
///
/// # Errors
/// `Io`.
pub fn read(files: &dyn Files, hot: Option<&Hot<'_>>) -> Result<Option<AtRest>> {
    let header = wal_header(files)?;
    let shape = match hot {
        Some(hot) => Some(Shape { page_size: hot.playback.page_size, page_count: hot.playback.page_count }),
        None => stated_shape(files, header.map(|h| h.page_size))?,
    };
    let page_size = match (header, shape) {
        (Some(header), Some(shape)) if header.page_size == shape.page_size => header.page_size,
        (Some(header), None) => header.page_size,
        (_, Some(shape)) => shape.page_size,
        (None, None) => return Ok(None),
    };
    let count = shape.map_or(0, |s| s.page_count);
    let in_journal = hot.map_or(0, |hot| hot.playback.pages.len() as u64);
    let most = bounds::pages_max(files, page_size)?.saturating_add(in_journal);
    if u64::from(count) > most {
        return Ok(None);
    }
    let mut sums = Sums::of_file(files, hot, page_size, count)?;
    let mut wal = None;
    if let Some(header) = header.filter(|h| h.page_size == page_size) {
        let Some(committed) = sums.follow(files, header, most)? else { return Ok(None) };
        wal = Some((header.salts, committed));
    }
    if sums.count == 0 {
        return Ok(None);
    }
    sums.pages.truncate(sums.count as usize);
    let shape = Shape { page_size, page_count: sums.count };
    Ok(Some(AtRest {
        shape,
        checksum: sums.total,
        pages: sums.pages,
        before: sums.before,
        wal,
        page_1: sums.page_1,
        rest_of_page_1: sums.rest_of_page_1,
    }))
}

/// What became of the committed frames that were seen in a WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frames {
    Whole,
    /// A recovery does not reach the last of them: SQLite before 3.53.4 can commit frames without salts.
    Lost,
    /// They are not there: somebody put an older WAL here.
    Gone,
}

/// Looks whether the WAL still holds the `seen` committed frames of its cycle. Reads the headers of frames only.
///
/// # Errors
/// `Io`.
pub fn frames_left(files: &dyn Files, seen: u32) -> Result<Frames> {
    let Some(header) = wal_header(files)? else {
        return Ok(if seen > 0 { Frames::Gone } else { Frames::Whole });
    };
    let mut bytes = [0; wal::FRAME_HEADER_LEN];
    for frame in 1..=seen {
        let there = files.read_wal(wal::frame_offset(frame, header.page_size), &mut bytes)?;
        match wal::parse_frame_header(&bytes).filter(|_| there == bytes.len()) {
            Some(found) if found.salts == header.salts => {}
            Some(found) if found.salts == 0 => return Ok(Frames::Lost),
            _ => return Ok(Frames::Gone),
        }
    }
    Ok(Frames::Whole)
}

fn wal_header(files: &dyn Files) -> Result<Option<wal::WalHeader>> {
    let mut bytes = [0; wal::HEADER_LEN];
    let there = files.read_wal(0, &mut bytes)?;
    Ok(wal::parse_header(&bytes).filter(|_| there == bytes.len()))
}

/// The checksums of all pages there are, and the total over those that count.
struct Sums {
    page_size: PageSize,
    pages: Vec<Checksum>,
    count: u32,
    total: Checksum,
    before: Vec<Checksum>,
    page_1: [u8; 100],
    rest_of_page_1: Checksum,
}

impl Sums {
    /// The pages of the file. More of them than `count` may come to count with a commit in the WAL.
    fn of_file(files: &dyn Files, hot: Option<&Hot<'_>>, page_size: PageSize, count: u32) -> Result<Sums> {
        let by_size =
            u32::try_from(files.database_size()?.div_ceil(page_size.get().into())).unwrap_or(u32::MAX);
        let there = if hot.is_some() { count } else { by_size.max(count) };
        let mut pages = Vec::with_capacity(there as usize);
        let mut page = vec![0; page_size.bytes()];
        let (mut total, lock) = (Checksum::EMPTY, page_size.lock_pgno());
        let (mut page_1, mut rest_of_page_1) = ([0; 100], Checksum::EMPTY);
        for pgno in (1..=there).filter_map(Pgno::new) {
            let mut sum = Checksum::EMPTY;
            if pgno != lock {
                match hot.and_then(|hot| hot.playback.pages.get(&pgno).map(|&at| (hot, at))) {
                    Some((hot, at)) => (hot.read)(at, &mut page)?,
                    None => files.read_database(pgno.offset(page_size), &mut page)?,
                };
                sum = page_checksum(pgno, &page);
            }
            if pgno == Pgno::FIRST {
                page_1.copy_from_slice(&page[..100]);
                rest_of_page_1 = stand_in::rest_of(&page);
            }
            if pgno.get() <= count {
                total = total.toggle(sum);
            }
            pages.push(sum);
        }
        Ok(Sums { page_size, pages, count, total, before: Vec::new(), page_1, rest_of_page_1 })
    }

    /// Adds the commits of the WAL, as far as a recovery would, and answers the last frame. `None`: one has a page or a size
    /// past `most` pages.
    fn follow(&mut self, files: &dyn Files, header: wal::WalHeader, most: u64) -> Result<Option<u32>> {
        let mut chain = Chain::new(header);
        let mut frame = vec![0; wal::FRAME_HEADER_LEN + self.page_size.bytes()];
        let mut open: Vec<(Pgno, Checksum)> = Vec::new();
        let (mut page_1, mut rest) = (self.page_1, self.rest_of_page_1);
        loop {
            let there = files.read_wal(wal::frame_offset(chain.next_frame(), self.page_size), &mut frame)?;
            if there < frame.len() || !chain.accept(&frame) {
                return Ok(Some(chain.committed()));
            }
            let header = wal::parse_frame_header(&frame).expect("BUG: an accepted frame has a header");
            if u64::from(header.pgno.get().max(header.commit.unwrap_or(0))) > most {
                return Ok(None);
            }
            let page = &frame[wal::FRAME_HEADER_LEN..];
            open.push((header.pgno, page_checksum(header.pgno, page)));
            if header.pgno == Pgno::FIRST {
                page_1.copy_from_slice(&page[..100]);
                rest = stand_in::rest_of(page);
            }
            if let Some(page_count) = header.commit {
                self.before.push(self.total);
                (self.page_1, self.rest_of_page_1) = (page_1, rest);
                open.drain(..).for_each(|(pgno, sum)| self.put(pgno, sum));
                self.resize(page_count);
            }
        }
    }

    fn put(&mut self, pgno: Pgno, sum: Checksum) {
        let at = pgno.get() as usize - 1;
        if at >= self.pages.len() {
            self.pages.resize(at + 1, Checksum::EMPTY);
        }
        if pgno.get() <= self.count {
            self.total = self.total.toggle(self.pages[at]).toggle(sum);
        }
        self.pages[at] = sum;
    }

    fn resize(&mut self, page_count: u32) {
        self.pages.resize(self.pages.len().max(page_count as usize), Checksum::EMPTY);
        let (from, to) = (self.count.min(page_count) as usize, self.count.max(page_count) as usize);
        self.total = self.pages[from..to].iter().fold(self.total, |total, &sum| total.toggle(sum));
        self.count = page_count;
    }
}
