//! Merges files of a replica into new ones.
//!
//! A merged file is built in a scratch folder, where a crash leaves nothing, and then created in the replica, where it
//! appears whole. At most [`INPUTS_MAX`] files are open at once; a longer chain is merged in rounds.
//!
//! What is merged must link from its first file to its last; a merged file keeps pre and post checksum and the time of its
//! last input. A level-0 file that does not link to the one after it is a leftover of a writer that came too late, and is
//! passed over.

use crate::catalog::{Chain, Target, chain_to};
use crate::error::{Error, Kind, Result};
use crate::fs::durable::{self, Temp};
use crate::ltx::merge::check_link;
use crate::ltx::{Decoder, Header, Proof, Summary, merge};
use crate::replica::{Client, ReadSeek, check_range, describe, open_decoder};
use crate::types::{Checksum, FileInfo, Level, Timestamp, Txid, TxidRange};
use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom};
use std::path::Path;

use super::due::{Merge, next_merge};
use super::levels::Rung;

/// Files merged at once: far from the usual limit of 1024 descriptors, 32 KiB of buffer each.
const INPUTS_MAX: usize = 128;
/// Level-0 leftovers passed over; more of them is no replica.
const LEFTOVERS_MAX: u32 = 16;

type Input = Decoder<Box<dyn ReadSeek>>;

/// Creates the next file of a level, if there is enough for one, and adds it to `listing`, from which leftovers go. `false`:
/// there was not. Where another keeper has made the same file, that is as good.
///
/// # Errors
/// `Corrupt` with file, offset and reason for a damaged source; `NotFound` or `Conflict` when one was deleted or made anew
/// meanwhile; else as the store says.
pub fn climb(
    sources: &Sources<'_>,
    listing: &mut Vec<FileInfo>,
    rung: Rung,
    newest: Txid,
    now: Timestamp,
    scratch: &Path,
) -> Result<bool> {
    for _ in 0..=LEFTOVERS_MAX {
        let Some(merge) = next_merge(listing, rung, newest, now) else { return Ok(false) };
        match merge_steps(sources, &merge, scratch)? {
            Merged::File(temp, header) => {
                listing.push(create(sources.client, merge.level, &header, &temp)?);
                return Ok(true);
            }
            Merged::Leftover(file) => listing.retain(|other| !other.same_object(&file)),
        }
    }
    Err(Error::corrupt(format!(
        "{} holds more than {LEFTOVERS_MAX} files at level 0 that belong to another history",
        sources.client.url()
    )))
}

/// Gives a copy of a stored file, if there is one.
pub type Copy<'a> = dyn Fn(&FileInfo) -> Option<File> + 'a;

/// Where the files come from that are merged.
pub struct Sources<'a> {
    pub client: &'a dyn Client,
    pub copy: &'a Copy<'a>,
}

impl Sources<'_> {
    fn open(&self, file: &FileInfo) -> Result<Input> {
        let Some(copy) = (self.copy)(file) else { return open_decoder(self.client, file) };
        let decoder =
            Decoder::new(Box::new(copy) as Box<dyn ReadSeek>, format!("a copy of {}", describe(file)))?;
        check_range(file, decoder.header().range)?;
        Ok(decoder)
    }

    fn header_of(&self, file: &FileInfo) -> Result<Header> {
        Ok(*self.open(file)?.header())
    }

    /// A merged file made of copies must end as the stored file does that it ends with.
    fn check_end(&self, last: &FileInfo, header: &Header) -> Result<()> {
        if (self.copy)(last).is_none() {
            return Ok(());
        }
        let stored = header_of(self.client, last)?;
        let end = |header: &Header| (header.proof.map(|proof| proof.post), header.timestamp);
        // The same commits, captured by two, have one state and two times.
        if end(&stored) == end(header) {
            return Ok(());
        }
        Err(Error::corrupt(format!("{} does not end as the copy of it", describe(last))))
    }
}

/// Creates a finished file in the replica, and makes it last. Where another keeper has made the same, that is as good.
///
/// # Errors
/// As the store says.
pub fn create(client: &dyn Client, level: Level, header: &Header, temp: &Temp) -> Result<FileInfo> {
    let made = match client.create(level, header.range, header.timestamp, &mut reader(temp)?) {
        Err(error) if error.kind() == Kind::Exists => client.stat(level, header.range)?.ok_or(error),
        other => other,
    }?;
    client.make_durable(level)?;
    Ok(made)
}

enum Merged {
    File(Temp, Header),
    /// This step does not link to the file after it.
    Leftover(FileInfo),
}

/// Merges the steps up to the first that has another page size: no merge spans that.
fn merge_steps(sources: &Sources<'_>, merge: &Merge, scratch: &Path) -> Result<Merged> {
    let mut parts: Vec<(Temp, Header)> = Vec::new();
    let mut before: Option<(FileInfo, Header)> = None;
    for chunk in merge.steps.chunks(INPUTS_MAX) {
        let mut inputs = Vec::with_capacity(chunk.len());
        for step in chunk {
            let input = sources.open(step)?;
            let header = *input.header();
            if before.is_some_and(|(_, before)| before.page_size != header.page_size) {
                break;
            }
            if let Some(leftover) = leftover_before(sources, &before, step, &header)? {
                return Ok(Merged::Leftover(leftover));
            }
            before = Some((*step, header));
            inputs.push(input);
        }
        let is_cut = inputs.len() < chunk.len();
        if !inputs.is_empty() {
            parts.push(merge_part(inputs, scratch)?);
        }
        if parts.len() == INPUTS_MAX {
            parts = vec![merge_parts(&parts, scratch)?];
        }
        if is_cut {
            break;
        }
    }
    if let (Some(next), Some((step, _))) = (merge.next, before)
        && next.range.min == step.range.max.next()
        && let Some(leftover) = leftover_before(sources, &before, &next, &sources.header_of(&next)?)?
    {
        return Ok(Merged::Leftover(leftover));
    }
    let (temp, header) =
        if parts.len() == 1 { parts.pop().expect("BUG: one part") } else { merge_parts(&parts, scratch)? };
    before.map_or(Ok(()), |(last, _)| sources.check_end(&last, &header))?;
    Ok(Merged::File(temp, header))
}

/// The file before `step`, if that does not link to it and both are undamaged level-0 files.
///
/// # Errors
/// `Corrupt` for other files that do not link.
fn leftover_before(
    sources: &Sources<'_>,
    before: &Option<(FileInfo, Header)>,
    step: &FileInfo,
    header: &Header,
) -> Result<Option<FileInfo>> {
    let Some((file, previous)) = before else { return Ok(None) };
    match check_link(previous, header) {
        Err(error) if !are_captured(file, step) => Err(error),
        Err(_) => check_undamaged(sources.client, file, step).map(|()| Some(*file)),
        Ok(()) => Ok(None),
    }
}

fn are_captured(file: &FileInfo, next: &FileInfo) -> bool {
    (file.level, next.level) == (Level::CAPTURED, Level::CAPTURED)
}

/// That two files do not link says something only when both are whole.
fn check_undamaged(client: &dyn Client, file: &FileInfo, next: &FileInfo) -> Result<()> {
    open_decoder(client, next)?.verify_rest()?;
    open_decoder(client, file)?.verify_rest()
}

/// Creates the level-9 file `1..txid` in `target` from the files of `source`, which may be the same replica.
///
/// Keeps the post checksum and the timestamp of the last input. Where the page size changed on the way, only the
/// files from there on are merged. Level-0 leftovers take no part. `scratch` is a folder for what is not finished, on a
/// disk with room for it.
///
/// # Errors
/// `Exists` when `target` has that file; as [`chain_to`]; `Corrupt` with file, offset and reason, or when the
/// result does not have the checksum the last file states; else as the stores say.
pub fn snapshot_to(source: &dyn Client, target: &dyn Client, txid: Txid, scratch: &Path) -> Result<FileInfo> {
    let (steps, headers) = history_to(source, txid)?;
    let (merged, summary) = merge_files(source, &steps[since_page_size_change(&headers)..], scratch)?;
    let mut body = reader(&merged)?;
    let made = target.create(Level::SNAPSHOT, summary.header.range, summary.header.timestamp, &mut body)?;
    target.make_durable(Level::SNAPSHOT)?;
    Ok(made)
}

/// The files that lead to `txid`, and their headers: planned again without each level-0 file that turns out to be a
/// leftover.
fn history_to(source: &dyn Client, txid: Txid) -> Result<(Vec<FileInfo>, Vec<Header>)> {
    let mut listing = source.list_all()?;
    let mut last: Option<Error> = None;
    for _ in 0..=LEFTOVERS_MAX {
        let chain = match (chain_to(&listing, Target::Txid(txid)), last.take()) {
            (Err(_), Some(why)) => return Err(why),
            (chain, _) => chain?,
        };
        let headers = chain.steps.iter().map(|step| header_of(source, step)).collect::<Result<Vec<_>>>()?;
        match leftover(source, &chain, &headers)? {
            Some((file, why)) => {
                listing.retain(|other| !other.same_object(file));
                last = Some(why);
            }
            None => return Ok((chain.steps, headers)),
        }
    }
    Err(last.expect("BUG: only a leftover plans again"))
}

/// The newest level-0 step that does not link to the level-0 file after it, and why. Only undamaged files tell.
fn leftover<'a>(
    source: &dyn Client,
    chain: &'a Chain,
    headers: &[Header],
) -> Result<Option<(&'a FileInfo, Error)>> {
    for (index, (step, header)) in chain.steps.iter().zip(headers).enumerate().rev() {
        let mut following: Vec<(&FileInfo, Header)> = Vec::new();
        following.extend(chain.steps.get(index + 1).map(|next| (next, headers[index + 1])));
        for link in chain.links.iter().filter(|link| link.step == *step) {
            following.push((&link.next, header_of(source, &link.next)?));
        }
        for (next, next_header) in following.iter().filter(|(next, _)| are_captured(step, next)) {
            if let Err(why) = check_link(header, next_header) {
                check_undamaged(source, step, next)?;
                return Ok(Some((step, why)));
            }
        }
    }
    Ok(None)
}

fn header_of(source: &dyn Client, file: &FileInfo) -> Result<Header> {
    Ok(*open_decoder(source, file)?.header())
}

/// Index of the step from which on the page size stays the same; that one holds every page.
fn since_page_size_change(headers: &[Header]) -> usize {
    headers.windows(2).rposition(|pair| pair[0].page_size != pair[1].page_size).map_or(0, |at| at + 1)
}

/// Merges `steps` into one snapshot. The first, which holds every page, takes part only in the last round.
fn merge_files(source: &dyn Client, steps: &[FileInfo], scratch: &Path) -> Result<(Temp, Summary)> {
    let (base, rest) = steps.split_first().expect("BUG: a chain has a step");
    let mut inputs = vec![open_decoder(source, base)?];
    if rest.len() < INPUTS_MAX {
        for step in rest {
            inputs.push(open_decoder(source, step)?);
        }
        return merge_snapshot(inputs, scratch);
    }
    let mut parts: Vec<(Temp, Header)> = Vec::new();
    for steps in rest.chunks(INPUTS_MAX) {
        let opened = steps.iter().map(|step| open_decoder(source, step)).collect::<Result<Vec<_>>>()?;
        parts.push(merge_part(opened, scratch)?);
        if parts.len() == INPUTS_MAX {
            parts = vec![merge_parts(&parts, scratch)?];
        }
    }
    for (part, _) in &parts {
        inputs.push(open_part(part)?);
    }
    merge_snapshot(inputs, scratch)
}

fn merge_snapshot(inputs: Vec<Input>, scratch: &Path) -> Result<(Temp, Summary)> {
    let headers: Vec<Header> = inputs.iter().map(|input| *input.header()).collect();
    let merged = merge::merged_header(&headers)?;
    let proof = merged.proof.map(|proof| Proof { pre: Checksum::EMPTY, post: proof.post });
    let range = TxidRange { min: Txid::FIRST, max: merged.range.max };
    let temp = unfinished(scratch)?;
    let summary = merge::merge_as(inputs, Header { range, proof, ..merged }, writer(&temp))?;
    Ok((temp, summary))
}

fn merge_part(inputs: Vec<Input>, scratch: &Path) -> Result<(Temp, Header)> {
    let temp = unfinished(scratch)?;
    let summary = merge::merge(inputs, writer(&temp))?;
    Ok((temp, summary.header))
}

fn merge_parts(parts: &[(Temp, Header)], scratch: &Path) -> Result<(Temp, Header)> {
    let opened = parts.iter().map(|(part, _)| open_part(part)).collect::<Result<Vec<_>>>()?;
    merge_part(opened, scratch)
}

/// For what nobody needs after a crash: without a name where the filesystem can do that, else in place of what dead ones left.
pub(super) fn unfinished(scratch: &Path) -> Result<Temp> {
    let target = scratch.join("merge");
    durable::remove_stale_of(&target);
    Temp::unnamed(&target)
}

fn open_part(part: &Temp) -> Result<Input> {
    Decoder::new(reader(part)?, format!("merged file {}", part.path().display()))
}

pub fn writer(temp: &Temp) -> BufWriter<&File> {
    BufWriter::with_capacity(256 << 10, temp.file())
}

/// A temp file from its start.
fn reader(temp: &Temp) -> Result<Box<dyn ReadSeek>> {
    let io = |e| Error::io("read", temp.path(), e);
    let mut file = temp.file().try_clone().map_err(io)?;
    file.seek(SeekFrom::Start(0)).map_err(io)?;
    Ok(Box::new(file))
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::error::Kind;
    use crate::ltx::sample::{Random, file, header};
    use crate::ltx::{WalSpan, page_checksum};
    use crate::replica::FileReplica;
    use crate::testing::Folder;
    use crate::types::{PageSize, Pgno};
    use crate::upkeep::sample::{State, checksum, fill, replica};
    use std::collections::BTreeMap;
    use std::time::Duration;

    fn check(txids: u64, tail: u64) {
        let folder = Folder::new();
        let (source, target) = (replica(&folder, "a"), replica(&folder, "b"));
        let state = fill(&source, txids, tail);
        let txid = Txid::new(txids).unwrap();
        let made = snapshot_to(&source, &target, txid, folder.path()).unwrap();
        assert_eq!((made.level, made.range), (Level::SNAPSHOT, TxidRange { min: Txid::FIRST, max: txid }));
        assert_eq!(made.created_at, header(1, txids, 512, 1).timestamp);
        let mut decoder = open_decoder(&target, &made).unwrap();
        let post = checksum(&state);
        assert_eq!(decoder.header().proof, Some(Proof { pre: Checksum::EMPTY, post }));
        let mut page = vec![0; decoder.header().page_size.bytes()];
        let mut found = State::new();
        while let Some(pgno) = decoder.next_page(&mut page).unwrap() {
            found.insert(pgno.get(), page.clone());
        }
        assert_eq!(found, state);
        assert!(!folder.files().iter().any(|name| name.ends_with(".tmp")));
        let again = snapshot_to(&source, &target, txid, folder.path()).unwrap_err();
        assert_eq!(again.kind(), Kind::Exists);
    }

    #[test]
    fn a_snapshot_holds_the_state_and_its_proof() {
        check(1, 0);
        check(20, 0);
    }

    #[test]
    fn a_long_chain_is_merged_in_rounds() {
        check(INPUTS_MAX as u64 * 2 + 5, 0);
    }

    #[test]
    fn a_change_of_page_size_starts_the_merge_anew() {
        check(9, 4);
        check(9, 1);
    }

    /// Another history's state after its txid `last`, as a level-0 file `min..last` that links to `pre`.
    fn leave(replica: &FileReplica, min: u64, last: u64, pre: Checksum) {
        let page = (1, Random::new(99).page(PageSize::new(512).unwrap()));
        let proof = Some(Proof { pre, post: page_checksum(Pgno::FIRST, &page.1) });
        let header = Header { proof, ..header(min, last, 512, 1) };
        let body = file(header, &[page]);
        replica.create(Level::CAPTURED, header.range, header.timestamp, &mut Cursor::new(&body[..])).unwrap();
    }

    fn post(replica: &FileReplica, txid: u64) -> Checksum {
        let range = TxidRange::one(Txid::new(txid).unwrap());
        let file = replica.stat(Level::CAPTURED, range).unwrap().unwrap();
        header_of(replica, &file).unwrap().proof.unwrap().post
    }

    fn merge_all(source: &FileReplica, copy: &Copy<'_>, folder: &Folder) -> Result<Proof> {
        let rung = Rung {
            source: Level::CAPTURED,
            level: Level::new(1).unwrap(),
            interval: Duration::from_secs(1 << 20),
        };
        let (newest, now) = (Txid::new(7).unwrap(), Timestamp(1 << 50));
        let mut listing = source.list_all().unwrap();
        let sources = Sources { client: source, copy };
        assert!(climb(&sources, &mut listing, rung, newest, now, folder.path())?);
        let made = source.list(rung.level).unwrap();
        Ok(header_of(source, &made[0]).unwrap().proof.unwrap())
    }

    #[test]
    fn copies_are_merged_without_reading_what_they_are_copies_of() {
        let folder = Folder::new();
        let (source, kept) = (replica(&folder, "a"), replica(&folder, "b"));
        let state = fill(&source, 7, 0);
        assert_eq!(fill(&kept, 7, 0), state);
        let path = |replica: &FileReplica, file: &FileInfo| {
            replica.root().join(format!("ltx/0/{}", crate::ltx::name::format(file.range)))
        };
        for file in source.list(Level::CAPTURED).unwrap() {
            let path = path(&source, &file);
            let mut bytes = std::fs::read(&path).unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            std::fs::write(&path, bytes).unwrap();
        }
        let proof = merge_all(&source, &|file| File::open(path(&kept, file)).ok(), &folder).unwrap();
        assert_eq!(proof.post, checksum(&state));
    }

    #[test]
    fn copies_of_another_history_make_nothing() {
        let folder = Folder::new();
        let (source, other) = (replica(&folder, "a"), replica(&folder, "b"));
        fill(&source, 7, 0);
        fill(&other, 8, 0);
        let copy = |file: &FileInfo| {
            File::open(other.root().join(format!("ltx/0/{}", crate::ltx::name::format(file.range)))).ok()
        };
        let error = merge_all(&source, &copy, &folder).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt, "{error}");
        assert_eq!(source.list(Level::new(1).unwrap()).unwrap(), []);
    }

    #[test]
    fn a_leftover_is_passed_over_where_the_history_goes_on_beside_it() {
        let folder = Folder::new();
        let (source, target) = (replica(&folder, "a"), replica(&folder, "b"));
        let state = fill(&source, 7, 0);
        leave(&source, 3, 5, post(&source, 2));
        leave(&source, 2, 6, Checksum::from_crc(5));
        let made = snapshot_to(&source, &target, Txid::new(7).unwrap(), folder.path()).unwrap();
        let proof = header_of(&target, &made).unwrap().proof.unwrap();
        assert_eq!(proof.post, checksum(&state));
    }

    #[test]
    fn a_leftover_that_nobody_continued_makes_no_snapshot() {
        let folder = Folder::new();
        let (source, target) = (replica(&folder, "a"), replica(&folder, "b"));
        fill(&source, 4, 0);
        let third = post(&source, 3);
        std::fs::remove_file(source.root().join("ltx/0/0000000000000003-0000000000000003.ltx")).unwrap();
        leave(&source, 3, 3, post(&source, 2));
        assert_ne!(post(&source, 3), third);
        let error = snapshot_to(&source, &target, Txid::new(3).unwrap(), folder.path()).unwrap_err();
        assert!(error.to_string().contains("belongs to another history"), "{error}");
        assert_eq!(target.list(Level::SNAPSHOT).unwrap(), []);
    }

    #[test]
    fn a_damaged_input_makes_no_snapshot() {
        let folder = Folder::new();
        let (source, target) = (replica(&folder, "a"), replica(&folder, "b"));
        fill(&source, 5, 0);
        let path = source.root().join("ltx/0/0000000000000003-0000000000000003.ltx");
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let error = snapshot_to(&source, &target, Txid::new(5).unwrap(), folder.path()).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt, "{error}");
        assert_eq!(target.list(Level::SNAPSHOT).unwrap(), []);
        assert!(!folder.files().iter().any(|name| name.ends_with(".tmp")));
    }

    /// Not a test by itself: writes with our encoder what another program then reads. Copies every level-0 file
    /// of one replica into another, encoded anew with the proof and the writer id it lacked, and makes two
    /// snapshots from the copies.
    #[test]
    #[ignore = "run by python-tests/test_interop_format.py with two replica URLs in its environment"]
    fn encodes_a_replica_anew_for_a_peer() {
        let url = |name| std::env::var(name).unwrap();
        let source = FileReplica::open(&url("INTEROP_SOURCE")).unwrap();
        let target = FileReplica::open(&url("INTEROP_TARGET")).unwrap();
        let target = FileReplica::at_or_create(target.root().to_owned()).unwrap();
        let files = source.list(Level::CAPTURED).unwrap();
        let mut state: BTreeMap<u32, Checksum> = BTreeMap::new();
        let database =
            |state: &BTreeMap<u32, Checksum>| state.values().copied().fold(Checksum::EMPTY, Checksum::toggle);
        for file in &files {
            let pre = database(&state);
            let mut decoder = open_decoder(&source, file).unwrap();
            let mut page = vec![0; decoder.header().page_size.bytes()];
            while let Some(pgno) = decoder.next_page(&mut page).unwrap() {
                state.insert(pgno.get(), page_checksum(pgno, &page));
            }
            state.retain(|pgno, _| *pgno <= decoder.header().page_count);
            let proof = Some(Proof { pre, post: database(&state) });
            let header = Header { proof, writer_id: 7, wal: WalSpan::CAPTURED, ..*decoder.header() };
            let mut bytes = Vec::new();
            merge::merge_as(vec![open_decoder(&source, file).unwrap()], header, &mut bytes).unwrap();
            target
                .create(Level::CAPTURED, file.range, header.timestamp, &mut Cursor::new(&bytes[..]))
                .unwrap();
        }
        for file in [files.first().unwrap(), files.last().unwrap()] {
            snapshot_to(&target, &target, file.range.max, target.root()).unwrap();
        }
    }
}
