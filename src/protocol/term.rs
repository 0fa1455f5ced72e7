//! The lease of a node, by the product's tenant and barrier; and that nobody else writes meanwhile.

use std::time::Duration;

use super::counts::What;
use super::node::Node;
use super::world::{NodeTime, World};
use crate::capture::Phase;
use crate::config::{IfMissing, OnBehind};
use crate::database::lease::barrier::{Barrier, Created};
use crate::error::{Error, Result};
use crate::lease::{Holder, Tenant, Terms, Time};

use super::opening::Said;

pub const LIFE: Duration = Duration::from_secs(30);
/// Times that a node is rolled forward to the head before it gives up.
const TRIES: u32 = 3;

pub fn tenant(node: usize, time: &'static dyn Time) -> Tenant<'static> {
    thread_local! {
        static DRAWN: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
    }
    // Each life of a process is another holder.
    let id = DRAWN.get() + 1;
    DRAWN.set(id);
    let me = Holder::new(id, &format!("n{node}"), 1, None);
    Tenant::new(me, Terms::new(LIFE).expect("BUG: a life that can be"), time)
}

impl Node {
    /// Whether writes pass the gate.
    pub fn may_write(&mut self, world: &World) -> bool {
        if !world.with(|inner| inner.plan.leases) || self.holds_lease(world) {
            return true;
        }
        if world.chance(2) {
            self.tend_lease(world);
        }
        self.is_writable() && self.holds_lease(world)
    }

    pub fn holds_lease(&self, world: &World) -> bool {
        let begun = self.session.as_ref().and_then(|session| session.begun);
        let permit = self.session.as_ref().and_then(|session| session.tenant.permit());
        let holds = permit.is_some_and(|permit| Some(permit.epoch) == begun);
        world.with(|inner| inner.terms[self.id] = permit.filter(|_| holds));
        holds
    }

    /// Renews what is held, hands it back, or asks for it.
    pub fn tend_lease(&mut self, world: &World) {
        if !self.is_writable() {
            return;
        }
        let result = match self.holds_lease(world) {
            true if world.chance(6) => {
                self.release_lease(world);
                Ok(())
            }
            true => self.renew(),
            false => self.begin_term(world),
        };
        self.told(world, "tends the lease", result);
        self.holds_lease(world);
    }

    fn renew(&mut self) -> Result<()> {
        let session = self.session()?;
        let leases = session.client.leases().expect("BUG: a store without leases");
        session.tenant.tend(leases).map(drop)
    }

    pub fn release_lease(&mut self, world: &World) {
        if !self.holds_lease(world) {
            return;
        }
        // What was committed under it is in the replica first.
        let is_all_sent = self.session.as_ref().is_some_and(|session| {
            session.noted.is_empty()
                && session.state.acknowledged(0) == session.recorded.map(|r| r.position.txid)
        });
        if !is_all_sent {
            return;
        }
        let id = self.id;
        let Ok(session) = self.session() else { return };
        session.begun = None;
        world.with(|inner| inner.terms[id] = None);
        let leases = session.client.leases().expect("BUG: a store without leases");
        let result = session.tenant.release(leases);
        world.count(What::TermEnded);
        self.told(world, "hands the lease back", result);
        self.holds_lease(world);
    }

    /// As `database::leasehold` takes a lease and begins to write under it.
    fn begin_term(&mut self, world: &World) -> Result<()> {
        let session = self.session()?;
        let leases = session.client.leases().expect("BUG: a store without leases");
        let permit = match session.tenant.acquire(leases, Duration::ZERO) {
            Ok(permit) => permit,
            Err(error) => {
                world.count(What::TermRefused);
                return Err(error);
            }
        };
        for _ in 0..TRIES {
            match self.pass_barrier(world) {
                Ok(true) => {
                    self.session()?.begun = Some(permit.epoch);
                    if self.holds_lease(world) {
                        world.count(What::TermBegun);
                        self.check_epoch(world, permit.epoch.get());
                    }
                    return Ok(());
                }
                Ok(false) => {}
                Err(error) => {
                    let session = self.session()?;
                    let leases = session.client.leases().expect("BUG: a store without leases");
                    let _ = session.tenant.release(leases);
                    return Err(error);
                }
            }
        }
        Err(Error::busy("others keep writing"))
    }

    /// `false`: the database was rolled forward; once more.
    fn pass_barrier(&mut self, world: &World) -> Result<bool> {
        for _ in 0..2 {
            self.work(world)?;
            if self.phase() == Some(Phase::Fenced) {
                return Err(Error::fenced("another writer went on"));
            }
        }
        let l0 = world.with(|inner| inner.plan.l0);
        let now = self.now();
        let session = self.session()?;
        let is_all_sent = session.noted.is_empty()
            && session.state.acknowledged(0) == session.recorded.map(|r| r.position.txid);
        if !is_all_sent || !matches!(session.phase, Phase::Live | Phase::Cold) {
            return Err(Error::busy("not everything that was committed is in the replica"));
        }
        let barrier = Barrier {
            recorded: session.recorded,
            may_be_behind: true,
            writer: session.state.writer(),
            l0_retention: l0,
            folder: session.log.folder(),
            is_held: &|| session.tenant.permit().is_some(),
        };
        match barrier.create(&session.client, || now)? {
            Created::Nothing => {
                // The first commit is the first name; who was late can still take that.
                session.begun_with_nothing = true;
                Ok(true)
            }
            Created::Here(uploader, header) => {
                session.state.set_clean(None);
                self.mark()?;
                let session = self.session()?;
                let sealed = session
                    .log
                    .seal(header.range.max, None, |file| crate::capture::group::write_empty(file, &header))?;
                let sealed =
                    crate::staging::log::Sealed::of(&header, sealed).expect("BUG: an empty group is proven");
                session.groups.add(sealed);
                (session.recorded, session.stored) = (Some(sealed.recorded()), None);
                session.uploader = Some(*uploader);
                session.state.push_position(sealed.recorded().position);
                let path = session.log.path_of(sealed.txid);
                self.durable.remove(&path);
                self.acknowledged(world, sealed.txid);
                Ok(true)
            }
            Created::Ahead => {
                self.roll_to_head(world)?;
                Ok(false)
            }
            Created::NotHere(_) | Created::NoState(_) => Err(Error::conflict("the history went on")),
        }
    }

    /// With the lease in hand the database is opened anew, which rolls it forward.
    fn roll_to_head(&mut self, world: &World) -> Result<()> {
        let session = self.session.take().expect("BUG: a term without a process");
        self.open_as(world, Said { on_behind: OnBehind::Auto, if_missing: IfMissing::Restore });
        let opened = self.session()?;
        opened.tenant = session.tenant;
        Ok(())
    }

    fn check_epoch(&self, world: &World, epoch: u64) {
        let id = self.id;
        let holder = world.with(|inner| {
            let holder = inner.epochs.iter().find(|(e, _)| *e == epoch).map(|(_, node)| *node);
            inner.epochs.push((epoch, id));
            holder
        });
        if let Some(other) = holder.filter(|&other| other != id) {
            world.breach(format!("n{other} and {} both write under epoch {epoch}", self.name));
        }
    }

    /// Nobody else may write, by its own clock.
    pub fn check_alone(&self, world: &World) {
        if !world.with(|inner| inner.plan.leases) {
            return;
        }
        let other = world.with(|inner| {
            (0..inner.terms.len()).find(|&node| {
                let now = NodeTime::of(inner.skews[node]);
                node != self.id && inner.may_write(node, now)
            })
        });
        if let Some(other) = other {
            world.breach(format!("{} writes while n{other} may", self.name));
        }
    }

    /// Who holds the lease, and has made the first txid under it, is fenced by nobody who had it before.
    pub fn check_not_holder(&self, world: &World) {
        if !world.with(|inner| inner.plan.leases) || !self.holds_lease(world) {
            return;
        }
        let newest = world.with(|inner| inner.epochs.last().copied());
        let begun = self.session.as_ref().and_then(|session| session.begun);
        let with_nothing = self.session.as_ref().is_some_and(|session| session.begun_with_nothing);
        if !with_nothing && newest.map(|(epoch, _)| epoch) == begun.map(|epoch| epoch.get()) {
            world.breach(format!("{} holds the lease, and was fenced", self.name));
        }
    }
}
