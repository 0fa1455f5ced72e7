//! What anyone may record of a database and its replicas, and the doors show.

use std::time::Duration;

use crate::clock;
use crate::error::Error;
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

/// First pause after a failure; each further one doubles it.
const BACKOFF_FIRST: Duration = Duration::from_millis(50);
/// Longest pause: what a replica that came back may cost in lag.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

impl Notices {
    /// Records a failure that will be tried again, and says after what pause.
    pub fn failed(&mut self, error: &Error) -> Duration {
        self.error(error.to_string());
        self.retries += 1;
        self.streak += 1;
        BACKOFF_FIRST.saturating_mul(1 << (self.streak - 1).min(10)).min(BACKOFF_MAX)
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
        let mut notices = Notices::default();
        let pauses: Vec<_> = (0..9).map(|_| notices.failed(&Error::busy("x")).as_millis()).collect();
        assert_eq!(pauses, [50, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        notices.succeeded();
        assert_eq!(notices.failed(&Error::busy("x")), BACKOFF_FIRST);
        assert_eq!(notices.retries, 10);
    }
}
