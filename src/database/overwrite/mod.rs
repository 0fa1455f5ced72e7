//! A database that is open takes another state, in one transaction of SQLite: the end of its history (`catch_up`), that of
//! another writer's (`rejoin`, which saves its own first), or an earlier one (`roll_back`).

pub mod catch_up;
pub mod rejoin;
pub mod roll_back;
pub mod saved;
