//! The simulated store: objects with identity and a clock of its own, and the lease beside them. What reaches it is applied
//! at once; that answers are lost or requests come late is [`super::client`]'s.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Cursor;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::ltx::{Crc64, Decoder, Header, page_checksum};
use crate::types::{Checksum, Etag, FileInfo, Identity, Level, Pgno, Timestamp, TxidRange};

use super::pages::PAGE_SIZE;

/// What a store is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Entity tags by content, times in whole seconds, names that last.
    Bucket,
    /// Inode and change time; a name lasts when it was made to.
    Folder,
}

#[derive(Clone)]
pub struct Object {
    pub level: Level,
    pub range: TxidRange,
    pub bytes: Arc<[u8]>,
    /// Of its creation; no other object has it.
    pub number: u64,
    pub stored_at: Timestamp,
    /// As the writer said.
    pub timestamp: Timestamp,
    pub is_durable: bool,
    pub header: Header,
    pub pages: Vec<(Pgno, Checksum)>,
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (min, max) = (self.range.min.get(), self.range.max.get());
        write!(f, "L{}/{min}-{max}", self.level)
    }
}

impl Object {
    /// For a plan: identity does not matter.
    pub fn info_alike(&self) -> FileInfo {
        self.info(
            Identity::File { device: 0, inode: self.number, changed_ns: 0, modified_ns: 0 },
            self.timestamp,
        )
    }

    fn info(&self, identity: Identity, created_at: Timestamp) -> FileInfo {
        FileInfo { level: self.level, range: self.range, size: self.bytes.len() as u64, created_at, identity }
    }

    fn etag(&self) -> Etag {
        let mut crc = Crc64::new();
        crc.update(&self.bytes);
        Etag::new(&format!("\"{:016x}\"", crc.value())).expect("BUG: an ETag")
    }
}

/// How the store came to tell of an object.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Told {
    Created,
    Listed,
    Looked,
}

pub struct Objects {
    pub kind: Kind,
    by_name: BTreeMap<(Level, TxidRange), Object>,
    count: u64,
}

impl Objects {
    pub fn new(kind: Kind) -> Objects {
        Objects { kind, by_name: BTreeMap::new(), count: 0 }
    }

    pub fn iter(&self) -> impl Iterator<Item = &Object> {
        self.by_name.values()
    }

    pub fn get(&self, level: Level, range: TxidRange) -> Option<&Object> {
        self.by_name.get(&(level, range))
    }

    /// As the store tells of it at `now` of its clock.
    pub fn info(&self, object: &Object, told: Told, now: Timestamp) -> FileInfo {
        let seconds = Timestamp(object.stored_at.0.div_euclid(1000) * 1000);
        match self.kind {
            Kind::Folder => {
                // Two objects that were made at one moment differ all the same.
                let changed_ns = i128::from(object.stored_at.0) * 1_000_000 + i128::from(object.number);
                let modified_ns = i128::from(object.timestamp.0) * 1_000_000;
                let identity =
                    Identity::File { device: 1, inode: object.number % 4, changed_ns, modified_ns };
                object.info(identity, object.timestamp)
            }
            Kind::Bucket => {
                let modified = (told != Told::Created).then_some(seconds);
                let told_at = (told != Told::Looked).then_some(now);
                let identity = Identity::Stored { etag: object.etag(), modified, told_at };
                let created_at = if told == Told::Listed { seconds } else { object.timestamp };
                object.info(identity, created_at)
            }
        }
    }

    pub fn list(&self, now: Timestamp) -> Vec<FileInfo> {
        self.iter().map(|object| self.info(object, Told::Listed, now)).collect()
    }

    /// # Errors
    /// `Exists`, unless `overwrites`.
    pub fn create(&mut self, new: &New, now: Timestamp, overwrites: bool) -> Result<&Object> {
        let name = (new.level, new.range);
        if self.by_name.contains_key(&name) && !overwrites {
            return Err(Error::exists("the name is taken"));
        }
        self.count += 1;
        let object = Object {
            level: new.level,
            range: new.range,
            bytes: Arc::clone(&new.bytes),
            number: self.count,
            stored_at: now,
            timestamp: new.timestamp,
            is_durable: self.kind == Kind::Bucket,
            header: new.header,
            pages: new.pages.clone(),
        };
        self.by_name.insert(name, object);
        Ok(&self.by_name[&name])
    }

    /// The object that was listed, if it is still there.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` when the name holds another.
    pub fn listed(&self, file: &FileInfo, now: Timestamp) -> Result<&Object> {
        let found = self.get(file.level, file.range).ok_or_else(|| Error::not_found("the object is gone"))?;
        match self.info(found, Told::Looked, now).same_object(file) {
            true => Ok(found),
            false => Err(Error::conflict("the name holds another object")),
        }
    }

    pub fn remove(&mut self, level: Level, range: TxidRange) -> Option<Object> {
        self.by_name.remove(&(level, range))
    }

    pub fn make_durable(&mut self, level: Level) {
        self.by_name.values_mut().filter(|o| o.level == level).for_each(|o| o.is_durable = true);
    }

    pub fn clear(&mut self) {
        self.by_name.clear();
    }
}

/// What a request to create carries.
#[derive(Clone)]
pub struct New {
    pub level: Level,
    pub range: TxidRange,
    pub timestamp: Timestamp,
    pub bytes: Arc<[u8]>,
    header: Header,
    pages: Vec<(Pgno, Checksum)>,
}

impl New {
    pub fn of(level: Level, range: TxidRange, timestamp: Timestamp, bytes: Vec<u8>) -> Result<New> {
        let mut decoder = Decoder::new(Cursor::new(&bytes[..]), "what is created")?;
        let header = *decoder.header();
        let (mut page, mut pages) = (vec![0; PAGE_SIZE.bytes()], Vec::new());
        while let Some(pgno) = decoder.next_page(&mut page)? {
            pages.push((pgno, page_checksum(pgno, &page)));
        }
        decoder.verify_rest()?;
        Ok(New { level, range, timestamp, bytes: bytes.into(), header, pages })
    }

    pub fn header(&self) -> &Header {
        &self.header
    }

    pub fn pages(&self) -> &[(Pgno, Checksum)] {
        &self.pages
    }
}

/// The lease, and a number of each put.
#[derive(Default)]
pub struct LeaseCell {
    pub bytes: Option<Vec<u8>>,
    pub number: u64,
}

impl LeaseCell {
    /// Puts in place of the put `seen`; `None`: in place of nothing.
    ///
    /// # Errors
    /// `Conflict` when something else is there.
    pub fn put(&mut self, seen: Option<u64>, bytes: &[u8]) -> Result<u64> {
        let there = self.bytes.is_some().then_some(self.number);
        if there != seen {
            return Err(Error::conflict("another lease is there"));
        }
        self.bytes = Some(bytes.to_vec());
        self.number += 1;
        Ok(self.number)
    }
}
