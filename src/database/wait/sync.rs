//! `replica_sync()`: waits until everything committed so far is acknowledged ([`super::tickets`]).

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clock::Deadline;
use crate::database::followed::Database;
use crate::error::{Error, Kind, Result};
use crate::types::Txid;

impl Database {
    /// Waits until everything committed so far is in the home replica; returns the newest txid there.
    ///
    /// # Errors
    /// `Busy` with what is in the way when the time is up; `Fenced` when nothing more comes.
    pub fn sync(self: &Arc<Self>, timeout: Duration) -> Result<Option<Txid>> {
        let ticket = self.ask_for_sync();
        self.tickets.wait(ticket, Deadline::after(timeout)).map_err(|error| match error.kind() {
            Kind::Busy => {
                let why = match self.why_not() {
                    why if why.is_empty() => "; it goes on in the background".to_owned(),
                    why => why,
                };
                Error::busy(format!("{error} after {} ms{why}", timeout.as_millis()))
            }
            _ => error,
        })?;
        Ok(self.state.acknowledged(0))
    }

    /// The same without waiting: a ticket to wait for.
    pub(in crate::database) fn ask_for_sync(self: &Arc<Self>) -> u64 {
        self.notice_rejoin();
        let ticket = self.tickets.draw();
        self.schedule(Instant::now(), true);
        ticket
    }

    /// What is in the way of who waits, as the end of a sentence; empty: nothing is known.
    pub(in crate::database) fn why_not(&self) -> String {
        let notices = self.notices();
        let hindrance = self.tickets.hindrance().filter(|_| !notices.is_failing()).map(str::to_owned);
        hindrance.or_else(|| notices.last_error.clone()).map_or_else(String::new, |why| format!(": {why}"))
    }

    /// Txid of the first group that holds everything committed so far, sealed or still open.
    pub fn txid(&self) -> Option<Txid> {
        let sealed = self.log.recorded().ok().flatten().map(|r| r.position.txid);
        let dirty = !self.noted.is_empty() || self.runs.dirty_since_ms().is_some();
        if dirty { Some(sealed.map_or(Txid::FIRST, Txid::next)) } else { sealed }
    }
}
