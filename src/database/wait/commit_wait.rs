//! `replica_durability=commit`: COMMIT returns when the home replica has it.
//!
//! ```text
//! WAL        commit published, write lock given back -> draw a ticket, wake the worker -> wait       others commit on
//! rollback   journal gone, EXCLUSIVE held            -> the same; the worker reads under our lock     others wait
//! ```
//!
//! Other processes wait for positions of the WAL in the state page: who uploads says up to where all is acknowledged.
//!
//! Who waits together shares an upload: a group begins when the one before is acknowledged, after a short gathering of
//! those who were let go by it ([`crate::database::wait::tickets::Tickets::gather`]).
//!
//! In WAL mode a waiting connection keeps its read mark, and among many writers somebody always waits: measured with 16
//! writers and puts of 50 ms, the WAL then grows by 4 MB a second and never starts over. So once it holds
//! [`crate::database::wait::turn::FRAMES_LONG`] frames, the mark is given back before the wait (`ffi::read_mark`). And because those who are let go
//! together commit again while the first of them runs SQLite's checkpoint, which then never reaches the end, the others
//! wait for it once the WAL is long ([`crate::database::wait::turn`]).

use std::sync::Arc;

use crate::clock::Deadline;
use crate::config::Durability;
use crate::database::followed::Database;
use crate::error::{Error, Kind};
use crate::sqlite::wal_index::Salts;

impl Database {
    pub fn waits_for_replica(&self) -> bool {
        self.settings.durability == Durability::Commit
    }

    /// Waits until what this thread has just committed is in the home replica. `frames`: of the WAL, 0
    /// without one; `position`: its end after the commit, if that could be read.
    ///
    /// # Errors
    /// `Busy` when the time is up: it is still sent, in order. `Fenced` when it never will be.
    pub fn wait_for_commit(
        self: &Arc<Self>,
        frames: u32,
        position: Option<(Salts, u32)>,
    ) -> Result<(), Error> {
        let timeout = self.settings.sync_timeout;
        let ticket = self.ask_for_sync();
        let is_covered = || match (position, self.state.covered()) {
            (Some((salts, frame)), Some((covered, upto))) => salts == covered && frame <= upto,
            _ => false,
        };
        let waited = self.tickets.wait_or(ticket, Deadline::after(timeout), &is_covered);
        self.turn.after_you(frames);
        waited.map_err(|error| {
            let path = self.path.display();
            let text = match error.kind() {
                Kind::Busy => format!(
                    "a commit to {path} is durable in the local file, but {} has not acknowledged it within {} ms{}; it is \
                     sent in the background",
                    self.settings.replicas[0],
                    timeout.as_millis(),
                    self.why_not()
                ),
                _ => format!("a commit to {path} is durable in the local file only: {error}"),
            };
            self.notices().error(&*text);
            Error::new(error.kind(), text)
        })
    }
}
