//! Process-wide facts: forks, the end of the process, threads of ours inside somebody else's process.
//!
//! A forked child has our statics but none of our threads, and any lock may have been held at that moment.
//! So every object remembers the fork generation it was made in, and is left alone in any other.

use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

static GENERATION: AtomicU32 = AtomicU32::new(0);

/// How many forks lie between this process and the one that loaded us; the same number for a process's life.
#[must_use]
pub fn fork_generation() -> u32 {
    static REGISTERED: Once = Once::new();
    REGISTERED.call_once(|| {
        // SAFETY: pthread_atfork(3); the child handler is async-signal-safe, one atomic addition.
        unsafe { libc::pthread_atfork(None, None, Some(in_forked_child)) };
    });
    GENERATION.load(Ordering::Relaxed)
}

extern "C" fn in_forked_child() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
}
