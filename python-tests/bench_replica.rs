//! Writes the replica that `python-tests/bench_restore.py` restores: a snapshot, a level-0 file for each of many
//! transactions, merged levels over most of them, and the database that must come out.
//!
//!     bench_replica FOLDER PAGES FILES
//!
//! `FOLDER/levels` has everything, `FOLDER/plain` the snapshot and the level-0 files only, `FOLDER/expected.db` the
//! database. A page is half words and half random digits, as rows and their keys are. Each transaction writes page 1,
//! five pages of the often used thousandth part, two anywhere, and every fourth one a new page at the end.

use sqlitereplicate::error::Result;
use sqlitereplicate::ltx::{Decoder, Encoder, Header, Proof, WalSpan, merge, page_checksum};
use sqlitereplicate::replica::layout;
use sqlitereplicate::types::{Checksum, Level, PageSize, Pgno, Timestamp, Txid, TxidRange};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

const PAGE_BYTES: u32 = 4096;
const WORDS: [&str; 16] = [
    "account",
    "invoice",
    "street",
    "2026-11-21",
    "customer",
    "delivered",
    "pending",
    "quantity",
    "blue",
    "north",
    "article",
    "return",
    "paid",
    "open",
    "warehouse",
    "description",
];
/// Files of one level that become one of the next.
const FAN_IN: [u64; 3] = [30, 10, 12];

/// The same numbers from the same seed.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 11
    }
}

/// The content of a page after it was written so many times.
fn content(pgno: u32, version: u32, page: &mut Vec<u8>) {
    let mut random = Random::new(u64::from(pgno) << 24 | u64::from(version));
    page.clear();
    write!(page, "page {pgno} {version} ").expect("a vector takes it");
    while page.len() < PAGE_BYTES as usize {
        let number = random.next();
        write!(page, "{} {:x}|", WORDS[(number & 15) as usize], number >> 24).expect("a vector takes it");
    }
    page.truncate(PAGE_BYTES as usize);
}

/// The database as it grows.
struct History {
    versions: Vec<u32>,
    sums: Vec<Checksum>,
    checksum: Checksum,
    page: Vec<u8>,
}

impl History {
    fn pages(&self) -> u32 {
        self.versions.len() as u32
    }

    /// Writes a page, which may be the one after the last.
    fn change(&mut self, pgno: u32) {
        let index = pgno as usize - 1;
        if index == self.versions.len() {
            self.versions.push(0);
            self.sums.push(Checksum::EMPTY);
        }
        self.versions[index] += 1;
        content(pgno, self.versions[index], &mut self.page);
        let sum = page_checksum(Pgno::new(pgno).expect("from 1"), &self.page);
        self.checksum = self.checksum.toggle(self.sums[index]).toggle(sum);
        self.sums[index] = sum;
    }

    fn write(&mut self, out: impl Write, header: Header, changed: impl Iterator<Item = u32>) -> Result<()> {
        let mut encoder = Encoder::new(out, header)?;
        for pgno in changed {
            content(pgno, self.versions[pgno as usize - 1], &mut self.page);
            encoder.page(Pgno::new(pgno).expect("from 1"), &self.page)?;
        }
        encoder.finish().map(drop)
    }
}

fn range(min: u64, max: u64) -> TxidRange {
    Txid::new(min).zip(Txid::new(max)).and_then(|(min, max)| TxidRange::new(min, max)).expect("ascending")
}

fn create(root: &Path, level: u8, range: TxidRange) -> File {
    let path = layout::path(root, Level::new(level).expect("a level"), range);
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("make a folder");
    File::create_new(path).expect("make a file")
}

fn history(folder: &Path, pages: u32, files: u64) -> Result<()> {
    let root = folder.join("levels");
    let mut history = History { versions: vec![], sums: vec![], checksum: Checksum::EMPTY, page: vec![] };
    (1..=pages).for_each(|pgno| history.change(pgno));
    let header = |history: &History, txid, pre, wal| Header {
        page_size: PageSize::new(PAGE_BYTES).expect("a page size"),
        page_count: history.pages(),
        range: range(txid, txid),
        timestamp: Timestamp(1_790_000_000_000 + txid as i64 * 1000),
        wal,
        writer_id: 0,
        proof: Some(Proof { pre, post: history.checksum }),
    };
    let first = header(&history, 1, Checksum::EMPTY, WalSpan::NONE);
    history.write(BufWriter::new(create(&root, 9, range(1, 1))), first, 1..=pages)?;
    let mut random = Random::new(1);
    for txid in 2..=files + 1 {
        let pre = history.checksum;
        let all = u64::from(pages);
        let mut changed = BTreeSet::from([1]);
        changed.extend((0..5).map(|_| (random.next() % (all / 1000 + 9) * 997 % all) as u32 + 1));
        changed.extend((0..2).map(|_| (random.next() % all) as u32 + 1));
        if txid % 4 == 0 {
            changed.insert(history.pages() + 1);
        }
        changed.iter().for_each(|&pgno| history.change(pgno));
        let header = header(&history, txid, pre, WalSpan::CAPTURED);
        history.write(BufWriter::new(create(&root, 0, header.range)), header, changed.into_iter())?;
    }
    let mut out =
        BufWriter::with_capacity(1 << 20, File::create_new(folder.join("expected.db")).expect("make a file"));
    for pgno in 1..=history.pages() {
        content(pgno, history.versions[pgno as usize - 1], &mut history.page);
        out.write_all(&history.page).expect("write the database");
    }
    out.flush().expect("write the database");
    Ok(())
}

/// Merges every full group of files of each level; what is left over at the end stays in the level below.
fn levels(root: &Path, files: u64) -> Result<()> {
    let mut width = 1;
    for (below, fan_in) in FAN_IN.into_iter().enumerate() {
        let (small, large) = (width, width * fan_in);
        // The newest tenth of the transactions stays unmerged at each level.
        let mut min = 2;
        while min + large + files / 20 <= files + 1 {
            let open = |at| {
                let path =
                    layout::path(root, Level::new(below as u8).expect("a level"), range(at, at + small - 1));
                Decoder::new(File::open(&path).expect("open a file"), path.display().to_string())
            };
            let inputs = (0..fan_in).map(|n| open(min + n * small)).collect::<Result<Vec<_>>>()?;
            merge::merge(inputs, BufWriter::new(create(root, below as u8 + 1, range(min, min + large - 1))))?;
            min += large;
        }
        width = large;
    }
    Ok(())
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [folder, pages, files] = words.as_slice() else { panic!("bench_replica FOLDER PAGES FILES") };
    let (folder, files) = (Path::new(folder), files.parse().expect("a number of files"));
    let made = history(folder, pages.parse().expect("a number of pages"), files);
    made.and_then(|()| levels(&folder.join("levels"), files)).expect("write the replica");
    for level in ["0", "9"] {
        let (from, to) = (folder.join("levels/ltx").join(level), folder.join("plain/ltx").join(level));
        std::fs::create_dir_all(&to).expect("make a folder");
        for entry in std::fs::read_dir(from).expect("list a folder") {
            let entry = entry.expect("list a folder");
            std::fs::hard_link(entry.path(), to.join(entry.file_name())).expect("link a file");
        }
    }
}
