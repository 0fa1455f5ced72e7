//! Which snapshot and which WAL segments give the database. Pure.
//!
//! The choice is that of Litestream 0.5: the snapshot that was made last, of whatever generation, and every segment of
//! its generation from its index on. Unlike there, all must be seen to be complete before one byte is read: each index
//! follows the one before, each segment begins where the one before may end.
//!
//! Source: `litestream restore` 0.5.17 on replicas of 0.3.13.

use super::names::{self, Name};
use crate::error::{Error, Result};
use crate::replica::ObjectInfo;
use crate::types::Timestamp;

/// A snapshot and what comes after it, in order.
#[derive(Clone, Debug)]
pub struct Plan {
    pub generation: String,
    pub snapshot: ObjectInfo,
    pub index: u64,
    pub segments: Vec<Segment>,
}

#[derive(Clone, Debug)]
pub struct Segment {
    pub object: ObjectInfo,
    pub index: u64,
    /// Where in the WAL of that index its bytes begin.
    pub offset: u64,
}

impl Plan {
    /// When the newest of its objects was made.
    pub fn created_at(&self) -> Timestamp {
        let segments = self.segments.iter().map(|segment| segment.object.created_at);
        segments.fold(self.snapshot.created_at, Timestamp::max)
    }
}

/// Plans a restore of what was there at `until`, or of everything. `None` when nothing of this kind is there.
///
/// # Errors
/// `Invalid` for a layout that cannot be read; `NotFound` when there is no snapshot early enough; `Gap` naming a
/// missing segment or index.
pub fn plan(objects: &[ObjectInfo], until: Option<Timestamp>) -> Result<Option<Plan>> {
    let named: Vec<(&ObjectInfo, Name)> =
        objects.iter().filter_map(|object| Some((object, names::parse(&object.name)?))).collect();
    if named.is_empty() {
        return Ok(None);
    }
    let in_time = |object: &ObjectInfo| until.is_none_or(|until| object.created_at <= until);
    let newest = named
        .iter()
        .filter_map(|(object, name)| match name {
            Name::Snapshot { generation, index } if in_time(object) => Some((*object, generation, *index)),
            _ => None,
        })
        .max_by_key(|(object, generation, index)| (object.created_at, *index, (*generation).clone()));
    let Some((snapshot, generation, index)) = newest else { return Err(nothing(&named, until)) };
    let beside = format!("{}/{generation}/", names::FOLDER);
    if let Some((object, name)) = named
        .iter()
        .find(|(object, name)| matches!(name, Name::Whole | Name::Beta) && object.name.starts_with(&beside))
    {
        return Err(unreadable(object, name));
    }
    let mut segments: Vec<Segment> = named
        .iter()
        .filter_map(|(object, name)| match name {
            Name::Segment { generation: theirs, index: at, offset }
                if theirs == generation && *at >= index && in_time(object) =>
            {
                Some(Segment { object: (*object).clone(), index: *at, offset: *offset })
            }
            _ => None,
        })
        .collect();
    segments.sort_by_key(|segment| (segment.index, segment.offset));
    check_order(generation, index, &segments)?;
    Ok(Some(Plan { generation: generation.clone(), snapshot: snapshot.clone(), index, segments }))
}

/// Whether the segments begin with their WAL's first, index by index.
fn check_order(generation: &str, index: u64, segments: &[Segment]) -> Result<()> {
    let mut last: Option<&Segment> = None;
    for segment in segments {
        let wanted =
            last.map_or(index, |last| if segment.index == last.index { last.index } else { last.index + 1 });
        let begins = last.is_none_or(|last| last.index != segment.index);
        if segment.index != wanted || (begins && segment.offset != 0) {
            let offset = if begins && segment.index == wanted { " at offset 0" } else { "" };
            return Err(Error::gap(format!(
                "generation {generation} lacks the WAL of index {wanted:08x}{offset}: after it comes {}; restore an \
                 earlier time",
                segment.object.name
            )));
        }
        if last.is_some_and(|last| (last.index, last.offset) == (segment.index, segment.offset)) {
            return Err(Error::invalid(format!(
                "{} is there under two names: move the wrong one away",
                segment.object.name
            )));
        }
        last = Some(segment);
    }
    Ok(())
}

/// Why nothing can be restored.
fn nothing(named: &[(&ObjectInfo, Name)], until: Option<Timestamp>) -> Error {
    if let Some((object, name)) = named.iter().find(|(_, name)| matches!(name, Name::Whole | Name::Beta)) {
        return unreadable(object, name);
    }
    match until {
        Some(until) => Error::not_found(format!(
            "the replica of Litestream 0.3 holds no snapshot that was made by {until}"
        )),
        None => Error::not_found(
            "the replica of Litestream 0.3 holds WAL segments, but no snapshot to put them on",
        ),
    }
}

fn unreadable(object: &ObjectInfo, name: &Name) -> Error {
    let (version, remedy) = match name {
        Name::Beta => ("a beta of Litestream 0.4", "that beta"),
        _ => ("Litestream 0.3.0 to 0.3.4, which kept whole WAL files", "a Litestream from 0.3.5 to 0.3.13"),
    };
    Error::invalid(format!(
        "{} was written by {version}: this layout is not read here; restore it with {remedy} and replicate the \
         database anew",
        object.name
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::types::Identity;

    const A: &str = "000000000000000a";
    const B: &str = "000000000000000b";

    fn object(name: String, at: i64) -> ObjectInfo {
        let identity = Identity::File { device: 0, inode: 0, changed_ns: 0, modified_ns: 0 };
        ObjectInfo { name, size: 1, created_at: Timestamp(at), identity }
    }

    fn snapshot(generation: &str, index: u32, at: i64) -> ObjectInfo {
        object(format!("generations/{generation}/snapshots/{index:08x}.snapshot.lz4"), at)
    }

    fn segment(generation: &str, index: u32, offset: u32, at: i64) -> ObjectInfo {
        object(format!("generations/{generation}/wal/{index:08x}_{offset:08x}.wal.lz4"), at)
    }

    /// Generation, index, and segments as (index, offset).
    type Chosen = (String, u64, Vec<(u64, u64)>);

    fn chosen(objects: &[ObjectInfo], until: Option<i64>) -> Result<Chosen> {
        let plan = plan(objects, until.map(Timestamp))?.unwrap();
        Ok((plan.generation, plan.index, plan.segments.iter().map(|s| (s.index, s.offset)).collect()))
    }

    #[test]
    fn the_snapshot_that_was_made_last_is_taken_with_all_that_follows_it() {
        let objects = [
            snapshot(A, 0, 10),
            segment(A, 0, 0, 11),
            segment(A, 1, 0, 12),
            segment(A, 1, 4152, 13),
            snapshot(A, 1, 14),
            segment(A, 2, 0, 40),
            snapshot(B, 0, 20),
            segment(B, 0, 0, 21),
        ];
        assert_eq!(chosen(&objects, None).unwrap(), (B.into(), 0, vec![(0, 0)]));
        assert_eq!(chosen(&objects, Some(20)).unwrap(), (B.into(), 0, vec![]), "inclusive");
        assert_eq!(chosen(&objects, Some(19)).unwrap(), (A.into(), 1, vec![(1, 0), (1, 4152)]));
        assert_eq!(chosen(&objects, Some(12)).unwrap(), (A.into(), 0, vec![(0, 0), (1, 0)]));
        assert_eq!(chosen(&objects, Some(9)).unwrap_err().kind(), Kind::NotFound);
        assert!(plan(&[], None).unwrap().is_none());
        assert!(plan(&[object("generations/README".into(), 0)], None).unwrap().is_none());
    }

    #[test]
    fn a_missing_index_or_first_segment_is_a_gap() {
        for (segments, wanted) in [
            (vec![segment(A, 2, 0, 1)], "00000001:"),
            (vec![segment(A, 1, 4152, 1)], "00000001 at offset 0"),
            (vec![segment(A, 1, 0, 1), segment(A, 3, 0, 1)], "00000002:"),
            (vec![segment(A, 1, 0, 1), segment(A, 2, 4152, 1)], "00000002 at offset 0"),
        ] {
            let mut objects = vec![snapshot(A, 1, 0)];
            objects.extend(segments);
            let error = chosen(&objects, None).unwrap_err();
            assert_eq!(error.kind(), Kind::Gap);
            assert!(error.to_string().contains(wanted), "{error}");
        }
    }

    #[test]
    fn layouts_that_cannot_be_read_are_named() {
        let whole = object(format!("generations/{A}/wal/00000000.wal.lz4"), 0);
        let beta = object(format!("generations/{A}/snapshots/0000000000000000.snapshot.lz4"), 0);
        for (objects, version) in [
            (vec![snapshot(A, 0, 0), whole.clone()], "0.3.0 to 0.3.4"),
            (vec![beta], "a beta of Litestream 0.4"),
        ] {
            let error = chosen(&objects, None).unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid);
            assert!(error.to_string().contains(version), "{error}");
        }
        assert!(chosen(&[snapshot(B, 0, 0), whole], None).is_ok(), "another generation's");
        assert_eq!(chosen(&[segment(A, 0, 0, 0)], None).unwrap_err().kind(), Kind::NotFound);
    }
}
