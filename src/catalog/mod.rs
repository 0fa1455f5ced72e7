//! Pure decisions over a listing of a replica.

pub mod chain;

pub use chain::{Chain, Link, Target, chain_to};
