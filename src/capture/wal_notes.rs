//! Notes the pages of committed WAL frames, and proves that no cycle of the WAL went by unseen.
//!
//! ```text
//! cycle S:  frames 1 .. cursor .. mxFrame        every process notes from its own cursor on
//! restart:  the process that restarts notes up to mxFrame while it holds the WRITE lock, and then names the new
//!           cycle in the state page: "everything before S' is noted"
//! ```
//!
//! Whoever finds salts in the wal-index that the state page does not name knows that a program without the
//! extension restarted the WAL (or that we were killed in between): every page is noted.

use super::{WalView, cycle_of};
use crate::lock::Mutex;
use crate::sqlite::wal_index::{Header, Salts};
use crate::staging::noted::NotedSet;
use crate::staging::state::State;

/// Times that a header in the middle of a change is read again before giving up.
const HEADER_TRIES: u32 = 100;

/// How far this process has noted the current cycle.
#[derive(Clone, Copy, Debug, Default)]
struct Cursor {
    salts: Salts,
    frame: u32,
    /// What the wal-index shows, without a frame, until the first commit of a cycle that this process began.
    shown: Option<Salts>,
}

impl Cursor {
    fn at_start_of(salts: Salts) -> Cursor {
        Cursor { salts, ..Cursor::default() }
    }
}

/// The cursor of one process on one database.
#[derive(Debug, Default)]
pub struct WalNotes {
    // Guards the cursor; held while frames are noted, never across I/O.
    cursor: Mutex<Cursor>,
}

/// What noting found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotedUpTo {
    pub header: Header,
    /// Every page was noted, because the cycle was not the one that is proven.
    pub went_cold: bool,
}

impl WalNotes {
    /// Notes every committed frame that this process has not noted yet. `None`: the wal-index cannot be read now.
    pub fn note(&self, view: &dyn WalView, state: &State, noted: &NotedSet) -> Option<NotedUpTo> {
        let mut cursor = self.cursor.lock();
        let mut went_cold = false;
        for _ in 0..HEADER_TRIES {
            let Some(header) = view.header() else {
                std::hint::spin_loop();
                continue;
            };
            let begun = cursor.shown == Some(header.salts) && header.mx_frame == 0;
            if begun && state.cycle() == cycle_of(cursor.salts) {
                return Some(NotedUpTo { header, went_cold });
            }
            let shrunk = cursor.salts == header.salts && header.mx_frame < cursor.frame;
            if cycle_of(header.salts) != state.cycle() || shrunk {
                noted.note_all();
                state.set_cycle(cycle_of(header.salts));
                went_cold = true;
                *cursor = Cursor::at_start_of(header.salts);
            } else if cursor.salts != header.salts {
                *cursor = Cursor::at_start_of(header.salts);
            }
            let complete = view.pages_of(cursor.frame, header.mx_frame, &mut |pgno| noted.note(pgno));
            // A restart while we read: what we noted is harmless, what we missed the restarter noted.
            if complete && view.header().is_some_and(|h| h.salts == header.salts) {
                (cursor.frame, cursor.shown) = (header.mx_frame, None);
                state.see_frames(header.salts, header.mx_frame);
                return Some(NotedUpTo { header, went_cold });
            }
        }
        None
    }

    /// The WAL was restarted by this process, which noted all of `before` under the WRITE lock and held it since.
    pub fn restarted(&self, before: Salts, view: &dyn WalView, state: &State) {
        let Some(header) = view.header() else { return };
        if state.cycle() == cycle_of(before) && header.salts != before && header.mx_frame == 0 {
            self.enter(header.salts, None, state);
        }
    }

    /// This process writes the header of a WAL that holds nothing yet, with the salts `new`.
    pub fn begins(&self, new: Salts, view: Option<&dyn WalView>, state: &State) {
        // None: the only connection there can be; what it wrote before is noted.
        let Some(view) = view else { return self.enter(new, None, state) };
        // The wal-index says that the cycle which is proven has no frames.
        let empty = |h: &Header| h.mx_frame == 0 && cycle_of(h.salts) == state.cycle();
        if let Some(header) = view.header().filter(empty) {
            self.enter(new, Some(header.salts), state);
        }
    }

    fn enter(&self, salts: Salts, shown: Option<Salts>, state: &State) {
        let mut cursor = self.cursor.lock();
        state.set_cycle(cycle_of(salts));
        *cursor = Cursor { salts, frame: 0, shown };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Folder;
    use crate::types::{PageSize, Pgno};
    use std::cell::RefCell;

    struct Wal(RefCell<(Salts, Vec<u32>)>);

    impl Wal {
        fn set(&self, salts: Salts, pages: &[u32]) {
            *self.0.borrow_mut() = (salts, pages.to_vec());
        }
    }

    impl WalView for Wal {
        fn header(&self) -> Option<Header> {
            let wal = self.0.borrow();
            let mx_frame = wal.1.len() as u32;
            Some(Header { salts: wal.0, mx_frame, page_count: 9, page_size: PageSize::new(512), change: 0 })
        }
        fn pages_of(&self, from: u32, to: u32, each: &mut dyn FnMut(Pgno)) -> bool {
            let wal = self.0.borrow();
            wal.1[from as usize..to as usize].iter().filter_map(|&p| Pgno::new(p)).for_each(each);
            true
        }
        fn find(&self, _: &[Pgno], _: u32, _: &mut Vec<Option<u32>>) -> Result<(), ()> {
            unreachable!("noting does not look pages up")
        }
        fn backfill_attempted(&self) -> Option<u32> {
            Some(0)
        }
    }

    struct World {
        _dir: Folder,
        state: State,
        noted: NotedSet,
        notes: WalNotes,
        wal: Wal,
    }

    fn world() -> World {
        let dir = Folder::new();
        let state = State::open(&dir.path().join("state")).unwrap();
        let noted = NotedSet::open(&dir.path().join("noted")).unwrap();
        let wal = Wal(RefCell::new((5, vec![1, 2])));
        state.set_cycle(Some(5));
        World { _dir: dir, state, noted, notes: WalNotes::default(), wal }
    }

    impl World {
        fn note(&self) -> (bool, Vec<u32>) {
            let cold = self.notes.note(&self.wal, &self.state, &self.noted).unwrap().went_cold;
            let taken = self.noted.take(false);
            assert_eq!(taken.all, cold);
            (cold, taken.pages.into_iter().map(Pgno::get).collect())
        }
    }

    #[test]
    fn each_frame_is_noted_once() {
        let w = world();
        assert_eq!(w.note(), (false, vec![1, 2]));
        w.wal.set(5, &[1, 2, 7, 7]);
        assert_eq!(w.note(), (false, vec![7]));
        assert_eq!(w.note(), (false, vec![]));
    }

    #[test]
    fn our_own_restart_keeps_the_proof_and_a_foreign_one_breaks_it() {
        let w = world();
        w.note();
        w.wal.set(6, &[]);
        w.notes.restarted(5, &w.wal, &w.state);
        w.wal.set(6, &[3]);
        assert_eq!(w.note(), (false, vec![3]));
        w.wal.set(7, &[4]);
        assert_eq!(w.note(), (true, vec![4]), "nobody named cycle 7");
        w.wal.set(7, &[4, 5]);
        assert_eq!(w.note(), (false, vec![5]));
    }

    #[test]
    fn wal_that_lost_frames_is_cold() {
        let w = world();
        w.note();
        w.wal.set(5, &[1]);
        assert!(w.note().0);
    }

    #[test]
    fn first_header_of_an_empty_wal_continues_the_proof() {
        let w = world();
        w.note();
        w.wal.set(6, &[]);
        w.notes.restarted(5, &w.wal, &w.state);
        w.notes.begins(8, Some(&w.wal), &w.state);
        assert_eq!(w.note(), (false, vec![]), "the wal-index shows the new cycle at its first commit");
        w.wal.set(8, &[2]);
        assert_eq!(w.note(), (false, vec![2]));
        w.notes.begins(9, Some(&w.wal), &w.state);
        w.wal.set(9, &[2]);
        assert!(w.note().0, "there were frames in cycle 8");
    }
}
