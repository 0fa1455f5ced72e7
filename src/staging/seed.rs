//! A local log for a database that was just restored: the next open goes on at once, without a scan.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::checksums::PageChecksums;
use super::log::{Log, Recorded};
use super::state::State;
use crate::error::{Error, Result};
use crate::fs::{FileStat, boot_id};
use crate::sqlite::header;
use crate::types::{Checksum, PageSize, Pgno, Position, Timestamp};

/// The state that was restored.
pub struct Seed<'a> {
    pub position: Position,
    pub timestamp: Timestamp,
    pub page_size: PageSize,
    pub page_count: u32,
    /// By page number from 1.
    pub page_checksums: &'a [Checksum],
}

/// `<database>-replica`, which must be free.
///
/// # Errors
/// `Exists` when there is a log already: it may hold what was never sent.
pub fn folder(database: &Path) -> Result<PathBuf> {
    let mut folder = database.as_os_str().to_owned();
    folder.push("-replica");
    let folder = PathBuf::from(folder);
    if Log::exists(&folder) && Log::open(&folder)?.recorded()?.is_some() {
        return Err(Error::exists(format!(
            "cannot restore to {} and continue there: {} is the local log of an earlier database and may hold what \
             was never sent; move it away",
            database.display(),
            folder.display()
        )));
    }
    Ok(folder)
}

/// Leaves log, page checksums and a clean mark in `<database>-replica`.
///
/// # Errors
/// As [`folder`]; `Full`, `Io`.
pub fn beside(database: &Path, seed: &Seed<'_>) -> Result<()> {
    let folder = &folder(database)?;
    let log = Log::open(folder)?;
    let mut checksums = PageChecksums::open(&folder.join("checksums"))?;
    checksums.reserve(seed.page_count)?;
    checksums.clear();
    let lock = seed.page_size.lock_pgno();
    let pages = (1u32..).filter_map(Pgno::new).zip(seed.page_checksums.iter().copied());
    checksums.apply(seed.page_size, seed.page_count, pages.filter(|&(p, _)| p != lock));
    assert_eq!(checksums.total(), seed.position.checksum, "BUG: page checksums of another state");
    checksums.sync()?;
    let state = State::open(&folder.join("state"))?;
    let stat = FileStat::of(database)?;
    state.set_file_id((stat.device, stat.inode));
    state.set_boot(boot_id()?);
    state.set_acknowledged(0, Some(seed.position.txid));
    state.push_position(seed.position);
    let tag = tag_of(database)?;
    state.set_clean(Some((&stat, tag)));
    state.set_tag(tag);
    state.sync()?;
    log.set_base(Recorded {
        position: seed.position,
        page_size: seed.page_size,
        page_count: seed.page_count,
        timestamp: seed.timestamp,
    })
}

/// The change tag of page 1. The file was made a moment ago, so nobody has locks on it that a close could drop.
fn tag_of(database: &Path) -> Result<u64> {
    let mut tag = [0; header::TAG_LEN];
    let file = File::open(database).map_err(|e| Error::io("open", database, e))?;
    match file.read_exact_at(&mut tag, header::TAG_OFFSET) {
        Ok(()) => Ok(header::change_tag(&tag)),
        Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Ok(0),
        Err(e) => Err(Error::io("read", database, e)),
    }
}
