//! The lease of one database: who asks for it, who renews it, and what the gate of its writers looks at.
//!
//! ```text
//! write gate ------- allows? -----> Shown: permit, begun     (a lock that nobody holds while a store is waited for)
//!     | auto: wants it                 ^ shown after each step
//!     v                                |
//! a thread of the worker, in a lane of its own --- tend, ask, hand back ---> Tenant ---> store
//! replica_lease_acquire(), on its caller's thread -----------------------------^
//! ```
//!
//! Promises:
//! 1. Nobody may write before the first txid under the lease is ours ([`barrier`]), and not a moment after the
//!    permit ends, whatever the store does.
//! 2. No request to the store is made on a thread of the application but by who asks for the lease, or shows it, by name.
//! 3. What is handed back was used to the end: everything that was committed under it is acknowledged.
//!
//! The lease belongs to a process. Two that have one file open take turns, as two machines do.

pub(crate) mod barrier;
mod holding;
mod lane;
mod rights;
mod writers;

use std::time::Duration;

pub use holding::Caller;
pub use rights::{Primary, Rights};

pub(super) use rights::leases_of;

use crate::lease::MachineTime;

/// Pause while somebody else of this process asks for the lease, or the store could not be asked at all.
const SOON: Duration = Duration::from_millis(100);

static TIME: MachineTime = MachineTime;
