//! `replicate`: the sidecar of applications that cannot load the extension.
//!
//! It opens each database in this process, through the same VFS and capture as the extension does, and waits. What others
//! commit is looked for twice a second, once where nothing has happened for ten ([`super::feed`] has what that takes). At SIGTERM or SIGINT everything is flushed once more.

use super::arguments::Output;
use super::feed::{self, Feed};
use super::terminal::Terminal;
use super::{Answer, INCOMPLETE};
use crate::clock::{self, Deadline};
use crate::config;
use crate::database::Runtime;
use crate::error::{Error, Kind, Result};
use crate::ffi::signals::EndSignals;
use clap::Args;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Between two looks at what failed, and at which databases are there.
const LOOK: Duration = Duration::from_secs(1);

/// Follow databases of other programs, until SIGTERM or SIGINT
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sqlitereplicate replicate /data/app.db s3://bucket/app
  sqlitereplicate replicate --config /etc/sqlitereplicate.json

The config file holds rules as for SQLITEREPLICATE_CONFIG: [{\"path\": \"/data/*.db\", \"replica\": \"file:///backup/{name}\"}].
Databases that a rule's glob finds later are followed from then on. Exit code 4 if something was not in its replica when the \
time for the last flush was over; it waits in the local log. Keep the applications' own extension off these files.")]
pub struct Replicate {
    /// The database
    #[arg(requires = "url")]
    database: Option<PathBuf>,

    /// Its replica: file:///absolute/folder or s3://bucket/prefix
    url: Option<String>,

    /// Rules: which databases go where; in place of the file that SQLITEREPLICATE_CONFIG names
    #[arg(long, value_name = "FILE", conflicts_with = "database")]
    config: Option<PathBuf>,

    /// Longest last flush, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    flush_timeout: u64,

    /// Send what is committed now, and end
    #[arg(long)]
    once: bool,

    #[command(flatten)]
    pub output: Output,
}

impl Replicate {
    pub fn run(&self, terminal: &mut Terminal<'_>) -> Result<Answer> {
        // Before any thread of ours is started.
        let signals = EndSignals::hold()?;
        if let Some(file) = &self.config {
            config::name_file(file);
        }
        Runtime::get().become_sidecar();
        let mut following = Following::default();
        match (&self.database, &self.url) {
            (Some(database), Some(url)) => {
                feed::configure(database, url, None)?;
                following.add(database, terminal)?;
            }
            _ => {
                let config = &Runtime::get().config;
                let paths = config.databases()?;
                if !config.has_rules() {
                    return Err(Error::invalid(
                        "nothing says what to follow: give a database and a URL, --config FILE, or SQLITEREPLICATE_CONFIG",
                    ));
                }
                if paths.is_empty() && self.once {
                    return Err(Error::not_found("no file matches a rule of the config file"));
                }
                for path in paths {
                    following.add(&path, terminal)?;
                }
            }
        }
        while !self.once && !signals.wait(LOOK) {
            following.look(self.database.is_none(), terminal);
        }
        let late = following.flush(Duration::from_secs(self.flush_timeout), terminal);
        let count = following.feeds.len();
        let value = json!({"databases": count, "complete": late == 0});
        let answer = Answer::new(self.output.json, value, String::new);
        if late == 0 {
            return Ok(answer);
        }
        // A close would wait for each of them once more.
        std::mem::forget(following);
        let text = format!(
            "{late} of {count} databases have commits that are not in their replica; they wait in the local log"
        );
        Ok(answer.failing(INCOMPLETE, Error::new(Kind::Busy, text)))
    }
}

/// The databases, and what was last said of each.
#[derive(Default)]
struct Following {
    feeds: BTreeMap<PathBuf, Feed>,
    said: BTreeMap<PathBuf, String>,
}

impl Following {
    fn add(&mut self, path: &Path, terminal: &mut Terminal<'_>) -> Result<()> {
        let feed = Feed::open(path)?;
        terminal.notice(&format!("{} {} is followed", clock::now(), path.display()));
        self.feeds.insert(path.to_owned(), feed);
        Ok(())
    }

    /// Opens what is new, and says what failed since the last look.
    fn look(&mut self, by_rules: bool, terminal: &mut Terminal<'_>) {
        if by_rules {
            match Runtime::get().config.databases() {
                Ok(paths) => {
                    for path in paths
                        .iter()
                        .filter(|path| !self.feeds.contains_key(*path))
                        .cloned()
                        .collect::<Vec<_>>()
                    {
                        if let Err(error) = self.add(&path, terminal) {
                            self.say(&path, Some(error.to_string()), terminal);
                        }
                    }
                }
                Err(error) => terminal.notice(&error.to_string()),
            }
        }
        let troubles: Vec<(PathBuf, Option<String>)> =
            self.feeds.iter().map(|(path, feed)| (path.clone(), trouble_of(feed))).collect();
        for (path, trouble) in troubles {
            self.say(&path, trouble, terminal);
        }
    }

    /// Each thing once.
    fn say(&mut self, path: &Path, trouble: Option<String>, terminal: &mut Terminal<'_>) {
        match trouble {
            None => drop(self.said.remove(path)),
            Some(text) if self.said.get(path) == Some(&text) => {}
            Some(text) => {
                terminal.notice(&format!("{} {}: {text}", clock::now(), path.display()));
                self.said.insert(path.to_owned(), text);
            }
        }
    }

    /// Waits for everything that was committed; how many databases could not.
    fn flush(&self, timeout: Duration, terminal: &mut Terminal<'_>) -> usize {
        let deadline = Deadline::after(timeout);
        let mut late = 0;
        for (path, feed) in &self.feeds {
            if let Err(error) = feed.sync(deadline.remaining()) {
                terminal.notice(&format!("{}: {error}", path.display()));
                late += 1;
            }
        }
        late
    }
}

fn trouble_of(feed: &Feed) -> Option<String> {
    // Writers in the way are no trouble: the next look comes soon.
    let tended = feed.tend().err().filter(|error| error.kind() != Kind::Busy);
    feed.end().or_else(|| feed.trouble()).or_else(|| tended.map(|error| error.to_string()))
}
