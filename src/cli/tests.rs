//! The program as a shell calls it: words in, exit code and what was printed out.

use std::io::Cursor;

use super::*;
use crate::ltx::sample::{file, header};
use crate::replica::FileReplica;
use crate::replica::{Client, layout};
use crate::testing::Folder;
use crate::types::Level;
use clap::CommandFactory;

fn call(words: &[&str]) -> (u8, String, String) {
    answering("", words)
}

/// The same with somebody who types.
fn answering(typed: &str, words: &[&str]) -> (u8, String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut input = typed.as_bytes();
    let mut terminal = Terminal::of_test(&mut input, &mut out, &mut err);
    let code = run(words.iter().map(OsString::from), &mut terminal);
    (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

/// A replica of two txids, its URL and a path for the output.
fn replica(folder: &Folder) -> (FileReplica, String, String) {
    let replica = FileReplica::at_or_create(folder.path().join("r")).unwrap();
    let url = replica.url().to_owned();
    for txid in 1..=2 {
        let header = header(txid, txid, 512, 1);
        let bytes = file(header, &[(1, vec![txid as u8; 512])]);
        replica
            .create(Level::CAPTURED, header.range, header.timestamp, &mut Cursor::new(&bytes[..]))
            .unwrap();
    }
    (replica, url, folder.path().join("out.db").display().to_string())
}

#[test]
fn the_parser_is_made_of_whole_cloth() {
    Program::command().debug_assert();
}

#[test]
fn every_verb_explains_itself_with_an_example() {
    let (code, out, err) = call(&["--help"]);
    assert_eq!((code, err.as_str()), (0, ""));
    for verb in Program::command().get_subcommands() {
        let name = verb.get_name();
        assert!(out.contains(&format!("  {name} ")), "{name} is missing in {out}");
        let (code, help, _) = call(&[name, "--help"]);
        assert_eq!(code, 0, "{name}");
        assert!(help.contains("Example") && help.contains(&format!("sqlitereplicate {name} ")), "{help}");
    }
    let (code, out, _) = call(&["--version"]);
    assert_eq!((code, out), (0, format!("sqlitereplicate {}\n", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn a_command_not_understood_exits_2_and_says_what_was_not() {
    for (words, reason) in [
        (&[][..], "requires a subcommand"),
        (&["restor"], "unrecognized subcommand 'restor'"),
        (&["restore", "file:///x"], "<PATH>"),
        (&["restore", "file:///x", "a", "b"], "unexpected argument 'b'"),
        (&["restore", "-o", "a", "file:///x", "b"], "cannot be used with"),
        (&["restore", "--txid", "b", "file:///x", "a"], "\"b\" is no txid"),
        (&["restore", "--txid", "1", "--timestamp", "1h ago", "file:///x", "a"], "cannot be used with"),
        (&["restore", "--timestamp", "soon", "file:///x", "a"], "\"soon\" is no time"),
        (&["restore", "--parallelism", "0", "file:///x", "a"], "invalid value '0'"),
        (&["list", "--txid", "1", "file:///x"], "unexpected argument '--txid'"),
        (&["list", "--json=yes", "file:///x"], "unexpected value 'yes'"),
        (&["list", "--points", "--databases", "file:///x"], "cannot be used with"),
        (&["doctor"], "<URL>"),
        (&["replicate", "a.db"], "<URL>"),
        (&["completion", "cmd"], "invalid value 'cmd'"),
    ] {
        let (code, out, err) = call(words);
        assert_eq!((code, out.as_str()), (2, ""), "{words:?}");
        assert!(err.starts_with("sqlitereplicate: ") && err.contains("--help"), "{err}");
        assert!(err.contains(reason), "{words:?}: {err}");
    }
}

#[test]
fn options_stand_anywhere() {
    let folder = Folder::new();
    let (_, url, path) = replica(&folder);
    for words in [
        &["restore", "--txid", "1", "--json", &url, &path][..],
        &["restore", &url, "--txid=1", &path, "--json"],
        &["restore", &url, "--txid=0000000000000001", "-o", &path, "--json"],
        &["restore", "--json", "--txid=1", &url, "--", &path],
    ] {
        let (code, out, err) = call(words);
        assert_eq!((code, err.as_str()), (0, ""), "{words:?}");
        let value: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(value["txid"], json!(1), "{words:?}");
        std::fs::remove_file(&path).unwrap();
    }
}

#[test]
fn restore_writes_the_state_and_says_what_it_did() {
    let folder = Folder::new();
    let (_, url, path) = replica(&folder);
    let (code, out, err) = call(&["restore", "--txid", "0000000000000001", &url, &path]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.contains("to txid 1 (0000000000000001) of 2023-11-14T22:13:20.001Z"), "{out}");
    assert_eq!(std::fs::read(&path).unwrap(), [1; 512]);
    std::fs::remove_file(&path).unwrap();
    let (code, out, _) = call(&["restore", "--json", &url, &path]);
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &value["txid"], &value["proven"]), (0, &json!(2), &json!(false)));
    assert_eq!(std::fs::read(&path).unwrap(), [2; 512]);
    let (code, out, err) = call(&["restore", &url, &path]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.contains("it exists; remove it"), "{err}");
}

#[test]
fn list_shows_every_file_and_marks_damage() {
    let folder = Folder::new();
    let (replica, url, _) = replica(&folder);
    let range = replica.list(Level::CAPTURED).unwrap()[1].range;
    std::fs::write(layout::path(replica.root(), Level::CAPTURED, range), b"LTX1").unwrap();
    let (code, out, _) = call(&["list", &url]);
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!((code, lines.len()), (0, 3), "{out}");
    assert!(lines[0].starts_with("level  min_txid"), "{out}");
    assert!(lines[1].contains("2023-11-14T22:13:20.001Z") && lines[1].ends_with("no"), "{out}");
    assert!(lines[2].ends_with("damaged"), "{out}");
    let (_, out, _) = call(&["list", "--json", &url]);
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(value[0]["min_txid"], json!(1));
    assert_eq!(value[1]["proof"], json!("damaged"));
}

#[test]
fn a_missing_replica_and_another_scheme_exit_1() {
    let (code, _, err) = call(&["list", "file:///nonexistent/replica"]);
    assert_eq!(code, 1);
    assert!(err.contains("cannot find the replica folder /nonexistent/replica"), "{err}");
    let (code, _, err) = call(&["list", "ftp://x/y"]);
    assert_eq!(code, 1);
    assert!(err.contains("replica URL 'ftp://x/y' has an unsupported scheme"), "{err}");
}

#[test]
fn with_json_a_failure_is_one_too() {
    let (code, out, err) = call(&["list", "--json", "file:///nonexistent/replica"]);
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &value["kind"]), (1, &json!("not_found")));
    assert!(err.contains(value["error"].as_str().unwrap()), "{err}");
}

#[test]
fn a_time_is_understood_and_what_is_not_plain_is_said() {
    let folder = Folder::new();
    let (_, url, path) = replica(&folder);
    let (code, out, err) = call(&["restore", "--timestamp", "2023-11-14T22:13:20.001", &url, &path]);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("to txid 1 "), "{out}");
    assert!(err.contains("notice: 2023-11-14T22:13:20.001 has no time zone"), "{err}");
    std::fs::remove_file(&path).unwrap();
    let (code, out, err) = call(&["restore", "--json", "--timestamp", "1 second ago", &url, &path]);
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &value["txid"]), (0, &json!(2)));
    assert!(value["notice"].as_str().unwrap().contains("is later than the newest state"), "{value}");
    assert!(err.contains("is later than the newest state"), "{err}");
}

#[test]
fn a_dry_run_shows_the_plan_and_writes_nothing() {
    let folder = Folder::new();
    let (_, url, path) = replica(&folder);
    let before = folder.files();
    let (code, out, err) = call(&["restore", "--dry-run", "--txid", "1", &url, &path]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.contains("would restore txid 1 (0000000000000001) from 1 files"), "{out}");
    let (_, out, _) = call(&["restore", "--dry-run", "--json", &url]);
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((value["txid"].as_u64(), value["files"].as_array().map(Vec::len)), (Some(2), Some(2)));
    let (code, _, err) = call(&["restore", "--dry-run", "--txid", "3", &url]);
    assert_eq!(code, 1);
    assert!(err.contains("whose newest is 0000000000000002"), "{err}");
    assert_eq!(folder.files(), before);
}

#[test]
fn what_is_not_there_may_be_allowed_not_to_be() {
    let folder = Folder::new();
    let (_, url, path) = replica(&folder);
    let missing = format!("{url}/none");
    let words = ["restore", "--if-replica-exists", "--json", &missing, &path];
    assert_eq!(call(&words), (0, "{\"txid\":null}\n".to_owned(), String::new()));
    assert!(!std::path::Path::new(&path).exists());
    let (code, _, err) = call(&["restore", "--if-replica-exists", "--txid", "7", &url, &path]);
    assert_eq!(code, 1, "a replica is there, only that txid is not: {err}");
}

#[test]
fn points_and_replicas_are_listed() {
    let folder = Folder::new();
    let (replica, url, _) = replica(&folder);
    let (_, out, _) = call(&["list", "--points", "--json", &url]);
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(value.as_array().unwrap().len(), 2);
    let bytes = replica.list_all().unwrap()[0].size;
    let first = json!({
        "txid": 1,
        "timestamp": "2023-11-14T22:13:20.001Z",
        "level": 0,
        "snapshot_txid": null,
        "bytes": bytes,
    });
    assert_eq!(value[0], first);
    let (_, out, _) = call(&["list", "--points", &url]);
    assert!(out.starts_with("txid  hex") && out.lines().count() == 3, "{out}");
    assert!(out.lines().nth(1).is_some_and(|line| line.ends_with(&format!(" {bytes} B"))), "{out}");
    let above = url.strip_suffix("/r").unwrap();
    let (_, out, err) = call(&["list", "--databases", "--json", above]);
    assert_eq!(err, "");
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&value[0]["url"], &value[0]["txid"]), (&json!(url), &json!(2)), "{value}");
}

#[test]
fn info_says_where_the_history_ends_and_begins() {
    let folder = Folder::new();
    let (replica, url, _) = replica(&folder);
    let (code, out, _) = call(&["info", "--json", &url]);
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(code, 0);
    for (key, expected) in [
        ("txid", json!(2)),
        ("first_txid", json!(1)),
        ("first_timestamp", json!("2023-11-14T22:13:20.001Z")),
        ("page_size", json!(512)),
        ("restore_points", json!(2)),
        ("newest_is_restorable", json!(true)),
    ] {
        assert_eq!(value[key], expected, "{key}");
    }
    replica.delete(&replica.list_all().unwrap()[0]).unwrap();
    let (_, out, _) = call(&["info", &url]);
    assert!(out.contains("CANNOT BE RESTORED") && out.contains("nothing can be restored"), "{out}");
}

#[test]
fn export_gives_the_bytes_on_stdout_or_a_file() {
    let folder = Folder::new();
    let (_, url, path) = replica(&folder);
    let (mut out, mut err, mut input) = (Vec::new(), Vec::new(), &b""[..]);
    let words = ["export", "--txid", "1", &url];
    let code = run(words.iter().map(OsString::from), &mut Terminal::of_test(&mut input, &mut out, &mut err));
    assert_eq!((code, out, err), (0, vec![1; 512], vec![]));
    let (code, out, _) = call(&["export", "--json", "-o", &path, &url]);
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &value["bytes"]), (0, &json!(512)));
    assert_eq!(std::fs::read(&path).unwrap(), [2; 512]);
    let (code, _, err) = call(&["export", "--json", &url]);
    assert_eq!(code, 1);
    assert!(err.contains("name a file with -o PATH"), "{err}");
}

#[test]
fn delete_wants_the_name() {
    let folder = Folder::new();
    let (replica, url, _) = replica(&folder);
    for (typed, reason) in
        [("", "nobody typed the name"), ("yes\n", "\"yes\" is not the name of the replica, \"r\"")]
    {
        let (code, out, err) = answering(typed, &["delete", &url]);
        assert_eq!((code, out.as_str()), (1, ""));
        assert!(err.contains("deletes 2 files") && err.contains(reason), "{err}");
        assert_eq!(replica.list_all().unwrap().len(), 2);
    }
    std::fs::write(folder.path().join("r/README"), "mine").unwrap();
    let (code, out, _) = answering("r\n", &["delete", &url]);
    assert_eq!(code, 0);
    assert!(out.starts_with("deleted 2 files of file://"), "{out}");
    assert_eq!(folder.files(), ["r/README"], "what is not ours stays");
    let (code, _, err) = call(&["delete", "--yes", &url]);
    assert_eq!(code, 1);
    assert!(err.contains("holds no LTX files"), "{err}");
}

#[test]
fn verify_finds_damage_and_says_so_by_its_code() {
    let folder = Folder::new();
    let (replica, url, _) = replica(&folder);
    let (code, out, err) = call(&["verify", "--json", &url]);
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &value["ok"]), (0, &json!(true)), "{err}");
    let range = replica.list(Level::CAPTURED).unwrap()[1].range;
    std::fs::write(layout::path(replica.root(), Level::CAPTURED, range), b"LTX1").unwrap();
    let (code, out, err) = call(&["verify", "--json", &url]);
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &value["ok"]), (3, &json!(false)));
    assert_eq!(value["findings"][0]["trouble"], json!("damage"));
    assert!(err.starts_with("sqlitereplicate: "), "{err}");
}

#[test]
fn completion_knows_the_verbs() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let (code, out, _) = call(&["completion", shell]);
        assert_eq!(code, 0);
        assert!(out.contains("restore") && out.contains("if-replica-exists"), "{shell}");
    }
}
