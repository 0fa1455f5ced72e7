//! Seals a group: the difference between pages read at one commit and the newest sealed state, as level-0 LTX file.
//!
//! Order, so that a crash at any instruction leaves a provable state: room for the page checksums, LTX file durable in
//! the log, page checksums, noted set settled (by the caller). After a crash between the second and the third, the
//! checksums do not add up to the file's post checksum, and [`reapply`] mends them from the file.

use std::fs::File;
use std::io::BufWriter;

use super::{Base, PageBuffer, Shape};
use crate::error::Result;
use crate::fs::durable::Temp;
use crate::ltx::{Decoder, Encoder, Header, Proof, WalSpan, page_checksum};
use crate::staging::checksums::PageChecksums;
use crate::staging::log::{Log, Recorded, Sealed};
#[cfg(test)]
use crate::testing::mutation::{self, Mutation};
use crate::types::{Checksum, Pgno, Timestamp, Txid, TxidRange};

/// Bytes of one write. A group of a few pages takes a buffer of a few pages: what large buffers cost (fresh memory,
/// mapped and unmapped for each group) the application's thread feels too.
const WRITE_BYTES_MAX: usize = 128 << 10;

/// What a group is going to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    pub header: Header,
    /// It holds every page and starts from nothing: no base, or another page size.
    pub whole: bool,
}

/// Plans the group. `None`: the pages are those of the base, there is nothing to seal.
///
/// # Panics
/// When the pages cannot make the state: growth that was not read, a whole group with a hole.
pub fn plan(
    base: &Base<'_>,
    buffer: &PageBuffer,
    shape: Shape,
    writer_id: u64,
    now: Timestamp,
) -> Option<Group> {
    let old = base.for_shape(shape);
    let pre = base.recorded.map_or(Checksum::EMPTY, |r| r.position.checksum);
    let mut post = if old.is_some() { pre } else { Checksum::EMPTY };
    let mut changed = false;
    for (pgno, checksum) in buffer.checksums() {
        let known = base.known(pgno, shape);
        changed |= known != Some(checksum);
        post = known.map_or(post, |k| post.toggle(k)).toggle(checksum);
    }
    let old_count = old.map_or(0, |o| o.page_count);
    #[cfg(test)]
    let old_count = if mutation::is(Mutation::GoneStillCounted) { shape.page_count } else { old_count };
    for gone in shape.page_count..old_count {
        let gone = Pgno::new(gone + 1).and_then(|p| base.checksums.get(p));
        post = gone.map_or(post, |k| post.toggle(k));
    }
    if old == Some(shape) && !changed {
        return None;
    }
    let lock = shape.page_size.lock_pgno();
    let missing =
        (old_count + 1..=shape.page_count).filter_map(Pgno::new).find(|&p| p != lock && !buffer.contains(p));
    assert_eq!(missing, None, "BUG: a page by which the database grew was not read");
    let txid = base.recorded.map_or(Txid::FIRST, |r| r.position.txid.next());
    let timestamp = base.recorded.map_or(now, |r| now.max(r.timestamp));
    let header = Header {
        page_size: shape.page_size,
        page_count: shape.page_count,
        range: TxidRange::one(txid),
        timestamp,
        wal: buffer.wal(),
        writer_id,
        proof: Some(Proof { pre, post }),
    };
    Some(Group { header, whole: old.is_none() })
}

/// Whether the planned group has every page, because the page checksums were lost, and makes the recorded state: then they are
/// there again, and there is nothing to seal.
///
/// # Errors
/// `Full`, `Io`.
pub fn rebuild(
    checksums: &mut PageChecksums,
    recorded: Option<Recorded>,
    group: &Group,
    buffer: &PageBuffer,
) -> Result<bool> {
    let Header { page_size, page_count, proof, .. } = group.header;
    let makes = recorded.is_some_and(|recorded| {
        (recorded.page_size, recorded.page_count) == (page_size, page_count)
            && proof.is_some_and(|proof| proof.post == recorded.position.checksum)
    });
    if !group.whole || !makes {
        return Ok(false);
    }
    checksums.reserve(page_count)?;
    checksums.clear();
    checksums.apply(page_size, page_count, buffer.checksums());
    Ok(true)
}

/// A group that changes nothing after this state: it takes a txid, and that is all.
pub fn empty(after: &Recorded, writer_id: u64, now: Timestamp) -> Header {
    let state = after.position.checksum;
    Header {
        page_size: after.page_size,
        page_count: after.page_count,
        range: TxidRange::one(after.position.txid.next()),
        timestamp: now.max(after.timestamp),
        wal: WalSpan::CAPTURED,
        writer_id,
        proof: Some(Proof { pre: state, post: state }),
    }
}

/// Writes the file of [`empty`]; its length. The same bytes each time.
///
/// # Errors
/// `Full`, `Io`.
pub fn write_empty(file: &File, header: &Header) -> Result<u64> {
    Ok(Encoder::new(BufWriter::new(file), *header)?.finish()?.size)
}

/// Seals the planned group, in the place of `unneeded` if there is one, and brings the page checksums after it.
///
/// # Errors
/// `Exists` when the txid is taken in the log; `Full`, `Io`. After an error the noted pages must stay noted.
pub fn seal(
    log: &Log,
    unneeded: Option<Temp>,
    checksums: &mut PageChecksums,
    group: &Group,
    buffer: &PageBuffer,
) -> Result<Sealed> {
    let header = &group.header;
    let txid = header.range.max;
    checksums.reserve(header.page_count)?;
    let size = log.seal(txid, unneeded, |file| write(file, header, buffer))?;
    if group.whole {
        checksums.clear();
    }
    checksums.apply(header.page_size, header.page_count, buffer.checksums());
    Ok(Sealed::of(header, size).expect("BUG: a planned group is proven and has one txid"))
}

fn write(file: &File, header: &Header, buffer: &PageBuffer) -> Result<u64> {
    let room = (buffer.len() + 1) * header.page_size.bytes();
    let mut encoder = Encoder::new(BufWriter::with_capacity(room.min(WRITE_BYTES_MAX), file), *header)?;
    let mut page = vec![0; header.page_size.bytes()];
    for (pgno, _) in buffer.checksums() {
        buffer.read(pgno, &mut page)?;
        encoder.page(pgno, &page)?;
    }
    Ok(encoder.finish()?.size)
}

/// Brings page checksums that a crash left behind the newest sealed group up to it. `true`: they now add up to the
/// recorded checksum; `false`: they are lost, and the next group must hold every page.
///
/// # Errors
/// `Corrupt` when the sealed file is damaged; `Full`, `Io`.
pub fn reapply(log: &Log, checksums: &mut PageChecksums, recorded: &Recorded) -> Result<bool> {
    let proven = |checksums: &PageChecksums| {
        #[cfg(test)]
        if mutation::is(Mutation::MapUnchecked) {
            return checksums.page_count() == recorded.page_count;
        }
        checksums.page_size() == Some(recorded.page_size)
            && checksums.page_count() == recorded.page_count
            && checksums.total() == recorded.position.checksum
    };
    // Another process may have made the map longer than it is here.
    checksums.reserve(recorded.page_count)?;
    checksums.take_in()?;
    if proven(checksums) {
        return Ok(true);
    }
    let path = log.path_of(recorded.position.txid);
    if let Ok(file) = File::open(&path) {
        let mut decoder = Decoder::new(std::io::BufReader::new(file), path.to_string_lossy())?;
        let mut page = vec![0; recorded.page_size.bytes()];
        let mut pages = Vec::new();
        while let Some(pgno) = decoder.next_page(&mut page)? {
            pages.push((pgno, page_checksum(pgno, &page)));
        }
        checksums.apply(recorded.page_size, recorded.page_count, pages);
        if proven(checksums) {
            return Ok(true);
        }
    }
    checksums.clear();
    Ok(false)
}

/// Whether a sealed group has another page size than the one before it in the log. `false` when that one is gone:
/// then the group was acknowledged long ago.
pub fn changes_page_size(log: &Log, sealed: &Sealed) -> bool {
    let before = sealed.txid.previous().and_then(|txid| log.sealed(txid).ok());
    before.is_some_and(|before| before.page_size != sealed.page_size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Folder;
    use crate::types::{PageSize, Position};

    #[test]
    fn lost_page_checksums_are_made_again_from_the_recorded_state_and_from_no_other() {
        let dir = Folder::new();
        let mut checksums = PageChecksums::open(&dir.path().join("checksums")).unwrap();
        let page_size = PageSize::new(512).unwrap();
        let mut buffer = PageBuffer::new(page_size, dir.path());
        (1..=2u32).for_each(|n| buffer.offer(Pgno::new(n).unwrap(), &[n as u8; 512], None).unwrap());
        let checksum = buffer.checksums().fold(Checksum::EMPTY, |total, (_, sum)| total.toggle(sum));
        let shape = Shape { page_size, page_count: 2 };
        for (checksum, is_same) in [(Checksum::from_crc(7), false), (checksum, true)] {
            let position = Position { txid: Txid::FIRST, checksum };
            let recorded = Some(Recorded { position, page_size, page_count: 2, timestamp: Timestamp(0) });
            let base = Base { recorded, checksums: &checksums };
            let group = plan(&base, &buffer, shape, 1, Timestamp(0)).unwrap();
            assert!(group.whole);
            assert_eq!(rebuild(&mut checksums, recorded, &group, &buffer).unwrap(), is_same);
            assert_eq!(checksums.total() == checksum, is_same);
        }
    }
}
