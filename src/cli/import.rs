//! `import`: a plain SQLite file becomes the first txid of a new replica.

use super::Answer;
use super::arguments::Output;
use super::export::Scratch;
use super::feed::{self, Feed};
use super::show;
use super::terminal::Terminal;
use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::upload::Head;
use clap::Args;
use serde_json::json;
use std::path::PathBuf;
use std::time::Duration;

/// Longest wait between two looks at the user's patience.
const STEP: Duration = Duration::from_secs(5);

/// Store a plain SQLite file as txid 1 of a new replica
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  sqlitereplicate import app.db s3://bucket/app

The file stays as it is; others may use it meanwhile. A replica that holds files already is refused.")]
pub struct Import {
    /// The SQLite file
    path: PathBuf,

    /// A place without a replica: file:///absolute/folder or s3://bucket/prefix
    url: String,

    #[command(flatten)]
    pub output: Output,
}

impl Import {
    pub fn run(&self, terminal: &mut Terminal<'_>) -> Result<Answer> {
        let client = Config::from_environment().replica(&self.url)?;
        let head = match Head::of(&*client) {
            Err(error) if error.kind() == Kind::NotFound => None,
            other => other?,
        };
        if let Some(head) = head {
            return Err(Error::exists(format!(
                "{} holds a history up to txid {}: import into a place without one, or go on with it by opening the \
                 database through the extension",
                client.url(),
                show::txid(head.txid())
            )));
        }
        // The folder of the local log is needed no longer than this.
        let scratch = Scratch::new()?;
        let options =
            json!({"replica_log": scratch.0.join("log").to_string_lossy(), "replica_interval": "0s"});
        feed::configure(&self.path, &self.url, Some(&options.to_string()))?;
        let feed = Feed::open(&self.path)?;
        let txid = loop {
            match feed.sync(STEP) {
                Err(error) if feed::may_pass(&error) && feed.end().is_none() => {
                    if let Some(trouble) = feed.trouble() {
                        terminal.notice(&trouble);
                    }
                }
                other => break other?,
            }
        };
        drop(feed);
        let (Some(txid), Some(head)) = (txid, Head::of(&*client)?) else {
            let text = format!("{} has no pages: there is nothing to import", self.path.display());
            return Err(Error::new(Kind::Invalid, text));
        };
        let header = head.header;
        let bytes = u64::from(header.page_size.get()) * u64::from(header.page_count);
        let value = json!({
            "path": self.path.to_string_lossy(),
            "url": client.url(),
            "txid": txid.get(),
            "checksum": header.proof.map(|proof| proof.post.to_string()),
            "database_bytes": bytes,
            "stored_bytes": head.file.size,
        });
        Ok(Answer::new(self.output.json, value, || {
            format!(
                "imported {} as txid {} of {}: {} in a file of {}\n",
                self.path.display(),
                show::txid(txid),
                client.url(),
                show::size(bytes),
                show::size(head.file.size)
            )
        }))
    }
}
