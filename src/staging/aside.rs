//! What the log keeps beside its groups when the database is overwritten: files that are in no replica, and the mark that
//! log and database may stand apart.

use std::path::PathBuf;

use super::log::{Log, Recorded, Sealed, create, remove};
use crate::error::{Error, Kind, Result};
use crate::fs::durable::{self, Temp};
use crate::ltx;
use crate::types::{Checksum, PageSize, Position, Timestamp, Txid, TxidRange};

/// Name of the mark of [`Log::begin_rolling`].
const ROLLING: &str = "rolling";
/// And of [`Log::begin_rejoin`].
const REJOINING: &str = "rejoining";

impl Log {
    /// Where a file is kept that makes the state `state` out of its predecessor, and that is in no replica.
    pub fn saved_path(&self, state: Checksum, range: TxidRange) -> PathBuf {
        self.saved_folder(state).join(ltx::name::format(range))
    }

    /// Where a state is kept that is in no replica.
    pub fn saved_folder(&self, state: Checksum) -> PathBuf {
        self.folder().join("saved").join(state.to_string())
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

    /// Another writer owns the history from some txid on, and the database is about to become this state of it. Survives a
    /// loss of power.
    ///
    /// # Errors
    /// `Full`, `Io`.
    pub fn begin_rejoin(&self, to: &Recorded) -> Result<()> {
        let path = self.folder().join(REJOINING);
        let mut temp = Temp::create(&path)?;
        let Position { txid, checksum } = to.position;
        let text = format!("{txid} {checksum} {} {} {}\n", to.page_size, to.page_count, to.timestamp.0);
        temp.write(text.as_bytes())?;
        temp.publish_over(&path).map(drop)
    }

    /// That state, when who began it did not come to the end.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub fn rejoining(&self) -> Result<Option<Recorded>> {
        let path = self.folder().join(REJOINING);
        let text = match std::fs::read_to_string(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|e| Error::io("read", &path, e))?,
        };
        let mut fields = text.split_ascii_whitespace();
        let mut field = || fields.next();
        let parsed = (|| {
            let txid = Txid::from_hex(field()?)?;
            let checksum = u64::from_str_radix(field()?, 16).ok().and_then(Checksum::from_wire)?;
            let page_size = field()?.parse().ok().and_then(PageSize::new)?;
            let (page_count, timestamp) = (field()?.parse().ok()?, Timestamp(field()?.parse().ok()?));
            Some(Recorded { position: Position { txid, checksum }, page_size, page_count, timestamp })
        })();
        let corrupt =
            || Error::corrupt(format!("{} names no position; remove it to go on without", path.display()));
        parsed.map(Some).ok_or_else(corrupt)
    }

    /// It is that state, or stays what it was. The mark does not come back after a loss of power.
    ///
    /// # Errors
    /// `Io`.
    pub fn end_rejoin(&self) -> Result<()> {
        remove(&self.folder().join(REJOINING))?;
        durable::sync_folder(self.folder())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ltx::{Header, Proof, sample};
    use crate::testing::Folder;

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

    #[test]
    fn newest_target_of_a_rejoin_is_remembered_until_it_ends() {
        let dir = Folder::new();
        let log = Log::open(&dir.path().join("db-replica")).unwrap();
        assert_eq!(log.rejoining().unwrap(), None);
        let to = [3, 4].map(|n| seal(&log, n).recorded());
        to.iter().for_each(|to| log.begin_rejoin(to).unwrap());
        assert_eq!(log.rejoining().unwrap(), Some(to[1]));
        log.end_rejoin().unwrap();
        log.end_rejoin().unwrap();
        assert_eq!(log.rejoining().unwrap(), None);
    }
}
