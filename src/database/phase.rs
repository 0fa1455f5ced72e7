//! How it stands with a database: whether its position is proven, why it ended, and what there is to say of it.
//!
//! ```text
//! Live --a change may have been missed--> Cold --healed by difference--> Live
//! Live, Cold --a create was lost | not ours | our bug--> Fenced | Refused | Halted, for good
//! ```

use std::ops::{Deref, DerefMut};
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

    /// One of the three ends. The application goes on; nothing more is captured.
    pub fn end(&self, phase: Phase, why: &str) {
        *self.phase.lock() = phase;
        self.notices().error(why);
        self.tickets.end(why);
    }
}
