//! The look, twice a second, at what programs without the extension may have committed to an open database.
//!
//! It must cost nothing where nothing happens, a thousand times over: of a WAL three words of shared memory are compared,
//! of a file at rest its times; and where nothing has happened for long, every other look is left out.

use std::sync::Arc;

use super::followed::Database;
use super::shm_wal::ShmWal;
use crate::fs::FileStat;

/// Looks without a change after which every other one is left out.
const QUIET_LOOKS: u32 = 20;

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
    /// Looks, and schedules a run if there is something to do.
    pub fn poll(self: &Arc<Self>) {
        let quiet = {
            let mut polled = self.polled.lock();
            polled.quiet = polled.quiet.wrapping_add(1);
            polled.quiet
        };
        let is_left_out = quiet > QUIET_LOOKS && quiet % 2 == 1;
        if is_left_out || self.is_due() || self.connections.is_empty() {
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
        let before = std::mem::replace(&mut self.polled.lock().file, now.clone());
        before != now && !self.is_at_rest()
    }
}
