//! The lease of a replica in a bucket: `<prefix>/lock.json`, changed by conditional puts only.
//!
//! A store must refuse a put whose `If-Match` names another object, which few programs need and not every store knows. So
//! before the first one in a session it is tried out on an object of our own; where it is taken all the same, there are no
//! leases.

use std::io::Read;

use super::super::leases::{LEASE_BYTES_MAX, LeaseObject, Leases};
use super::payload::Payload;
use super::{S3Replica, etag};
use crate::clock;
use crate::error::{Error, Kind, Result};
use crate::types::{Etag, Identity};

const NAME: &str = "lock.json";

impl S3Replica {
    fn lease_key(&self) -> String {
        format!("{}/{NAME}", self.prefix)
    }

    fn put_lease(&self, condition: (&'static str, String), bytes: &[u8]) -> Result<LeaseObject> {
        self.check_conditions()?;
        let key = self.lease_key();
        let mut headers = vec![condition, ("content-type", "application/json".to_owned())];
        headers.extend(self.options.sse.iter().map(|sse| ("x-amz-server-side-encryption", sse.clone())));
        let answer =
            self.store.put(&key, Payload::Bytes(bytes), headers).map_err(|error| match error.kind() {
                // Some stores miss the object that a condition names.
                Kind::Exists | Kind::NotFound => {
                    Error::conflict(format!("{}/{key} holds another lease than was read", self.store))
                }
                _ => error,
            })?;
        let etag = etag(answer.header("etag").unwrap_or_default(), &self.store, &key)?;
        Ok(object(bytes.to_vec(), etag))
    }

    /// # Errors
    /// `Invalid` where the store takes a put whose condition does not hold.
    fn check_conditions(&self) -> Result<()> {
        let keeps = match self.store.replaces_known() {
            Some(known) => known,
            None => self.store.try_replaces(&self.prefix)?,
        };
        if keeps {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "{} ignores the conditions of puts, so that two nodes could hold one lease: run one writer only, without a lease",
            self.store
        )))
    }
}

fn object(bytes: Vec<u8>, etag: Etag) -> LeaseObject {
    LeaseObject { bytes, identity: Identity::Stored { etag, modified: None, told_at: None }, number: None }
}

fn etag_of(object: &LeaseObject) -> String {
    let Identity::Stored { etag, .. } = object.identity else {
        unreachable!("BUG: an object of a bucket has an ETag")
    };
    etag.as_str().to_owned()
}

impl Leases for S3Replica {
    fn check_leases(&self) -> Result<()> {
        self.check_conditions()
    }

    fn read_lease(&self) -> Result<Option<LeaseObject>> {
        let key = self.lease_key();
        let answer = match self.store.get_whole(&key) {
            // A bucket that is missing is another matter, and shows in the first put.
            Err(error) if error.kind() == Kind::NotFound => return Ok(None),
            other => other?,
        };
        let etag = etag(answer.header("etag").unwrap_or_default(), &self.store, &key)?;
        let mut bytes = Vec::new();
        let read = answer.into_reader().take(LEASE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes);
        read.map_err(|e| Error::new(Kind::Io, format!("cannot read {}/{key}: {e}", self.store)))?;
        Ok(Some(object(bytes, etag)))
    }

    fn create_lease(&self, bytes: &[u8]) -> Result<LeaseObject> {
        self.put_lease(("if-none-match", "*".to_owned()), bytes)
    }

    fn replace_lease(&self, old: &LeaseObject, bytes: &[u8]) -> Result<LeaseObject> {
        self.put_lease(("if-match", etag_of(old)), bytes)
    }

    fn remove_lease(&self, old: &LeaseObject) -> Result<()> {
        let key = self.lease_key();
        let conflict = || Error::conflict(format!("{}/{key} holds another lease than was read", self.store));
        // The look is for stores that delete whatever the condition says.
        match self.read_lease()? {
            None => return Ok(()),
            Some(found) if !found.same_object(old) => return Err(conflict()),
            Some(_) => {}
        }
        match self.store.delete(&key, &etag_of(old)) {
            Err(error) if error.kind() == Kind::NotFound => Ok(()),
            Err(error) if error.kind() == Kind::Exists => match self.read_lease()? {
                None => Ok(()),
                Some(_) => Err(conflict()),
            },
            other => other,
        }
    }
}

impl super::store::Store {
    /// Whether a put in place of another object than the one named is refused, if that was tried.
    fn replaces_known(&self) -> Option<bool> {
        self.session.replaces.lock().get(&self.place()).copied()
    }

    /// Tries it out.
    fn try_replaces(&self, prefix: &str) -> Result<bool> {
        let key = format!("{prefix}/probe-{:x}-{:x}-lease", std::process::id(), clock::machine_ns());
        let first = self.put(&key, Payload::Bytes(b"first"), vec![("if-none-match", "*".to_owned())])?;
        let tag = etag(first.header("etag").unwrap_or_default(), self, &key)?;
        let put = |tag: &str, body: &[u8]| match self.put(
            &key,
            Payload::Bytes(body),
            vec![("if-match", tag.to_owned())],
        ) {
            Err(error) if error.kind() == Kind::Exists => Ok(None),
            other => other.map(|answer| answer.header("etag").map(str::to_owned)),
        };
        let second = put(tag.as_str(), b"second")?;
        // The ETag of the first object: one that the store has given, and not that of what is there.
        let keeps = second.is_some() && put(tag.as_str(), b"third")?.is_none();
        let left = self.head(&key)?.and_then(|answer| answer.header("etag").map(str::to_owned));
        if let Some(left) = left {
            // Not being allowed to delete is no reason not to hold a lease.
            let _ = self.delete(&key, &left);
        }
        self.session.replaces.lock().insert(self.place(), keeps);
        Ok(keeps)
    }
}
