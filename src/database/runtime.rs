//! Everything of this process: configuration, the databases that are open, the worker.
//!
//! Never freed: threads and exit handlers may look at it at any time. After a `fork` the child makes a new one at
//! its first use; the old one belongs to threads that the child does not have.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use std::sync::{Arc, Once, Weak};
use std::time::{Duration, Instant};

use super::connections::ConnectionId;
use super::engine::Engine;
use super::followed::Database;
use super::live::{LiveFiles, sync_journal, wal_bytes};
use super::open::prepare::{self, Opening};
use super::shm_wal::ShmWal;
use super::worker::queue::Lane;
use super::worker::threads::{Everyone, Urgency, Worker};
use crate::capture::Files;
use crate::clock::Deadline;
use crate::config::{Config, Settings};
use crate::error::{Error, Result};
use crate::ffi::hooks::BaseVfs;
use crate::ffi::os;
use crate::fs::FileStat;
use crate::lock::{Condvar, Mutex, MutexGuard};
use crate::sqlite::header;

/// Longest wait of a close for the end of an upload, after the flush.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);
/// Bound of the flush at exit, for all databases together.
const EXIT_FLUSH: Duration = Duration::from_secs(5);

pub struct Runtime {
    generation: u32,
    pub config: Config,
    // Guards the table of open databases; never held while a disk or a store is waited for.
    databases: Mutex<Table>,
    /// One of those that were being opened is open, or was refused.
    opened: Condvar,
    worker: Worker,
    /// For databases whose commits wait for the replica.
    prompt: Worker,
    // Guards the list of what is open for reading only.
    read_only: Mutex<Vec<Weak<(PathBuf, String)>>>,
    // Guards the newest text that belongs to no database: why an open was refused, which SQLite swallows in ATTACH; a
    // notice.
    said: Mutex<Option<String>>,
    /// Nobody of this process writes the databases that are open.
    is_sidecar: AtomicBool,
}

#[derive(Default)]
struct Table {
    open: HashMap<PathBuf, Arc<Database>>,
    /// What one thread opens, so that others wait for it, with the inode it had.
    opening: HashMap<PathBuf, Option<(u64, u64)>>,
}

/// The right to open a database first; others that want it wait until this is gone.
pub struct First {
    runtime: &'static Runtime,
    path: PathBuf,
}

impl Drop for First {
    fn drop(&mut self) {
        self.runtime.databases.lock().opening.remove(&self.path);
        self.runtime.opened.notify_all();
    }
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
                opened: Condvar::default(),
                worker: Worker::new(Urgency::Low),
                prompt: Worker::new(Urgency::Waited),
                read_only: Mutex::default(),
                said: Mutex::default(),
                is_sidecar: AtomicBool::new(false),
            },
        )
    }

    pub(super) fn schedule(&self, database: &Arc<Database>, at: Instant) {
        self.worker_of(database).schedule(database, at);
    }

    /// Upkeep yields to everything, whatever the database's urgency.
    pub(super) fn schedule_upkeep(&self, database: &Arc<Database>, at: Instant) {
        self.worker.forget(Lane::Upkeep, database);
        self.worker.schedule_in(Lane::Upkeep, database, at);
    }

    /// What keeps a lease must not wait for anything else.
    pub(super) fn schedule_lease(&self, database: &Arc<Database>, at: Instant) {
        self.worker.forget(Lane::Lease, database);
        self.worker.schedule_in(Lane::Lease, database, at);
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
    pub fn prepare(&'static self, settings: Settings, base: BaseVfs) -> Result<Opening> {
        let first = match self.first(&settings)? {
            Ok(first) => first,
            Err(open) => return same_settings(&open, &settings).map(|()| Opening::Again(open)),
        };
        let claim = self.config.claim(&settings)?;
        let prepared = prepare::prepare(settings, base, claim, &self.config)?;
        Ok(Opening::First(Box::new(prepared), first))
    }

    /// The right to open a database, or, as the inner error, the one that is open.
    fn first(&'static self, settings: &Settings) -> Result<std::result::Result<First, Arc<Database>>> {
        let path = &settings.database;
        let mut table = self.databases.lock();
        while table.opening.contains_key(path) {
            self.opened.wait(&mut table);
        }
        if let Some(open) = table.open.get(path) {
            return Ok(Err(Arc::clone(open)));
        }
        let inode = |path: &Path| FileStat::of(path).ok().map(|s| (s.device, s.inode));
        let own = inode(path);
        let open = table.open.values().map(|open| (&open.path, Some(open.state.file_id())));
        let mut others = open.chain(table.opening.iter().map(|(path, inode)| (path, *inode)));
        if let Some((twin, _)) = others.find(|(_, other)| own.is_some() && *other == own) {
            return Err(Error::invalid(format!(
                "{} and {} are two names of one file; open it by one of them",
                path.display(),
                twin.display()
            )));
        }
        drop(others);
        table.opening.insert(path.clone(), own);
        Ok(Ok(First { runtime: self, path: path.clone() }))
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
        let (database, id, _first) = match opening {
            Opening::First(prepared, first) => self.put(Arc::new(prepared.finish(base)?), &wal, Some(first)),
            Opening::Again(database) => match self.join(&database.path, &wal) {
                Some((database, id)) => (database, id, None),
                // It was closed between the two calls: a new look is the right one.
                None => match self.prepare(database.settings.clone(), base)? {
                    Opening::First(prepared, first) => {
                        self.put(Arc::new(prepared.finish(base)?), &wal, Some(first))
                    }
                    again @ Opening::Again(_) => return self.opened(again, base, wal),
                },
            },
        };
        self.worker_of(&database).start(self, database.lane())?;
        self.worker.start(self, Lane::Upkeep)?;
        if database.is_leased() {
            self.worker.start(self, Lane::Lease)?;
        }
        static AT_EXIT: Once = Once::new();
        AT_EXIT.call_once(|| os::at_exit(flush_at_exit));
        // Groups that were never sent, and pages noted before, wait for no commit. None is announced by this.
        database.schedule(Instant::now() + database.settings.interval, false);
        Ok((database, id))
    }

    fn put(
        &self,
        database: Arc<Database>,
        wal: &Arc<ShmWal>,
        first: Option<First>,
    ) -> (Arc<Database>, ConnectionId, Option<First>) {
        let mut table = self.databases.lock();
        let id = database.connections.add(Arc::clone(wal));
        table.open.insert(database.path.clone(), Arc::clone(&database));
        (database, id, first)
    }

    /// Under the table's lock, so that a last close sees the new connection, or we do not see its database.
    fn join(&self, path: &Path, wal: &Arc<ShmWal>) -> Option<(Arc<Database>, ConnectionId)> {
        let table = self.databases.lock();
        let database = table.open.get(path)?;
        Some((Arc::clone(database), database.connections.add(Arc::clone(wal))))
    }

    /// A connection is gone. With the last one, what is left is flushed for a bounded time.
    ///
    /// The database stays in the table until its locks are gone: a second set of them in one process would be no
    /// locks at all. While a store keeps the worker waiting, the application does not wait too: the worker closes it.
    pub fn closed(&self, database: &Arc<Database>, id: ConnectionId) {
        if !database.connections.remove(id) {
            return;
        }
        let deadline = Deadline::after(database.settings.flush_timeout);
        flush(database, deadline);
        if database.leave_lease() {
            database.wait_for_leave(deadline);
        }
        let engine = database.engine.try_lock_for(CLOSE_PATIENCE);
        if let Some(engine) = engine.or_else(|| database.leave_to_worker()) {
            self.close(database, engine);
        }
    }

    /// The last close of a database, once nobody works on it.
    pub(super) fn close(&self, database: &Arc<Database>, mut engine: MutexGuard<'_, Engine>) {
        let mut table = self.databases.lock();
        if !database.connections.is_empty() || engine.lock.is_none() {
            drop((table, engine));
            database.run_if_asked();
            return; // opened again meanwhile, or closed by another thread
        }
        // What stays says nothing new, and goes when the log is next worked on.
        let _ = engine.groups.forget_unneeded(&database.log);
        let _ = database.upkeep.sent.lock().clear();
        leave(database, &engine.live);
        engine.live.close();
        engine.lock = None;
        database.users.lock().take();
        database.claim.lock().take();
        table.open.remove(&database.path);
        drop(table);
        self.worker.forget(Lane::Upkeep, database);
        self.worker.forget(Lane::Lease, database);
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
        *self.said.lock() = Some(text.clone());
        text
    }

    /// Keeps what somebody should know of something that went well.
    pub fn notice(&self, text: &str) {
        *self.said.lock() = Some(text.to_owned());
    }

    /// Why the newest refused open of this process was refused, or a notice that came after it.
    pub fn last_said(&self) -> Option<String> {
        self.said.lock().clone()
    }

    /// Databases open for reading only: path and replica.
    pub fn read_only(&self) -> Vec<(PathBuf, String)> {
        self.read_only.lock().iter().filter_map(Weak::upgrade).map(|e| (*e).clone()).collect()
    }

    /// From now on whoever writes the databases is another program, whose commits are looked for more often.
    pub fn become_sidecar(&self) {
        self.is_sidecar.store(true, Ordering::Relaxed);
    }

    /// Every open database.
    pub fn databases(&self) -> Vec<Arc<Database>> {
        self.databases.lock().open.values().cloned().collect()
    }

    /// The open database at `path`, after symbolic links.
    pub fn find(&self, path: &Path) -> Option<Arc<Database>> {
        self.databases.lock().open.get(path).cloned()
    }
}

impl Everyone for Runtime {
    fn open_databases(&self) -> Vec<Arc<Database>> {
        self.databases()
    }

    fn is_sidecar(&self) -> bool {
        self.is_sidecar.load(Ordering::Relaxed)
    }
}

fn same_settings(open: &Database, settings: &Settings) -> Result<()> {
    if open.settings.lease != settings.lease {
        return Err(Error::invalid(format!(
            "{} is open in this process with another replica_lease; a second connection has the same settings of the lease",
            open.path.display()
        )));
    }
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

/// Waits until what was committed is in the replica, unless nobody of this process can read it, or send it, now.
pub fn flush(database: &Arc<Database>, deadline: Deadline) {
    if can_be_flushed(database) && !deadline.passed() {
        // What is not sent now waits in the local log.
        let _ = database.tickets.wait_to_leave(database.ask_for_sync(), deadline);
    }
}

fn can_be_flushed(database: &Database) -> bool {
    let is_readable = wal_bytes(&database.path) == 0 || database.connections.mapped().is_some();
    is_readable && !database.heals_later()
}

fn flush_at_exit() {
    let deadline = Deadline::after(EXIT_FLUSH);
    let Some(runtime) = os::process_wide_if_there(&CURRENT, |r: &Runtime| r.generation) else { return };
    let Some(table) = runtime.databases.try_lock_for(deadline.remaining()) else { return };
    let open: Vec<_> = table.open.values().cloned().collect();
    drop(table);
    // All of them are asked before the first is waited for: a thousand take no longer than they must.
    let readable = open.iter().filter(|database| can_be_flushed(database));
    let asked: Vec<_> = readable
        .map(|database| {
            let patience = EXIT_FLUSH.min(database.settings.flush_timeout);
            (database, database.ask_for_sync(), Deadline::after(patience))
        })
        .collect();
    for (database, ticket, deadline) in asked {
        let _ = database.tickets.wait_to_leave(ticket, deadline);
    }
    let leaving: Vec<_> = open.iter().filter(|database| database.leave_lease()).collect();
    leaving.into_iter().for_each(|database| database.wait_for_leave(deadline));
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
    let tag = header::tag_of(&bytes);
    // In WAL mode page 1 says nothing about later commits: the file must stand as it did when its WAL went away.
    let ours = if header::parse(&bytes).is_none_or(|h| h.wal) {
        database.state.set_tag(0);
        database.is_at_rest()
    } else {
        tag == database.state.tag()
    };
    // The marks outlast a loss of power, so what they speak of must, whatever `synchronous` says: the file, and each group, as
    // nobody looks for damaged ones where the mark is clean.
    let is_durable = database.log.make_all_durable().is_ok();
    if ours
        && is_durable
        && sync_journal(&database.path).is_ok()
        && live.base().sync().is_ok()
        && FileStat::of(&database.path).is_ok_and(|after| after == stat)
    {
        database.state.set_cycle(None);
        database.state.set_clean(Some((&stat, tag)));
        if database.noted.is_empty() {
            database.state.set_synced(database.log.recorded().ok().flatten().map(|r| r.position.txid));
        }
    }
    // A mark that does not last costs a scan at the next open, no more.
    let _ = database.noted.sync();
    let _ = database.state.sync();
}
