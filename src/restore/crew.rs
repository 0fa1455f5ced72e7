//! The quick way from a chain to a database: a few threads that fetch files, plan and work off batches, whatever is next.
//!
//! ```text
//! fetch (ahead, any order) -> survey (newest file first, one at a time) -> batches (any order) -> output
//! ```
//!
//! Nobody waits for the disk before the end, and it is told early what it can begin with.
//!
//! Promises: a database comes out only when every page is there and everything matched; the slightest doubt ends it, and
//! [`super::whole`] tells what is wrong. What is in memory is bounded: see the constants, and `docs/restore.md`.

use super::batch::{Batch, Bench, Done};
use super::pages::{Output, Runs};
use super::survey::{self, Fetched, Next, Survey};
use super::{Attempt, Options, Restored, Setback, batch, doubt};
use crate::catalog::Chain;
use crate::error::{Error, Kind};
use crate::ffi::os;
use crate::fs::durable::Temp;
use crate::lock::{Condvar, Mutex, MutexGuard};
use crate::ltx::parts::Records;
use crate::replica::Client;
#[cfg(test)]
use crate::testing::mutation::{self, Mutation};
use crate::types::{Checksum, FileInfo, Level, TxidRange};
use std::collections::{BTreeMap, VecDeque};

/// Threads of a restore unless more are asked for: each has buffers of 1.6 MiB.
const THREADS_MAX: usize = 16;
/// Files fetched ahead, for each thread, and the bytes of those in memory.
const AHEAD_FILES: usize = 4;
const AHEAD_BYTES: u64 = 8 << 20;
/// Batches that wait, for each thread.
const QUEUE: usize = 2;

/// Restores the chain into `temp`.
///
/// # Errors
/// `Doubt` when anything does not match; `Changed`, `Failed`.
pub fn restore(client: &dyn Client, chain: &Chain, temp: &Temp, options: &Options<'_>) -> Attempt<Restored> {
    let all = chain.steps.iter().map(|step| step.size).sum::<u64>();
    let jobs = chain.steps.len() + usize::try_from(all / batch::BYTES).unwrap_or(usize::MAX);
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    let default = || cores().max(client.reads_at_once()).min(THREADS_MAX);
    let threads = options.parallelism.map_or_else(default, usize::from).min(jobs);
    let links = chain.links.iter().map(|link| ((link.step.level, link.step.range), link.next)).collect();
    let output = Output::new(temp);
    let state = State {
        survey: Some(Box::new(Survey::new(client, chain, temp))),
        fetched: BTreeMap::new(),
        to_fetch: chain.steps.len(),
        held: 0,
        batches: VecDeque::new(),
        at_work: 0,
        asleep: 0,
        checksum: Checksum::EMPTY,
        page_checksums: None,
        done: 0,
        stop: None,
    };
    let crew = Crew {
        client,
        chain,
        links,
        output: &output,
        options,
        threads,
        all,
        state: Mutex::new(state),
        changed: Condvar::default(),
        told: Mutex::new(0),
    };
    crew.run()?;
    crew.finish()
}

struct Crew<'a> {
    client: &'a dyn Client,
    chain: &'a Chain,
    /// By step: the level-0 file after it, where that is not the next step.
    links: BTreeMap<(Level, TxidRange), FileInfo>,
    output: &'a Output<'a>,
    options: &'a Options<'a>,
    threads: usize,
    /// Bytes of all files.
    all: u64,
    // Guards what is to be done and what came of it; never held while any of it is done.
    state: Mutex<State<'a>>,
    changed: Condvar,
    // Guards the bytes told last; held while they are told.
    told: Mutex<u64>,
}

struct State<'a> {
    /// `None` while a thread plans.
    survey: Option<Box<Survey<'a>>>,
    /// By index of the step; those from `to_fetch` on are or were fetched.
    fetched: BTreeMap<usize, Box<Fetched>>,
    to_fetch: usize,
    /// Bytes of files in memory.
    held: u64,
    batches: VecDeque<Batch>,
    /// Threads that have a job, and that have none.
    at_work: usize,
    asleep: usize,
    checksum: Checksum,
    page_checksums: Option<Vec<Checksum>>,
    /// Bytes of files that are done.
    done: u64,
    stop: Option<Setback>,
}

enum Job<'a> {
    /// With the file whose turn it is, if one is to be begun.
    Plan(Box<Survey<'a>>, Option<Box<Fetched>>),
    Fetch(usize),
    Batch(Batch),
}

impl<'a> State<'a> {
    fn is_over(&self) -> bool {
        let is_planned = self.survey.as_ref().is_some_and(|survey| survey.is_over());
        self.stop.is_some() || is_planned && self.batches.is_empty() && self.at_work == 0
    }

    fn may_plan(&self, threads: usize) -> bool {
        let Some(survey) = &self.survey else { return false };
        let is_fed =
            !survey.needs_file() || survey.next_step().is_some_and(|at| self.fetched.contains_key(&at));
        is_fed && !survey.is_over() && self.batches.len() < QUEUE * threads
    }

    fn may_fetch(&self, crew: &Crew<'_>) -> bool {
        let Some(next) = self.to_fetch.checked_sub(1) else { return false };
        let bytes = survey::held_bytes(&crew.chain.steps[next]);
        let ahead = self.fetched.len() < AHEAD_FILES * crew.threads;
        ahead && (self.held == 0 || self.held + bytes <= AHEAD_BYTES)
    }

    /// What a thread should do next: planning feeds all, a fetch waits the longest.
    fn take_job(&mut self, crew: &Crew<'_>) -> Option<Job<'a>> {
        if self.may_plan(crew.threads) {
            let survey = self.survey.take().expect("BUG: just there");
            let next = survey.next_step().filter(|_| survey.needs_file());
            let fetched = next.and_then(|at| self.fetched.remove(&at));
            return Some(Job::Plan(survey, fetched));
        }
        if self.may_fetch(crew) {
            self.to_fetch -= 1;
            self.held += survey::held_bytes(&crew.chain.steps[self.to_fetch]);
            return Some(Job::Fetch(self.to_fetch));
        }
        self.batches.pop_front().map(Job::Batch)
    }

    fn has_job(&self, crew: &Crew<'_>) -> bool {
        !self.batches.is_empty() || self.may_plan(crew.threads) || self.may_fetch(crew)
    }

    /// A file is done but for so many bytes that were in no batch.
    fn release(&mut self, file: &FileInfo, rest: u64) {
        self.held -= survey::held_bytes(file);
        self.done += rest;
    }

    fn note(&mut self, batch: &Batch, done: &Done, rest: Option<u64>) {
        self.checksum = self.checksum.toggle(done.checksum);
        if let Some(checksums) = &mut self.page_checksums {
            done.pages.iter().for_each(|(pgno, checksum)| checksums[pgno.get() as usize - 1] = *checksum);
        }
        self.done += batch.bytes;
        if let Some(rest) = rest {
            self.release(&batch.file.stored.file, rest);
        }
    }
}

impl<'a> Crew<'a> {
    /// Works until the database is there, or it is known that it cannot be had so.
    fn run(&self) -> Attempt<()> {
        if self.threads == 1 {
            self.work();
            return Ok(());
        }
        let started = os::in_parallel(self.threads, &|_| {
            let _alarm = Alarm(self);
            self.work();
        });
        match started {
            // Those that did start have done it all.
            Err(_) if self.state.lock().is_over() => Ok(()),
            other => other
                .map_err(|e| Setback::Failed(Error::new(Kind::Io, format!("cannot start a thread: {e}")))),
        }
    }

    fn work(&self) {
        let mut bench = None;
        let mut state = self.state.lock();
        while !state.is_over() {
            let Some(job) = state.take_job(self) else {
                state.asleep += 1;
                self.changed.wait(&mut state);
                state.asleep -= 1;
                continue;
            };
            state.at_work += 1;
            self.call_another(&state);
            drop(state);
            let outcome = self.perform(job, &mut bench);
            state = self.state.lock();
            state.at_work -= 1;
            if let Err(setback) = outcome {
                state.stop.get_or_insert(setback);
            }
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Whoever takes a job wakes the next one, while there are more.
    fn call_another(&self, state: &MutexGuard<'_, State<'a>>) {
        if state.asleep > 0 && state.has_job(self) {
            self.changed.notify_one();
        }
    }

    fn perform(&self, job: Job<'a>, bench: &mut Option<Bench<'a>>) -> Attempt<()> {
        match job {
            Job::Fetch(at) => {
                let step = &self.chain.steps[at];
                let link = self.links.get(&(step.level, step.range));
                let fetched = survey::fetch(self.client, step, link)?;
                self.state.lock().fetched.insert(at, Box::new(fetched));
            }
            Job::Plan(survey, fetched) => self.plan(survey, fetched)?,
            Job::Batch(batch) => {
                let size = batch.file.page_size();
                let new = || {
                    let page_checksums = self.options.page_checksums;
                    Bench::new(self.client, Records::new(size), Runs::new(self.output, size), page_checksums)
                };
                let done = bench.get_or_insert_with(new).work(&batch)?;
                let rest = batch.file.note(&batch, done.sum)?;
                let mut state = self.state.lock();
                state.note(&batch, &done, rest);
                self.tell(state);
            }
        }
        Ok(())
    }

    /// Goes on with the plan until the queue is full or another file is needed.
    fn plan(&self, mut survey: Box<Survey<'a>>, fetched: Option<Box<Fetched>>) -> Attempt<()> {
        if let Some(fetched) = fetched {
            survey.begin(*fetched)?;
        }
        let mut batches = Vec::new();
        let mut over = None;
        while over.is_none() && batches.len() < QUEUE * self.threads {
            match survey.next()? {
                Next::Batch(batch) => batches.push(batch),
                Next::FileOver(file, rest) => over = Some((file, rest)),
            }
        }
        let mut state = self.state.lock();
        if let Some((file, Some(rest))) = over {
            state.release(&file, rest);
        }
        if self.options.page_checksums && state.page_checksums.is_none() {
            let count = survey.restored().map(|restored| restored.page_count as usize);
            state.page_checksums = count.map(|count| vec![Checksum::EMPTY; count]);
        }
        state.batches.extend(batches);
        state.survey = Some(survey);
        self.tell(state);
        Ok(())
    }

    /// Tells how far it is, unless another thread does so right now.
    fn tell(&self, state: MutexGuard<'_, State<'a>>) {
        let done = state.done;
        drop(state);
        if let Some(mut told) = self.told.try_lock()
            && done > *told
        {
            *told = done;
            self.options.tell(done, self.all);
        }
    }

    /// The account, when everything matches.
    fn finish(self) -> Attempt<Restored> {
        let state = self.state.into_inner();
        if let Some(setback) = state.stop {
            return Err(setback);
        }
        let mut restored = state.survey.expect("BUG: nobody plans at the end").finish()?;
        #[cfg(test)]
        if mutation::is(Mutation::UnprovenRestore) {
            restored.position.checksum = state.checksum;
        }
        if restored.proven && state.checksum != restored.position.checksum {
            return Err(doubt(Error::corrupt("the pages do not give the checksum of the newest file")));
        }
        restored.position.checksum = state.checksum;
        restored.page_checksums = state.page_checksums;
        self.options.tell(self.all, self.all);
        Ok(restored)
    }
}

/// A thread that panics lets nobody wait for it.
struct Alarm<'a, 'b>(&'a Crew<'b>);

impl Drop for Alarm<'_, '_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let stop = Setback::Failed(Error::new(Kind::Io, "a thread of the restore panicked"));
            self.0.state.lock().stop.get_or_insert(stop);
            self.0.changed.notify_all();
        }
    }
}
