//! What the names of a replica's files tell, without reading one. Pure.
//!
//! A *base* is a file that starts at txid 1. From the oldest one on, every txid must be in a file of the levels 0 to 8.
//! Each level above 0 holds no less than the levels above it, back to that base: retention removes what lies below a
//! base, oldest first. Level 0 begins anywhere, has no hole, and reaches to the newest txid.

use super::report::{Finding, Trouble, called};
use crate::types::{FileInfo, Level, Txid, TxidRange};
use std::collections::HashSet;

/// What was found, and the level-0 files that count as no history by their names alone.
#[derive(Debug, Default)]
pub struct Examined {
    pub findings: Vec<Finding>,
    pub leftovers: HashSet<TxidRange>,
}

/// Looks at every file of a replica, sorted by range.
pub fn examine(files: &[FileInfo]) -> Examined {
    let mut examined = Examined::default();
    if let Some(newest) = files.iter().map(|file| file.range.max).max() {
        overlaps(files, &mut examined);
        level_0(files, newest, &mut examined);
        coverage(files, &mut examined);
    }
    examined
}

fn overlaps(files: &[FileInfo], examined: &mut Examined) {
    for level in Level::all().filter(|level| *level != Level::SNAPSHOT) {
        let files = files.iter().filter(|file| file.level == level);
        let mut furthest: Option<&FileInfo> = None;
        for file in files {
            if let Some(before) = furthest.filter(|before| file.range.min <= before.range.max) {
                let what = format!("{} overlaps {}", called(file), called(before));
                let remedy = "two writers merged at once: nothing needs to be done";
                examined.findings.push(Finding::notice(Trouble::Overlap, what, remedy).about(file));
            }
            furthest = furthest.filter(|before| before.range.max >= file.range.max).or(Some(file));
        }
    }
}

/// Holes and leftovers of level 0, and whether it ends where the replica does.
fn level_0(files: &[FileInfo], newest: Txid, examined: &mut Examined) {
    let files: Vec<&FileInfo> = files.iter().filter(|file| file.level == Level::CAPTURED).collect();
    let Some(end) = files.iter().map(|file| file.range.max).max() else {
        let what = "level 0 holds no file".to_owned();
        let remedy = "right for a copy made by merging; a replica that is written to keeps its newest two";
        return examined.findings.push(Finding::notice(Trouble::Lost, what, remedy));
    };
    if end < newest {
        let what = format!(
            "level 0 ends at txid {end}, the replica at {newest}: the newest files of level 0 are gone"
        );
        let remedy = "take a snapshot (or replicate into an empty place) before anything else is lost";
        examined.findings.push(Finding::problem(Trouble::Lost, what, remedy).spoiling(end.next()));
    }
    // How far the files up to each, by min, reach.
    let reach: Vec<Txid> = files
        .iter()
        .scan(Txid::FIRST, |reach, file| {
            *reach = file.range.max.max(*reach);
            Some(*reach)
        })
        .collect();
    for file in files.iter().filter(|file| file.range.max < end) {
        let follows = file.range.max.next();
        if reach[files.partition_point(|next| next.range.min <= follows) - 1] >= follows {
            continue;
        }
        examined.leftovers.insert(file.range);
        let next = files.iter().map(|next| next.range.min).filter(|min| *min > follows).min();
        let until = next.and_then(Txid::previous).unwrap_or(follows);
        let continues =
            file.range.min.previous().is_some_and(|before| files.iter().any(|f| f.range.max == before));
        let (trouble, what) = if continues {
            let missing = missing(follows, until);
            (
                Trouble::Gap,
                format!("{missing} missing in level 0 after {}: somebody deleted them", called(file)),
            )
        } else {
            let why = "is followed by no level-0 file: it is the leftover of a writer that came too late, or its \
                       neighbours were deleted";
            (Trouble::Leftover, format!("{} {why}", called(file)))
        };
        let remedy = "restores pass it over; retention removes it";
        examined.findings.push(Finding::problem(trouble, what, remedy).about(file));
    }
}

fn missing(from: Txid, to: Txid) -> String {
    if from == to { format!("txid {from} is") } else { format!("txids {from} to {to} are") }
}

/// Holes in what each level and those below it hold.
fn coverage(files: &[FileInfo], examined: &mut Examined) {
    let bases = files.iter().filter(|file| file.range.min == Txid::FIRST);
    let Some(base) = bases.min_by_key(|file| file.range.max) else {
        let what =
            "no file starts at txid 1: there is nothing to build on, nothing can be restored".to_owned();
        let remedy = "replicate into an empty place, and keep this one for what may be read by hand";
        return examined.findings.push(Finding::problem(Trouble::Gap, what, remedy).spoiling(Txid::FIRST));
    };
    let mut seen = HashSet::new();
    for level in (1..=8).rev().filter_map(Level::new) {
        let is_all = level.get() == 8;
        if !is_all && !files.iter().any(|file| file.level == level) {
            continue;
        }
        let history = files.iter().filter(|file| file.level <= level && !is_leftover(file, examined));
        for hole in holes(base.range.max, history) {
            if seen.insert(hole) {
                let finding = hole_finding(files, hole, level, is_all);
                examined.findings.push(finding);
            }
        }
    }
}

fn is_leftover(file: &FileInfo, examined: &Examined) -> bool {
    file.level == Level::CAPTURED && examined.leftovers.contains(&file.range)
}

/// What files, sorted by min, leave out after `end`.
fn holes<'a>(end: Txid, files: impl Iterator<Item = &'a FileInfo>) -> Vec<TxidRange> {
    let (mut end, mut holes) = (end, Vec::new());
    for file in files {
        if file.range.min > end.next() {
            holes.extend(file.range.min.previous().and_then(|last| TxidRange::new(end.next(), last)));
        }
        end = end.max(file.range.max);
    }
    holes
}

fn hole_finding(files: &[FileInfo], hole: TxidRange, level: Level, is_all: bool) -> Finding {
    let missing = missing(hole.min, hole.max);
    let over = files
        .iter()
        .find(|file| file.level > level && file.range.min <= hole.min && file.range.max == hole.max);
    let wider = files
        .iter()
        .any(|file| file.level > level && file.range.min <= hole.min && file.range.max > hole.max);
    match over {
        Some(over) => {
            let what = format!("{missing} nowhere but in {}", called(over));
            Finding::notice(Trouble::Gap, what, "only its end can be restored")
        }
        None if is_all => {
            let what = match wider {
                true => {
                    format!("{missing} missing; what follows cannot be restored before the next snapshot")
                }
                false => format!("{missing} missing; nothing after can be restored"),
            };
            let remedy = "take a snapshot, so that the newest state can be restored";
            Finding::problem(Trouble::Gap, what, remedy).spoiling(hole.min)
        }
        None => {
            let what = format!("{missing} missing in level {level}, though kept in higher ones");
            Finding::problem(Trouble::Gap, what, "those states cannot be restored on their own any more")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Grade;
    use super::*;
    use crate::types::{Identity, Timestamp};

    fn look(files: &[(u8, u64, u64)]) -> Vec<(Grade, Trouble, Option<u64>)> {
        let txid = |n| Txid::new(n).unwrap();
        let mut files: Vec<FileInfo> = files
            .iter()
            .map(|&(level, min, max)| FileInfo {
                level: Level::new(level).unwrap(),
                range: TxidRange::new(txid(min), txid(max)).unwrap(),
                size: 1,
                created_at: Timestamp(0),
                identity: Identity::File { device: 0, inode: 0, changed_ns: 0, modified_ns: 0 },
            })
            .collect();
        files.sort_by_key(|file| file.range);
        let found = examine(&files).findings;
        found.iter().map(|f| (f.grade, f.trouble, f.spoils.map(Txid::get))).collect()
    }

    use Grade::{Notice, Problem};
    use Trouble::{Gap, Leftover, Lost, Overlap};

    #[test]
    fn what_retention_leaves_is_right() {
        for files in [
            &[][..],
            &[(0, 1, 1), (0, 2, 2)],
            &[(9, 1, 3), (1, 4, 20), (9, 1, 15), (0, 16, 16), (0, 17, 17), (0, 18, 18), (0, 19, 21)],
            &[(9, 1, 10), (2, 4, 12), (1, 11, 12), (1, 13, 15), (0, 14, 14), (0, 15, 15), (0, 16, 16)],
            &[(1, 1, 5), (0, 5, 5), (0, 6, 6)],
        ] {
            assert_eq!(look(files), [], "{files:?}");
        }
    }

    #[test]
    fn holes_are_told_apart_by_what_they_cost() {
        assert_eq!(
            look(&[(9, 1, 3), (0, 4, 4), (0, 5, 5), (0, 7, 7)]),
            [(Problem, Gap, None), (Problem, Gap, Some(5)),]
        );
        assert_eq!(look(&[(9, 1, 3), (0, 5, 5), (0, 6, 6)]), [(Problem, Gap, Some(4))]);
        assert_eq!(look(&[(9, 1, 3), (9, 1, 6), (0, 7, 7)]), [(Notice, Gap, None)], "snapshots only");
        let merged = &[(9, 1, 3), (2, 4, 10), (1, 8, 10), (0, 10, 10), (0, 11, 11)];
        assert_eq!(look(merged), [(Problem, Gap, None)], "state 7 was there once");
        assert_eq!(look(&[(0, 2, 2), (0, 3, 3)]), [(Problem, Gap, Some(1))], "no base");
    }

    #[test]
    fn level_0_reaches_the_end_and_has_no_leftovers() {
        let merged = (9, 1, 13);
        assert_eq!(look(&[merged, (0, 11, 11), (0, 14, 14)]), [(Problem, Leftover, None)]);
        assert_eq!(look(&[merged, (0, 11, 11), (0, 12, 12)]), [(Problem, Lost, Some(13))]);
        assert_eq!(look(&[merged]), [(Notice, Lost, None)]);
        assert_eq!(look(&[(1, 1, 5), (1, 4, 6), (0, 6, 6)]), [(Notice, Overlap, None)]);
    }
}
