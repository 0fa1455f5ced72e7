//! The object that says who may write: `lock.json`, as Litestream has it, and what else we keep in it.
//!
//! ```text
//! {"generation":7,                                the epoch, from 1
//!  "expires_at":"2026-11-21T10:00:30.000Z",       RFC 3339; 1970 began: handed back
//!  "owner":"web-1:4711",                          host and process, pid-4711 without a host
//!  "id":"0123456789abcdef",                       ours: drawn anew by each holder, so that two of one name are not one
//!  "url":"http://web-1:8080"}                     ours: where others reach the holder, if it says so
//! ```
//!
//! Litestream hands a lease back by deleting its object, after which generations begin anew. An epoch that comes again is no
//! token, so ours is handed back by letting it end: any reader takes it over with the next generation. Fields
//! that are not known are passed over; an object that is larger than any holder
//! writes, or is no such text, is an error, because whoever
//! took it for a free lease would write beside its holder.
//!
//! Source: Litestream 0.5, `lock.json` of its S3 client.

use std::fmt;

use crate::error::{Error, Result};
use crate::replica::LEASE_BYTES_MAX as BYTES_MAX;
use crate::types::{Epoch, Timestamp};
use serde_json::{Value, json};

/// Characters of a name or a URL that are kept.
const TEXT_MAX: usize = 1024;
/// A lease with this end was handed back.
const HANDED_BACK: Timestamp = Timestamp(0);

/// Who holds a lease, as others see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// `None`: another program's.
    pub id: Option<u64>,
    /// Empty: not known.
    pub host: String,
    pub process: Option<u32>,
    /// Where it can be reached, as it says.
    pub url: Option<String>,
}

impl Holder {
    /// This process. `id`: drawn at random for each holder. What cannot be shown is left out of the texts.
    pub fn new(id: u64, host: &str, process: u32, url: Option<&str>) -> Holder {
        let url = url.map(shown).filter(|url| !url.is_empty());
        Holder { id: Some(id), host: shown(host), process: Some(process), url }
    }

    /// The same under a name of its own.
    pub fn named(id: u64, owner: &str, url: Option<&str>) -> Holder {
        let (host, process) = Holder::of_owner(&shown(owner));
        Holder { host, process, ..Holder::new(id, "", 0, url) }
    }

    /// As the object names it.
    pub fn owner(&self) -> String {
        match self.process {
            Some(process) if self.host.is_empty() => format!("pid-{process}"),
            Some(process) => format!("{}:{process}", self.host),
            None => self.host.clone(),
        }
    }

    /// Takes [`Holder::owner`] apart.
    fn of_owner(owner: &str) -> (String, Option<u32>) {
        if let Some(process) = owner.strip_prefix("pid-").and_then(|process| process.parse().ok()) {
            return (String::new(), Some(process));
        }
        match owner.rsplit_once(':').map(|(host, process)| (host, process.parse())) {
            Some((host, Ok(process))) => (host.to_owned(), Some(process)),
            _ => (owner.to_owned(), None),
        }
    }
}

/// `web-1:4711 at http://web-1:8080`.
impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let owner = self.owner();
        f.write_str(if owner.is_empty() { "somebody without a name" } else { &owner })?;
        self.url.as_ref().map_or(Ok(()), |url| write!(f, " at {url}"))
    }
}

/// Without what would spoil a message, and not too long.
fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(TEXT_MAX).collect()
}

/// The right to write, until its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    pub epoch: Epoch,
    /// By the clock of the holder.
    pub expires_at: Timestamp,
    pub holder: Holder,
}

impl Lease {
    /// The same, handed back: anybody may take it over at once.
    #[must_use]
    pub fn handed_back(&self) -> Lease {
        Lease { expires_at: HANDED_BACK, ..self.clone() }
    }

    pub fn is_handed_back(&self) -> bool {
        self.expires_at <= HANDED_BACK
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut object = json!({
            "generation": self.epoch.get(),
            "expires_at": self.expires_at.to_string(),
            "owner": self.holder.owner(),
        });
        if let Some(id) = self.holder.id {
            object["id"] = format!("{id:016x}").into();
        }
        if let Some(url) = &self.holder.url {
            object["url"] = url.as_str().into();
        }
        object.to_string().into_bytes()
    }

    /// # Errors
    /// `Corrupt`, with what is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Lease> {
        parse(bytes).map_err(|why| {
            Error::corrupt(format!(
                "the lease cannot be read: {why}; if nobody holds it, delete lock.json and all lock.*.json"
            ))
        })
    }
}

fn parse(bytes: &[u8]) -> Result<Lease, String> {
    if bytes.len() > BYTES_MAX {
        return Err(format!("more than {BYTES_MAX} bytes"));
    }
    let value: Value = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    let text = |name: &str| value.get(name).and_then(Value::as_str);
    let epoch = value.get("generation").and_then(Value::as_u64).and_then(Epoch::new);
    let epoch = epoch.ok_or("generation is no number from 1")?;
    let expires_at = text("expires_at").and_then(Timestamp::parse).ok_or("expires_at is no time")?;
    let (host, process) = Holder::of_owner(&shown(text("owner").unwrap_or_default()));
    let id = text("id").filter(|id| id.len() == 16).and_then(|id| u64::from_str_radix(id, 16).ok());
    let url = text("url").map(shown).filter(|url| !url.is_empty());
    Ok(Lease { epoch, expires_at, holder: Holder { id, host, process, url } })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::ltx::sample::Random;

    fn lease() -> Lease {
        let holder = Holder::new(0x1234, "web-1", 4711, Some("http://web-1:8080"));
        let expires_at = Timestamp::parse("2026-11-21T10:00:30.250Z").unwrap();
        Lease { epoch: Epoch::new(7).unwrap(), expires_at, holder }
    }

    #[test]
    fn litestream_reads_generation_expiry_and_owner() {
        let value: Value = serde_json::from_slice(&lease().bytes()).unwrap();
        assert_eq!(value["generation"], 7);
        assert_eq!(value["expires_at"], "2026-11-21T10:00:30.250Z");
        assert_eq!(value["owner"], "web-1:4711");
        let nameless = Lease { holder: Holder::new(1, "", 12, None), ..lease() };
        let value: Value = serde_json::from_slice(&nameless.bytes()).unwrap();
        assert_eq!((value["owner"].as_str(), value.get("url")), (Some("pid-12"), None));
    }

    #[test]
    fn what_is_written_is_read() {
        let bare = Holder { id: None, host: String::new(), process: None, url: None };
        let holders = [
            lease().holder,
            Holder::new(u64::MAX, "", 1, None),
            Holder::new(0, "::1", 0, Some("a\u{7}b")),
            Holder { host: "x".repeat(9), ..bare.clone() },
            bare,
        ];
        for holder in holders {
            let lease = Lease { holder, ..lease() };
            assert_eq!(Lease::parse(&lease.bytes()).unwrap(), lease);
            let back = Lease::parse(&lease.handed_back().bytes()).unwrap();
            assert!(back.is_handed_back() && back.epoch == lease.epoch && !lease.is_handed_back());
        }
    }

    #[test]
    fn what_litestream_writes_is_read_and_more_is_passed_over() {
        let text = br#"{"generation":3,"expires_at":"2026-11-21T11:00:30.123456789+01:00","owner":"db:9","etag":{"x":[1]}}"#;
        let lease = Lease::parse(text).unwrap();
        assert_eq!(lease.expires_at, Timestamp::parse("2026-11-21T10:00:30.123Z").unwrap());
        assert_eq!((lease.epoch.get(), lease.holder.to_string().as_str()), (3, "db:9"));
        let bare = Lease::parse(br#"{"generation":1,"expires_at":"2026-11-21T10:00:30Z"}"#).unwrap();
        assert_eq!(bare.holder.to_string(), "somebody without a name");
    }

    #[test]
    fn what_is_no_lease_is_an_error_with_its_reason() {
        let long = format!(
            r#"{{"generation":1,"expires_at":"2026-11-21T10:00:30Z","owner":"{}"}}"#,
            "x".repeat(BYTES_MAX)
        );
        for (text, why) in [
            ("", "EOF"),
            ("[]", "generation"),
            (r#"{"generation":0,"expires_at":"2026-11-21T10:00:30Z"}"#, "generation"),
            (r#"{"generation":-1,"expires_at":"2026-11-21T10:00:30Z"}"#, "generation"),
            (r#"{"generation":9223372036854775808,"expires_at":"2026-11-21T10:00:30Z"}"#, "generation"),
            (r#"{"generation":"1","expires_at":"2026-11-21T10:00:30Z"}"#, "generation"),
            (r#"{"generation":1,"expires_at":1}"#, "expires_at"),
            (r#"{"generation":1}"#, "expires_at"),
            (&"[".repeat(60_000), "recursion"),
            (&long, "more than"),
        ] {
            let error = Lease::parse(text.as_bytes()).unwrap_err();
            assert!(error.kind() == Kind::Corrupt && error.to_string().contains(why), "{error}");
        }
    }

    #[test]
    fn hostile_texts_are_bounded_and_no_bytes_bring_it_down() {
        let long = "\u{1}ä".repeat(2000);
        let text = json!({"generation": 1, "expires_at": "2026-11-21T10:00:30Z", "owner": long, "url": long});
        let holder = Lease::parse(text.to_string().as_bytes()).unwrap().holder;
        assert!(holder.to_string().chars().count() < 2 * TEXT_MAX + 10);
        assert!(!holder.to_string().contains('\u{1}'));
        for seed in 0..20_000 {
            let mut random = Random::new(seed);
            let mut bytes = lease().bytes();
            for _ in 0..=random.below(3) {
                let at = random.below(bytes.len() as u64) as usize;
                match random.below(3) {
                    0 => bytes[at] = random.below(256) as u8,
                    1 => bytes.truncate(at.max(1)),
                    _ => bytes.insert(at, random.below(256) as u8),
                }
            }
            if let Ok(lease) = Lease::parse(&bytes) {
                assert_eq!(Lease::parse(&lease.bytes()).unwrap(), lease, "seed {seed}");
            }
        }
    }
}
