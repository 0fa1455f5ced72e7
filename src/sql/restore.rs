//! `replica_restore(url, path [, options])`.

use std::num::NonZeroUsize;
use std::path::Path;

use super::arguments;
use super::functions::notice;
use crate::catalog::{Target, words};
use crate::clock;
use crate::database::Runtime;
use crate::error::{Error, Kind, Result};
use crate::ffi::sql::{Call, Value};
use crate::legacy;
use crate::replica::Client;
use crate::restore;
use crate::staging::seed::{self, Seed};

const ALLOWED: &str = "txid, timestamp, if_replica_exists, continue, check, parallelism";

/// Threads that one restore may have.
const PARALLELISM_MAX: u64 = 256;

struct Options {
    target: Target,
    /// How the target was understood.
    notice: Option<String>,
    if_replica_exists: bool,
    go_on: bool,
    parallelism: Option<NonZeroUsize>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            target: Target::Newest,
            notice: None,
            if_replica_exists: false,
            go_on: false,
            parallelism: None,
        }
    }
}

/// Restores a replica into a new file; returns the txid, NULL where `if_replica_exists` finds none, 0
/// from a replica of Litestream 0.3, which has no txids.
pub fn restore(call: &Call<'_>) -> Result<Value> {
    let given = call.arguments();
    let url = arguments::text(&given[0], "url")?;
    let path = arguments::text(&given[1], "path")?;
    let options = match given.get(2) {
        None | Some(Value::Null) => Options::default(),
        Some(value) => parse(arguments::text(value, "options")?)?,
    };
    let replica = Runtime::get().config.replica(url)?;
    if let Some(found) = legacy::find(&*replica, options.target)? {
        if options.go_on {
            return Err(Error::invalid(format!(
                "{url} was written by Litestream 0.3, whose history cannot be continued: restore without \
                 continue, and replicate into an empty place"
            )));
        }
        legacy::restore(&found, Path::new(path))?;
        notice(call, options.notice);
        return Ok(Value::Integer(0));
    }
    if options.go_on {
        seed::folder(&crate::config::real_path(Path::new(path)))?;
    }
    let wanted =
        restore::Options { page_checksums: options.go_on, parallelism: options.parallelism, progress: None };
    let restored = match restore::restore(&*replica, options.target, Path::new(path), wanted) {
        Err(error) if options.if_replica_exists && error.kind() == Kind::NotFound && is_empty(&*replica) => {
            return Ok(Value::Null);
        }
        other => other?,
    };
    notice(call, words::notices(&[&options.notice, &restored.notice]));
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
            "txid" | "timestamp" if options.target != Target::Newest => {
                return Err(Error::invalid(
                    "options txid and timestamp exclude each other: give one of them",
                ));
            }
            "txid" => options.target = Target::Txid(arguments::txid(value)?),
            "timestamp" => {
                let text = value
                    .as_str()
                    .ok_or_else(|| Error::invalid(format!("option timestamp must be a text, not {value}")))?;
                let moment =
                    words::moment(text, clock::now()).map_err(|e| e.while_doing("option timestamp"))?;
                (options.target, options.notice) = (Target::At(moment.at), moment.notice);
            }
            "if_replica_exists" => options.if_replica_exists = flag()?,
            "continue" => options.go_on = flag()?,
            // Every restore checks all it reads and writes.
            "check" => drop(flag()?),
            "parallelism" if value.as_u64().is_some_and(|n| (1..=PARALLELISM_MAX).contains(&n)) => {
                options.parallelism = value.as_u64().and_then(|n| NonZeroUsize::new(n as usize));
            }
            _ => {
                return Err(Error::invalid(format!("option {key}={value} is not known; allowed: {ALLOWED}")));
            }
        }
    }
    Ok(options)
}
