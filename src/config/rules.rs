//! Layers of settings, and the rules that say which databases a layer is for.
//!
//! A *layer* is what one source says: at most one value for each setting, each checked when it is added. A
//! *rule* is a layer with a pattern: a path, or a glob in which `*` stands for any run of bytes without a slash
//! and `?` for one byte that is no slash. In a rule, `{name}` in a replica or log folder becomes the file name of
//! the database, `{path}` its absolute path without the first slash; the URL of a glob must contain one of
//! them, because two databases never share a replica.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::setting::{self, Setting, Value};
use super::url;
use crate::error::{Error, Result};

/// Ends of the names of files that belong to a database.
const BESIDE: [&str; 3] = ["-wal", "-shm", "-journal"];

/// What one source says.
#[derive(Clone, Debug, Default)]
pub struct Layer {
    values: BTreeMap<&'static str, Given>,
}

/// One value as it was given: under which name, in which bytes, and what they mean.
#[derive(Clone, Debug)]
struct Given {
    shown: String,
    raw: Vec<u8>,
    value: Value,
}

impl Layer {
    /// Checks a value and takes it in. `shown` is the name as the user wrote it.
    ///
    /// # Errors
    /// `Invalid` when the value is refused, or when the setting is already there with another value.
    pub fn add(&mut self, setting: &'static Setting, shown: &str, raw: &[u8]) -> Result<()> {
        let value = setting.parse(shown, raw)?;
        if let Some(before) = self.values.get(setting.name)
            && before.value != value
        {
            let (one, other) = (url::show(&before.raw), url::show(raw));
            return Err(Error::invalid(format!(
                "{shown} is given twice, as '{one}' and as '{other}'; leave one out"
            )));
        }
        self.values.insert(setting.name, Given { shown: shown.into(), raw: raw.to_vec(), value });
        Ok(())
    }

    pub fn get(&self, name: &str) -> Option<&Value> {
        self.values.get(name).map(|given| &given.value)
    }

    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Takes from a weaker source what this one leaves open.
    pub fn fill_from(&mut self, weaker: &Layer) {
        for (name, given) in &weaker.values {
            self.values.entry(name).or_insert_with(|| given.clone());
        }
    }

    /// The same layer with `{name}` and `{path}` replaced, for the database at `path`.
    fn expanded_for(&self, path: &Path) -> Result<Layer> {
        let mut layer = Layer::default();
        for (name, given) in &self.values {
            let setting = setting::by_name(name.as_bytes()).expect("BUG: a layer holds an unknown setting");
            let raw = match given.value {
                Value::Replica(_) | Value::Folder(_) => expand(&given.raw, path),
                _ => given.raw.clone(),
            };
            layer.add(setting, &given.shown, &raw)?;
        }
        Ok(layer)
    }
}

/// A layer for the databases that match a pattern.
#[derive(Clone, Debug)]
pub struct Rule {
    pattern: PathBuf,
    layer: Layer,
}

impl Rule {
    /// # Errors
    /// `Invalid` when the pattern is not absolute, or is a glob and a replica or log folder does not tell its databases apart.
    pub fn new(pattern: &Path, layer: Layer) -> Result<Rule> {
        let shown = url::show(pattern.as_os_str().as_bytes());
        if !pattern.is_absolute() {
            return Err(Error::invalid(format!(
                "path='{shown}' is relative; allowed: an absolute path or glob"
            )));
        }
        if is_glob(pattern) {
            for given in layer.values.values() {
                let needs_name = matches!(given.value, Value::Replica(_) | Value::Folder(_));
                if needs_name && expand(&given.raw, Path::new("/a/b")) == given.raw {
                    return Err(Error::invalid(format!(
                        "{}='{}' would be shared by all databases that match path='{shown}'; \
                         allowed with a glob: a value that contains {{name}} or {{path}}",
                        given.shown,
                        url::show(&given.raw)
                    )));
                }
            }
        }
        Ok(Rule { pattern: pattern.to_path_buf(), layer })
    }

    /// The files that it is for, by path. What SQLite keeps beside a database is none.
    ///
    /// # Errors
    /// Those of reading a folder that a glob looks into.
    pub fn files(&self) -> Result<Vec<PathBuf>> {
        let mut found = vec![PathBuf::from("/")];
        for part in self.pattern.components().skip(1) {
            let name = part.as_os_str();
            if !name.as_bytes().iter().any(is_wildcard) {
                found.iter_mut().for_each(|path| path.push(name));
                continue;
            }
            let mut deeper = Vec::new();
            for folder in found.iter().filter(|folder| folder.is_dir()) {
                let entries = std::fs::read_dir(folder).map_err(|e| Error::io("list", folder, e))?;
                for entry in entries {
                    let name_found = entry.map_err(|e| Error::io("list", folder, e))?.file_name();
                    if glob_matches(name.as_bytes(), name_found.as_bytes()) {
                        deeper.push(folder.join(name_found));
                    }
                }
            }
            found = deeper;
        }
        let beside = |path: &PathBuf| {
            BESIDE.iter().any(|suffix| path.as_os_str().as_bytes().ends_with(suffix.as_bytes()))
        };
        found.retain(|path| path.is_file() && !beside(path));
        found.sort();
        Ok(found)
    }

    /// What this rule says for the database at the real path `path`; `None` when it is not for it.
    ///
    /// # Errors
    /// `Invalid` when a value is refused once `{name}` and `{path}` are replaced.
    pub fn layer_for(&self, path: &Path) -> Result<Option<Layer>> {
        let pattern = real_pattern(&self.pattern);
        let matches = if is_glob(&self.pattern) {
            glob_matches(pattern.as_os_str().as_bytes(), path.as_os_str().as_bytes())
        } else {
            pattern == path
        };
        if matches { self.layer.expanded_for(path).map(Some) } else { Ok(None) }
    }
}

/// The path with every symbolic link replaced, as far as it exists: two names of one file become one.
pub fn real_path(path: &Path) -> PathBuf {
    if let Ok(real) = path.canonicalize() {
        return real;
    }
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => real_path(parent).join(name),
        _ => path.to_path_buf(),
    }
}

/// Where a file may lie that is too large for memory and that nobody needs afterwards: `TMPDIR`, else a folder on a disk.
pub fn scratch_folder() -> PathBuf {
    let on_disk = Path::new("/var/tmp");
    match std::env::var_os("TMPDIR") {
        Some(folder) if !folder.is_empty() => folder.into(),
        _ if on_disk.is_dir() => on_disk.into(),
        _ => std::env::temp_dir(),
    }
}

/// As [`real_path`], for the part of a glob in front of its first wildcard.
fn real_pattern(pattern: &Path) -> PathBuf {
    let bytes = pattern.as_os_str().as_bytes();
    let Some(wildcard) = bytes.iter().position(is_wildcard) else { return real_path(pattern) };
    let slash =
        bytes[..wildcard].iter().rposition(|b| *b == b'/').expect("BUG: a rule's pattern is absolute");
    let (fixed, rest) = (&bytes[..slash.max(1)], &bytes[slash + 1..]);
    real_path(Path::new(OsStr::from_bytes(fixed))).join(OsStr::from_bytes(rest))
}

fn is_glob(pattern: &Path) -> bool {
    pattern.as_os_str().as_bytes().iter().any(is_wildcard)
}

fn is_wildcard(byte: &u8) -> bool {
    matches!(byte, b'*' | b'?')
}

/// Matches greedily and goes back to the last `*` only: O(pattern * text), no recursion.
fn glob_matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        let here = pattern.get(p).copied();
        if here == Some(b'*') {
            retry = Some((p, t));
            p += 1;
        } else if here == Some(text[t]) || (here == Some(b'?') && text[t] != b'/') {
            p += 1;
            t += 1;
        } else if let Some((star, start)) = retry.filter(|(_, start)| text[*start] != b'/') {
            retry = Some((star, start + 1));
            p = star + 1;
            t = start + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|b| *b == b'*')
}

fn expand(template: &[u8], path: &Path) -> Vec<u8> {
    let name = path.file_name().map_or(&b""[..], OsStr::as_bytes);
    let whole = path.as_os_str().as_bytes();
    let whole = whole.strip_prefix(b"/").unwrap_or(whole);
    let mut expanded = Vec::with_capacity(template.len() + whole.len());
    let mut rest = template;
    while let Some(first) = rest.first() {
        if let Some(after) = rest.strip_prefix(b"{name}") {
            expanded.extend_from_slice(name);
            rest = after;
        } else if let Some(after) = rest.strip_prefix(b"{path}") {
            expanded.extend_from_slice(whole);
            rest = after;
        } else {
            expanded.push(*first);
            rest = &rest[1..];
        }
    }
    expanded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(settings: &[(&str, &str)]) -> Layer {
        let mut layer = Layer::default();
        for (name, value) in settings {
            layer.add(setting::by_name(name.as_bytes()).unwrap(), name, value.as_bytes()).unwrap();
        }
        layer
    }

    #[test]
    fn a_rule_finds_its_files() {
        let folder = crate::testing::Folder::new();
        for name in ["a/x.db", "a/x.db-wal", "a/y.txt", "b/z.db", "c.db"] {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, b"").unwrap();
        }
        let found = |pattern: &str| -> Vec<String> {
            let rule = Rule::new(&folder.path().join(pattern), Layer::default()).unwrap();
            let below = |path: &PathBuf| path.strip_prefix(folder.path()).unwrap().display().to_string();
            rule.files().unwrap().iter().map(below).collect()
        };
        assert_eq!(found("*/*.db"), ["a/x.db", "b/z.db"]);
        assert_eq!(found("a/x*"), ["a/x.db"], "without what SQLite keeps beside it");
        assert_eq!(found("c.db"), ["c.db"]);
        assert_eq!(found("none/*.db"), Vec::<String>::new());
        assert_eq!(found("?"), Vec::<String>::new(), "folders are no databases");
    }

    #[test]
    fn globs_match_within_one_folder() {
        for (pattern, text, matches) in [
            ("/d/*.db", "/d/app.db", true),
            ("/d/*.db", "/d/.db", true),
            ("/d/*.db", "/d/sub/app.db", false),
            ("/d/*.db", "/d/app.db-wal", false),
            ("/d/*/x.db", "/d/a/x.db", true),
            ("/d/*/x.db", "/d/a/b/x.db", false),
            ("/d/?.db", "/d/a.db", true),
            ("/d/?.db", "/d/ab.db", false),
            ("/d?a.db", "/d/a.db", false),
            ("/d/*a*b", "/d/xaayab", true),
            ("/d/*a*b", "/d/xaayac", false),
            ("/d/**", "/d/x", true),
            ("/d/*", "/d/", true),
        ] {
            assert_eq!(glob_matches(pattern.as_bytes(), text.as_bytes()), matches, "{pattern} {text}");
        }
    }

    #[test]
    fn name_and_path_are_replaced_once() {
        let path = Path::new("/data/{name}.db");
        assert_eq!(expand(b"file:///b/{name}/{path}", path), b"file:///b/{name}.db/data/{name}.db");
    }

    #[test]
    fn a_glob_must_tell_its_databases_apart() {
        for (name, value) in
            [("replica", "file:///b"), ("replica2", "file:///b/{nam}"), ("replica_log", "/log")]
        {
            let text =
                Rule::new(Path::new("/nowhere/*.db"), layer(&[(name, value)])).unwrap_err().to_string();
            assert!(text.starts_with(&format!("{name}='{value}' would be shared")), "{text}");
            assert!(text.ends_with("contains {name} or {path}"), "{text}");
        }
        let rule = Rule::new(Path::new("/nowhere/*.db"), layer(&[("replica", "file:///b/{name}")])).unwrap();
        let found = rule.layer_for(Path::new("/nowhere/x.db")).unwrap().unwrap();
        assert_eq!(
            found.get("replica").unwrap(),
            layer(&[("replica", "file:///b/x.db")]).get("replica").unwrap()
        );
        assert!(rule.layer_for(Path::new("/nowhere/sub/x.db")).unwrap().is_none());
    }

    #[test]
    fn a_relative_pattern_is_refused() {
        let text = Rule::new(Path::new("app.db"), Layer::default()).unwrap_err().to_string();
        assert_eq!(text, "path='app.db' is relative; allowed: an absolute path or glob");
    }

    #[test]
    fn a_setting_twice_with_two_values_is_refused() {
        let mut layer = layer(&[("replica_interval", "1s")]);
        let interval = setting::by_name(b"replica_interval").unwrap();
        layer.add(interval, "replica_interval", b"1000ms").unwrap();
        let text = layer.add(interval, "replica_interval", b"2s").unwrap_err().to_string();
        assert_eq!(text, "replica_interval is given twice, as '1000ms' and as '2s'; leave one out");
    }

    #[test]
    fn a_path_through_a_symbolic_link_is_the_path_behind_it() {
        let folder = std::env::temp_dir().join(format!("sqlitereplicate-rules-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("real")).unwrap();
        std::os::unix::fs::symlink(folder.join("real"), folder.join("link")).unwrap();
        let real = real_path(&folder.join("real")).join("not-yet.db");
        assert_eq!(real_path(&folder.join("link/not-yet.db")), real);
        let rule = Rule::new(&folder.join("link/*.db"), Layer::default()).unwrap();
        assert!(rule.layer_for(&real).unwrap().is_some());
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
