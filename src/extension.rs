//! Where the parts meet: what a SQLite library gets when it loads us.
//!
//! Test seams, environment variables that no user needs: `SQLITEREPLICATE_TEST_VFS_NAME` (the default VFS's name;
//! a test of SQLite's suite runs only under `unix`), `SQLITEREPLICATE_TEST_STATS` (file for call counts),
//! `SQLITEREPLICATE_TEST_WRAP=1` (wrap every database, replicate none), `SQLITEREPLICATE_TEST_KILL_AT` (number of
//! calls on followed files, counted from the load, at which the process is killed), `SQLITEREPLICATE_TEST_BOOTED_NS`
//! (when the machine was started: nanoseconds since 1970). One more, `SQLITEREPLICATE_TEST_REPLICAS`, is `config`'s.

use std::env;
use std::path::PathBuf;
use std::sync::Arc;

use crate::database::Runtime;
use crate::error::Result;
use crate::ffi::entry::Settings;
use crate::ffi::hooks::VfsHooks;
use crate::ffi::sql::Connection;
use crate::vfs::shim::{Replicating, WrapAll};

/// Read once per load, before anything is registered.
///
/// # Errors
/// The load fails with the text.
pub fn settings() -> std::result::Result<Settings, String> {
    if let Some(at) = env::var("SQLITEREPLICATE_TEST_BOOTED_NS").ok().and_then(|ns| ns.parse().ok()) {
        crate::clock::pretend_boot(at);
    }
    Ok(Settings {
        default_vfs: Runtime::get().config.default_vfs(),
        default_vfs_name: env::var("SQLITEREPLICATE_TEST_VFS_NAME")
            .unwrap_or_else(|_| "replvfs-default".into()),
        stats_file: env::var_os("SQLITEREPLICATE_TEST_STATS").map(PathBuf::from),
        kill_at: env::var("SQLITEREPLICATE_TEST_KILL_AT").ok().and_then(|calls| calls.parse().ok()),
    })
}

/// What the VFS decides with, in every SQLite library of the process.
#[must_use]
pub fn vfs_hooks() -> Arc<dyn VfsHooks> {
    if env::var_os("SQLITEREPLICATE_TEST_WRAP").is_some_and(|value| value == "1") {
        return Arc::new(WrapAll);
    }
    Arc::new(Replicating)
}

/// The SQL surface of a connection: the loading one, and each one opened later.
///
/// # Errors
/// The load or the open fails.
pub fn register_sql(connection: &Connection<'_>) -> Result<()> {
    crate::sql::register(connection)
}
