//! Reads of the live files of a database, beside SQLite.
//!
//! The database file is read through the base VFS only, on a handle of our own that lives as long as the database is
//! open in this process: closing any other descriptor of it would drop SQLite's POSIX locks. The WAL may be opened
//! freely.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::connections::{Connections, Writing};
use super::wait::standing::Standing;
use crate::capture::Files;
use crate::capture::rollback_pages::{Quiet, Stillness};
use crate::clock;
use crate::error::{Error, Kind, Result};
use crate::ffi::hooks::BaseFile;
use crate::fs::{FileStat, durable};
use crate::lock::Mutex;

/// The kernel stamps files with a clock that ticks every 1 to 10 ms: two changes within one tick look like one. A
/// file whose change time is older than this shows every further change.
pub const TICK: Duration = Duration::from_millis(12);

/// The path of a file that SQLite keeps beside a database.
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// The handles for reading.
pub struct LiveFiles {
    /// `None` once the database is closed.
    base: Option<BaseFile>,
    wal_path: PathBuf,
    // Guards the descriptor of the WAL, which is open while it is read only: a thousand databases are many descriptors.
    wal: Mutex<Option<File>>,
}

impl LiveFiles {
    pub fn new(base: BaseFile, database: &Path) -> LiveFiles {
        LiveFiles { base: Some(base), wal_path: beside(database, "-wal"), wal: Mutex::new(None) }
    }

    pub fn base(&self) -> &BaseFile {
        self.base.as_ref().expect("BUG: the database is closed")
    }

    /// Gives the handle back with the last connection, however long somebody looks at the rest.
    pub fn close(&mut self) {
        self.base = None;
    }

    /// Opens the WAL that is there now; call it before a series of reads.
    pub fn open_wal(&self) -> Result<()> {
        *self.wal.lock() = match File::open(&self.wal_path) {
            Ok(file) => Some(file),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
            Err(e) => return Err(Error::io("open", &self.wal_path, e)),
        };
        Ok(())
    }

    pub fn close_wal(&self) {
        self.wal.lock().take();
    }
}

/// Reads as much as there is.
pub fn read_at(file: &File, path: &Path, offset: u64, buffer: &mut [u8]) -> Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Error::io("read", path, e)),
        }
    }
    Ok(done)
}

/// Bytes of the WAL beside the database; 0: there is none, or an empty one.
pub fn wal_bytes(database: &Path) -> u64 {
    std::fs::metadata(beside(database, "-wal")).map_or(0, |wal| wal.len())
}

/// The file was changed so lately that another change may not show.
pub fn is_fresh(stat: &FileStat) -> bool {
    clock::coarse_now_ns() - i128::from(stat.changed_ns) < TICK.as_nanos() as i128
}

/// Whether a journal lies beside the database that the next reader would play back.
///
/// # Errors
/// `Io`.
pub fn journal_is_hot(database: &Path) -> Result<bool> {
    open_journal(database)?.map_or(Ok(false), |(file, path)| is_hot(&file, &path))
}

/// The rollback journal beside a database, with its path, where there is one.
///
/// # Errors
/// `Io`.
pub fn open_journal(database: &Path) -> Result<Option<(File, PathBuf)>> {
    let path = beside(database, "-journal");
    match File::open(&path) {
        Ok(file) => Ok(Some((file, path))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("open", &path, e)),
    }
}

/// Makes the end of the last transaction last: its journal is gone, or cut, or void. With `synchronous` below `EXTRA` SQLite
/// itself leaves that to chance.
///
/// # Errors
/// `Io`.
pub fn sync_journal(database: &Path) -> Result<()> {
    if let Some((file, path)) = open_journal(database)? {
        durable::sync_file(&file, &path)?;
    }
    durable::sync_folder(durable::parent(database))
}

/// Whether a journal begins as one that a transaction goes on with, or that a reader would play back.
///
/// # Errors
/// `Io`.
pub fn is_hot(journal: &File, path: &Path) -> Result<bool> {
    let mut magic = [0; 8];
    Ok(read_at(journal, path, 0, &mut magic)? == magic.len() && magic != [0; 8])
}

impl Files for LiveFiles {
    fn read_database(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        self.base().read(offset, buffer)
    }

    fn database_size(&self) -> Result<u64> {
        self.base().size()
    }

    fn read_wal(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        match &*self.wal.lock() {
            Some(file) => read_at(file, &self.wal_path, offset, buffer),
            None => Ok(0),
        }
    }

    fn wal_size(&self) -> Result<u64> {
        let wal = self.wal.lock();
        let size = wal.as_ref().map_or(Ok(0), |file| file.metadata().map(|metadata| metadata.len()));
        size.map_err(|e| Error::io("look at", &self.wal_path, e))
    }
}

/// Tells when a database in a rollback mode stands still.
pub struct LiveQuiet<'a> {
    pub path: &'a Path,
    pub files: &'a LiveFiles,
    pub connections: &'a Connections,
    /// Writes to the database file by this process.
    pub writes: &'a AtomicU64,
    /// We hold SHARED: nobody can commit.
    pub held: bool,
    /// Committers that hold EXCLUSIVE and wait for us.
    pub standing: &'a Standing,
}

impl LiveQuiet<'_> {
    fn look(&self) -> Result<Stillness> {
        // The counter first: a write that falls between the two shows in the second look.
        let writes = self.writes.load(Ordering::SeqCst);
        Ok(Stillness { stat: FileStat::of(self.path)?, writes, stand: None })
    }

    /// A transaction is open, in this process or another.
    fn is_open(&self) -> Result<bool> {
        match self.connections.exclusive() {
            // Our own connection keeps everybody else out: only what it is doing counts.
            Some(Writing::No) => Ok(false),
            Some(Writing::Unknown) => Ok(true),
            // It may have rolled back, which it tells nobody; but then it has put the journal away.
            Some(Writing::Journaled) => journal_is_hot(self.path),
            None => self.files.base().check_reserved(),
        }
    }

    /// The database went over to WAL mode: its file stands still while others commit, and the noted pages are to be
    /// read elsewhere.
    fn has_wal(&self) -> bool {
        wal_bytes(self.path) > 0
    }

    fn is_fresh(&self, stat: &FileStat) -> bool {
        self.connections.exclusive().is_none() && is_fresh(stat)
    }
}

impl Quiet for LiveQuiet<'_> {
    fn quiet(&self) -> Result<Option<Stillness>> {
        let at = self.look()?;
        if self.has_wal() {
            return Ok(None);
        }
        if self.held {
            return Ok(Some(at));
        }
        if let Some(token) = self.standing.now() {
            return Ok(Some(Stillness { stand: Some(token), ..at }));
        }
        // In EXCLUSIVE mode the journal of a committed transaction may still be there; the owner knows better.
        let owned = self.connections.exclusive().is_some();
        if self.is_open()? || self.is_fresh(&at.stat) || (!owned && journal_is_hot(self.path)?) {
            return Ok(None);
        }
        Ok(if self.look()? == at { Some(at) } else { None })
    }

    fn still(&self, since: &Stillness) -> Result<bool> {
        if self.has_wal() {
            return Ok(false);
        }
        if self.held {
            return Ok(true);
        }
        if let Some(token) = since.stand {
            return Ok(self.standing.still(token));
        }
        match self.look() {
            Ok(now) => Ok(now == *since && !self.is_open()?),
            Err(error) if error.kind() == Kind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}
