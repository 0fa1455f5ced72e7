//! What a store honours, tried out once for each bucket of a session, before the first object is created there.
//!
//! ```text
//! create a name, create it again     must be refused        else: single-writer, and a look goes before each create
//! read it                            must be the first
//! delete it, look                    must be gone
//! ```
//!
//! Only what a few requests can tell: conditions that hold one at a time may still race, which the examination by hand
//! tries ([`crate::doctor`]).

use std::io::Read;

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

impl Store {
    /// What this bucket honours. Asks it below `prefix` if nobody has yet; others wait for the answer.
    ///
    /// # Errors
    /// As the store refuses: nothing is known then.
    pub fn probed(&self, prefix: &str) -> Result<Probed> {
        let mut known = self.session.probed.lock();
        let name = self.place();
        if let Some(probed) = known.get(&name) {
            return Ok(*probed);
        }
        let probed =
            self.probe(&format!("{prefix}/probe-{:x}-{:x}", std::process::id(), clock::machine_ns()))?;
        known.insert(name, probed);
        Ok(probed)
    }

    /// The same, if it is known already.
    pub fn known(&self) -> Option<Probed> {
        self.session.probed.try_lock()?.get(&self.place()).copied()
    }

    fn place(&self) -> String {
        format!("{}/{}", self.endpoint.host(), self.bucket)
    }

    fn probe(&self, key: &str) -> Result<Probed> {
        let absent = || vec![("if-none-match", "*".to_owned())];
        self.put(key, Payload::Bytes(b"first"), absent())?;
        let conditions = match self.put(key, Payload::Bytes(b"second"), absent()) {
            Ok(_) => false,
            Err(error) if error.kind() == Kind::Exists => true,
            Err(error) => return Err(error),
        };
        let found = self.head(key)?.and_then(|answer| answer.header("etag").map(str::to_owned));
        let expected: &[u8] = if conditions { b"first" } else { b"second" };
        let Some(etag) = found else { return Ok(Probed { conditions, reads_back: false, deletes: true }) };
        let reads_back = match self.get(key, &etag, 0) {
            Ok(answer) => {
                let mut bytes = Vec::new();
                let read = answer.into_reader().take(100).read_to_end(&mut bytes);
                read.map_err(|e| Error::new(Kind::Io, format!("cannot read {self}/{key}: {e}")))?;
                bytes == expected
            }
            Err(error) if matches!(error.kind(), Kind::NotFound | Kind::Exists) => false,
            Err(error) => return Err(error),
        };
        // Not being allowed to delete is no reason not to replicate.
        let deletes = self.delete(key, &etag).is_ok() && self.head(key)?.is_none();
        Ok(Probed { conditions, reads_back, deletes })
    }
}
