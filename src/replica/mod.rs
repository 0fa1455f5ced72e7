//! Where LTX files are stored: list, open, create if absent, look at one name, delete.

pub mod client;
#[cfg(test)]
mod conformance;
pub mod file;
pub mod layout;
pub mod objects;
pub mod s3;

pub use client::{Client, ReadSeek, check_range, describe, open_decoder};
pub use file::FileReplica;
pub use objects::{ObjectInfo, Objects};
pub use s3::S3Replica;
