//! Reads the noted pages at one commit while the database is in a rollback mode.
//!
//! ```text
//! quiet:  nobody holds RESERVED, no hot journal, the file was last changed a while ago
//! read a chunk;  still quiet and unchanged ?  it was committed and not torn  :  read it again later
//! all chunks under one stillness:  these pages are one state. Otherwise the next pass reads what was noted since
//! ```
//!
//! A busy writer leaves no stillness. Then the pages are asked of the next committer ([`Handoff`]), which copies a
//! bounded number of them at commit phase two, under its own EXCLUSIVE lock.
//!
//! Writers note a page before they write it, under RESERVED. The take happens inside a stillness, so no note of an
//! unfinished transaction is moved by a take that counts; a chunk that lost its stillness is read again, so a note
//! that raced with a take is never the only one. Programs without the extension are recognised by the change tag
//! of page 1 (`sqlite::header`): a tag that nobody of us wrote notes every page.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::wal_pages::file_shape;
use super::work::{Work, finish, pages_to_read};
use super::{Collected, Files, NotNow, PageBuffer, Shape};
use crate::clock::Deadline;
use crate::error::Result;
use crate::fs::FileStat;
use crate::lock::{Condvar, Mutex};
use crate::sqlite::header::{TAG_LEN, TAG_OFFSET, change_tag};
use crate::staging::noted::{NotedSet, Taken};
use crate::types::Pgno;

/// Longest time that one reading waits for stillness or a committer.
const WAIT_MAX: Duration = Duration::from_millis(200);
/// Pages that a committer copies for us at most: 8 MiB of 4 KiB pages, some 2 ms.
pub const HANDOFF_PAGES_MAX: usize = 2048;
/// Memory that a committer copies at most.
pub const HANDOFF_BYTES_MAX: usize = 8 << 20;

/// A moment at which no transaction was open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stillness {
    pub stat: FileStat,
    /// Writes of this process so far.
    pub writes: u64,
    /// A committer that stands still at commit phase two until we are done.
    pub stand: Option<u64>,
}

/// What only the owner of the connections can tell.
pub trait Quiet {
    /// `None`: a transaction is open, a journal is hot, or the file was changed a moment ago.
    ///
    /// # Errors
    /// `Io`.
    fn quiet(&self) -> Result<Option<Stillness>>;
    /// Nothing has been written since, and nobody is about to.
    ///
    /// # Errors
    /// `Io`.
    fn still(&self, since: &Stillness) -> Result<bool>;
}

/// Size of the database, page numbers, and their pages one after the other.
type Served = (Shape, Vec<Pgno>, Vec<u8>);

/// Asks the next committer of this process for pages.
#[derive(Default)]
pub struct Handoff {
    wanted: AtomicBool,
    // Guards the request and its answer.
    slot: Mutex<Slot>,
    answered: Condvar,
}

#[derive(Default)]
enum Slot {
    #[default]
    Idle,
    Wanted {
        pages: Taken,
        base: Option<Shape>,
    },
    Served {
        shape: Shape,
        pages: Vec<Pgno>,
        data: Vec<u8>,
    },
}

impl Handoff {
    /// Cheap: whether [`Handoff::serve`] has anything to do.
    pub fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Acquire)
    }

    /// On the committing thread, at commit phase two under EXCLUSIVE: copies what is noted, if it is not too much.
    pub fn serve(&self, files: &dyn Files, noted: &NotedSet) {
        let mut slot = self.slot.lock();
        let Slot::Wanted { pages, base } = &*slot else { return };
        let mut list = pages.clone();
        let now = noted.take(false);
        list.all |= now.all;
        list.pages.extend(now.pages.iter().copied());
        let answer = copy(files, &list, *base);
        if answer.is_none() {
            noted.note_again(&now);
            return;
        }
        if let Some((shape, pages, data)) = answer {
            self.wanted.store(false, Ordering::Release);
            *slot = Slot::Served { shape, pages, data };
            self.answered.notify_all();
        }
    }

    /// Waits for a committer, a short while at most.
    fn ask(&self, pages: &Taken, base: Option<Shape>, wait: Duration) -> Option<Served> {
        let mut slot = self.slot.lock();
        if !matches!(*slot, Slot::Served { .. }) {
            *slot = Slot::Wanted { pages: pages.clone(), base };
            self.wanted.store(true, Ordering::Release);
            let _ = self.answered.wait_for(&mut slot, wait);
            self.wanted.store(false, Ordering::Release);
        }
        match std::mem::take(&mut *slot) {
            Slot::Served { shape, pages, data } => Some((shape, pages, data)),
            Slot::Idle | Slot::Wanted { .. } => None,
        }
    }
}

fn copy(files: &dyn Files, list: &Taken, base: Option<Shape>) -> Option<Served> {
    let shape = file_shape(files, base.map(|b| b.page_size)).ok()??;
    let same_size = base.is_some_and(|b| b.page_size == shape.page_size);
    if list.all || !same_size {
        return None;
    }
    let pages = pages_to_read(list, base, shape, None);
    let bytes = pages.len() * shape.page_size.bytes();
    if pages.len() > HANDOFF_PAGES_MAX || bytes > HANDOFF_BYTES_MAX {
        return None;
    }
    let mut data = vec![0; bytes];
    for (&pgno, page) in pages.iter().zip(data.chunks_exact_mut(shape.page_size.bytes())) {
        files.read_database(pgno.offset(shape.page_size), page).ok()?;
    }
    Some((shape, pages, data))
}

/// Everything a reading needs.
pub struct Reader<'a> {
    pub work: Work<'a>,
    pub quiet: &'a dyn Quiet,
    pub handoff: &'a Handoff,
}

/// A change by a program without the extension was found: every page is noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Foreign(pub bool);

impl Reader<'_> {
    /// Takes and reads the noted pages.
    ///
    /// # Errors
    /// `Io`, `Full`. The pages stay noted.
    pub fn collect(&self) -> Result<(Collected, Foreign)> {
        let (work, deadline) = (&self.work, Deadline::after(WAIT_MAX));
        let mut foreign = Foreign(false);
        let mut buffer: Option<PageBuffer> = None;
        let mut list = Taken::default();
        let mut again = true;
        while !deadline.passed() {
            let Some(at) = self.quiet.quiet()? else {
                if again {
                    list = work.noted.take(true);
                    again = false;
                }
                if let Some(served) = self.ask(&list, buffer.as_ref())? {
                    return self.finish_served(served, buffer).map(|c| (c, foreign));
                }
                continue;
            };
            let tag = self.tag()?;
            let now = work.noted.take(again);
            again = false;
            list.all |= now.all;
            list.pages.extend(now.pages);
            if !self.quiet.still(&at)? {
                continue;
            }
            if tag.is_some_and(|tag| tag != work.state.tag()) {
                // Somebody else committed. What they changed is taken in the next pass.
                work.noted.note_all();
                // The mark of the last close speaks of the file before that.
                work.state.set_clean(None);
                work.state.set_tag(tag.unwrap_or(0));
                foreign.0 = true;
                continue;
            }
            let Some(shape) = file_shape(work.files, work.page_size)? else {
                return work.without_shape().map(|c| (c, foreign));
            };
            if buffer.as_ref().is_some_and(|b| b.page_size() != shape.page_size) {
                (buffer, list.all) = (None, true);
            }
            let Some((pages, kept)) = work.begin(&list, shape, &mut buffer) else {
                return Ok((Collected::Nothing, foreign));
            };
            match self.read(&pages, at, shape, kept, deadline)? {
                Some(exact) => {
                    list = if exact { return Ok((finish(buffer, shape), foreign)) } else { Taken::default() }
                }
                None => break,
            }
        }
        Ok((Collected::NotNow(NotNow::Busy), foreign))
    }

    /// Reads pages, each in a stillness. `Some(true)`: all in that of `at`. `None`: no time left.
    fn read(
        &self,
        pages: &[Pgno],
        at: Stillness,
        shape: Shape,
        buffer: &mut PageBuffer,
        deadline: Deadline,
    ) -> Result<Option<bool>> {
        let (mut now, mut exact, mut deadline) = (at, true, deadline);
        let all = self.work.read_chunks(pages, shape, buffer, |chunk, data| {
            loop {
                self.work.read_database(chunk, shape, data)?;
                if self.quiet.still(&now)? {
                    break;
                }
                exact = false;
                match self.wait_for_quiet(deadline)? {
                    Some(later) => now = later,
                    None => return Ok(false),
                }
            }
            // Each chunk that was read is progress: a long scan may wait that long for each.
            deadline = Deadline::after(WAIT_MAX);
            Ok(true)
        })?;
        if !all {
            return Ok(None);
        }
        Ok(Some(exact && self.quiet.still(&now)?))
    }

    fn wait_for_quiet(&self, deadline: Deadline) -> Result<Option<Stillness>> {
        while !deadline.passed() {
            if let Some(at) = self.quiet.quiet()? {
                return Ok(Some(at));
            }
            // No committer is asked here: the pages of a long scan are too many for it.
            let mut slot = self.handoff.slot.lock();
            let _ = self.handoff.answered.wait_for(&mut slot, Duration::from_millis(1));
        }
        Ok(None)
    }

    fn ask(&self, list: &Taken, buffer: Option<&PageBuffer>) -> Result<Option<Served>> {
        // What is in the buffer was read in stillness and is noted again when it changes: it stays right.
        let base = self.work.base.shape().filter(|b| buffer.is_none_or(|f| f.page_size() == b.page_size));
        Ok(self.handoff.ask(list, base, Duration::from_millis(1)))
    }

    fn finish_served(&self, served: Served, mut buffer: Option<PageBuffer>) -> Result<Collected> {
        let (shape, pages, data) = served;
        let kept = self.work.buffer(&mut buffer, false, &pages, shape);
        self.work.offer(&pages, &data, shape, kept)?;
        Ok(finish(buffer, shape))
    }

    /// The change tag of page 1; `None` of an empty file.
    fn tag(&self) -> Result<Option<u64>> {
        let mut bytes = [0; TAG_LEN];
        let there = self.work.files.read_database(TAG_OFFSET, &mut bytes)?;
        Ok((there == TAG_LEN).then(|| change_tag(&bytes)))
    }
}
