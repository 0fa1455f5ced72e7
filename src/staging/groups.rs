//! What a process remembers of the sealed groups in the log ([`super::log`]).

use std::collections::BTreeMap;

use super::log::{Log, Sealed};
use super::sent::Sent;
use crate::error::Result;
use crate::fs::durable::Temp;
use crate::types::Txid;

/// The sealed groups in the log, remembered by the process that worked on it last: txid and bytes of each.
#[derive(Default)]
pub struct Groups {
    sizes: BTreeMap<Txid, u64>,
    bytes: u64,
    /// The one that this process sealed last.
    added: Option<Sealed>,
    /// The newest that nobody needs: it goes when the next group is written in its place.
    unneeded: Option<Txid>,
}

impl Groups {
    /// Reads them from the folder.
    ///
    /// # Errors
    /// `Io`.
    pub fn read(log: &Log) -> Result<Groups> {
        let mut sizes = BTreeMap::new();
        for txid in log.txids()? {
            sizes.insert(txid, std::fs::metadata(log.path_of(txid)).map_or(0, |m| m.len()));
        }
        let bytes = sizes.values().sum();
        Ok(Groups { sizes, bytes, added: None, unneeded: None })
    }

    /// Adds the group that this process has just sealed.
    pub fn add(&mut self, sealed: Sealed) {
        self.sizes.insert(sealed.txid, sealed.size);
        self.bytes += sealed.size;
        self.added = Some(sealed);
    }

    pub fn contains(&self, txid: Txid) -> bool {
        self.sizes.contains_key(&txid)
    }

    /// Txid of the newest.
    pub fn newest(&self) -> Option<Txid> {
        self.sizes.last_key_value().map(|(&txid, _)| txid)
    }

    /// Those after `txid`, ascending; all of them after `None`.
    pub fn after(&self, txid: Option<Txid>) -> Vec<Txid> {
        let from = txid.map_or(Txid::FIRST, Txid::next);
        self.sizes.range(from..).map(|(&txid, _)| txid).collect()
    }

    /// The group sealed as `txid`.
    ///
    /// # Errors
    /// As [`Log::sealed`].
    pub fn get(&self, log: &Log, txid: Txid) -> Result<Sealed> {
        self.added.filter(|sealed| sealed.txid == txid).map_or_else(|| log.sealed(txid), Ok)
    }

    /// Removes those up to `txid` from the log, into `sent` if that keeps any; else the newest of them when the next group is
    /// sealed, which is written in its place. The newest of all stays,
    /// and so does `durable`: until a later one survives a loss of power, it alone says afterwards where the history stood.
    ///
    /// # Errors
    /// `Io`.
    pub fn forget_to(&mut self, log: &Log, txid: Txid, durable: Option<Txid>, sent: &mut Sent) -> Result<()> {
        let newest = self.newest();
        let gone = |t: &Txid| *t <= txid && Some(*t) != newest && Some(*t) != durable;
        let mut gone: Vec<Txid> = self.sizes.range(..=txid).map(|(&t, _)| t).filter(gone).collect();
        if !sent.keeps() {
            self.unneeded = gone.pop();
            return gone.into_iter().try_for_each(|txid| self.forget(log, txid));
        }
        for txid in gone {
            sent.take(log, txid, self.sizes.get(&txid).copied().unwrap_or(0))?;
            self.bytes -= self.sizes.remove(&txid).unwrap_or(0);
        }
        Ok(())
    }

    fn forget(&mut self, log: &Log, txid: Txid) -> Result<()> {
        log.forget(txid)?;
        self.bytes -= self.sizes.remove(&txid).unwrap_or(0);
        Ok(())
    }

    /// A file to be written anew as the next group.
    ///
    /// # Errors
    /// `Io`.
    pub fn take_unneeded(&mut self, log: &Log) -> Result<Option<Temp>> {
        let Some(txid) = self.unneeded.take() else { return Ok(None) };
        let temp = Temp::of_unneeded(&log.path_of(txid)).ok();
        if temp.is_none() {
            self.forget(log, txid)?;
        } else {
            self.bytes -= self.sizes.remove(&txid).unwrap_or(0);
        }
        Ok(temp)
    }

    /// Removes at once what would be removed when the next group is sealed.
    ///
    /// # Errors
    /// `Io`.
    pub fn forget_unneeded(&mut self, log: &Log) -> Result<()> {
        self.unneeded.take().map_or(Ok(()), |txid| self.forget(log, txid))
    }

    /// Bytes of those that somebody may need.
    pub fn bytes(&self) -> u64 {
        let unneeded = self.unneeded.and_then(|txid| self.sizes.get(&txid));
        self.bytes - unneeded.copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ltx::Header;
    use crate::staging::log::tests::seal;
    use crate::testing::Folder;

    #[test]
    fn groups_are_forgotten_oldest_first_and_the_newest_stays() {
        let dir = Folder::new();
        let log = Log::open(&dir.path().join("db-replica")).unwrap();
        for n in 3..6 {
            seal(&log, n).unwrap();
        }
        let txid = |n| Txid::new(n).unwrap();
        let (mut groups, mut none) = (Groups::read(&log).unwrap(), Sent::new(&log, 0));
        assert_eq!(groups.after(Some(txid(3))), [txid(4), txid(5)]);
        assert_eq!(groups.bytes(), 3 * Header::BYTES as u64);
        groups.forget_to(&log, txid(3), None, &mut none).unwrap();
        assert_eq!(
            (groups.bytes(), log.txids().unwrap().len()),
            (2 * Header::BYTES as u64, 3),
            "3 goes later"
        );
        seal(&log, 6).unwrap();
        groups.add(log.sealed(txid(6)).unwrap());
        groups.forget_to(&log, txid(9), Some(txid(4)), &mut none).unwrap();
        assert_eq!(log.txids().unwrap(), [txid(4), txid(5), txid(6)], "what survives a loss of power stays");
        groups.forget_to(&log, txid(9), Some(txid(6)), &mut none).unwrap();
        assert_eq!(groups.bytes(), Header::BYTES as u64);
        assert_eq!(log.txids().unwrap(), [txid(5), txid(6)]);
        let temp = groups.take_unneeded(&log).unwrap().expect("5 is there and nobody needs it");
        assert_eq!(log.txids().unwrap(), [txid(6)]);
        assert_eq!((groups.after(None), groups.contains(txid(5))), (vec![txid(6)], false));
        drop(temp);
        assert!(groups.take_unneeded(&log).unwrap().is_none());
    }
}
