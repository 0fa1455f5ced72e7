//! What the VFS does with each open: pass it through, refuse it with a text, or follow it.

use std::any::Any;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use super::main_file::MainFile;
use super::wal_file::{JournalFile, WalFile};
use crate::config::{Config, Decision, LeaseUse, OpenedAs, Settings, WalResetGuard, real_path};
use crate::database::{Database, Opening, ReadOnlyOpen, Runtime, ShmWal};
use crate::error::Error;
use crate::ffi::hooks::{
    BaseVfs, ConnectionFile, FileKind, MainHooks, OpenPlan, OpenRequest, OpenedConnection, PendingMain,
    VfsHooks, WalHooks,
};

/// Follows what the configuration says.
pub struct Replicating;

impl VfsHooks for Replicating {
    fn open(&self, request: &OpenRequest<'_>) -> OpenPlan {
        match (request.kind, request.path) {
            (FileKind::Main, Some(path)) => open_main(request, path),
            (FileKind::Wal, Some(path)) => match find_database(path, "-wal") {
                Some(database) => OpenPlan::Wal(Arc::new(WalFile::new(database))),
                None => OpenPlan::PassThrough,
            },
            (FileKind::MainJournal, Some(path)) => match find_database(path, "-journal") {
                Some(database) if database.is_leased() => OpenPlan::Wal(Arc::new(JournalFile(database))),
                _ => OpenPlan::PassThrough,
            },
            _ => OpenPlan::PassThrough,
        }
    }

    fn connection_opened(&self, opened: &OpenedConnection<'_>) -> Result<(), String> {
        if opened.path.is_none() && opened.ours && opened.named_explicitly {
            return Err("an in-memory database cannot be replicated: SQLite never shows it to a VFS; give it a file name, or \
                        leave vfs=replvfs out".into());
        }
        Ok(())
    }
}

/// The database that a WAL or journal belongs to, if it is followed. As a rule SQLite names it by its real path already, and a
/// journal is opened by each transaction: that is asked for only where the name alone leads nowhere.
fn find_database(file: &Path, suffix: &str) -> Option<Arc<Database>> {
    let bytes = file.as_os_str().as_bytes();
    let path = Path::new(OsStr::from_bytes(bytes.strip_suffix(suffix.as_bytes()).unwrap_or(bytes)));
    let runtime = Runtime::get();
    runtime.find(path).or_else(|| runtime.find(&real_path(path)))
}

fn open_main(request: &OpenRequest<'_>, path: &Path) -> OpenPlan {
    let opened_as = if request.named_explicitly { OpenedAs::Explicit } else { OpenedAs::Default };
    let mut parameters = request.parameters().map(|(key, value)| (key.as_bytes(), value.as_bytes()));
    let runtime = Runtime::get();
    let settings = match runtime.config.resolve(path, &mut parameters, opened_as) {
        Ok(Decision::PassThrough) => return OpenPlan::PassThrough,
        Ok(Decision::Unconfigured) => return refuse(Config::unconfigured(path)),
        Ok(Decision::Replicate(settings)) => settings,
        Err(error) => return refuse(error),
    };
    if settings.lease.used != LeaseUse::Off && is_on(request, "nolock") {
        return refuse(Error::invalid(
            "with nolock=1 SQLite asks for no lock before it writes, so nobody can be kept from writing without the lease: leave \
             nolock out, or use replica_lease=off",
        ));
    }
    if is_read_only(request, &settings.database) {
        return OpenPlan::Main(Box::new(PendingReadOnly(settings)));
    }
    let guard = settings.wal_reset_guard;
    match runtime.prepare(*settings, request.base) {
        Ok(opening) => OpenPlan::Main(Box::new(Pending { opening, base: request.base, guard })),
        Err(error) => refuse(error),
    }
}

fn refuse(error: Error) -> OpenPlan {
    OpenPlan::Refuse(Runtime::get().refused(error.to_string()))
}

/// Opened for reading only, or there is nothing else to be had.
fn is_read_only(request: &OpenRequest<'_>, path: &Path) -> bool {
    request.read_only || is_on(request, "immutable") || crate::fs::is_unwritable(path)
}

fn is_on(request: &OpenRequest<'_>, parameter: &str) -> bool {
    request.parameter(parameter).is_some_and(|v| v != "0" && v != "no" && v != "off")
}

struct Pending {
    opening: Opening,
    base: BaseVfs,
    guard: WalResetGuard,
}

impl PendingMain for Pending {
    fn opened(self: Box<Self>, file: ConnectionFile) -> Result<Arc<dyn MainHooks>, String> {
        let is_guarded = match self.guard {
            WalResetGuard::Auto => file.has_wal_reset_bug(),
            WalResetGuard::On => true,
            WalResetGuard::Off => false,
        };
        if is_guarded {
            file.keep_resets_apart();
        }
        let wal = Arc::new(ShmWal::new(file.clone()));
        let (database, id) = Runtime::get()
            .opened(self.opening, self.base, Arc::clone(&wal))
            .map_err(|e| Runtime::get().refused(e.to_string()))?;
        Ok(Arc::new(MainFile::new(database, id, file, wal)))
    }
}

struct PendingReadOnly(Box<Settings>);

impl PendingMain for PendingReadOnly {
    fn opened(self: Box<Self>, _: ConnectionFile) -> Result<Arc<dyn MainHooks>, String> {
        Ok(Arc::new(ReadOnlyFile(Runtime::get().opened_read_only(&self.0))))
    }
}

/// Nothing is watched; the status knows of it.
struct ReadOnlyFile(ReadOnlyOpen);

impl MainHooks for ReadOnlyFile {
    fn as_any(&self) -> &dyn Any {
        &self.0
    }
}

/// Wraps every main database and WAL and watches nothing: so that SQLite's own test suite exercises the wrapper.
pub struct WrapAll;

impl VfsHooks for WrapAll {
    fn open(&self, request: &OpenRequest<'_>) -> OpenPlan {
        match request.kind {
            FileKind::Main => OpenPlan::Main(Box::new(Idle)),
            FileKind::Wal => OpenPlan::Wal(Arc::new(Idle)),
            FileKind::MainJournal | FileKind::Other => OpenPlan::PassThrough,
        }
    }
}

struct Idle;

impl PendingMain for Idle {
    fn opened(self: Box<Self>, _: ConnectionFile) -> Result<Arc<dyn MainHooks>, String> {
        Ok(Arc::new(Idle))
    }
}

impl MainHooks for Idle {
    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl WalHooks for Idle {}
