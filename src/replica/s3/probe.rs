//! What a store honours, tried out once for each bucket of a session, before the first object is created there.
//!
//! ```text
//! create a name, create it again     must be refused        else: single-writer, and a look goes before each create
//! read it                            must be the first
//! delete it, look                    must be gone
//! ```
//!
//! A request that failed is made again with the next attempt, and what was answered before still stands: all of them in a
//! row might never come through a bad network.
//!
//! Only what a few requests can tell: conditions that hold one at a time may still race, which the examination by hand
//! tries ([`crate::doctor`]).

use std::io::Read;

use super::http::Answer;
use super::payload::Payload;
use super::store::Store;
use crate::clock;
use crate::error::{Error, Kind, Result};

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probed {
    /// A name is created once.
    pub conditions: bool,
    /// What was put is read.
    pub reads_back: bool,
    /// What was deleted is gone.
    pub deletes: bool,
}

/// What is known of a bucket.
#[derive(Debug)]
pub enum Known {
    Probed(Probed),
    /// Some of it.
    Tried(Trial),
}

/// The object that tries a bucket out, and what came of it so far.
#[derive(Debug)]
pub struct Trial {
    key: String,
    is_created: bool,
    conditions: Option<bool>,
    /// Whether it was read back; `None` within: it is not there.
    read: Option<Option<(bool, String)>>,
}

impl Store {
    /// What this bucket honours. Asks it below `prefix` if nobody has yet; others wait for the answer.
    ///
    /// # Errors
    /// As the store refuses: nothing is known then.
    pub fn probed(&self, prefix: &str) -> Result<Probed> {
        let mut known = self.session.probed.lock();
        let entry = known.entry(self.place()).or_insert_with(|| {
            let key = format!("{prefix}/probe-{:x}-{:x}", std::process::id(), clock::machine_ns());
            Known::Tried(Trial { key, is_created: false, conditions: None, read: None })
        });
        match entry {
            Known::Probed(probed) => Ok(*probed),
            Known::Tried(trial) => {
                let probed = self.probe(trial)?;
                *entry = Known::Probed(probed);
                Ok(probed)
            }
        }
    }

    /// The same, if it is known already.
    pub fn known(&self) -> Option<Probed> {
        match self.session.probed.try_lock()?.get(&self.place())? {
            Known::Probed(probed) => Some(*probed),
            Known::Tried(_) => None,
        }
    }

    pub(super) fn place(&self) -> String {
        format!("{}/{}", self.endpoint.host(), self.bucket)
    }

    fn probe(&self, trial: &mut Trial) -> Result<Probed> {
        let absent = || vec![("if-none-match", "*".to_owned())];
        let key = &trial.key;
        if !trial.is_created {
            // It is there already when the answer to an earlier attempt was lost.
            is_new(self.put(key, Payload::Bytes(b"first"), absent()))?;
            trial.is_created = true;
        }
        let conditions = match trial.conditions {
            Some(known) => known,
            None => *trial.conditions.insert(!is_new(self.put(key, Payload::Bytes(b"second"), absent()))?),
        };
        if trial.read.is_none() {
            trial.read = Some(self.read_probe(key, if conditions { b"first" } else { b"second" })?);
        }
        let Some(Some((reads_back, etag))) = &trial.read else {
            return Ok(Probed { conditions, reads_back: false, deletes: true });
        };
        // Not being allowed to delete is no reason not to replicate.
        let deletes = self.delete(key, etag).is_ok() && self.head(key)?.is_none();
        Ok(Probed { conditions, reads_back: *reads_back, deletes })
    }

    /// Whether an object is what was put, and its ETag; `None`: it is not there.
    fn read_probe(&self, key: &str, expected: &[u8]) -> Result<Option<(bool, String)>> {
        let found = self.head(key)?.and_then(|answer| answer.header("etag").map(str::to_owned));
        let Some(etag) = found else { return Ok(None) };
        let reads_back = match self.get(key, &etag, 0, None) {
            Ok(answer) => {
                let mut bytes = Vec::new();
                let read = answer.into_reader().take(100).read_to_end(&mut bytes);
                read.map_err(|e| Error::new(Kind::Io, format!("cannot read {self}/{key}: {e}")))?;
                bytes == expected
            }
            Err(error) if matches!(error.kind(), Kind::NotFound | Kind::Exists) => false,
            Err(error) => return Err(error),
        };
        Ok(Some((reads_back, etag)))
    }
}

/// Whether a put under a condition made something.
fn is_new(put: Result<Answer>) -> Result<bool> {
    match put {
        Err(error) if error.kind() != Kind::Exists => Err(error),
        made => Ok(made.is_ok()),
    }
}
