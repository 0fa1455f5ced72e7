//! Waiting until everything committed so far is acknowledged.
//!
//! A waiter draws a ticket after its commit is published; the engine reads the newest ticket before it looks at the
//! database. Whatever it then finds and acknowledges covers every ticket up to that one.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::Deadline;
use crate::error::{Error, Result};
use crate::lock::{Condvar, Mutex};

#[derive(Clone, Debug, Default)]
struct Served {
    upto: u64,
    /// Why no ticket will be served any more.
    ended: Option<String>,
    /// What kept the last look at the database from seeing everything.
    hindered: Option<&'static str>,
}

#[derive(Debug, Default)]
pub struct Tickets {
    drawn: AtomicU64,
    // Guards the newest ticket that was served.
    served: Mutex<Served>,
    changed: Condvar,
}

impl Tickets {
    pub fn draw(&self) -> u64 {
        self.drawn.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// The newest ticket drawn; take it before looking at the database.
    pub fn newest(&self) -> u64 {
        self.drawn.load(Ordering::SeqCst)
    }

    /// Somebody waits.
    pub fn is_wanted(&self) -> bool {
        self.served.lock().upto < self.newest()
    }

    pub fn serve(&self, upto: u64) {
        let mut served = self.served.lock();
        served.upto = served.upto.max(upto);
        served.hindered = None;
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

    /// # Errors
    /// `Busy` when the deadline passes first; `Fenced` with the reason when nothing more comes.
    pub fn wait(&self, ticket: u64, deadline: Deadline) -> Result<()> {
        let mut served = self.served.lock();
        while served.upto < ticket {
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
    use std::time::Duration;

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
