//! Everything that a schedule consists of: the store, the nodes, true time, requests under way, what was drawn from the seed.
//!
//! One thread runs it. Where a node asks the store for something, other nodes may run first, and afterwards: they are taken out
//! of the world while they act, so that no node acts twice at a time.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use super::checker::{Breach, Checker};
use super::client::Fate;
use super::counts::{Counts, What};
use super::node::Node;
use super::plan::{Mutant, Plan};
use super::store::{Kind, LeaseCell, New, Objects, Told};
use crate::error::Result;
use crate::lease::{Now, Permit, Time};
use crate::lock::Mutex;
use crate::ltx::sample::Random;
use crate::types::{FileInfo, Timestamp};

/// 2026-01-01, when every schedule begins.
const EPOCH_MS: i64 = 1_767_225_600_000;
/// Operations that stand still inside each other.
const DEPTH_MAX: u32 = 3;

/// A node ended in the middle of what it did; nothing of its memory is left.
pub struct Killed;

/// A request that is done when nobody expects it any more.
pub enum Late {
    Create(Box<New>),
    Delete(FileInfo),
    Lease(Option<u64>, Vec<u8>),
}

#[derive(Clone)]
pub struct World(Arc<Mutex<Inner>>);

pub struct Inner {
    pub random: Random,
    pub plan: Plan,
    /// True time.
    pub now_ms: i64,
    pub objects: Objects,
    pub lease: LeaseCell,
    pub checker: Checker,
    /// `None`: it acts.
    pub nodes: Vec<Option<Box<Node>>>,
    late: Vec<(u32, Late)>,
    pub counts: Counts,
    pub breach: Option<Breach>,
    trace: Option<Vec<String>>,
    depth: u32,
    pub steps_left: u32,
    /// No more faults: everything comes to its end.
    pub is_quiet: bool,
    /// What each node shows its writers of the lease.
    pub terms: Vec<Option<Permit>>,
    /// Who began to write under an epoch.
    pub epochs: Vec<(u64, usize)>,
    /// How far the clock of each node is off.
    pub skews: Vec<i64>,
    next_inode: u64,
}

impl World {
    pub fn new(seed: u64, mutant: Option<Mutant>, is_mutated: bool, is_traced: bool) -> World {
        let mut random = Random::new(seed);
        let plan = Plan::draw(&mut random, mutant, is_mutated);
        let world = Inner {
            now_ms: EPOCH_MS + random.below(86_400_000) as i64,
            objects: Objects::new(plan.kind),
            lease: LeaseCell::default(),
            checker: Checker::new(plan.weights.human > 0),
            nodes: Vec::new(),
            late: Vec::new(),
            counts: Counts::default(),
            breach: None,
            trace: is_traced.then(Vec::new),
            depth: 0,
            steps_left: plan.steps,
            is_quiet: false,
            terms: vec![None; plan.nodes],
            epochs: Vec::new(),
            skews: vec![0; plan.nodes],
            next_inode: 1,
            random,
            plan,
        };
        let world = World(Arc::new(Mutex::new(world)));
        world.with(|inner| inner.show_clock());
        world
    }

    /// Not while the product works: it comes back here.
    pub fn with<T>(&self, body: impl FnOnce(&mut Inner) -> T) -> T {
        body(&mut self.0.lock())
    }

    pub fn trace(&self, line: impl FnOnce() -> String) {
        self.with(|inner| inner.trace(line));
    }

    pub fn count(&self, what: What) {
        self.with(|inner| inner.counts.add(what));
    }

    pub fn chance(&self, one_in: u64) -> bool {
        self.with(|inner| inner.chance(one_in))
    }

    pub fn below(&self, end: u64) -> u64 {
        self.with(|inner| inner.random.below(end))
    }

    /// Records what must not be; the first one counts.
    pub fn breach(&self, why: impl Into<String>) {
        let why = why.into();
        self.with(|inner| {
            inner.trace(|| format!("BREACH {why}"));
            inner.breach.get_or_insert(why);
        });
    }

    pub fn require(&self, checked: Result<(), Breach>) {
        checked.unwrap_or_else(|why| self.breach(why));
    }

    /// Ends what is under way once something is broken.
    pub fn stop_at_breach(&self) {
        if self.with(|inner| inner.breach.is_some()) {
            resume_unwind(Box::new(Killed));
        }
    }

    /// What may happen while a request of `who` is under way.
    pub fn between(&self, who: &str) {
        self.stop_at_breach();
        let others = self.with(|inner| inner.draw_others());
        if others > 0 {
            self.trace(|| format!("{who} stands still"));
            for _ in 0..others {
                self.step();
            }
            self.with(|inner| inner.depth -= 1);
            self.trace(|| format!("{who} goes on"));
        }
        self.stop_at_breach();
        if self.with(|inner| inner.draws_kill()) && who.starts_with('n') {
            self.trace(|| format!("{who} is killed"));
            self.count(What::KilledAtARequest);
            resume_unwind(Box::new(Killed));
        }
    }

    /// One node that is free does something; or a late request arrives.
    pub fn step(&self) {
        let node = self.with(|inner| {
            inner.steps_left = inner.steps_left.saturating_sub(1);
            inner.counts.add(What::Step);
            inner.pass_time();
            inner.deliver();
            inner.take_any()
        });
        if let Some(node) = node {
            self.act(node, Node::act);
        }
    }

    /// Has a node do something, which it may not survive.
    pub fn act(&self, mut node: Box<Node>, act: impl FnOnce(&mut Node, &World)) {
        let skew = SKEW.replace(node.skew_ms);
        let outcome = catch_unwind(AssertUnwindSafe(|| act(&mut node, self)));
        SKEW.set(skew);
        if let Err(payload) = outcome {
            if payload.is::<Killed>() {
                node.killed(self);
            } else {
                self.breach(format!("the product panicked: {}", said(&*payload)));
            }
        }
        let id = node.id;
        self.with(|inner| {
            inner.skews[id] = node.skew_ms;
            inner.nodes[id] = Some(node);
        });
    }

    pub fn take_trace(&self) -> Vec<String> {
        self.with(|inner| inner.trace.take().unwrap_or_default())
    }
}

fn said(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().cloned();
    text.or_else(|| payload.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

impl Inner {
    pub fn trace(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            let seconds = (self.now_ms - EPOCH_MS) % 86_400_000;
            let indent = "  ".repeat(self.depth as usize);
            trace.push(format!("{:>9}.{:03} {indent}{}", seconds / 1000, seconds % 1000, line()));
        }
    }

    pub fn chance(&mut self, one_in: u64) -> bool {
        one_in > 0 && self.random.below(one_in) == 0
    }

    /// The same, while there are faults.
    pub fn fault(&mut self, one_in: u64) -> bool {
        !self.is_quiet && self.chance(one_in)
    }

    pub fn store_now(&self) -> Timestamp {
        Timestamp(self.now_ms + self.plan.store_skew_ms)
    }

    pub fn draw_skew(&mut self) -> i64 {
        let most = self.plan.skew_ms;
        if most == 0 { 0 } else { self.random.below(2 * most as u64 - 1) as i64 - most + 1 }
    }

    pub fn new_inode(&mut self) -> u64 {
        self.next_inode += 1;
        self.next_inode
    }

    pub fn advance(&mut self, ms: i64) {
        self.now_ms += ms;
        self.show_clock();
    }

    fn show_clock(&self) {
        TRUE_MS.set(self.now_ms);
    }

    fn pass_time(&mut self) {
        let l0 = self.plan.l0.as_millis() as u64;
        let ms = match self.random.below(12) {
            0 => self.random.below(2 * l0),
            1..=3 => self.random.below(8_000),
            _ => self.random.below(1_000),
        };
        self.advance(ms as i64);
    }

    /// How many steps others make now.
    fn draw_others(&mut self) -> u64 {
        if self.is_quiet || self.depth >= DEPTH_MAX || self.steps_left == 0 {
            return 0;
        }
        if !self.chance(self.plan.rates.interleave) {
            return 0;
        }
        self.depth += 1;
        self.counts.add(What::Interleaved);
        if self.chance(4) {
            // Longer than anything in the replica lasts.
            let l0 = self.plan.l0.as_millis() as i64;
            self.advance(l0 / 2);
            self.counts.add(What::LongPause);
            return 4 + self.random.below(12);
        }
        1 + self.random.below(3)
    }

    fn draws_kill(&mut self) -> bool {
        self.fault(self.plan.rates.kill)
    }

    pub fn loses_read(&mut self) -> bool {
        let lost = self.fault(self.plan.rates.read);
        if lost {
            self.counts.add(What::ReadLost);
        }
        lost
    }

    pub fn draw_fate(&mut self) -> Fate {
        if !self.fault(self.plan.rates.fate) {
            return Fate::Done;
        }
        let (fate, what) = match self.random.below(4) {
            0 => (Fate::Refused, What::Refused),
            1 => (Fate::Lost, What::AnswerLost),
            2 => (Fate::Late, What::Late),
            _ => (Fate::Twice, What::Twice),
        };
        self.counts.add(what);
        fate
    }

    pub fn put_off(&mut self, request: Late) {
        let after = if self.chance(3) { 10 + self.random.below(30) } else { self.random.below(8) };
        self.late.push((after as u32, request));
    }

    fn deliver(&mut self) {
        let mut due = Vec::new();
        for (after, _) in &mut self.late {
            *after = after.saturating_sub(1);
        }
        let mut at = 0;
        while at < self.late.len() {
            if self.late[at].0 == 0 { due.push(self.late.remove(at).1) } else { at += 1 }
        }
        due.into_iter().for_each(|request| self.land(request));
    }

    /// Everything that is still under way arrives.
    pub fn deliver_all(&mut self) {
        let due = std::mem::take(&mut self.late);
        due.into_iter().for_each(|(_, request)| self.land(request));
    }

    fn land(&mut self, request: Late) {
        let (what, result) = match request {
            Late::Create(new) => {
                (format!("create L{}/{}", new.level, new.range), self.create(&new).map(drop))
            }
            Late::Delete(file) => (format!("delete L{}/{}", file.level, file.range), self.delete(&file)),
            Late::Lease(seen, bytes) => ("put of the lease".into(), self.lease.put(seen, &bytes).map(drop)),
        };
        self.counts.add(if result.is_ok() { What::LateDone } else { What::LateInVain });
        self.trace(|| {
            format!(
                "a late request arrives: {what}: {}",
                result.map_or_else(|e| e.to_string(), |()| "done".into())
            )
        });
    }

    /// Somebody removes every object. Requests under way would put what belongs to a replica that is no more.
    pub fn empty(&mut self) {
        self.objects.clear();
        self.late.clear();
        self.checker.emptied();
    }

    /// Names are replaced by a rename.
    pub fn renames(&self) -> bool {
        self.plan.is_mutated(Mutant::RenameInsteadOfLink) && self.objects.kind == Kind::Folder
    }

    pub fn create(&mut self, new: &New) -> Result<FileInfo> {
        let overwrites = self.renames() || self.plan.is_mutated(Mutant::NoCreateIfAbsent);
        let now = self.store_now();
        let object = self.objects.create(new, now, overwrites)?.clone();
        let info = self.objects.info(&object, Told::Created, now);
        let checked = self.checker.created(&object).and_then(|()| self.checker.check_newest(&self.objects));
        self.checked(checked, || format!("after the create of {object}"));
        Ok(info)
    }

    pub fn delete(&mut self, file: &FileInfo) -> Result<()> {
        if self.objects.kind == Kind::Bucket {
            match self.objects.listed(file, self.store_now()) {
                Err(error) if error.kind() == crate::error::Kind::NotFound => return Ok(()),
                other => other.map(drop)?,
            }
        }
        if let Some(gone) = self.objects.remove(file.level, file.range) {
            self.counts.add(What::Deleted);
            let checked = self.checker.check_newest(&self.objects);
            self.checked(checked, || format!("after the delete of {gone}"));
        }
        Ok(())
    }

    pub fn checked(&mut self, checked: Result<(), Breach>, when: impl FnOnce() -> String) {
        if let Err(why) = checked {
            let why = format!("{}: {why}", when());
            self.trace(|| format!("BREACH {why}"));
            self.breach.get_or_insert(why);
        }
    }

    /// Nobody has the database open any more.
    pub fn stop_all(&mut self) {
        self.nodes.iter_mut().flatten().for_each(|node| node.session = None);
        self.terms.fill(None);
    }

    fn take_any(&mut self) -> Option<Box<Node>> {
        if let Some(node) = self.plan.favours.filter(|_| !self.chance(10))
            && let Some(node) = self.nodes[node].take()
        {
            return Some(node);
        }
        let free: Vec<usize> = (0..self.nodes.len()).filter(|&id| self.nodes[id].is_some()).collect();
        let at = self.random.below(free.len().max(1) as u64) as usize;
        self.nodes[*free.get(at)?].take()
    }

    /// No node is in the middle of something.
    pub fn is_between_all(&self) -> bool {
        self.depth == 0
    }

    /// Makes every name last, or lose them: the machine of a folder went down.
    pub fn lose_names(&mut self) {
        let names: Vec<_> =
            self.objects.iter().filter(|o| !o.is_durable).map(|o| (o.level, o.range)).collect();
        for (level, range) in names {
            if self.chance(2) {
                self.objects.remove(level, range);
                self.counts.add(What::NameLost);
            }
        }
        self.checker.lost_names(&self.objects);
        let checked = self.checker.check_newest(&self.objects);
        self.checked(checked, || "after the store lost names".into());
    }

    /// An error of the lease and of the clock: who may write now, by its own clock.
    pub fn may_write(&self, node: usize, now: Now) -> bool {
        self.terms[node].is_some_and(|permit| permit.allows(now))
    }
}

thread_local! {
    static TRUE_MS: Cell<i64> = const { Cell::new(0) };
    static SKEW: Cell<i64> = const { Cell::new(0) };
}

/// The clocks of the node that acts.
pub struct NodeTime;

pub static NODE_TIME: NodeTime = NodeTime;

impl NodeTime {
    /// Of a node whose clock is off by so much.
    pub fn of(skew_ms: i64) -> Now {
        let true_ms = TRUE_MS.get();
        Now { wall: Timestamp(true_ms + skew_ms), steady_ms: (true_ms - EPOCH_MS) as u64 }
    }
}

impl Time for NodeTime {
    fn now(&self) -> Now {
        NodeTime::of(SKEW.get())
    }

    fn pause(&self, _: std::time::Duration) {}
}
