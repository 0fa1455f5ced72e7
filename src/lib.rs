//! Replication for SQLite inside the process. `docs/architecture.md` draws the rooms.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod capture;
pub mod catalog;
#[cfg(feature = "program")]
pub mod cli;
pub mod clock;
pub mod config;
pub mod database;
pub mod doctor;
pub mod error;
pub mod extension;
pub mod ffi;
pub mod fs;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod lease;
pub mod legacy;
pub mod lock;
pub mod ltx;
#[cfg(test)]
mod protocol;
pub mod replica;
pub mod restore;
pub mod sql;
pub mod sqlite;
pub mod staging;
pub mod status;
#[cfg(any(test, fuzzing))]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
pub mod types;
pub mod upkeep;
pub mod upload;
pub mod verify;
pub mod vfs;
