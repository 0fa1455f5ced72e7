//! Where a replica is: `file:///abs/dir` ([`crate::replica::layout`]) or `s3://bucket/prefix[?name=value&...]`
//! ([`crate::replica::s3`]).

use std::fmt;
use std::path::PathBuf;

use super::setting;
use crate::replica::layout::{self, BadUrl};
use crate::replica::s3::{Options, Place};

/// What may stand in a replica setting, for error texts.
pub const ALLOWED: &str = "file:///absolute/folder or s3://bucket/prefix";

/// A parsed replica URL.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ReplicaUrl {
    /// A folder, absolute, without trailing slash.
    File(PathBuf),
    /// A place in a store, and what the URL itself says of the store.
    Bucket(Place, Options),
}

impl ReplicaUrl {
    /// # Errors
    /// What is wrong with it, as the end of a sentence that names the setting and its value.
    pub fn parse(url: &[u8]) -> Result<ReplicaUrl, String> {
        layout::parse_url(url).map(ReplicaUrl::File).or_else(|why| match why {
            BadUrl::NoUrl if url.is_empty() => Err(format!("is empty; allowed: {ALLOWED}")),
            BadUrl::NoUrl if url.starts_with(b"/") => {
                Err(format!("is no URL (a folder is written file:///...); allowed: {ALLOWED}"))
            }
            BadUrl::NoUrl => Err(format!("is no URL; allowed: {ALLOWED}")),
            BadUrl::Scheme(scheme) if scheme == "s3" => bucket(&url[scheme.len() + 1..]),
            BadUrl::Scheme(_) => Err(format!("has an unsupported scheme; allowed: {ALLOWED}")),
            BadUrl::Nul | BadUrl::NoSlashes | BadUrl::Host | BadUrl::Root => {
                Err(format!("{why}; allowed: {ALLOWED}"))
            }
        })
    }
}

/// Takes what follows `s3:`.
fn bucket(rest: &[u8]) -> Result<ReplicaUrl, String> {
    let rest = rest.strip_prefix(b"//").ok_or_else(|| format!("lacks the slashes; allowed: {ALLOWED}"))?;
    let (place, parameters) = Place::parse(rest).map_err(|why| format!("{why}; allowed: {ALLOWED}"))?;
    let mut options = Options::default();
    for (name, value) in parameters {
        setting::take_store_parameter(&mut options, &name, &value)?;
    }
    Ok(ReplicaUrl::Bucket(place, options))
}

impl fmt::Display for ReplicaUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReplicaUrl::File(folder) => write!(f, "file://{}", folder.display()),
            ReplicaUrl::Bucket(place, _) => place.fmt(f),
        }
    }
}

pub use crate::replica::layout::show;

/// Words in names of settings whose values are not for messages; there are none of ours, which is why one may be tried.
const SECRETS: [&str; 6] = ["secret", "key", "token", "password", "credential", "auth"];

/// The value of what is no setting, fit for a message.
pub fn show_unknown(name: &[u8], value: &[u8]) -> String {
    let name = String::from_utf8_lossy(name).to_lowercase();
    if SECRETS.iter().any(|word| name.contains(word)) { "***".to_owned() } else { show(value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_each_bad_url_with_its_reason() {
        for (url, reason) in [
            (&b""[..], "is empty"),
            (b"file:///a\0b", "holds a NUL byte"),
            (b"/backup", "is no URL (a folder is written file:///...)"),
            (b"backup", "is no URL;"),
            (b"file:/backup", "lacks the slashes of an absolute path"),
            (b"file:backup", "lacks the slashes of an absolute path"),
            (b"file://backup/app", "names a host, or a relative path"),
            (b"file://", "names a host, or a relative path"),
            (b"file:///", "names the root folder"),
            (b"file:////", "names the root folder"),
            (b"s3:bucket/prefix", "lacks the slashes"),
            (b"s3://bucket", "needs a prefix"),
            (b"s3://key:hush@bucket/x", "has no name of a bucket"),
            (b"gs://bucket/prefix", "has an unsupported scheme"),
            (b"http://host/x", "has an unsupported scheme"),
        ] {
            let text = ReplicaUrl::parse(url).unwrap_err();
            assert!(text.starts_with(reason) && text.ends_with(ALLOWED), "{text}");
        }
    }

    #[test]
    fn parameters_of_a_store_are_checked_like_the_settings_of_their_name() {
        let parsed = ReplicaUrl::parse(
            b"S3://bucket/app/?endpoint=h&replica_region=r&forcePathStyle=true&part_size=5MiB",
        );
        let Ok(ReplicaUrl::Bucket(place, options)) = parsed else { panic!("{parsed:?}") };
        assert_eq!(place.to_string(), "s3://bucket/app");
        assert_eq!((options.endpoint.as_deref(), options.region.as_deref()), (Some("h"), Some("r")));
        assert_eq!((options.path_style, options.part_bytes), (Some(true), Some(5 << 20)));
        for (parameter, why) in [
            (
                "secret=hush-hush",
                "has a parameter 'secret' behind the question mark; allowed there: endpoint, ",
            ),
            ("interval=1s", "has a parameter 'interval'"),
            (
                "part_size=1",
                "has part_size='1' behind the question mark, which is not an allowed size; allowed",
            ),
            (
                "path_style=maybe",
                "has path_style='maybe' behind the question mark, which is neither yes nor no",
            ),
            ("region=", "has region='' behind the question mark, which is empty"),
        ] {
            let text = ReplicaUrl::parse(format!("s3://bucket/x?{parameter}").as_bytes()).unwrap_err();
            assert!(text.starts_with(why) && !text.contains("hush"), "{text}");
        }
    }

    #[test]
    fn shows_no_password_and_no_control_character() {
        assert_eq!(show(b"s3://key:secret@bucket/p"), "s3://***@bucket/p");
        assert_eq!(show(b"s3://bucket/p?secret=x"), "s3://bucket/p?...");
        assert_eq!(show(b"s3://key:secret@bucket?a=b"), "s3://***@bucket?...");
        assert_eq!(show(b"file:///a@b?c\n"), "file:///a@b?c\\n");
        assert_eq!(show(&[b'x'; 400]).len(), 303);
        assert_eq!(show(b"s3://AKIA:ab/cd+ef@bucket/p"), "s3://***@bucket/p", "keys have slashes");
        assert_eq!(show(b"s3:key:hush@bucket/p?x=y"), "***@bucket/p?...");
        assert_eq!(show(b"key:hush@bucket"), "***@bucket");
        assert_eq!(show(b"/srv/a@b?c"), "/srv/a@b?c");
        assert_eq!(show_unknown(b"replica_Secret_access", b"hush"), "***");
        assert_eq!(show_unknown(b"replica_colour", b"red"), "red");
    }
}
