//! `doctor`: what the store of a replica honours, and how fast it is.

use super::Answer;
use crate::config::Config;
use crate::database::examine;
use crate::doctor::{Finding, Verdict};
use crate::error::{Error, Kind, Result};
use serde_json::json;

/// The findings as a table or as JSON; a failure when one of them is bad.
pub fn doctor(url: &str, json: bool) -> Result<Answer> {
    let findings = examine(&Config::from_environment(), url)?;
    let is_bad = findings.iter().any(|finding| finding.verdict == Verdict::Bad);
    let text = if json {
        let rows = findings
            .iter()
            .map(|f| json!({"capability": f.check, "verdict": f.verdict.name(), "detail": f.detail}));
        format!("{}\n", serde_json::Value::from_iter(rows))
    } else {
        let row = |f: &Finding| format!("{:<4}  {:<32}  {}\n", f.verdict.name(), f.check, f.detail);
        findings.iter().map(row).collect()
    };
    let failure =
        is_bad.then(|| Error::new(Kind::Invalid, "this store is not safe for a replica: see BAD above"));
    Ok(Answer { text, failure })
}
