//! Replication for SQLite inside the process. `docs/architecture.md` draws the rooms.
#![cfg_attr(test, allow(clippy::unwrap_used))]


#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod config;
pub mod error;
pub mod ffi;
pub mod ltx;
pub mod types;
