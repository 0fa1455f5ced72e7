//! Groups that the home replica has acknowledged, kept a while: from them merges are made without reading them back.
//!
//! A group is moved from the log into `sent/` when every replica has it; that it lies there is the mark that it was
//! acknowledged. It goes when it is merged, the oldest when there are too many, and all of them at the close; what a process that
//! died has left goes at the next open. Nothing here is needed: what is gone is read from the replica.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use super::log::{Log, remove};
use crate::error::{Error, Kind, Result};
use crate::fs::durable;
use crate::ltx;
use crate::types::{FileInfo, Level, Txid, TxidRange};

pub struct Sent {
    folder: PathBuf,
    /// Those that this process has moved there: bytes of each.
    sizes: BTreeMap<Txid, u64>,
    bytes: u64,
    bytes_max: u64,
}

impl Sent {
    /// Keeps `bytes_max` at the most; 0: nothing.
    pub fn new(log: &Log, bytes_max: u64) -> Sent {
        Sent { folder: folder(log), sizes: BTreeMap::new(), bytes: 0, bytes_max }
    }

    /// Takes a group of this size out of the log, to be kept or to go.
    ///
    /// # Errors
    /// `Io`.
    pub fn take(&mut self, log: &Log, txid: Txid, size: u64) -> Result<()> {
        if size > self.bytes_max {
            return log.forget(txid);
        }
        match self.move_here(log, txid) {
            Err(error) if error.kind() == Kind::Exists => return log.forget(txid),
            // Nothing was kept yet, or the history started over.
            Err(error) if error.kind() == Kind::NotFound => {
                durable::create_folder(&self.folder)?;
                self.move_here(log, txid)?;
            }
            other => other?,
        }
        self.bytes += size;
        self.bytes -= self.sizes.insert(txid, size).unwrap_or(0);
        while self.bytes > self.bytes_max {
            let (&oldest, _) = self.sizes.first_key_value().expect("BUG: bytes of nothing");
            self.forget(oldest)?;
        }
        Ok(())
    }

    /// Whether groups are kept at all.
    pub fn keeps(&self) -> bool {
        self.bytes_max > 0
    }

    /// Those up to `txid` go.
    ///
    /// # Errors
    /// `Io`.
    pub fn forget_to(&mut self, txid: Txid) -> Result<()> {
        let gone: Vec<Txid> = self.sizes.range(..=txid).map(|(&txid, _)| txid).collect();
        gone.into_iter().try_for_each(|txid| self.forget(txid))
    }

    /// All of them go.
    ///
    /// # Errors
    /// `Io`.
    pub fn clear(&mut self) -> Result<()> {
        let newest = self.sizes.last_key_value().map(|(&txid, _)| txid);
        newest.map_or(Ok(()), |newest| self.forget_to(newest))
    }

    /// The copy of a level-0 file that a replica lists; `None`: it must be read there.
    pub fn open(&self, file: &FileInfo) -> Option<File> {
        let is_one = file.level == Level::CAPTURED && file.range == TxidRange::one(file.range.max);
        let copy = File::open(self.path_of(file.range.max)).ok().filter(|_| is_one)?;
        copy.metadata().is_ok_and(|there| there.len() == file.size).then_some(copy)
    }

    fn move_here(&self, log: &Log, txid: Txid) -> Result<()> {
        durable::rename_new(&log.path_of(txid), &self.path_of(txid))
    }

    fn forget(&mut self, txid: Txid) -> Result<()> {
        remove(&self.path_of(txid))?;
        self.bytes -= self.sizes.remove(&txid).unwrap_or(0);
        Ok(())
    }

    fn path_of(&self, txid: Txid) -> PathBuf {
        self.folder.join(ltx::name::format(TxidRange::one(txid)))
    }
}

fn folder(log: &Log) -> PathBuf {
    log.folder().join("sent")
}

/// Removes whatever lies there: of a process that died, or of a history that is over.
///
/// # Errors
/// `Io`.
pub fn remove_all(log: &Log) -> Result<()> {
    remove_folder(&folder(log))
}

fn remove_folder(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", folder, e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::sample::listed;
    use crate::testing::Folder;
    use std::io::Read;

    fn txid(n: u64) -> Txid {
        Txid::new(n).unwrap()
    }

    /// A log with groups of ten bytes each, all of which were sent.
    fn sent(dir: &Folder, count: u64, bytes_max: u64) -> (Log, Sent) {
        let log = Log::open(&dir.path().join("db-replica")).unwrap();
        let mut sent = Sent::new(&log, bytes_max);
        for n in 1..=count {
            std::fs::write(log.path_of(txid(n)), [n as u8; 10]).unwrap();
            sent.take(&log, txid(n), 10).unwrap();
        }
        (log, sent)
    }

    fn there(sent: &Sent, n: u64, size: u64) -> Option<u8> {
        let mut file = sent.open(&FileInfo { size, ..listed(0, n, n, 0) })?;
        let mut bytes = [0; 1];
        file.read_exact(&mut bytes).unwrap();
        Some(bytes[0])
    }

    #[test]
    fn the_newest_are_kept_as_long_as_there_is_room() {
        let dir = Folder::new();
        let (log, mut sent) = sent(&dir, 5, 39);
        assert_eq!(log.txids().unwrap(), []);
        assert_eq!([1, 2, 3, 4, 5].map(|n| there(&sent, n, 10)), [None, None, Some(3), Some(4), Some(5)]);
        assert_eq!(there(&sent, 4, 11), None, "the replica has another file");
        sent.forget_to(txid(4)).unwrap();
        assert_eq!((there(&sent, 4, 10), there(&sent, 5, 10)), (None, Some(5)));
        sent.clear().unwrap();
        assert_eq!((there(&sent, 5, 10), sent.bytes), (None, 0));
    }

    #[test]
    fn a_group_that_is_too_large_goes() {
        let dir = Folder::new();
        let (log, sent) = sent(&dir, 1, 9);
        assert_eq!((there(&sent, 1, 10), log.txids().unwrap().len()), (None, 0));
    }

    #[test]
    fn what_a_dead_process_left_goes() {
        let dir = Folder::new();
        let (log, mut sent) = sent(&dir, 2, 99);
        remove_all(&log).unwrap();
        remove_all(&log).unwrap();
        assert_eq!(there(&sent, 1, 10), None);
        std::fs::write(log.path_of(txid(1)), [7; 20]).unwrap();
        sent.take(&log, txid(1), 20).unwrap();
        assert_eq!((there(&sent, 1, 20), sent.bytes), (Some(7), 30), "a history that started over");
        sent.clear().unwrap();
        assert_eq!(sent.bytes, 0);
    }
}
