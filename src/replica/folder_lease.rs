//! The lease of a replica in a folder (rule 19 of the protocol).
//!
//! ```text
//! <root>/lock.<number>.json     one a put, made if absent: the largest number is the lease
//! <root>/lock.json              a copy of it, for other programs
//! ```
//!
//! A folder has no write on a condition, but a name that is free can be taken once. So each put takes the next number,
//! a renewal as well as a takeover: who renews and who takes over compete for one name. (With a number an epoch, which its
//! holder writes again, a renewal that lands late undoes a later one: two holders.)
//!
//! Old numbers go, and are free again. Whoever has made one looks whether it is the largest: one that was made late, after
//! others went on, is none. A few stay, so that a look at the folder sees some of them, whatever goes on meanwhile.

use super::file::FileReplica;
use super::leases::{LEASE_BYTES_MAX, LeaseObject, Leases};
use crate::error::{Error, Kind, Result};
use crate::fs::durable::{self, Temp};
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

/// What other programs read.
const COPY: &str = "lock.json";
/// Numbers before the newest that stay.
const KEPT: u64 = 4;
/// Times the newest is looked for again because it went while it was read.
const LOOKS_MAX: u32 = 10;

impl FileReplica {
    fn lease_path(&self, number: u64) -> PathBuf {
        self.root().join(format!("lock.{number}.json"))
    }

    /// Every number that is there.
    fn numbers(&self) -> Result<Vec<u64>> {
        let root = self.root();
        let entries = std::fs::read_dir(root).map_err(|e| Error::io("list", root, e))?;
        let mut numbers = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|e| Error::io("list", root, e))?;
            numbers.extend(entry.file_name().to_str().and_then(parse));
        }
        Ok(numbers)
    }

    fn newest(&self) -> Result<Option<u64>> {
        Ok(self.numbers()?.into_iter().max())
    }

    fn read_number(&self, number: u64) -> Result<LeaseObject> {
        let path = self.lease_path(number);
        let file = File::open(&path).map_err(|e| Error::io("open", &path, e))?;
        let mut bytes = Vec::new();
        let read = (&file).take(LEASE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes);
        read.map_err(|e| Error::io("read", &path, e))?;
        self.object(number, bytes, &file)
    }

    fn object(&self, number: u64, bytes: Vec<u8>, file: &File) -> Result<LeaseObject> {
        let metadata = file.metadata().map_err(|e| Error::io("look at", &self.lease_path(number), e))?;
        let (_, identity) = super::file::identity(&metadata);
        Ok(LeaseObject { bytes, identity, number: Some(number) })
    }

    /// # Errors
    /// `Conflict` unless this number is the largest.
    fn check_newest(&self, number: u64) -> Result<()> {
        if self.newest()? == Some(number) { Ok(()) } else { Err(self.another()) }
    }

    fn another(&self) -> Error {
        Error::conflict(format!("{} holds another lease than was read", self.root().display()))
    }

    /// Takes a number.
    fn put_number(&self, number: u64, bytes: &[u8]) -> Result<LeaseObject> {
        let path = self.lease_path(number);
        let mut temp = Temp::create(&path)?;
        temp.write(bytes)?;
        let file = temp.publish(&path).map_err(|error| match error.kind() {
            Kind::Exists => self.another(),
            _ => error,
        })?;
        self.check_newest(number)?;
        self.publish_copy(bytes)?;
        self.forget_before(number);
        self.object(number, bytes.to_vec(), &file)
    }

    fn publish_copy(&self, bytes: &[u8]) -> Result<()> {
        let path = self.root().join(COPY);
        let mut temp = Temp::create(&path)?;
        temp.write(bytes)?;
        temp.publish_over(&path).map(drop)
    }

    /// What nobody needs any longer. Best effort: the next put tries again.
    fn forget_before(&self, number: u64) {
        for old in self.numbers().unwrap_or_default() {
            if old.saturating_add(KEPT) < number {
                let _ = std::fs::remove_file(self.lease_path(old));
            }
        }
    }
}

fn parse(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("lock.")?.strip_suffix(".json")?;
    let number: u64 = digits.parse().ok()?;
    (number.to_string() == digits).then_some(number)
}

impl Leases for FileReplica {
    /// A name is taken once, or the folder could not be a replica.
    fn check_leases(&self) -> Result<()> {
        Ok(())
    }

    fn read_lease(&self) -> Result<Option<LeaseObject>> {
        for _ in 0..LOOKS_MAX {
            let Some(number) = self.newest()? else { return Ok(None) };
            match self.read_number(number) {
                Err(error) if error.kind() == Kind::NotFound => {}
                other => return other.map(Some),
            }
        }
        Err(Error::busy(format!(
            "the leases in {} change faster than they can be read",
            self.root().display()
        )))
    }

    fn create_lease(&self, bytes: &[u8]) -> Result<LeaseObject> {
        match self.newest()? {
            None => self.put_number(1, bytes),
            Some(_) => Err(self.another()),
        }
    }

    fn replace_lease(&self, old: &LeaseObject, bytes: &[u8]) -> Result<LeaseObject> {
        let number = old.number.expect("BUG: one of a folder has a number");
        let next = number.checked_add(1).ok_or_else(|| {
            Error::invalid(format!(
                "{} is the last lease there can be: delete it",
                self.lease_path(number).display()
            ))
        })?;
        self.check_newest(number)?;
        // One that was removed and made anew has the same number.
        match self.read_number(number) {
            Ok(found) if found.same_object(old) => self.put_number(next, bytes),
            Err(error) if error.kind() != Kind::NotFound => Err(error),
            _ => Err(self.another()),
        }
    }

    fn remove_lease(&self, old: &LeaseObject) -> Result<()> {
        match self.read_lease()? {
            None => return Ok(()),
            Some(found) if !found.same_object(old) => return Err(self.another()),
            Some(_) => {}
        }
        let mut numbers = self.numbers()?;
        numbers.retain(|&number| Some(number) <= old.number);
        // The one that counts goes last: at no step is an older one the lease.
        numbers.sort_unstable();
        for path in [self.root().join(COPY)].into_iter().chain(numbers.iter().map(|&n| self.lease_path(n))) {
            match std::fs::remove_file(&path).map_err(|e| Error::io("remove", &path, e)) {
                Err(error) if error.kind() != Kind::NotFound => return Err(error),
                _ => {}
            }
        }
        durable::sync_folder(self.root())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Folder;

    fn replica(folder: &Folder) -> FileReplica {
        FileReplica::at_or_create(folder.path().join("r")).unwrap()
    }

    /// Puts as many, one after the other; the first and the last.
    fn put(replica: &FileReplica, count: u64) -> (LeaseObject, LeaseObject) {
        let first = replica.create_lease(b"1").unwrap();
        let next = |old: LeaseObject, n: u64| replica.replace_lease(&old, n.to_string().as_bytes()).unwrap();
        (first.clone(), (2..=count).fold(first, next))
    }

    #[test]
    fn the_largest_number_is_the_lease_and_lock_json_a_copy() {
        let folder = Folder::new();
        let replica = replica(&folder);
        let (_, held) = put(&replica, 9);
        assert_eq!(std::fs::read(folder.path().join("r/lock.json")).unwrap(), b"9");
        let kept: Vec<_> =
            (5..=9).map(|n| format!("r/lock.{n}.json")).chain(["r/lock.json".into()]).collect();
        assert_eq!(folder.files(), kept);
        std::fs::remove_file(folder.path().join("r/lock.json")).unwrap();
        std::fs::write(folder.path().join("r/lock.010.json"), b"no lease").unwrap();
        assert!(replica.read_lease().unwrap().unwrap().same_object(&held));
        replica.remove_lease(&held).unwrap();
        assert_eq!(folder.files(), ["r/lock.010.json"]);
    }

    /// Who read an old lease, slept, and then takes the next number finds it free, and is none the less too late.
    #[test]
    fn a_put_that_comes_late_is_none() {
        let folder = Folder::new();
        let replica = replica(&folder);
        let (stale, held) = put(&replica, 9);
        assert!(!folder.path().join("r/lock.2.json").exists());
        assert_eq!(replica.replace_lease(&stale, b"late").unwrap_err().kind(), Kind::Conflict);
        // Between its look and its name.
        assert_eq!(replica.put_number(2, b"late").unwrap_err().kind(), Kind::Conflict);
        assert!(replica.read_lease().unwrap().unwrap().same_object(&held));
        assert_eq!(std::fs::read(folder.path().join("r/lock.json")).unwrap(), b"9", "it was not published");
    }

    #[test]
    fn a_vanished_root_is_no_free_lease() {
        let folder = Folder::new();
        let replica = replica(&folder);
        std::fs::remove_dir(replica.root()).unwrap();
        assert_eq!(replica.read_lease().unwrap_err().kind(), Kind::NotFound);
        assert_eq!(replica.create_lease(b"1").unwrap_err().kind(), Kind::NotFound);
        assert!(!replica.root().exists());
    }
}
