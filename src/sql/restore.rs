//! `replica_restore(url, path [, options])`.

use std::path::Path;

use super::arguments;
use crate::catalog::Target;
use crate::database::Runtime;
use crate::error::{Error, Kind, Result};
use crate::ffi::sql::{Call, Value};
use crate::replica::Client;
use crate::restore;
use crate::staging::seed::{self, Seed};

const ALLOWED: &str = "txid, if_replica_exists, continue, check, parallelism";

#[derive(Default)]
struct Options {
    txid: Option<crate::types::Txid>,
    if_replica_exists: bool,
    go_on: bool,
}

/// Restores a replica into a new file; returns the txid, NULL where `if_replica_exists` finds none.
pub fn restore(call: &Call<'_>) -> Result<Value> {
    let given = call.arguments();
    let url = arguments::text(&given[0], "url")?;
    let path = arguments::text(&given[1], "path")?;
    let options = match given.get(2) {
        None | Some(Value::Null) => Options::default(),
        Some(value) => parse(arguments::text(value, "options")?)?,
    };
    let replica = Runtime::get().config.replica(url)?;
    if options.go_on {
        seed::folder(&crate::config::real_path(Path::new(path)))?;
    }
    let target = options.txid.map_or(Target::Newest, Target::Txid);
    let wanted = restore::Options { page_checksums: options.go_on };
    let restored = match restore::restore(&*replica, target, Path::new(path), wanted) {
        Err(error) if options.if_replica_exists && error.kind() == Kind::NotFound && is_empty(&*replica) => {
            return Ok(Value::Null);
        }
        other => other?,
    };
    if options.go_on {
        let seed = Seed {
            position: restored.position,
            timestamp: restored.timestamp,
            page_size: restored.page_size,
            page_count: restored.page_count,
            page_checksums: restored.page_checksums.as_deref().unwrap_or_default(),
        };
        seed::beside(&crate::config::real_path(Path::new(path)), &seed)?;
    }
    Ok(Value::Integer(restored.position.txid.get() as i64))
}

fn is_empty(replica: &dyn Client) -> bool {
    replica.list_all().map_or_else(|e| e.kind() == Kind::NotFound, |files| files.is_empty())
}

fn parse(text: &str) -> Result<Options> {
    let json: serde_json::Value =
        serde_json::from_str(text).map_err(|e| Error::invalid(format!("options are no JSON: {e}")))?;
    let Some(object) = json.as_object() else {
        return Err(Error::invalid(format!("options must be a JSON object with {ALLOWED}")));
    };
    let mut options = Options::default();
    for (key, value) in object {
        let flag = || {
            value
                .as_bool()
                .ok_or_else(|| Error::invalid(format!("option {key} must be true or false, not {value}")))
        };
        match key.as_str() {
            "txid" => options.txid = Some(arguments::txid(value)?),
            "if_replica_exists" => options.if_replica_exists = flag()?,
            "continue" => options.go_on = flag()?,
            // Every restore checks all it reads and writes; one thread reads.
            "check" => drop(flag()?),
            "parallelism" if value.as_u64().is_some_and(|n| n > 0) => {}
            "timestamp" => {
                return Err(Error::invalid(
                    "option timestamp is not built yet; allowed: ".to_owned() + ALLOWED,
                ));
            }
            _ => {
                return Err(Error::invalid(format!("option {key}={value} is not known; allowed: {ALLOWED}")));
            }
        }
    }
    Ok(options)
}
