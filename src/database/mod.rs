//! One object for each database file that this process follows, and the threads that serve them all.
//!
//! ```text
//! vfs::shim --connect--> Runtime (registry, worker) --> Database --- noted, state, notes, handoff   (shared with hooks)
//!                                                           |
//!              worker thread: Database::run --> Engine (behind one lock): collect, seal | send, acknowledge
//! ```
//!
//! No format and no loop over pages lives here: when one is wanted, an engine lacks a verb.

pub mod at_open;
mod catch_up;
mod commit_wait;
mod connections;
mod engine;
mod exclusive_wal;
mod followed;
mod gate;
mod history;
mod home;
pub(crate) mod lease;
mod live;
pub(crate) mod look;
mod phase;
mod poll;
mod prepare;
mod queue;
mod reach;
mod refusal;
mod rejoin;
mod report;
mod roll_back;
pub(crate) mod roll_forward;
mod runs;
mod runtime;
mod saved;
mod seen;
mod sending;
pub(crate) mod settle;
mod shm_wal;
mod sync;
mod turn;
mod upkeep;
mod verifying;
pub(crate) mod way;
mod worker;

pub use catch_up::{Begin, Pending};
pub use connections::{Connected, ConnectionId, Writing};
pub use followed::Database;
pub use history::restore_points;
pub use lease::{Caller, Primary};
pub use live::{beside, is_hot};
pub use prepare::Opening;
pub use rejoin::Rejoined;
pub use report::ReplicaStatus;
pub use runtime::{ReadOnlyOpen, Runtime, flush};
pub use shm_wal::ShmWal;
pub use turn::FRAMES_LONG;
pub use worker::examine;
