//! Faults that a test puts into the product itself, to see whether its checker finds them. In a thread of a test only; of
//! the shipped code nothing is different.

use std::cell::Cell;

/// One rule of the protocol that is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// What was created counts as stored, whatever became of the object before it.
    NoLook,
    /// Retention deletes the newest file that may go first.
    NewestDeletedFirst,
    /// A snapshot is made of the state of the database, whether that was acknowledged or not.
    SnapshotOfWhatIsThere,
    /// The page checksums of the log are believed without being added up.
    MapUnchecked,
    /// After a loss of power the file counts as changed by its times, not by its state.
    TimesBeforeState,
    /// A read past the end of a file answers as one that found everything.
    FlattenedShortRead,
    /// What hinders xSync comes as an I/O error without its kind.
    FlattenedSync,
}

thread_local! {
    static MUTATION: Cell<Option<Mutation>> = const { Cell::new(None) };
}

/// Sets it for this thread until the value is dropped.
pub struct Mutated;

impl Mutated {
    pub fn by(mutation: Option<Mutation>) -> Mutated {
        MUTATION.set(mutation);
        Mutated
    }
}

impl Drop for Mutated {
    fn drop(&mut self) {
        MUTATION.set(None);
    }
}

pub fn is(mutation: Mutation) -> bool {
    MUTATION.get() == Some(mutation)
}
