//! One replica's upkeep: does what is due, and says when something will be.
//!
//! ```text
//! listing of all levels --> merges, the lowest level first --> a snapshot --> retention --> next time, if any
//! ```
//!
//! It keeps nothing in mind but what a fresh listing says, so that a keeper that dies, or two at once, do no harm; and it
//! comes to an end: when everything is merged, in a snapshot, and let go, there is nothing due until something is written.
//!
//! Times: ticks of merges are compared with when a file was made, ages with when the store took it (`retention`).

use std::path::Path;
use std::time::Duration;

use super::from_database::{self, Ask, Made};
use super::levels::{Levels, Rung, next_tick, tick};
use super::merge::{Copy, Sources};
use super::retention::{Policy, expired, next_expiry, stored_at};
use super::{due, merge};
use crate::error::{Kind, Result};
use crate::replica::Client;
#[cfg(test)]
use crate::testing::mutation::{self, Mutation};
use crate::types::{FileInfo, Identity, Level, Timestamp, Txid};

/// Retention looks at most as often; what has come of age meanwhile goes together.
const EXPIRY_PACE: Duration = Duration::from_secs(15);

pub struct Keeper<'a> {
    pub client: &'a dyn Client,
    /// Asked for a copy of a stored level-0 file, acknowledged as it is.
    pub copy: &'a Copy<'a>,
    pub levels: &'a Levels,
    pub policy: Policy,
    /// A folder for what is not finished, on a disk with room for it.
    pub scratch: &'a Path,
    /// Asked for the database itself when a snapshot is due.
    pub database: &'a Ask<'a>,
    /// Asked between two steps.
    pub must_stop: &'a dyn Fn() -> bool,
}

/// What one run did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    pub created: usize,
    pub deleted: usize,
    /// Level-0 files up to here are in a higher level.
    pub merged: Option<Txid>,
    /// When there is something to do if nothing is written until then.
    pub next: Option<Timestamp>,
}

impl Keeper<'_> {
    /// Does what is due at `now` of the local clock; `newest` is the last acknowledged txid.
    ///
    /// # Errors
    /// As [`merge::climb`] and [`merge::snapshot_to`]; as the store says. What was done before stays.
    pub fn run(&self, newest: Txid, now: Timestamp) -> Result<Done> {
        let mut done = Done::default();
        let mut listing = self.client.list_all()?;
        let store_now = self.store_now(&listing)?;
        for rung in self.levels.rungs() {
            while !(self.must_stop)() && self.climb(&mut listing, rung, newest, now)? {
                done.created += 1;
            }
        }
        if !(self.must_stop)()
            && self.wants_snapshot(&listing, newest, now)
            && let Some(made) = self.snapshot(newest)?
        {
            listing.push(made);
            done.created += 1;
        }
        let expires = |store_now: &Timestamp| !expired(&listing, self.policy, *store_now).is_empty();
        if let Some(store_now) = store_now.filter(expires) {
            // What was just made counts only when it is listed.
            #[allow(unused_mut)]
            let mut gone = expired(&self.client.list_all()?, self.policy, store_now);
            #[cfg(test)]
            if mutation::is(Mutation::NewestDeletedFirst) {
                gone.reverse();
            }
            for file in gone {
                if (self.must_stop)() {
                    break;
                }
                self.client.delete(&file)?;
                listing.retain(|other| !other.same_object(&file));
                done.deleted += 1;
            }
        }
        let rungs = self.levels.rungs();
        done.merged = rungs.first().and_then(|rung| Txid::new(due::end_of(&listing, rung.level)));
        done.next = self.next(&listing, newest, now, store_now);
        Ok(done)
    }

    fn climb(&self, listing: &mut Vec<FileInfo>, rung: Rung, newest: Txid, now: Timestamp) -> Result<bool> {
        let sources = Sources { client: self.client, copy: self.copy };
        match merge::climb(&sources, listing, rung, newest, now, self.scratch) {
            // A copy that is not what was sent: the store has what was.
            Err(error) if error.kind() == Kind::Corrupt => {
                let sources = Sources { client: self.client, copy: &|_| None };
                merge::climb(&sources, listing, rung, newest, now, self.scratch)
            }
            other => other,
        }
    }

    /// `None`: it had to stop.
    fn snapshot(&self, newest: Txid) -> Result<Option<FileInfo>> {
        let database = (self.database)()?.filter(|database| database.at.position.txid >= newest);
        if let Some(database) = database {
            match from_database::snapshot(self.client, database, self.scratch, self.must_stop) {
                Ok(Made::File(made)) => return Ok(Some(made)),
                Ok(Made::Stopped) => return Ok(None),
                // Merging reads everything, and tells what is wrong.
                Ok(Made::NotThisWay) => {}
                Err(error) if error.kind() == Kind::Corrupt => {}
                Err(error) => return Err(error),
            }
        }
        merge::snapshot_to(self.client, self.client, newest, self.scratch).map(Some)
    }

    /// The store's clock; `None`: it did not tell.
    fn store_now(&self, listing: &[FileInfo]) -> Result<Option<Timestamp>> {
        let told = |file: &FileInfo| match file.identity {
            Identity::Stored { told_at, .. } => told_at,
            Identity::File { .. } => None,
        };
        match listing.iter().filter_map(told).max() {
            None => self.client.now(),
            told => Ok(told),
        }
    }

    fn wants_snapshot(&self, listing: &[FileInfo], newest: Txid, now: Timestamp) -> bool {
        let last = last_snapshot(listing);
        let is_new = last.is_none_or(|last| last.range.max < newest);
        // Of the first one nothing says when it is due but the file that everything begins with.
        let since = last.or_else(|| listing.iter().find(|f| f.range.min == Txid::FIRST));
        let begun = since.and_then(|f| stored_at(f).or(Some(f.created_at)));
        is_new && begun.is_some_and(|at| at < tick(now, self.levels.snapshot))
    }

    fn next(
        &self,
        listing: &[FileInfo],
        newest: Txid,
        now: Timestamp,
        store_now: Option<Timestamp>,
    ) -> Option<Timestamp> {
        let mut next: Vec<Timestamp> = Vec::new();
        for rung in self.levels.rungs() {
            let end = due::end_of(listing, rung.level);
            let is_behind =
                |f: &&FileInfo| f.level == rung.source && f.range.max.get() > end && f.range.max <= newest;
            if listing.iter().any(|f| is_behind(&f)) {
                next.push(next_tick(now, rung.interval));
            }
        }
        if last_snapshot(listing).is_none_or(|last| last.range.max < newest) {
            next.push(next_tick(now, self.levels.snapshot));
        }
        if let Some(store_now) = store_now
            && let Some(expiry) = next_expiry(listing, self.policy, store_now)
        {
            let pace = EXPIRY_PACE.min(self.policy.l0.max(Duration::from_millis(1))).as_millis() as i64;
            next.push(Timestamp(now.0 + (expiry.0 - store_now.0).max(pace)));
        }
        next.into_iter().min()
    }
}

fn last_snapshot(listing: &[FileInfo]) -> Option<&FileInfo> {
    listing.iter().filter(|f| f.level == Level::SNAPSHOT).max_by_key(|f| f.range.max)
}
