//! `doctor`: what the store of a replica honours, and how fast it is.

use super::arguments::Output;
use super::{Answer, FAILED};
use crate::config::Config;
use crate::database::examine;
use crate::doctor::{Finding, Verdict};
use crate::error::{Error, Kind, Result};
use clap::Args;
use serde_json::json;

/// Examine the store behind a replica: what it honours, also in a race, and how fast it is
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  sqlitereplicate doctor 's3://bucket/app?endpoint=https://store.example.net'

It works in a place of its own beside the replica's files, which is gone afterwards. Exit code 1 if the store is not safe.")]
pub struct Doctor {
    /// The replica: file:///absolute/folder or s3://bucket/prefix
    url: String,

    #[command(flatten)]
    pub output: Output,
}

impl Doctor {
    /// The findings; a failure when one of them is bad.
    pub fn run(&self) -> Result<Answer> {
        let findings = examine(&Config::from_environment(), &self.url)?;
        let is_bad = findings.iter().any(|finding| finding.verdict == Verdict::Bad);
        let rows = findings
            .iter()
            .map(|f| json!({"capability": f.check, "verdict": f.verdict.name(), "detail": f.detail}));
        let answer = Answer::new(self.output.json, serde_json::Value::from_iter(rows), || {
            let row = |f: &Finding| format!("{:<4}  {:<32}  {}\n", f.verdict.name(), f.check, f.detail);
            findings.iter().map(row).collect()
        });
        if is_bad {
            let error = Error::new(Kind::Invalid, "this store is not safe for a replica: see BAD above");
            return Ok(answer.failing(FAILED, error));
        }
        Ok(answer)
    }
}
