//! The tables: one row a replica of what is open, one row a file of a replica.

use super::arguments;
use crate::catalog::Point;
use crate::database::{self, Connected, ReadOnlyOpen, ReplicaStatus, Runtime, examine};
use crate::error::{Error, Result};
use crate::ffi::sql::{Connection, Value};
use crate::types::{Timestamp, Txid};
use crate::upload::header_of;

pub const STATUS: [&str; 17] = [
    "schema",
    "path",
    "replica",
    "role",
    "state",
    "txid",
    "acknowledged_txid",
    "verified_txid",
    "lag_ms",
    "queued_bytes",
    "last_error",
    "last_error_at",
    "last_event",
    "lease_epoch",
    "lease_expires_at",
    "zero_salt_frames",
    "retries",
];

pub const FILES: [&str; 9] =
    ["level", "min_txid", "max_txid", "size", "created_at", "page_size", "page_count", "pre", "post"];

pub const RESTORE_POINTS: [&str; 5] = ["txid", "timestamp", "level", "snapshot_txid", "bytes"];

pub const DOCTOR: [&str; 3] = ["capability", "verdict", "detail"];

/// `replica_status`: the databases of this connection first, with their schema; then the others of the process.
pub fn status(connection: &Connection<'_>, _: &[Value]) -> Result<Vec<Vec<Value>>> {
    let mut rows = Vec::new();
    let mut shown = Vec::new();
    for schema in connection.schemas()? {
        let Some(hooks) = connection.main_hooks(&schema) else { continue };
        let any = hooks.as_any();
        if let Some(Connected { db, .. }) = any.downcast_ref() {
            shown.push(db.path.clone());
            rows.extend(db.status().iter().map(|s| status_row(Some(&schema), s)));
        } else if let Some(open) = any.downcast_ref::<ReadOnlyOpen>() {
            rows.push(read_only_row(Some(&schema), &open.path().to_string_lossy(), open.replica()));
        }
    }
    for database in Runtime::get().databases() {
        if !shown.contains(&database.path) {
            rows.extend(database.status().iter().map(|s| status_row(None, s)));
        }
    }
    Ok(rows)
}

fn status_row(schema: Option<&str>, s: &ReplicaStatus) -> Vec<Value> {
    vec![
        schema.into(),
        s.path.to_string_lossy().into_owned().into(),
        s.replica.clone().into(),
        s.role.into(),
        s.state.into(),
        s.txid.map(number).into(),
        s.acknowledged.map(number).into(),
        s.verified.map(number).into(),
        Value::Integer(s.lag_ms as i64),
        Value::Integer(s.queued_bytes as i64),
        s.last_error.clone().into(),
        s.last_error_at.map(|at| at.to_string()).into(),
        s.last_event.clone().into(),
        s.lease.map(|(epoch, _)| epoch.get() as i64).into(),
        s.lease.map(|(_, end)| end.to_string()).into(),
        Value::Integer(s.zero_salt_frames as i64),
        Value::Integer(s.retries as i64),
    ]
}

fn read_only_row(schema: Option<&str>, path: &str, replica: &str) -> Vec<Value> {
    let mut row = vec![schema.into(), path.into(), replica.into(), "home".into(), "ReadOnly".into()];
    row.resize(STATUS.len(), Value::Null);
    row
}

/// `replica_files(url)`: every LTX file of a replica, level 0 first.
pub fn files(_: &Connection<'_>, given: &[Value]) -> Result<Vec<Vec<Value>>> {
    let url = url_of(given, "replica_files")?;
    let replica = Runtime::get().config.replica(url)?;
    let row = |file: crate::types::FileInfo| {
        // A file that is damaged is listed all the same; what its header would say is NULL.
        let header = header_of(&*replica, &file).ok();
        let proof = header.and_then(|h| h.proof);
        vec![
            Value::Integer(i64::from(file.level.get())),
            Value::Integer(number(file.range.min)),
            Value::Integer(number(file.range.max)),
            Value::Integer(file.size as i64),
            header.map_or(file.created_at, |h| h.timestamp).to_string().into(),
            header.map(|h| i64::from(h.page_size.get())).into(),
            header.map(|h| i64::from(h.page_count)).into(),
            proof.map(|p| p.pre.to_string()).into(),
            proof.map(|p| p.post.to_string()).into(),
        ]
    };
    Ok(replica.list_all()?.into_iter().map(row).collect())
}

/// `replica_restore_points(url)`: every state that can be restored, oldest first. `bytes`: what the files that a restore of
/// it reads take in the store, as the listing has it; of large ones it leaves out what later files have anyway.
pub fn restore_points(_: &Connection<'_>, given: &[Value]) -> Result<Vec<Vec<Value>>> {
    let url = url_of(given, "replica_restore_points")?;
    let replica = Runtime::get().config.replica(url)?;
    let row = |(point, at): (Point, Timestamp)| {
        vec![
            Value::Integer(number(point.txid)),
            at.to_string().into(),
            Value::Integer(i64::from(point.file.level.get())),
            point.snapshot.map(number).into(),
            Value::Integer(i64::try_from(point.bytes).unwrap_or(i64::MAX)),
        ]
    };
    Ok(database::restore_points(&*replica)?.into_iter().map(row).collect())
}

/// `replica_doctor(url)`: what the store of a replica honours, also in a race, and how fast it is.
pub fn doctor(_: &Connection<'_>, given: &[Value]) -> Result<Vec<Vec<Value>>> {
    let url = url_of(given, "replica_doctor")?;
    let row = |f: crate::doctor::Finding| vec![f.check.into(), f.verdict.name().into(), f.detail.into()];
    Ok(examine(&Runtime::get().config, url)?.into_iter().map(row).collect())
}

/// The one argument of a table.
fn url_of<'a>(given: &'a [Value], table: &str) -> Result<&'a str> {
    match given.first() {
        Some(value) if *value != Value::Null => arguments::text(value, "url"),
        _ => Err(Error::invalid(format!("{table} needs the URL of a replica: {table}('file:///folder')"))),
    }
}

fn number(txid: Txid) -> i64 {
    txid.get() as i64
}
