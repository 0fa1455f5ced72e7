//! A replica of a few files, one of them or two hostile: restored, verified, merged, and listed with names nobody gave.

use std::io::Cursor;

use super::{KIB, MIB, Target, check_error, codes, join, parts};
use crate::catalog::{self, Target as Until};
use crate::ltx::sample::{file, header};
use crate::ltx::{Header, Proof, merge, page_checksum};
use crate::replica::{Client, FileReplica, layout, open_decoder};
use crate::restore;
use crate::staging::sums;
use crate::testing::Folder;
use crate::types::{Checksum, Level, Pgno, Timestamp, Txid, TxidRange};
use crate::verify;

pub const REPLICA: Target = Target {
    name: "replica",
    samples,
    words: &["LTX1", "SQR2"],
    mend: |bytes| join(&parts(bytes).iter().map(|part| codes::ltx(part)).collect::<Vec<_>>()),
    run,
    // A verification holds the checksums of as many pages as a file says that there are.
    memory_max: 8 * MIB + sums::MEMORY_BYTES_MAX,
    is_parts: true,
};

fn range(min: u64, max: u64) -> TxidRange {
    TxidRange::new(Txid::new(min).unwrap(), Txid::new(max).unwrap()).unwrap()
}

/// Level and txids of each file.
const PLACES: [(u8, u64, u64); 5] = [(0, 1, 1), (0, 2, 2), (0, 3, 3), (1, 2, 3), (9, 1, 2)];

/// With the checksums of the database, and without them.
fn samples() -> Vec<Vec<u8>> {
    [true, false].map(history).to_vec()
}

fn history(proven: bool) -> Vec<u8> {
    let page = |n: u32, byte: u8| (n, vec![byte; 512]);
    let sum = |pages: &[(u32, Vec<u8>)]| {
        let sums = pages.iter().map(|(n, page)| page_checksum(Pgno::new(*n).unwrap(), page));
        sums.fold(Checksum::EMPTY, Checksum::toggle)
    };
    let states = [
        vec![],
        vec![page(1, 1), page(2, 1)],
        vec![page(1, 2), page(2, 1), page(3, 2)],
        vec![page(1, 3), page(2, 1)],
    ];
    let made = PLACES.map(|(_, min, max)| {
        let (before, after) = (&states[min as usize - 1], &states[max as usize]);
        let changed: Vec<_> = after.iter().filter(|page| !before.contains(page)).cloned().collect();
        let proof = proven.then(|| Proof { pre: sum(before), post: sum(after) });
        file(Header { proof, ..header(min, max, 512, after.len() as u32) }, &changed)
    });
    join(&made)
}

fn run(bytes: &[u8]) {
    let folder = Folder::new();
    let root = folder.path().join("r");
    let replica = FileReplica::at_or_create(root.clone()).unwrap();
    for ((level, min, max), bytes) in PLACES.into_iter().zip(parts(bytes)) {
        let level = Level::new(level).unwrap();
        replica.create(level, range(min, max), Timestamp(1), &mut Cursor::new(bytes)).unwrap();
    }
    let output = folder.path().join("out.db");
    let listing = replica.list_all().unwrap();
    assert_eq!(listing.len(), PLACES.len());
    for until in [Until::Newest, Until::Txid(Txid::FIRST), Until::Txid(Txid::new(2).unwrap())] {
        let options = restore::Options { page_checksums: true, ..restore::Options::default() };
        match restore::restore(&replica, until, &output, options) {
            Ok(restored) => {
                let size = std::fs::metadata(&output).unwrap().len();
                assert_eq!(size, u64::from(restored.page_count) * u64::from(restored.page_size.get()));
                std::fs::remove_file(&output).unwrap();
            }
            Err(error) => {
                check_error(&error);
                assert!(!output.exists(), "a restore that failed left a file");
            }
        }
    }
    let scratch = folder.path().to_owned();
    let report = verify::verify(&replica, verify::Options { scratch, expected: None }, &mut |_| {}).unwrap();
    report.findings.iter().for_each(|finding| assert!(format!("{finding:?}").len() < 20 * KIB));
    catalog::points::points(&listing);
    merged(&replica, &layout::folder(&root, Level::CAPTURED));
}

/// What merges, gives a file that is whole.
fn merged(replica: &FileReplica, folder: &std::path::Path) {
    let inputs: Result<Vec<_>, _> =
        replica.list(Level::CAPTURED).unwrap().iter().map(|file| open_decoder(replica, file)).collect();
    let mut bytes = Vec::new();
    match inputs.and_then(|inputs| merge::merge(inputs, &mut bytes)) {
        Ok(_) => crate::ltx::Decoder::new(&bytes[..], "merged").unwrap().verify_rest().unwrap(),
        Err(error) => {
            let names = error.to_string();
            assert!(names.contains(".ltx") || names.contains(&folder.display().to_string()), "{names}");
        }
    }
}
