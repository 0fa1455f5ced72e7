//! What a restore would read: a look at a listing, nothing more.

use crate::catalog::{Target, chain_to, settle};
use crate::error::Result;
use crate::replica::{Client, describe};
use crate::types::{FileInfo, Txid};
use std::fmt;

/// The files that lead to a target. Only reading them tells a level-0 leftover of a late writer: a restore that meets one
/// plans again without it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The txid whose state comes out.
    pub end: Txid,
    /// Oldest first; they are read newest first.
    pub files: Vec<FileInfo>,
    /// Files whose headers are read besides, to know that a level-0 file is history.
    pub headers: Vec<FileInfo>,
    /// How the target was understood, where that is not plain.
    pub notice: Option<String>,
}

impl Plan {
    /// Bytes of the files, the most that is read. Of large ones superseded pages are passed over.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }
}

/// One line a file, newest first, and a line of all.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for file in self.files.iter().rev() {
            writeln!(f, "{} {}", describe(file), file.size)?;
        }
        writeln!(f, "{} files, {} bytes, to txid {}", self.files.len(), self.bytes(), self.end)
    }
}

/// Lists the replica and plans; reads no page.
///
/// # Errors
/// As [`settle`] and [`chain_to`]; else as the store says.
pub fn plan(client: &dyn Client, target: Target) -> Result<Plan> {
    let listing = client.list_all()?;
    let settled = settle(&listing, target, &mut |file| client.timestamp(file))?;
    let chain = chain_to(&listing, settled.target)?;
    let headers = chain.links.iter().map(|link| link.next).collect();
    Ok(Plan { end: chain.end(), files: chain.steps, headers, notice: settled.notice })
}
