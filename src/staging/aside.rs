//! What the log keeps beside its groups when the database is overwritten: files that are in no replica, and the mark that
//! log and database may stand apart.

use std::path::PathBuf;

use super::log::{Log, Sealed, create, remove};
use crate::error::{Kind, Result};
use crate::fs::durable;
use crate::ltx;
use crate::types::{Checksum, TxidRange};

/// Name of the mark of [`Log::begin_rolling`].
const ROLLING: &str = "rolling";

impl Log {
    /// Where a file is kept that makes the state `state` out of its predecessor, and that is in no replica.
    pub fn saved_path(&self, state: Checksum, range: TxidRange) -> PathBuf {
        self.folder().join("saved").join(state.to_string()).join(ltx::name::format(range))
    }

    /// Takes sealed groups out of the log without losing them: they are sent no more. Newest first, so that what a crash
    /// leaves in the log is a shorter history and never one with a hole.
    ///
    /// # Errors
    /// `Io`.
    pub fn set_aside(&self, groups: &[Sealed]) -> Result<()> {
        for sealed in groups.iter().rev() {
            let saved = self.saved_path(sealed.proof.post, TxidRange::one(sealed.txid));
            self.make_durable(sealed.txid)?;
            durable::create_folder(durable::parent(&saved))?;
            match durable::rename_new(&self.path_of(sealed.txid), &saved) {
                Err(error) if error.kind() == Kind::Exists => self.forget(sealed.txid)?,
                other => other?,
            }
            durable::sync_folder(durable::parent(&saved))?;
        }
        durable::sync_folder(&self.folder().join("ltx"))
    }

    /// From now on the log may stand at a position that the database file has not reached.
    ///
    /// # Errors
    /// `Full`, `Io`.
    pub fn begin_rolling(&self) -> Result<()> {
        match create(&self.folder().join(ROLLING), b"") {
            Err(error) if error.kind() == Kind::Exists => Ok(()),
            other => other,
        }
    }

    pub fn is_rolling(&self) -> bool {
        self.folder().join(ROLLING).exists()
    }

    /// The database file is where the log stands.
    ///
    /// # Errors
    /// `Io`.
    pub fn end_rolling(&self) -> Result<()> {
        remove(&self.folder().join(ROLLING))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ltx::{Header, Proof, sample};
    use crate::testing::Folder;
    use crate::types::Txid;

    fn seal(log: &Log, n: u64) -> Sealed {
        let proof = Some(Proof { pre: Checksum::from_crc(n - 1), post: Checksum::from_crc(n) });
        let header = Header { proof, ..sample::header(n, n, 512, 1) };
        let body = sample::file(header, &[(1, vec![n as u8; 512])]);
        let txid = Txid::new(n).unwrap();
        std::fs::write(log.path_of(txid), body).unwrap();
        log.sealed(txid).unwrap()
    }

    #[test]
    fn groups_that_are_set_aside_are_kept_by_the_state_they_lead_to() {
        let dir = Folder::new();
        let log = Log::open(&dir.path().join("db-replica")).unwrap();
        let groups = [3, 4, 5].map(|n| seal(&log, n));
        let bytes = std::fs::read(log.path_of(groups[2].txid)).unwrap();
        log.set_aside(&groups[1..]).unwrap();
        assert_eq!(log.txids().unwrap(), [groups[0].txid]);
        let saved = log.saved_path(groups[2].proof.post, TxidRange::one(groups[2].txid));
        assert_eq!(std::fs::read(saved).unwrap(), bytes);
        let again = seal(&log, 5);
        log.set_aside(&[again]).unwrap();
        assert_eq!(log.txids().unwrap().len(), 1, "what is saved already is not kept twice");
    }

    #[test]
    fn mark_stays_until_it_is_taken_away() {
        let dir = Folder::new();
        let log = Log::open(&dir.path().join("db-replica")).unwrap();
        assert!(!log.is_rolling());
        log.begin_rolling().unwrap();
        log.begin_rolling().unwrap();
        assert!(Log::open(log.folder()).unwrap().is_rolling());
        log.end_rolling().unwrap();
        log.end_rolling().unwrap();
        assert!(!log.is_rolling());
    }
}
