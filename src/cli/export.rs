//! `export`: a plain SQLite file, also through a pipe.

use super::Answer;
use super::arguments::{Output, Wanted};
use super::progress::Progress;
use super::show;
use super::terminal::Terminal;
use crate::clock;
use crate::config::{Config, scratch_folder};
use crate::error::{Error, Result};
use crate::fs::durable;
use crate::restore::{Options, restore};
use clap::Args;
use serde_json::json;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

const COPY_BYTES: usize = 1 << 20;

/// Write the database as a plain SQLite file, or to stdout
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sqlitereplicate export -o copy.db file:///backup/app
  sqlitereplicate export --timestamp '1 hour ago' s3://bucket/app | gzip > app.db.gz

Nothing is written to stdout before all of it was checked; until then it waits in TMPDIR or /var/tmp.")]
pub struct Export {
    /// The replica: file:///absolute/folder or s3://bucket/prefix
    url: String,

    /// The file to be written, which must not exist; '-' is stdout
    #[arg(short = 'o', long = "output", value_name = "PATH", default_value = "-", id = "output_path")]
    path: PathBuf,

    #[command(flatten)]
    wanted: Wanted,

    #[command(flatten)]
    pub output: Output,
}

impl Export {
    pub fn run(&self, terminal: &mut Terminal<'_>) -> Result<Answer> {
        let to_stdout = self.path == Path::new("-");
        if to_stdout && self.output.json {
            return Err(Error::invalid("stdout cannot take the database and JSON: name a file with -o PATH"));
        }
        if to_stdout && terminal.out_is_seen() {
            return Err(Error::invalid(
                "a database is nothing for a terminal: redirect stdout, or use -o PATH",
            ));
        }
        let client = Config::from_environment().replica(&self.url)?;
        let wanted = self.wanted.target();
        let restored = if to_stdout {
            let folder = Scratch::new()?;
            let path = folder.0.join("export.db");
            let restored = restore(&*client, wanted.target, &path, Options::default())?;
            let file = File::open(&path).map_err(|e| Error::io("open", &path, e))?;
            drop(folder);
            stream(file, &path, terminal)?;
            restored
        } else {
            restore(&*client, wanted.target, &self.path, Options::default())?
        };
        for notice in wanted.notice.iter().chain(&restored.notice) {
            terminal.notice(notice);
        }
        if to_stdout {
            return Ok(String::new().into());
        }
        let bytes = u64::from(restored.page_size.get()) * u64::from(restored.page_count);
        let value = json!({
            "path": self.path.to_string_lossy(),
            "txid": restored.position.txid.get(),
            "created_at": restored.timestamp.to_string(),
            "bytes": bytes,
            "notice": restored.notice,
        });
        Ok(Answer::new(self.output.json, value, || {
            let (txid, at) = (show::txid(restored.position.txid), restored.timestamp);
            format!("exported txid {txid} of {at} to {}, {}\n", self.path.display(), show::size(bytes))
        }))
    }
}

/// A folder that goes with everything in it.
pub struct Scratch(pub PathBuf);

impl Scratch {
    /// # Errors
    /// Those of making it.
    pub fn new() -> Result<Scratch> {
        let name = format!("sqlitereplicate-{:x}-{:x}", std::process::id(), clock::machine_ns());
        let folder = scratch_folder().join(name);
        durable::create_folder(&folder)?;
        Ok(Scratch(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left lies where such things are cleaned up.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn stream(mut file: File, path: &Path, terminal: &mut Terminal<'_>) -> Result<()> {
    let total = file.metadata().map_err(|e| Error::io("look at", path, e))?.len();
    let progress = Progress::of_bytes(terminal, "writing", total);
    let (mut buffer, mut done) = (vec![0; COPY_BYTES], 0);
    loop {
        let read = file.read(&mut buffer).map_err(|e| Error::io("read", path, e))?;
        if read == 0 {
            return terminal.flush();
        }
        terminal.write(&buffer[..read])?;
        done += read as u64;
        progress.set(done);
    }
}
