//! Who is ahead, the local database or its replica? Decided once, when a database is first opened in a host.
//!
//! Pure: findings in, a verdict out. The recorded position is where the local log says the history stands. "Same
//! state" is a claim about checksums, never about numbers: a writer id in a file is information and proves nothing.

use crate::config::{IfMissing, OnBehind, OnConflict};
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
    /// It may have been changed unseen, by somebody who meant to. `is_head`: it was read, and is the end of the replica.
    Unknown { is_head: bool },
    /// The machine went down before it was closed, or SQLite lost frames of the WAL: what was not synced may be lost.
    /// The state as it was found.
    Crashed(Found),
    /// There is no log of ours beside it. Its checksum, when that could be computed.
    Unlogged(Option<Checksum>),
}

impl Local {
    /// Every change since the recorded position is noted.
    pub fn is_noted(self) -> bool {
        matches!(self, Local::Known { .. } | Local::Crashed(Found::Recorded))
    }
}

/// The state of a database after a crash, told by the checksum of its pages. The end is that of the replica and of our
/// unsent groups that follow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The end of the replica.
    Head,
    /// The recorded position.
    Recorded,
    /// A state before the end, also inside a group: the pages of later groups make it into the end.
    Behind,
    /// The end, and commits that are in no group.
    Ahead,
    /// None of these, or not to be told.
    Other,
    /// None of these, and somebody changed the file since.
    Changed,
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
    pub on_behind: OnBehind,
    pub on_conflict: OnConflict,
    /// It was fenced, and who had begun to end that did not come to the end: whatever the marks of the log say.
    pub rejoining: bool,
    /// The replica ends in an earlier state of this database: nobody else wrote.
    pub set_back: bool,
    /// Commits were promised to survive (`replica_durability=commit`): in doubt the local file does not win by itself.
    pub promised: bool,
}

impl Findings {
    /// What to decide over while the replica does not say where it ends: as if everything recorded were there. `None`: that
    /// is not known, or the local file may be behind it.
    pub fn as_if_sent(self) -> Option<Findings> {
        let recorded = self.recorded?;
        let may_go_on = match self.local {
            Local::Known { .. } | Local::Crashed(Found::Recorded) => true,
            Local::Unknown { .. } => self.on_behind != OnBehind::RollForward,
            _ => false,
        };
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
    /// The local file is overwritten with the end of the history.
    RollForward(Forward),
    /// The new database becomes the txid after the head, with all pages.
    Continue,
    /// The local file becomes the txid after the head, with all pages.
    LocalWins,
    /// Another writer owns the history from here on: nothing is sent, everything is kept.
    Fence,
    /// The same, but its own are saved, and the local file is overwritten with the end of that history.
    Rejoin,
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
    /// The machine crashed, and the state holds more than was recorded.
    Ahead,
    /// The state is another: it wins by difference, the history keeps the rest.
    Doubt,
}

/// What is overwritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forward {
    /// An earlier state.
    Ancestor,
    /// Any state, because somebody said so.
    Whatever,
}

/// Why an open is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No local file, but the replica has history.
    Missing,
    /// No local file, and `continue` would drop groups that were never sent.
    MissingUnsent,
    /// The local file is an earlier state of the replica, and `replica_on_behind=refuse`.
    Behind,
    /// The local file was changed, and `replica_on_behind=refuse`.
    Changed,
    /// Nobody can tell whether the local file is behind or changed.
    Doubt,
    /// A copied file, a deleted log, or the replica of another database.
    Unrelated,
}

/// Decides, first row that fits. Source: the table "At open" in `docs/at-open.md`.
pub fn decide(f: &Findings) -> Verdict {
    let continues = !following(&f.unsent, f.head).is_empty();
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
        (local, None) if continues => beside_the_end(f, local),
        (_, None) => Verdict::StartOver,
        // Rows 5 and 12 without a log of ours.
        (Local::Unlogged(state), Some(head)) => {
            let same = state.is_some() && state == head.proof.map(|p| p.post);
            if same { Verdict::Adopt } else { unrelated(f) }
        }
        (local, Some(head)) => decide_logged(f, local, head, continues),
    }
}

fn decide_logged(f: &Findings, local: Local, head: ReplicaHead, continues: bool) -> Verdict {
    if f.rejoining {
        return lost(f, head);
    }
    // A log that never sealed anything says nothing about a replica with history.
    let Some(r) = f.recorded else { return unrelated(f) };
    let at_head = is_head(&r.position, head);
    let is_head = matches!(local, Local::Crashed(Found::Head) | Local::Unknown { is_head: true });
    if at_head || continues {
        return beside_the_end(f, local);
    }
    // Row 5: the log may be a second behind what we sent ourselves, and an open may end half-way.
    if is_head && r.position.txid <= head.txid {
        return Verdict::Adopt;
    }
    if !f.related {
        return unrelated(f);
    }
    // Row 10: commits that are not in the replica, and another writer won.
    if head.txid <= r.position.txid || !f.unsent.is_empty() {
        return lost(f, head);
    }
    match local {
        // Row 7: an outdated node. Row 8: behind after a crash.
        Local::Known { noted: false } | Local::Crashed(Found::Recorded | Found::Behind) => {
            behind(f, Verdict::LocalWins)
        }
        Local::Known { noted: true } => lost(f, head),
        Local::Crashed(Found::Ahead) => Verdict::LocalWins,
        // Row 11: the log may be a second behind what we sent ourselves; or somebody put another file here.
        _ => in_doubt(f, Verdict::LocalWins),
    }
}

/// The history ends where our log does: at the head, or with our unsent groups that follow it (row 6).
fn beside_the_end(f: &Findings, local: Local) -> Verdict {
    let follows = !following(&f.unsent, f.head).is_empty();
    match local {
        Local::Crashed(Found::Behind) => behind(f, Verdict::GoOn(Base::Doubt)),
        Local::Crashed(Found::Head) if follows => behind(f, Verdict::GoOn(Base::Doubt)),
        Local::Crashed(Found::Head | Found::Recorded) => Verdict::GoOn(Base::Crashed),
        Local::Crashed(Found::Ahead) => Verdict::GoOn(Base::Ahead),
        Local::Crashed(Found::Other) => in_doubt(f, Verdict::GoOn(Base::Doubt)),
        // Rows 9 and 11: what was lost may be what was promised.
        Local::Crashed(Found::Changed) => in_doubt(f, Verdict::GoOn(Base::Changed)),
        // Row 9.
        Local::Unknown { .. } => match f.on_behind {
            OnBehind::Auto | OnBehind::Keep => Verdict::GoOn(Base::Changed),
            OnBehind::RollForward => Verdict::RollForward(Forward::Whatever),
            OnBehind::Refuse => Verdict::Refuse(Refusal::Changed),
        },
        Local::Known { .. } | Local::Missing | Local::Unlogged(_) => Verdict::GoOn(Base::Holds),
    }
}

/// Row 10.
fn lost(f: &Findings, head: ReplicaHead) -> Verdict {
    match f.on_conflict {
        OnConflict::Rejoin if !f.set_back && head.proof.is_some() => Verdict::Rejoin,
        _ => Verdict::Fence,
    }
}

/// Rows 7 and 8.
fn behind(f: &Findings, keep: Verdict) -> Verdict {
    match f.on_behind {
        OnBehind::Auto | OnBehind::RollForward => Verdict::RollForward(Forward::Ancestor),
        OnBehind::Keep => keep,
        OnBehind::Refuse => Verdict::Refuse(Refusal::Behind),
    }
}

/// Row 11: asynchronously the local file wins; where commits were promised nothing is decided here.
fn in_doubt(f: &Findings, keep: Verdict) -> Verdict {
    match f.on_behind {
        OnBehind::Auto if f.promised => Verdict::Refuse(Refusal::Doubt),
        OnBehind::Auto | OnBehind::Keep => keep,
        OnBehind::RollForward => Verdict::RollForward(Forward::Whatever),
        OnBehind::Refuse => Verdict::Refuse(Refusal::Doubt),
    }
}

/// Row 12.
fn unrelated(f: &Findings) -> Verdict {
    match f.on_behind {
        OnBehind::Auto | OnBehind::Refuse => Verdict::Refuse(Refusal::Unrelated),
        OnBehind::Keep => Verdict::LocalWins,
        OnBehind::RollForward => Verdict::RollForward(Forward::Whatever),
    }
}

fn is_head(position: &Position, head: ReplicaHead) -> bool {
    position.txid == head.txid && Some(position.checksum) == head.proof.map(|p| p.post)
}

/// The unsent groups that follow the head without a gap, by checksum and not by number; none of them if one does not.
pub fn following(unsent: &[Sealed], head: Option<ReplicaHead>) -> Vec<Sealed> {
    let (mut txid, mut state) = match head {
        None => (None, Some(Checksum::EMPTY)),
        Some(head) => (Some(head.txid), head.proof.map(|p| p.post)),
    };
    // Groups up to the head may be ours and acknowledged without our knowing.
    let after = |s: &&Sealed| txid.is_none_or(|head| s.txid > head);
    let follow: Vec<Sealed> = unsent.iter().filter(after).copied().collect();
    for sealed in &follow {
        let expected = txid.map_or(Txid::FIRST, Txid::next);
        if sealed.txid != expected || Some(sealed.proof.pre) != state {
            return Vec::new();
        }
        (txid, state) = (Some(sealed.txid), Some(sealed.proof.post));
    }
    follow
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
            on_behind: OnBehind::Auto,
            on_conflict: OnConflict::Halt,
            rejoining: false,
            set_back: false,
            promised: false,
        }
    }

    /// What is decided with `replica_on_behind` as auto, rollforward, keep, refuse.
    fn each(mut f: Findings) -> [Verdict; 4] {
        [OnBehind::Auto, OnBehind::RollForward, OnBehind::Keep, OnBehind::Refuse].map(|on_behind| {
            f.on_behind = on_behind;
            decide(&f)
        })
    }

    const KNOWN: Local = Local::Known { noted: false };
    const NOTED: Local = Local::Known { noted: true };
    const UNKNOWN: Local = Local::Unknown { is_head: false };

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
    fn row_7_outdated_node_is_rolled_forward() {
        let forward = Verdict::RollForward(Forward::Ancestor);
        assert_eq!(
            each(findings(KNOWN, 2, &[], head(3))),
            [forward, forward, Verdict::LocalWins, Verdict::Refuse(Refusal::Behind)]
        );
        let mut f = findings(KNOWN, 2, &[], head(3));
        f.related = false;
        assert_eq!(decide(&f), Verdict::Refuse(Refusal::Unrelated), "of another database");
        f = findings(KNOWN, 2, &[2], head(3));
        assert_eq!(decide(&f), Verdict::Fence, "a group of ours is not in the replica");
    }

    #[test]
    fn row_8_what_a_crash_lost_is_rolled_forward() {
        let forward = Verdict::RollForward(Forward::Ancestor);
        for (recorded, unsent) in [(3, &[][..]), (2, &[]), (4, &[4])] {
            let f = findings(Local::Crashed(Found::Behind), recorded, unsent, head(3));
            assert_eq!(decide(&f), forward, "recorded {recorded}");
        }
        assert_eq!(
            each(findings(Local::Crashed(Found::Recorded), 2, &[], head(3))),
            [forward, forward, Verdict::LocalWins, Verdict::Refuse(Refusal::Behind)]
        );
        assert_eq!(
            each(findings(Local::Crashed(Found::Behind), 3, &[], head(3)))[2],
            Verdict::GoOn(Base::Doubt),
            "kept by difference where there is a base"
        );
    }

    #[test]
    fn row_6_log_ahead_of_the_database_is_rolled_forward() {
        let f = findings(Local::Crashed(Found::Head), 4, &[4], head(3));
        assert_eq!(decide(&f), Verdict::RollForward(Forward::Ancestor));
        let f = findings(Local::Crashed(Found::Recorded), 4, &[4], head(3));
        assert_eq!(decide(&f), Verdict::GoOn(Base::Crashed));
    }

    #[test]
    fn row_5_state_as_recorded_after_a_crash_is_never_a_change() {
        let mut f = findings(Local::Crashed(Found::Recorded), 3, &[], head(3));
        assert_eq!(each(f), [Verdict::GoOn(Base::Crashed); 4]);
        f = findings(Local::Crashed(Found::Head), 2, &[], head(3));
        assert_eq!(each(f), [Verdict::Adopt; 4], "the log may be behind what was sent");
        f = findings(Local::Crashed(Found::Head), 3, &[], head(3));
        assert_eq!(decide(&f), Verdict::GoOn(Base::Crashed));
        f = findings(Local::Unknown { is_head: true }, 2, &[], head(3));
        assert_eq!(decide(&f), Verdict::Adopt, "an open that rolled forward and was killed");
    }

    #[test]
    fn commits_that_nobody_has_but_the_database_go_on() {
        let f = findings(Local::Crashed(Found::Ahead), 3, &[], head(3));
        assert_eq!(each(f), [Verdict::GoOn(Base::Ahead); 4]);
        let mut f = findings(Local::Crashed(Found::Ahead), 2, &[], head(3));
        f.promised = true;
        assert_eq!(decide(&f), Verdict::LocalWins);
    }

    #[test]
    fn row_11_doubt_is_the_local_files_only_where_no_commit_was_promised() {
        let refuse = Verdict::Refuse(Refusal::Doubt);
        let forward = Verdict::RollForward(Forward::Whatever);
        for (local, recorded, unsent, keep) in [
            (Local::Crashed(Found::Other), 3, &[][..], Verdict::GoOn(Base::Doubt)),
            (Local::Crashed(Found::Other), 4, &[4], Verdict::GoOn(Base::Doubt)),
            (Local::Crashed(Found::Other), 2, &[], Verdict::LocalWins),
            (UNKNOWN, 2, &[], Verdict::LocalWins),
        ] {
            let mut f = findings(local, recorded, unsent, head(3));
            assert_eq!(each(f.clone()), [keep, forward, keep, refuse]);
            f.promised = true;
            assert_eq!(each(f), [refuse, forward, keep, refuse]);
        }
    }

    #[test]
    fn row_9_changed_while_away_heals() {
        let mut f = findings(UNKNOWN, 3, &[], head(3));
        let refuse = Verdict::Refuse(Refusal::Changed);
        let go_on = Verdict::GoOn(Base::Changed);
        f.promised = true;
        assert_eq!(each(f), [go_on, Verdict::RollForward(Forward::Whatever), go_on, refuse]);
        assert_eq!(decide(&findings(UNKNOWN, 4, &[4], head(3))), go_on);
    }

    #[test]
    fn row_9_after_a_loss_of_power_is_in_doubt_where_commits_were_promised() {
        let mut f = findings(Local::Crashed(Found::Changed), 3, &[], head(3));
        let (refuse, forward) = (Verdict::Refuse(Refusal::Doubt), Verdict::RollForward(Forward::Whatever));
        let go_on = Verdict::GoOn(Base::Changed);
        assert_eq!(each(f.clone()), [go_on, forward, go_on, refuse]);
        f.promised = true;
        assert_eq!(each(f), [refuse, forward, go_on, refuse]);
    }

    #[test]
    fn row_10_another_writer_won() {
        assert_eq!(decide(&findings(KNOWN, 4, &[4], other_head(4))), Verdict::Fence);
        assert_eq!(decide(&findings(NOTED, 3, &[], head(4))), Verdict::Fence);
    }

    #[test]
    fn row_12_unrelated_is_refused() {
        let mut f = findings(KNOWN, 3, &[], other_head(7));
        f.related = false;
        assert_eq!(decide(&f), Verdict::Refuse(Refusal::Unrelated));
        for state in [None, Some(sum(2))] {
            let f = findings(Local::Unlogged(state), 0, &[], head(3));
            let refuse = Verdict::Refuse(Refusal::Unrelated);
            let forward = Verdict::RollForward(Forward::Whatever);
            assert_eq!(each(f), [refuse, forward, Verdict::LocalWins, refuse]);
        }
        let f = findings(Local::Unlogged(None), 0, &[], Some(ReplicaHead { txid: Txid::FIRST, proof: None }));
        assert_eq!(decide(&f), Verdict::Refuse(Refusal::Unrelated), "an unproven head proves nothing");
    }

    #[test]
    fn who_lost_rejoins_where_that_is_wanted_and_another_writer_won() {
        for f in [findings(KNOWN, 5, &[4, 5], other_head(4)), findings(NOTED, 3, &[], other_head(4))] {
            assert_eq!(decide(&f), Verdict::Fence);
            let rejoin = Findings { on_conflict: OnConflict::Rejoin, ..f };
            assert_eq!(decide(&rejoin), Verdict::Rejoin);
            assert_eq!(
                decide(&Findings { set_back: true, ..rejoin.clone() }),
                Verdict::Fence,
                "an older copy of the replica"
            );
            let unproven = rejoin.head.map(|head| ReplicaHead { proof: None, ..head });
            assert_eq!(
                decide(&Findings { head: unproven, ..rejoin }),
                Verdict::Fence,
                "it could not be told what comes of it"
            );
        }
    }

    #[test]
    fn who_died_while_it_rejoined_is_fenced_whatever_the_marks_prove() {
        let crashed = Local::Crashed(Found::Behind);
        for local in [KNOWN, NOTED, UNKNOWN, Local::Unknown { is_head: true }, crashed] {
            let f = Findings { rejoining: true, ..findings(local, 3, &[], other_head(4)) };
            assert_eq!(each(f.clone()), [Verdict::Fence; 4], "{local:?}");
            assert_eq!(decide(&Findings { on_conflict: OnConflict::Rejoin, ..f }), Verdict::Rejoin);
        }
    }
}
