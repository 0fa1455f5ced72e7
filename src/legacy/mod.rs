//! Restores replicas of Litestream 0.3, whose snapshots and WAL segments lie under `generations/`.
//!
//! ```text
//! names   what the names of objects say       plan   which snapshot, which segments; pure
//! frame   an object's content, an LZ4 frame   wal    frames of a WAL onto the database
//! ```
//!
//! Which snapshot and segments are taken is as Litestream 0.5 decides; what they are worth is checked as it does not: every
//! content checksum, every index and offset, and of every WAL frame the salts and the cumulative checksum. A damaged or
//! missing segment is an error and never a shorter database. One thing nobody can see: that the *last* segment of an
//! index is missing, for the one before it ends with a commit as well.
//!
//! Such a replica has no txids, and a database that was restored from it begins a new history.

pub(crate) mod frame;
pub(crate) mod names;
mod plan;
mod wal;

use crate::catalog::Target;
use crate::error::{Error, Kind, Result};
use crate::fs::durable::Temp;
use crate::replica::{Client, ObjectInfo, Objects};
use crate::restore::check_output;
use crate::sqlite;
use crate::types::{PageSize, Timestamp};
use frame::Frame;
use plan::Plan;
use std::path::Path;
use wal::Database;

const COPY_BYTES: usize = 256 << 10;

/// A database restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    pub generation: String,
    /// Of the snapshot, and of the last WAL that was applied on it.
    pub snapshot_index: u64,
    pub index: u64,
    /// When the newest of the objects was made.
    pub created_at: Timestamp,
    /// `None` for an encrypted database without a WAL segment.
    pub page_size: Option<PageSize>,
    /// Of the database.
    pub bytes: u64,
    /// Objects read.
    pub objects: usize,
}

/// What a replica holds of this kind, and that it is what a restore would take.
pub struct Found<'a> {
    objects: &'a dyn Objects,
    plan: Plan,
}

/// Looks for a replica of Litestream 0.3 that holds `target`. `None` when there is none, or LTX files are newer.
///
/// # Errors
/// `Invalid` for a layout that cannot be read, or a txid where there are none; `Gap` with the missing segment or index;
/// `NotFound` when no snapshot is early enough; as the store says.
pub fn find(client: &dyn Client, target: Target) -> Result<Option<Found<'_>>> {
    let Some(objects) = client.objects() else { return Ok(None) };
    let listing = listing(objects)?;
    if newest(&listing, None).is_none() {
        return Ok(None);
    }
    let until = match target {
        Target::Newest => None,
        Target::At(at) => Some(at),
        Target::Txid(_) if newest_ltx(client, None)?.is_some() => return Ok(None),
        Target::Txid(_) => {
            return Err(Error::invalid(format!(
                "{} was written by Litestream 0.3, which has no txids: restore the newest state or a time",
                client.url()
            )));
        }
    };
    let is_theirs = match (newest(&listing, until), newest_ltx(client, until)?) {
        (Some(theirs), Some(ours)) => theirs > ours,
        (Some(_), None) => true,
        // Nothing is early enough: who has anything at all says so.
        (None, _) => newest_ltx(client, None)?.is_none(),
    };
    let plan = if is_theirs { plan::plan(&listing, until)? } else { None };
    Ok(plan.map(|plan| Found { objects, plan }))
}

/// A missing replica is reported by whoever looks for LTX files in it.
fn listing(objects: &dyn Objects) -> Result<Vec<ObjectInfo>> {
    match objects.list_below(names::FOLDER) {
        Err(error) if error.kind() == Kind::NotFound => Ok(Vec::new()),
        other => other,
    }
}

/// When the newest object of a known layout was made.
fn newest(listing: &[ObjectInfo], until: Option<Timestamp>) -> Option<Timestamp> {
    let known = listing.iter().filter(|object| names::parse(&object.name).is_some());
    known.map(|object| object.created_at).filter(|at| until.is_none_or(|until| *at <= until)).max()
}

fn newest_ltx(client: &dyn Client, until: Option<Timestamp>) -> Result<Option<Timestamp>> {
    let files = match client.list_all() {
        Err(error) if error.kind() == Kind::NotFound => return Ok(None),
        other => other?,
    };
    let times = files.iter().map(|file| file.created_at);
    Ok(times.filter(|at| until.is_none_or(|until| *at <= until)).max())
}

/// Restores what was found into a new file `output`.
///
/// # Errors
/// `Exists` and `NotFound` for the output, as any restore; `Corrupt` with the object and what is wrong with it; `Gap` for
/// a missing segment; `Invalid` for an encrypted object; else as the store or the system says.
pub fn restore(found: &Found<'_>, output: &Path) -> Result<Restored> {
    let Found { objects, plan } = found;
    check_output(output)?;
    let temp = Temp::create(output)?;
    let mut database = Database { temp: &temp, output, page_size: None, length: 0 };
    copy_snapshot(*objects, &plan.snapshot, &mut database)?;
    for segments in plan.segments.chunk_by(|one, next| one.index == next.index) {
        wal::apply(*objects, segments, &mut database)?;
    }
    let Database { page_size, length, .. } = database;
    check_output(output)?;
    temp.publish(output)?;
    Ok(Restored {
        generation: plan.generation.clone(),
        snapshot_index: plan.index,
        index: plan.segments.last().map_or(plan.index, |last| last.index),
        created_at: plan.created_at(),
        page_size,
        bytes: length,
        objects: 1 + plan.segments.len(),
    })
}

fn copy_snapshot(objects: &dyn Objects, snapshot: &ObjectInfo, database: &mut Database<'_>) -> Result<()> {
    let mut frame = Frame::new(objects.read(snapshot)?, &snapshot.name)?;
    let mut buffer = vec![0; COPY_BYTES];
    let mut offset = 0;
    loop {
        let filled = frame.fill(&mut buffer)?;
        if offset == 0 {
            database.page_size = sqlite::header::parse(&buffer[..filled]).map(|header| header.page_size);
        }
        database.write(&buffer[..filled], offset)?;
        offset += filled as u64;
        if filled < buffer.len() {
            break;
        }
    }
    match database.page_size {
        Some(size) if offset % u64::from(size.get()) != 0 => Err(Error::corrupt(format!(
            "{} is damaged: its database of {offset} bytes is no multiple of the page size {size}",
            snapshot.name
        ))),
        _ if offset == 0 => Err(Error::corrupt(format!("{} is damaged: it holds nothing", snapshot.name))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
