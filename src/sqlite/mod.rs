//! SQLite's own bytes: database header, WAL, wal-index. Pure: slices and readers in, values out.

pub mod header;
pub mod wal;
pub mod wal_index;
