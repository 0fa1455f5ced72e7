//! A chain of LTX files to a database file.
//!
//! ```text
//! list -> plan -> temp beside the output: pages, newest file first -> checks -> fsync, rename, fsync folder
//!   ^                 |
//!   +-- a file went or was made anew; a level-0 file turned out to be a leftover
//! ```
//!
//! Promises: the output appears whole or not at all, and never in place of another file; after any error
//! neither output nor temp is left. Every file of the chain is verified to its last byte, neighbours must link,
//! and the checksum of the whole database must be what the last file says, where it says one.
//!
//! Memory: two pages, a bit a page, and eight bytes a page when the page checksums are asked for.

pub mod apply;
pub mod overlay;
mod pages;
pub mod tail;

use crate::catalog::{Chain, Target, chain_to, settle};
use crate::error::{Error, Kind, Result};
use crate::fs::durable::{self, Temp};
use crate::ltx::merge::check_link;
use crate::ltx::{Decoder, Header};
use crate::replica::{Client, ReadSeek, open_decoder};
use crate::types::{Checksum, FileInfo, PageSize, Position, Timestamp};
use pages::Pages;
use std::path::{Path, PathBuf};

/// Times the replica is listed anew because its files changed under us.
const LISTINGS_MAX: u32 = 5;
/// Level-0 leftovers passed over; more of them is no replica.
const LEFTOVERS_MAX: usize = 16;
/// A page record has at least 10 bytes of header and 4 of LZ4.
const RECORD_BYTES_MIN: u64 = 14;

/// What a caller may ask for besides the file.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Return the checksum of every page.
    pub page_checksums: bool,
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
pub fn restore(client: &dyn Client, target: Target, output: &Path, options: Options) -> Result<Restored> {
    check_output(output)?;
    let temp = Temp::create(output)?;
    let restored = fill(client, target, &temp, options)?;
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
    Failed(Error),
}

type Attempt<T> = std::result::Result<T, Setback>;

impl From<Error> for Setback {
    fn from(error: Error) -> Setback {
        Setback::Failed(error)
    }
}

/// Fills `temp`, planning again as long as that can help.
fn fill(client: &dyn Client, target: Target, temp: &Temp, options: Options) -> Result<Restored> {
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
        match attempt(client, &chain, temp, options) {
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
            Err(Setback::Failed(error) | Setback::Leftover(_, error)) => return Err(error),
        }
    }
}

/// Applies the chain from its newest file back, so that each page is written once.
fn attempt(client: &dyn Client, chain: &Chain, temp: &Temp, options: Options) -> Attempt<Restored> {
    let mut newer: Option<(FileInfo, Header)> = None;
    let mut state: Option<(Pages, Restored)> = None;
    for step in chain.steps.iter().rev() {
        let mut decoder = open(client, step)?;
        let header = *decoder.header();
        check_history(client, chain, step, newer, &mut decoder)?;
        let (pages, restored) = match &mut state {
            Some(state) => state,
            None => state.insert(start(chain, &header, temp, options)?),
        };
        if header.page_size == restored.page_size {
            pages.take(&mut decoder)?;
        } else if pages.is_complete() {
            decoder.verify_rest()?;
        } else {
            return Err(Setback::Failed(Error::corrupt(format!(
                "{} has page size {} and the files after it {}, but not every page is in those",
                decoder.name(),
                header.page_size,
                restored.page_size
            ))));
        }
        if newer.is_none() {
            restored.proven = decoder.post().is_some();
            restored.position.checksum = decoder.post().unwrap_or(Checksum::EMPTY);
        }
        restored.bytes += decoder.bytes();
        newer = Some((*step, header));
    }
    let (pages, mut restored) = state.expect("BUG: a chain has a step");
    let (checksum, page_checksums) = pages.finish()?;
    if restored.proven && checksum != restored.position.checksum {
        return Err(Setback::Failed(Error::corrupt(format!(
            "the files up to txid {} give a database with checksum {checksum}, but the last of them says {}",
            restored.position.txid, restored.position.checksum
        ))));
    }
    restored.position.checksum = checksum;
    restored.page_checksums = page_checksums;
    Ok(restored)
}

/// The empty output and the account of it, as the newest file has it.
fn start<'a>(
    chain: &Chain,
    newest: &Header,
    temp: &'a Temp,
    options: Options,
) -> Result<(Pages<'a>, Restored)> {
    let bytes: u64 = chain.steps.iter().map(|step| step.size).sum();
    if newest.page_count as u64 > bytes / RECORD_BYTES_MIN + 1 {
        return Err(Error::corrupt(format!(
            "the file that ends at txid {} says the database has {} pages, more than {bytes} bytes of files can hold",
            chain.end(),
            newest.page_count
        )));
    }
    let restored = Restored {
        position: Position { txid: chain.end(), checksum: Checksum::EMPTY },
        proven: false,
        timestamp: newest.timestamp,
        page_size: newest.page_size,
        page_count: newest.page_count,
        files: chain.steps.len(),
        bytes: 0,
        notice: None,
        page_checksums: None,
    };
    Ok((Pages::new(temp, newest, options.page_checksums)?, restored))
}

fn open(client: &dyn Client, file: &FileInfo) -> Attempt<Decoder<Box<dyn ReadSeek>>> {
    open_decoder(client, file).map_err(|error| match error.kind() {
        Kind::NotFound | Kind::Conflict => Setback::Changed(error),
        _ => Setback::Failed(error),
    })
}

/// Checks that `step` links to what follows it: the next step, and the next level-0 file of a level-0 step. A
/// level-0 file that does not is a leftover, but only if both are undamaged.
fn check_history(
    client: &dyn Client,
    chain: &Chain,
    step: &FileInfo,
    newer: Option<(FileInfo, Header)>,
    decoder: &mut Decoder<Box<dyn ReadSeek>>,
) -> Attempt<()> {
    let header = *decoder.header();
    if let Some((next, next_header)) = newer
        && let Err(error) = check_link(&header, &next_header)
    {
        decoder.verify_rest()?;
        return Err(match next.level == step.level && step.level.get() == 0 {
            true => Setback::Leftover(Box::new(*step), error),
            false => Setback::Failed(error),
        });
    }
    for link in chain.links.iter().filter(|link| link.step == *step) {
        let mut next = match open(client, &link.next) {
            Err(Setback::Failed(error)) if error.kind() == Kind::Corrupt => continue,
            other => other?,
        };
        if let Err(error) = check_link(&header, next.header())
            && next.verify_rest().is_ok()
        {
            decoder.verify_rest()?;
            return Err(Setback::Leftover(Box::new(*step), error));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
