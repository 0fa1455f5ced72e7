//! Which files rebuild the database as it was after a txid.
//!
//! The plan is Litestream's: start at the newest snapshot not past the target, then take again and again the
//! file that reaches furthest without a gap and without passing the target. One thing is stricter. A level-0
//! file counts as history only when it is the newest one or the next one exists and links to it (rule 2 of
//! the protocol): a writer that woke up late may have left a false one under a name that retention had freed.
//! That the next exists is seen here; that it links, only a reader of both can tell: [`Chain::links`].

use super::moment::settle;
use super::points::points;
use crate::error::{Error, Result};
use crate::types::{FileInfo, Level, Timestamp, Txid};
use std::cmp::Reverse;

/// A state of the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// After everything in the replica; a gap before it is an error, never a fallback.
    Newest,
    /// After this txid exactly.
    Txid(Txid),
    /// After the last txid that was not captured later than this; past the newest it is the newest.
    At(Timestamp),
}

/// Files that rebuild a database, oldest first; the first starts at txid 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    pub steps: Vec<FileInfo>,
    /// What must be read besides, to know that a level-0 step is history.
    pub links: Vec<Link>,
}

/// A level-0 step and the level-0 file after it, which is not the next step. When both are proven, the pre
/// checksum of `next` must be the post checksum of `step`; else `step` is a leftover: plan without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    pub step: FileInfo,
    pub next: FileInfo,
}

impl Chain {
    /// The txid whose state the chain gives.
    pub fn end(&self) -> Txid {
        self.steps.last().expect("BUG: a chain has a step").range.max
    }
}

/// Chooses the files that rebuild the database exactly as it was after `target`.
///
/// `listing` holds the files of one replica, any order, any level. O(files * log files), no I/O. A time is taken as the
/// listing has it, which in a bucket is the time of the upload: [`settle`] it first where that matters.
///
/// # Errors
/// `NotFound` when no file starts at txid 1, or when the target lies past the newest, inside a merged file (it names the
/// nearest earlier txid that can be restored) or before the first state; `Gap` with the first missing txid.
pub fn chain_to(listing: &[FileInfo], target: Target) -> Result<Chain> {
    let newest = listing.iter().map(|file| file.range.max).max();
    let Some(newest) = newest else { return Err(Error::not_found("the replica holds no LTX files")) };
    let limit = match target {
        Target::Newest => newest,
        Target::Txid(txid) if txid > newest => {
            return Err(Error::not_found(format!(
                "txid {txid} is not in the replica, whose newest is {newest}"
            )));
        }
        Target::Txid(txid) => txid,
        Target::At(_) => {
            let settled = settle(listing, target, &mut |file| Ok(file.created_at))?;
            return chain_to(listing, settled.target);
        }
    };
    let captured = Captured::new(listing);
    let base = listing
        .iter()
        .filter(|file| {
            file.level == Level::SNAPSHOT && file.range.min == Txid::FIRST && file.range.max <= limit
        })
        .max_by_key(|file| file.range.max);
    let mut files: Vec<&FileInfo> = listing
        .iter()
        .filter(|file| file.level != Level::SNAPSHOT && file.range.max <= limit && captured.is_history(file))
        .collect();
    files.sort_by_key(|file| file.range.min);
    let steps = walk(base, &files);
    if steps.last().map(|file| file.range.max) != Some(limit) {
        return Err(unreachable(listing, steps.last(), limit));
    }
    let links = links(&steps, &captured);
    Ok(Chain { steps, links })
}

/// From `base` as far as `files`, which are sorted by min, lead.
fn walk(base: Option<&FileInfo>, files: &[&FileInfo]) -> Vec<FileInfo> {
    let mut steps: Vec<FileInfo> = base.into_iter().copied().collect();
    let mut end = steps.last().map_or(0, |file| file.range.max.get());
    let mut files = files.iter().peekable();
    let mut best: Option<&FileInfo> = None;
    loop {
        while let Some(file) = files.next_if(|file| file.range.min.get() <= end + 1) {
            best = best.into_iter().chain([*file]).max_by_key(|file| reach(file));
        }
        match best {
            Some(file) if file.range.max.get() > end => {
                end = file.range.max.get();
                steps.push(*file);
            }
            _ => return steps,
        }
    }
}

/// Furthest, then longest, then highest, then oldest.
fn reach(file: &FileInfo) -> impl Ord {
    (file.range.max, Reverse(file.range.min), file.level, Reverse(file.created_at))
}

/// The level-0 files of a listing.
pub struct Captured {
    /// By min; beside each the file of the largest max up to here.
    files: Vec<(FileInfo, FileInfo)>,
    newest: Option<Txid>,
}

impl Captured {
    pub fn new(listing: &[FileInfo]) -> Captured {
        let mut files: Vec<FileInfo> =
            listing.iter().filter(|file| file.level == Level::CAPTURED).copied().collect();
        files.sort_by_key(|file| file.range);
        let mut furthest: Option<FileInfo> = None;
        let files: Vec<_> = files
            .into_iter()
            .map(|file| {
                let best = furthest.filter(|best| best.range.max > file.range.max).unwrap_or(file);
                furthest = Some(best);
                (file, best)
            })
            .collect();
        Captured { files, newest: furthest.map(|file| file.range.max) }
    }

    /// The file that continues `file` at its level.
    fn next(&self, file: &FileInfo) -> Option<&FileInfo> {
        let follows = file.range.max.next();
        let count = self.files.partition_point(|(next, _)| next.range.min <= follows);
        let (_, next) = self.files[..count].last()?;
        (next.range.max > file.range.max).then_some(next)
    }

    /// The file that `file` must link to, if it is history and not the newest.
    pub fn linked(&self, file: &FileInfo) -> Option<&FileInfo> {
        self.next(file).filter(|next| next.range.min == file.range.max.next())
    }

    /// Whether a file of the listing, of whatever level, counts as history, as far as names tell.
    pub fn is_history(&self, file: &FileInfo) -> bool {
        file.level != Level::CAPTURED || Some(file.range.max) == self.newest || self.next(file).is_some()
    }
}

fn links(steps: &[FileInfo], captured: &Captured) -> Vec<Link> {
    let mut links = Vec::new();
    for (index, step) in steps.iter().enumerate().filter(|(_, step)| step.level == Level::CAPTURED) {
        if let Some(next) = captured.linked(step).filter(|next| steps.get(index + 1) != Some(next)) {
            links.push(Link { step: *step, next: *next });
        }
    }
    links
}

/// Why `limit` cannot be reached past `last`.
fn unreachable(listing: &[FileInfo], last: Option<&FileInfo>, limit: Txid) -> Error {
    let mut sorted: Vec<&FileInfo> = listing.iter().collect();
    sorted.sort_by_key(|file| file.range.min);
    let start = last.map_or(Txid::FIRST, |file| file.range.max.next());
    let mut missing = start;
    for file in &sorted {
        if file.range.min <= missing && missing <= file.range.max {
            missing = file.range.max.next();
        }
    }
    if let (None, Some(first)) = (last, sorted.first().filter(|file| file.range.min > Txid::FIRST)) {
        return Error::not_found(format!(
            "no file of the replica starts at txid {}, the first begins at {}: there is nothing to build on",
            Txid::FIRST,
            first.range.min
        ));
    }
    if missing <= limit {
        return Error::gap(format!("cannot reach txid {limit}: txid {missing} is missing in the replica"));
    }
    let around = |file: &&&FileInfo| file.range.min <= limit && limit < file.range.max;
    let merged = sorted.iter().filter(around).min_by_key(|file| file.range.max);
    match merged {
        Some(file) => {
            let earlier = points(listing).into_iter().rev().find(|point| point.txid < limit);
            let nearest = earlier.map_or("no earlier one can be restored".to_owned(), |point| {
                format!("the nearest earlier one that can be restored is {}", shown(point.txid))
            });
            Error::not_found(format!(
                "txid {} cannot be restored on its own any more, it was merged into {}: {nearest}, the next later one is {}",
                shown(limit),
                file.range,
                shown(file.range.max)
            ))
        }
        None => Error::gap(format!(
            "cannot reach txid {limit}: no file that belongs to the history holds txid {start}"
        )),
    }
}

/// As a number and as it stands in names.
pub(super) fn shown(txid: Txid) -> String {
    format!("{} ({txid})", txid.get())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::types::{Identity, TxidRange};

    fn file(level: u8, min: u64, max: u64) -> FileInfo {
        FileInfo {
            level: Level::new(level).unwrap(),
            range: TxidRange::new(Txid::new(min).unwrap(), Txid::new(max).unwrap()).unwrap(),
            size: 1,
            created_at: Timestamp(0),
            identity: Identity::File { device: 0, inode: 0, changed_ns: 0, modified_ns: 0 },
        }
    }

    fn listing(files: &[(u8, u64, u64)]) -> Vec<FileInfo> {
        files.iter().map(|&(level, min, max)| file(level, min, max)).collect()
    }

    fn plan(files: &[(u8, u64, u64)], target: Option<u64>) -> Result<Vec<(u8, u64, u64)>> {
        let target = target.map_or(Target::Newest, |txid| Target::Txid(Txid::new(txid).unwrap()));
        let chain = chain_to(&listing(files), target)?;
        Ok(chain.steps.iter().map(|s| (s.level.get(), s.range.min.get(), s.range.max.get())).collect())
    }

    fn refusal(files: &[(u8, u64, u64)], target: Option<u64>) -> (Kind, String) {
        let error = plan(files, target).unwrap_err();
        (error.kind(), error.to_string())
    }

    const REPLICA: &[(u8, u64, u64)] =
        &[(0, 9, 9), (0, 10, 10), (0, 11, 11), (1, 4, 7), (1, 8, 10), (2, 4, 10), (9, 1, 3), (9, 1, 9)];

    #[test]
    fn newest_starts_at_the_newest_snapshot() {
        assert_eq!(plan(REPLICA, None).unwrap(), [(9, 1, 9), (2, 4, 10), (0, 11, 11)]);
    }

    #[test]
    fn a_txid_takes_the_furthest_files_that_do_not_pass_it() {
        assert_eq!(plan(REPLICA, Some(7)).unwrap(), [(9, 1, 3), (1, 4, 7)]);
        assert_eq!(plan(REPLICA, Some(9)).unwrap(), [(9, 1, 9)]);
        assert_eq!(plan(REPLICA, Some(3)).unwrap(), [(9, 1, 3)]);
        assert_eq!(
            plan(&[(9, 1, 3), (0, 3, 3), (0, 4, 4), (0, 5, 5)], Some(4)).unwrap(),
            [(9, 1, 3), (0, 4, 4)]
        );
    }

    #[test]
    fn any_level_may_hold_the_base() {
        assert_eq!(plan(&[(0, 1, 1), (0, 2, 2)], None).unwrap(), [(0, 1, 1), (0, 2, 2)]);
        assert_eq!(plan(&[(0, 1, 1), (0, 2, 2), (1, 1, 2)], None).unwrap(), [(1, 1, 2)]);
        assert_eq!(
            plan(&[(1, 1, 2), (3, 1, 2)], None).unwrap(),
            [(3, 1, 2)],
            "equal ranges: the higher level"
        );
    }

    #[test]
    fn nothing_to_build_on_is_not_found() {
        let (kind, text) = refusal(&[], None);
        assert_eq!((kind, text.as_str()), (Kind::NotFound, "the replica holds no LTX files"));
        let (kind, text) = refusal(&[(0, 2, 2), (0, 3, 3)], None);
        assert_eq!(kind, Kind::NotFound);
        assert!(text.contains("no file of the replica starts at txid 0000000000000001"), "{text}");
        assert_eq!(refusal(&[(9, 3, 5)], None).0, Kind::NotFound, "a snapshot starts at 1");
        assert_eq!(refusal(REPLICA, Some(12)).0, Kind::NotFound);
        assert_eq!(refusal(REPLICA, Some(2)).0, Kind::NotFound, "older than the oldest snapshot");
    }

    #[test]
    fn a_txid_inside_a_merged_file_names_it() {
        let (kind, text) = refusal(REPLICA, Some(6));
        assert_eq!(kind, Kind::NotFound);
        for part in [
            "txid 6 (0000000000000006) cannot be restored on its own any more",
            "merged into 0000000000000004-0000000000000007",
            "nearest earlier one that can be restored is 3 (0000000000000003)",
            "next later one is 7 (0000000000000007)",
        ] {
            assert!(text.contains(part), "{text}");
        }
        let (_, text) = refusal(&[(1, 1, 4), (0, 4, 4), (0, 5, 5)], Some(2));
        assert!(text.contains("no earlier one can be restored, the next later one is 4"), "{text}");
    }

    #[test]
    fn a_gap_names_the_first_missing_txid_and_is_never_a_fallback() {
        let files = &[(9, 1, 3), (0, 4, 4), (0, 5, 5), (0, 7, 7)];
        let (kind, text) = refusal(files, None);
        assert_eq!(kind, Kind::Gap);
        assert!(text.contains("txid 0000000000000006 is missing"), "{text}");
        assert_eq!(refusal(files, Some(7)).0, Kind::Gap);
        assert_eq!(plan(files, Some(4)).unwrap(), [(9, 1, 3), (0, 4, 4)]);
    }

    #[test]
    fn a_level_0_file_without_successor_is_a_leftover() {
        let files = &[(9, 1, 10), (0, 11, 11), (2, 1, 20), (0, 19, 19), (0, 20, 20)];
        assert_eq!(refusal(files, Some(11)).0, Kind::NotFound);
        assert_eq!(plan(files, None).unwrap(), [(9, 1, 10), (2, 1, 20)]);
        assert_eq!(
            plan(&[(9, 1, 19), (0, 20, 20)], None).unwrap(),
            [(9, 1, 19), (0, 20, 20)],
            "the newest counts"
        );
    }

    #[test]
    fn a_level_0_step_whose_successor_is_no_step_must_be_linked() {
        let files = listing(&[(9, 1, 3), (0, 4, 4), (0, 5, 5), (0, 6, 6)]);
        let chain = chain_to(&files, Target::Txid(Txid::new(5).unwrap())).unwrap();
        assert_eq!(chain.links, [Link { step: file(0, 5, 5), next: file(0, 6, 6) }]);
        assert_eq!(
            chain_to(&files, Target::Newest).unwrap().links,
            [],
            "steps that follow each other link anyway"
        );
    }

    #[test]
    fn forty_thousand_files_are_planned_at_once() {
        let files: Vec<_> = (1..=40_000).rev().map(|txid| file(0, txid, txid)).collect();
        assert_eq!(chain_to(&files, Target::Newest).unwrap().steps.len(), 40_000);
    }
}
