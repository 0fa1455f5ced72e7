//! The LTX file, format v3 as Litestream 0.5 reads and writes it. Pure: readers and writers in, values out.
//!
//! `header(100) | page records | six zero bytes | page index | index size u64 | trailer(16)`, integers
//! big-endian. A file holds the pages that the txids `min..=max` changed, each as of `max`, and the page
//! count after it. A file with `min == 1` is a snapshot: it holds every page but the lock-byte page.
//!
//! We always write flags `0x2` (no checksum in the format's own fields, which Litestream refuses) and keep
//! the rolling checksum of the database in the reserved header bytes, see [`header`].
//!
//! Source: superfly/ltx v0.5.2 as its own binaries behave.

pub mod checksum;
mod damage;
pub mod decoder;
pub mod encoder;
pub mod header;
pub mod index;
pub mod index_reader;
pub mod merge;
pub mod name;
pub mod parts;
#[cfg(any(test, fuzzing))]
pub(crate) mod sample;

pub use checksum::{Crc64, page_checksum};
pub use damage::Damage;
pub use decoder::Decoder;
pub use encoder::{Encoder, Summary};
pub use header::{Header, Proof, WalSpan};
