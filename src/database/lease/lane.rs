//! What a thread of the worker does about the lease: takes it for a write, renews it, hands it back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::rights::{Leasehold, leases_of};
use super::{SOON, TIME};
use crate::clock::Deadline;
use crate::database::followed::Database;
use crate::database::runtime::Runtime;
use crate::error::{Error, Kind, Result};
use crate::lease::Time;
use crate::types::Epoch;

/// Longest wait for the locks of others, while leases are to be renewed.
const LOCKS: Duration = Duration::from_secs(1);

impl Database {
    /// Has the worker hand the lease back, which nobody of this process needs any more. `false`: it is not held; or
    /// something that was committed under it is not in the replica, and who comes next would take its txid. Then it ends by
    /// itself, and an open before that sends what is left.
    pub(in crate::database) fn leave_lease(self: &Arc<Self>) -> bool {
        let Some(leasehold) = self.leasehold() else { return false };
        if leasehold.held().is_none() {
            return false;
        }
        // At the end of the process others may be writing still.
        leasehold.set_closed(true);
        let is_flushed = !self.connections.has_writer(None) && self.noted.is_empty() && self.queued() == 0;
        if is_flushed {
            leasehold.shown.lock().is_leaving = true;
            self.schedule_lease(Instant::now());
        } else {
            leasehold.set_closed(false);
        }
        is_flushed
    }

    /// Waits until it has.
    pub(in crate::database) fn wait_for_leave(&self, deadline: Deadline) {
        let Some(leasehold) = self.leasehold() else { return };
        let mut shown = leasehold.shown.lock();
        while shown.is_leaving {
            if leasehold.changed.wait_until(&mut shown, deadline.instant()).timed_out() {
                return;
            }
        }
    }

    pub(super) fn schedule_lease(self: &Arc<Self>, at: Instant) {
        let Some(leasehold) = self.leasehold() else { return };
        let mut due = leasehold.due.lock();
        if due.is_none_or(|due| at < due) {
            *due = Some(at);
            Runtime::get().schedule_lease(self, at);
        }
    }

    /// What is due for the lease, on a thread of the worker.
    pub(in crate::database) fn run_lease(self: &Arc<Self>) {
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

    /// Where the history went on without this database it is rolled forward first. Who waits is told to come again then: in a
    /// rollback mode its own lock is in the way.
    fn begin_for_a_write(self: &Arc<Self>, leasehold: &Leasehold, asked: u64, epoch: Epoch) -> Result<Epoch> {
        if let Err(behind) = self.begin_term(None) {
            if behind.kind() != Kind::Conflict {
                return Err(behind);
            }
            let text = "the database is brought to the end of the history before its first write; try again";
            leasehold.answer(asked, Some(&Error::busy(text)));
            // Locks that are in the way are gone at the next try; else what was wrong before says what to do.
            self.catch_up_by_itself(LOCKS)
                .map_err(|error| if error.kind() == Kind::Busy { error } else { behind })?;
            self.begin_term(None)?;
        }
        self.enter(leasehold, epoch)
    }

    /// When to come again.
    fn tend_lease(self: &Arc<Self>, leasehold: &Leasehold) -> Option<Instant> {
        let Some(mut tenant) = leasehold.tenant.try_lock() else { return Some(Instant::now() + SOON) };
        let (asked, is_wanted, is_leaving) = {
            let mut shown = leasehold.shown.lock();
            if shown.is_leaving {
                shown.give_up();
            }
            (shown.asked, shown.asked > shown.answered, shown.is_leaving)
        };
        let client = self.home_client();
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
            && let Err(error) = self.begin_for_a_write(leasehold, asked, permit.epoch)
        {
            let handed = self.hand_back(leasehold, leases);
            leasehold.answer(asked, Some(&error));
            return handed.err().map(|_| Instant::now() + SOON);
        }
        leasehold.answer(asked, None);
        wake.map(|at_ms| Instant::now() + Duration::from_millis(at_ms.saturating_sub(TIME.now().steady_ms)))
    }
}
