//! Every reader of [`crate::fuzz`] under seeded hostile inputs: no panic, no end, no memory without bounds.
//!
//! `FUZZ_TARGET` names one, `FUZZ_SEED` the first seed, `FUZZ_RUNS` how many inputs of each; `FUZZ_CORPUS` a folder that
//! takes the samples, for `cargo fuzz`. `make fuzz` sets them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use crate::ffi::counted;
use crate::fuzz::{TARGETS, Target, mutate};
use crate::ltx::sample::Random;

/// Inputs of each target in an ordinary run. Those of several files are tried less: each is a folder on disk.
const FEW: u64 = 3000;
const FILES_COST: u64 = 20;
/// The same in a long one.
const MANY: u64 = 100_000;
/// An input that takes longer never ends.
const HANGS_AFTER: Duration = Duration::from_secs(60);

fn setting<T: std::str::FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().ok().unwrap_or_else(|| panic!("{name}={text} is no number")))
}

fn replay(target: &Target, seed: u64) -> String {
    format!("replay: make fuzz N=1 TARGET={} SEED={seed}", target.name)
}

/// Ends the process when one input takes too long; the count tells that it goes on.
fn watch(at: &Arc<AtomicU64>, target: &'static Target) -> mpsc::Sender<()> {
    let (alive, over) = mpsc::channel::<()>();
    let at = Arc::clone(at);
    std::thread::spawn(move || {
        let mut last = u64::MAX;
        while over.recv_timeout(HANGS_AFTER) == Err(mpsc::RecvTimeoutError::Timeout) {
            let now = at.load(Ordering::SeqCst);
            if now == last {
                eprintln!("{}: an input takes for ever; {}", target.name, replay(target, now));
                std::process::abort();
            }
            last = now;
        }
    });
    alive
}

fn try_target(target: &'static Target, first: u64, runs: u64) {
    let samples = (target.samples)();
    for (number, sample) in samples.iter().enumerate() {
        // A sample that is not taken tests nothing behind the first check.
        let tried = catch_unwind(|| (target.run)(sample));
        tried.unwrap_or_else(|_| panic!("{}: sample {number} is refused", target.name));
    }
    let at = Arc::new(AtomicU64::new(0));
    let _alive = watch(&at, target);
    for seed in first..first.saturating_add(runs) {
        at.store(seed, Ordering::SeqCst);
        let input = mutate::input(target, &samples, &mut Random::new(seed));
        counted::trying(Some((target.name, seed)));
        let (tried, peak) = counted::measured(|| catch_unwind(AssertUnwindSafe(|| (target.run)(&input))));
        counted::trying(None);
        tried.unwrap_or_else(|_| panic!("{}: {}", target.name, replay(target, seed)));
        let most = target.memory_max + 64 * input.len();
        assert!(
            peak <= most,
            "{}: {peak} bytes in memory, more than {most}; {}",
            target.name,
            replay(target, seed)
        );
    }
}

#[test]
fn fuzz_no_reader_is_brought_down_by_hostile_bytes() {
    let (first, runs) = (setting("FUZZ_SEED").unwrap_or(0), setting("FUZZ_RUNS"));
    let one: Option<String> = setting("FUZZ_TARGET");
    let chosen: Vec<_> = TARGETS.iter().filter(|t| one.as_ref().is_none_or(|one| one == t.name)).collect();
    assert!(
        !chosen.is_empty(),
        "no target has that name: {:?}",
        TARGETS.iter().map(|t| t.name).collect::<Vec<_>>()
    );
    for target in chosen {
        let all = if std::env::var_os("FUZZ_LONG").is_some() { MANY } else { FEW };
        let few = if target.is_parts { all / FILES_COST } else { all };
        let began = std::time::Instant::now();
        try_target(target, first, runs.unwrap_or(few));
        println!("{}: {} inputs in {:?}", target.name, runs.unwrap_or(few), began.elapsed());
    }
}

#[test]
fn fuzz_samples_are_written_for_coverage_guided_runs() {
    let Some(folder) = setting::<PathBuf>("FUZZ_CORPUS") else { return };
    for target in TARGETS {
        let folder = folder.join(target.name);
        std::fs::create_dir_all(&folder).unwrap();
        for (number, sample) in (target.samples)().iter().enumerate() {
            std::fs::write(folder.join(format!("sample-{number}")), sample).unwrap();
        }
    }
}
