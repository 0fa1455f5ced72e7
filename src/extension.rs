//! Where the parts meet: what a SQLite library gets when it loads us.
//!
//! Test seams, environment variables that no user needs: `SQLITEREPLICATE_TEST_VFS_NAME` (the default VFS's name;
//! a test of SQLite's suite runs only under `unix`), `SQLITEREPLICATE_TEST_STATS` (file for call counts),
//! `SQLITEREPLICATE_TEST_WRAP=1` (wrap every database, replicate none).

use std::env;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use crate::config::Config;
use crate::error::Result;
use crate::ffi::entry::Settings;
use crate::ffi::hooks::VfsHooks;
use crate::ffi::sql::{Connection, Trust, Value, register_function};
use crate::vfs::shim::{PassThrough, WrapAll};

/// The settings of this process: the environment is read when the library is loaded for the first time.
fn config() -> &'static Config {
    static CONFIG: OnceLock<Config> = OnceLock::new();
    CONFIG.get_or_init(Config::from_environment)
}

/// Read once per load, before anything is registered.
///
/// # Errors
/// The load fails with the text.
pub fn settings() -> std::result::Result<Settings, String> {
    Ok(Settings {
        default_vfs: config().default_vfs(),
        default_vfs_name: env::var("SQLITEREPLICATE_TEST_VFS_NAME")
            .unwrap_or_else(|_| "replvfs-default".into()),
        stats_file: env::var_os("SQLITEREPLICATE_TEST_STATS").map(PathBuf::from),
    })
}

/// What the VFS decides with, in every SQLite library of the process.
#[must_use]
pub fn vfs_hooks() -> Arc<dyn VfsHooks> {
    if env::var_os("SQLITEREPLICATE_TEST_WRAP").is_some_and(|value| value == "1") {
        return Arc::new(WrapAll);
    }
    Arc::new(PassThrough)
}

/// The SQL surface of a connection: the loading one, and each one opened later.
///
/// # Errors
/// The load or the open fails.
pub fn register_sql(connection: &Connection<'_>) -> Result<()> {
    register_function(connection, "replica_version", 0, 0, Trust::Anywhere, |_| {
        Ok(Value::from(env!("CARGO_PKG_VERSION")))
    })
}
