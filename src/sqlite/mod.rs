//! SQLite's own bytes: database header, rollback journal, WAL, wal-index. Pure: slices and readers in, values out.

pub mod header;
pub mod journal;
pub mod wal;
pub mod wal_index;
