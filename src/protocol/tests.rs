//! The schedules, in numbers; and that the checker finds each rule that is not kept.

use std::collections::BTreeMap;
use std::time::Instant;

use super::counts::Counts;
use super::plan::Mutant;
use super::{Failed, Which, run, scratch};
use crate::testing::mutation::Mutation;

/// Schedules of a run, unless PROTOCOL_SCHEDULES says otherwise; a quarter in each test.
const SCHEDULES: u64 = 20_000;
/// Schedules in which the checker must find a rule that is not kept.
const MUTANT_SCHEDULES: u64 = 100_000;
/// A run goes on until so many schedules broke something.
const BROKEN_MAX: usize = 20;
/// From so many on everything that can happen happens.
const COMPLETE_SCHEDULES: u64 = 5000;

const MUTANTS: [(&str, Mutant); 8] = [
    ("no-create-if-absent", Mutant::NoCreateIfAbsent),
    ("rename-instead-of-link", Mutant::RenameInsteadOfLink),
    ("writer-id-as-proof", Mutant::WriterIdAsProof),
    ("no-look", Mutant::Product(Mutation::NoLook)),
    ("newest-deleted-first", Mutant::Product(Mutation::NewestDeletedFirst)),
    ("snapshot-of-what-is-there", Mutant::Product(Mutation::SnapshotOfWhatIsThere)),
    ("map-unchecked", Mutant::Product(Mutation::MapUnchecked)),
    ("times-before-state", Mutant::Product(Mutation::TimesBeforeState)),
];

/// Schedules beyond those that once broke something.
const ONCE_BROKEN: [u64; 21] = [
    10_618, 79_944, 108_639, 136_124, 153_403, 177_894, 206_889, 227_512, 351_450, 367_276, 526_041, 549_138,
    738_259, 750_149, 763_266, 786_891, 815_373, 826_726, 842_553, 908_607, 971_576,
];

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |number| number.parse().unwrap())
}

fn plain(seed: u64) -> Which {
    Which { seed, mutant: None, is_mutated: false }
}

/// What led to it, and the command that runs it again.
fn tell(which: Which, failed: &Failed) -> String {
    let again = run(which, &scratch("again"), true);
    let trace = again.err().map(|failed| failed.trace.join("\n")).unwrap_or_default();
    let name = MUTANTS.iter().find(|(_, mutant)| Some(*mutant) == which.mutant);
    let mutant = name.map_or(String::new(), |(name, _)| format!("PROTOCOL_MUTANT={name} "));
    format!(
        "{trace}\nschedule {} breaks the protocol: {}\n{mutant}PROTOCOL_SEED={} cargo test --lib protocol::tests::replay -- --ignored \
         --nocapture",
        failed.seed, failed.why, failed.seed
    )
}

fn quarter(index: u64) {
    let count = number("PROTOCOL_SCHEDULES", SCHEDULES) / 4;
    let folder = scratch(&format!("quarter-{index}"));
    let (mut counts, mut broken) = (Counts::default(), Vec::new());
    for seed in index * count..(index + 1) * count {
        match run(plain(seed), &folder, false) {
            Ok(one) => counts.take_in(&one),
            Err(failed) => {
                println!("schedule {seed} breaks the protocol: {}", failed.why);
                broken.push(failed);
            }
        }
        if broken.len() == BROKEN_MAX {
            break;
        }
    }
    println!("{counts}");
    if let Some(failed) = broken.first() {
        panic!("{} in all; the first:\n{}", broken.len(), tell(plain(failed.seed), failed));
    }
    let missing = counts.missing();
    assert!(
        missing.is_empty() || count < COMPLETE_SCHEDULES,
        "what never happened proves nothing: {missing:?}"
    );
}

#[test]
fn the_first_quarter_of_the_schedules_breaks_nothing() {
    quarter(0);
}

#[test]
fn the_second_quarter_of_the_schedules_breaks_nothing() {
    quarter(1);
}

#[test]
fn the_third_quarter_of_the_schedules_breaks_nothing() {
    quarter(2);
}

#[test]
fn the_last_quarter_of_the_schedules_breaks_nothing() {
    quarter(3);
}

#[test]
fn schedules_that_once_broke_something_break_nothing() {
    for seed in ONCE_BROKEN {
        if let Err(failed) = run(plain(seed), &scratch("once-broken"), false) {
            panic!("{}", tell(plain(seed), &failed));
        }
    }
}

/// The number of schedules after which the checker finds that a rule is not kept; the same schedules break nothing where it is.
fn found(name: &str, within: u64) -> u64 {
    let mutant = MUTANTS.iter().find(|(known, _)| *known == name).expect("a mutant").1;
    let folder = scratch(name);
    let which = |seed, is_mutated| Which { seed, mutant: Some(mutant), is_mutated };
    let first = (0..within).find(|&seed| run(which(seed, true), &folder, false).is_err());
    let first = first.unwrap_or_else(|| panic!("{within} schedules without the rule broke nothing"));
    for seed in 0..=first {
        if let Err(failed) = run(which(seed, false), &folder, false) {
            panic!("{}", tell(which(seed, false), &failed));
        }
    }
    println!("{name}: found in schedule {}", first + 1);
    first + 1
}

#[test]
fn a_store_that_replaces_names_is_found() {
    found("no-create-if-absent", 100);
}

#[test]
fn names_that_are_made_by_a_rename_are_found() {
    found("rename-instead-of-link", MUTANT_SCHEDULES);
}

#[test]
fn a_writer_id_that_is_taken_for_a_proof_is_found() {
    found("writer-id-as-proof", MUTANT_SCHEDULES);
}

#[test]
fn a_create_without_a_look_is_found() {
    found("no-look", MUTANT_SCHEDULES);
}

#[test]
fn deletes_out_of_order_are_found() {
    found("newest-deleted-first", MUTANT_SCHEDULES);
}

#[test]
fn a_snapshot_of_what_was_not_acknowledged_is_found() {
    found("snapshot-of-what-is-there", MUTANT_SCHEDULES);
}

#[test]
fn page_checksums_that_are_not_added_up_are_found() {
    found("map-unchecked", MUTANT_SCHEDULES);
}

#[test]
fn times_that_count_before_the_state_are_found() {
    found("times-before-state", MUTANT_SCHEDULES);
}

#[test]
#[ignore = "one schedule, by its seed: PROTOCOL_SEED, and PROTOCOL_MUTANT for one without a rule"]
fn replay() {
    let seed = number("PROTOCOL_SEED", 0);
    let named = std::env::var("PROTOCOL_MUTANT").ok();
    let mutant = named.map(|name| MUTANTS.iter().find(|(known, _)| *known == name).expect("a mutant").1);
    let which = Which { seed, mutant, is_mutated: std::env::var_os("PROTOCOL_KEPT").is_none() };
    match run(which, &scratch("replay"), true) {
        Ok(counts) => println!("schedule {seed} breaks nothing\n{counts}"),
        Err(failed) => panic!("{}", tell(which, &failed)),
    }
}

#[test]
#[ignore = "every kind of breach in PROTOCOL_SCHEDULES schedules from PROTOCOL_FROM on, with the first seed of each"]
fn survey() {
    let (from, count) = (number("PROTOCOL_FROM", 0), number("PROTOCOL_SCHEDULES", SCHEDULES));
    let mut kinds: BTreeMap<String, (u64, u64, String)> = BTreeMap::new();
    let (mut counts, began) = (Counts::default(), Instant::now());
    for seed in from..from + count {
        match run(plain(seed), &scratch("survey"), false) {
            Ok(one) => counts.take_in(&one),
            Err(failed) => {
                let kind: String = failed.why.chars().filter(|c| !c.is_ascii_hexdigit()).take(60).collect();
                println!("schedule {seed} breaks the protocol: {}", failed.why);
                kinds.entry(kind).or_insert((seed, 0, failed.why)).1 += 1;
            }
        }
    }
    println!("{counts}{count} schedules in {:?}", began.elapsed());
    for (seed, times, why) in kinds.values() {
        println!("FOUND {times} times, first in schedule {seed}: {why}");
    }
    assert!(kinds.is_empty());
}
