//! `restore`: the database, as it was, into a new file.

use super::Answer;
use super::arguments::{Output, Wanted};
use super::progress::Progress;
use super::show;
use super::terminal::Terminal;
use crate::catalog::Target;
use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::legacy;
use crate::replica::Client;
use crate::restore::{self, Options, Plan, Restored};
use clap::Args;
use serde_json::json;
use std::num::{NonZeroU16, NonZeroUsize};
use std::path::{Path, PathBuf};

/// Write the database to PATH, which must not exist: the newest state, or that of a txid or a time
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sqlitereplicate restore file:///backup/app app.db
  sqlitereplicate restore --timestamp '2026-11-21T10:00:00Z' 's3://bucket/app?region=eu-west-1' app.db
  sqlitereplicate restore --dry-run --txid 4711 file:///backup/app

The file appears whole or not at all: everything that is read is checked before it gets its name.")]
pub struct Restore {
    /// The replica: file:///absolute/folder or s3://bucket/prefix
    url: String,

    /// The file to be written
    #[arg(required_unless_present_any = ["output_path", "dry_run"])]
    path: Option<PathBuf>,

    /// The file to be written, in another place of the line
    #[arg(short = 'o', long = "output", value_name = "PATH", id = "output_path", conflicts_with = "path")]
    output_path: Option<PathBuf>,

    #[command(flatten)]
    wanted: Wanted,

    /// Print which files would be read, and write nothing
    #[arg(long)]
    dry_run: bool,

    /// Succeed without a file where there is no replica, or an empty one
    #[arg(long)]
    if_replica_exists: bool,

    /// Reads at a time
    #[arg(long, value_name = "N")]
    parallelism: Option<NonZeroU16>,

    #[command(flatten)]
    pub output: Output,
}

impl Restore {
    pub fn run(&self, terminal: &mut Terminal<'_>) -> Result<Answer> {
        let client = Config::from_environment().replica(&self.url)?;
        let wanted = self.wanted.target();
        if let Some(notice) = &wanted.notice {
            terminal.notice(notice);
        }
        if let Some(found) = legacy::find(&*client, wanted.target)? {
            return self.legacy(&found);
        }
        let done = match (self.dry_run, self.path.as_ref().or(self.output_path.as_ref())) {
            (true, _) => {
                restore::plan(&*client, wanted.target).map(|plan| (self.planned(&plan), plan.notice))
            }
            (false, Some(path)) => self
                .write(&*client, wanted.target, path, terminal)
                .map(|restored| (self.restored(path, &restored), restored.notice)),
            (false, None) => unreachable!("BUG: the parser asks for a path"),
        };
        match done {
            Err(error) if self.if_replica_exists && error.kind() == Kind::NotFound && is_empty(&*client)? => {
                let text = || format!("there is nothing to restore in {}\n", client.url());
                Ok(Answer::new(self.output.json, json!({"txid": null}), text))
            }
            Err(error) => Err(error),
            Ok((answer, notice)) => {
                if let Some(notice) = notice {
                    terminal.notice(&notice);
                }
                Ok(answer)
            }
        }
    }

    fn write(
        &self,
        client: &dyn Client,
        target: Target,
        path: &Path,
        terminal: &Terminal<'_>,
    ) -> Result<Restored> {
        let progress = Progress::of_bytes(terminal, "restoring", 0);
        let parallelism = self.parallelism.map(NonZeroUsize::from);
        let options = Options {
            parallelism,
            progress: Some(&|done, all| progress.set_of(done, all)),
            ..Options::default()
        };
        restore::restore(client, target, path, options)
    }

    /// From a replica of Litestream 0.3, of which there is no plan to be shown.
    fn legacy(&self, found: &legacy::Found<'_>) -> Result<Answer> {
        let Some(path) = self.path.as_ref().or(self.output_path.as_ref()).filter(|_| !self.dry_run) else {
            return Err(Error::invalid(
                "a replica of Litestream 0.3 is restored at once: leave --dry-run out",
            ));
        };
        let restored = legacy::restore(found, path)?;
        let legacy::Restored { generation, snapshot_index, index, created_at, page_size, bytes, objects } =
            restored;
        let value = json!({
            "path": path.to_string_lossy(),
            "txid": null,
            "generation": generation,
            "snapshot_index": snapshot_index,
            "index": index,
            "created_at": created_at.to_string(),
            "page_size": page_size.map(|size| size.get()),
            "database_bytes": bytes,
            "objects": objects,
        });
        Ok(Answer::new(self.output.json, value, || {
            format!(
                "restored {} from generation {generation} of Litestream 0.3, of {created_at}\n{bytes} bytes from \
                 {objects} objects: snapshot {snapshot_index:08x}, WAL up to {index:08x}\n",
                path.display()
            )
        }))
    }

    fn restored(&self, path: &Path, restored: &Restored) -> Answer {
        let Restored { position, page_size, page_count, .. } = restored;
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
            "notice": restored.notice,
        });
        let proof =
            if restored.proven { "which the replica states too" } else { "which the replica does not state" };
        Answer::new(self.output.json, value, || {
            format!(
                "restored {} to txid {} of {}\n{page_count} pages of {page_size} bytes from {} files, {} bytes\n\
                 database checksum {}, {proof}\n",
                path.display(),
                show::txid(position.txid),
                restored.timestamp,
                restored.files,
                restored.bytes,
                position.checksum
            )
        })
    }

    fn planned(&self, plan: &Plan) -> Answer {
        let bytes = plan.bytes();
        let value = json!({
            "txid": plan.end.get(),
            "files": plan.files.iter().map(|step| show::file(step, step.created_at)).collect::<Vec<_>>(),
            "bytes": bytes,
        });
        Answer::new(self.output.json, value, || {
            let rows: Vec<_> = plan.files.iter().map(|step| show::file_row(step, step.created_at)).collect();
            format!(
                "{}would restore txid {} from {} files, {}\n",
                show::table(&show::FILE, &rows),
                show::txid(plan.end),
                plan.files.len(),
                show::size(bytes)
            )
        })
    }
}

/// Nothing is there: no folder, or no file of a history in it.
fn is_empty(client: &dyn Client) -> Result<bool> {
    match client.list_all() {
        Ok(files) => Ok(files.is_empty()),
        Err(error) if error.kind() == Kind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}
