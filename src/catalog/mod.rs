//! Pure decisions over a listing of a replica.

pub mod back;
pub mod chain;

pub use back::Back;
pub use chain::{Chain, Link, Target, chain_to};
