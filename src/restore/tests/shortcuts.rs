//! What is not read of a large file, and what must be noticed all the same: an error or the right database, never a wrong
//! one. In tests "large" is more than 4 KiB.

use super::*;
use crate::ltx::index::{Entry, Step, Walk};
use crate::ltx::sample::read_in_parts;
use crate::ltx::{Decoder, Encoder};
use std::num::NonZeroUsize;

/// Four large files; of the first three some pages are superseded.
fn large(seed: u64) -> History {
    let mut history = History::new(seed, 512);
    for count in [200, 190, 200, 200] {
        history.commit(count);
    }
    history
}

/// Without the second, careful reading.
fn quickly(history: &History, threads: usize) -> Attempt<Restored> {
    let chain = chain_to(&history.replica.list_all().unwrap(), Target::Newest).unwrap();
    let temp = Temp::create(&history.folder.path().join("quick")).unwrap();
    let parallelism = NonZeroUsize::new(threads);
    let options = Options { parallelism, page_checksums: true, ..Options::default() };
    let restored = crew::restore(&history.replica, &chain, &temp, &options)?;
    assert!(std::fs::read(temp.path()).unwrap() == bytes_of(history.states.last().unwrap()));
    Ok(restored)
}

fn bytes_of(state: &BTreeMap<u32, Vec<u8>>) -> Vec<u8> {
    state.values().flatten().copied().collect()
}

/// Restores a replica with a change in it: the right database, or an error that speaks of damage.
fn assert_never_wrong(history: &History, what: &str) -> Option<Error> {
    match history.restore(None) {
        Ok(restored) => {
            let bytes = std::fs::read(history.output()).unwrap();
            assert!(bytes == bytes_of(history.states.last().unwrap()), "{what}");
            assert_eq!(restored.position.checksum, checksum(history.states.last().unwrap()), "{what}");
            std::fs::remove_file(history.output()).unwrap();
            None
        }
        Err(error) => {
            assert_eq!(error.kind(), Kind::Corrupt, "{what}: {error}");
            assert!(!history.output().exists(), "{what}");
            Some(error)
        }
    }
}

type Change = fn(&mut Vec<Entry>);

/// The file with another page index of equal or other length, and nothing else changed.
fn with_index(file: &[u8], change: impl Fn(&mut Vec<Entry>)) -> Vec<u8> {
    let tail = file.len() - 24;
    let size = u64::from_be_bytes(file[tail..tail + 8].try_into().unwrap()) as usize;
    let (header, _) = Header::decode(file[..100].try_into().unwrap()).unwrap();
    let mut walk = Walk::new(&header, (tail - size) as u64).unwrap();
    let (mut rest, mut entries) = (&file[tail - size..tail], Vec::new());
    while let Step::Entry(entry) = walk.next(&mut rest, true).unwrap() {
        entries.push(entry);
    }
    change(&mut entries);
    let mut bytes = file[..tail - size].to_vec();
    let mut index = Vec::new();
    entries.iter().for_each(|entry| entry.encode(|bytes| index.extend_from_slice(bytes)));
    index.push(0);
    bytes.extend_from_slice(&index);
    bytes.extend_from_slice(&(index.len() as u64).to_be_bytes());
    bytes.extend_from_slice(&file[tail + 8..]);
    bytes
}

#[test]
fn the_quick_way_needs_no_second_reading() {
    for threads in [1, 3, 16] {
        for seed in 0..6 {
            let mut history = History::new(seed, 512 << (seed % 4));
            history.proven = seed % 3 != 2;
            for round in 0..9 {
                let count = if round == 0 { 150 } else { 1 + history.random.below(150) as u32 };
                history.commit(count);
            }
            if seed % 2 == 0 {
                history.snapshot(4);
            }
            let restored = quickly(&history, threads).map_err(|_| "a setback").unwrap();
            let sums = restored.page_checksums.unwrap();
            let whole = sums.iter().fold(Checksum::EMPTY, |sum, page| sum.toggle(*page));
            assert_eq!(whole, restored.position.checksum);
        }
    }
}

#[test]
fn superseded_records_of_a_proven_large_file_are_not_read() {
    let history = large(31);
    let path = history.path(0, 1, 1);
    let good = std::fs::read(&path).unwrap();
    let pages = read_in_parts(&good).unwrap();
    // Damages every record whose page a newer file has, as far as no wanted one is near.
    let newest: Vec<u8> = bytes_of(history.states.last().unwrap());
    let mut bad = good.clone();
    let damaged = with_index(&good, |_| {}) == good;
    assert!(damaged, "the index reads back");
    let mut offset = 100;
    let mut spoiled = 0;
    let stale = |pgno: u32| newest[(pgno as usize - 1) * 512..][..512] != pages[pgno as usize - 1].1[..];
    for (pgno, _) in &pages {
        let length = 10 + u32::from_be_bytes(good[offset + 6..offset + 10].try_into().unwrap()) as usize;
        if stale(*pgno) {
            bad[offset + 10] ^= 0xff;
            spoiled += 1;
        }
        offset += length;
    }
    assert!(spoiled > 50);
    std::fs::write(&path, &bad).unwrap();
    history.check(None);
    // An unproven history has nothing but the file checksums: there the same damage is an error.
    let mut history = History::new(31, 512);
    history.proven = false;
    for count in [200, 190, 200, 200] {
        history.commit(count);
    }
    let path = history.path(0, 1, 1);
    let mut bad = std::fs::read(&path).unwrap();
    bad[offset - 3] ^= 0xff;
    std::fs::write(&path, &bad).unwrap();
    assert!(history.refusal(None).to_string().contains("0000000000000001-0000000000000001.ltx is damaged"));
}

#[test]
fn any_flipped_byte_of_a_large_file_never_gives_a_wrong_database() {
    let history = large(32);
    for txid in 1..=4 {
        let path = history.path(0, txid, txid);
        let good = std::fs::read(&path).unwrap();
        let records = (100..good.len()).step_by(good.len() / 40 + 1);
        let tail = (good.len() - 90..good.len()).step_by(3);
        for at in (8..100).step_by(3).chain(records).chain(tail) {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            std::fs::write(&path, &bad).unwrap();
            let error = assert_never_wrong(&history, &format!("txid {txid} byte {at}"));
            assert!(txid != 4 || error.is_some(), "the newest file is read whole: byte {at}");
        }
        std::fs::write(&path, &good).unwrap();
    }
    history.check(None);
}

#[test]
fn a_false_page_index_is_an_error() {
    let history = large(33);
    for txid in [1, 2, 3] {
        let path = history.path(0, txid, txid);
        let good = std::fs::read(&path).unwrap();
        let changes: [(&str, Change); 5] = [
            ("an entry names another page", |entries| {
                let at = (1..entries.len() - 1)
                    .find(|&at| entries[at].pgno.get() + 1 < entries[at + 1].pgno.get())
                    .unwrap_or(entries.len() - 1);
                entries[at].pgno = Pgno::new(entries[at].pgno.get() + 1).unwrap();
            }),
            ("an entry reaches into the next record", |entries| {
                for at in (0..entries.len() - 1).step_by(2) {
                    entries[at].length += 3;
                    entries[at + 1].offset += 3;
                    entries[at + 1].length -= 3;
                }
            }),
            ("entries span two records", |entries| {
                for at in 5..15 {
                    let second = entries.remove(at + 1);
                    entries[at].length += second.length;
                }
            }),
            ("entries are at the place of others", |entries| {
                let (a, b) = (entries[10], entries[11]);
                entries[10] = Entry { offset: b.offset, length: b.length, ..a };
                entries[11] = Entry { offset: a.offset, length: a.length, ..b };
            }),
            ("the last entry is lost", |entries| {
                let last = entries.pop().unwrap();
                entries.last_mut().unwrap().length += last.length;
            }),
        ];
        for (what, change) in changes {
            let bad = with_index(&good, change);
            assert!(bad != good, "{what}");
            std::fs::write(&path, bad).unwrap();
            let error = assert_never_wrong(&history, &format!("{what}, txid {txid}")).unwrap_or_else(|| {
                panic!("{what}, txid {txid}: restored");
            });
            assert!(error.to_string().contains(&format!("{txid:016x}.ltx is damaged")), "{what}: {error}");
        }
        std::fs::write(&path, &good).unwrap();
    }
}

#[test]
fn a_false_header_is_an_error_unless_it_means_nothing() {
    let history = large(34);
    for txid in [1, 2, 3] {
        let path = history.path(0, txid, txid);
        let good = std::fs::read(&path).unwrap();
        for (what, at, byte) in [
            ("page count halved", 15, 100),
            ("a few pages less", 15, good[15] - 5),
            ("page size", 10, 4),
            ("another txid", 23, good[23] + 1),
            ("pre checksum", 90, good[90] ^ 4),
            ("post checksum", 97, good[97] ^ 4),
        ] {
            if txid == 1 && what == "pre checksum" {
                continue;
            }
            let mut bad = good.clone();
            bad[at] = byte;
            std::fs::write(&path, &bad).unwrap();
            let error = assert_never_wrong(&history, &format!("{what}, txid {txid}"));
            assert!(error.is_some(), "{what}, txid {txid}");
        }
        for (what, at, byte) in
            [("more pages", 15, 210), ("timestamp", 39, good[39] ^ 1), ("no proof", 80, 0)]
        {
            let mut bad = good.clone();
            bad[at] = byte;
            std::fs::write(&path, &bad).unwrap();
            assert_never_wrong(&history, &format!("{what}, txid {txid}"));
        }
        std::fs::write(&path, &good).unwrap();
    }
}

#[test]
fn large_files_of_another_history_are_an_error() {
    let (history, other) = (large(35), large(36));
    for txid in 1..=4 {
        let path = history.path(0, txid, txid);
        let good = std::fs::read(&path).unwrap();
        std::fs::copy(other.path(0, txid, txid), &path).unwrap();
        let error = assert_never_wrong(&history, &format!("txid {txid}")).expect("another history");
        assert!(error.to_string().contains("another history"), "{error}");
        std::fs::write(&path, &good).unwrap();
    }
}

/// Where a file begins before the end of the one in front of it, their checksums need not link.
#[test]
fn an_overlapping_file_of_another_history_is_an_error() {
    let (history, other) = (large(37), large(38));
    let merged = |from: &History| {
        let inputs = (2..=4).map(|txid| {
            let bytes = std::fs::read(from.path(0, txid, txid)).unwrap();
            Decoder::new(Cursor::new(bytes), "in.ltx").unwrap()
        });
        let mut bytes = Vec::new();
        crate::ltx::merge::merge(inputs.collect(), &mut bytes).unwrap();
        bytes
    };
    let put = |bytes: &[u8]| {
        let path = history.path(1, 2, 4);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    };
    history.snapshot(3);
    put(&merged(&history));
    assert_eq!(history.check(None).files, 2);
    put(&merged(&other));
    let error = assert_never_wrong(&history, "overlap").expect("another history");
    assert!(error.to_string().contains("give a database with checksum"), "{error}");
}

/// CRCs alone, which are linear, would add up to the same.
#[test]
fn pages_that_changed_in_the_same_bits_do_not_hide_each_other() {
    let mut history = History::new(39, 512);
    history.commit(200);
    let flip =
        |page: &[u8]| page.iter().enumerate().map(|(at, b)| if at == 7 { b ^ 1 } else { *b }).collect();
    let old = history.states[0].clone();
    let changed: Vec<(u32, Vec<u8>)> = [3, 190].map(|pgno| (pgno, flip(&old[&pgno]))).into();
    let mut state = old.clone();
    state.extend(changed.iter().cloned());
    assert_ne!(checksum(&old), checksum(&state));
    let proof = Proof { pre: checksum(&old), post: checksum(&state) };
    history.put(0, Header { proof: Some(proof), ..header(2, 2, 512, 200) }, &changed);
    history.states.push(state);
    history.commit(200);
    history.check(None);
    // The file between cannot go unnoticed.
    std::fs::remove_file(history.path(0, 2, 2)).unwrap();
    assert_eq!(history.refusal(None).kind(), Kind::Gap);
}

#[test]
fn a_database_that_shrank_and_grew_has_no_page_from_before() {
    let mut history = History::new(40, 512);
    for count in [200, 20, 180, 60, 200] {
        history.commit(count);
    }
    quickly(&history, 2).map_err(|_| "a setback").unwrap();
    for txid in 1..=5 {
        history.check(Some(txid));
    }
}

#[test]
fn progress_ends_with_all_and_never_goes_back() {
    let history = large(41);
    let told = crate::lock::Mutex::new(Vec::new());
    let progress = |done, all| told.lock().push((done, all));
    let options = Options { progress: Some(&progress), ..Options::default() };
    let restored = restore(&history.replica, Target::Newest, &history.output(), options).unwrap();
    let told = told.into_inner();
    assert!(told.len() > 3 && told.is_sorted(), "{told:?}");
    assert_eq!(told.last(), Some(&(restored.bytes, restored.bytes)));
    assert!(told.iter().all(|(_, all)| *all == restored.bytes));
}

#[test]
fn the_plan_names_what_a_restore_reads() {
    let mut history = large(42);
    history.snapshot(3);
    let plan = plan(&history.replica, Target::Newest).unwrap();
    let restored = history.check(None);
    assert_eq!((plan.files.len(), plan.bytes(), plan.end), (2, restored.bytes, restored.position.txid));
    let text = plan.to_string();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("level 0 file 0000000000000004-0000000000000004.ltx "), "{text}");
    assert!(lines[2].ends_with("bytes, to txid 0000000000000004"), "{text}");
    std::fs::remove_file(history.path(0, 4, 4)).unwrap();
    history.states.truncate(3);
    assert_eq!(super::super::plan(&history.replica, Target::Newest).unwrap().files.len(), 1);
}

#[test]
fn what_a_killed_restore_left_goes_with_the_next() {
    let history = large(43);
    let left = history.folder.path().join("out.db.0.tmp");
    std::fs::write(&left, b"half a database").unwrap();
    history.check(None);
    assert!(!left.exists());
}

#[test]
fn a_file_that_is_none_is_left_to_the_careful_reader() {
    let history = large(44);
    let path = history.path(0, 2, 2);
    std::fs::write(&path, b"LTX1").unwrap();
    assert!(matches!(quickly(&history, 2), Err(Setback::Doubt(_))));
    assert!(history.refusal(None).to_string().contains("ends too early"));
    // Whole and in order, but of another history: the doubt is the same.
    let mut bytes = Vec::new();
    Encoder::new(&mut bytes, header(2, 2, 512, 9)).unwrap().finish().unwrap();
    std::fs::write(&path, &bytes).unwrap();
    assert!(assert_never_wrong(&history, "an empty file").is_some());
}
