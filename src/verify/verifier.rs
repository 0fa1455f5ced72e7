//! A verification that goes on file by file and remembers what it has verified.
//!
//! ```text
//! refresh   list; what was verified stays so while its name holds the same object
//! step      the unread files by max, of those that end alike first the one that goes on from the state:
//!           advance   it links to the state, is applied to it, and gives the checksum it states
//!           look      it is read, compared with the state if that is at its txid, and with what it merges
//! ```
//!
//! What follows from what was found: [`conclusions`].
//!
//! A file that ends before the state (merged after the state had passed there) is read, linked by the checksums of the
//! txids that were passed, and compared with what it merges.

use super::Options;
mod conclusions;

use super::compare::{compare, is_at};
use super::fold::{Fold, sources};
use super::listing::examine;
use super::report::{FINDINGS_MAX, Finding, Progress, Report, Trouble, called};
use super::state::{State, Tried, apply};
use crate::error::{Error, Kind, Result};
use crate::ltx::merge::check_link;
use crate::ltx::parts::RECORD_BYTES_MIN;
use crate::ltx::{Decoder, Header};
use crate::replica::{Client, ReadSeek, open_decoder};
use crate::types::{Checksum, FileInfo, Level, Position, Txid, TxidRange};
use std::collections::{HashMap, HashSet, VecDeque};

/// Txids whose computed database checksum is remembered.
pub const POSTS_MAX: usize = 1 << 20;
/// Times in a row that the replica is listed anew because a file went.
const LISTINGS_MAX: u32 = 5;
const UNLINKED: &str =
    "restores pass a level-0 file over that its successor does not link to; find out who else writes";

type Input = Decoder<Box<dyn ReadSeek>>;

pub struct Verifier {
    options: Options,
    /// The newest listing, by range; and level 0 of it.
    listing: Vec<FileInfo>,
    captured: Vec<FileInfo>,
    leftovers: HashSet<TxidRange>,
    /// Not read yet, by max, then level.
    pending: VecDeque<FileInfo>,
    done: HashMap<(Level, TxidRange), FileInfo>,
    state: Option<State>,
    /// Computed checksums of the database, ascending.
    posts: VecDeque<Position>,
    /// Header of the last file of each level.
    tails: HashMap<Level, Header>,
    /// What level-0 leftovers state.
    stated: HashMap<TxidRange, Option<Checksum>>,
    /// The level-0 file after the one that was read last, opened for its header.
    ahead: Option<(FileInfo, Input)>,
    /// Counts, and what was found in files.
    report: Report,
    /// What the newest listing told.
    listed: Vec<Finding>,
    progress: Progress,
    /// Bytes read, of sources and of files that failed too.
    read: u64,
    is_listed: bool,
    listings: u32,
}

impl Verifier {
    pub fn new(options: Options) -> Verifier {
        Verifier {
            options,
            listing: Vec::new(),
            captured: Vec::new(),
            leftovers: HashSet::new(),
            pending: VecDeque::new(),
            done: HashMap::new(),
            state: None,
            posts: VecDeque::new(),
            tails: HashMap::new(),
            stated: HashMap::new(),
            ahead: None,
            report: Report::default(),
            listed: Vec::new(),
            progress: Progress::default(),
            read: 0,
            is_listed: false,
            listings: 0,
        }
    }

    /// What the replica must hold from now on.
    pub fn expect(&mut self, position: Position) {
        self.options.expected = Some(position);
    }

    /// Lists the replica: the next steps read what is there and was not verified.
    ///
    /// # Errors
    /// As the store says; `NotFound` when it holds no LTX files and never did.
    pub fn refresh(&mut self, client: &dyn Client) -> Result<()> {
        let mut listing = whole_listing(client)?;
        if listing.is_empty() && self.state.is_none() {
            return Err(Error::not_found(format!("{} holds no LTX files", client.url())));
        }
        listing.sort_by_key(|file| (file.range, file.level));
        let key = |file: &FileInfo| (file.level, file.range);
        let (done, mut pending): (Vec<FileInfo>, Vec<FileInfo>) = listing
            .iter()
            .partition(|file| self.done.get(&key(file)).is_some_and(|before| before.same_object(file)));
        pending.sort_by_key(|file| (file.range.max, file.level, file.range.min));
        self.progress.files_total = listing.len() as u64;
        self.progress.bytes_total = listing.iter().map(|file| file.size).sum();
        self.progress.files = done.len() as u64;
        self.progress.bytes = done.iter().map(|file| file.size).sum();
        self.done = done.into_iter().map(|file| (key(&file), file)).collect();
        // What was found in a file that went, or is another now, is found no longer.
        let done = &self.done;
        self.report.findings.retain(|finding| finding.file.is_none_or(|file| done.contains_key(&file)));
        self.pending = pending.into();
        self.captured = listing.iter().filter(|file| file.level == Level::CAPTURED).copied().collect();
        self.report.newest = listing.iter().map(|file| file.range.max).max();
        let examined = examine(&listing);
        self.leftovers = examined.leftovers;
        self.listed = examined.findings;
        self.listing = listing;
        self.ahead = None;
        self.is_listed = true;
        Ok(())
    }

    /// Reads at least one file, and more until `bytes` are read. `false` when nothing is left to be read.
    ///
    /// # Errors
    /// As the store or the system says: what was not finished is read again by the next step. `Conflict` when the
    /// replica changed faster than it could be read.
    pub fn step(&mut self, client: &dyn Client, bytes: u64) -> Result<bool> {
        if !self.is_listed {
            self.refresh(client)?;
        }
        let until = self.read.saturating_add(bytes);
        let mut worked = Ok(());
        while let Some(file) = self.next() {
            worked = self.verify(client, &file).or_else(|error| self.again(client, &file, error));
            if worked.is_err() || self.read >= until {
                break;
            }
        }
        // An answer of a store cannot be held open until who knows when.
        self.ahead = None;
        worked.map(|()| !self.pending.is_empty())
    }

    /// How far the newest listing is read.
    pub fn progress(&self) -> Progress {
        self.progress
    }

    /// The newest txid up to which everything is proven.
    pub fn verified_txid(&self) -> Option<Txid> {
        self.verified(&self.conclusions()).map(|position| position.txid)
    }

    /// What was found so far; all of it when nothing is left to be read.
    pub fn report(&self) -> Report {
        let mut findings = self.conclusions();
        let verified = self.verified(&findings);
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.grade));
        let left_out = findings.len().saturating_sub(FINDINGS_MAX);
        findings.truncate(FINDINGS_MAX);
        let findings_left_out = self.report.findings_left_out + left_out as u64;
        Report { findings, verified, findings_left_out, ..self.report.clone() }
    }

    /// The next unread file.
    fn next(&self) -> Option<FileInfo> {
        let max = self.pending.front()?.range.max;
        let mut alike = self.pending.iter().take_while(|file| file.range.max == max);
        alike.find(|file| self.goes_on(file)).or(self.pending.front()).copied()
    }

    fn is_leftover(&self, file: &FileInfo) -> bool {
        file.level == Level::CAPTURED && self.leftovers.contains(&file.range)
    }

    /// Whether the names let `file` be applied to the state.
    fn goes_on(&self, file: &FileInfo) -> bool {
        match &self.state {
            _ if self.is_leftover(file) => false,
            None => file.range.min == Txid::FIRST,
            Some(state) => {
                let at = state.position.txid;
                file.range.max > at && file.range.min <= at.next()
            }
        }
    }

    /// What to do after an error: list anew when the file went, else give up for now.
    fn again(&mut self, client: &dyn Client, file: &FileInfo, error: Error) -> Result<()> {
        if !matches!(error.kind(), Kind::NotFound | Kind::Conflict) {
            return Err(error);
        }
        self.listings += 1;
        if self.listings > LISTINGS_MAX {
            self.listings = 0;
            return Err(Error::conflict(format!(
                "the replica changes faster than {} can be read: {error}; try again",
                called(file)
            )));
        }
        self.refresh(client)
    }

    fn verify(&mut self, client: &dyn Client, file: &FileInfo) -> Result<()> {
        let opened = match self.ahead.take() {
            Some((ahead, decoder)) if ahead.same_object(file) => Ok(decoder),
            _ => open_decoder(client, file),
        };
        match opened {
            Ok(mut decoder) => self.examine(client, file, &mut decoder)?,
            Err(error) if error.kind() == Kind::Corrupt => self.damaged(file, &error),
            Err(error) => return Err(error),
        }
        self.listings = 0;
        // Near the front: among those that end alike.
        let at = self.pending.iter().position(|other| (other.level, other.range) == (file.level, file.range));
        at.and_then(|at| self.pending.remove(at));
        self.done.insert((file.level, file.range), *file);
        self.progress.files += 1;
        self.progress.bytes += file.size;
        Ok(())
    }

    fn examine(&mut self, client: &dyn Client, file: &FileInfo, decoder: &mut Input) -> Result<()> {
        let header = *decoder.header();
        let is_history = self.is_linked(client, file, &header)?;
        if is_history && self.goes_on(file) && self.links_to_state(file, &header) {
            self.advance(file, decoder)?;
        } else {
            self.look(client, file, decoder)?;
        }
        self.read += decoder.bytes();
        if self.is_leftover(file) {
            self.stated.insert(file.range, decoder.post());
        }
        Ok(())
    }

    /// Whether a level-0 file links to the next one (rule 2 of the protocol); others to the one before at their level.
    fn is_linked(&mut self, client: &dyn Client, file: &FileInfo, header: &Header) -> Result<bool> {
        if file.level != Level::CAPTURED {
            let tail = self.tails.get(&file.level).filter(|_| file.level != Level::SNAPSHOT);
            let link = tail.map_or(Ok(()), |tail| check_link(tail, header));
            if tail.is_none_or(|tail| tail.range.max < header.range.max) {
                self.tails.insert(file.level, *header);
            }
            if let Err(error) = link {
                self.unlinked(file, &error);
            }
            return Ok(true);
        }
        let follows = file.range.max.next();
        let at = self.captured.partition_point(|next| next.range.min < follows);
        let Some(next) = self.captured.get(at).copied().filter(|next| next.range.min == follows) else {
            return Ok(true);
        };
        let decoder = match open_decoder(client, &next) {
            Ok(decoder) => decoder,
            // A finding of its own, when its turn comes.
            Err(error) if error.kind() == Kind::Corrupt => return Ok(true),
            Err(error) => return Err(error),
        };
        let link = check_link(header, decoder.header());
        self.ahead = Some((next, decoder));
        match link {
            Ok(()) => Ok(true),
            Err(error) => {
                self.unlinked(file, &error);
                Ok(false)
            }
        }
    }

    fn unlinked(&mut self, file: &FileInfo, error: &Error) {
        let what = format!("{} does not link: {error}", called(file));
        let remedy =
            "restores pass a level-0 file over that its successor does not link to; find out who else writes";
        self.find(Finding::problem(Trouble::Link, what, remedy).about(file).spoiling(file.range.min));
    }

    /// Whether a file that states the checksum before it states that of the state, if it begins right after it.
    fn links_to_state(&mut self, file: &FileInfo, header: &Header) -> bool {
        let Some((state, proof)) = self.state.as_ref().zip(header.proof) else { return true };
        let at = state.position;
        if header.is_snapshot() || file.range.min != at.txid.next() || proof.pre == at.checksum {
            return true;
        }
        let what = format!(
            "{} starts from checksum {}, but the database after txid {} has {}",
            called(file),
            proof.pre,
            at.txid,
            at.checksum
        );
        let remedy = "it belongs to another history, or a file before it does; find out who else writes";
        self.find(Finding::problem(Trouble::Link, what, remedy).about(file).spoiling(file.range.min));
        false
    }

    fn advance(&mut self, file: &FileInfo, decoder: &mut Input) -> Result<()> {
        match apply(self.state.take(), decoder, &self.options.scratch) {
            Tried::Applied(state) => {
                if self.posts.len() == POSTS_MAX {
                    self.posts.pop_front();
                }
                self.posts.push_back(state.position);
                self.report.oldest = self.report.oldest.or(Some(state.position.txid));
                self.report.database_checksums += u64::from(decoder.post().is_some());
                self.state = Some(state);
                self.count(decoder);
                Ok(())
            }
            Tried::Refused(back, trouble, error) => {
                self.state = back;
                match (error.kind(), trouble) {
                    (Kind::Corrupt, Trouble::Damage) => self.damaged(file, &error),
                    (Kind::Corrupt, trouble) => {
                        let remedy = "take a snapshot, so that the newest state can be restored";
                        let finding = Finding::problem(trouble, error.to_string(), remedy).about(file);
                        self.find(finding.spoiling(file.range.max));
                    }
                    _ => {
                        if self.state.is_none() && !self.posts.is_empty() {
                            self.start_over();
                        }
                        return Err(error);
                    }
                }
                Ok(())
            }
        }
    }

    /// The state is gone and no file is to blame: everything is read again.
    fn start_over(&mut self) {
        *self = Verifier::new(self.options.clone());
    }

    fn count(&mut self, decoder: &Input) {
        self.report.files += 1;
        self.report.bytes += decoder.bytes();
        self.report.pages += u64::from(decoder.pages());
    }

    /// Reads a file that does not carry the state on.
    fn look(&mut self, client: &dyn Client, file: &FileInfo, decoder: &mut Input) -> Result<()> {
        let mut fold = self.fold(client, file)?;
        let header = *decoder.header();
        let mut state = self.state.take();
        let looked = compare(decoder, state.as_mut().filter(|s| is_at(s, &header)), fold.as_mut());
        self.state = state;
        let compared = match looked {
            Ok(compared) => compared,
            Err(error) if error.kind() == Kind::Corrupt => {
                self.damaged(file, &error);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        self.count(decoder);
        self.report.merges += u64::from(fold.is_some());
        let other = compared.other.or_else(|| self.other_checksum(decoder, compared.total));
        // Of a leftover the listing tells already.
        if let Some(what) = other.filter(|_| !self.is_leftover(file)) {
            let (trouble, remedy) = match file.level {
                Level::CAPTURED => (Trouble::Link, UNLINKED),
                _ => (Trouble::Merge, "a restore that takes this file fails: delete it and merge again"),
            };
            self.find(Finding::problem(trouble, what, remedy).about(file).spoiling(file.range.max));
        }
        Ok(())
    }

    /// What the sources of a merged file give, where they are all there.
    fn fold(&mut self, client: &dyn Client, file: &FileInfo) -> Result<Option<Fold>> {
        if !(1..=8).contains(&file.level.get()) {
            return Ok(None);
        }
        let leftovers = &self.leftovers;
        let history = |f: &&FileInfo| f.level != Level::CAPTURED || !leftovers.contains(&f.range);
        let from = self.listing.partition_point(|f| f.range.min < file.range.min);
        let to = self.listing.partition_point(|f| f.range.min <= file.range.max);
        let Some(sources) = sources(self.listing[from..to].iter().filter(history), file) else {
            return Ok(None);
        };
        let sources: Vec<FileInfo> = sources.into_iter().copied().collect();
        // Every page of a database that can be restored lies in one of the files.
        let pages_max = self.progress.bytes_total / RECORD_BYTES_MIN + 1;
        let fold = Fold::of(client, &sources, pages_max, &self.options.scratch)?;
        self.read += fold.as_ref().map_or(0, |fold| fold.bytes);
        Ok(fold)
    }

    /// Whether what a file states, or a snapshot is, differs from what was computed for that txid.
    fn other_checksum(&mut self, decoder: &Input, total: Checksum) -> Option<String> {
        let (header, name) = (decoder.header(), decoder.name());
        let (post, stated) = (self.post(header.range.max), decoder.post());
        if header.is_snapshot() && stated.is_some_and(|stated| stated != total) {
            return Some(format!("{name} holds a database with checksum {total} and says it is {}", stated?));
        }
        let found = if header.is_snapshot() { Some(total) } else { stated };
        if let (Some(found), Some(post)) = (found, post) {
            if found != post {
                return Some(format!(
                    "{name} ends with checksum {found}, but the database after txid {} has {post}",
                    header.range.max
                ));
            }
            self.report.database_checksums += u64::from(stated.is_some());
        }
        let before = header.range.min.previous().and_then(|txid| self.post(txid));
        let pre = header.proof.map(|proof| proof.pre);
        match (pre, before) {
            (Some(pre), Some(before)) if pre != before => {
                Some(format!("{name} starts from checksum {pre}, but the database before it has {before}"))
            }
            _ => None,
        }
    }

    /// The checksum that was computed for the state after `txid`.
    fn post(&self, txid: Txid) -> Option<Checksum> {
        let at = self.posts.binary_search_by_key(&txid, |position| position.txid).ok()?;
        Some(self.posts[at].checksum)
    }

    fn damaged(&mut self, file: &FileInfo, error: &Error) {
        let remedy = "what other files hold can still be restored; take a snapshot, then delete this file";
        let finding = Finding::problem(Trouble::Damage, error.to_string(), remedy).about(file);
        self.find(finding.spoiling(file.range.max));
    }

    fn find(&mut self, finding: Finding) {
        // Read again after an error of the store, a file would tell the same again.
        if self.report.findings.contains(&finding) {
            return;
        }
        if self.report.findings.len() < FINDINGS_MAX {
            self.report.findings.push(finding);
        } else {
            self.report.findings_left_out += 1;
        }
    }
}

/// A listing whose levels belong together. Level 0 is listed first: what was captured and merged before the others were
/// listed would seem to be missing there.
fn whole_listing(client: &dyn Client) -> Result<Vec<FileInfo>> {
    let newest = |files: &[FileInfo], most: Level| {
        files.iter().filter(|file| file.level <= most).map(|file| file.range.max).max()
    };
    let mut listing = client.list_all()?;
    for _ in 0..LISTINGS_MAX {
        let captured = newest(&listing, Level::CAPTURED);
        if captured == newest(&listing, Level::SNAPSHOT) {
            break;
        }
        listing = client.list_all()?;
        if captured == newest(&listing, Level::CAPTURED) {
            break;
        }
    }
    Ok(listing)
}
