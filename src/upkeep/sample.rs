//! Replicas for tests: random states as level-0 files.

use std::collections::BTreeMap;
use std::io::Cursor;

use crate::ltx::sample::{Random, file, header};
use crate::ltx::{Header, Proof, page_checksum};
use crate::replica::{Client, FileReplica};
use crate::testing::Folder;
use crate::types::{Checksum, Level, PageSize, Pgno};

pub fn replica(folder: &Folder, name: &str) -> FileReplica {
    FileReplica::at_or_create(folder.path().join(name)).unwrap()
}

pub type State = BTreeMap<u32, Vec<u8>>;

pub fn checksum(state: &State) -> Checksum {
    let sums = state.iter().map(|(pgno, page)| page_checksum(Pgno::new(*pgno).unwrap(), page));
    sums.fold(Checksum::EMPTY, Checksum::toggle)
}

/// Writes `txids` random states as level-0 files; the last `tail` have another page size.
pub fn fill(replica: &FileReplica, txids: u64, tail: u64) -> State {
    let mut random = Random::new(txids);
    let mut state = State::new();
    for txid in 1..=txids {
        let size = if txid > txids - tail { 1024 } else { 512 };
        let count = 1 + random.below(9) as u32;
        let old = checksum(&state);
        state.retain(|pgno, page| *pgno <= count && page.len() == size);
        let before = state.len() as u32;
        let mut changed = Vec::new();
        for pgno in (1..=count).filter(|pgno| *pgno > before || pgno % 3 == 0) {
            changed.push((pgno, random.page(PageSize::new(size as u32).unwrap())));
        }
        state.extend(changed.iter().cloned());
        let proof = Some(Proof { pre: old, post: checksum(&state) });
        let header = Header { proof, ..header(txid, txid, size as u32, count) };
        let body = file(header, &changed);
        replica.create(Level::CAPTURED, header.range, header.timestamp, &mut Cursor::new(&body[..])).unwrap();
    }
    state
}
