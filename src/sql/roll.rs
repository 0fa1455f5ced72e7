//! `replica_rollforward([schema])`, `replica_rejoin([schema])` and `replica_rollback(target [, schema])`: a database that is open is
//! brought to the end of its home replica, to that of a history which another writer continued, or to an earlier state.

use std::time::Duration;

use super::arguments;
use super::functions::{notice, number, schema, with_main};
use crate::catalog::{Settled, Target, words};
use crate::clock;
use crate::database::{Begin, Connected, Pending};
use crate::error::Result;
use crate::ffi::overwrite::Overwrite;
use crate::ffi::sql::{Call, Value};
use crate::types::Txid;

impl Pending for Overwrite {
    fn commit(self: Box<Self>) -> Result<()> {
        Overwrite::commit(*self)
    }
}

/// The txid of the head, which the database then is at; NULL while there is no history.
pub fn rollforward(call: &Call<'_>) -> Result<Value> {
    let txid = overwrite(call, 0, |main, wait, begin| main.db.catch_up(wait, begin))?;
    Ok(txid.map(number).into())
}

/// As JSON: the txid of the head, which the database then is at; where its own commits are saved, as how many groups, and
/// from which txid to which.
pub fn rejoin(call: &Call<'_>) -> Result<Value> {
    let done = overwrite(call, 0, |main, wait, begin| main.db.rejoin(wait, begin))?;
    let saved = &done.saved;
    let text = serde_json::json!({
        "txid": done.txid.get(),
        "saved": saved.folder.to_string_lossy(),
        "groups": saved.groups,
        "first": saved.first.map(Txid::get),
        "last": saved.last.get(),
    });
    Ok(Value::Text(text.to_string()))
}

/// The txid that holds the old state.
pub fn rollback(call: &Call<'_>) -> Result<Value> {
    let wanted = wanted(&call.arguments()[0])?;
    let (txid, said) = overwrite(call, 1, |main, wait, begin| {
        // It becomes the next txid, written below the hooks that see other writers.
        let _writing = main.db.connections.as_writer(main.id);
        main.db.pass_lease()?;
        main.db.roll_back(&wanted, wait, begin)
    })?;
    notice(call, said);
    Ok(txid.map(number).into())
}

/// A txid, as everywhere; or a time, as [`words::moment`] has it.
fn wanted(value: &Value) -> Result<Settled> {
    match value {
        Value::Text(text) if Txid::from_hex(text).is_none() => {
            let moment = words::moment(text, clock::now())?;
            Ok(Settled { target: Target::At(moment.at), notice: moment.notice })
        }
        _ => Ok(Settled { target: Target::Txid(arguments::txid_value(value)?), notice: None }),
    }
}

/// Calls `body` with the file of a schema, how long to wait for a lock, and what begins to overwrite it.
pub fn overwrite<T>(
    call: &Call<'_>,
    schema_at: usize,
    body: impl FnOnce(&Connected, Duration, &mut Begin<'_>) -> Result<T>,
) -> Result<T> {
    with_main(call, schema_at, |main| {
        // So that SQLite shows what a WAL holds.
        call.connection().read_once(schema(call, schema_at));
        let (database, wait) = (&main.db, main.db.settings.open_timeout);
        body(main, wait, &mut |source| {
            let pending = Overwrite::begin(call.connection(), &database.path, source, wait)?;
            Ok(Box::new(pending) as Box<dyn Pending>)
        })
    })
}
