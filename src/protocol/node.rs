//! A node of the model: a database, its local log, its clock, and what a process keeps in memory of them. The log is the product's, in
//! a folder; what goes to the store goes through the product's [`Uploader`], [`Keeper`] and [`Tenant`].
//!
//! What stands for the product here is the order in which its worker calls these (`database::engine`, `sending`), and the file.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use super::client::SimClient;
use super::counts::What;
use super::pages::{Commits, Db, Image, PAGE_SIZE};
use super::world::{NODE_TIME, NodeTime, World};
use crate::capture::{Base, PageBuffer, Phase, group};
use crate::error::{Error, Kind, Result};
use crate::lease::Tenant;
use crate::replica::Client;
use crate::staging::checksums::PageChecksums;
use crate::staging::groups::Groups;
use crate::staging::log::{Log, Recorded};
use crate::staging::noted::NotedSet;
use crate::staging::sent::Sent;
use crate::staging::state::State;
use crate::types::{Epoch, Pgno, Position, Timestamp, Txid};
use crate::upload::{Head, Outcome, Uploader};

/// What a node does.
type Act = fn(&mut Node, &World);

/// What a process has in memory.
pub struct Session {
    pub log: Log,
    pub state: State,
    pub noted: NotedSet,
    pub checksums: PageChecksums,
    pub client: Arc<dyn Client>,
    pub uploader: Option<Uploader>,
    pub recorded: Option<Recorded>,
    pub groups: Groups,
    pub sent: Sent,
    /// In the replica, and not acknowledged yet.
    pub stored: Option<Txid>,
    pub phase: Phase,
    /// A group that starts from nothing, and whose snapshot is not stored yet.
    pub whole: Option<Txid>,
    /// The state page was brought to disk since the open.
    pub marked: bool,
    pub tenant: Tenant<'static>,
    /// The epoch whose first txid is ours.
    pub begun: Option<Epoch>,
    /// The replica held nothing then.
    pub begun_with_nothing: bool,
}

pub struct Node {
    pub id: usize,
    pub name: String,
    pub skew_ms: i64,
    pub folder: PathBuf,
    /// `replica_durability=commit`.
    pub promised: bool,
    pub boot: [u64; 2],
    pub db: Db,
    /// The file was changed by somebody else since this boot.
    pub changed_since_boot: bool,
    /// A person changed what lies there since the last open.
    pub by_hand: bool,
    /// A copy of the file that somebody has.
    pub backup: Option<Image>,
    pub session: Option<Session>,
    /// Groups of the log that a loss of power cannot take.
    pub durable: HashSet<PathBuf>,
    /// The marks and the page checksums as they were on disk at some time.
    pub marks: Vec<u8>,
    pub map: Vec<u8>,
    pub refused: bool,
}

impl Node {
    pub fn now(&self) -> Timestamp {
        NodeTime::of(self.skew_ms).wall
    }

    pub fn session(&mut self) -> Result<&mut Session> {
        self.session.as_mut().ok_or_else(|| Error::busy("not open"))
    }

    pub fn phase(&self) -> Option<Phase> {
        self.session.as_ref().map(|session| session.phase)
    }

    pub fn is_writable(&self) -> bool {
        matches!(self.phase(), Some(Phase::Live | Phase::Cold))
    }

    pub fn act(&mut self, world: &World) {
        let weights = world.with(|inner| inner.plan.weights);
        if self.session.is_none() {
            return match world.below(weights.human + 12) {
                at if at < weights.human => self.by_hand(world),
                // Asking again alone changes nothing.
                at if self.refused && at % 4 > 0 => {}
                _ => self.try_open(world),
            };
        }
        let choices: [(u64, Act); 10] = [
            (weights.commit, Node::try_commit),
            (weights.work, Node::try_work),
            (weights.keep, Node::try_keep),
            (weights.checkpoint, Node::checkpoint),
            (weights.close, Node::close),
            (weights.kill, Node::kill),
            (weights.power, Node::lose_power),
            (weights.read, Node::read),
            (weights.lease, Node::tend_lease),
            (weights.human, Node::by_hand),
        ];
        if self.db.now().is_none() && world.chance(2) {
            return self.try_commit(world);
        }
        let mut at = world.below(choices.iter().map(|(weight, _)| weight).sum());
        for (weight, act) in choices {
            if at < weight {
                return act(self, world);
            }
            at -= weight;
        }
    }

    pub fn told(&self, world: &World, what: &str, result: Result<()>) {
        let name = &self.name;
        match result {
            Ok(()) => world.trace(|| format!("{name} {what}")),
            Err(error) => world.trace(|| format!("{name} {what}: {error}")),
        }
    }

    pub fn try_commit(&mut self, world: &World) {
        if !self.is_writable() || !self.may_write(world) {
            return;
        }
        self.commit(world);
        if self.promised {
            self.try_work(world);
        }
    }

    /// The application commits.
    fn commit(&mut self, world: &World) {
        let Some(commit) = world.with(|inner| inner.checker.register.draw()) else { return };
        self.check_alone(world);
        let image = self.next_image(world, commit);
        let session = self.session.as_mut().expect("BUG: a commit without a process");
        session.state.set_clean(None);
        let old = self.db.now();
        for (at, sum) in (1u32..).zip(&image.sums) {
            let same = old.and_then(|old| old.sums.get(at as usize - 1)) == Some(sum);
            if let Some(pgno) = Pgno::new(at).filter(|_| !same) {
                session.noted.note(pgno);
            }
        }
        // A commit that only cuts off pages writes page 1.
        session.noted.note(Pgno::FIRST);
        session.state.set_cycle(Some(self.db.cycle));
        self.put(world, commit, image);
    }

    /// What the next commit makes of the file.
    pub fn next_image(&self, world: &World, commit: usize) -> Image {
        let count = self.db.now().map_or(0, Image::page_count);
        let (grows, pages) = world.with(|inner| {
            let pages: Vec<u32> = (1..=count).filter(|_| inner.random.below(3) == 0).collect();
            (inner.random.below(8), pages)
        });
        let count = match (count, grows) {
            (0, _) => 2,
            (1..5, 0) => count + 1,
            (3.., 1) => count - 1,
            _ => count,
        };
        // Each commit writes a page that is there afterwards; one that changes the size, page 1.
        let is_same_size = self.db.now().is_some_and(|image| image.page_count() == count);
        let pages = pages.into_iter().filter(|&page| page <= count).chain((!is_same_size).then_some(1));
        let pages: Vec<u32> = pages.collect();
        let pages = if pages.is_empty() { vec![count] } else { pages };
        self.db.written(commit, &pages, count)
    }

    pub fn put(&mut self, world: &World, commit: usize, image: Image) {
        let (before, name) = (self.db.state(), self.name.clone());
        world.with(|inner| {
            let state = inner.checker.register.commit(commit, before, image.sums.clone());
            inner.counts.add(What::Committed);
            inner.trace(|| format!("{name} commits c{commit}: {state}"));
        });
        self.db.put(image);
        if world.chance(6) {
            self.backup = self.db.now().cloned();
        }
    }

    fn checkpoint(&mut self, _: &World) {
        self.db.sync();
    }

    pub fn try_work(&mut self, world: &World) {
        if !self.is_writable() {
            return;
        }
        if world.chance(10) {
            self.remember_map();
        }
        let result = self.work(world);
        if result.is_err()
            && let Err(error) = self.refresh()
        {
            self.told(world, "reads its log again", Err(error));
        }
        if result.is_err() {
            self.told(world, "works", result);
        }
    }

    /// One cycle: what is sealed goes out, what is noted is sealed and goes out.
    pub fn work(&mut self, world: &World) -> Result<()> {
        self.send(world)?;
        if !self.is_writable() {
            return self.acknowledge(world);
        }
        let (now, leases) = (self.now(), world.with(|inner| inner.plan.leases));
        let Some(image) = self.db.now().cloned() else { return self.acknowledge(world) };
        let session = self.session()?;
        let taken = session.noted.take(true);
        let shape = image.shape();
        let base = Base { recorded: session.recorded, checksums: &session.checksums };
        let old = base.for_shape(shape).map_or(0, |old| old.page_count);
        let mut buffer = PageBuffer::new(PAGE_SIZE, session.log.folder());
        for pgno in (1..=shape.page_count).filter_map(Pgno::new) {
            if taken.all || pgno.get() > old || taken.pages.contains(&pgno) {
                buffer.offer(pgno, image.page(pgno), base.known(pgno, shape))?;
            }
        }
        let plan = group::plan(&base, &buffer, shape, session.state.writer(), now);
        let Some(plan) = plan else {
            session.noted.settle();
            if session.phase == Phase::Cold {
                session.phase = Phase::Live;
            }
            return self.acknowledge(world);
        };
        if group::rebuild(&mut session.checksums, session.recorded, &plan, &buffer)? {
            session.noted.settle();
            session.phase = Phase::Live;
            return self.acknowledge(world);
        }
        if leases && session.noted.is_all() && session.tenant.permit().is_none() {
            self.acknowledge(world)?;
            return Err(Error::busy("changes of unknown origin wait for the lease"));
        }
        self.mark()?;
        let session = self.session()?;
        let unneeded = session.groups.take_unneeded(&session.log)?;
        let sealed = group::seal(&session.log, unneeded, &mut session.checksums, &plan, &buffer)?;
        if plan.whole && sealed.txid > Txid::FIRST {
            session.whole = Some(sealed.txid);
        }
        session.groups.add(sealed);
        session.noted.settle();
        session.phase = Phase::Live;
        session.state.push_position(sealed.recorded().position);
        session.recorded = Some(sealed.recorded());
        let path = session.log.path_of(sealed.txid);
        self.durable.remove(&path);
        let (name, position) = (&self.name, sealed.recorded().position);
        world.trace(|| format!("{name} seals {position}"));
        self.send(world)?;
        if world.chance(3) {
            // More is committed already: this group is acknowledged with the next.
            return Ok(());
        }
        self.acknowledge(world)
    }

    /// Puts what is sealed into the replica.
    fn send(&mut self, world: &World) -> Result<()> {
        if !self.reach(world)? {
            return Ok(());
        }
        let session = self.session()?;
        let from = session.stored.or(session.state.acknowledged(0));
        for txid in session.groups.after(from) {
            if !self.send_one(world, txid)? {
                return Ok(());
            }
        }
        Ok(())
    }

    pub fn mark(&mut self) -> Result<()> {
        if !self.session()?.marked {
            self.session()?.state.sync()?;
            self.remember_marks();
            let session = self.session()?;
            session.marked = session.state.clean().is_none();
        }
        Ok(())
    }

    fn send_one(&mut self, world: &World, txid: Txid) -> Result<bool> {
        self.mark()?;
        if txid == Txid::FIRST {
            self.make_durable(txid)?;
        }
        let session = self.session()?;
        let sealed = session.groups.get(&session.log, txid)?;
        let uploader = session.uploader.as_mut().expect("BUG: sending before the replica is reached");
        let outcome = match uploader.put(&session.log, &sealed) {
            Ok(outcome) => outcome,
            Err(error) => {
                self.make_durable(txid)?;
                self.acknowledge_stored(world);
                return Err(error);
            }
        };
        match outcome {
            Outcome::Stored => {
                world.count(What::Stored);
                // What a person decided is in the history with everything that is noted.
                let is_all = session.noted.is_empty();
                let before = session.stored.replace(txid);
                self.by_hand &= !is_all;
                if let Some(before) = before {
                    self.acknowledged(world, before);
                }
                Ok(true)
            }
            Outcome::Fenced(why) | Outcome::SetBack(why) => {
                self.fence(world, &why);
                Ok(false)
            }
            Outcome::Emptied => {
                world.count(What::Emptied);
                self.start_over(world)?;
                Err(Error::busy("the replica was emptied"))
            }
        }
    }

    fn fence(&mut self, world: &World, why: &str) {
        let name = &self.name;
        world.trace(|| format!("{name} is fenced: {why}"));
        world.count(What::FencedOnline);
        self.check_not_holder(world);
        if let Some(session) = &mut self.session {
            session.phase = Phase::Fenced;
        }
    }

    /// As `database::reach` does.
    fn reach(&mut self, world: &World) -> Result<bool> {
        let l0 = world.with(|inner| inner.plan.l0);
        let session = self.session()?;
        if session.uploader.is_some() {
            return Ok(true);
        }
        let head = Head::of(&*session.client)?;
        let Some(head) = head else {
            if session.state.acknowledged(0).is_some() {
                self.start_over(world)?;
            }
            let session = self.session()?;
            session.uploader = Some(Uploader::new(Arc::clone(&session.client), None, l0));
            return Ok(true);
        };
        let end = head.header.proof.map(|proof| Position { txid: head.txid(), checksum: proof.post });
        let known = session.state.positions().any(|p| Some(p) == end)
            || session.recorded.is_some_and(|recorded| Some(recorded.position) == end);
        let continues = match session.groups.after(Some(head.txid())).first() {
            None => session.recorded.is_none_or(|r| r.position.txid == head.txid()),
            Some(&next) => {
                Some(session.groups.get(&session.log, next)?.proof.pre) == end.map(|end| end.checksum)
            }
        };
        if !known || !continues {
            self.fence(world, "the replica went on without it");
            return Ok(false);
        }
        session.state.set_acknowledged(0, Some(head.txid()));
        session.uploader = Some(Uploader::new(Arc::clone(&session.client), Some(head.file), l0));
        self.acknowledged(world, head.txid());
        Ok(true)
    }

    /// The replica was emptied: numbering starts over with all pages.
    fn start_over(&mut self, world: &World) -> Result<()> {
        let name = &self.name;
        world.trace(|| format!("{name} starts over"));
        let session = self.session()?;
        session.sent.clear()?;
        session.log.reset()?;
        session.groups = Groups::default();
        session.stored = None;
        session.state.set_log_durable(None);
        session.state.set_synced(None);
        session.checksums.clear();
        session.recorded = None;
        session.noted.note_all();
        session.state.set_acknowledged(0, None);
        session.uploader = None;
        session.phase = Phase::Cold;
        Ok(())
    }

    fn acknowledge_stored(&mut self, world: &World) {
        let Some(session) = &mut self.session else { return };
        let Some(stored) = session.stored.take() else { return };
        if session.uploader.as_ref().is_some_and(|home| home.make_durable().is_ok()) {
            self.acknowledged(world, stored);
        }
    }

    /// Makes what is stored last, and what comes after that.
    fn acknowledge(&mut self, world: &World) -> Result<()> {
        let session = self.session()?;
        if let Some(stored) = session.stored.take() {
            session.uploader.as_ref().expect("BUG: stored in no replica").make_durable()?;
            self.acknowledged(world, stored);
        }
        let session = self.session()?;
        let acknowledged = session.state.acknowledged(0);
        if let Some(txid) = session.whole.filter(|&whole| acknowledged >= Some(whole)) {
            match crate::upkeep::snapshot_to(&*session.client, &*session.client, txid, session.log.folder()) {
                Err(error) if error.kind() != Kind::Exists => return Err(error),
                _ => session.whole = None,
            }
        }
        if let Some(newest) = session.groups.newest().filter(|_| world.chance(4)) {
            self.make_durable(newest)?;
        }
        let session = self.session()?;
        match acknowledged {
            Some(txid) => {
                session.groups.forget_to(&session.log, txid, session.state.log_durable(), &mut session.sent)
            }
            None => Ok(()),
        }
    }

    pub fn acknowledged(&mut self, world: &World, txid: Txid) {
        let Some(session) = &mut self.session else { return };
        session.state.set_acknowledged(0, Some(txid));
        let sealed = session.groups.get(&session.log, txid).map(|sealed| sealed.recorded());
        let recorded = session.recorded.filter(|recorded| recorded.position.txid == txid);
        let Some(at) = sealed.ok().or(recorded) else { return };
        self.counts(world, at.position);
    }

    /// From here on it relies on this being history.
    pub fn counts(&self, world: &World, position: Position) {
        let name = &self.name;
        world.trace(|| format!("{name} counts {position} as acknowledged"));
        world.with(|inner| {
            let checked = inner.checker.acknowledge(position);
            if let Ok(commits) = &checked {
                inner.counts.add_many(What::Acknowledged, u64::from(*commits));
            }
            let checked = checked.and_then(|_| inner.checker.check_newest(&inner.objects));
            inner.checked(checked, || format!("{name} counts {position} as acknowledged"));
        });
    }

    fn make_durable(&mut self, txid: Txid) -> Result<()> {
        let session = self.session()?;
        session.log.make_durable(txid)?;
        session.state.set_log_durable(Some(txid));
        let path = session.log.path_of(txid);
        self.durable.insert(path);
        Ok(())
    }

    /// After an error nothing that was remembered counts.
    fn refresh(&mut self) -> Result<()> {
        let session = self.session()?;
        session.groups = Groups::read(&session.log)?;
        session.stored = None;
        let newest = session.log.recorded_after(session.groups.newest())?;
        if newest != session.recorded {
            session.recorded = newest;
            if let Some(recorded) = &session.recorded
                && !group::reapply(&session.log, &mut session.checksums, recorded)?
            {
                session.noted.note_all();
            }
        }
        let acknowledged = session.state.acknowledged(0);
        session.uploader.as_mut().map_or(Ok(()), |home| home.follow(acknowledged))
    }

    /// Somebody restores, while everything goes on.
    fn read(&mut self, world: &World) {
        super::reader::read(world, &self.folder.with_extension("reader"));
    }

    pub fn kill(&mut self, world: &World) {
        let name = &self.name;
        world.trace(|| format!("{name} is killed"));
        world.count(What::Killed);
        self.killed(world);
    }

    /// Nothing of the memory of its process is left.
    pub fn killed(&mut self, world: &World) {
        self.session = None;
        world.with(|inner| inner.terms[self.id] = None);
    }

    pub fn close(&mut self, world: &World) {
        if self.is_writable() {
            self.try_work(world);
        }
        self.release_lease(world);
        let result = self.leave();
        self.told(world, "closes", result);
        self.killed(world);
    }

    /// As `database::runtime` leaves its marks.
    fn leave(&mut self) -> Result<()> {
        self.db.sync();
        let stat = self.db.stat();
        let Some(session) = &self.session else { return Ok(()) };
        for txid in session.log.txids()? {
            self.make_durable(txid)?;
        }
        let session = self.session()?;
        session.state.set_cycle(None);
        session.state.set_clean(Some((&stat, 0)));
        if session.noted.is_empty() {
            session.state.set_synced(session.log.recorded()?.map(|r| r.position.txid));
        }
        session.sent.clear()?;
        if let Some(session) = &self.session {
            session.noted.sync()?;
            session.state.sync()?;
        }
        self.remember_marks();
        Ok(())
    }

    pub fn own_commits(&self, world: &World) -> Commits {
        let state = self.db.state();
        world.with(|inner| state.map_or_else(Commits::default, |state| inner.checker.register.lineage(state)))
    }

    pub fn client(&self, world: &World) -> Arc<dyn Client> {
        SimClient::shared(world, &self.name)
    }

    pub fn tenant(&self) -> Tenant<'static> {
        super::term::tenant(self.id, &NODE_TIME)
    }
}
