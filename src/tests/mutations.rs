//! A replica with several levels, harmed in every way that bytes and names can be: what is done to it shows when it is
//! verified, or changes nothing that a restore gives; and no restore gives a wrong database.

use std::path::PathBuf;

use crate::catalog::Target;
use crate::ltx::sample::Random;
use crate::replica::{Client, FileReplica};
use crate::restore;
use crate::testing::Folder;
use crate::testing::history::{History, Plan, txid};
use crate::types::{FileInfo, Level, Position};
use crate::verify::{Options, Report, verify};

const TXIDS: u64 = 40;
const PLAN: Plan = Plan {
    seed: 11,
    txids: TXIDS,
    fork: u64::MAX,
    merged: [3, 3],
    snapshots: &[6, 14, 24, 35],
    proven: true,
};
/// Level 0 begins here, and nothing is left below this snapshot.
const RETIRED: (u64, u64) = (27, 6);
/// Where the other history parts from this one.
const FORK: u64 = 20;

/// Seeds that once gave a wrong database: the last file of a chain, merged, was another history's.
const FOUND: [u64; 1] = [827];

/// One way to harm a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Flip,
    Truncate,
    Insert,
    Append,
    Swap,
    Delete,
    /// A file that retention had taken is there again.
    Return,
    /// Another history's file of the same name.
    Replace,
}

const WAYS: [Way; 8] =
    [Way::Flip, Way::Truncate, Way::Insert, Way::Append, Way::Swap, Way::Delete, Way::Return, Way::Replace];

/// The replica, files it once had, and the same names of another history.
struct World {
    folder: Folder,
    history: History,
    old: Vec<(PathBuf, Vec<u8>)>,
    others: Vec<(PathBuf, Vec<u8>)>,
    files: Vec<FileInfo>,
    /// Restorable before anything is harmed.
    restorable: Vec<u64>,
}

/// What was there under the names that a mutation touched.
type Before = Vec<(PathBuf, Option<Vec<u8>>)>;

impl World {
    fn new() -> World {
        let folder = Folder::new();
        let make = |name: &str, plan| {
            let replica = FileReplica::at_or_create(folder.path().join(name)).unwrap();
            History::make(replica, plan)
        };
        let history = make("r", PLAN);
        let other = make("other", Plan { fork: FORK, ..PLAN });
        let all = history.replica.list_all().unwrap();
        history.retire(RETIRED.0, RETIRED.1);
        let files = history.replica.list_all().unwrap();
        let bytes_of = |of: &History, file: &FileInfo| (history.path(file), of.bytes(file));
        let others =
            files.iter().filter(|file| file.range.max >= txid(FORK)).map(|f| bytes_of(&other, f)).collect();
        let again = make("again", PLAN);
        let gone =
            all.iter().filter(|file| !files.iter().any(|f| (f.level, f.range) == (file.level, file.range)));
        let old = gone.map(|file| bytes_of(&again, file)).collect();
        let mut world = World { folder, history, old, others, files, restorable: vec![] };
        world.restorable = (1..=TXIDS).filter(|n| world.restored(*n).is_some()).collect();
        world
    }

    fn verify(&self) -> Option<Report> {
        let head = Position { txid: txid(TXIDS), checksum: self.history.posts[&txid(TXIDS)] };
        let options = Options { scratch: self.folder.path().to_owned(), expected: Some(head) };
        verify(&self.history.replica, options, &mut |_| {}).ok()
    }

    /// What a restore gives, which must be what was.
    fn restored(&self, n: u64) -> Option<()> {
        let output = self.folder.path().join("out.db");
        restore::restore(&self.history.replica, Target::Txid(txid(n)), &output, restore::Options::default())
            .ok()?;
        let bytes = std::fs::read(&output).unwrap();
        std::fs::remove_file(&output).unwrap();
        assert!(bytes == self.history.images[&txid(n)], "a restore of txid {n} gives a wrong database");
        Some(())
    }

    /// Harms the replica; what was there before is the answer, with words for it.
    fn harm(&self, way: Way, random: &mut Random) -> (Before, String) {
        let mut pick = |end: usize| random.below(end as u64) as usize;
        let file = self.files[pick(self.files.len())];
        let (path, bytes) = (self.history.path(&file), self.history.bytes(&file));
        let mut harmed = bytes.clone();
        let at = pick(bytes.len());
        let (path, harmed, what) = match way {
            Way::Flip => {
                let bit = pick(8);
                harmed[at] ^= 1 << bit;
                (path, harmed, format!("bit {bit} of byte {at}"))
            }
            Way::Truncate => {
                harmed.truncate(at);
                (path, harmed, format!("cut to {at} bytes"))
            }
            Way::Insert | Way::Append => {
                let more: Vec<u8> = (0..1 + pick(40)).map(|_| pick(256) as u8).collect();
                let at = if way == Way::Append { bytes.len() } else { at };
                let what = format!("{} bytes inserted at {at}", more.len());
                harmed.splice(at..at, more);
                (path, harmed, what)
            }
            Way::Swap => {
                let other = self.files[pick(self.files.len())];
                let (second, theirs) = (self.history.path(&other), self.history.bytes(&other));
                std::fs::write(&path, &theirs).unwrap();
                std::fs::write(&second, &bytes).unwrap();
                let what = format!("{} and {}", path.display(), second.display());
                return (vec![(path, Some(bytes)), (second, Some(theirs))], what);
            }
            Way::Delete => {
                std::fs::remove_file(&path).unwrap();
                return (vec![(path.clone(), Some(bytes))], path.display().to_string());
            }
            Way::Return => {
                let (path, bytes) = &self.old[pick(self.old.len())];
                std::fs::write(path, bytes).unwrap();
                return (vec![(path.clone(), None)], path.display().to_string());
            }
            Way::Replace => {
                let (path, theirs) = &self.others[pick(self.others.len())];
                let before = std::fs::read(path).unwrap();
                std::fs::write(path, theirs).unwrap();
                return (vec![(path.clone(), Some(before))], path.display().to_string());
            }
        };
        std::fs::write(&path, harmed).unwrap();
        let what = format!("{what} of {}", path.display());
        (vec![(path, Some(bytes))], what)
    }

    /// Whether nobody could see by what is left that something was deleted, and nothing else is lost with it: retention
    /// takes the oldest file of a level when higher levels reach as far, and a snapshot may never have been taken.
    fn looks_whole(&self, way: Way, lost: &[u64]) -> bool {
        let now = self.history.replica.list_all().unwrap();
        let is_there = |file: &FileInfo| now.iter().any(|f| (f.level, f.range) == (file.level, file.range));
        let Some(gone) = self.files.iter().find(|file| way == Way::Delete && !is_there(file)) else {
            return false;
        };
        let is_oldest = now.iter().filter(|f| f.level == gone.level).all(|f| f.range.min > gone.range.min);
        let above = now.iter().any(|f| f.level > gone.level && f.range.max >= gone.range.max);
        match gone.level {
            Level::SNAPSHOT => {
                let next = now.iter().filter(|f| f.level == Level::SNAPSHOT).map(|f| f.range.max.get()).min();
                let is_base = next.is_some_and(|next| gone.range.max.get() < next);
                lost == [gone.range.max.get()] || is_base && lost.iter().all(|n| Some(*n) < next)
            }
            _ => is_oldest && above && lost.iter().all(|n| *n <= gone.range.max.get()),
        }
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect(name))
}

#[test]
fn model_mutations_of_a_replica_are_found_and_never_restored() {
    let world = World::new();
    assert_eq!(world.verify().unwrap().findings, []);
    assert_eq!(world.restorable[..9], [6, 9, 12, 14, 15, 18, 21, 24, 27]);
    assert_eq!(world.restorable[9..], (28..=TXIDS).collect::<Vec<u64>>());
    let seeds: Vec<u64> = match number("MUTATION_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("MUTATION_RUNS").unwrap_or(500)).chain(FOUND).collect(),
    };
    let mut unseen = 0;
    for seed in seeds {
        let mut random = Random::new(seed);
        let way = WAYS[random.below(WAYS.len() as u64) as usize];
        let (before, what) = world.harm(way, &mut random);
        let replay = format!(
            "{way:?}: {what}\nreplay: MUTATION_SEED={seed} cargo test \
             model_mutations_of_a_replica_are_found_and_never_restored"
        );
        println!("{seed}: {way:?}");
        let is_found = world.verify().is_none_or(|report| !report.findings.is_empty());
        // Found or not, no restore gives what never was: all of them where nothing was found.
        let some = [TXIDS, RETIRED.0 + random.below(TXIDS - RETIRED.0), 1 + random.below(TXIDS)];
        let txids: Vec<u64> = if is_found { some.into() } else { (1..=TXIDS).collect() };
        let restored = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            txids.iter().filter(|n| world.restored(**n).is_some()).copied().collect::<Vec<u64>>()
        }));
        let restored = restored.unwrap_or_else(|_| panic!("{replay}"));
        if !is_found {
            unseen += 1;
            let lost: Vec<u64> = world.restorable.iter().filter(|n| !restored.contains(n)).copied().collect();
            assert!(
                lost.is_empty() || world.looks_whole(way, &lost),
                "not found, and txids {lost:?} are lost: {replay}"
            );
        }
        for (path, bytes) in before.into_iter().rev() {
            match bytes {
                Some(bytes) => std::fs::write(path, bytes).unwrap(),
                None => std::fs::remove_file(path).unwrap(),
            }
        }
    }
    println!("{unseen} changed nothing that a restore gives, or left what could be a whole replica");
}
