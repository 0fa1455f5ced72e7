//! Faults that a test puts into the product itself, to see whether its checker finds them: in one thread, or in the whole
//! process of a test. Of the shipped code nothing is different.

use std::cell::Cell;
use std::sync::OnceLock;

/// One rule that is not kept.
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
    /// Nobody else's RESERVED lock is seen.
    FlattenedReserved,
    /// The removal of a file that is not there counts as done.
    FlattenedDelete,
    /// Shared memory is made longer by who only looks.
    ExtendedShm,
    /// The pages of a WAL that is about to start over are not noted.
    LostDrain,
    /// One in three pages that a rollback mode writes is not noted.
    ForgottenWrite,
    /// What was noted while a group was made is forgotten with what the group holds.
    ForgottenNotes,
    /// Page checksums of another page size count.
    WrongPageSize,
    /// One page of each group keeps the checksum that it had before.
    StalePageChecksum,
    /// Pages that the database was cut off by count in its checksum.
    GoneStillCounted,
    /// A merge takes the oldest version of each page.
    OldestPageWins,
    /// A restore believes the pages that it wrote.
    UnprovenRestore,
    /// Who holds a lease writes until it ends by the clock that moved least.
    LateLease,
}

/// Name, defect, and a test that fails with it.
pub const SEEDED: [(&str, Mutation, &str); 14] = [
    (
        "flattened-short-read",
        Mutation::FlattenedShortRead,
        "tests::vfs_contract::a_short_read_is_zero_filled_and_says_so",
    ),
    (
        "flattened-sync",
        Mutation::FlattenedSync,
        "tests::vfs_contract::codes_limits_and_capabilities_of_the_base_come_through_unchanged",
    ),
    (
        "flattened-reserved",
        Mutation::FlattenedReserved,
        "tests::vfs_contract::a_reserved_lock_of_another_connection_is_seen",
    ),
    ("flattened-delete", Mutation::FlattenedDelete, "tests::vfs_contract::deleting_a_missing_file_says_so"),
    (
        "extended-shm",
        Mutation::ExtendedShm,
        "tests::vfs_contract::shared_memory_is_extended_only_when_asked_for",
    ),
    (
        "lost-drain",
        Mutation::LostDrain,
        "tests::model_rows::model_wal_that_starts_over_at_every_commit_is_followed",
    ),
    ("forgotten-write", Mutation::ForgottenWrite, "tests::model_modes::model_delete_restores_any_txid"),
    (
        "forgotten-notes",
        Mutation::ForgottenNotes,
        "staging::noted::tests::noted_pages_are_taken_once_and_again_until_settled",
    ),
    (
        "wrong-page-size",
        Mutation::WrongPageSize,
        "tests::model_rows::model_change_of_the_page_size_is_followed_by_a_snapshot_of_its_own",
    ),
    ("stale-page-checksum", Mutation::StalePageChecksum, "tests::model_modes::model_wal_restores_any_txid"),
    (
        "gone-still-counted",
        Mutation::GoneStillCounted,
        "tests::model_rows::model_vacuum_that_shrinks_carries_every_page",
    ),
    (
        "oldest-page-wins",
        Mutation::OldestPageWins,
        "ltx::merge::tests::random_merges_equal_applying_the_files_one_by_one",
    ),
    ("unproven-restore", Mutation::UnprovenRestore, "restore::tests::wrong_database_checksum_fails"),
    (
        "late-lease",
        Mutation::LateLease,
        "lease::machine::tests::at_most_one_may_write_whatever_is_lost_or_late",
    ),
];

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

/// Of the whole process: `SEEDED_DEFECT=lost-drain`.
fn seeded() -> Option<Mutation> {
    static DEFECT: OnceLock<Option<Mutation>> = OnceLock::new();
    *DEFECT.get_or_init(|| {
        let name = std::env::var("SEEDED_DEFECT").ok()?;
        let known = SEEDED.iter().find(|(known, ..)| *known == name);
        Some(known.unwrap_or_else(|| panic!("no defect is named {name}")).1)
    })
}

pub fn is(mutation: Mutation) -> bool {
    MUTATION.get() == Some(mutation) || seeded() == Some(mutation)
}
