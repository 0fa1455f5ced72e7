//! One committer goes first, so that SQLite's checkpoint can catch up with the WAL.
//!
//! ```text
//! acknowledged together -> the first returns, and SQLite runs its checkpoint for it       the WAL is all in the file
//!                       -> the others wait for its end, without read mark and lock   ->   the next one starts it over
//! ```
//!
//! Only where many wait for a replica and the WAL is long. If nothing comes of it (no checkpoint begins, or other
//! connections commit meanwhile), it is tried again when the WAL has grown.

use std::time::{Duration, Instant};

use crate::lock::{Condvar, Mutex};

/// Frames from which on the WAL is long: SQLite's own checkpoint size.
pub const FRAMES_LONG: u32 = 1000;
/// Frames more before another try when a checkpoint did not lead to a new start.
const FRAMES_MORE: u32 = 250;
/// How soon after a commit SQLite begins a checkpoint, if it is going to.
const BEGIN_MAX: Duration = Duration::from_millis(20);
/// Longest wait for a checkpoint.
const CHECKPOINT_MAX: Duration = Duration::from_millis(500);

#[derive(Debug, Default)]
struct Round {
    /// When the first went.
    since: Option<Instant>,
    has_begun: bool,
    /// Frames below which no round begins, until the WAL has started over.
    patience: u32,
    /// Rounds, one after the other, in which nobody began a checkpoint.
    idle: u32,
}

#[derive(Debug, Default)]
pub struct Turn {
    // Guards the round that is under way.
    round: Mutex<Round>,
    changed: Condvar,
}

impl Turn {
    /// Called by each who was let go. `frames`: of the WAL after its own commit.
    pub fn after_you(&self, frames: u32) {
        let mut round = self.round.lock();
        if frames <= FRAMES_LONG {
            round.patience = 0;
            return;
        }
        let Some(since) = round.since else {
            if frames >= round.patience {
                round.patience = frames + FRAMES_MORE;
                (round.since, round.has_begun) = (Some(Instant::now()), false);
            }
            return;
        };
        while round.since == Some(since) {
            let until = since + if round.has_begun { CHECKPOINT_MAX } else { BEGIN_MAX };
            let is_over = self.changed.wait_until(&mut round, until).timed_out() && !round.has_begun;
            if round.since == Some(since) && (is_over || since + CHECKPOINT_MAX <= Instant::now()) {
                // Perhaps nobody checkpoints here at all: ask less and less often.
                round.idle += u32::from(!round.has_begun);
                let more = FRAMES_MORE.saturating_mul(1 << round.idle.min(16));
                round.patience = round.patience.max(frames.saturating_add(more));
                round.since = None;
                self.changed.notify_all();
            }
        }
    }

    /// A checkpoint begins in this process.
    pub fn began(&self) {
        let mut round = self.round.lock();
        (round.has_begun, round.idle) = (true, 0);
    }

    /// A checkpoint has ended in this process.
    pub fn ended(&self) {
        let mut round = self.round.lock();
        if round.has_begun {
            round.since = None;
            self.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_wait_until_the_checkpoint_of_the_first_has_ended() {
        let turn = Turn::default();
        turn.after_you(FRAMES_LONG + 1);
        turn.began();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| turn.after_you(FRAMES_LONG + 2));
            turn.ended();
            waiting.join().unwrap();
        });
        turn.after_you(FRAMES_LONG + 3);
        assert!(turn.round.lock().since.is_none(), "not again before the WAL has grown");
        turn.after_you(FRAMES_LONG + 1 + FRAMES_MORE);
        assert!(turn.round.lock().since.is_some());
    }

    #[test]
    fn nobody_waits_for_a_checkpoint_that_does_not_begin() {
        let turn = Turn::default();
        let rounds = |frames: std::ops::Range<u32>| {
            let begun = frames.filter(|&frames| {
                turn.after_you(frames);
                let begun = turn.round.lock().since.is_some();
                turn.after_you(frames);
                begun
            });
            begun.count()
        };
        assert_eq!(rounds(FRAMES_LONG..40_000), 7, "at +500, +1000, +2000, ...");
    }

    #[test]
    fn short_wal_holds_nobody() {
        let turn = Turn::default();
        turn.after_you(FRAMES_LONG);
        assert!(turn.round.lock().since.is_none());
        turn.after_you(9000);
        turn.after_you(9000);
        turn.after_you(100);
        turn.after_you(FRAMES_LONG + 1);
        assert!(turn.round.lock().since.is_some(), "the WAL has started over");
    }
}
