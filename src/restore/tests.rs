//! Restores from real files in a folder: what comes out, and what is refused without a trace.

use super::*;
use crate::ltx::sample::{Random, file, header};
use crate::ltx::{Proof, page_checksum};
use crate::replica::{FileReplica, ReadSeek, layout};
use crate::testing::Folder;
use crate::types::{Level, Pgno, Txid, TxidRange};
use std::collections::BTreeMap;
use std::io::Cursor;

mod shortcuts;

/// A replica with a history of random states, each of which is kept.
struct History {
    folder: Folder,
    replica: FileReplica,
    /// By txid from 1.
    states: Vec<BTreeMap<u32, Vec<u8>>>,
    page_size: u32,
    random: Random,
    proven: bool,
}

fn checksum(state: &BTreeMap<u32, Vec<u8>>) -> Checksum {
    state
        .iter()
        .fold(Checksum::EMPTY, |sum, (pgno, page)| sum.toggle(page_checksum(Pgno::new(*pgno).unwrap(), page)))
}

impl History {
    fn new(seed: u64, page_size: u32) -> History {
        let folder = Folder::new();
        let replica = FileReplica::at_or_create(folder.path().join("r")).unwrap();
        History { folder, replica, states: Vec::new(), page_size, random: Random::new(seed), proven: true }
    }

    /// Appends a state of `count` pages of which some changed.
    fn commit(&mut self, count: u32) {
        let old = self.states.last().cloned().unwrap_or_default();
        let all = old.values().next().is_some_and(|page| page.len() != self.page_size as usize);
        let size = PageSize::new(self.page_size).unwrap();
        let mut state = if all { BTreeMap::new() } else { old.clone() };
        state.retain(|pgno, _| *pgno <= count);
        let before = state.len() as u32;
        let mut changed = Vec::new();
        for pgno in 1..=count {
            if pgno > before || self.random.below(4) == 0 {
                changed.push((pgno, self.random.page(size)));
            }
        }
        state.extend(changed.iter().cloned());
        let txid = self.states.len() as u64 + 1;
        let proof = Proof { pre: checksum(&old), post: checksum(&state) };
        self.states.push(state);
        self.put(
            0,
            Header { proof: self.proven.then_some(proof), ..header(txid, txid, size.get(), count) },
            &changed,
        );
    }

    fn put(&self, level: u8, header: Header, pages: &[(u32, Vec<u8>)]) {
        let level = Level::new(level).unwrap();
        self.replica
            .create(level, header.range, header.timestamp, &mut Cursor::new(file(header, pages)))
            .unwrap();
    }

    fn snapshot(&self, txid: u64) {
        let state = &self.states[txid as usize - 1];
        let size = state[&1].len() as u32;
        let proof = Proof { pre: Checksum::EMPTY, post: checksum(state) };
        let header = Header { proof: Some(proof), ..header(1, txid, size, state.len() as u32) };
        self.put(9, header, &state.clone().into_iter().collect::<Vec<_>>());
    }

    fn output(&self) -> PathBuf {
        self.folder.path().join("out.db")
    }

    fn path(&self, level: u8, min: u64, max: u64) -> PathBuf {
        let range = TxidRange::new(Txid::new(min).unwrap(), Txid::new(max).unwrap()).unwrap();
        layout::path(self.replica.root(), Level::new(level).unwrap(), range)
    }

    fn restore(&self, target: Option<u64>) -> Result<Restored> {
        let target = target.map_or(Target::Newest, |txid| Target::Txid(Txid::new(txid).unwrap()));
        restore(&self.replica, target, &self.output(), Options { page_checksums: true, ..Options::default() })
    }

    /// Restores, compares with the state kept, and removes the output.
    fn check(&self, target: Option<u64>) -> Restored {
        let restored = self.restore(target).unwrap();
        let txid = target.unwrap_or(self.states.len() as u64);
        let state = &self.states[txid as usize - 1];
        let expected: Vec<u8> = state.values().flatten().copied().collect();
        assert!(std::fs::read(self.output()).unwrap() == expected, "txid {txid}");
        assert_eq!(restored.position, Position { txid: Txid::new(txid).unwrap(), checksum: checksum(state) });
        let sums = restored.page_checksums.as_ref().unwrap();
        assert_eq!(sums.len(), state.len());
        assert_eq!(sums.iter().fold(Checksum::EMPTY, |sum, page| sum.toggle(*page)), checksum(state));
        std::fs::remove_file(self.output()).unwrap();
        restored
    }

    /// Restores, which must fail and leave nothing.
    fn refusal(&self, target: Option<u64>) -> Error {
        let before = self.folder.files();
        let error = self.restore(target).unwrap_err();
        assert_eq!(self.folder.files(), before, "{error}");
        error
    }
}

#[test]
fn model_restore_any_txid() {
    for seed in 0..20 {
        let mut history = History::new(seed, 512 << (seed % 8));
        history.proven = seed % 3 != 0;
        for _ in 0..12 {
            let count = 1 + history.random.below(30) as u32;
            history.commit(count);
        }
        if seed % 2 == 0 {
            history.snapshot(5);
            history.snapshot(9);
        }
        for txid in 1..=12 {
            let restored = history.check(Some(txid));
            assert_eq!(
                restored.proven,
                history.proven || seed % 2 == 0 && [5, 9].contains(&txid),
                "seed {seed}"
            );
        }
        history.check(None);
    }
}

#[test]
fn a_change_of_page_size_needs_no_snapshot_when_the_change_holds_every_page() {
    let mut history = History::new(1, 1024);
    history.commit(9);
    history.commit(12);
    history.page_size = 4096;
    history.commit(5);
    history.commit(6);
    for txid in 1..=4 {
        history.check(Some(txid));
    }
    history.snapshot(3);
    assert_eq!(history.check(None).files, 2);
}

#[test]
fn any_flipped_byte_fails_and_leaves_nothing() {
    let mut history = History::new(2, 512);
    for count in [2, 3, 2] {
        history.commit(count);
    }
    for txid in 1..=3 {
        let path = history.path(0, txid, txid);
        let good = std::fs::read(&path).unwrap();
        for at in (0..good.len()).step_by(5) {
            let mut bad = good.clone();
            bad[at] ^= 0x11;
            std::fs::write(&path, &bad).unwrap();
            let error = history.refusal(None);
            assert_eq!(error.kind(), Kind::Corrupt, "byte {at}: {error}");
            assert!(
                error.to_string().contains(&format!("{txid:016x}-{txid:016x}.ltx")),
                "byte {at}: {error}"
            );
        }
        std::fs::write(&path, &good[..good.len() - 1]).unwrap();
        assert!(history.refusal(None).to_string().contains("ends too early"));
        std::fs::write(&path, &good).unwrap();
    }
    history.check(None);
}

#[test]
fn swapped_and_missing_files_fail() {
    let mut history = History::new(3, 512);
    for count in [2, 3, 4, 4] {
        history.commit(count);
    }
    let (two, three, aside) =
        (history.path(0, 2, 2), history.path(0, 3, 3), history.folder.path().join("aside"));
    std::fs::rename(&two, &aside).unwrap();
    let error = history.refusal(None);
    assert_eq!(error.kind(), Kind::Gap);
    assert!(error.to_string().contains("txid 0000000000000002 is missing"), "{error}");
    std::fs::rename(&three, &two).unwrap();
    std::fs::rename(&aside, &three).unwrap();
    assert!(history.refusal(None).to_string().contains("renamed or swapped"));
}

#[test]
fn files_of_another_history_fail() {
    let (mut history, mut other) = (History::new(4, 512), History::new(5, 512));
    for count in [2, 3, 4] {
        history.commit(count);
        other.commit(count);
    }
    std::fs::copy(other.path(0, 3, 3), history.path(0, 3, 3)).unwrap();
    let error = history.refusal(None);
    assert!(error.to_string().contains("another history"), "{error}");
}

#[test]
fn a_leftover_of_a_late_writer_is_passed_over() {
    let (mut history, mut other) = (History::new(6, 512), History::new(7, 512));
    for count in [2, 3, 4, 4] {
        history.commit(count);
        other.commit(count);
    }
    history.snapshot(2);
    std::fs::copy(other.path(0, 2, 2), history.path(0, 2, 2)).unwrap();
    std::fs::remove_file(history.path(0, 1, 1)).unwrap();
    history.check(Some(2));
    history.check(None);
    std::fs::remove_file(history.path(9, 1, 2)).unwrap();
    history.snapshot(1);
    assert!(history.refusal(Some(2)).to_string().contains("another history"));
}

#[test]
fn wrong_database_checksum_fails() {
    let mut history = History::new(8, 512);
    history.commit(3);
    let page = (1, vec![1; 512]);
    let proof = Proof { pre: checksum(&history.states[0]), post: Checksum::from_crc(99) };
    history.put(0, Header { proof: Some(proof), ..header(2, 2, 512, 3) }, &[page]);
    let error = history.refusal(None);
    assert_eq!(error.kind(), Kind::Corrupt);
    assert!(error.to_string().contains("but the last of them says 8000000000000063"), "{error}");
}

#[test]
fn growth_without_its_pages_fails() {
    let mut history = History::new(9, 512);
    history.commit(3);
    history.put(0, header(2, 2, 512, 5), &[(4, vec![0; 512])]);
    let error = history.refusal(None);
    assert!(error.to_string().contains("page 5 of 5 is in no file"), "{error}");
    history.put(0, header(3, 3, 512, u32::MAX), &[]);
    assert!(history.refusal(None).to_string().contains("more than"));
}

#[test]
fn existing_files_are_never_touched() {
    let mut history = History::new(10, 512);
    history.commit(2);
    std::fs::write(history.output(), b"").unwrap();
    let error = history.refusal(None);
    assert_eq!(error.kind(), Kind::Exists);
    assert!(error.to_string().contains("it exists"), "{error}");
    std::fs::remove_file(history.output()).unwrap();
    for suffix in ["-wal", "-journal", "-shm"] {
        let beside = history.folder.path().join(format!("out.db{suffix}"));
        std::fs::write(&beside, b"x").unwrap();
        let error = history.refusal(None);
        assert_eq!(error.kind(), Kind::Exists);
        assert!(error.to_string().contains(&format!("out.db{suffix} was left")), "{error}");
        std::fs::remove_file(&beside).unwrap();
    }
    history.check(None);
}

type Strike = Box<dyn FnOnce(&History) + Send>;

/// The real replica, in which retention strikes between a listing and the first read of a file.
struct Retention<'a> {
    history: &'a History,
    strike: std::sync::Mutex<Option<Strike>>,
}

impl Client for Retention<'_> {
    fn url(&self) -> &str {
        self.history.replica.url()
    }

    fn prepare(&self) -> Result<()> {
        panic!("a restore creates nothing")
    }

    fn tells_objects_apart(&self) -> bool {
        self.history.replica.tells_objects_apart()
    }

    fn list(&self, level: Level) -> Result<Vec<FileInfo>> {
        self.history.replica.list(level)
    }

    fn open(&self, file: &FileInfo) -> Result<Box<dyn ReadSeek>> {
        if let Some(strike) = self.strike.lock().unwrap().take() {
            strike(self.history);
        }
        self.history.replica.open(file)
    }

    fn create(&self, _: Level, _: TxidRange, _: Timestamp, _: &mut dyn ReadSeek) -> Result<FileInfo> {
        panic!("a restore creates nothing")
    }

    fn make_durable(&self, _: Level) -> Result<()> {
        panic!("a restore creates nothing")
    }

    fn stat(&self, level: Level, range: TxidRange) -> Result<Option<FileInfo>> {
        self.history.replica.stat(level, range)
    }

    fn delete(&self, _: &FileInfo) -> Result<()> {
        panic!("a restore deletes nothing")
    }
}

#[test]
fn files_that_change_under_a_restore_are_listed_again() {
    let expired: fn(&History) = |history| {
        history.snapshot(3);
        for txid in 1..=3 {
            std::fs::remove_file(history.path(0, txid, txid)).unwrap();
        }
    };
    let made_anew: fn(&History) = |history| {
        let path = history.path(0, 4, 4);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, bytes).unwrap();
    };
    for strike in [expired, made_anew] {
        let mut history = History::new(12, 512);
        for count in [2, 3, 4, 5] {
            history.commit(count);
        }
        let strike = std::sync::Mutex::new(Some(Box::new(strike) as Box<dyn FnOnce(&History) + Send>));
        let client = Retention { history: &history, strike };
        restore(&client, Target::Newest, &history.output(), Options::default()).unwrap();
        assert!(client.strike.lock().unwrap().is_none());
        let expected: Vec<u8> = history.states[3].values().flatten().copied().collect();
        assert!(std::fs::read(history.output()).unwrap() == expected);
    }
}

#[test]
fn missing_folder_and_empty_replica_are_said_so() {
    let history = History::new(11, 512);
    let error = history.refusal(None);
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (Kind::NotFound, "the replica holds no LTX files")
    );
    let output = history.folder.path().join("none/out.db");
    let error = restore(&history.replica, Target::Newest, &output, Options::default()).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert!(error.to_string().contains("there is no folder"), "{error}");
}

#[test]
fn a_time_is_that_of_the_header_whatever_the_file_says() {
    let mut history = History::new(13, 512);
    for count in [2, 3, 4] {
        history.commit(count);
    }
    // As after a copy of the folder that kept no times.
    for txid in 1..=3 {
        let file = std::fs::File::options().append(true).open(history.path(0, txid, txid)).unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
    }
    let listed = history.replica.list_all().unwrap();
    let second = history.replica.timestamp(&listed[1]).unwrap();
    let at = |ms| restore(&history.replica, Target::At(Timestamp(ms)), &history.output(), Options::default());
    let restored = at(second.0).unwrap();
    assert_eq!((restored.position.txid.get(), restored.timestamp, restored.notice), (2, second, None));
    std::fs::remove_file(history.output()).unwrap();
    let restored = at(i64::MAX / 2).unwrap();
    assert_eq!(restored.position.txid.get(), 3);
    assert!(restored.notice.unwrap().contains("is later than the newest state"));
    std::fs::remove_file(history.output()).unwrap();
    let error = at(second.0 - 2).unwrap_err();
    assert!(error.to_string().contains("the first restorable moment is"), "{error}");
}
