//! `replica_rollforward([schema])`: brings a database that is open to the end of its home replica.

use super::functions::{number, schema, with_main};
use crate::database::Pending;
use crate::error::Result;
use crate::ffi::overwrite::Overwrite;
use crate::ffi::sql::{Call, Value};

impl Pending for Overwrite {
    fn commit(self: Box<Self>) -> Result<()> {
        Overwrite::commit(*self)
    }
}

/// The txid of the head, which the database then is at; NULL while there is no history.
pub fn rollforward(call: &Call<'_>) -> Result<Value> {
    with_main(call, 0, |main| {
        // So that SQLite shows what a WAL holds.
        call.connection().read_once(schema(call, 0));
        let (database, wait) = (&main.db, main.db.settings.open_timeout);
        let txid = database.catch_up(wait, &mut |source| {
            let pending = Overwrite::begin(call.connection(), &database.path, source, wait)?;
            Ok(Box::new(pending) as Box<dyn Pending>)
        })?;
        Ok(txid.map(number).into())
    })
}
