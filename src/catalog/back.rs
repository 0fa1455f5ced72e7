//! The files of a history from its end back, each with as little as possible that is older.

use crate::types::{FileInfo, Level, Txid};
use std::cmp::Reverse;

/// A listing that is walked back.
pub struct Back {
    /// By min, then the shortest last.
    files: Vec<FileInfo>,
}

impl Back {
    pub fn new(mut listing: Vec<FileInfo>) -> Back {
        listing.sort_by_key(|file| (file.range.min, Reverse(file.range.max), Reverse(file.level)));
        Back { files: listing }
    }

    /// The file that holds `txid` and begins last; each is given once. O(1) where level 0 reaches that far.
    pub fn step(&mut self, txid: Txid, with_snapshots: bool) -> Option<FileInfo> {
        while self.files.last().is_some_and(|file| file.range.min > txid) {
            self.files.pop();
        }
        let holds =
            |file: &FileInfo| file.range.max >= txid && (with_snapshots || file.level != Level::SNAPSHOT);
        let at = self.files.iter().rposition(holds)?;
        Some(self.files.remove(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Identity, Timestamp, TxidRange};

    fn txid(n: u64) -> Txid {
        Txid::new(n).unwrap()
    }

    fn walk(files: &[(u8, u64, u64)], with_snapshots: bool) -> Vec<(u8, u64, u64)> {
        let info = |&(level, min, max)| FileInfo {
            level: Level::new(level).unwrap(),
            range: TxidRange::new(txid(min), txid(max)).unwrap(),
            size: 1,
            created_at: Timestamp(0),
            identity: Identity::File { device: 0, inode: 0, changed_ns: 0, modified_ns: 0 },
        };
        let mut back = Back::new(files.iter().map(info).collect());
        let mut at = files.iter().map(|f| f.2).max().and_then(Txid::new);
        let mut steps = Vec::new();
        while let Some(file) = at.and_then(|at| back.step(at, with_snapshots)) {
            steps.push((file.level.get(), file.range.min.get(), file.range.max.get()));
            at = file.range.min.previous();
        }
        steps
    }

    #[test]
    fn newest_single_files_come_first_and_merged_ones_where_those_are_gone() {
        let files = [(0, 6, 6), (0, 5, 5), (1, 3, 5), (1, 1, 2), (2, 1, 5), (9, 1, 6)];
        assert_eq!(walk(&files, false), [(0, 6, 6), (0, 5, 5), (1, 3, 5), (1, 1, 2)]);
        assert_eq!(walk(&files[..2], true), [(0, 6, 6), (0, 5, 5)], "a gap ends it");
        assert_eq!(walk(&[(0, 6, 6), (9, 1, 5)], false), [(0, 6, 6)]);
        assert_eq!(walk(&[(0, 6, 6), (9, 1, 5)], true), [(0, 6, 6), (9, 1, 5)]);
    }
}
