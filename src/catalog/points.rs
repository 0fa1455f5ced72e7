//! Every state that a replica can give back.
//!
//! A txid is restorable when a file ends there and files without a gap lead to it from txid 1. Level-0 files that the
//! listing alone shows to be leftovers (rule 2 of the protocol, [`super::chain`]) do not count; that the others link,
//! only their reader can tell.
//!
//! A merged file carries the time of its last input, so that every file which ends at a txid says the same, but for
//! Litestream's snapshots, which carry the time they were taken at. A state is therefore never younger than any file that
//! ends there says, nor than the states after it are.
//!
//! What a restore reads is summed up on the way, for all points in one pass: the chain to a state is the chain to the one before
//! it, up to where the longest file that ends there can go on, and that file; a snapshot begins anew.

use super::chain::Captured;
use crate::types::{FileInfo, Level, Timestamp, Txid};
use std::cmp::Reverse;

/// A state that can be restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    pub txid: Txid,
    /// The file of the lowest level that ends there, which tells its time best and how long it stays.
    pub file: FileInfo,
    /// The snapshot that the way there starts at; `None` where lower levels reach back to txid 1.
    pub snapshot: Option<Txid>,
    /// Stored bytes of the files that a restore of it reads, at most: of the whole files of its chain
    /// ([`super::chain_to`]), though of large ones the pages that a later file has are left out.
    pub bytes: u64,
}

/// A txid at which files of the history end.
pub(super) struct End {
    pub txid: Txid,
    /// Of the lowest level.
    pub file: FileInfo,
    /// The one that a chain would take: the longest, of those the one of the highest level, then the oldest.
    pub longest: FileInfo,
    pub is_snapshot: bool,
}

/// Where files end that can be part of a chain, by txid.
pub(super) fn ends(listing: &[FileInfo]) -> Vec<End> {
    let captured = Captured::new(listing);
    let counts = |file: &&FileInfo| match file.level {
        Level::SNAPSHOT => file.range.min == Txid::FIRST,
        _ => captured.is_history(file),
    };
    let mut files: Vec<&FileInfo> = listing.iter().filter(counts).collect();
    files.sort_by_key(|file| (file.range.max, file.level, file.range.min));
    let mut ends: Vec<End> = Vec::new();
    for file in files {
        let is_snapshot = file.level == Level::SNAPSHOT;
        match ends.last_mut().filter(|end| end.txid == file.range.max) {
            Some(end) => {
                if longer(file) > longer(&end.longest) {
                    end.longest = *file;
                }
                end.is_snapshot |= is_snapshot;
            }
            None => {
                ends.push(End { txid: file.range.max, file: *file, longest: *file, is_snapshot });
            }
        }
    }
    ends
}

/// Longest, then highest, then oldest.
fn longer(file: &FileInfo) -> impl Ord {
    (Reverse(file.range.min), file.level, Reverse(file.created_at))
}

/// Every restorable state, oldest first. `listing` as for [`super::chain_to`]. O(files * log files), no I/O.
pub fn points(listing: &[FileInfo]) -> Vec<Point> {
    let mut points: Vec<Point> = Vec::new();
    let mut snapshot = None;
    // The chain to the last point: where each of its files ends, and the bytes up to there.
    let mut chain = vec![(0, 0u64)];
    for end in ends(listing) {
        let reached = points.last().map_or(0, |point| point.txid.get());
        let min = end.longest.range.min.get();
        if min > reached + 1 {
            continue;
        }
        if end.is_snapshot {
            snapshot = Some(end.txid);
            chain.clear();
        } else {
            let continued = chain.partition_point(|&(step, _)| step + 1 < min);
            chain.truncate(continued + 1);
        }
        let before = chain.last().map_or(0, |&(_, bytes)| bytes);
        let bytes = before.saturating_add(end.longest.size);
        chain.push((end.txid.get(), bytes));
        points.push(Point { txid: end.txid, file: end.file, snapshot, bytes });
    }
    points
}

/// The time of each point, given what the file of each says.
pub fn moments(said: &[Timestamp]) -> Vec<Timestamp> {
    let mut moments = said.to_vec();
    for at in (1..moments.len()).rev() {
        moments[at - 1] = moments[at - 1].min(moments[at]);
    }
    moments
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{Target, chain_to};
    use crate::ltx::sample::Random;
    use crate::types::{Identity, TxidRange};

    fn listing(files: &[(u8, u64, u64)]) -> Vec<FileInfo> {
        let txid = |n| Txid::new(n).unwrap();
        let info = |&(level, min, max)| FileInfo {
            level: Level::new(level).unwrap(),
            range: TxidRange::new(txid(min), txid(max)).unwrap(),
            // A sum tells which files are in it.
            size: u64::from(level) * 1_000_003 + min * 10_007 + max * 101,
            created_at: Timestamp(max as i64),
            identity: Identity::File { device: 0, inode: 0, changed_ns: 0, modified_ns: 0 },
        };
        files.iter().map(info).collect()
    }

    fn found(files: &[(u8, u64, u64)]) -> Vec<(u64, u8, Option<u64>)> {
        let shown = |p: &Point| (p.txid.get(), p.file.level.get(), p.snapshot.map(Txid::get));
        points(&listing(files)).iter().map(shown).collect()
    }

    #[test]
    fn every_end_that_files_lead_to_is_a_point() {
        let files =
            [(0, 9, 9), (0, 10, 10), (0, 11, 11), (1, 4, 7), (1, 8, 10), (2, 4, 10), (9, 1, 3), (9, 1, 9)];
        let (three, nine) = (Some(3), Some(9));
        assert_eq!(found(&files), [(3, 9, three), (7, 1, three), (9, 0, nine), (10, 0, nine), (11, 0, nine)]);
        assert_eq!(found(&[(0, 1, 1), (0, 2, 2)]), [(1, 0, None), (2, 0, None)]);
        assert_eq!(found(&[]), []);
    }

    #[test]
    fn what_has_nothing_to_build_on_is_none() {
        assert_eq!(
            found(&[(1, 2, 3), (1, 4, 7), (9, 1, 9), (0, 10, 10)]),
            [(9, 9, Some(9)), (10, 0, Some(9))]
        );
        assert_eq!(
            found(&[(9, 1, 3), (0, 4, 4), (0, 5, 5), (0, 7, 7), (0, 8, 8)]),
            [(3, 9, Some(3)), (4, 0, Some(3))],
            "nothing past a gap"
        );
        assert_eq!(found(&[(9, 3, 5), (0, 6, 6)]), [], "a snapshot starts at 1");
        assert_eq!(
            found(&[(9, 1, 10), (0, 11, 11), (2, 1, 20), (0, 19, 19), (0, 20, 20)]),
            [(10, 9, Some(10)), (20, 0, Some(10))],
            "a level-0 file without a successor is a leftover"
        );
    }

    /// The same question asked in another way: a txid is a point exactly when a chain leads to it, and its bytes are those
    /// of that chain.
    #[test]
    fn points_are_what_chains_lead_to() {
        let mut random = Random::new(1);
        let mut next = |below: u64| random.below(below);
        for _ in 0..2000 {
            let count = next(12) as usize + 1;
            let files: Vec<_> = (0..count)
                .map(|_| match next(3) {
                    0 => (9, 1, next(12) + 1),
                    1 => {
                        let txid = next(12) + 1;
                        (0, txid, txid)
                    }
                    _ => {
                        let min = next(10) + 1;
                        (next(3) as u8 + 1, min, min + next(4))
                    }
                })
                .collect();
            let files = listing(&files);
            let points = points(&files);
            for n in 1..=16 {
                let txid = Txid::new(n).unwrap();
                let point = points.iter().find(|point| point.txid == txid);
                let chain = chain_to(&files, Target::Txid(txid));
                let bytes = chain.as_ref().map(|chain| chain.steps.iter().map(|step| step.size).sum());
                assert_eq!(point.map(|point| point.bytes), bytes.ok(), "txid {n} of {files:?}: {chain:?}");
            }
        }
    }

    #[test]
    fn a_state_is_not_younger_than_those_after_it() {
        let said = [10, 90, 30, 30, 95, 40].map(Timestamp);
        assert_eq!(moments(&said), [10, 30, 30, 30, 40, 40].map(Timestamp));
        assert_eq!(moments(&[]), []);
    }
}
