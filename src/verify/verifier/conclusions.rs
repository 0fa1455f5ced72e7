//! What follows from everything that was found: what is lost, what a leftover is worth, how far all is proven.

use super::super::report::{Finding, Grade, Trouble};
use super::Verifier;
use crate::types::{Position, Txid};

impl Verifier {
    /// Everything found, and what follows from it now.
    pub(super) fn conclusions(&self) -> Vec<Finding> {
        let mut findings: Vec<Finding> = self.report.findings.clone();
        findings.extend(self.listed.iter().cloned().map(|finding| self.judged(finding)));
        findings.extend(self.lost());
        let is_read = self.is_listed && self.pending.is_empty();
        let at = self.state.as_ref().map(|state| state.position.txid);
        if is_read && at < self.report.newest && findings.iter().all(|finding| finding.grade == Grade::Notice)
        {
            let at = at.map_or("nothing".to_owned(), |at| format!("txid {at}"));
            let what = format!("the files after {at} do not go on from it");
            let remedy = "take a snapshot, so that the newest state can be restored";
            findings.push(Finding::problem(Trouble::Gap, what, remedy));
        }
        findings
    }

    /// A leftover whose checksum is not that of the history at its txid is proven to be one.
    fn judged(&self, finding: Finding) -> Finding {
        let range = finding.file.filter(|_| finding.trouble == Trouble::Leftover).map(|(_, range)| range);
        let stated = range.and_then(|range| *self.stated.get(&range)?);
        let post = range.and_then(|range| self.post(range.max));
        match (stated, post) {
            (Some(stated), Some(post)) if stated != post => Finding { grade: Grade::Notice, ..finding },
            _ => finding,
        }
    }

    /// What is known to have been there and is not.
    fn lost(&self) -> Option<Finding> {
        let newest = self.report.newest;
        let remedy =
            "an older copy was put back, or files were deleted: find out before anybody goes on writing";
        let lost = |what| Some(Finding::problem(Trouble::Lost, what, remedy));
        let at = self.state.as_ref().map(|state| state.position.txid);
        if self.is_listed && at > newest {
            let from = newest.map_or(Txid::FIRST, Txid::next);
            let (at, newest) = (at?, newest.map_or("nothing".to_owned(), |newest| format!("txid {newest}")));
            return lost(format!("the replica ends at {newest}, but txid {at} was read in it"))
                .map(|finding| finding.spoiling(from));
        }
        let expected = self.options.expected?;
        if newest < Some(expected.txid) && self.is_listed {
            let newest = newest.map_or("nothing".to_owned(), |newest| format!("txid {newest}"));
            return lost(format!(
                "the replica ends at {newest}, but txid {} was acknowledged",
                expected.txid
            ))
            .map(|finding| finding.spoiling(expected.txid));
        }
        match self.post(expected.txid) {
            Some(post) if post != expected.checksum => lost(format!(
                "txid {} was acknowledged with checksum {}, but in the replica it has {post}",
                expected.txid, expected.checksum
            ))
            .map(|finding| finding.spoiling(expected.txid)),
            _ => None,
        }
    }

    /// The newest computed state before anything that is in doubt.
    pub(super) fn verified(&self, findings: &[Finding]) -> Option<Position> {
        let spoilt =
            findings.iter().filter(|finding| finding.grade == Grade::Problem).filter_map(|f| f.spoils).min();
        let end = match spoilt {
            Some(txid) => self.posts.partition_point(|position| position.txid < txid),
            None => self.posts.len(),
        };
        self.posts.get(end.checked_sub(1)?).copied()
    }
}
