//! Names in a file replica: `<root>/ltx/<level>/<min>-<max>.ltx`, level in decimal; and the URL of the root.
//!
//! A file URL is `file:///absolute/folder`: the scheme in letters of any case, the host part empty, and the path taken
//! byte for byte, `%` and `?` included (SQLite has decoded its URI already). Any byte but NUL.

use crate::ltx::name;
use crate::types::{Level, TxidRange};
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What a replica's URL may be, for error texts.
pub const ALLOWED: &str = "file:///absolute/folder";

/// Why a text is not the URL of a file replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadUrl {
    Nul,
    NoUrl,
    /// Another scheme, in small letters.
    Scheme(String),
    NoSlashes,
    Host,
    Root,
}

impl fmt::Display for BadUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadUrl::Nul => write!(f, "holds a NUL byte"),
            BadUrl::NoUrl => write!(f, "not a URL"),
            BadUrl::Scheme(scheme) => write!(f, "scheme {scheme:?} is not supported"),
            BadUrl::NoSlashes => write!(f, "lacks the slashes of an absolute path"),
            BadUrl::Host => write!(f, "names a host, or a relative path"),
            BadUrl::Root => write!(f, "names the root folder"),
        }
    }
}

/// The folder of the levels.
pub const LTX: &str = "ltx";

/// The folder of a level.
pub fn folder(root: &Path, level: Level) -> PathBuf {
    root.join(LTX).join(level.to_string())
}

/// The path of a file.
pub fn path(root: &Path, level: Level, range: TxidRange) -> PathBuf {
    folder(root, level).join(name::format(range))
}

/// The folder that a replica URL names: absolute, without trailing slash, not the root.
///
/// # Errors
/// What is wrong with it.
pub fn parse_url(url: &[u8]) -> Result<PathBuf, BadUrl> {
    if url.contains(&0) {
        return Err(BadUrl::Nul);
    }
    let (scheme, rest) = split_scheme(url).ok_or(BadUrl::NoUrl)?;
    if !scheme.eq_ignore_ascii_case(b"file") {
        return Err(BadUrl::Scheme(String::from_utf8_lossy(scheme).to_ascii_lowercase()));
    }
    let path = rest.strip_prefix(b"//").ok_or(BadUrl::NoSlashes)?;
    if !path.starts_with(b"/") {
        return Err(BadUrl::Host);
    }
    let end = path.iter().rposition(|b| *b != b'/').ok_or(BadUrl::Root)? + 1;
    Ok(PathBuf::from(OsStr::from_bytes(&path[..end])))
}

/// The letters in front of the first colon, if they can be a scheme (RFC 3986 3.1), and what follows it.
fn split_scheme(url: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = url.iter().position(|b| *b == b':')?;
    let (scheme, rest) = (&url[..colon], &url[colon + 1..]);
    let valid = scheme.first().is_some_and(u8::is_ascii_alphabetic)
        && scheme.iter().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(b));
    valid.then_some((scheme, rest))
}

/// A URL, or what somebody took for one, fit for a message: name and password in front of a host and what a store's URL has
/// behind the question mark are left out, control characters are escaped, and no more than 300 characters are shown.
pub fn show(value: &[u8]) -> String {
    const SHOWN_MAX: usize = 300;
    let text = String::from_utf8_lossy(value);
    let (scheme, rest) = text.split_once("://").map_or(("", &*text), |(scheme, rest)| (scheme, rest));
    let is_path = scheme.eq_ignore_ascii_case("file") || (scheme.is_empty() && rest.starts_with('/'));
    let text = if is_path {
        text.into_owned()
    } else {
        let (rest, cut) = rest.split_once('?').map_or((rest, ""), |(rest, _)| (rest, "?..."));
        // A secret key may hold slashes: whatever stands in front of the last of these may be one.
        let rest = rest.rsplit_once('@').map_or(rest.to_owned(), |(_, host)| format!("***@{host}"));
        let slashes = if scheme.is_empty() { "" } else { "://" };
        format!("{scheme}{slashes}{rest}{cut}")
    };
    let mut shown: String = text.chars().take(SHOWN_MAX).flat_map(escape_control).collect();
    if text.chars().count() > SHOWN_MAX {
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
    use crate::types::Txid;

    #[test]
    fn path_has_decimal_level_and_hex_range() {
        let range = TxidRange::one(Txid::new(10).unwrap());
        let path = path(Path::new("/r"), Level::SNAPSHOT, range);
        assert_eq!(path, Path::new("/r/ltx/9/000000000000000a-000000000000000a.ltx"));
    }

    #[test]
    fn file_url_is_taken_byte_for_byte() {
        for (url, folder) in [
            (&b"file:///backup/app"[..], &b"/backup/app"[..]),
            (b"FILE:///a/", b"/a"),
            (b"file:///a b/%20?x=1#y", b"/a b/%20?x=1#y"),
            (b"file:///\xff\xfe", b"/\xff\xfe"),
        ] {
            assert_eq!(parse_url(url).unwrap().as_os_str().as_bytes(), folder);
        }
    }

    #[test]
    fn other_urls_are_refused_with_their_reason() {
        for (url, why) in [
            (&b""[..], BadUrl::NoUrl),
            (b"/backup", BadUrl::NoUrl),
            (b"S3://bucket/x", BadUrl::Scheme("s3".to_owned())),
            (b"file:/x", BadUrl::NoSlashes),
            (b"file://host/x", BadUrl::Host),
            (b"file://", BadUrl::Host),
            (b"file:///", BadUrl::Root),
            (b"file:///a\0b", BadUrl::Nul),
        ] {
            assert_eq!(parse_url(url).unwrap_err(), why);
        }
    }
}
