//! The one owner of what makes bytes last: fsync, names that appear whole, folders.

pub mod durable;
