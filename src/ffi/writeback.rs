//! A hint to the system: begin to write a part of a file to the disk, and do not wait.

use std::fs::File;
use std::os::fd::AsRawFd;

/// What is dirty in these bytes starts its way to the disk. Nothing is known of its arrival, and a refusal costs speed only.
pub fn begin(file: &File, offset: u64, bytes: u64) {
    #[cfg(target_os = "linux")]
    if let (Ok(offset), Ok(bytes)) = (offset.try_into(), bytes.try_into()) {
        // SAFETY: sync_file_range(2) on a descriptor that lives as long as `file`.
        unsafe { libc::sync_file_range(file.as_raw_fd(), offset, bytes, libc::SYNC_FILE_RANGE_WRITE) };
    }
}
