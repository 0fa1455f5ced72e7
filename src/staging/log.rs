//! Sealed groups on their way to the replica: one level-0 LTX file each, under `ltx/`.
//!
//! A file enters by create-if-absent and never changes: a resend is byte for byte the same. It is fsynced when the
//! replica does not take it at once, and now and then (`make_durable`): what the replica has acknowledged need not
//! last here, and an fsync for each group was measured to cost the application up to a third of its own
//! (`docs/local-log.md`). After a loss of power a file that is not whole is dropped. The newest
//! one stays, because it says where the history of this database stands; a *base* (`base-<txid>-<checksum>`) says
//! so where the log starts from a restored copy. The number of a new group therefore comes from the names in this
//! folder; a process remembers them ([`super::groups`]) only until another one has worked here.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use super::sent;
use crate::error::{Error, Kind, Result};
use crate::fs::LockFile;
use crate::fs::durable::{self, Temp};
use crate::ltx::{self, Damage, Header, Proof};
use crate::types::{Checksum, PageSize, Position, Timestamp, Txid, TxidRange};

const FORMAT: &str = "sqlitereplicate log 2\n";

/// Where the history of this database stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recorded {
    pub position: Position,
    pub page_size: PageSize,
    pub page_count: u32,
    pub timestamp: Timestamp,
}

/// A sealed group in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealed {
    pub txid: Txid,
    pub proof: Proof,
    pub page_size: PageSize,
    pub page_count: u32,
    pub timestamp: Timestamp,
    pub size: u64,
}

impl Sealed {
    /// From the header of its file; `None` when that is not a group of ours.
    pub fn of(header: &Header, size: u64) -> Option<Sealed> {
        (header.range.min == header.range.max).then_some(())?;
        Some(Sealed {
            txid: header.range.max,
            proof: header.proof?,
            page_size: header.page_size,
            page_count: header.page_count,
            timestamp: header.timestamp,
            size,
        })
    }

    pub fn recorded(&self) -> Recorded {
        Recorded {
            position: Position { txid: self.txid, checksum: self.proof.post },
            page_size: self.page_size,
            page_count: self.page_count,
            timestamp: self.timestamp,
        }
    }
}

/// The folder beside the database.
#[derive(Debug)]
pub struct Log {
    folder: PathBuf,
}

impl Log {
    /// Opens the folder, creating it (mode 0700) with its format number.
    ///
    /// # Errors
    /// `Invalid` for a folder of an unknown format; `Io`.
    pub fn open(folder: &Path) -> Result<Log> {
        durable::create_folder(&folder.join("ltx"))?;
        let format = folder.join("format");
        match create(&format, FORMAT.as_bytes()) {
            Err(error) if error.kind() == Kind::Exists => {
                let found = std::fs::read_to_string(&format).map_err(|e| Error::io("read", &format, e))?;
                if found != FORMAT {
                    return Err(Error::invalid(format!(
                        "{} says {:?}, this version writes {:?}: use the version that wrote it, or move the folder away",
                        format.display(),
                        found.trim_end(),
                        FORMAT.trim_end()
                    )));
                }
            }
            other => other?,
        }
        durable::remove_stale(folder)?;
        durable::remove_stale(&folder.join("ltx"))?;
        Ok(Log { folder: folder.to_owned() })
    }

    /// Whether there is a log at `folder`, without creating one.
    pub fn exists(folder: &Path) -> bool {
        folder.join("format").exists()
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Who has the database open: each process shared; alone, whoever puts the log in order.
    ///
    /// # Errors
    /// `Io`.
    pub fn users(&self) -> Result<LockFile> {
        LockFile::open(&self.folder.join("users"))
    }

    /// Who captures and uploads now.
    ///
    /// # Errors
    /// `Io`.
    pub fn capture_lock(&self) -> Result<LockFile> {
        LockFile::open(&self.folder.join("lock"))
    }

    pub fn path_of(&self, txid: Txid) -> PathBuf {
        self.folder.join("ltx").join(ltx::name::format(TxidRange::one(txid)))
    }

    /// Txids of the sealed groups, ascending.
    ///
    /// # Errors
    /// `Io`.
    pub fn txids(&self) -> Result<Vec<Txid>> {
        let ltx = self.folder.join("ltx");
        let mut txids = Vec::new();
        for entry in std::fs::read_dir(&ltx).map_err(|e| Error::io("list", &ltx, e))? {
            let name = entry.map_err(|e| Error::io("list", &ltx, e))?.file_name();
            let range = name.to_str().and_then(ltx::name::parse);
            txids.extend(range.filter(|r| r.min == r.max).map(|r| r.max));
        }
        txids.sort_unstable();
        Ok(txids)
    }

    /// The group sealed as `txid`.
    ///
    /// # Errors
    /// `NotFound`; `Corrupt` when it is not what we write.
    pub fn sealed(&self, txid: Txid) -> Result<Sealed> {
        let path = self.path_of(txid);
        let mut file = File::open(&path).map_err(|e| Error::io("open", &path, e))?;
        let size = file.metadata().map_err(|e| Error::io("look at", &path, e))?.len();
        let mut bytes = [0; Header::BYTES];
        let header = match file.read_exact(&mut bytes) {
            Ok(()) => Header::decode(&bytes).map(|(header, _)| header),
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => Err(Damage::Truncated),
            Err(e) => return Err(Error::io("read", &path, e)),
        };
        let header = header.map_err(|damage| {
            let told = damage.at(&path.to_string_lossy(), 0);
            let folder = self.folder.display();
            Error::corrupt(format!("{told}; move the folder {folder} away to start from a full scan"))
        })?;
        Sealed::of(&header, size).filter(|sealed| sealed.txid == txid).ok_or_else(|| {
            Error::corrupt(format!("{} is not a group sealed by this program", path.display()))
        })
    }

    /// Where the history stands: the newest sealed group or base. `None`: nothing was ever sealed.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub fn recorded(&self) -> Result<Option<Recorded>> {
        self.recorded_after(self.txids()?.last().copied())
    }

    /// The same, where the newest sealed group is known.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub fn recorded_after(&self, newest: Option<Txid>) -> Result<Option<Recorded>> {
        let base = self.bases()?.into_iter().max_by_key(|(position, _)| position.txid);
        match (newest, base) {
            (newest, Some((position, path))) if newest.is_none_or(|txid| txid <= position.txid) => {
                read_base(position, &path).map(Some)
            }
            (Some(txid), _) => self.sealed(txid).map(|s| Some(s.recorded())),
            (None, _) => Ok(None),
        }
    }

    /// Seals a group: `fill` writes the LTX file, in the place of `unneeded` if there is one, and answers its length,
    /// which comes back. The file survives the death of the process; see `make_durable`.
    ///
    /// # Errors
    /// `Exists` when `txid` is sealed already; what `fill` answers; `Full`, `Io`.
    pub fn seal(
        &self,
        txid: Txid,
        unneeded: Option<Temp>,
        fill: impl FnOnce(&File) -> Result<u64>,
    ) -> Result<u64> {
        let path = self.path_of(txid);
        let is_new = unneeded.is_none();
        let temp = unneeded.map_or_else(|| Temp::create(&path), Ok)?;
        let size = fill(temp.file())?;
        if !is_new {
            temp.file().set_len(size).map_err(|e| Error::io("cut", temp.path(), e))?;
        }
        temp.publish_unsynced(&path)?;
        Ok(size)
    }

    /// Makes a sealed group survive a loss of power.
    ///
    /// # Errors
    /// `Io`.
    pub fn make_durable(&self, txid: Txid) -> Result<()> {
        let path = self.path_of(txid);
        let file = File::open(&path).map_err(|e| Error::io("open", &path, e))?;
        durable::sync_file(&file, &path)?;
        durable::sync_folder(durable::parent(&path))
    }

    /// The same of every sealed group that is there.
    ///
    /// # Errors
    /// `Io`.
    pub fn make_all_durable(&self) -> Result<()> {
        let txids = self.txids()?;
        for &txid in &txids {
            let path = self.path_of(txid);
            durable::sync_file(&File::open(&path).map_err(|e| Error::io("open", &path, e))?, &path)?;
        }
        txids.first().map_or(Ok(()), |&txid| durable::sync_folder(durable::parent(&self.path_of(txid))))
    }

    /// After a loss of power: removes the groups that are not whole, whichever they are. Returns how many.
    ///
    /// # Errors
    /// `Io`.
    pub fn drop_damaged(&self) -> Result<usize> {
        let mut dropped = 0;
        for txid in self.txids()?.into_iter().rev() {
            let path = self.path_of(txid);
            let file = File::open(&path).map_err(|e| Error::io("open", &path, e))?;
            // One that was to be written anew may hold the bytes of a later group under its old name.
            let whole = ltx::Decoder::new(std::io::BufReader::new(file), path.to_string_lossy())
                .and_then(|mut decoder| decoder.verify_rest().map(|_| decoder.header().range))
                .is_ok_and(|range| range == TxidRange::one(txid));
            if !whole {
                self.forget(txid)?;
                dropped += 1;
            }
        }
        Ok(dropped)
    }

    /// Removes a sealed group that no replica lacks. The newest one must stay.
    ///
    /// # Errors
    /// `Io`; one that is gone already is no error.
    pub fn forget(&self, txid: Txid) -> Result<()> {
        remove(&self.path_of(txid))
    }

    /// Makes the log start at `recorded`, without a sealed group.
    ///
    /// # Errors
    /// `Full`, `Io`.
    pub fn set_base(&self, recorded: Recorded) -> Result<()> {
        let path = self.folder.join(base_name(recorded.position));
        let text = format!("{} {} {}\n", recorded.page_size, recorded.page_count, recorded.timestamp.0);
        match create(&path, text.as_bytes()) {
            Err(error) if error.kind() == Kind::Exists => Ok(()),
            other => other,
        }
    }

    /// Whether [`Log::set_base`] said so.
    pub fn has_base(&self, position: Position) -> bool {
        self.folder.join(base_name(position)).exists()
    }

    /// Takes back what [`Log::set_base`] said.
    ///
    /// # Errors
    /// `Io`.
    pub fn drop_base(&self, position: Position) -> Result<()> {
        remove(&self.folder.join(base_name(position)))?;
        durable::sync_folder(&self.folder)
    }

    /// Starts the log over: every sealed group and base goes, newest first, so that what a crash leaves is a
    /// shorter history and never one with a hole.
    ///
    /// # Errors
    /// `Io`.
    pub fn reset(&self) -> Result<()> {
        for txid in self.txids()?.into_iter().rev() {
            self.forget(txid)?;
        }
        for (_, path) in self.bases()? {
            remove(&path)?;
        }
        sent::remove_all(self)?;
        durable::sync_folder(&self.folder.join("ltx"))?;
        durable::sync_folder(&self.folder)
    }

    fn bases(&self) -> Result<Vec<(Position, PathBuf)>> {
        let mut bases = Vec::new();
        for entry in std::fs::read_dir(&self.folder).map_err(|e| Error::io("list", &self.folder, e))? {
            let entry = entry.map_err(|e| Error::io("list", &self.folder, e))?;
            let name = entry.file_name();
            let parts = name.to_str().and_then(|n| n.strip_prefix("base-")).and_then(|n| n.split_once('-'));
            let position = parts.and_then(|(txid, checksum)| {
                let checksum = u64::from_str_radix(checksum, 16).ok().and_then(Checksum::from_wire)?;
                Some(Position { txid: Txid::from_hex(txid)?, checksum })
            });
            bases.extend(position.map(|p| (p, entry.path())));
        }
        Ok(bases)
    }
}

fn base_name(position: Position) -> String {
    format!("base-{}-{}", position.txid, position.checksum)
}

pub(super) fn create(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut temp = Temp::create(path)?;
    temp.write(bytes)?;
    temp.publish(path).map(drop)
}

fn read_base(position: Position, path: &Path) -> Result<Recorded> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
    let mut fields = text.split_ascii_whitespace();
    let mut number = || fields.next().and_then(|f| f.parse::<i64>().ok());
    let parsed = (|| {
        let page_size = PageSize::new(u32::try_from(number()?).ok()?)?;
        let page_count = u32::try_from(number()?).ok()?;
        Some(Recorded { position, page_size, page_count, timestamp: Timestamp(number()?) })
    })();
    parsed.ok_or_else(|| {
        Error::corrupt(format!("{} is not a base of the log; remove it to scan again", path.display()))
    })
}

pub(super) fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", path, e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::ltx::{WalSpan, sample};
    use crate::testing::Folder;
    use std::io::Write;

    fn recorded(n: u64) -> Recorded {
        Recorded {
            position: Position { txid: Txid::new(n).unwrap(), checksum: Checksum::from_crc(n) },
            page_size: PageSize::new(4096).unwrap(),
            page_count: n as u32,
            timestamp: Timestamp(n as i64 * 1000),
        }
    }

    pub fn seal(log: &Log, n: u64) -> Result<u64> {
        let r = recorded(n);
        let header = Header {
            page_size: r.page_size,
            page_count: r.page_count,
            range: TxidRange::one(r.position.txid),
            timestamp: r.timestamp,
            wal: WalSpan::CAPTURED,
            writer_id: 7,
            proof: Some(Proof {
                pre: if n == 1 { Checksum::EMPTY } else { recorded(n - 1).position.checksum },
                post: r.position.checksum,
            }),
        };
        log.seal(r.position.txid, None, |mut file| {
            file.write_all(&header.encode().unwrap()).unwrap();
            Ok(Header::BYTES as u64)
        })
    }

    #[test]
    fn every_group_that_a_loss_of_power_cut_is_dropped() {
        let dir = Folder::new();
        let log = Log::open(&dir.path().join("db-replica")).unwrap();
        for n in 1..=4 {
            let bytes = sample::file(sample::header(n, n, 512, 1), &[(1, vec![n as u8; 512])]);
            let path = log.path_of(Txid::new(n).unwrap());
            std::fs::write(path, &bytes[..if n % 2 == 0 { bytes.len() } else { n as usize }]).unwrap();
        }
        assert_eq!(log.drop_damaged().unwrap(), 2);
        assert_eq!(log.txids().unwrap().iter().map(|t| t.get()).collect::<Vec<_>>(), [2, 4]);
    }

    #[test]
    fn a_group_that_was_cut_off_is_damaged_and_says_what_to_do() {
        let dir = Folder::new();
        let log = Log::open(&dir.path().join("db-replica")).unwrap();
        seal(&log, 1).unwrap();
        let path = log.path_of(Txid::new(1).unwrap());
        std::fs::write(&path, &std::fs::read(&path).unwrap()[..Header::BYTES - 1]).unwrap();
        let error = log.recorded().unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt);
        let told = error.to_string();
        assert!(told.contains("0000000000000001-0000000000000001.ltx is damaged"), "{told}");
        assert!(told.contains("move the folder") && told.contains("db-replica away"), "{told}");
    }

    #[test]
    fn position_is_that_of_the_newest_group_or_base() {
        let dir = Folder::new();
        let log = Log::open(&dir.path().join("db-replica")).unwrap();
        assert_eq!(log.recorded().unwrap(), None);
        log.set_base(recorded(5)).unwrap();
        assert_eq!(log.recorded().unwrap(), Some(recorded(5)));
        seal(&log, 6).unwrap();
        seal(&log, 7).unwrap();
        assert_eq!(seal(&log, 7).unwrap_err().kind(), Kind::Exists);
        assert_eq!(log.recorded().unwrap(), Some(recorded(7)));
        log.forget(recorded(6).position.txid).unwrap();
        assert_eq!(log.txids().unwrap(), [recorded(7).position.txid]);
        log.reset().unwrap();
        assert_eq!(Log::open(log.folder()).unwrap().recorded().unwrap(), None);
    }

    #[test]
    fn after_a_loss_of_power_a_group_under_another_name_goes_and_a_whole_one_stays() {
        let dir = Folder::new();
        let log = Log::open(&dir.path().join("db-replica")).unwrap();
        let txid = |n| Txid::new(n).unwrap();
        for n in 3..6 {
            let body = sample::file(sample::header(n, n, 512, 1), &[(1, vec![n as u8; 512])]);
            std::fs::write(log.path_of(txid(n)), body).unwrap();
        }
        assert_eq!(log.drop_damaged().unwrap(), 0);
        std::fs::copy(log.path_of(txid(3)), log.path_of(txid(5))).unwrap();
        std::fs::write(log.path_of(txid(6)), b"").unwrap();
        assert_eq!(log.drop_damaged().unwrap(), 2);
        assert_eq!(log.txids().unwrap(), [txid(3), txid(4)]);
    }

    #[test]
    fn unknown_format_is_refused() {
        let dir = Folder::new();
        std::fs::write(dir.path().join("format"), "sqlitereplicate log 3\n").unwrap();
        let error = Log::open(dir.path()).unwrap_err();
        assert!(error.kind() == Kind::Invalid && error.to_string().contains("log 2"), "{error}");
    }
}
