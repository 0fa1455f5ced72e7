//! Who is ahead, the local database or its replica? Decided once, when a database is first opened in a host.
//!
//! Pure: findings in, a verdict out. The recorded position is where the local log says the history stands. "Same
//! state" is a claim about checksums, never about numbers: a writer id in a file is information and proves nothing.

use crate::config::IfMissing;
use crate::ltx::Proof;
use crate::staging::log::{Recorded, Sealed};
use crate::types::{Checksum, Position, Txid};

/// The database file as it is before the open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Local {
    /// No file, or an empty one.
    Missing,
    /// Its state is the recorded one plus pages that are noted; `noted`: there are such pages.
    Known { noted: bool },
    /// It may have been changed unseen, by somebody who meant to.
    Unknown,
    /// The machine went down before it was closed: what was not synced may be lost. The state as it was found.
    Crashed(Found),
    /// There is no log of ours beside it. Its checksum, when that could be computed.
    Unlogged(Option<Checksum>),
}

/// The state of a database after a crash of the machine, told by the checksum of its pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The end of the replica.
    Head,
    /// The recorded position.
    Recorded,
    /// An earlier position of its own history.
    Earlier,
    /// Neither: inside a group, or ahead of the log, or not to be told before SQLite played its journal back.
    Other,
}

/// The end of the replica's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaHead {
    pub txid: Txid,
    /// `None` in files that others wrote.
    pub proof: Option<Proof>,
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Findings {
    pub local: Local,
    pub recorded: Option<Recorded>,
    /// Sealed groups in the local log that no replica acknowledged, ascending.
    pub unsent: Vec<Sealed>,
    pub head: Option<ReplicaHead>,
    /// Some position that this log remembers is in the replica's chain.
    pub related: bool,
    pub if_missing: IfMissing,
}

impl Findings {
    /// What to decide over while the replica does not say where it ends: as if everything recorded were there. `None`: that
    /// is not known, or the local file may be behind it.
    pub fn as_if_sent(self) -> Option<Findings> {
        let recorded = self.recorded?;
        let may_go_on =
            matches!(self.local, Local::Known { .. } | Local::Unknown | Local::Crashed(Found::Recorded));
        let Position { txid, checksum } = recorded.position;
        let proof = Some(Proof { pre: checksum, post: checksum });
        let head = Some(ReplicaHead { txid, proof });
        may_go_on.then_some(Findings { head, related: true, unsent: Vec::new(), ..self })
    }
}

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Txid 1 comes with the first commit; a log that is there starts over.
    Start,
    /// Level-0 `1-1` with all pages, created if absent.
    StartOver,
    /// Go on from the recorded position.
    GoOn(Base),
    /// The local file is the replica's head, and gets a log that says so.
    Adopt,
    /// Restore the replica into place, after sending what is unsent.
    Restore,
    /// The new database becomes the txid after the head, with all pages.
    Continue,
    /// The local file becomes the txid after the head, with all pages.
    LocalWins,
    /// Another writer owns the history from here on: nothing is sent, everything is kept.
    Fence,
    Refuse(Refusal),
}

/// How far the recorded page checksums hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// Every page that differs is noted.
    Holds,
    /// The database was changed: every page is noted first.
    Changed,
    /// The machine crashed, and the state is as recorded: every page is noted all the same, nothing is expected.
    Crashed,
    /// The machine crashed, and the state is another: it wins by difference, the history keeps the rest.
    Doubt,
}

/// Why an open is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No local file, but the replica has history.
    Missing,
    /// No local file, and `continue` would drop groups that were never sent.
    MissingUnsent,
    /// The local file is an earlier state of the replica.
    Behind,
    /// The machine crashed, and the local file lost commits that the replica has.
    Lost,
    /// A copied file, a deleted log, or the replica of another database.
    Unrelated,
}

/// Decides, first row that fits. Source: the table "At open" in `docs/at-open.md`.
pub fn decide(f: &Findings) -> Verdict {
    let continues = unsent_continues(f);
    match (f.local, f.head) {
        // Rows 1 to 3: no local file.
        (Local::Missing, None) if f.unsent.is_empty() => Verdict::Start,
        (Local::Missing, None) if !continues => Verdict::Start,
        (Local::Missing, _) => match f.if_missing {
            IfMissing::Refuse => Verdict::Refuse(Refusal::Missing),
            IfMissing::Restore => Verdict::Restore,
            IfMissing::Continue if continues => Verdict::Refuse(Refusal::MissingUnsent),
            IfMissing::Continue => Verdict::Continue,
        },
        // Row 4: a replica without files.
        (Local::Unlogged(_), None) => Verdict::StartOver,
        (local, None) if continues => Verdict::GoOn(base(local)),
        (_, None) => Verdict::StartOver,
        // Rows 5 and 12 without a log of ours.
        (Local::Unlogged(state), Some(head)) => {
            let same = state.is_some() && state == head.proof.map(|p| p.post);
            if same { Verdict::Adopt } else { Verdict::Refuse(Refusal::Unrelated) }
        }
        (local, Some(head)) => decide_logged(f, local, head, continues),
    }
}

fn decide_logged(f: &Findings, local: Local, head: ReplicaHead, continues: bool) -> Verdict {
    let post = head.proof.map(|p| p.post);
    match f.recorded {
        // A log that never sealed anything says nothing about a replica with history.
        None => Verdict::Refuse(Refusal::Unrelated),
        // Row 5: the log may be a second behind what we sent ourselves.
        Some(r)
            if local == Local::Crashed(Found::Head)
                && r.position.txid <= head.txid
                && !is_head(&r.position, head.txid, post) =>
        {
            Verdict::Adopt
        }
        // Row 8: only rolling forward brings back what the machine lost.
        Some(r)
            if local == Local::Crashed(Found::Earlier)
                && (f.related || is_head(&r.position, head.txid, post)) =>
        {
            Verdict::Refuse(Refusal::Lost)
        }
        // Rows 5, 9 and 11: the replica ends where we do.
        Some(r) if is_head(&r.position, head.txid, post) => Verdict::GoOn(base(local)),
        // Row 6: our own groups follow the head.
        Some(_) if continues => Verdict::GoOn(base(local)),
        Some(r) if head.txid > r.position.txid && f.related && f.unsent.is_empty() => match local {
            // Row 7: an outdated node.
            Local::Known { noted: false } => Verdict::Refuse(Refusal::Behind),
            // Row 8, as above.
            Local::Crashed(Found::Recorded) => Verdict::Refuse(Refusal::Lost),
            // Row 10: commits that are not in the replica, and another writer won.
            Local::Known { noted: true } => Verdict::Fence,
            // Row 11: after a loss of power the log may be a second behind what we sent ourselves.
            Local::Crashed(_) => Verdict::LocalWins,
            // Row 8 without a loss of power: somebody put an older file here.
            _ => Verdict::Refuse(Refusal::Behind),
        },
        Some(_) if f.related => Verdict::Fence,
        Some(_) => Verdict::Refuse(Refusal::Unrelated),
    }
}

fn base(local: Local) -> Base {
    match local {
        Local::Unknown => Base::Changed,
        Local::Crashed(Found::Recorded | Found::Head) => Base::Crashed,
        Local::Crashed(_) => Base::Doubt,
        Local::Known { .. } | Local::Missing | Local::Unlogged(_) => Base::Holds,
    }
}

fn is_head(position: &Position, txid: Txid, post: Option<Checksum>) -> bool {
    position.txid == txid && Some(position.checksum) == post
}

/// The unsent groups follow the head without a gap, by checksum and not by number.
fn unsent_continues(f: &Findings) -> bool {
    let (mut txid, mut state) = match f.head {
        None => (None, Some(Checksum::EMPTY)),
        Some(head) => (Some(head.txid), head.proof.map(|p| p.post)),
    };
    // Groups up to the head may be ours and acknowledged without our knowing.
    let after = |s: &&Sealed| txid.is_none_or(|head| s.txid > head);
    let follow: Vec<Sealed> = f.unsent.iter().filter(after).copied().collect();
    for sealed in &follow {
        let expected = txid.map_or(Txid::FIRST, Txid::next);
        if sealed.txid != expected || Some(sealed.proof.pre) != state {
            return false;
        }
        (txid, state) = (Some(sealed.txid), Some(sealed.proof.post));
    }
    !follow.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{PageSize, Timestamp};

    fn sum(n: u64) -> Checksum {
        if n == 0 { Checksum::EMPTY } else { Checksum::from_crc(n) }
    }

    fn sealed(n: u64) -> Sealed {
        Sealed {
            txid: Txid::new(n).unwrap(),
            proof: Proof { pre: sum(n - 1), post: sum(n) },
            page_size: PageSize::new(4096).unwrap(),
            page_count: 1,
            timestamp: Timestamp(0),
            size: 1,
        }
    }

    fn head(n: u64) -> Option<ReplicaHead> {
        let proof = Some(Proof { pre: sum(n - 1), post: sum(n) });
        Some(ReplicaHead { txid: Txid::new(n).unwrap(), proof })
    }

    fn other_head(n: u64) -> Option<ReplicaHead> {
        let proof = Some(Proof { pre: sum(n + 99), post: sum(n + 100) });
        Some(ReplicaHead { txid: Txid::new(n).unwrap(), proof })
    }

    fn findings(local: Local, recorded: u64, unsent: &[u64], head: Option<ReplicaHead>) -> Findings {
        Findings {
            local,
            recorded: (recorded > 0).then(|| sealed(recorded).recorded()),
            unsent: unsent.iter().map(|&n| sealed(n)).collect(),
            head,
            related: true,
            if_missing: IfMissing::Refuse,
        }
    }

    const KNOWN: Local = Local::Known { noted: false };
    const NOTED: Local = Local::Known { noted: true };

    #[test]
    fn row_1_nothing_anywhere_starts_at_one() {
        assert_eq!(decide(&findings(Local::Missing, 0, &[], None)), Verdict::Start);
        assert_eq!(decide(&findings(Local::Missing, 3, &[], None)), Verdict::Start, "both were removed");
    }

    #[test]
    fn row_2_missing_file_with_history_asks() {
        let mut f = findings(Local::Missing, 0, &[], head(3));
        assert_eq!(decide(&f), Verdict::Refuse(Refusal::Missing));
        f.if_missing = IfMissing::Restore;
        assert_eq!(decide(&f), Verdict::Restore);
        f.if_missing = IfMissing::Continue;
        assert_eq!(decide(&f), Verdict::Continue);
    }

    #[test]
    fn row_3_missing_file_with_unsent_groups_never_continues() {
        let mut f = findings(Local::Missing, 4, &[4], head(3));
        f.if_missing = IfMissing::Continue;
        assert_eq!(decide(&f), Verdict::Refuse(Refusal::MissingUnsent));
        f.if_missing = IfMissing::Restore;
        assert_eq!(decide(&f), Verdict::Restore);
        assert_eq!(
            decide(&findings(Local::Missing, 1, &[1], None)),
            Verdict::Refuse(Refusal::Missing),
            "the only copy of txid 1 is in the log"
        );
    }

    #[test]
    fn row_4_empty_replica_starts_over() {
        for f in [findings(KNOWN, 3, &[], None), findings(Local::Unlogged(None), 0, &[], None)] {
            assert_eq!(decide(&f), Verdict::StartOver);
        }
        assert_eq!(decide(&findings(KNOWN, 2, &[1, 2], None)), Verdict::GoOn(Base::Holds), "never sent yet");
        assert_eq!(decide(&findings(KNOWN, 3, &[3], None)), Verdict::StartOver, "1 and 2 were there once");
    }

    #[test]
    fn row_5_same_state_goes_on() {
        assert_eq!(decide(&findings(KNOWN, 3, &[], head(3))), Verdict::GoOn(Base::Holds));
        assert_eq!(decide(&findings(NOTED, 3, &[], head(3))), Verdict::GoOn(Base::Holds));
        assert_eq!(decide(&findings(Local::Unlogged(Some(sum(3))), 0, &[], head(3))), Verdict::Adopt);
    }

    #[test]
    fn row_6_our_own_groups_follow() {
        assert_eq!(decide(&findings(KNOWN, 5, &[4, 5], head(3))), Verdict::GoOn(Base::Holds));
        assert_eq!(decide(&findings(KNOWN, 5, &[3, 4, 5], head(3))), Verdict::GoOn(Base::Holds));
        assert_eq!(decide(&findings(KNOWN, 5, &[5], head(3))), Verdict::Fence, "4 is missing");
    }

    #[test]
    fn row_7_outdated_node_is_refused_until_it_can_roll_forward() {
        assert_eq!(decide(&findings(KNOWN, 2, &[], head(3))), Verdict::Refuse(Refusal::Behind));
    }

    #[test]
    fn row_8_what_a_crash_of_the_machine_lost_is_refused_until_it_can_roll_forward() {
        assert_eq!(decide(&findings(Local::Unknown, 2, &[], head(3))), Verdict::Refuse(Refusal::Behind));
        for (recorded, unsent) in [(3, &[][..]), (2, &[]), (4, &[4])] {
            let f = findings(Local::Crashed(Found::Earlier), recorded, unsent, head(3));
            assert_eq!(decide(&f), Verdict::Refuse(Refusal::Lost), "recorded {recorded}");
        }
    }

    #[test]
    fn row_5_state_as_recorded_after_a_crash_is_never_a_change() {
        let mut f = findings(Local::Crashed(Found::Recorded), 3, &[], head(3));
        assert_eq!(decide(&f), Verdict::GoOn(Base::Crashed));
        f = findings(Local::Crashed(Found::Recorded), 2, &[], head(3));
        assert_eq!(decide(&f), Verdict::Refuse(Refusal::Lost), "row 8");
        f = findings(Local::Crashed(Found::Head), 2, &[], head(3));
        assert_eq!(decide(&f), Verdict::Adopt, "the log may be behind what was sent");
        f = findings(Local::Crashed(Found::Head), 3, &[], head(3));
        assert_eq!(decide(&f), Verdict::GoOn(Base::Crashed));
    }

    #[test]
    fn row_11_doubt_after_a_crash_wins_by_difference() {
        for (recorded, unsent) in [(3, &[][..]), (4, &[4])] {
            let f = findings(Local::Crashed(Found::Other), recorded, unsent, head(3));
            assert_eq!(decide(&f), Verdict::GoOn(Base::Doubt));
        }
    }

    #[test]
    fn row_9_changed_while_away_heals() {
        assert_eq!(decide(&findings(Local::Unknown, 3, &[], head(3))), Verdict::GoOn(Base::Changed));
        assert_eq!(decide(&findings(Local::Unknown, 4, &[4], head(3))), Verdict::GoOn(Base::Changed));
    }

    #[test]
    fn row_10_another_writer_won() {
        assert_eq!(decide(&findings(KNOWN, 4, &[4], other_head(4))), Verdict::Fence);
        assert_eq!(decide(&findings(NOTED, 3, &[], head(4))), Verdict::Fence);
    }

    #[test]
    fn row_11_after_power_loss_local_wins_and_history_keeps_the_rest() {
        let mut f = findings(Local::Crashed(Found::Other), 2, &[], head(3));
        assert_eq!(decide(&f), Verdict::LocalWins);
        f.recorded = Some(sealed(3).recorded());
        assert_eq!(decide(&f), Verdict::GoOn(Base::Doubt));
    }

    #[test]
    fn row_12_unrelated_is_refused() {
        let mut f = findings(KNOWN, 3, &[], other_head(7));
        f.related = false;
        assert_eq!(decide(&f), Verdict::Refuse(Refusal::Unrelated));
        for state in [None, Some(sum(2))] {
            let f = findings(Local::Unlogged(state), 0, &[], head(3));
            assert_eq!(decide(&f), Verdict::Refuse(Refusal::Unrelated));
        }
        let f = findings(Local::Unlogged(None), 0, &[], Some(ReplicaHead { txid: Txid::FIRST, proof: None }));
        assert_eq!(decide(&f), Verdict::Refuse(Refusal::Unrelated), "an unproven head proves nothing");
    }
}
