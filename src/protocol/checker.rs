//! What must be true of a replica after every change of it, whoever made the change: `docs/protocol.md` names the invariants.
//!
//! The first file that was created under a level-0 name, and that continues the one before it, is history. The checker computes
//! each state of it from the pages of the files alone, and knows from the [`Register`] which states were committed by whom.

use std::collections::BTreeSet;

use super::pages::{Commits, Register, Sums, total};
use super::store::{Object, Objects};
use crate::catalog::{Target, chain_to};
use crate::ltx::Proof;
use crate::types::{Checksum, FileInfo, Level, Pgno, Position, Timestamp, Txid};

/// A breach, in words.
pub type Breach = String;
pub type Checked = Result<(), Breach>;

/// One group of the history.
struct Group {
    post: Checksum,
    sums: Sums,
    pages: Vec<Pgno>,
    timestamp: Timestamp,
}

#[derive(Default)]
pub struct Checker {
    pub register: Register,
    /// People copy databases, and begin replicas anew.
    has_copies: bool,
    history: Vec<Group>,
    /// Level-0 objects that are none, by number.
    false_ones: BTreeSet<u64>,
    /// Commits that were acknowledged, and those of them that a person, or a documented doubt, gave up.
    acknowledged: Commits,
    waived: Commits,
    /// Every state that was history.
    ever: BTreeSet<u64>,
    /// Newest txid that was acknowledged to anybody.
    newest: u64,
}

impl Checker {
    pub fn new(has_copies: bool) -> Checker {
        Checker { has_copies, ..Checker::default() }
    }

    /// Commits that must be in the newest state.
    pub fn owed(&self) -> Commits {
        self.acknowledged.without(self.waived)
    }

    pub fn waive(&mut self, commits: Commits) {
        self.waived = self.waived.and(commits);
    }

    pub fn waived(&self) -> Commits {
        self.waived
    }

    /// Whether a state was ever one of the history, also of one that was emptied.
    pub fn was_history(&self, state: Checksum) -> bool {
        state == Checksum::EMPTY || self.ever.contains(&state.get())
    }

    pub fn acknowledged(&self) -> Commits {
        self.acknowledged
    }

    /// Everything that is in the history.
    pub fn in_history(&self) -> Commits {
        self.history.iter().fold(Commits::default(), |all, group| all.and(self.register.lineage(group.post)))
    }

    pub fn end(&self) -> Option<Position> {
        let txid = Txid::new(self.history.len() as u64)?;
        Some(Position { txid, checksum: self.history.last()?.post })
    }

    /// Somebody removed every object by hand.
    pub fn emptied(&mut self) {
        self.history.clear();
        self.false_ones.clear();
        self.newest = 0;
        self.waived = self.waived.and(self.acknowledged);
    }

    /// The store lost names that nobody had made last.
    pub fn lost_names(&mut self, objects: &Objects) {
        let captured: BTreeSet<u64> =
            objects.iter().filter(|o| o.level == Level::CAPTURED).map(|o| o.range.max.get()).collect();
        let merged = objects
            .iter()
            .filter(|o| o.level > Level::CAPTURED)
            .map(|o| o.range.max.get())
            .max()
            .unwrap_or(0);
        while self.history.len() as u64 > merged && !captured.contains(&(self.history.len() as u64)) {
            self.history.pop();
        }
    }

    pub fn created(&mut self, object: &Object) -> Checked {
        match object.level {
            Level::CAPTURED => self.captured(object),
            _ => self.merged(object),
        }
    }

    fn captured(&mut self, object: &Object) -> Checked {
        let Some(Proof { pre, post }) = object.header.proof else {
            return Err("a group without a proof".into());
        };
        let before = self.history.last();
        let continues = object.range.max.get() == self.history.len() as u64 + 1
            && before.map_or(Checksum::EMPTY, |before| before.post) == pre;
        if !continues {
            self.false_ones.insert(object.number);
            return Ok(());
        }
        let sums = applied(before.map(|b| &b.sums), object);
        if total(&sums) != post {
            return Err(format!("the pages of {object} do not make the state {post} that it states"));
        }
        if self.register.get(post).is_none() {
            return Err(format!("{object} leads to a state that nobody committed"));
        }
        let timestamp = object.header.timestamp;
        // One commit, captured by a database and by a copy of it, has two times.
        if !self.has_copies && before.is_some_and(|before| before.timestamp > timestamp) {
            return Err(format!("{object} is older than the group before it"));
        }
        let pages = object.pages.iter().map(|&(pgno, _)| pgno).collect();
        self.ever.insert(post.get());
        self.history.push(Group { post, sums, pages, timestamp });
        Ok(())
    }

    /// A merged file is the fold of the history.
    fn merged(&self, object: &Object) -> Checked {
        let (min, max) = (object.range.min.get(), object.range.max.get());
        let Some(end) = self.history.get(max as usize - 1) else {
            return Err(format!("{object} ends past the history"));
        };
        if max > self.newest {
            return Err(format!("{object} ends in a group that was acknowledged to nobody"));
        }
        let pre = min.checked_sub(2).map_or(Checksum::EMPTY, |at| self.history[at as usize].post);
        let proof = object.header.proof;
        if proof != Some(Proof { pre, post: end.post }) {
            return Err(format!("{object} says {proof:?}, the history goes from {pre} to {}", end.post));
        }
        if object.header.timestamp != end.timestamp {
            return Err(format!("{object} has another time than its last group"));
        }
        let wanted: BTreeSet<Pgno> = match min {
            1 => (1..=end.sums.len() as u32).filter_map(Pgno::new).collect(),
            _ => self.history[min as usize - 1..max as usize]
                .iter()
                .flat_map(|g| g.pages.iter().copied())
                .collect(),
        };
        let wanted = wanted.into_iter().filter(|pgno| pgno.get() as usize <= end.sums.len());
        let wanted: Vec<(Pgno, Checksum)> =
            wanted.map(|pgno| (pgno, end.sums[pgno.get() as usize - 1])).collect();
        if wanted != object.pages {
            return Err(format!("{object} does not hold what its groups hold"));
        }
        Ok(())
    }

    /// A writer was told that its group is in the history. `Ok`: how many commits are newly acknowledged.
    pub fn acknowledge(&mut self, position: Position) -> Result<u32, Breach> {
        let at = position.txid.get();
        let history = self.history.get(at as usize - 1).map(|group| group.post);
        if history != Some(position.checksum) {
            return Err(format!(
                "{position} was acknowledged, but the history has {} there",
                history.map_or("nothing".into(), |post| post.to_string())
            ));
        }
        self.newest = self.newest.max(at);
        let before = self.acknowledged;
        self.acknowledged = before.and(self.register.lineage(position.checksum));
        Ok(self.acknowledged.without(before).count())
    }

    /// The newest state can be restored, was committed, and has everything that is owed.
    pub fn check_newest(&self, objects: &Objects) -> Checked {
        let stray = |o: &&Object| {
            !self.false_ones.contains(&o.number) || o.range.max.get() <= self.history.len() as u64
        };
        let owed = self.owed();
        let position = match newest(objects.iter().filter(stray)) {
            Ok(Some(position)) => position,
            Ok(None) if owed.is_empty() => return Ok(()),
            Ok(None) => return Err(format!("nothing is left, and {owed} were acknowledged")),
            Err(_) if owed.is_empty() => return Ok(()),
            Err(why) => {
                return Err(format!(
                    "the newest state cannot be restored ({why}), and {owed} were acknowledged"
                ));
            }
        };
        self.check_state(position)?;
        self.check_holds(position, owed)
    }

    /// What a reader got is the state of the history.
    pub fn check_state(&self, position: Position) -> Checked {
        let there = self.history.get(position.txid.get() as usize - 1).map(|group| group.post);
        if there != Some(position.checksum) {
            return Err(format!("a reader gets {position}, the history has {there:?} there"));
        }
        match self.register.get(position.checksum) {
            Some(_) => Ok(()),
            None => Err(format!("a reader gets {position}, which nobody committed")),
        }
    }

    pub fn check_holds(&self, position: Position, owed: Commits) -> Checked {
        let lost = owed.without(self.register.lineage(position.checksum));
        match lost.is_empty() {
            true => Ok(()),
            false => Err(format!("{lost} were acknowledged and are not in {position}")),
        }
    }
}

fn applied(before: Option<&Sums>, object: &Object) -> Sums {
    let mut sums = before.cloned().unwrap_or_default();
    sums.resize(object.header.page_count as usize, Checksum::EMPTY);
    for &(pgno, sum) in &object.pages {
        sums[pgno.get() as usize - 1] = sum;
    }
    sums
}

/// The newest state of these objects, as readers must find it: by the chain, without leftovers.
fn newest<'a>(objects: impl Iterator<Item = &'a Object>) -> Result<Option<Position>, String> {
    let mut objects: Vec<&Object> = objects.collect();
    while !objects.is_empty() {
        let listing: Vec<FileInfo> = objects.iter().map(|object| object.info_alike()).collect();
        let chain = chain_to(&listing, Target::Newest).map_err(|error| error.to_string())?;
        let of = |file: &FileInfo| {
            *objects.iter().find(|o| (o.level, o.range) == (file.level, file.range)).expect("listed")
        };
        let next = chain.steps.windows(2).map(|pair| (of(&pair[0]), of(&pair[1])));
        let linked = chain.links.iter().map(|link| (of(&link.step), of(&link.next)));
        let broken = next.chain(linked).find(|(step, next)| {
            next.range.min == step.range.max.next()
                && step.header.proof.map(|p| p.post) != next.header.proof.map(|p| p.pre)
        });
        if let Some((step, next)) = broken {
            if (step.level, next.level) != (Level::CAPTURED, Level::CAPTURED) {
                return Err(format!("{next} does not follow {step}"));
            }
            let leftover = step.number;
            objects.retain(|object| object.number != leftover);
            continue;
        }
        let sums = chain
            .steps
            .iter()
            .map(of)
            .fold(None, |sums: Option<Sums>, step| Some(applied(sums.as_ref(), step)));
        let checksum = total(&sums.expect("BUG: a chain has a step"));
        return Ok(Some(Position { txid: chain.end(), checksum }));
    }
    Ok(None)
}
