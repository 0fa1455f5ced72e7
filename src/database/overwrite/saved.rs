//! What a database loses when the history of another writer takes the place of its own, kept so that it can be restored.
//!
//! ```text
//! <log>/saved/<checksum of the last state>/ltx/9/1..last     every page of that state: the folder restores by itself
//!                                         /ltx/0/txid        each group that is in no replica; the last one: what was in none
//! ```
//!
//! The groups restore the states in between, beside a copy of the replica up to where the two histories part. Written before
//! anything is overwritten, newest file first (protocol, rule 14); what an earlier attempt left there stays.

use std::fs::File;
use std::io::{BufWriter, Seek};
use std::path::PathBuf;

use crate::capture::{Base, Shape};
use crate::error::{Error, Kind, Result};
use crate::fs::durable::Temp;
use crate::ltx::{Encoder, Header, Proof, WalSpan};
use crate::replica::{Client, FileReplica};
use crate::staging::log::{Log, Sealed};
use crate::types::{Checksum, Level, Pgno, Timestamp, Txid, TxidRange};

/// A state of a database that cannot change while it is read.
pub(in crate::database) struct State<'a> {
    pub shape: Shape,
    /// Every page but the lock-byte page, ascending.
    pub sums: &'a [(Pgno, Checksum)],
    pub read: &'a dyn Fn(Pgno, &mut [u8]) -> Result<()>,
}

/// What was kept, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    pub folder: PathBuf,
    /// Groups that are in no replica; each holds one commit or more.
    pub groups: usize,
    /// The last txid of this database's own, and the first that is in no replica.
    pub last: Txid,
    pub first: Option<Txid>,
}

impl Saved {
    /// Where it is and what can be done with it, as the end of a sentence.
    pub fn told(&self) -> String {
        let folder = self.folder.display();
        let what = match (self.first, self.groups) {
            (None, _) => format!("its last state, txid {}", self.last),
            (Some(_), 1) => format!("what it had committed on its own (txid {})", self.last),
            (Some(first), groups) => {
                format!("what it had committed on its own ({groups} groups, txids {first} to {})", self.last)
            }
        };
        format!("{what} is saved: sqlitereplicate restore file://{folder} <file> brings that state back")
    }
}

impl State<'_> {
    fn checksum(&self) -> Checksum {
        self.sums.iter().fold(Checksum::EMPTY, |total, &(_, sum)| total.toggle(sum))
    }
}

/// Keeps a state that ends a history of its own: `groups`, sealed and in no replica, and what is in none of them.
/// `base`: what the last of them left. Returns when it survives a loss of power.
///
/// # Errors
/// `Full`, `Io`.
pub(in crate::database) fn save(
    log: &Log,
    groups: &[Sealed],
    base: &Base<'_>,
    state: &State<'_>,
    now: Timestamp,
) -> Result<Saved> {
    let post = state.checksum();
    let recorded = base.recorded.map(|r| r.position);
    let has_rest = recorded.is_none_or(|r| r.checksum != post);
    let last = match recorded {
        Some(recorded) if has_rest => recorded.txid.next(),
        Some(recorded) => recorded.txid,
        None => Txid::FIRST,
    };
    let whole = Header {
        page_size: state.shape.page_size,
        page_count: state.shape.page_count,
        range: TxidRange { min: Txid::FIRST, max: last },
        timestamp: base.recorded.map_or(now, |r| now.max(r.timestamp)),
        wal: WalSpan::NONE,
        writer_id: 0,
        proof: Some(Proof { pre: Checksum::EMPTY, post }),
    };
    let folder = log.saved_folder(post);
    let place = FileReplica::at_or_create(folder.clone())?;
    let put = Put { log, place: &place, state };
    put.pages(Level::SNAPSHOT, &whole, &|_, _| true)?;
    if has_rest && last > Txid::FIRST {
        let pre = recorded.map_or(Checksum::EMPTY, |r| r.checksum);
        let rest = Header { range: TxidRange::one(last), proof: Some(Proof { pre, post }), ..whole };
        put.pages(Level::CAPTURED, &rest, &|pgno, sum| base.known(pgno, state.shape) != Some(sum))?;
    }
    for sealed in groups.iter().rev() {
        put.group(sealed)?;
    }
    place.make_durable(Level::SNAPSHOT)?;
    if !place.list(Level::CAPTURED)?.is_empty() {
        place.make_durable(Level::CAPTURED)?;
    }
    let first = groups.first().map(|sealed| sealed.txid).or(has_rest.then_some(last));
    Ok(Saved { folder, groups: groups.len() + usize::from(has_rest), last, first })
}

struct Put<'a> {
    log: &'a Log,
    place: &'a FileReplica,
    state: &'a State<'a>,
}

impl Put<'_> {
    fn pages(&self, level: Level, header: &Header, keep: &dyn Fn(Pgno, Checksum) -> bool) -> Result<()> {
        let temp = Temp::create(&self.log.folder().join("saving"))?;
        let mut encoder = Encoder::new(BufWriter::with_capacity(128 << 10, temp.file()), *header)?;
        let mut page = vec![0; header.page_size.bytes()];
        for &(pgno, _) in self.state.sums.iter().filter(|&&(pgno, sum)| keep(pgno, sum)) {
            (self.state.read)(pgno, &mut page)?;
            encoder.page(pgno, &page)?;
        }
        encoder.finish()?;
        let body = temp.file().try_clone().map_err(|e| Error::io("open", temp.path(), e))?;
        self.put(level, header.range, header.timestamp, body)
    }

    fn group(&self, sealed: &Sealed) -> Result<()> {
        let path = self.log.path_of(sealed.txid);
        let body = File::open(&path).map_err(|e| Error::io("open", &path, e))?;
        self.put(Level::CAPTURED, TxidRange::one(sealed.txid), sealed.timestamp, body)
    }

    /// The state names the folder: what has the name already is the same.
    fn put(&self, level: Level, range: TxidRange, timestamp: Timestamp, mut body: File) -> Result<()> {
        body.rewind().map_err(|e| Error::io("read", self.log.folder(), e))?;
        match self.place.create(level, range, timestamp, &mut body) {
            Err(error) if error.kind() != Kind::Exists => Err(error),
            _ => Ok(()),
        }
    }
}
