//! What there is to say of a database: one row a replica, and the newest error.

use std::path::PathBuf;
use std::sync::atomic::Ordering;

use super::followed::Database;
use crate::clock;
use crate::config::ReplicaUrl;
use crate::types::{Epoch, Timestamp, Txid};

/// What the status table says of one replica.
#[derive(Clone, Debug)]
pub struct ReplicaStatus {
    pub path: PathBuf,
    pub replica: String,
    pub role: &'static str,
    pub state: &'static str,
    pub txid: Option<Txid>,
    pub acknowledged: Option<Txid>,
    pub verified: Option<Txid>,
    pub lag_ms: u64,
    pub queued_bytes: u64,
    pub last_error: Option<String>,
    pub last_error_at: Option<Timestamp>,
    pub last_event: Option<String>,
    /// Of the lease, where it is held here.
    pub lease: Option<(Epoch, Timestamp)>,
    pub zero_salt_frames: u64,
    pub retries: u64,
}

impl Database {
    /// The home replica ignores conditions.
    pub(super) fn is_single_writer(&self, url: &ReplicaUrl) {
        if !self.single_writer.swap(true, Ordering::Relaxed) {
            self.notices().event(format!(
                "the store of {url} ignores conditional writes (single-writer): a second writer would not be noticed, so \
                 make sure that there is none"
            ));
        }
    }

    pub fn last_error(&self) -> Option<String> {
        self.notices
            .lock()
            .iter()
            .filter(|n| n.last_error.is_some())
            .max_by_key(|n| n.last_error_at)?
            .last_error
            .clone()
    }

    /// One row a replica.
    pub fn status(&self) -> Vec<ReplicaStatus> {
        let sealed = self.log.recorded().ok().flatten().map(|r| r.position.txid);
        let dirty = self.runs.dirty_since_ms();
        let lag_ms = dirty.map_or(0, |since| clock::monotonic_ms().saturating_sub(since));
        let held = self.held_lease().map(|held| (held.lease.epoch, held.lease.expires_at));
        let notices = self.notices.lock();
        let rows = self.settings.replicas.iter().zip(notices.iter()).enumerate();
        rows.map(|(index, (url, notices))| {
            let acknowledged = self.state.acknowledged(index);
            ReplicaStatus {
                path: self.path.clone(),
                replica: url.to_string(),
                role: match index {
                    0 if self.single_writer.load(Ordering::Relaxed) => "home, single-writer",
                    0 => "home",
                    _ => "copy",
                },
                state: self.phase().name(),
                txid: sealed,
                acknowledged,
                verified: self.verifying.verified(index),
                lag_ms,
                queued_bytes: self.queued_bytes(acknowledged),
                last_error: notices.last_error.clone(),
                last_error_at: notices.last_error_at,
                last_event: notices.last_event.clone(),
                lease: held.filter(|_| index == 0),
                zero_salt_frames: self.seen.zero_salt_frames.load(Ordering::Relaxed),
                retries: notices.retries,
            }
        })
        .collect()
    }

    /// Sealed groups that the home replica lacks.
    pub(super) fn queued(&self) -> usize {
        let acknowledged = self.state.acknowledged(0);
        let txids = self.log.txids().unwrap_or_default();
        txids.into_iter().filter(|&t| acknowledged.is_none_or(|a| t > a)).count()
    }

    fn queued_bytes(&self, acknowledged: Option<Txid>) -> u64 {
        let txids = self.log.txids().unwrap_or_default();
        let queued = txids.into_iter().filter(|&t| acknowledged.is_none_or(|a| t > a));
        queued.map(|t| std::fs::metadata(self.log.path_of(t)).map_or(0, |m| m.len())).sum()
    }
}
