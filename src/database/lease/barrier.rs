//! The first thing that a new holder of a lease does: it creates the next txid in the home replica itself (rule 16 of the
//! protocol), with a group that changes nothing.
//!
//! ```text
//! everything of ours is acknowledged -> head N -> create N+1, empty
//!                                                    |-- done: the log stands there too, or is rolled forward to it
//!                                                    '-- lost: a late put of the holder before; look again
//! ```
//!
//! What the holder before us still has under way is named N+1 or less, and loses from then on. Were it otherwise, its late
//! put would fence us, who did nothing wrong. A replica that holds nothing has no state that an empty group could follow:
//! there the first group is the first name.
//!
//! It is stored before it is in the log: killed in between, we find at the next open that the history went on by a group
//! without pages, and go on with it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::capture::{Phase, group};
use crate::clock;
use crate::database::engine::{Cycle, Engine};
use crate::database::followed::Database;
use crate::error::{Error, Result};
use crate::fs::durable::Temp;
use crate::ltx::Header;
use crate::replica::Client;
use crate::staging::log::{Recorded, Sealed};
use crate::types::{Timestamp, Txid};
use crate::upload::{Head, Outcome, Uploader};

/// Times that somebody else's put may come first.
const TRIES: u32 = 16;
/// Cycles until everything of ours is acknowledged.
const CYCLES: u32 = 16;

/// Where the history stands after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begun {
    /// The database is at its end.
    Here,
    /// The database must be rolled forward to it.
    Ahead,
}

impl Engine {
    /// Creates the next txid. `may_be_behind`: also where the history went on without this database. Call it with the
    /// capture lock.
    ///
    /// # Errors
    /// `Conflict` when it went on, and may not have; `Fenced`; `Busy` while others work on the database or the replica.
    pub fn begin_term(&mut self, db: &Arc<Database>, may_be_behind: bool) -> Result<Begun> {
        self.refresh(db)?;
        self.send_everything(db)?;
        let next = self.recorded.map_or(Txid::FIRST, |r| r.position.txid.next());
        // Who commits from here on is in the group after it.
        db.state.set_open_txid(next.next());
        let begun = self.create_empty(db, may_be_behind);
        if !matches!(begun, Ok(Begun::Here)) || self.recorded.is_none_or(|r| r.position.txid != next) {
            db.state.set_open_txid(next);
        }
        begun
    }

    fn create_empty(&mut self, db: &Arc<Database>, may_be_behind: bool) -> Result<Begun> {
        if !self.is_all_sent(db)? {
            return Err(Error::busy("the database is being written; try again"));
        }
        let client = match &self.replicas[0].uploader {
            Some(home) => home.shared_client(),
            None => return Err(Error::busy(format!("{} was not reached", self.replicas[0].url))),
        };
        let barrier = Barrier {
            recorded: self.recorded,
            may_be_behind,
            writer: db.state.writer(),
            l0_retention: db.settings.retention.l0,
            folder: db.log.folder(),
            is_held: &|| db.has_permit(),
        };
        match barrier.create(&client, clock::now)? {
            Created::Nothing => Ok(Begun::Here),
            Created::Here(uploader, header) => self.adopt(db, *uploader, &header).map(|()| Begun::Here),
            Created::Ahead => Ok(Begun::Ahead),
            Created::NotHere(head) => Err(self.is_behind(db, &head)),
            // There is no state to roll forward from.
            Created::NoState(head) => Err(Error::conflict(format!(
                "{} was opened while {} held nothing, and by now that has history up to txid {}: close it and open it \
                 again, with replica_if_missing=restore",
                db.path.display(),
                client.url(),
                head.txid()
            ))),
        }
    }

    /// The log stands at the group that was just stored.
    fn adopt(&mut self, db: &Database, uploader: Uploader, header: &Header) -> Result<()> {
        let txid = header.range.max;
        // A clean mark would hide that a loss of power took the group.
        db.changed();
        self.mark(db)?;
        let size = db.log.seal(txid, None, |file| group::write_empty(file, header))?;
        let sealed = Sealed::of(header, size).expect("BUG: an empty group is proven and has one txid");
        self.groups.add(sealed);
        (self.recorded, self.stored) = (Some(sealed.recorded()), None);
        self.replicas[0].uploader = Some(uploader);
        db.state.push_position(sealed.recorded().position);
        db.state.set_acknowledged(0, Some(txid));
        Ok(())
    }

    /// What was committed here before is part of the history first.
    fn send_everything(&mut self, db: &Arc<Database>) -> Result<()> {
        for _ in 0..CYCLES {
            // Somebody waits: it is acknowledged in the same cycle.
            db.tickets.draw();
            let cycle = self.work(db)?;
            if !matches!(db.phase(), Phase::Live | Phase::Cold) {
                let why = db.last_error().unwrap_or_default();
                return Err(Error::fenced(format!("this database is {}: {why}", db.phase().name())));
            }
            match cycle {
                Cycle::Done => return Ok(()),
                Cycle::Stored => {}
                Cycle::Later(pause) => clock::pause(pause),
            }
        }
        Err(Error::busy("not everything that was committed here is in the replica yet; try again"))
    }

    fn is_all_sent(&mut self, db: &Database) -> Result<bool> {
        let recorded = self.recorded.map(|r| r.position.txid);
        if db.state.acknowledged(0) != recorded {
            return Ok(false);
        }
        Ok(self.is_unchanged(db)? == Some(true))
    }

    fn is_behind(&self, db: &Database, head: &Head) -> Error {
        let here = self.recorded.map_or(0, |r| r.position.txid.get());
        Error::conflict(format!(
            "{} is at txid {here}, and {} went on to {}: SELECT replica_lease_acquire() rolls it forward and takes the \
             lease, and so does opening it anew",
            db.path.display(),
            db.settings.replicas[0],
            head.txid()
        ))
    }
}

/// What the next txid of a history is made of, under a new lease.
pub struct Barrier<'a> {
    /// Where the local log stands.
    pub recorded: Option<Recorded>,
    /// It may be made where the history went on without this database, too.
    pub may_be_behind: bool,
    pub writer: u64,
    pub l0_retention: Duration,
    /// A folder for the file while it is sent.
    pub folder: &'a Path,
    /// Whether the lease has not ended. Asked after the head was read: so that was the head while nobody else could have the
    /// lease, and who takes it over takes the next txid with it. Without it, one that slept fences the holder after it.
    pub is_held: &'a dyn Fn() -> bool,
}

/// What came of it.
pub enum Created {
    /// The replica holds nothing that an empty group could follow.
    Nothing,
    /// The database stood at the end of the history.
    Here(Box<Uploader>, Header),
    /// The history went on before it.
    Ahead,
    /// The same, and nothing was made.
    NotHere(Box<Head>),
    /// There is history, and the log has never stood anywhere.
    NoState(Box<Head>),
}

impl Barrier<'_> {
    /// Creates it; tries again where others come first.
    ///
    /// # Errors
    /// `Busy` where they come first again and again; `Invalid` after a file that proves no state; as the store says.
    pub fn create(&self, client: &Arc<dyn Client>, now: impl Fn() -> Timestamp) -> Result<Created> {
        for _ in 0..TRIES {
            let Some(head) = Head::of(&**client)? else { return Ok(Created::Nothing) };
            let Some(recorded) = self.recorded else { return Ok(Created::NoState(Box::new(head))) };
            let end = end_of(&head, &**client)?;
            let is_here = recorded.position == end.position;
            if !is_here && !self.may_be_behind {
                return Ok(Created::NotHere(Box::new(head)));
            }
            if !(self.is_held)() {
                return Err(Error::busy("the lease ended before the history could be continued; try again"));
            }
            let header = group::empty(&end, self.writer, now());
            let mut uploader = Uploader::new(Arc::clone(client), Some(head.file), self.l0_retention);
            match put_in(self.folder, &mut uploader, &header)? {
                Outcome::Stored => uploader.make_durable()?,
                Outcome::Fenced(_) | Outcome::SetBack(_) => continue,
                Outcome::Emptied => return Err(Error::busy(format!("{} was emptied", client.url()))),
            }
            return Ok(if is_here { Created::Here(Box::new(uploader), header) } else { Created::Ahead });
        }
        Err(Error::busy(format!("others keep writing to {}; try again", client.url())))
    }
}

/// Puts it from a file in `folder` that is gone afterwards.
fn put_in(folder: &Path, uploader: &mut Uploader, header: &Header) -> Result<Outcome> {
    let temp = Temp::create(&folder.join("barrier"))?;
    let size = group::write_empty(temp.file(), header)?;
    let sealed = Sealed::of(header, size).expect("BUG: an empty group is proven and has one txid");
    uploader.put_from(temp.path(), folder, &sealed)
}

/// The state in which the history ends.
fn end_of(head: &Head, client: &dyn Client) -> Result<Recorded> {
    head.recorded().ok_or_else(|| {
        Error::invalid(format!(
            "{} ends in a file of another program, which proves no state: open it without a lease first, and commit",
            client.url()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::ltx::Proof;
    use crate::ltx::sample::{file, header};
    use crate::replica::FileReplica;
    use crate::testing::Folder;
    use crate::types::{Checksum, Level};
    use std::io::Cursor;

    #[test]
    fn an_empty_group_of_another_holder_is_never_taken_for_ours() {
        let folder = Folder::new();
        let client: Arc<dyn Client> = Arc::new(FileReplica::at_or_create(folder.path().join("r")).unwrap());
        let proof = Proof { pre: Checksum::EMPTY, post: Checksum::EMPTY };
        let first = Header { proof: Some(proof), ..header(1, 1, 512, 1) };
        let bytes = file(first, &[(1, vec![1; 512])]);
        client.create(Level::CAPTURED, first.range, first.timestamp, &mut Cursor::new(&bytes[..])).unwrap();
        let head = Head::of(&*client).unwrap().unwrap();
        let end = end_of(&head, &*client).unwrap();
        let put = |writer_id: u64| {
            let header = group::empty(&end, writer_id, Timestamp(0));
            let mut uploader = Uploader::new(Arc::clone(&client), Some(head.file), Duration::from_secs(300));
            put_in(folder.path(), &mut uploader, &header).unwrap()
        };
        let barrier = Barrier {
            recorded: Some(end),
            may_be_behind: true,
            writer: 7,
            l0_retention: Duration::from_secs(300),
            folder: folder.path(),
            is_held: &|| false,
        };
        let ended = barrier.create(&client, || Timestamp(0)).err().map(|error| error.kind());
        assert_eq!(ended, Some(Kind::Busy), "the lease ended, so nothing is made");
        assert_eq!(put(7), Outcome::Stored);
        assert_eq!(put(7), Outcome::Stored, "sent again");
        assert!(matches!(put(8), Outcome::Fenced(_)));
        let head = Head::of(&*client).unwrap().unwrap();
        assert_eq!((head.txid().get(), head.header.writer_id, head.header.proof), (2, 7, Some(proof)));
        assert_eq!(end_of(&head, &*client).unwrap().position.checksum, end.position.checksum);
    }
}
