//! The lease of one database: who asks for it, who renews it, and what the gate of its writers looks at.
//!
//! ```text
//! write gate ------- allows? -----> Shown: permit, begun     (a lock that nobody holds while a store is waited for)
//!     | auto: wants it                 ^ shown after each step
//!     v                                |
//! a thread of the worker, in a lane of its own --- tend, ask, hand back ---> Tenant ---> store
//! replica_lease_acquire(), on its caller's thread -----------------------------^
//! ```
//!
//! Promises:
//! 1. Nobody may write before the first txid under the lease is ours ([`super::barrier`]), and not a moment after the
//!    permit ends, whatever the store does.
//! 2. No request to the store is made on a thread of the application but by who asks for the lease, or shows it, by name.
//! 3. What is handed back was used to the end: everything that was committed under it is acknowledged.
//!
//! The lease belongs to a process. Two that have one file open take turns, as two machines do.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::followed::Database;
use super::runtime::Runtime;
use crate::clock::Deadline;
use crate::config::{LeaseUse, Settings};
use crate::error::{Error, Kind, Result};
use crate::ffi::os;
use crate::lease::{Fixed, Holder, Lease, MachineTime, Now, Permit, Tenant, Terms, Time};
use crate::lock::{Condvar, Mutex};
use crate::replica::{Client, Leases};
use crate::types::Epoch;

/// Longest wait of a write for the answer whether the lease is free.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// A refusal holds that long for others who ask, so that a busy timeout asks a few times a second.
const REFUSED: Duration = Duration::from_millis(250);
/// Pause while somebody else of this process asks for the lease, or the store could not be asked at all.
const SOON: Duration = Duration::from_millis(100);

static TIME: MachineTime = MachineTime;

/// What anybody may see at any time.
#[derive(Default)]
struct Shown {
    permit: Option<Permit>,
    /// The epoch whose first txid is ours.
    begun: Option<Epoch>,
    lease: Option<Lease>,
    renewals: u64,
    /// Writes that asked for the lease, and how many of them were answered.
    asked: u64,
    answered: u64,
    /// Why it was not to be had, or is held no longer.
    refused: Option<(Kind, String, Instant)>,
    is_leaving: bool,
}

impl Shown {
    fn refuse(&mut self, error: &Error) {
        self.refused = Some((error.kind(), error.to_string(), Instant::now()));
    }

    fn allows(&self, now: Now) -> bool {
        self.permit.is_some_and(|permit| self.begun == Some(permit.epoch) && permit.allows(now))
    }
}

/// A lease that ends, and what is known of it.
pub struct Leasehold {
    is_auto: bool,
    terms: Terms,
    // Guards who asks; held while a store is waited for, and never taken by a hook.
    tenant: Mutex<Tenant<'static>>,
    // Guards what the others look at.
    shown: Mutex<Shown>,
    changed: Condvar,
    // Guards when it is tended next; `None`: nobody must.
    due: Mutex<Option<Instant>>,
}

/// Who may write a database.
pub enum Rights {
    /// Whoever has it open.
    All,
    Fixed(Fixed),
    Leased(Box<Leasehold>),
}

impl Rights {
    /// `id`: drawn for this life of the database.
    pub fn of(settings: &Settings, id: u64) -> Rights {
        let lease = &settings.lease;
        let host = os::host_name();
        let is_auto = match &lease.used {
            LeaseUse::Off => return Rights::All,
            LeaseUse::Static { primary } => {
                let is_here = primary == lease.owner.as_ref().unwrap_or(&host);
                return Rights::Fixed(if is_here { Fixed::Here } else { Fixed::Elsewhere(primary.clone()) });
            }
            LeaseUse::Auto => true,
            LeaseUse::Required => false,
        };
        let url = lease.url.as_deref();
        let me = match &lease.owner {
            Some(owner) => Holder::named(id, owner, url),
            None => Holder::new(id, &host, std::process::id(), url),
        };
        Rights::Leased(Box::new(Leasehold {
            is_auto,
            terms: lease.terms,
            tenant: Mutex::new(Tenant::new(me, lease.terms, &TIME)),
            shown: Mutex::default(),
            changed: Condvar::default(),
            due: Mutex::default(),
        }))
    }
}

/// What there is to say of a lease that is held here.
#[derive(Clone, Debug)]
pub struct HeldHere {
    pub lease: Lease,
    pub renewals: u64,
}

/// Who may write, as it is now.
#[derive(Clone, Debug)]
pub enum Primary {
    /// Always the same one.
    Fixed { name: String, is_here: bool },
    /// Nobody has asked for the lease yet.
    Nobody,
    /// The holder, or who was it last; `renewals`, if it is held here.
    Holder { lease: Lease, renewals: Option<u64> },
}

impl Leasehold {
    fn allows(&self) -> bool {
        self.shown.lock().allows(TIME.now())
    }

    /// Shows what the tenant holds.
    fn show(&self, tenant: &Tenant<'_>) {
        let mut shown = self.shown.lock();
        shown.permit = tenant.permit();
        shown.lease = tenant.lease().cloned();
        shown.renewals = tenant.renewals();
        drop(shown);
        self.changed.notify_all();
    }

    fn begun(&self, epoch: Epoch) {
        let mut shown = self.shown.lock();
        shown.begun = Some(epoch);
        shown.refused = None;
    }

    fn has_begun(&self, epoch: Epoch) -> bool {
        self.shown.lock().begun == Some(epoch)
    }

    fn answer(&self, asked: u64, refused: Option<&Error>) {
        let mut shown = self.shown.lock();
        shown.answered = shown.answered.max(asked);
        if let Some(error) = refused {
            shown.refuse(error);
        }
        drop(shown);
        self.changed.notify_all();
    }

    fn held(&self) -> Option<HeldHere> {
        let shown = self.shown.lock();
        let lease = shown.lease.clone().filter(|_| shown.allows(TIME.now()))?;
        Some(HeldHere { lease, renewals: shown.renewals })
    }
}

impl Database {
    fn leasehold(&self) -> Option<&Leasehold> {
        match &self.rights {
            Rights::Leased(leasehold) => Some(leasehold),
            _ => None,
        }
    }

    /// Whether a lease decides over who may write.
    pub fn is_leased(&self) -> bool {
        !matches!(self.rights, Rights::All)
    }

    /// Whether this process may write at this moment.
    pub(super) fn may_write_now(&self) -> bool {
        match &self.rights {
            Rights::All | Rights::Fixed(Fixed::Here) => true,
            Rights::Fixed(Fixed::Elsewhere(_)) => false,
            Rights::Leased(leasehold) => leasehold.allows(),
        }
    }

    /// Returns when this process may write, by the lease; with `auto` it is asked for.
    ///
    /// # Errors
    /// `Busy` when another one holds it, and it would have been taken; `Conflict` when nobody asked for it, or it is lost.
    pub fn pass_lease(self: &Arc<Self>) -> Result<()> {
        if self.may_write_now() {
            return Ok(());
        }
        let refused = match &self.rights {
            Rights::Fixed(fixed) => {
                fixed.permit().map(drop).map_err(|error| Error::conflict(error.to_string()))
            }
            Rights::Leased(leasehold) if leasehold.is_auto => self.want_lease(leasehold),
            _ => Err(self.no_lease()),
        };
        refused.map_err(|error| {
            let text = format!("nothing was written to {}: {error}", self.path.display());
            self.notices().error(&*text);
            Error::new(error.kind(), text)
        })
    }

    /// Why a transaction that nobody can ask for its lease is refused.
    pub fn cannot_gate(&self) -> String {
        let text = format!(
            "nothing was written to {}: with locking_mode=EXCLUSIVE and journal_mode=MEMORY or OFF a transaction asks for \
             nothing before it writes, so it cannot be kept back when the lease ends: choose another journal_mode",
            self.path.display()
        );
        self.notices().error(&*text);
        text
    }

    fn no_lease(&self) -> Error {
        let refused = self.leasehold().and_then(|l| l.shown.lock().refused.as_ref().map(|r| r.1.clone()));
        let why = refused.map_or_else(String::new, |why| format!(" ({why})"));
        Error::conflict(format!(
            "this process does not hold the lease of {}{why}: SELECT replica_lease_acquire() asks for it",
            self.settings.replicas[0]
        ))
    }

    /// Has the worker ask for the lease, and waits for what it finds.
    fn want_lease(self: &Arc<Self>, leasehold: &Leasehold) -> Result<()> {
        let refused = |shown: &Shown| {
            let (kind, text, _) = shown.refused.as_ref()?;
            Some(Error::new(*kind, text.clone()))
        };
        let mut shown = leasehold.shown.lock();
        if shown.refused.as_ref().is_some_and(|(_, _, at)| at.elapsed() < REFUSED)
            && let Some(error) = refused(&shown)
        {
            return Err(error);
        }
        shown.asked += 1;
        shown.is_leaving = false;
        let asked = shown.asked;
        drop(shown);
        self.schedule_lease(Instant::now());
        let deadline = Deadline::after(ANSWER_MAX);
        let mut shown = leasehold.shown.lock();
        while shown.answered < asked {
            if leasehold.changed.wait_until(&mut shown, deadline.instant()).timed_out() {
                break;
            }
        }
        if shown.allows(TIME.now()) {
            return Ok(());
        }
        let silent = || Error::busy(format!("{} did not say who holds the lease", self.settings.replicas[0]));
        Err(refused(&shown).filter(|_| shown.answered >= asked).unwrap_or_else(silent))
    }

    /// What is held here.
    pub fn held_lease(&self) -> Option<HeldHere> {
        self.leasehold().and_then(Leasehold::held)
    }

    /// Who may write, as it stands in the home replica. `None`: leases are not used.
    ///
    /// # Errors
    /// As the store refuses; `Corrupt` for a lease that cannot be read.
    pub fn primary(&self) -> Result<Option<Primary>> {
        let leasehold = match (&self.rights, &self.settings.lease.used) {
            (Rights::Leased(leasehold), _) => leasehold,
            (Rights::Fixed(fixed), LeaseUse::Static { primary }) => {
                let is_here = *fixed == Fixed::Here;
                return Ok(Some(Primary::Fixed { name: primary.clone(), is_here }));
            }
            _ => return Ok(None),
        };
        if let Some(held) = leasehold.held() {
            return Ok(Some(Primary::Holder { lease: held.lease, renewals: Some(held.renewals) }));
        }
        let client = Runtime::get().config.client(&self.settings, 0, None)?;
        let found = crate::lease::look(leases_of(&*client)?)?;
        Ok(Some(found.map_or(Primary::Nobody, |lease| Primary::Holder { lease, renewals: None })))
    }

    /// Takes the lease, if nobody else holds it within `wait`, and rolls the database forward to the end of the history by
    /// `roll` where that went on.
    ///
    /// # Errors
    /// `Busy` with holder and end; those of rolling forward.
    pub fn acquire_lease(
        self: &Arc<Self>,
        life: Option<Duration>,
        wait: Duration,
        roll: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Epoch> {
        let leasehold = match &self.rights {
            Rights::Leased(leasehold) => leasehold,
            Rights::Fixed(fixed) => return fixed.permit().map(|permit| permit.epoch),
            Rights::All => return Err(not_used()),
        };
        let terms = life.map(Terms::new).transpose()?.unwrap_or(leasehold.terms);
        let client = Runtime::get().config.client(&self.settings, 0, None)?;
        let leases = leases_of(&*client)?;
        let mut tenant = leasehold.tenant.lock();
        leasehold.shown.lock().is_leaving = false;
        if tenant.permit().is_none() {
            tenant.set_terms(terms);
        }
        let acquired = tenant.acquire(leases, wait);
        leasehold.show(&tenant);
        // Renewed while the database is rolled forward, which may last.
        drop(tenant);
        self.schedule_lease(Instant::now());
        let permit = acquired?;
        if leasehold.has_begun(permit.epoch) {
            return Ok(permit.epoch);
        }
        match self.begin_term(Some(roll)) {
            Ok(()) => self.enter(leasehold, permit.epoch),
            Err(error) => {
                let mut tenant = leasehold.tenant.lock();
                let _ = tenant.release(leases);
                leasehold.show(&tenant);
                Err(error)
            }
        }
    }

    /// The first txid under the lease is ours, if it still is ours.
    fn enter(&self, leasehold: &Leasehold, epoch: Epoch) -> Result<Epoch> {
        leasehold.begun(epoch);
        match leasehold.allows() {
            true => Ok(epoch),
            false => Err(Error::busy("the lease ended before the history could be continued; try again")),
        }
    }

    fn begin_term(self: &Arc<Self>, roll: Option<&mut dyn FnMut() -> Result<()>>) -> Result<()> {
        let wait = self.settings.open_timeout.max(Duration::from_secs(2));
        let begun = self.alone(wait, |engine| engine.begin_term(self, roll.is_some()))?;
        match (begun, roll) {
            (super::barrier::Begun::Ahead, Some(roll)) => roll(),
            _ => Ok(()),
        }
    }

    /// Hands the lease back, once everything that was committed under it is in the replica. `false`: it was not held.
    ///
    /// # Errors
    /// `Busy` when something is not in the replica by then; as the store refuses.
    pub fn release_lease(self: &Arc<Self>, wait: Duration) -> Result<bool> {
        let Some(leasehold) = self.leasehold() else {
            return Err(not_used());
        };
        let Some(held) = leasehold.held() else { return Ok(false) };
        // From here on no write begins; one that has begun already is waited for as far as it is committed.
        leasehold.shown.lock().begun = None;
        if let Err(error) = self.sync(wait) {
            leasehold.begun(held.lease.epoch);
            return Err(error);
        }
        let client = Runtime::get().config.client(&self.settings, 0, None)?;
        self.hand_back(leasehold, leases_of(&*client)?)?;
        Ok(true)
    }

    /// From here on nobody of this process writes.
    fn hand_back(self: &Arc<Self>, leasehold: &Leasehold, leases: &dyn Leases) -> Result<()> {
        let mut tenant = leasehold.tenant.lock();
        {
            let mut shown = leasehold.shown.lock();
            shown.permit = None;
            shown.refused = None;
        }
        let released = tenant.release(leases);
        leasehold.show(&tenant);
        released
    }

    /// Has the worker hand the lease back, which nobody of this process needs any more. `false`: it is not held; or
    /// something that was committed under it is not in the replica, and who comes next would take its txid. Then it ends by
    /// itself, and an open before that sends what is left.
    pub(super) fn leave_lease(self: &Arc<Self>) -> bool {
        let Some(leasehold) = self.leasehold().filter(|leasehold| leasehold.held().is_some()) else {
            return false;
        };
        let is_flushed = self.noted.is_empty() && self.queued() == 0;
        if is_flushed {
            leasehold.shown.lock().is_leaving = true;
            self.schedule_lease(Instant::now());
        }
        is_flushed
    }

    /// Waits until it has.
    pub(super) fn wait_for_leave(&self, deadline: Deadline) {
        let Some(leasehold) = self.leasehold() else { return };
        let mut shown = leasehold.shown.lock();
        while shown.is_leaving {
            if leasehold.changed.wait_until(&mut shown, deadline.instant()).timed_out() {
                return;
            }
        }
    }

    fn schedule_lease(self: &Arc<Self>, at: Instant) {
        let Some(leasehold) = self.leasehold() else { return };
        let mut due = leasehold.due.lock();
        if due.is_none_or(|due| at < due) {
            *due = Some(at);
            Runtime::get().schedule_lease(self, at);
        }
    }

    /// What is due for the lease, on a thread of the worker.
    pub(super) fn run_lease(self: &Arc<Self>) {
        let Some(leasehold) = self.leasehold() else { return };
        *leasehold.due.lock() = None;
        if self.claim.lock().is_none() {
            return; // closed
        }
        let tended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.tend_lease(leasehold)));
        match tended {
            Ok(Some(at)) => self.schedule_lease(at),
            Ok(None) => {}
            Err(_) => {
                leasehold.shown.lock().permit = None;
                self.notices().error("the lease is not renewed any more after a bug; it ends by itself");
            }
        }
    }

    /// When to come again.
    fn tend_lease(self: &Arc<Self>, leasehold: &Leasehold) -> Option<Instant> {
        let Some(mut tenant) = leasehold.tenant.try_lock() else { return Some(Instant::now() + SOON) };
        let (asked, is_wanted, is_leaving) = {
            let shown = leasehold.shown.lock();
            (shown.asked, shown.asked > shown.answered, shown.is_leaving)
        };
        let client = Runtime::get().config.client(&self.settings, 0, None);
        let leases = match client
            .as_ref()
            .map_err(|e| Error::new(e.kind(), e.to_string()))
            .and_then(|c| leases_of(&**c))
        {
            Ok(leases) => leases,
            Err(error) => {
                leasehold.answer(asked, Some(&error));
                return None;
            }
        };
        if is_leaving {
            let released = tenant.release(leases);
            leasehold.show(&tenant);
            leasehold.shown.lock().is_leaving = false;
            leasehold.answer(asked, released.err().as_ref());
            return None;
        }
        let had = tenant.lease().is_some();
        let tended = match tenant.permit() {
            None if is_wanted => tenant.ask(leases, Duration::ZERO),
            _ => tenant.tend(leases),
        };
        leasehold.show(&tenant);
        let wake = match tended {
            Ok(wake) => wake,
            Err(error) => {
                leasehold.answer(asked, Some(&error));
                if had {
                    self.notices().error(format!(
                        "{error}; this process writes nothing more before it holds the lease again"
                    ));
                }
                return None;
            }
        };
        let permit = tenant.permit();
        drop(tenant);
        if let Some(permit) = permit.filter(|permit| is_wanted && !leasehold.has_begun(permit.epoch))
            && let Err(error) = self.begin_term(None).and_then(|()| self.enter(leasehold, permit.epoch))
        {
            let handed = self.hand_back(leasehold, leases);
            leasehold.answer(asked, Some(&error));
            return handed.err().map(|_| Instant::now() + SOON);
        }
        leasehold.answer(asked, None);
        wake.map(|at_ms| Instant::now() + Duration::from_millis(at_ms.saturating_sub(TIME.now().steady_ms)))
    }
}

fn not_used() -> Error {
    Error::invalid("this database is open without a lease: open it with replica_lease=required or auto")
}

/// # Errors
/// `Invalid` where a store keeps none.
pub(super) fn leases_of(client: &dyn Client) -> Result<&(dyn Leases + Sync)> {
    client.leases().ok_or_else(|| Error::invalid(format!("{} keeps no leases", client.url())))
}
