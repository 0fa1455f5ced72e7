//! Brings a database that is open back to an earlier state of its history: an ordinary commit, and the next txid.
//!
//! ```text
//! everything committed is acknowledged -> the old state is restored beside -> SQLite's write lock; committed since? again
//! every page is noted -> SQLite commits the restored file -> a group by difference
//! ```
//!
//! Nothing of the newer history goes: it stays restorable as long as retention keeps it. Killed before the commit, the database
//! is as it was; after it, the next cycle or open finds the old state as a change like any other.

use std::sync::Arc;
use std::time::Duration;

use crate::catalog::{Settled, words};
use crate::database::followed::Database;
use crate::database::overwrite::catch_up::{Begin, Restored};
use crate::error::{Error, Result};
use crate::restore::{self, Options};
use crate::types::Txid;

/// Times that others may commit between our look and our lock.
const TRIES: u32 = 5;

impl Database {
    /// Overwrites the database with the state at `wanted`; the txid that does so, acknowledged, and how the target was
    /// understood where that is not plain. For each lock it waits at most `wait`.
    ///
    /// # Errors
    /// As [`Database::sync`], [`restore::restore`] and `begin`; `Busy` when others commit all the time.
    pub fn roll_back(
        self: &Arc<Self>,
        wanted: &Settled,
        wait: Duration,
        begin: &mut Begin<'_>,
    ) -> Result<(Option<Txid>, Option<String>)> {
        let timeout = self.settings.sync_timeout;
        // What is committed and in no group would be lost between two states.
        self.sync(timeout)?;
        let client = self.home_client()?;
        let restored = Restored::new(self.log.folder().join("earlier.db"));
        let found = restore::restore(&*client, wanted.target, restored.path(), Options::default())?;
        let notice = words::notices(&[&wanted.notice, &found.notice]);
        for _ in 0..TRIES {
            let pending = begin(restored.path())?;
            if self.is_all_captured(wait)? {
                // Should we be killed behind the commit, whoever comes next compares every page.
                self.noted.note_all();
                let event = format!("the database was rolled back to txid {}", found.position.txid);
                self.cold_by_event(&words::notices(&[&Some(event), &notice]).unwrap_or_default());
                pending.commit()?;
                return Ok((self.sync(timeout)?, notice));
            }
            drop(pending);
            self.sync(timeout)?;
        }
        Err(Error::busy(format!(
            "{} is committed to all the time; pause its writers and try again",
            self.path.display()
        )))
    }
}
