//! The look, twice a second, at what programs without the extension may have committed to an open database.
//!
//! It must cost nothing where nothing happens, a thousand times over: of a WAL three words of shared memory are compared,
//! of a file at rest its times.

use std::sync::Arc;

use super::followed::Database;
use super::shm_wal::ShmWal;
use crate::fs::FileStat;

/// What the last look saw. That it is the same proves nothing; a change is worth a run.
#[derive(Default)]
pub struct Polled {
    file: Option<FileStat>,
    /// Salts and last frame.
    wal: Option<(u32, u32, u32)>,
}

impl Polled {
    pub fn at(file: Option<FileStat>) -> Polled {
        Polled { file, wal: None }
    }
}

impl Database {
    /// Looks, and schedules a run if there is something to do.
    pub fn poll(self: &Arc<Self>) {
        if self.is_due() || self.connections.is_empty() {
            return;
        }
        let changed = match self.connections.mapped() {
            Some(wal) => self.wal_changed(&wal),
            None => self.file_changed(),
        };
        if changed || !self.noted.is_empty() {
            self.committed();
        }
    }

    fn wal_changed(&self, wal: &ShmWal) -> bool {
        let mut polled = self.polled.lock();
        let seen = wal.glance();
        if polled.wal == seen {
            return false;
        }
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
