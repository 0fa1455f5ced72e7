//! Which txid a time means.
//!
//! It is the newest state whose group of commits was captured at that time or before it. What counts is the time in the
//! header of the file, not when the file was stored; in a bucket it takes a request to learn it, so it is searched for
//! with few questions: times along the txids never go back (rule 6 of the protocol). Litestream's snapshots are the
//! exception, they carry the time they were taken at; they are asked only where no other file ends.

use super::chain::{Target, shown};
use super::points::{End, ends, points};
use crate::error::{Error, Result};
use crate::types::{FileInfo, Level, Timestamp};

/// A target that needs no clock any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// `Newest` or a txid.
    pub target: Target,
    /// What whoever gave the target should be told.
    pub notice: Option<String>,
}

/// What a file says of its time; see [`settle`].
pub type TimeOf<'a> = &'a mut dyn FnMut(&FileInfo) -> Result<Timestamp>;

/// Turns a time into the txid it means in this listing; other targets stay. `time_of` is asked some log2(files) times.
///
/// # Errors
/// `NotFound` with the first restorable moment for a time before it; those of `time_of`.
pub fn settle(listing: &[FileInfo], target: Target, time_of: TimeOf<'_>) -> Result<Settled> {
    let Target::At(at) = target else { return Ok(Settled { target, notice: None }) };
    let points = points(listing);
    // Nothing can be restored: the plan for the newest says why.
    let (Some(first), Some(last)) = (points.first(), points.last()) else {
        return Ok(Settled { target: Target::Newest, notice: None });
    };
    let is_point = |end: &End| points.binary_search_by_key(&end.txid, |p| p.txid).is_ok();
    // What retention has left of a level inside a file that merges it leads nowhere by itself.
    let (ends, merged): (Vec<End>, Vec<End>) =
        ends(listing).into_iter().partition(|end| end.txid > last.txid || is_point(end));
    let found = newest_until(&ends, at, time_of)?.filter(|(end, _)| end.txid >= first.txid);
    let Some((end, time)) = found else {
        return Err(Error::not_found(format!(
            "cannot restore the state of {at}: the first restorable moment is {}, of txid {}",
            time_of(&first.file)?,
            shown(first.txid)
        )));
    };
    let is_newest = ends.last().is_some_and(|newest| newest.txid == end.txid);
    let next = ends.iter().find(|next| next.txid > end.txid);
    let ends_in_a_gap = next.filter(|next| !is_point(next));
    let left = merged.iter().find(|m| m.txid > end.txid && next.is_none_or(|next| m.txid < next.txid));
    let notice = if is_newest && at > time {
        Some(format!(
            "{at} is later than the newest state of the replica, that of {time}, txid {}",
            shown(end.txid)
        ))
    } else if let Some(next) = ends_in_a_gap {
        Some(format!(
            "files are missing between txid {} and {}: what was captured between {time} and {at} is in none",
            shown(end.txid),
            shown(next.txid)
        ))
    } else if let Some(left) = left
        && time_of(&left.file)? <= at
    {
        Some(format!(
            "what was captured between {time} and {at} is merged with what came later: restored is the state of {time}, \
             txid {}",
            shown(end.txid)
        ))
    } else {
        None
    };
    Ok(Settled { target: Target::Txid(end.txid), notice })
}

/// The last end that is not later than `at`, and its time.
fn newest_until<'a>(
    ends: &'a [End],
    at: Timestamp,
    time_of: TimeOf<'_>,
) -> Result<Option<(&'a End, Timestamp)>> {
    let (dated, snapshots): (Vec<&End>, Vec<&End>) =
        ends.iter().partition(|end| end.file.level != Level::SNAPSHOT);
    // Everything before `low` is not later, everything from `high` on is.
    let (mut low, mut high, mut found) = (0, dated.len(), None);
    // Most ask for a time that is not long ago, or past the end.
    let mut middle = high.saturating_sub(1);
    while low < high {
        let time = time_of(&dated[middle].file)?;
        if time <= at {
            (low, found) = (middle + 1, Some((dated[middle], time)));
        } else {
            high = middle;
        }
        middle = low + (high - low) / 2;
    }
    let after = found.map(|(end, _)| end.txid);
    let before = dated.get(low).map(|end| end.txid);
    let between = |end: &&&End| after.is_none_or(|a| end.txid > a) && before.is_none_or(|b| end.txid < b);
    for end in snapshots.iter().rev().filter(between) {
        let time = time_of(&end.file)?;
        if time <= at {
            return Ok(Some((end, time)));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::chain_to;
    use crate::error::Kind;
    use crate::types::{Identity, Txid, TxidRange};

    /// Level, min, max, and the time in the header; the listing has another.
    type File = (u8, u64, u64, i64);

    fn settled(files: &[File], at: i64) -> (Result<Settled>, usize) {
        let txid = |n| Txid::new(n).unwrap();
        let info = |&(level, min, max, _): &File| FileInfo {
            level: Level::new(level).unwrap(),
            range: TxidRange::new(txid(min), txid(max)).unwrap(),
            size: 1,
            created_at: Timestamp(1_000_000),
            identity: Identity::File { device: 0, inode: 0, changed_ns: 0, modified_ns: 0 },
        };
        let listing: Vec<FileInfo> = files.iter().map(info).collect();
        let mut asked = 0;
        let answer = settle(&listing, Target::At(Timestamp(at)), &mut |file| {
            asked += 1;
            let at = listing.iter().position(|other| other == file).unwrap();
            Ok(Timestamp(files[at].3))
        });
        (answer, asked)
    }

    fn txid_at(files: &[File], at: i64) -> u64 {
        match settled(files, at).0.unwrap().target {
            Target::Txid(txid) => txid.get(),
            other => panic!("{other:?}"),
        }
    }

    const FILES: &[File] = &[(9, 1, 3, 30), (1, 4, 7, 70), (0, 8, 8, 80), (0, 9, 9, 80), (0, 10, 10, 100)];

    #[test]
    fn a_time_means_the_newest_state_that_is_not_later() {
        for (at, txid) in [(30, 3), (69, 3), (70, 7), (79, 7), (80, 9), (99, 9), (100, 10)] {
            assert_eq!(txid_at(FILES, at), txid, "{at}");
            assert_eq!(settled(FILES, at).0.unwrap().notice, None, "{at}");
        }
    }

    #[test]
    fn past_the_newest_it_is_the_newest_with_a_notice() {
        let Settled { target, notice } = settled(FILES, 5000).0.unwrap();
        assert_eq!(target, Target::Txid(Txid::new(10).unwrap()));
        assert_eq!(
            notice.unwrap(),
            "1970-01-01T00:00:05.000Z is later than the newest state of the replica, that of 1970-01-01T00:00:00.100Z, \
             txid 10 (000000000000000a)"
        );
    }

    #[test]
    fn before_the_first_restorable_moment_it_is_named() {
        let error = settled(FILES, 29).0.unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound);
        assert_eq!(
            error.to_string(),
            "cannot restore the state of 1970-01-01T00:00:00.029Z: the first restorable moment is \
             1970-01-01T00:00:00.030Z, of txid 3 (0000000000000003)"
        );
        let rest = [(1, 2, 3, 30), (1, 4, 7, 70), (9, 1, 9, 90), (0, 10, 10, 100)];
        let error = settled(&rest, 75).0.unwrap_err();
        assert!(error.to_string().contains("1970-01-01T00:00:00.090Z, of txid 9"), "{error}");
    }

    #[test]
    fn a_snapshot_counts_by_the_time_it_was_taken_where_nothing_else_ends() {
        let files = [(9, 1, 3, 45), (1, 1, 2, 20), (1, 3, 5, 50), (9, 1, 5, 65), (0, 6, 6, 60)];
        assert_eq!(txid_at(&files, 44), 2, "it may have been captured at 44, and is never given too early");
        assert_eq!(txid_at(&files, 45), 3);
        assert_eq!(txid_at(&files, 50), 5, "the merged file knows better than the snapshot");
        assert_eq!(txid_at(&[(9, 1, 3, 45)], 46), 3);
    }

    #[test]
    fn what_is_left_of_a_level_inside_a_merged_file_leads_nowhere() {
        // Level 0 has expired up to 5, the merged file goes on to 7.
        let files = [
            (9, 1, 3, 30),
            (1, 4, 7, 70),
            (0, 6, 6, 60),
            (0, 7, 7, 70),
            (0, 8, 8, 80),
            (0, 9, 9, 90),
            (0, 10, 10, 99),
        ];
        for (at, txid) in [(30, 3), (59, 3), (60, 3), (69, 3), (70, 7), (85, 8), (90, 9)] {
            assert_eq!(txid_at(&files, at), txid, "{at}");
        }
        for at in [30, 59, 70, 85] {
            assert_eq!(settled(&files, at).0.unwrap().notice, None, "{at}");
        }
        assert_eq!(
            settled(&files, 65).0.unwrap().notice.unwrap(),
            "what was captured between 1970-01-01T00:00:00.030Z and 1970-01-01T00:00:00.065Z is merged with what came \
             later: restored is the state of 1970-01-01T00:00:00.030Z, txid 3 (0000000000000003)"
        );
        let without_a_beginning = [&[(1, 2, 3, 30)], &files[1..], &[(9, 1, 7, 70)]].concat();
        let error = settled(&without_a_beginning, 65).0.unwrap_err();
        assert!(error.to_string().contains("1970-01-01T00:00:00.070Z, of txid 7"), "{error}");
    }

    #[test]
    fn a_gap_before_the_time_is_no_reason_to_give_an_earlier_state() {
        let files = [(9, 1, 3, 30), (0, 4, 4, 40), (0, 6, 6, 60), (0, 7, 7, 70)];
        assert_eq!(txid_at(&files, 65), 6);
        let listing: Vec<FileInfo> = files
            .iter()
            .map(|&(level, min, max, time)| FileInfo {
                level: Level::new(level).unwrap(),
                range: TxidRange::new(Txid::new(min).unwrap(), Txid::new(max).unwrap()).unwrap(),
                size: 1,
                created_at: Timestamp(time),
                identity: Identity::File { device: 0, inode: 0, changed_ns: 0, modified_ns: 0 },
            })
            .collect();
        let error = chain_to(&listing, Target::At(Timestamp(65))).unwrap_err();
        assert_eq!(error.kind(), Kind::Gap, "{error}");
        assert_eq!(chain_to(&listing, Target::At(Timestamp(59))).unwrap().end().get(), 3);
        let notice = settled(&files, 59).0.unwrap().notice.unwrap();
        assert!(notice.starts_with("files are missing between txid 3 (0000000000000003) and 6 "), "{notice}");
    }

    #[test]
    fn an_empty_replica_is_left_to_the_plan() {
        assert_eq!(settled(&[], 5).0.unwrap(), Settled { target: Target::Newest, notice: None });
    }

    #[test]
    fn few_questions_find_one_of_many() {
        let files: Vec<File> = (1..=10_000).map(|n| (0, n, n, n as i64 * 10)).collect();
        for n in [1, 2, 777, 5000, 9999, 10_000] {
            let (settled, asked) = settled(&files, n as i64 * 10 + 3);
            assert_eq!(settled.unwrap().target, Target::Txid(Txid::new(n).unwrap()));
            assert!(asked <= 16, "{asked} questions for {n}");
        }
    }
}
