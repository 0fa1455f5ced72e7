//! Counts of the calls that reach the VFS: for the test that proves that SQLite's own suite went through it, and for
//! tests of a process that is killed at one exact call.
//!
//! Off unless [`write_at_exit`] or [`kill_at`] was called. The first appends one line `method count` per method to
//! its file; the second kills the process before that call on a file we follow.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::os;

macro_rules! methods {
    ($($name:ident)*) => {
        /// A method of the VFS or of a file it wraps; a panic of ours is counted with them.
        #[derive(Clone, Copy)]
        #[allow(clippy::enum_variant_names)] // SQLite's names
        pub(super) enum Method { $($name,)* }
        const NAMES: &[&str] = &[$(stringify!($name),)*];
    };
}

methods! {
    Open Delete Access FullPathname DlOpen DlError DlSym DlClose Randomness Sleep CurrentTime GetLastError
    CurrentTimeInt64 SetSystemCall GetSystemCall NextSystemCall Panic
    Close Read Write Truncate Sync FileSize Lock Unlock CheckReservedLock FileControl SectorSize
    DeviceCharacteristics ShmMap ShmLock ShmBarrier ShmUnmap Fetch Unfetch
}

static ON: AtomicBool = AtomicBool::new(false);
static COUNTS: [AtomicU64; NAMES.len()] = [const { AtomicU64::new(0) }; NAMES.len()];
static FILE: OnceLock<PathBuf> = OnceLock::new();
/// Calls on files until the process is killed; 0: never.
static KILL_IN: AtomicU64 = AtomicU64::new(0);

pub(super) fn count(method: Method) {
    if ON.load(Ordering::Relaxed) {
        counted(method);
    }
}

#[cold]
fn counted(method: Method) {
    COUNTS[method as usize].fetch_add(1, Ordering::Relaxed);
    let on_file = method as usize >= Method::Close as usize;
    if on_file && KILL_IN.load(Ordering::Relaxed) > 0 && KILL_IN.fetch_sub(1, Ordering::Relaxed) == 1 {
        os::kill_self();
    }
}

/// Kills this process before the `calls`th call from now on a file we follow; 0: never.
pub(super) fn kill_at(calls: u64) {
    KILL_IN.store(calls, Ordering::Relaxed);
    ON.store(true, Ordering::Relaxed);
}

/// From now on counts, and appends the counts to `file` when the process ends. Only the first call counts.
pub(super) fn write_at_exit(file: PathBuf) {
    if FILE.set(file).is_ok() {
        ON.store(true, Ordering::Relaxed);
        os::at_exit(append);
    }
}

fn append() {
    let Some(path) = FILE.get() else { return };
    let mut text = String::new();
    for (name, count) in NAMES.iter().zip(&COUNTS) {
        let count = count.load(Ordering::Relaxed);
        if count > 0 {
            let _ = writeln!(text, "x{name} {count}");
        }
    }
    // One write, so that processes ending together do not mix their lines; a failure shows as a count of 0.
    let _ = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()));
}
