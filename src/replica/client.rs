//! The one seam between the engines and a store.

use super::objects::Objects;
use crate::error::{Error, Kind, Result};
use crate::ltx::{Decoder, name};
use crate::types::{FileInfo, Level, Timestamp, TxidRange};
use std::io::{Read, Seek};

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

    /// The same place by the names of its objects, where the store can show that.
    fn objects(&self) -> Option<&dyn Objects> {
        None
    }

    /// Deletes exactly the object that was listed; one that is gone already is deleted.
    ///
    /// # Errors
    /// `Conflict` when its name holds another object.
    fn delete(&self, file: &FileInfo) -> Result<()>;
}

/// Opens a listed file to be decoded; its header must say the txids its name says.
///
/// # Errors
/// As [`Client::open`] and [`Decoder::new`]; `Corrupt` for a file under a wrong name.
pub fn open_decoder(client: &dyn Client, file: &FileInfo) -> Result<Decoder<Box<dyn ReadSeek>>> {
    let name = format!("level {} file {}", file.level, name::format(file.range));
    let decoder = Decoder::new(client.open(file)?, name)?;
    let found = decoder.header().range;
    if found != file.range {
        return Err(Error::corrupt(format!(
            "{} holds txids {found}: it was renamed or swapped with another file",
            decoder.name()
        )));
    }
    Ok(decoder)
}
