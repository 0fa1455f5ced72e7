//! Objects of a store by name, for replicas that are not ours to write: layouts older than LTX.

use std::io::Read;

use crate::error::Result;
use crate::types::{Identity, Timestamp};

/// An object as it is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Below the replica's root, parts separated by `/`.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// When the store took it; of a file, its modification time.
    pub created_at: Timestamp,
    pub identity: Identity,
}

/// A store that can be read by name.
pub trait Objects {
    /// Every object in a folder of the replica and the folders below it, by name.
    ///
    /// # Errors
    /// `NotFound` when the replica itself is gone; a missing folder is an empty one.
    fn list_below(&self, folder: &str) -> Result<Vec<ObjectInfo>>;

    /// The bytes of exactly the object that was listed.
    ///
    /// # Errors
    /// `NotFound` when it is gone, `Conflict` when its name holds another object.
    fn read(&self, object: &ObjectInfo) -> Result<Box<dyn Read + Send>>;
}
