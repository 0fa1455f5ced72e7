//! Tests that cross rooms.

mod vfs_contract;
