//! Listed files for tests.

use crate::types::{FileInfo, Identity, Level, Timestamp, Txid, TxidRange};

/// The file `min..max` of a level that says it was made, and that was stored, at `at` (milliseconds).
pub fn listed(level: u8, min: u64, max: u64, at: i64) -> FileInfo {
    let changed_ns = i128::from(at) * 1_000_000;
    FileInfo {
        level: Level::new(level).unwrap(),
        range: TxidRange::new(Txid::new(min).unwrap(), Txid::new(max).unwrap()).unwrap(),
        size: 1,
        created_at: Timestamp(at),
        identity: Identity::File {
            device: 0,
            inode: u64::from(level) << 56 | min << 28 | max,
            changed_ns,
            modified_ns: changed_ns,
        },
    }
}
