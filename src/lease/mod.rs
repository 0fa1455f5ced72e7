//! Who may write: one process at a time, by an object in the replica.
//!
//! ```text
//! object    lock.json: epoch, end, holder                      terms     how long it lives, when who may do what
//! machine   what comes next: pure                              tenant    carries it out on a store, in the caller's thread
//! fixed     a primary that never changes: no object at all
//! ```
//!
//! A lease is a courtesy: it keeps two nodes from writing at the same time, so that neither of them is fenced. What makes
//! two histories impossible is that a name is created once, which needs no clock.

pub mod fixed;
pub mod machine;
pub mod object;
pub mod tenant;
pub mod terms;

pub use fixed::Fixed;
pub use machine::{Permit, Why};
pub use object::{Holder, Lease};
pub use tenant::{MachineTime, Tenant, Time, look};
pub use terms::{Now, Terms, Until};
