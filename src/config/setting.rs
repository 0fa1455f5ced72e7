//! The one table of settings: name, default and form.
//!
//! A setting has one name everywhere: `replica_interval` in a URI, a rule or options, and
//! `SQLITEREPLICATE_INTERVAL` in the environment (`replica`, `replica2`, `replica3` are `SQLITEREPLICATE_URL`,
//! `..._URL2`, `..._URL3`).

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use super::url::{self, ReplicaUrl};
use super::value;
use crate::error::{Error, Result};
use crate::replica::s3::Options;

/// One row of the table.
#[derive(Debug)]
pub struct Setting {
    pub name: &'static str,
    /// As a user would write it; `None` where absence is the default or it is derived from something else.
    pub default: Option<&'static str>,
    form: Form,
}

/// How the value of a setting is written.
#[derive(Debug)]
enum Form {
    /// A replica URL, or `none`.
    Replica,
    Word(&'static [&'static str]),
    Duration(&'static str, &'static str),
    DurationOrOff,
    Size(&'static str, &'static str),
    /// An absolute folder, any bytes.
    Folder,
    Levels,
    Flag,
    Text,
}

/// A value that has passed its setting's check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// `none`: explicitly no replica.
    NoReplica,
    Replica(ReplicaUrl),
    Word(&'static str),
    Duration(Duration),
    Off,
    Size(u64),
    Folder(PathBuf),
    Levels([Option<Duration>; 3]),
    Flag(bool),
    Text(String),
}

const fn setting(name: &'static str, default: Option<&'static str>, form: Form) -> Setting {
    Setting { name, default, form }
}

/// Every setting there is.
pub const SETTINGS: &[Setting] = &[
    setting("replica", None, Form::Replica),
    setting("replica2", None, Form::Replica),
    setting("replica3", None, Form::Replica),
    setting("replica_durability", Some("async"), Form::Word(&["async", "commit"])),
    setting("replica_sync_timeout", Some("30s"), Form::Duration("0", "24h")),
    setting("replica_interval", None, Form::Duration("0", "1h")),
    setting("replica_levels", Some("30s,5m,1h"), Form::Levels),
    setting("replica_snapshot_interval", Some("24h"), Form::Duration("1s", "365d")),
    setting("replica_l0_retention", Some("5m"), Form::Duration("0", "365d")),
    setting("replica_retention", Some("24h"), Form::Duration("0", "36500d")),
    setting("replica_lease", Some("off"), Form::Word(&["off", "auto", "required", "static"])),
    setting("replica_lease_ttl", Some("30s"), Form::Duration("3s", "24h")),
    setting("replica_lease_owner", None, Form::Text),
    setting("replica_lease_url", None, Form::Text),
    setting("replica_lease_primary", None, Form::Text),
    setting("replica_open_timeout", Some("2s"), Form::Duration("0", "1h")),
    setting("replica_on_behind", Some("auto"), Form::Word(&["auto", "rollforward", "keep", "refuse"])),
    setting("replica_on_conflict", Some("halt"), Form::Word(&["halt", "rejoin"])),
    setting("replica_if_missing", Some("refuse"), Form::Word(&["refuse", "restore", "continue"])),
    setting("replica_log", None, Form::Folder),
    setting("replica_log_max", Some("1GiB"), Form::Size("1MiB", "1024TiB")),
    setting("replica_flush_timeout", Some("5s"), Form::Duration("0", "1h")),
    setting("replica_verify_interval", Some("off"), Form::DurationOrOff),
    setting("replica_wal_reset_guard", Some("auto"), Form::Word(&["auto", "on", "off"])),
    setting("replica_endpoint", None, Form::Text),
    setting("replica_region", None, Form::Text),
    setting("replica_path_style", None, Form::Flag),
    setting("replica_ca_bundle", None, Form::Text),
    setting("replica_sse", None, Form::Text),
    setting("replica_storage_class", None, Form::Text),
    setting("replica_part_size", None, Form::Size("5MiB", "5GiB")),
];

/// S3's own names, which mean nothing in a URI without our prefix.
pub const UNPREFIXED: [(&str, &str); 3] = [
    ("endpoint", "replica_endpoint"),
    ("region", "replica_region"),
    ("forcePathStyle", "replica_path_style"),
];

/// The settings of a store.
const STORE: [&str; 7] = [
    "replica_endpoint",
    "replica_region",
    "replica_path_style",
    "replica_ca_bundle",
    "replica_sse",
    "replica_storage_class",
    "replica_part_size",
];

/// What a layer says of a store.
pub fn store_options<'a>(get: impl Fn(&str) -> Option<&'a Value>) -> Options {
    let mut options = Options::default();
    for name in STORE {
        if let Some(value) = get(name) {
            set_store(&mut options, name, value.clone());
        }
    }
    options
}

/// Takes a parameter of a store's URL, named as its setting, with or without `replica_`, or as S3 has it.
///
/// # Errors
/// What is wrong with the URL, as the end of a sentence that names it.
pub fn take_store_parameter(options: &mut Options, name: &str, text: &str) -> Result<(), String> {
    let own = UNPREFIXED.iter().find(|(unprefixed, _)| *unprefixed == name).map(|(_, own)| (*own).to_owned());
    let full = own.unwrap_or_else(|| format!("replica_{}", name.strip_prefix("replica_").unwrap_or(name)));
    let Some(setting) = by_name(full.as_bytes()).filter(|setting| STORE.contains(&setting.name)) else {
        let allowed = STORE.map(|name| &name["replica_".len()..]).join(", ");
        let name = url::show(name.as_bytes());
        return Err(format!("has a parameter '{name}' behind the question mark; allowed there: {allowed}"));
    };
    let value = setting.form.parse(text.as_bytes()).map_err(|why| {
        format!("has {name}='{}' behind the question mark, which {why}", url::show(text.as_bytes()))
    })?;
    set_store(options, setting.name, value);
    Ok(())
}

fn set_store(options: &mut Options, name: &str, value: Value) {
    match (name, value) {
        ("replica_endpoint", Value::Text(text)) => options.endpoint = Some(text),
        ("replica_region", Value::Text(text)) => options.region = Some(text),
        ("replica_path_style", Value::Flag(flag)) => options.path_style = Some(flag),
        ("replica_ca_bundle", Value::Text(text)) => options.ca_bundle = Some(PathBuf::from(text)),
        ("replica_sse", Value::Text(text)) => options.sse = Some(text),
        ("replica_storage_class", Value::Text(text)) => options.storage_class = Some(text),
        ("replica_part_size", Value::Size(bytes)) => options.part_bytes = usize::try_from(bytes).ok(),
        (name, value) => unreachable!("BUG: {name} is {value:?}"),
    }
}

/// The setting of that name, as written in URIs and rules.
pub fn by_name(name: &[u8]) -> Option<&'static Setting> {
    SETTINGS.iter().find(|s| s.name.as_bytes() == name)
}

/// The setting of that name in the environment, its common prefix taken off: `INTERVAL`, `URL2`.
pub fn by_environment_name(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|s| environment_name(s) == name)
}

/// What stands behind `SQLITEREPLICATE_` for this setting.
fn environment_name(setting: &Setting) -> String {
    match setting.name.strip_prefix("replica_") {
        Some(rest) => rest.to_ascii_uppercase(),
        None => setting.name.replacen("replica", "URL", 1),
    }
}

/// All names, for error texts.
pub fn names() -> String {
    SETTINGS.iter().map(|s| s.name).collect::<Vec<_>>().join(", ")
}

/// The same as [`names`], as the environment has them.
pub fn environment_names() -> String {
    SETTINGS.iter().map(environment_name).collect::<Vec<_>>().join(", ")
}

impl Setting {
    /// Checks and types one value. `shown` is the setting's name as the user wrote it.
    ///
    /// # Errors
    /// `Invalid`, naming setting, value and what is allowed, for what is malformed or out of bounds.
    pub fn parse(&self, shown: &str, value: &[u8]) -> Result<Value> {
        let refuse = |why: String| Error::invalid(format!("{shown}='{}' {why}", url::show(value)));
        self.form.parse(value).map_err(refuse)
    }

    /// The default, typed; `None` where there is none.
    pub fn default_value(&self) -> Option<Value> {
        self.default
            .map(|text| self.form.parse(text.as_bytes()).expect("BUG: a default of the table is malformed"))
    }
}

impl Form {
    /// # Errors
    /// What is wrong, as the end of a sentence that names setting and value.
    fn parse(&self, value: &[u8]) -> std::result::Result<Value, String> {
        let parsed = match self {
            Form::Replica if value == b"none" => Some(Value::NoReplica),
            Form::Replica => {
                return ReplicaUrl::parse(value).map(Value::Replica).map_err(|why| format!("{why}, or none"));
            }
            Form::Folder => folder(value),
            _ => std::str::from_utf8(value).ok().and_then(|text| self.parse_text(text)),
        };
        parsed.ok_or_else(|| self.allowed())
    }

    fn parse_text(&self, text: &str) -> Option<Value> {
        match self {
            Form::Word(words) => words.iter().find(|w| **w == text).map(|w| Value::Word(w)),
            Form::Duration(min, max) => {
                let bound = |b| value::duration(b).expect("BUG: a bound of the table is no duration");
                value::duration(text).filter(|d| (bound(min)..=bound(max)).contains(d)).map(Value::Duration)
            }
            Form::DurationOrOff if text == "off" => Some(Value::Off),
            Form::DurationOrOff => value::duration(text).filter(|d| !d.is_zero()).map(Value::Duration),
            Form::Size(min, max) => {
                let bound = |b| value::size(b).expect("BUG: a bound of the table is no size");
                value::size(text).filter(|s| (bound(min)..=bound(max)).contains(s)).map(Value::Size)
            }
            Form::Levels => levels(text),
            Form::Flag => value::flag(text).map(Value::Flag),
            Form::Text => (!text.is_empty() && !text.contains('\0')).then(|| Value::Text(text.into())),
            Form::Replica | Form::Folder => unreachable!("BUG: parsed as bytes"),
        }
    }

    /// The end of a sentence that says what may be written.
    fn allowed(&self) -> String {
        match self {
            Form::Replica => format!("is no replica; allowed: {}, or none", url::ALLOWED),
            Form::Word(words) => format!("is unknown; allowed: {}", words.join(", ")),
            Form::Duration(min, max) => {
                format!("is not an allowed duration; allowed: {min} to {max}, written like 10ms, 5s, 5m, 24h")
            }
            Form::DurationOrOff => {
                "is not an allowed duration; allowed: off, or like 10ms, 5s, 5m, 24h".into()
            }
            Form::Size(min, max) => {
                format!("is not an allowed size; allowed: {min} to {max}, written like 512KiB, 64MiB, 1GiB")
            }
            Form::Folder => "is not an absolute path; allowed: a folder like /var/lib/app/log".into(),
            Form::Levels => "is not three durations; allowed: like 30s,5m,1h, each may be off".into(),
            Form::Flag => "is neither yes nor no; allowed: 1, true, 0, false".into(),
            Form::Text => "is empty or holds a NUL byte; allowed: any other text".into(),
        }
    }
}

fn folder(value: &[u8]) -> Option<Value> {
    let path = PathBuf::from(OsStr::from_bytes(value));
    (path.is_absolute() && path.parent().is_some() && !value.contains(&0)).then_some(Value::Folder(path))
}

fn levels(text: &str) -> Option<Value> {
    let mut intervals = [None; 3];
    let mut parts = text.split(',');
    for interval in &mut intervals {
        let part = parts.next()?;
        *interval = if part == "off" { None } else { Some(value::duration(part).filter(|d| !d.is_zero())?) };
    }
    parts.next().is_none().then_some(Value::Levels(intervals))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(name: &str, value: &str) -> String {
        by_name(name.as_bytes()).unwrap().parse(name, value.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn every_default_passes_its_own_check_even_where_not_built() {
        for setting in SETTINGS {
            if let Some(default) = setting.default {
                let value = setting.parse(setting.name, default.as_bytes()).unwrap();
                assert_eq!(Some(value), setting.default_value(), "{}", setting.name);
            }
        }
    }

    #[test]
    fn each_malformed_value_is_named_with_what_is_allowed() {
        for (name, value, text) in [
            (
                "replica",
                "",
                "replica='' is empty; allowed: file:///absolute/folder or s3://bucket/prefix, or none",
            ),
            (
                "replica2",
                "gs://x",
                "replica2='gs://x' has an unsupported scheme; allowed: file:///absolute/folder or s3://bucket/prefix, or none",
            ),
            ("replica_durability", "sync", "replica_durability='sync' is unknown; allowed: async, commit"),
            ("replica_lease", "on", "replica_lease='on' is unknown; allowed: off, auto, required, static"),
            (
                "replica_if_missing",
                "",
                "replica_if_missing='' is unknown; allowed: refuse, restore, continue",
            ),
            (
                "replica_interval",
                "bogus",
                "replica_interval='bogus' is not an allowed duration; allowed: 0 to 1h, written like 10ms, 5s, 5m, 24h",
            ),
            (
                "replica_interval",
                "2h",
                "replica_interval='2h' is not an allowed duration; allowed: 0 to 1h, written like 10ms, 5s, 5m, 24h",
            ),
            (
                "replica_verify_interval",
                "0",
                "replica_verify_interval='0' is not an allowed duration; allowed: off, or like 10ms, 5s, 5m, 24h",
            ),
            (
                "replica_log_max",
                "1MB",
                "replica_log_max='1MB' is not an allowed size; allowed: 1MiB to 1024TiB, written like 512KiB, 64MiB, 1GiB",
            ),
            (
                "replica_log",
                "log",
                "replica_log='log' is not an absolute path; allowed: a folder like /var/lib/app/log",
            ),
            (
                "replica_log",
                "/",
                "replica_log='/' is not an absolute path; allowed: a folder like /var/lib/app/log",
            ),
            (
                "replica_levels",
                "30s,5m",
                "replica_levels='30s,5m' is not three durations; allowed: like 30s,5m,1h, each may be off",
            ),
            (
                "replica_path_style",
                "yes",
                "replica_path_style='yes' is neither yes nor no; allowed: 1, true, 0, false",
            ),
            ("replica_region", "", "replica_region='' is empty or holds a NUL byte; allowed: any other text"),
        ] {
            assert_eq!(refusal(name, value), text);
        }
    }

    #[test]
    fn environment_names_follow_from_the_names() {
        for (name, environment) in [("replica", "URL"), ("replica3", "URL3"), ("replica_log_max", "LOG_MAX")]
        {
            assert_eq!(by_environment_name(environment).unwrap().name, name);
        }
        assert!(by_environment_name("REPLICA").is_none());
    }

    #[test]
    fn no_password_of_a_url_is_repeated() {
        assert!(!refusal("replica", "s3://key:hush@bucket/p").contains("hush"));
    }
}
