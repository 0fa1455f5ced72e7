//! The settings of one database, typed and complete.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::rules::Layer;
use super::setting::{self, Value};
use super::url::ReplicaUrl;
use crate::error::{Error, Result};
use crate::lease::Terms;
use crate::replica::s3::Options;
use crate::upkeep::{Levels, Policy};

/// How long a group collects for a file replica, where nothing else is said.
const INTERVAL_FILE: Duration = Duration::from_millis(10);
/// The same for a bucket, where every group is a request that somebody pays for.
const INTERVAL_BUCKET: Duration = Duration::from_secs(1);

/// When a COMMIT returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Once SQLite is done; the replica follows.
    Async,
    /// Once the home replica has it.
    Commit,
}

/// What an open does when there is no local file but the replica has history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IfMissing {
    Refuse,
    Restore,
    /// The new database becomes the next txid.
    Continue,
}

/// What an open does with a local file that is not where the replica ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnBehind {
    /// What the findings prove.
    Auto,
    RollForward,
    /// The local file becomes the next txid.
    Keep,
    Refuse,
}

/// What a database does whose history another writer has continued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnConflict {
    /// It is fenced: nothing is sent any more.
    Halt,
    /// What only it has is saved, and it goes on from the end of that history.
    Rejoin,
}

/// Who may write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseUse {
    /// Whoever has it open: a single writer, fenced by the history itself.
    Off,
    /// Who holds the lease, which the first write takes.
    Auto,
    /// Who holds the lease, which somebody asks for.
    Required,
    /// This one, by its owner's name, always.
    Static { primary: String },
}

/// Whether SQLite's WAL-reset bug is kept from doing harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalResetGuard {
    /// Where the SQLite of the connection has it.
    Auto,
    On,
    Off,
}

/// What is said of a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseSettings {
    pub used: LeaseUse,
    pub terms: Terms,
    /// Name of the holder; `None`: host and process.
    pub owner: Option<String>,
    /// Where it can be reached.
    pub url: Option<String>,
}

/// Everything one database needs to know; what is not built yet has no field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Absolute, every symbolic link replaced.
    pub database: PathBuf,
    /// The home first; at least one, no two alike.
    pub replicas: Vec<ReplicaUrl>,
    /// Of the stores that hold them, where a URL does not say otherwise.
    pub store: Options,
    pub durability: Durability,
    pub sync_timeout: Duration,
    /// How long a group collects; zero: sealed at once.
    pub interval: Duration,
    pub open_timeout: Duration,
    pub flush_timeout: Duration,
    pub levels: Levels,
    pub retention: Policy,
    /// Pace of the background verifier; `None`: there is none.
    pub verify_interval: Option<Duration>,
    pub if_missing: IfMissing,
    pub on_behind: OnBehind,
    pub on_conflict: OnConflict,
    pub lease: LeaseSettings,
    pub wal_reset_guard: WalResetGuard,
    /// Folder of the local log, absolute.
    pub log: PathBuf,
    pub log_bytes_max: u64,
    /// The replica came from the environment, which names one database or takes the first.
    pub(super) from_environment: bool,
}

impl Settings {
    /// # Errors
    /// `Invalid` when two replicas are the same or a copy has no home.
    pub(super) fn new(database: &Path, layer: &Layer, from_environment: bool) -> Result<Settings> {
        let replicas = replicas(layer)?;
        Ok(Settings {
            database: database.to_path_buf(),
            store: setting::store_options(|name| layer.get(name)),
            durability: match value(layer, "replica_durability") {
                Value::Word("commit") => Durability::Commit,
                _ => Durability::Async,
            },
            sync_timeout: duration(layer, "replica_sync_timeout"),
            interval: match layer.get("replica_interval") {
                Some(Value::Duration(interval)) => *interval,
                _ if matches!(replicas[0], ReplicaUrl::Bucket(..)) => INTERVAL_BUCKET,
                _ => INTERVAL_FILE,
            },
            replicas,
            open_timeout: duration(layer, "replica_open_timeout"),
            flush_timeout: duration(layer, "replica_flush_timeout"),
            levels: levels(layer),
            retention: retention(layer),
            verify_interval: match value(layer, "replica_verify_interval") {
                Value::Duration(interval) => Some(interval),
                _ => None,
            },
            if_missing: match value(layer, "replica_if_missing") {
                Value::Word("restore") => IfMissing::Restore,
                Value::Word("continue") => IfMissing::Continue,
                _ => IfMissing::Refuse,
            },
            on_behind: match value(layer, "replica_on_behind") {
                Value::Word("rollforward") => OnBehind::RollForward,
                Value::Word("keep") => OnBehind::Keep,
                Value::Word("refuse") => OnBehind::Refuse,
                _ => OnBehind::Auto,
            },
            on_conflict: match value(layer, "replica_on_conflict") {
                Value::Word("rejoin") => OnConflict::Rejoin,
                _ => OnConflict::Halt,
            },
            lease: lease(layer)?,
            wal_reset_guard: match value(layer, "replica_wal_reset_guard") {
                Value::Word("on") => WalResetGuard::On,
                Value::Word("off") => WalResetGuard::Off,
                _ => WalResetGuard::Auto,
            },
            log: match layer.get("replica_log") {
                Some(Value::Folder(folder)) => folder.clone(),
                _ => beside(database),
            },
            log_bytes_max: match value(layer, "replica_log_max") {
                Value::Size(bytes) => bytes,
                other => unreachable!("BUG: replica_log_max is {other:?}"),
            },
            from_environment,
        })
    }
}

/// What upkeep needs to know of a replica without a database: from settings by name, each written as everywhere.
///
/// # Errors
/// `Invalid`, naming setting, value and what is allowed.
pub fn upkeep(given: &[(&str, &str)]) -> Result<(Levels, Policy)> {
    let mut layer = Layer::default();
    for (name, text) in given {
        let setting = setting::by_name(name.as_bytes()).expect("BUG: not a setting of upkeep");
        layer.add(setting, name, text.as_bytes())?;
    }
    Ok((levels(&layer), retention(&layer)))
}

fn levels(layer: &Layer) -> Levels {
    Levels {
        merged: match value(layer, "replica_levels") {
            Value::Levels(intervals) => intervals,
            other => unreachable!("BUG: replica_levels is {other:?}"),
        },
        snapshot: duration(layer, "replica_snapshot_interval"),
    }
}

fn retention(layer: &Layer) -> Policy {
    Policy { l0: duration(layer, "replica_l0_retention"), window: duration(layer, "replica_retention") }
}

fn lease(layer: &Layer) -> Result<LeaseSettings> {
    let text = |name: &str| match layer.get(name) {
        Some(Value::Text(text)) => Some(text.clone()),
        _ => None,
    };
    let used = match (value(layer, "replica_lease"), text("replica_lease_primary")) {
        (Value::Word("static"), Some(primary)) => LeaseUse::Static { primary },
        (Value::Word("static"), None) => {
            return Err(Error::invalid(
                "replica_lease='static' needs replica_lease_primary, the owner's name of the one node that writes",
            ));
        }
        (_, Some(primary)) => {
            return Err(Error::invalid(format!(
                "replica_lease_primary='{primary}' says who is the primary for ever, which only replica_lease=static does"
            )));
        }
        (Value::Word("auto"), None) => LeaseUse::Auto,
        (Value::Word("required"), None) => LeaseUse::Required,
        _ => LeaseUse::Off,
    };
    let terms = Terms::new(duration(layer, "replica_lease_ttl"))?;
    Ok(LeaseSettings { used, terms, owner: text("replica_lease_owner"), url: text("replica_lease_url") })
}

/// `<db>-replica`.
fn beside(database: &Path) -> PathBuf {
    let mut folder: OsString = database.as_os_str().into();
    folder.push("-replica");
    folder.into()
}

fn replicas(layer: &Layer) -> Result<Vec<ReplicaUrl>> {
    let mut replicas: Vec<ReplicaUrl> = Vec::new();
    for name in ["replica", "replica2", "replica3"] {
        if let Some(Value::Replica(url)) = layer.get(name) {
            if replicas.contains(url) {
                return Err(Error::invalid(format!(
                    "{name}='{url}' is there already; give each copy its own folder"
                )));
            }
            replicas.push(url.clone());
        }
    }
    assert!(!replicas.is_empty(), "BUG: settings without a replica");
    Ok(replicas)
}

fn value(layer: &Layer, name: &str) -> Value {
    let default = || setting::by_name(name.as_bytes()).and_then(setting::Setting::default_value);
    layer.get(name).cloned().or_else(default).expect("BUG: neither value nor default")
}

fn duration(layer: &Layer, name: &str) -> Duration {
    match value(layer, name) {
        Value::Duration(duration) => duration,
        other => unreachable!("BUG: {name} is {other:?}"),
    }
}
