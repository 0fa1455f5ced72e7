//! `replica_lease_acquire([ttl [, wait [, schema]]])`, `replica_lease_renew([schema])`, `replica_lease_release([schema])`,
//! `replica_lease_handover([wait [, schema]])` and the table `replica_lease`.

use std::time::Duration;

use super::arguments;
use super::functions::with_main;
use super::roll::overwrite;
use crate::database::{Caller, Connected, Primary};
use crate::error::Result;
use crate::ffi::sql::{Call, Connection, Value};
use crate::types::Epoch;

/// Longest wait for who takes the lease over.
const SUCCESSOR: Duration = Duration::from_secs(30);

pub const LEASE: [&str; 9] =
    ["schema", "path", "replica", "holder", "url", "epoch", "expires_at", "held_by_me", "renewals"];

/// The epoch; the database then is at the end of the history. Waits so long for another holder, else not at all.
pub fn acquire(call: &Call<'_>) -> Result<Value> {
    let (life, wait) = (duration(call, 0)?, duration(call, 1)?.unwrap_or(Duration::ZERO));
    rolling(call, 2, |main, roll| main.db.acquire_lease(life, wait, roll))
}

/// The epoch of who has taken it over.
pub fn handover(call: &Call<'_>) -> Result<Value> {
    let wait = duration(call, 0)?.unwrap_or(SUCCESSOR);
    rolling(call, 1, |main, roll| main.db.hand_over_lease(caller(call, main), wait, roll))
}

/// When it ends by now.
pub fn renew(call: &Call<'_>) -> Result<Value> {
    with_main(call, 0, |main| Ok(main.db.renew_lease()?.to_string().into()))
}

/// 1: handed back; 0: it was not held.
pub fn release(call: &Call<'_>) -> Result<Value> {
    with_main(call, 0, |main| {
        let was_held = main.db.release_lease(caller(call, main), main.db.settings.sync_timeout)?;
        Ok(Value::Integer(i64::from(was_held)))
    })
}

fn duration(call: &Call<'_>, index: usize) -> Result<Option<Duration>> {
    let value = call.arguments().get(index).filter(|value| **value != Value::Null);
    value.map(arguments::duration).transpose()
}

fn caller(call: &Call<'_>, main: &Connected) -> Caller {
    Caller { connection: main.id, is_autocommit: call.connection().is_autocommit() }
}

/// An epoch, from `body` with what rolls the database forward.
fn rolling(
    call: &Call<'_>,
    schema_at: usize,
    body: impl FnOnce(&Connected, &mut dyn FnMut() -> Result<()>) -> Result<Epoch>,
) -> Result<Value> {
    overwrite(call, schema_at, |main, wait, begin| {
        let mut roll = || main.db.catch_up(wait, begin).map(drop);
        Ok(Value::Integer(body(main, &mut roll)?.get() as i64))
    })
}

/// One row for each database of this connection that is open with a lease.
pub fn lease(connection: &Connection<'_>, _: &[Value]) -> Result<Vec<Vec<Value>>> {
    let mut rows = Vec::new();
    for schema in connection.schemas()? {
        let Some(hooks) = connection.main_hooks(&schema) else { continue };
        let Some(Connected { db, .. }) = hooks.as_any().downcast_ref() else { continue };
        let Some(primary) = db.primary()? else { continue };
        let mut row: Vec<Value> = vec![
            schema.into(),
            db.path.to_string_lossy().into_owned().into(),
            db.settings.replicas[0].to_string().into(),
        ];
        row.extend(of_primary(primary));
        rows.push(row);
    }
    Ok(rows)
}

fn of_primary(primary: Primary) -> [Value; 6] {
    match primary {
        Primary::Nobody => {
            [Value::Null, Value::Null, Value::Null, Value::Null, Value::Integer(0), Value::Null]
        }
        Primary::Fixed { name, is_here } => [
            name.into(),
            Value::Null,
            Value::Null,
            Value::Null,
            Value::Integer(i64::from(is_here)),
            Value::Null,
        ],
        Primary::Holder { lease, renewals } => [
            lease.holder.owner().into(),
            lease.holder.url.clone().into(),
            Value::Integer(lease.epoch.get() as i64),
            lease.expires_at.to_string().into(),
            Value::Integer(i64::from(renewals.is_some())),
            renewals.map(|renewals| renewals as i64).into(),
        ],
    }
}
