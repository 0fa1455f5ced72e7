//! Carries out what was decided at an open: brings file and log to where the verdict says the history stands.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::capture::at_rest::AtRest;
use crate::capture::{Phase, Shape, group};
use crate::catalog::Target;
use crate::database::open::at_open::{Base, Findings, Verdict, following};
use crate::database::open::look::unsent;
use crate::database::open::roll_forward::Rolled;
use crate::database::overwrite::rejoin;
use crate::error::{Error, Result};
use crate::fs::FileStat;
use crate::replica::Client;
use crate::restore;
use crate::staging::checksums::PageChecksums;
use crate::staging::log::{Log, Recorded};
use crate::staging::noted::NotedSet;
use crate::staging::state::State;
use crate::types::{Checksum, Pgno, Position, Txid};
use crate::upload::{Head, Outcome, Uploader};

/// A local log and its replica, between the verdict and the first cycle.
pub struct Settlement {
    pub log: Log,
    pub client: Arc<dyn Client>,
    /// The replica has said where its history ends.
    pub is_known: bool,
    pub head: Option<Head>,
    /// A group that the replica has, though the log did not know.
    pub stored: Option<Txid>,
    /// Every change of the file since the recorded position is noted.
    pub is_noted: bool,
    /// The whole state of the file, where it was read.
    pub found: Option<AtRest>,
    pub restored: Option<restore::Restored>,
    pub rolled: Option<Rolled>,
    /// Groups that were not sent were taken out of the log, and kept.
    pub kept_aside: bool,
}

impl Settlement {
    /// Puts the database there, before its file is opened. Unsent groups that do not follow the replica are kept aside.
    ///
    /// # Errors
    /// `Conflict` when another writer came first; as [`restore::restore`] and the stores say.
    pub fn restore(
        &mut self,
        findings: &Findings,
        path: &Path,
        l0_retention: Duration,
        options: restore::Options<'_>,
    ) -> Result<()> {
        let newest = self.head.as_ref().map(|h| h.file);
        let follow = following(&findings.unsent, findings.head);
        let mut uploader = Uploader::new(Arc::clone(&self.client), newest, l0_retention);
        for sealed in &follow {
            if let Outcome::Fenced(why) | Outcome::SetBack(why) = uploader.put(&self.log, sealed)? {
                return Err(Error::conflict(why));
            }
        }
        uploader.make_durable()?;
        if follow.is_empty() && !findings.unsent.is_empty() {
            self.log.set_aside(&findings.unsent)?;
            self.kept_aside = true;
        }
        if FileStat::of(path).is_ok_and(|s| s.size == 0) {
            std::fs::remove_file(path).map_err(|e| Error::io("remove the empty", path, e))?;
        }
        let options = restore::Options { page_checksums: true, ..options };
        let (head, restored) =
            self.restore_head(path, options).map_err(|e| e.while_doing("replica_if_missing=restore"))?;
        (self.head, self.restored) = (head, Some(restored));
        Ok(())
    }

    /// Restores the state that the history ends in, not a later one that somebody adds meanwhile: the log is to start there.
    fn restore_head(
        &self,
        path: &Path,
        options: restore::Options<'_>,
    ) -> Result<(Option<Head>, restore::Restored)> {
        let mut head = Head::of(&*self.client)?;
        loop {
            let target = head.as_ref().map_or(Target::Newest, |head| Target::Txid(head.txid()));
            let error = match restore::restore(&*self.client, target, path, options) {
                Ok(restored) => return Ok((head, restored)),
                Err(error) => error,
            };
            // It may have been merged into a later one.
            let now = Head::of(&*self.client)?;
            if now.as_ref().map(Head::txid) <= head.as_ref().map(Head::txid) {
                return Err(error);
            }
            head = now;
        }
    }

    /// Brings the log to where the verdict says the history stands. Answers the phase, an event and an error to be shown.
    ///
    /// # Errors
    /// `Full`, `Io`.
    pub fn apply(
        &mut self,
        verdict: Verdict,
        state: &State,
        noted: &NotedSet,
        checksums: &mut PageChecksums,
    ) -> Result<(Phase, Option<String>, Option<String>)> {
        if self.stored.is_some() {
            state.set_acknowledged(0, self.stored);
        }
        let head = self.head.as_ref().map(Head::txid);
        let url = self.client.url().to_owned();
        match verdict {
            Verdict::Start | Verdict::StartOver => {
                let recorded = self.log.recorded()?;
                let aside = unsent(&self.log, state)?;
                self.log.set_aside(&aside)?;
                self.kept_aside |= !aside.is_empty();
                let event = recorded.map(|old| {
                    let stood = old.position;
                    let kept = self.told_kept_aside();
                    format!(
                        "{url} holds nothing; the history starts over at txid 1 (it stood at {stood}){kept}"
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
                if self.is_known {
                    state.set_acknowledged(0, head);
                }
                let recorded = self.log.recorded()?.expect("BUG: going on from no position");
                remember(state, recorded.position);
                let base = group::reapply(&self.log, checksums, &recorded)?
                    || self.take_sums(checksums, &recorded)?;
                let event = match trust {
                    Base::Holds => None,
                    Base::Changed => Some("the database was changed while the extension was not there"),
                    Base::Crashed => Some("the machine went down; the database is as recorded"),
                    Base::Ahead => Some("the machine went down; the database holds more than was recorded"),
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
                self.rebase(checksums, found.shape.page_size, found.shape.page_count, found.stored())?;
                state.set_acknowledged(0, head);
                if let Some(recorded) = self.log.recorded()? {
                    remember(state, recorded.position);
                }
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
                let recorded = self.log.recorded()?;
                self.log.reset()?;
                forget(state, noted, checksums);
                let pages = restored.page_checksums.unwrap_or_default();
                let lock = restored.page_size.lock_pgno();
                let pages = (1u32..).filter_map(Pgno::new).zip(pages).filter(|&(p, _)| p != lock);
                self.rebase(checksums, restored.page_size, restored.page_count, pages)?;
                let stated = self.head.as_ref().and_then(|h| h.header.proof).map(|proof| proof.post);
                assert!(
                    stated.is_none_or(|post| post == checksums.total()),
                    "BUG: the log starts in another state than was restored"
                );
                state.set_acknowledged(0, head);
                let mut event = format!("restored from {url} at txid {}", restored.position.txid);
                if let Some(stood) = recorded.filter(|r| r.position.txid > restored.position.txid) {
                    event += &format!(", where the log stood at {}", stood.position);
                }
                event += &self.told_kept_aside();
                Ok((Phase::Live, Some(event), None))
            }
            Verdict::RollForward(_) | Verdict::Rejoin => {
                let rolled = self.rolled.take().expect("BUG: rolled forward without a result");
                let event = self.rolled_forward(&rolled, state, noted, checksums)?;
                Ok((Phase::Live, Some(event), None))
            }
            Verdict::Continue | Verdict::LocalWins => {
                let (page_size, page_count) = {
                    let header = &self.head.as_ref().expect("BUG: continuing nothing").header;
                    (header.page_size, header.page_count)
                };
                self.log.set_aside(&unsent(&self.log, state)?)?;
                self.log.reset()?;
                forget(state, noted, checksums);
                self.rebase(checksums, page_size, page_count, [])?;
                checksums.clear();
                state.set_acknowledged(0, head);
                noted.note_all();
                let event = match verdict {
                    Verdict::Continue => format!("a new database continues {url}"),
                    _ => format!(
                        "the database is in a state that {url} does not end in; it becomes the next txid, and the history \
                         keeps what was there"
                    ),
                };
                Ok((Phase::Cold, Some(event), None))
            }
            Verdict::Fence => {
                // The close leaves a clean mark, and the next open believes it.
                if !self.is_noted {
                    noted.note_all();
                }
                Ok((Phase::Fenced, None, Some(self.fenced(state))))
            }
            Verdict::Refuse(_) => unreachable!("BUG: a refused open does not go on"),
        }
    }

    /// Why nothing is sent.
    fn fenced(&self, state: &State) -> String {
        let (url, folder) = (self.client.url(), self.log.folder().display());
        let head = self.head.as_ref();
        let end = head.and_then(|h| Some((h.txid(), h.header.proof?.post)));
        let past = state.positions().find(|p| Some((p.txid, p.checksum)) == end);
        match past {
            Some(past) => format!(
                "{url} ends at txid {}, an earlier state of this database: an older copy of the replica was put back, or its \
                 newest files were deleted; nothing is sent, and nothing is lost here: put the newer replica back and open \
                 again, or, to go on from this one, move {folder} away and open with replica_on_behind=keep",
                past.txid
            ),
            None => format!(
                "another writer won in {url} while this database had commits that are not there; its files stay in {folder}; {}",
                rejoin::HOW
            ),
        }
    }

    /// The end of an event, where groups were put aside.
    fn told_kept_aside(&self) -> String {
        match self.kept_aside {
            true => format!("; groups that were not sent are in {}/saved", self.log.folder().display()),
            false => String::new(),
        }
    }

    /// The file was overwritten with the end of the history: log and marks follow. Says what happened.
    fn rolled_forward(
        &self,
        rolled: &Rolled,
        state: &State,
        noted: &NotedSet,
        checksums: &mut PageChecksums,
    ) -> Result<String> {
        let end = rolled.way.end();
        let before = self.log.recorded()?.map(|r| r.position);
        if !rolled.way.ends_in_log {
            if rolled.tail.is_none() {
                self.log.set_aside(&unsent(&self.log, state)?)?;
            }
            self.log.reset()?;
        }
        forget_marks(state, noted);
        checksums.reserve(end.page_count)?;
        match &self.found {
            Some(whole) => {
                let local = |pgno: Pgno| whole.page(pgno).filter(|_| whole.shape.page_size == end.page_size);
                checksums.clear();
                checksums.apply(end.page_size, end.page_count, rolled.way.overlay.sums(&local));
            }
            None => checksums.apply(end.page_size, end.page_count, rolled.way.overlay.changes()),
        }
        assert_eq!(checksums.total(), end.position.checksum, "BUG: rolled forward to another state");
        if !rolled.way.ends_in_log {
            self.log.set_base(end)?;
        }
        state.set_acknowledged(0, self.head.as_ref().map(Head::txid));
        state.push_position(end.position);
        Ok(match &rolled.tail {
            Some(tail) => rejoin::told(&end, &self.client.url(), tail),
            None => rolled.told(before),
        })
    }

    /// The page checksums of the recorded state are those of the file, where it was read and is that state.
    fn take_sums(&self, checksums: &mut PageChecksums, recorded: &Recorded) -> Result<bool> {
        let shape = Shape { page_size: recorded.page_size, page_count: recorded.page_count };
        let is_it = |whole: &&AtRest| whole.checksum == recorded.position.checksum && whole.shape == shape;
        let Some(whole) = self.found.as_ref().filter(is_it) else { return Ok(false) };
        checksums.reserve(shape.page_count)?;
        checksums.clear();
        checksums.apply(shape.page_size, shape.page_count, whole.stored());
        Ok(true)
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

/// This database was there, which a loss of power may have taken from the page that remembers it.
fn remember(state: &State, position: Position) {
    if !state.remembers(position) {
        state.push_position(position);
    }
}

/// The state before the first group.
fn forget(state: &State, noted: &NotedSet, checksums: &mut PageChecksums) {
    checksums.clear();
    forget_marks(state, noted);
}

/// Nothing is noted, and nothing known of the file.
fn forget_marks(state: &State, noted: &NotedSet) {
    let _ = noted.take(true);
    noted.settle();
    state.set_cycle(None);
    state.set_tag(0);
    state.set_tag_written(0);
    state.set_synced(None);
    state.set_clean(None);
    (0..crate::staging::state::REPLICAS_MAX).for_each(|index| state.set_acknowledged(index, None));
}
