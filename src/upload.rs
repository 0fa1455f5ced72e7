//! Sealed groups to one replica, in order, each counted only when its name was never used before.
//!
//! ```text
//! create N if absent -- created ------------------------------+-> look: is the object before N still the one we
//!        |                                                     |   acknowledged or found newest?  (a bucket: a listing)
//!        +- exists: ours by bytes, or by (pre, post) ----------+      yes: N is stored
//!        +- exists, another's: Fenced                                 no:  settle by a listing
//! ```
//!
//! What is stored is acknowledged once it survives a loss of power: when the next group is stored, or after
//! [`Uploader::make_durable`].
//!
//! The look (a level-0 name that was merged and expired is free again, so a writer that slept could create it):
//! without it a stale create counts as history that nobody follows. An object of ours that turns out to be stale is
//! removed only with proof. A file replica's object is the same as long as its inode and change time are. In a bucket
//! the look is a listing, because an object there can be made anew and look the same; it is left out while the store's
//! own clock says that too little time has passed since the last listing for anything to have expired. So a busy writer
//! lists now and then, and learns before long that somebody emptied the replica under it.

use std::cmp::Reverse;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::catalog::{Target, chain_to};
use crate::error::{Error, Kind, Result};
use crate::ltx::{Decoder, Header};
use crate::replica::client::Client;
use crate::staging::log::{Log, Recorded, Sealed};
#[cfg(test)]
use crate::testing::mutation::{self, Mutation};
use crate::types::{FileInfo, Identity, Level, Position, Timestamp, Txid, TxidRange};

/// With a shorter retention of level 0 the look is never left out: clocks and answers are not that exact.
const SKIP_MIN: Duration = Duration::from_secs(60);

/// Where a replica's history ends.
#[derive(Clone, Debug)]
pub struct Head {
    pub file: FileInfo,
    pub header: Header,
}

impl Head {
    pub fn txid(&self) -> Txid {
        self.file.range.max
    }

    /// The position that a log which stands there records; `None` where another program wrote the last file.
    pub fn recorded(&self) -> Option<Recorded> {
        let header = &self.header;
        Some(Recorded {
            position: Position { txid: self.txid(), checksum: header.proof?.post },
            page_size: header.page_size,
            page_count: header.page_count,
            timestamp: header.timestamp,
        })
    }

    /// Reads where the replica ends; `None`: it has no LTX files. One listing.
    ///
    /// # Errors
    /// `Corrupt` when the newest file is damaged; those of the store.
    pub fn of(client: &dyn Client) -> Result<Option<Head>> {
        let files = client.list_all()?;
        let mut newest: Option<FileInfo> = None;
        for &file in &files {
            // The lowest level wins among equals: its header is the one that names the txid alone.
            if newest.as_ref().is_none_or(|n| file.range.max > n.range.max) {
                newest = Some(file);
            }
        }
        // A history with a hole is looked at again before anything is acknowledged that continues it.
        if let Some(Identity::Stored { told_at, .. }) = newest.as_mut().map(|file| &mut file.identity)
            && chain_to(&files, Target::Newest).is_err()
        {
            *told_at = None;
        }
        newest.map(|file| Ok(Head { header: header_of(client, &file)?, file })).transpose()
    }
}

/// The header of a stored file.
///
/// # Errors
/// `Corrupt`; those of the store.
pub fn header_of(client: &dyn Client, file: &FileInfo) -> Result<Header> {
    let name = format!("{}/{}/{}", client.url(), file.level, crate::ltx::name::format(file.range));
    Ok(*Decoder::new(client.open(file)?, name)?.header())
}

/// What became of an upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is part of the history, and everything before it survives a loss of power.
    Stored,
    /// Another writer owns the history from here on.
    Fenced(String),
    /// It ends before what we have sent: an older copy was put back. What was added is removed again.
    SetBack(String),
    /// Somebody emptied the replica under us; the object of ours was removed again.
    Emptied,
}

/// One replica as this process knows it.
pub struct Uploader {
    client: Arc<dyn Client>,
    /// The newest object that we acknowledged or found; `None`: the replica was empty.
    newest: Option<FileInfo>,
    /// Where the last listing showed the end of the history, and the store's clock then.
    looked: Option<(Txid, Timestamp)>,
    /// How long nothing can have expired after an object was the newest, by the store's clock.
    nothing_expires: Duration,
    /// A listing showed that the history leads to what was the newest; in a bucket the listings between puts see to that.
    is_whole: bool,
}

impl Uploader {
    /// `newest`: the newest object of a listing made just now. `l0_retention`: the age in which a merged level-0 file
    /// may go.
    pub fn new(client: Arc<dyn Client>, newest: Option<FileInfo>, l0_retention: Duration) -> Uploader {
        let nothing_expires = if l0_retention < SKIP_MIN { Duration::ZERO } else { l0_retention / 2 };
        let looked = newest.as_ref().and_then(looked);
        let is_whole = newest.is_none() || !client.tells_objects_apart();
        Uploader { client, newest, looked, nothing_expires, is_whole }
    }

    pub fn client(&self) -> &dyn Client {
        &*self.client
    }

    /// The same, to be kept.
    pub fn shared_client(&self) -> Arc<dyn Client> {
        Arc::clone(&self.client)
    }

    /// Returns when everything that was put survives a loss of power.
    ///
    /// # Errors
    /// Those of the store.
    pub fn make_durable(&self) -> Result<()> {
        self.client.make_durable(Level::CAPTURED)
    }

    /// Looks up the newest acknowledged txid, which another process of ours may have uploaded meanwhile; a lower one
    /// when that process started the replica over.
    ///
    /// # Errors
    /// Those of the store.
    pub fn follow(&mut self, acknowledged: Option<Txid>) -> Result<()> {
        let known = self.newest.as_ref().map(|f| f.range.max);
        if let Some(txid) = acknowledged.filter(|&txid| known != Some(txid))
            && let Some(file) = self.client.stat(Level::CAPTURED, TxidRange::one(txid))?
        {
            self.newest = Some(file);
        }
        Ok(())
    }

    /// Puts a sealed group, which follows everything that is acknowledged.
    ///
    /// # Errors
    /// Those of the store and of the log: try again later, with the same bytes.
    pub fn put(&mut self, log: &Log, sealed: &Sealed) -> Result<Outcome> {
        self.put_from(&log.path_of(sealed.txid), log.folder(), sealed)
    }

    /// The same with the bytes of a file that is not in the log at `folder` yet.
    ///
    /// # Errors
    /// As [`Uploader::put`].
    pub fn put_from(&mut self, path: &Path, folder: &Path, sealed: &Sealed) -> Result<Outcome> {
        self.check_whole()?;
        let range = TxidRange::one(sealed.txid);
        let mut body = File::open(path).map_err(|e| Error::io("open", path, e))?;
        let file = match self.client.create(Level::CAPTURED, range, sealed.timestamp, &mut body) {
            Ok(file) => file,
            Err(error) if error.kind() == Kind::Exists => match self.existing(path, sealed)? {
                Some(file) => file,
                None => {
                    return Ok(Outcome::Fenced(format!(
                        "another writer created txid {} in {}; this database's own files from there on stay in {}",
                        sealed.txid,
                        self.client.url(),
                        folder.display()
                    )));
                }
            },
            Err(error) => return Err(error),
        };
        let outcome = self.look(sealed, &file)?;
        if outcome == Outcome::Stored {
            self.newest = Some(file);
        }
        Ok(outcome)
    }

    /// Puts a snapshot of ours in place as the newest object.
    pub fn found(&mut self, file: FileInfo) {
        self.newest = Some(file);
    }

    /// The object of that name, when it is ours.
    fn existing(&self, path: &Path, sealed: &Sealed) -> Result<Option<FileInfo>> {
        let range = TxidRange::one(sealed.txid);
        let Some(file) = self.client.stat(Level::CAPTURED, range)? else {
            return Err(Error::conflict(format!(
                "txid {} was there and is gone in {}; trying again",
                sealed.txid,
                self.client.url()
            )));
        };
        let own = File::open(path).map_err(|e| Error::io("open", path, e))?;
        // Same states before and after, other bytes: the same commits, captured twice. Groups that change nothing are
        // alike, whoever made them.
        let is_change = sealed.proof.pre != sealed.proof.post;
        let is_ours = file.size == sealed.size && same_bytes(self.client.open(&file)?, own)?
            || is_change
                && header_of(&*self.client, &file).is_ok_and(|header| header.proof == Some(sealed.proof));
        if is_ours {
            self.client.make_durable(Level::CAPTURED)?;
        }
        Ok(Some(file).filter(|_| is_ours))
    }

    /// Whether `file`, just created or found, continues what we know.
    fn look(&mut self, sealed: &Sealed, file: &FileInfo) -> Result<Outcome> {
        #[cfg(test)]
        if mutation::is(Mutation::NoLook) {
            return Ok(Outcome::Stored);
        }
        if let Some(before) = &self.newest {
            if self.cannot_have_expired(before, file) {
                return Ok(Outcome::Stored);
            }
            if self.client.tells_objects_apart() {
                let now = self.client.stat(before.level, before.range)?;
                if now.is_some_and(|now| now.same_object(before)) {
                    return Ok(Outcome::Stored);
                }
            }
        }
        let outcome = self.settle(sealed, file)?;
        // The listing was later still. Where it shows that others went on, nothing may be concluded from how short ago it was.
        self.looked = looked(file).filter(|_| outcome == Outcome::Stored);
        Ok(outcome)
    }

    /// Whether the store took `file` so soon after the last listing that nothing can have come and gone since: what
    /// expires is older than twice that. Everything in between is ours, without a gap.
    fn cannot_have_expired(&self, before: &FileInfo, file: &FileInfo) -> bool {
        let (Some((_, then)), Some(_), Some((_, now))) = (self.looked, looked(before), looked(file)) else {
            return false;
        };
        let passed = u64::try_from(now.0 - then.0).ok().map(Duration::from_millis);
        file.range.min == before.range.max.next()
            && passed.is_some_and(|passed| passed < self.nothing_expires)
    }

    /// The object before is not known to be the one we know. A listing decides.
    fn settle(&self, sealed: &Sealed, file: &FileInfo) -> Result<Outcome> {
        let mut others = self.client.list_all()?;
        others.retain(|other| !other.same_object(file));
        if others.is_empty() {
            // Also where it was found before, and something else failed before it was acknowledged.
            let is_first = self.newest.as_ref().is_none_or(|newest| newest.same_object(file));
            if is_first && sealed.txid == Txid::FIRST {
                return Ok(Outcome::Stored);
            }
            // The only object of an emptied replica: it starts nothing that could be restored.
            self.client.delete(file)?;
            return Ok(Outcome::Emptied);
        }
        let next = others.iter().find(|f| f.level == Level::CAPTURED && f.range.min == sealed.txid.next());
        if let Some(next) = next
            && header_of(&*self.client, next)?.proof.is_some_and(|p| p.pre == sealed.proof.post)
        {
            return Ok(Outcome::Stored);
        }
        if self.is_merged(sealed, &others)? {
            return Ok(Outcome::Stored);
        }
        if !self.client.tells_objects_apart() {
            if self.was_emptied(sealed, &others)? {
                // Newest first: what is left when this breaks off is not taken for our history.
                self.client.delete(file)?;
                others.sort_by_key(|other| Reverse(other.range));
                others.iter().try_for_each(|other| self.client.delete(other))?;
                return Ok(Outcome::Emptied);
            }
            if self.is_newest(sealed, &others)? {
                return Ok(Outcome::Stored);
            }
        }
        let end = others.iter().map(|f| f.range.max).max();
        if end < sealed.txid.previous() {
            // It continues what is in no file, and is the only one that holds it.
            self.client.delete(file)?;
            return Ok(Outcome::SetBack(format!(
                "{} ends at txid {}, before what this database had sent: an older copy of it was put back, or its newest \
                 files were deleted; what was added was taken back and stays in the local log: put the newer replica back \
                 and open again",
                self.client.url(),
                end.expect("BUG: other files without an end"),
            )));
        }
        let newer = others.iter().any(|f| f.level == Level::CAPTURED && f.range.max > sealed.txid);
        if newer {
            self.client.delete(file)?;
        }
        Ok(Outcome::Fenced(format!(
            "the history in {} went on without this database while it was paused{}; its own files stay in its log",
            self.client.url(),
            if newer { ", and what it added was taken back" } else { "" }
        )))
    }

    /// Whether the history ends with a merged file that makes our state: it was stored before, and merged since. Were the name
    /// free again, there would be files after it.
    fn is_merged(&self, sealed: &Sealed, others: &[FileInfo]) -> Result<bool> {
        if others.iter().any(|f| f.range.max > sealed.txid) {
            return Ok(false);
        }
        let Ok(chain) = chain_to(others, Target::Txid(sealed.txid)) else { return Ok(false) };
        let Some(last) = chain.steps.last() else { return Ok(false) };
        Ok(header_of(&*self.client, last)?.proof.is_some_and(|p| p.post == sealed.proof.post))
    }

    /// Whether a listing shows only what was created since the last one, so by us: what it continued is gone, and
    /// nothing can be restored from it.
    fn was_emptied(&self, sealed: &Sealed, others: &[FileInfo]) -> Result<bool> {
        let Some((end, _)) = self.looked else { return Ok(false) };
        let is_ours =
            |f: &FileInfo| f.level == Level::CAPTURED && f.range.min > end && f.range.max < sealed.txid;
        Ok(others.iter().all(is_ours) && self.client.stat(Level::CAPTURED, TxidRange::one(end))?.is_none())
    }

    /// Whether a listing shows nothing after the group, and the history to the group before it.
    ///
    /// # Errors
    /// `Gap` when it cannot be restored from there any more.
    fn is_newest(&self, sealed: &Sealed, others: &[FileInfo]) -> Result<bool> {
        let Some(before) = sealed.txid.previous() else { return Ok(false) };
        if others.iter().any(|f| f.range.max > sealed.txid) {
            return Ok(false);
        }
        // The lowest level first: what was written, not what was merged from it.
        let Some(found) = others.iter().find(|f| f.range.max == before) else { return Ok(false) };
        self.check_leads_to(others, before)?;
        if self.newest.as_ref().is_some_and(|known| known.same_object(found)) {
            return Ok(true);
        }
        Ok(header_of(&*self.client, found)?.proof.is_some_and(|p| p.post == sealed.proof.pre))
    }

    /// Once, before the first put: what is there may have lost files while nobody had it open.
    fn check_whole(&mut self) -> Result<()> {
        if let (false, Some(newest)) = (self.is_whole, &self.newest) {
            let files = self.client.list_all()?;
            // Where it is gone, or another writer went on, the put finds out.
            let is_newest = files.iter().all(|file| file.range.max <= newest.range.max);
            if is_newest && files.iter().any(|file| file.same_object(newest)) {
                self.check_leads_to(&files, newest.range.max)?;
            }
            self.is_whole = true;
        }
        Ok(())
    }

    /// # Errors
    /// `Gap` when `txid` cannot be restored from these files.
    fn check_leads_to(&self, files: &[FileInfo], txid: Txid) -> Result<()> {
        chain_to(files, Target::Txid(txid)).map(drop).map_err(|error| {
            Error::gap(format!(
                "files of the history in {} were removed, and nothing is acknowledged that could not be restored ({error}); \
                 put them back, or empty the place, and it starts over",
                self.client.url()
            ))
        })
    }
}

/// Where the history ended with a file, and the store's clock when it told of it.
fn looked(file: &FileInfo) -> Option<(Txid, Timestamp)> {
    match file.identity {
        Identity::Stored { told_at, .. } => Some((file.range.max, told_at?)),
        Identity::File { .. } => None,
    }
}

fn same_bytes(mut a: impl Read, mut b: impl Read) -> Result<bool> {
    let read = |source: &mut dyn Read, out: &mut Vec<u8>| -> Result<()> {
        out.clear();
        source.take(1 << 16).read_to_end(out).map(drop).map_err(|e| {
            Error::new(Kind::Io, format!("cannot compare a stored file with its local copy: {e}"))
        })
    };
    let (mut left, mut right) = (Vec::new(), Vec::new());
    loop {
        read(&mut a, &mut left)?;
        read(&mut b, &mut right)?;
        if left != right {
            return Ok(false);
        }
        if left.is_empty() {
            return Ok(true);
        }
    }
}
