//! What a verification finds, and what it does not mistake for a finding.

use super::*;
use crate::error::Kind;
use crate::ltx::page_checksum;
use crate::replica::FileReplica;
use crate::testing::Folder;
use crate::testing::history::{History, Plan, level, range, txid};
use crate::types::{Checksum, Level, Pgno};

const PLAN: Plan =
    Plan { seed: 7, txids: 30, fork: u64::MAX, merged: [3, 3], snapshots: &[5, 14, 27], proven: true };

fn history(folder: &Folder, plan: Plan) -> History {
    History::make(FileReplica::at_or_create(folder.path().join("r")).unwrap(), plan)
}

fn options(folder: &Folder) -> Options {
    Options { scratch: folder.path().to_owned(), expected: None }
}

fn look(folder: &Folder, history: &History) -> Report {
    verify(&history.replica, options(folder), &mut |_| {}).unwrap()
}

/// The problems' kinds, and the txid up to which all is proven.
fn problems(report: &Report) -> (Vec<Trouble>, Option<u64>) {
    let problems = report.findings.iter().filter(|f| f.grade == Grade::Problem).map(|f| f.trouble);
    (problems.collect(), report.verified.map(|position| position.txid.get()))
}

#[test]
fn every_file_of_a_sound_replica_is_proven() {
    for proven in [true, false] {
        let folder = Folder::new();
        let history = history(&folder, Plan { proven, ..PLAN });
        for (from, base, oldest, files, merges) in [(1, 0, 1, 46, 13), (20, 5, 5, 26, 5), (29, 14, 14, 12, 1)]
        {
            history.retire(from, base);
            let mut last = Progress::default();
            let report =
                verify(&history.replica, options(&folder), &mut |progress| last = *progress).unwrap();
            assert_eq!(report.findings, [], "from {from}");
            assert_eq!((report.files, report.merges), (files, merges), "from {from}");
            assert_eq!((last.files, last.bytes), (last.files_total, last.bytes_total));
            assert_eq!(report.bytes, last.bytes);
            assert_eq!(report.oldest, Some(txid(oldest)));
            let verified = report.verified.unwrap();
            assert_eq!((verified.txid, verified.checksum), (txid(30), history.posts[&txid(30)]));
            assert_eq!(report.database_checksums > 0, proven);
        }
    }
}

#[test]
fn a_page_count_that_no_file_can_hold_is_found_and_takes_neither_time_nor_room() {
    for at in [2, 5, 29] {
        let folder = Folder::new();
        let history = history(&folder, PLAN);
        let file = history.find(Level::CAPTURED, range(at, at));
        history.rewrite(&file, |header, _| header.page_count = u32::MAX);
        assert!(!look(&folder, &history).findings.is_empty(), "txid {at}");
    }
}

#[test]
fn a_damaged_file_is_named_and_the_files_beside_it_carry_on() {
    let folder = Folder::new();
    let history = history(&folder, PLAN);
    let file = history.find(Level::CAPTURED, range(8, 8));
    let mut bytes = history.bytes(&file);
    let middle = bytes.len() / 2;
    bytes.truncate(middle);
    std::fs::write(history.path(&file), bytes).unwrap();
    let report = look(&folder, &history);
    assert_eq!(problems(&report), (vec![Trouble::Damage], Some(7)));
    let first = report.first_problem().unwrap();
    assert_eq!(first.file, Some((Level::CAPTURED, range(8, 8))));
    assert!(first.what.contains("level 0 file 0000000000000008-0000000000000008.ltx is damaged"), "{first}");
    assert_eq!(report.error().unwrap().kind(), Kind::Corrupt);
}

#[test]
fn a_merged_file_must_be_what_it_merges() {
    for (at, to) in [(level(1), range(7, 9)), (level(2), range(10, 18))] {
        for late in [false, true] {
            let folder = Folder::new();
            let history = history(&folder, Plan { snapshots: &[], ..PLAN });
            let mut verifier = Verifier::new(options(&folder));
            let file = history.find(at, to);
            if late {
                let bytes = history.bytes(&file);
                history.delete(at, to);
                while verifier.step(&history.replica, 1).unwrap() {}
                std::fs::write(history.path(&file), bytes).unwrap();
            }
            // A page less than its sources have, which it has no other sign of.
            history.rewrite(&file, |_, pages| drop(pages.pop()));
            verifier.refresh(&history.replica).unwrap();
            while verifier.step(&history.replica, 1).unwrap() {}
            let report = verifier.report();
            let (found, _) = problems(&report);
            assert!(found.contains(&Trouble::Merge), "level {at}, late: {late}: {:?}", report.findings);
            assert_eq!(report.findings[0].file, Some((at, to)), "{:?}", report.findings);
        }
    }
}

#[test]
fn a_snapshot_must_be_the_state_at_its_txid() {
    for proven in [true, false] {
        let folder = Folder::new();
        let history = history(&folder, Plan { proven, ..PLAN });
        history.rewrite(&history.find(Level::SNAPSHOT, range(1, 14)), |header, pages| {
            pages[0].1[9] ^= 1;
            // As a database that never was would state it.
            if let Some(proof) = &mut header.proof {
                let sums = pages.iter().map(|(pgno, page)| page_checksum(Pgno::new(*pgno).unwrap(), page));
                proof.post = sums.fold(Checksum::EMPTY, Checksum::toggle);
            }
        });
        let report = look(&folder, &history);
        assert_eq!(problems(&report), (vec![Trouble::Merge], Some(13)), "{:?}", report.findings);
    }
}

#[test]
fn a_file_must_give_the_database_checksum_that_it_states() {
    let folder = Folder::new();
    let history = history(&folder, PLAN);
    history.retire(16, 14);
    history.rewrite(&history.find(Level::CAPTURED, range(30, 30)), |_, pages| pages[0].1[9] ^= 1);
    let report = look(&folder, &history);
    assert_eq!(problems(&report).0[0], Trouble::Database, "{:?}", report.findings);
    assert_eq!(report.verified.unwrap().txid, txid(29));
}

#[test]
fn a_file_of_another_history_does_not_link() {
    for (at, to) in
        [(Level::CAPTURED, range(20, 20)), (level(1), range(19, 21)), (Level::SNAPSHOT, range(1, 27))]
    {
        let (folder, beside) = (Folder::new(), Folder::new());
        let history = history(&folder, PLAN);
        let other = super::tests::history(&beside, Plan { fork: 20, ..PLAN });
        let file = history.find(at, to);
        std::fs::write(history.path(&file), other.bytes(&other.find(at, to))).unwrap();
        let report = look(&folder, &history);
        assert!(!report.is_ok(), "level {at}");
        assert!(report.verified.unwrap().txid < to.max, "level {at}: {:?}", report.findings);
    }
}

#[test]
fn a_leftover_is_named_and_judged_by_the_history_at_its_txid() {
    let (folder, beside) = (Folder::new(), Folder::new());
    let history = history(&folder, PLAN);
    let other = super::tests::history(&beside, Plan { fork: 12, ..PLAN });
    history.retire(20, 5);
    let put_back = |txid| {
        let file = other.find(Level::CAPTURED, range(txid, txid));
        std::fs::write(history.path(&file), other.bytes(&file)).unwrap();
    };
    // Level 1 ends at 12: what the state was then is known, and not at 13.
    put_back(12);
    let report = look(&folder, &history);
    assert_eq!(problems(&report), (vec![], Some(30)));
    assert_eq!((report.findings[0].grade, report.findings[0].trouble), (Grade::Notice, Trouble::Leftover));
    history.delete(Level::CAPTURED, range(12, 12));
    put_back(13);
    assert_eq!(problems(&look(&folder, &history)), (vec![Trouble::Leftover], Some(30)));
}

#[test]
fn a_lost_end_shows_to_who_knows_what_was_there() {
    let folder = Folder::new();
    let history = history(&folder, PLAN);
    let head = Position { txid: txid(30), checksum: history.posts[&txid(30)] };
    let knows = |position| Options { expected: Some(position), ..options(&folder) };
    assert!(verify(&history.replica, knows(head), &mut |_| {}).unwrap().is_ok());
    let forked = Position { checksum: Checksum::from_crc(5), ..head };
    let report = verify(&history.replica, knows(forked), &mut |_| {}).unwrap();
    assert_eq!(problems(&report), (vec![Trouble::Lost], Some(29)));
    let mut verifier = Verifier::new(options(&folder));
    while verifier.step(&history.replica, 1).unwrap() {}
    for (at, to) in [(Level::CAPTURED, range(30, 30)), (level(1), range(28, 30))] {
        history.delete(at, to);
    }
    assert!(look(&folder, &history).is_ok(), "nothing in the replica tells");
    let report = verify(&history.replica, knows(head), &mut |_| {}).unwrap();
    assert_eq!(problems(&report), (vec![Trouble::Lost], Some(29)));
    verifier.refresh(&history.replica).unwrap();
    assert_eq!(problems(&verifier.report()).0, [Trouble::Lost], "who read it remembers");
}

#[test]
fn steps_read_what_is_new_and_nothing_twice() {
    let (folder, beside) = (Folder::new(), Folder::new());
    let all = history(&beside, PLAN);
    let replica = FileReplica::at_or_create(folder.path().join("r")).unwrap();
    let mut verifier = Verifier::new(options(&folder));
    assert_eq!(verifier.step(&replica, 1).unwrap_err().kind(), Kind::NotFound);
    let history = History { replica, images: all.images.clone(), posts: all.posts.clone() };
    let mut files = all.replica.list_all().unwrap();
    // Merged files and snapshots come after the state has passed them.
    files.sort_by_key(|file| (file.range.max.get() + 4 * u64::from(file.level.get()), file.level));
    let mut read = 0;
    for file in files {
        std::fs::create_dir_all(history.path(&file).parent().unwrap()).unwrap();
        std::fs::write(history.path(&file), all.bytes(&file)).unwrap();
        verifier.refresh(&history.replica).unwrap();
        assert!(!verifier.step(&history.replica, 1).unwrap());
        read += 1;
        let report = verifier.report();
        assert_eq!(report.files, read);
        assert!(report.is_ok(), "{:?}", report.findings);
    }
    assert_eq!(verifier.verified_txid(), Some(txid(30)));
    assert_eq!(verifier.report().merges, 13);
    history.retire(29, 14);
    verifier.refresh(&history.replica).unwrap();
    assert!(!verifier.step(&history.replica, 1).unwrap());
    assert_eq!((verifier.report().files, verifier.report().findings), (read, vec![]));
}

#[test]
fn a_finding_goes_with_its_file() {
    let folder = Folder::new();
    let history = history(&folder, PLAN);
    let file = history.find(Level::SNAPSHOT, range(1, 14));
    let whole = history.bytes(&file);
    std::fs::write(history.path(&file), &whole[1..]).unwrap();
    let mut verifier = Verifier::new(options(&folder));
    while verifier.step(&history.replica, 1).unwrap() {}
    assert_eq!(problems(&verifier.report()), (vec![Trouble::Damage], Some(13)));
    std::fs::write(history.path(&file), &whole).unwrap();
    verifier.refresh(&history.replica).unwrap();
    while verifier.step(&history.replica, 1).unwrap() {}
    assert_eq!(problems(&verifier.report()), (vec![], Some(30)));
}

#[test]
fn a_verifier_may_live_on_another_thread() {
    fn can_move<T: Send>(_: T) {}
    can_move(Verifier::new(options(&Folder::new())));
}

#[test]
fn files_that_retention_takes_under_way_are_no_finding() {
    let folder = Folder::new();
    let history = history(&folder, PLAN);
    let mut verifier = Verifier::new(options(&folder));
    verifier.step(&history.replica, 1).unwrap();
    history.retire(20, 5);
    while verifier.step(&history.replica, 1).unwrap() {}
    let report = verifier.report();
    assert!(report.is_ok(), "{:?}", report.findings);
    assert_eq!(verifier.verified_txid(), Some(txid(30)));
}
