//! Tests that cross rooms, and the one that reads them all.

mod tidy;
mod vfs_contract;
