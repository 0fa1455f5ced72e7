//! The return of the loser: a database whose history another writer continued is brought to the end of that history, while it
//! is open, and nothing that only it holds is lost.
//!
//! ```text
//! Fenced -> the end of the replica is restored beside -> mark "rejoining <position>", synced    (capture lock)
//!        -> SQLite's write lock -> the whole state and every group of its own are saved          (no commit can slip in)
//!        -> page 1 to be gets a stand-in -> mark "rolling" -> SQLite commits the restored file
//!        -> the log starts at that position -> marks away -> Cold, compared, Live
//! ```
//!
//! Before the commit the log is as it was: killed there, the next open finds the old state and is fenced again. With both marks,
//! and the file in the state that is named, the commit is done, and so is the saving: the next open has the log start there
//! ([`finish`]). A process that finds "rejoining" while it has the database open is fenced, whatever it was.
//!
//! Nothing is added to the history, so that no lease is needed: as a rule the winner holds it.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::capture::{Base, Collected, PageBuffer, Phase, Shape, at_rest};
use crate::catalog::Target;
use crate::clock;
use crate::config::OnConflict;
use crate::database::engine::Engine;
use crate::database::followed::Database;
use crate::database::live::{LiveFiles, beside};
use crate::database::open::look::with_hot_journal;
use crate::database::overwrite::catch_up::{Begin, Restored};
use crate::database::overwrite::saved::{self, Saved, State};
use crate::error::{Error, Kind, Result};
use crate::ffi::hooks::BaseVfs;
use crate::fs::durable;
use crate::replica::Client;
use crate::restore;
use crate::staging::groups::Groups;
use crate::staging::log::{Log, Recorded};
use crate::types::{Checksum, Pgno, Txid};
use crate::upload::{Head, Uploader};

/// How a fence ends, for those who are told of one.
pub(in crate::database) const HOW: &str =
    "SELECT replica_rejoin() saves what only this database has and brings it to the end of that history";

/// What came of it.
#[derive(Clone, Debug)]
pub struct Rejoined {
    /// Where the database is.
    pub txid: Txid,
    pub saved: Saved,
}

impl Database {
    /// Saves what only this database has, and overwrites it with the end of its home replica. For each lock it waits at most
    /// `wait`.
    ///
    /// # Errors
    /// `Conflict` when it is not fenced, or the replica does not end in another's history; `Busy` while others work on database or log;
    /// those of restoring and of `begin`. It is fenced as before then.
    pub fn rejoin(self: &Arc<Self>, wait: Duration, begin: &mut Begin<'_>) -> Result<Rejoined> {
        let outcome = self.alone(wait, |engine| engine.rejoin(self, begin));
        self.schedule(Instant::now(), true);
        outcome
    }

    /// It is fenced, and is to end that without being asked.
    pub(in crate::database) fn is_to_rejoin(&self) -> bool {
        self.settings.on_conflict == OnConflict::Rejoin
            && self.phase() == Phase::Fenced
            && !self.runs.stays_fenced.load(Ordering::Relaxed)
    }

    /// As [`Database::rejoin`], on a thread of the worker.
    pub(in crate::database) fn rejoin_by_itself(self: &Arc<Self>) -> Result<Rejoined> {
        let wait = self.settings.open_timeout;
        let outcome =
            self.alone(wait, |engine| engine.rejoin(self, &mut |source| self.begin_overwrite(source, wait)));
        if outcome.is_ok() {
            self.schedule(Instant::now(), true);
        }
        outcome
    }

    /// Another process may have brought the database to the end of the history.
    pub(in crate::database) fn notice_rejoin(&self) {
        if self.phase() == Phase::Fenced && self.state.rejoined() != self.fenced_at() {
            self.revive("another process brought the database to the end of its history");
        }
    }
}

impl Engine {
    fn rejoin(&mut self, db: &Arc<Database>, begin: &mut Begin<'_>) -> Result<Rejoined> {
        db.notice_rejoin();
        self.refresh(db)?;
        if matches!(db.phase(), Phase::Live | Phase::Cold) {
            // It may not know yet.
            self.work(db)?;
        }
        let (path, url) = (db.path.display(), &db.settings.replicas[0]);
        match db.phase() {
            Phase::Fenced => {}
            Phase::Live | Phase::Cold => {
                return Err(Error::conflict(format!(
                    "{path} is not fenced: nobody else continued the history of its commits, and there is nothing to rejoin; \
                     SELECT replica_rollforward() brings a database that is behind to the end of its replica"
                )));
            }
            phase => {
                let why = db.last_error().unwrap_or_default();
                return Err(Error::conflict(format!("cannot rejoin while {}: {why}", phase.name())));
            }
        }
        let client = db.home_client()?;
        let Some(head) = Head::of(&*client)? else {
            return Err(Error::conflict(format!("{url} holds nothing: close {path} and open it again")));
        };
        let Some(to) = head.recorded() else {
            return Err(Error::conflict(format!(
                "{url} ends in a file of another program, which proves no state: nothing can be put in place of {path}"
            )));
        };
        if db.state.remembers(to.position) {
            return Err(Error::conflict(format!(
                "{url} ends at txid {}, an earlier state of {path}: nobody else continued its history, an older copy of the \
                 replica was put back; put the newer one back and open the database again",
                to.position.txid
            )));
        }
        let restored = Restored::new(db.log.folder().join("head.db"));
        let options = restore::Options { page_checksums: true, ..restore::Options::default() };
        let found = restore::restore(&*client, Target::Txid(head.txid()), restored.path(), options);
        let mut found = found.map_err(|error| match error.kind() {
            Kind::Conflict => Error::busy(error.to_string()),
            _ => error,
        })?;
        if found.position != to.position {
            return Err(Error::busy(format!("{url} changed while it was read; try again")));
        }
        let pages = found.page_checksums.take().expect("BUG: page checksums were asked for");
        // What one left that died half-way still says that the database is fenced.
        let (was_rejoining, was_rolling) = (db.log.rejoining()?.is_some(), db.log.is_rolling());
        db.log.begin_rejoin(&to)?;
        let saved = match self.replace(db, &restored, &to, begin) {
            Ok(saved) => saved,
            Err(error) => {
                if !was_rejoining {
                    db.log.end_rejoin()?;
                }
                if !was_rolling {
                    db.log.end_rolling()?;
                }
                return Err(error);
            }
        };
        self.stand_at(db, client, &head, &to, &pages)?;
        let event = told(&to, url, &saved);
        if !db.revive(&event) {
            // Another thread has found the log at its new place, and took it for another process's doing.
            db.notices().event(&event);
        }
        self.compare_overwritten(db);
        Ok(Rejoined { txid: to.position.txid, saved })
    }

    /// Under SQLite's write lock: saves what is there, and overwrites it.
    fn replace(
        &mut self,
        db: &Arc<Database>,
        restored: &Restored,
        to: &Recorded,
        begin: &mut Begin<'_>,
    ) -> Result<Saved> {
        let pending = begin(restored.path())?;
        let saved = self.save_all(db)?;
        self.checksums.reserve(to.page_count.max(self.checksums.page_count()))?;
        self.let_stand_in(db, restored)?;
        db.log.begin_rolling()?;
        pending.commit()?;
        Ok(saved)
    }

    /// Nobody can commit.
    fn save_all(&mut self, db: &Database) -> Result<Saved> {
        let (buffer, shape) = self.collect_all(db)?;
        let sums: Vec<(Pgno, Checksum)> = buffer.checksums().collect();
        let state = State { shape, sums: &sums, read: &|pgno, page| buffer.read(pgno, page) };
        let own = self.groups.after(db.state.acknowledged(0)).into_iter();
        let groups = own.map(|txid| self.groups.get(&db.log, txid)).collect::<Result<Vec<_>>>()?;
        saved::save(&db.log, &groups, &self.base(), &state, clock::now())
    }

    /// Every page of the database.
    fn collect_all(&self, db: &Database) -> Result<(PageBuffer, Shape)> {
        // What was noted stays so, should this come to nothing.
        let nothing = Base { recorded: None, checksums: &self.checksums };
        match self.collect_against(db, nothing, true)? {
            Collected::Pages(buffer, shape) => Ok((buffer, shape)),
            Collected::Nothing => {
                Err(Error::busy("the database is empty, there is nothing to save; try again"))
            }
            Collected::NotNow(why) => {
                Err(Error::busy(format!("the database cannot be read now ({why:?}); try again")))
            }
        }
    }

    /// What was committed stays, whatever SQLite's default of `synchronous` is.
    fn make_durable(&self, db: &Database) -> Result<()> {
        let wal = beside(&db.path, "-wal");
        match File::open(&wal) {
            Ok(file) => durable::sync_file(&file, &wal)?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::io("open", &wal, e)),
        }
        self.live.base().sync()
    }

    /// The database is at that position: log, marks and memory follow.
    fn stand_at(
        &mut self,
        db: &Database,
        client: Arc<dyn Client>,
        head: &Head,
        to: &Recorded,
        pages: &[Checksum],
    ) -> Result<()> {
        self.make_durable(db)?;
        db.upkeep.sent.lock().clear()?;
        start_at(&db.log, to)?;
        let lock = to.page_size.lock_pgno();
        let pages =
            (1u32..).filter_map(Pgno::new).zip(pages.iter().copied()).filter(|&(pgno, _)| pgno != lock);
        self.checksums.clear();
        self.checksums.apply(to.page_size, to.page_count, pages);
        assert_eq!(self.checksums.total(), to.position.checksum, "BUG: rejoined another state");
        self.groups = Groups::default();
        (self.recorded, self.stored, self.whole) = (Some(*to), None, None);
        let txid = to.position.txid;
        self.replicas[0].uploader = Some(Uploader::new(client, Some(head.file), db.settings.retention.l0));
        db.set_page_size(to.page_size);
        db.state.set_log_durable(None);
        db.state.set_synced(None);
        db.state.set_covered(None);
        db.state.push_position(to.position);
        db.state.set_acknowledged(0, Some(txid));
        db.state.set_open_txid(txid.next());
        db.state.count_rejoin();
        db.log.end_rejoin()?;
        db.log.end_rolling()
    }
}

/// What happened, for the status.
pub(in crate::database) fn told(to: &Recorded, url: &dyn std::fmt::Display, saved: &Saved) -> String {
    format!(
        "rejoined: the database was brought to txid {} of {url}, where another writer had continued the history; {}",
        to.position.txid,
        saved.told()
    )
}

/// Nothing of the log is needed any more: it starts there.
fn start_at(log: &Log, to: &Recorded) -> Result<()> {
    log.reset()?;
    log.set_base(*to)
}

/// At an open, before anything is looked at: goes on with what a process that died had begun. `true`: it had not come far,
/// and the database is fenced.
///
/// # Errors
/// `Io`.
pub(in crate::database) fn finish(log: &Log, path: &Path, base: BaseVfs) -> Result<bool> {
    let Some(to) = log.rejoining()? else { return Ok(false) };
    if !log.is_rolling() || !is_at(log, path, base, &to)? {
        return Ok(!log.has_base(to.position));
    }
    if !log.has_base(to.position) {
        start_at(log, &to)?;
    }
    log.end_rejoin()?;
    Ok(false)
}

fn is_at(log: &Log, path: &Path, base: BaseVfs, to: &Recorded) -> Result<bool> {
    if !path.exists() {
        return Ok(false);
    }
    let live = LiveFiles::new(base.open(path, true)?, path);
    live.open_wal()?;
    let Some(whole) = with_hot_journal(path, |hot| at_rest::read(&live, hot))? else { return Ok(false) };
    let is_it = |state: Checksum| state == to.position.checksum;
    let whole = whole.without_stand_in(&log.stand_ins()?, &is_it);
    Ok(is_it(whole.checksum) && whole.shape == Shape { page_size: to.page_size, page_count: to.page_count })
}
