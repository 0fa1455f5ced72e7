//! A term: taken, begun with the first txid, and handed back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::SOON;
use super::barrier::Begun;
use super::rights::{Leasehold, Rights, leases_of, not_used};
use crate::clock::{self, Deadline};
use crate::database::connections::ConnectionId;
use crate::database::followed::Database;
use crate::error::{Error, Result};
use crate::lease::{Lease, Terms};
use crate::replica::Leases;
use crate::types::{Epoch, Timestamp};

/// Pause between two looks whether a transaction is over.
const GLANCE: Duration = Duration::from_millis(2);

/// The connection that asks for something.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    pub connection: ConnectionId,
    pub is_autocommit: bool,
}

impl Database {
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
        let client = self.home_client()?;
        let leases = leases_of(&*client)?;
        let mut tenant = leasehold.tenant.lock();
        leasehold.shown.lock().stay();
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
    pub(super) fn enter(&self, leasehold: &Leasehold, epoch: Epoch) -> Result<Epoch> {
        leasehold.begun(epoch);
        match leasehold.allows() {
            true => Ok(epoch),
            false => Err(Error::busy("the lease ended before the history could be continued; try again")),
        }
    }

    pub(super) fn begin_term(self: &Arc<Self>, roll: Option<&mut dyn FnMut() -> Result<()>>) -> Result<()> {
        let wait = self.settings.open_timeout.max(Duration::from_secs(2));
        let begun = self.alone(wait, |engine| engine.begin_term(self, roll.is_some()))?;
        match (begun, roll) {
            (Begun::Ahead, Some(roll)) => roll(),
            _ => Ok(()),
        }
    }

    /// Renews the lease now; when it ends by then.
    ///
    /// # Errors
    /// `Conflict` when it is not held; why the store has not renewed it: it is held until its end.
    pub fn renew_lease(self: &Arc<Self>) -> Result<Timestamp> {
        let leasehold = self.leasehold().ok_or_else(not_used)?;
        let client = self.home_client()?;
        let mut tenant = leasehold.tenant.lock();
        if tenant.permit().is_none() {
            return Err(self.no_lease());
        }
        let renewed = tenant.renew(leases_of(&*client)?);
        leasehold.show(&tenant);
        drop(tenant);
        self.schedule_lease(Instant::now());
        renewed
    }

    /// Hands the lease back, once everything that was committed under it is in the replica. `false`: it was not held.
    ///
    /// # Errors
    /// `Busy` when a transaction is under way or something is not in the replica by then; as the store refuses.
    pub fn release_lease(self: &Arc<Self>, by: Caller, wait: Duration) -> Result<bool> {
        let leasehold = self.leasehold().ok_or_else(not_used)?;
        if leasehold.held().is_none() {
            return Ok(false);
        }
        self.use_to_the_end(leasehold, by, Deadline::after(wait))?;
        let client = self.home_client()?;
        self.hand_back(leasehold, leases_of(&*client)?)?;
        Ok(true)
    }

    /// The same, and returns when another one has taken it over: that one's epoch. When nobody has within `wait`, it is taken
    /// again, as by [`Database::acquire_lease`].
    ///
    /// # Errors
    /// As those two; `Conflict` when it is not held; `Busy` when nobody took it over.
    pub fn hand_over_lease(
        self: &Arc<Self>,
        by: Caller,
        wait: Duration,
        roll: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Epoch> {
        let leasehold = self.leasehold().ok_or_else(not_used)?;
        let held = leasehold.held().ok_or_else(|| self.no_lease())?;
        let client = self.home_client()?;
        let leases = leases_of(&*client)?;
        self.use_to_the_end(leasehold, by, Deadline::after(self.settings.sync_timeout))?;
        leasehold.set_handing_over(true);
        let handed = self.hand_back(leasehold, leases);
        let taken = handed.map(|()| wait_for_successor(leases, &held.lease, Deadline::after(wait)));
        leasehold.set_handing_over(false);
        if let Some(epoch) = taken? {
            return Ok(epoch);
        }
        let again = self.acquire_lease(None, Duration::ZERO, roll)?;
        Err(Error::busy(format!(
            "nobody took the lease over within {} s: this process holds it again, by epoch {again}; let the next one wait \
             for it, as by replica_lease_acquire(NULL, 60)",
            wait.as_secs()
        )))
    }

    /// From here on no write begins under this epoch, and everything that was committed under it is in the replica. After an
    /// error all is as before.
    fn use_to_the_end(self: &Arc<Self>, leasehold: &Leasehold, by: Caller, deadline: Deadline) -> Result<()> {
        if self.connections.is_in_write(by.connection, by.is_autocommit) {
            return Err(Error::busy(
                "this connection is in a transaction: commit it, or roll it back, first",
            ));
        }
        leasehold.set_closed(true);
        let used =
            self.wait_for_writers(by.connection, deadline).and_then(|()| self.sync(deadline.remaining()));
        used.map(drop).inspect_err(|_| leasehold.set_closed(false))
    }

    /// Who passed the gate before it was closed commits, or rolls back, first.
    fn wait_for_writers(&self, but: ConnectionId, deadline: Deadline) -> Result<()> {
        while self.connections.has_writer(Some(but)) {
            if deadline.passed() {
                return Err(Error::busy(
                    "another connection of this process is in a transaction that writes, or has locking_mode=EXCLUSIVE",
                ));
            }
            clock::pause(GLANCE);
        }
        Ok(())
    }

    /// From here on nobody of this process writes.
    pub(super) fn hand_back(self: &Arc<Self>, leasehold: &Leasehold, leases: &dyn Leases) -> Result<()> {
        let mut tenant = leasehold.tenant.lock();
        leasehold.shown.lock().give_up();
        let released = tenant.release(leases);
        leasehold.show(&tenant);
        released
    }
}

/// The epoch of who has taken over what was handed back; `None`: nobody has by then.
fn wait_for_successor(leases: &dyn Leases, ours: &Lease, deadline: Deadline) -> Option<Epoch> {
    loop {
        // A store that does not answer is asked again; it is asked once more when the lease is taken back.
        if let Ok(Some(found)) = crate::lease::look(leases)
            && found.epoch > ours.epoch
        {
            return Some(found.epoch);
        }
        if deadline.passed() {
            return None;
        }
        clock::pause(SOON.min(deadline.remaining()));
    }
}
