//! One bucket of a store: puts, gets, listings and deletes of objects by key, each signed.
//!
//! What changes something is tried once: a repetition would be refused, and only who asked can tell what that means. A
//! look is tried again a few times when it broke off quickly, or the store asks to slow down.
//!
//! What a refusal means is decided here, with what a person can do about it. Every request carries its length and the
//! hash of its body, and none asks to be continued: every store that was tried accepts that.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Session;
use super::answer::{self, Fault, Listed};
use super::endpoint::Endpoint;
use super::http::Answer;
use super::payload::Payload;
use super::sign::{self, Request};
use crate::clock::{self, Deadline};
use crate::error::{Error, Kind, Result};
use crate::types::Timestamp;

/// Pages of one listing, 1,000 objects each.
const PAGES_MAX: u32 = 100_000;
/// Objects of one listing: years of work of thousands of databases, a few GiB of memory.
const OBJECTS_MAX: usize = 10_000_000;
/// Pages in a row that hold nothing: versions and markers that were deleted may fill some.
const EMPTY_PAGES_MAX: u32 = 1_000;
/// How often a look is tried, and the pause after the first failure, which each further one doubles.
const LOOKS_MAX: u32 = 4;
const BROKE_OFF: Duration = Duration::from_millis(50);
const ASKED_TO_WAIT: Duration = Duration::from_millis(200);
/// What failed after a longer time is not tried again here: whoever waits has waited long enough.
const QUICK: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct Store {
    pub bucket: String,
    pub endpoint: Endpoint,
    pub region: String,
    pub session: Arc<Session>,
    /// No request outlives it.
    pub deadline: Option<Deadline>,
}

/// One request to be made.
struct Call<'a> {
    method: &'static str,
    key: &'a str,
    query: &'a [(&'a str, &'a str)],
    headers: Vec<(&'static str, String)>,
}

impl Store {
    /// Puts an object and answers what the store says of it. `headers`: conditions, metadata, encryption, storage class.
    ///
    /// # Errors
    /// `Exists` when a condition does not hold; `Busy` to be tried later; `Io` when no answer came.
    pub fn put(&self, key: &str, body: Payload<'_>, headers: Vec<(&'static str, String)>) -> Result<Answer> {
        self.send(&Call { method: "PUT", key, query: &[], headers }, body)
    }

    /// The bytes from `offset` on, or those in front of `end` only, of exactly the object with this ETag.
    ///
    /// # Errors
    /// `NotFound` when the key is free, `Exists` when it holds another object.
    pub fn get(&self, key: &str, etag: &str, offset: u64, end: Option<u64>) -> Result<Answer> {
        let last = end.map_or_else(String::new, |end| (end - 1).to_string());
        let headers = vec![("if-match", etag.to_owned()), ("range", format!("bytes={offset}-{last}"))];
        let call = Call { method: "GET", key, query: &[], headers };
        self.looked(|| self.call(&call))
    }

    /// Whatever object is there.
    ///
    /// # Errors
    /// `NotFound` when the key is free.
    pub fn get_whole(&self, key: &str) -> Result<Answer> {
        let call = Call { method: "GET", key, query: &[], headers: vec![] };
        self.looked(|| self.call(&call))
    }

    /// What the store says of an object; `None` when the key is free.
    ///
    /// # Errors
    /// As the store refuses.
    pub fn head(&self, key: &str) -> Result<Option<Answer>> {
        let call = Call { method: "HEAD", key, query: &[], headers: vec![] };
        match self.looked(|| self.call(&call)) {
            Err(error) if error.kind() == Kind::NotFound => Ok(None),
            other => other.map(Some),
        }
    }

    /// Deletes exactly the object with this ETag.
    ///
    /// # Errors
    /// `NotFound` or `Exists` when the key is free, by the store's taste; `Exists` when it holds another object.
    pub fn delete(&self, key: &str, etag: &str) -> Result<()> {
        let headers = vec![("if-match", etag.to_owned())];
        self.call(&Call { method: "DELETE", key, query: &[], headers }).map(drop)
    }

    /// Every object whose key begins so, in the store's order, and the store's clock when it began.
    ///
    /// # Errors
    /// `NotFound` for a missing bucket; `Corrupt` for what is no listing, or one that does not come to an end.
    pub fn list(&self, prefix: &str) -> Result<(Vec<Listed>, Option<Timestamp>)> {
        let (mut objects, mut began) = (Vec::new(), None);
        let mut next: Option<String> = None;
        let mut empty = 0;
        for _ in 0..PAGES_MAX {
            let mut query = vec![("list-type", "2"), ("prefix", prefix)];
            query.extend(next.as_deref().map(|token| ("continuation-token", token)));
            let call = Call { method: "GET", key: "", query: &query, headers: vec![] };
            let (date, text) = self.looked(|| {
                let answer = self.call(&call)?;
                Ok((answer.date(), answer.text()?))
            })?;
            began = began.or(date);
            let page = answer::listing(&text)?;
            empty = if page.objects.is_empty() { empty + 1 } else { 0 };
            objects.extend(page.objects);
            if page.next.is_none() {
                return Ok((objects, began));
            }
            let goes_on = page.next != next && empty < EMPTY_PAGES_MAX && objects.len() < OBJECTS_MAX;
            if !goes_on {
                break;
            }
            next = page.next;
        }
        Err(Error::corrupt(format!(
            "the store's listing of {self}/{prefix} does not come to an end: {} objects so far",
            objects.len()
        )))
    }

    fn looked<T>(&self, look: impl Fn() -> Result<T>) -> Result<T> {
        for tries in 0.. {
            let began = Instant::now();
            let looked = look();
            let pause = match &looked {
                Err(error) if error.kind() == Kind::Io => BROKE_OFF,
                Err(error) if error.kind() == Kind::Busy => ASKED_TO_WAIT,
                _ => return looked,
            } * (1 << tries);
            let is_late = self.deadline.is_some_and(|deadline| deadline.remaining() <= pause);
            if tries + 1 == LOOKS_MAX || began.elapsed() > QUICK || is_late {
                return looked;
            }
            clock::pause(pause);
        }
        unreachable!("BUG: the last look returns")
    }

    /// Begins an object in parts; answers the upload's name.
    ///
    /// # Errors
    /// As [`Store::put`].
    pub fn begin_parts(&self, key: &str, headers: Vec<(&'static str, String)>) -> Result<String> {
        let call = Call { method: "POST", key, query: &[("uploads", "")], headers };
        let text = self.call(&call)?.text()?;
        answer::element(&text, "UploadId")
            .ok_or_else(|| Error::corrupt(format!("{self}/{key}: the store names no upload")))
    }

    /// Puts one part, numbered from 1; answers its ETag.
    ///
    /// # Errors
    /// As [`Store::put`].
    pub fn put_part(&self, key: &str, upload: &str, number: u32, body: Payload<'_>) -> Result<String> {
        let number = number.to_string();
        let query = [("partNumber", number.as_str()), ("uploadId", upload)];
        let answer = self.send(&Call { method: "PUT", key, query: &query, headers: vec![] }, body)?;
        let etag = answer.header("etag").map(str::to_owned);
        etag.ok_or_else(|| Error::corrupt(format!("{self}/{key}: the store names no ETag for a part")))
    }

    /// Makes the object of its parts; answers its ETag.
    ///
    /// # Errors
    /// As [`Store::put`].
    pub fn finish_parts(
        &self,
        key: &str,
        upload: &str,
        etags: &[String],
        headers: Vec<(&'static str, String)>,
    ) -> Result<String> {
        let mut xml = String::from("<CompleteMultipartUpload>");
        for (number, etag) in (1..).zip(etags) {
            let etag = quick_xml::escape::escape(etag);
            xml.push_str(&format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>"));
        }
        xml.push_str("</CompleteMultipartUpload>");
        let query = [("uploadId", upload)];
        let call = Call { method: "POST", key, query: &query, headers };
        // A store that keeps the connection alive while it works has said 200 before it knew.
        let text = self.send(&call, Payload::Bytes(xml.as_bytes()))?.text()?;
        let refusal = || self.refusal(&call, 200, &answer::fault(&text), &Hints::default());
        answer::element(&text, "ETag").ok_or_else(refusal)
    }

    /// Gives up an object in parts.
    ///
    /// # Errors
    /// As the store refuses; its parts then wait for the bucket's own cleaning.
    pub fn abort_parts(&self, key: &str, upload: &str) -> Result<()> {
        let query = [("uploadId", upload)];
        self.call(&Call { method: "DELETE", key, query: &query, headers: vec![] }).map(drop)
    }

    fn call(&self, call: &Call<'_>) -> Result<Answer> {
        self.send(call, Payload::Bytes(&[]))
    }

    fn send(&self, call: &Call<'_>, mut body: Payload<'_>) -> Result<Answer> {
        let keys = self.session.credentials.keys(&self.session.http)?;
        let path = self.endpoint.path(call.key);
        let (host, body_sha256) = (self.endpoint.host(), &body.sha256()?);
        let request = Request {
            method: call.method,
            host,
            path: &path,
            query: call.query,
            headers: &call.headers,
            body_sha256,
        };
        let mut headers = call.headers.clone();
        headers.extend(sign::sign(&request, &keys, &self.region, clock::now()));
        let url = self.endpoint.url(&path, &sign::query(call.query));
        let within = self.deadline.map(Deadline::remaining);
        let answer = self.session.http.send(call.method, &url, &headers, body, within)?;
        if (200..300).contains(&answer.status) {
            return Ok(answer);
        }
        let status = answer.status;
        let hints = Hints {
            region: answer.header("x-amz-bucket-region").map(str::to_owned),
            date: answer.header("date").map(str::to_owned),
        };
        // What cannot be read says no more than its status.
        let fault = answer::fault(&answer.text().unwrap_or_default());
        Err(self.refusal(call, status, &fault, &hints))
    }

    fn refusal(&self, call: &Call<'_>, status: u16, fault: &Fault, hints: &Hints) -> Error {
        let region = hints.region.as_deref().filter(|region| *region != self.region);
        let (kind, why) = match (status, fault.code.as_str()) {
            (_, "NoSuchBucket") => {
                (Kind::NotFound, format!("there is no bucket {} at {}", self.bucket, self.endpoint.host()))
            }
            (404, _) => (Kind::NotFound, "there is no such object".into()),
            (412, _) => (Kind::Exists, "the name holds another object".into()),
            (301 | 307 | 400 | 403, _) if region.is_some() => {
                let region = region.unwrap_or_default();
                (Kind::Invalid, format!("the bucket is in region {region}: set replica_region or AWS_REGION"))
            }
            (
                _,
                "AuthorizationHeaderMalformed" | "PermanentRedirect" | "IllegalLocationConstraintException",
            ) => (
                Kind::Invalid,
                format!("{}; region {} is wrong: set replica_region", fault.message, self.region),
            ),
            (_, "InvalidAccessKeyId") => {
                (Kind::Invalid, "the store does not know this access key: check the credentials".into())
            }
            (_, "SignatureDoesNotMatch") => {
                (Kind::Invalid, "the secret key is wrong, or something on the way changes requests".into())
            }
            (_, "ExpiredToken" | "TokenRefreshRequired" | "InvalidToken") => {
                self.session.credentials.refused();
                (Kind::Invalid, "the session token has ended: renew the credentials".into())
            }
            (_, "RequestTimeTooSkewed") => {
                let theirs = hints.date.as_deref().unwrap_or("another time");
                let ours = clock::now();
                (
                    Kind::Invalid,
                    format!("this machine's clock says {ours}, the store's {theirs}: set it right"),
                )
            }
            (403, _) => (Kind::Invalid, format!("not allowed: {}", said(status, fault))),
            (501, _) | (_, "NotImplemented") => {
                (Kind::Invalid, format!("the store cannot do this: {}", said(status, fault)))
            }
            (409 | 429 | 500.., _) | (_, "SlowDown" | "RequestTimeout" | "InternalError") => {
                (Kind::Busy, format!("try again later: {}", said(status, fault)))
            }
            _ => (Kind::Io, said(status, fault)),
        };
        let prefix = call.query.iter().find(|(name, _)| *name == "prefix").map_or("", |(_, prefix)| prefix);
        let place = if call.key.is_empty() { prefix } else { call.key };
        Error::new(kind, format!("cannot {} {self}/{place}: {why}", verb(call)))
    }
}

/// What a refusal says beside its body.
#[derive(Default)]
struct Hints {
    region: Option<String>,
    date: Option<String>,
}

fn verb(call: &Call<'_>) -> &'static str {
    match call.method {
        "GET" if call.key.is_empty() => "list",
        "GET" => "read",
        "HEAD" => "look at",
        "DELETE" => "delete",
        _ => "write",
    }
}

fn said(status: u16, fault: &Fault) -> String {
    if fault.code.is_empty() {
        return format!("the store answers {status}");
    }
    format!("{} ({status} {})", fault.message, fault.code)
}

/// `s3://bucket`.
impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}", self.bucket)
    }
}
