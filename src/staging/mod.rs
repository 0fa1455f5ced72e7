//! The local log beside a database (default `<db>-replica/`): what the replica lacks, and what it takes to
//! know it again after a crash.
//!
//! ```text
//! format        format number; an unknown one is refused
//! users, lock   whole-file POSIX locks: who has the database open; who captures now. They die with the process
//! state         mapped: marks and anchors (`state`)
//! noted         mapped: the noted set, two bits a page (`noted`)
//! checksums     mapped: checksum of each page as of the newest sealed group (`checksums`)
//! stand-in      page 1 of the file stands for that of the newest sealed state (`stand_in`)
//! base          position from which the log starts, when that is not the beginning (`log`)
//! sent/         groups that were acknowledged, until they are merged (`sent`)
//! ltx/          sealed groups, one level-0 LTX file each; the newest one always stays (`log`)
//! ```
//!
//! Sealed groups enter by create-if-absent and never change. Mapped files are hints after a loss of power: their
//! content counts only when it is proven (the XOR of all page checksums equals the stored post checksum).

mod aside;
pub mod checksums;
pub mod groups;
pub mod log;
pub mod noted;
pub mod seed;
pub mod sent;
pub mod stand_in;
pub mod state;
pub mod sums;
