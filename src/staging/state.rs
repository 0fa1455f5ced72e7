//! The mapped state page: marks that outlive a killed process, and anchors that say what is proven.
//!
//! ```text
//! word 0      magic                       1, 2     boot id
//!      3      anchor: WAL cycle (salts)   4        the cycle before it
//!      5      anchor: change tag          6        tag of page 1 as last written
//!      7      number of the open group    8        writer id
//!      9, 10  device and inode           11        who worked last
//!     12      when the next group is due
//!     13      newest group that was made durable in the log    14       frames of a cycle that were seen, and which
//!     15      newest txid whose state is on disk in the database file
//!     16..23  clean mark (below)
//!     24..27  acknowledged txid of each replica         28, 29   WAL position up to which all is acknowledged
//!     30      times that the database was brought to the history of another writer
//!     32      positions pushed so far     64..     ring of positions: txid, checksum, their mixture
//! ```
//!
//! An *anchor* is a recognisable state of the database of which it is proven that every earlier change is noted or
//! sealed. In WAL mode it is the name of the newest WAL cycle; in rollback modes the change tag of page 1; of a
//! database at rest the clean mark: size and times of the file after our last close, and the change tag of its page 1, as
//! times may be lost with the power. What no anchor recognises
//! may have been changed by a program without the extension: every page is noted (Cold).
//!
//! Each word is stored on its own, so nothing is torn for other processes or after SIGKILL. After a loss of power
//! the page counts only where its own checksums say so: the clean mark and each ring entry carry one.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};
use crate::fs::{FileStat, SharedMap};
use crate::sqlite::wal_index::Salts;
use crate::types::{Checksum, Position, Txid};

const MAGIC: u64 = u64::from_be_bytes(*b"SQLRSTA1");
const BOOT: usize = 1;
const CYCLE: usize = 3;
const CYCLE_BEFORE: usize = 4;
const TAG: usize = 5;
const TAG_WRITTEN: usize = 6;
const OPEN_TXID: usize = 7;
const WRITER: usize = 8;
const DEVICE: usize = 9;
const INODE: usize = 10;
const WORKED: usize = 11;
const NEXT_AT: usize = 12;
const LOG_DURABLE: usize = 13;
const FRAMES: usize = 14;
const SYNCED: usize = 15;
const CLEAN: usize = 16;
const CLEAN_LEN: usize = 7;
const CLEAN_TAG: usize = 5;
const ACKNOWLEDGED: usize = 24;
const COVERED_SALTS: usize = 28;
const COVERED_FRAME: usize = 29;
const REJOINED: usize = 30;
const PUSHED: usize = 32;
const RING: usize = 64;
const RING_ENTRY: usize = 3;
/// Positions remembered: enough to know our own state again after the database file fell back behind them.
pub const RING_LEN: usize = 4096;

/// Replicas of one database: a home and two copies.
pub const REPLICAS_MAX: usize = 3;

pub struct State {
    map: SharedMap,
}

impl State {
    /// # Errors
    /// `Corrupt` when the file is of another kind; `Full` or `Io` from the mapping.
    pub fn open(path: &Path) -> Result<State> {
        let map = SharedMap::open(path, RING + RING_LEN * RING_ENTRY)?;
        match map.words()[0].compare_exchange(0, MAGIC, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) | Err(MAGIC) => Ok(State { map }),
            Err(_) => Err(Error::corrupt(format!(
                "{} is not a state page of this format; move the folder away to start from a full scan",
                path.display()
            ))),
        }
    }

    /// The boot under which the marks were stored.
    pub fn boot(&self) -> [u64; 2] {
        [self.get(BOOT), self.get(BOOT + 1)]
    }

    /// Under this boot, or never; otherwise the machine went down since.
    pub fn is_of_boot(&self, boot: [u64; 2]) -> bool {
        self.boot() == [0, 0] || self.boot() == boot
    }

    pub fn set_boot(&self, boot: [u64; 2]) {
        self.set(BOOT, boot[0]);
        self.set(BOOT + 1, boot[1]);
    }

    /// Device and inode of the database the log belongs to.
    pub fn file_id(&self) -> (u64, u64) {
        (self.get(DEVICE), self.get(INODE))
    }

    pub fn set_file_id(&self, (device, inode): (u64, u64)) {
        self.set(DEVICE, device);
        self.set(INODE, inode);
    }

    /// Newest WAL cycle before which everything is noted or sealed; `None` while no WAL was seen.
    pub fn cycle(&self) -> Option<Salts> {
        Some(self.get(CYCLE)).filter(|&s| s != 0)
    }

    /// The cycle before [`State::cycle`]: a process killed between choosing new salts and writing them to the WAL
    /// leaves the old ones there, and a recovery goes back to them.
    pub fn cycle_before(&self) -> Option<Salts> {
        Some(self.get(CYCLE_BEFORE)).filter(|&s| s != 0)
    }

    pub fn set_cycle(&self, salts: Option<Salts>) {
        let new = salts.unwrap_or(0);
        if new != self.get(CYCLE) {
            self.set(FRAMES, 0);
            self.set(CYCLE_BEFORE, self.get(CYCLE));
            self.set(CYCLE, new);
        }
    }

    /// Committed frames of [`State::cycle`] that some process has seen: a WAL that holds fewer lost some.
    pub fn frames_seen(&self) -> u32 {
        let word = self.get(FRAMES);
        if word >> 32 == half_of(self.get(CYCLE)) { word as u32 } else { 0 }
    }

    /// So many frames of a cycle were seen. Another process may have begun the next one meanwhile: they are none of that.
    pub fn see_frames(&self, salts: Salts, frames: u32) {
        let there = self.get(FRAMES);
        let is_more = there >> 32 != half_of(salts) || frames > there as u32;
        if is_more && self.get(CYCLE) == salts {
            self.set(FRAMES, half_of(salts) << 32 | u64::from(frames));
        }
    }

    /// Change tag of page 1 after the last rollback-mode commit of ours; 0: unknown.
    pub fn tag(&self) -> u64 {
        self.get(TAG)
    }

    pub fn set_tag(&self, tag: u64) {
        self.set(TAG, tag);
    }

    /// Change tag of the page 1 that was last written, committed or not; 0: none since the last commit.
    pub fn tag_written(&self) -> u64 {
        self.get(TAG_WRITTEN)
    }

    pub fn set_tag_written(&self, tag: u64) {
        self.set(TAG_WRITTEN, tag);
    }

    /// Txid of the group that a commit published now will be part of, at the latest.
    pub fn open_txid(&self) -> Option<Txid> {
        Txid::new(self.get(OPEN_TXID))
    }

    pub fn set_open_txid(&self, txid: Txid) {
        self.set(OPEN_TXID, txid.get());
    }

    pub fn writer(&self) -> u64 {
        self.get(WRITER)
    }

    pub fn set_writer(&self, writer: u64) {
        self.set(WRITER, writer);
    }

    /// Who worked on the log last, by the number it drew; 0: nobody may rely on what it remembers. Only under the
    /// capture lock.
    pub fn worked_last(&self) -> u64 {
        self.get(WORKED)
    }

    pub fn set_worked_last(&self, who: u64) {
        self.set(WORKED, who);
    }

    /// When the next group is due, on this machine's monotonic clock; it paces, and proves nothing.
    pub fn next_at_ns(&self) -> u64 {
        self.get(NEXT_AT)
    }

    pub fn set_next_at_ns(&self, at: u64) {
        self.set(NEXT_AT, at);
    }

    /// The newest group that was made to survive a loss of power in the log, since the database was opened. Only under
    /// the capture lock.
    pub fn log_durable(&self) -> Option<Txid> {
        Txid::new(self.get(LOG_DURABLE))
    }

    pub fn set_log_durable(&self, txid: Option<Txid>) {
        self.set(LOG_DURABLE, txid.map_or(0, Txid::get));
    }

    /// Newest txid whose state no loss of power can take from the database file; `None`: none is known.
    pub fn synced(&self) -> Option<Txid> {
        Txid::new(self.get(SYNCED))
    }

    pub fn set_synced(&self, txid: Option<Txid>) {
        self.set(SYNCED, txid.map_or(0, Txid::get));
    }

    /// A position of the WAL, salts and frame, of which every commit up to it is acknowledged by the home replica.
    /// Frames of other salts do not compare. Good only while somebody has the database open: what a crash cuts off the
    /// WAL is written anew with the same salts.
    pub fn covered(&self) -> Option<(Salts, u32)> {
        let salts = self.get(COVERED_SALTS);
        let frame = self.get(COVERED_FRAME) as u32;
        // Between the two words another one may have been stored: then the salts have changed, or there is no frame yet.
        (frame != 0 && self.get(COVERED_SALTS) == salts).then_some((salts, frame))
    }

    /// Only under the capture lock, or alone.
    pub fn set_covered(&self, position: Option<(Salts, u32)>) {
        let (salts, frame) = position.unwrap_or((0, 0));
        if self.get(COVERED_SALTS) != salts {
            self.set(COVERED_FRAME, 0);
            self.set(COVERED_SALTS, salts);
        }
        self.set(COVERED_FRAME, u64::from(frame));
    }

    /// Newest txid that the replica `index` (0: home) is known to have, durable; `None`: none.
    pub fn acknowledged(&self, index: usize) -> Option<Txid> {
        Txid::new(self.get(ACKNOWLEDGED + index))
    }

    pub fn set_acknowledged(&self, index: usize, txid: Option<Txid>) {
        assert!(index < REPLICAS_MAX, "BUG: replica {index}");
        self.set(ACKNOWLEDGED + index, txid.map_or(0, Txid::get));
    }

    /// Times that some process ended a fence by [`State::count_rejoin`].
    pub fn rejoined(&self) -> u64 {
        self.get(REJOINED)
    }

    /// The database was brought to the history of another writer. Only under the capture lock.
    pub fn count_rejoin(&self) {
        self.set(REJOINED, self.rejoined().wrapping_add(1));
    }

    /// The words of the clean mark, each read once; `None` after anything but a clean close.
    fn clean_words(&self) -> Option<[u64; CLEAN_LEN]> {
        let words: [u64; CLEAN_LEN] = std::array::from_fn(|i| self.get(CLEAN + i));
        (words[0] != 0 && words[CLEAN_LEN - 1] == mix(&words[..CLEAN_LEN - 1])).then_some(words)
    }

    /// The database at rest, as our last close left it; `None` after anything but a clean close.
    pub fn clean(&self) -> Option<FileStat> {
        self.clean_words().map(|words| FileStat {
            device: self.get(DEVICE),
            inode: words[1],
            size: words[2],
            modified_ns: words[3] as i64,
            changed_ns: words[4] as i64,
        })
    }

    /// Change tag of page 1 of the database at rest.
    pub fn clean_tag(&self) -> Option<u64> {
        self.clean_words().map(|words| words[CLEAN_TAG])
    }

    /// Sets the clean mark, the file as it is and the change tag of its page 1, or takes it away.
    pub fn set_clean(&self, file: Option<(&FileStat, u64)>) {
        self.set(CLEAN, 0);
        if let Some((stat, tag)) = file {
            let words = [1, stat.inode, stat.size, stat.modified_ns as u64, stat.changed_ns as u64, tag];
            self.set(CLEAN + CLEAN_LEN - 1, mix(&words));
            for (i, &word) in words.iter().enumerate().rev() {
                self.set(CLEAN + i, word);
            }
        }
    }

    /// Remembers a position that a sealed group reached.
    pub fn push_position(&self, position: Position) {
        let at = self.get(PUSHED);
        let entry = RING + (at as usize % RING_LEN) * RING_ENTRY;
        let words = [position.txid.get(), position.checksum.get()];
        self.set(entry, words[0]);
        self.set(entry + 1, words[1]);
        self.set(entry + 2, mix(&words));
        self.set(PUSHED, at.wrapping_add(1));
    }

    /// Positions remembered, newest first.
    pub fn positions(&self) -> impl Iterator<Item = Position> + '_ {
        self.places().flatten()
    }

    /// Whether this database was there.
    pub fn remembers(&self, position: Position) -> bool {
        self.positions().any(|known| known == position)
    }

    /// [`State::positions`]; `None` for one that a loss of power took.
    pub fn places(&self) -> impl Iterator<Item = Option<Position>> + '_ {
        let pushed = self.get(PUSHED) as usize;
        (pushed.saturating_sub(RING_LEN)..pushed).rev().map(|at| {
            let entry = RING + (at % RING_LEN) * RING_ENTRY;
            let words = [self.get(entry), self.get(entry + 1)];
            if self.get(entry + 2) != mix(&words) {
                return None;
            }
            Some(Position { txid: Txid::new(words[0])?, checksum: Checksum::from_wire(words[1])? })
        })
    }

    /// # Errors
    /// `Io`.
    pub fn sync(&self) -> Result<()> {
        self.map.sync()
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        &self.map.words()[index]
    }

    fn get(&self, index: usize) -> u64 {
        self.word(index).load(Ordering::SeqCst)
    }

    fn set(&self, index: usize, value: u64) {
        self.word(index).store(value, Ordering::SeqCst);
    }
}

/// What tells a cycle from those around it: the second salt is drawn anew for each.
fn half_of(salts: Salts) -> u64 {
    (salts ^ (salts >> 32)) & 0xffff_ffff
}

/// A checksum of a few words (FNV-1a over their bytes); never 0, so that zeroed words are not valid.
fn mix(words: &[u64]) -> u64 {
    let bytes = words.iter().flat_map(|w| w.to_le_bytes());
    bytes
        .fold(0xcbf2_9ce4_8422_2325, |h: u64, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3))
        .max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Folder;

    fn position(n: u64) -> Position {
        Position { txid: Txid::new(n).unwrap(), checksum: Checksum::from_crc(n * 7) }
    }

    #[test]
    fn ring_keeps_the_newest_positions_newest_first() {
        let dir = Folder::new();
        let state = State::open(&dir.path().join("state")).unwrap();
        assert_eq!(state.positions().count(), 0);
        (1..=RING_LEN as u64 + 10).for_each(|n| state.push_position(position(n)));
        let kept: Vec<_> = state.positions().collect();
        assert_eq!(kept.len(), RING_LEN);
        assert_eq!((kept[0], kept[RING_LEN - 1]), (position(RING_LEN as u64 + 10), position(11)));
    }

    #[test]
    fn clean_mark_with_a_torn_word_is_no_mark() {
        let dir = Folder::new();
        let state = State::open(&dir.path().join("state")).unwrap();
        let stat = FileStat { device: 0, inode: 3, size: 4096, modified_ns: 5, changed_ns: -6 };
        state.set_clean(Some((&stat, 9)));
        assert_eq!((state.clean(), state.clean_tag()), (Some(stat.clone()), Some(9)));
        state.set(CLEAN + 2, 8192);
        assert_eq!((state.clean(), state.clean_tag()), (None, None));
        state.set_clean(Some((&stat, 9)));
        state.set_clean(None);
        assert_eq!(state.clean(), None);
    }

    #[test]
    fn covered_position_is_whole_or_none() {
        let dir = Folder::new();
        let state = State::open(&dir.path().join("state")).unwrap();
        assert_eq!(state.covered(), None);
        state.set_covered(Some((7, 3)));
        state.set_covered(Some((7, 5)));
        assert_eq!(state.covered(), Some((7, 5)));
        state.set(COVERED_FRAME, 0);
        state.set(COVERED_SALTS, 8);
        assert_eq!(state.covered(), None, "in the middle of a change");
        state.set_covered(None);
        assert_eq!(state.covered(), None);
    }

    #[test]
    fn previous_cycle_is_remembered_once() {
        let dir = Folder::new();
        let state = State::open(&dir.path().join("state")).unwrap();
        state.set_cycle(Some(1));
        state.set_cycle(Some(2));
        state.see_frames(2, 9);
        state.see_frames(2, 7);
        state.see_frames(1, 20);
        state.set_cycle(Some(2));
        assert_eq!((state.cycle(), state.cycle_before()), (Some(2), Some(1)));
        assert_eq!(state.frames_seen(), 9);
        state.set_cycle(Some(3));
        assert_eq!(state.frames_seen(), 0, "another cycle begins without frames");
        state.see_frames(3, 4);
        state.set(FRAMES, half_of(2) << 32 | 900);
        assert_eq!(state.frames_seen(), 0, "another process came late with those of the cycle before");
        state.see_frames(3, 5);
        assert_eq!(state.frames_seen(), 5);
    }
}
