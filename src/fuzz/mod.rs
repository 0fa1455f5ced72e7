//! Hostile bytes for every reader: samples that are right, ways to spoil them, and what must hold of whatever comes out.
//!
//! ```text
//! sample -> mutate -> mend (checksums are right again, so that what lies behind them is reached) -> run
//! ```
//!
//! A target takes any bytes. It may answer an error, which says something; it may not panic, not go on for ever, and not
//! take more memory than its limit ([`crate::tests::fuzz`] watches). What was read and is written again is the same.
//! Built for tests and for `cargo fuzz` (`cfg(fuzzing)`), which brings bytes of its own.

mod codes;
mod database;
mod log;
mod ltx;
pub mod mutate;
mod old;
mod pages;
mod store;
mod texts;

use crate::error::Error;

/// One reader.
pub struct Target {
    pub name: &'static str,
    /// Inputs that are right.
    pub samples: fn() -> Vec<Vec<u8>>,
    /// Words that mean something to it.
    pub words: &'static [&'static str],
    /// Makes what a mutation broke pass the first checks again.
    pub mend: fn(&[u8]) -> Vec<u8>,
    pub run: fn(&[u8]),
    /// Bytes that one run may have in memory at a time, beyond a multiple of its input.
    pub memory_max: usize,
    /// The input is several files ([`parts`]), one of which is changed.
    pub is_parts: bool,
}

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// Every reader there is.
pub const TARGETS: &[Target] = &[
    ltx::DECODER,
    ltx::IN_PARTS,
    pages::REPLICA,
    old::FRAME,
    old::RESTORE,
    database::WAL,
    database::JOURNAL,
    database::AT_REST,
    database::WAL_INDEX,
    log::LOG,
    texts::URL,
    texts::RULES,
    texts::OPTIONS,
    texts::VALUES,
    texts::AWS,
    texts::NAMES,
    store::LISTING,
    store::KEYS,
    store::LEASE,
];

fn unmended(bytes: &[u8]) -> Vec<u8> {
    bytes.to_vec()
}

/// Several files as one input: each behind its length.
pub fn join(parts: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in parts {
        bytes.extend((part.len() as u32).to_le_bytes());
        bytes.extend(part);
    }
    bytes
}

/// Takes [`join`] apart; what is too short is as long as it is.
pub fn parts(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut parts = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<4>() {
        let length = (u32::from_le_bytes(*length) as usize).min(rest.len());
        parts.push(rest[..length].to_vec());
        bytes = &rest[length..];
    }
    parts
}

/// An error that a person can read: some words, no control character, and not a book.
fn check_error(error: &Error) {
    let text = error.to_string();
    assert!(!text.is_empty() && text.len() < 20_000, "an error of {} bytes", text.len());
}

/// The same of one that must name the file.
fn check_names(error: &Error, name: &str) {
    check_error(error);
    assert!(error.to_string().contains(name), "an error that does not name {name}: {error}");
}
