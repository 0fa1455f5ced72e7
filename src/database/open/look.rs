//! What the first open of a database in a host finds, before anything is decided: its file, its local log, and whether
//! the replica's history is its own. Nothing is changed.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::capture::at_rest::{self, AtRest, Frames, Hot};
use crate::database::live::{LiveFiles, beside, journal_is_hot, open_journal, read_at};
use crate::database::open::at_open::{Found, Local};
use crate::database::open::roll_forward::Stills;
use crate::error::{Error, Result};
use crate::ffi::hooks::BaseVfs;
use crate::fs::{FileStat, boot_id};
use crate::replica::Client;
use crate::sqlite::{header, journal, wal, wal_index::Salts};
use crate::staging::log::{Log, Recorded, Sealed};
use crate::staging::noted::NotedSet;
use crate::staging::stand_in::StandIn;
use crate::staging::state::State;
#[cfg(test)]
use crate::testing::mutation::{self, Mutation};
use crate::types::{Checksum, FileInfo, Position, Txid};
use crate::upload::{Head, header_of};

/// Files of the replica whose headers are read to find out whether its history is ours.
const RELATED_FILES_MAX: usize = 64;

/// What was found out about the local file.
pub struct Looked {
    pub local: Local,
    /// Its whole state, where it was read.
    pub whole: Option<AtRest>,
    /// The files as they were before they were looked at.
    pub stills: Stills,
    /// The machine has not gone down since, or that does not matter.
    pub same_boot: bool,
}

struct Read {
    whole: Option<AtRest>,
    stills: Stills,
}

impl Read {
    fn checksum(&self) -> Option<Checksum> {
        self.whole.as_ref().map(|whole| whole.checksum)
    }
}

impl Looked {
    /// It is the end of the replica.
    pub fn is_head(&self) -> bool {
        self.local == Local::Crashed(Found::Head)
    }
}

/// Looks at the local file of a database.
pub struct Look<'a> {
    pub path: &'a Path,
    pub base: BaseVfs,
    pub state: &'a State,
    pub noted: &'a NotedSet,
    pub recorded: Option<&'a Recorded>,
    pub stand_ins: &'a [StandIn],
    /// The end of the replica.
    pub head: Option<Position>,
    /// The history ends at the recorded position.
    pub at_end: bool,
    /// The log may stand where the file is not yet.
    pub rolling: bool,
    /// The whole state is wanted, whatever the marks prove.
    pub whole: bool,
}

impl Look<'_> {
    /// # Errors
    /// `Io`.
    pub fn look(&self) -> Result<Looked> {
        let same_boot = self.rolling || !power_was_lost(self.path, self.state)?;
        let local = |local, read: Option<Read>| {
            let (whole, stills) = read.map_or_else(|| (None, Stills::of(self.path)), |r| (r.whole, r.stills));
            Ok(Looked { local, whole, stills, same_boot })
        };
        let stat = match FileStat::of(self.path) {
            Ok(stat) if stat.size > 0 => stat,
            Ok(_) => return local(Local::Missing, None),
            Err(e) if e.kind() == crate::error::Kind::NotFound => return local(Local::Missing, None),
            Err(e) => return Err(e),
        };
        let live = LiveFiles::new(self.base.open(self.path, true)?, self.path);
        live.open_wal()?;
        let Some(recorded) = self.recorded.map(|r| r.position) else {
            let read = self.read(&live)?;
            return local(Local::Unlogged(read.checksum()), Some(read));
        };
        let mut anchor = known_by(self.path, &stat, &live, self.state)?;
        let frames = match anchor {
            Some(Anchor::Killed) => at_rest::frames_left(&live, self.state.frames_seen())?,
            _ => Frames::Whole,
        };
        let lost_frames = frames == Frames::Lost;
        if frames != Frames::Whole || self.rolling {
            anchor = None;
        }
        let same_file = self.state.file_id() == (stat.device, stat.inode);
        let signs = Signs {
            anchor,
            noted: !self.noted.is_empty(),
            lost: lost_frames || self.rolling || same_file && !same_boot,
            recorded,
            head: self.head,
            at_end: self.at_end,
            whole: self.whole,
        };
        if let Some(known) = signs.unread() {
            return local(known, None);
        }
        let read = self.read(&live)?;
        let ours = lost_frames || self.rolling || !read.stills.changed_since_boot();
        local(signs.read(read.checksum(), ours), Some(read))
    }

    /// The whole state, and the files as they were when it was the state.
    fn read(&self, live: &LiveFiles) -> Result<Read> {
        let stills = Stills::old_enough(self.path);
        let whole = with_hot_journal(self.path, |hot| at_rest::read(live, hot))?;
        let is_known = |state: Checksum| {
            let mut ends = self.head.into_iter().chain(self.recorded.map(|r| r.position));
            ends.any(|end| end.checksum == state) || self.state.positions().any(|p| p.checksum == state)
        };
        let whole = whole.map(|whole| whole.without_stand_in(self.stand_ins, &is_known));
        Ok(Read { whole, stills })
    }
}

/// What is known of a file that is there, beside its pages.
pub struct Signs {
    pub anchor: Option<Anchor>,
    /// There are pages that are noted.
    pub noted: bool,
    /// Commits may be lost.
    pub lost: bool,
    pub recorded: Position,
    /// The end of the replica.
    pub head: Option<Position>,
    /// The history ends at the recorded position.
    pub at_end: bool,
    /// The whole state is wanted, whatever the marks prove.
    pub whole: bool,
}

impl Signs {
    /// What they say without a look at the pages. `None`: these must be read.
    pub fn unread(&self) -> Option<Local> {
        match self.anchor {
            _ if self.whole => None,
            Some(Anchor::CleanMark) if self.at_end || !self.noted => Some(Local::Known { noted: self.noted }),
            Some(Anchor::Killed) if self.at_end => Some(Local::Known { noted: self.noted }),
            None if self.at_end && !self.lost => Some(Local::Unknown { is_head: false }),
            _ => None,
        }
    }

    /// What they say of a file in this state. `ours`: nobody else changed it since commits may have been lost.
    pub fn read(&self, state: Option<Checksum>, ours: bool) -> Local {
        let is = |position: Position| state == Some(position.checksum);
        let is_head = self.head.is_some_and(is);
        #[cfg(test)]
        if self.lost && mutation::is(Mutation::TimesBeforeState) {
            return Local::Unknown { is_head: false };
        }
        match self.lost {
            // What a killed process left noted, or did not come to note, is in no group.
            _ if self.anchor.is_some() => Local::Known { noted: !is(self.recorded) },
            true if is_head => Local::Crashed(Found::Head),
            true if is(self.recorded) => Local::Crashed(Found::Recorded),
            true if ours => Local::Crashed(Found::Other),
            true => Local::Crashed(Found::Changed),
            // A state that we know all the same: whoever put it there, nothing of it can be lost.
            _ if is(self.recorded) => Local::Known { noted: false },
            _ => Local::Unknown { is_head },
        }
    }
}

/// The machine went down without a clean close, or in the middle of a transaction after it, or it brought back the journal of
/// the last one: what was not synced may be gone.
fn power_was_lost(database: &Path, state: &State) -> Result<bool> {
    Ok(!state.is_of_boot(boot_id()?) && (state.clean().is_none() || journal_is_hot(database)?))
}

/// The machine went down since the log was written, or the state page is gone that says under which boot that was; and it is not
/// the clean mark of this very file that says that the log was on disk by then: somebody may have copied log and file.
pub fn log_may_be_torn(database: &Path, state: &State) -> Result<bool> {
    let is_marked = state.clean().is_some_and(|clean| FileStat::of(database).is_ok_and(|now| now == clean));
    Ok(!is_marked && state.boot() != boot_id()?)
}

/// Runs `body` with the journal that the next reader would play back.
pub fn with_hot_journal<T>(path: &Path, body: impl FnOnce(Option<&Hot<'_>>) -> Result<T>) -> Result<T> {
    let Some((file, journal)) = open_journal(path)? else { return body(None) };
    let size = file.metadata().map_err(|e| Error::io("look at", &journal, e))?.len();
    let read = |offset: u64, buffer: &mut [u8]| read_at(&file, &journal, offset, buffer);
    let exists = |name: &[u8]| Path::new(OsStr::from_bytes(name)).exists();
    match journal::parse(size, &read, &exists)? {
        Some(playback) => body(Some(&Hot { playback, read: &read })),
        None => body(None),
    }
}

/// What proves that every change since the recorded position is noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    /// Nothing was written after our last close: the state is the recorded one, plus pages that are noted.
    CleanMark,
    /// A killed process: later commits are in the WAL, or of this very page 1.
    Killed,
}

/// The anchor that proves that every change since the recorded position is noted.
fn known_by(path: &Path, stat: &FileStat, live: &LiveFiles, state: &State) -> Result<Option<Anchor>> {
    if state.file_id() != (stat.device, stat.inode) {
        return Ok(None);
    }
    let cycle = wal_cycle(path)?;
    // A journal whose removal did not last takes the last commit back at the next read.
    let is_marked = cycle.is_none() && state.clean().as_ref() == Some(stat) && bears_our_tag(live, state)?;
    if is_marked && !journal_is_hot(path)? {
        return Ok(Some(Anchor::CleanMark));
    }
    let killed = state.boot() == boot_id()? && is_killed(path, cycle, live, state)?;
    Ok(killed.then_some(Anchor::Killed))
}

/// Whether page 1 is that of our last close. The times alone do not say: fdatasync leaves them behind, so that a file which was
/// changed since may have its old ones after a loss of power.
fn bears_our_tag(live: &LiveFiles, state: &State) -> Result<bool> {
    use crate::capture::Files;
    let mut bytes = [0; 100];
    let there = live.read_database(0, &mut bytes)?;
    Ok(state.clean_tag() == Some(header::tag_of(&bytes[..there])))
}

fn is_killed(path: &Path, cycle: Option<Salts>, live: &LiveFiles, state: &State) -> Result<bool> {
    if let Some(cycle) = cycle {
        let known = state.cycle() == Some(cycle) || state.cycle_before() == Some(cycle);
        if known {
            state.set_cycle(Some(cycle));
        }
        return Ok(known);
    }
    // Killed in a rollback mode: page 1 is as we left it, before or after the transaction that was under way.
    use crate::capture::Files;
    let mut bytes = [0; 100];
    // After a clean close nobody was killed here: the file is the one that was closed, which its mark says, or another wrote to
    // it, and what is no program of SQLite's may have left page 1 as it was.
    if state.cycle().is_some() || state.clean().is_some() || live.read_database(0, &mut bytes)? < bytes.len()
    {
        return Ok(false);
    }
    let in_wal_mode = header::parse(&bytes).is_some_and(|h| h.wal);
    let tag = header::tag_of(&bytes);
    // What we wrote and did not commit counts while its journal is there to undo it. Without one, another program may
    // have undone it and committed in its place, and counted the same.
    let undone = tag == state.tag_written() && journal_is_hot(path)?;
    Ok(!in_wal_mode && tag != 0 && (tag == state.tag() || undone))
}

/// The cycle of a WAL that is not empty.
fn wal_cycle(database: &Path) -> Result<Option<Salts>> {
    let path = beside(database, "-wal");
    let Ok(file) = File::open(&path) else { return Ok(None) };
    let mut bytes = [0; wal::HEADER_LEN];
    let there = crate::database::live::read_at(&file, &path, 0, &mut bytes)?;
    // A header that no recovery accepts still means that somebody wrote here.
    Ok(if there == 0 { None } else { Some(wal::parse_header(&bytes).map_or(u64::MAX, |h| h.salts)) })
}

pub fn unsent(log: &Log, state: &State) -> Result<Vec<Sealed>> {
    let acknowledged = state.acknowledged(0);
    let txids = log.txids()?.into_iter().filter(|&t| acknowledged.is_none_or(|a| t > a));
    txids.map(|t| log.sealed(t)).collect()
}

/// The sealed groups that the replica lacks. The log may not say so of all that it has: an acknowledgement is lost with the
/// power, or with the process that was about to note it. What the end of the history goes on from was stored, and so was all
/// before it: the newest such group comes along.
///
/// # Errors
/// Those of log and store.
pub fn not_stored(
    home: &dyn Client,
    head: Option<&Head>,
    log: &Log,
    state: &State,
) -> Result<(Vec<Sealed>, Option<Txid>)> {
    let mut unsent = unsent(log, state)?;
    let newest = head.and_then(|head| {
        let at = unsent.iter().rposition(|sealed| sealed.txid <= head.txid())?;
        Some((head, at))
    });
    match newest {
        Some((head, at)) if leads_to(home, unsent[at].recorded().position, head)? => {
            let stored = unsent.drain(..=at).next_back().map(|sealed| sealed.txid);
            Ok((unsent, stored))
        }
        _ => Ok((unsent, None)),
    }
}

/// Whether files lead from a position to the head, each by the checksum before it. That there is a file of that txid proves
/// nothing: a writer that woke up late may have left it.
fn leads_to(home: &dyn Client, position: Position, head: &Head) -> Result<bool> {
    let files = home.list_all()?;
    let (mut at, mut read) = (position, 0);
    while at.txid < head.txid() {
        let next = at.txid.next();
        let mut after: Vec<&FileInfo> = files.iter().filter(|f| f.range.min == next).collect();
        after.sort_by_key(|f| std::cmp::Reverse(f.range.max));
        let mut found = None;
        for file in after {
            read += 1;
            if read > RELATED_FILES_MAX {
                return Ok(false);
            }
            let proof = header_of(home, file)?.proof;
            if let Some(proof) = proof.filter(|proof| proof.pre == at.checksum) {
                found = Some(Position { txid: file.range.max, checksum: proof.post });
                break;
            }
        }
        let Some(found) = found else { return Ok(false) };
        at = found;
    }
    Ok(head.header.proof.is_some_and(|proof| proof.post == at.checksum))
}

/// Whether a position that this log remembers is in the replica's chain.
pub fn is_related(
    home: &dyn Client,
    head: Option<&Head>,
    state: &State,
    recorded: Option<&Recorded>,
) -> Result<bool> {
    let Some(head) = head else { return Ok(false) };
    let mut known: std::collections::HashSet<(Txid, Checksum)> =
        state.positions().map(|p| (p.txid, p.checksum)).collect();
    known.extend(recorded.map(|r| (r.position.txid, r.position.checksum)));
    if known.is_empty() {
        return Ok(false);
    }
    let knows = |txid: Option<Txid>, checksum: Checksum| txid.is_some_and(|t| known.contains(&(t, checksum)));
    if head.header.proof.is_some_and(|p| knows(Some(head.txid()), p.post)) {
        return Ok(true);
    }
    let mut files = home.list_all()?;
    // Those that begin or end where the log stands first: an outdated node may be thousands of files behind.
    let at = recorded.map(|r| r.position.txid);
    let beside = |f: &FileInfo| Some(f.range.max) == at || f.range.min.previous() == at;
    files.sort_by_key(|f| (!beside(f), std::cmp::Reverse(f.range.max)));
    for file in files.iter().take(RELATED_FILES_MAX) {
        let Some(proof) = header_of(home, file)?.proof else { continue };
        if knows(Some(file.range.max), proof.post) || knows(file.range.min.previous(), proof.pre) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(n: u64) -> Position {
        Position { txid: Txid::new(n).unwrap(), checksum: Checksum::from_crc(n) }
    }

    #[test]
    fn recorded_state_is_never_taken_for_a_change() {
        let mut signs = Signs {
            anchor: None,
            noted: false,
            lost: false,
            recorded: at(3),
            head: Some(at(5)),
            at_end: false,
            whole: false,
        };
        let state = |n| Some(at(n).checksum);
        assert_eq!(signs.unread(), None, "the replica went on, so it is read");
        for (state, local) in [
            (state(3), Local::Known { noted: false }),
            (state(5), Local::Unknown { is_head: true }),
            (state(4), Local::Unknown { is_head: false }),
        ] {
            assert_eq!(signs.read(state, false), local);
        }
        signs.lost = true;
        for (state, ours, found) in [
            (state(3), false, Found::Recorded),
            (state(5), false, Found::Head),
            (state(4), true, Found::Other),
            (state(4), false, Found::Changed),
        ] {
            assert_eq!(signs.read(state, ours), Local::Crashed(found));
        }
    }
}
