//! Where a replica is: `file:///abs/dir`.
//!
//! The path is taken byte for byte: no percent-decoding (SQLite has decoded its URI already), any byte but NUL.
//! A scheme whose part is not built yet is told apart from one that nobody will ever understand.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What may stand in a replica setting, for error texts.
pub const ALLOWED: &str = "file:///absolute/folder";

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
        if url.is_empty() {
            return Err(format!("is empty; allowed: {ALLOWED}"));
        }
        if url.contains(&0) {
            return Err(format!("holds a NUL byte; allowed: {ALLOWED}"));
        }
        let Some((scheme, rest)) = split_scheme(url) else {
            let hint = if url.starts_with(b"/") { " (a folder is written file:///...)" } else { "" };
            return Err(format!("is no URL{hint}; allowed: {ALLOWED}"));
        };
        match scheme.to_ascii_lowercase().as_slice() {
            b"file" => parse_file(rest),
            b"s3" => Err(format!("needs a part that is not built yet; allowed in this version: {ALLOWED}")),
            _ => Err(format!("has an unsupported scheme; allowed: {ALLOWED}")),
        }
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

/// The letters in front of the first colon, if they can be a scheme (RFC 3986 3.1), and what follows it.
fn split_scheme(url: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = url.iter().position(|b| *b == b':')?;
    let (scheme, rest) = (&url[..colon], &url[colon + 1..]);
    let valid = scheme.first().is_some_and(u8::is_ascii_alphabetic)
        && scheme.iter().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(b));
    valid.then_some((scheme, rest))
}

fn parse_file(rest: &[u8]) -> Result<ReplicaUrl, String> {
    let Some(path) = rest.strip_prefix(b"//") else {
        return Err(format!("lacks the slashes of an absolute path; allowed: {ALLOWED}"));
    };
    if !path.starts_with(b"/") {
        return Err(format!("names a host, or a relative path; allowed: {ALLOWED}"));
    }
    let end = path.iter().rposition(|b| *b != b'/').map_or(0, |last| last + 1);
    if end == 0 {
        return Err(format!("names the root folder; allowed: {ALLOWED}"));
    }
    Ok(ReplicaUrl::File(PathBuf::from(OsStr::from_bytes(&path[..end]))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_a_folder_byte_for_byte() {
        for (url, folder) in [
            (&b"file:///backup/app"[..], &b"/backup/app"[..]),
            (b"FILE:///a/", b"/a"),
            (b"file:///a%20b?x=y#z", b"/a%20b?x=y#z"),
            (b"file:///\xff\xfe", b"/\xff\xfe"),
        ] {
            assert_eq!(ReplicaUrl::parse(url).unwrap().folder().as_os_str().as_bytes(), folder);
        }
    }

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
