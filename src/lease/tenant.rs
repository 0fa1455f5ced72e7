//! Carries out what [`super::machine`] decides, on a store, in the thread that asks.
//!
//! ```text
//! acquire   reads, puts and waits until the lease is held, or it is clear that it is not
//! tend      what is due now: the renewal; says when to come again
//! release   puts it back, ended
//! ```
//!
//! A request may take as long as the store lets it: who writes looks at a [`Permit`] that was handed out before, not at this.

use std::time::Duration;

use super::machine::{Action, Answer, Event, Permit, Rules, State, Why};
use super::object::{Holder, Lease};
use super::terms::{Now, Terms};
use crate::clock;
use crate::error::{Error, Kind, Result};
use crate::replica::{LeaseObject, Leases};
use crate::types::Timestamp;

/// The clocks. A test has its own.
pub trait Time: Sync {
    fn now(&self) -> Now;
    /// Lets time pass.
    fn pause(&self, duration: Duration);
}

/// Those of this machine.
pub struct MachineTime;

impl Time for MachineTime {
    fn now(&self) -> Now {
        Now { wall: clock::now(), steady_ms: clock::monotonic_ms() }
    }

    fn pause(&self, duration: Duration) {
        clock::pause(duration);
    }
}

/// One that may hold a lease.
pub struct Tenant<'t> {
    rules: Rules,
    state: State,
    time: &'t dyn Time,
    /// What was read or put last: the next put is in place of it.
    object: Option<LeaseObject>,
    /// Why the last request failed.
    failed: Option<Error>,
}

impl<'t> Tenant<'t> {
    /// Holds nothing yet. `me`: with an id that no other holder has.
    pub fn new(me: Holder, terms: Terms, time: &'t dyn Time) -> Tenant<'t> {
        let state = State::Out(Why::Free);
        Tenant { rules: Rules { me, terms }, state, time, object: None, failed: None }
    }

    /// The right to write now, if it is held.
    pub fn permit(&self) -> Option<Permit> {
        self.state.permit(&self.rules, self.time.now())
    }

    /// Of what is asked for from now on.
    pub fn set_terms(&mut self, terms: Terms) {
        self.rules.terms = terms;
    }

    /// What is held, as it stands in the store.
    pub fn lease(&self) -> Option<&Lease> {
        self.state.lease()
    }

    /// How often it was renewed since it was taken.
    pub fn renewals(&self) -> u64 {
        self.state.renewals()
    }

    /// Takes the lease, if nobody else holds it within `patience`.
    ///
    /// # Errors
    /// `Busy` with the holder and its end; `Corrupt` for a lease that cannot be read; as the store refuses.
    pub fn acquire(&mut self, leases: &dyn Leases, patience: Duration) -> Result<Permit> {
        let mut wake = self.ask(leases, patience)?;
        loop {
            if let Some(permit) = self.permit() {
                return Ok(permit);
            }
            let wake_ms = wake.expect("BUG: who asks or holds has something to wait for");
            let now_ms = self.time.now().steady_ms;
            self.time.pause(Duration::from_millis(wake_ms.saturating_sub(now_ms)));
            wake = self.tend(leases)?;
        }
    }

    /// The same without waiting: [`Tenant::tend`] goes on at the moment that is returned, until there is a permit.
    ///
    /// # Errors
    /// As [`Tenant::acquire`].
    pub fn ask(&mut self, leases: &dyn Leases, patience: Duration) -> Result<Option<u64>> {
        // One whose end has come is asked for anew.
        self.drive(leases, Event::Tick);
        self.failed = None;
        let patience_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        let wake = self.drive(leases, Event::Acquire { patience_ms });
        if self.is_out() { Err(self.refusal()) } else { Ok(wake) }
    }

    /// Does what is due; when to come again, by the steady clock. `None`: nothing is held or asked for.
    ///
    /// # Errors
    /// Why what was held is held no longer, or what was asked for is refused.
    pub fn tend(&mut self, leases: &dyn Leases) -> Result<Option<u64>> {
        let was_out = self.is_out();
        let wake = self.drive(leases, Event::Tick);
        if self.is_out() && !was_out { Err(self.refusal()) } else { Ok(wake) }
    }

    /// Renews what is held, now; when it ends by then.
    ///
    /// # Errors
    /// Why it is not held any more, or not renewed: then it is held until its end.
    pub fn renew(&mut self, leases: &dyn Leases) -> Result<Timestamp> {
        let before = self.renewals();
        self.failed = None;
        self.drive(leases, Event::Renew);
        match self.state.lease() {
            None => Err(self.refusal()),
            Some(lease) if self.renewals() > before => Ok(lease.expires_at),
            Some(lease) => {
                let what = format!("the lease was not renewed, and is held until {}", lease.expires_at);
                let failed = self.failed.take();
                Err(failed.map_or_else(|| Error::busy(&*what), |error| error.while_doing(&what)))
            }
        }
    }

    fn is_out(&self) -> bool {
        matches!(self.state, State::Out(_))
    }

    /// Hands the lease back, so that others need not wait for its end.
    ///
    /// # Errors
    /// As the store refuses: it then ends by itself.
    pub fn release(&mut self, leases: &dyn Leases) -> Result<()> {
        self.drive(leases, Event::Release);
        match self.state {
            State::Out(Why::NotHandedBack) => Err(self.refusal()),
            _ => Ok(()),
        }
    }

    /// Until there is nothing to do, or only later.
    fn drive(&mut self, leases: &dyn Leases, event: Event) -> Option<u64> {
        let mut event = event;
        loop {
            let state = std::mem::replace(&mut self.state, State::Out(Why::Failed));
            let (state, action) = self.rules.step(state, event, self.time.now());
            self.state = state;
            event = match action {
                Action::Rest => return None,
                Action::Wait { until_ms } => return Some(until_ms),
                Action::Read => self.read(leases),
                Action::Create(lease) => {
                    let put = leases.create_lease(&lease.bytes());
                    self.put(put)
                }
                Action::Replace(lease) => {
                    let old = self.object.as_ref().expect("BUG: what is replaced was read or put");
                    let put = leases.replace_lease(old, &lease.bytes());
                    self.put(put)
                }
            };
        }
    }

    fn read(&mut self, leases: &dyn Leases) -> Event {
        let read = leases.read_lease().and_then(|object| {
            let lease = object.as_ref().map(|object| Lease::parse(&object.bytes)).transpose()?;
            Ok((object, lease))
        });
        match read {
            Ok((object, lease)) => {
                self.object = object;
                Event::Read(lease)
            }
            Err(error) => {
                let is_final = is_final(&error);
                self.failed = Some(error);
                Event::ReadFailed { is_final }
            }
        }
    }

    fn put(&mut self, put: Result<LeaseObject>) -> Event {
        Event::Put(match put {
            Ok(object) => {
                self.object = Some(object);
                self.failed = None;
                Answer::Done
            }
            Err(error) if matches!(error.kind(), Kind::Conflict | Kind::Exists) => Answer::Refused,
            Err(error) => {
                let answer = if is_final(&error) { Answer::Denied } else { Answer::Unknown };
                self.failed = Some(error);
                answer
            }
        })
    }

    /// Why nothing is held.
    fn refusal(&mut self) -> Error {
        let failed = self.failed.take();
        let State::Out(why) = &self.state else { unreachable!("BUG: something is held") };
        match (why, failed) {
            (Why::Rival(lease), _) => Error::busy(format!("the lease is held by {}", described(lease))),
            (Why::Lost(Some(lease)), _) => Error::busy(format!("the lease was lost to {}", described(lease))),
            (Why::Lost(None), _) => Error::busy("the lease was lost: somebody deleted it"),
            (Why::LastEpoch, _) => {
                Error::corrupt("the lease cannot be taken: its generation is the last there is")
            }
            (Why::Expired, Some(error)) => error.while_doing("the lease could not be renewed in time"),
            (Why::Expired, None) => Error::busy("the lease could not be renewed in time"),
            (Why::NotHandedBack, Some(error)) => {
                error.while_doing("the lease was given up, and ends by itself, but could not be handed back")
            }
            (Why::NotHandedBack, None) => Error::busy("the lease was given up, but could not be handed back"),
            (Why::Failed, Some(error)) => error.while_doing("cannot take the lease"),
            (Why::Failed, None) => Error::busy("cannot take the lease: others were faster each time"),
            (Why::Free, _) => Error::busy("the lease is not held"),
        }
    }
}

/// Who holds the lease of a replica, or held it last.
///
/// # Errors
/// `Corrupt` for a lease that cannot be read; as the store refuses.
pub fn look(leases: &dyn Leases) -> Result<Option<Lease>> {
    leases.read_lease()?.map(|object| Lease::parse(&object.bytes)).transpose()
}

/// Somebody must mend something first.
fn is_final(error: &Error) -> bool {
    matches!(error.kind(), Kind::Invalid | Kind::Corrupt | Kind::NotFound | Kind::Full)
}

/// `web-1:4711, epoch 7, until 2026-11-21T10:00:30.000Z`.
fn described(lease: &Lease) -> String {
    format!("{}, epoch {}, until {}", lease.holder, lease.epoch, lease.expires_at)
}
