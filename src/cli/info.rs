//! `info`: a replica at a glance.

use super::Answer;
use super::arguments::Output;
use super::show;
use crate::catalog::points;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::types::{FileInfo, Level};
use crate::upload::Head;
use clap::Args;
use serde_json::json;
use std::fmt::Write;

/// Show a replica at a glance: where its history ends, how far back it goes, what it takes
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  sqlitereplicate info file:///backup/app")]
pub struct Info {
    /// The replica: file:///absolute/folder or s3://bucket/prefix
    url: String,

    #[command(flatten)]
    pub output: Output,
}

impl Info {
    pub fn run(&self) -> Result<Answer> {
        let client = Config::from_environment().replica(&self.url)?;
        let head = Head::of(&*client)?;
        let Some(Head { file, header }) = head else {
            return Err(Error::not_found(format!("{} holds no LTX files", client.url())));
        };
        let files = client.list_all()?;
        let points = points(&files);
        let first = points.first();
        let first_at = first.map(|point| client.timestamp(&point.file)).transpose()?;
        let levels: Vec<(Level, Vec<&FileInfo>)> = Level::all()
            .map(|level| (level, files.iter().filter(|file| file.level == level).collect::<Vec<_>>()))
            .filter(|(_, files)| !files.is_empty())
            .collect();
        let bytes: u64 = files.iter().map(|file| file.size).sum();
        let database_bytes = u64::from(header.page_size.get()) * u64::from(header.page_count);
        let newest_is_restorable = points.last().is_some_and(|point| point.txid == file.range.max);
        let value = json!({
            "url": client.url(),
            "txid": file.range.max.get(),
            "timestamp": header.timestamp.to_string(),
            "newest_is_restorable": newest_is_restorable,
            "page_size": header.page_size.get(),
            "page_count": header.page_count,
            "database_bytes": database_bytes,
            "checksum": header.proof.map(|proof| proof.post.to_string()),
            "restore_points": points.len(),
            "first_txid": first.map(|point| point.txid.get()),
            "first_timestamp": first_at.map(|at| at.to_string()),
            "files": files.len(),
            "bytes": bytes,
            "levels": levels.iter().map(|(level, files)| json!({
                "level": level.get(),
                "files": files.len(),
                "bytes": files.iter().map(|file| file.size).sum::<u64>(),
                "min_txid": files.iter().map(|file| file.range.min.get()).min(),
                "max_txid": files.iter().map(|file| file.range.max.get()).max(),
            })).collect::<Vec<_>>(),
        });
        Ok(Answer::new(self.output.json, value, || {
            let mut text = format!("replica    {}\n", client.url());
            let mut line = |name: &str, what: String| {
                writeln!(text, "{name:<9}  {what}").expect("BUG: a text takes more text");
            };
            let newest = format!("txid {} of {}", show::txid(file.range.max), header.timestamp);
            let broken =
                if newest_is_restorable { "" } else { ", WHICH CANNOT BE RESTORED: a file is missing" };
            line("newest", newest + broken);
            match first.zip(first_at) {
                Some((point, at)) => line(
                    "oldest",
                    format!("txid {} of {at}; {} states in all", show::txid(point.txid), points.len()),
                ),
                None => line("oldest", "nothing can be restored".to_owned()),
            }
            let (count, size) = (header.page_count, header.page_size);
            line("database", format!("{}, {count} pages of {size} bytes", show::size(database_bytes)));
            let proof = header.proof.map_or_else(
                || "not stated: the files are of another program".to_owned(),
                |proof| proof.post.to_string(),
            );
            line("checksum", proof);
            line("files", format!("{}, {}", files.len(), show::size(bytes)));
            for (level, files) in &levels {
                let bytes = files.iter().map(|file| file.size).sum();
                line(&format!("level {level}"), format!("{}, {}", files.len(), show::size(bytes)));
            }
            text
        }))
    }
}
