//! A snapshot from the pages of the database itself: of the replica hardly more than page indexes is read.
//!
//! ```text
//! what the database file holds of a page, has the checksum that the page had at the acknowledged position?
//!     yes   it is that page, whoever writes meanwhile
//!     no    the newest file of the chain that has the page, by its index
//! ```
//!
//! No lock is held. Each page is proven by its own checksum, and the checksums together are that of the stored file which
//! ends at the position (protocol, rule 4). Memory: per file of the chain a stretch of its index and of its records.

use std::io::Write;
use std::path::Path;

use super::{merge, source::Source};
use crate::catalog::{Target, chain_to};
use crate::error::{Error, Result};
use crate::ltx::{Encoder, Header, Proof, WalSpan, page_checksum};
use crate::replica::{Client, describe, open_decoder};
use crate::staging::log::Recorded;
use crate::staging::sums::Sums;
#[cfg(test)]
use crate::testing::mutation::{self, Mutation};
use crate::types::{Checksum, FileInfo, Level, PageSize, Pgno, Position, Txid, TxidRange};

/// A chain of fewer bytes is as soon read as left out.
pub const WORTH_BYTES: u64 = if cfg!(test) { 1 } else { 1 << 20 };
/// More files than this are merged, in rounds.
const SOURCES_MAX: usize = 128;
/// Pages read from the database at once, in bytes.
const CHUNK_BYTES: usize = if cfg!(test) { 4 << 10 } else { 256 << 10 };

/// A database that was acknowledged at a position, and that may have changed since.
pub struct DatabaseAt {
    pub at: Recorded,
    /// The checksums that its pages had then.
    pub sums: Sums,
    pub read: Box<Read>,
}

/// Fills a buffer with what the file holds now from an offset on; returns how many bytes are there.
pub type Read = dyn Fn(u64, &mut [u8]) -> Result<usize>;

/// Gives such a database where there is one: none is open, or it is ahead of its replica.
pub type Ask<'a> = dyn Fn() -> Result<Option<DatabaseAt>> + 'a;

/// What became of it.
#[derive(Debug)]
pub enum Made {
    File(FileInfo),
    /// The files of the replica must be merged instead.
    NotThisWay,
    Stopped,
}

/// Creates the level-9 file `1..N` for the position N of `database`.
///
/// # Errors
/// `Corrupt` when the replica does not hold what the database was acknowledged at; `Exists`; as the store says.
pub fn snapshot(
    client: &dyn Client,
    database: DatabaseAt,
    scratch: &Path,
    must_stop: &dyn Fn() -> bool,
) -> Result<Made> {
    let Position { txid, checksum: post } = database.at.position;
    #[cfg(test)]
    if mutation::is(Mutation::SnapshotOfWhatIsThere) {
        return snapshot_of_what_is_there(client, database, scratch);
    }
    let chain = chain_to(&client.list_all()?, Target::Txid(txid))?;
    let newest = chain.steps[chain.steps.len() - 1];
    let bytes: u64 = chain.steps.iter().map(|step| step.size).sum();
    if bytes < WORTH_BYTES || chain.steps.len() > SOURCES_MAX {
        return Ok(Made::NotThisWay);
    }
    let stored = *open_decoder(client, &newest)?.header();
    if stored.proof.map(|proof| proof.post) != Some(post) {
        let name = describe(&newest);
        return Err(Error::corrupt(format!(
            "{name} does not end in checksum {post}, at which this database was acknowledged"
        )));
    }
    let range = TxidRange { min: Txid::FIRST, max: txid };
    let proof = Some(Proof { pre: Checksum::EMPTY, post });
    let header = Header { range, proof, wal: WalSpan::NONE, writer_id: 0, ..stored };
    let temp = merge::unfinished(scratch)?;
    let files = Files { client, steps: &chain.steps, sources: Vec::new() };
    let mut pages = Pages { database, page_size: header.page_size, files };
    if !pages.write(Encoder::new(merge::writer(&temp), header)?, must_stop)? {
        return Ok(Made::Stopped);
    }
    merge::create(client, Level::SNAPSHOT, &header, &temp).map(Made::File)
}

/// Whatever the replica says.
#[cfg(test)]
fn snapshot_of_what_is_there(client: &dyn Client, database: DatabaseAt, scratch: &Path) -> Result<Made> {
    let at = database.at;
    let header = Header {
        page_size: at.page_size,
        page_count: at.page_count,
        range: TxidRange { min: Txid::FIRST, max: at.position.txid },
        timestamp: at.timestamp,
        wal: WalSpan::NONE,
        writer_id: 0,
        proof: Some(Proof { pre: Checksum::EMPTY, post: at.position.checksum }),
    };
    let temp = merge::unfinished(scratch)?;
    let files = Files { client, steps: &[], sources: Vec::new() };
    let mut pages = Pages { database, page_size: header.page_size, files };
    pages.write(Encoder::new(merge::writer(&temp), header)?, &|| false)?;
    merge::create(client, Level::SNAPSHOT, &header, &temp).map(Made::File)
}

struct Pages<'a> {
    database: DatabaseAt,
    page_size: PageSize,
    files: Files<'a>,
}

impl Pages<'_> {
    /// Writes every page; `false`: it had to stop.
    fn write<W: Write>(&mut self, mut out: Encoder<W>, must_stop: &dyn Fn() -> bool) -> Result<bool> {
        let (size, last) = (self.page_size.bytes(), self.database.at.page_count);
        let mut chunk = vec![0; (CHUNK_BYTES / size).max(1) * size];
        let mut total = Checksum::EMPTY;
        let mut next = Pgno::new(1).filter(|first| first.get() <= last);
        while let Some(first) = next {
            if must_stop() {
                return Ok(false);
            }
            let read = (self.database.read)(first.offset(self.page_size), &mut chunk)?;
            for (index, page) in chunk.chunks_exact_mut(size).enumerate() {
                let pgno = Pgno::new(first.get() + index as u32).filter(|pgno| pgno.get() <= last);
                next = pgno
                    .and_then(|pgno| Pgno::new(pgno.get().checked_add(1)?))
                    .filter(|next| next.get() <= last);
                let Some(pgno) = pgno else { break };
                if pgno == self.page_size.lock_pgno() {
                    continue;
                }
                let sum = self.database.sums.get(pgno)?.ok_or_else(|| lacking(pgno))?;
                let is_there = read >= (index + 1) * size && page_checksum(pgno, page) == sum;
                if !is_there {
                    self.files.read(pgno, page)?;
                    if page_checksum(pgno, page) != sum {
                        return Err(lacking(pgno));
                    }
                }
                total = total.toggle(sum);
                out.page(pgno, page)?;
            }
        }
        let summary = out.finish()?;
        assert_eq!(summary.header.proof.map(|proof| proof.post), Some(total), "BUG: pages of another state");
        Ok(true)
    }
}

fn lacking(pgno: Pgno) -> Error {
    Error::corrupt(format!(
        "page {pgno} is neither in the database nor in its replica as it was acknowledged"
    ))
}

/// The files of the chain, opened when the first page is wanted of them.
struct Files<'a> {
    client: &'a dyn Client,
    steps: &'a [FileInfo],
    /// Newest first.
    sources: Vec<Source<'a>>,
}

impl Files<'_> {
    /// The page as the newest file has it. Pages are asked for in ascending order.
    fn read(&mut self, pgno: Pgno, page: &mut [u8]) -> Result<()> {
        if self.sources.is_empty() {
            let newest_first = self.steps.iter().rev();
            self.sources = newest_first.map(|step| Source::open(self.client, step)).collect::<Result<_>>()?;
        }
        for source in &mut self.sources {
            if source.read(pgno, page)? {
                return Ok(());
            }
        }
        Err(lacking(pgno))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::ltx::Header;
    use crate::replica::FileReplica;
    use crate::testing::Folder;
    use crate::types::Timestamp;
    use crate::upkeep::sample::{State, checksum, fill, replica};

    const TXIDS: u64 = 14;
    const SIZE: PageSize = PageSize::new(512).unwrap();

    /// What the database file holds, where its position has these pages.
    fn database(state: &State, held: Vec<u8>) -> DatabaseAt {
        let page_count = state.len() as u32;
        let position = Position { txid: Txid::new(TXIDS).unwrap(), checksum: checksum(state) };
        let mut sums = Sums::default();
        sums.grow(page_count, Path::new("/none")).unwrap();
        for (&pgno, page) in state {
            let pgno = Pgno::new(pgno).unwrap();
            sums.set(pgno, Some(page_checksum(pgno, page))).unwrap();
        }
        let read = move |offset: u64, buffer: &mut [u8]| {
            let there = &held[held.len().min(offset as usize)..];
            let bytes = there.len().min(buffer.len());
            buffer[..bytes].copy_from_slice(&there[..bytes]);
            Ok(bytes)
        };
        let at = Recorded { position, page_size: SIZE, page_count, timestamp: Timestamp(0) };
        DatabaseAt { at, sums, read: Box::new(read) }
    }

    fn make(replica: &FileReplica, database: DatabaseAt, folder: &Folder) -> Result<FileInfo> {
        match snapshot(replica, database, folder.path(), &|| false)? {
            Made::File(file) => Ok(file),
            other => panic!("{other:?}"),
        }
    }

    fn pages(replica: &FileReplica, file: &FileInfo) -> State {
        let mut decoder = open_decoder(replica, file).unwrap();
        let (mut page, mut found) = (vec![0; SIZE.bytes()], State::new());
        while let Some(pgno) = decoder.next_page(&mut page).unwrap() {
            found.insert(pgno.get(), page.clone());
        }
        found
    }

    fn content(state: &State) -> Vec<u8> {
        state.values().flatten().copied().collect()
    }

    /// Flips a bit in the first record of every level-0 file.
    fn damage_records(replica: &FileReplica) {
        for file in replica.list(Level::CAPTURED).unwrap() {
            let path = replica.root().join(format!("ltx/0/{}", crate::ltx::name::format(file.range)));
            let mut bytes = std::fs::read(&path).unwrap();
            if bytes.len() > SIZE.bytes() {
                bytes[Header::BYTES + 40] ^= 1;
                std::fs::write(&path, bytes).unwrap();
            }
        }
    }

    #[test]
    fn pages_that_are_as_they_were_are_not_read_from_the_replica() {
        let folder = Folder::new();
        let replica = replica(&folder, "a");
        let state = fill(&replica, TXIDS, 0);
        damage_records(&replica);
        let made = make(&replica, database(&state, content(&state)), &folder).unwrap();
        assert_eq!(pages(&replica, &made), state);
        assert_eq!((made.level, made.range.min, made.range.max.get()), (Level::SNAPSHOT, Txid::FIRST, TXIDS));
        assert!(!folder.files().iter().any(|name| name.ends_with(".tmp")));
    }

    #[test]
    fn pages_that_changed_since_come_from_the_newest_files_that_have_them() {
        let folder = Folder::new();
        let replica = replica(&folder, "a");
        let state = fill(&replica, TXIDS, 0);
        for changed in (0..512u32).step_by(7) {
            let mut held = content(&state);
            for (index, page) in held.chunks_exact_mut(SIZE.bytes()).enumerate() {
                // Torn half-way, as a reader may see it beside a writer.
                page[256..].iter_mut().filter(|_| changed >> index & 1 == 1).for_each(|byte| *byte ^= 0xff);
            }
            let made = make(&replica, database(&state, held), &folder).unwrap();
            assert_eq!(pages(&replica, &made), state, "{changed:b}");
            replica.delete(&made).unwrap();
        }
    }

    #[test]
    fn file_that_has_shrunk_or_gone_changes_nothing() {
        for left in [0, 1, 512, 700] {
            let folder = Folder::new();
            let replica = replica(&folder, "a");
            let state = fill(&replica, TXIDS, 0);
            let mut held = content(&state);
            held.truncate(left);
            let made = make(&replica, database(&state, held), &folder).unwrap();
            assert_eq!(pages(&replica, &made), state);
        }
    }

    #[test]
    fn state_that_the_replica_does_not_have_makes_no_snapshot() {
        let folder = Folder::new();
        let replica = replica(&folder, "a");
        let mut state = fill(&replica, TXIDS, 0);
        state.get_mut(&1).unwrap()[0] ^= 1;
        let error = make(&replica, database(&state, content(&state)), &folder).unwrap_err();
        assert!(error.to_string().contains("at which this database was acknowledged"), "{error}");
        assert_eq!(replica.list(Level::SNAPSHOT).unwrap(), []);
    }

    #[test]
    fn page_that_nobody_has_undamaged_makes_no_snapshot() {
        let folder = Folder::new();
        let replica = replica(&folder, "a");
        let state = fill(&replica, TXIDS, 0);
        damage_records(&replica);
        let error = make(&replica, database(&state, Vec::new()), &folder).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt, "{error}");
        assert_eq!(replica.list(Level::SNAPSHOT).unwrap(), []);
    }

    #[test]
    fn it_stops_when_it_must() {
        let folder = Folder::new();
        let replica = replica(&folder, "a");
        let state = fill(&replica, TXIDS, 0);
        let made = snapshot(&replica, database(&state, content(&state)), folder.path(), &|| true).unwrap();
        assert!(matches!(made, Made::Stopped));
        assert_eq!(replica.list(Level::SNAPSHOT).unwrap(), []);
    }
}
