//! The local log as a loss of power, or anybody, may have left it: opened, looked at, and brought up to date.

use std::path::Path;

use super::{MIB, Target, check_names, codes, join, ltx, parts};
use crate::capture::group;
use crate::error::Error;
use crate::staging::checksums::PageChecksums;
use crate::staging::groups::Groups;
use crate::staging::log::Log;
use crate::staging::noted::NotedSet;
use crate::staging::state::State;
use crate::testing::Folder;
use crate::types::{Checksum, PageSize, Pgno, Position, Txid};

const NAMES: [&str; 6] =
    ["format", "state", "noted", "checksums", "ltx/0000000000000002-0000000000000002.ltx", BASE];
const BASE: &str = "base-0000000000000001-8000000000000007";

pub const LOG: Target = Target {
    name: "log",
    samples: || vec![sample()],
    words: &["SQLRSTA1", "SQLRNOT1", "SQLRSUM1", "sqlitereplicate log 2\n", "4294967295", "-1"],
    mend: |bytes| {
        let files = parts(bytes);
        let mended =
            files.iter().map(|part| if part.starts_with(b"LTX1") { codes::ltx(part) } else { part.clone() });
        join(&mended.collect::<Vec<_>>())
    },
    run,
    memory_max: 4 * MIB,
    is_parts: true,
};

fn page(n: u32) -> Pgno {
    Pgno::new(n).unwrap()
}

/// What a process leaves that was killed.
fn sample() -> Vec<u8> {
    let dir = Folder::new();
    let log = Log::open(&dir.path().join("log")).unwrap();
    let folder = log.folder().to_owned();
    let state = State::open(&folder.join("state")).unwrap();
    state.push_position(Position { txid: Txid::FIRST, checksum: Checksum::from_crc(7) });
    state.set_open_txid(Txid::new(3).unwrap());
    let noted = NotedSet::open(&folder.join("noted")).unwrap();
    [1, 2, 70].into_iter().for_each(|n| noted.note(page(n)));
    let mut checksums = PageChecksums::open(&folder.join("checksums")).unwrap();
    checksums.reserve(2).unwrap();
    let sums = [(page(1), Checksum::from_crc(3)), (page(2), Checksum::from_crc(4))];
    checksums.apply(PageSize::new(512).unwrap(), 2, sums);
    std::fs::write(log.path_of(Txid::new(2).unwrap()), &ltx::samples()[4]).unwrap();
    std::fs::write(folder.join(BASE), "512 2 0\n").unwrap();
    drop((state, noted, checksums));
    let bytes = NAMES.map(|name| std::fs::read(folder.join(name)).unwrap());
    join(&bytes)
}

fn run(bytes: &[u8]) {
    let dir = Folder::new();
    let folder = dir.path().join("log");
    std::fs::create_dir_all(folder.join("ltx")).unwrap();
    for (name, part) in NAMES.iter().zip(parts(bytes)) {
        std::fs::write(folder.join(name), part).unwrap();
    }
    if let Err(error) = open(&folder) {
        check_names(&error, "log");
    }
    let size = bytes_below(&folder);
    assert!(size < 64 << 20, "the log has grown to {size} bytes");
}

fn bytes_below(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| if entry.path().is_dir() { 0 } else { entry.metadata().unwrap().len() }).sum()
}

fn open(folder: &Path) -> Result<(), Error> {
    let log = Log::open(folder)?;
    let state = State::open(&folder.join("state"))?;
    let marks = (state.clean(), state.covered(), state.cycle(), state.open_txid(), state.acknowledged(0));
    assert!(!format!("{marks:?}").is_empty());
    assert!(state.positions().count() <= crate::staging::state::RING_LEN);
    state.push_position(Position { txid: Txid::FIRST, checksum: Checksum::EMPTY });
    state.count_rejoin();
    let noted = NotedSet::open(&folder.join("noted"))?;
    // Summary and bits may differ in a torn file; after a note they agree.
    let _ = noted.is_empty() || noted.has_open();
    noted.note(page(5));
    let taken = noted.take(true);
    assert!(taken.all || taken.pages.contains(&page(5)), "a note is lost");
    noted.settle();
    noted.note(page(70));
    assert!(!noted.is_empty() && noted.has_open());
    log.drop_damaged()?;
    let _ = log.stand_ins()?;
    Groups::read(&log)?;
    let mut checksums = PageChecksums::open(&folder.join("checksums"))?;
    if let Some(recorded) = log.recorded()? {
        let is_proven = group::reapply(&log, &mut checksums, &recorded)?;
        assert!(!is_proven || checksums.total() == recorded.position.checksum);
    }
    checksums.reserve(1)?;
    checksums.apply(PageSize::new(512).unwrap(), 1, [(page(1), Checksum::from_crc(9))]);
    assert_eq!(checksums.total(), Checksum::from_crc(9));
    Ok(())
}
