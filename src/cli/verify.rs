//! `verify`: proof that a replica restores.

use super::arguments::Output;
use super::progress::Progress;
use super::show;
use super::terminal::Terminal;
use super::{Answer, DAMAGED};
use crate::config::{Config, scratch_folder};
use crate::error::Result;
use crate::verify::{Finding, Grade, Options, Report, verify};
use clap::Args;
use serde_json::json;

/// Read every file of a replica, and prove that every state of it restores
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  sqlitereplicate verify s3://bucket/app || mail -s 'the backup is damaged' ops < /dev/null

No database is written. Exit code 3 if something is damaged or missing, 1 if the replica could not be read.")]
pub struct Verify {
    /// The replica: file:///absolute/folder or s3://bucket/prefix
    url: String,

    #[command(flatten)]
    pub output: Output,
}

impl Verify {
    pub fn run(&self, terminal: &mut Terminal<'_>) -> Result<Answer> {
        let client = Config::from_environment().replica(&self.url)?;
        let total = client.list_all()?.iter().map(|file| file.size).sum();
        let progress = Progress::of_bytes(terminal, "reading", total);
        let options = Options { scratch: scratch_folder(), expected: None };
        let report = verify(&*client, options, &mut |at| progress.set(at.bytes))?;
        drop(progress);
        let answer = Answer::new(self.output.json, value(&report), || text(&report));
        Ok(match report.error() {
            Some(error) => answer.failing(DAMAGED, error),
            None => answer,
        })
    }
}

fn value(report: &Report) -> serde_json::Value {
    let finding = |finding: &Finding| {
        json!({
            "grade": grade(finding.grade),
            "trouble": format!("{:?}", finding.trouble).to_lowercase(),
            "level": finding.file.map(|(level, _)| level.get()),
            "min_txid": finding.file.map(|(_, range)| range.min.get()),
            "max_txid": finding.file.map(|(_, range)| range.max.get()),
            "what": finding.what,
            "remedy": finding.remedy,
        })
    };
    json!({
        "ok": report.is_ok(),
        "newest_txid": report.newest.map(|txid| txid.get()),
        "oldest_txid": report.oldest.map(|txid| txid.get()),
        "verified_txid": report.verified.map(|position| position.txid.get()),
        "files": report.files,
        "bytes": report.bytes,
        "pages": report.pages,
        "database_checksums": report.database_checksums,
        "merges": report.merges,
        "findings": report.findings.iter().map(finding).collect::<Vec<_>>(),
        "findings_left_out": report.findings_left_out,
    })
}

fn text(report: &Report) -> String {
    let mut text: String =
        report.findings.iter().map(|finding| format!("{}: {finding}\n", grade(finding.grade))).collect();
    if report.findings_left_out > 0 {
        text += &format!("and {} findings more\n", report.findings_left_out);
    }
    let proven = report.verified.map_or_else(
        || "nothing is proven".to_owned(),
        |position| format!("proven up to txid {}", show::txid(position.txid)),
    );
    text + &format!(
        "read {} files, {}; {} database checksums and {} merged files were right; {proven}\n",
        report.files,
        show::size(report.bytes),
        report.database_checksums,
        report.merges
    )
}

fn grade(grade: Grade) -> &'static str {
    match grade {
        Grade::Notice => "notice",
        Grade::Problem => "problem",
    }
}
