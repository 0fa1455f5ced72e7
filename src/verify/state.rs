//! A database as the checksums of its pages, carried from file to file.

use super::report::Trouble;
use crate::error::{Error, Result};
use crate::ltx::{Decoder, Header, page_checksum};
use crate::staging::sums::Sums;
use crate::types::{Checksum, PageSize, Pgno, Position};
use std::io::Read;
use std::path::Path;

/// Pages whose checksum before a file is remembered until the file is known to be whole, 24 bytes each.
const UNDO_MAX: usize = 1 << 18;

pub struct State {
    pub position: Position,
    pub page_size: PageSize,
    pub page_count: u32,
    sums: Sums,
}

/// What came of a file that was tried on a state.
pub enum Tried {
    Applied(State),
    /// It was refused, and the state is as before; without one, too much had changed to be taken back.
    Refused(Option<State>, Trouble, Error),
}

impl State {
    /// What no file has touched.
    fn empty(header: &Header) -> State {
        let position = Position { txid: header.range.max, checksum: Checksum::EMPTY };
        State { position, page_size: header.page_size, page_count: 0, sums: Sums::default() }
    }

    /// The checksum of a page.
    ///
    /// # Errors
    /// Those of the scratch file.
    pub fn sum(&mut self, pgno: Pgno) -> Result<Option<Checksum>> {
        if pgno.get() > self.page_count { Ok(None) } else { self.sums.get(pgno) }
    }
}

/// Applies a file that continues `state`, or, without one, holds every page. It is read to its end, and the database
/// must then have the checksum that the file states.
pub fn apply<R: Read>(state: Option<State>, decoder: &mut Decoder<R>, scratch: &Path) -> Tried {
    let header = *decoder.header();
    let (mut state, before) = match state {
        Some(state) if state.page_size == header.page_size && !header.is_snapshot() => (state, None),
        other => (State::empty(&header), Some(other)),
    };
    let (position, page_count) = (state.position, state.page_count);
    let mut undo = Some(Vec::new());
    let applied = take(&mut state, decoder, scratch, &mut undo);
    let Err((trouble, error)) = applied else { return Tried::Applied(state) };
    let back = match before {
        Some(before) => before,
        None => match undo
            .map(|undo| undo.into_iter().rev().try_for_each(|(p, s)| state.sums.set(p, s).map(drop)))
        {
            Some(Ok(())) => Some(State { position, page_count, ..state }),
            _ => None,
        },
    };
    Tried::Refused(back, trouble, error)
}

/// Checksums before, of pages that were changed; `None` once there are too many.
type Undo = Option<Vec<(Pgno, Option<Checksum>)>>;

fn take<R: Read>(
    state: &mut State,
    decoder: &mut Decoder<R>,
    scratch: &Path,
    undo: &mut Undo,
) -> Result<(), (Trouble, Error)> {
    let header = *decoder.header();
    let old_count = state.page_count;
    let new_pages = take_pages(state, decoder, scratch, undo).map_err(|e| (Trouble::Damage, e))?;
    let lock = header.page_size.lock_pgno().get();
    let holds_lock = old_count < lock && lock <= header.page_count;
    let wanted = header.page_count.saturating_sub(old_count) - u32::from(holds_lock);
    let refuse = |why: String| Err((Trouble::Database, Error::corrupt(format!("{} {why}", decoder.name()))));
    if new_pages < wanted {
        return refuse(format!(
            "makes the database {} pages long and lacks {} of those past page {old_count}",
            header.page_count,
            wanted - new_pages
        ));
    }
    state.page_count = header.page_count;
    state.position.txid = header.range.max;
    let found = state.position.checksum;
    match decoder.post() {
        Some(stated) if stated != found => refuse(format!(
            "says that the database has checksum {stated} after it, but its pages give {found}"
        )),
        _ => Ok(()),
    }
}

/// Takes every page of the file, and those away that lie past its page count; answers how many are past the old one.
fn take_pages<R: Read>(
    state: &mut State,
    decoder: &mut Decoder<R>,
    scratch: &Path,
    undo: &mut Undo,
) -> Result<u32> {
    let page_count = decoder.header().page_count;
    state.sums.grow(page_count, scratch)?;
    let mut page = vec![0; state.page_size.bytes()];
    let mut new_pages = 0;
    while let Some(pgno) = decoder.next_page(&mut page)? {
        set(state, pgno, Some(page_checksum(pgno, &page)), undo)?;
        new_pages += u32::from(pgno.get() > state.page_count);
    }
    for pgno in (page_count..state.page_count).filter_map(|before| Pgno::new(before + 1)) {
        set(state, pgno, None, undo)?;
    }
    Ok(new_pages)
}

fn set(state: &mut State, pgno: Pgno, sum: Option<Checksum>, undo: &mut Undo) -> Result<()> {
    let before = state.sums.set(pgno, sum)?;
    for sum in [before, sum].into_iter().flatten() {
        state.position.checksum = state.position.checksum.toggle(sum);
    }
    match undo {
        Some(list) if list.len() < UNDO_MAX => list.push((pgno, before)),
        other => *other = None,
    }
    Ok(())
}
