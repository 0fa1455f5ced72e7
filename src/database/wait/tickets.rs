//! Waiting until everything committed so far is acknowledged.
//!
//! A waiter draws a ticket after its commit is published; the engine reads the newest ticket before it looks at the
//! database. Whatever it then finds and acknowledges covers every ticket up to that one.

use std::time::{Duration, Instant};

use crate::clock::Deadline;
use crate::error::{Error, Result};
use crate::lock::{Condvar, Mutex};

#[derive(Clone, Debug, Default)]
struct Served {
    drawn: u64,
    upto: u64,
    /// How many the last serving let go, and when.
    let_go: Option<(u64, Instant)>,
    /// Why no ticket will be served any more.
    ended: Option<String>,
    /// What kept the last look at the database from seeing everything.
    hindered: Option<&'static str>,
    /// Who leaves waits for no ticket up to this one.
    hopeless_upto: u64,
}

#[derive(Debug, Default)]
pub struct Tickets {
    // Guards the newest tickets that were drawn and served.
    served: Mutex<Served>,
    changed: Condvar,
    /// One more waits.
    came: Condvar,
}

impl Tickets {
    pub fn draw(&self) -> u64 {
        let mut served = self.served.lock();
        served.drawn += 1;
        self.came.notify_all();
        served.drawn
    }

    /// The newest ticket drawn; take it before looking at the database.
    pub fn newest(&self) -> u64 {
        self.served.lock().drawn
    }

    /// Somebody waits.
    pub fn is_wanted(&self) -> bool {
        let served = self.served.lock();
        served.upto < served.drawn
    }

    pub fn serve(&self, upto: u64) {
        let mut served = self.served.lock();
        if upto > served.upto {
            served.let_go = Some((upto - served.upto, Instant::now()));
            served.upto = upto;
        }
        served.hindered = None;
        self.changed.notify_all();
    }

    /// Lets those who were let go together come back, so that they share the next upload too: waits until as many wait as
    /// were let go last, and no longer than `patience` after that.
    pub fn gather(&self, patience: Duration) {
        let mut served = self.served.lock();
        let Some((many, at)) = served.let_go else { return };
        while served.drawn - served.upto < many && served.ended.is_none() {
            if self.came.wait_until(&mut served, at + patience).timed_out() {
                return;
            }
        }
    }

    /// What hindered a look that began with this ticket does not pass while somebody waits for it at a close or an exit: a
    /// database that nobody can read and to which this process committed nothing, or, at an exit, a transaction of its own,
    /// which had the time of that look to end.
    pub fn is_hopeless(&self, upto: u64) {
        self.served.lock().hopeless_upto = upto;
        self.changed.notify_all();
    }

    /// A look at the database could not see everything.
    pub fn hindered(&self, why: &'static str) {
        self.served.lock().hindered = Some(why);
    }

    pub fn hindrance(&self) -> Option<&'static str> {
        self.served.lock().hindered
    }

    /// Nothing more will be acknowledged: waiters are told why.
    pub fn end(&self, reason: &str) {
        self.served.lock().ended = Some(reason.to_owned());
        self.changed.notify_all();
    }

    /// Tickets are served again.
    pub fn revive(&self) {
        self.served.lock().ended = None;
    }

    /// Why nothing more will be acknowledged.
    pub fn ended(&self) -> Option<String> {
        self.served.lock().ended.clone()
    }

    /// Has those who wait look whether another process has served them.
    pub fn nudge(&self) {
        let _served = self.served.lock();
        self.changed.notify_all();
    }

    /// # Errors
    /// `Busy` when the deadline passes first; `Fenced` with the reason when nothing more comes.
    pub fn wait(&self, ticket: u64, deadline: Deadline) -> Result<()> {
        self.wait_or(ticket, deadline, &|| false)
    }

    /// As [`Tickets::wait`], for who leaves: no longer than there is hope.
    ///
    /// # Errors
    /// The same; what is not sent now waits in the local log.
    pub fn wait_to_leave(&self, ticket: u64, deadline: Deadline) -> Result<()> {
        self.wait_until(ticket, deadline, &|served| served.hopeless_upto >= ticket)
    }

    /// As [`Tickets::wait`], or until `is_covered` says that another process has done it.
    ///
    /// # Errors
    /// The same.
    pub fn wait_or(&self, ticket: u64, deadline: Deadline, is_covered: &dyn Fn() -> bool) -> Result<()> {
        self.wait_until(ticket, deadline, &|_| is_covered())
    }

    fn wait_until(&self, ticket: u64, deadline: Deadline, is_done: &dyn Fn(&Served) -> bool) -> Result<()> {
        let mut served = self.served.lock();
        while served.upto < ticket && !is_done(&served) {
            if let Some(reason) = &served.ended {
                return Err(Error::fenced(reason.clone()));
            }
            if self.changed.wait_until(&mut served, deadline.instant()).timed_out() && served.upto < ticket {
                return Err(Error::busy("not everything is in the replica yet"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn those_who_were_let_go_together_gather_again() {
        let tickets = Tickets::default();
        tickets.gather(Duration::from_secs(60));
        (0..3).for_each(|_| assert!(tickets.draw() > 0));
        tickets.serve(tickets.newest());
        tickets.gather(Duration::ZERO);
        std::thread::scope(|scope| {
            scope.spawn(|| (0..3).for_each(|_| assert!(tickets.draw() > 0)));
            tickets.gather(Duration::from_secs(60));
        });
        assert_eq!(tickets.newest(), 6, "all three came before the gathering ended");
        tickets.draw();
        tickets.serve(7);
        tickets.gather(Duration::ZERO);
    }

    #[test]
    fn who_leaves_waits_for_no_look_without_hope() {
        let tickets = Tickets::default();
        let before = tickets.draw();
        tickets.is_hopeless(before);
        tickets.wait_to_leave(before, Deadline::after(Duration::MAX)).unwrap();
        tickets.wait(before, Deadline::after(Duration::ZERO)).unwrap_err();
        tickets.wait_to_leave(tickets.draw(), Deadline::after(Duration::ZERO)).unwrap_err();
    }

    #[test]
    fn ticket_is_served_by_a_later_look_only() {
        let tickets = Tickets::default();
        let before = tickets.newest();
        let mine = tickets.draw();
        tickets.serve(before);
        let error = tickets.wait(mine, Deadline::after(Duration::ZERO)).unwrap_err();
        assert_eq!(error.kind(), Kind::Busy);
        tickets.serve(tickets.newest());
        tickets.wait(mine, Deadline::after(Duration::ZERO)).unwrap();
        tickets.draw();
        tickets.end("fenced");
        let error = tickets.wait(tickets.draw(), Deadline::after(Duration::from_secs(60))).unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (Kind::Fenced, "fenced"));
    }
}
