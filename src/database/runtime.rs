//! Everything of this process: configuration, the databases that are open, the worker.
//!
//! Never freed: threads and exit handlers may look at it at any time. After a `fork` the child makes a new one at
//! its first use; the old one belongs to threads that the child does not have.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicPtr;
use std::sync::{Arc, Once, Weak};
use std::time::{Duration, Instant};

use super::connections::ConnectionId;
use super::followed::Database;
use super::live::{LiveFiles, wal_bytes};
use super::prepare::{self, Opening};
use super::shm_wal::ShmWal;
use super::worker::{Everyone, Urgency, Worker};
use crate::capture::Files;
use crate::clock::Deadline;
use crate::config::{Config, Settings};
use crate::error::{Error, Result};
use crate::ffi::hooks::BaseVfs;
use crate::ffi::os;
use crate::fs::FileStat;
use crate::lock::Mutex;
use crate::sqlite::header;

/// Bound of the flush at exit, for all databases together.
const EXIT_FLUSH: Duration = Duration::from_secs(5);

pub struct Runtime {
    generation: u32,
    pub config: Config,
    // Guards the table of open databases; held while one is opened, so that two threads open it once.
    databases: Mutex<HashMap<PathBuf, Arc<Database>>>,
    worker: Worker,
    /// For databases whose commits wait for the replica.
    prompt: Worker,
    // Guards the list of what is open for reading only.
    read_only: Mutex<Vec<Weak<(PathBuf, String)>>>,
    // Guards the text of the newest open that was refused: SQLite swallows it in ATTACH.
    refusal: Mutex<Option<String>>,
}

/// A database that is open for reading only, as long as this lives.
pub struct ReadOnlyOpen(Arc<(PathBuf, String)>);

impl ReadOnlyOpen {
    pub fn path(&self) -> &Path {
        &self.0.0
    }

    pub fn replica(&self) -> &str {
        &self.0.1
    }
}

static CURRENT: AtomicPtr<Runtime> = AtomicPtr::new(std::ptr::null_mut());

impl Runtime {
    /// The runtime of this process.
    pub fn get() -> &'static Runtime {
        os::process_wide(
            &CURRENT,
            |r| r.generation,
            |generation| Runtime {
                generation,
                config: Config::from_environment(),
                databases: Mutex::default(),
                worker: Worker::new(Urgency::Low),
                prompt: Worker::new(Urgency::Waited),
                read_only: Mutex::default(),
                refusal: Mutex::default(),
            },
        )
    }

    pub(super) fn schedule(&self, database: &Arc<Database>, at: Instant) {
        self.worker_of(database).schedule(database, at);
    }

    fn worker_of(&self, database: &Database) -> &Worker {
        match database.urgency() {
            Urgency::Low => &self.worker,
            Urgency::Waited => &self.prompt,
        }
    }

    /// Decides over the open of a database, before its file is opened. Nothing of SQLite's is created or changed, but
    /// a restore at open puts the database there.
    ///
    /// # Errors
    /// The open is refused with the text.
    pub fn prepare(&self, settings: Settings, base: BaseVfs) -> Result<Opening> {
        let databases = self.databases.lock();
        if let Some(open) = databases.get(&settings.database) {
            return same_settings(open, &settings).map(|()| Opening::Again(Arc::clone(open)));
        }
        if let Ok(stat) = FileStat::of(&settings.database) {
            let twin = databases.values().find(|d| {
                FileStat::of(&d.path).is_ok_and(|s| (s.device, s.inode) == (stat.device, stat.inode))
            });
            if let Some(twin) = twin {
                return Err(Error::invalid(format!(
                    "{} and {} are two names of one file; open it by one of them",
                    settings.database.display(),
                    twin.path.display()
                )));
            }
        }
        let claim = self.config.claim(&settings)?;
        prepare::prepare(settings, base, claim, &self.config).map(|p| Opening::First(Box::new(p)))
    }

    /// The file is open: the database joins the table and the connection its database.
    ///
    /// # Errors
    /// As the system says.
    pub fn opened(
        &'static self,
        opening: Opening,
        base: BaseVfs,
        wal: Arc<ShmWal>,
    ) -> Result<(Arc<Database>, ConnectionId)> {
        let mut databases = self.databases.lock();
        let database = match opening {
            Opening::Again(database) if databases.contains_key(&database.path) => database,
            // It was closed between the two calls: the one that is open now, or a new look, is the right one.
            Opening::Again(database) => match databases.get(&database.path) {
                Some(open) => Arc::clone(open),
                None => {
                    let settings = database.settings.clone();
                    drop(database);
                    let claim = self.config.claim(&settings)?;
                    Arc::new(prepare::prepare(settings, base, claim, &self.config)?.finish(base)?)
                }
            },
            Opening::First(prepared) => match databases.get(prepared.path()) {
                Some(open) => Arc::clone(open),
                None => Arc::new(prepared.finish(base)?),
            },
        };
        self.worker_of(&database).start(self, database.lane())?;
        static AT_EXIT: Once = Once::new();
        AT_EXIT.call_once(|| os::at_exit(flush_at_exit));
        databases.insert(database.path.clone(), Arc::clone(&database));
        let id = database.connections.add(wal);
        // Groups that were never sent, and pages noted before, wait for no commit. None is announced by this.
        database.schedule(Instant::now() + database.settings.interval, false);
        Ok((database, id))
    }

    /// A connection is gone. With the last one, what is left is flushed for a bounded time.
    ///
    /// The database stays in the table until its locks are gone: a second set of them in one process would be no
    /// locks at all.
    pub fn closed(&self, database: &Arc<Database>, id: ConnectionId) {
        if !database.connections.remove(id) {
            return;
        }
        flush(database, Deadline::after(database.settings.flush_timeout));
        let mut databases = self.databases.lock();
        let mut engine = database.engine.lock();
        if !database.connections.is_empty() || engine.lock.is_none() {
            return; // opened again meanwhile, or closed by another thread
        }
        leave(database, &engine.live);
        engine.lock = None;
        database.users.lock().take();
        database.claim.lock().take();
        databases.remove(&database.path);
    }

    /// A database was opened for reading only.
    pub fn opened_read_only(&'static self, settings: &Settings) -> ReadOnlyOpen {
        let entry = Arc::new((settings.database.clone(), settings.replicas[0].to_string()));
        let mut read_only = self.read_only.lock();
        read_only.retain(|e| e.strong_count() > 0);
        read_only.push(Arc::downgrade(&entry));
        ReadOnlyOpen(entry)
    }

    /// Keeps why an open was refused, and gives it back.
    pub fn refused(&self, text: String) -> String {
        *self.refusal.lock() = Some(text.clone());
        text
    }

    /// Why the newest refused open of this process was refused.
    pub fn last_refusal(&self) -> Option<String> {
        self.refusal.lock().clone()
    }

    /// Databases open for reading only: path and replica.
    pub fn read_only(&self) -> Vec<(PathBuf, String)> {
        self.read_only.lock().iter().filter_map(Weak::upgrade).map(|e| (*e).clone()).collect()
    }

    /// Every open database.
    pub fn databases(&self) -> Vec<Arc<Database>> {
        self.databases.lock().values().cloned().collect()
    }

    /// The open database at `path`, after symbolic links.
    pub fn find(&self, path: &Path) -> Option<Arc<Database>> {
        self.databases.lock().get(path).cloned()
    }
}

impl Everyone for Runtime {
    fn open_databases(&self) -> Vec<Arc<Database>> {
        self.databases()
    }
}

fn same_settings(open: &Database, settings: &Settings) -> Result<()> {
    if open.settings.replicas == settings.replicas {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "{} is open in this process with replica {}; a second connection cannot have replica {}",
        open.path.display(),
        open.settings.replicas[0],
        settings.replicas[0]
    )))
}

/// Waits until what was committed is in the replica, unless nobody of this process can read it now.
pub fn flush(database: &Arc<Database>, deadline: Deadline) {
    let readable = wal_bytes(&database.path) == 0 || database.connections.mapped().is_some();
    if readable && !deadline.passed() {
        // What is not sent now waits in the local log.
        let _ = database.sync(deadline.remaining());
    }
}

fn flush_at_exit() {
    let deadline = Deadline::after(EXIT_FLUSH);
    let Some(runtime) = os::process_wide_if_there(&CURRENT, |r: &Runtime| r.generation) else { return };
    let Some(databases) = runtime.databases.try_lock_for(deadline.remaining()) else { return };
    let open: Vec<_> = databases.values().cloned().collect();
    drop(databases);
    open.iter().for_each(|database| flush(database, deadline));
}

/// Leaves marks that let the next open know the file again without reading it.
fn leave(database: &Database, live: &LiveFiles) {
    let alone = database.users.lock().as_ref().is_some_and(|users| users.try_exclusive().unwrap_or(false));
    if !alone || wal_bytes(&database.path) > 0 {
        return; // another process goes on
    }
    let before = FileStat::of(&database.path);
    let mut bytes = [0; 100];
    let (Ok(stat), Ok(100)) = (before, live.read_database(0, &mut bytes)) else { return };
    let tag: Option<[u8; header::TAG_LEN]> =
        bytes[header::TAG_OFFSET as usize..][..header::TAG_LEN].try_into().ok();
    let tag = tag.map_or(0, |t| header::change_tag(&t));
    // In WAL mode page 1 says nothing about later commits: the file must stand as it did when its WAL went away.
    let ours = if header::parse(&bytes).is_none_or(|h| h.wal) {
        database.state.set_tag(0);
        database.is_at_rest()
    } else {
        tag == database.state.tag()
    };
    // The marks outlast a loss of power, so what they speak of must, whatever `synchronous` says.
    if ours && live.base().sync().is_ok() && FileStat::of(&database.path).is_ok_and(|after| after == stat) {
        database.state.set_cycle(None);
        database.state.set_clean(Some(&stat));
        if database.noted.is_empty() {
            database.state.set_synced(database.log.recorded().ok().flatten().map(|r| r.position.txid));
        }
    }
    if let Some(newest) = database.log.txids().ok().and_then(|t| t.last().copied()) {
        let _ = database.log.make_durable(newest);
    }
    // A mark that does not last costs a scan at the next open, no more.
    let _ = database.noted.sync();
    let _ = database.state.sync();
}
