//! The sources against each other.

use super::*;
use crate::lease::Terms;
use crate::upkeep::{Levels, Policy};

fn config(variables: &[(&str, &str)]) -> Config {
    Config::from_variables(variables.iter().map(|(k, v)| (OsString::from(k), OsString::from(v))))
}

fn resolve(config: &Config, path: &str, uri: &[(&str, &str)], opened_as: OpenedAs) -> Result<Decision> {
    config.resolve(Path::new(path), &mut uri.iter().map(|(k, v)| (k.as_bytes(), v.as_bytes())), opened_as)
}

/// The settings of an open that must replicate.
fn settings(config: &Config, path: &str, uri: &[(&str, &str)]) -> Settings {
    match resolve(config, path, uri, OpenedAs::Explicit).unwrap() {
        Decision::Replicate(settings) => *settings,
        other => panic!("{other:?}"),
    }
}

fn refusal(config: &Config, path: &str, uri: &[(&str, &str)]) -> String {
    resolve(config, path, uri, OpenedAs::Explicit).unwrap_err().to_string()
}

/// A config file with this text, gone when dropped.
struct ConfigFile(PathBuf);

impl ConfigFile {
    fn new(name: &str, text: &str) -> ConfigFile {
        let path = std::env::temp_dir().join(format!("sqlitereplicate-{name}-{}.json", std::process::id()));
        std::fs::write(&path, text).unwrap();
        ConfigFile(path)
    }

    fn config(&self, more: &[(&str, &str)]) -> Config {
        let mut variables = vec![("SQLITEREPLICATE_CONFIG", self.0.to_str().unwrap())];
        variables.extend_from_slice(more);
        config(&variables)
    }
}

impl Drop for ConfigFile {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).unwrap();
    }
}

#[test]
fn a_uri_is_enough_and_the_rest_is_default() {
    let found = settings(
        &config(&[]),
        "/no/app.db",
        &[("vfs", "replvfs"), ("replica", "file:///b/app/"), ("cache", "shared")],
    );
    assert_eq!(
        found,
        Settings {
            database: "/no/app.db".into(),
            replicas: vec![ReplicaUrl::File("/b/app".into())],
            store: Options::default(),
            durability: Durability::Async,
            sync_timeout: std::time::Duration::from_secs(30),
            interval: std::time::Duration::from_millis(10),
            open_timeout: std::time::Duration::from_secs(2),
            flush_timeout: std::time::Duration::from_secs(5),
            levels: Levels {
                merged: [30, 300, 3600].map(|s| Some(std::time::Duration::from_secs(s))),
                snapshot: std::time::Duration::from_secs(86_400),
            },
            retention: Policy {
                l0: std::time::Duration::from_secs(300),
                window: std::time::Duration::from_secs(86_400),
            },
            verify_interval: None,
            if_missing: IfMissing::Refuse,
            on_behind: OnBehind::Auto,
            on_conflict: OnConflict::Halt,
            wal_reset_guard: WalResetGuard::Auto,
            lease: LeaseSettings { used: LeaseUse::Off, terms: Terms::default(), owner: None, url: None },
            log: "/no/app.db-replica".into(),
            log_bytes_max: 1 << 30,
            from_environment: false,
        }
    );
}

#[test]
fn every_setting_arrives() {
    let uri = [
        ("replica", "file:///a"),
        ("replica2", "file:///b"),
        ("replica3", "file:///c"),
        ("replica_interval", "0"),
        ("replica_sync_timeout", "7"),
        ("replica_open_timeout", "100ms"),
        ("replica_flush_timeout", "1m"),
        ("replica_if_missing", "continue"),
        ("replica_on_conflict", "rejoin"),
        ("replica_log", "/log/x"),
        ("replica_log_max", "64MiB"),
        ("replica_durability", "commit"),
        ("replica_levels", "off,10s,1h"),
        ("replica_snapshot_interval", "6h"),
        ("replica_l0_retention", "2m"),
        ("replica_retention", "0"),
    ];
    let found = settings(&config(&[]), "/no/app.db", &uri);
    assert_eq!(
        found.replicas.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["file:///a", "file:///b", "file:///c"]
    );
    assert_eq!(
        [found.interval, found.sync_timeout, found.open_timeout, found.flush_timeout].map(|d| d.as_millis()),
        [0, 7000, 100, 60000]
    );
    assert_eq!((found.if_missing, found.log_bytes_max), (IfMissing::Continue, 64 << 20));
    assert_eq!(found.durability, Durability::Commit);
    let seconds = |s| std::time::Duration::from_secs(s);
    let merged = [None, Some(seconds(10)), Some(seconds(3600))];
    assert_eq!(found.levels, Levels { merged, snapshot: seconds(6 * 3600) });
    assert_eq!(found.retention, Policy { l0: seconds(120), window: seconds(0) });
    assert_eq!(found.log, Path::new("/log/x"));
}

#[test]
fn a_lease_is_used_as_it_is_said() {
    let given = |more: &[(&str, &str)]| {
        let uri = [&[("replica", "file:///a")], more].concat();
        match resolve(&config(&[]), "/no/app.db", &uri, OpenedAs::Explicit) {
            Ok(Decision::Replicate(settings)) => Ok(settings.lease),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.to_string()),
        }
    };
    let found = given(&[
        ("replica_lease", "auto"),
        ("replica_lease_ttl", "5s"),
        ("replica_lease_owner", "web-1"),
        ("replica_lease_url", "http://web-1"),
    ]);
    let terms = Terms::new(std::time::Duration::from_secs(5)).unwrap();
    let (owner, url) = (Some("web-1".into()), Some("http://web-1".into()));
    assert_eq!(found, Ok(LeaseSettings { used: LeaseUse::Auto, terms, owner, url }));
    assert_eq!(given(&[("replica_lease", "required")]).map(|l| l.used), Ok(LeaseUse::Required));
    let primary = ("replica_lease_primary", "web-1");
    let fixed = given(&[("replica_lease", "static"), primary]).map(|l| l.used);
    assert_eq!(fixed, Ok(LeaseUse::Static { primary: "web-1".into() }));
    assert!(given(&[("replica_lease", "static")]).unwrap_err().contains("needs replica_lease_primary"));
    assert!(given(&[("replica_lease", "auto"), primary]).unwrap_err().contains("only replica_lease=static"));
    assert!(given(&[("replica_lease_ttl", "2s")]).unwrap_err().contains("3s to 24h"));
}

#[test]
fn a_bucket_collects_longer_and_its_settings_arrive() {
    let uri = [
        ("replica", "s3://bucket/app?region=own"),
        ("replica_region", "other"),
        ("replica_endpoint", "http://h"),
        ("replica_part_size", "8MiB"),
        ("replica_sse", "AES256"),
    ];
    let found = settings(&config(&[]), "/no/app.db", &uri);
    assert_eq!(found.interval, std::time::Duration::from_secs(1));
    assert_eq!((found.store.endpoint.as_deref(), found.store.part_bytes), (Some("http://h"), Some(8 << 20)));
    let ReplicaUrl::Bucket(place, own) = &found.replicas[0] else { panic!("{found:?}") };
    let merged = own.clone().or(&found.store);
    assert_eq!((merged.region.as_deref(), merged.sse.as_deref()), (Some("own"), Some("AES256")));
    assert_eq!(place.to_string(), "s3://bucket/app");
}

#[test]
fn one_name_in_two_stores_is_two_places() {
    let config = config(&[]);
    let open = |path: &str, endpoint: &str| {
        let uri = [("replica", "s3://bucket/app"), ("replica_endpoint", endpoint)];
        config.claim(&settings(&config, path, &uri))
    };
    let _first = open("/no/a.db", "http://one").unwrap();
    let text = open("/no/b.db", "http://one").unwrap_err().to_string();
    assert!(text.starts_with("s3://bucket/app at http://one is already the replica"), "{text}");
    assert!(open("/no/b.db", "http://two").is_ok());
}

#[test]
fn each_bad_uri_is_refused_with_its_text() {
    let config = config(&[]);
    let names = setting::names();
    for (uri, text) in [
        (("replica_intervall", "1s"), format!("replica_intervall='1s' is no setting; allowed: {names}")),
        (("replica4", "file:///b"), format!("replica4='file:///b' is no setting; allowed: {names}")),
        (("Replica", "file:///b"), format!("Replica='file:///b' is no setting; allowed: {names}")),
        (
            ("replica", "s3://bucket"),
            "replica='s3://bucket' needs a prefix behind the bucket: what lies at the top is hard to share; allowed: \
             file:///absolute/folder or s3://bucket/prefix, or none"
                .into(),
        ),
        (
            ("endpoint", "http://h"),
            "endpoint='http://h' is a parameter of its own here, because a URI is cut at each &; write replica_endpoint instead"
                .into(),
        ),
        (
            ("region", "eu"),
            "region='eu' is a parameter of its own here, because a URI is cut at each &; write replica_region instead".into(),
        ),
        (
            ("forcePathStyle", "1"),
            "forcePathStyle='1' is a parameter of its own here, because a URI is cut at each &; write replica_path_style instead"
                .into(),
        ),
    ] {
        assert_eq!(refusal(&config, "/no/app.db", &[uri]), text);
    }
    assert_eq!(
        refusal(&config, "/no/app.db", &[("replica", "file:///b"), ("replica2", "file:///b/")]),
        "replica2='file:///b' is there already; give each copy its own folder"
    );
}

#[test]
fn without_a_replica_the_named_vfs_is_refused_and_the_default_passes() {
    let config = config(&[]);
    assert!(matches!(resolve(&config, "/no/a.db", &[], OpenedAs::Explicit), Ok(Decision::Unconfigured)));
    assert!(matches!(
        resolve(&config, "/no/a.db", &[("region", "x")], OpenedAs::Default),
        Ok(Decision::PassThrough)
    ));
    let half = [("replica_interval", "1s")];
    assert!(matches!(resolve(&config, "/no/a.db", &half, OpenedAs::Default), Ok(Decision::Unconfigured)));
    assert!(
        Config::unconfigured(Path::new("/no/a.db"))
            .to_string()
            .starts_with("no replica is given for /no/a.db; add ")
    );
}

#[test]
fn none_passes_through_whatever_weaker_sources_say() {
    let broken = config(&[("SQLITEREPLICATE_URL", "file:///b"), ("SQLITEREPLICATE_BOGUS", "1")]);
    let none = [("replica", "none")];
    assert!(matches!(resolve(&broken, "/no/a.db", &none, OpenedAs::Explicit), Ok(Decision::PassThrough)));
    let config = config(&[]);
    config.configure(b"/no/a.db", b"none", None).unwrap();
    assert!(matches!(resolve(&config, "/no/a.db", &[], OpenedAs::Explicit), Ok(Decision::PassThrough)));
}

#[test]
fn a_stronger_source_wins_setting_by_setting() {
    let file = ConfigFile::new(
        "order",
        r#"[{"path": "/no/app.db", "replica": "file:///file", "replica_interval": "3s", "replica_log_max": "3MiB"}]"#,
    );
    let config = file.config(&[
        ("SQLITEREPLICATE_URL", "file:///environment"),
        ("SQLITEREPLICATE_DATABASE", "/no/app.db"),
        ("SQLITEREPLICATE_INTERVAL", "4s"),
        ("SQLITEREPLICATE_LOG_MAX", "4MiB"),
        ("SQLITEREPLICATE_FLUSH_TIMEOUT", "4s"),
    ]);
    let summary = |found: Settings| {
        (
            found.replicas[0].to_string(),
            found.interval.as_secs(),
            found.log_bytes_max >> 20,
            found.flush_timeout.as_secs(),
        )
    };
    assert_eq!(summary(settings(&config, "/no/app.db", &[])), ("file:///file".into(), 3, 3, 4));
    config.configure(b"/no/app.db", b"file:///configured", Some(r#"{"replica_interval": "2s"}"#)).unwrap();
    assert_eq!(summary(settings(&config, "/no/app.db", &[])), ("file:///configured".into(), 2, 3, 4));
    let uri = [("replica_interval", "1s")];
    assert_eq!(summary(settings(&config, "/no/app.db", &uri)), ("file:///configured".into(), 1, 3, 4));
    let other = [("replica", "file:///uri")];
    assert_eq!(summary(settings(&config, "/no/other.db", &other)), ("file:///uri".into(), 4, 4, 4));
}

#[test]
fn the_first_rule_that_matches_decides() {
    let file = ConfigFile::new(
        "first",
        r#"{"path": "/no/special.db", "replica": "none"}
           {"path": "/no/*.db", "replica": "file:///b/{name}"}
           {"path": "/no/deep/*/?.db", "replica": "file:///b/{path}"}"#,
    );
    let config = file.config(&[]);
    assert!(matches!(resolve(&config, "/no/special.db", &[], OpenedAs::Default), Ok(Decision::PassThrough)));
    for (path, url) in [("/no/x.db", "file:///b/x.db"), ("/no/deep/a/b.db", "file:///b/no/deep/a/b.db")] {
        assert_eq!(settings(&config, path, &[]).replicas[0].to_string(), url);
    }
    assert!(matches!(resolve(&config, "/no/x.sqlite", &[], OpenedAs::Default), Ok(Decision::PassThrough)));
}

#[test]
fn each_bad_variable_fails_the_opens_with_its_text() {
    let durations = "written like 10ms, 5s, 5m, 24h";
    for (name, value, text) in [
        (
            "SQLITEREPLICATE_INTERVAL",
            "fast",
            format!("SQLITEREPLICATE_INTERVAL='fast' is not an allowed duration; allowed: 0 to 1h, {durations}"),
        ),
        (
            "SQLITEREPLICATE_URL",
            "",
            "SQLITEREPLICATE_URL='' is empty; allowed: file:///absolute/folder or s3://bucket/prefix, or none".into(),
        ),
        (
            "SQLITEREPLICATE_REPLICA",
            "x",
            format!(
                "SQLITEREPLICATE_REPLICA='x' is no setting; allowed behind SQLITEREPLICATE_: CONFIG, DATABASE, DEFAULT_VFS, {}",
                setting::environment_names()
            ),
        ),
        (
            "SQLITEREPLICATE_DEFAULT_VFS",
            "on",
            "SQLITEREPLICATE_DEFAULT_VFS='on' is neither yes nor no; allowed: 1, true, 0, false".into(),
        ),
        (
            "SQLITEREPLICATE_DATABASE",
            "/no/a.db",
            "SQLITEREPLICATE_DATABASE is set without SQLITEREPLICATE_URL; set both or none".into(),
        ),
        (
            "SQLITEREPLICATE_CONFIG",
            "/no/such/file",
            "SQLITEREPLICATE_CONFIG='/no/such/file': cannot read /no/such/file: No such file or directory (os error 2)".into(),
        ),
    ] {
        let config = config(&[(name, value), ("OTHER_VARIABLE", "is not ours"), ("SQLITEREPLICATE_TEST_X", "is a seam")]);
        assert_eq!(refusal(&config, "/no/a.db", &[("replica", "file:///b")]), text);
        assert!(resolve(&config, "/no/a.db", &[], OpenedAs::Default).is_err(), "{name}");
    }
    assert!(config(&[("SQLITEREPLICATE_DEFAULT_VFS", "on")]).default_vfs(), "malformed: fails closed");
    assert!(config(&[("SQLITEREPLICATE_DEFAULT_VFS", "1")]).default_vfs());
    assert!(!config(&[("SQLITEREPLICATE_DEFAULT_VFS", "0")]).default_vfs());
}

#[test]
fn a_bad_config_file_fails_the_opens_and_names_the_rule() {
    let file = ConfigFile::new("bad", r#"[{"path": "/no/a.db", "replica_interval": "fast"}]"#);
    let text = refusal(&file.config(&[]), "/no/a.db", &[("replica", "file:///b")]);
    assert!(text.contains(": rule 1: replica_interval='fast' is not an allowed duration"), "{text}");
}

#[test]
fn the_environment_replica_goes_to_the_named_database_only() {
    let config = config(&[("SQLITEREPLICATE_URL", "file:///b"), ("SQLITEREPLICATE_DATABASE", "/no/a.db")]);
    assert_eq!(settings(&config, "/no/a.db", &[]).replicas[0].to_string(), "file:///b");
    assert!(matches!(resolve(&config, "/no/b.db", &[], OpenedAs::Explicit), Ok(Decision::Unconfigured)));
    assert!(matches!(resolve(&config, "/no/a.db", &[], OpenedAs::Default), Ok(Decision::Replicate(_))));
    assert!(matches!(resolve(&config, "/no/b.db", &[], OpenedAs::Default), Ok(Decision::PassThrough)));
}

#[test]
fn the_environment_replica_without_a_name_goes_to_the_first_that_claims_it() {
    let config = config(&[("SQLITEREPLICATE_URL", "file:///b")]);
    let text = resolve(&config, "/no/a.db", &[], OpenedAs::Default).unwrap_err().to_string();
    assert!(text.ends_with("set SQLITEREPLICATE_DATABASE=/absolute/path"), "{text}");
    let own = settings(&config, "/no/own.db", &[("replica", "file:///own")]);
    drop(config.claim(&own).unwrap());
    let (first, late) = (settings(&config, "/no/a.db", &[]), settings(&config, "/no/late.db", &[]));
    drop(config.claim(&first).unwrap());
    let taken =
        "SQLITEREPLICATE_URL was taken by /no/a.db, the first database opened, and is not shared with ";
    assert!(config.claim(&late).unwrap_err().to_string().starts_with(taken));
    assert!(refusal(&config, "/no/b.db", &[]).starts_with(taken));
    assert_eq!(settings(&config, "/no/a.db", &[]), first, "the same file again");
    assert!(matches!(resolve(&config, "/no/b.db", &[], OpenedAs::Default), Ok(Decision::PassThrough)));
    assert!(matches!(resolve(&config, "/no/a.db", &[], OpenedAs::Default), Ok(Decision::Replicate(_))));
}

#[test]
fn two_databases_never_share_a_replica_or_a_log() {
    let config = config(&[]);
    let first = settings(&config, "/no/a.db", &[("replica", "file:///b"), ("replica2", "file:///c")]);
    let claim = config.claim(&first).unwrap();
    for uri in [
        &[("replica", "file:///c")][..],
        &[("replica", "file:///d"), ("replica2", "file:///b/")],
        &[("replica", "file:///d"), ("replica_log", "/no/a.db-replica")],
    ] {
        let text = config.claim(&settings(&config, "/no/b.db", uri)).unwrap_err().to_string();
        assert!(text.contains(" of /no/a.db in this process, and /no/b.db may not share it"), "{text}");
    }
    drop(claim);
    config.claim(&settings(&config, "/no/b.db", &[("replica", "file:///b")])).unwrap();
}

#[test]
fn configure_tells_what_is_wrong_and_changes_nothing() {
    let config = config(&[]);
    assert_eq!(
        config.configure(b"/no/a.db", b"file:///b", Some(r#"{"default_vfs":true}"#)).unwrap(),
        Some(true)
    );
    for (path, url, options, text) in [
        (&b""[..], &b"file:///b"[..], None, "path='' is no path; allowed: the path of a file"),
        (b"/no/a.db", b"ftp://b", None, "replica='ftp://b' has an unsupported scheme; "),
        (b"/no/a.db", b"file:///c", Some("{}}"), "options: no valid JSON: "),
        (
            b"/no/a.db",
            b"file:///c",
            Some(r#"{"vfs":1}"#),
            "options: vfs='1' is no setting; allowed: default_vfs, replica",
        ),
    ] {
        let found = config.configure(path, url, options).unwrap_err().to_string();
        assert!(found.starts_with(text), "{found}");
    }
    assert_eq!(settings(&config, "/no/a.db", &[]).replicas[0].to_string(), "file:///b");
    config.configure(b"relative.db", b"file:///r", None).unwrap();
    let here = std::env::current_dir().unwrap().join("relative.db");
    assert_eq!(settings(&config, here.to_str().unwrap(), &[]).replicas[0].to_string(), "file:///r");
}
