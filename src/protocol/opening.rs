//! A node opens its database: what is found is told as the product's look would tell it, the product decides, and settles.
//!
//! What stands for the product here is `database::prepare` without its files: which finding is handed to whom.

use std::sync::Arc;

use super::counts::What;
use super::node::{Node, Session};
use super::pages::{Commits, Image, InMemory, PAGE_SIZE};
use super::plan::Mutant;
use super::world::World;
use crate::capture::at_rest::AtRest;
use crate::capture::{Phase, group};
use crate::config::{Durability, IfMissing, OnBehind, OnConflict};
use crate::database::open::at_open::{
    Base, Findings, Forward, Found, Local, ReplicaHead, Verdict, decide, following,
};
use crate::database::open::look::{Anchor, Signs, is_related, not_stored};
use crate::database::open::roll_forward::Rolled;
use crate::database::open::settle::Settlement;
use crate::database::way::{Files, History, Way};
use crate::error::{Error, Kind, Result};
use crate::fs::durable;
use crate::restore::tail::{self, Here};
use crate::restore::{self, apply};
use crate::staging::checksums::PageChecksums;
use crate::staging::groups::Groups;
use crate::staging::log::{Log, Recorded};
use crate::staging::noted::NotedSet;
use crate::staging::sent::{self, Sent};
use crate::staging::state::State;
use crate::types::{Checksum, Level, Pgno, Position};
use crate::upload::{Head, Uploader};

/// Bytes of sent groups that are kept for merges.
const SENT_BYTES_MAX: u64 = 64 << 10;

/// What a person said about an open.
#[derive(Clone, Copy)]
pub struct Said {
    pub on_behind: OnBehind,
    pub if_missing: IfMissing,
}

impl Node {
    pub fn try_open(&mut self, world: &World) {
        let wanted = if self.refused { 3 } else { 24 };
        let on_behind = match world.below(wanted) {
            0 => OnBehind::RollForward,
            1 => OnBehind::Keep,
            2 => OnBehind::Refuse,
            _ => OnBehind::Auto,
        };
        // What somebody said by hand counts as an act of theirs only where people act at all.
        let on_behind =
            if world.with(|inner| inner.plan.weights.human == 0) { OnBehind::Auto } else { on_behind };
        let if_missing = match world.below(8) {
            0 => IfMissing::Refuse,
            1 if on_behind != OnBehind::Auto => IfMissing::Continue,
            _ => IfMissing::Restore,
        };
        self.open_as(world, Said { on_behind, if_missing });
    }

    pub fn open_as(&mut self, world: &World, said: Said) {
        let name = self.name.clone();
        match self.open(world, said) {
            Ok(verdict) => {
                world.trace(|| format!("{name} opens: {verdict:?}"));
                world.count(counted(verdict));
                self.refused = false;
            }
            Err(error) => {
                world.trace(|| format!("{name} does not open: {error}"));
                if error.kind() == Kind::Invalid {
                    world.count(What::VerdictRefuse);
                    self.refused = true;
                }
            }
        }
    }

    /// Looks, decides, settles.
    fn open(&mut self, world: &World, said: Said) -> Result<Verdict> {
        let client = self.client(world);
        let is_bucket = client.url().starts_with("s3:");
        let (head, silence) = match Head::of(&*client) {
            Err(error) if is_bucket && error.kind() != Kind::Corrupt => (None, Some(error)),
            other => (other?, None),
        };
        let log = Log::open(&self.folder)?;
        let state = State::open(&self.folder.join("state"))?;
        let noted = NotedSet::open(&self.folder.join("noted"))?;
        let same_boot = state.clean().is_some() || state.is_of_boot(self.boot);
        let is_marked = state.clean().is_some_and(|clean| clean == self.db.stat());
        if !is_marked && state.boot() != self.boot {
            log.drop_damaged()?;
        }
        let recorded = log.recorded()?;
        let mut replica_head = head.as_ref().map(|h| ReplicaHead { txid: h.txid(), proof: h.header.proof });
        let by_writer = world.with(|inner| inner.plan.is_mutated(Mutant::WriterIdAsProof))
            && head.as_ref().is_some_and(|head| head.header.writer_id == state.writer());
        if by_writer && let (Some(recorded), Some(head)) = (&recorded, &mut replica_head) {
            // "Ours": the local state goes on from there.
            head.proof =
                head.proof.map(|proof| crate::ltx::Proof { post: recorded.position.checksum, ..proof });
            head.txid = recorded.position.txid;
        }
        let (unsent, stored) = not_stored(&*client, head.as_ref(), &log, &state)?;
        let following = following(&unsent, replica_head);
        let end = replica_head.and_then(|h| Some(Position { txid: h.txid, checksum: h.proof?.post }));
        let at_end = head.is_none() || !following.is_empty() || end == recorded.map(|r| r.position);
        let whole = said.on_behind == OnBehind::RollForward;
        let (mut local, mut found) =
            self.look(&state, &noted, &log, recorded.as_ref(), end, at_end, whole, same_boot);
        let history = History { home: &*client, head: head.as_ref(), log: &log, following };
        let durability = if self.promised { Durability::Commit } else { Durability::Async };
        let mut way = None;
        if let (Local::Crashed(Found::Other), Some(whole), true) = (local, &found, silence.is_none()) {
            (local, way) = history.place(whole, &state, durability)?;
            if same_boot && local == Local::Crashed(Found::Other) {
                local = Local::Unknown { is_head: false };
            }
        }
        let mut findings = Findings {
            local,
            recorded,
            unsent,
            related: by_writer || is_related(&*client, head.as_ref(), &state, recorded.as_ref())?,
            head: replica_head,
            if_missing: said.if_missing,
            on_behind: said.on_behind,
            on_conflict: OnConflict::Halt,
            rejoining: false,
            set_back: end.is_some_and(|end| state.remembers(end)),
            promised: self.promised && (head.is_some() || silence.is_some()),
        };
        if let Some(silence) = &silence {
            let refused = || Error::busy(format!("not opened before its replica has answered: {silence}"));
            findings = findings.as_if_sent().ok_or_else(refused)?;
        }
        let verdict = decide(&findings);
        world.trace(|| {
            format!(
                "{} finds {local:?}, log at {}, head {}: {verdict:?}",
                self.name,
                told(recorded.map(|r| r.position)),
                told(end)
            )
        });
        if let Verdict::Refuse(why) = verdict {
            return Err(Error::invalid(format!("refused: {why:?}")));
        }
        let before = self.own_commits(world);
        let known = state.positions().any(|p| Some(p.checksum) == self.db.state());
        self.check_reverted(world, &history, verdict, said, &findings, known);
        let mut rolled = None;
        if let Verdict::RollForward(forward) = verdict {
            rolled = Some(self.roll_forward(&history, &state, forward, local, &mut found, way)?);
        }
        let is_known = silence.is_none();
        let mut settlement = Settlement {
            log,
            client: Arc::clone(&client),
            is_known,
            stored,
            is_noted: local.is_noted(),
            head,
            found,
            restored: None,
            rolled,
            kept_aside: false,
        };
        let l0 = world.with(|inner| inner.plan.l0);
        if verdict == Verdict::Restore {
            self.restore(world, &mut settlement, &findings, l0)?;
        }
        self.finish(world, settlement, state, noted, verdict, l0)?;
        self.check_kept(world, verdict, before);
        // It stands until the replica has what comes of it, also where the process ends before.
        self.by_hand |= said.on_behind == OnBehind::Keep;
        self.by_hand &= matches!(
            verdict,
            Verdict::LocalWins | Verdict::Continue | Verdict::GoOn(Base::Changed | Base::Doubt)
        );
        Ok(verdict)
    }

    /// As `database::look` finds the file.
    #[allow(clippy::too_many_arguments)]
    fn look(
        &self,
        state: &State,
        noted: &NotedSet,
        log: &Log,
        recorded: Option<&Recorded>,
        head: Option<Position>,
        at_end: bool,
        whole: bool,
        same_boot: bool,
    ) -> (Local, Option<AtRest>) {
        let Some(at_rest) = self.db.at_rest() else { return (Local::Missing, None) };
        let Some(recorded) = recorded.map(|r| r.position) else {
            return (Local::Unlogged(Some(at_rest.checksum)), Some(at_rest));
        };
        let rolling = log.is_rolling();
        let same_file = state.file_id() == (1, self.db.inode);
        let anchor = match () {
            () if !same_file || rolling => None,
            () if state.cycle().is_none() && state.clean() == Some(self.db.stat()) => Some(Anchor::CleanMark),
            () if state.boot() == self.boot && state.cycle() == Some(self.db.cycle) => Some(Anchor::Killed),
            () => None,
        };
        let lost = rolling || same_file && !same_boot;
        let signs = Signs { anchor, noted: !noted.is_empty(), lost, recorded, head, at_end, whole };
        match signs.unread() {
            Some(local) => (local, None),
            None => (signs.read(Some(at_rest.checksum), rolling || !self.changed_since_boot), Some(at_rest)),
        }
    }

    /// As `database::way` has it done to the file.
    fn roll_forward(
        &mut self,
        history: &History<'_>,
        state: &State,
        forward: Forward,
        finding: Local,
        found: &mut Option<AtRest>,
        way: Option<Way>,
    ) -> Result<Rolled> {
        let recorded = history.log.recorded()?;
        let map = match (finding, &found, &recorded) {
            (Local::Known { noted: false }, None, Some(recorded)) => {
                let mut map = PageChecksums::open(&history.log.folder().join("checksums"))?;
                group::reapply(history.log, &mut map, recorded)?.then_some(map)
            }
            _ => None,
        };
        if map.is_none() && found.is_none() {
            *found = self.db.at_rest();
        }
        let here = match (&found, &recorded) {
            (Some(whole), _) => {
                Here { page_size: PAGE_SIZE, page_count: whole.shape.page_count, checksum: whole.checksum }
            }
            (None, Some(r)) => {
                Here { page_size: r.page_size, page_count: r.page_count, checksum: r.position.checksum }
            }
            (None, None) => return Err(no_way()),
        };
        let local = |pgno: Pgno| match (&found, &map) {
            (Some(whole), _) => whole.page(pgno),
            (None, map) => map.as_ref().and_then(|map| map.get(pgno)),
        };
        let is_here = |position: Position| position.checksum == here.checksum;
        let is_recorded = recorded.is_some_and(|r| is_here(r.position));
        let known = is_recorded || state.positions().any(is_here);
        let is_head = matches!(finding, Local::Crashed(Found::Head));
        let way = match way {
            Some(way) => way,
            None if forward == Forward::Ancestor && !known && !is_head => return Err(no_way()),
            None => history.way(Some(here.checksum), &local, Files::Any)?.ok_or_else(no_way)?,
        };
        state.set_clean(None);
        state.set_cycle(None);
        state.set_tag(0);
        state.sync()?;
        self.remember_marks_of(state);
        let bytes = self.db.now().map(|image| image.bytes.clone()).unwrap_or_default();
        let place = InMemory::of(bytes);
        let saves = !is_recorded && !way.from_position && way.end().position.checksum != here.checksum;
        if saves {
            history.log.make_all_durable()?;
            self.durable.extend(history.log.txids()?.into_iter().map(|txid| history.log.path_of(txid)));
        }
        let saved = saves.then(|| self.save(&place, history.log, &way, here)).transpose()?;
        let pages = apply::apply(&place, &way.overlay, here.page_size, 1)?;
        self.db.replace(Some(Image::of(place.database.into_inner())));
        Ok(Rolled { way, pages, saved, tail: None })
    }

    fn save(&self, place: &InMemory, log: &Log, way: &Way, here: Here) -> Result<std::path::PathBuf> {
        let path = log.saved_path(here.checksum, tail::range(&way.overlay));
        durable::create_folder(durable::parent(&path))?;
        let mut bytes = Vec::new();
        tail::write(place, &way.overlay, here, self.now(), &mut bytes)?;
        std::fs::write(&path, bytes).map_err(|e| Error::io("write", &path, e))?;
        Ok(path)
    }

    fn restore(
        &mut self,
        world: &World,
        settlement: &mut Settlement,
        findings: &Findings,
        l0: std::time::Duration,
    ) -> Result<()> {
        let path = self.folder.with_extension("db");
        let _ = std::fs::remove_file(&path);
        let options = restore::Options { parallelism: std::num::NonZeroUsize::new(1), ..Default::default() };
        settlement.restore(findings, &path, l0, options)?;
        let bytes = std::fs::read(&path).map_err(|e| Error::io("read", &path, e))?;
        let _ = std::fs::remove_file(&path);
        self.db.replace(Some(Image::of(bytes)));
        self.db.inode = world.with(|inner| inner.new_inode());
        Ok(())
    }

    /// As `database::prepare` finishes an open.
    fn finish(
        &mut self,
        world: &World,
        mut settlement: Settlement,
        state: State,
        noted: NotedSet,
        verdict: Verdict,
        l0: std::time::Duration,
    ) -> Result<()> {
        if settlement.head.as_ref().is_some_and(|head| head.file.level == Level::CAPTURED) {
            settlement.client.make_durable(Level::CAPTURED)?;
        }
        let mut checksums = PageChecksums::open(&self.folder.join("checksums"))?;
        let (phase, _, _) = settlement.apply(verdict, &state, &noted, &mut checksums)?;
        settlement.log.end_rolling()?;
        sent::remove_all(&settlement.log)?;
        let is_put_there = matches!(verdict, Verdict::RollForward(_) | Verdict::Restore);
        if is_put_there || verdict == Verdict::GoOn(Base::Crashed) {
            state.set_synced(settlement.log.recorded()?.map(|r| r.position.txid));
        }
        if is_put_there && !self.db.wal {
            state.set_cycle(Some(self.db.cycle));
        }
        if state.clean().is_some_and(|clean| clean != self.db.stat()) {
            state.set_clean(None);
        }
        state.set_file_id((1, self.db.inode));
        state.set_boot(self.boot);
        state.set_writer(world.with(|inner| inner.random.next().max(1)));
        state.set_log_durable(None);
        state.sync()?;
        self.remember_marks_of(&state);
        let recorded = settlement.log.recorded()?;
        let head = settlement.head.take();
        let end =
            head.as_ref().and_then(|h| Some(Position { txid: h.txid(), checksum: h.header.proof?.post }));
        let newest = head.map(|head| head.file);
        let counted = end.filter(|end| state.acknowledged(0) == Some(end.txid));
        let uploader = settlement.is_known.then(|| Uploader::new(Arc::clone(&settlement.client), newest, l0));
        let groups = Groups::read(&settlement.log)?;
        let sent = Sent::new(
            &settlement.log,
            if settlement.client.tells_objects_apart() { 0 } else { SENT_BYTES_MAX },
        );
        let whole = recorded.filter(|r| r.position.txid > crate::types::Txid::FIRST).map(|r| r.position.txid);
        let whole = whole.filter(|&t| {
            settlement.log.sealed(t).is_ok_and(|s| group::changes_page_size(&settlement.log, &s))
        });
        let tenant = self.tenant();
        if phase == Phase::Fenced {
            world.trace(|| format!("{} is fenced at the open", self.name));
        }
        self.session = Some(Session {
            log: settlement.log,
            state,
            noted,
            checksums,
            client: settlement.client,
            uploader,
            recorded,
            groups,
            sent,
            stored: None,
            phase,
            whole,
            marked: false,
            tenant,
            begun: None,
            begun_with_nothing: false,
        });
        counted.into_iter().for_each(|end| self.counts(world, end));
        Ok(())
    }

    /// An open that goes on from a state without what was acknowledged is a person's act, or a documented doubt.
    fn check_reverted(
        &self,
        world: &World,
        history: &History<'_>,
        verdict: Verdict,
        said: Said,
        findings: &Findings,
        remembered: bool,
    ) {
        let goes_on = matches!(verdict, Verdict::GoOn(_) | Verdict::LocalWins | Verdict::Continue);
        if !goes_on {
            return;
        }
        let here = self.own_commits(world);
        let not_here = |posts: &mut dyn Iterator<Item = Checksum>| {
            world.with(|inner| {
                posts
                    .fold(Commits::default(), |all, post| all.and(inner.checker.register.lineage(post)))
                    .without(here)
            })
        };
        let head = history.head.and_then(|head| head.header.proof).map(|proof| proof.post);
        let unsent = history.following.iter().map(|sealed| sealed.proof.post);
        // Also what is acknowledged to somebody a moment later: of the head, of files that are sent before this state, and
        // where the log stands, when the store is silent.
        let noted = findings.recorded.map(|recorded| recorded.position.checksum);
        let given_up = not_here(&mut head.into_iter().chain(unsent).chain(noted));
        let lost = not_here(&mut head.into_iter());
        let reverted = world.with(|inner| inner.checker.owed()).common(lost);
        let is_by_hand = self.by_hand || said.on_behind == OnBehind::Keep || verdict == Verdict::Continue;
        let state = self.db.state();
        // A position that was lost to another writer is in no history, though the log remembers it.
        let was_history = state.is_some_and(|state| world.with(|inner| inner.checker.was_history(state)));
        let is_known = remembered && was_history || noted == state;
        let is_doubt = matches!(verdict, Verdict::LocalWins | Verdict::GoOn(Base::Doubt | Base::Changed))
            && !findings.promised
            && !is_known;
        // Files that the local log has still to send bring it back.
        let is_behind = matches!(verdict, Verdict::GoOn(Base::Holds)) && self.db.now().is_none();
        match (is_by_hand, is_doubt) {
            (true, _) => world.with(|inner| inner.checker.waive(given_up)),
            (_, true) => {
                world.count(What::DoubtWaived);
                world.with(|inner| inner.checker.waive(given_up));
            }
            _ if is_behind || reverted.is_empty() => {}
            _ => world.breach(format!(
                "{} opens with {verdict:?} in state {} without {reverted}, which were acknowledged",
                self.name,
                state.map_or_else(String::new, |state| state.to_string())
            )),
        }
    }

    /// What leaves the local file is in the history, or kept.
    fn check_kept(&self, world: &World, verdict: Verdict, before: Commits) {
        if !matches!(verdict, Verdict::RollForward(_)) {
            return;
        }
        let kept = self.saved_states();
        let lost = world.with(|inner| {
            let checker = &inner.checker;
            let kept =
                kept.iter().fold(Commits::default(), |all, &state| all.and(checker.register.lineage(state)));
            before.without(checker.in_history()).without(kept).without(checker.acknowledged())
        });
        let lost = lost.without(self.own_commits(world));
        if !lost.is_empty() {
            world.breach(format!(
                "{} was overwritten, and {lost} are neither in the history nor saved",
                self.name
            ));
        }
    }

    /// The states that the saved files of this node lead to.
    pub fn saved_states(&self) -> Vec<Checksum> {
        let entries = std::fs::read_dir(self.folder.join("saved")).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let states = names.filter_map(|name| Checksum::from_wire(u64::from_str_radix(&name, 16).ok()?));
        states.collect()
    }
}

fn told(position: Option<Position>) -> String {
    position.map_or_else(|| "nothing".into(), |position| position.to_string())
}

fn no_way() -> Error {
    Error::conflict("the files of the replica do not prove what the database would become")
}

fn counted(verdict: Verdict) -> What {
    match verdict {
        Verdict::Start => What::VerdictStart,
        Verdict::StartOver => What::VerdictStartOver,
        Verdict::GoOn(_) => What::VerdictGoOn,
        Verdict::Adopt => What::VerdictAdopt,
        Verdict::Restore => What::VerdictRestore,
        Verdict::RollForward(_) => What::VerdictRollForward,
        Verdict::Continue | Verdict::LocalWins => What::VerdictLocalWins,
        Verdict::Fence | Verdict::Rejoin => What::VerdictFence,
        Verdict::Refuse(_) => What::VerdictRefuse,
    }
}
