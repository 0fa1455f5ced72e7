//! Merges LTX files that continue one another into one file, as a stream: memory is a page an input.
//!
//! The output spans from the first input's min to the last one's max and takes page count and timestamp from
//! the last. Of each page the latest input wins. A page that a later input cut off by a smaller page count is
//! dropped, even where the database grew past it again: the file that grew it holds it anew.
//!
//! Inputs may overlap but leave no gap. Where one ends right before the next begins and both are proven, their
//! checksums must link. The output is proven when every input is. A snapshot is proven when its last input is,
//! because it is checked against that post checksum while it is written.
//!
//! Source: the compactor of superfly/ltx, which does the same but for the checks.

use super::checksum::page_checksum;
use super::decoder::Decoder;
use super::encoder::{Encoder, Summary};
use super::header::{Header, Proof, WalSpan};
use super::name;
use crate::error::{Error, Result};
#[cfg(test)]
use crate::testing::mutation::{self, Mutation};
use crate::types::{Checksum, Pgno, TxidRange};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{Read, Write};

/// The header of the merged file.
///
/// # Errors
/// `Gap` with the first missing txid; `Invalid` for inputs out of order, of different page sizes, or none;
/// `Corrupt` when the checksums of two neighbours do not link.
pub fn merged_header(inputs: &[Header]) -> Result<Header> {
    let (Some(first), Some(last)) = (inputs.first(), inputs.last()) else {
        return Err(Error::invalid("cannot merge no files"));
    };
    for pair in inputs.windows(2) {
        check_neighbours(&pair[0], &pair[1])?;
    }
    let range = TxidRange::new(first.range.min, last.range.max).expect("BUG: neighbours move forward");
    let proof = match (first.proof, last.proof) {
        (_, Some(last)) if first.is_snapshot() => Some(Proof { pre: Checksum::EMPTY, post: last.post }),
        (Some(first), Some(last)) if inputs.iter().all(|header| header.proof.is_some()) => {
            Some(Proof { pre: first.pre, post: last.post })
        }
        _ => None,
    };
    Ok(Header { range, proof, wal: WalSpan::NONE, writer_id: 0, ..*last })
}

/// Whether `next` continues `previous`.
fn check_neighbours(previous: &Header, next: &Header) -> Result<()> {
    let names = || format!("{} and {}", name::format(previous.range), name::format(next.range));
    let follows = previous.range.max.next();
    if next.range.min > follows {
        return Err(Error::gap(format!("txid {follows} is missing between {}", names())));
    }
    if next.range.max <= previous.range.max {
        return Err(Error::invalid(format!("cannot merge {}: not in ascending order", names())));
    }
    if next.page_size != previous.page_size {
        return Err(Error::invalid(format!("cannot merge {}: the page size changes between them", names())));
    }
    check_link(previous, next)
}

/// Whether the checksums of two neighbours link, where both have them and nothing lies between.
///
/// # Errors
/// `Corrupt` naming both files and checksums.
pub fn check_link(previous: &Header, next: &Header) -> Result<()> {
    let (Some(before), Some(after)) = (previous.proof, next.proof) else { return Ok(()) };
    if previous.range.max.next() != next.range.min || before.post == after.pre {
        return Ok(());
    }
    Err(Error::corrupt(format!(
        "{} starts from checksum {}, but {} ends with {}: one of them belongs to another history",
        name::format(next.range),
        after.pre,
        name::format(previous.range),
        before.post
    )))
}

/// Merges `inputs`, oldest first, none of which has given a page yet.
///
/// # Errors
/// Those of [`merged_header`], of reading an input and of writing `out`; `Corrupt` when a proven snapshot does
/// not have the post checksum of its last input.
pub fn merge<R: Read, W: Write>(inputs: Vec<Decoder<R>>, out: W) -> Result<Summary> {
    let headers: Vec<Header> = inputs.iter().map(|input| *input.header()).collect();
    let header = merged_header(&headers)?;
    merge_as(inputs, header, out)
}

/// Merges `inputs` under a header that the caller answers for.
pub fn merge_as<R: Read, W: Write>(inputs: Vec<Decoder<R>>, header: Header, out: W) -> Result<Summary> {
    let mut heads = Heads::new(inputs)?;
    let mut out = Encoder::new(out, header)?;
    let post = header.proof.filter(|_| header.is_snapshot()).map(|proof| proof.post);
    let mut found = Checksum::EMPTY;
    while let Some((pgno, index)) = heads.next() {
        if pgno.get() <= heads.page_count_max[index] {
            let page = &heads.pages[index];
            if post.is_some() {
                found = found.toggle(page_checksum(pgno, page));
            }
            out.page(pgno, page)?;
        }
        heads.advance_past(pgno, index)?;
    }
    let summary = out.finish()?;
    match post {
        Some(post) if post != found => Err(Error::corrupt(format!(
            "the files up to {} give a database with checksum {found}, but the last of them says {post}",
            name::format(header.range)
        ))),
        _ => Ok(summary),
    }
}

/// The next page of each input.
struct Heads<R> {
    inputs: Vec<Decoder<R>>,
    pages: Vec<Vec<u8>>,
    /// Smallest page count from each input on: a later, smaller database cut the pages past it.
    page_count_max: Vec<u32>,
    /// Page number first, then the newest input.
    queue: BinaryHeap<Reverse<(Pgno, Reverse<usize>)>>,
}

impl<R: Read> Heads<R> {
    fn new(inputs: Vec<Decoder<R>>) -> Result<Heads<R>> {
        let mut page_count_max: Vec<u32> = inputs.iter().map(|input| input.header().page_count).collect();
        for index in (1..page_count_max.len()).rev() {
            page_count_max[index - 1] = page_count_max[index - 1].min(page_count_max[index]);
        }
        let pages = inputs.iter().map(|input| vec![0; input.header().page_size.bytes()]).collect();
        let mut heads = Heads { inputs, pages, page_count_max, queue: BinaryHeap::new() };
        for index in 0..heads.inputs.len() {
            heads.pull(index)?;
        }
        Ok(heads)
    }

    /// The smallest page number and the newest input that has it.
    fn next(&mut self) -> Option<(Pgno, usize)> {
        let (pgno, index) = self.queue.pop().map(|Reverse((pgno, Reverse(index)))| (pgno, index))?;
        #[cfg(test)]
        if mutation::is(Mutation::OldestPageWins) {
            let others = self.queue.iter().filter(|Reverse((other, _))| *other == pgno);
            let oldest = others.map(|Reverse((_, Reverse(other)))| *other).min();
            if let Some(oldest) = oldest {
                self.pages[index] = self.pages[oldest].clone();
            }
        }
        Some((pgno, index))
    }

    /// Moves every input that stands at `pgno` on; `index` has been taken from the queue already.
    fn advance_past(&mut self, pgno: Pgno, index: usize) -> Result<()> {
        self.pull(index)?;
        while let Some(&Reverse((next, Reverse(older)))) = self.queue.peek() {
            if next != pgno {
                break;
            }
            self.queue.pop();
            self.pull(older)?;
        }
        Ok(())
    }

    fn pull(&mut self, index: usize) -> Result<()> {
        if let Some(pgno) = self.inputs[index].next_page(&mut self.pages[index])? {
            self.queue.push(Reverse((pgno, Reverse(index))));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::ltx::sample::{Random, file, header};
    use crate::types::PageSize;
    use std::collections::BTreeMap;

    type Pages = Vec<(u32, Vec<u8>)>;

    fn run(files: &[Vec<u8>]) -> Result<(Header, Pages)> {
        let inputs = files.iter().map(|bytes| Decoder::new(&bytes[..], "in.ltx").unwrap()).collect();
        let mut bytes = Vec::new();
        let summary = merge(inputs, &mut bytes)?;
        let mut decoder = Decoder::new(&bytes[..], "out.ltx").unwrap();
        assert_eq!(*decoder.header(), summary.header);
        let mut page = vec![0; decoder.header().page_size.bytes()];
        let mut pages = Vec::new();
        while let Some(pgno) = decoder.next_page(&mut page).unwrap() {
            pages.push((pgno.get(), page.clone()));
        }
        Ok((summary.header, pages))
    }

    fn page(byte: u8) -> Vec<u8> {
        vec![byte; 512]
    }

    #[test]
    fn the_latest_input_wins_each_page() {
        let files = [
            file(header(2, 3, 512, 5), &[(1, page(1)), (4, page(1)), (5, page(1))]),
            file(header(4, 4, 512, 5), &[(4, page(2))]),
            file(header(5, 7, 512, 6), &[(1, page(3)), (6, page(3))]),
        ];
        let (merged, pages) = run(&files).unwrap();
        assert_eq!((merged.range.min.get(), merged.range.max.get(), merged.page_count), (2, 7, 6));
        assert_eq!((merged.timestamp, merged.wal), (header(7, 7, 512, 1).timestamp, WalSpan::NONE));
        assert_eq!(pages, [(1, page(3)), (4, page(2)), (5, page(1)), (6, page(3))]);
    }

    #[test]
    fn pages_cut_off_by_a_shrink_do_not_come_back_with_growth() {
        let files = [
            file(header(2, 2, 512, 4), &[(1, page(1)), (3, page(1)), (4, page(1))]),
            file(header(3, 3, 512, 2), &[(1, page(2))]),
            file(header(4, 4, 512, 4), &[(3, page(3))]),
        ];
        assert_eq!(run(&files).unwrap().1, [(1, page(2)), (3, page(3))]);
    }

    #[test]
    fn a_gap_disorder_or_change_of_page_size_is_refused() {
        let one = |min, max, size| file(header(min, max, size, 1), &[]);
        let kind = |files: &[Vec<u8>]| run(files).map(|_| ()).unwrap_err();
        let gap = kind(&[one(2, 3, 512), one(5, 6, 512)]);
        assert_eq!(gap.kind(), Kind::Gap);
        assert!(gap.to_string().contains("txid 0000000000000004 is missing"), "{gap}");
        assert_eq!(kind(&[one(2, 6, 512), one(3, 6, 512)]).kind(), Kind::Invalid);
        assert_eq!(kind(&[one(2, 3, 512), one(4, 4, 1024)]).kind(), Kind::Invalid);
        assert_eq!(kind(&[]).kind(), Kind::Invalid);
        assert!(run(&[one(2, 5, 512), one(3, 6, 512)]).is_ok(), "overlap is allowed");
    }

    #[test]
    fn checksums_of_neighbours_must_link_and_outlive_the_merge() {
        let proven = |min, max, pre, post| {
            let proof = Proof { pre: Checksum::from_crc(pre), post: Checksum::from_crc(post) };
            file(Header { proof: Some(proof), ..header(min, max, 512, 1) }, &[])
        };
        let error = run(&[proven(2, 3, 1, 2), proven(4, 4, 5, 6)]).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt);
        assert!(error.to_string().contains("0000000000000004-0000000000000004.ltx starts from"), "{error}");
        let proof = run(&[proven(2, 3, 1, 2), proven(4, 4, 2, 3)]).unwrap().0.proof;
        assert_eq!(proof, Some(Proof { pre: Checksum::from_crc(1), post: Checksum::from_crc(3) }));
        let unproven = file(header(4, 4, 512, 1), &[]);
        assert_eq!(run(&[proven(2, 3, 1, 2), unproven, proven(5, 5, 9, 3)]).unwrap().0.proof, None);
    }

    #[test]
    fn a_proven_snapshot_must_have_its_checksum() {
        let content = [(1, page(1)), (2, page(2))];
        let post = content.iter().fold(Checksum::EMPTY, |sum, (pgno, page)| {
            sum.toggle(page_checksum(Pgno::new(*pgno).unwrap(), page))
        });
        let snapshot = |post| {
            let proof = Some(Proof { pre: Checksum::EMPTY, post });
            file(Header { proof, ..header(1, 1, 512, 2) }, &content)
        };
        assert!(run(&[snapshot(post)]).is_ok());
        let error = run(&[snapshot(Checksum::from_crc(4))]).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt, "{error}");
    }

    #[test]
    fn random_merges_equal_applying_the_files_one_by_one() {
        for seed in 0..crate::testing::cases(60) {
            let mut random = Random::new(seed);
            let page_size = PageSize::new(512).unwrap();
            let mut state: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
            let mut files = Vec::new();
            for txid in 1..=1 + random.below(8) {
                let before = state.len() as u32;
                let count = 1 + random.below(12) as u32;
                state.retain(|pgno, _| *pgno <= count);
                let changed: Pages = (1..=count)
                    .filter(|pgno| *pgno > before || random.below(3) == 0)
                    .map(|pgno| (pgno, Random::new(seed * 1000 + txid * 20 + pgno as u64).page(page_size)))
                    .collect();
                state.extend(changed.iter().cloned());
                files.push(file(header(txid, txid, 512, count), &changed));
            }
            let (_, pages) = run(&files).unwrap();
            assert_eq!(pages, state.into_iter().collect::<Vec<_>>(), "seed {seed}");
        }
    }
}
