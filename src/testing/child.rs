//! A connection in another process that never asked for replication: this very test program, started again, takes
//! statements line by line.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::ffi::engine::Engine;

/// Names the database to the child; without it the child's test does nothing.
pub const DATABASE: &str = "MODEL_CHILD_DATABASE";
/// The first bytes of each answer: the test harness prints lines of its own.
const MARK: &str = "answer ";

pub struct Process {
    child: Child,
    statements: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Process {
    pub fn start(database: &Path) -> Process {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "testing::child::another_process", "--nocapture", "--test-threads=1"])
            .env(DATABASE, database)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        Process { statements: child.stdin.take(), answers, child }
    }

    /// Runs one statement; answers what came of it, and whether a transaction is open afterwards.
    pub fn run(&mut self, sql: &str) -> (String, bool) {
        writeln!(self.statements.as_ref().unwrap(), "{sql}").unwrap();
        let mut line = String::new();
        loop {
            line.clear();
            assert!(self.answers.read_line(&mut line).unwrap() > 0, "the other process is gone");
            if let Some((_, answer)) = line.trim_end().split_once(MARK) {
                let (open, answer) = answer.split_once(' ').unwrap();
                return (answer.into(), open == "true");
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.statements = None;
        // It ends with its input.
        let _ = self.child.wait();
    }
}

/// Runs a statement: its rows, or its error, as one line.
pub fn outcome(engine: &Engine, sql: &str) -> String {
    match engine.query(sql) {
        Ok(rows) => format!("{rows:?}"),
        Err(error) => error.to_string().replace('\n', " "),
    }
}

#[test]
fn another_process() {
    let Some(database) = std::env::var_os(DATABASE) else { return };
    let engine = Engine::open(database.to_str().unwrap(), None).unwrap();
    for line in std::io::stdin().lines() {
        let answer = outcome(&engine, &line.unwrap());
        println!("{MARK}{} {answer}", !engine.is_autocommit());
    }
}
