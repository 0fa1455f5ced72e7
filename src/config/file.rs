//! Settings as JSON: the config file, and the options of `replica_configure`.
//!
//! ```json
//! [{"path": "/var/lib/app/*.db", "replica": "file:///backup/{name}", "replica_interval": "1s"}]
//! ```
//!
//! The file is an array of rules, one rule, or rules one after the other. Values are text, numbers (seconds,
//! bytes) or booleans. The first rule that matches a database decides.

use std::path::Path;

use serde_json::{Map, Value as Json};

use super::rules::{Layer, Rule};
use super::{setting, url, value};
use crate::error::{Error, Result};

/// The rules of a config file, in order.
///
/// # Errors
/// `Invalid`, naming the rule by its number, from 1.
pub fn rules(text: &[u8]) -> Result<Vec<Rule>> {
    let mut objects = Vec::new();
    for document in serde_json::Deserializer::from_slice(text).into_iter::<Json>() {
        match document.map_err(|error| Error::invalid(format!("no valid JSON: {error}")))? {
            Json::Array(rules) => objects.extend(rules),
            other => objects.push(other),
        }
    }
    objects
        .iter()
        .enumerate()
        .map(|(i, rule)| one_rule(rule).map_err(|e| e.while_doing(format!("rule {}", i + 1))))
        .collect()
}

/// What the options of `replica_configure` say.
#[derive(Debug, Default)]
pub struct Options {
    pub layer: Layer,
    /// `{"default_vfs": true}`: make the VFS the process's default.
    pub default_vfs: Option<bool>,
}

/// # Errors
/// `Invalid` for anything but an object of known settings with good values.
pub fn options(text: &str) -> Result<Options> {
    let json =
        serde_json::from_str(text).map_err(|error| Error::invalid(format!("no valid JSON: {error}")))?;
    let mut options = Options::default();
    for (key, json) in object(&json)? {
        let raw = scalar(key, json)?;
        match key.as_str() {
            "default_vfs" => options.default_vfs = Some(flag(key, &raw)?),
            "replica" => {
                return Err(Error::invalid("replica belongs in the second argument, not in the options"));
            }
            _ => add(&mut options.layer, key, &raw, "default_vfs")?,
        }
    }
    Ok(options)
}

fn one_rule(json: &Json) -> Result<Rule> {
    let object = object(json)?;
    let Some(path) = object.get("path") else {
        return Err(Error::invalid("path is missing; allowed: an absolute path or glob"));
    };
    let path = scalar("path", path)?;
    let mut layer = Layer::default();
    for (key, json) in object.iter().filter(|(key, _)| *key != "path") {
        add(&mut layer, key, &scalar(key, json)?, "path")?;
    }
    Rule::new(Path::new(&path), layer)
}

fn add(layer: &mut Layer, key: &str, raw: &str, also_allowed: &str) -> Result<()> {
    match setting::by_name(key.as_bytes()) {
        Some(setting) => layer.add(setting, key, raw.as_bytes()),
        None => Err(Error::invalid(format!(
            "{}='{}' is no setting; allowed: {also_allowed}, {}",
            url::show(key.as_bytes()),
            url::show_unknown(key.as_bytes(), raw.as_bytes()),
            setting::names()
        ))),
    }
}

fn object(json: &Json) -> Result<&Map<String, Json>> {
    json.as_object().ok_or_else(|| {
        Error::invalid(format!("'{}' is no JSON object; allowed: settings by name", shown(json)))
    })
}

/// What is in the wrong place may hold anything.
fn shown(json: &Json) -> String {
    let text = json.to_string();
    url::show_unknown(text.as_bytes(), text.as_bytes())
}

fn scalar(key: &str, json: &Json) -> Result<String> {
    match json {
        Json::String(text) => Ok(text.clone()),
        Json::Number(number) => Ok(number.to_string()),
        Json::Bool(flag) => Ok(flag.to_string()),
        _ => Err(Error::invalid(format!(
            "{}='{}' is no single value; allowed: text, a number, true or false",
            url::show(key.as_bytes()),
            shown(json)
        ))),
    }
}

fn flag(key: &str, raw: &str) -> Result<bool> {
    value::flag(raw).ok_or_else(|| {
        Error::invalid(format!(
            "{key}='{}' is neither yes nor no; allowed: true, false",
            url::show(raw.as_bytes())
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_an_array_one_rule_or_rules_in_a_row() {
        let one = r#"{"path":"/a.db","replica":"file:///b"}"#;
        for (text, count) in
            [(format!("[{one},{one}]"), 2), (one.into(), 1), (format!("{one}\n{one}"), 2), ("[]".into(), 0)]
        {
            assert_eq!(rules(text.as_bytes()).unwrap().len(), count, "{text}");
        }
    }

    #[test]
    fn each_bad_rule_is_named_by_number_and_reason() {
        for (text, refusal) in [
            ("{", "no valid JSON: "),
            ("[1]", "rule 1: '1' is no JSON object; allowed: settings by name"),
            (
                r#"[{"path":"/a"},{"replica":"file:///b"}]"#,
                "rule 2: path is missing; allowed: an absolute path or glob",
            ),
            (r#"{"path":"a.db"}"#, "rule 1: path='a.db' is relative; allowed: "),
            (
                r#"{"path":["/a"]}"#,
                "rule 1: path='[\"/a\"]' is no single value; allowed: text, a number, true or false",
            ),
            (
                r#"{"path":"/a","url":"file:///b"}"#,
                "rule 1: url='file:///b' is no setting; allowed: path, replica, replica2",
            ),
            (
                r#"{"path":"/a","default_vfs":true}"#,
                "rule 1: default_vfs='true' is no setting; allowed: path, replica, ",
            ),
            (
                r#"{"path":"/a","replica_interval":null}"#,
                "rule 1: replica_interval='null' is no single value; allowed: ",
            ),
            (
                r#"{"path":"/a","replica_interval":"x"}"#,
                "rule 1: replica_interval='x' is not an allowed duration; allowed: ",
            ),
            (
                r#"{"path":"/*","replica":"file:///b"}"#,
                "rule 1: replica='file:///b' would be shared by all databases",
            ),
        ] {
            let found = rules(text.as_bytes()).unwrap_err().to_string();
            assert!(found.starts_with(refusal), "{text}: {found}");
        }
    }

    #[test]
    fn options_take_settings_and_the_default_vfs() {
        let found =
            options(r#"{"default_vfs": true, "replica_interval": 2, "replica_log_max": 2097152}"#).unwrap();
        assert_eq!(found.default_vfs, Some(true));
        assert_eq!(
            found.layer.get("replica_interval"),
            Some(&setting::Value::Duration(std::time::Duration::from_secs(2)))
        );
        assert_eq!(found.layer.get("replica_log_max"), Some(&setting::Value::Size(2 << 20)));
    }

    #[test]
    fn each_bad_option_is_named() {
        for (text, refusal) in [
            ("", "no valid JSON: "),
            ("[]", "'[]' is no JSON object; allowed: settings by name"),
            (r#"{"default_vfs":"maybe"}"#, "default_vfs='maybe' is neither yes nor no; allowed: true, false"),
            (r#"{"interval":"1s"}"#, "interval='1s' is no setting; allowed: default_vfs, replica, replica2"),
            (r#"{"replica":"file:///b"}"#, "replica belongs in the second argument, not in the options"),
        ] {
            let found = options(text).unwrap_err().to_string();
            assert!(found.starts_with(refusal), "{text}: {found}");
        }
    }
}
