//! The state of a database that nobody has open: its file, and the committed frames of a WAL left beside it.

use super::{Files, Shape};
use crate::capture::wal_pages::file_shape;
use crate::error::Result;
use crate::ltx::page_checksum;
use crate::sqlite::wal::{self, Chain};
use crate::types::{Checksum, Pgno};

/// A whole database, by checksums.
pub struct AtRest {
    pub shape: Shape,
    pub checksum: Checksum,
    /// Of each page, the lock-byte page left out.
    pub pages: Vec<(Pgno, Checksum)>,
}

/// Reads the whole database as SQLite would find it at its next open. `None`: it has no pages, or nothing says their
/// size. A hot journal is not played back: the caller looks for one.
///
/// # Errors
/// `Io`.
pub fn read(files: &dyn Files) -> Result<Option<AtRest>> {
    let chain = wal_chain(files)?;
    let committed = chain.as_ref().filter(|c| c.committed() > 0);
    let shape = match committed {
        Some(chain) => Shape { page_size: chain.header().page_size, page_count: chain.page_count() },
        None => match file_shape(files, None)? {
            Some(shape) => shape,
            None => return Ok(None),
        },
    };
    let mut page = vec![0; shape.page_size.bytes()];
    let mut pages = Vec::with_capacity(shape.page_count as usize);
    let mut checksum = Checksum::EMPTY;
    let lock = shape.page_size.lock_pgno();
    for pgno in (1..=shape.page_count).filter_map(Pgno::new).filter(|&p| p != lock) {
        match committed.and_then(|c| c.find(pgno)) {
            Some(frame) => files.read_wal(wal::page_offset(frame, shape.page_size), &mut page)?,
            None => files.read_database(pgno.offset(shape.page_size), &mut page)?,
        };
        let sum = page_checksum(pgno, &page);
        checksum = checksum.toggle(sum);
        pages.push((pgno, sum));
    }
    Ok(Some(AtRest { shape, checksum, pages }))
}

fn wal_chain(files: &dyn Files) -> Result<Option<Chain>> {
    let mut bytes = [0; wal::HEADER_LEN];
    if files.read_wal(0, &mut bytes)? < bytes.len() {
        return Ok(None);
    }
    let Some(header) = wal::parse_header(&bytes) else { return Ok(None) };
    let mut chain = Chain::new(header);
    let mut frame = vec![0; wal::FRAME_HEADER_LEN + header.page_size.bytes()];
    loop {
        let there = files.read_wal(wal::frame_offset(chain.next_frame(), header.page_size), &mut frame)?;
        if there < frame.len() || !chain.accept(&frame) {
            return Ok(Some(chain));
        }
    }
}
