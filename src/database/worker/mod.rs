//! The threads that serve every database, what is due, and what a run of one database comes to.

pub mod due;
pub mod queue;
pub mod runs;
pub mod threads;
