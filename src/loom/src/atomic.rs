//! loom's atomics, with what it leaves out of SeqCst: it takes such an access for AcqRel, so that a load may answer an old value,
//! and tries no order of two fences.
//!
//! Here a SeqCst load or store is an exchange, of which loom knows that each meets the one before: that is what the one order of
//! all such accesses means. A SeqCst fence is an exchange on a word that all fences share.

use loom::sync::atomic::{AtomicBool as Bool, AtomicU64 as U64};

pub use loom::sync::atomic::Ordering;

use Ordering::{AcqRel, SeqCst};

loom::lazy_static! {
    static ref FENCES: U64 = U64::new(0);
}

pub fn fence(ordering: Ordering) {
    assert_eq!(ordering, SeqCst, "the library uses no other");
    FENCES.fetch_add(1, AcqRel);
}

#[derive(Debug, Default)]
pub struct AtomicBool(Bool);

impl AtomicBool {
    pub fn new(value: bool) -> AtomicBool {
        AtomicBool(Bool::new(value))
    }

    pub fn load(&self, ordering: Ordering) -> bool {
        if ordering == SeqCst { self.0.fetch_or(false, AcqRel) } else { self.0.load(ordering) }
    }

    pub fn store(&self, value: bool, ordering: Ordering) {
        if ordering == SeqCst {
            self.0.swap(value, AcqRel);
        } else {
            self.0.store(value, ordering);
        }
    }

    pub fn swap(&self, value: bool, ordering: Ordering) -> bool {
        self.0.swap(value, ordering)
    }
}

#[derive(Debug, Default)]
pub struct AtomicU64(U64);

impl AtomicU64 {
    pub fn new(value: u64) -> AtomicU64 {
        AtomicU64(U64::new(value))
    }

    pub fn load(&self, ordering: Ordering) -> u64 {
        if ordering == SeqCst { self.0.fetch_add(0, AcqRel) } else { self.0.load(ordering) }
    }

    pub fn store(&self, value: u64, ordering: Ordering) {
        if ordering == SeqCst {
            self.0.swap(value, AcqRel);
        } else {
            self.0.store(value, ordering);
        }
    }

    pub fn compare_exchange(&self, from: u64, to: u64, good: Ordering, bad: Ordering) -> Result<u64, u64> {
        self.0.compare_exchange(from, to, good, bad)
    }
}

macro_rules! arithmetic {
    ($($method:ident)*) => {
        impl AtomicU64 {
            $(pub fn $method(&self, value: u64, ordering: Ordering) -> u64 {
                self.0.$method(value, ordering)
            })*
        }
    };
}

arithmetic!(fetch_add fetch_or fetch_and fetch_max);
