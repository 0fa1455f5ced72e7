//! The background verifier: what was uploaded is read again, at the pace of `replica_verify_interval`.
//!
//! ```text
//! acknowledged -> an interval later: list, read what was not read yet, a part at a time -> verified_txid in replica_status
//!                 `-- something is wrong: the error in replica_status names file and remedy
//! ```
//!
//! A file that was read once is not read again as long as it is the same object. What is not there although it was
//! acknowledged is found too. When everything is read, nothing is due until something more is acknowledged or merged.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::followed::Database;
use super::runtime::Runtime;
use crate::error::Result;
use crate::lock::Mutex;
use crate::types::Txid;
use crate::verify::{Options, Verifier};

/// Read in one go; then others get their turn.
const PART_BYTES: u64 = 16 << 20;
const NEXT_PART: Duration = Duration::from_millis(200);

pub struct Verifying {
    // Guards when the next part is due; `None`: none is.
    pub(super) due: Mutex<Option<Instant>>,
    // Guards what was read of each replica.
    verifiers: Mutex<Vec<Option<Verifier>>>,
    /// The txid up to which each replica is proven; 0: nothing is.
    verified: Vec<AtomicU64>,
}

impl Verifying {
    pub fn of(replicas: usize) -> Verifying {
        Verifying {
            due: Mutex::new(None),
            verifiers: Mutex::new((0..replicas).map(|_| None).collect()),
            verified: (0..replicas).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    pub fn verified(&self, index: usize) -> Option<Txid> {
        Txid::new(self.verified[index].load(Ordering::Relaxed))
    }
}

impl Database {
    /// Something was acknowledged, or upkeep has changed the replica.
    /// `true`: it was not due before.
    pub(super) fn wants_verification(&self) -> bool {
        let mut due = self.verifying.due.lock();
        let wanted = self.settings.verify_interval.filter(|_| due.is_none());
        *due = due.or(wanted.map(|interval| Instant::now() + interval));
        wanted.is_some()
    }

    /// Reads a part of what is to be read, if that is due.
    pub(super) fn verify_part(self: &Arc<Self>) {
        if self.verifying.due.lock().take_if(|due| *due <= Instant::now()).is_none() {
            return;
        }
        let Some(interval) = self.settings.verify_interval else { return };
        for index in 0..self.settings.replicas.len() {
            let pause = match self.verify_replica(index) {
                Ok(true) => NEXT_PART,
                Ok(false) => continue,
                Err(error) => {
                    let url = &self.settings.replicas[index];
                    self.notices.lock()[index].error(format!("verification of {url}: {error}"));
                    interval
                }
            };
            let mut due = self.verifying.due.lock();
            let next = Instant::now() + pause;
            *due = Some(due.map_or(next, |due| due.min(next)));
        }
    }

    /// `true`: there is more to be read.
    fn verify_replica(&self, index: usize) -> Result<bool> {
        let Some(acknowledged) = self.state.acknowledged(index) else { return Ok(false) };
        let client = Runtime::get().config.client(&self.settings, index, None)?;
        let mut verifiers = self.verifying.verifiers.lock();
        let begun = verifiers[index].take();
        let is_fresh = begun.as_ref().is_none_or(|verifier| verifier.verified_txid() < Some(acknowledged));
        let mut verifier = begun.unwrap_or_else(|| {
            Verifier::new(Options { scratch: self.log.folder().to_path_buf(), expected: None })
        });
        if let Some(position) = self.state.positions().find(|position| position.txid == acknowledged) {
            verifier.expect(position);
        }
        if is_fresh && verifier.progress().files == verifier.progress().files_total {
            verifier.refresh(&*client)?;
        }
        let more = verifier.step(&*client, PART_BYTES);
        if !matches!(more, Ok(true)) {
            let verified = verifier.verified_txid().map_or(0, Txid::get);
            self.verifying.verified[index].store(verified, Ordering::Relaxed);
            if let Some(error) = verifier.report().error() {
                self.notices.lock()[index].error(format!("{} is damaged: {error}", client.url()));
            }
        }
        verifiers[index] = Some(verifier);
        more
    }
}
