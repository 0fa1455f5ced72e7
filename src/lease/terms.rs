//! How long a lease lives, and what follows from that.
//!
//! ```text
//! asked                 life/3                     life - allowance     life          life + allowance
//! |---------------------|--------------------------|--------------------|-------------|
//! held                  renewed from here on       no more writes       its end       others may take it over
//! ```
//!
//! The allowance is for clocks that differ: a tenth of the life, at least a second. The holder counts from before it asked,
//! by the wall clock and by one that is never set, and stops at whichever comes first; who takes over counts from the end
//! in the object. So two clocks may differ by twice the allowance before two hold one lease. Whoever holds it beyond that
//! loses a create: the history needs no clock.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::types::Timestamp;

/// As Litestream has it.
pub const LIFE_DEFAULT: Duration = Duration::from_secs(30);
const LIFE_MIN: Duration = Duration::from_secs(3);
const LIFE_MAX: Duration = Duration::from_secs(24 * 3600);
const ALLOWANCE_MIN: Duration = Duration::from_secs(1);

/// Two clocks at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// That others see, and that may be set.
    pub wall: Timestamp,
    /// Milliseconds that only go forward; may stand still while the machine sleeps.
    pub steady_ms: u64,
}

impl Now {
    fn wall_after(self, duration: Duration) -> Timestamp {
        Timestamp(self.wall.0.saturating_add(duration.as_millis() as i64))
    }
}

/// A moment by both clocks; it has come when it has come by either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Until {
    pub wall: Timestamp,
    pub steady_ms: u64,
}

impl Until {
    /// Never.
    pub const NEVER: Until = Until { wall: Timestamp(i64::MAX), steady_ms: u64::MAX };

    pub fn has_come(self, now: Now) -> bool {
        now.wall >= self.wall || now.steady_ms >= self.steady_ms
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    life: Duration,
}

impl Default for Terms {
    fn default() -> Terms {
        Terms { life: LIFE_DEFAULT }
    }
}

impl Terms {
    /// # Errors
    /// `Invalid` for a life that is too short to be renewed in time, or longer than anybody would wait.
    pub fn new(life: Duration) -> Result<Terms> {
        if !(LIFE_MIN..=LIFE_MAX).contains(&life) {
            return Err(Error::invalid(format!(
                "a lease of {} ms cannot be: allowed are {} s to {} h",
                life.as_millis(),
                LIFE_MIN.as_secs(),
                LIFE_MAX.as_secs() / 3600
            )));
        }
        Ok(Terms { life })
    }

    /// For clocks that differ.
    pub fn allowance(self) -> Duration {
        (self.life / 10).max(ALLOWANCE_MIN)
    }

    /// The end of a lease that is asked for now.
    pub fn expiry(self, asked: Now) -> Timestamp {
        asked.wall_after(self.life)
    }

    /// From when on nothing is written any more under a lease that was asked for then.
    pub fn until(self, asked: Now) -> Until {
        let held = self.life - self.allowance();
        Until { wall: asked.wall_after(held), steady_ms: asked.steady_ms + held.as_millis() as u64 }
    }

    /// From when on it is renewed, by the steady clock.
    pub fn renewal_ms(self, asked: Now) -> u64 {
        asked.steady_ms + (self.life / 3).as_millis() as u64
    }

    /// Pause before a renewal that failed is tried again.
    pub fn retry(self) -> Duration {
        self.life / 30
    }

    /// When somebody else's lease may be taken over.
    pub fn takeover(self, expires_at: Timestamp) -> Timestamp {
        Timestamp(expires_at.0.saturating_add(self.allowance().as_millis() as i64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_stops_before_others_may_begin_however_long_it_lives() {
        for seconds in [3, 5, 10, 30, 86_400] {
            let terms = Terms::new(Duration::from_secs(seconds)).unwrap();
            let asked = Now { wall: Timestamp(1_700_000_000_000), steady_ms: 5 };
            let (renewal_ms, until) = (terms.renewal_ms(asked), terms.until(asked));
            let (end, takeover) = (terms.expiry(asked), terms.takeover(terms.expiry(asked)));
            assert!(renewal_ms < until.steady_ms && until.wall < end && end < takeover, "{seconds} s");
            let allowance = (takeover.0 - end.0).min(end.0 - until.wall.0);
            assert!(allowance >= 1000 && allowance * 10 >= seconds as i64 * 1000, "{seconds} s: {allowance}");
            let retries = (until.steady_ms - renewal_ms) / terms.retry().as_millis() as u64;
            assert!(retries >= 5, "{seconds} s: {retries} tries");
        }
    }

    #[test]
    fn a_life_has_bounds() {
        for life in [Duration::ZERO, Duration::from_millis(2999), Duration::from_secs(86_401)] {
            assert!(Terms::new(life).is_err(), "{life:?}");
        }
    }

    #[test]
    fn a_moment_has_come_by_either_clock() {
        let until = Until { wall: Timestamp(100), steady_ms: 50 };
        let now = |wall, steady_ms| Now { wall: Timestamp(wall), steady_ms };
        assert!(!until.has_come(now(99, 49)));
        assert!(until.has_come(now(100, 0)) && until.has_come(now(0, 50)));
        assert!(!Until::NEVER.has_come(now(i64::MAX - 1, u64::MAX - 1)));
    }
}
