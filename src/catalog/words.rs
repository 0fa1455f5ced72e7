//! Txids and times as people write them.
//!
//! A time is RFC 3339 (`2026-11-21T10:00:00Z`, `2026-11-21 10:00:00.5+01:00`); without a zone it is UTC, which is said; or
//! so long before now: `5 minutes ago`, `1h 30m ago`.

use crate::error::{Error, Result};
use crate::types::{Timestamp, Txid};

/// A moment that somebody wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    pub at: Timestamp,
    /// How it was understood, where that is not plain.
    pub notice: Option<String>,
}

/// A number from 1, or exactly 16 hex digits.
///
/// # Errors
/// `Invalid` with the text and what is allowed.
pub fn txid(text: &str) -> Result<Txid> {
    let decimal = || {
        text.parse().ok().filter(|_| text.starts_with(|c: char| ('1'..='9').contains(&c))).and_then(Txid::new)
    };
    let parsed = if text.len() == 16 { Txid::from_hex(text) } else { decimal() };
    parsed.ok_or_else(|| {
        Error::invalid(format!("{text:?} is no txid: expected a number from 1, or exactly 16 hex digits"))
    })
}

/// A time; `now` is what it is relative to.
///
/// # Errors
/// `Invalid` with the text and what is allowed.
pub fn moment(text: &str, now: Timestamp) -> Result<Moment> {
    let text = text.trim();
    if let Some(at) = Timestamp::parse(text) {
        return Ok(Moment { at, notice: None });
    }
    if let Some(at) = Timestamp::parse(&format!("{text}Z")) {
        let notice = Some(format!("{text} has no time zone and was taken as UTC: {at}"));
        return Ok(Moment { at, notice });
    }
    let before = text.strip_suffix("ago").and_then(span_ms).and_then(|ms| now.0.checked_sub(ms));
    before.map(|ms| Moment { at: Timestamp(ms), notice: None }).ok_or_else(|| {
        Error::invalid(format!(
            "{text:?} is no time; allowed: RFC 3339 as in 2026-11-21T10:00:00Z (without a zone it is UTC), or as in \
             '5 minutes ago', '2h ago'"
        ))
    })
}

/// Several notices as one; `None`: there is nothing to say.
pub fn notices(said: &[&Option<String>]) -> Option<String> {
    let said: Vec<&str> = said.iter().filter_map(|notice| notice.as_deref()).collect();
    (!said.is_empty()).then(|| said.join("; "))
}

/// Milliseconds of `5 minutes`, `1h 30m`, `1 hour 30 minutes`.
fn span_ms(text: &str) -> Option<i64> {
    let mut rest = text.trim();
    let mut sum = 0i64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: i64 = rest[..digits].parse().ok()?;
        rest = rest[digits..].trim_start();
        let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let unit = match &rest[..letters] {
            "ms" | "millisecond" | "milliseconds" => 1,
            "s" | "sec" | "second" | "seconds" => 1000,
            "m" | "min" | "minute" | "minutes" => 60_000,
            "h" | "hour" | "hours" => 3_600_000,
            "d" | "day" | "days" => 86_400_000,
            "w" | "week" | "weeks" => 7 * 86_400_000,
            _ => return None,
        };
        sum = sum.checked_add(number.checked_mul(unit)?)?;
        rest = rest[letters..].trim_start();
    }
    (!text.trim().is_empty()).then_some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_795_262_400_000);

    fn at(text: &str) -> String {
        moment(text, NOW).unwrap().at.to_string()
    }

    #[test]
    fn sixteen_digits_are_hex_and_fewer_are_decimal() {
        assert_eq!(txid("0000000000000010").unwrap(), Txid::new(16).unwrap());
        assert_eq!(txid("10").unwrap(), Txid::new(10).unwrap());
        for text in ["", "0", "b", "-1", "+1", "0x1", "00000000000000010", "99999999999999999999"] {
            assert!(txid(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_time_without_a_zone_is_utc_and_that_is_said() {
        let plain = moment("2026-11-21T10:00:00+02:00", NOW).unwrap();
        assert_eq!((plain.at.to_string().as_str(), plain.notice), ("2026-11-21T08:00:00.000Z", None));
        let bare = moment("2026-11-21 10:00:00.5", NOW).unwrap();
        assert_eq!(bare.at.to_string(), "2026-11-21T10:00:00.500Z");
        assert_eq!(
            bare.notice.unwrap(),
            "2026-11-21 10:00:00.5 has no time zone and was taken as UTC: 2026-11-21T10:00:00.500Z"
        );
    }

    #[test]
    fn a_time_may_be_so_long_ago() {
        assert_eq!(NOW.to_string(), "2026-11-21T12:00:00.000Z");
        for (text, same) in [
            ("5 minutes ago", "2026-11-21T11:55:00.000Z"),
            ("2h ago", "2026-11-21T10:00:00.000Z"),
            ("1h30m ago", "2026-11-21T10:30:00.000Z"),
            ("1 day 1 hour ago", "2026-11-20T11:00:00.000Z"),
            ("0s ago", "2026-11-21T12:00:00.000Z"),
            ("250 ms ago", "2026-11-21T11:59:59.750Z"),
            (" 1 week ago ", "2026-11-14T12:00:00.000Z"),
        ] {
            assert_eq!(at(text), same, "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused_with_what_is_allowed() {
        for text in [
            "",
            "ago",
            " ago",
            "5 ago",
            "minutes ago",
            "5 minutes",
            "-5 minutes ago",
            "5 fortnights ago",
            "yesterday",
            "2026-11-21",
            "2026-02-30T00:00:00Z",
            "10000000000000000000 s ago",
            "9000000000000000000 w ago",
            "5m, ago",
        ] {
            let error = moment(text, NOW).unwrap_err();
            assert!(error.to_string().contains("'5 minutes ago'"), "{text}: {error}");
        }
    }
}
