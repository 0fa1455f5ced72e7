//! The contract of [`Leases`], as tests that every backend runs on an empty replica of its own; and that a
//! [`Tenant`] holds what is there, whatever answers were lost.

use super::leases::{LEASE_BYTES_MAX, LeaseObject, Leases};
use crate::error::{Error, Kind, Result};
use crate::lease::{Holder, Lease, MachineTime, Now, Tenant, Terms, Time, look};
use crate::ltx::sample::Random;
use crate::types::{Epoch, Timestamp};
use std::cell::{Cell, RefCell};
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const RACERS: u8 = 16;
const RACES: u64 = 5;

type Check = fn(&(dyn Leases + Sync));

/// Each check by name.
pub const SUITE: &[(&str, Check)] = &[
    ("a_lease_that_was_put_is_read", a_lease_that_was_put_is_read),
    ("a_lease_is_created_where_there_is_none", a_lease_is_created_where_there_is_none),
    ("a_lease_is_replaced_by_who_read_it", a_lease_is_replaced_by_who_read_it),
    ("a_lease_is_replaced_again_and_again", a_lease_is_replaced_again_and_again),
    ("one_of_many_takes_a_lease", one_of_many_takes_a_lease),
    ("removal_spares_another_lease", removal_spares_another_lease),
    ("a_large_lease_is_read_in_part", a_large_lease_is_read_in_part),
    ("tenants_take_turns", tenants_take_turns),
    (
        "a_tenant_holds_what_is_there_when_answers_are_lost",
        a_tenant_holds_what_is_there_when_answers_are_lost,
    ),
];

fn epoch(n: u64) -> Epoch {
    Epoch::new(n).unwrap()
}

fn kind(put: Result<LeaseObject>) -> Kind {
    put.map(|object| object.bytes).unwrap_err().kind()
}

/// There is this one.
fn assert_is(leases: &dyn Leases, expected: &LeaseObject, bytes: &[u8]) {
    let found = leases.read_lease().unwrap().unwrap();
    assert!(found.same_object(expected), "{found:?}, not {expected:?}");
    assert_eq!((&found.bytes[..], &expected.bytes[..]), (bytes, bytes));
}

fn a_lease_that_was_put_is_read(leases: &(dyn Leases + Sync)) {
    assert_eq!(leases.read_lease().unwrap(), None);
    let first = leases.create_lease(b"one").unwrap();
    assert_is(leases, &first, b"one");
    let second = leases.replace_lease(&first, b"two").unwrap();
    assert_is(leases, &second, b"two");
    let read = leases.read_lease().unwrap().unwrap();
    let third = leases.replace_lease(&read, b"renewed").unwrap();
    assert_is(leases, &third, b"renewed");
}

fn a_lease_is_created_where_there_is_none(leases: &(dyn Leases + Sync)) {
    let first = leases.create_lease(b"one").unwrap();
    for bytes in [&b"one"[..], b"other"] {
        assert_eq!(kind(leases.create_lease(bytes)), Kind::Conflict);
    }
    assert_is(leases, &first, b"one");
}

fn a_lease_is_replaced_by_who_read_it(leases: &(dyn Leases + Sync)) {
    let old = leases.create_lease(b"one").unwrap();
    let held = leases.replace_lease(&old, b"two").unwrap();
    assert_eq!(kind(leases.replace_lease(&old, b"late")), Kind::Conflict);
    assert_eq!(kind(leases.replace_lease(&old, b"two")), Kind::Conflict);
    assert_is(leases, &held, b"two");
    leases.remove_lease(&held).unwrap();
    assert_eq!(kind(leases.replace_lease(&held, b"late")), Kind::Conflict);
    assert_eq!(leases.read_lease().unwrap(), None);
}

fn a_lease_is_replaced_again_and_again(leases: &(dyn Leases + Sync)) {
    let mut all = vec![leases.create_lease(b"0").unwrap()];
    for n in 1..=12 {
        let bytes = n.to_string();
        let newest = leases.replace_lease(&all[n - 1], bytes.as_bytes()).unwrap();
        for old in &all {
            assert!(!newest.same_object(old));
            assert_eq!(kind(leases.replace_lease(old, b"again")), Kind::Conflict);
        }
        assert_is(leases, &newest, bytes.as_bytes());
        all.push(newest);
    }
}

fn one_of_many_takes_a_lease(leases: &(dyn Leases + Sync)) {
    let mut before: Option<LeaseObject> = None;
    for race in 1..=RACES {
        let start = Barrier::new(RACERS.into());
        let take = |racer: u8| {
            let bytes = format!("{race} {racer}");
            start.wait();
            match &before {
                None => leases.create_lease(bytes.as_bytes()),
                Some(before) => leases.replace_lease(before, bytes.as_bytes()),
            }
        };
        let results: Vec<_> = std::thread::scope(|scope| {
            let racers: Vec<_> = (0..RACERS).map(|racer| scope.spawn(move || take(racer))).collect();
            racers.into_iter().map(|racer| racer.join().unwrap()).collect()
        });
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1, "{results:?}");
        assert!(results.iter().flat_map(|result| result.as_ref().err()).all(|e| e.kind() == Kind::Conflict));
        let won = results.into_iter().flatten().next().unwrap();
        assert_is(leases, &won, &won.bytes);
        before = Some(won);
    }
}

fn removal_spares_another_lease(leases: &(dyn Leases + Sync)) {
    let old = leases.create_lease(b"one").unwrap();
    let held = leases.replace_lease(&old, b"two").unwrap();
    assert_eq!(leases.remove_lease(&old).unwrap_err().kind(), Kind::Conflict);
    assert_is(leases, &held, b"two");
    leases.remove_lease(&held).unwrap();
    leases.remove_lease(&held).unwrap();
    assert_eq!(leases.read_lease().unwrap(), None);
    let new = leases.create_lease(b"new").unwrap();
    assert_is(leases, &new, b"new");
}

fn a_large_lease_is_read_in_part(leases: &(dyn Leases + Sync)) {
    leases.create_lease(&vec![b' '; 2 * LEASE_BYTES_MAX]).unwrap();
    let read = leases.read_lease().unwrap().unwrap();
    assert_eq!(read.bytes.len(), LEASE_BYTES_MAX + 1);
    let error = Lease::parse(&read.bytes).unwrap_err();
    assert!(error.to_string().contains("more than"), "{error}");
}

fn holder(id: u64) -> Holder {
    Holder::new(id, "host", id as u32, Some("http://host"))
}

fn tenants_take_turns(leases: &(dyn Leases + Sync)) {
    let mut first = Tenant::new(holder(1), Terms::default(), &MachineTime);
    let mut second = Tenant::new(holder(2), Terms::default(), &MachineTime);
    for round in 0..3 {
        let permit = first.acquire(leases, Duration::ZERO).unwrap();
        assert_eq!(permit.epoch, epoch(2 * round + 1));
        assert_eq!(first.acquire(leases, Duration::ZERO).unwrap(), permit, "it holds it already");
        let error = second.acquire(leases, Duration::ZERO).unwrap_err();
        let text = error.to_string();
        assert!(error.kind() == Kind::Busy && text.contains("host:1 at http://host, epoch"), "{text}");
        assert!(second.permit().is_none() && second.tend(leases).unwrap().is_none());
        first.release(leases).unwrap();
        assert!(first.permit().is_none());
        assert_eq!(second.acquire(leases, Duration::ZERO).unwrap().epoch, epoch(2 * round + 2));
        second.release(leases).unwrap();
    }
}

/// Time that passes only when it is waited for.
struct Virtual(AtomicU64);

impl Time for Virtual {
    fn now(&self) -> Now {
        let steady_ms = self.0.load(Ordering::Relaxed);
        Now { wall: Timestamp(1_700_000_000_000 + steady_ms as i64), steady_ms }
    }

    fn pause(&self, duration: Duration) {
        self.0.fetch_add(duration.as_millis() as u64, Ordering::Relaxed);
    }
}

/// A store that does what it is asked for and then says nothing, or says nothing and does it not.
struct Lossy<'a> {
    leases: &'a dyn Leases,
    random: RefCell<Random>,
    lost: Cell<u64>,
}

impl Lossy<'_> {
    fn put(&self, put: impl FnOnce() -> Result<LeaseObject>) -> Result<LeaseObject> {
        let dice = self.random.borrow_mut().below(4);
        let done = if dice == 1 { None } else { Some(put()) };
        match done.filter(|_| dice > 1) {
            Some(done) => done,
            None => {
                self.lost.set(self.lost.get() + 1);
                Err(Error::new(Kind::Io, "the answer was lost"))
            }
        }
    }
}

impl Leases for Lossy<'_> {
    fn check_leases(&self) -> Result<()> {
        self.leases.check_leases()
    }

    fn read_lease(&self) -> Result<Option<LeaseObject>> {
        if self.random.borrow_mut().below(8) == 0 {
            return Err(Error::new(Kind::Io, "the answer was lost"));
        }
        self.leases.read_lease()
    }

    fn create_lease(&self, bytes: &[u8]) -> Result<LeaseObject> {
        self.put(|| self.leases.create_lease(bytes))
    }

    fn replace_lease(&self, old: &LeaseObject, bytes: &[u8]) -> Result<LeaseObject> {
        self.put(|| self.leases.replace_lease(old, bytes))
    }

    fn remove_lease(&self, old: &LeaseObject) -> Result<()> {
        self.leases.remove_lease(old)
    }
}

fn a_tenant_holds_what_is_there_when_answers_are_lost(leases: &(dyn Leases + Sync)) {
    let time = Virtual(AtomicU64::new(0));
    let lossy = Lossy { leases, random: RefCell::new(Random::new(3)), lost: Cell::new(0) };
    let mut tenants: Vec<_> = (1..=2).map(|id| Tenant::new(holder(id), Terms::default(), &time)).collect();
    let (mut newest, mut renewals) = (0, 0);
    for round in 0..30 {
        let tenant = &mut tenants[round % 2];
        // Longer than a life: one that was not handed back ends by itself.
        let permit = tenant.acquire(&lossy, Duration::from_secs(60)).unwrap();
        assert!(permit.epoch.get() > newest, "{permit:?} after {newest}");
        newest = permit.epoch.get();
        for _ in 0..6 {
            let lease = look(leases).unwrap().unwrap();
            assert_eq!((lease.epoch.get(), &lease.holder), (newest, &holder(round as u64 % 2 + 1)));
            let held = tenant.lease().unwrap();
            assert!(held.expires_at <= lease.expires_at, "it knows of no longer life than others do");
            let wake_ms = tenant.tend(&lossy).unwrap().unwrap();
            time.pause(Duration::from_millis(wake_ms - time.now().steady_ms));
            tenant.tend(&lossy).unwrap();
            assert!(tenant.permit().is_some());
        }
        renewals += tenant.renewals();
        let released = tenant.release(&lossy);
        assert!(tenant.permit().is_none());
        let lease = look(leases).unwrap().unwrap();
        assert!(lease.is_handed_back() || released.is_err(), "{lease:?}");
    }
    assert!(lossy.lost.get() > 50 && renewals > 50, "{} lost, {renewals} renewals", lossy.lost.get());
}
