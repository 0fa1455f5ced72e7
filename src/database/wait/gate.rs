//! The gate before the first write of a database whose commits wait for the replica, opened while that was silent.
//!
//! ```text
//! open, the store is silent -> closed -- everything committed here is acknowledged --> open, and stays so
//!                                 `----- another writer owns the history ------------> no write begins any more
//! ```
//!
//! A commit that cannot be acknowledged had better not be made: reading goes on, and who asks for the write lock waits for
//! `replica_sync_timeout`, then is told that the database is busy, with nothing changed. A busy timeout of the application
//! asks again and again; those turns do not wait here, or a few seconds of its own would become minutes.
//!
//! Asked at RESERVED in rollback modes and at the write lock of the wal-index. With `locking_mode=EXCLUSIVE` there is no
//! such lock: there only the commit waits, as it always does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::capture::Phase;
use crate::clock::Deadline;
use crate::database::followed::Database;
use crate::error::{Error, Kind, Result};
use crate::lock::Mutex;

/// Who asks again within this time of a refusal is taken for the same writer.
const SAME_WRITER: Duration = Duration::from_secs(1);

pub struct Gate {
    is_open: AtomicBool,
    // Guards when a writer was last refused.
    refused_at: Mutex<Option<Instant>>,
}

impl Gate {
    pub fn new(is_open: bool) -> Gate {
        Gate { is_open: AtomicBool::new(is_open), refused_at: Mutex::new(None) }
    }

    fn refused_just_now(&self) -> bool {
        self.refused_at.lock().is_some_and(|at| at.elapsed() < SAME_WRITER)
    }
}

impl Database {
    /// What is committed behind a fence never becomes history. Refused where that was promised, by a lease or by a COMMIT that
    /// waits, and where it would leave the database again; else the application goes on, and the status tells.
    fn pass_fence(&self) -> Result<()> {
        if self.phase() != Phase::Fenced {
            return Ok(());
        }
        self.notice_rejoin();
        if self.phase() != Phase::Fenced {
            return Ok(());
        }
        if !self.is_to_rejoin() {
            if !self.is_leased() && !self.waits_for_replica() {
                return Ok(());
            }
            let why = self.tickets.ended().unwrap_or_default();
            self.notices().error(&*why);
            return Err(Error::fenced(format!("nothing was written to {}: {why}", self.path.display())));
        }
        Err(Error::busy(format!(
            "nothing was written to {}: another writer continued its history, and it is about to be brought to the end of \
             that one; try again",
            self.path.display()
        )))
    }

    /// Returns when a write may begin.
    ///
    /// # Errors
    /// `Busy` while the replica has not answered; `Fenced` when it never will take what this database commits.
    pub fn pass_gate(self: &Arc<Self>) -> Result<()> {
        self.pass_lease()?;
        self.pass_fence()?;
        let gate = &self.gate;
        if gate.is_open.load(Ordering::Acquire) {
            return Ok(());
        }
        let timeout = if gate.refused_just_now() { Duration::ZERO } else { self.settings.sync_timeout };
        let ticket = if timeout.is_zero() { self.tickets.newest() } else { self.ask_for_sync() };
        let waited = self.tickets.wait(ticket, Deadline::after(timeout));
        waited.inspect(|()| gate.is_open.store(true, Ordering::Release)).map_err(|error| {
            *gate.refused_at.lock() = Some(Instant::now());
            let path = self.path.display();
            let text = match error.kind() {
                Kind::Busy => format!(
                    "{path} is open for reading only until {} answers: nothing was written{}",
                    self.settings.replicas[0],
                    self.why_not()
                ),
                _ => format!("nothing was written to {path}: {error}"),
            };
            self.notices().error(&*text);
            Error::new(error.kind(), text)
        })
    }
}
