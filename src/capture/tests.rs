//! Both readers beside a writer that acts between any two of their looks and reads: what they answer is one commit.

use std::cell::Cell;

use super::rollback_pages::{self, Handoff, Quiet, Stillness};
use super::{Base, Collected, Files, NotNow, WalNotes, WalView, Work, wal_pages};
use crate::error::Result;
use crate::fs::FileStat;
use crate::ltx::page_checksum;
use crate::sqlite::header::{TAG_LEN, change_tag};
use crate::sqlite::wal;
use crate::sqlite::wal_index::{Header, Salts};
use crate::staging::checksums::PageChecksums;
use crate::staging::log::Recorded;
use crate::staging::noted::NotedSet;
use crate::staging::state::State;
use crate::testing::Folder;
use crate::types::{Checksum, PageSize, Pgno, Position, Timestamp, Txid};

const SIZE: usize = 512;
/// More than one chunk: the writer changes page 2 and the last one.
const PAGES: u32 = 300;
const NEVER: u32 = u32::MAX;

/// A database whose sealed state is all zero.
struct World {
    dir: Folder,
    state: State,
    noted: NotedSet,
    checksums: PageChecksums,
}

impl World {
    fn new() -> World {
        let dir = Folder::new();
        let mut checksums = PageChecksums::open(&dir.path().join("checksums")).unwrap();
        checksums.reserve(PAGES).unwrap();
        let zero = |pgno| (pgno, page_checksum(pgno, &[0; SIZE]));
        checksums.apply(page_size(), PAGES, (1..=PAGES).map(|n| zero(page(n))));
        let state = State::open(&dir.path().join("state")).unwrap();
        state.set_tag(change_tag(&[0; TAG_LEN]));
        let noted = NotedSet::open(&dir.path().join("noted")).unwrap();
        World { dir, state, noted, checksums }
    }

    fn work<'a>(&'a self, files: &'a dyn Files) -> Work<'a> {
        let position = Position { txid: Txid::FIRST, checksum: Checksum::EMPTY };
        let recorded =
            Recorded { position, page_size: page_size(), page_count: PAGES, timestamp: Timestamp(0) };
        let base = Base { recorded: Some(recorded), checksums: &self.checksums };
        Work {
            files,
            noted: &self.noted,
            state: &self.state,
            base,
            page_size: base.recorded.map(|r| r.page_size),
            folder: self.dir.path(),
        }
    }

    /// Every page is noted, and nothing of the round before.
    fn begin(&self) {
        self.noted.take(true);
        self.noted.settle();
        self.noted.note_all();
    }
}

fn page(number: u32) -> Pgno {
    Pgno::new(number).unwrap()
}

fn page_size() -> PageSize {
    PageSize::new(SIZE as u32).unwrap()
}

/// What pages 2 and 300 hold after the group.
fn values(collected: Collected) -> (u8, u8) {
    let Collected::Pages(buffer, shape) = collected else { panic!("the noted pages are lost") };
    assert_eq!(shape.page_count, PAGES);
    let value = |number| {
        let mut bytes = [0; SIZE];
        if buffer.contains(page(number)) {
            buffer.read(page(number), &mut bytes).unwrap();
        }
        bytes[0]
    };
    (value(2), value(PAGES))
}

/// Fills the buffer with pages from `offset` on.
fn fill(offset: u64, buffer: &mut [u8], second: u8, last: u8) -> usize {
    for (at, byte) in buffer.iter_mut().enumerate() {
        *byte = match (offset as usize + at) / SIZE + 1 {
            2 => second,
            300 => last,
            _ => 0,
        };
    }
    buffer.len()
}

/// Frame 1 commits page 2; frames 2 and 3 commit both pages, when step `commits` is reached. They are in the database
/// file from step `moves` on, and the WAL restarts at step `restarts`. The lookup of step `fails` finds it changed.
struct Wal<'a> {
    world: &'a World,
    step: Cell<u32>,
    commits: u32,
    moves: u32,
    restarts: u32,
    fails: u32,
}

impl Wal<'_> {
    /// What was committed, moved, restarted by now.
    fn now(&self) -> (bool, bool, bool) {
        let step = self.step.get() + 1;
        self.step.set(step);
        if step == self.restarts {
            [2, PAGES].iter().for_each(|&number| self.world.noted.note(page(number)));
            self.world.state.set_cycle(Some(6));
        }
        (step >= self.commits, step >= self.moves, step >= self.restarts)
    }
}

impl WalView for Wal<'_> {
    fn header(&self) -> Option<Header> {
        let (salts, mx_frame): (Salts, u32) = match self.now() {
            (_, _, true) => (6, 0),
            (true, ..) => (5, 3),
            (false, ..) => (5, 1),
        };
        Some(Header { salts, mx_frame, page_count: PAGES, page_size: Some(page_size()), change: 0 })
    }
    fn pages_of(&self, from: u32, to: u32, each: &mut dyn FnMut(Pgno)) -> bool {
        self.now();
        [2, 2, PAGES][from as usize..to as usize].iter().for_each(|&number| each(page(number)));
        true
    }
    fn find(
        &self,
        pages: &[Pgno],
        mx_frame: u32,
        frames: &mut Vec<Option<u32>>,
    ) -> std::result::Result<(), ()> {
        let (.., restarted) = self.now();
        if self.step.get() == self.fails || restarted && mx_frame > 0 {
            return Err(());
        }
        frames.extend(pages.iter().map(|pgno| match (pgno.get(), mx_frame) {
            (2, 1) => Some(1),
            (2, 3) => Some(2),
            (PAGES, 3) => Some(3),
            _ => None,
        }));
        Ok(())
    }
    fn backfill_attempted(&self) -> Option<u32> {
        let (_, moved, restarted) = self.now();
        Some(if moved && !restarted { 3 } else { 0 })
    }
}

impl Files for Wal<'_> {
    fn read_database(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let (_, moved, _) = self.now();
        let value = if moved { 2 } else { 0 };
        Ok(fill(offset, buffer, value, value))
    }
    fn database_size(&self) -> Result<u64> {
        Ok(u64::from(PAGES) * SIZE as u64)
    }
    fn read_wal(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        self.now();
        buffer.fill(if offset == wal::page_offset(1, page_size()) { 1 } else { 2 });
        Ok(buffer.len())
    }
    fn wal_size(&self) -> Result<u64> {
        Ok(0)
    }
}

#[test]
fn wal_reader_answers_one_commit_whatever_happens_at_any_step() {
    /// Two passes have fewer.
    const STEPS: u32 = 34;
    /// Steps from one event to the next, at the most.
    const NEAR: u32 = 10;
    let world = World::new();
    let mut rounds = Vec::new();
    for commits in 1..STEPS {
        rounds.extend((1..STEPS).map(|fails| (commits, NEVER, NEVER, fails)));
        for moves in commits..commits + NEAR {
            rounds.extend((moves..moves + NEAR).chain([NEVER]).map(|at| (commits, moves, at, NEVER)));
        }
    }
    for (commits, moves, restarts, fails) in rounds {
        world.begin();
        world.state.set_cycle(Some(5));
        let wal = Wal { world: &world, step: Cell::new(0), commits, moves, restarts, fails };
        let (work, notes) = (world.work(&wal), WalNotes::default());
        let reader = wal_pages::Reader { work, view: &wal, notes: &notes, cold: &|| panic!("went cold") };
        let found = values(reader.collect().unwrap());
        assert!(
            [(1, 0), (2, 2)].contains(&found),
            "committed at {commits}, moved at {moves}, restarted at {restarts}, changed at {fails}: {found:?}"
        );
    }
}

/// A transaction that writes page 2 at step `begins`, page 300 at `goes_on`, and commits at `commits`.
struct Journaled<'a> {
    world: &'a World,
    step: Cell<u32>,
    begins: u32,
    goes_on: u32,
    commits: u32,
}

impl Journaled<'_> {
    fn now(&self) -> u32 {
        let step = self.step.get() + 1;
        self.step.set(step);
        if step == self.begins {
            self.world.noted.note(page(2));
        }
        if step == self.goes_on {
            self.world.noted.note(page(PAGES));
        }
        step
    }

    /// `None` while the transaction is open.
    fn at_rest(&self) -> Option<Stillness> {
        let step = self.now();
        let stat = FileStat::of(self.world.dir.path()).unwrap();
        let open = (self.begins..self.commits).contains(&step);
        (!open).then(|| Stillness { stat, writes: u64::from(step >= self.begins), stand: None })
    }
}

impl Quiet for Journaled<'_> {
    fn quiet(&self) -> Result<Option<Stillness>> {
        Ok(self.at_rest())
    }
    fn still(&self, since: &Stillness) -> Result<bool> {
        Ok(self.at_rest().is_some_and(|now| now.writes == since.writes))
    }
}

impl Files for Journaled<'_> {
    fn read_database(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let step = self.now();
        Ok(fill(offset, buffer, u8::from(step >= self.begins), u8::from(step >= self.goes_on)))
    }
    fn database_size(&self) -> Result<u64> {
        Ok(u64::from(PAGES) * SIZE as u64)
    }
    fn read_wal(&self, _: u64, _: &mut [u8]) -> Result<usize> {
        unreachable!("there is no WAL")
    }
    fn wal_size(&self) -> Result<u64> {
        Ok(0)
    }
}

#[test]
fn rollback_reader_answers_one_commit_whatever_happens_at_any_step() {
    let world = World::new();
    for (begins, writing, committing) in
        (1..16).flat_map(|b| (0..4).flat_map(move |w| (1..4).map(move |c| (b, w, c))))
    {
        world.begin();
        let (goes_on, commits) = (begins + writing, begins + writing + committing);
        let writer = Journaled { world: &world, step: Cell::new(0), begins, goes_on, commits };
        let handoff = Handoff::default();
        let reader = rollback_pages::Reader { work: world.work(&writer), quiet: &writer, handoff: &handoff };
        let found = (0..100).find_map(|_| match reader.collect().unwrap().0 {
            Collected::NotNow(NotNow::Busy) => None,
            collected => Some(values(collected)),
        });
        assert!(
            [Some((0, 0)), Some((1, 1))].contains(&found),
            "written at {begins} and {goes_on}, committed at {commits}: {found:?}"
        );
    }
}
