//! The program `sqlitereplicate`: the verbs for people. It parses words, asks the engines, prints answers.
//!
//! Exit codes: 0 done, 1 failed (the reason on stderr), 2 the command was not understood.

mod arguments;
mod doctor;
mod list;

use crate::catalog::Target;
use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::restore::{Options, Restored, restore};
use arguments::{Arguments, Usage};
use serde_json::json;
use std::ffi::OsString;
use std::io::Write;
use std::path::Path;

const HELP: &str = "\
Restores SQLite databases from replicas of LTX files.

Usage:
  sqlitereplicate restore [--txid TXID] [--json] URL PATH
  sqlitereplicate list [--json] URL
  sqlitereplicate doctor [--json] URL
  sqlitereplicate --help | --version

restore   write the database to PATH, which must not exist: the newest state, or that after TXID
list      show every file of the replica
doctor    examine its store: what it honours, also in a race, and how fast it is; exit code 1 if it is not safe

URL is file:///absolute/folder, or s3://bucket/prefix with what the standard AWS_* variables and files
say, and more behind a question mark: ?endpoint=http://127.0.0.1:9000&region=eu-west-1.
TXID is a number, or exactly 16 hex digits.
--json prints one JSON value. Exit codes: 0 done, 1 failed, 2 usage.
";

/// Runs the program with the words after its name; returns the exit code.
pub fn main(words: impl Iterator<Item = OsString>) -> u8 {
    run(words.collect(), &mut std::io::stdout().lock(), &mut std::io::stderr().lock())
}

fn run(words: Vec<OsString>, out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    let done = match arguments::parse(words) {
        Err(Usage(reason)) => {
            // Nobody is left to tell when stderr is gone.
            let _ = writeln!(err, "sqlitereplicate: {reason}\nTry: sqlitereplicate --help");
            return 2;
        }
        Ok(arguments) => perform(&arguments).and_then(|answer| {
            print(out, &answer.text)?;
            answer.failure.map_or(Ok(()), Err)
        }),
    };
    match done {
        Ok(()) => 0,
        Err(error) => {
            let _ = writeln!(err, "sqlitereplicate: {error}");
            1
        }
    }
}

/// What to print, and why it is a failure all the same.
struct Answer {
    text: String,
    failure: Option<Error>,
}

impl From<String> for Answer {
    fn from(text: String) -> Answer {
        Answer { text, failure: None }
    }
}

/// Does what was asked.
fn perform(arguments: &Arguments) -> Result<Answer> {
    match arguments {
        Arguments::Help => Ok(HELP.to_owned().into()),
        Arguments::Version => Ok(format!("sqlitereplicate {}\n", env!("CARGO_PKG_VERSION")).into()),
        Arguments::List { url, json } => {
            list::list(&*Config::from_environment().replica(url)?, *json).map(Answer::from)
        }
        Arguments::Doctor { url, json } => doctor::doctor(url, *json),
        Arguments::Restore { url, path, target, json } => {
            restore_to(url, path, *target, *json).map(Answer::from)
        }
    }
}

fn restore_to(url: &str, path: &Path, target: Target, json: bool) -> Result<String> {
    let restored = restore(&*Config::from_environment().replica(url)?, target, path, Options::default())?;
    let Restored { position, page_size, page_count, .. } = restored;
    if json {
        let value = json!({
            "path": path.to_string_lossy(),
            "txid": position.txid.get(),
            "checksum": position.checksum.to_string(),
            "proven": restored.proven,
            "created_at": restored.timestamp.to_string(),
            "page_size": page_size.get(),
            "page_count": page_count,
            "files": restored.files,
            "bytes": restored.bytes,
        });
        return Ok(format!("{value}\n"));
    }
    let proof =
        if restored.proven { "which the replica states too" } else { "which the replica does not state" };
    Ok(format!(
        "restored {} to txid {} ({}) of {}\n{page_count} pages of {page_size} bytes from {} files, {} bytes\n\
         database checksum {}, {proof}\n",
        path.display(),
        position.txid.get(),
        position.txid,
        restored.timestamp,
        restored.files,
        restored.bytes,
        position.checksum
    ))
}

/// A reader that has seen enough (`| head`) is no failure.
fn print(out: &mut dyn Write, text: &str) -> Result<()> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::new(Kind::Io, format!("cannot write to stdout: {e}")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::ltx::sample::{file, header};
    use crate::replica::FileReplica;
    use crate::replica::{Client, layout};
    use crate::testing::Folder;
    use crate::types::Level;

    fn call(words: &[&str]) -> (u8, String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = run(words.iter().map(OsString::from).collect(), &mut out, &mut err);
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
    fn help_and_version_go_to_stdout() {
        assert_eq!(call(&["--help"]), (0, HELP.to_owned(), String::new()));
        let (code, out, _) = call(&["--version"]);
        assert_eq!((code, out), (0, format!("sqlitereplicate {}\n", env!("CARGO_PKG_VERSION"))));
    }

    #[test]
    fn a_command_not_understood_exits_2() {
        for words in [&[][..], &["restor"], &["restore", "file:///x"], &["list", "--txid", "1", "file:///x"]]
        {
            let (code, out, err) = call(words);
            assert_eq!((code, out.as_str()), (2, ""), "{words:?}");
            assert!(err.starts_with("sqlitereplicate: ") && err.contains("--help"), "{err}");
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
}
