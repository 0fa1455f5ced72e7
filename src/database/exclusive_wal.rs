//! The WAL of a connection in `locking_mode=EXCLUSIVE`, which has no shared wal-index: the file itself, frame by
//! frame, as a recovery would read it.
//!
//! The one connection that can write is in this process, so its own hooks say when there is something new
//! (commit), when the file starts over (header write) and when a checkpoint writes to the database.

use std::cell::RefCell;

use crate::capture::WalView;
use crate::error::Result;
use crate::lock::Mutex;
use crate::sqlite::wal::{self, Chain};
use crate::sqlite::wal_index::{Header, NO_SALTS, Salts};
use crate::types::Pgno;

#[derive(Default)]
struct Inner {
    chain: Option<Chain>,
    /// Salts of a header that is being written, before a frame follows it.
    begun: Salts,
    /// Frames before which a checkpoint may have written to the database.
    attempted: u32,
    /// Page numbers of the frames, from frame 1, as far as they are committed.
    pages: Vec<Pgno>,
}

/// Where frames committed with zeroed salts were found, and how many (SQLite before 3.53.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unproven(pub u32);

#[derive(Default)]
pub struct ExclusiveWal {
    // Guards what is known of the file; held while new frames are read.
    inner: Mutex<Inner>,
}

impl ExclusiveWal {
    /// Reads what was committed since. `written`: the last frame that the transaction just committed has written,
    /// when this is called at its commit.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn refresh(
        &self,
        read: &dyn Fn(u64, &mut [u8]) -> Result<usize>,
        written: Option<u32>,
    ) -> Result<Unproven> {
        let mut inner = self.inner.lock();
        let mut bytes = [0; wal::HEADER_LEN];
        let there = read(0, &mut bytes)? == wal::HEADER_LEN;
        let Some(header) = wal::parse_header(&bytes).filter(|_| there) else {
            *inner = Inner { begun: NO_SALTS, ..Inner::default() };
            return Ok(Unproven(0));
        };
        if inner.chain.as_ref().is_none_or(|c| c.header().salts != header.salts) {
            *inner = Inner { chain: Some(Chain::new(header)), ..Inner::default() };
        }
        let Inner { chain: Some(chain), pages, .. } = &mut *inner else { return Ok(Unproven(0)) };
        let size = header.page_size;
        let mut frame = vec![0; wal::FRAME_HEADER_LEN + size.bytes()];
        let open = RefCell::new(Vec::new());
        let note = |bytes: &[u8]| open.borrow_mut().extend(wal::parse_frame_header(bytes).map(|h| h.pgno));
        while read(wal::frame_offset(chain.next_frame(), size), &mut frame)? == frame.len()
            && chain.accept(&frame)
        {
            note(&frame);
        }
        let mut unproven = Unproven(0);
        // The transaction has ended, so every frame it wrote counts, whatever its salts.
        while written.is_some_and(|last| chain.committed() < last && chain.next_frame() <= last) {
            let mut head = [0; wal::FRAME_HEADER_LEN];
            read(wal::frame_offset(chain.next_frame(), size), &mut head)?;
            let Some(header) = wal::parse_frame_header(&head) else { break };
            note(&head);
            chain.accept_unproven(header);
            unproven.0 += 1;
        }
        let committed = chain.committed() as usize;
        pages.extend(open.into_inner());
        pages.truncate(committed);
        chain.rewind();
        Ok(unproven)
    }

    /// A checkpoint is about to write to the database.
    pub fn checkpointing(&self) {
        let mut inner = self.inner.lock();
        inner.attempted = inner.chain.as_ref().map_or(0, Chain::committed);
    }

    /// The WAL starts over with these salts.
    pub fn begin(&self, salts: Salts) {
        *self.inner.lock() = Inner { begun: salts, ..Inner::default() };
    }

    /// The WAL is gone.
    pub fn clear(&self) {
        *self.inner.lock() = Inner::default();
    }
}

impl WalView for ExclusiveWal {
    fn header(&self) -> Option<Header> {
        let inner = self.inner.lock();
        Some(match &inner.chain {
            Some(chain) => Header {
                salts: chain.header().salts,
                mx_frame: chain.committed(),
                page_count: chain.page_count(),
                page_size: Some(chain.header().page_size),
                change: chain.committed(),
            },
            None => Header { salts: inner.begun, mx_frame: 0, page_count: 0, page_size: None, change: 0 },
        })
    }

    fn pages_of(&self, from: u32, to: u32, each: &mut dyn FnMut(Pgno)) -> bool {
        let inner = self.inner.lock();
        let pages = inner.pages.get(from as usize..to as usize);
        pages.into_iter().flatten().copied().for_each(each);
        pages.is_some()
    }

    fn find(&self, pages: &[Pgno], mx_frame: u32, frames: &mut Vec<Option<u32>>) -> Result<(), ()> {
        let inner = self.inner.lock();
        frames.extend(pages.iter().map(|&pgno| match inner.chain.as_ref().and_then(|c| c.find(pgno)) {
            Some(frame) if frame > mx_frame => {
                let upto = (mx_frame as usize).min(inner.pages.len());
                inner.pages[..upto].iter().rposition(|&p| p == pgno).map(|i| i as u32 + 1)
            }
            found => found,
        }));
        Ok(())
    }

    fn backfill_attempted(&self) -> Option<u32> {
        Some(self.inner.lock().attempted)
    }
}
