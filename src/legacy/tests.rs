//! Replicas of that layout made from a real SQLite's WAL, whole and harmed.

use super::*;
use crate::ffi::engine::Engine;
use crate::ltx::sample::{Random, file, header};
use crate::replica::FileReplica;
use crate::sqlite::wal::{FRAME_HEADER_LEN, HEADER_LEN, parse_frame_header};
use crate::testing::Folder;
use crate::types::{Level, Txid};
use lz4_flex::frame::{BlockSize, FrameEncoder, FrameInfo};
use std::collections::BTreeMap;
use std::io::{Cursor, Write};

const GENERATION: &str = "0123456789abcdef";
const PAGE: usize = 1024;

/// A replica's objects by (index, offset), the snapshot apart, and the database at the end.
struct World {
    folder: Folder,
    snapshot: Vec<u8>,
    segments: BTreeMap<(u64, u64), Vec<u8>>,
    expected: Vec<u8>,
}

fn encode(content: &[u8]) -> Vec<u8> {
    let info = FrameInfo::new().content_checksum(true).block_size(BlockSize::Max4MB);
    let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

/// Where commits end in a WAL.
fn commits(wal: &[u8]) -> Vec<usize> {
    let frame = FRAME_HEADER_LEN + PAGE;
    let ends = (HEADER_LEN + frame..=wal.len()).step_by(frame);
    ends.filter(|end| parse_frame_header(&wal[end - frame..]).unwrap().commit.is_some()).collect()
}

impl World {
    fn new() -> World {
        let folder = Folder::new();
        let path = folder.path().join("app.db");
        let engine = Engine::open(path.to_str().unwrap(), None).unwrap();
        let run = |sql: &str| engine.exec(sql).unwrap();
        run(&format!(
            "PRAGMA page_size={PAGE}; PRAGMA journal_mode=wal; PRAGMA wal_autocheckpoint=0;
             CREATE TABLE t(a INTEGER PRIMARY KEY, b); INSERT INTO t VALUES(1, zeroblob(5000));
             PRAGMA wal_checkpoint(TRUNCATE)"
        ));
        let snapshot = std::fs::read(&path).unwrap();
        let mut world = World { folder, snapshot, segments: BTreeMap::new(), expected: vec![] };
        for index in 3..6 {
            for row in 0..6 {
                run(&format!(
                    "INSERT INTO t(b) VALUES(randomblob({})); UPDATE t SET b=1 WHERE a={row}",
                    900 * row
                ));
            }
            run("DELETE FROM t WHERE a%3=0; VACUUM");
            let wal = std::fs::read(world.folder.path().join("app.db-wal")).unwrap();
            let ends = commits(&wal);
            // Segments of one to a few commits.
            let mut start = 0;
            for (at, end) in ends.iter().enumerate() {
                if at % 3 == 2 || at + 1 == ends.len() {
                    world.segments.insert((index, start as u64), wal[start..*end].to_vec());
                    start = *end;
                }
            }
            run("PRAGMA wal_checkpoint(TRUNCATE)");
        }
        world.expected = engine.image("main").unwrap();
        drop(engine);
        world
    }

    fn name(&self, (index, offset): (u64, u64)) -> String {
        format!("generations/{GENERATION}/wal/{index:08x}_{offset:08x}.wal.lz4")
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        let path = self.folder.path().join("r").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    fn write(&self) -> FileReplica {
        let _ = std::fs::remove_dir_all(self.folder.path().join("r"));
        self.put(
            &format!("generations/{GENERATION}/snapshots/00000003.snapshot.lz4"),
            &encode(&self.snapshot),
        );
        for (at, bytes) in &self.segments {
            self.put(&self.name(*at), &encode(bytes));
        }
        FileReplica::at(self.folder.path().join("r"))
    }

    /// The restored database; nothing is left behind by what fails.
    fn restored(&self, replica: &FileReplica) -> Result<(Vec<u8>, Restored)> {
        let output = self.folder.path().join("out.db");
        let found = find(replica, Target::Newest)?.unwrap();
        let restored = restore(&found, &output);
        let made = std::fs::read(&output);
        let _ = std::fs::remove_file(&output);
        assert_eq!(restored.is_ok(), made.is_ok());
        assert!(self.folder.files().iter().all(|name| !name.ends_with(".tmp")));
        restored.map(|restored| (made.unwrap(), restored))
    }
}

#[test]
fn snapshot_and_segments_give_the_database() {
    let world = World::new();
    let (bytes, restored) = world.restored(&world.write()).unwrap();
    assert!(bytes == world.expected);
    assert_eq!((restored.snapshot_index, restored.index), (3, 5));
    assert_eq!((restored.objects, restored.bytes), (1 + world.segments.len(), bytes.len() as u64));
    assert_eq!(restored.page_size.unwrap().bytes(), PAGE);
}

#[test]
fn every_segment_but_the_last_of_an_index_is_missed() {
    let world = World::new();
    for at in world.segments.keys() {
        let is_last = !world.segments.keys().any(|other| other.0 == at.0 && other.1 > at.1);
        let replica = world.write();
        std::fs::remove_file(world.folder.path().join("r").join(world.name(*at))).unwrap();
        let restored = world.restored(&replica);
        match is_last {
            false => assert_eq!(restored.unwrap_err().kind(), Kind::Gap, "{at:?}"),
            true => assert!(restored.is_ok(), "{at:?} ends with a commit, as the one before it"),
        }
    }
    let replica = world.write();
    for at in world.segments.keys().filter(|at| at.0 == 4) {
        std::fs::remove_file(world.folder.path().join("r").join(world.name(*at))).unwrap();
    }
    assert_eq!(world.restored(&replica).unwrap_err().kind(), Kind::Gap);
}

#[test]
fn a_changed_byte_of_a_wal_is_found_under_a_right_frame() {
    let mut world = World::new();
    let whole = world.segments.clone();
    let mut random = Random::new(5);
    for round in 0..300 {
        let keys: Vec<_> = whole.keys().copied().collect();
        let at = keys[random.below(keys.len() as u64) as usize];
        let byte = match round % 3 {
            // The header of the WAL, or of a frame.
            0 => random.below(HEADER_LEN as u64 + FRAME_HEADER_LEN as u64) as usize,
            _ => random.below(whole[&at].len() as u64) as usize,
        };
        world.segments = whole.clone();
        let segment = world.segments.get_mut(&at).unwrap();
        segment[byte] ^= 1 << random.below(8);
        let error = world.restored(&world.write()).map(drop).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt, "byte {byte} of {at:?}: {error}");
        assert!(error.to_string().contains(&world.name(at)), "{error}");
    }
}

#[test]
fn a_wal_that_ends_inside_a_frame_or_a_transaction_is_refused() {
    let mut world = World::new();
    let whole = world.segments.clone();
    for at in [*whole.keys().last().unwrap(), *whole.keys().rfind(|at| at.0 == 4).unwrap()] {
        let length = whole[&at].len();
        for (cut, why) in
            [(length - 100, "inside a frame"), (length - FRAME_HEADER_LEN - PAGE, "inside a transaction")]
        {
            world.segments = whole.clone();
            world.segments.get_mut(&at).unwrap().truncate(cut);
            let error = world.restored(&world.write()).map(drop).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}

#[test]
fn a_segment_in_the_place_of_another_is_refused() {
    let mut world = World::new();
    let whole = world.segments.clone();
    let keys: Vec<_> = whole.keys().copied().collect();
    for (one, other) in keys.iter().zip(&keys[1..]) {
        world.segments = whole.clone();
        world.segments.insert(*one, whole[other].clone());
        world.segments.insert(*other, whole[one].clone());
        assert!(world.restored(&world.write()).is_err(), "{one:?} and {other:?}");
    }
}

#[test]
fn a_transaction_larger_than_memory_may_hold_is_applied() {
    let mut world = World::new();
    let path = world.folder.path().join("app.db");
    let engine = Engine::open(path.to_str().unwrap(), None).unwrap();
    engine
        .exec(
            "PRAGMA wal_autocheckpoint=0; BEGIN;
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<200)
             INSERT INTO t(b) SELECT randomblob(90000) FROM n; COMMIT",
        )
        .unwrap();
    let wal = std::fs::read(world.folder.path().join("app.db-wal")).unwrap();
    assert!(wal.len() > 17 << 20 && commits(&wal).len() == 1);
    world.segments.insert((6, 0), wal);
    world.expected = engine.image("main").unwrap();
    assert!(world.restored(&world.write()).unwrap().0 == world.expected);
}

#[test]
fn the_newer_of_both_kinds_is_restored_and_a_txid_is_never_of_this_one() {
    let world = World::new();
    let replica = world.write();
    let refusal = find(&replica, Target::Txid(Txid::FIRST)).map(drop).unwrap_err();
    assert_eq!(refusal.kind(), Kind::Invalid);
    let header = header(1, 1, 512, 1);
    let put = |at| {
        let bytes = file(header, &[(1, vec![1; 512])]);
        let made = replica.create(Level::CAPTURED, header.range, Timestamp(at), &mut Cursor::new(&bytes[..]));
        made.unwrap()
    };
    let old = put(1000);
    assert!(find(&replica, Target::Newest).unwrap().is_some());
    assert!(find(&replica, Target::Txid(Txid::FIRST)).unwrap().is_none());
    replica.delete(&old).unwrap();
    put(10_000_000_000_000);
    assert!(find(&replica, Target::Newest).unwrap().is_none());
    let empty = FileReplica::at_or_create(world.folder.path().join("empty")).unwrap();
    assert!(find(&empty, Target::Newest).unwrap().is_none());
    let missing = FileReplica::at(world.folder.path().join("missing"));
    assert!(find(&missing, Target::Newest).unwrap().is_none(), "whoever looks for LTX files reports it");
}
