//! What may be deleted, decided from one listing of all levels.
//!
//! | Level | A file goes when | and stays |
//! |---|---|---|
//! | 0 | it is as old as `replica_l0_retention`, and a chain of higher levels from txid 1 reaches its end | the two newest; everything after one that stays |
//! | 1 to 8 | the *base* reaches its end, and a chain of higher levels does too | everything after the base; the newest, by which the level goes on |
//! | 9 | it ends before the base | the base and all after it |
//!
//! The base is the newest snapshot that is at least `replica_retention` old: with it and what comes after it each moment of
//! that window can be restored. (To delete every snapshot that is older than the window would leave, just after a new
//! one, hardly any window.) Without one nothing above level 0 goes.
//!
//! Ages are by the store's clock, of when it took the object; never by a local clock or by what a header says. Level 0 goes in
//! ascending order, one confirmed before the next, so that who finds N+1 gone finds N gone too: writers and readers lean on
//! it. Then goes what starts at txid 1, then the rest, so that a run which breaks off looks like no damage. Nothing is deleted because of a file of the same or a lower level, so two that delete by different listings never
//! rely on what the other removes.

use std::collections::HashSet;
use std::time::Duration;

use crate::catalog::{Target, chain_to};
use crate::types::{FileInfo, Identity, Level, Timestamp, Txid, TxidRange};

/// How long files stay; zero: for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    pub l0: Duration,
    pub window: Duration,
}

/// When the store took an object, by its own clock; `None`: it did not say.
pub fn stored_at(file: &FileInfo) -> Option<Timestamp> {
    match file.identity {
        Identity::File { changed_ns, .. } => Some(Timestamp((changed_ns / 1_000_000) as i64)),
        Identity::Stored { modified, .. } => modified,
    }
}

/// The files that may go, in the order in which they must. `listing` is of all levels, `now` of the store's clock.
///
/// A replica whose newest state is in no listed chain loses nothing.
pub fn expired(listing: &[FileInfo], policy: Policy, now: Timestamp) -> Vec<FileInfo> {
    let Ok(chain) = chain_to(listing, Target::Newest) else { return Vec::new() };
    let mut gone = expired_captures(listing, policy.l0, now);
    if let Some(base) = base(listing, policy.window, now) {
        gone.extend(expired_merged(listing, &base));
    }
    let names: HashSet<(Level, TxidRange)> = gone.iter().map(|f| (f.level, f.range)).collect();
    let left: Vec<FileInfo> =
        listing.iter().filter(|f| !names.contains(&(f.level, f.range))).copied().collect();
    let after = chain_to(&left, Target::Newest).map(|after| after.end());
    assert!(
        after.as_ref().ok() == Some(&chain.end()),
        "BUG: retention would lose txid {}: {after:?}",
        chain.end()
    );
    gone
}

/// When the next file may go, if nothing more is written; `None`: none will by its age alone. What did not say when it was
/// stored was stored `now`.
pub fn next_expiry(listing: &[FileInfo], policy: Policy, now: Timestamp) -> Option<Timestamp> {
    let after = |file: &FileInfo, age: Duration| later(stored_at(file).unwrap_or(now), age);
    let captures = by_min(listing, Level::CAPTURED);
    let reached = reach(listing, Level::CAPTURED);
    let oldest = captures.iter().rev().skip(2).next_back().filter(|f| f.range.max.get() <= reached);
    let capture = oldest.filter(|_| !policy.l0.is_zero()).map(|f| after(f, policy.l0));
    // The next snapshot that becomes the base lets go what is before it.
    let lets_go = |snapshot: &FileInfo| !expired_merged(listing, snapshot).is_empty();
    let snapshots = listing.iter().filter(|f| f.level == Level::SNAPSHOT && lets_go(f));
    let merged = snapshots.filter(|_| !policy.window.is_zero()).map(|f| after(f, policy.window)).min();
    capture.into_iter().chain(merged).min()
}

fn later(at: Timestamp, age: Duration) -> Timestamp {
    Timestamp(at.0.saturating_add(i64::try_from(age.as_millis()).unwrap_or(i64::MAX)))
}

fn is_old(file: &FileInfo, age: Duration, now: Timestamp) -> bool {
    !age.is_zero() && stored_at(file).is_some_and(|at| later(at, age) <= now)
}

fn by_min(listing: &[FileInfo], level: Level) -> Vec<FileInfo> {
    let mut files: Vec<FileInfo> = listing.iter().filter(|f| f.level == level).copied().collect();
    files.sort_by_key(|f| f.range);
    files
}

/// How far files above `level` lead from txid 1 without a hole; 0: nowhere.
fn reach(listing: &[FileInfo], level: Level) -> u64 {
    let mut above: Vec<&FileInfo> = listing.iter().filter(|f| f.level > level).collect();
    above.sort_by_key(|f| f.range.min);
    above.iter().fold(0, |end, f| if f.range.min.get() <= end + 1 { end.max(f.range.max.get()) } else { end })
}

fn expired_captures(listing: &[FileInfo], age: Duration, now: Timestamp) -> Vec<FileInfo> {
    let captures = by_min(listing, Level::CAPTURED);
    let reached = reach(listing, Level::CAPTURED);
    let older = &captures[..captures.len().saturating_sub(2)];
    older.iter().take_while(|f| f.range.max.get() <= reached && is_old(f, age, now)).copied().collect()
}

fn base(listing: &[FileInfo], window: Duration, now: Timestamp) -> Option<FileInfo> {
    let snapshots = listing.iter().filter(|f| f.level == Level::SNAPSHOT && is_old(f, window, now));
    snapshots.max_by_key(|f| f.range.max).copied()
}

/// What goes because `base` is the base.
fn expired_merged(listing: &[FileInfo], base: &FileInfo) -> Vec<FileInfo> {
    let mut gone: Vec<FileInfo> = Vec::new();
    for level in Level::all().filter(|&level| level != Level::CAPTURED) {
        let reached = reach(listing, level);
        let files = by_min(listing, level);
        let newest = files.iter().map(|f| f.range.max).max();
        let is_below = |f: &&FileInfo| match level {
            Level::SNAPSHOT => f.range.max < base.range.max,
            _ => f.range.max <= base.range.max && f.range.max.get() <= reached && Some(f.range.max) != newest,
        };
        gone.extend(files.iter().filter(is_below));
    }
    // What something can be built on first, the oldest first: wherever this breaks off, all that comes after the oldest
    // state that is left can be restored.
    gone.sort_by_key(|f| (f.range.min != Txid::FIRST, f.range.max));
    gone
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::sample::listed;

    const POLICY: Policy = Policy { l0: Duration::from_secs(300), window: Duration::from_secs(86_400) };

    /// Files as (level, min, max, stored at, in seconds), and which go at `now`, in order.
    fn gone(files: &[(u8, u64, u64, i64)], now: i64, policy: Policy) -> Vec<(u8, u64, u64)> {
        let listing: Vec<FileInfo> =
            files.iter().map(|&(l, min, max, at)| listed(l, min, max, at * 1000)).collect();
        let gone = expired(&listing, policy, Timestamp(now * 1000));
        gone.iter().map(|f| (f.level.get(), f.range.min.get(), f.range.max.get())).collect()
    }

    #[test]
    fn captured_files_go_oldest_first_when_they_are_merged_and_old() {
        let captured: Vec<_> = (1..=6).map(|n| (0, n, n, n as i64)).collect();
        let merged = [&captured[..], &[(1, 1, 3, 4), (1, 4, 6, 7)]].concat();
        assert_eq!(
            gone(&merged, 304, POLICY),
            [(0, 1, 1), (0, 2, 2), (0, 3, 3), (0, 4, 4)],
            "the two newest stay"
        );
        assert_eq!(gone(&merged, 302, POLICY), [(0, 1, 1), (0, 2, 2)], "3 is too young");
        assert_eq!(gone(&merged[..7], 999, POLICY), [(0, 1, 1), (0, 2, 2), (0, 3, 3)], "4 is not merged");
        assert_eq!(gone(&captured, 999, POLICY), []);
        let young = [&[(0, 1, 1, 900)], &merged[1..]].concat();
        assert_eq!(gone(&young, 999, POLICY), [], "what comes after one that stays stays too");
        assert_eq!(gone(&merged, 999, Policy { l0: Duration::ZERO, ..POLICY }), [], "zero is for ever");
    }

    #[test]
    fn captured_files_stay_where_no_higher_level_leads_there_from_the_beginning() {
        let files = [(0, 3, 3, 1), (0, 4, 4, 1), (0, 5, 5, 1), (0, 6, 6, 1), (9, 1, 2, 1), (1, 4, 6, 1)];
        assert_eq!(gone(&files, 999, POLICY), [], "3 is in no other file");
        let files = [&files[..], &[(2, 2, 3, 1)]].concat();
        assert_eq!(gone(&files, 999, POLICY), [(0, 3, 3), (0, 4, 4)]);
    }

    #[test]
    fn nothing_goes_where_the_newest_state_is_in_no_chain() {
        let files = [(0, 1, 1, 1), (0, 2, 2, 1), (0, 3, 3, 1), (1, 1, 3, 1), (0, 9, 9, 1)];
        assert_eq!(gone(&files, 999, POLICY), []);
    }

    #[test]
    fn base_of_the_window_and_what_comes_after_it_stay() {
        let day = 86_400;
        let files = [
            (9, 1, 10, 0),
            (9, 1, 20, day),
            (9, 1, 30, 2 * day),
            (1, 1, 10, 0),
            (1, 11, 20, day - 9),
            (1, 21, 30, day + 9),
            (1, 31, 40, 2 * day + 9),
            (2, 1, 20, day - 5),
            (2, 21, 40, 2 * day + 10),
            (0, 40, 40, 2 * day),
            (0, 41, 41, 2 * day),
        ];
        assert_eq!(gone(&files, 2 * day - 1, POLICY), [(1, 1, 10)], "the first snapshot is the base");
        assert_eq!(gone(&files, 2 * day, POLICY), [(1, 1, 10), (9, 1, 10), (2, 1, 20), (1, 11, 20)]);
        assert_eq!(gone(&files, 2 * day, Policy { window: Duration::ZERO, ..POLICY }), []);
        let of_larger_end = [&files[..], &[(9, 1, 15, 3 * day)]].concat();
        assert_eq!(
            gone(&of_larger_end, 2 * day, POLICY),
            [(1, 1, 10), (9, 1, 10), (9, 1, 15), (2, 1, 20), (1, 11, 20)],
            "newest is by txid, not by time"
        );
    }

    #[test]
    fn next_expiry_is_when_something_goes() {
        let files = [(0, 1, 1, 1), (0, 2, 2, 2), (0, 3, 3, 3), (1, 1, 3, 4)];
        let listing: Vec<FileInfo> =
            files.iter().map(|&(l, min, max, at)| listed(l, min, max, at * 1000)).collect();
        let next = next_expiry(&listing, POLICY, Timestamp(0)).unwrap();
        assert_eq!(next, Timestamp(301_000));
        assert_eq!(expired(&listing, POLICY, Timestamp(300_999)), []);
        assert_eq!(expired(&listing, POLICY, next).len(), 1);
        assert_eq!(next_expiry(&listing[1..], POLICY, Timestamp(0)), None, "the two newest stay");
    }
}
