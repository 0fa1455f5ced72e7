//! What is to be merged, decided from listings.
//!
//! A merged file takes up where its level ends and holds everything of its source up to the next tick. So two keepers of one
//! replica make files of the same range, whenever they look, and after hours without one each tick can still be
//! restored. Where the source has a hole the file ends before it, and
//! the next one begins after it: the way through then leads over another level.

use std::cmp::Reverse;
use std::time::Duration;

use super::levels::{Rung, next_tick};
use crate::types::{FileInfo, Level, Timestamp, Txid};

/// Sources of one merged file at most: what is behind further than that becomes several.
pub const STEPS_MAX: usize = 4096;

/// Files that become one at `level`, oldest first; each continues the one before it or overlaps with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merge {
    pub level: Level,
    pub steps: Vec<FileInfo>,
    /// The level-0 file after the last step, which proves that step to be history.
    pub next: Option<FileInfo>,
}

/// The next file of a level, if there is enough for one. `listing` holds at least the files of both of its levels; what ends
/// past `newest`, the last acknowledged txid, takes no part. O(files * log files).
pub fn next_merge(listing: &[FileInfo], rung: Rung, newest: Txid, now: Timestamp) -> Option<Merge> {
    let end = end_of(listing, rung.level);
    let mut sources: Vec<&FileInfo> =
        listing.iter().filter(|f| f.level == rung.source && f.range.max <= newest).collect();
    sources.sort_by_key(|f| (f.range.min, Reverse(f.range.max)));
    let steps = walk(end, &sources, rung.interval, now);
    let last = steps.last()?.range.max;
    let next = sources.iter().find(|f| f.range.min == last.next()).filter(|_| rung.source == Level::CAPTURED);
    Some(Merge { level: rung.level, next: next.map(|f| **f), steps })
}

/// The last txid that a level holds; 0: it is empty.
pub fn end_of(listing: &[FileInfo], level: Level) -> u64 {
    listing.iter().filter(|f| f.level == level).map(|f| f.range.max.get()).max().unwrap_or(0)
}

/// From `end` on as far as the sources lead without a hole, up to the first tick after the first of them; nothing before
/// that tick has come.
fn walk(end: u64, sources: &[&FileInfo], interval: Duration, now: Timestamp) -> Vec<FileInfo> {
    let mut steps: Vec<FileInfo> = Vec::new();
    let mut end = end;
    for file in sources.iter().copied().filter(|f| f.range.max.get() > end).collect::<Vec<_>>() {
        if file.range.max.get() <= end {
            continue;
        }
        let until = next_tick(steps.first().unwrap_or(file).created_at, interval);
        let is_gap = file.range.min.get() > end + 1;
        if file.created_at >= until
            || until > now
            || steps.len() == STEPS_MAX
            || (is_gap && !steps.is_empty())
        {
            break;
        }
        end = file.range.max.get();
        steps.push(*file);
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::sample::listed;

    const NOW: Timestamp = Timestamp(60_000);

    fn rung(source: u8, level: u8) -> Rung {
        let level_of = |level| Level::new(level).unwrap();
        Rung { source: level_of(source), level: level_of(level), interval: Duration::from_secs(30) }
    }

    /// The steps, and where the file after them begins.
    type Found = (Vec<(u64, u64)>, Option<u64>);

    /// Files as (level, min, max, made at), and what becomes one of them.
    fn merged(files: &[(u8, u64, u64, i64)], rung: Rung, newest: u64) -> Option<Found> {
        let listing: Vec<FileInfo> = files.iter().map(|&(l, min, max, at)| listed(l, min, max, at)).collect();
        next_merge(&listing, rung, Txid::new(newest).unwrap(), NOW).map(|merge| {
            assert_eq!(merge.level, rung.level);
            let steps = merge.steps.iter().map(|f| (f.range.min.get(), f.range.max.get())).collect();
            (steps, merge.next.map(|f| f.range.min.get()))
        })
    }

    #[test]
    fn a_file_holds_what_came_before_the_tick_and_is_acknowledged() {
        let files = [(0, 1, 1, 30_000), (0, 2, 2, 59_999), (0, 3, 3, 60_000), (0, 4, 4, 60_001)];
        assert_eq!(merged(&files, rung(0, 1), 9), Some((vec![(1, 1), (2, 2)], Some(3))));
        assert_eq!(
            merged(&files, rung(0, 1), 1),
            Some((vec![(1, 1)], None)),
            "2 is not acknowledged, and proves nothing"
        );
        assert_eq!(merged(&files[2..], rung(0, 1), 9), None);
        let late = [(0, 1, 1, 10), (0, 2, 2, 29_999), (0, 3, 3, 30_000), (0, 4, 4, 31_000)];
        assert_eq!(merged(&late, rung(0, 1), 9), Some((vec![(1, 1), (2, 2)], Some(3))), "one tick at a time");
        assert_eq!(merged(&[], rung(0, 1), 9), None);
    }

    #[test]
    fn a_file_takes_up_where_its_level_ends() {
        let files = [(0, 3, 3, 1), (0, 4, 4, 2), (0, 5, 5, 3), (1, 1, 4, 2)];
        assert_eq!(merged(&files, rung(0, 1), 9), Some((vec![(5, 5)], None)));
        assert_eq!(
            merged(&files[..2], rung(0, 1), 9),
            Some((vec![(3, 3), (4, 4)], None)),
            "an empty level begins anywhere"
        );
        assert_eq!(merged(&[(1, 1, 4, 2), (1, 5, 8, 3)], rung(1, 2), 9), Some((vec![(1, 4), (5, 8)], None)));
        assert_eq!(
            merged(&[(1, 3, 8, 2), (2, 1, 4, 1)], rung(1, 2), 9),
            Some((vec![(3, 8)], None)),
            "a source that straddles"
        );
        assert_eq!(merged(&[(1, 1, 4, 2), (2, 1, 4, 1)], rung(1, 2), 9), None);
    }

    #[test]
    fn a_file_ends_before_a_hole_and_the_next_begins_after_it() {
        let files = [(0, 1, 1, 1), (0, 2, 2, 1), (0, 4, 4, 1), (0, 5, 5, 1)];
        assert_eq!(merged(&files, rung(0, 1), 9), Some((vec![(1, 1), (2, 2)], None)));
        let files = [&files[..], &[(1, 1, 2, 1)]].concat();
        assert_eq!(merged(&files, rung(0, 1), 9), Some((vec![(4, 4), (5, 5)], None)));
    }

    #[test]
    fn what_is_far_behind_becomes_several_files() {
        let mut files: Vec<_> = (1..=STEPS_MAX as u64 + 7).map(|n| (0, n, n, 1)).collect();
        let (steps, next) = merged(&files, rung(0, 1), u32::MAX.into()).unwrap();
        assert_eq!((steps.len(), next), (STEPS_MAX, Some(STEPS_MAX as u64 + 1)));
        files.push((1, 1, STEPS_MAX as u64, 1));
        assert_eq!(merged(&files, rung(0, 1), u32::MAX.into()).unwrap().0.len(), 7);
    }
}
