//! The contract of [`Client`], as tests that every backend runs on an empty replica of its own.

use super::client::Client;
use crate::error::{Kind, Result};
use crate::ltx::sample::{file, header};
use crate::types::{FileInfo, Level, Timestamp, Txid, TxidRange};
use std::io::{Cursor, Read, Seek, SeekFrom};
use std::sync::Barrier;

const RACERS: u8 = 16;
const RACES: u64 = 5;

type Check = fn(&dyn Client);

/// Each check by name.
pub const SUITE: &[(&str, Check)] = &[
    ("a_missing_level_is_empty", a_missing_level_is_empty),
    ("a_created_object_is_listed_found_and_read", a_created_object_is_listed_found_and_read),
    ("a_listing_is_sorted_and_of_one_level", a_listing_is_sorted_and_of_one_level),
    ("create_refuses_existing_name", create_refuses_existing_name),
    ("a_failed_body_leaves_nothing", a_failed_body_leaves_nothing),
    ("one_of_many_creators_wins", one_of_many_creators_wins),
    ("open_tells_gone_from_changed", open_tells_gone_from_changed),
    ("delete_spares_another_object", delete_spares_another_object),
    ("the_time_of_a_listed_object_is_that_of_its_header", the_time_of_a_listed_object_is_that_of_its_header),
];

fn range(min: u64, max: u64) -> TxidRange {
    TxidRange::new(Txid::new(min).unwrap(), Txid::new(max).unwrap()).unwrap()
}

fn create(client: &dyn Client, range: TxidRange, at: i64, body: &[u8]) -> Result<FileInfo> {
    client.create(Level::CAPTURED, range, Timestamp(at), &mut Cursor::new(body))
}

fn read(client: &dyn Client, file: &FileInfo) -> Vec<u8> {
    let mut bytes = Vec::new();
    client.open(file).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

/// The level holds this object and no other.
fn assert_holds(client: &dyn Client, made: &FileInfo) {
    let listed = client.list(Level::CAPTURED).unwrap();
    assert!(listed.len() == 1 && listed[0].same_object(made), "{listed:?}, not {made:?}");
}

fn a_missing_level_is_empty(client: &dyn Client) {
    for level in Level::all() {
        assert_eq!(client.list(level).unwrap(), []);
        assert_eq!(client.stat(level, range(1, 1)).unwrap(), None);
    }
}

fn a_created_object_is_listed_found_and_read(client: &dyn Client) {
    let body: Vec<u8> = (0..300_000u32).map(|i| i as u8).collect();
    let made = create(client, range(1, 7), 1_700_000_000_123, &body).unwrap();
    assert_eq!((made.level, made.range, made.size), (Level::CAPTURED, range(1, 7), 300_000));
    assert_eq!(made.created_at, Timestamp(1_700_000_000_123));
    assert_holds(client, &made);
    let found = client.stat(Level::CAPTURED, range(1, 7)).unwrap().unwrap();
    assert!(found.same_object(&made));
    assert_eq!(found.created_at, made.created_at);
    assert_eq!(read(client, &found), body);
    let mut reader = client.open(&made).unwrap();
    let mut part = [0; 4];
    reader.seek(SeekFrom::Start(1000)).unwrap();
    reader.read_exact(&mut part).unwrap();
    assert_eq!(part, body[1000..1004]);
    for (from, to) in [(0, 300_000), (0, 100), (299_976, 300_000), (7, 8), (9, 9)] {
        let mut part = vec![0; to - from];
        client.read_at(&made, from as u64, &mut part).unwrap();
        assert!(part == body[from..to], "bytes {from} to {to}");
    }
}

fn a_listing_is_sorted_and_of_one_level(client: &dyn Client) {
    for wanted in [range(5, 5), range(2, 3), range(0x10, 0x10), range(2, 2)] {
        create(client, wanted, 0, b"x").unwrap();
    }
    client.create(Level::SNAPSHOT, range(1, 4), Timestamp(0), &mut Cursor::new(b"x")).unwrap();
    let ranges: Vec<_> = client.list(Level::CAPTURED).unwrap().iter().map(|file| file.range).collect();
    assert_eq!(ranges, [range(2, 2), range(2, 3), range(5, 5), range(0x10, 0x10)]);
    assert_eq!(client.list(Level::SNAPSHOT).unwrap().len(), 1);
}

fn create_refuses_existing_name(client: &dyn Client) {
    let first = create(client, range(1, 1), 1, b"first").unwrap();
    for body in [&b"second"[..], b"first"] {
        let error = create(client, range(1, 1), 1, body).unwrap_err();
        assert_eq!(error.kind(), Kind::Exists, "{error}");
    }
    assert_holds(client, &first);
    assert_eq!(read(client, &first), b"first");
}

fn a_failed_body_leaves_nothing(client: &dyn Client) {
    /// Ends in the middle of what it says it holds.
    struct Broken(Cursor<[u8; 8]>);
    impl Read for Broken {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            match self.0.position() {
                at @ 0..4 => self.0.by_ref().take(4 - at).read(buffer),
                _ => Err(std::io::Error::other("broken")),
            }
        }
    }
    impl Seek for Broken {
        fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
            self.0.seek(to)
        }
    }
    let mut body = Broken(Cursor::new([7; 8]));
    let made = client.create(Level::CAPTURED, range(1, 1), Timestamp(0), &mut body);
    assert_eq!(made.unwrap_err().kind(), Kind::Io);
    assert_eq!(client.list(Level::CAPTURED).unwrap(), []);
    create(client, range(1, 1), 0, b"whole").unwrap();
}

fn one_of_many_creators_wins(client: &dyn Client) {
    for txid in 1..=RACES {
        let start = Barrier::new(RACERS as usize);
        let race = |racer: u8| {
            start.wait();
            create(client, range(txid, txid), 0, &[racer; 5000])
        };
        let results: Vec<_> = std::thread::scope(|scope| {
            let racers: Vec<_> = (0..RACERS).map(|racer| scope.spawn(move || race(racer))).collect();
            racers.into_iter().map(|racer| racer.join().unwrap()).collect()
        });
        let winners: Vec<usize> = (0..results.len()).filter(|racer| results[*racer].is_ok()).collect();
        assert_eq!(winners.len(), 1, "{results:?}");
        assert!(results.iter().flat_map(|result| result.as_ref().err()).all(|e| e.kind() == Kind::Exists));
        let made = results[winners[0]].as_ref().unwrap();
        assert_eq!(read(client, made), [winners[0] as u8; 5000]);
    }
}

fn open_tells_gone_from_changed(client: &dyn Client) {
    let old = create(client, range(1, 1), 1, b"old").unwrap();
    client.delete(&old).unwrap();
    assert_eq!(client.open(&old).map(|_| ()).unwrap_err().kind(), Kind::NotFound);
    assert_eq!(client.read_at(&old, 1, &mut [0]).unwrap_err().kind(), Kind::NotFound);
    let new = create(client, range(1, 1), 2, b"new").unwrap();
    assert!(!new.same_object(&old));
    assert_eq!(client.open(&old).map(|_| ()).unwrap_err().kind(), Kind::Conflict);
    assert_eq!(client.read_at(&old, 1, &mut [0]).unwrap_err().kind(), Kind::Conflict);
    assert_eq!(read(client, &new), b"new");
}

fn delete_spares_another_object(client: &dyn Client) {
    let old = create(client, range(1, 1), 1, b"old").unwrap();
    client.delete(&old).unwrap();
    client.delete(&old).unwrap();
    let new = create(client, range(1, 1), 2, b"new").unwrap();
    assert_eq!(client.delete(&old).unwrap_err().kind(), Kind::Conflict);
    assert_holds(client, &new);
}

fn the_time_of_a_listed_object_is_that_of_its_header(client: &dyn Client) {
    let header = header(1, 1, 512, 1);
    let bytes = file(header, &[(1, vec![7; 512])]);
    client.create(Level::CAPTURED, header.range, header.timestamp, &mut Cursor::new(&bytes[..])).unwrap();
    let listed = client.list(Level::CAPTURED).unwrap()[0];
    assert_eq!(client.timestamp(&listed).unwrap(), header.timestamp);
    client.delete(&listed).unwrap();
    assert_eq!(client.timestamp(&listed).unwrap_err().kind(), Kind::Conflict);
}
