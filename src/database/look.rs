//! What the first open of a database in a host finds, before anything is decided: its file, its local log, and whether
//! the replica's history is its own. Nothing is changed.

use std::fs::File;
use std::path::Path;

use super::at_open::{Found, Local};
use super::live::{LiveFiles, beside, journal_is_hot};
use crate::capture::at_rest::{self, AtRest};
use crate::error::Result;
use crate::ffi::hooks::BaseVfs;
use crate::fs::{FileStat, boot_id};
use crate::replica::Client;
use crate::sqlite::{header, wal, wal_index::Salts};
use crate::staging::log::{Log, Recorded, Sealed};
use crate::staging::noted::NotedSet;
use crate::staging::state::State;
use crate::types::{Checksum, Txid};
use crate::upload::{Head, header_of};

/// Files of the replica whose headers are read to find out whether its history is ours.
const RELATED_FILES_MAX: usize = 64;

/// What the local file is, and, without a log of ours, its whole state.
pub fn look_at(
    path: &Path,
    base: BaseVfs,
    state: &State,
    noted: &NotedSet,
    recorded: Option<&Recorded>,
    head: Option<Checksum>,
) -> Result<(Local, Option<AtRest>)> {
    let stat = match FileStat::of(path) {
        Ok(stat) if stat.size > 0 => stat,
        Ok(_) => return Ok((Local::Missing, None)),
        Err(e) if e.kind() == crate::error::Kind::NotFound => return Ok((Local::Missing, None)),
        Err(e) => return Err(e),
    };
    let live = LiveFiles::new(base.open(path, true)?, path);
    live.refresh_wal()?;
    if recorded.is_none() {
        let found = read_state(path, &live)?;
        return Ok((Local::Unlogged(found.as_ref().map(|f| f.checksum)), found));
    }
    if is_known(path, &stat, &live, state)? {
        return Ok((Local::Known { noted: !noted.is_empty() }, None));
    }
    let same_file = state.file_id() == (stat.device, stat.inode);
    if !same_file || !power_was_lost(state)? {
        return Ok((Local::Unknown, None));
    }
    let whole = read_state(path, &live)?;
    let is = |checksum: Checksum| whole.as_ref().is_some_and(|w| w.checksum == checksum);
    let found = match recorded {
        _ if head.is_some_and(is) => Found::Head,
        Some(recorded) if is(recorded.position.checksum) => Found::Recorded,
        _ if state.positions().any(|p| is(p.checksum)) => Found::Earlier,
        _ => Found::Other,
    };
    Ok((Local::Crashed(found), whole))
}

/// The machine went down without a clean close: what was not synced may be gone.
pub fn power_was_lost(state: &State) -> Result<bool> {
    Ok(state.clean().is_none() && state.boot() != [0, 0] && state.boot() != boot_id()?)
}

/// The whole database; `None` when only SQLite can tell, because it must play a journal back first.
fn read_state(path: &Path, live: &LiveFiles) -> Result<Option<AtRest>> {
    if journal_is_hot(path)? { Ok(None) } else { at_rest::read(live) }
}

/// Whether an anchor proves that every change since the recorded position is noted.
fn is_known(path: &Path, stat: &FileStat, live: &LiveFiles, state: &State) -> Result<bool> {
    if state.file_id() != (stat.device, stat.inode) {
        return Ok(false);
    }
    let cycle = wal_cycle(path)?;
    if cycle.is_none() && state.clean().as_ref() == Some(stat) {
        return Ok(true);
    }
    if state.boot() != boot_id()? {
        return Ok(false);
    }
    if let Some(cycle) = cycle {
        let known = state.cycle() == Some(cycle) || state.cycle_before() == Some(cycle);
        if known {
            state.set_cycle(Some(cycle));
        }
        return Ok(known);
    }
    // Killed in a rollback mode: page 1 is as we left it, before or after the transaction that was under way.
    use crate::capture::Files;
    let mut bytes = [0; 100];
    if state.cycle().is_some() || live.read_database(0, &mut bytes)? < bytes.len() {
        return Ok(false);
    }
    let in_wal_mode = header::parse(&bytes).is_some_and(|h| h.wal);
    let tag: Option<[u8; header::TAG_LEN]> =
        bytes[header::TAG_OFFSET as usize..][..header::TAG_LEN].try_into().ok();
    let tag = tag.map_or(0, |t| header::change_tag(&t));
    // What we wrote and did not commit counts while its journal is there to undo it. Without one, another program may
    // have undone it and committed in its place, and counted the same.
    let undone = tag == state.tag_written() && journal_is_hot(path)?;
    Ok(!in_wal_mode && tag != 0 && (tag == state.tag() || undone))
}

/// The cycle of a WAL that is not empty.
fn wal_cycle(database: &Path) -> Result<Option<Salts>> {
    let path = beside(database, "-wal");
    let Ok(file) = File::open(&path) else { return Ok(None) };
    let mut bytes = [0; wal::HEADER_LEN];
    let there = super::live::read_at(&file, &path, 0, &mut bytes)?;
    // A header that no recovery accepts still means that somebody wrote here.
    Ok(if there == 0 { None } else { Some(wal::parse_header(&bytes).map_or(u64::MAX, |h| h.salts)) })
}

pub fn unsent(log: &Log, state: &State) -> Result<Vec<Sealed>> {
    let acknowledged = state.acknowledged(0);
    let txids = log.txids()?.into_iter().filter(|&t| acknowledged.is_none_or(|a| t > a));
    txids.map(|t| log.sealed(t)).collect()
}

/// Whether a position that this log remembers is in the replica's chain.
pub fn is_related(
    home: &dyn Client,
    head: Option<&Head>,
    state: &State,
    recorded: Option<&Recorded>,
) -> Result<bool> {
    let Some(head) = head else { return Ok(false) };
    let mut known: std::collections::HashSet<(Txid, Checksum)> =
        state.positions().map(|p| (p.txid, p.checksum)).collect();
    known.extend(recorded.map(|r| (r.position.txid, r.position.checksum)));
    if known.is_empty() {
        return Ok(false);
    }
    let knows = |txid: Option<Txid>, checksum: Checksum| txid.is_some_and(|t| known.contains(&(t, checksum)));
    if head.header.proof.is_some_and(|p| knows(Some(head.txid()), p.post)) {
        return Ok(true);
    }
    let mut files = home.list_all()?;
    files.sort_by_key(|f| std::cmp::Reverse(f.range.max));
    for file in files.iter().take(RELATED_FILES_MAX) {
        let Some(proof) = header_of(home, file)?.proof else { continue };
        if knows(Some(file.range.max), proof.post) || knows(file.range.min.previous(), proof.pre) {
            return Ok(true);
        }
    }
    Ok(false)
}
