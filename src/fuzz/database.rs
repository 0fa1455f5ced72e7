//! What lies beside a database, or in it: WAL, rollback journal, wal-index, and the three files at rest.

use super::{MIB, Target, check_error, codes, join, parts, unmended};
use crate::capture::at_rest::{self, Hot};
use crate::capture::{Files, wal_pages};
use crate::error::Result;
use crate::sqlite::journal::{self, Playback};
use crate::sqlite::wal::{self, Chain};
use crate::sqlite::{header, wal_index};
use crate::types::{PageSize, Pgno};

pub const WAL: Target = Target {
    name: "wal",
    samples: || vec![wal_sample(1), wal_sample(5), wal_sample(12)],
    words: &[],
    mend: codes::wal,
    run: chain,
    memory_max: MIB,
    is_parts: false,
};

pub const JOURNAL: Target = Target {
    name: "journal",
    samples: || vec![journal_sample(3), journal_sample(u32::MAX), two_headers(), with_super_journal()],
    words: &["\u{9}", "/there", "/gone"],
    mend: codes::journal,
    run: |bytes| drop(playback(bytes)),
    ..WAL
};

pub const AT_REST: Target = Target {
    name: "at-rest",
    samples: || {
        let with_wal = [file(3), wal_sample(5), vec![]];
        vec![join(&with_wal), join(&[file(3), vec![], journal_sample(3)]), join(&[file(9), vec![], vec![]])]
    },
    mend: |bytes| {
        let mut files = parts(bytes);
        files.resize(3, vec![]);
        join(&[files[0].clone(), codes::wal(&files[1]), codes::journal(&files[2])])
    },
    run: at_rest,
    // Of each page that may be there without lying anywhere, its checksum.
    memory_max: 80 * MIB,
    is_parts: true,
    ..WAL
};

pub const WAL_INDEX: Target =
    Target { name: "wal-index", samples: || vec![index_sample()], mend: mend_index, run: wal_index, ..WAL };

/// A database of so many pages of 512 bytes.
pub fn file(pages: u32) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..pages as usize * 512).map(|at| (at / 512) as u8).collect();
    bytes[..16].copy_from_slice(b"SQLite format 3\0");
    bytes[16..20].copy_from_slice(&[2, 0, 2, 2]);
    bytes[24..32].copy_from_slice(&[[0, 0, 0, 7], pages.to_be_bytes()].concat());
    bytes[92..96].copy_from_slice(&[0, 0, 0, 7]);
    bytes
}

/// A WAL of so many frames, every second of which ends a commit.
pub fn wal_sample(frames: u32) -> Vec<u8> {
    let words = [0x377f_0682u32, 3_007_000, 512, 0, 11, 22, 0, 0];
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
    for at in 0..frames {
        let commit = if at % 2 == 1 || at + 1 == frames { 3 } else { 0 };
        for word in [at % 3 + 1, commit, 0, 0, 0, 0] {
            bytes.extend(word.to_be_bytes());
        }
        let page = if at % 3 == 0 { file(3)[..512].to_vec() } else { vec![at as u8; 512] };
        bytes.extend(page);
    }
    codes::wal(&bytes)
}

fn journal_sample(records: u32) -> Vec<u8> {
    let mut bytes = journal::header(records, 77, 9, PageSize::new(512).unwrap());
    (1..=3).for_each(|n| bytes.extend(journal::record(Pgno::new(n).unwrap(), &[n as u8; 512], 77)));
    bytes
}

fn two_headers() -> Vec<u8> {
    let mut bytes = journal_sample(3);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes.extend(journal_sample(3));
    bytes
}

fn with_super_journal() -> Vec<u8> {
    let name = b"/there";
    let sum = name.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    let end = [&name[..], &6u32.to_be_bytes(), &sum.to_be_bytes(), &journal::MAGIC].concat();
    [journal_sample(3), vec![0, 32, 0, 1], end].concat()
}

fn chain(bytes: &[u8]) {
    let Some(header) = wal::parse_header(bytes) else { return };
    let (mut chain, length) = (Chain::new(header), wal::FRAME_HEADER_LEN + header.page_size.bytes());
    let frames = bytes[wal::HEADER_LEN..].chunks(length);
    let accepted = frames.clone().take_while(|frame| chain.accept(frame)).count();
    assert_eq!(chain.next_frame() as usize, accepted + 1);
    assert!(chain.committed() as usize <= accepted && chain.pages().count() <= accepted);
    let committed = chain.committed();
    chain.rewind();
    assert_eq!(chain.next_frame(), committed + 1);
    let again = frames.skip(committed as usize).take_while(|frame| chain.accept(frame)).count();
    assert_eq!(committed as usize + again, accepted, "the same frames again");
}

fn reader(bytes: &[u8]) -> impl Fn(u64, &mut [u8]) -> Result<usize> {
    move |at, out: &mut [u8]| {
        let there = usize::try_from(at).ok().and_then(|at| bytes.get(at..)).unwrap_or_default();
        let count = there.len().min(out.len());
        out[..count].copy_from_slice(&there[..count]);
        Ok(count)
    }
}

fn playback(bytes: &[u8]) -> Option<Playback> {
    let found = journal::parse(bytes.len() as u64, &reader(bytes), &|name| name == b"/there").unwrap()?;
    for (pgno, at) in &found.pages {
        assert!(pgno.get() <= found.page_count && *at + found.page_size.bytes() as u64 <= bytes.len() as u64);
    }
    Some(found)
}

/// A database and its WAL.
struct Bytes {
    database: Vec<u8>,
    wal: Vec<u8>,
}

impl Files for Bytes {
    fn read_database(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        buffer.fill(0);
        reader(&self.database)(offset, buffer)
    }
    fn database_size(&self) -> Result<u64> {
        Ok(self.database.len() as u64)
    }
    fn read_wal(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        reader(&self.wal)(offset, buffer)
    }
    fn wal_size(&self) -> Result<u64> {
        Ok(self.wal.len() as u64)
    }
}

fn at_rest(bytes: &[u8]) {
    let mut files = parts(bytes);
    files.resize(3, vec![]);
    let journal = files.pop().unwrap();
    let live = Bytes { wal: files.pop().unwrap(), database: files.pop().unwrap() };
    header::parse(&live.database);
    match wal_pages::file_shape(&live, PageSize::new(512)) {
        Ok(Some(shape)) => assert!(shape.page_count > 0),
        Ok(None) => {}
        Err(error) => check_error(&error),
    }
    at_rest::frames_left(&live, 40).unwrap();
    let read = reader(&journal);
    let hot = playback(&journal).map(|playback| Hot { playback, read: &read });
    match at_rest::read(&live, hot.as_ref()) {
        Ok(Some(whole)) => assert_eq!(whole.pages.len(), whole.shape.page_count as usize),
        Ok(None) => {}
        Err(error) => check_error(&error),
    }
}

/// Regions of shared memory, 8192 words each.
struct Memory(Vec<u32>);

impl wal_index::Regions for Memory {
    fn word(&self, region: usize, word: usize) -> Option<u32> {
        self.0.get(region.checked_mul(8192)?.checked_add(word)?).copied()
    }
    fn fence(&self) {}
}

fn index_words(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks_exact(4).map(|word| u32::from_ne_bytes(word.try_into().unwrap())).collect()
}

/// The first region of a WAL of three frames.
fn index_sample() -> Vec<u8> {
    let mut words = vec![0u32; 8192];
    words[0] = 3_007_000;
    words[3] = u32::from_ne_bytes([1, 0, 0, 2]);
    (words[4], words[5], words[8], words[9]) = (3, 3, 11, 22);
    for frame in 1..=3usize {
        words[33 + frame] = frame as u32;
        let key = frame * 383;
        let mut pair = words[4096 + key / 2].to_ne_bytes();
        pair[key % 2 * 2] = frame as u8;
        words[4096 + key / 2] = u32::from_ne_bytes(pair);
    }
    mend_index(&words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<u8>>())
}

/// Both copies of the header with the right checksum.
fn mend_index(bytes: &[u8]) -> Vec<u8> {
    let mut words = index_words(bytes);
    if words.len() < 24 {
        return unmended(bytes);
    }
    let (mut a, mut b) = (0u32, 0u32);
    for pair in words[..10].chunks_exact(2) {
        a = a.wrapping_add(pair[0]).wrapping_add(b);
        b = b.wrapping_add(pair[1]).wrapping_add(a);
    }
    (words[10], words[11]) = (a, b);
    words.copy_within(..12, 12);
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn wal_index(bytes: &[u8]) {
    let memory = Memory(index_words(bytes));
    let Some(header) = wal_index::read_header(&memory) else { return };
    wal_index::backfill_attempted(&memory);
    for pgno in [1, 2, 3, 9, u32::MAX] {
        if let Ok(Some(frame)) = wal_index::find(&memory, Pgno::new(pgno).unwrap(), header.mx_frame) {
            assert!(frame <= header.mx_frame);
        }
    }
    for frame in [1, 2, 3, header.mx_frame] {
        wal_index::pgno_of(&memory, frame);
    }
}
