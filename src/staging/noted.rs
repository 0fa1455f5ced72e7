//! The noted set: every page whose content may differ from what the newest sealed group says.
//!
//! ```text
//! word 0        magic          word 1  all pages are noted (open)      word 2  all pages are noted (taken)
//! word 3        length of the file in words: who has mapped less maps it anew
//! words 64..    summary: one bit for each block of 32,768 pages
//! then          for each 64 pages two words: the open bits, the taken bits
//! ```
//!
//! Open bits are set by anybody at any time, in any process. Whoever holds the capture lock *takes* them: moves
//! them to the taken bits, reads the pages, seals a group, and then *settles*: clears the taken bits. A process
//! killed anywhere in between leaves each bit in one of the two places.
//!
//! Promise: a bit set before [`NotedSet::take`] is in its answer, or in that of a later take; and whoever takes
//! looks at the database afterwards, so that the change behind the bit is seen. (Bits are moved by first setting
//! the taken bit and then clearing the open one. A note that finds its bit still set may be cleared right after;
//! its change happened before and is therefore seen by the reader that follows the take. Rollback-mode writers,
//! who note *before* they change, are taken only while no such transaction is open, or noted again at commit.)

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};
use crate::fs::SharedMap;
use crate::lock::RwLock;
#[cfg(test)]
use crate::testing::mutation::{self, Mutation};
use crate::types::Pgno;

const MAGIC: u64 = u64::from_be_bytes(*b"SQLRNOT1");
const ALL_OPEN: usize = 1;
const ALL_TAKEN: usize = 2;
const LENGTH: usize = 3;
const SUMMARY: usize = 64;
/// Blocks of 32,768 pages that cover every page number.
const BLOCKS: usize = 1 << 17;
const BITS: usize = SUMMARY + BLOCKS / 64;
const WORDS_PER_BLOCK: usize = 32_768 / 64 * 2;

/// What a take found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Every page of the database counts as noted.
    pub all: bool,
    /// Page numbers, ascending; not all of them when `all` is set.
    pub pages: Vec<Pgno>,
}

pub struct NotedSet {
    // Guards the mapping only: noting takes it shared, growing alone.
    map: RwLock<SharedMap>,
}

impl NotedSet {
    /// # Errors
    /// `Corrupt` when the file is of another kind; `Full` or `Io` from the mapping.
    pub fn open(path: &Path) -> Result<NotedSet> {
        let map = SharedMap::open(path, BITS + WORDS_PER_BLOCK)?;
        match map.words()[0].compare_exchange(0, MAGIC, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) | Err(MAGIC) => {
                map.words()[LENGTH].fetch_max(map.len_words() as u64, Ordering::SeqCst);
                Ok(NotedSet { map: RwLock::new(map) })
            }
            Err(_) => Err(Error::corrupt(format!(
                "{} is not a noted set of this format; move the folder away to start from a full scan",
                path.display()
            ))),
        }
    }

    /// Notes one page. When the file cannot grow, notes every page instead: that needs no room.
    pub fn note(&self, pgno: Pgno) {
        let (word, bit) = place(pgno);
        let map = self.map.read();
        if word + 1 < map.words().len() {
            note_in(map.words(), pgno, word, bit);
            return;
        }
        drop(map);
        let mut map = self.map.write();
        // A quarter more, so that a growing database does not map anew for every block.
        if map.grow((word + 2) + (word + 2) / 4).is_ok() {
            map.words()[LENGTH].fetch_max(map.len_words() as u64, Ordering::SeqCst);
            note_in(map.words(), pgno, word, bit);
        } else {
            map.words()[ALL_OPEN].store(1, Ordering::SeqCst);
        }
    }

    pub fn note_all(&self) {
        self.map.read().words()[ALL_OPEN].store(1, Ordering::SeqCst);
    }

    /// Gives back what was taken and not read.
    pub fn note_again(&self, taken: &Taken) {
        taken.pages.iter().for_each(|&pgno| self.note(pgno));
        if taken.all {
            self.note_all();
        }
    }

    /// Nothing is noted, neither open nor taken.
    pub fn is_empty(&self) -> bool {
        let map = self.map.read();
        let words = map.words();
        words[ALL_OPEN].load(Ordering::SeqCst) == 0
            && words[ALL_TAKEN].load(Ordering::SeqCst) == 0
            && summary(words).iter().all(|w| w.load(Ordering::SeqCst) == 0)
    }

    /// Every page is noted: what changed is found by comparing them, whoever changed it.
    pub fn is_all(&self) -> bool {
        let map = self.map.read();
        let words = map.words();
        words[ALL_OPEN].load(Ordering::SeqCst) != 0 || words[ALL_TAKEN].load(Ordering::SeqCst) != 0
    }

    /// Something is noted that no take has moved yet.
    pub fn has_open(&self) -> bool {
        let map = self.map.read();
        let words = map.words();
        words[ALL_OPEN].load(Ordering::SeqCst) != 0
            || blocks(words)
                .any(|block| pairs(words, block).any(|(open, _, _)| open.load(Ordering::SeqCst) != 0))
    }

    /// Moves open bits to the taken ones and answers what was moved; with `again`, also what was taken before and
    /// never settled. Only under the capture lock.
    pub fn take(&self, again: bool) -> Taken {
        let mut map = self.map.write();
        // Another process may have grown the file; a bit beyond our mapping would be missed.
        let length = map.words()[LENGTH].load(Ordering::SeqCst) as usize;
        // What a loss of power left behind may say more than there is: nothing was noted there.
        if length > map.len_words() && map.take_in().is_err() {
            map.words()[ALL_OPEN].store(1, Ordering::SeqCst);
        }
        let words = map.words();
        let mut taken = Taken::default();
        if words[ALL_OPEN].load(Ordering::SeqCst) != 0 {
            words[ALL_TAKEN].store(1, Ordering::SeqCst);
            words[ALL_OPEN].store(0, Ordering::SeqCst);
            taken.all = true;
        }
        taken.all |= again && words[ALL_TAKEN].load(Ordering::SeqCst) != 0;
        for block in blocks(words) {
            for (open, moved, first) in pairs(words, block) {
                let bits = open.load(Ordering::SeqCst);
                let before = if bits == 0 {
                    moved.load(Ordering::SeqCst)
                } else {
                    let before = moved.fetch_or(bits, Ordering::SeqCst);
                    open.fetch_and(!bits, Ordering::SeqCst);
                    before
                };
                let mut bits = if again { bits | before } else { bits };
                while bits != 0 {
                    taken.pages.extend(first.checked_add(bits.trailing_zeros()).and_then(Pgno::new));
                    bits &= bits - 1;
                }
            }
        }
        taken
    }

    /// Clears what was taken: the group that holds it is sealed. Only under the capture lock.
    pub fn settle(&self) {
        let map = self.map.read();
        let words = map.words();
        words[ALL_TAKEN].store(0, Ordering::SeqCst);
        for block in blocks(words) {
            #[cfg(test)]
            if mutation::is(Mutation::ForgottenNotes) {
                pairs(words, block).for_each(|(open, _, _)| open.store(0, Ordering::SeqCst));
            }
            for (_, moved, _) in pairs(words, block) {
                if moved.load(Ordering::SeqCst) != 0 {
                    moved.store(0, Ordering::SeqCst);
                }
            }
            // First clear the summary, then look: a note sets its bit before the summary's.
            let (summary, mask) = (&words[SUMMARY + block / 64], 1u64 << (block % 64));
            summary.fetch_and(!mask, Ordering::SeqCst);
            if pairs(words, block).any(|(open, _, _)| open.load(Ordering::SeqCst) != 0) {
                summary.fetch_or(mask, Ordering::SeqCst);
            }
        }
    }

    /// # Errors
    /// `Io`.
    pub fn sync(&self) -> Result<()> {
        self.map.read().sync()
    }
}

fn place(pgno: Pgno) -> (usize, u32) {
    let index = pgno.get() - 1;
    (BITS + (index / 64) as usize * 2, index % 64)
}

fn note_in(words: &[AtomicU64], pgno: Pgno, word: usize, bit: u32) {
    words[word].fetch_or(1 << bit, Ordering::SeqCst);
    let block = (pgno.get() - 1) as usize / 32_768;
    let (summary, mask) = (&words[SUMMARY + block / 64], 1u64 << (block % 64));
    if summary.load(Ordering::SeqCst) & mask == 0 {
        summary.fetch_or(mask, Ordering::SeqCst);
    }
}

/// The words of the summary that can have a bit: those of the blocks that the file has.
fn summary(words: &[AtomicU64]) -> &[AtomicU64] {
    let length = words.len().max(words[LENGTH].load(Ordering::SeqCst) as usize);
    let blocks = (length - BITS).div_ceil(WORDS_PER_BLOCK).min(BLOCKS);
    &words[SUMMARY..SUMMARY + blocks.div_ceil(64)]
}

/// Blocks whose summary bit is set.
fn blocks(words: &[AtomicU64]) -> impl Iterator<Item = usize> + '_ {
    summary(words).iter().enumerate().flat_map(|(at, summary)| {
        let mut bits = summary.load(Ordering::SeqCst);
        std::iter::from_fn(move || {
            if bits == 0 {
                return None;
            }
            let bit = bits.trailing_zeros() as usize;
            bits &= bits - 1;
            Some(at * 64 + bit)
        })
    })
}

/// Open word, taken word and first page number of each 64 pages of a block.
fn pairs(words: &[AtomicU64], block: usize) -> impl Iterator<Item = (&AtomicU64, &AtomicU64, u32)> {
    let start = (BITS + block * WORDS_PER_BLOCK).min(words.len());
    let end = (BITS + (block + 1) * WORDS_PER_BLOCK).min(words.len());
    let first = block as u32 * 32_768 + 1;
    words[start..end]
        .chunks_exact(2)
        .enumerate()
        .map(move |(i, pair)| (&pair[0], &pair[1], first + i as u32 * 64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Folder;

    fn pages(list: &[u32]) -> Vec<Pgno> {
        list.iter().map(|&p| Pgno::new(p).unwrap()).collect()
    }

    #[test]
    fn noted_pages_are_taken_once_and_again_until_settled() {
        let dir = Folder::new();
        let set = NotedSet::open(&dir.path().join("noted")).unwrap();
        assert!(set.is_empty());
        for pgno in pages(&[1, 64, 65, 40_000, 1, 1_000_000]) {
            set.note(pgno);
        }
        let all = pages(&[1, 64, 65, 40_000, 1_000_000]);
        assert_eq!(set.take(false).pages, all);
        assert_eq!(set.take(false).pages, []);
        assert_eq!(set.take(true).pages, all);
        set.note(Pgno::FIRST);
        assert!(set.has_open());
        set.settle();
        assert_eq!(set.take(true).pages, pages(&[1]), "noted after the take");
        set.settle();
        assert!(set.is_empty());
    }

    #[test]
    fn another_process_sees_notes_beyond_its_mapping() {
        let dir = Folder::new();
        let path = dir.path().join("noted");
        let (a, b) = (NotedSet::open(&path).unwrap(), NotedSet::open(&path).unwrap());
        a.note(Pgno::new(5_000_000).unwrap());
        assert!(!b.is_empty());
        assert_eq!(b.take(false).pages, pages(&[5_000_000]));
    }

    #[test]
    fn noting_all_is_a_flag_that_survives_until_settled() {
        let dir = Folder::new();
        let path = dir.path().join("noted");
        NotedSet::open(&path).unwrap().note_all();
        let set = NotedSet::open(&path).unwrap();
        assert!(set.take(false).all);
        assert!(!set.take(false).all);
        assert!(set.take(true).all && set.is_all());
        set.settle();
        assert!(set.is_empty());
    }

    #[test]
    fn concurrent_notes_are_never_lost() {
        let dir = Folder::new();
        let set = NotedSet::open(&dir.path().join("noted")).unwrap();
        let mut seen = std::collections::HashSet::new();
        std::thread::scope(|scope| {
            let writers: Vec<_> = (0..4u32)
                .map(|t| {
                    let set = &set;
                    scope.spawn(move || {
                        (0..20_000u32).for_each(|i| set.note(Pgno::new(i * 4 + t + 1).unwrap()))
                    })
                })
                .collect();
            while writers.iter().any(|w| !w.is_finished()) {
                seen.extend(set.take(false).pages);
                set.settle();
            }
        });
        seen.extend(set.take(false).pages);
        assert_eq!(seen.len(), 80_000);
    }

    #[test]
    fn foreign_file_is_refused() {
        let dir = Folder::new();
        let path = dir.path().join("noted");
        std::fs::write(&path, [1; 4096]).unwrap();
        assert!(NotedSet::open(&path).is_err());
    }
}
