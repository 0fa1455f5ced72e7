//! A replica in a bucket: `s3://bucket/prefix`, objects `<prefix>/<level in 4 hex digits>/<min>-<max>.ltx`.
//!
//! ```text
//! mod          names and promises of a replica          store       objects by key, what a refusal means
//! object       the bytes of one object, read in order   http        one request, one answer
//! credentials  whose keys                               place, endpoint, sign, answer   pure: names, signatures, XML
//! ```
//!
//! A put that the store has answered survives a loss of power: nothing is left to be made durable. Names are created
//! with `If-None-Match: *`, read with `If-Match` of the listed ETag, deleted with `If-Match`. An object made anew with
//! the same bytes has the same ETag: where it matters, the time is looked at too (rule 1 of the protocol).
//! The timestamp of a file stands in the metadata `litestream-timestamp`, as stock readers want it; a listing does not
//! show it, and has the time at which the store took the object instead.

mod answer;
mod credentials;
mod endpoint;
mod http;
mod object;
mod place;
mod sign;
mod store;

use std::io::Read;
use std::path::PathBuf;

use super::client::{Client, ReadSeek};
use crate::error::{Error, Kind, Result};
use crate::ltx::name;
use crate::types::{Etag, FileInfo, Identity, Level, Timestamp, TxidRange};
use answer::Listed;
use credentials::Credentials;
use endpoint::Endpoint;
use http::{Http, http_date};
use object::Object;
use std::sync::Arc;
use store::Store;

pub use credentials::{Container, Sources, WebIdentity};
pub use place::Place;
pub use sign::Keys;

const TIMESTAMP: &str = "x-amz-meta-litestream-timestamp";
/// Where neither a setting nor the environment says one, and what most other stores call theirs.
const REGION_DEFAULT: &str = "us-east-1";

/// How the store of a place is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    pub endpoint: Option<String>,
    pub region: Option<String>,
    pub path_style: Option<bool>,
    pub ca_bundle: Option<PathBuf>,
    /// `AES256` or `aws:kms`.
    pub sse: Option<String>,
    pub storage_class: Option<String>,
    /// Objects larger than this go up in parts of this size, each held in memory.
    pub part_bytes: usize,
    pub sources: Sources,
}

#[derive(Debug)]
pub struct S3Replica {
    url: String,
    prefix: String,
    store: Arc<Store>,
    access: Access,
}

impl S3Replica {
    /// Asks the store nothing yet.
    ///
    /// # Errors
    /// `Invalid` for an endpoint or bundle that is none.
    pub fn new(place: &Place, access: Access) -> Result<S3Replica> {
        let region = access.region.clone().unwrap_or_else(|| REGION_DEFAULT.to_owned());
        let bucket = place.bucket.clone();
        let endpoint = Endpoint::new(&bucket, &region, access.endpoint.as_deref(), access.path_style)?;
        let http = Http::new(access.ca_bundle.as_deref())?;
        let credentials = Credentials::new(access.sources.clone());
        let store = Arc::new(Store { bucket, endpoint, region, http, credentials });
        Ok(S3Replica { url: place.to_string(), prefix: place.prefix.clone(), store, access })
    }

    fn folder(&self, level: Level) -> String {
        format!("{}/{:04x}/", self.prefix, level.get())
    }

    fn key(&self, level: Level, range: TxidRange) -> String {
        self.folder(level) + &name::format(range)
    }

    /// Headers of an object's creation.
    fn labels(&self, timestamp: Timestamp) -> Vec<(&'static str, String)> {
        let mut headers =
            vec![(TIMESTAMP, timestamp.to_string()), ("content-type", "application/octet-stream".into())];
        headers.extend(self.access.sse.iter().map(|sse| ("x-amz-server-side-encryption", sse.clone())));
        headers.extend(self.access.storage_class.iter().map(|class| ("x-amz-storage-class", class.clone())));
        headers
    }

    /// Puts what is larger than one part; `body` begins with `first`.
    fn create_in_parts(
        &self,
        key: &str,
        labels: Vec<(&'static str, String)>,
        first: Vec<u8>,
        body: &mut dyn Read,
    ) -> Result<(String, u64)> {
        // The condition counts at the end: do not send gigabytes for a name that is taken already.
        if self.store.head(key)?.is_some() {
            return Err(taken(&self.store, key));
        }
        let upload = self.store.begin_parts(key, labels)?;
        let sent = self.send_parts(key, &upload, first, body);
        sent.inspect_err(|_| {
            // Best effort: what is left of it is no object, and the bucket's own rules remove it.
            let _ = self.store.abort_parts(key, &upload);
        })
    }

    fn send_parts(
        &self,
        key: &str,
        upload: &str,
        first: Vec<u8>,
        body: &mut dyn Read,
    ) -> Result<(String, u64)> {
        let (mut etags, mut part, mut size) = (Vec::new(), first, 0);
        while !part.is_empty() {
            size += part.len() as u64;
            etags.push(self.store.put_part(key, upload, etags.len() as u32 + 1, &part)?);
            part = read_part(body, self.access.part_bytes, key)?;
        }
        let absent = vec![("if-none-match", "*".to_owned())];
        Ok((self.store.finish_parts(key, upload, &etags, absent)?, size))
    }
}

fn read_part(body: &mut dyn Read, bytes: usize, key: &str) -> Result<Vec<u8>> {
    let mut part = Vec::new();
    let read = body.take(bytes as u64).read_to_end(&mut part);
    read.map_err(|e| Error::new(Kind::Io, format!("cannot read what is to become {key}: {e}")))?;
    Ok(part)
}

fn taken(store: &Store, key: &str) -> Error {
    Error::exists(format!("{store}/{key} exists already"))
}

fn etag(text: &str, store: &Store, key: &str) -> Result<Etag> {
    Etag::new(text).ok_or_else(|| {
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

    fn list(&self, level: Level) -> Result<Vec<FileInfo>> {
        let folder = self.folder(level);
        let mut files = Vec::new();
        for Listed { key, size, etag: tag, modified } in self.store.list(&folder)? {
            if let Some(range) = key.strip_prefix(&folder).and_then(name::parse) {
                let etag = etag(&tag, &self.store, &key)?;
                let identity = Identity::Stored { etag, modified: Some(seconds(modified)) };
                files.push(FileInfo { level, range, size, created_at: modified, identity });
            }
        }
        files.sort_by_key(|file| file.range);
        Ok(files)
    }

    fn open(&self, file: &FileInfo) -> Result<Box<dyn ReadSeek>> {
        let key = self.key(file.level, file.range);
        let Identity::Stored { etag, .. } = file.identity else {
            return Err(Error::conflict(format!("{}/{key} was not listed here", self.store)));
        };
        Ok(Box::new(Object::open(Arc::clone(&self.store), key, etag, file.size)?))
    }

    fn create(
        &self,
        level: Level,
        range: TxidRange,
        timestamp: Timestamp,
        body: &mut dyn Read,
    ) -> Result<FileInfo> {
        let key = self.key(level, range);
        let labels = self.labels(timestamp);
        let first = read_part(body, self.access.part_bytes, &key)?;
        let outcome = if first.len() < self.access.part_bytes {
            let mut headers = labels;
            headers.push(("if-none-match", "*".to_owned()));
            let size = first.len() as u64;
            let answer = self.store.put(&key, &first, headers);
            answer.map(|answer| (answer.header("etag").unwrap_or_default().to_owned(), size))
        } else {
            self.create_in_parts(&key, labels, first, body)
        };
        let (tag, size) = outcome.map_err(|error| match error.kind() {
            Kind::Exists => taken(&self.store, &key),
            _ => error,
        })?;
        let identity = Identity::Stored { etag: etag(&tag, &self.store, &key)?, modified: None };
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
        let identity = Identity::Stored { etag, modified: Some(modified) };
        Ok(Some(FileInfo { level, range, size, created_at: stamp.unwrap_or(modified), identity }))
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

#[cfg(test)]
mod tests {
    use crate::config::Config;
    use crate::replica::conformance;

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
    }
}
