//! `compact` and `snapshot`: the upkeep of a replica by hand, where no program writes it any more, or before it is moved.

use super::Answer;
use super::arguments::Output;
use super::show;
use super::terminal::Terminal;
use crate::catalog::{Target, chain_to};
use crate::clock;
use crate::config::{self, Config, scratch_folder};
use crate::error::{Error, Kind, Result};
use crate::replica::Client;
use crate::types::Txid;
use crate::upkeep::{Keeper, snapshot_to};
use clap::Args;
use serde_json::json;

/// Merge files and delete what is past its retention, as the program that writes a replica does by itself
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  sqlitereplicate compact --retention 48h s3://bucket/app

Another program may write the replica meanwhile. What is merged or deleted depends on the times at which files were made; run \
again later, it finds more to do.")]
pub struct Compact {
    /// The replica: file:///absolute/folder or s3://bucket/prefix
    url: String,

    /// How often levels 1, 2 and 3 merge
    #[arg(long, value_name = "INTERVALS", default_value = "30s,5m,1h")]
    levels: String,

    /// How often a snapshot is taken
    #[arg(long, value_name = "DURATION", default_value = "24h")]
    snapshot_interval: String,

    /// Age at which a merged file of level 0 goes; 0: never
    #[arg(long, value_name = "DURATION", default_value = "5m")]
    l0_retention: String,

    /// Window in which each moment stays restorable; 0: nothing goes
    #[arg(long, value_name = "DURATION", default_value = "24h")]
    retention: String,

    #[command(flatten)]
    pub output: Output,
}

impl Compact {
    pub fn run(&self) -> Result<Answer> {
        let client = Config::from_environment().replica(&self.url)?;
        let (levels, policy) = config::upkeep(&[
            ("replica_levels", &self.levels),
            ("replica_snapshot_interval", &self.snapshot_interval),
            ("replica_l0_retention", &self.l0_retention),
            ("replica_retention", &self.retention),
        ])?;
        let newest = newest(&*client)?;
        let scratch = scratch_folder();
        let keeper = Keeper {
            client: &*client,
            levels: &levels,
            policy,
            scratch: &scratch,
            database: &|| Ok(None),
            copy: &|_| None,
            must_stop: &|| false,
        };
        let done = keeper.run(newest, clock::now())?;
        let value = json!({"txid": newest.get(), "created": done.created, "deleted": done.deleted});
        Ok(Answer::new(self.output.json, value, || {
            format!(
                "made {} files and deleted {}; the newest state is txid {}\n",
                done.created,
                done.deleted,
                show::txid(newest)
            )
        }))
    }
}

/// Make a snapshot of the newest state at level 9
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  sqlitereplicate snapshot s3://bucket/app

It is merged from the files of the replica, proven by the checksum of the newest one, and appears whole.")]
pub struct Snapshot {
    /// The replica: file:///absolute/folder or s3://bucket/prefix
    url: String,

    #[command(flatten)]
    pub output: Output,
}

impl Snapshot {
    pub fn run(&self, terminal: &mut Terminal<'_>) -> Result<Answer> {
        let client = Config::from_environment().replica(&self.url)?;
        let newest = newest(&*client)?;
        let made = match snapshot_to(&*client, &*client, newest, &scratch_folder()) {
            Err(error) if error.kind() == Kind::Exists => {
                terminal.notice(&format!("there is a snapshot of txid {} already", show::txid(newest)));
                None
            }
            other => Some(other?),
        };
        let bytes = made.map(|file| file.size);
        let value = json!({"txid": newest.get(), "bytes": bytes});
        Ok(Answer::new(self.output.json, value, || {
            bytes.map_or_else(String::new, |bytes| {
                format!("made a snapshot of txid {}, {}\n", show::txid(newest), show::size(bytes))
            })
        }))
    }
}

fn newest(client: &dyn Client) -> Result<Txid> {
    let listing = client.list_all()?;
    if listing.is_empty() {
        return Err(Error::not_found(format!("{} holds no LTX files", client.url())));
    }
    Ok(chain_to(&listing, Target::Newest)?.end())
}
