//! The one owner of what makes bytes last and keeps processes apart: fsync, names that appear whole, folders,
//! file locks, mappings.

pub mod durable;
pub mod lock;
mod stat;

use std::path::Path;

use crate::error::{Error, Result};

pub use crate::ffi::map::{Scratch, SharedMap};
pub use lock::LockFile;
pub use stat::FileStat;

/// Names the boot of this machine: what was not synced may be lost when it differs.
///
/// # Errors
/// `Io` where the kernel does not tell.
pub fn boot_id() -> Result<[u64; 2]> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let half = |range| digits.get(range).and_then(|d| u64::from_str_radix(d, 16).ok());
    half(0..16)
        .zip(half(16..32))
        .map(|(a, b)| [a, b])
        .ok_or_else(|| Error::corrupt(format!("{} does not hold a boot id", path.display())))
}

/// Whether a file is there and may not be written.
pub fn is_unwritable(path: &Path) -> bool {
    use rustix::fs::{Access, access};
    path.exists() && access(path, Access::WRITE_OK).is_err()
}
