//! The first open of a database in a host, before SQLite sees it.
//!
//! ```text
//! prepare: home (where the history ends) + look (file, log) -> at_open: a verdict -> settle | roll_forward | refusal
//! ```

pub mod at_open;
pub(crate) mod home;
pub(crate) mod look;
pub(crate) mod prepare;
pub(crate) mod refusal;
pub(crate) mod roll_forward;
pub(crate) mod settle;
