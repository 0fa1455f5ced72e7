//! How a node reaches the store: through [`Client`] and [`Leases`], as the product does, with everything that a network and
//! a scheduler can do in between.
//!
//! ```text
//! others run, time passes, the node dies -> the request: done | refused | done, no answer | done later | done twice -> the same
//! ```

use std::io::Cursor;
use std::sync::Arc;

use super::store::{Kind, New, Told};
use super::world::{Inner, Late, World};
use crate::error::{self, Error, Result};
use crate::lock::Mutex;
use crate::replica::{Client, LeaseObject, Leases, ReadSeek};
use crate::types::{Etag, FileInfo, Identity, Level, Timestamp, TxidRange};

/// What becomes of a request that changes something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Done,
    Refused,
    /// Done, and the answer is lost.
    Lost,
    /// Done when nobody expects it any more.
    Late,
    /// Done, and done again later.
    Twice,
}

pub struct SimClient {
    world: World,
    /// Who asks, for the trace.
    who: String,
    kind: Kind,
    /// A level in which this client made the last name, until that lasts.
    unsynced: Mutex<Option<Level>>,
}

impl SimClient {
    pub fn new(world: &World, who: &str) -> SimClient {
        let kind = world.with(|inner| inner.objects.kind);
        SimClient { world: world.clone(), who: who.to_owned(), kind, unsynced: Mutex::new(None) }
    }

    pub fn shared(world: &World, who: &str) -> Arc<dyn Client> {
        Arc::new(SimClient::new(world, who))
    }

    /// A request that reads.
    fn look<T>(&self, what: impl FnOnce() -> String, look: impl FnOnce(&Inner) -> Result<T>) -> Result<T> {
        self.world.between(&self.who);
        if self.world.with(Inner::loses_read) {
            self.world.trace(|| format!("{} {}: no answer", self.who, what()));
            return Err(no_answer());
        }
        self.world.with(|inner| look(inner))
    }

    /// A request that changes something.
    fn change<T>(
        &self,
        what: impl Fn() -> String,
        late: impl FnOnce() -> Late,
        mut change: impl FnMut(&mut Inner) -> Result<T>,
    ) -> Result<T> {
        self.world.between(&self.who);
        let fate = self.world.with(Inner::draw_fate);
        let told = |outcome: &str| self.world.trace(|| format!("{} {}: {outcome}", self.who, what()));
        let result = match fate {
            Fate::Done | Fate::Lost | Fate::Twice => self.world.with(&mut change),
            Fate::Refused => {
                told("refused");
                return Err(Error::busy("the store is busy"));
            }
            Fate::Late => {
                told("late");
                let request = late();
                self.world.with(|inner| inner.put_off(request));
                return Err(no_answer());
            }
        };
        match (&result, fate) {
            (Ok(_), Fate::Done) => told("done"),
            (Ok(_), _) => told(if fate == Fate::Lost { "done, no answer" } else { "done, and again later" }),
            (Err(error), _) => told(&error.to_string()),
        }
        if fate == Fate::Twice {
            let request = late();
            self.world.with(|inner| inner.put_off(request));
        }
        self.world.stop_at_breach();
        self.world.between(&self.who);
        if fate == Fate::Lost { Err(no_answer()) } else { result }
    }
}

fn no_answer() -> Error {
    Error::new(error::Kind::Io, "no answer")
}

fn named(level: Level, range: TxidRange) -> String {
    format!("L{level}/{}-{}", range.min.get(), range.max.get())
}

impl Client for SimClient {
    fn url(&self) -> &str {
        match self.kind {
            Kind::Bucket => "s3://model",
            Kind::Folder => "file:///model",
        }
    }

    fn prepare(&self) -> Result<()> {
        Ok(())
    }

    fn list(&self, level: Level) -> Result<Vec<FileInfo>> {
        Ok(self.list_all()?.into_iter().filter(|file| file.level == level).collect())
    }

    fn list_all(&self) -> Result<Vec<FileInfo>> {
        self.look(|| "list".into(), |inner| Ok(inner.objects.list(inner.store_now())))
    }

    fn tells_objects_apart(&self) -> bool {
        self.kind == Kind::Folder
    }

    fn open(&self, file: &FileInfo) -> Result<Box<dyn ReadSeek>> {
        let what = || format!("open {}", named(file.level, file.range));
        let bytes = self.look(what, |inner| {
            inner.objects.listed(file, inner.store_now()).map(|object| Arc::clone(&object.bytes))
        })?;
        Ok(Box::new(Cursor::new(bytes)))
    }

    fn create(
        &self,
        level: Level,
        range: TxidRange,
        timestamp: Timestamp,
        body: &mut dyn ReadSeek,
    ) -> Result<FileInfo> {
        let mut bytes = Vec::new();
        body.rewind()
            .and_then(|()| body.read_to_end(&mut bytes))
            .map_err(|e| Error::new(error::Kind::Io, e.to_string()))?;
        let new = New::of(level, range, timestamp, bytes)?;
        let unsynced = self.unsynced.lock().take().filter(|_| self.kind == Kind::Folder);
        unsynced.into_iter().for_each(|level| self.world.with(|inner| inner.objects.make_durable(level)));
        if self.world.with(|inner| inner.renames()) {
            // The name is looked for first, and whatever has it by then is replaced.
            let is_taken = self.world.with(|inner| inner.objects.get(level, range).is_some());
            if is_taken {
                return Err(Error::exists("the name is taken"));
            }
        }
        let made = self.change(
            || format!("create {}", named(level, range)),
            || Late::Create(Box::new(new.clone())),
            |inner| inner.create(&new),
        )?;
        *self.unsynced.lock() = Some(level);
        Ok(made)
    }

    fn make_durable(&self, level: Level) -> Result<()> {
        self.world.with(|inner| inner.objects.make_durable(level));
        Ok(())
    }

    fn stat(&self, level: Level, range: TxidRange) -> Result<Option<FileInfo>> {
        let what = || format!("look at {}", named(level, range));
        self.look(what, |inner| {
            let object = inner.objects.get(level, range);
            Ok(object.map(|object| inner.objects.info(object, Told::Looked, inner.store_now())))
        })
    }

    fn now(&self) -> Result<Option<Timestamp>> {
        match self.kind {
            Kind::Folder => self.look(|| "clock".into(), |inner| Ok(Some(inner.store_now()))),
            Kind::Bucket => Ok(None),
        }
    }

    fn leases(&self) -> Option<&(dyn Leases + Sync)> {
        Some(self)
    }

    fn delete(&self, file: &FileInfo) -> Result<()> {
        // The look and the removal are two requests.
        match self.stat(file.level, file.range)? {
            None => return Ok(()),
            Some(found) if !found.same_object(file) => {
                return Err(Error::conflict("the name holds another object"));
            }
            Some(_) => {}
        }
        self.change(
            || format!("delete {}", named(file.level, file.range)),
            || Late::Delete(*file),
            |inner| inner.delete(file),
        )
    }
}

fn lease_object(bytes: Vec<u8>, number: u64) -> LeaseObject {
    let etag = Etag::new(&format!("\"{number}\"")).expect("BUG: an ETag");
    LeaseObject::at(bytes, Identity::Stored { etag, modified: None, told_at: None })
}

/// The number of a put, as the lease object says it.
fn number_of(object: &LeaseObject) -> u64 {
    let Identity::Stored { etag, .. } = object.identity() else { unreachable!("BUG: not of this store") };
    etag.as_str().trim_matches('"').parse().expect("BUG: a number")
}

impl Leases for SimClient {
    fn check_leases(&self) -> Result<()> {
        Ok(())
    }

    fn read_lease(&self) -> Result<Option<LeaseObject>> {
        self.look(
            || "read the lease".into(),
            |inner| Ok(inner.lease.bytes.clone().map(|bytes| lease_object(bytes, inner.lease.number))),
        )
    }

    fn create_lease(&self, bytes: &[u8]) -> Result<LeaseObject> {
        self.put_lease(None, bytes)
    }

    fn replace_lease(&self, old: &LeaseObject, bytes: &[u8]) -> Result<LeaseObject> {
        self.put_lease(Some(number_of(old)), bytes)
    }

    fn remove_lease(&self, _: &LeaseObject) -> Result<()> {
        unreachable!("BUG: who removes a replica is not in the model")
    }
}

impl SimClient {
    fn put_lease(&self, seen: Option<u64>, bytes: &[u8]) -> Result<LeaseObject> {
        let number = self.change(
            || format!("put the lease {}", String::from_utf8_lossy(bytes)),
            || Late::Lease(seen, bytes.to_vec()),
            |inner| inner.lease.put(seen, bytes),
        )?;
        Ok(lease_object(bytes.to_vec(), number))
    }
}
