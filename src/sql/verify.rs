//! `replica_verify(url)`.

use super::arguments;
use super::functions::number;
use crate::config::scratch_folder;
use crate::database::Runtime;
use crate::error::{Error, Result};
use crate::ffi::sql::{Call, Value};
use crate::verify::{Options, verify};

/// The txid up to which everything in the replica is proven, its newest where nothing is wrong. An error with the first
/// problem otherwise.
pub fn replica_verify(call: &Call<'_>) -> Result<Value> {
    let url = arguments::text(&call.arguments()[0], "url")?;
    let replica = Runtime::get().config.replica(url)?;
    let options = Options { scratch: scratch_folder(), expected: None };
    let report = verify(&*replica, options, &mut |_| {})?;
    if let Some(error) = report.error() {
        let proven = report.verified.map_or("nothing is proven".to_owned(), |position| {
            format!("proven up to txid {}", position.txid)
        });
        return Err(Error::new(error.kind(), format!("{error}; {proven}")));
    }
    Ok(report.verified.map(|position| number(position.txid)).into())
}
