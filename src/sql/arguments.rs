//! Arguments of SQL functions, as people write them.

use std::time::Duration;

use crate::config::value;
use crate::error::{Error, Result};
use crate::ffi::sql::Value;
use crate::types::Txid;

/// A text argument. `name` is the argument's, for the message.
///
/// # Errors
/// `Invalid`.
pub fn text<'a>(value: &'a Value, name: &str) -> Result<&'a str> {
    match value {
        Value::Text(text) => Ok(text),
        other => Err(Error::invalid(format!("{name} must be a text, not {}", show(other)))),
    }
}

/// A duration: `10ms`, `5s`, or a bare number of seconds.
///
/// # Errors
/// `Invalid`.
pub fn duration(value: &Value) -> Result<Duration> {
    let seconds = |s: f64| Duration::try_from_secs_f64(s).ok();
    let parsed = match value {
        Value::Integer(n) => u64::try_from(*n).ok().map(Duration::from_secs),
        Value::Real(s) => seconds(*s),
        Value::Text(text) => value::duration(text).or_else(|| text.parse().ok().and_then(seconds)),
        _ => None,
    };
    parsed.ok_or_else(|| {
        Error::invalid(format!("{} is no duration; allowed: 10ms, 5s, 2m, or seconds", show(value)))
    })
}

/// A txid: an integer from 1, or exactly 16 hex digits.
///
/// # Errors
/// `Invalid`.
pub fn txid(json: &serde_json::Value) -> Result<Txid> {
    let parsed = match json {
        serde_json::Value::Number(n) => n.as_u64().and_then(Txid::new),
        serde_json::Value::String(text) => Txid::from_hex(text),
        _ => None,
    };
    parsed.ok_or_else(|| {
        Error::invalid(format!(
            "txid {json} is not one; allowed: an integer from 1, or a text of 16 hex digits"
        ))
    })
}

/// The same as an SQL value.
///
/// # Errors
/// `Invalid`.
pub fn txid_value(value: &Value) -> Result<Txid> {
    txid(&match value {
        Value::Integer(n) => (*n).into(),
        Value::Text(text) => text.as_str().into(),
        other => show(other).into(),
    })
}

pub fn show(value: &Value) -> String {
    match value {
        Value::Null => "NULL".into(),
        Value::Integer(n) => n.to_string(),
        Value::Real(n) => n.to_string(),
        Value::Text(text) => format!("'{text}'"),
        Value::Blob(bytes) => format!("a blob of {} bytes", bytes.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bare_number_is_seconds() {
        for (value, ms) in [
            (Value::Integer(2), Some(2000)),
            (Value::Real(0.25), Some(250)),
            (Value::from("1.5"), Some(1500)),
            (Value::from("10ms"), Some(10)),
            (Value::Integer(-1), None),
            (Value::Null, None),
            (Value::from("soon"), None),
        ] {
            assert_eq!(duration(&value).ok().map(|d| d.as_millis()), ms, "{value:?}");
        }
    }

    #[test]
    fn txid_is_a_positive_integer_or_sixteen_hex_digits() {
        let parse = |text: &str| txid(&serde_json::from_str(text).unwrap()).ok().map(Txid::get);
        assert_eq!(parse("11"), Some(11));
        assert_eq!(parse("\"000000000000000b\""), Some(11));
        for bad in ["0", "-1", "1.5", "\"b\"", "null", "\"11\""] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
