//! `list`: every file of a replica, with what its header says.

use crate::error::{Kind, Result};
use crate::replica::{Client, open_decoder};
use crate::types::FileInfo;
use serde_json::json;

/// What a header says about the checksum of the database.
fn proof(client: &dyn Client, file: &FileInfo) -> Result<Option<&'static str>> {
    match open_decoder(client, file) {
        Ok(decoder) if decoder.header().proof.is_some() => Ok(Some("yes")),
        Ok(_) => Ok(Some("no")),
        Err(error) => match error.kind() {
            Kind::Corrupt => Ok(Some("damaged")),
            Kind::NotFound | Kind::Conflict => Ok(None),
            _ => Err(error),
        },
    }
}

/// The listing as a table or as JSON. A file that went while it was listed is left out.
pub fn list(client: &dyn Client, json: bool) -> Result<String> {
    let mut rows = Vec::new();
    for file in client.list_all()? {
        if let Some(proof) = proof(client, &file)? {
            rows.push((file, proof));
        }
    }
    if json {
        let rows: Vec<_> = rows.iter().map(|(file, proof)| as_json(file, proof)).collect();
        return Ok(format!("{}\n", serde_json::Value::from(rows)));
    }
    let mut text = row("level", "min_txid", "max_txid", "size", "created_at", "proof");
    for (FileInfo { level, range, size, created_at, .. }, proof) in rows {
        let (min, max) = (range.min.to_string(), range.max.to_string());
        text += &row(&level.to_string(), &min, &max, &size.to_string(), &created_at.to_string(), proof);
    }
    Ok(text)
}

fn row(level: &str, min: &str, max: &str, size: &str, created_at: &str, proof: &str) -> String {
    format!("{level:<5}  {min:<16}  {max:<16}  {size:>10}  {created_at:<24}  {proof}\n")
}

fn as_json(file: &FileInfo, proof: &str) -> serde_json::Value {
    json!({
        "level": file.level.get(),
        "min_txid": file.range.min.get(),
        "max_txid": file.range.max.get(),
        "size": file.size,
        "created_at": file.created_at.to_string(),
        "proof": proof,
    })
}
