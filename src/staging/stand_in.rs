//! A page 1 that stands for another one: what SQLite makes of it when a database that is open is overwritten.
//!
//! SQLite's backup writes every page as it is, but of page 1 it counts up the change counter and the schema cookie, so that
//! other connections drop what they remember, and it sets the fields that say which SQLite wrote it and in which journal mode.
//! Nothing of that is content. The local file then is the state N with another page 1:
//!
//! ```text
//! stand-in-<checksum of page 1 in N>-<checksum of that page without the fields that SQLite sets>      an empty file in the log
//! ```
//!
//! A stand-in is written before the transaction that needs it, because it tells what may come of page 1 without the bytes that
//! nobody knows before. It is in force while page 1 of the newest sealed state is the one it names: the first group that is
//! sealed holds page 1 as it is in the file, and ends it.

use super::log::{Log, create, remove};
use crate::error::{Error, Kind, Result};
use crate::ltx::page_checksum;
use crate::types::{Checksum, Pgno};

const NAME: &str = "stand-in-";

/// Bytes of page 1 that SQLite sets whatever the content: format (journal mode); change counter and page count; schema cookie;
/// the counter for which the page count is valid, and the version that wrote it.
/// Source: <https://sqlite.org/fileformat2.html>, 1.3.
const SET_BY_SQLITE: [std::ops::Range<usize>; 4] = [18..20, 24..32, 40..44, 92..100];

/// A page 1 in the history, and what others that stand for it have in common with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StandIn {
    pub page: Checksum,
    pub rest: Checksum,
}

impl StandIn {
    /// For this page 1.
    pub fn of(page_1: &[u8]) -> StandIn {
        StandIn { page: page_checksum(Pgno::FIRST, page_1), rest: rest_of(page_1) }
    }
}

/// Checksum of page 1 without the fields that SQLite sets.
pub fn rest_of(page_1: &[u8]) -> Checksum {
    let mut page = page_1.to_vec();
    SET_BY_SQLITE.into_iter().for_each(|field| page[field].fill(0));
    page_checksum(Pgno::FIRST, &page)
}

impl Log {
    /// # Errors
    /// `Io`.
    pub fn stand_ins(&self) -> Result<Vec<StandIn>> {
        let list = |e| Error::io("list", self.folder(), e);
        let mut found = Vec::new();
        for entry in std::fs::read_dir(self.folder()).map_err(list)? {
            let name = entry.map_err(list)?.file_name();
            found.extend(name.to_str().and_then(parse));
        }
        Ok(found)
    }

    /// From now on such a page 1 stands for it.
    ///
    /// # Errors
    /// `Full`, `Io`.
    pub fn add_stand_in(&self, stand_in: StandIn) -> Result<()> {
        match create(&self.folder().join(name(stand_in)), b"") {
            Err(error) if error.kind() == Kind::Exists => Ok(()),
            other => other,
        }
    }

    /// Removes those for another page 1 than that of the newest sealed state. One that comes back after a loss of power is
    /// not in force.
    ///
    /// # Errors
    /// `Io`.
    pub fn drop_stand_ins(&self, all: &mut Vec<StandIn>, page_1: Option<Checksum>) -> Result<()> {
        for gone in all.extract_if(.., |stand_in| Some(stand_in.page) != page_1) {
            remove(&self.folder().join(name(gone)))?;
        }
        Ok(())
    }
}

fn name(stand_in: StandIn) -> String {
    format!("{NAME}{}-{}", stand_in.page, stand_in.rest)
}

fn parse(name: &str) -> Option<StandIn> {
    let (page, rest) = name.strip_prefix(NAME)?.split_once('-')?;
    let checksum = |text| u64::from_str_radix(text, 16).ok().and_then(Checksum::from_wire);
    Some(StandIn { page: checksum(page)?, rest: checksum(rest)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Folder;

    #[test]
    fn a_page_with_other_counters_stands_for_it_and_one_with_other_content_does_not() {
        let page: Vec<u8> = (0..512u32).map(|i| i as u8).collect();
        let stand_in = StandIn::of(&page);
        for at in 0..512 {
            let mut other = page.clone();
            other[at] ^= 0x55;
            let is_set = SET_BY_SQLITE.iter().any(|field| field.contains(&at));
            assert_eq!(rest_of(&other) == stand_in.rest, is_set, "byte {at}");
            assert_ne!(page_checksum(Pgno::FIRST, &other), stand_in.page);
        }
    }

    #[test]
    fn those_of_another_page_1_are_dropped() {
        let dir = Folder::new();
        let log = Log::open(&dir.path().join("db-replica")).unwrap();
        let [one, two] = [1u8, 2].map(|n| StandIn::of(&[n; 512]));
        [one, two, two].into_iter().for_each(|stand_in| log.add_stand_in(stand_in).unwrap());
        let mut all = log.stand_ins().unwrap();
        assert_eq!(all.len(), 2);
        log.drop_stand_ins(&mut all, Some(two.page)).unwrap();
        assert_eq!((all, log.stand_ins().unwrap()), (vec![two], vec![two]));
    }
}
