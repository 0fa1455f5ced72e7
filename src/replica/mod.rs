//! Where LTX files are stored: list, open, create if absent, look at one name, delete; and the lease beside them.

pub mod client;
#[cfg(test)]
mod conformance;
pub mod file;
mod folder_lease;
pub mod indexed;
pub mod layout;
#[cfg(test)]
mod lease_conformance;
pub mod leases;
pub mod objects;
pub mod s3;

pub use client::{Client, ReadSeek, check_range, describe, open_decoder};
pub use file::FileReplica;
pub use indexed::Indexed;
pub use leases::{LEASE_BYTES_MAX, LeaseObject, Leases};
pub use objects::{ObjectInfo, Objects};
pub use s3::S3Replica;
