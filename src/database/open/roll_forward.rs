//! A local file is overwritten with the end of its history, before SQLite sees it.
//!
//! ```text
//! SQLite's EXCLUSIVE lock; is everything as it was looked at? settle; what will be lost, saved; apply
//! ```
//!
//! What leaves the local file is either a state of that history, or saved in the log first ([`crate::restore::tail`]).

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::capture::{Base, Shape, group};
use crate::clock::{self, Deadline};
use crate::database::live::{TICK, beside, is_fresh, read_at};
use crate::database::open::look::with_hot_journal;
use crate::database::overwrite::saved::{self, Saved};
use crate::database::way::Way;
use crate::error::{Error, Kind, Result};
use crate::ffi::hooks::{BaseFile, BaseVfs};
use crate::fs::FileStat;
use crate::fs::durable::{self, Temp};
use crate::ltx::page_checksum;
use crate::restore::apply::{self, Place};
use crate::restore::tail::{self, Here};
use crate::staging::checksums::PageChecksums;
use crate::staging::log::{Log, Sealed};
use crate::types::{Pgno, Position};

/// Shortest wait for SQLite's lock.
const LOCK_WAIT_MIN: Duration = Duration::from_millis(100);

/// Identity and times of a database and what lies beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stills([Option<FileStat>; 3]);

impl Stills {
    pub fn of(path: &Path) -> Stills {
        let side = |suffix| FileStat::of(&beside(path, suffix)).ok().filter(|stat| stat.size > 0);
        Stills([FileStat::of(path).ok(), side("-wal"), side("-journal")])
    }

    /// The same, once every further change of what was changed last must show.
    pub fn old_enough(path: &Path) -> Stills {
        let stills = Stills::of(path);
        if !stills.0.iter().flatten().any(is_fresh) {
            return stills;
        }
        clock::pause(TICK);
        Stills::of(path)
    }

    /// The database alone.
    pub fn database(&self) -> Option<FileStat> {
        self.0[0].clone()
    }

    /// Database or WAL changed after this machine was started.
    pub fn changed_since_boot(&self) -> bool {
        let booted = clock::booted_ns();
        self.0.iter().take(2).flatten().any(|stat| i128::from(stat.changed_ns) > booted)
    }
}

/// What came of it.
pub struct Rolled {
    pub way: Way,
    /// Pages written.
    pub pages: usize,
    /// Where the state that was there is kept.
    pub saved: Option<PathBuf>,
    /// All that leaves, where another writer's history takes its place.
    pub tail: Option<Saved>,
}

impl Rolled {
    /// What happened, for the status; `before`: where the log stood.
    pub fn told(&self, before: Option<Position>) -> String {
        let (end, pages) = (self.way.end().position.txid, self.pages);
        let from = match before.filter(|p| p.txid < end) {
            Some(before) => format!("from {} ", before.txid),
            None => String::new(),
        };
        let saved = match &self.saved {
            Some(path) => format!("; what it held before is saved in {}", path.display()),
            None => String::new(),
        };
        format!("the database was rolled forward {from}to {end} ({pages} pages){saved}")
    }
}

/// What is kept before it is overwritten.
#[derive(Clone, Copy)]
pub enum Save<'a> {
    /// Nothing: the state is in the history.
    Nothing,
    /// What makes the end into the state.
    Difference,
    /// All of it, and these groups, which are in no replica.
    Tail(&'a [Sealed]),
}

/// What is to be overwritten, and how.
pub struct Roll<'a> {
    pub path: &'a Path,
    pub log: &'a Log,
    pub base: BaseVfs,
    /// The state that the way was found for.
    pub here: Here,
    /// The files as they were looked at.
    pub looked_at: &'a Stills,
    pub save: Save<'a>,
    pub wait: Duration,
    pub nonce: u32,
}

impl Roll<'_> {
    /// Overwrites the file.
    ///
    /// # Errors
    /// `Busy` while another program has the database open or has changed it; `Full`, `Io`. The old state is there, or
    /// SQLite's next reader brings it back.
    pub fn run(&self, way: Way) -> Result<Rolled> {
        let file = self.base.open(self.path, false)?;
        self.lock(&file)?;
        let outcome = self.locked(&file, &way);
        file.unlock(0)?;
        let (pages, saved, tail) = outcome?;
        Ok(Rolled { way, pages, saved, tail })
    }

    fn lock(&self, file: &BaseFile) -> Result<()> {
        let deadline = Deadline::after(self.wait.max(LOCK_WAIT_MIN));
        loop {
            if file.lock(1)? {
                if file.lock(4)? {
                    return Ok(());
                }
                file.unlock(0)?;
            }
            if deadline.passed() {
                return Err(Error::busy(format!(
                    "{} must be rolled forward, but another program has it open; close that one and try again",
                    self.path.display()
                )));
            }
            clock::pause(Duration::from_millis(5));
        }
    }

    fn locked(&self, file: &BaseFile, way: &Way) -> Result<(usize, Option<PathBuf>, Option<Saved>)> {
        if Stills::of(self.path) != *self.looked_at {
            let path = self.path.display();
            return Err(Error::busy(format!("{path} was changed while it was looked at; try again")));
        }
        let (journal, wal) = (Side::of(self.path, "-journal"), Side::of(self.path, "-wal"));
        let place = OnDisk { file, path: self.path, journal, wal };
        with_hot_journal(self.path, |hot| apply::settle(&place, hot.map(|hot| &hot.playback)))?;
        let (mut saved, mut tail) = (None, None);
        match self.save {
            Save::Nothing => {}
            Save::Difference => saved = self.save(&place, way)?,
            Save::Tail(groups) => {
                tail = Some(self.save_tail(&place, groups)?);
                self.log.begin_rolling()?;
            }
        }
        let pages = apply::apply(&place, &way.overlay, self.here.page_size, self.nonce)?;
        Ok((pages, saved, tail))
    }

    fn save_tail(&self, place: &OnDisk<'_>, groups: &[Sealed]) -> Result<Saved> {
        let shape = Shape { page_size: self.here.page_size, page_count: self.here.page_count };
        let lock = shape.page_size.lock_pgno();
        let read = |pgno: Pgno, page: &mut [u8]| place.read(pgno.offset(shape.page_size), page).map(drop);
        let mut page = vec![0; shape.page_size.bytes()];
        let mut sums = Vec::with_capacity(shape.page_count as usize);
        for pgno in (1..=shape.page_count).filter_map(Pgno::new).filter(|&pgno| pgno != lock) {
            read(pgno, &mut page)?;
            sums.push((pgno, page_checksum(pgno, &page)));
        }
        let recorded = self.log.recorded()?;
        let mut checksums = PageChecksums::open(&self.log.folder().join("checksums"))?;
        if let Some(recorded) = &recorded {
            group::reapply(self.log, &mut checksums, recorded)?;
        }
        let base = Base { recorded, checksums: &checksums };
        saved::save(self.log, groups, &base, &saved::State { shape, sums: &sums, read: &read }, clock::now())
    }

    /// Keeps what will be lost.
    fn save(&self, place: &OnDisk<'_>, way: &Way) -> Result<Option<PathBuf>> {
        let path = self.log.saved_path(self.here.checksum, tail::range(&way.overlay));
        durable::create_folder(durable::parent(&path))?;
        let temp = Temp::create(&path)?;
        let mut out = BufWriter::new(temp.file());
        tail::write(place, &way.overlay, self.here, clock::now(), &mut out)?;
        out.flush().map_err(|e| Error::io("write", temp.path(), e))?;
        drop(out);
        match temp.publish(&path) {
            Err(error) if error.kind() == Kind::Exists => Ok(Some(path)),
            other => other.map(|_| Some(path)),
        }
    }
}

/// The files of a database that nobody else has open.
struct OnDisk<'a> {
    file: &'a BaseFile,
    path: &'a Path,
    journal: Side,
    wal: Side,
}

/// A file beside it, opened when it is first used.
struct Side {
    path: PathBuf,
    file: RefCell<Option<File>>,
}

impl Side {
    fn of(database: &Path, suffix: &str) -> Side {
        Side { path: beside(database, suffix), file: RefCell::default() }
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let mut file = self.file.borrow_mut();
        if file.is_none() {
            *file = match File::open(&self.path) {
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(0),
                other => Some(other.map_err(|e| Error::io("open", &self.path, e))?),
            };
        }
        file.as_ref().map_or(Ok(0), |file| read_at(file, &self.path, offset, buffer))
    }

    /// Makes it anew, empty; who may read and write the database may do so here.
    fn begin(&self, database: &Path) -> Result<()> {
        let io = |e| Error::io("create", &self.path, e);
        let like = std::fs::metadata(database).map_err(io)?;
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(true).open(&self.path).map_err(io)?;
        file.set_permissions(like.permissions()).map_err(io)?;
        // Only root may, and only root needs to.
        let _ = std::os::unix::fs::fchown(&file, Some(like.uid()), Some(like.gid()));
        *self.file.borrow_mut() = Some(file);
        Ok(())
    }

    fn with<T>(&self, verb: &str, body: impl FnOnce(&File) -> std::io::Result<T>) -> Result<T> {
        let file = self.file.borrow();
        body(file.as_ref().expect("BUG: a journal is begun before it is used"))
            .map_err(|e| Error::io(verb, &self.path, e))
    }

    fn remove(&self) -> Result<()> {
        *self.file.borrow_mut() = None;
        remove(&self.path)
    }
}

/// Removes a file, so that it stays away.
fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        other => other.map_err(|e| Error::io("remove", path, e))?,
    }
    durable::sync_folder(durable::parent(path))
}

impl Place for OnDisk<'_> {
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        self.file.read(offset, buffer)
    }
    fn size(&self) -> Result<u64> {
        self.file.size()
    }
    fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.file.write(offset, bytes)
    }
    fn truncate(&self, size: u64) -> Result<()> {
        self.file.truncate(size)
    }
    fn sync(&self) -> Result<()> {
        self.file.sync()
    }
    fn read_journal(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        self.journal.read(offset, buffer)
    }
    fn begin_journal(&self) -> Result<()> {
        self.journal.begin(self.path)
    }
    fn write_journal(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.journal.with("write", |file| file.write_all_at(bytes, offset))
    }
    fn sync_journal(&self) -> Result<()> {
        let path = &self.journal.path;
        durable::sync_file(
            self.journal.file.borrow().as_ref().expect("BUG: synced before it is begun"),
            path,
        )?;
        durable::sync_folder(durable::parent(path))
    }
    fn remove_journal(&self) -> Result<()> {
        self.journal.remove()
    }
    fn read_wal(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        self.wal.read(offset, buffer)
    }
    fn remove_wal(&self) -> Result<()> {
        self.wal.remove()
    }
}
