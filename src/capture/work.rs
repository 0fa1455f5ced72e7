//! The work on one group, whoever reads: which pages it must look at, and where they come from and go to.

use std::path::Path;

use super::{Collected, Files, NotNow, PageBuffer, Shape};
use crate::clock::Pace;
use crate::error::Result;
use crate::staging::checksums::PageChecksums;
use crate::staging::log::Recorded;
use crate::staging::noted::{NotedSet, Taken};
use crate::staging::state::State;
#[cfg(test)]
use crate::testing::mutation::{self, Mutation};
use crate::types::{Checksum, PageSize, Pgno};

/// Pages read between two looks at whether they are still of the commit they were asked of.
const CHUNK_PAGES: usize = 256;
/// Pages from which on a reading is a scan: it rests between chunks, so that it does not make the transactions of
/// others longer and, with them, their collisions more.
const SCAN_PAGES: usize = 4096;

/// The sealed state that a group is the difference to.
#[derive(Clone, Copy)]
pub struct Base<'a> {
    pub recorded: Option<Recorded>,
    pub checksums: &'a PageChecksums,
}

impl<'a> Base<'a> {
    /// Size of the base; `None` when there is none that could be trusted: then a group holds every page.
    ///
    /// That the XOR of all page checksums equals the recorded checksum was asserted when the log was opened, and is
    /// kept by every group since.
    pub fn shape(&self) -> Option<Shape> {
        let recorded = self.recorded?;
        let shape = Shape { page_size: recorded.page_size, page_count: recorded.page_count };
        let known = self.checksums.page_size() == Some(shape.page_size)
            && self.checksums.page_count() == shape.page_count;
        if known { Some(shape) } else { None }
    }

    /// The base for a group of this shape: none when the page size changes.
    pub fn for_shape(&self, shape: Shape) -> Option<Shape> {
        #[cfg(test)]
        if mutation::is(Mutation::WrongPageSize) {
            return self.shape();
        }
        self.shape().filter(|base| base.page_size == shape.page_size)
    }

    /// Checksum of a page in the base.
    pub fn known(&self, pgno: Pgno, shape: Shape) -> Option<Checksum> {
        self.for_shape(shape).and_then(|_| self.checksums.get(pgno))
    }
}

/// Everything that a reading needs in any journal mode; the pages go to a buffer that spools into `folder`.
#[derive(Clone, Copy)]
pub struct Work<'a> {
    pub files: &'a dyn Files,
    pub noted: &'a NotedSet,
    pub state: &'a State,
    pub base: Base<'a>,
    /// Of a database whose page 1 cannot be read, because it is encrypted.
    pub page_size: Option<PageSize>,
    pub folder: &'a Path,
}

impl Work<'_> {
    /// Why the database has no size that could be told.
    ///
    /// # Errors
    /// `Io`.
    pub fn without_shape(&self) -> Result<Collected> {
        let empty = self.files.database_size()? == 0;
        Ok(Collected::NotNow(if empty { NotNow::Empty } else { NotNow::Unreadable }))
    }

    /// The pages to read for a state of this shape, and the buffer for them. `None`: the base is that state.
    pub fn begin<'b>(
        &self,
        taken: &Taken,
        shape: Shape,
        buffer: &'b mut Option<PageBuffer>,
    ) -> Option<(Vec<Pgno>, &'b mut PageBuffer)> {
        let base = self.base.shape();
        let pages = pages_to_read(taken, base, shape, buffer.as_ref());
        if pages.is_empty() && buffer.is_none() && self.base.for_shape(shape) == Some(shape) {
            return None;
        }
        let kept = self.buffer(buffer, taken.all, &pages, shape);
        Some((pages, kept))
    }

    /// The buffer there is, or a new one for a group over these pages; `all_noted` as [`carries_all`].
    pub fn buffer<'b>(
        &self,
        buffer: &'b mut Option<PageBuffer>,
        all_noted: bool,
        pages: &[Pgno],
        shape: Shape,
    ) -> &'b mut PageBuffer {
        buffer.get_or_insert_with(|| {
            let whole = carries_all(all_noted, pages, self.base.shape(), shape);
            PageBuffer::new(shape.page_size, self.folder).keeping_all(whole)
        })
    }

    /// Has `read` fill each chunk of the pages, which are then offered to the buffer. `false`: it gave up on one.
    ///
    /// # Errors
    /// Those of `read`; `Full`, `Io` from the spool.
    pub fn read_chunks(
        &self,
        pages: &[Pgno],
        shape: Shape,
        buffer: &mut PageBuffer,
        mut read: impl FnMut(&[Pgno], &mut [u8]) -> Result<bool>,
    ) -> Result<bool> {
        let mut data = vec![0; CHUNK_PAGES.min(pages.len()) * shape.page_size.bytes()];
        let mut pace = Pace::start();
        for chunk in pages.chunks(CHUNK_PAGES) {
            if !read(chunk, &mut data)? {
                return Ok(false);
            }
            self.offer(chunk, &data, shape, buffer)?;
            if pages.len() >= SCAN_PAGES {
                pace.rest();
            }
        }
        Ok(true)
    }

    /// Offers pages that lie one after the other in `data`.
    ///
    /// # Errors
    /// `Full`, `Io` from the spool.
    pub fn offer(&self, pages: &[Pgno], data: &[u8], shape: Shape, buffer: &mut PageBuffer) -> Result<()> {
        for (&pgno, page) in pages.iter().zip(data.chunks_exact(shape.page_size.bytes())) {
            buffer.offer(pgno, page, self.base.known(pgno, shape))?;
        }
        Ok(())
    }

    /// Reads ascending pages from the database file, those that are neighbours there at once.
    ///
    /// # Errors
    /// `Io`.
    pub fn read_database(&self, mut pages: &[Pgno], shape: Shape, mut data: &mut [u8]) -> Result<()> {
        while let Some(first) = pages.first() {
            let run = pages.iter().zip(first.get()..).take_while(|(pgno, at)| pgno.get() == *at).count();
            let (bytes, rest) = data.split_at_mut(run * shape.page_size.bytes());
            self.files.read_database(first.offset(shape.page_size), bytes)?;
            (pages, data) = (&pages[run..], rest);
        }
        Ok(())
    }
}

/// The pages of the buffer are one state.
pub fn finish(buffer: Option<PageBuffer>, shape: Shape) -> Collected {
    let mut buffer = buffer.expect("BUG: finished without a buffer");
    buffer.truncate(shape.page_count);
    Collected::Pages(buffer, shape)
}

/// Pages to read: those taken, those by which the database grew, all of them where there is no base or where a
/// shrinking commit writes most of the database anyway (W5: an open reader of the stock VFS then keeps working).
/// `base` is [`Base::shape`]. Ascending, without the lock-byte page. Pages of the growth that `buffer` has are not read again.
pub fn pages_to_read(
    taken: &Taken,
    base: Option<Shape>,
    shape: Shape,
    buffer: Option<&PageBuffer>,
) -> Vec<Pgno> {
    let old = base.filter(|base| base.page_size == shape.page_size);
    let inside = taken.pages.iter().filter(|p| p.get() <= shape.page_count).count();
    let rewritten =
        old.is_some_and(|old| shape.page_count < old.page_count && inside * 2 > shape.page_count as usize);
    let lock = shape.page_size.lock_pgno();
    let keep = |pgno: &Pgno| *pgno != lock;
    if taken.all || old.is_none() && buffer.is_none() || rewritten && buffer.is_none() {
        return (1..=shape.page_count).filter_map(Pgno::new).filter(keep).collect();
    }
    let grown_from = old.map_or(1, |old| old.page_count.saturating_add(1));
    let mut pages: Vec<Pgno> = (grown_from..=shape.page_count)
        .filter_map(Pgno::new)
        .filter(|&p| buffer.is_none_or(|b| !b.contains(p)))
        .chain(taken.pages.iter().copied().filter(|p| p.get() <= shape.page_count))
        .filter(keep)
        .collect();
    pages.sort_unstable();
    pages.dedup();
    pages
}

/// Whether a group over these pages carries them all, changed or not (W5): the database shrank, and a rewrite of most
/// of it made [`pages_to_read`] answer every page. A look at everything for another reason carries only what differs.
pub fn carries_all(all_noted: bool, pages: &[Pgno], base: Option<Shape>, shape: Shape) -> bool {
    let shrank =
        base.is_some_and(|old| old.page_size == shape.page_size && shape.page_count < old.page_count);
    let lock = usize::from(shape.page_size.lock_pgno().get() <= shape.page_count);
    shrank && !all_noted && pages.len() + lock == shape.page_count as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Folder;
    use crate::types::{PageSize, Position, Timestamp, Txid};

    fn shape(bytes: u32, page_count: u32) -> Shape {
        Shape { page_size: PageSize::new(bytes).unwrap(), page_count }
    }

    fn work(base_pages: Option<u32>, taken: &[u32], all: bool, to: Shape) -> Vec<u32> {
        let dir = Folder::new();
        let mut checksums = PageChecksums::open(&dir.path().join("checksums")).unwrap();
        let size = PageSize::new(512).unwrap();
        let recorded = base_pages.map(|page_count| {
            checksums.reserve(page_count).unwrap();
            let pages = (1..=page_count).map(|p| (Pgno::new(p).unwrap(), Checksum::from_crc(u64::from(p))));
            checksums.apply(size, page_count, pages);
            let position = Position { txid: Txid::FIRST, checksum: checksums.total() };
            Recorded { position, page_size: size, page_count, timestamp: Timestamp(0) }
        });
        let base = Base { recorded, checksums: &checksums };
        let taken = Taken { all, pages: taken.iter().map(|&p| Pgno::new(p).unwrap()).collect() };
        pages_to_read(&taken, base.shape(), to, None).into_iter().map(Pgno::get).collect()
    }

    #[test]
    fn noted_pages_and_growth_are_read() {
        assert_eq!(work(Some(4), &[2, 9], false, shape(512, 4)), [2]);
        assert_eq!(work(Some(4), &[2], false, shape(512, 6)), [2, 5, 6]);
        assert_eq!(work(None, &[2], false, shape(512, 3)), [1, 2, 3]);
        assert_eq!(work(Some(4), &[], true, shape(512, 3)), [1, 2, 3]);
    }

    #[test]
    fn another_page_size_reads_everything() {
        assert_eq!(work(Some(4), &[1], false, shape(1024, 2)), [1, 2]);
    }

    #[test]
    fn shrinking_rewrite_reads_everything_and_a_small_shrink_does_not() {
        assert_eq!(work(Some(9), &[1, 2, 3], false, shape(512, 4)), [1, 2, 3, 4]);
        assert_eq!(work(Some(9), &[1], false, shape(512, 8)), [1]);
    }
}
