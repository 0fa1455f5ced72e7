//! The first open of a database in this host: what is found, what is decided, and what is done before SQLite sees it.
//!
//! ```text
//! prepare   claim places, reach the home replica, lock the log, look at file, log and replica, decide   (xOpen, before the base)
//! finish    take the handles for reading, put the log in order, make the Database                       (base xOpen done)
//! ```
//!
//! Another process that has the database open has decided already: then the log is only joined.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use super::at_open::{Base, Findings, Found, Local, Refusal, ReplicaHead, Verdict, decide};
use super::engine::{Engine, Replica};
use super::followed::{Database, Parts};
use super::live::{LiveFiles, beside, journal_is_hot};
use crate::capture::at_rest::{self, AtRest};
use crate::capture::{Phase, group};
use crate::catalog::Target;
use crate::clock::{self, Deadline};
use crate::config::{Claim, Settings};
use crate::error::{Error, Result};
use crate::ffi::hooks::BaseVfs;
use crate::fs::{FileStat, LockFile, boot_id, durable};
use crate::replica::{Client, FileReplica, list_all};
use crate::restore;
use crate::sqlite::{header, wal, wal_index::Salts};
use crate::staging::checksums::PageChecksums;
use crate::staging::log::{Groups, Log, Recorded, Sealed};
use crate::staging::noted::NotedSet;
use crate::staging::state::State;
use crate::types::{Checksum, Level, Pgno, Position, Txid};
use crate::upload::{Head, Uploader, header_of};

/// Files of the replica whose headers are read to find out whether its history is ours.
const RELATED_FILES_MAX: usize = 64;

/// What an open found.
pub enum Opening {
    First(Box<Prepared>),
    /// This process has the database open already.
    Again(std::sync::Arc<Database>),
}

/// Decided; the file is not open yet.
pub struct Prepared {
    settings: Settings,
    claim: Claim,
    log: Log,
    users: LockFile,
    home: FileReplica,
    head: Option<Head>,
    /// `None`: another process has it open, and decided.
    verdict: Option<Verdict>,
    found: Option<AtRest>,
    restored: Option<restore::Restored>,
    /// The file as it was when it was looked at.
    looked_at: Option<FileStat>,
}

/// Decides over the open.
///
/// # Errors
/// Every reason to refuse it, with file, finding and remedy.
pub fn prepare(settings: Settings, base: BaseVfs, claim: Claim) -> Result<Prepared> {
    let parent = durable::parent(&settings.database);
    if !parent.is_dir() {
        let (path, parent) = (settings.database.display(), parent.display());
        return Err(Error::not_found(format!("cannot open {path}: there is no folder {parent}")));
    }
    // Nothing is decided when this fails: then what was not there is taken away again.
    let replica_is_new = !settings.replicas[0].folder().exists();
    let log_is_new = !settings.log.exists();
    let (replica, log) = (settings.replicas[0].folder().to_owned(), settings.log.clone());
    let prepared = prepare_folders(settings, base, claim);
    if prepared.is_err() && log_is_new {
        let _ = std::fs::remove_dir_all(log);
    }
    if prepared.is_err() && replica_is_new {
        let _ = std::fs::remove_dir(replica);
    }
    prepared
}

fn prepare_folders(settings: Settings, base: BaseVfs, claim: Claim) -> Result<Prepared> {
    let home = FileReplica::at_or_create(settings.replicas[0].folder().to_owned())
        .map_err(|e| e.while_doing("replica"))?;
    let log = Log::open(&settings.log).map_err(|e| e.while_doing("replica_log"))?;
    prepare_in(settings, base, claim, home, log)
}

fn prepare_in(
    settings: Settings,
    base: BaseVfs,
    claim: Claim,
    home: FileReplica,
    log: Log,
) -> Result<Prepared> {
    let folder = log.folder().to_owned();
    let users = log.users()?;
    if !lock_users(&users, settings.open_timeout)? {
        let head = Head::of(&home)?;
        let (verdict, found, restored, looked_at) = (None, None, None, None);
        return Ok(Prepared { settings, claim, log, users, home, head, verdict, found, restored, looked_at });
    }
    let head = Head::of(&home)?;
    let state = State::open(&folder.join("state"))?;
    let noted = NotedSet::open(&folder.join("noted"))?;
    if power_was_lost(&state)? {
        log.drop_damaged()?;
    }
    let recorded = log.recorded()?;
    let looked_at = FileStat::of(&settings.database).ok();
    let post = head.as_ref().and_then(|h| h.header.proof).map(|p| p.post);
    let (local, found) = look_at(&settings.database, base, &state, &noted, recorded.as_ref(), post)?;
    let findings = Findings {
        local,
        recorded,
        unsent: unsent(&log, &state)?,
        related: is_related(&home, head.as_ref(), &state, recorded.as_ref())?,
        head: head.as_ref().map(|h| ReplicaHead { txid: h.txid(), proof: h.header.proof }),
        if_missing: settings.if_missing,
    };
    let verdict = decide(&findings);
    let mut prepared = Prepared {
        settings,
        claim,
        log,
        users,
        home,
        head,
        verdict: Some(verdict),
        found,
        restored: None,
        looked_at,
    };
    match verdict {
        Verdict::Refuse(why) => Err(prepared.refusal(why, &findings)),
        Verdict::Restore => prepared.restore(&findings.unsent).map(|()| prepared),
        _ => Ok(prepared),
    }
}

/// Takes the users' lock: alone (`true`), or with a process that is there already.
fn lock_users(users: &LockFile, timeout: Duration) -> Result<bool> {
    let deadline = Deadline::after(timeout.max(Duration::from_millis(100)));
    loop {
        if users.try_exclusive()? {
            return Ok(true);
        }
        if users.try_shared()? {
            return Ok(false);
        }
        if deadline.passed() {
            return Err(Error::busy("another process is opening or closing this database; try again"));
        }
        clock::pause(Duration::from_millis(2));
    }
}

/// What the local file is, and, without a log of ours, its whole state.
fn look_at(
    path: &Path,
    base: BaseVfs,
    state: &State,
    noted: &NotedSet,
    recorded: Option<&Recorded>,
    head: Option<Checksum>,
) -> Result<(Local, Option<AtRest>)> {
    let stat = match FileStat::of(path) {
        Ok(stat) if stat.size > 0 => stat,
        Ok(_) => return Ok((Local::Missing, None)),
        Err(e) if e.kind() == crate::error::Kind::NotFound => return Ok((Local::Missing, None)),
        Err(e) => return Err(e),
    };
    let live = LiveFiles::new(base.open(path, true)?, path);
    live.refresh_wal()?;
    if recorded.is_none() {
        let found = read_state(path, &live)?;
        return Ok((Local::Unlogged(found.as_ref().map(|f| f.checksum)), found));
    }
    if is_known(path, &stat, &live, state)? {
        return Ok((Local::Known { noted: !noted.is_empty() }, None));
    }
    let same_file = state.file_id() == (stat.device, stat.inode);
    if !same_file || !power_was_lost(state)? {
        return Ok((Local::Unknown, None));
    }
    let whole = read_state(path, &live)?;
    let is = |checksum: Checksum| whole.as_ref().is_some_and(|w| w.checksum == checksum);
    let found = match recorded {
        _ if head.is_some_and(is) => Found::Head,
        Some(recorded) if is(recorded.position.checksum) => Found::Recorded,
        _ if state.positions().any(|p| is(p.checksum)) => Found::Earlier,
        _ => Found::Other,
    };
    Ok((Local::Crashed(found), whole))
}

/// The machine went down without a clean close: what was not synced may be gone.
fn power_was_lost(state: &State) -> Result<bool> {
    Ok(state.clean().is_none() && state.boot() != [0, 0] && state.boot() != boot_id()?)
}

/// The whole database; `None` when only SQLite can tell, because it must play a journal back first.
fn read_state(path: &Path, live: &LiveFiles) -> Result<Option<AtRest>> {
    if journal_is_hot(path)? { Ok(None) } else { at_rest::read(live) }
}

/// Whether an anchor proves that every change since the recorded position is noted.
fn is_known(path: &Path, stat: &FileStat, live: &LiveFiles, state: &State) -> Result<bool> {
    if state.file_id() != (stat.device, stat.inode) {
        return Ok(false);
    }
    let cycle = wal_cycle(path)?;
    if cycle.is_none() && state.clean().as_ref() == Some(stat) {
        return Ok(true);
    }
    if state.boot() != boot_id()? {
        return Ok(false);
    }
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
    if state.cycle().is_some() || live.read_database(0, &mut bytes)? < bytes.len() {
        return Ok(false);
    }
    let in_wal_mode = header::parse(&bytes).is_some_and(|h| h.wal);
    let tag: Option<[u8; header::TAG_LEN]> =
        bytes[header::TAG_OFFSET as usize..][..header::TAG_LEN].try_into().ok();
    let tag = tag.map_or(0, |t| header::change_tag(&t));
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
    let there = super::live::read_at(&file, &path, 0, &mut bytes)?;
    // A header that no recovery accepts still means that somebody wrote here.
    Ok(if there == 0 { None } else { Some(wal::parse_header(&bytes).map_or(u64::MAX, |h| h.salts)) })
}

fn unsent(log: &Log, state: &State) -> Result<Vec<Sealed>> {
    let acknowledged = state.acknowledged(0);
    let txids = log.txids()?.into_iter().filter(|&t| acknowledged.is_none_or(|a| t > a));
    txids.map(|t| log.sealed(t)).collect()
}

/// Whether a position that this log remembers is in the replica's chain.
fn is_related(
    home: &FileReplica,
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
    let mut files = list_all(home)?;
    files.sort_by_key(|f| std::cmp::Reverse(f.range.max));
    for file in files.iter().take(RELATED_FILES_MAX) {
        let Some(proof) = header_of(home, file)?.proof else { continue };
        if knows(Some(file.range.max), proof.post) || knows(file.range.min.previous(), proof.pre) {
            return Ok(true);
        }
    }
    Ok(false)
}

impl Prepared {
    pub fn path(&self) -> &Path {
        &self.settings.database
    }

    fn refusal(&self, why: Refusal, findings: &Findings) -> Error {
        let path = self.settings.database.display();
        let url = self.home.url();
        let head = self.head.as_ref().map(|h| h.txid().to_string()).unwrap_or_default();
        Error::invalid(match why {
            Refusal::Missing if findings.head.is_none() => format!(
                "{path} is missing or empty, but its local log {} holds groups that were never sent to {url}: set \
                 replica_if_missing=restore to send them and rebuild the database, or remove the log to begin anew",
                self.log.folder().display()
            ),
            Refusal::Missing => format!(
                "{path} is missing or empty, but {url} has history up to txid {head}: set replica_if_missing to \
                 restore (rebuild the database from the replica), continue (the new database becomes the next \
                 txid) or refuse (this answer)"
            ),
            Refusal::MissingUnsent => format!(
                "{path} is missing or empty, and its local log {} holds groups that were never sent: \
                 replica_if_missing=continue would drop them; use restore",
                self.log.folder().display()
            ),
            Refusal::Behind => format!(
                "{path} is an earlier state of {url}, which goes on to txid {head}: rolling forward is not built \
                 yet; restore into a new file instead, or move this file away and set replica_if_missing=restore"
            ),
            Refusal::Lost => format!(
                "the machine went down, and {path} lost commits that {url} has, up to txid {head}: rolling forward \
                 is not built yet; move the file away and set replica_if_missing=restore to have them back"
            ),
            Refusal::Unrelated => format!(
                "{url} ends at txid {head} in a state that {path} was never in: it is the replica of another \
                 database, or this file is a copy without its local log; choose an empty replica, or restore from \
                 this one"
            ),
        })
    }

    fn restore(&mut self, unsent: &[Sealed]) -> Result<()> {
        let path = &self.settings.database;
        let mut uploader = Uploader::new(Box::new(self.home.clone()), self.head.as_ref().map(|h| h.file));
        for sealed in unsent.iter().filter(|s| self.head.as_ref().is_none_or(|h| s.txid > h.txid())) {
            uploader.put(&self.log, sealed)?;
        }
        uploader.make_durable()?;
        if FileStat::of(path).is_ok_and(|s| s.size == 0) {
            std::fs::remove_file(path).map_err(|e| Error::io("remove the empty", path, e))?;
        }
        let options = restore::Options { page_checksums: true };
        self.restored = Some(
            restore::restore(&self.home, Target::Newest, path, options)
                .map_err(|e| e.while_doing("replica_if_missing=restore"))?,
        );
        self.head = Head::of(&self.home)?;
        self.looked_at = FileStat::of(path).ok();
        Ok(())
    }

    /// Makes the database, now that SQLite has its file open.
    ///
    /// # Errors
    /// As the system says; the open fails.
    pub fn finish(mut self, base: BaseVfs) -> Result<Database> {
        let path = self.settings.database.clone();
        let folder = self.log.folder().to_owned();
        let live = LiveFiles::new(base.open(&path, false)?, &path);
        let state = State::open(&folder.join("state"))?;
        let noted = NotedSet::open(&folder.join("noted"))?;
        let mut checksums = PageChecksums::open(&folder.join("checksums"))?;
        let mut phase = Phase::Live;
        let (mut event, mut error) = (None, None);
        if let Some(verdict) = self.verdict {
            if self.head.as_ref().is_some_and(|head| head.file.level == Level::CAPTURED) {
                // A process that was killed may have stored it and not made it last.
                self.home.make_durable(Level::CAPTURED)?;
            }
            (phase, event, error) = self.apply(verdict, &state, &noted, &mut checksums)?;
            let stat = FileStat::of(&path)?;
            state.set_file_id((stat.device, stat.inode));
            state.set_boot(boot_id()?);
            state.set_writer(random_number()?);
            state.set_log_durable(None);
            state.sync()?;
            while !self.users.try_shared()? {}
        }
        let recorded = self.log.recorded()?;
        let urls = self.settings.replicas.iter().cloned();
        let mut replicas: Vec<_> = urls.map(|url| Replica { url, uploader: None, retry_at: None }).collect();
        let newest = self.head.take().map(|h| h.file);
        replicas[0].uploader = Some(Uploader::new(Box::new(self.home), newest));
        let whole = recorded.filter(|r| r.position.txid > Txid::FIRST).map(|r| r.position.txid);
        let whole =
            whole.filter(|&t| self.log.sealed(t).is_ok_and(|s| group::changes_page_size(&self.log, &s)));
        let engine = Engine {
            lock: Some(self.log.capture_lock()?),
            checksums,
            live,
            recorded,
            groups: Groups::default(),
            stored: None,
            looked_ms: 0,
            name: random_number()?,
            replicas,
            busy: 0,
            whole,
            marked: false,
            durable_at_ms: 0,
        };
        // What was changed since the look was not seen: the first look at a WAL, or at page 1, compares with it.
        let rest = self.looked_at.or_else(|| FileStat::of(&path).ok());
        Ok(Database::new(Parts {
            settings: self.settings,
            log: self.log,
            state,
            noted,
            users: self.users,
            engine,
            claim: self.claim,
            phase,
            rest,
            event,
            error,
        }))
    }

    /// Brings the log to where the verdict says the history stands.
    fn apply(
        &mut self,
        verdict: Verdict,
        state: &State,
        noted: &NotedSet,
        checksums: &mut PageChecksums,
    ) -> Result<(Phase, Option<String>, Option<String>)> {
        let head = self.head.as_ref().map(Head::txid);
        let url = self.home.url().to_owned();
        match verdict {
            Verdict::Start | Verdict::StartOver => {
                let event = self.log.recorded()?.map(|old| {
                    format!(
                        "{url} holds nothing; the history starts over at txid 1 (it stood at {})",
                        old.position
                    )
                });
                self.log.reset()?;
                forget(state, noted, checksums);
                if verdict == Verdict::StartOver {
                    noted.note_all();
                }
                Ok((if verdict == Verdict::StartOver { Phase::Cold } else { Phase::Live }, event, None))
            }
            Verdict::GoOn(trust) => {
                state.set_acknowledged(0, head);
                let recorded = self.log.recorded()?.expect("BUG: going on from no position");
                let base = group::reapply(&self.log, checksums, &recorded)?;
                let event = match trust {
                    Base::Holds => None,
                    Base::Changed => Some("the database was changed while the extension was not there"),
                    Base::Crashed => Some("the machine went down; the database is as recorded"),
                    Base::Doubt => Some(
                        "the machine went down, and the database is in a state that was not recorded: this state \
                         goes on; what the replica had beyond it stays in its history",
                    ),
                };
                let cold = trust != Base::Holds || !base;
                if cold {
                    noted.note_all();
                }
                let event = event.map(|e| format!("{e}; comparing every page"));
                Ok((if cold { Phase::Cold } else { Phase::Live }, event, None))
            }
            Verdict::Adopt => {
                let found = self.found.take().expect("BUG: adopting a state that was not read");
                self.log.reset()?;
                forget(state, noted, checksums);
                self.rebase(checksums, found.shape.page_size, found.shape.page_count, found.pages)?;
                state.set_acknowledged(0, head);
                // What was committed after the look is found by looking at everything once.
                noted.note_all();
                Ok((
                    Phase::Cold,
                    Some(format!("the database is the head of {url}; the log starts there")),
                    None,
                ))
            }
            Verdict::Restore => {
                let restored = self.restored.take().expect("BUG: restored without a result");
                self.log.reset()?;
                forget(state, noted, checksums);
                let pages = restored.page_checksums.unwrap_or_default();
                let lock = restored.page_size.lock_pgno();
                let pages = (1u32..).filter_map(Pgno::new).zip(pages).filter(|&(p, _)| p != lock);
                self.rebase(checksums, restored.page_size, restored.page_count, pages)?;
                state.set_acknowledged(0, head);
                Ok((
                    Phase::Live,
                    Some(format!("restored from {url} at txid {}", restored.position.txid)),
                    None,
                ))
            }
            Verdict::Continue | Verdict::LocalWins => {
                let (page_size, page_count) = {
                    let header = &self.head.as_ref().expect("BUG: continuing nothing").header;
                    (header.page_size, header.page_count)
                };
                self.log.reset()?;
                forget(state, noted, checksums);
                self.rebase(checksums, page_size, page_count, [])?;
                checksums.clear();
                state.set_acknowledged(0, head);
                noted.note_all();
                let event = match verdict {
                    Verdict::Continue => format!("a new database continues {url}"),
                    _ => format!(
                        "after a loss of power the database is in a state that {url} does not know; it becomes the next \
                         txid, and the history keeps what was there"
                    ),
                };
                Ok((Phase::Cold, Some(event), None))
            }
            Verdict::Fence => {
                let text = format!(
                    "another writer won in {url} while this database had commits that are not there; its files stay \
                     in {}",
                    self.log.folder().display()
                );
                Ok((Phase::Fenced, None, Some(text)))
            }
            Verdict::Refuse(_) => unreachable!("BUG: a refused open does not go on"),
        }
    }

    /// Makes the log start at the head of the replica, with these pages as its state.
    fn rebase(
        &self,
        checksums: &mut PageChecksums,
        page_size: crate::types::PageSize,
        page_count: u32,
        pages: impl IntoIterator<Item = (Pgno, Checksum)>,
    ) -> Result<()> {
        let head = self.head.as_ref().expect("BUG: a base without a head");
        checksums.reserve(page_count)?;
        checksums.clear();
        checksums.apply(page_size, page_count, pages);
        let checksum = head.header.proof.map_or_else(|| checksums.total(), |p| p.post);
        let position = Position { txid: head.txid(), checksum };
        self.log.set_base(Recorded { position, page_size, page_count, timestamp: head.header.timestamp })
    }
}

/// The state before the first group.
fn forget(state: &State, noted: &NotedSet, checksums: &mut PageChecksums) {
    checksums.clear();
    let _ = noted.take(true);
    noted.settle();
    state.set_cycle(None);
    state.set_tag(0);
    state.set_tag_written(0);
    state.set_clean(None);
    (0..crate::staging::state::REPLICAS_MAX).for_each(|index| state.set_acknowledged(index, None));
}

/// What tells two lives of one database, and two processes that have it open, apart; never 0.
fn random_number() -> Result<u64> {
    let path = Path::new("/dev/urandom");
    let mut bytes = [0; 8];
    let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
    std::io::Read::read_exact(&mut &file, &mut bytes).map_err(|e| Error::io("read", path, e))?;
    Ok(u64::from_le_bytes(bytes).max(1))
}
