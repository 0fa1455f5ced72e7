//! What a process does about a lease, decided without a clock, a store or a thread: `(state, event, now) -> (state, action)`.
//!
//! ```text
//!       acquire            free, ended, handed back, or ours                 put done in time
//! Out ----------> Asking ------ read ------> put, epoch + 1 ----------------------------------> Held
//!  ^                |  ^  another's: wait, look again                                             | a third of its life: put
//!  |<-- give up ----'  '--- refused, or no answer: read back what is there                        |   the same epoch, a later end
//!  |                                                                                              | no answer: again, until its end
//!  |<------- end has come by either clock, or another's epoch is there ---------------------------|
//!  |<------------------------------------- Leaving <---------- release: put it back, ended -------'
//! ```
//!
//! Promises:
//! 1. Writing is permitted in `Held` only, and ends before the lease does ([`super::terms`]), whatever the store answers
//!    and whenever: a renewal that is answered after the end of the one before counts for nothing.
//! 2. A put of which no answer came is settled by reading back: it was done exactly if what is there equals what was sent.
//!    Ids and ends make each lease different.
//! 3. Each acquisition counts the epoch up, also over a lease of our own that came too late.
//!
//! Assumed of the store: a put happens only in place of what was read, or is refused ([`crate::replica::Leases`]).

use super::object::{Holder, Lease};
use super::terms::{Now, Terms, Until};
#[cfg(test)]
use crate::testing::mutation::{self, Mutation};
use crate::types::Epoch;

/// Pause between two looks at a lease that another holds: what a handover may take.
const LOOK_MS: u64 = 500;
/// Puts of one acquisition. Each that is refused means that another one came through.
const PUTS_MAX: u32 = 64;

/// Who asks, and on which terms.
#[derive(Clone, Debug)]
pub struct Rules {
    pub me: Holder,
    pub terms: Terms,
}

/// The right to write under an epoch until a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permit {
    pub epoch: Epoch,
    pub until: Until,
}

impl Permit {
    pub fn allows(&self, now: Now) -> bool {
        #[cfg(test)]
        if mutation::is(Mutation::LateLease) {
            return now.wall < self.until.wall || now.steady_ms < self.until.steady_ms;
        }
        !self.until.has_come(now)
    }
}

/// What was sent, and when it was decided to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    pub lease: Lease,
    pub asked: Now,
}

/// Why nothing is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// It was never asked for, or was handed back.
    Free,
    /// Another one holds it.
    Rival(Lease),
    /// It could not be renewed in time.
    Expired,
    /// Another epoch is there, or the object was deleted.
    Lost(Option<Lease>),
    /// The store did not answer in time, or refused.
    Failed,
    /// It was given up, but whether the store knows is not known: it ends by itself.
    NotHandedBack,
    /// The epoch cannot be counted up.
    LastEpoch,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    Out(Why),
    Asking(Ask),
    Held(Held),
    Leaving(Leave),
}

/// What is under way in a state, or until when nothing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    Reading,
    Putting,
    Waiting { until_ms: u64 },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    give_up_ms: u64,
    puts: u32,
    sent: Option<Sent>,
    doing: Doing,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// What is known to be in the store.
    last: Sent,
    /// Renewals since, of which no answer came.
    unsettled: Vec<Sent>,
    renewals: u64,
    doing: Doing,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leave {
    /// Any of these may be in the store, the last confirmed one first.
    ours: Vec<Lease>,
    is_repeated: bool,
    doing: Doing,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Somebody wants the lease, and waits so long for another holder.
    Acquire {
        patience_ms: u64,
    },
    /// What is held is to be renewed now.
    Renew,
    /// It is needed no longer.
    Release,
    /// Time has passed.
    Tick,
    /// What [`Action::Read`] came to.
    Read(Option<Lease>),
    ReadFailed {
        is_final: bool,
    },
    /// What [`Action::Create`] or [`Action::Replace`] came to.
    Put(Answer),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Done,
    /// Something else is there than was read last.
    Refused,
    /// It may have been done, or may be yet.
    Unknown,
    /// It was not done, and trying again will not help.
    Denied,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing until somebody wants something.
    Rest,
    /// Nothing until then by the steady clock.
    Wait {
        until_ms: u64,
    },
    Read,
    /// Where there is none.
    Create(Lease),
    /// In place of what was read or put last.
    Replace(Lease),
}

impl State {
    /// The right to write now.
    pub fn permit(&self, rules: &Rules, now: Now) -> Option<Permit> {
        let State::Held(held) = self else { return None };
        let permit = Permit { epoch: held.last.lease.epoch, until: rules.terms.until(held.last.asked) };
        Some(permit).filter(|permit| permit.allows(now))
    }

    /// How often what is held was renewed.
    pub fn renewals(&self) -> u64 {
        match self {
            State::Held(held) => held.renewals,
            _ => 0,
        }
    }

    /// What we hold, as it stands in the store.
    pub fn lease(&self) -> Option<&Lease> {
        match self {
            State::Held(held) => Some(&held.last.lease),
            _ => None,
        }
    }
}

impl Rules {
    /// What comes next.
    ///
    /// # Panics
    /// On an event that answers no action of that state.
    pub fn step(&self, state: State, event: Event, now: Now) -> (State, Action) {
        match state {
            State::Out(why) => self.out(why, event, now),
            State::Asking(ask) => self.asking(ask, event, now),
            State::Held(held) => self.held(held, event, now),
            State::Leaving(leave) => self.leaving(leave, event),
        }
    }

    fn out(&self, why: Why, event: Event, now: Now) -> (State, Action) {
        match event {
            Event::Acquire { patience_ms } => {
                let give_up_ms = now.steady_ms.saturating_add(patience_ms);
                let ask = Ask { give_up_ms, puts: 0, sent: None, doing: Doing::Reading };
                (State::Asking(ask), Action::Read)
            }
            Event::Release => out(Why::Free),
            Event::Tick | Event::Renew => out(why),
            Event::Read(_) | Event::ReadFailed { .. } | Event::Put(_) => unasked("Out", &event),
        }
    }

    fn asking(&self, mut ask: Ask, event: Event, now: Now) -> (State, Action) {
        match (ask.doing, event) {
            (Doing::Reading, Event::Read(found)) => self.found(ask, found, now),
            (Doing::Reading, Event::ReadFailed { is_final }) => {
                if is_final || now.steady_ms >= ask.give_up_ms {
                    out(Why::Failed)
                } else {
                    look_later(ask, now)
                }
            }
            (Doing::Putting, Event::Put(Answer::Done)) => {
                let sent = ask.sent.take().expect("BUG: a put was sent");
                if self.terms.until(sent.asked).has_come(now) {
                    // Nobody else has it, but it is too late to write under it: once more, with the next epoch.
                    ask.doing = Doing::Reading;
                    return (State::Asking(ask), Action::Read);
                }
                self.quiet(sent, 0, now)
            }
            (Doing::Putting, Event::Put(Answer::Refused | Answer::Unknown)) => {
                ask.doing = Doing::Reading;
                (State::Asking(ask), Action::Read)
            }
            (Doing::Putting, Event::Put(Answer::Denied)) => out(Why::Failed),
            (Doing::Waiting { until_ms }, Event::Tick) if now.steady_ms < until_ms => {
                (State::Asking(ask), Action::Wait { until_ms })
            }
            (Doing::Waiting { .. }, Event::Tick) => {
                ask.doing = Doing::Reading;
                (State::Asking(ask), Action::Read)
            }
            (Doing::Waiting { .. }, Event::Release) => out(Why::Free),
            (_, event) => unasked("Asking", &event),
        }
    }

    /// Decides over what is in the store.
    fn found(&self, ask: Ask, found: Option<Lease>, now: Now) -> (State, Action) {
        let Some(found) = found else { return self.take(ask, Epoch::FIRST, false, now) };
        if let Some(sent) = ask.sent.as_ref().filter(|sent| sent.lease == found)
            && !self.terms.until(sent.asked).has_come(now)
        {
            return self.quiet(sent.clone(), 0, now);
        }
        let is_ours = found.holder.id.is_some() && found.holder.id == self.me.id;
        if is_ours || found.is_handed_back() || now.wall >= self.terms.takeover(found.expires_at) {
            return match found.epoch.next() {
                Some(epoch) => self.take(ask, epoch, true, now),
                None => out(Why::LastEpoch),
            };
        }
        if now.steady_ms >= ask.give_up_ms { out(Why::Rival(found)) } else { look_later(ask, now) }
    }

    fn take(&self, mut ask: Ask, epoch: Epoch, is_there: bool, now: Now) -> (State, Action) {
        let is_late = ask.puts > 0 && now.steady_ms >= ask.give_up_ms;
        if is_late || ask.puts == PUTS_MAX {
            return out(Why::Failed);
        }
        let lease = Lease { epoch, expires_at: self.terms.expiry(now), holder: self.me.clone() };
        ask.puts += 1;
        ask.sent = Some(Sent { lease: lease.clone(), asked: now });
        ask.doing = Doing::Putting;
        (State::Asking(ask), if is_there { Action::Replace(lease) } else { Action::Create(lease) })
    }

    fn held(&self, mut held: Held, event: Event, now: Now) -> (State, Action) {
        if event == Event::Release {
            assert!(matches!(held.doing, Doing::Waiting { .. }), "BUG: a request is under way");
            return leave(held);
        }
        if self.terms.until(held.last.asked).has_come(now) {
            return out(Why::Expired);
        }
        match (held.doing, event) {
            (Doing::Waiting { until_ms }, Event::Acquire { .. }) => {
                (State::Held(held), Action::Wait { until_ms })
            }
            (Doing::Waiting { until_ms }, Event::Tick) if now.steady_ms < until_ms => {
                (State::Held(held), Action::Wait { until_ms })
            }
            (Doing::Waiting { .. }, Event::Tick | Event::Renew) => self.renew(held, now),
            (Doing::Putting, Event::Put(Answer::Done)) => {
                let sent = held.unsettled.pop().expect("BUG: a renewal was sent");
                self.quiet(sent, held.renewals + 1, now)
            }
            (Doing::Putting, Event::Put(Answer::Refused)) => {
                held.doing = Doing::Reading;
                (State::Held(held), Action::Read)
            }
            (Doing::Putting, Event::Put(Answer::Unknown | Answer::Denied)) => self.retry(held, now),
            (Doing::Reading, Event::Read(Some(found))) => {
                if let Some(at) = held.unsettled.iter().position(|sent| sent.lease == found) {
                    let sent = held.unsettled.swap_remove(at);
                    return self.quiet(sent, held.renewals + 1, now);
                }
                if found == held.last.lease { self.retry(held, now) } else { out(Why::Lost(Some(found))) }
            }
            (Doing::Reading, Event::Read(None)) => out(Why::Lost(None)),
            (Doing::Reading, Event::ReadFailed { .. }) => self.retry(held, now),
            (_, event) => unasked("Held", &event),
        }
    }

    fn renew(&self, mut held: Held, now: Now) -> (State, Action) {
        let lease = Lease { expires_at: self.terms.expiry(now), ..held.last.lease.clone() };
        held.unsettled.push(Sent { lease: lease.clone(), asked: now });
        held.doing = Doing::Putting;
        (State::Held(held), Action::Replace(lease))
    }

    fn retry(&self, mut held: Held, now: Now) -> (State, Action) {
        let until_ms = now.steady_ms + self.terms.retry().as_millis() as u64;
        held.doing = Doing::Waiting { until_ms };
        (State::Held(held), Action::Wait { until_ms })
    }

    /// Held by what is known to be in the store, until it is to be renewed.
    fn quiet(&self, last: Sent, renewals: u64, now: Now) -> (State, Action) {
        if self.terms.until(last.asked).has_come(now) {
            return out(Why::Expired);
        }
        let until_ms = self.terms.renewal_ms(last.asked);
        let held = Held { last, unsettled: Vec::new(), renewals, doing: Doing::Waiting { until_ms } };
        (State::Held(held), Action::Wait { until_ms })
    }

    fn leaving(&self, mut leave: Leave, event: Event) -> (State, Action) {
        match (leave.doing, event) {
            (Doing::Putting, Event::Put(Answer::Done)) => out(Why::Free),
            (Doing::Putting, Event::Put(Answer::Denied)) => out(Why::NotHandedBack),
            (Doing::Putting, Event::Put(Answer::Refused | Answer::Unknown)) => {
                leave.doing = Doing::Reading;
                (State::Leaving(leave), Action::Read)
            }
            (Doing::Reading, Event::Read(Some(found))) if leave.ours.contains(&found) => {
                if leave.is_repeated {
                    return out(Why::NotHandedBack);
                }
                leave.is_repeated = true;
                leave.doing = Doing::Putting;
                (State::Leaving(leave), Action::Replace(found.handed_back()))
            }
            // Handed back, or another's already.
            (Doing::Reading, Event::Read(_)) => out(Why::Free),
            (Doing::Reading, Event::ReadFailed { .. }) => out(Why::NotHandedBack),
            (_, event) => unasked("Leaving", &event),
        }
    }
}

fn out(why: Why) -> (State, Action) {
    (State::Out(why), Action::Rest)
}

fn look_later(mut ask: Ask, now: Now) -> (State, Action) {
    let until_ms = ask.give_up_ms.min(now.steady_ms + LOOK_MS);
    ask.doing = Doing::Waiting { until_ms };
    (State::Asking(ask), Action::Wait { until_ms })
}

fn leave(held: Held) -> (State, Action) {
    let back = held.last.lease.handed_back();
    let ours = [held.last].into_iter().chain(held.unsettled).map(|sent| sent.lease).collect();
    (State::Leaving(Leave { ours, is_repeated: false, doing: Doing::Putting }), Action::Replace(back))
}

fn unasked(state: &str, event: &Event) -> ! {
    panic!("BUG: {event:?} answers nothing in {state}")
}

#[cfg(test)]
mod tests;
