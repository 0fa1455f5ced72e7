//! What tells one state of a file from another without reading it.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::error::{Error, Result};

/// Identity, size and times of a file. Asking by path opens no descriptor, which matters for database files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileStat {
    pub device: u64,
    pub inode: u64,
    pub size: u64,
    /// Nanoseconds since 1970.
    pub modified_ns: i64,
    /// Nanoseconds since 1970; moves with every write, link, rename and change of mode.
    pub changed_ns: i64,
}

impl FileStat {
    /// Follows symlinks.
    ///
    /// # Errors
    /// `NotFound`, `Io`.
    pub fn of(path: &Path) -> Result<FileStat> {
        let metadata = std::fs::metadata(path).map_err(|e| Error::io("look at", path, e))?;
        Ok(FileStat::from_metadata(&metadata))
    }

    pub fn from_metadata(metadata: &Metadata) -> FileStat {
        FileStat {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified_ns: metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec(),
            changed_ns: metadata.ctime() * 1_000_000_000 + metadata.ctime_nsec(),
        }
    }
}
