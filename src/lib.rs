//! Replication for SQLite inside the process. `docs/architecture.md` draws the rooms.

pub mod error;
pub mod ffi;
pub mod types;
