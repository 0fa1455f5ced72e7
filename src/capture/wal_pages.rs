//! Reads the noted pages at one commit while the database is in WAL mode, without a lock.
//!
//! ```text
//! pass:  note up to the newest commit; take the noted pages; M = the newest commit now
//!        page in a frame <= M ?  its last such frame  :  the database file
//!        backfill_attempted <= M, and then the same salts ?  done: these pages are the state M
//!        else the next pass reads what was committed after M
//! ```
//!
//! Why that holds. Frames up to M do not change while the salts stay. The database file holds nothing newer than
//! the last frame that a checkpoint has begun to copy, so while that is at most M, a page without a frame up to M
//! is in the file as it was at M; and a page that a checkpoint is writing at this moment has such a frame, so it
//! is not read from the file. A page read in an earlier pass and not committed since is still right; one that was
//! torn or newer than its pass has a frame after that pass's M, and is read again.

use super::work::{Work, finish};
use super::{Collected, Files, NotNow, PageBuffer, Shape, WalNotes, WalView, bounds};
use crate::error::{Error, Result};
use crate::ltx::WalSpan;
use crate::sqlite::{header, wal, wal_index};
use crate::staging::noted::Taken;
use crate::types::{PageSize, Pgno};

/// Passes before the worker lets the capture lock go and comes back on its next tick.
const PASSES_MAX: u32 = 12;
/// Times that one chunk is read before the view counts as gone: its connection may have closed.
const CHUNK_TRIES: u32 = 100;

/// Everything a reading needs.
pub struct Reader<'a> {
    pub work: Work<'a>,
    pub view: &'a dyn WalView,
    pub notes: &'a WalNotes,
    /// Called when every page had to be noted.
    pub cold: &'a dyn Fn(),
}

impl Reader<'_> {
    /// Takes and reads the noted pages.
    ///
    /// # Errors
    /// `Io`, `Full`. The pages stay noted.
    pub fn collect(&self) -> Result<Collected> {
        let work = &self.work;
        let mut buffer: Option<PageBuffer> = None;
        for pass in 0..PASSES_MAX {
            let Some(before) = self.notes.note(self.view, work.state, work.noted) else {
                return Ok(Collected::NotNow(NotNow::Outrun));
            };
            if before.went_cold {
                (self.cold)();
            }
            let mut taken = work.noted.take(pass == 0);
            let at = self.view.header().filter(|h| h.salts == before.header.salts);
            let at = at.filter(|at| self.pages_since(before.header.mx_frame, at.mx_frame, &mut taken));
            let Some(at) = at else {
                work.noted.note_again(&taken);
                continue;
            };
            let Some(shape) = self.shape(&at)? else { return work.without_shape() };
            if buffer.as_ref().is_some_and(|b| b.page_size() != shape.page_size) {
                buffer = None;
                work.noted.note_again(&taken);
                taken = work.noted.take(true);
            }
            let Some((pages, kept)) = work.begin(&taken, shape, &mut buffer) else {
                return Ok(Collected::Nothing);
            };
            let Some(exact) = self.read(&pages, &at, shape, kept)? else {
                return Ok(Collected::NotNow(NotNow::Outrun));
            };
            // In this order: a restart writes its salts before it forgets how far the file was written.
            let unwritten = self.view.backfill_attempted().is_some_and(|frame| frame <= at.mx_frame);
            let still = self.view.header().is_some_and(|h| h.salts == at.salts);
            if exact && unwritten && still {
                let end = WalSpan::up_to(wal_index::halves(at.salts), at.mx_frame, shape.page_size);
                buffer.iter_mut().for_each(|buffer| buffer.set_wal(end));
                return Ok(finish(buffer, shape));
            }
        }
        Ok(Collected::NotNow(NotNow::Outrun))
    }

    /// Adds the pages of frames committed between the noting and now.
    fn pages_since(&self, from: u32, to: u32, taken: &mut Taken) -> bool {
        self.view.pages_of(from, to, &mut |pgno| taken.pages.push(pgno))
    }

    /// Size of the database at a commit; from the file where the WAL has no frame that says it.
    fn shape(&self, at: &wal_index::Header) -> Result<Option<Shape>> {
        if at.mx_frame > 0 && at.page_count > 0 {
            let shape = at.page_size.map(|page_size| Shape { page_size, page_count: at.page_count });
            return shape.map(|shape| bounds::check(self.work.files, shape)).transpose();
        }
        file_shape(self.work.files, at.page_size.or(self.work.page_size))
    }

    /// Reads pages as of `at`. `false`: the WAL was restarted meanwhile, and some are of a later commit. `None`: the
    /// view went away, or shows what the files do not hold; what was taken stays taken.
    fn read(
        &self,
        pages: &[Pgno],
        at: &wal_index::Header,
        shape: Shape,
        buffer: &mut PageBuffer,
    ) -> Result<Option<bool>> {
        let (mut exact, mut now) = (true, *at);
        let all = self.work.read_chunks(pages, shape, buffer, |chunk, data| {
            for _ in 0..CHUNK_TRIES {
                let done = self.read_chunk(chunk, &now, shape, data)?;
                match self.view.header() {
                    Some(after) if after.salts == now.salts && done => return Ok(true),
                    Some(after) => (now, exact) = (after, false),
                    None => std::hint::spin_loop(),
                }
            }
            Ok(false)
        })?;
        Ok(all.then_some(exact))
    }

    /// Each page from its last frame, else from the database file, also where the WAL was cut after a checkpoint copied
    /// all of it. `false`: the WAL holds it no more.
    fn read_chunk(
        &self,
        chunk: &[Pgno],
        at: &wal_index::Header,
        shape: Shape,
        data: &mut [u8],
    ) -> Result<bool> {
        let size = shape.page_size;
        let mut frames = Vec::with_capacity(chunk.len());
        if self.view.find(chunk, at.mx_frame, &mut frames).is_err() {
            return Ok(false);
        }
        let mut from = 0;
        for run in frames.chunk_by(|one, next| one.is_none() && next.is_none()) {
            let to = from + run.len();
            let bytes = &mut data[from * size.bytes()..to * size.bytes()];
            match run[0] {
                Some(frame)
                    if self.work.files.read_wal(wal::page_offset(frame, size), bytes)? < bytes.len() =>
                {
                    // A last close that keeps the WAL cuts it, and says nothing of it in the wal-index.
                    if self.view.backfilled().is_none_or(|done| done < frame) {
                        return Ok(false);
                    }
                    self.work.read_database(&chunk[from..to], shape, bytes)?;
                }
                Some(_) => {}
                None => self.work.read_database(&chunk[from..to], shape, bytes)?,
            }
            from = to;
        }
        Ok(true)
    }
}

/// Size of the database by its file: the header where it is readable and valid, else the length.
/// `None`: the file is empty, or nothing says the page size.
///
/// # Errors
/// `Corrupt` for one that the files cannot hold; `Io`.
pub fn file_shape(files: &dyn Files, page_size: Option<PageSize>) -> Result<Option<Shape>> {
    stated_shape(files, page_size)?.map(|shape| bounds::check(files, shape)).transpose()
}

/// The same, whether the files can hold it or not.
///
/// # Errors
/// `Corrupt` for more pages than there can be; `Io`.
pub fn stated_shape(files: &dyn Files, page_size: Option<PageSize>) -> Result<Option<Shape>> {
    let mut bytes = [0; 100];
    files.read_database(0, &mut bytes)?;
    let header = header::parse(&bytes);
    let Some(page_size) = header.map(|h| h.page_size).or(page_size) else { return Ok(None) };
    let size = files.database_size()?;
    let by_size = u32::try_from(size / u64::from(page_size.get())).map_err(|_| {
        Error::corrupt(format!("the database file of {size} bytes has more pages than SQLite allows"))
    })?;
    let page_count = header.and_then(|h| h.page_count).unwrap_or(by_size);
    // A page size that page 1 does not confirm, and that cannot be right.
    let torn = header.is_none() && !size.is_multiple_of(u64::from(page_size.get()));
    Ok(if torn || page_count == 0 { None } else { Some(Shape { page_size, page_count }) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::Base;
    use crate::ltx::page_checksum;
    use crate::sqlite::wal_index::{Header, Salts};
    use crate::staging::checksums::PageChecksums;
    use crate::staging::log::Recorded;
    use crate::staging::noted::NotedSet;
    use crate::staging::state::State;
    use crate::testing::Folder;
    use crate::types::{Checksum, Position, Timestamp, Txid};
    use std::cell::Cell;

    const SIZE: usize = 512;

    /// A WAL that this process restarts while it is looked at, at the given look.
    struct Restarting<'a> {
        looks: Cell<u32>,
        at_look: u32,
        state: &'a State,
        /// Instead of a restart, the connection behind the view closes.
        closes: bool,
        backfilled: u32,
    }

    impl WalView for Restarting<'_> {
        fn header(&self) -> Option<Header> {
            self.looks.set(self.looks.get() + 1);
            let restarted = self.looks.get() >= self.at_look;
            if restarted && self.closes {
                return None;
            }
            let (salts, mx_frame): (Salts, u32) = if restarted { (6, 0) } else { (5, 1) };
            self.state.set_cycle(Some(salts));
            let page_size = PageSize::new(SIZE as u32);
            Some(Header { salts, mx_frame, page_count: 3, page_size, change: 0 })
        }
        fn pages_of(&self, from: u32, to: u32, each: &mut dyn FnMut(Pgno)) -> bool {
            (from..to).filter_map(|_| Pgno::new(2)).for_each(each);
            true
        }
        fn find(&self, pages: &[Pgno], mx_frame: u32, frames: &mut Vec<Option<u32>>) -> Result<(), ()> {
            frames.extend(pages.iter().map(|p| (p.get() == 2 && mx_frame > 0).then_some(1)));
            Ok(())
        }
        fn backfill_attempted(&self) -> Option<u32> {
            Some(self.backfilled)
        }
        fn backfilled(&self) -> Option<u32> {
            Some(self.backfilled)
        }
    }

    /// Page 2 is all ones; the other pages are zero, as they were.
    struct Ones;

    impl Files for Ones {
        fn read_database(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
            for (at, byte) in buffer.iter_mut().enumerate() {
                *byte = u8::from((offset as usize + at) / SIZE == 1);
            }
            Ok(buffer.len())
        }
        fn database_size(&self) -> Result<u64> {
            Ok(3 * SIZE as u64)
        }
        fn read_wal(&self, _: u64, buffer: &mut [u8]) -> Result<usize> {
            buffer.fill(1);
            Ok(buffer.len())
        }
        fn wal_size(&self) -> Result<u64> {
            Ok(0)
        }
    }

    /// The same, and somebody cut the WAL.
    struct Cut;

    impl Files for Cut {
        fn read_database(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
            Ones.read_database(offset, buffer)
        }
        fn database_size(&self) -> Result<u64> {
            Ones.database_size()
        }
        fn wal_size(&self) -> Result<u64> {
            Ok(0)
        }
        fn read_wal(&self, _: u64, _: &mut [u8]) -> Result<usize> {
            Ok(0)
        }
    }

    /// Page 2 is noted, and whoever restarts the WAL has seen to that.
    fn collect(
        files: &dyn Files,
        (at_look, closes, backfilled): (u32, bool, u32),
        then: impl FnOnce(Result<Collected>, &NotedSet),
    ) {
        let dir = Folder::new();
        let state = State::open(&dir.path().join("state")).unwrap();
        let noted = NotedSet::open(&dir.path().join("noted")).unwrap();
        let mut checksums = PageChecksums::open(&dir.path().join("checksums")).unwrap();
        let page_size = PageSize::new(SIZE as u32).unwrap();
        checksums.reserve(3).unwrap();
        let zero = |n: u32| Pgno::new(n).map(|p| (p, page_checksum(p, &[0; SIZE]))).unwrap();
        checksums.apply(page_size, 3, (1..=3).map(zero));
        let position = Position { txid: Txid::FIRST, checksum: Checksum::EMPTY };
        let recorded = Recorded { position, page_size, page_count: 3, timestamp: Timestamp(0) };
        noted.note(Pgno::new(2).unwrap());
        state.set_cycle(Some(if at_look > 1 || closes { 5 } else { 6 }));
        let view = Restarting { looks: Cell::new(0), at_look, state: &state, closes, backfilled };
        let base = Base { recorded: Some(recorded), checksums: &checksums };
        let reader = Reader {
            work: Work { files, noted: &noted, state: &state, base, page_size: None, folder: dir.path() },
            view: &view,
            notes: &WalNotes::default(),
            cold: &|| {},
        };
        then(reader.collect(), &noted);
    }

    fn numbers(pages: &PageBuffer) -> Vec<u32> {
        pages.checksums().map(|(p, _)| p.get()).collect()
    }

    #[test]
    fn noted_page_survives_a_restart_of_the_wal_at_any_look() {
        for (at_look, closes) in (1..12).flat_map(|look| [(look, false), (look, true)]) {
            collect(&Ones, (at_look, closes, 0), |collected, noted| match collected {
                Ok(Collected::Pages(pages, _)) => {
                    assert_eq!(numbers(&pages), [2], "restart at look {at_look}");
                }
                Ok(Collected::NotNow(NotNow::Outrun)) if closes => {
                    assert_eq!(noted.take(true).pages, [Pgno::new(2).unwrap()], "closed at look {at_look}");
                }
                _ => panic!("restart at look {at_look}: the noted page is lost"),
            });
        }
    }

    #[test]
    fn wal_that_was_cut_is_read_where_a_checkpoint_copied_it() {
        collect(&Cut, (u32::MAX, false, 1), |collected, _| match collected {
            Ok(Collected::Pages(pages, _)) => assert_eq!(numbers(&pages), [2]),
            _ => panic!("copied, and not found"),
        });
        collect(&Cut, (u32::MAX, false, 0), |collected, _| {
            assert!(matches!(collected, Ok(Collected::NotNow(NotNow::Outrun))), "it was not copied");
        });
    }
}
