//! Pure decisions over a listing of a replica.

pub mod back;
pub mod chain;
pub mod moment;
pub mod points;
#[cfg(test)]
pub mod sample;
pub mod words;

pub use back::Back;
pub use chain::{Captured, Chain, Link, Target, chain_to};
pub use moment::{Settled, settle};
pub use points::{Point, moments, points};
