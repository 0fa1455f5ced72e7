//! A replica as months of work leave it: level 0 at the end, two merged levels, snapshots; and what each state was.

use std::collections::BTreeMap;
use std::io::Cursor;

use crate::ltx::sample::{Random, file, header};
use crate::ltx::{Decoder, Header, Proof, merge, page_checksum};
use crate::replica::{Client, FileReplica, open_decoder};
use crate::types::{Checksum, FileInfo, Level, PageSize, Pgno, Txid, TxidRange};

type State = BTreeMap<u32, Vec<u8>>;

/// What is to be made. Txids start at 1.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub seed: u64,
    pub txids: u64,
    /// From here on another content than the plan without it has.
    pub fork: u64,
    /// Txids of a file of level 1, and files of level 1 of one of level 2.
    pub merged: [u64; 2],
    /// Snapshots are taken after these.
    pub snapshots: &'static [u64],
    /// Files state the checksums of the database.
    pub proven: bool,
}

pub struct History {
    pub replica: FileReplica,
    /// The database file after each txid.
    pub images: BTreeMap<Txid, Vec<u8>>,
    pub posts: BTreeMap<Txid, Checksum>,
}

pub fn txid(n: u64) -> Txid {
    Txid::new(n).unwrap()
}

pub fn range(min: u64, max: u64) -> TxidRange {
    TxidRange::new(txid(min), txid(max)).unwrap()
}

pub fn level(n: u8) -> Level {
    Level::new(n).unwrap()
}

fn checksum(state: &State) -> Checksum {
    let sums = state.iter().map(|(pgno, page)| page_checksum(Pgno::new(*pgno).unwrap(), page));
    sums.fold(Checksum::EMPTY, Checksum::toggle)
}

impl History {
    /// Makes every file; nothing is retired yet.
    pub fn make(replica: FileReplica, plan: Plan) -> History {
        let mut history = History { replica, images: BTreeMap::new(), posts: BTreeMap::new() };
        history.capture(plan);
        let [few, many] = plan.merged;
        for end in (few..=plan.txids).step_by(few as usize) {
            history.merge(0, level(1), range(end - few + 1, end));
        }
        for end in (few * many..=plan.txids).step_by((few * many) as usize) {
            history.merge(1, level(2), range(end - few * many + 1, end));
        }
        for end in plan.snapshots {
            history.merge(0, Level::SNAPSHOT, range(1, *end));
        }
        history
    }

    fn capture(&mut self, plan: Plan) {
        let page_size = PageSize::new(512).unwrap();
        let mut state = State::new();
        for at in 1..=plan.txids {
            let fork = if at >= plan.fork { 1 << 40 } else { 0 };
            let mut random = Random::new(plan.seed * 1000 + at + fork);
            let count = 2 + random.below(14) as u32;
            let pre = checksum(&state);
            state.retain(|pgno, _| *pgno <= count);
            let before = state.len() as u32;
            let changed: Vec<u32> =
                (1..=count).filter(|pgno| *pgno > before || random.below(4) == 0 || *pgno == 1).collect();
            let changed: Vec<(u32, Vec<u8>)> =
                changed.into_iter().map(|pgno| (pgno, random.page(page_size))).collect();
            state.extend(changed.iter().cloned());
            let post = checksum(&state);
            let proof = plan.proven.then_some(Proof { pre, post });
            let header = Header { proof, ..header(at, at, 512, count) };
            self.put(Level::CAPTURED, header, &file(header, &changed));
            self.images.insert(txid(at), state.values().flatten().copied().collect());
            self.posts.insert(txid(at), post);
        }
    }

    pub fn put(&self, level: Level, header: Header, bytes: &[u8]) {
        self.replica.create(level, header.range, header.timestamp, &mut Cursor::new(bytes)).unwrap();
    }

    /// Merges what level `from` holds of a range.
    pub fn merge(&self, from: u8, to: Level, range: TxidRange) {
        let files = self.replica.list(level(from)).unwrap();
        let inside = files.iter().filter(|f| f.range.min >= range.min && f.range.max <= range.max);
        let inputs: Vec<_> = inside.map(|f| open_decoder(&self.replica, f).unwrap()).collect();
        let mut bytes = Vec::new();
        let summary = merge::merge(inputs, &mut bytes).unwrap();
        assert_eq!(summary.header.range, range);
        self.put(to, summary.header, &bytes);
    }

    pub fn find(&self, level: Level, range: TxidRange) -> FileInfo {
        self.replica.stat(level, range).unwrap().unwrap()
    }

    pub fn delete(&self, level: Level, range: TxidRange) {
        self.replica.delete(&self.find(level, range)).unwrap();
    }

    pub fn bytes(&self, file: &FileInfo) -> Vec<u8> {
        std::fs::read(self.path(file)).unwrap()
    }

    pub fn path(&self, file: &FileInfo) -> std::path::PathBuf {
        crate::replica::layout::path(self.replica.root(), file.level, file.range)
    }

    /// Level 0 begins at `from`; below the snapshot at `base` nothing is left.
    pub fn retire(&self, from: u64, base: u64) {
        for file in self.replica.list_all().unwrap() {
            let is_old = match file.level {
                Level::CAPTURED => file.range.max.get() < from,
                _ => {
                    file.range.max.get() <= base
                        && (file.level, file.range) != (Level::SNAPSHOT, range(1, base))
                }
            };
            if is_old {
                self.replica.delete(&file).unwrap();
            }
        }
    }

    /// A file with a page or a header field other than it had, whole in itself.
    pub fn rewrite(&self, file: &FileInfo, change: impl Fn(&mut Header, &mut Vec<(u32, Vec<u8>)>)) {
        let bytes = self.bytes(file);
        let mut decoder = Decoder::new(&bytes[..], "file").unwrap();
        let mut header = *decoder.header();
        let mut page = vec![0; header.page_size.bytes()];
        let mut pages = Vec::new();
        while let Some(pgno) = decoder.next_page(&mut page).unwrap() {
            pages.push((pgno.get(), page.clone()));
        }
        change(&mut header, &mut pages);
        std::fs::write(self.path(file), crate::ltx::sample::file(header, &pages)).unwrap();
    }
}
