//! The one seam between the engines and a store.

use super::leases::Leases;
use super::objects::Objects;
use crate::error::{Error, Kind, Result};
use crate::ltx::{Decoder, name};
use crate::types::{FileInfo, Level, Timestamp, TxidRange};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;

/// An object's bytes.
pub trait ReadSeek: Read + Seek + Send {}

impl<T: Read + Seek + Send> ReadSeek for T {}

/// A store of LTX files by level and txid range. Every backend passes the same suite, `conformance`.
///
/// Creating an object only if its name is free is the compare-and-swap that orders the history: no method
/// replaces an object.
pub trait Client: Send + Sync {
    /// The replica's URL, without secrets.
    fn url(&self) -> &str;

    /// Makes what must be there before a first object is created. What dead writers left of theirs goes.
    ///
    /// # Errors
    /// As the store refuses.
    fn prepare(&self) -> Result<()>;

    /// Every LTX file of a level, by min, then max. What is none is passed over.
    ///
    /// # Errors
    /// `NotFound` when the replica itself is gone; a missing level is an empty one.
    fn list(&self, level: Level) -> Result<Vec<FileInfo>>;

    /// Every LTX file of the replica, by level, min, then max.
    ///
    /// # Errors
    /// As [`Client::list`].
    fn list_all(&self) -> Result<Vec<FileInfo>> {
        let mut files = Vec::new();
        for level in Level::all() {
            files.extend(self.list(level)?);
        }
        Ok(files)
    }

    /// Whether [`FileInfo::same_object`] tells every object from a later one of its name, whatever their bytes.
    fn tells_objects_apart(&self) -> bool;

    /// Whether the store is known to ignore that a name is taken: a second writer would not be noticed.
    fn is_single_writer(&self) -> bool {
        false
    }

    /// The time in the header of a listed file, which `created_at` of a listing need not be: a store lists when it took
    /// the object, a folder that was copied when that was done.
    ///
    /// # Errors
    /// `Conflict` when the object is gone or another: list again.
    fn timestamp(&self, file: &FileInfo) -> Result<Timestamp> {
        let opened = self.open(file).map_err(|error| match error.kind() {
            Kind::NotFound => Error::conflict(error.to_string()),
            _ => error,
        })?;
        match Decoder::new(opened, name::format(file.range)) {
            Ok(decoder) => Ok(decoder.header().timestamp),
            // Whoever reads it learns what is wrong with it.
            Err(error) if error.kind() == Kind::Corrupt => Ok(file.created_at),
            Err(error) => Err(error),
        }
    }

    /// Opens exactly the object that was listed.
    ///
    /// # Errors
    /// `NotFound` when it is gone, `Conflict` when its name holds another object: list again.
    fn open(&self, file: &FileInfo) -> Result<Box<dyn ReadSeek>>;

    /// Fills `buffer` with the bytes from `offset` on of exactly the object that was listed.
    ///
    /// # Errors
    /// As [`Client::open`]; `Conflict`, too, when it is shorter than it was.
    fn read_at(&self, file: &FileInfo, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let mut object = self.open(file)?;
        let read = object.seek(SeekFrom::Start(offset)).and_then(|_| object.read_exact(buffer));
        read.map_err(|e| match e.kind() {
            ErrorKind::UnexpectedEof => {
                Error::conflict(format!("{} is shorter than it was listed: list again", describe(file)))
            }
            _ => cannot_read(&describe(file), e),
        })
    }

    /// Reads that can be under way at the same time before one slows down another, where that is more than the
    /// processor has cores: most of a read's time is a wait.
    fn reads_at_once(&self) -> usize {
        1
    }

    /// Stores `body` whole, from its beginning, under a free name. It survives a loss of power once a later `create` of this client has
    /// returned, or [`Client::make_durable`]. Until then, a loss of power can take the name, never a part of the bytes.
    ///
    /// # Errors
    /// `Exists` when the name is taken, by whatever bytes: read it back to learn whose; nothing became durable. After
    /// `Io` the name may exist.
    fn create(
        &self,
        level: Level,
        range: TxidRange,
        timestamp: Timestamp,
        body: &mut dyn ReadSeek,
    ) -> Result<FileInfo>;

    /// Returns when every object of a level survives a loss of power, whoever created it.
    ///
    /// # Errors
    /// `NotFound` when there is no such level; `Io`: nothing is known then.
    fn make_durable(&self, level: Level) -> Result<()>;

    /// The object that a name holds now.
    ///
    /// # Errors
    /// `NotFound` when the replica itself is gone.
    fn stat(&self, level: Level, range: TxidRange) -> Result<Option<FileInfo>>;

    /// The clock by which the store says when it took an object, where a listing does not tell it.
    ///
    /// # Errors
    /// As the store refuses.
    fn now(&self) -> Result<Option<Timestamp>> {
        Ok(None)
    }

    /// The same place by the names of its objects, where the store can show that.
    fn objects(&self) -> Option<&dyn Objects> {
        None
    }

    /// Who may write here, where the store can keep that.
    fn leases(&self) -> Option<&(dyn Leases + Sync)> {
        None
    }

    /// Deletes exactly the object that was listed; one that is gone already is deleted.
    ///
    /// # Errors
    /// `Conflict` when its name holds another object.
    fn delete(&self, file: &FileInfo) -> Result<()>;
}

/// What failed while an object was read: an error of ours that went through a reader comes back as it was.
pub(super) fn cannot_read(name: &str, error: std::io::Error) -> Error {
    error.downcast::<Error>().unwrap_or_else(|error| Error::io("read", Path::new(name), error))
}

/// A file of a replica, for messages.
pub fn describe(file: &FileInfo) -> String {
    format!("level {} file {}", file.level, name::format(file.range))
}

/// Opens a listed file to be decoded; its header must say the txids its name says.
///
/// # Errors
/// As [`Client::open`] and [`Decoder::new`]; `Corrupt` for a file under a wrong name.
pub fn open_decoder(client: &dyn Client, file: &FileInfo) -> Result<Decoder<Box<dyn ReadSeek>>> {
    let decoder = Decoder::new(client.open(file)?, describe(file))?;
    check_range(file, decoder.header().range)?;
    Ok(decoder)
}

/// Whether the header of a listed file says the txids that its name says.
///
/// # Errors
/// `Corrupt`.
pub fn check_range(file: &FileInfo, found: TxidRange) -> Result<()> {
    if found == file.range {
        return Ok(());
    }
    Err(Error::corrupt(format!(
        "{} holds txids {found}: it was renamed or swapped with another file",
        describe(file)
    )))
}
