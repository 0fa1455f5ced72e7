//! Replication for SQLite inside the process. `docs/architecture.md` draws the rooms.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod catalog;
pub mod config;
pub mod error;
pub mod ffi;
pub mod fs;
pub mod ltx;
pub mod replica;
#[cfg(test)]
pub(crate) mod testing;
pub mod types;
