//! A day of history in virtual time, with all levels, snapshots and retention on, over real files.
//!
//! A writer commits in bursts and pauses; upkeep runs when it said that it is due. The store's clock is virtual too: a file was
//! stored when the virtual clock says so. In the end each instant of the window restores to the state that an oracle has
//! for it.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::time::Duration;

use crate::catalog::{Target, points};
use crate::error::{Kind, Result};
use crate::lock::Mutex;
use crate::ltx::sample::{Random, file, header};
use crate::ltx::{Header, Proof, page_checksum};
use crate::replica::{Client, FileReplica, ReadSeek};
use crate::restore::{self, Options};
use crate::testing::Folder;
use crate::types::{Checksum, FileInfo, Identity, Level, PageSize, Pgno, Timestamp, Txid, TxidRange};
use crate::upkeep::levels::next_tick;
use crate::upkeep::{Keeper, Levels, Policy};

const PAGE: u32 = 512;
const SECOND: i64 = 1000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;

/// Each object by its name, as listed and as it truly is.
type Objects = BTreeMap<(Level, TxidRange), (FileInfo, FileInfo)>;

/// A folder whose clock is virtual.
struct Store {
    inner: FileReplica,
    // Guards the clock and what is there.
    shelf: Mutex<(i64, Objects)>,
}

impl Store {
    fn set_clock(&self, now: i64) {
        self.shelf.lock().0 = now;
    }

    fn true_one(&self, file: &FileInfo) -> FileInfo {
        self.shelf.lock().1[&(file.level, file.range)].1
    }
}

impl Client for Store {
    fn url(&self) -> &str {
        self.inner.url()
    }

    fn prepare(&self) -> Result<()> {
        self.inner.prepare()
    }

    fn list(&self, level: Level) -> Result<Vec<FileInfo>> {
        Ok(self.list_all()?.into_iter().filter(|file| file.level == level).collect())
    }

    fn list_all(&self) -> Result<Vec<FileInfo>> {
        Ok(self.shelf.lock().1.values().map(|(listed, _)| *listed).collect())
    }

    fn tells_objects_apart(&self) -> bool {
        true
    }

    fn now(&self) -> Result<Option<Timestamp>> {
        Ok(Some(Timestamp(self.shelf.lock().0)))
    }

    fn open(&self, file: &FileInfo) -> Result<Box<dyn ReadSeek>> {
        self.inner.open(&self.true_one(file))
    }

    fn create(
        &self,
        level: Level,
        range: TxidRange,
        timestamp: Timestamp,
        body: &mut dyn ReadSeek,
    ) -> Result<FileInfo> {
        let made = self.inner.create(level, range, timestamp, body)?;
        let mut shelf = self.shelf.lock();
        let changed_ns = i128::from(shelf.0) * 1_000_000;
        let inode = shelf.1.len() as u64;
        let identity = Identity::File { device: 0, inode, changed_ns, modified_ns: changed_ns };
        let listed = FileInfo { identity, ..made };
        shelf.1.insert((level, range), (listed, made));
        Ok(listed)
    }

    fn make_durable(&self, _: Level) -> Result<()> {
        Ok(())
    }

    fn stat(&self, level: Level, range: TxidRange) -> Result<Option<FileInfo>> {
        Ok(self.shelf.lock().1.get(&(level, range)).map(|(listed, _)| *listed))
    }

    fn delete(&self, file: &FileInfo) -> Result<()> {
        self.inner.delete(&self.true_one(file))?;
        self.shelf.lock().1.remove(&(file.level, file.range));
        Ok(())
    }
}

struct Day {
    random: Random,
    store: Store,
    scratch: Folder,
    levels: Levels,
    policy: Policy,
    pages: BTreeMap<u32, Vec<u8>>,
    now: i64,
    due: Option<i64>,
    /// Time and checksum of each txid, from 1.
    oracle: Vec<(i64, Checksum)>,
}

impl Day {
    fn new(window: i64) -> Day {
        let scratch = Folder::new();
        let inner = FileReplica::at_or_create(scratch.path().join("replica")).unwrap();
        let seconds = |s| Some(Duration::from_secs(s));
        let hours = |ms: i64| Duration::from_millis(ms as u64);
        Day {
            random: Random::new(7),
            store: Store { inner, shelf: Mutex::default() },
            scratch,
            levels: Levels { merged: [seconds(30), seconds(300), seconds(3600)], snapshot: hours(window) },
            policy: Policy { l0: Duration::from_secs(300), window: hours(window) },
            pages: BTreeMap::new(),
            now: Timestamp::parse("2026-11-20T00:00:07Z").unwrap().0,
            due: None,
            oracle: Vec::new(),
        }
    }

    fn checksum(&self) -> Checksum {
        let sums = self.pages.iter().map(|(pgno, page)| page_checksum(Pgno::new(*pgno).unwrap(), page));
        sums.fold(Checksum::EMPTY, Checksum::toggle)
    }

    fn commit(&mut self) {
        let pre = self.oracle.last().map_or(Checksum::EMPTY, |last| last.1);
        let count = 1 + self.random.below(12) as u32;
        self.pages.retain(|pgno, _| *pgno <= count);
        let before = self.pages.len() as u32;
        let size = PageSize::new(PAGE).unwrap();
        let picked = 1 + self.random.below(count.into()) as u32;
        let mut changed: Vec<(u32, Vec<u8>)> = Vec::new();
        for pgno in (1..=count).filter(|pgno| *pgno > before || *pgno == picked) {
            changed.push((pgno, self.random.page(size)));
        }
        self.pages.extend(changed.iter().cloned());
        let post = self.checksum();
        let txid = self.oracle.len() as u64 + 1;
        let proof = Some(Proof { pre, post });
        let header = Header { proof, timestamp: Timestamp(self.now), ..header(txid, txid, PAGE, count) };
        self.store.set_clock(self.now);
        let body = file(header, &changed);
        self.store
            .create(Level::CAPTURED, header.range, header.timestamp, &mut Cursor::new(&body[..]))
            .unwrap();
        self.oracle.push((self.now, post));
        let next = next_tick(Timestamp(self.now), Duration::from_secs(30)).0;
        self.due = Some(self.due.map_or(next, |due| due.min(next)));
    }

    fn keep(&mut self) {
        self.store.set_clock(self.now);
        let keeper = Keeper {
            client: &self.store,
            levels: &self.levels,
            policy: self.policy,
            scratch: self.scratch.path(),
            database: &|| Ok(None),
            copy: &|_| None,
            must_stop: &|| false,
        };
        let newest = Txid::new(self.oracle.len() as u64).unwrap();
        let done = keeper.run(newest, Timestamp(self.now)).unwrap();
        assert!(done.next.is_none_or(|next| next.0 > self.now), "due at once again: {done:?}");
        self.due = done.next.map(|next| next.0);
    }

    /// Goes on until `end`, doing whatever is due.
    fn wait_until(&mut self, end: i64) {
        while let Some(due) = self.due.filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.keep();
        }
        self.now = end;
    }

    fn live(&mut self, length: i64) {
        let end = self.now + length;
        while self.now < end {
            let pause = match self.random.below(100) {
                0 => self.random.below(40 * MINUTE as u64),
                1..10 => self.random.below(2 * MINUTE as u64),
                _ => self.random.below(6 * SECOND as u64),
            };
            self.wait_until(self.now + 1 + pause as i64);
            self.commit();
        }
    }

    fn restored(&self, target: Target) -> Result<(Txid, Checksum)> {
        let output = self.scratch.path().join("restored.db");
        let restored = restore::restore(&self.store, target, &output, Options::default())?;
        std::fs::remove_file(output).unwrap();
        Ok((restored.position.txid, restored.position.checksum))
    }

    fn time_of(&self, txid: Txid) -> i64 {
        self.oracle[txid.get() as usize - 1].0
    }

    fn check_instants(&mut self, count: usize) {
        let restorable: Vec<Txid> = points(&self.store.list_all().unwrap()).iter().map(|p| p.txid).collect();
        let first = self.time_of(restorable[0]);
        let length = (self.policy.window.as_millis() as i64).min(self.now - first);
        for _ in 0..count {
            let at = self.now - self.random.below(length as u64) as i64;
            let (txid, checksum) = self.restored(Target::At(Timestamp(at))).unwrap();
            assert_eq!(checksum, self.oracle[txid.get() as usize - 1].1, "{txid} at {}", Timestamp(at));
            let newest = restorable.iter().rev().find(|&&point| self.time_of(point) <= at).unwrap();
            assert_eq!(txid, *newest, "the newest restore point not after {}", Timestamp(at));
            // What is missing began within the interval of the lowest level that is left.
            let missing = self.oracle.get(txid.get() as usize).filter(|next| next.0 <= at);
            assert!(missing.is_none_or(|next| at - next.0 < 30 * SECOND), "{txid} at {}", Timestamp(at));
        }
    }

    fn check_points(&mut self, count: u64) {
        let points = points(&self.store.list_all().unwrap());
        for _ in 0..count {
            let point = points[self.random.below(points.len() as u64) as usize].txid;
            let found = self.restored(Target::Txid(point)).unwrap();
            assert_eq!(found, (point, self.oracle[point.get() as usize - 1].1));
            let other = Txid::new(1 + self.random.below(self.oracle.len() as u64)).unwrap();
            if points.iter().all(|p| p.txid != other) {
                let error = self.restored(Target::Txid(other)).unwrap_err();
                let before = points.iter().map(|p| p.txid).filter(|&txid| txid < other).max();
                assert_eq!(error.kind(), Kind::NotFound);
                assert!(
                    before.is_none_or(|before| error.to_string().contains(&before.to_string())),
                    "{error}"
                );
            }
        }
    }

    /// What is past its time is gone.
    fn check_pruned(&self) {
        let listing = self.store.list_all().unwrap();
        let window = self.policy.window.as_millis() as i64;
        let snapshots: Vec<&FileInfo> = listing.iter().filter(|f| f.level == Level::SNAPSHOT).collect();
        let old = snapshots.iter().filter(|f| f.created_at.0 < self.now - window - MINUTE).count();
        assert!(old <= 1, "one base at the most: {snapshots:?}");
        let base = snapshots.iter().map(|f| f.range.max).min().unwrap();
        let is_below =
            |f: &&FileInfo| f.level != Level::CAPTURED && f.level != Level::SNAPSHOT && f.range.max < base;
        assert_eq!(listing.iter().filter(is_below).count(), 0);
        let captured = listing.iter().filter(|f| f.level == Level::CAPTURED);
        let late = captured.rev().skip(2).filter(|f| f.created_at.0 < self.now - 7 * MINUTE).count();
        assert_eq!(late, 0, "captured files that should have gone");
    }
}

#[test]
fn each_instant_of_the_window_restores_to_the_state_of_its_last_tick() {
    let is_long = std::env::var_os("LONG").is_some();
    let (window, instants) = if is_long { (24 * HOUR, 1000) } else { (2 * HOUR, 60) };
    let mut day = Day::new(window);
    for _ in 0..5 {
        day.live(window / 2);
        day.check_instants(instants / 5);
        day.check_points(instants as u64 / 20);
    }
    day.wait_until(day.now + 8 * MINUTE);
    day.check_pruned();
    // Nobody writes any more: it comes to an end, and the newest state stays.
    day.wait_until(day.now + 3 * window);
    assert_eq!(day.due, None);
    let newest = Txid::new(day.oracle.len() as u64).unwrap();
    assert_eq!(day.restored(Target::Newest).unwrap(), (newest, day.oracle.last().unwrap().1));
    let left: Vec<(u8, u64)> =
        day.store.list_all().unwrap().iter().map(|f| (f.level.get(), f.range.max.get())).collect();
    let newest = newest.get();
    let ends = [(0, newest - 1), (0, newest), (1, newest), (2, newest), (3, newest), (9, newest)];
    assert_eq!(left, ends, "one snapshot, and the end of each level");
}
