//! The door of SQL: parses arguments, asks the database, formats answers.

mod arguments;
mod functions;
mod lease;
mod restore;
mod roll;
mod tables;
mod verify;

use crate::error::Result;
use crate::ffi::sql::{Connection, Trust, register_function};
use crate::ffi::table::register_table;

/// Registers the whole surface on a connection.
///
/// # Errors
/// The load or the open fails.
pub fn register(connection: &Connection<'_>) -> Result<()> {
    use Trust::{Anywhere, DirectOnly};
    let function = |name, min, max, trust, body| register_function(connection, name, min, max, trust, body);
    function("replica_version", 0, 0, Anywhere, functions::version)?;
    function("replica_debug", 0, 0, Anywhere, functions::debug)?;
    function("replica_error", 0, 1, Anywhere, functions::error)?;
    function("replica_txid", 0, 1, Anywhere, functions::txid)?;
    function("replica_sync", 0, 2, DirectOnly, functions::sync)?;
    function("replica_configure", 2, 3, DirectOnly, functions::configure)?;
    function("replica_rollforward", 0, 1, DirectOnly, roll::rollforward)?;
    function("replica_rejoin", 0, 1, DirectOnly, roll::rejoin)?;
    function("replica_rollback", 1, 2, DirectOnly, roll::rollback)?;
    function("replica_lease_acquire", 0, 3, DirectOnly, lease::acquire)?;
    function("replica_lease_renew", 0, 1, DirectOnly, lease::renew)?;
    function("replica_lease_handover", 0, 2, DirectOnly, lease::handover)?;
    function("replica_lease_release", 0, 1, DirectOnly, lease::release)?;
    function("replica_verify", 1, 1, DirectOnly, verify::replica_verify)?;
    function("replica_restore", 2, 3, DirectOnly, restore::restore)?;
    register_table(connection, "replica_status", &tables::STATUS, &[], Anywhere, tables::status)?;
    register_table(connection, "replica_lease", &lease::LEASE, &[], DirectOnly, lease::lease)?;
    register_table(connection, "replica_doctor", &tables::DOCTOR, &["url"], DirectOnly, tables::doctor)?;
    let points = tables::restore_points;
    register_table(
        connection,
        "replica_restore_points",
        &tables::RESTORE_POINTS,
        &["url"],
        DirectOnly,
        points,
    )?;
    register_table(connection, "replica_files", &tables::FILES, &["url"], DirectOnly, tables::files)
}
