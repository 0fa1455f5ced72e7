//! A file beside what its pages must be.

use super::fold::Fold;
use super::state::State;
use crate::error::Result;
use crate::ltx::{Decoder, Header, page_checksum};
use crate::types::Checksum;
use std::io::Read;

/// Whether `state` is the one after the file with that header.
pub fn is_at(state: &State, header: &Header) -> bool {
    state.position.txid == header.range.max && state.page_size == header.page_size
}

/// What reading a file brought.
pub struct Compared {
    /// XOR of its page checksums.
    pub total: Checksum,
    /// The first thing that is not as in the state, or as its sources have it.
    pub other: Option<String>,
}

/// Reads a file to its end beside the state at its txid and what its sources give.
pub fn compare<R: Read>(
    decoder: &mut Decoder<R>,
    mut state: Option<&mut State>,
    mut fold: Option<&mut Fold>,
) -> Result<Compared> {
    let mut compared = Compared { total: Checksum::EMPTY, other: None };
    let mut page = vec![0; decoder.header().page_size.bytes()];
    while let Some(pgno) = decoder.next_page(&mut page)? {
        let sum = page_checksum(pgno, &page);
        compared.total = compared.total.toggle(sum);
        let is_state = state.as_deref_mut().map_or(Ok(true), |state| Ok(state.sum(pgno)? == Some(sum)))?;
        let is_fold = fold.as_deref_mut().map_or(Ok(true), |fold| fold.has(pgno, sum))?;
        if !is_state || !is_fold {
            let whose = if is_state { "the files it merges hold" } else { "the database holds then" };
            compared
                .other
                .get_or_insert_with(|| format!("page {pgno} of {} is not what {whose}", decoder.name()));
        }
    }
    let (name, page_count) = (decoder.name(), decoder.header().page_count);
    if let Some(state) = state.filter(|state| state.page_count != page_count) {
        compared.other.get_or_insert_with(|| {
            format!("{name} makes the database {page_count} pages long, which then has {}", state.page_count)
        });
    }
    if let Some(Err(error)) = fold.map(|fold| fold.finish(name, page_count, decoder.pages())) {
        compared.other.get_or_insert(error.to_string());
    }
    Ok(compared)
}
