//! Durations, sizes and switches as users write them.
//!
//! A duration is a number with `ms`, `s`, `m`, `h` or `d`; a bare number is seconds. A size is a whole number
//! with `KiB`, `MiB`, `GiB` or `TiB`; a bare number is bytes. The same forms hold in URIs, files, the
//! environment and SQL arguments.

use std::time::Duration;

/// Longest duration that can be written: a hundred years, so that no sum of two overflows a clock.
const DURATION_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// `None` when `text` is no duration. Fractions are taken (`0.5s`), signs and blanks are not.
pub fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = split_unit(text)?;
    let nanos_per_unit: u128 = match unit {
        "ms" => 1_000_000,
        "" | "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        "d" => 86_400_000_000_000,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').map_or((number, None), |(w, f)| (w, Some(f)));
    let fraction = fraction.unwrap_or("0");
    if whole.is_empty()
        || whole.len() > 15
        || fraction.is_empty()
        || fraction.len() > 9
        || fraction.contains('.')
    {
        return None;
    }
    let scale = 10u128.pow(u32::try_from(fraction.len()).expect("BUG: at most nine digits"));
    let units = whole.parse::<u128>().ok()? * scale + fraction.parse::<u128>().ok()?;
    let nanos = u64::try_from(units * nanos_per_unit / scale).ok()?;
    Some(Duration::from_nanos(nanos)).filter(|d| *d <= DURATION_MAX)
}

/// `None` when `text` is no size. In bytes.
pub fn size(text: &str) -> Option<u64> {
    let (number, unit) = split_unit(text)?;
    let shift = match unit {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// `None` when `text` is neither `1`, `true` nor `0`, `false`.
pub fn flag(text: &str) -> Option<bool> {
    match text {
        "1" | "true" => Some(true),
        "0" | "false" => Some(false),
        _ => None,
    }
}

/// The shortest way to write a duration that [`duration`] reads back.
pub fn show_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    for (unit, factor) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)] {
        if millis != 0 && millis.is_multiple_of(factor) {
            return format!("{}{unit}", millis / factor);
        }
    }
    if millis == 0 { "0".into() } else { format!("{millis}ms") }
}

/// The shortest way to write a size that [`size`] reads back.
pub fn show_size(bytes: u64) -> String {
    for (unit, shift) in [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        if bytes != 0 && bytes.is_multiple_of(1 << shift) {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    bytes.to_string()
}

/// Splits digits and points from what follows; `None` when there is no digit in front.
fn split_unit(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    if text.starts_with(|c: char| c.is_ascii_digit()) { Some(text.split_at(end)) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_durations_and_writes_them_back() {
        for (text, millis) in
            [("10ms", 10), ("5s", 5_000), ("5m", 300_000), ("24h", 86_400_000), ("2d", 172_800_000), ("0", 0)]
        {
            assert_eq!(duration(text), Some(Duration::from_millis(millis)), "{text}");
            assert_eq!(duration(&show_duration(Duration::from_millis(millis))), duration(text), "{text}");
        }
        let long = Duration::from_millis(1_598_399_999_999);
        assert_eq!(duration(&show_duration(long)), Some(long), "50 years to the millisecond");
        assert_eq!(duration("7"), Some(Duration::from_secs(7)), "a bare number is seconds");
        assert_eq!(duration("0.5"), Some(Duration::from_millis(500)));
        assert_eq!(duration("1.25h"), Some(Duration::from_secs(4500)));
    }

    #[test]
    fn refuses_what_is_no_duration() {
        for text in [
            "",
            "s",
            "-1s",
            "+1s",
            " 1s",
            "1 s",
            "1S",
            "1sec",
            "1.s",
            ".5s",
            "1.2.3s",
            "1e3",
            "5µs",
            "1h30m",
            "nan",
            "99999999999999999999h",
            "40000d",
        ] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn reads_sizes_and_writes_them_back() {
        for (text, bytes) in
            [("0", 0), ("4096", 4096), ("7B", 7), ("64MiB", 64 << 20), ("1GiB", 1 << 30), ("3TiB", 3 << 40)]
        {
            assert_eq!(size(text), Some(bytes), "{text}");
            assert_eq!(size(&show_size(bytes)), Some(bytes), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_no_size() {
        for text in ["", "MiB", "1MB", "1mib", "1.5GiB", "-1", "1 MiB", "99999999999TiB"] {
            assert_eq!(size(text), None, "{text}");
        }
    }

    #[test]
    fn flags_are_one_zero_true_false() {
        assert_eq!([flag("1"), flag("true")], [Some(true); 2]);
        assert_eq!([flag("0"), flag("false")], [Some(false); 2]);
        assert_eq!([flag("yes"), flag("TRUE"), flag("")], [None; 3]);
    }
}
