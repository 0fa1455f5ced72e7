//! How a local state becomes the end of its history: the newest files of log and replica, as few as prove what they
//! make of it. Nothing is changed.
//!
//! The history ends with the replica's head and those of our unsent groups that follow it.

use std::fs::File;
use std::io::BufReader;

use super::live::LiveFiles;
use super::open::at_open::{Forward, Found, Local as Finding};
use super::open::look::{Looked, with_hot_journal};
use super::open::roll_forward::{Roll, Rolled, Save};
use super::side;
use crate::capture::at_rest::{self, AtRest};
use crate::capture::group;
use crate::catalog::Back;
use crate::config::{Durability, Settings};
use crate::error::{Error, Kind, Result};
use crate::ffi::hooks::BaseVfs;
use crate::ltx::{Decoder, Header};
use crate::replica::{Client, open_decoder};
use crate::restore::overlay::{Local, Overlay};
use crate::restore::tail::Here;
use crate::sqlite::header;
use crate::staging::checksums::PageChecksums;
use crate::staging::log::{Log, Recorded, Sealed};
use crate::staging::state::State;
use crate::types::{Checksum, Pgno, Position, Txid};
use crate::upload::Head;

/// Files that are read back from the end to prove a state: as many positions as the state page remembers.
const FILES_MAX: usize = 4096;
/// The history as it can be had: the replica's, and what follows it in the log.
pub struct History<'a> {
    pub home: &'a dyn Client,
    pub head: Option<&'a Head>,
    pub log: &'a Log,
    /// Unsent groups that follow the head, ascending.
    pub following: Vec<Sealed>,
}

/// How a local state becomes the end of the history.
pub struct Way {
    pub overlay: Overlay,
    /// The position after which files were taken; `None`: all of them.
    pub after: Option<Txid>,
    /// The local state is a position of the history.
    pub from_position: bool,
    /// The end is a group in the log.
    pub ends_in_log: bool,
}

/// A local file that is to be overwritten.
struct Wanted<'a> {
    settings: &'a Settings,
    base: BaseVfs,
    state: &'a State,
    forward: Forward,
    /// Groups that are in no replica, where all that is there is to be kept.
    own: Option<&'a [Sealed]>,
}

/// The files from which a way may be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Files {
    /// Differences after this position: what the local state had then, it must have still. `None`: all differences.
    After(Option<Txid>),
    /// Any, a snapshot too: the local state is known, or does not matter.
    Any,
}

/// What was read; `None` of files that are damaged or missing, which prove nothing.
fn if_readable<T>(read: Result<T>) -> Result<Option<T>> {
    match read {
        Err(e) if matches!(e.kind(), Kind::Corrupt | Kind::NotFound | Kind::Conflict) => Ok(None),
        other => other.map(Some),
    }
}

impl History<'_> {
    /// Finds the pages that make the local state, with this checksum, into the end. `None`: no files prove it.
    ///
    /// # Errors
    /// `Io` of store and disk.
    pub fn way(&self, state: Option<Checksum>, local: &Local<'_>, files: Files) -> Result<Option<Way>> {
        if_readable(self.find(state, local, files)).map(Option::flatten)
    }

    fn find(&self, state: Option<Checksum>, local: &Local<'_>, files: Files) -> Result<Option<Way>> {
        let Some(end) = self.end()? else { return Ok(None) };
        let scratch = self.log.folder().join("ltx").join("forward");
        let overlay = Overlay::new(end, local, &scratch)?;
        let ends_in_log = !self.following.is_empty();
        let mut way = Way { overlay, after: Some(end.range.max), from_position: false, ends_in_log };
        for sealed in self.following.iter().rev() {
            if way.overlay.is_proven() {
                return Ok(Some(way));
            }
            way.take(&mut open_sealed(self.log, sealed.txid)?, state, local)?;
        }
        let mut listing = Back::new(self.home.list_all()?);
        let mut pre = self.following.first().map(|sealed| sealed.proof.pre);
        for _ in 0..FILES_MAX {
            if way.overlay.is_proven() {
                return Ok(Some(way));
            }
            let Some(after) = way.after.filter(|&after| files.reach(after)) else { break };
            let Some(file) = listing.step(after, files == Files::Any) else { break };
            let mut decoder = open_decoder(self.home, &file)?;
            let proof = decoder.header().proof;
            // A leftover of a writer that woke up late is no part of the history.
            if file.range.max == after && pre.zip(proof).is_some_and(|(pre, proof)| pre != proof.post) {
                continue;
            }
            if !way.take(&mut decoder, state, local)? {
                break;
            }
            pre = proof.map(|p| p.pre);
        }
        Ok(way.overlay.is_proven().then_some(way))
    }

    /// The header of the newest file.
    fn end(&self) -> Result<Option<Header>> {
        match self.following.last() {
            Some(sealed) => open_sealed(self.log, sealed.txid).map(|decoder| Some(*decoder.header())),
            None => Ok(self.head.map(|head| head.header).filter(|header| header.proof.is_some())),
        }
    }
}

impl Files {
    /// The file that holds `txid` may be used.
    fn reach(self, txid: Txid) -> bool {
        match self {
            Files::Any | Files::After(None) => true,
            Files::After(Some(floor)) => txid > floor,
        }
    }
}

fn open_sealed(log: &Log, txid: Txid) -> Result<Decoder<BufReader<File>>> {
    let path = log.path_of(txid);
    let file = File::open(&path).map_err(|e| Error::io("open", &path, e))?;
    Decoder::new(BufReader::new(file), path.to_string_lossy())
}

impl Way {
    fn take<R: std::io::Read>(
        &mut self,
        decoder: &mut Decoder<R>,
        state: Option<Checksum>,
        local: &Local<'_>,
    ) -> Result<bool> {
        let header = *decoder.header();
        self.from_position |= state.is_some() && header.proof.map(|p| p.pre) == state;
        self.after = header.range.min.previous();
        self.overlay.take(decoder, local)
    }

    /// Where the history stands afterwards.
    pub fn end(&self) -> Recorded {
        let end = self.overlay.end();
        let checksum = end.proof.expect("BUG: a proven way ends at a checksum").post;
        Recorded {
            position: Position { txid: end.range.max, checksum },
            page_size: end.page_size,
            page_count: end.page_count,
            timestamp: end.timestamp,
        }
    }
}

/// Whether no loss of power can have taken the end of the history from the database file: what differs came later. The order
/// of the positions decides, as numbers start over with an emptied replica.
fn is_surely_there(state: &State, end: Position) -> bool {
    let end = state.positions().position(|p| p == end);
    let synced = state.positions().position(|p| Some(p.txid) == state.synced());
    synced.zip(end).is_some_and(|(synced, end)| synced <= end)
}

impl History<'_> {
    /// What a state after a crash is that is neither the head nor the recorded position, and the way from it.
    ///
    /// # Errors
    /// As [`History::way`].
    pub fn place(
        &self,
        whole: &AtRest,
        state: &State,
        durability: Durability,
    ) -> Result<(Finding, Option<Way>)> {
        let local = |pgno: Pgno| self.page_of(whole, pgno);
        let remembered = state.positions().find(|p| p.checksum == whole.checksum);
        let recorded = self.log.recorded()?.map(|r| r.position);
        let end = match remembered {
            Some(_) => None,
            None => self.proven_end()?,
        };
        if end.is_some_and(|(position, _)| is_surely_there(state, position)) {
            return Ok((Finding::Crashed(Found::Ahead), None));
        }
        let files = match remembered {
            Some(_) => Files::Any,
            None => Files::After(state.synced()),
        };
        let Some(way) = self.way(Some(whole.checksum), &local, files)? else {
            let found = match end {
                Some((position, end)) if self.goes_on(whole, state, position, &end)? => Found::Ahead,
                _ => Found::Other,
            };
            return Ok((Finding::Crashed(found), None));
        };
        let ahead = match remembered {
            _ if way.from_position => Some(false),
            Some(position) => Some(side::is_later(state, recorded, position, way.end().position)),
            None => match side::is_ahead(whole, &way)? {
                // A change counter says so only of one history: where another writer made the end, it is a fork.
                Some(true)
                    if !whole.before.contains(&way.end().position.checksum)
                        && !side::is_ours(state, way.end().position, way.overlay.end()) =>
                {
                    None
                }
                ahead => ahead,
            },
        };
        // In a rollback mode the file is on disk before the replica can have it; a WAL may lose what the replica has.
        let in_wal_mode = header::parse(&whole.page_1).map_or(!whole.before.is_empty(), |h| h.wal);
        let found = match ahead {
            Some(true) => Found::Ahead,
            Some(false) => Found::Behind,
            None if in_wal_mode || durability != Durability::Async => Found::Behind,
            None => Found::Other,
        };
        Ok((Finding::Crashed(found), (found == Found::Behind).then_some(way)))
    }

    /// Whether a state that no files lead from goes on from the end: that was reached by this database, or by its log's last
    /// life, and WAL or page 1 count on from there.
    fn goes_on(&self, whole: &AtRest, state: &State, position: Position, end: &Header) -> Result<bool> {
        if !side::is_ours(state, position, end) {
            return Ok(false);
        }
        match side::is_past(whole, end) {
            Some(is_past) => Ok(is_past),
            None => Ok(self.page_1_of_end(end)?.is_some_and(|page_1| side::counts_on(whole, &page_1))),
        }
    }

    /// The end of the history, where it says its state.
    fn proven_end(&self) -> Result<Option<(Position, Header)>> {
        let proven = |end: Header| Some((Position { txid: end.range.max, checksum: end.proof?.post }, end));
        Ok(if_readable(self.end())?.flatten().and_then(proven))
    }

    /// Page 1 where the last file has it.
    fn page_1_of_end(&self, end: &Header) -> Result<Option<Vec<u8>>> {
        let mut page = vec![0; end.page_size.bytes()];
        let first = match (self.following.last(), self.head) {
            (Some(sealed), _) => open_sealed(self.log, sealed.txid).and_then(|mut d| d.next_page(&mut page)),
            (None, Some(head)) => {
                open_decoder(self.home, &head.file).and_then(|mut d| d.next_page(&mut page))
            }
            (None, None) => return Ok(None),
        };
        let is_first = if_readable(first)? == Some(Some(Pgno::FIRST));
        Ok(is_first.then_some(page))
    }

    /// Checksum of a page of a local state, where it can be compared with one of the end.
    fn page_of(&self, whole: &AtRest, pgno: Pgno) -> Option<Checksum> {
        let end = match self.following.last() {
            Some(sealed) => Some(sealed.page_size),
            None => self.head.map(|head| head.header.page_size),
        };
        whole.page(pgno).filter(|_| end == Some(whole.shape.page_size))
    }

    /// Keeps the local file and these groups, and overwrites it with the end of the history, which another writer made.
    ///
    /// # Errors
    /// As [`History::roll_forward`].
    pub fn rejoin(
        &self,
        settings: &Settings,
        base: BaseVfs,
        state: &State,
        groups: &[Sealed],
        looked: &mut Looked,
    ) -> Result<Rolled> {
        let to = self.head.and_then(Head::recorded).ok_or_else(|| self.no_way(settings))?;
        // Once the marks that prove what the file is are away, this one says that it is fenced.
        self.log.begin_rejoin(&to)?;
        let roll = Wanted { settings, base, state, forward: Forward::Whatever, own: Some(groups) };
        let rolled = self.roll(&roll, looked, None);
        if rolled.as_ref().is_err_and(|error| error.kind() == Kind::Conflict) {
            self.log.end_rejoin()?;
        }
        rolled
    }

    /// Overwrites the local file with the end of the history.
    ///
    /// # Errors
    /// `Conflict` when no files prove what it would become; as [`Roll::run`].
    pub fn roll_forward(
        &self,
        settings: &Settings,
        base: BaseVfs,
        state: &State,
        forward: Forward,
        looked: &mut Looked,
        way: Option<Way>,
    ) -> Result<Rolled> {
        self.roll(&Wanted { settings, base, state, forward, own: None }, looked, way)
    }

    fn roll(&self, wanted: &Wanted<'_>, looked: &mut Looked, way: Option<Way>) -> Result<Rolled> {
        let Wanted { settings, base, state, forward, own } = *wanted;
        let recorded = self.log.recorded()?;
        let map = self.recorded_pages(recorded.as_ref(), looked)?;
        if map.is_none() && looked.whole.is_none() {
            let live = LiveFiles::new(base.open(&settings.database, true)?, &settings.database);
            live.open_wal()?;
            let whole = with_hot_journal(&settings.database, |hot| at_rest::read(&live, hot))?;
            let is_known = |sum: Checksum| {
                let mut known = recorded.iter().map(|r| r.position).chain(state.positions());
                known.any(|position| position.checksum == sum)
            };
            let stand_ins = self.log.stand_ins()?;
            looked.whole = whole.map(|whole| whole.without_stand_in(&stand_ins, &is_known));
        }
        let Some(here) = here(recorded.as_ref(), map.as_ref(), looked.whole.as_ref()) else {
            return Err(self.no_way(settings));
        };
        let local = |pgno: Pgno| match (&looked.whole, &map) {
            (Some(whole), _) => self.page_of(whole, pgno),
            (None, map) => map.as_ref().and_then(|map| map.get(pgno)),
        };
        let is_here = |position: Position| position.checksum == here.checksum;
        let is_recorded = recorded.is_some_and(|r| is_here(r.position));
        let known = is_recorded || state.positions().any(is_here);
        let way = match way {
            Some(way) => way,
            None if forward == Forward::Ancestor && !known && !looked.is_head() => {
                return Err(self.no_way(settings));
            }
            None => {
                let way = self.way(Some(here.checksum), &local, Files::Any)?;
                way.ok_or_else(|| self.no_way(settings))?
            }
        };
        // From here on nothing proves any longer what the file is.
        state.set_clean(None);
        state.set_cycle(None);
        state.set_tag(0);
        state.sync()?;
        let save = match own {
            Some(groups) => Save::Tail(groups),
            // A remembered position may have lost to another writer, and its group may be gone from the log.
            None if is_recorded || way.from_position || way.end().position.checksum == here.checksum => {
                Save::Nothing
            }
            None => {
                // It may be the difference to a group of the log, which must last as it does.
                self.log.make_all_durable()?;
                Save::Difference
            }
        };
        let roll = Roll {
            path: &settings.database,
            log: self.log,
            base,
            here,
            looked_at: &looked.stills,
            save,
            wait: settings.open_timeout,
            nonce: here.checksum.get() as u32,
        };
        roll.run(way)
    }

    /// The page checksums of the log, where they are those of the local state.
    fn recorded_pages(&self, recorded: Option<&Recorded>, looked: &Looked) -> Result<Option<PageChecksums>> {
        let (Finding::Known { noted: false }, None, Some(recorded)) = (looked.local, &looked.whole, recorded)
        else {
            return Ok(None);
        };
        let mut map = PageChecksums::open(&self.log.folder().join("checksums"))?;
        Ok(group::reapply(self.log, &mut map, recorded)?.then_some(map))
    }

    fn no_way(&self, settings: &Settings) -> Error {
        Error::conflict(format!(
            "{} is behind {}, but the files there do not prove what it would become: set replica_on_behind=keep to go on \
             with the local file as the next txid, or move it away and set replica_if_missing=restore",
            settings.database.display(),
            self.home.url()
        ))
    }
}

fn here(recorded: Option<&Recorded>, map: Option<&PageChecksums>, whole: Option<&AtRest>) -> Option<Here> {
    match (whole, map, recorded) {
        (Some(whole), _, _) => {
            let (page_size, page_count) = (whole.shape.page_size, whole.shape.page_count);
            Some(Here { page_size, page_count, checksum: whole.checksum })
        }
        (None, Some(_), Some(r)) => {
            Some(Here { page_size: r.page_size, page_count: r.page_count, checksum: r.position.checksum })
        }
        _ => None,
    }
}
