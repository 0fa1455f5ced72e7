//! `delete`: everything of a replica goes.

use super::Answer;
use super::arguments::Output;
use super::progress::Progress;
use super::show;
use super::terminal::Terminal;
use crate::clock;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::lease;
use crate::replica::Client;
use crate::types::FileInfo;
use clap::Args;
use serde_json::json;
use std::cmp::Reverse;

/// Delete every file of a replica
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  sqlitereplicate delete file:///backup/old

It asks for the name of the replica, which is the last part of its URL; --yes answers for you. What is neither an LTX file nor \
the lease stays. Close the database before: a writer that finds its replica emptied starts it anew. While somebody holds the \
lease, nothing is deleted.")]
pub struct Delete {
    /// The replica: file:///absolute/folder or s3://bucket/prefix
    url: String,

    /// Do not ask
    #[arg(long)]
    yes: bool,

    #[command(flatten)]
    pub output: Output,
}

impl Delete {
    pub fn run(&self, terminal: &mut Terminal<'_>) -> Result<Answer> {
        let config = Config::from_environment();
        let client = config.replica(&self.url)?;
        let mut files = client.list_all()?;
        if files.is_empty() {
            return Err(Error::not_found(format!("{} holds no LTX files", client.url())));
        }
        refuse_held(&*client)?;
        let bytes: u64 = files.iter().map(|file| file.size).sum();
        if !self.yes {
            self.ask(client.url(), &files, bytes, terminal)?;
        }
        // The newest first: what is left of a work that breaks off is an older state, and no history with a hole.
        files.sort_by_key(|file| Reverse((file.range.max, file.level)));
        let progress = Progress::of_things(terminal, "deleting", files.len() as u64);
        for (done, file) in files.iter().enumerate() {
            client.delete(file)?;
            progress.set(done as u64 + 1);
        }
        drop(progress);
        let left = client.list_all()?.len();
        if left > 0 {
            return Err(Error::conflict(format!(
                "{left} files came to {} meanwhile: close the database that writes them, and delete again",
                client.url()
            )));
        }
        remove_lease(&*client)?;
        config.remove_emptied(&self.url)?;
        let value = json!({"url": client.url(), "files": files.len(), "bytes": bytes});
        Ok(Answer::new(self.output.json, value, || {
            format!("deleted {} files of {}, {}\n", files.len(), client.url(), show::size(bytes))
        }))
    }

    /// Asks for the name.
    fn ask(&self, url: &str, files: &[FileInfo], bytes: u64, terminal: &mut Terminal<'_>) -> Result<()> {
        let name = url.trim_end_matches('/').rsplit('/').next().unwrap_or(url);
        let newest = files.iter().map(|file| file.range.max).max().map(show::txid).unwrap_or_default();
        let question = format!(
            "This deletes {} files of {url}, {}, up to txid {newest}. It cannot be undone.\nType the name of the replica \
             ({name}) to go on: ",
            files.len(),
            show::size(bytes)
        );
        match terminal.ask(&question)? {
            Some(answer) if answer.trim() == name => Ok(()),
            Some(answer) => Err(Error::invalid(format!(
                "nothing was deleted: {:?} is not the name of the replica, {name:?}",
                answer.trim()
            ))),
            None => Err(Error::invalid(format!(
                "nothing was deleted: nobody typed the name of the replica, {name:?}; give --yes where nobody can"
            ))),
        }
    }
}

/// # Errors
/// `Busy` while somebody may write by a lease; `Corrupt` for one that cannot be read.
fn refuse_held(client: &dyn Client) -> Result<()> {
    let lease = client.leases().map(|leases| lease::look(leases)).transpose()?.flatten();
    match lease.filter(|lease| lease.expires_at > clock::now()) {
        None => Ok(()),
        Some(lease) => Err(Error::busy(format!(
            "nothing was deleted: the lease of {} is held by {} until {}: close the database there, or wait until the lease \
             has ended",
            client.url(),
            lease.holder,
            lease.expires_at
        ))),
    }
}

/// The last holder's, which has ended.
fn remove_lease(client: &dyn Client) -> Result<()> {
    let Some(leases) = client.leases() else { return Ok(()) };
    match leases.read_lease()? {
        Some(old) => leases.remove_lease(&old),
        None => Ok(()),
    }
}
