//! What a database loses when it is overwritten with the end of a history, as an LTX file that brings it back: the txid
//! after the end, from the end's checksum to that of the state which was there.
//!
//! Beside a copy of the replica, in its level 0, it restores as any other file does.

use super::apply::Place;
use super::overlay::Overlay;
use crate::error::Result;
use crate::ltx::{Encoder, Header, Proof, WalSpan};
use crate::types::{Checksum, PageSize, Pgno, Timestamp, TxidRange};
use std::io::Write;

/// The state of a settled file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Here {
    pub page_size: PageSize,
    pub page_count: u32,
    pub checksum: Checksum,
}

/// The txids of the file that brings `here` back.
pub fn range(change: &Overlay) -> TxidRange {
    TxidRange::one(change.end().range.max.next())
}

/// Writes that file. The pages are read where they still are.
///
/// # Errors
/// `Full`, `Io`.
pub fn write(place: &dyn Place, change: &Overlay, here: Here, now: Timestamp, out: impl Write) -> Result<()> {
    let end = change.end();
    let pre = end.proof.expect("BUG: an end that states no checksum is never reached").post;
    let header = Header {
        page_size: here.page_size,
        page_count: here.page_count,
        range: range(change),
        timestamp: now.max(end.timestamp),
        wal: WalSpan::CAPTURED,
        writer_id: 0,
        proof: Some(Proof { pre, post: here.checksum }),
    };
    let mut encoder = Encoder::new(out, header)?;
    let mut page = vec![0; here.page_size.bytes()];
    let lock = here.page_size.lock_pgno();
    let same_size = here.page_size == end.page_size;
    let changed =
        change.changes().map(|(pgno, _)| pgno).take_while(|p| same_size && p.get() <= here.page_count);
    let from = if same_size { end.page_count.saturating_add(1) } else { 1 };
    let rest = (from..=here.page_count).filter_map(Pgno::new);
    for pgno in changed.chain(rest).filter(|&p| p != lock) {
        place.read(pgno.offset(here.page_size), &mut page)?;
        encoder.page(pgno, &page)?;
    }
    encoder.finish().map(drop)
}
