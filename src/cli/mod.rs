//! The program `sqlitereplicate`: the verbs for people. It parses words, asks the engines, prints answers.
//!
//! ```text
//! words --clap--> one of the verbs, a file each --engines--> Answer --> stdout: a text for people, or one JSON value
//!                     |                                                 stderr: why it failed, notices, progress
//! ```
//!
//! Exit codes: 0 done, 1 failed (the reason on stderr), 2 the command was not understood, 3 what was examined is damaged,
//! 4 stopped before everything was in the replica. With `--json` stdout is always one JSON value: of a failure it is
//! `{"error": ..., "kind": ...}`.

mod arguments;
mod compact;
mod completion;
mod delete;
mod doctor;
mod export;
mod feed;
mod import;
mod info;
mod list;
mod progress;
mod replicate;
mod restore;
mod show;
mod terminal;
mod verify;

use crate::error::{Error, Kind, Result};
use clap::error::ErrorKind as Clap;
use clap::{Parser, Subcommand};
use serde_json::json;
use std::ffi::OsString;
use terminal::Terminal;

const FAILED: u8 = 1;
const USAGE: u8 = 2;
/// What was examined is not whole.
const DAMAGED: u8 = 3;
/// What was to be left in the replica is not there.
const INCOMPLETE: u8 = 4;

/// Restores, examines and feeds replicas of SQLite databases.
#[derive(Debug, Parser)]
#[command(
    name = "sqlitereplicate",
    version,
    arg_required_else_help = false,
    subcommand_required = true,
    disable_help_subcommand = false,
    max_term_width = 110,
    after_help = "\
URL is file:///absolute/folder, or s3://bucket/prefix with what the standard AWS_* variables and files say, and more behind a \
question mark: ?endpoint=http://127.0.0.1:9000&region=eu-west-1.

Each verb has its own help with an example: sqlitereplicate restore --help

Exit codes: 0 done, 1 failed, 2 usage, 3 damaged, 4 stopped before everything was in the replica."
)]
struct Program {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Restore(restore::Restore),
    List(list::List),
    Info(info::Info),
    Verify(verify::Verify),
    Compact(compact::Compact),
    Snapshot(compact::Snapshot),
    Doctor(doctor::Doctor),
    Export(export::Export),
    Import(import::Import),
    Replicate(replicate::Replicate),
    Delete(delete::Delete),
    Completion(completion::Completion),
}

impl Verb {
    fn run(&self, terminal: &mut Terminal<'_>) -> Result<Answer> {
        match self {
            Verb::Restore(verb) => verb.run(terminal),
            Verb::List(verb) => verb.run(),
            Verb::Info(verb) => verb.run(),
            Verb::Verify(verb) => verb.run(terminal),
            Verb::Compact(verb) => verb.run(),
            Verb::Snapshot(verb) => verb.run(terminal),
            Verb::Doctor(verb) => verb.run(),
            Verb::Export(verb) => verb.run(terminal),
            Verb::Import(verb) => verb.run(terminal),
            Verb::Replicate(verb) => verb.run(terminal),
            Verb::Delete(verb) => verb.run(terminal),
            Verb::Completion(verb) => verb.run(),
        }
    }

    /// An answer for programs is wanted.
    fn json(&self) -> bool {
        match self {
            Verb::Restore(verb) => verb.output.json,
            Verb::List(verb) => verb.output.json,
            Verb::Info(verb) => verb.output.json,
            Verb::Verify(verb) => verb.output.json,
            Verb::Compact(verb) => verb.output.json,
            Verb::Snapshot(verb) => verb.output.json,
            Verb::Doctor(verb) => verb.output.json,
            Verb::Export(verb) => verb.output.json,
            Verb::Import(verb) => verb.output.json,
            Verb::Replicate(verb) => verb.output.json,
            Verb::Delete(verb) => verb.output.json,
            Verb::Completion(_) => false,
        }
    }
}

/// What to print, and why it is a failure all the same.
struct Answer {
    text: String,
    failure: Option<(u8, Error)>,
}

impl Answer {
    /// One JSON value, or what people read.
    fn new(json: bool, value: serde_json::Value, text: impl FnOnce() -> String) -> Answer {
        if json { format!("{value}\n").into() } else { text().into() }
    }

    fn failing(self, code: u8, error: Error) -> Answer {
        Answer { failure: Some((code, error)), ..self }
    }
}

impl From<String> for Answer {
    fn from(text: String) -> Answer {
        Answer { text, failure: None }
    }
}

/// Runs the program with the words after its name; returns the exit code.
pub fn main(words: impl Iterator<Item = OsString>) -> u8 {
    let (out, err) = (std::io::stdout(), std::io::stderr());
    Terminal::with_standard(out, err, |terminal| run(words, terminal))
}

fn run(words: impl Iterator<Item = OsString>, terminal: &mut Terminal<'_>) -> u8 {
    let words = std::iter::once(OsString::from("sqlitereplicate")).chain(words);
    let verb = match Program::try_parse_from(words) {
        Ok(program) => program.verb,
        Err(error) if matches!(error.kind(), Clap::DisplayHelp | Clap::DisplayVersion) => {
            return finish(terminal.print(&error.to_string()), false, terminal);
        }
        Err(error) => {
            let text = error.to_string();
            terminal.complain(text.strip_prefix("error: ").unwrap_or(&text).trim_end());
            return USAGE;
        }
    };
    match verb.run(terminal) {
        Err(error) => finish(Err(error), verb.json(), terminal),
        Ok(answer) => {
            let printed = terminal.print(&answer.text);
            match (printed, answer.failure) {
                (Ok(()), Some((code, error))) => {
                    terminal.complain(&error.to_string());
                    code
                }
                (printed, _) => finish(printed, false, terminal),
            }
        }
    }
}

fn finish(done: Result<()>, json: bool, terminal: &mut Terminal<'_>) -> u8 {
    let Err(error) = done else { return 0 };
    if json {
        let value = json!({"error": error.to_string(), "kind": kind_name(error.kind())});
        // The sentence on stderr says it too.
        let _ = terminal.print(&format!("{value}\n"));
    }
    terminal.complain(&error.to_string());
    FAILED
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Busy => "busy",
        Kind::NotFound => "not_found",
        Kind::Exists => "exists",
        Kind::Gap => "gap",
        Kind::Conflict => "conflict",
        Kind::Fenced => "fenced",
        Kind::Corrupt => "corrupt",
        Kind::Invalid => "invalid",
        Kind::Full => "full",
        Kind::Io => "io",
    }
}

#[cfg(test)]
mod tests;
