//! Databases that this process opens only to replicate them: the SQLite of the program, through our own VFS.
//!
//! Who writes such a database has no extension. When such a program starts its WAL over, everything must be compared, because
//! nothing tells what was written in between. So a read transaction keeps others from that, and this process, whose VFS
//! knows what it does, starts the WAL over instead.

use crate::database::Runtime;
use crate::error::{Error, Kind, Result};
use crate::ffi::engine::Engine;
use crate::ffi::sql::Value;
use crate::types::Txid;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a statement of ours waits for the locks of others.
const BUSY_MS: i32 = 5000;

/// How long it may keep writers from going on while it starts a WAL over.
const RESTART_MS: i32 = 50;
/// A WAL of this size is started over: four times what a program checkpoints by itself at 4 KiB a page.
const WAL_BYTES_MAX: u64 = 16 << 20;
/// Longest wait for what is not in the replica yet, before a WAL is started over.
const CAUGHT_UP: Duration = Duration::from_millis(500);

/// One open database.
pub struct Feed {
    engine: Engine,
    /// Through SQLite's own VFS; its read transaction is open while the database is in WAL mode.
    reader: Engine,
    path: PathBuf,
}

impl Feed {
    /// Opens a database that exists, by what configuration, environment or [`configure`] say of it.
    ///
    /// # Errors
    /// As the open is refused.
    pub fn open(path: &Path) -> Result<Feed> {
        let metadata = std::fs::metadata(path).map_err(|e| Error::io("open", path, e))?;
        if !metadata.is_file() {
            return Err(Error::invalid(format!("cannot open {}: it is no file", path.display())));
        }
        let engine = Engine::open(&uri(path), Some("replvfs")).map_err(|error| {
            // SQLite's own text says "unable to open" of everything.
            let why = Runtime::get().last_said();
            why.map_or(error, |why| Error::invalid(format!("cannot open {}: {why}", path.display())))
        })?;
        engine.busy_timeout(BUSY_MS);
        // The database is read for the first time, so that a WAL is mapped.
        engine.value("SELECT count(*) FROM sqlite_schema").map_err(|error| {
            Error::new(error.kind(), format!("{} is no database that can be read: {error}", path.display()))
        })?;
        let reader = Engine::open(&uri(path), Some("unix"))?;
        Ok(Feed { engine, reader, path: path.to_owned() })
    }

    /// Keeps the WAL from being started over by others, and from growing. To be called again and again.
    ///
    /// # Errors
    /// As SQLite refuses; the next call may do better.
    pub fn tend(&self) -> Result<()> {
        let wal_bytes = || std::fs::metadata(beside(&self.path, "-wal")).map_or(0, |metadata| metadata.len());
        let is_wal = wal_bytes() > 0;
        if is_wal && wal_bytes() > WAL_BYTES_MAX && self.sync(CAUGHT_UP).is_ok() {
            self.let_go()?;
            self.engine.exec("PRAGMA wal_checkpoint(PASSIVE)")?;
            self.engine.busy_timeout(RESTART_MS);
            let restarted = self.engine.exec("PRAGMA wal_checkpoint(TRUNCATE)");
            self.engine.busy_timeout(BUSY_MS);
            restarted?;
        }
        // Anew each time: a transaction that began when everything was checkpointed keeps nobody from anything.
        self.let_go()?;
        if is_wal {
            self.reader.exec("BEGIN; SELECT count(*) FROM sqlite_schema")?;
        }
        Ok(())
    }

    fn let_go(&self) -> Result<()> {
        if self.reader.is_autocommit() { Ok(()) } else { self.reader.exec("COMMIT") }
    }

    /// Waits until what was committed is in the home replica; its txid, `None` for a database without pages.
    ///
    /// # Errors
    /// `Busy` when the time is up; what replication failed with.
    pub fn sync(&self, timeout: Duration) -> Result<Option<Txid>> {
        let sql = format!("SELECT replica_sync({})", timeout.as_secs_f64());
        match self.engine.value(&sql)? {
            Value::Integer(txid) => Ok(u64::try_from(txid).ok().and_then(Txid::new)),
            _ => Ok(None),
        }
    }

    /// The newest failure of its replication.
    pub fn trouble(&self) -> Option<String> {
        match self.engine.value("SELECT replica_error()") {
            Ok(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// What ended its replication for good, if something did.
    pub fn end(&self) -> Option<String> {
        let rows =
            self.engine.query("SELECT state, last_error FROM replica_status WHERE schema = 'main'").ok()?;
        match rows.first().map(Vec::as_slice) {
            Some([Value::Text(state), error])
                if matches!(state.as_str(), "Fenced" | "Refused" | "Halted") =>
            {
                let why = if let Value::Text(text) = error { text.as_str() } else { "no reason is known" };
                Some(format!("{state}: {why}"))
            }
            _ => None,
        }
    }
}

/// Says where a database replicates; `options` as of `replica_configure`.
///
/// # Errors
/// `Invalid`.
pub fn configure(path: &Path, url: &str, options: Option<&str>) -> Result<()> {
    let path = std::path::absolute(path).map_err(|e| Error::io("find", path, e))?;
    Runtime::get().config.configure(path.as_os_str().as_bytes(), url.as_bytes(), options).map(drop)
}

/// A URI that opens exactly this path, and makes nothing.
fn uri(path: &Path) -> String {
    let mut uri = String::from("file:");
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'/' | b'-' | b'_' | b'.' | b'~' => uri.push(char::from(*byte)),
            byte if byte.is_ascii_alphanumeric() => uri.push(char::from(*byte)),
            byte => uri.push_str(&format!("%{byte:02x}")),
        }
    }
    uri + "?mode=rw"
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Whether waiting longer may help.
pub fn may_pass(error: &Error) -> bool {
    error.kind() == Kind::Busy
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_names_the_path_byte_for_byte() {
        assert_eq!(uri(Path::new("/a b/x?y#z%41.db")), "file:/a%20b/x%3fy%23z%2541.db?mode=rw");
    }
}
