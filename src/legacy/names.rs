//! Names in a replica of Litestream 0.3, and of the layouts around it that nobody reads any more.
//!
//! ```text
//! generations/<16 hex>/snapshots/<8 hex index>.snapshot.lz4           0.3
//! generations/<16 hex>/wal/<8 hex index>_<8..16 hex offset>.wal.lz4   0.3.5 and later; on S3 0.3
//! generations/<16 hex>/wal/<8 hex index>.wal[.lz4]                    0.3.0 to 0.3.4 in a folder
//! generations/<16 hex>/wal/<16 hex index>/<16 hex offset>.wal.lz4     betas of 0.4
//! ```

/// The folder of everything below.
pub const FOLDER: &str = "generations";

/// What an object's name says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    Snapshot {
        generation: String,
        index: u64,
    },
    Segment {
        generation: String,
        index: u64,
        offset: u64,
    },
    /// A whole WAL.
    Whole,
    Beta,
}

/// `None` for what is no part of any layout.
pub fn parse(name: &str) -> Option<Name> {
    let rest = name.strip_prefix(FOLDER)?.strip_prefix('/')?;
    let (generation, rest) = rest.split_once('/')?;
    hex(generation, 16, 16)?;
    let generation = generation.to_owned();
    if let Some(file) = rest.strip_prefix("snapshots/") {
        let index = file.strip_suffix(".snapshot.lz4")?;
        return match hex(index, 8, 8) {
            Some(index) => Some(Name::Snapshot { generation, index }),
            None => hex(index, 16, 16).map(|_| Name::Beta),
        };
    }
    let file = rest.strip_prefix("wal/")?;
    if let Some((index, offset)) = file.split_once('/') {
        return hex(index, 16, 16).and(hex(offset.strip_suffix(".wal.lz4")?, 16, 16)).map(|_| Name::Beta);
    }
    let stem = file.strip_suffix(".lz4").unwrap_or(file).strip_suffix(".wal")?;
    match stem.split_once('_') {
        None => hex(stem, 8, 8).map(|_| Name::Whole),
        Some((index, offset)) if file.ends_with(".lz4") => {
            Some(Name::Segment { generation, index: hex(index, 8, 8)?, offset: hex(offset, 8, 16)? })
        }
        Some(_) => None,
    }
}

/// Lower-case hex digits, so many.
fn hex(text: &str, least: usize, most: usize) -> Option<u64> {
    let valid = (least..=most).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    valid.then(|| u64::from_str_radix(text, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_layout_is_told_by_its_names() {
        let generation = || "0123456789abcdef".to_owned();
        let below = |rest: &str| parse(&format!("generations/0123456789abcdef/{rest}"));
        assert_eq!(
            below("snapshots/0000000a.snapshot.lz4"),
            Some(Name::Snapshot { generation: generation(), index: 10 })
        );
        for (offset, value) in [("00001038", 4152), ("0000000100000000", 1 << 32)] {
            assert_eq!(
                below(&format!("wal/0000000a_{offset}.wal.lz4")),
                Some(Name::Segment { generation: generation(), index: 10, offset: value })
            );
        }
        for whole in ["wal/0000000a.wal", "wal/0000000a.wal.lz4"] {
            assert_eq!(below(whole), Some(Name::Whole));
        }
        for beta in
            ["wal/000000000000000a/0000000000001038.wal.lz4", "snapshots/000000000000000a.snapshot.lz4"]
        {
            assert_eq!(below(beta), Some(Name::Beta));
        }
    }

    #[test]
    fn strays_have_no_name() {
        for name in [
            "generations",
            "generations/x/snapshots/0000000a.snapshot.lz4",
            "generations/0123456789ABCDEF/snapshots/0000000a.snapshot.lz4",
            "generations/0123456789abcdef/snapshots/0000000a.snapshot.lz4.tmp",
            "generations/0123456789abcdef/wal/0000000a_00001038.wal",
            "generations/0123456789abcdef/wal/0000000a_.wal.lz4",
            "generations/0123456789abcdef/wal/0000000a_00001038.wal.lz4.tmp",
            "ltx/0/0000000000000001-0000000000000001.ltx",
        ] {
            assert_eq!(parse(name), None, "{name}");
        }
    }
}
