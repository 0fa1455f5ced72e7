//! A term: taken, begun with the first txid, and handed back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::barrier::Begun;
use super::rights::{Leasehold, Rights, leases_of, not_used};
use crate::database::followed::Database;
use crate::database::runtime::Runtime;
use crate::error::{Error, Result};
use crate::lease::Terms;
use crate::replica::Leases;
use crate::types::Epoch;

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
    pub(super) fn hand_back(self: &Arc<Self>, leasehold: &Leasehold, leases: &dyn Leases) -> Result<()> {
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
}
