//! Another file's word on the state that a restore has come to.
//!
//! A merged file proves itself: pages, links, checksum. One of another history, put under the same name, does so too, where
//! nothing that adjoins it is read. So a chain that ends with a merged file asks one more header: that of a level-0 file
//! which begins or ends there, or of the lowest file that does. Who is contradicted is planned without.

use super::{Attempt, Setback};
use crate::catalog::{Captured, Chain};
use crate::error::{Error, Kind};
use crate::replica::{Client, describe, open_decoder};
use crate::types::{Checksum, FileInfo, Level, Position};

/// Files that are asked at the most, where some are damaged or no history themselves.
const ASKED_MAX: usize = 4;

/// # Errors
/// `Leftover` with the last step when another file knows another state there; `Changed`, `Failed`.
pub fn check(client: &dyn Client, listing: &[FileInfo], chain: &Chain, found: Position) -> Attempt<()> {
    let last = chain.steps.last().expect("BUG: a chain has a step");
    if last.level == Level::CAPTURED {
        return Ok(());
    }
    let captured = Captured::new(listing);
    for file in witnesses(listing, &captured, last).into_iter().take(ASKED_MAX) {
        let Some(said) = state_at(client, &captured, &file, found)? else { continue };
        if said == found.checksum {
            return Ok(());
        }
        let why = Error::corrupt(format!(
            "{} leads to checksum {} at txid {}, but {} knows it as {said}: one of them belongs to another history",
            describe(last),
            found.checksum,
            found.txid,
            describe(&file)
        ));
        return Err(Setback::Leftover(Box::new(*last), why));
    }
    Ok(())
}

/// Those that begin or end where `last` ends, the lowest levels first.
fn witnesses(listing: &[FileInfo], captured: &Captured, last: &FileInfo) -> Vec<FileInfo> {
    let end = last.range.max;
    let meets = |file: &&FileInfo| file.range.max == end || file.range.min == end.next();
    let mut files: Vec<FileInfo> =
        listing.iter().filter(meets).filter(|file| !file.same_object(last)).copied().collect();
    files.sort_by_key(|file| (file.level, file.range.min));
    files.retain(|file| captured.is_history(file));
    files
}

/// What a file says of the state; `None`: nothing, or it is damaged, or a leftover of a writer that came too late.
fn state_at(
    client: &dyn Client,
    captured: &Captured,
    file: &FileInfo,
    found: Position,
) -> Attempt<Option<Checksum>> {
    let proof = |file: &FileInfo| match open_decoder(client, file) {
        Ok(decoder) => Ok(decoder.header().proof),
        Err(error) if error.kind() == Kind::Corrupt => Ok(None),
        Err(error) => Err(Setback::of(error)),
    };
    let Some(own) = proof(file)? else { return Ok(None) };
    let said = if file.range.max == found.txid { own.post } else { own.pre };
    if said == found.checksum || file.level > Level::CAPTURED {
        return Ok(Some(said));
    }
    let next = captured.linked(file).map(proof).transpose()?.flatten();
    Ok(next.is_none_or(|next| next.pre == own.post).then_some(said))
}
