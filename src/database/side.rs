//! On which side of the end of its history a state lies, before it or after it: what WAL, page 1 and the remembered positions
//! tell of that.

use super::way::Way;
use crate::capture::at_rest::AtRest;
use crate::error::Result;
use crate::ltx::Header;
use crate::sqlite::{header, wal_index};
use crate::staging::state::{RING_LEN, State};
use crate::types::{Pgno, Position};

/// Restarts of a WAL that its salts are believed: further apart they are those of another file, chosen at random.
const RESTARTS_MAX: u32 = 1 << 20;

/// Whether the WAL beside a state is past the place at which the end was read from it. `None`: it was not read there. Each
/// restart counts the first salt up, and comes after everything before it is in the database file.
pub fn is_past(found: &AtRest, end: &Header) -> Option<bool> {
    let (salts, frame) = end.wal.end(end.page_size)?;
    let (here, committed) = found.wal.map(|(salts, committed)| (wal_index::halves(salts), committed))?;
    if here == salts {
        return (committed != frame).then_some(committed > frame);
    }
    let restarts = here.0.wrapping_sub(salts.0) as i32;
    (restarts != 0 && restarts.unsigned_abs() <= RESTARTS_MAX).then_some(restarts > 0)
}

/// On which side of the end a state lies that no file holds, but that differs from the end in pages which those files
/// wrote. `None`: nothing tells.
pub fn is_ahead(found: &AtRest, way: &Way) -> Result<Option<bool>> {
    if found.before.contains(&way.end().position.checksum) {
        return Ok(Some(true));
    }
    let past = is_past(found, way.overlay.end());
    if past.is_some() {
        return Ok(past);
    }
    let mut page = vec![0; way.overlay.end().page_size.bytes()];
    let here = header::parse(&found.page_1);
    let there = if way.overlay.changes_page(Pgno::FIRST) {
        way.overlay.read(Pgno::FIRST, &mut page)?;
        header::parse(&page)
    } else {
        here
    };
    Ok(here.zip(there).and_then(|(here, there)| match here.changes.wrapping_sub(there.changes) as i32 {
        0 => None,
        difference => Some(difference > 0),
    }))
}

/// Whether a state in a rollback mode, where each commit counts in page 1, is that of a later commit of the same history than the
/// one with this page 1. The same count says nothing: it may be another commit.
pub fn counts_on(here: &AtRest, there: &[u8]) -> bool {
    match (header::parse(&here.page_1), header::parse(there)) {
        (Some(local), Some(end)) if !local.wal && !end.wal => {
            local.changes.wrapping_sub(end.changes) as i32 > 0
        }
        _ => false,
    }
}

/// Whether this database was at a position, the end of this file: it remembers so, or the log's last life, which drew a number
/// before it wrote anything, is named there.
pub fn is_ours(state: &State, position: Position, end: &Header) -> bool {
    end.writer_id != 0 && end.writer_id == state.writer() || state.remembers(position)
}

/// Whether this database reached a position after another one. Numbers alone do not say: they start over with an emptied
/// replica. `recorded`: where the log stands.
pub fn is_later(state: &State, recorded: Option<Position>, position: Position, end: Position) -> bool {
    let reached = reached(state, recorded);
    let age = |wanted: Position| reached.iter().position(|&p| p == wanted);
    match (age(position), age(end)) {
        (Some(position), Some(end)) => position < end,
        // Left behind: this number, or one below it, was reached again since.
        (Some(age), None) if reached[..age].iter().any(|p| p.txid <= position.txid) => false,
        _ => position.txid > end.txid,
    }
}

/// The positions that this database reached, newest first, with that of the log. The page that remembers them may have lost it
/// to the power: as the newest, or anywhere else; where it was full it may have forgotten it.
fn reached(state: &State, recorded: Option<Position>) -> Vec<Position> {
    let places: Vec<Option<Position>> = state.places().collect();
    let mut reached: Vec<Position> = places.iter().flatten().copied().collect();
    let Some(recorded) = recorded.filter(|r| places.len() < RING_LEN && !reached.contains(r)) else {
        return reached;
    };
    let hole = places.iter().enumerate().filter(|(_, place)| place.is_none()).find_map(|(at, _)| {
        let newer = places[..at].iter().flatten().last()?;
        let older = places[at..].iter().flatten().next();
        let fits = newer.txid > recorded.txid && older.is_none_or(|older| older.txid < recorded.txid);
        fits.then(|| places[..at].iter().flatten().count())
    });
    reached.insert(hole.unwrap_or(0), recorded);
    reached
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Folder;
    use crate::types::{Checksum, Txid};

    fn at(n: u64, sum: u64) -> Position {
        Position { txid: Txid::new(n).unwrap(), checksum: Checksum::from_crc(sum) }
    }

    #[test]
    fn positions_are_in_the_order_in_which_they_were_reached_also_where_numbering_started_over() {
        let dir = Folder::new();
        let state = State::open(&dir.path().join("state")).unwrap();
        for (n, sum) in [(3, 30), (4, 40), (1, 50), (2, 60)] {
            state.push_position(at(n, sum));
        }
        let is_later = |position, end| is_later(&state, Some(at(2, 60)), position, end);
        assert!(is_later(at(2, 60), at(4, 40)) && !is_later(at(4, 40), at(2, 60)));
        assert!(is_later(at(2, 60), at(1, 99)) && !is_later(at(2, 60), at(3, 99)), "by number");
        assert!(!is_later(at(4, 40), at(3, 99)), "left behind when numbering started over");
    }

    #[test]
    fn what_the_log_has_was_reached_after_all_that_a_page_remembers_which_lost_it() {
        let dir = Folder::new();
        let state = State::open(&dir.path().join("state")).unwrap();
        state.push_position(at(2, 20));
        let in_log = at(1, 30);
        assert!(!is_later(&state, Some(in_log), at(2, 20), in_log), "its numbering started over");
        assert!(
            !is_later(&state, Some(in_log), at(2, 20), at(1, 40)),
            "also where another writer made the end"
        );
        state.push_position(at(3, 50));
        assert!(is_later(&state, Some(at(3, 50)), at(3, 50), at(2, 20)));
    }

    #[test]
    fn a_place_that_the_page_lost_is_that_of_the_position_which_the_log_has() {
        let dir = Folder::new();
        let path = dir.path().join("state");
        let state = State::open(&path).unwrap();
        (1..=4).for_each(|n| state.push_position(at(n, 10 * n)));
        drop(state);
        let mut bytes = std::fs::read(&path).unwrap();
        for lost in [0, 2] {
            let entry = 8 * (64 + 3 * lost);
            bytes[entry..entry + 24].fill(0);
        }
        std::fs::write(&path, bytes).unwrap();
        let state = State::open(&path).unwrap();
        assert_eq!(reached(&state, Some(at(1, 10))), [4, 2, 1].map(|n| at(n, 10 * n)));
        assert_eq!(reached(&state, Some(at(3, 30))), [4, 3, 2].map(|n| at(n, 10 * n)));
        assert!(is_later(&state, Some(at(1, 10)), at(4, 40), at(3, 30)), "the end is lost there, too");
        assert!(!is_later(&state, Some(at(5, 70)), at(4, 40), at(5, 70)), "the page is older than the log");
    }
}
