//! What a verification found, as values.

use crate::error::{Error, Kind};
use crate::ltx::name;
use crate::types::{FileInfo, Level, Position, Txid, TxidRange};
use std::fmt;

/// Findings kept; what comes after them is only counted.
pub const FINDINGS_MAX: usize = 1000;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Grade {
    /// Worth knowing; every restore is right all the same.
    Notice,
    /// Something is lost, damaged or in doubt.
    Problem,
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Trouble {
    /// The bytes of a file.
    Damage,
    /// A file does not begin where the one before it ends.
    Link,
    /// Txids that no file holds, or none fine enough.
    Gap,
    /// A level-0 file that belongs to no history (rule 2 of the protocol), or lost its neighbour.
    Leftover,
    /// Two files of one level hold the same txid.
    Overlap,
    /// A merged file is not what its sources give.
    Merge,
    /// The database is not the one that a file states.
    Database,
    /// What is known to have been there is not.
    Lost,
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub grade: Grade,
    pub trouble: Trouble,
    /// The file it is about; a gap has none.
    pub file: Option<(Level, TxidRange)>,
    /// What is wrong, with the file's name.
    pub what: String,
    /// What to do about it.
    pub remedy: &'static str,
    /// First txid whose state is in doubt because of it.
    pub spoils: Option<Txid>,
}

impl Finding {
    pub fn problem(trouble: Trouble, what: String, remedy: &'static str) -> Finding {
        Finding { grade: Grade::Problem, trouble, file: None, what, remedy, spoils: None }
    }

    pub fn notice(trouble: Trouble, what: String, remedy: &'static str) -> Finding {
        Finding { grade: Grade::Notice, ..Finding::problem(trouble, what, remedy) }
    }

    #[must_use]
    pub fn about(self, file: &FileInfo) -> Finding {
        Finding { file: Some((file.level, file.range)), ..self }
    }

    #[must_use]
    pub fn spoiling(self, txid: Txid) -> Finding {
        Finding { spoils: Some(txid), ..self }
    }
}

/// What is wrong; what to do.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.what, self.remedy)
    }
}

/// As messages name a file of a replica.
pub fn called(file: &FileInfo) -> String {
    format!("level {} file {}", file.level, name::format(file.range))
}

/// What was verified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Files read to their last byte, and their bytes and pages.
    pub files: u64,
    pub bytes: u64,
    pub pages: u64,
    /// Database checksums that files state and that were computed from pages and found equal.
    pub database_checksums: u64,
    /// Merged files that were compared page by page with the files they merge.
    pub merges: u64,
    /// Txid of the oldest state that was built, and of the newest in the replica.
    pub oldest: Option<Txid>,
    pub newest: Option<Txid>,
    /// The newest state up to which everything is proven.
    pub verified: Option<Position>,
    /// By grade, problems first, each kind in the order in which it was found; at most [`FINDINGS_MAX`].
    pub findings: Vec<Finding>,
    /// Findings past that.
    pub findings_left_out: u64,
}

impl Report {
    /// No problem was found; notices do not count.
    pub fn is_ok(&self) -> bool {
        self.first_problem().is_none()
    }

    pub fn first_problem(&self) -> Option<&Finding> {
        self.findings.iter().find(|finding| finding.grade == Grade::Problem)
    }

    /// The first problem as an error, with how many more there are.
    pub fn error(&self) -> Option<Error> {
        let first = self.first_problem()?;
        let problems = self.findings.iter().filter(|finding| finding.grade == Grade::Problem).count() as u64;
        let more = match problems + self.findings_left_out - 1 {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        };
        let kind = if first.trouble == Trouble::Gap { Kind::Gap } else { Kind::Corrupt };
        Some(Error::new(kind, format!("{first}{more}")))
    }
}

/// How far a verification is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    pub files: u64,
    pub files_total: u64,
    pub bytes: u64,
    pub bytes_total: u64,
}
