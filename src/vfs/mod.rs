//! Safe VFS logic: what to observe, and where.

pub mod main_file;
pub mod shim;
pub mod wal_file;
