//! How files, sizes and txids stand in answers.

use crate::types::{FileInfo, Timestamp, Txid};
use serde_json::{Value, json};

/// A column of a table: its title, and whether it stands at the right.
#[derive(Clone, Copy)]
pub struct Column(pub &'static str, pub bool);

/// Rows below titles, each column as wide as its widest cell; nothing behind the last.
pub fn table(columns: &[Column], rows: &[Vec<String>]) -> String {
    let titles: Vec<String> = columns.iter().map(|column| column.0.to_owned()).collect();
    let width =
        |at: usize| rows.iter().chain([&titles]).map(|row| row[at].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let mut text = String::new();
    for row in [&titles].into_iter().chain(rows) {
        let cells = row.iter().zip(columns).zip(&widths).map(|((cell, Column(_, right)), &width)| {
            if *right { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
        });
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text
}

/// `512 bytes`, `1.5 MiB`.
pub fn size(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

/// As a number and as it stands in names.
pub fn txid(txid: Txid) -> String {
    format!("{} ({txid})", txid.get())
}

/// A file of a replica; `at`: the time that is known of it.
pub fn file(file: &FileInfo, at: Timestamp) -> Value {
    json!({
        "level": file.level.get(),
        "min_txid": file.range.min.get(),
        "max_txid": file.range.max.get(),
        "size": file.size,
        "created_at": at.to_string(),
    })
}

/// The columns that [`file_row`] fills.
pub const FILE: [Column; 5] = [
    Column("level", false),
    Column("min_txid", false),
    Column("max_txid", false),
    Column("size", true),
    Column("created_at", false),
];

/// The same file as a row of a table.
pub fn file_row(file: &FileInfo, at: Timestamp) -> Vec<String> {
    let FileInfo { level, range, size, .. } = file;
    vec![level.to_string(), range.min.to_string(), range.max.to_string(), size.to_string(), at.to_string()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_as_wide_as_its_cells() {
        let rows = [["a", "1"], ["long", "22"]].map(|row| row.map(str::to_owned).to_vec());
        let columns = [Column("name", false), Column("n", true)];
        assert_eq!(table(&columns, &rows), "name   n\na      1\nlong  22\n");
        assert_eq!(table(&columns, &[]), "name  n\n");
    }

    #[test]
    fn sizes_are_binary() {
        assert_eq!((size(512).as_str(), size(3 << 19).as_str()), ("512 B", "1.50 MiB"));
    }
}
