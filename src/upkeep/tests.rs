//! Upkeep as a whole: days of it in virtual time, over a store that is only a listing; and over a real folder whose every
//! operation fails once.
//!
//! In the model commits come in bursts and pauses; one or two keepers look at any moment, with clocks that are wrong, and delete by
//! listings that are old. After each single step the newest state is in a chain, and each state that stood at the end of an
//! interval of the lowest level within the window can be restored exactly.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use super::Keeper;
use super::due::next_merge;
use super::levels::{Levels, tick};
use super::retention::{Policy, expired};
use super::sample::{fill, replica};
use crate::catalog::sample::listed;
use crate::catalog::{Target, chain_to};
use crate::error::{Error, Kind, Result};
use crate::ltx::sample::Random;
use crate::replica::{Client, FileReplica, ReadSeek, open_decoder};
use crate::testing::Folder;
use crate::types::{Checksum, FileInfo, Level, Timestamp, Txid, TxidRange};
use crate::{clock, restore};

const SECOND: i64 = 1000;
const HOUR: i64 = 3600 * SECOND;

struct Model {
    random: Random,
    levels: Levels,
    policy: Policy,
    listing: Vec<FileInfo>,
    now: i64,
    /// When each txid was committed.
    committed: Vec<i64>,
    deleted: usize,
}

impl Model {
    fn new(seed: u64) -> Model {
        let mut random = Random::new(seed);
        let seconds = |s| Some(Duration::from_secs(s));
        let merged = match random.below(3) {
            0 => [seconds(30), seconds(300), seconds(3600)],
            1 => [None, seconds(300), seconds(3600)],
            _ => [seconds(60), None, None],
        };
        let levels = Levels { merged, snapshot: Duration::from_secs(4 * 3600) };
        let policy = Policy { l0: Duration::from_secs(300), window: Duration::from_secs(6 * 3600) };
        Model {
            random,
            levels,
            policy,
            listing: Vec::new(),
            now: 7 * HOUR,
            committed: Vec::new(),
            deleted: 0,
        }
    }

    fn newest(&self) -> Option<Txid> {
        Txid::new(self.committed.len() as u64)
    }

    fn commit(&mut self) {
        self.committed.push(self.now);
        let txid = self.committed.len() as u64;
        self.listing.push(listed(0, txid, txid, self.now));
    }

    /// One keeper, whose clock is off, looks and does one thing of what it finds due.
    fn keep(&mut self, old_listing: &[FileInfo]) {
        let Some(newest) = self.newest() else { return };
        let clock = Timestamp(self.now + self.random.below(40_000) as i64 - 20_000);
        for rung in self.levels.rungs() {
            while let Some(merge) = next_merge(&self.listing, rung, newest, clock) {
                let (first, last) = (merge.steps[0], merge.steps[merge.steps.len() - 1]);
                let (min, max) = (first.range.min.get(), last.range.max.get());
                let mut made = listed(rung.level.get(), min, max, last.created_at.0);
                made.identity = listed(0, min, max, self.now).identity;
                self.listing.push(made);
            }
        }
        let last = self.listing.iter().filter(|f| f.level == Level::SNAPSHOT).map(|f| f.created_at).max();
        let since = last.unwrap_or(Timestamp(self.committed[0]));
        let end = self.listing.iter().filter(|f| f.level == Level::SNAPSHOT).map(|f| f.range.max).max();
        if end < Some(newest) && since < tick(clock, self.levels.snapshot) {
            self.listing.push(listed(9, 1, newest.get(), self.now));
        }
        let by = if self.random.below(3) == 0 { old_listing.to_vec() } else { self.listing.clone() };
        for file in expired(&by, self.policy, Timestamp(self.now)) {
            if self.random.below(20) == 0 {
                // It dies between two deletes.
                return;
            }
            let before = self.listing.len();
            self.listing.retain(|other| !other.same_object(&file));
            self.deleted += before - self.listing.len();
            self.check_newest();
        }
    }

    fn check_newest(&self) {
        let end = chain_to(&self.listing, Target::Newest).map(|chain| chain.end());
        assert_eq!(end.ok(), self.newest(), "at {}", Timestamp(self.now));
    }

    /// The state at each tick of the lowest level in the window.
    fn check_window(&mut self) {
        let interval = self.levels.rungs()[0].interval;
        let window = self.policy.window.as_millis() as i64;
        for _ in 0..20 {
            let moment = self.now - self.random.below(window as u64) as i64;
            let at = tick(Timestamp(moment), interval).0;
            let count = self.committed.partition_point(|&committed| committed < at);
            let is_in_window = count > 0 && at >= self.now - window;
            if let Some(txid) = Txid::new(count as u64).filter(|_| is_in_window) {
                let chain = chain_to(&self.listing, Target::Txid(txid));
                assert!(
                    chain.is_ok(),
                    "the state of {} at {}: {chain:?}",
                    Timestamp(at),
                    Timestamp(self.now)
                );
            }
        }
    }

    fn run(&mut self, steps: usize) {
        let mut old_listing = Vec::new();
        for _ in 0..steps {
            self.now += match self.random.below(30) {
                0 => self.random.below(3 * HOUR as u64) as i64,
                1..10 => self.random.below(60 * SECOND as u64) as i64,
                _ => self.random.below(2 * SECOND as u64) as i64,
            };
            match self.random.below(4) {
                0 => {
                    self.keep(&old_listing);
                    old_listing = self.listing.clone();
                }
                _ => self.commit(),
            }
            if self.newest().is_some() {
                self.check_newest();
                self.check_window();
            }
        }
    }
}

#[test]
fn model_of_upkeep_keeps_the_newest_state_and_each_tick_of_the_window() {
    let runs = std::env::var("MODEL_RUNS").map_or(12, |runs| runs.parse().unwrap());
    let mut deleted = 0;
    for seed in 0..runs {
        println!("MODEL_RUNS seed {seed}");
        let mut model = Model::new(seed);
        model.run(1500);
        deleted += model.deleted;
    }
    assert!(deleted > 100 * runs as usize, "retention had something to do: {deleted}");
}

/// A folder that does its first operations, and from then on none: as if the process had died there.
struct Dying<'a> {
    inner: &'a FileReplica,
    left: AtomicI64,
    /// The operation that fails has been done.
    is_done: bool,
}

impl Dying<'_> {
    fn step<T>(&self, operation: impl FnOnce() -> Result<T>) -> Result<T> {
        let died = || Error::new(Kind::Io, "the process died");
        match self.left.fetch_sub(1, Ordering::Relaxed) {
            1.. => operation(),
            0 if self.is_done => operation().and_then(|_| Err(died())),
            _ => Err(died()),
        }
    }
}

impl Client for Dying<'_> {
    fn url(&self) -> &str {
        self.inner.url()
    }

    fn prepare(&self) -> Result<()> {
        self.step(|| self.inner.prepare())
    }

    fn list(&self, level: Level) -> Result<Vec<FileInfo>> {
        self.step(|| self.inner.list(level))
    }

    fn tells_objects_apart(&self) -> bool {
        self.inner.tells_objects_apart()
    }

    fn open(&self, file: &FileInfo) -> Result<Box<dyn ReadSeek>> {
        self.step(|| self.inner.open(file))
    }

    fn create(
        &self,
        level: Level,
        range: TxidRange,
        timestamp: Timestamp,
        body: &mut dyn ReadSeek,
    ) -> Result<FileInfo> {
        self.step(|| self.inner.create(level, range, timestamp, body))
    }

    fn make_durable(&self, level: Level) -> Result<()> {
        self.step(|| self.inner.make_durable(level))
    }

    fn stat(&self, level: Level, range: TxidRange) -> Result<Option<FileInfo>> {
        self.step(|| self.inner.stat(level, range))
    }

    fn now(&self) -> Result<Option<Timestamp>> {
        self.step(|| self.inner.now())
    }

    fn delete(&self, file: &FileInfo) -> Result<()> {
        self.step(|| self.inner.delete(file))
    }
}

const TXIDS: u64 = 10;

fn keeper<'a>(client: &'a dyn Client, levels: &'a Levels, scratch: &'a Path) -> Keeper<'a> {
    let age = Duration::from_millis(1);
    Keeper {
        client,
        levels,
        policy: Policy { l0: age, window: age },
        scratch,
        database: &|| Ok(None),
        copy: &|_| None,
        must_stop: &|| false,
    }
}

/// Every state that a listing leads to is the one that was committed; the newest is among them.
fn check_states(replica: &FileReplica, posts: &[Checksum], folder: &Folder) {
    let listing = replica.list_all().unwrap();
    let ends: BTreeSet<Txid> = listing.iter().map(|file| file.range.max).collect();
    assert_eq!(ends.last(), Txid::new(TXIDS).as_ref());
    let mut found = Vec::new();
    for txid in ends.into_iter().filter(|&txid| chain_to(&listing, Target::Txid(txid)).is_ok()) {
        let output = folder.path().join(format!("{txid}.db"));
        let restored =
            restore::restore(replica, Target::Txid(txid), &output, restore::Options::default()).unwrap();
        assert_eq!(restored.position.checksum, posts[txid.get() as usize - 1], "{txid}");
        std::fs::remove_file(output).unwrap();
        found.push(txid);
    }
    assert_eq!(found.last().map(|t| t.get()), Some(TXIDS), "{listing:?}");
}

#[test]
fn dying_at_any_step_of_upkeep_leaves_a_replica_that_restores_and_is_kept_on() {
    // The samples are a millisecond apart.
    let ms = |ms| Some(Duration::from_millis(ms));
    let levels = Levels { merged: [ms(2), ms(4), None], snapshot: Duration::from_millis(1) };
    for is_done in [false, true] {
        let mut steps = 0;
        loop {
            let folder = Folder::new();
            let replica = replica(&folder, "replica");
            fill(&replica, TXIDS, 0);
            let listed = replica.list(Level::CAPTURED).unwrap();
            let post = |file| open_decoder(&replica, file).unwrap().header().proof.unwrap().post;
            let posts: Vec<Checksum> = listed.iter().map(post).collect();
            let dying = Dying { inner: &replica, left: AtomicI64::new(steps), is_done };
            let now = clock::now();
            let newest = Txid::new(TXIDS).unwrap();
            // The second run is the first that finds something old.
            let outcome = keeper(&dying, &levels, folder.path())
                .run(newest, now)
                .and_then(|_| keeper(&dying, &levels, folder.path()).run(newest, now));
            check_states(&replica, &posts, &folder);
            let left = || -> Vec<(u8, u64)> {
                replica.list_all().unwrap().iter().map(|f| (f.level.get(), f.range.max.get())).collect()
            };
            let end = [(0, TXIDS - 1), (0, TXIDS), (1, TXIDS), (2, TXIDS), (9, TXIDS)];
            // A file's age shows when the clock of the filesystem has moved on.
            for _ in (0..100).take_while(|_| left() != end) {
                keeper(&replica, &levels, folder.path()).run(newest, now).unwrap();
                check_states(&replica, &posts, &folder);
            }
            assert_eq!(left(), end, "after {steps} steps");
            if outcome.is_ok() {
                break;
            }
            steps += 1;
        }
        assert!(steps > 30, "{steps} steps");
    }
}
