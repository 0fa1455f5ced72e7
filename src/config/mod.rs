//! Which database is replicated where, and how: URI, `replica_configure`, config file, environment.
//!
//! Sources from strongest to weakest:
//!
//! | Source | Speaks for | Checked |
//! |---|---|---|
//! | URI parameters `replica*` | the file that is opened | at the open |
//! | [`Config::configure`] | one path, until the process ends | when it is called |
//! | `SQLITEREPLICATE_CONFIG` | the paths its rules match; the first that matches | read once, told at each open |
//! | `SQLITEREPLICATE_*` | `..._DATABASE`, or the first file opened; settings other than replicas: every database | same |
//!
//! A stronger source wins setting by setting. The environment and the file it names are read once, when the
//! library is loaded; what is wrong with them is kept and fails every open that depends on them, because a
//! database that is unreplicated by mistake is the worst outcome. `replica=none` in a URI depends on nothing.
//!
//! Only this room reads the environment.

pub(crate) mod aws;
mod claims;
mod each;
pub(crate) mod file;
mod rules;
pub(crate) mod setting;
mod settings;
mod stores;
mod url;
pub mod value;

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use crate::clock::Deadline;
use crate::lock::Mutex;

pub use self::claims::Claim;
pub use self::rules::{real_path, scratch_folder};
pub use self::settings::{
    Durability, IfMissing, LeaseSettings, LeaseUse, OnBehind, OnConflict, Settings, WalResetGuard, upkeep,
};
pub use self::url::ReplicaUrl;
#[cfg(any(test, fuzzing))]
pub(crate) use self::url::show as show_url;

use self::claims::Claims;
use self::rules::{Layer, Rule};
use self::setting::{UNPREFIXED, Value};
use self::stores::Stores;
use crate::error::{Error, Result};
use crate::replica::Client;
use crate::replica::s3::Options;

/// Prefix of the environment variables that are ours.
const PREFIX: &str = "SQLITEREPLICATE_";
/// Behind [`PREFIX`]: seams of the tests, read by `ffi`.
const TEST_PREFIX: &str = "TEST_";
/// What [`name_file`] was told.
static FILE: OnceLock<PathBuf> = OnceLock::new();

/// Names the config file, in place of the environment's. Before the first use of the settings; the first call counts.
pub fn name_file(path: &Path) {
    let _ = FILE.set(std::path::absolute(path).unwrap_or_else(|_| path.to_owned()));
}

/// How a main database was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenedAs {
    /// Through a VFS that was named.
    Explicit,
    /// Through the process's default VFS, which happens to be ours.
    Default,
}

/// What becomes of one open.
#[derive(Debug)]
pub enum Decision {
    /// Straight to the base VFS: `replica=none`, or not configured and not asked for.
    PassThrough,
    /// Asked for by name, but no source gives a replica: the caller refuses, see [`Config::unconfigured`].
    Unconfigured,
    Replicate(Box<Settings>),
}

/// The settings of this process.
#[derive(Debug)]
pub struct Config {
    default_vfs: bool,
    rules: Vec<Rule>,
    environment: Environment,
    /// A seam of the tests: where each database that has no replica gets one.
    each_below: Option<PathBuf>,
    /// Guards what `replica_configure` said, by real path.
    configured: Mutex<HashMap<PathBuf, Layer>>,
    claims: Claims,
    stores: Stores,
}

/// What the environment says, apart from the file it names.
#[derive(Debug, Default)]
struct Environment {
    /// The first thing that is wrong with environment or config file.
    fault: Option<String>,
    /// Settings for the database that the environment names.
    replicas: Layer,
    /// Settings for every database.
    others: Layer,
    /// Guards the path that the environment's replica is for: named, or the first that claimed it.
    database: Mutex<Option<PathBuf>>,
    database_is_named: bool,
}

impl Config {
    /// Reads the environment of this process and the config file it names, once.
    pub fn from_environment() -> Config {
        let named: Option<(OsString, OsString)> =
            FILE.get().map(|path| (format!("{PREFIX}CONFIG").into(), path.into()));
        let rest =
            std::env::vars_os().filter(|(name, _)| named.is_none() || name != "SQLITEREPLICATE_CONFIG");
        Config::from_variables(rest.chain(named.clone()))
    }

    fn from_variables(variables: impl Iterator<Item = (OsString, OsString)>) -> Config {
        let mut config = Config {
            default_vfs: false,
            rules: Vec::new(),
            environment: Environment::default(),
            each_below: None,
            configured: Mutex::default(),
            claims: Claims::default(),
            stores: Stores::default(),
        };
        let mut variables: Vec<_> = variables.collect();
        variables.sort();
        for (name, value) in variables {
            config.stores.take(&name, &value);
            if let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(PREFIX))
                && let Err(error) = config.take_variable(rest, value.as_bytes())
            {
                config.environment.fault.get_or_insert(error.to_string());
            }
        }
        if config.environment.database_is_named && config.environment.replicas.get("replica").is_none() {
            let text = "SQLITEREPLICATE_DATABASE is set without SQLITEREPLICATE_URL; set both or none";
            config.environment.fault.get_or_insert(text.into());
        }
        config
    }

    fn take_variable(&mut self, rest: &str, value: &[u8]) -> Result<()> {
        let shown = format!("{PREFIX}{rest}");
        match rest {
            "TEST_REPLICAS" => {
                self.each_below = Some(absolute(&shown, value)?);
                Ok(())
            }
            _ if rest.starts_with(TEST_PREFIX) => Ok(()),
            "CONFIG" => self.read_file(&shown, value),
            "DATABASE" => {
                let path = absolute(&shown, value)?;
                self.environment.database_is_named = true;
                *self.environment.database.lock() = Some(path);
                Ok(())
            }
            "DEFAULT_VFS" => {
                let flag = std::str::from_utf8(value).ok().and_then(value::flag);
                // Malformed: be the default all the same, so that the opens which rely on it fail with the text.
                self.default_vfs = flag.unwrap_or(true);
                flag.map(drop).ok_or_else(|| {
                    let value = url::show(value);
                    Error::invalid(format!(
                        "{shown}='{value}' is neither yes nor no; allowed: 1, true, 0, false"
                    ))
                })
            }
            _ => match setting::by_environment_name(rest) {
                Some(setting) if setting.name.starts_with("replica_") => {
                    self.environment.others.add(setting, &shown, value)
                }
                Some(setting) => self.environment.replicas.add(setting, &shown, value),
                None => Err(Error::invalid(format!(
                    "{shown}='{}' is no setting; allowed behind {PREFIX}: CONFIG, DATABASE, DEFAULT_VFS, {}",
                    url::show_unknown(rest.as_bytes(), value),
                    setting::environment_names()
                ))),
            },
        }
    }

    fn read_file(&mut self, shown: &str, value: &[u8]) -> Result<()> {
        let path = absolute(shown, value)?;
        let doing = format!("{shown}='{}'", url::show(value));
        let text =
            std::fs::read(&path).map_err(|error| Error::io("read", &path, error).while_doing(&doing))?;
        self.rules = file::rules(&text).map_err(|error| error.while_doing(&doing))?;
        Ok(())
    }

    /// Whether the environment asks for our VFS to be the process's default.
    pub fn default_vfs(&self) -> bool {
        self.default_vfs
    }

    /// `replica_configure(path, url [, options])`: what later opens of `path` do. A second call for the same path
    /// replaces the first; the URL `none` makes them pass through. Returns what the options say of the default VFS.
    ///
    /// # Errors
    /// `Invalid` for a bad path, URL or option; then nothing is changed.
    pub fn configure(&self, path: &[u8], url: &[u8], options_json: Option<&str>) -> Result<Option<bool>> {
        let path = absolute("path", path)?;
        let mut options = match options_json {
            Some(text) => file::options(text).map_err(|error| error.while_doing("options"))?,
            None => file::Options::default(),
        };
        let setting = setting::by_name(b"replica").expect("BUG: the table lost its first setting");
        options.layer.add(setting, "replica", url)?;
        self.configured.lock().insert(path, options.layer);
        Ok(options.default_vfs)
    }

    /// Decides over the open of the main database at `path`, which is absolute.
    ///
    /// `uri` are the parameters as SQLite has decoded them.
    ///
    /// # Errors
    /// `Invalid`, naming setting, value and what is allowed, for anything unknown or malformed in a source that
    /// this open depends on; also when the environment's one replica was taken by another file.
    pub fn resolve<'a>(
        &self,
        path: &Path,
        uri: &mut dyn Iterator<Item = (&'a [u8], &'a [u8])>,
        opened_as: OpenedAs,
    ) -> Result<Decision> {
        let path = real_path(path);
        let (mut layer, unprefixed) = uri_layer(uri)?;
        if layer.get("replica") == Some(&Value::NoReplica) {
            return Ok(Decision::PassThrough);
        }
        if let Some(fault) = &self.environment.fault {
            return Err(Error::invalid(fault.clone()));
        }
        let asked_for = opened_as == OpenedAs::Explicit || !layer.is_empty();
        self.fill_from_rules(&mut layer, &path)?;
        let from_environment = self.fill_from_environment(&mut layer, &path, opened_as)?;
        if let (None, Some(folder)) = (layer.get("replica"), &self.each_below) {
            layer.fill_from(&each::replica_of(folder, &path, &self.claims.of(&path))?);
        }
        match layer.get("replica") {
            Some(Value::NoReplica) => Ok(Decision::PassThrough),
            None if !asked_for => Ok(Decision::PassThrough),
            _ if unprefixed.is_some() => Err(unprefixed.expect("BUG: just looked at")),
            None => Ok(Decision::Unconfigured),
            Some(_) => {
                layer.fill_from(&self.environment.others);
                Ok(Decision::Replicate(Box::new(Settings::new(&path, &layer, from_environment)?)))
            }
        }
    }

    /// The replica that a URL names by itself, with the store's parameters behind a question mark if need be. Touches
    /// nothing yet.
    ///
    /// # Errors
    /// `Invalid` with the URL and what is allowed.
    pub fn replica(&self, url: &str) -> Result<Arc<dyn Client>> {
        self.stores.client(&named(url)?, &Options::default(), None)
    }

    /// Every replica at a URL and below it, with its own URL.
    ///
    /// # Errors
    /// As [`Config::replica`]; those of the store.
    pub fn replicas_below(&self, url: &str) -> Result<Vec<(String, Arc<dyn Client>)>> {
        self.stores.below(&named(url)?)
    }

    /// Removes what a replica leaves when its last file is gone: empty folders.
    ///
    /// # Errors
    /// As [`Config::replica`]; those of removing a folder.
    pub fn remove_emptied(&self, url: &str) -> Result<()> {
        match named(url)? {
            ReplicaUrl::File(folder) => crate::replica::file::remove_emptied(&folder),
            ReplicaUrl::Bucket(..) => Ok(()),
        }
    }

    /// There is a config file with a rule.
    pub fn has_rules(&self) -> bool {
        !self.rules.is_empty()
    }

    /// The files that rules of the config file are for and that replicate somewhere, by path.
    ///
    /// # Errors
    /// `Invalid` for what is wrong with environment or config file; those of reading a folder.
    pub fn databases(&self) -> Result<Vec<PathBuf>> {
        if let Some(fault) = &self.environment.fault {
            return Err(Error::invalid(fault.clone()));
        }
        let mut paths = Vec::new();
        for rule in &self.rules {
            for path in rule.files()? {
                if matches!(
                    self.resolve(&path, &mut std::iter::empty(), OpenedAs::Default)?,
                    Decision::Replicate(_)
                ) {
                    paths.push(path);
                }
            }
        }
        paths.sort();
        paths.dedup();
        Ok(paths)
    }

    /// An empty place of its own beside the files of the replica that a URL names; see [`Stores::beside`].
    ///
    /// # Errors
    /// As [`Config::replica`]; those of making a folder.
    pub fn beside_replica(&self, url: &str, name: &str) -> Result<(Arc<dyn Client>, Option<PathBuf>)> {
        self.stores.beside(&named(url)?, name)
    }

    /// Replica `index` (0: home) of a database; touches nothing yet. No request of it outlives the deadline.
    ///
    /// # Errors
    /// `Invalid` for what was said of the store.
    pub fn client(
        &self,
        settings: &Settings,
        index: usize,
        deadline: Option<Deadline>,
    ) -> Result<Arc<dyn Client>> {
        self.stores.client(&settings.replicas[index], &settings.store, deadline)
    }

    /// The error for [`Decision::Unconfigured`]: what was opened and every way to say where it goes.
    pub fn unconfigured(path: &Path) -> Error {
        Error::invalid(format!(
            "no replica is given for {}; add replica=file:///absolute/folder to its URI (or replica=none to open it \
             without), call replica_configure, or set SQLITEREPLICATE_CONFIG or SQLITEREPLICATE_URL",
            path.display()
        ))
    }

    /// Takes the replicas and the log folder of `settings` for their database, for as long as the claim lives.
    ///
    /// # Errors
    /// `Invalid` when another database of this process has one of them.
    pub fn claim(&self, settings: &Settings) -> Result<Claim> {
        let mut places: Vec<PathBuf> =
            settings.replicas.iter().map(|url| place(url, &settings.store)).collect();
        places.push(real_path(&settings.log));
        let mut first = self.environment.database.lock();
        if settings.from_environment {
            check_first(first.as_deref(), &settings.database)?;
        }
        let claim = self.claims.claim(&settings.database, places)?;
        if settings.from_environment {
            first.get_or_insert_with(|| settings.database.clone());
        }
        Ok(claim)
    }

    fn fill_from_rules(&self, layer: &mut Layer, path: &Path) -> Result<()> {
        if let Some(configured) = self.configured.lock().get(path) {
            layer.fill_from(configured);
        }
        for rule in &self.rules {
            if let Some(found) = rule.layer_for(path)? {
                layer.fill_from(&found);
                break;
            }
        }
        Ok(())
    }

    /// Whether the replica came from the environment.
    fn fill_from_environment(&self, layer: &mut Layer, path: &Path, opened_as: OpenedAs) -> Result<bool> {
        let environment = &self.environment;
        if layer.get("replica").is_some() || environment.replicas.is_empty() {
            return Ok(false);
        }
        let database = environment.database.lock().clone();
        if environment.database_is_named {
            if database.as_deref() != Some(path) {
                return Ok(false);
            }
        } else if opened_as == OpenedAs::Explicit {
            check_first(database.as_deref(), path)?;
        } else if database.is_none() {
            return Err(Error::invalid(
                "SQLITEREPLICATE_URL is set, but not which database it is for, and with the default VFS no first one is \
                 guessed; set SQLITEREPLICATE_DATABASE=/absolute/path",
            ));
        } else if database.as_deref() != Some(path) {
            return Ok(false);
        }
        layer.fill_from(&environment.replicas);
        Ok(layer.get("replica").is_some())
    }
}

/// The replica of a URL that stands alone.
fn named(url: &str) -> Result<ReplicaUrl> {
    ReplicaUrl::parse(url.as_bytes())
        .map_err(|why| Error::invalid(format!("replica URL '{}' {why}", url::show(url.as_bytes()))))
}

/// What tells a replica from every other one, fit for a message.
fn place(url: &ReplicaUrl, settings: &Options) -> PathBuf {
    match url {
        ReplicaUrl::File(folder) => real_path(folder),
        ReplicaUrl::Bucket(place, own) => match own.endpoint.as_ref().or(settings.endpoint.as_ref()) {
            Some(endpoint) => format!("{place} at {endpoint}").into(),
            None => place.to_string().into(),
        },
    }
}

/// Refuses a second path for the one replica that the environment gives.
fn check_first(first: Option<&Path>, path: &Path) -> Result<()> {
    match first {
        Some(first) if first != path => Err(Error::invalid(format!(
            "SQLITEREPLICATE_URL was taken by {}, the first database opened, and is not shared with {}; \
             name the one it is for in SQLITEREPLICATE_DATABASE, or give each its own replica",
            first.display(),
            path.display()
        ))),
        _ => Ok(()),
    }
}

/// The settings of a URI, and the error for a store's parameter without prefix, if there is one.
fn uri_layer<'a>(uri: &mut dyn Iterator<Item = (&'a [u8], &'a [u8])>) -> Result<(Layer, Option<Error>)> {
    let mut layer = Layer::default();
    let mut unprefixed = None;
    for (key, value) in uri {
        if let Some(setting) = setting::by_name(key) {
            layer.add(setting, setting.name, value)?;
        } else if key.len() >= 7 && key[..7].eq_ignore_ascii_case(b"replica") {
            return Err(Error::invalid(format!(
                "{}='{}' is no setting; allowed: {}",
                url::show(key),
                url::show_unknown(key, value),
                setting::names()
            )));
        } else if let Some((key, name)) =
            UNPREFIXED.iter().find(|(unprefixed, _)| unprefixed.as_bytes() == key)
        {
            let value = url::show(value);
            unprefixed = Some(Error::invalid(format!(
                "{key}='{value}' is a parameter of its own here, because a URI is cut at each &; write {name} instead"
            )));
        }
    }
    Ok((layer, unprefixed))
}

/// The real path of what a user wrote, relative to the folder the process is in.
fn absolute(shown: &str, path: &[u8]) -> Result<PathBuf> {
    let text = Path::new(OsStr::from_bytes(path));
    if path.is_empty() || path.contains(&0) {
        return Err(Error::invalid(format!(
            "{shown}='{}' is no path; allowed: the path of a file",
            url::show(path)
        )));
    }
    let path = std::path::absolute(text).map_err(|error| Error::io("make absolute", text, error))?;
    Ok(real_path(&path))
}

#[cfg(test)]
mod tests;
