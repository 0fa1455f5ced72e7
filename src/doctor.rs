//! Examines a store as a replica would use it: what it honours, how fast it is, what that costs.
//!
//! Everything happens in a place of its own that is empty before and after. The one thing that decides is whether a name
//! is created once: a store that honours conditions one at a time may still break them in a race, so both are tried.

use std::io::Cursor;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::error::{Error, Kind, Result};
use crate::replica::Client;
use crate::types::{FileInfo, Level, Timestamp, Txid, TxidRange};

/// Creators of one name at a time. Some stores make contended ones wait for seconds.
const RACERS: usize = 4;
const RACES: u64 = 12;
/// Longest wait of a racer for the others.
const START_MAX: Duration = Duration::from_secs(1);
/// Objects that are looked for right after they were put.
const LOOKS: u64 = 20;
/// Puts and gets that are timed.
const SAMPLES: u64 = 100;
/// A group of a few pages.
const SAMPLE_BYTES: usize = 4096;
/// Names of the checks follow each other: each check has its own range of txids.
const RACE_TXID: u64 = 100;
const SAMPLE_TXID: u64 = 1000;
const CREATE_AGAIN: &str = "create if absent";
const RACE: &str = "create if absent, racing";
const READ: &str = "read and list after write";
const DELETE: &str = "delete";
/// How long a group collects for a bucket, where nothing else is said.
const INTERVAL: Duration = Duration::from_secs(1);
const SECONDS_A_MONTH: u64 = 30 * 24 * 3600;

/// What came of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Good,
    /// Two writers could each believe that they won, or what was stored is lost.
    Bad,
    /// A figure, or what could not be tried.
    Note,
}

impl Verdict {
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Good => "good",
            Verdict::Bad => "BAD",
            Verdict::Note => "",
        }
    }
}

/// One row of the answer.
#[derive(Clone, Debug)]
pub struct Finding {
    pub check: &'static str,
    pub verdict: Verdict,
    pub detail: String,
}

/// Examines the store behind a new, empty place. `in_parallel` runs so many tasks at the same time and waits for them.
///
/// # Errors
/// When the store cannot be asked at all; what it gets wrong is a finding.
pub fn examine(client: &dyn Client, in_parallel: InParallel<'_>) -> Result<Vec<Finding>> {
    let exam = Exam { client, in_parallel };
    let findings = exam.findings();
    let cleaned = exam.clean();
    let mut findings = findings?;
    findings.push(cleaned);
    Ok(findings)
}

/// Runs a task for each number below the first argument, all at the same time.
pub type InParallel<'a> = &'a (dyn Fn(usize, &(dyn Fn(usize) + Sync)) -> Result<()> + Sync);

struct Exam<'a> {
    client: &'a dyn Client,
    in_parallel: InParallel<'a>,
}

impl Exam<'_> {
    fn findings(&self) -> Result<Vec<Finding>> {
        let first = self.create(1, b"first")?;
        let mut findings = vec![finding("create", Verdict::Good, "an object was created")];
        findings.push(tried(CREATE_AGAIN, self.create_again(&first)));
        findings.push(tried(RACE, self.race()));
        findings.push(tried(READ, self.read_after_write()));
        findings.push(tried(DELETE, self.delete()));
        findings.extend(self.speed()?);
        Ok(findings)
    }

    fn create(&self, txid: u64, body: &[u8]) -> Result<FileInfo> {
        self.client.create(Level::CAPTURED, range(txid), Timestamp(0), &mut Cursor::new(body))
    }

    fn create_again(&self, first: &FileInfo) -> Result<Finding> {
        const IGNORED: &str = "the store takes a second create of one name: run one writer only";
        if self.client.is_single_writer() {
            // Tried out at the first create; from then on a look goes before each, and would hide it here.
            return Ok(finding(CREATE_AGAIN, Verdict::Bad, IGNORED));
        }
        match self.create(1, b"second") {
            Ok(_) => return Ok(finding(CREATE_AGAIN, Verdict::Bad, IGNORED)),
            Err(error) if error.kind() != Kind::Exists => return Err(error),
            Err(_) => {}
        }
        Ok(if self.read(first)? == b"first" {
            let what = "a second create of one name was refused, the first object is whole";
            finding(CREATE_AGAIN, Verdict::Good, what)
        } else {
            finding(CREATE_AGAIN, Verdict::Bad, "a second create was refused, but the object changed")
        })
    }

    fn race(&self) -> Result<Finding> {
        let (mut broken, mut unclear) = (0, 0);
        for race in 0..RACES {
            let (ready, began) = (AtomicUsize::new(0), Instant::now());
            let won = std::array::from_fn::<_, RACERS, _>(|_| std::sync::OnceLock::new());
            (self.in_parallel)(RACERS, &|racer| {
                ready.fetch_add(1, Ordering::SeqCst);
                // Not for ever: a thread that could not be started never gets ready.
                while ready.load(Ordering::SeqCst) < RACERS && began.elapsed() < START_MAX {
                    std::thread::yield_now();
                }
                let made = self.create(RACE_TXID + race, &[racer as u8; 1000]);
                let outcome = match made {
                    Ok(file) => Some(Some(file)),
                    Err(error) if error.kind() == Kind::Exists => Some(None),
                    Err(_) => None,
                };
                won[racer].set(outcome).expect("BUG: each racer runs once");
            })?;
            let outcomes: Vec<_> = won.iter().map(|cell| cell.get().copied().flatten()).collect();
            let winners: Vec<usize> =
                (0..RACERS).filter(|&racer| matches!(outcomes[racer], Some(Some(_)))).collect();
            let holds = winners.first().and_then(|&racer| {
                let made = outcomes[racer].flatten()?;
                Some(self.read(&made).is_ok_and(|bytes| bytes == [racer as u8; 1000]))
            });
            if winners.len() > 1 || holds == Some(false) {
                broken += 1;
            } else if outcomes.contains(&None) {
                unclear += 1;
            }
        }
        let races = format!("{RACES} races of {RACERS}");
        Ok(match (broken, unclear) {
            (0, 0) => finding(RACE, Verdict::Good, format!("{races} had one winner each")),
            (0, unclear) => finding(RACE, Verdict::Note, format!("{races}: {unclear} with answers missing")),
            (broken, _) => {
                let why = "several were told that they won, or the winner's object was replaced: run one writer only";
                finding(RACE, Verdict::Bad, format!("in {broken} of {races} {why}"))
            }
        })
    }

    fn read_after_write(&self) -> Result<Finding> {
        for txid in 2..2 + LOOKS {
            let made = self.create(txid, &txid.to_be_bytes())?;
            let seen = self.client.stat(Level::CAPTURED, range(txid))?;
            let listed = self.client.list(Level::CAPTURED)?;
            let is_there = seen.is_some_and(|seen| seen.same_object(&made))
                && listed.iter().any(|file| file.same_object(&made))
                && self.read(&made).is_ok_and(|bytes| bytes == txid.to_be_bytes());
            if !is_there {
                let detail =
                    "an object that was acknowledged was not found, listed or read as it is right after";
                return Ok(finding(READ, Verdict::Bad, detail));
            }
        }
        Ok(finding(READ, Verdict::Good, format!("{LOOKS} objects were found, listed and read at once")))
    }

    fn delete(&self) -> Result<Finding> {
        let old = self.client.stat(Level::CAPTURED, range(1))?;
        let old = old.ok_or_else(|| Error::not_found("the object that was created first is gone"))?;
        self.client.delete(&old)?;
        let again = self.create(1, b"again")?;
        Ok(match self.client.delete(&old) {
            Err(error) if error.kind() == Kind::Conflict => {
                let what = "a deleted name is free, and its new object is spared by an old delete";
                finding(DELETE, Verdict::Good, what)
            }
            Err(error) => return Err(error),
            Ok(()) => {
                let gone = self.client.stat(Level::CAPTURED, again.range)?.is_none();
                let what = if gone { "removed the new object of its name" } else { "said that it was done" };
                finding(DELETE, Verdict::Bad, format!("an old delete {what}"))
            }
        })
    }

    fn speed(&self) -> Result<Vec<Finding>> {
        let (mut puts, mut gets) = (Vec::new(), Vec::new());
        for txid in SAMPLE_TXID..SAMPLE_TXID + SAMPLES {
            let began = Instant::now();
            let made = self.create(txid, &[7; SAMPLE_BYTES])?;
            self.client.make_durable(Level::CAPTURED)?;
            puts.push(began.elapsed());
            let began = Instant::now();
            self.read(&made)?;
            gets.push(began.elapsed());
        }
        let shown = |times: &mut Vec<Duration>| {
            times.sort_unstable();
            let ms = |percent: usize| times[times.len() * percent / 100 - 1].as_secs_f64() * 1000.0;
            format!("p50 {:.1} ms, p99 {:.1} ms, {SAMPLES} times 4 KiB", ms(50), ms(99))
        };
        let mut findings = vec![
            finding("put", Verdict::Note, shown(&mut puts)),
            finding("get", Verdict::Note, shown(&mut gets)),
        ];
        let put = puts[puts.len() / 2].as_secs_f64().max(1e-6);
        findings.push(finding(
            "commits that wait for the store",
            Verdict::Note,
            format!(
                "one writer {:.0} a second, 16 writers that share puts up to {:.0}",
                1.0 / put,
                16.0 / put
            ),
        ));
        if !self.client.url().starts_with("file:") {
            findings.push(requests_a_month());
        }
        Ok(findings)
    }

    fn read(&self, file: &FileInfo) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let read = self.client.open(file)?.read_to_end(&mut bytes);
        read.map_err(|e| Error::new(Kind::Io, format!("cannot read an object: {e}")))?;
        Ok(bytes)
    }

    /// Removes everything, whatever was found.
    fn clean(&self) -> Finding {
        let removed = self.client.list(Level::CAPTURED).and_then(|files| {
            files.iter().try_for_each(|file| self.client.delete(file))?;
            self.client.list(Level::CAPTURED)
        });
        match removed {
            Ok(left) if left.is_empty() => {
                finding("clean up", Verdict::Good, "nothing is left of the examination")
            }
            Ok(left) => finding("clean up", Verdict::Note, format!("{} objects are left", left.len())),
            Err(error) => finding("clean up", Verdict::Note, error),
        }
    }
}

/// A check that could not be carried through is a bad one, because a replica lives on what it tries; unless the store
/// only asks to come back later.
fn tried(check: &'static str, outcome: Result<Finding>) -> Finding {
    outcome.unwrap_or_else(|error| {
        let verdict = if error.kind() == Kind::Busy { Verdict::Note } else { Verdict::Bad };
        finding(check, verdict, error)
    })
}

/// What a bill counts.
fn requests_a_month() -> Finding {
    let (most, interval) = (SECONDS_A_MONTH / INTERVAL.as_secs(), INTERVAL.as_secs());
    let detail = format!(
        "up to {most} puts at replica_interval={interval}s, if somebody writes all the time; none while nobody does"
    );
    finding("requests a month", Verdict::Note, detail)
}

fn range(txid: u64) -> TxidRange {
    TxidRange::one(Txid::new(txid).expect("BUG: a txid of the examination is small and not zero"))
}

fn finding(check: &'static str, verdict: Verdict, detail: impl ToString) -> Finding {
    Finding { check, verdict, detail: detail.to_string() }
}
