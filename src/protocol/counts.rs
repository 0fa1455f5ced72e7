//! What happened in a run, by kind.

use std::fmt;

macro_rules! kinds {
    ($($kind:ident $text:literal),* $(,)?) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum What { $($kind),* }
        impl What {
            pub const ALL: &'static [(What, &'static str)] = &[$((What::$kind, $text)),*];
        }
    };
}

kinds! {
    Schedule "schedules",
    Step "steps",
    Committed "commits",
    Acknowledged "commits acknowledged",
    Stored "groups stored",
    Merged "merged files and snapshots",
    Deleted "objects deleted",
    FencedOnline "fenced while open",
    Emptied "emptied, found by a put",
    Interleaved "fault: others ran inside an operation",
    LongPause "fault: pause longer than what retention keeps",
    Refused "fault: request refused",
    AnswerLost "fault: answer lost",
    Late "fault: request late",
    LateDone "fault: late request, done",
    LateInVain "fault: late request, in vain",
    Twice "fault: request done twice",
    ReadLost "fault: read without an answer",
    KilledAtARequest "fault: killed at a request",
    Killed "fault: killed between requests",
    PowerLost "fault: power lost",
    CommitsLost "fault: power lost, commits with it",
    LogLost "fault: power lost, groups of the log with it",
    MarksLost "fault: power lost, marks of the log with it",
    NameLost "fault: power lost, a name of the replica with it",
    Cloned "fault: database and log copied",
    OldPutBack "fault: old database put back",
    LogDeleted "fault: log deleted",
    DatabaseDeleted "fault: database deleted",
    ReplicaEmptied "fault: replica emptied",
    ForeignWrite "fault: written by a program without the extension",
    SkewedClock "fault: clock set",
    Restored "reads: restored",
    RestoreFailed "reads: refused",
    VerdictStart "open: start",
    VerdictStartOver "open: start over",
    VerdictGoOn "open: go on",
    VerdictAdopt "open: adopt",
    VerdictRestore "open: restore",
    VerdictRollForward "open: roll forward",
    VerdictLocalWins "open: local wins, or continue",
    VerdictFence "open: fenced",
    VerdictRefuse "open: refused",
    DoubtWaived "open: a documented doubt gave up acknowledged commits",
    SavedTail "saved tails, restorable",
    TermBegun "leases taken, first txid made",
    TermRefused "leases refused",
    TermEnded "leases handed back, or ended",
    EndedLive "ended live",
    EndedFenced "ended fenced",
    EndedRefused "ended refused",
}

#[derive(Clone)]
pub struct Counts([u64; What::ALL.len()]);

impl Default for Counts {
    fn default() -> Counts {
        Counts([0; What::ALL.len()])
    }
}

impl Counts {
    pub fn add(&mut self, what: What) {
        self.add_many(what, 1);
    }

    pub fn add_many(&mut self, what: What, count: u64) {
        self.0[what as usize] += count;
    }

    pub fn get(&self, what: What) -> u64 {
        self.0[what as usize]
    }

    pub fn take_in(&mut self, other: &Counts) {
        self.0.iter_mut().zip(other.0).for_each(|(mine, theirs)| *mine += theirs);
    }

    /// Kinds that never happened.
    pub fn missing(&self) -> Vec<&'static str> {
        What::ALL.iter().filter(|(what, _)| self.get(*what) == 0).map(|(_, text)| *text).collect()
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        What::ALL.iter().try_for_each(|&(what, text)| writeln!(f, "{:>12}  {text}", self.get(what)))
    }
}
