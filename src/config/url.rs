//! Where a replica is: `file:///abs/dir` ([`crate::replica::layout`]), in the words of a setting.
//!
//! A scheme whose part is not built yet is told apart from one that nobody will ever understand.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::replica::layout::{self, BadUrl};

/// What may stand in a replica setting, for error texts.
pub use crate::replica::layout::ALLOWED;

/// A parsed replica URL.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ReplicaUrl {
    /// A folder, absolute, without trailing slash.
    File(PathBuf),
}

impl ReplicaUrl {
    /// # Errors
    /// What is wrong with it, as the end of a sentence that names the setting and its value.
    pub fn parse(url: &[u8]) -> Result<ReplicaUrl, String> {
        layout::parse_url(url).map(ReplicaUrl::File).map_err(|why| match why {
            BadUrl::NoUrl if url.is_empty() => format!("is empty; allowed: {ALLOWED}"),
            BadUrl::NoUrl if url.starts_with(b"/") => {
                format!("is no URL (a folder is written file:///...); allowed: {ALLOWED}")
            }
            BadUrl::NoUrl => format!("is no URL; allowed: {ALLOWED}"),
            BadUrl::Scheme(scheme) if scheme == "s3" => {
                format!("needs a part that is not built yet; allowed in this version: {ALLOWED}")
            }
            BadUrl::Scheme(_) => format!("has an unsupported scheme; allowed: {ALLOWED}"),
            BadUrl::Nul | BadUrl::NoSlashes | BadUrl::Host | BadUrl::Root => {
                format!("{why}; allowed: {ALLOWED}")
            }
        })
    }

    /// The folder of a file replica.
    pub fn folder(&self) -> &Path {
        match self {
            ReplicaUrl::File(folder) => folder,
        }
    }
}

impl fmt::Display for ReplicaUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReplicaUrl::File(folder) => write!(f, "file://{}", folder.display()),
        }
    }
}

/// A replica URL fit for a message: name and password in front of a host are left out, control characters are
/// escaped, and no more than 300 characters are shown.
pub fn show(value: &[u8]) -> String {
    let text = String::from_utf8_lossy(value);
    let text = match text.split_once("://") {
        Some((scheme, rest)) => {
            let host_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            match rest[..host_end].rfind('@') {
                Some(at) => format!("{scheme}://***{}", &rest[at..]),
                None => text.into_owned(),
            }
        }
        None => text.into_owned(),
    };
    let mut shown: String = text.chars().take(300).flat_map(escape_control).collect();
    if text.chars().count() > 300 {
        shown.push_str("...");
    }
    shown
}

fn escape_control(c: char) -> Vec<char> {
    if c.is_control() { c.escape_default().collect() } else { vec![c] }
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
            (b"s3://bucket/prefix", "needs a part that is not built yet"),
            (b"gs://bucket/prefix", "has an unsupported scheme"),
            (b"http://host/x", "has an unsupported scheme"),
        ] {
            let text = ReplicaUrl::parse(url).unwrap_err();
            assert!(text.starts_with(reason) && text.ends_with(ALLOWED), "{text}");
        }
    }

    #[test]
    fn shows_no_password_and_no_control_character() {
        assert_eq!(show(b"s3://key:secret@bucket/p"), "s3://***@bucket/p");
        assert_eq!(show(b"file:///a@b\n"), "file:///a@b\\n");
        assert_eq!(show(&[b'x'; 400]).len(), 303);
    }
}
