//! Whole-file POSIX locks between processes: they die with the process, a forked child does not inherit them.
//!
//! A POSIX lock is lost when its process closes *any* descriptor of the file, so a lock file is opened once in a
//! process and by nobody else.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, fcntl_lock};
use rustix::io::Errno;

use crate::error::{Error, Result};

/// An open lock file.
#[derive(Debug)]
pub struct LockFile {
    file: File,
    path: PathBuf,
}

impl LockFile {
    /// Opens or creates the file (mode 0600), locking nothing.
    ///
    /// # Errors
    /// `Io`.
    pub fn open(path: &Path) -> Result<LockFile> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(OFlags::NOFOLLOW.bits() as i32)
            .open(path)
            .map_err(|e| Error::io("open", path, e))?;
        Ok(LockFile { file, path: path.to_owned() })
    }

    /// Takes the lock alone; `false`: another process holds it.
    ///
    /// # Errors
    /// `Io` where the file system has no locks.
    pub fn try_exclusive(&self) -> Result<bool> {
        self.attempt(FlockOperation::NonBlockingLockExclusive)
    }

    /// Takes the lock together with others, or lowers it to that; `false`: another process holds it alone.
    ///
    /// # Errors
    /// As [`LockFile::try_exclusive`].
    pub fn try_shared(&self) -> Result<bool> {
        self.attempt(FlockOperation::NonBlockingLockShared)
    }

    /// # Errors
    /// As [`LockFile::try_exclusive`].
    pub fn unlock(&self) -> Result<()> {
        self.attempt(FlockOperation::NonBlockingUnlock).map(|_| ())
    }

    fn attempt(&self, operation: FlockOperation) -> Result<bool> {
        match fcntl_lock(&self.file, operation) {
            Ok(()) => Ok(true),
            Err(Errno::AGAIN | Errno::ACCESS) => Ok(false),
            Err(e) => Err(Error::io("lock", &self.path, e.into())),
        }
    }
}
