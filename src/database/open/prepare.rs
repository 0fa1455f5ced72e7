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
use std::sync::Arc;
use std::time::Duration;

use crate::capture::{Files, Phase, group};
use crate::clock::{self, Deadline};
use crate::config::{Claim, Config, Durability, LeaseUse, OnBehind, ReplicaUrl, Settings};
use crate::database::engine::{Engine, Replica};
use crate::database::followed::{Database, Parts};
use crate::database::lease::leases_of;
use crate::database::live::LiveFiles;
use crate::database::open::at_open::{Base, Findings, Found, Local, ReplicaHead, Verdict, decide, following};
use crate::database::open::home::Home;
use crate::database::open::look::{Look, is_related, log_may_be_torn, not_stored};
use crate::database::open::settle::Settlement;
use crate::database::overwrite::rejoin;
use crate::database::runtime::First;
use crate::database::wait::gate::Gate;
use crate::database::way::History;
use crate::error::{Error, Kind, Result};
use crate::ffi::hooks::BaseVfs;
use crate::fs::{FileStat, LockFile, boot_id, durable};
use crate::ltx::page_checksum;
use crate::restore;
use crate::sqlite::header;
use crate::staging::checksums::PageChecksums;
use crate::staging::groups::Groups;
use crate::staging::log::Log;
use crate::staging::noted::NotedSet;
use crate::staging::sent;
use crate::staging::stand_in::{self, StandIn};
use crate::staging::state::State;
use crate::types::{Level, PageSize, Pgno, Position, Txid};
use crate::upload::{Head, Uploader};

/// What an open found.
pub enum Opening {
    First(Box<Prepared>, First),
    /// This process has the database open already.
    Again(std::sync::Arc<Database>),
}

/// Decided; the file is not open yet.
pub struct Prepared {
    pub(in crate::database) settings: Settings,
    claim: Claim,
    users: LockFile,
    /// Why the home replica did not say where its history ends.
    silence: Option<Error>,
    pub(in crate::database) settlement: Settlement,
    /// `None`: another process has it open, and decided.
    verdict: Option<Verdict>,
    /// The file as it was when it was looked at.
    pub(in crate::database) looked_at: Option<FileStat>,
}

/// Decides over the open.
///
/// # Errors
/// Every reason to refuse it, with file, finding and remedy.
pub fn prepare(settings: Settings, base: BaseVfs, claim: Claim, config: &Config) -> Result<Prepared> {
    let parent = durable::parent(&settings.database);
    if !parent.is_dir() {
        let (path, parent) = (settings.database.display(), parent.display());
        return Err(Error::not_found(format!("cannot open {path}: there is no folder {parent}")));
    }
    // Nothing is decided when this fails: then what was not there is taken away again.
    let folder_of = |url: &ReplicaUrl| match url {
        ReplicaUrl::File(folder) => Some(folder.clone()),
        ReplicaUrl::Bucket(..) => None,
    };
    let new_replica = folder_of(&settings.replicas[0]).filter(|folder| !folder.exists());
    let new_log = Some(settings.log.clone()).filter(|log| !log.exists());
    let prepared = prepare_folders(settings, base, claim, config);
    if prepared.is_err() {
        let _ = new_log.map(std::fs::remove_dir_all);
        let _ = new_replica.map(std::fs::remove_dir);
    }
    prepared
}

fn prepare_folders(settings: Settings, base: BaseVfs, claim: Claim, config: &Config) -> Result<Prepared> {
    let home = Home::of(config, &settings).map_err(|e| e.while_doing("replica"))?;
    let log = Log::open(&settings.log).map_err(|e| e.while_doing("replica_log"))?;
    prepare_in(settings, base, claim, home, log)
}

fn prepare_in(settings: Settings, base: BaseVfs, claim: Claim, mut home: Home, log: Log) -> Result<Prepared> {
    let folder = log.folder().to_owned();
    let users = log.users()?;
    if !lock_users(&users, settings.open_timeout)? {
        let settlement = settlement(log, &home, None);
        let silence = home.silence;
        return Ok(Prepared { settings, claim, users, silence, settlement, verdict: None, looked_at: None });
    }
    let head = home.look()?;
    check_leases(&home, &settings)?;
    let state = State::open(&folder.join("state"))?;
    let noted = NotedSet::open(&folder.join("noted"))?;
    if log_may_be_torn(&settings.database, &state)? {
        log.drop_damaged()?;
    }
    let rejoining = rejoin::finish(&log, &settings.database, base)?;
    let recorded = log.recorded()?;
    let stand_ins = log.stand_ins()?;
    let replica_head = head.as_ref().map(|h| ReplicaHead { txid: h.txid(), proof: h.header.proof });
    let (unsent, stored) = not_stored(&*home.client, head.as_ref(), &log, &state)?;
    let following = following(&unsent, replica_head);
    let end = replica_head.and_then(|h| Some(Position { txid: h.txid, checksum: h.proof?.post }));
    let look = Look {
        path: &settings.database,
        base,
        state: &state,
        noted: &noted,
        recorded: recorded.as_ref(),
        stand_ins: &stand_ins,
        head: end,
        at_end: head.is_none() || !following.is_empty() || end == recorded.map(|r| r.position),
        rolling: log.is_rolling(),
        whole: settings.on_behind == OnBehind::RollForward,
    };
    let mut looked = look.look()?;
    let history = History { home: &*home.client, head: head.as_ref(), log: &log, following };
    let mut way = None;
    if let (Local::Crashed(Found::Other), Some(whole), true) = (looked.local, &looked.whole, home.is_known) {
        (looked.local, way) = history.place(whole, &state, settings.durability)?;
        if looked.same_boot && looked.local == Local::Crashed(Found::Other) {
            looked.local = Local::Unknown { is_head: false };
        }
    }
    let mut findings = Findings {
        local: looked.local,
        recorded,
        unsent,
        related: is_related(&*home.client, head.as_ref(), &state, recorded.as_ref())?,
        head: replica_head,
        if_missing: settings.if_missing,
        on_behind: settings.on_behind,
        on_conflict: settings.on_conflict,
        rejoining,
        set_back: end.is_some_and(|end| state.remembers(end)),
        // A replica that holds nothing has acknowledged nothing.
        promised: settings.durability != Durability::Async && (head.is_some() || !home.is_known),
    };
    if let Some(silence) = &home.silence {
        findings = findings.as_if_sent().ok_or_else(|| {
            let path = settings.database.display();
            Error::new(
                silence.kind(),
                format!("{path} is not opened before its replica has answered: {silence}"),
            )
        })?;
    }
    let mut verdict = decide(&findings);
    let mut rolled = None;
    if verdict == Verdict::Rejoin {
        match history.rejoin(&settings, base, &state, &findings.unsent, &mut looked) {
            // No files prove what would come of it.
            Err(error) if error.kind() == Kind::Conflict => verdict = Verdict::Fence,
            other => rolled = Some(other?),
        }
    }
    if let Verdict::RollForward(forward) = verdict {
        rolled = Some(history.roll_forward(&settings, base, &state, forward, &mut looked, way)?);
    }
    let looked_at = match rolled {
        Some(_) => FileStat::of(&settings.database).ok(),
        None => looked.stills.database(),
    };
    let is_noted = findings.local.is_noted();
    let settlement =
        Settlement { stored, is_noted, found: looked.whole, rolled, ..settlement(log, &home, head) };
    let silence = home.silence;
    let mut prepared =
        Prepared { settings, claim, users, silence, settlement, verdict: Some(verdict), looked_at };
    match verdict {
        Verdict::Refuse(why) => Err(prepared.refusal(why, &findings)),
        Verdict::Restore => {
            let (path, retention) = (&prepared.settings.database, prepared.settings.retention.l0);
            prepared.settlement.restore(&findings, path, retention, restore::Options::default())?;
            prepared.looked_at = FileStat::of(path).ok();
            Ok(prepared)
        }
        _ => Ok(prepared),
    }
}

fn settlement(log: Log, home: &Home, head: Option<Head>) -> Settlement {
    Settlement {
        log,
        client: Arc::clone(&home.client),
        is_known: home.is_known,
        head,
        stored: None,
        is_noted: true,
        found: None,
        restored: None,
        rolled: None,
        kept_aside: false,
    }
}

/// # Errors
/// `Invalid` when a lease is to be used and the store keeps none. One that does not answer now says so later.
fn check_leases(home: &Home, settings: &Settings) -> Result<()> {
    if !home.is_known || !matches!(settings.lease.used, LeaseUse::Auto | LeaseUse::Required) {
        return Ok(());
    }
    match leases_of(&*home.client).and_then(|leases| leases.check_leases()) {
        Err(error) if error.kind() == Kind::Invalid => Err(error.while_doing("replica_lease")),
        _ => Ok(()),
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

impl Prepared {
    pub fn path(&self) -> &Path {
        &self.settings.database
    }

    /// Makes the database, now that SQLite has its file open.
    ///
    /// # Errors
    /// As the system says; the open fails.
    pub fn finish(mut self, base: BaseVfs) -> Result<Database> {
        let path = self.settings.database.clone();
        let folder = self.settlement.log.folder().to_owned();
        let live = LiveFiles::new(base.open(&path, false)?, &path);
        let state = State::open(&folder.join("state"))?;
        let noted = NotedSet::open(&folder.join("noted"))?;
        let mut checksums = PageChecksums::open(&folder.join("checksums"))?;
        let mut phase = Phase::Live;
        let (mut event, mut error) = (None, None);
        if let Some(verdict) = self.verdict {
            if self.settlement.head.as_ref().is_some_and(|head| head.file.level == Level::CAPTURED) {
                // A process that was killed may have stored it and not made it last.
                self.settlement.client.make_durable(Level::CAPTURED)?;
            }
            (phase, event, error) = self.settlement.apply(verdict, &state, &noted, &mut checksums)?;
            let was_put_there =
                matches!(verdict, Verdict::RollForward(_) | Verdict::Restore | Verdict::Rejoin);
            sent::remove_all(&self.settlement.log)?;
            if verdict != Verdict::Fence {
                self.settlement.log.end_rejoin()?;
            }
            self.settlement.log.end_rolling()?;
            if was_put_there {
                state.set_tag(tag_put_there(&live, &checksums, &self.settlement.log.stand_ins()?)?);
            }
            let stat = FileStat::of(&path)?;
            let is_on_disk = was_put_there || verdict == Verdict::GoOn(Base::Crashed);
            if is_on_disk {
                state.set_synced(self.settlement.log.recorded()?.map(|r| r.position.txid));
            }
            // That of another file, or of another content, would hide a loss of power.
            if state.clean().is_some_and(|clean| clean != stat) {
                state.set_clean(None);
            }
            let is_new = state.boot() == [0, 0];
            state.set_file_id((stat.device, stat.inode));
            state.set_boot(boot_id()?);
            state.set_writer(random_number()?);
            state.set_log_durable(None);
            state.set_covered(None);
            state.sync()?;
            if is_new {
                durable::sync_folder(&folder)?;
            }
            while !self.users.try_shared()? {}
        }
        let is_gated = self.silence.is_some() && self.settings.durability == Durability::Commit;
        let silence = self.silence.map(|e| match is_gated {
            true => format!("{e}; the first write waits until it answers"),
            false => format!("{e}; commits wait in {}", self.settlement.log.folder().display()),
        });
        error = error.or(silence);
        let recorded = self.settlement.log.recorded()?;
        let urls = self.settings.replicas.iter().cloned();
        let mut replicas: Vec<_> = urls.map(|url| Replica { url, uploader: None, retry_at: None }).collect();
        if self.settlement.is_known {
            let newest = self.settlement.head.take().map(|h| h.file);
            replicas[0].uploader =
                Some(Uploader::new(self.settlement.client, newest, self.settings.retention.l0));
        }
        let whole = recorded.filter(|r| r.position.txid > Txid::FIRST).map(|r| r.position.txid);
        let whole = whole.filter(|&t| {
            self.settlement.log.sealed(t).is_ok_and(|s| group::changes_page_size(&self.settlement.log, &s))
        });
        let engine = Engine {
            lock: Some(self.settlement.log.capture_lock()?),
            checksums,
            live,
            recorded,
            groups: Groups::default(),
            stored: None,
            looked_ms: 0,
            name: random_number()?,
            replicas,
            stand_ins: Vec::new(),
            busy: 0,
            whole,
            marked: false,
            put_took: Duration::ZERO,
            durable_at_ms: 0,
        };
        // What was changed since the look was not seen: the first look at a WAL, or at page 1, compares with it.
        let rest = self.looked_at.or_else(|| FileStat::of(&path).ok());
        Ok(Database::new(Parts {
            settings: self.settings,
            log: self.settlement.log,
            state,
            noted,
            users: self.users,
            engine,
            base,
            claim: self.claim,
            phase,
            rest,
            event,
            error,
            gate: Gate::new(!is_gated),
            lease_id: random_number()?,
        }))
    }
}

/// Change tag of the page 1 that was just put there, so that no look takes it for a commit of somebody else. 0 in WAL
/// mode, where it proves nothing, and where page 1 is another one by now.
fn tag_put_there(live: &LiveFiles, checksums: &PageChecksums, stand_ins: &[StandIn]) -> Result<u64> {
    let mut page = vec![0; checksums.page_size().map_or(0, PageSize::bytes)];
    let whole = live.read_database(0, &mut page)? == page.len();
    let is_it = |page: &[u8]| {
        let sum = checksums.get(Pgno::FIRST);
        let stands = |s: &StandIn| Some(s.page) == sum && s.rest == stand_in::rest_of(page);
        sum == Some(page_checksum(Pgno::FIRST, page)) || stand_ins.iter().any(stands)
    };
    if !whole || !is_it(&page) {
        return Ok(0);
    }
    let in_wal_mode = header::parse(&page).is_none_or(|h| h.wal);
    Ok(if in_wal_mode { 0 } else { header::tag_of(&page) })
}

/// What tells two lives of one database, and two processes that have it open, apart; never 0.
fn random_number() -> Result<u64> {
    let path = Path::new("/dev/urandom");
    let mut bytes = [0; 8];
    let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
    std::io::Read::read_exact(&mut &file, &mut bytes).map_err(|e| Error::io("read", path, e))?;
    Ok(u64::from_le_bytes(bytes).max(1))
}
