//! Tests that cross rooms, and the one that reads them all.

mod defects;
mod fuzz;
mod model_modes;
mod model_rows;
mod mutations;
mod tidy;
mod upkeep_day;
mod vfs_contract;
