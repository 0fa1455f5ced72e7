//! The model of the protocol: schedules drawn from seeds, in which the product's own decisions meet everything that may
//! happen to them. `docs/protocol.md` says what is modelled, and what is not.
//!
//! ```text
//! plan      what a schedule is about                node, keeping,
//!                                                   opening, term          nodes: the product's code, in the order of its worker
//! world     steps, time, the seed                   damage                 power, people
//! client    requests and their fates                reader, finale         who restores; the end of a schedule
//! store     objects                                 checker                what must be true
//! pages     the database, and what was committed    counts                 what happened
//! ```

mod checker;
mod client;
mod counts;
mod damage;
mod finale;
mod keeping;
mod node;
mod opening;
mod pages;
mod plan;
mod reader;
mod store;
mod term;
mod tests;
mod world;

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use crate::testing::mutation::Mutated;
use counts::{Counts, What};
use node::Node;
use pages::Db;
use plan::Mutant;
use world::World;

/// A schedule that broke something.
pub struct Failed {
    pub seed: u64,
    pub why: String,
    pub trace: Vec<String>,
}

/// Which schedule.
#[derive(Clone, Copy)]
pub struct Which {
    pub seed: u64,
    /// A rule that it is directed at.
    pub mutant: Option<Mutant>,
    /// And which is not kept.
    pub is_mutated: bool,
}

/// Runs one schedule in `folder`, which is empty before and afterwards.
pub fn run(which: Which, folder: &Path, is_traced: bool) -> Result<Counts, Failed> {
    let Which { seed, mutant, is_mutated } = which;
    let _mutated = Mutated::by(mutant.filter(|_| is_mutated).and_then(Mutant::mutation));
    let world = World::new(seed, mutant, is_mutated, is_traced);
    world.count(What::Schedule);
    let count = world.with(|inner| inner.plan.nodes);
    for id in 0..count {
        let node = node(&world, id, folder);
        world.with(|inner| {
            inner.skews[id] = node.skew_ms;
            inner.nodes.push(Some(Box::new(node)));
        });
    }
    while world.with(|inner| inner.steps_left > 0 && inner.breach.is_none()) {
        world.step();
    }
    if world.with(|inner| inner.breach.is_none()) {
        // A breach ends a reader, too.
        let _ = catch_unwind(AssertUnwindSafe(|| world.end()));
    }
    world.with(|inner| inner.nodes.clear());
    let _ = std::fs::remove_dir_all(folder);
    let why = world.with(|inner| inner.breach.take());
    match why {
        Some(why) => Err(Failed { seed, why, trace: world.take_trace() }),
        None => Ok(world.with(|inner| inner.counts.clone())),
    }
}

fn node(world: &World, id: usize, folder: &Path) -> Node {
    world.with(|inner| Node {
        id,
        name: format!("n{id}"),
        skew_ms: inner.draw_skew(),
        folder: folder.join(format!("n{id}")),
        promised: inner.random.below(2) == 0,
        boot: [1 + id as u64, 1],
        db: Db { wal: inner.plan.wal, images: Vec::new(), inode: inner.new_inode(), changes: 0, cycle: 1 },
        changed_since_boot: false,
        by_hand: false,
        backup: None,
        session: None,
        durable: HashSet::new(),
        marks: Vec::new(),
        map: Vec::new(),
        refused: false,
    })
}

/// A folder in memory where there is such a place.
fn scratch(name: &str) -> PathBuf {
    let memory = Path::new("/dev/shm");
    let base = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    base.join(format!("sqlitereplicate-{}-{name}", std::process::id()))
}
