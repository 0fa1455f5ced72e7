//! The one object of a replica that is ever replaced: who may write ([`crate::lease`]). Each change names what it replaces.

use crate::error::Result;
use crate::types::Identity;

/// More than a lease has; what is larger is read up to here, and one byte more.
pub const LEASE_BYTES_MAX: usize = 64 << 10;

/// What was read or put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseObject {
    pub bytes: Vec<u8>,
    pub(super) identity: Identity,
    /// Of the put, where the store has a name for each.
    pub(super) number: Option<u64>,
}

#[cfg(test)]
impl LeaseObject {
    /// Of a store that is simulated.
    pub(crate) fn at(bytes: Vec<u8>, identity: Identity) -> LeaseObject {
        LeaseObject { bytes, identity, number: None }
    }

    pub(crate) fn identity(&self) -> Identity {
        self.identity
    }
}

impl LeaseObject {
    /// Whether it is this very object, not one like it.
    pub fn same_object(&self, other: &LeaseObject) -> bool {
        self.number == other.number && self.identity.same(&other.identity)
    }
}

/// The lease of a replica. After any other error than those named, a change may have been made, or may be yet: read back.
pub trait Leases {
    /// Whether the store keeps what is promised here, which may take trying it out.
    ///
    /// # Errors
    /// `Invalid` where it does not; else as the store refuses.
    fn check_leases(&self) -> Result<()>;

    /// What is there now.
    ///
    /// # Errors
    /// `NotFound` when the replica itself is gone; else as the store refuses.
    fn read_lease(&self) -> Result<Option<LeaseObject>>;

    /// Puts the first one.
    ///
    /// # Errors
    /// `Conflict` when there is one; `Invalid` where the store does not keep what is promised here.
    fn create_lease(&self, bytes: &[u8]) -> Result<LeaseObject>;

    /// Puts one in place of `old`. Of several that do so at once, one succeeds.
    ///
    /// # Errors
    /// `Conflict` when another one is there; `Invalid` as [`Leases::create_lease`].
    fn replace_lease(&self, old: &LeaseObject, bytes: &[u8]) -> Result<LeaseObject>;

    /// Removes exactly this one; one that is gone already is removed. Epochs begin anew after it, so it is for who
    /// removes the replica.
    ///
    /// # Errors
    /// `Conflict` when another one is there.
    fn remove_lease(&self, old: &LeaseObject) -> Result<()>;
}
