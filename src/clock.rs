//! The only reader of wall clock and deadlines.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::types::Timestamp;

/// Wall clock now, milliseconds since 1970. Used for labels only, never to order events.
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Timestamp(since.as_millis() as i64)
}

/// Wall clock as file systems stamp it (the kernel's coarse clock), nanoseconds since 1970.
pub fn coarse_now_ns() -> i128 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
    i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec)
}

/// Monotonic milliseconds since the first call in this process; for intervals and lags.
pub fn monotonic_ms() -> u64 {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_millis() as u64
}

/// Monotonic nanoseconds of this machine since it started: the same in every process.
pub fn machine_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// The moment this machine was started, nanoseconds since 1970, as the wall clock of now has it.
pub fn booted_ns() -> i128 {
    let pretended = PRETENDED_BOOT_NS.load(Ordering::Relaxed);
    if pretended != 0 {
        return i128::from(pretended);
    }
    let up = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    coarse_now_ns() - (i128::from(up.tv_sec) * 1_000_000_000 + i128::from(up.tv_nsec))
}

/// A seam of the tests: [`booted_ns`] answers this from now on.
pub fn pretend_boot(at_ns: i64) {
    PRETENDED_BOOT_NS.store(at_ns, Ordering::Relaxed);
}

static PRETENDED_BOOT_NS: AtomicI64 = AtomicI64::new(0);

/// A moment until which something may take.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Instant);

impl Deadline {
    pub fn after(duration: Duration) -> Deadline {
        // A century is "never"; adding Duration::MAX would overflow.
        Deadline(Instant::now() + duration.min(Duration::from_secs(3_155_760_000)))
    }

    pub fn passed(self) -> bool {
        Instant::now() >= self.0
    }

    pub fn instant(self) -> Instant {
        self.0
    }

    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }
}

/// Lets time pass between two tries of something that gives no event to wait on.
pub fn pause(duration: Duration) {
    std::thread::sleep(duration);
}

/// Half of the time for us, half for everybody else: what is long and can wait rests as long as it worked.
#[derive(Debug)]
pub struct Pace(Instant);

impl Pace {
    /// Longest rest, so that a stall of the disk is not doubled.
    const REST_MAX: Duration = Duration::from_millis(20);

    pub fn start() -> Pace {
        Pace(Instant::now())
    }

    /// Rests as long as it has been since the start or the last rest.
    pub fn rest(&mut self) {
        pause(self.0.elapsed().min(Pace::REST_MAX));
        self.0 = Instant::now();
    }
}
