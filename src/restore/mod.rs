//! A chain of LTX files to a database file.
//!
//! ```text
//! list -> plan -> temp beside the output: pages, newest file first -> checks -> fsync, rename, fsync folder
//!   ^                 |
//!   +-- a file went or was made anew; a level-0 file turned out to be a leftover
//! ```
//!
//! Promises: the output appears whole or not at all, and never in place of another file; after any error
//! neither output nor temp is left, and what a killed restore left goes with the next one of that output.
//!
//! What proves what. Each file is read in one of two ways:
//!
//! - *Whole*: the newest file, each one of 256 KiB or less, each one that does not state the checksum of the database in
//!   its header, and each one of which every page is wanted. Its file checksum covers header, records and index.
//! - *In part*: a large file whose header states that checksum, in a chain whose newest file does. Records of superseded
//!   pages are not read. Nothing then proves the header, the index and those records by themselves; but
//!   * the newest file is proven, and with it page size, page count, timestamp and the checksum of the database that must
//!     come out, each page taken once, none missing, none past the page count;
//!   * the index must be that of such a file: pages ascending, records end to end from header to end mark; each record
//!     that is read must be the one of its entry. An entry that names another page takes a wrong version of one of two
//!     pages, or none, and the checksum of the database shows it;
//!   * the txids of the header must be those of the name, its two checksums those of its neighbours where these adjoin. A
//!     wrong page count cuts off pages, and one is missing; or lets pages through that were cut off, which the file that
//!     grew the database has anyway.
//!
//! No file is ever left out, and links are looked at even where the checksum matches.
//!
//! Whatever does not match is a *doubt*: everything is read again, every file to its last byte ([`whole`]), so that the
//! error names what is damaged. Nothing is published on a doubt that is not dispelled so. And the state that it comes to
//! must be the one that other files know ([`witness`]).

pub mod apply;
mod batch;
mod crew;
pub mod overlay;
mod pages;
mod plan;
mod survey;
pub mod tail;
mod wanted;
mod whole;
mod witness;

use crate::catalog::{Chain, Target, chain_to, settle};
use crate::error::{Error, Kind, Result};
use crate::fs::durable::{self, Temp};
use crate::ltx::Header;
use crate::ltx::parts::RECORD_BYTES_MIN;
use crate::replica::Client;
use crate::types::{Checksum, FileInfo, PageSize, Position, Timestamp};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

pub use plan::{Plan, plan};

/// Times the replica is listed anew because its files changed under us.
const LISTINGS_MAX: u32 = 5;
/// Level-0 leftovers passed over; more of them is no replica.
const LEFTOVERS_MAX: usize = 16;

/// Bytes of files done, of all. They begin anew when the replica changed meanwhile or something has to be read again.
pub type Progress<'a> = dyn Fn(u64, u64) + Sync + 'a;

/// What a caller may ask for besides the file.
#[derive(Clone, Copy, Default)]
pub struct Options<'a> {
    /// Return the checksum of every page.
    pub page_checksums: bool,
    /// Threads; without it one for each core, more where a read is mostly a wait, 16 at most.
    pub parallelism: Option<NonZeroUsize>,
    /// Called now and then, on any thread, by one at a time.
    pub progress: Option<&'a Progress<'a>>,
}

impl Options<'_> {
    fn tell(&self, done: u64, all: u64) {
        if let Some(progress) = self.progress {
            progress(done, all);
        }
    }
}

/// A database restored.
#[derive(Clone, Debug)]
pub struct Restored {
    /// The txid and the checksum computed over all pages.
    pub position: Position,
    /// Whether the last file stated that checksum; files of Litestream do not.
    pub proven: bool,
    /// Of the last file.
    pub timestamp: Timestamp,
    pub page_size: PageSize,
    pub page_count: u32,
    /// Files read, and their bytes.
    pub files: usize,
    pub bytes: u64,
    /// How the target was understood, where that is not plain.
    pub notice: Option<String>,
    /// By page number from 1, when asked for; that of the lock-byte page is [`Checksum::EMPTY`].
    pub page_checksums: Option<Vec<Checksum>>,
}

/// Restores the state at `target` into a new file `output`.
///
/// # Errors
/// `Exists` for an output that exists, or beside a left-over `-wal`, `-journal` or `-shm`; `NotFound` for a missing
/// folder; as [`chain_to`]; `Corrupt` with file, offset and reason; `Conflict` when the replica changed
/// faster than it could be read; else as the store or the system says.
pub fn restore(client: &dyn Client, target: Target, output: &Path, options: Options<'_>) -> Result<Restored> {
    check_output(output)?;
    durable::remove_stale_of(output);
    let temp = Temp::create(output)?;
    let restored = fill(client, target, &temp, &options)?;
    check_output(output)?;
    temp.publish(output)?;
    Ok(restored)
}

/// Refuses an output that exists, and files that SQLite would take for a part of it.
///
/// # Errors
/// `Exists`; `NotFound` for a missing folder; `Invalid` for a path that names no file.
pub fn check_output(output: &Path) -> Result<()> {
    if output.file_name().is_none() {
        return Err(Error::invalid(format!("cannot restore to '{}': that names no file", output.display())));
    }
    let folder = durable::parent(output);
    if !folder.is_dir() {
        return Err(Error::not_found(format!(
            "cannot restore to {}: there is no folder {}",
            output.display(),
            folder.display()
        )));
    }
    if output.symlink_metadata().is_ok() {
        return Err(Error::exists(format!(
            "cannot restore to {}: it exists; remove it or choose another name",
            output.display()
        )));
    }
    for suffix in ["-wal", "-journal", "-shm"] {
        let mut beside = output.as_os_str().to_owned();
        beside.push(suffix);
        let beside = PathBuf::from(beside);
        if beside.symlink_metadata().is_ok() {
            return Err(Error::exists(format!(
                "cannot restore to {}: {} was left by another database and would be taken for a part of this \
                 one; remove it",
                output.display(),
                beside.display()
            )));
        }
    }
    Ok(())
}

/// Why an attempt ended without a database.
enum Setback {
    /// A file is gone or another: list again.
    Changed(Error),
    /// A level-0 file is no part of the history: plan without it. The error says why.
    Leftover(Box<FileInfo>, Error),
    /// Something does not match: read everything to tell what.
    Doubt(Error),
    Failed(Error),
}

impl Setback {
    /// Of an error met while files were read.
    fn of(error: Error) -> Setback {
        match error.kind() {
            Kind::NotFound | Kind::Conflict => Setback::Changed(error),
            Kind::Corrupt => Setback::Doubt(error),
            _ => Setback::Failed(error),
        }
    }
}

fn doubt(error: Error) -> Setback {
    Setback::Doubt(error)
}

type Attempt<T> = std::result::Result<T, Setback>;

impl From<Error> for Setback {
    fn from(error: Error) -> Setback {
        Setback::Failed(error)
    }
}

/// Fills `temp`, planning again as long as that can help.
fn fill(client: &dyn Client, target: Target, temp: &Temp, options: &Options<'_>) -> Result<Restored> {
    let mut leftovers: Vec<(FileInfo, Error)> = Vec::new();
    let mut listings = 0;
    loop {
        let mut listing = client.list_all()?;
        listings += 1;
        listing.retain(|file| !leftovers.iter().any(|(leftover, _)| leftover.same_object(file)));
        let settled = settle(&listing, target, &mut |file| client.timestamp(file));
        let planned = settled.and_then(|settled| Ok((chain_to(&listing, settled.target)?, settled.notice)));
        let (chain, notice) = match (planned, leftovers.pop()) {
            (Err(error), last) if error.kind() == Kind::Conflict && listings < LISTINGS_MAX => {
                leftovers.extend(last);
                continue;
            }
            (Err(_), Some((_, why))) => return Err(why),
            (planned, last) => {
                leftovers.extend(last);
                planned?
            }
        };
        let attempt = match crew::restore(client, &chain, temp, options) {
            Err(Setback::Doubt(_)) => whole::restore(client, &chain, temp, options),
            other => other,
        };
        let agreed = attempt.and_then(|restored| {
            witness::check(client, &listing, &chain, restored.position).map(|()| restored)
        });
        match agreed {
            Ok(restored) => return Ok(Restored { notice, ..restored }),
            Err(Setback::Leftover(file, why)) if leftovers.len() < LEFTOVERS_MAX => {
                leftovers.push((*file, why))
            }
            Err(Setback::Changed(_)) if listings < LISTINGS_MAX + leftovers.len() as u32 => {}
            Err(Setback::Changed(error)) => {
                return Err(Error::conflict(format!(
                    "the replica changed while it was read, {listings} times over: {error}; try again"
                )));
            }
            Err(Setback::Failed(error) | Setback::Leftover(_, error) | Setback::Doubt(error)) => {
                return Err(error);
            }
        }
    }
}

/// The account of a restore, as the chain and its newest file have it.
fn begin(chain: &Chain, newest: &Header) -> Result<Restored> {
    let bytes: u64 = chain.steps.iter().map(|step| step.size).sum();
    if u64::from(newest.page_count) > bytes / RECORD_BYTES_MIN + 1 {
        return Err(Error::corrupt(format!(
            "the file that ends at txid {} says the database has {} pages, more than {bytes} bytes of files can hold",
            chain.end(),
            newest.page_count
        )));
    }
    Ok(Restored {
        position: Position { txid: chain.end(), checksum: Checksum::EMPTY },
        proven: false,
        timestamp: newest.timestamp,
        page_size: newest.page_size,
        page_count: newest.page_count,
        files: chain.steps.len(),
        bytes,
        notice: None,
        page_checksums: None,
    })
}

#[cfg(test)]
mod tests;
