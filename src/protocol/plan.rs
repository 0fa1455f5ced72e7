//! What a schedule is about: drawn from the seed before anything happens.

use std::time::Duration;

use super::store::Kind;
use crate::ltx::sample::Random;
use crate::testing::mutation::Mutation;
use crate::upkeep::{Levels, Policy};

/// A rule of the protocol that is not kept, in the product, in the store, or where the model stands for the product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    NoCreateIfAbsent,
    RenameInsteadOfLink,
    WriterIdAsProof,
    Product(Mutation),
}

impl Mutant {
    pub fn mutation(self) -> Option<Mutation> {
        match self {
            Mutant::Product(mutation) => Some(mutation),
            _ => None,
        }
    }
}

/// Faults: one in so many requests; 0: none.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    pub interleave: u64,
    pub kill: u64,
    pub read: u64,
    pub fate: u64,
}

/// How often what happens, of the sum of all.
#[derive(Clone, Copy, Debug)]
pub struct Weights {
    pub commit: u64,
    pub work: u64,
    pub keep: u64,
    pub checkpoint: u64,
    pub close: u64,
    pub kill: u64,
    pub power: u64,
    pub read: u64,
    pub lease: u64,
    /// Of what people do.
    pub human: u64,
}

#[derive(Clone, Debug)]
pub struct Plan {
    /// Which rule the schedule is directed at, and whether it is not kept.
    pub mutant: Option<Mutant>,
    pub is_mutated: bool,
    pub kind: Kind,
    pub nodes: usize,
    pub steps: u32,
    pub rates: Rates,
    pub weights: Weights,
    /// This node acts mostly, while it can: the others sleep.
    pub favours: Option<usize>,
    pub leases: bool,
    /// The journal mode, which page 1 says to all.
    pub wal: bool,
    /// Clocks of nodes differ from true time by less than this.
    pub skew_ms: i64,
    pub store_skew_ms: i64,
    pub l0: Duration,
    pub levels: Levels,
    pub policy: Policy,
}

impl Plan {
    pub fn draw(random: &mut Random, mutant: Option<Mutant>, is_mutated: bool) -> Plan {
        let kind = match mutant {
            // A bucket has neither renames nor a look at one object.
            Some(Mutant::RenameInsteadOfLink | Mutant::Product(Mutation::NewestDeletedFirst)) => Kind::Folder,
            _ if random.below(2) == 0 => Kind::Bucket,
            _ => Kind::Folder,
        };
        let seconds = |s| Some(Duration::from_secs(s));
        let l0 = Duration::from_secs([10, 60, 90][random.below(3) as usize]);
        let window = Duration::from_secs([0, 60, 200][random.below(3) as usize]);
        let merged = match random.below(3) {
            0 => [seconds(5), None, None],
            1 => [seconds(5), seconds(30), None],
            _ => [seconds(10), seconds(20), seconds(60)],
        };
        let levels =
            Levels { merged, snapshot: Duration::from_secs([15, 60, 300][random.below(3) as usize]) };
        let rates = match random.below(3) {
            0 => Rates { interleave: 12, kill: 0, read: 60, fate: 20 },
            1 => Rates { interleave: 6, kill: 60, read: 40, fate: 8 },
            _ => Rates { interleave: 8, kill: 0, read: 0, fate: 0 },
        };
        let leases = random.below(3) == 0;
        // Leases hold as long as clocks differ by less than the allowance.
        let skew_ms = if leases { 2_900 } else { [0, 2_900, 200_000][random.below(3) as usize] };
        let weights = Weights {
            commit: 30,
            work: 20,
            keep: 14,
            checkpoint: 4,
            close: 4,
            kill: 3,
            power: 4,
            read: 5,
            lease: if leases { 25 } else { 0 },
            human: [0, 0, 4][random.below(3) as usize],
        };
        let plan = Plan {
            mutant,
            is_mutated,
            kind,
            nodes: [2, 2, 2, 3, 3, 3, 4, 5][random.below(8) as usize],
            steps: 8 + random.below(24) as u32,
            rates,
            weights,
            favours: None,
            leases,
            wal: random.below(2) == 0,
            skew_ms,
            store_skew_ms: random.below(600_000) as i64 - 300_000,
            l0,
            levels,
            policy: Policy { l0, window },
        };
        plan.directed()
    }

    pub fn is_mutated(&self, mutant: Mutant) -> bool {
        self.is_mutated && self.mutant == Some(mutant)
    }

    /// What a mutant needs to show is drawn more often. The same schedules without the mutant break nothing.
    fn directed(mut self) -> Plan {
        let races = Rates { interleave: 3, kill: 0, read: 0, fate: 0 };
        match self.mutant {
            None | Some(Mutant::NoCreateIfAbsent) => {}
            Some(Mutant::Product(Mutation::NoLook | Mutation::NewestDeletedFirst))
            | Some(Mutant::RenameInsteadOfLink) => {
                self.rates = races;
                self.leases = false;
                self.nodes = 2;
                self.steps += 40;
                self.l0 = Duration::from_secs(10);
                self.policy.l0 = self.l0;
                self.levels = Levels { merged: [Some(Duration::from_secs(5)), None, None], ..self.levels };
                self.weights =
                    Weights { human: 0, lease: 0, power: 0, kill: 0, close: 1, keep: 25, ..self.weights };
                if self.mutant == Some(Mutant::Product(Mutation::NewestDeletedFirst)) {
                    // The other one sleeps from before the first of the groups until they are deleted, all at once.
                    (self.favours, self.rates.interleave) = (Some(1), 40);
                    self.weights = Weights { commit: 40, work: 30, keep: 4, ..self.weights };
                }
            }
            Some(Mutant::WriterIdAsProof) => {
                self.leases = false;
                self.weights = Weights { human: 12, lease: 0, close: 8, ..self.weights };
            }
            Some(Mutant::Product(_)) => {
                self.leases = false;
                self.weights = Weights { power: 12, lease: 0, keep: 20, ..self.weights };
            }
        }
        self
    }
}
