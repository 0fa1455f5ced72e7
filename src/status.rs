//! What anyone may record of a database and its replicas, and the doors show.

use std::time::Duration;

use crate::clock;
use crate::error::{Error, Kind};
use crate::types::Timestamp;

/// Errors and events of one database or replica, newest only.
#[derive(Clone, Debug, Default)]
pub struct Notices {
    pub last_error: Option<String>,
    pub last_error_at: Option<Timestamp>,
    pub last_event: Option<String>,
    /// Attempts that failed and were tried again.
    pub retries: u64,
    /// Failures since the last success.
    streak: u32,
}

/// First and longest pause after failures of a kind; each further one doubles it. The longest is what a replica that came
/// back may cost in lag.
fn backoff(kind: Kind) -> (Duration, Duration) {
    let (first, longest) = match kind {
        // The store asks for it.
        Kind::Busy | Kind::Conflict => (400, 10_000),
        // Somebody must mend something first.
        Kind::Invalid | Kind::NotFound | Kind::Full => (200, 10_000),
        _ => (50, 5_000),
    };
    (Duration::from_millis(first), Duration::from_millis(longest))
}

/// Between three quarters and five quarters of it: what failed together is not tried again together.
fn jittered(pause: Duration) -> Duration {
    let dice = clock::machine_ns().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54;
    pause.mul_f64(0.75 + dice as f64 / 2048.0)
}

impl Notices {
    /// Records a failure that will be tried again, and says after what pause.
    pub fn failed(&mut self, error: &Error) -> Duration {
        self.error(error.to_string());
        self.retries += 1;
        self.streak += 1;
        let (first, longest) = backoff(error.kind());
        jittered(first.saturating_mul(1 << (self.streak - 1).min(10)).min(longest))
    }

    pub fn error(&mut self, text: impl Into<String>) {
        self.last_error = Some(text.into());
        self.last_error_at = Some(clock::now());
    }

    /// The last attempt went well.
    pub fn succeeded(&mut self) {
        self.streak = 0;
    }

    pub fn is_failing(&self) -> bool {
        self.streak > 0
    }

    pub fn event(&mut self, text: impl Into<String>) {
        self.last_event = Some(text.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound_and_start_over_after_success() {
        let near = |pause: Duration, ms: u64| {
            let ms = Duration::from_millis(ms);
            assert!((ms.mul_f64(0.75)..=ms.mul_f64(1.25)).contains(&pause), "{pause:?} for {ms:?}");
        };
        let mut notices = Notices::default();
        for ms in [50, 100, 200, 400, 800, 1600, 3200, 5000, 5000] {
            near(notices.failed(&Error::new(Kind::Io, "x")), ms);
        }
        notices.succeeded();
        near(notices.failed(&Error::new(Kind::Io, "x")), 50);
        assert_eq!(notices.retries, 10);
    }

    #[test]
    fn store_that_asks_for_less_gets_longer_pauses() {
        let mut notices = Notices::default();
        let busy: Duration = (0..4).map(|_| notices.failed(&Error::busy("slow down"))).sum();
        notices.succeeded();
        let lost: Duration = (0..4).map(|_| notices.failed(&Error::new(Kind::Io, "reset"))).sum();
        assert!(busy > lost * 4, "{busy:?} {lost:?}");
    }

    #[test]
    fn what_failed_together_is_not_tried_again_together() {
        let pauses: std::collections::HashSet<_> =
            (0..50).map(|_| Notices::default().failed(&Error::busy("x"))).collect();
        assert!(pauses.len() > 10, "{pauses:?}");
    }
}
