//! The gate of those who write: what it answers, and what it asks for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::TIME;
use super::rights::{Leasehold, Rights, Shown};
use crate::clock::Deadline;
use crate::database::followed::Database;
use crate::error::{Error, Result};
use crate::lease::{Fixed, Time};

/// Longest wait of a write for the answer whether the lease is free.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// A refusal holds that long for others who ask, so that a busy timeout asks a few times a second.
const REFUSED: Duration = Duration::from_millis(250);

impl Database {
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

    /// Returns when a transaction may write on: one that holds the lock of who writes and one that begins without asking for it, as
    /// with `locking_mode=EXCLUSIVE`, look alike at journal and WAL.
    ///
    /// # Errors
    /// As [`Database::pass_lease`].
    pub fn go_on_with_lease(self: &Arc<Self>) -> Result<()> {
        let is_carried = self.leasehold().is_some_and(|leasehold| leasehold.shown.lock().carries(TIME.now()));
        if is_carried && self.connections.has_locked_writer() { Ok(()) } else { self.pass_lease() }
    }

    /// Returns when changes may be sent that are found by comparing every page: a program without the extension may have made
    /// them, and would fence the holder of the lease. With `auto` it is asked for.
    ///
    /// # Errors
    /// `Busy` when they must wait for the lease.
    pub(in crate::database) fn pass_healing(self: &Arc<Self>) -> Result<()> {
        if !self.heals_later() {
            return Ok(());
        }
        if let Some(leasehold) = self.leasehold().filter(|leasehold| leasehold.is_auto) {
            self.want_lease_soon(leasehold);
        }
        let then = match (&self.rights, self.leasehold().map(|leasehold| leasehold.is_auto)) {
            (_, Some(true)) => "they are sent as soon as the lease is to be had",
            (_, Some(false)) => "SELECT replica_lease_acquire() asks for it, and sends them",
            _ => "only the primary sends changes",
        };
        Err(Error::busy(format!(
            "{} has changes that were made without the lease, perhaps by a program without this extension, and that are not sent              without it: {then}",
            self.path.display()
        )))
    }

    /// Changes of unknown origin wait for a lease that is not held here.
    pub(in crate::database) fn heals_later(&self) -> bool {
        let may_send = match &self.rights {
            Rights::All | Rights::Fixed(Fixed::Here) => true,
            Rights::Fixed(Fixed::Elsewhere(_)) => false,
            Rights::Leased(_) => self.has_permit(),
        };
        !may_send && self.noted.is_all()
    }

    /// Has the worker ask for the lease, and waits for nothing.
    fn want_lease_soon(self: &Arc<Self>, leasehold: &Leasehold) {
        let mut shown = leasehold.shown.lock();
        if shown.is_handed_over || shown.is_leaving || shown.asked > shown.answered {
            return;
        }
        shown.asked += 1;
        drop(shown);
        self.schedule_lease(Instant::now());
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

    pub(super) fn no_lease(&self) -> Error {
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
        if shown.is_handed_over {
            return Err(Error::busy("the lease is being handed over to another process"));
        }
        if shown.refused.as_ref().is_some_and(|(_, _, at)| at.elapsed() < REFUSED)
            && let Some(error) = refused(&shown)
        {
            return Err(error);
        }
        shown.stay();
        if shown.allows(TIME.now()) {
            return Ok(());
        }
        shown.asked += 1;
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
}
