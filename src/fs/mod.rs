//! The one owner of what makes bytes last and keeps processes apart: fsync, names that appear whole, folders,
//! file locks, shared mappings.

pub mod durable;
pub mod lock;
mod stat;

pub use crate::ffi::map::SharedMap;
pub use lock::LockFile;
pub use stat::FileStat;
