//! The look at what programs without the extension may have committed to an open database.
//!
//! ```text
//! since the last change      up to 10 s      up to a minute      longer
//! a look every               0.5 s           1 s                 4 s; 1 s where all writers are other programs
//! ```
//!
//! It must cost nothing where nothing happens, a thousand times over: of a WAL three words of shared memory are compared,
//! of a file at rest its times; and the longer nothing has happened, the more looks are left out. Commits of this process and
//! of others with the extension wait for no look.

use std::sync::Arc;
use std::time::Instant;

use super::followed::Database;
use super::shm_wal::ShmWal;
use crate::fs::FileStat;

/// How many looks without a change, at the worker's pace of two a second, come before each slower pace, and of how many one
/// is taken then.
const QUIET: [(u32, u32); 2] = [(20, 2), (120, 8)];

/// Whether the look number `quiet` since the last change is taken. `is_sidecar`: nobody of this process writes, so what is
/// late here is late in the replica.
fn is_taken(quiet: u32, is_sidecar: bool) -> bool {
    let [slower, slowest] = QUIET;
    let one_of = match quiet {
        _ if quiet <= slower.0 => 1,
        _ if quiet <= slowest.0 || is_sidecar => slower.1,
        _ => slowest.1,
    };
    quiet.is_multiple_of(one_of)
}

/// What the last look saw. That it is the same proves nothing; a change is worth a run.
#[derive(Default)]
pub struct Polled {
    file: Option<FileStat>,
    /// Salts and last frame.
    wal: Option<(u32, u32, u32)>,
    /// Looks since the last change.
    quiet: u32,
}

impl Polled {
    pub fn at(file: Option<FileStat>) -> Polled {
        Polled { file, ..Polled::default() }
    }
}

impl Database {
    /// Looks if it is time to, and schedules a run if there is something to do.
    pub fn poll(self: &Arc<Self>, is_sidecar: bool) {
        let quiet = {
            let mut polled = self.polled.lock();
            polled.quiet = polled.quiet.wrapping_add(1);
            polled.quiet
        };
        if !is_taken(quiet, is_sidecar) || self.is_due() || self.connections.is_empty() {
            return;
        }
        self.notice_rejoin();
        if self.is_to_rejoin() {
            self.schedule(Instant::now(), false);
            return;
        }
        let changed = match self.connections.mapped() {
            Some(wal) => self.wal_changed(&wal),
            None => self.file_changed(),
        };
        if changed || !self.noted.is_empty() {
            self.polled.lock().quiet = 0;
            self.committed();
        }
    }

    fn wal_changed(&self, wal: &ShmWal) -> bool {
        let mut polled = self.polled.lock();
        let seen = wal.glance();
        if polled.wal == seen {
            return false;
        }
        polled.quiet = 0;
        let noted = self.notes.note(wal, &self.state, &self.noted);
        polled.wal = noted.and(seen);
        noted.is_some_and(|noted| noted.went_cold)
    }

    fn file_changed(&self) -> bool {
        let now = FileStat::of(&self.path).ok();
        let mut polled = self.polled.lock();
        if polled.file == now {
            return false;
        }
        polled.file = now;
        polled.quiet = 0;
        drop(polled);
        !self.is_at_rest()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks that pass between one that is taken and the next, after `quiet` of them without a change.
    fn pause(quiet: u32, is_sidecar: bool) -> u32 {
        let mut taken = (quiet..).filter(|&look| is_taken(look, is_sidecar));
        let first = taken.next().unwrap();
        taken.next().unwrap() - first
    }

    #[test]
    fn the_pace_slows_with_quiet_and_has_a_bound() {
        let cases = [(1, 1, 1), (19, 1, 1), (20, 2, 2), (118, 2, 2), (121, 8, 2), (1_000_000, 8, 2)];
        for (quiet, with_extension, sidecar) in cases {
            assert_eq!(pause(quiet, false), with_extension, "after {quiet} looks");
            assert_eq!(pause(quiet, true), sidecar, "after {quiet} looks of a sidecar");
        }
        for is_sidecar in [false, true] {
            let bound = if is_sidecar { 2 } else { 8 };
            assert!((1..10_000).all(|quiet| pause(quiet, is_sidecar) <= bound));
        }
    }
}
