//! A few nodes and a store, with seeds: answers that are lost or late, puts that land after their sender was told that they
//! failed, pauses longer than a life, clocks that differ and are set. At every moment at most one may write.

use super::*;
use crate::ltx::sample::Random;
use crate::types::Timestamp;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::time::Duration;

const LIFE_MS: u64 = 30_000;
const ALLOWANCE_MS: i64 = 3_000;
/// How long faults go on, and how long everything is left alone afterwards.
const CHAOS_MS: u64 = 600_000;
const QUIET_MS: u64 = 200_000;
const PATIENCE_MS: u64 = 45_000;

fn me(id: u64) -> Holder {
    Holder::new(id, "host", 1, None)
}

fn rules(id: u64) -> Rules {
    Rules { me: me(id), terms: Terms::new(Duration::from_millis(LIFE_MS)).unwrap() }
}

/// What a store makes of a put.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Condition and change are one.
    Bucket,
    /// A look; later a name that must be free, which old ones become again; then a look whether it is the newest.
    Folder,
}

struct Store {
    kind: Kind,
    /// By number.
    puts: BTreeMap<u64, Lease>,
}

impl Store {
    fn newest(&self) -> Option<(u64, Lease)> {
        self.puts.last_key_value().map(|(number, lease)| (*number, lease.clone()))
    }

    fn version(&self) -> Option<u64> {
        self.puts.last_key_value().map(|(number, _)| *number)
    }

    /// `seen`: what is replaced; `was_there`: whether it was, when the put was begun.
    fn put(&mut self, lease: &Lease, seen: Option<u64>, was_there: bool) -> Option<u64> {
        let number = seen.unwrap_or(0) + 1;
        let is_refused = match self.kind {
            Kind::Bucket => self.version() != seen,
            Kind::Folder => !was_there || self.puts.contains_key(&number),
        };
        if is_refused {
            return None;
        }
        self.puts.insert(number, lease.clone());
        let newest = self.version().expect("BUG: just put");
        self.puts.retain(|&number, _| number + 4 >= newest);
        (newest == number).then_some(number)
    }
}

struct Node {
    rules: Rules,
    state: State,
    /// Wall clock less true time.
    offset_ms: i64,
    version: Option<u64>,
    request: u64,
    wake: u64,
    /// Nothing reaches it until then.
    paused_until: u64,
}

enum What {
    Command(Event),
    Wake(u64),
    Land { request: u64, lease: Lease, seen: Option<u64>, was_there: bool, is_answered: bool },
    Answer { request: u64, event: Event, version: Option<u64> },
    SetClock,
}

struct Due {
    at: u64,
    order: u64,
    node: usize,
    what: What,
}

impl PartialEq for Due {
    fn eq(&self, other: &Due) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Due) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    fn cmp(&self, other: &Due) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

struct World {
    random: Random,
    store: Store,
    nodes: Vec<Node>,
    queue: BinaryHeap<Reverse<Due>>,
    order: u64,
    now: u64,
    skew_ms: i64,
    /// Who had each epoch.
    holders: HashMap<u64, usize>,
    /// Permits that began, renewals that were settled by reading back.
    acquired: u64,
    unsettled: u64,
}

impl World {
    fn new(seed: u64, kind: Kind, skew_ms: i64) -> World {
        let mut random = Random::new(seed);
        let count = 2 + random.below(3);
        let nodes = (0..count).map(|id| Node {
            rules: rules(id + 1),
            state: State::Out(Why::Free),
            offset_ms: 0,
            version: None,
            request: 0,
            wake: 0,
            paused_until: 0,
        });
        let nodes: Vec<_> = nodes.collect();
        let store = Store { kind, puts: BTreeMap::new() };
        let mut world = World {
            random,
            store,
            nodes,
            queue: BinaryHeap::new(),
            order: 0,
            now: 0,
            skew_ms,
            holders: HashMap::new(),
            acquired: 0,
            unsettled: 0,
        };
        for node in 0..world.nodes.len() {
            world.set_clock(node);
            world.push(world.random_below(1000), node, What::SetClock);
            world.push(
                world.random_below(1000),
                node,
                What::Command(Event::Acquire { patience_ms: PATIENCE_MS }),
            );
        }
        world
    }

    /// From the seed and the moment, where the generator cannot be borrowed.
    fn random_below(&self, end: u64) -> u64 {
        Random::new(self.order.wrapping_mul(31) + self.now + 7).below(end)
    }

    fn is_quiet(&self) -> bool {
        self.now >= CHAOS_MS
    }

    /// One in so many, while there is chaos.
    fn fault(&mut self, one_in: u64) -> bool {
        let hit = self.random.below(one_in) == 0;
        hit && !self.is_quiet()
    }

    fn push(&mut self, after: u64, node: usize, what: What) {
        self.order += 1;
        self.queue.push(Reverse(Due { at: self.now + after, order: self.order, node, what }));
    }

    fn set_clock(&mut self, node: usize) {
        let width = 2 * self.skew_ms - 3;
        self.nodes[node].offset_ms = self.random.below(width as u64) as i64 - self.skew_ms + 2;
    }

    fn now_of(&self, node: usize) -> Now {
        let wall = Timestamp(1_700_000_000_000 + self.now as i64 + self.nodes[node].offset_ms);
        Now { wall, steady_ms: self.now + node as u64 * 1_000_000 }
    }

    /// Runs to the end; the first breach, if there is one.
    fn run(&mut self) -> Result<(), String> {
        while let Some(Reverse(due)) = self.queue.pop().filter(|due| due.0.at < CHAOS_MS + QUIET_MS) {
            self.now = due.at;
            self.turn(due);
            self.check()?;
        }
        Ok(())
    }

    fn turn(&mut self, Due { node, what, .. }: Due) {
        if let What::Land { request, lease, seen, was_there, is_answered } = what {
            // The store works whatever becomes of who asked.
            let version = self.store.put(&lease, seen, was_there);
            let answer = if version.is_some() { Answer::Done } else { Answer::Refused };
            if is_answered {
                let after = self.random.below(50);
                self.push(after, node, What::Answer { request, event: Event::Put(answer), version });
            }
            return;
        }
        if self.fault(150) {
            let pause = self.random.below(2 * LIFE_MS);
            self.nodes[node].paused_until = self.now + pause;
        }
        let paused_until = self.nodes[node].paused_until;
        if paused_until > self.now {
            return self.push(paused_until - self.now, node, what);
        }
        match what {
            What::Command(event) => self.command(node, event),
            What::Wake(wake) if wake == self.nodes[node].wake => self.step(node, Event::Tick),
            What::Answer { request, event, version } if request == self.nodes[node].request => {
                self.nodes[node].request += 1;
                if version.is_some() {
                    self.nodes[node].version = version;
                }
                self.unsettled += u64::from(event == Event::Put(Answer::Unknown));
                self.step(node, event);
            }
            What::SetClock => {
                self.set_clock(node);
                self.push(20_000, node, What::SetClock);
            }
            What::Wake(_) | What::Answer { .. } | What::Land { .. } => {}
        }
    }

    /// Wants the lease, or hands it back, again and again.
    fn command(&mut self, node: usize, event: Event) {
        let is_idle = match &self.nodes[node].state {
            State::Out(_) => true,
            State::Held(held) => matches!(held.doing, Doing::Waiting { .. }),
            State::Asking(_) | State::Leaving(_) => false,
        };
        if is_idle {
            self.step(node, event);
        }
        let next = match self.random.below(4) {
            0 if !self.is_quiet() => Event::Release,
            _ => Event::Acquire { patience_ms: PATIENCE_MS },
        };
        let after = 1000 + self.random.below(20_000);
        self.push(after, node, What::Command(next));
    }

    fn step(&mut self, node: usize, event: Event) {
        let now = self.now_of(node);
        let state = std::mem::replace(&mut self.nodes[node].state, State::Out(Why::Free));
        let had = state.lease().is_some();
        let (state, action) = self.nodes[node].rules.step(state, event, now);
        self.acquired += u64::from(!had && state.lease().is_some());
        self.nodes[node].state = state;
        // What was to wake it before is no matter now.
        self.nodes[node].wake += 1;
        match action {
            Action::Rest => {}
            Action::Wait { until_ms } => {
                let wake = self.nodes[node].wake;
                self.push(until_ms.saturating_sub(now.steady_ms), node, What::Wake(wake));
            }
            Action::Read => self.read(node),
            Action::Create(lease) => self.put(node, lease, None),
            Action::Replace(lease) => self.put(node, lease, self.nodes[node].version),
        }
    }

    fn read(&mut self, node: usize) {
        let (request, after) = (self.nodes[node].request, self.random.below(200));
        if self.fault(8) {
            let event = Event::ReadFailed { is_final: false };
            return self.push(after, node, What::Answer { request, event, version: None });
        }
        let (version, found) = self.store.newest().unzip();
        self.nodes[node].version = version;
        self.push(after, node, What::Answer { request, event: Event::Read(found), version });
    }

    fn put(&mut self, node: usize, lease: Lease, seen: Option<u64>) {
        let request = self.nodes[node].request;
        let was_there = self.store.version() == seen;
        let (is_lost, is_unanswered, is_late) = (self.fault(10), self.fault(6), self.fault(6));
        let unknown = || Event::Put(Answer::Unknown);
        if is_lost || is_unanswered {
            let after = 500 + self.random.below(3000);
            self.push(after, node, What::Answer { request, event: unknown(), version: None });
        }
        if is_lost {
            return;
        }
        let range = if is_late { 2 * LIFE_MS } else { 300 };
        let after = self.random.below(range);
        let is_answered = !is_unanswered;
        self.push(after, node, What::Land { request, lease, seen, was_there, is_answered });
    }

    fn check(&mut self) -> Result<(), String> {
        let permits =
            |node: &usize| self.nodes[*node].state.permit(&self.nodes[*node].rules, self.now_of(*node));
        let writers: Vec<usize> = (0..self.nodes.len()).filter(|node| permits(node).is_some()).collect();
        if writers.len() > 1 {
            return Err(format!(
                "at {} ms {writers:?} may write: {:?}",
                self.now, self.nodes[writers[1]].state
            ));
        }
        let Some(&writer) = writers.first() else { return Ok(()) };
        let epoch = permits(&writer).expect("BUG: just looked").epoch.get();
        let lease = self.nodes[writer].state.lease().expect("BUG: it holds one");
        if self.now_of(writer).wall >= lease.expires_at {
            return Err(format!("at {} ms {writer} writes past its end", self.now));
        }
        match *self.holders.entry(epoch).or_insert(writer) {
            first if first == writer => Ok(()),
            first => Err(format!("epoch {epoch} of {first} is that of {writer} too")),
        }
    }
}

#[test]
fn at_most_one_may_write_whatever_is_lost_or_late() {
    let (mut acquired, mut unsettled) = (0, 0);
    for seed in 0..600 {
        for kind in [Kind::Bucket, Kind::Folder] {
            let mut world = World::new(seed, kind, ALLOWANCE_MS);
            let ran = world.run();
            assert_eq!(ran, Ok(()), "seed {seed}");
            let held = world.nodes.iter().filter(|node| node.state.lease().is_some()).count();
            assert!(held >= 1, "seed {seed}: nobody came to hold it, though all was well for long");
            (acquired, unsettled) = (acquired + world.acquired, unsettled + world.unsettled);
        }
    }
    assert!(acquired > 4000 && unsettled > 4000, "{acquired} acquired, {unsettled} puts without an answer");
}

/// The limit, and that a breach would be seen.
#[test]
fn clocks_that_differ_by_more_than_the_allowance_can_break_it() {
    let breaches =
        |kind| (0..200).filter(|&seed| World::new(seed, kind, 6 * ALLOWANCE_MS).run().is_err()).count();
    assert!(breaches(Kind::Bucket) > 0 && breaches(Kind::Folder) > 0);
}

fn at(ms: u64) -> Now {
    Now { wall: Timestamp(1_700_000_000_000 + ms as i64), steady_ms: ms }
}

/// Acquires at 0 from a store without a lease.
fn held(rules: &Rules) -> (State, Lease) {
    let (state, action) = rules.step(State::Out(Why::Free), Event::Acquire { patience_ms: 0 }, at(0));
    assert_eq!(action, Action::Read);
    let (state, action) = rules.step(state, Event::Read(None), at(0));
    let Action::Create(lease) = action else { panic!("{action:?}") };
    let (state, action) = rules.step(state, Event::Put(Answer::Done), at(100));
    assert_eq!(action, Action::Wait { until_ms: LIFE_MS / 3 });
    (state, lease)
}

#[test]
fn it_is_renewed_at_a_third_of_its_life_and_ends_before_it_does() {
    let rules = rules(1);
    let (state, lease) = held(&rules);
    assert_eq!((lease.epoch, lease.expires_at), (Epoch::FIRST, at(30_000).wall));
    assert!(state.permit(&rules, at(26_999)).is_some() && state.permit(&rules, at(27_000)).is_none());
    let (state, action) = rules.step(state, Event::Tick, at(10_000));
    assert_eq!(action, Action::Replace(Lease { expires_at: at(40_000).wall, ..lease.clone() }));
    // No answer: it tries again, and stops when the end has come.
    let (mut state, mut action) = rules.step(state, Event::Put(Answer::Unknown), at(12_000));
    for _ in 0..100 {
        let Action::Wait { until_ms } = action else { break };
        (state, action) = rules.step(state, Event::Tick, at(until_ms));
        if let Action::Replace(_) = action {
            (state, action) = rules.step(state, Event::Put(Answer::Unknown), at(until_ms + 500));
        }
    }
    assert_eq!((state, action), (State::Out(Why::Expired), Action::Rest));
}

#[test]
fn a_renewal_that_is_answered_too_late_counts_for_nothing() {
    let rules = rules(1);
    let (state, _) = held(&rules);
    let (state, _) = rules.step(state, Event::Tick, at(26_000));
    assert_eq!(rules.step(state, Event::Put(Answer::Done), at(27_000)).0, State::Out(Why::Expired));
}

#[test]
fn a_renewal_without_an_answer_is_settled_by_what_is_there() {
    let rules = rules(1);
    let (state, _) = held(&rules);
    let (state, action) = rules.step(state, Event::Tick, at(10_000));
    let Action::Replace(sent) = action else { panic!("{action:?}") };
    let (state, _) = rules.step(state, Event::Put(Answer::Unknown), at(11_000));
    let (state, _) = rules.step(state, Event::Tick, at(12_000));
    let (state, action) = rules.step(state, Event::Put(Answer::Refused), at(12_100));
    assert_eq!(action, Action::Read);
    let (after, action) = rules.step(state.clone(), Event::Read(Some(sent)), at(12_200));
    assert_eq!(action, Action::Wait { until_ms: 20_000 });
    assert!(after.permit(&rules, at(36_999)).is_some());
    let theirs = Lease { epoch: Epoch::new(2).unwrap(), expires_at: at(50_000).wall, holder: me(2) };
    let (after, action) = rules.step(state, Event::Read(Some(theirs.clone())), at(12_200));
    assert_eq!((after, action), (State::Out(Why::Lost(Some(theirs))), Action::Rest));
}

/// What one that has no patience makes of a lease of another, `age_ms` after its end.
fn found(lease: Lease, now: Now) -> (State, Action) {
    let rules = rules(2);
    let (state, _) = rules.step(State::Out(Why::Free), Event::Acquire { patience_ms: 0 }, now);
    rules.step(state, Event::Read(Some(lease)), now)
}

#[test]
fn another_s_lease_is_taken_over_after_its_end_and_the_allowance() {
    let lease = Lease { epoch: Epoch::new(7).unwrap(), expires_at: at(30_000).wall, holder: me(1) };
    assert_eq!(found(lease.clone(), at(32_999)), (State::Out(Why::Rival(lease.clone())), Action::Rest));
    let (_, action) = found(lease.clone(), at(33_000));
    assert!(
        matches!(&action, Action::Replace(new) if new.epoch.get() == 8 && new.holder == me(2)),
        "{action:?}"
    );
    let (_, action) = found(lease.handed_back(), at(0));
    assert!(matches!(&action, Action::Replace(new) if new.epoch.get() == 8), "{action:?}");
    let last = Lease { epoch: Epoch::new(i64::MAX as u64).unwrap(), ..lease };
    assert_eq!(found(last, at(60_000)).0, State::Out(Why::LastEpoch));
}

#[test]
fn who_has_patience_looks_again_until_it_is_handed_back() {
    let rules = rules(2);
    let lease = Lease { epoch: Epoch::FIRST, expires_at: at(1_000_000).wall, holder: me(1) };
    let (mut state, mut action) =
        rules.step(State::Out(Why::Free), Event::Acquire { patience_ms: 1200 }, at(0));
    let mut looks = 0;
    let mut ms = 0;
    while !matches!(state, State::Out(_)) {
        match action {
            Action::Read => (state, action) = rules.step(state, Event::Read(Some(lease.clone())), at(ms)),
            Action::Wait { until_ms } => {
                (looks, ms) = (looks + 1, until_ms);
                (state, action) = rules.step(state, Event::Tick, at(ms));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((looks, ms, state), (3, 1200, State::Out(Why::Rival(lease))));
}

#[test]
fn release_puts_it_back_ended_even_when_a_renewal_is_not_settled() {
    let rules = rules(1);
    let (state, lease) = held(&rules);
    let (state, action) = rules.step(state, Event::Tick, at(10_000));
    let Action::Replace(sent) = action else { panic!("{action:?}") };
    let (state, _) = rules.step(state, Event::Put(Answer::Unknown), at(11_000));
    let (state, action) = rules.step(state, Event::Release, at(11_100));
    assert_eq!(action, Action::Replace(lease.handed_back()));
    assert_eq!(state.permit(&rules, at(11_100)), None, "no write behind it");
    let (state, action) = rules.step(state, Event::Put(Answer::Refused), at(11_200));
    assert_eq!(action, Action::Read);
    let (state, action) = rules.step(state, Event::Read(Some(sent.clone())), at(11_300));
    assert_eq!(action, Action::Replace(sent.handed_back()));
    assert_eq!(rules.step(state, Event::Put(Answer::Done), at(11_400)).0, State::Out(Why::Free));
}
