//! What a thread of the application waits for: the replica (`sync`, `commit_wait`, `gate`), and SQLite's checkpoint (`turn`).

pub mod commit_wait;
pub mod gate;
pub mod standing;
pub mod sync;
pub mod tickets;
pub mod turn;
