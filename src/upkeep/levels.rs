//! The levels that merge, how often, and the ticks of the wall clock at which they do.
//!
//! A tick is a multiple of the interval since 1970 in UTC, so that whoever keeps a replica ends its files at the same
//! moments: every hour on the hour, every 24 h at midnight.

use std::time::Duration;

use crate::types::{Level, Timestamp};

/// Levels that can merge, from 1.
pub const MERGED: usize = 3;

/// The intervals of a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Levels {
    /// Of the levels 1, 2 and 3; `None`: there is no such level.
    pub merged: [Option<Duration>; MERGED],
    pub snapshot: Duration,
}

/// A level that merges: from what, into what, how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rung {
    pub source: Level,
    pub level: Level,
    pub interval: Duration,
}

impl Levels {
    /// Each level that merges, the lowest first; its source is the next lower one that there is.
    pub fn rungs(&self) -> Vec<Rung> {
        let mut rungs: Vec<Rung> = Vec::new();
        for (index, interval) in self.merged.iter().enumerate() {
            if let Some(interval) = *interval {
                let source = rungs.last().map_or(Level::CAPTURED, |below| below.level);
                let level = Level::new(index as u8 + 1).expect("BUG: more levels than there are");
                rungs.push(Rung { source, level, interval });
            }
        }
        rungs
    }
}

/// The last tick at or before `now`.
pub fn tick(now: Timestamp, interval: Duration) -> Timestamp {
    let interval = ms(interval);
    Timestamp(now.0.div_euclid(interval) * interval)
}

/// The first tick after `now`.
pub fn next_tick(now: Timestamp, interval: Duration) -> Timestamp {
    Timestamp(tick(now, interval).0.saturating_add(ms(interval)))
}

/// At least one, as a divisor must be.
fn ms(interval: Duration) -> i64 {
    i64::try_from(interval.as_millis()).unwrap_or(i64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_takes_from_the_next_lower_one_that_there_is() {
        let seconds = |s| Some(Duration::from_secs(s));
        let rungs = |merged| {
            let levels = Levels { merged, snapshot: Duration::from_secs(86400) };
            levels.rungs().iter().map(|r| (r.source.get(), r.level.get())).collect::<Vec<_>>()
        };
        assert_eq!(rungs([seconds(30), seconds(300), seconds(3600)]), [(0, 1), (1, 2), (2, 3)]);
        assert_eq!(rungs([None, seconds(300), seconds(3600)]), [(0, 2), (2, 3)]);
        assert_eq!(rungs([seconds(30), None, seconds(3600)]), [(0, 1), (1, 3)]);
        assert_eq!(rungs([None, None, None]), []);
    }

    #[test]
    fn ticks_are_those_of_the_wall_clock() {
        let at = Timestamp::parse("2026-11-21T06:47:31.093Z").unwrap();
        let show = |t: Timestamp| t.to_string();
        assert_eq!(show(tick(at, Duration::from_secs(30))), "2026-11-21T06:47:30.000Z");
        assert_eq!(show(next_tick(at, Duration::from_secs(30))), "2026-11-21T06:48:00.000Z");
        assert_eq!(show(tick(at, Duration::from_secs(86400))), "2026-11-21T00:00:00.000Z");
        let on = tick(at, Duration::from_secs(3600));
        assert_eq!(
            (tick(on, Duration::from_secs(3600)), show(next_tick(on, Duration::from_secs(3600)))),
            (on, "2026-11-21T07:00:00.000Z".into())
        );
        assert_eq!(tick(Timestamp(-1), Duration::from_millis(10)), Timestamp(-10));
        assert_eq!(tick(Timestamp(5), Duration::ZERO), Timestamp(5), "no interval is a tick at every moment");
    }
}
