//! A disk that stops at each step, with SQLite as the judge of what it left.

use super::*;
use crate::ffi::engine::Engine;
use crate::ltx::sample::{Random, file, header};
use crate::ltx::{Decoder, Header, Proof};
use crate::testing::Folder;
use crate::types::Checksum;
use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};

/// One file: what is on disk for good, and what was written to it since.
#[derive(Clone, Default)]
struct Image {
    there: bool,
    synced: Vec<u8>,
    since: Vec<Step>,
}

#[derive(Clone)]
enum Step {
    Write(usize, Vec<u8>),
    Cut(usize),
}

impl Image {
    fn of(bytes: Option<Vec<u8>>) -> Image {
        Image { there: bytes.is_some(), synced: bytes.unwrap_or_default(), since: Vec::new() }
    }

    /// The content with those of the later steps that `keep` wants.
    fn content(&self, mut keep: impl FnMut() -> bool) -> Vec<u8> {
        let mut bytes = self.synced.clone();
        for step in self.since.iter().filter(|_| keep()) {
            match step {
                Step::Write(at, data) => {
                    bytes.resize(bytes.len().max(at + data.len()), 0);
                    bytes[*at..at + data.len()].copy_from_slice(data);
                }
                Step::Cut(size) => bytes.truncate(*size),
            }
        }
        bytes
    }

    fn sync(&mut self) {
        *self = Image::of(Some(self.content(|| true)));
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> usize {
        let bytes = self.content(|| true);
        let there = bytes.get(offset as usize..).unwrap_or_default();
        let n = there.len().min(buffer.len());
        buffer[..n].copy_from_slice(&there[..n]);
        buffer[n..].fill(0);
        n
    }
}

/// Stops for good after `left` steps, in the middle of a write.
struct Disk {
    left: Cell<u32>,
    /// Database, journal, WAL.
    files: RefCell<[Image; 3]>,
}

impl Disk {
    fn load(path: &Path, left: u32) -> Disk {
        let files =
            ["", "-journal", "-wal"].map(|suffix| Image::of(std::fs::read(beside(path, suffix)).ok()));
        Disk { left: Cell::new(left), files: RefCell::new(files) }
    }

    fn step(&self, which: usize, step: impl FnOnce(&mut Image)) -> Result<()> {
        let left = self.left.get();
        let file = &mut self.files.borrow_mut()[which];
        if left == 0 {
            return Err(Error::invalid("the power is gone"));
        }
        self.left.set(left - 1);
        step(file);
        if left > 1 {
            return Ok(());
        }
        if let Some(Step::Write(_, data)) = file.since.last_mut() {
            data.truncate(data.len() / 2);
        }
        Err(Error::invalid("the power went"))
    }

    fn write_to(&self, which: usize, offset: u64, bytes: &[u8]) -> Result<()> {
        self.step(which, |file| file.since.push(Step::Write(offset as usize, bytes.to_vec())))
    }

    /// What is found on the disk: nothing that was not synced (`None`), everything, or some of it by a seed.
    fn leave(&self, path: &Path, seed: Option<u64>) {
        let mut random = Random::new(seed.unwrap_or(0));
        for (file, suffix) in self.files.borrow().iter().zip(["", "-journal", "-wal"]) {
            let path = beside(path, suffix);
            let _ = std::fs::remove_file(&path);
            let bytes = file.content(|| seed.is_some_and(|seed| seed == 0 || random.below(2) == 0));
            if file.there {
                std::fs::write(path, bytes).unwrap();
            }
        }
    }
}

impl Place for Disk {
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        Ok(self.files.borrow()[0].read(offset, buffer))
    }
    fn size(&self) -> Result<u64> {
        Ok(self.files.borrow()[0].content(|| true).len() as u64)
    }
    fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.write_to(0, offset, bytes)
    }
    fn truncate(&self, size: u64) -> Result<()> {
        self.step(0, |file| file.since.push(Step::Cut(size as usize)))
    }
    fn sync(&self) -> Result<()> {
        self.step(0, Image::sync)
    }
    fn read_journal(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        Ok(self.files.borrow()[1].read(offset, buffer))
    }
    fn begin_journal(&self) -> Result<()> {
        self.step(1, |file| *file = Image::of(Some(Vec::new())))
    }
    fn write_journal(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.write_to(1, offset, bytes)
    }
    fn sync_journal(&self) -> Result<()> {
        self.step(1, Image::sync)
    }
    fn remove_journal(&self) -> Result<()> {
        self.step(1, |file| *file = Image::default())
    }
    fn read_wal(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        Ok(self.files.borrow()[2].read(offset, buffer))
    }
    fn remove_wal(&self) -> Result<()> {
        self.step(2, |file| *file = Image::default())
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    PathBuf::from(format!("{}{suffix}", path.display()))
}

/// Copies a database that somebody has open, with what lies beside it: as a killed process leaves it.
fn copy(from: &Path, to: &Path) {
    for suffix in ["", "-journal", "-wal"] {
        if beside(from, suffix).exists() {
            std::fs::copy(beside(from, suffix), beside(to, suffix)).unwrap();
        }
    }
}

fn pages(bytes: &[u8]) -> (PageSize, Vec<Checksum>) {
    let size = PageSize::new(u32::from(u16::from_be_bytes([bytes[16], bytes[17]]))).unwrap();
    let sums = bytes.chunks(size.bytes()).zip(1u32..);
    (size, sums.map(|(page, n)| page_checksum(Pgno::new(n).unwrap(), page)).collect())
}

/// The way from one database file to another.
fn change(folder: &Path, old: &[u8], new: &[u8]) -> Overlay {
    let ((old_size, old), (size, sums)) = (pages(old), pages(new));
    let post = sums.iter().fold(Checksum::EMPTY, |total, &sum| total.toggle(sum));
    let proof = Some(Proof { pre: Checksum::EMPTY, post });
    let end = Header { proof, ..header(2, 2, size.get(), sums.len() as u32) };
    let local = |p: Pgno| old.get(p.get() as usize - 1).copied().filter(|_| old_size == size);
    let changed: Vec<_> = (1u32..)
        .zip(new.chunks(size.bytes()))
        .filter(|&(n, _)| local(Pgno::new(n).unwrap()) != Some(sums[n as usize - 1]))
        .map(|(n, page)| (n, page.to_vec()))
        .collect();
    let mut overlay = Overlay::new(end, &local, &folder.join("spool")).unwrap();
    overlay.take(&mut Decoder::new(&file(end, &changed)[..], "x").unwrap(), &local).unwrap();
    overlay
}

/// As SQLite leaves the file after it has looked at it.
fn judged(path: &Path) -> Vec<u8> {
    let engine = Engine::open(path.to_str().unwrap(), None).unwrap();
    let rows = engine.query("PRAGMA integrity_check").unwrap();
    assert_eq!(format!("{rows:?}"), r#"[[Text("ok")]]"#);
    engine.exec("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    drop(engine);
    std::fs::read(path).unwrap()
}

/// From the database at `from`, as a killed process left it, to the file at `to`, stopped after each step.
fn stop_everywhere(folder: &Folder, from: &Path, to: &Path) {
    let (work, judge) = (folder.path().join("work.db"), folder.path().join("judge.db"));
    copy(from, &judge);
    let old = judged(&judge);
    let new = std::fs::read(to).unwrap();
    let change = change(folder.path(), &old, &new);
    let run = |disk: &Disk| {
        let journal = disk.files.borrow()[1].content(|| true);
        let read = |at: u64, out: &mut [u8]| disk.read_journal(at, out);
        let hot = journal::parse(journal.len() as u64, &read, &|_| false)?;
        settle(disk, hot.as_ref())?;
        assert!(disk.files.borrow()[0].content(|| true) == old, "settled is what SQLite makes of it");
        apply(disk, &change, pages(&old).0, 7)
    };
    let mut finished = false;
    for left in 1.. {
        let disk = Disk::load(from, left);
        let outcome = run(&disk);
        for seed in [None, Some(0), Some(1), Some(2)] {
            let _ = std::fs::remove_file(beside(&work, "-shm"));
            disk.leave(&work, seed);
            let found = judged(&work);
            if outcome.is_ok() {
                assert!(found == new, "step {left}");
            } else {
                assert!(
                    found == old || (found == new && !disk.files.borrow()[1].there),
                    "step {left} {seed:?}"
                );
            }
        }
        finished = outcome.is_ok();
        if finished {
            break;
        }
    }
    assert!(finished);
}

fn database(folder: &Folder, name: &str, sql: &str) -> (PathBuf, Engine) {
    let path = folder.path().join(name);
    let engine = Engine::open(path.to_str().unwrap(), None).unwrap();
    engine.exec("PRAGMA page_size=512; CREATE TABLE t(id INTEGER PRIMARY KEY, x)").unwrap();
    engine
        .exec("INSERT INTO t(x) SELECT randomblob(200) FROM (VALUES (1),(2),(3),(4),(5),(6),(7),(8),(9))")
        .unwrap();
    engine.exec(sql).unwrap();
    (path, engine)
}

/// A later state of a closed copy of the database.
fn later(folder: &Folder, from: &Path, sql: &str) -> PathBuf {
    let path = folder.path().join("later.db");
    copy(from, &path);
    let engine = Engine::open(path.to_str().unwrap(), None).unwrap();
    engine.exec(sql).unwrap();
    engine.exec("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    path
}

#[test]
fn stopped_at_any_step_leaves_the_old_state_or_the_new_one() {
    for sql in [
        "UPDATE t SET x = 'new' WHERE id IN (2, 7)",
        "INSERT INTO t(x) SELECT randomblob(300) FROM t",
        "DELETE FROM t WHERE id > 3; VACUUM",
        "PRAGMA page_size=1024; VACUUM",
    ] {
        let folder = Folder::new();
        let (path, engine) = database(&folder, "old.db", "");
        drop(engine);
        let later = later(&folder, &path, sql);
        stop_everywhere(&folder, &path, &later);
    }
}

#[test]
fn page_size_may_become_smaller() {
    let folder = Folder::new();
    let (path, engine) = database(&folder, "old.db", "PRAGMA page_size=2048; VACUUM");
    drop(engine);
    let later = later(&folder, &path, "PRAGMA page_size=512; VACUUM; INSERT INTO t(x) VALUES (1)");
    stop_everywhere(&folder, &path, &later);
}

#[test]
fn wal_of_a_killed_process_goes_into_the_file_first() {
    let folder = Folder::new();
    let (path, _engine) =
        database(&folder, "old.db", "PRAGMA journal_mode=WAL; INSERT INTO t(x) VALUES (5), (6)");
    let killed = folder.path().join("killed.db");
    copy(&path, &killed);
    let later = later(&folder, &killed, "INSERT INTO t(x) SELECT randomblob(300) FROM t");
    assert!(std::fs::metadata(beside(&killed, "-wal")).unwrap().len() > 0);
    stop_everywhere(&folder, &killed, &later);
}

#[test]
fn journal_of_a_killed_process_is_played_back_first() {
    let folder = Folder::new();
    let (path, engine) = database(&folder, "old.db", "PRAGMA cache_size=5");
    engine
        .exec("BEGIN; INSERT INTO t(x) SELECT randomblob(300) FROM t; UPDATE t SET x = randomblob(400)")
        .unwrap();
    let killed = folder.path().join("killed.db");
    copy(&path, &killed);
    engine.exec("ROLLBACK").unwrap();
    let later = later(&folder, &path, "UPDATE t SET x = 'new' WHERE id IN (2, 7)");
    assert!(std::fs::metadata(beside(&killed, "-journal")).unwrap().len() > 1000);
    stop_everywhere(&folder, &killed, &later);
}
