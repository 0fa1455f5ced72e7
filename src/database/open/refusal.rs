//! Why an open is refused, in the words that the application reads: the file, what was found, and every way out.

use crate::database::open::at_open::{Findings, Refusal};
use crate::database::open::prepare::Prepared;
use crate::database::open::settle::Settlement;
use crate::error::Error;

impl Prepared {
    pub(in crate::database) fn refusal(&self, why: Refusal, findings: &Findings) -> Error {
        let path = self.settings.database.display();
        let Settlement { client, head, log, .. } = &self.settlement;
        let (url, log) = (client.url(), log.folder().display());
        let head = head.as_ref().map(|h| h.txid().to_string()).unwrap_or_default();
        Error::invalid(match why {
            Refusal::Missing if findings.head.is_none() => format!(
                "{path} is missing or empty, but its local log {log} holds groups that were never sent to {url}: set \
                 replica_if_missing=restore to send them and rebuild the database, or remove the log to begin anew"
            ),
            Refusal::Missing => format!(
                "{path} is missing or empty, but {url} has history up to txid {head}: set replica_if_missing to \
                 restore (rebuild the database from the replica), continue (the new database becomes the next \
                 txid) or refuse (this answer)"
            ),
            Refusal::MissingUnsent => format!(
                "{path} is missing or empty, and its local log {log} holds groups that were never sent: \
                 replica_if_missing=continue would drop them; use restore"
            ),
            Refusal::Behind => format!(
                "{path} is an earlier state of {url}, which goes on to txid {head}: set replica_on_behind to \
                 rollforward (overwrite it with the end of the replica), keep (it becomes the next txid) or refuse \
                 (this answer)"
            ),
            Refusal::Changed => format!(
                "{path} was changed while the extension was not there, and {url} ends at txid {head}: set \
                 replica_on_behind to keep (the file becomes the next txid), rollforward (overwrite it with the end of \
                 the replica; what it holds is saved in the local log) or refuse (this answer)"
            ),
            Refusal::Doubt => format!(
                "nobody can tell whether {path} is behind {url}, which ends at txid {head}, or was changed since: set \
                 replica_on_behind=rollforward to overwrite it with the end of the replica (what it holds is saved in \
                 the local log), or replica_on_behind=keep to make it the next txid (the history keeps the rest)"
            ),
            Refusal::Unrelated => format!(
                "{url} ends at txid {head} in a state that {path} was never in: it is the replica of another \
                 database, or this file is a copy without its local log; choose an empty replica, restore from this one, \
                 or set replica_on_behind to rollforward (overwrite the file with the end of the replica; what it \
                 holds is saved in the local log) or keep (it becomes the next txid)"
            ),
        })
    }
}
