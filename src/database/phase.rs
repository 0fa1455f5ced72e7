//! How it stands with a database: whether its position is proven, why it ended, and what there is to say of it.
//!
//! ```text
//! Live --a change may have been missed--> Cold --healed by difference--> Live
//! Live, Cold --a create was lost--> Fenced --rejoined--> Cold
//! Live, Cold --not ours | our bug--> Refused | Halted, for good
//! ```

use std::ops::{Deref, DerefMut};
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::followed::Database;
use crate::capture::Phase;
use crate::error::Result;
use crate::lock::MutexGuard;
use crate::status::Notices;

/// What there is to say of the database and its home replica, as long as this lives.
pub(super) struct HomeNotices<'a>(MutexGuard<'a, Vec<Notices>>);

impl Deref for HomeNotices<'_> {
    type Target = Notices;
    fn deref(&self) -> &Notices {
        &self.0[0]
    }
}

impl DerefMut for HomeNotices<'_> {
    fn deref_mut(&mut self) -> &mut Notices {
        &mut self.0[0]
    }
}

impl Database {
    pub fn phase(&self) -> Phase {
        *self.phase.lock()
    }

    pub(super) fn notices(&self) -> HomeNotices<'_> {
        HomeNotices(self.notices.lock())
    }

    pub(super) fn home_succeeded(&self) {
        self.notices().succeeded();
    }

    /// Records what an attempt at a copy came to; the pause before the next one if it failed.
    pub(super) fn copy_tried(&self, index: usize, outcome: Result<()>) -> Option<Duration> {
        let notices = &mut self.notices.lock()[index];
        match outcome {
            Ok(()) => {
                notices.succeeded();
                None
            }
            Err(error) => Some(notices.failed(&error)),
        }
    }

    /// Every page was noted, because something may have changed unseen. While that is being healed, a second reason
    /// is no news.
    pub fn went_cold(&self, why: &str) {
        let was_live = self.enter_cold();
        if was_live {
            self.notices().event(format!("healing by difference: {why}"));
        }
    }

    /// Something of ours makes it compare pages: the home replica was emptied, or the database was overwritten with its head.
    pub(super) fn cold_by_event(&self, event: &str) {
        self.enter_cold();
        self.notices().event(event);
    }

    fn enter_cold(&self) -> bool {
        let mut phase = self.phase.lock();
        let was_live = *phase == Phase::Live;
        if was_live {
            *phase = Phase::Cold;
        }
        was_live
    }

    pub(super) fn healed(&self) {
        let mut phase = self.phase.lock();
        if *phase == Phase::Cold {
            *phase = Phase::Live;
        }
    }

    /// A panic was caught in a hook of one of the files.
    pub fn halt(&self, text: &str) {
        let why = format!("replication halted by a bug: {text}; the database itself is not affected");
        self.end(Phase::Halted, &why);
    }

    /// Another writer owns the history. `how`: what can be done about it.
    pub(super) fn fence(&self, why: &str, how: Option<&str>) {
        let why = how.map_or_else(|| why.to_owned(), |how| format!("{why}; {how}"));
        self.end(Phase::Fenced, &why);
    }

    /// The count of rejoins when it was fenced: another one means that the fence is gone.
    pub(super) fn fenced_at(&self) -> u64 {
        self.fenced_at.load(Ordering::SeqCst)
    }

    /// It is at the end of the history of who fenced it; every page is to be compared. `false`: that was known.
    pub(super) fn revive(&self, event: &str) -> bool {
        let mut phase = self.phase.lock();
        if *phase != Phase::Fenced {
            return false;
        }
        *phase = Phase::Cold;
        drop(phase);
        self.noted.note_all();
        {
            let mut notices = self.notices();
            notices.last_error = None;
            notices.last_error_at = None;
            notices.event(event);
        }
        self.runs.stays_fenced.store(false, Ordering::Relaxed);
        self.tickets.revive();
        true
    }

    /// One of the three ends. The application goes on; nothing more is captured.
    pub fn end(&self, phase: Phase, why: &str) {
        self.fenced_at.store(self.state.rejoined(), Ordering::SeqCst);
        *self.phase.lock() = phase;
        self.notices().error(why);
        self.tickets.end(why);
    }
}
