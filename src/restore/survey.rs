//! From files to batches, in order, newest file first: headers, links and page indexes, and which records are wanted.
//!
//! A small file is in memory whole; of a large one only the index passes by, a stretch at a time.

use super::batch::{self, Batch, Planned};
use super::wanted::Wanted;
use super::{Attempt, Restored, Setback, begin, doubt, pages};
use crate::catalog::Chain;
use crate::error::{Error, Kind};
use crate::fs::durable::Temp;
use crate::lock::Mutex;
use crate::ltx::Header;
use crate::ltx::index_reader::IndexReader;
use crate::ltx::merge::check_link;
use crate::ltx::parts::Sum;
use crate::replica::{Client, Indexed, open_decoder};
use crate::types::{Checksum, FileInfo, PageSize};
use std::sync::Arc;

/// Files up to here are read with one request and verified whole. In tests all sizes are small, so that small files show
/// what large ones do.
const SMALL_BYTES: u64 = if cfg!(test) { 4 << 10 } else { 256 << 10 };
/// Unwanted bytes between wanted ones that are read rather than passed over.
const GAP_BYTES: u64 = if cfg!(test) { 300 } else { 64 << 10 };

/// What is read of a file before its turn comes.
pub struct Fetched {
    stored: Indexed,
    /// The header of the level-0 file after a level-0 step, where that is not the next step.
    link: Option<Header>,
}

/// Bytes that stay in memory from the fetch of a file until its last batch is done.
pub fn held_bytes(file: &FileInfo) -> u64 {
    if file.size <= SMALL_BYTES { file.size } else { 0 }
}

/// Reads what must be known of a file first, and all of a small one.
///
/// # Errors
/// `Doubt` for damage; `Changed`, `Failed`.
pub fn fetch(client: &dyn Client, file: &FileInfo, link: Option<&FileInfo>) -> Attempt<Fetched> {
    let stored = Indexed::open(client, file, SMALL_BYTES).map_err(Setback::of)?;
    let link = match link.map(|next| open_decoder(client, next)) {
        Some(Ok(next)) => Some(*next.header()),
        // A damaged one tells nothing about the file before it.
        Some(Err(error)) if error.kind() != Kind::Corrupt => return Err(Setback::of(error)),
        _ => None,
    };
    Ok(Fetched { stored, link })
}

/// A file whose batches are under way.
pub struct Open {
    pub stored: Indexed,
    // Guards what has come back of it.
    account: Mutex<Account>,
}

#[derive(Default)]
struct Account {
    /// By number; of batches done.
    sums: Vec<Option<Sum>>,
    done: usize,
    bytes: u64,
    /// How many batches it has, the sum of its index, and whether records were passed over; known at its end.
    planned: Option<(usize, Sum, bool)>,
}

impl Open {
    pub fn page_size(&self) -> PageSize {
        self.stored.parts.header.page_size
    }

    /// Notes a batch done. When it was the last one and the file is what it should be: the bytes of the file that were
    /// in no batch.
    ///
    /// # Errors
    /// `Doubt` when the file checksum does not match.
    pub fn note(&self, batch: &Batch, sum: Option<Sum>) -> Attempt<Option<u64>> {
        let mut account = self.account.lock();
        if account.sums.len() <= batch.number {
            account.sums.resize(batch.number + 1, None);
        }
        account.sums[batch.number] = sum;
        account.done += 1;
        account.bytes += batch.bytes;
        self.check(&account)
    }

    fn end(&self, batches: usize, index: Sum, passed_over: bool) -> Attempt<Option<u64>> {
        let mut account = self.account.lock();
        account.planned = Some((batches, index, passed_over));
        self.check(&account)
    }

    fn check(&self, account: &Account) -> Attempt<Option<u64>> {
        let Some((batches, index, passed_over)) = account.planned else { return Ok(None) };
        if account.done < batches {
            return Ok(None);
        }
        if !passed_over {
            let sums = account.sums.iter().map(|sum| sum.expect("BUG: a batch of a whole file has a sum"));
            let Indexed { parts, name, .. } = &self.stored;
            let checked = parts.check(sums, &index);
            checked.map_err(|damage| doubt(damage.at(name, self.stored.file.size - 8)))?;
        }
        Ok(Some(self.stored.file.size - account.bytes))
    }
}

/// A file whose index is being read.
struct Current {
    file: Arc<Open>,
    index: IndexReader,
    is_over: bool,
    /// Superseded pages need not be read; some were not.
    may_pass_over: bool,
    passed_over: bool,
    /// Where the record of the next entry begins.
    offset: u64,
    batches: usize,
    batch: Vec<Planned>,
    batch_at: u64,
    /// Unwanted records after those of the batch.
    gap: Vec<Planned>,
    gap_bytes: u64,
}

/// What comes next of the chain.
pub enum Next {
    Batch(Batch),
    /// A file is over; where its last batch is done, too, or it had none, as [`Open::note`].
    FileOver(FileInfo, Option<u64>),
}

pub struct Survey<'a> {
    client: &'a dyn Client,
    chain: &'a Chain,
    temp: &'a Temp,
    /// Steps not begun yet.
    left: usize,
    newer: Option<Header>,
    /// The newest file states the checksum of the database in its header.
    is_proven: bool,
    begun: Option<(Wanted, Restored)>,
    current: Option<Current>,
}

impl<'a> Survey<'a> {
    pub fn new(client: &'a dyn Client, chain: &'a Chain, temp: &'a Temp) -> Survey<'a> {
        let left = chain.steps.len();
        Survey { client, chain, temp, left, newer: None, is_proven: false, begun: None, current: None }
    }

    /// Whether the next file is wanted before [`Survey::next`] can go on.
    pub fn needs_file(&self) -> bool {
        self.current.is_none() && self.left > 0
    }

    /// Index of the step that is begun next; `None` when all were.
    pub fn next_step(&self) -> Option<usize> {
        self.left.checked_sub(1)
    }

    pub fn is_over(&self) -> bool {
        self.current.is_none() && self.left == 0
    }

    /// The account so far, once a file was begun.
    pub fn restored(&self) -> Option<&Restored> {
        self.begun.as_ref().map(|(_, restored)| restored)
    }

    /// The account, when every page is there.
    ///
    /// # Errors
    /// `Doubt` when one is not.
    pub fn finish(self) -> Attempt<Restored> {
        let (wanted, restored) = self.begun.expect("BUG: a chain has a step");
        wanted.check_complete().map_err(doubt)?;
        Ok(restored)
    }

    /// Begins the next older file.
    ///
    /// # Errors
    /// `Doubt` when it is damaged or does not link; `Failed`.
    pub fn begin(&mut self, fetched: Fetched) -> Attempt<()> {
        assert!(self.needs_file(), "BUG: a file before its turn");
        self.left -= 1;
        let stored = fetched.stored;
        assert!(
            stored.file.same_object(&self.chain.steps[self.left]),
            "BUG: another file than the next older one"
        );
        let header = stored.parts.header;
        for next in self.newer.iter().chain(&fetched.link) {
            check_link(&header, next).map_err(doubt)?;
        }
        let is_newest = self.newer.is_none();
        self.newer = Some(header);
        if is_newest {
            let mut restored = begin(self.chain, &header).map_err(doubt)?;
            pages::resize(self.temp, &header)?;
            let post = header.proof.map(|proof| proof.post);
            restored.proven = post.is_some();
            restored.position.checksum = post.unwrap_or(Checksum::EMPTY);
            self.is_proven = header.proof.is_some();
            self.begun = Some((Wanted::new(&header), restored));
        }
        let (wanted, restored) = self.begun.as_mut().expect("BUG: begun with the newest file");
        if header.page_size != restored.page_size {
            return Err(doubt(Error::corrupt(format!(
                "{} has another page size than the files after it",
                stored.name
            ))));
        }
        wanted.begin(&header);
        let may_pass_over =
            !is_newest && self.is_proven && header.proof.is_some() && stored.content.is_none();
        let index = stored.index().map_err(doubt)?;
        let account = Mutex::default();
        let file = Arc::new(Open { stored, account });
        self.current = Some(Current {
            file,
            index,
            is_over: false,
            may_pass_over,
            passed_over: false,
            offset: Header::BYTES as u64,
            batches: 0,
            batch: Vec::new(),
            batch_at: 0,
            gap: Vec::new(),
            gap_bytes: 0,
        });
        Ok(())
    }

    /// Goes on with the file that was begun.
    ///
    /// # Errors
    /// `Doubt` when its index is damaged; `Changed`, `Failed`.
    pub fn next(&mut self) -> Attempt<Next> {
        let (wanted, _) = self.begun.as_mut().expect("BUG: no file was begun");
        let current = self.current.as_mut().expect("BUG: no file was begun");
        if let Some(batch) = current.next_batch(self.client, wanted)? {
            return Ok(Next::Batch(batch));
        }
        let current = self.current.take().expect("BUG: just there");
        let rest = current.file.end(current.batches, current.index.sum(), current.passed_over)?;
        Ok(Next::FileOver(current.file.stored.file, rest))
    }
}

impl Current {
    /// The next batch of the file; `None` at its end.
    fn next_batch(&mut self, client: &dyn Client, wanted: &mut Wanted) -> Attempt<Option<Batch>> {
        while !self.is_over {
            let entry = self.file.stored.next(client, &mut self.index);
            let batch = match entry.map_err(Setback::of)? {
                None => {
                    self.is_over = true;
                    self.cut()
                }
                Some(entry) => {
                    let is_wanted = wanted.take(entry.pgno);
                    self.add(Planned { pgno: entry.pgno, length: entry.length as u32, is_wanted })
                }
            };
            if batch.is_some() {
                return Ok(batch);
            }
        }
        Ok(None)
    }

    /// Takes the record of the next entry; a batch, when one is full or ends before the records passed over.
    fn add(&mut self, planned: Planned) -> Option<Batch> {
        let offset = self.offset;
        self.offset += u64::from(planned.length);
        if !planned.is_wanted && self.may_pass_over {
            self.passed_over = true;
            if self.batch.is_empty() {
                return None;
            }
            self.gap.push(planned);
            self.gap_bytes += u64::from(planned.length);
            return if self.gap_bytes > GAP_BYTES { self.cut() } else { None };
        }
        if self.batch.is_empty() {
            self.batch_at = offset;
        }
        self.batch.append(&mut self.gap);
        self.gap_bytes = 0;
        self.batch.push(planned);
        let is_full = self.offset - self.batch_at >= batch::BYTES || self.batch.len() >= batch::RECORDS;
        if is_full { self.cut() } else { None }
    }

    /// What has been collected, as a batch; the records passed over after it are left out.
    fn cut(&mut self) -> Option<Batch> {
        self.gap.clear();
        self.gap_bytes = 0;
        if self.batch.is_empty() {
            return None;
        }
        let records = std::mem::take(&mut self.batch);
        let number = self.batches;
        self.batches += 1;
        Some(Batch {
            file: Arc::clone(&self.file),
            number,
            offset: self.batch_at,
            bytes: records.iter().map(|record| u64::from(record.length)).sum(),
            records,
            is_summed: !self.passed_over,
        })
    }
}
