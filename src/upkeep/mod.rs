//! What keeps a replica small: merging by levels, snapshots, retention.
//!
//! ```text
//! level 0   as captured            |-|-|-|-|-|-|-|-|-|      goes when merged and old enough, oldest first
//! level 1   every 30 s             |-----|-----|-----|      within the window: each moment stays restorable
//! level 2   every 5 min            |-----------|
//! level 3   every hour             ...
//! level 9   snapshots, every 24 h  |---------------- - -    the newest that is as old as the window stays, with all after it
//! ```
//!
//! [`due`] and [`retention`] decide from a listing alone, without I/O; [`merge`] makes files, [`from_database`] snapshots without reading
//! the replica; [`keeper`] does what is due.
//!
//! Promises: a merged file is made only from what was listed, up to a txid that is acknowledged; it appears whole, under a
//! name that was free. Nothing is deleted that a listed chain of higher levels does not replace. Killed at any step, a
//! replica restores to every state that it did before, but for those that retention lets go.
//! Source: the levels and ticks of Litestream 0.5.

pub mod due;
pub mod from_database;
pub mod keeper;
pub mod levels;
pub mod merge;
pub mod retention;
#[cfg(test)]
mod sample;
mod source;
#[cfg(test)]
mod tests;

pub use from_database::DatabaseAt;
pub use keeper::Keeper;
pub use levels::Levels;
pub use merge::snapshot_to;
pub use retention::Policy;
