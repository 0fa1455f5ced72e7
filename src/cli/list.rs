//! `list`: the files of a replica, the states that can be restored, or the replicas below a place.

use super::Answer;
use super::arguments::Output;
use super::show::{self, Column};
use crate::config::Config;
use crate::database::restore_points;
use crate::error::{Kind, Result};
use crate::replica::{Client, open_decoder};
use crate::types::{FileInfo, Timestamp};
use clap::Args;
use serde_json::json;

/// Show the files of a replica, the states that can be restored, or the replicas below a place
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sqlitereplicate list file:///backup/app
  sqlitereplicate list --points --json s3://bucket/app | jq -r '.[-1].timestamp'
  sqlitereplicate list --databases file:///backup")]
pub struct List {
    /// A replica, or with --databases what lies above several: file:///absolute/folder or s3://bucket/prefix
    url: String,

    /// Every file, with what its header says (the default)
    #[arg(long, group = "what")]
    files: bool,

    /// Every state that can be restored, oldest first
    #[arg(long, group = "what")]
    points: bool,

    /// Every replica at or below URL
    #[arg(long, group = "what")]
    databases: bool,

    #[command(flatten)]
    pub output: Output,
}

impl List {
    pub fn run(&self) -> Result<Answer> {
        let config = Config::from_environment();
        let json = self.output.json;
        if self.databases {
            return databases(&config.replicas_below(&self.url)?, json);
        }
        let client = config.replica(&self.url)?;
        if self.points { points(&*client, json) } else { files(&*client, json) }
    }
}

/// What a header says: the time, and whether it states the checksum of the database.
fn header(client: &dyn Client, file: &FileInfo) -> Result<Option<(Timestamp, &'static str)>> {
    match open_decoder(client, file).map(|decoder| *decoder.header()) {
        Ok(header) => Ok(Some((header.timestamp, if header.proof.is_some() { "yes" } else { "no" }))),
        Err(error) => match error.kind() {
            Kind::Corrupt => Ok(Some((file.created_at, "damaged"))),
            Kind::NotFound | Kind::Conflict => Ok(None),
            _ => Err(error),
        },
    }
}

/// A file that went while it was listed is left out.
fn files(client: &dyn Client, json: bool) -> Result<Answer> {
    let mut found = Vec::new();
    for file in client.list_all()? {
        if let Some((at, proof)) = header(client, &file)? {
            found.push((file, at, proof));
        }
    }
    let value = found.iter().map(|(file, at, proof)| {
        let mut value = show::file(file, *at);
        value["proof"] = json!(proof);
        value
    });
    Ok(Answer::new(json, value.collect(), || {
        let columns = [&show::FILE[..], &[Column("proof", false)]].concat();
        let row = |(file, at, proof): &(FileInfo, Timestamp, &str)| {
            [show::file_row(file, *at), vec![(*proof).to_owned()]].concat()
        };
        show::table(&columns, &found.iter().map(row).collect::<Vec<_>>())
    }))
}

fn points(client: &dyn Client, json: bool) -> Result<Answer> {
    let points = restore_points(client)?;
    let value = points.iter().map(|(point, at)| {
        json!({
            "txid": point.txid.get(),
            "timestamp": at.to_string(),
            "level": point.file.level.get(),
            "snapshot_txid": point.snapshot.map(|txid| txid.get()),
            "bytes": point.bytes,
        })
    });
    Ok(Answer::new(json, value.collect(), || {
        let columns = [
            Column("txid", true),
            Column("hex", false),
            Column("timestamp", false),
            Column("level", false),
            Column("snapshot_txid", true),
            Column("size", true),
        ];
        let rows: Vec<Vec<String>> = points
            .iter()
            .map(|(point, at)| {
                let snapshot = point.snapshot.map_or_else(String::new, |txid| txid.get().to_string());
                let (txid, level, size) = (point.txid, point.file.level.to_string(), show::size(point.bytes));
                vec![txid.get().to_string(), txid.to_string(), at.to_string(), level, snapshot, size]
            })
            .collect();
        show::table(&columns, &rows)
    }))
}

/// A replica among others: where it is and what is there.
struct Found {
    url: String,
    files: usize,
    bytes: u64,
    newest: Option<(FileInfo, Timestamp)>,
}

fn databases(clients: &[(String, std::sync::Arc<dyn Client>)], json: bool) -> Result<Answer> {
    let mut found = Vec::new();
    for (url, client) in clients {
        let files = client.list_all()?;
        let newest = files.iter().max_by_key(|file| (file.range.max, std::cmp::Reverse(file.level)));
        let newest = match newest.map(|file| (file, client.timestamp(file))) {
            Some((file, Ok(at))) => Some((*file, at)),
            // It is being merged just now: what the listing says is close.
            Some((file, Err(error))) if error.kind() == Kind::Conflict => Some((*file, file.created_at)),
            Some((_, Err(error))) => return Err(error),
            None => None,
        };
        let bytes = files.iter().map(|file| file.size).sum();
        found.push(Found { url: url.clone(), files: files.len(), bytes, newest });
    }
    let value = found.iter().map(|found| {
        json!({
            "url": found.url,
            "txid": found.newest.map(|(file, _)| file.range.max.get()),
            "timestamp": found.newest.map(|(_, at)| at.to_string()),
            "files": found.files,
            "bytes": found.bytes,
        })
    });
    Ok(Answer::new(json, value.collect(), || {
        let columns = [
            Column("url", false),
            Column("txid", true),
            Column("timestamp", false),
            Column("files", true),
            Column("size", true),
        ];
        let rows: Vec<Vec<String>> = found
            .iter()
            .map(|found| {
                let (txid, at) = found.newest.map_or_else(Default::default, |(file, at)| {
                    (file.range.max.get().to_string(), at.to_string())
                });
                vec![found.url.clone(), txid, at, found.files.to_string(), show::size(found.bytes)]
            })
            .collect();
        show::table(&columns, &rows)
    }))
}
