//! One object for each database file that this process follows, and the threads that serve them all.
//!
//! ```text
//! vfs::shim --connect--> Runtime (registry, worker) --> Database --- noted, state, notes, handoff   (shared with hooks)
//!                                                           |
//!              worker thread: Database::run --> Engine (behind one lock): collect, seal | send, acknowledge
//! ```
//!
//! No format and no loop over pages lives here: when one is wanted, an engine lacks a verb.

mod connections;
mod engine;
mod exclusive_wal;
mod followed;
mod history;
pub(crate) mod lease;
mod live;
pub mod open;
mod overwrite;
mod phase;
mod poll;
mod reach;
mod report;
mod runtime;
mod seen;
mod sending;
mod shm_wal;
mod side;
mod upkeep;
mod verifying;
mod wait;
pub(crate) mod way;
mod worker;

pub use connections::{Connected, ConnectionId, Writing};
pub use followed::Database;
pub use history::restore_points;
pub use lease::{Caller, Primary};
pub use live::{beside, is_hot};
pub use open::prepare::Opening;
pub use overwrite::catch_up::{Begin, Pending};
pub use overwrite::rejoin::Rejoined;
pub use report::ReplicaStatus;
pub use runtime::{ReadOnlyOpen, Runtime, flush};
pub use shm_wal::ShmWal;
pub use wait::turn::FRAMES_LONG;
pub use worker::threads::examine;
