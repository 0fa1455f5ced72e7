//! The scalar functions about open databases.

use std::sync::Arc;
use std::time::Duration;

use super::arguments;
use crate::database::{Connected, ReadOnlyOpen, Runtime};
use crate::error::{Error, Kind, Result};
use crate::ffi::sql::{Call, Value};
use crate::types::Txid;

/// Longest wait for SQLite to show us what a WAL holds.
const FIRST_LOOK: Duration = Duration::from_millis(100);

/// `replica_version()`: this library's version.
pub fn version(_: &Call<'_>) -> Result<Value> {
    Ok(Value::from(env!("CARGO_PKG_VERSION")))
}

/// `replica_debug()`: what a bug report needs.
pub fn debug(call: &Call<'_>) -> Result<Value> {
    Ok(Value::from(format!(
        "sqlitereplicate {} {} {}; SQLite {}; replicas: file, s3; ltx: v3",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::OS,
        std::env::consts::ARCH,
        call.connection().sqlite_version()
    )))
}

/// `replica_error([schema])`: the newest error of the database's replication; NULL when there was none. Where the
/// schema is not replicated: why this process's newest refused open was refused, which an ATTACH does not say, or the
/// notice of a restore or rollback after it.
pub fn error(call: &Call<'_>) -> Result<Value> {
    let newest = with_main(call, 0, |main| Ok(main.db.last_error().into()));
    newest.or_else(|error| Runtime::get().last_said().map(Value::from).ok_or(error))
}

/// `replica_txid([schema])`: txid of the first group that holds this connection's last commit; NULL before the first.
pub fn txid(call: &Call<'_>) -> Result<Value> {
    with_main(call, 0, |main| Ok(main.txid().map(number).into()))
}

/// `replica_sync([timeout [, schema]])`: waits until everything committed is in the home replica; returns its txid.
pub fn sync(call: &Call<'_>) -> Result<Value> {
    let timeout =
        call.arguments().first().filter(|v| **v != Value::Null).map(arguments::duration).transpose()?;
    with_main(call, 1, |main| {
        let database = Arc::clone(&main.db);
        let timeout = timeout.unwrap_or(database.settings.sync_timeout);
        let txid = match database.sync(timeout.min(FIRST_LOOK)) {
            // A connection that has not read yet shows nothing of a WAL that a killed process left.
            Err(error) if error.kind() == Kind::Busy => {
                call.connection().read_once(schema(call, 1));
                database.sync(timeout)?
            }
            other => other?,
        };
        Ok(txid.map(number).into())
    })
}

/// `replica_configure(path, url [, options])`: what later opens of `path` do in this process.
pub fn configure(call: &Call<'_>) -> Result<Value> {
    let given = call.arguments();
    let path = arguments::text(&given[0], "path")?;
    let url = arguments::text(&given[1], "url")?;
    let options =
        given.get(2).filter(|v| **v != Value::Null).map(|v| arguments::text(v, "options")).transpose()?;
    if Runtime::get().config.configure(path.as_bytes(), url.as_bytes(), options)? == Some(true) {
        crate::ffi::vfs::make_default().map_err(Error::invalid)?;
    }
    Ok(Value::Null)
}

pub fn number(txid: Txid) -> i64 {
    txid.get() as i64
}

/// Says what somebody should know of something that went well.
pub fn notice(call: &Call<'_>, notice: Option<String>) {
    if let Some(notice) = notice {
        call.connection().notice(&notice);
        Runtime::get().notice(&notice);
    }
}

pub fn schema<'a>(call: &'a Call<'_>, index: usize) -> &'a str {
    match call.arguments().get(index) {
        Some(Value::Text(schema)) => schema,
        _ => "main",
    }
}

/// Calls `body` with the file of the schema that argument `index` names, `main` without it.
pub fn with_main<T>(call: &Call<'_>, index: usize, body: impl FnOnce(&Connected) -> Result<T>) -> Result<T> {
    let schema = schema(call, index);
    let hooks = call.connection().main_hooks(schema);
    match hooks.as_deref().map(|h| h.as_any()) {
        Some(any) if any.is::<Connected>() => body(any.downcast_ref().expect("BUG: just looked at")),
        Some(any) if any.is::<ReadOnlyOpen>() => Err(Error::invalid(format!(
            "database {schema} is open for reading only: nothing of it is replicated"
        ))),
        _ if !call.connection().schemas()?.iter().any(|s| s.eq_ignore_ascii_case(schema)) => {
            Err(Error::invalid(format!("there is no database {schema} in this connection")))
        }
        _ => Err(Error::invalid(format!(
            "database {schema} is not replicated: open it through replvfs with a replica, as \
             file:app.db?vfs=replvfs&replica=file:///absolute/folder"
        ))),
    }
}
