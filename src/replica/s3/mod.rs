//! A replica in a bucket: `s3://bucket/prefix`, objects `<prefix>/<level in 4 hex digits>/<min>-<max>.ltx`.
//!
//! ```text
//! mod          names and promises of a replica          store       objects by key, what a refusal means
//! object       the bytes of one object, read in order   http        one request, one answer
//! lease        the one object that is replaced
//! probe        what a bucket honours, asked once         payload     what a put carries, never whole in memory
//! credentials  whose keys                               place, endpoint, sign, answer   pure: names, signatures, XML
//! ```
//!
//! A put that the store has answered survives a loss of power: nothing is left to be made durable. Names are created
//! with `If-None-Match: *`, read with `If-Match` of the listed ETag, deleted with `If-Match`. An object made anew with
//! the same bytes has the same ETag: where it matters, the time is looked at too (rule 1 of the protocol).
//! The timestamp of a file stands in the metadata `litestream-timestamp`, as stock readers want it; a listing does not
//! show it, and has the time at which the store took the object instead.

pub(crate) mod answer;
pub(crate) mod credentials;
mod endpoint;
mod http;
mod lease;
mod object;
mod pace;
mod payload;
mod place;
mod probe;
mod sign;
mod store;

use std::collections::HashMap;
use std::io::{Read, SeekFrom};
use std::path::{Path, PathBuf};

use super::client::{Client, ReadSeek};
use super::leases::Leases;
use super::objects::{ObjectInfo, Objects};
use crate::clock::Deadline;
use crate::error::{Error, Kind, Result};
use crate::lock::Mutex;
use crate::ltx::name;
use crate::types::{Etag, FileInfo, Identity, Level, Timestamp, TxidRange};
use answer::Listed;
use credentials::Credentials;
use endpoint::Endpoint;
use http::{Http, http_date};
use object::Object;
use payload::{Payload, SMALL_BYTES, unreadable};
use probe::Known;
use std::sync::Arc;
use store::Store;

pub use credentials::{Container, Sources, WebIdentity};
#[cfg(any(test, fuzzing))]
pub(crate) use http::http_date as read_http_date;
pub use place::Place;
pub use sign::Keys;

const TIMESTAMP: &str = "x-amz-meta-litestream-timestamp";
/// Where neither a setting nor the environment says one, and what most other stores call theirs.
const REGION_DEFAULT: &str = "us-east-1";
/// 10,000 of them make 156 GiB.
const PART_BYTES: usize = 16 << 20;

/// How the store of a place is reached. What is left open is as S3 itself has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Options {
    pub endpoint: Option<String>,
    pub region: Option<String>,
    pub path_style: Option<bool>,
    pub ca_bundle: Option<PathBuf>,
    /// `AES256` or `aws:kms`.
    pub sse: Option<String>,
    pub storage_class: Option<String>,
    /// Objects of this size and more go up in parts of this size.
    pub part_bytes: Option<usize>,
}

impl Options {
    /// These, and `weaker` where they leave something open.
    #[must_use]
    pub fn or(self, weaker: &Options) -> Options {
        Options {
            endpoint: self.endpoint.or_else(|| weaker.endpoint.clone()),
            region: self.region.or_else(|| weaker.region.clone()),
            path_style: self.path_style.or(weaker.path_style),
            ca_bundle: self.ca_bundle.or_else(|| weaker.ca_bundle.clone()),
            sse: self.sse.or_else(|| weaker.sse.clone()),
            storage_class: self.storage_class.or_else(|| weaker.storage_class.clone()),
            part_bytes: self.part_bytes.or(weaker.part_bytes),
        }
    }
}

/// Connections and keys, shared by every replica that is reached in the same way.
#[derive(Debug)]
pub struct Session {
    http: Http,
    credentials: Credentials,
    // Guards what is known of each bucket; held while one is asked.
    probed: Mutex<HashMap<String, Known>>,
    // Guards for each bucket whether it replaces objects only where the condition holds, as far as that was tried.
    replaces: Mutex<HashMap<String, bool>>,
}

impl Session {
    /// `ca_bundle`: certificates to be trusted instead of the system's.
    ///
    /// # Errors
    /// `Invalid` with the path of a bundle that is none; `NotFound`, `Io`.
    pub fn new(ca_bundle: Option<&Path>, sources: Sources) -> Result<Session> {
        let (http, credentials) = (Http::new(ca_bundle)?, Credentials::new(sources));
        Ok(Session { http, credentials, probed: Mutex::default(), replaces: Mutex::default() })
    }
}

#[derive(Debug)]
pub struct S3Replica {
    url: String,
    prefix: String,
    store: Arc<Store>,
    options: Options,
    part_bytes: usize,
}

impl S3Replica {
    /// Asks the store nothing yet. With a deadline, no request of this client outlives it.
    ///
    /// # Errors
    /// `Invalid` for an endpoint that is none.
    pub fn new(
        place: &Place,
        options: Options,
        session: Arc<Session>,
        deadline: Option<Deadline>,
    ) -> Result<S3Replica> {
        let region = options.region.clone().unwrap_or_else(|| REGION_DEFAULT.to_owned());
        let bucket = place.bucket.clone();
        let endpoint = Endpoint::new(&bucket, &region, options.endpoint.as_deref(), options.path_style)?;
        let store = Arc::new(Store { bucket, endpoint, region, session, deadline });
        let part_bytes = options.part_bytes.unwrap_or(PART_BYTES);
        Ok(S3Replica { url: place.to_string(), prefix: place.prefix.clone(), store, options, part_bytes })
    }

    fn folder(&self, level: Level) -> String {
        format!("{}/{:04x}/", self.prefix, level.get())
    }

    fn key(&self, level: Level, range: TxidRange) -> String {
        self.folder(level) + &name::format(range)
    }

    /// What is none of our files is passed over.
    fn listed(&self, prefix: &str) -> Result<Vec<FileInfo>> {
        let mut files = Vec::new();
        let (objects, told_at) = self.store.list(prefix)?;
        for Listed { key, size, etag: tag, modified } in objects {
            if let Some((level, range)) = self.parse(&key) {
                let etag = etag(&tag, &self.store, &key)?;
                let identity = Identity::Stored { etag, modified: Some(seconds(modified)), told_at };
                files.push(FileInfo { level, range, size, created_at: modified, identity });
            }
        }
        files.sort_by_key(|file| (file.level, file.range));
        Ok(files)
    }

    fn parse(&self, key: &str) -> Option<(Level, TxidRange)> {
        let (level, name) = key.strip_prefix(&self.prefix)?.strip_prefix('/')?.split_once('/')?;
        Some((parse_level(level)?, name::parse(name)?))
    }

    /// The prefix of every replica at and below this one's, in order. One listing of everything there.
    ///
    /// # Errors
    /// As [`Client::list`].
    pub fn below(&self) -> Result<Vec<String>> {
        let (objects, _) = self.store.list(&format!("{}/", self.prefix))?;
        let mut prefixes: Vec<String> =
            objects.iter().filter_map(|object| replica_of(&object.key)).map(str::to_owned).collect();
        prefixes.sort();
        prefixes.dedup();
        Ok(prefixes)
    }

    /// Headers of an object's creation.
    fn labels(&self, timestamp: Timestamp) -> Vec<(&'static str, String)> {
        let mut headers =
            vec![(TIMESTAMP, timestamp.to_string()), ("content-type", "application/octet-stream".into())];
        headers.extend(self.options.sse.iter().map(|sse| ("x-amz-server-side-encryption", sse.clone())));
        headers.extend(self.options.storage_class.iter().map(|class| ("x-amz-storage-class", class.clone())));
        headers
    }

    /// Puts what is larger than one part.
    fn create_in_parts(
        &self,
        key: &str,
        labels: Vec<(&'static str, String)>,
        body: &mut dyn ReadSeek,
        size: u64,
    ) -> Result<String> {
        // The condition counts at the end: do not send gigabytes for a name that is taken already.
        if self.store.head(key)?.is_some() {
            return Err(taken(&self.store, key));
        }
        let upload = self.store.begin_parts(key, labels)?;
        let sent = self.send_parts(key, &upload, body, size);
        sent.inspect_err(|_| {
            // Best effort: what is left of it is no object, and the bucket's own rules remove it.
            let _ = self.store.abort_parts(key, &upload);
        })
    }

    fn send_parts(&self, key: &str, upload: &str, body: &mut dyn ReadSeek, size: u64) -> Result<String> {
        let mut etags = Vec::new();
        for start in (0..size).step_by(self.part_bytes) {
            let part = Payload::Part { source: body, start, len: (size - start).min(self.part_bytes as u64) };
            etags.push(self.store.put_part(key, upload, etags.len() as u32 + 1, part)?);
        }
        let absent = vec![("if-none-match", "*".to_owned())];
        self.store.finish_parts(key, upload, &etags, absent)
    }

    /// Puts what goes up at once; answers the ETag and the store's clock.
    fn create_at_once(
        &self,
        key: &str,
        mut headers: Vec<(&'static str, String)>,
        body: &mut dyn ReadSeek,
        size: u64,
    ) -> Result<(String, Option<Timestamp>)> {
        headers.push(("if-none-match", "*".to_owned()));
        let answer = if size < SMALL_BYTES {
            let mut bytes = Vec::with_capacity(size as usize);
            body.rewind().and_then(|()| body.read_to_end(&mut bytes)).map_err(unreadable)?;
            self.store.put(key, Payload::Bytes(&bytes), headers)?
        } else {
            self.store.put(key, Payload::Part { source: body, start: 0, len: size }, headers)?
        };
        Ok((answer.header("etag").unwrap_or_default().to_owned(), answer.date()))
    }
}

fn parse_level(text: &str) -> Option<Level> {
    u8::from_str_radix(text, 16).ok().filter(|n| text == format!("{n:04x}")).and_then(Level::new)
}

/// The prefix of the replica that an object belongs to, if it is a file of one.
pub(crate) fn replica_of(key: &str) -> Option<&str> {
    let (folder, name) = key.rsplit_once('/')?;
    let (prefix, level) = folder.rsplit_once('/')?;
    name::parse(name).and(parse_level(level)).map(|_| prefix)
}

fn taken(store: &Store, key: &str) -> Error {
    Error::exists(format!("{store}/{key} exists already"))
}

/// Some stores leave the quotes out of their listings.
fn etag(text: &str, store: &Store, key: &str) -> Result<Etag> {
    let quoted = if text.is_empty() || text.contains('"') { text.to_owned() } else { format!("\"{text}\"") };
    Etag::new(&quoted).ok_or_else(|| {
        Error::corrupt(format!("{store}/{key}: the store gives no ETag that could name an object"))
    })
}

fn seconds(at: Timestamp) -> Timestamp {
    Timestamp(at.0.div_euclid(1000) * 1000)
}

impl Client for S3Replica {
    fn url(&self) -> &str {
        &self.url
    }

    /// A bucket is not ours to make.
    fn prepare(&self) -> Result<()> {
        Ok(())
    }

    fn list(&self, level: Level) -> Result<Vec<FileInfo>> {
        self.listed(&self.folder(level))
    }

    /// One listing for all levels, whose folders begin alike.
    fn list_all(&self) -> Result<Vec<FileInfo>> {
        self.listed(&format!("{}/000", self.prefix))
    }

    /// One made anew with the same bytes in the same second looks the same.
    fn tells_objects_apart(&self) -> bool {
        false
    }

    fn is_single_writer(&self) -> bool {
        self.store.known().is_some_and(|probed| !probed.conditions)
    }

    /// One HEAD; where the metadata is missing, as stock readers take it: the time of the object.
    fn timestamp(&self, file: &FileInfo) -> Result<Timestamp> {
        match self.stat(file.level, file.range)? {
            Some(found) if found.same_object(file) => Ok(found.created_at),
            _ => Err(Error::conflict(format!(
                "{}/{} is gone or another object than was listed: list again",
                self.store,
                self.key(file.level, file.range)
            ))),
        }
    }

    fn open(&self, file: &FileInfo) -> Result<Box<dyn ReadSeek>> {
        let key = self.key(file.level, file.range);
        let Identity::Stored { etag, .. } = file.identity else {
            return Err(Error::conflict(format!("{}/{key} was not listed here", self.store)));
        };
        Ok(Box::new(Object::open(Arc::clone(&self.store), key, etag, file.size)?))
    }

    fn read_at(&self, file: &FileInfo, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let key = self.key(file.level, file.range);
        let Identity::Stored { etag, .. } = file.identity else {
            return Err(Error::conflict(format!("{}/{key} was not listed here", self.store)));
        };
        Object::read_part(Arc::clone(&self.store), key, etag, offset, buffer)
    }

    fn reads_at_once(&self) -> usize {
        http::IDLE_MAX
    }

    fn create(
        &self,
        level: Level,
        range: TxidRange,
        timestamp: Timestamp,
        body: &mut dyn ReadSeek,
    ) -> Result<FileInfo> {
        let key = self.key(level, range);
        if !self.store.probed(&self.prefix)?.conditions && self.store.head(&key)?.is_some() {
            return Err(taken(&self.store, &key));
        }
        let labels = self.labels(timestamp);
        let size = body.seek(SeekFrom::End(0)).map_err(unreadable)?;
        let outcome = if size < self.part_bytes as u64 {
            self.create_at_once(&key, labels, body, size)
        } else {
            self.create_in_parts(&key, labels, body, size).map(|tag| (tag, None))
        };
        let (tag, told_at) = outcome.map_err(|error| match error.kind() {
            Kind::Exists => taken(&self.store, &key),
            _ => error,
        })?;
        let etag = etag(&tag, &self.store, &key)?;
        let identity = Identity::Stored { etag, modified: None, told_at };
        Ok(FileInfo { level, range, size, created_at: timestamp, identity })
    }

    fn make_durable(&self, _: Level) -> Result<()> {
        Ok(())
    }

    fn stat(&self, level: Level, range: TxidRange) -> Result<Option<FileInfo>> {
        let key = self.key(level, range);
        let Some(answer) = self.store.head(&key)? else { return Ok(None) };
        let modified = answer.header("last-modified").and_then(http_date);
        let stamp = answer.header(TIMESTAMP).and_then(Timestamp::parse);
        let size = answer.header("content-length").and_then(|text| text.parse().ok());
        let (Some(size), Some(modified)) = (size, modified) else {
            return Err(Error::corrupt(format!(
                "{}/{key}: the store tells neither size nor time",
                self.store
            )));
        };
        let etag = etag(answer.header("etag").unwrap_or_default(), &self.store, &key)?;
        let identity = Identity::Stored { etag, modified: Some(modified), told_at: None };
        Ok(Some(FileInfo { level, range, size, created_at: stamp.unwrap_or(modified), identity }))
    }

    fn objects(&self) -> Option<&dyn Objects> {
        Some(self)
    }

    fn leases(&self) -> Option<&(dyn Leases + Sync)> {
        Some(self)
    }

    fn delete(&self, file: &FileInfo) -> Result<()> {
        let key = self.key(file.level, file.range);
        let Some(found) = self.stat(file.level, file.range)? else { return Ok(()) };
        let Identity::Stored { etag, .. } = found.identity else {
            unreachable!("BUG: just read from the store")
        };
        if !found.same_object(file) {
            return Err(Error::conflict(format!("{}/{key} is another object than was listed", self.store)));
        }
        match self.store.delete(&key, etag.as_str()) {
            Err(error) if error.kind() == Kind::NotFound => Ok(()),
            // Some stores answer so for a key that is free.
            Err(error) if error.kind() == Kind::Exists => match self.stat(file.level, file.range)? {
                None => Ok(()),
                Some(_) => Err(Error::conflict(format!("{}/{key} was made anew: list again", self.store))),
            },
            other => other,
        }
    }
}

impl Objects for S3Replica {
    fn list_below(&self, folder: &str) -> Result<Vec<ObjectInfo>> {
        let (objects, told_at) = self.store.list(&format!("{}/{folder}/", self.prefix))?;
        let below = |key: &str| Some(key.strip_prefix(&self.prefix)?.strip_prefix('/')?.to_owned());
        let mut found = Vec::new();
        for Listed { key, size, etag: tag, modified } in objects {
            let etag = etag(&tag, &self.store, &key)?;
            let identity = Identity::Stored { etag, modified: Some(seconds(modified)), told_at };
            let name = below(&key);
            found.extend(name.map(|name| ObjectInfo { name, size, created_at: modified, identity }));
        }
        found.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(found)
    }

    fn read(&self, object: &ObjectInfo) -> Result<Box<dyn Read + Send>> {
        let key = format!("{}/{}", self.prefix, object.name);
        let Identity::Stored { etag, .. } = object.identity else {
            return Err(Error::conflict(format!("{}/{key} was not listed here", self.store)));
        };
        Ok(Box::new(Object::open(Arc::clone(&self.store), key, etag, object.size)?))
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;
    use crate::error::Kind;
    use crate::replica::{conformance, lease_conformance};

    /// Needs a server: each check has a prefix of its own below that of the URL.
    #[test]
    #[ignore = "run by python-tests/test_s3.py with the URL of an empty place in its environment"]
    fn obeys_the_contract_of_every_store() {
        let url = std::env::var("S3_CONTRACT_URL").unwrap();
        let (place, parameters) = url.split_once('?').unwrap();
        for (name, check) in conformance::SUITE {
            println!("{name}");
            check(&*Config::from_environment().replica(&format!("{place}/{name}?{parameters}")).unwrap());
        }
        for (name, check) in lease_conformance::SUITE {
            println!("{name}");
            let client = Config::from_environment().replica(&format!("{place}/{name}?{parameters}")).unwrap();
            check(client.leases().unwrap());
        }
    }

    /// Needs a server that takes a put whose condition does not hold.
    #[test]
    #[ignore = "run by python-tests/test_s3_probe.py with the URL of an empty place in its environment"]
    fn refuses_leases_where_conditions_are_ignored() {
        let url = std::env::var("S3_CONTRACT_URL").unwrap();
        let client = Config::from_environment().replica(&url).unwrap();
        for _ in 0..2 {
            let error = client.leases().unwrap().create_lease(b"{}").unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid, "{error}");
            assert!(error.to_string().contains("ignores the conditions of puts"), "{error}");
            assert_eq!(client.leases().unwrap().read_lease().unwrap(), None);
        }
    }
}
