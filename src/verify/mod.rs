//! Proof that a replica restores, without writing a database.
//!
//! Every file of every level is read to its last byte: header against name, pages, index, file checksum. The files are
//! read by the txid they end at, and the finest that goes on from the state so far is applied to it: not its pages, but
//! their checksums, eight bytes a page. So the checksum of the whole database is known after each of them, and every
//! file that states one must state that. A merged file must hold exactly what the files it merges hold, where those are
//! still there; a snapshot must be the state at its txid. What the names alone say, gaps and leftovers, is in
//! [`listing`].
//!
//! ```text
//! mod       one call, from the first file to the last     verifier   a file at a time, remembering what was verified
//! listing   what names tell; pure                          state      the database as page checksums
//! fold      the files that a merged one merges             sums       the numbers, in memory or in a scratch file
//! report    what was found                              compare    a file beside what its pages must be
//! ```
//!
//! What cannot be seen from the replica alone: that its newest files are missing, or that it is an older copy of itself
//! as a whole. Who knows a position that must be there says so: [`Options::expected`].
//!
//! Memory: twice [`MEMORY_BYTES_MAX`](crate::staging::sums::MEMORY_BYTES_MAX), 16 bytes for each of the newest [`verifier::POSTS_MAX`] txids, some 150
//! bytes a file of the replica.

mod compare;
mod fold;
mod listing;
pub mod report;
mod state;
mod verifier;

use crate::error::Result;
use crate::replica::Client;
use crate::types::Position;
pub use report::{Finding, Grade, Progress, Report, Trouble};
use std::path::PathBuf;
pub use verifier::Verifier;

/// Bytes read between two calls of a progress callback, at least.
const PROGRESS_BYTES: u64 = 1 << 20;

/// What a verification needs besides the replica.
#[derive(Clone, Debug)]
pub struct Options {
    /// A folder for the page checksums of a database that is too large to keep them in memory.
    pub scratch: PathBuf,
    /// A state that the replica must hold: what was acknowledged.
    pub expected: Option<Position>,
}

/// Verifies everything in a replica. What is wrong with it stands in the report.
///
/// # Errors
/// When the replica cannot be read: as the store or the system says; `Conflict` when it changed faster than it could be
/// read; `NotFound` when there is none, or nothing in it.
pub fn verify(client: &dyn Client, options: Options, progress: &mut dyn FnMut(&Progress)) -> Result<Report> {
    let mut verifier = Verifier::new(options);
    while verifier.step(client, PROGRESS_BYTES)? {
        progress(&verifier.progress());
    }
    progress(&verifier.progress());
    Ok(verifier.report())
}

#[cfg(test)]
mod tests;
