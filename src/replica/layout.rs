//! Names in a file replica: `<root>/ltx/<level>/<min>-<max>.ltx`, level in decimal; and the URL of the root.
//!
//! A file URL is `file:///absolute/folder`: the host part is empty, and the path is taken byte for byte, `%`
//! and `?` included.

use crate::error::{Error, Result};
use crate::ltx::name;
use crate::types::{Level, TxidRange};
use std::path::{Path, PathBuf};

/// The folder of a level.
pub fn folder(root: &Path, level: Level) -> PathBuf {
    root.join("ltx").join(level.to_string())
}

/// The path of a file.
pub fn path(root: &Path, level: Level, range: TxidRange) -> PathBuf {
    folder(root, level).join(name::format(range))
}

/// The folder a replica URL names.
///
/// # Errors
/// `Invalid` with the URL and what is allowed.
pub fn parse_url(url: &str) -> Result<PathBuf> {
    let refused =
        |why: &str| Error::invalid(format!("replica URL {url:?}: {why}; allowed is file:///absolute/folder"));
    let Some(path) = url.strip_prefix("file://") else {
        return Err(match url.split_once("://") {
            Some((scheme, _)) => refused(&format!("scheme {scheme:?} is not supported")),
            None => refused("not a URL"),
        });
    };
    if !path.starts_with('/') {
        return Err(refused("the part before the path must be empty"));
    }
    if path.contains('\0') {
        return Err(refused("the path holds a zero byte"));
    }
    Ok(PathBuf::from(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::types::Txid;

    #[test]
    fn path_has_decimal_level_and_hex_range() {
        let range = TxidRange::one(Txid::new(10).unwrap());
        let path = path(Path::new("/r"), Level::SNAPSHOT, range);
        assert_eq!(path, Path::new("/r/ltx/9/000000000000000a-000000000000000a.ltx"));
    }

    #[test]
    fn file_url_is_taken_byte_for_byte() {
        for path in ["/backup/app", "/a b/%20?x=1#y", "/ä"] {
            assert_eq!(parse_url(&format!("file://{path}")).unwrap(), Path::new(path));
        }
    }

    #[test]
    fn other_urls_are_refused_with_what_is_allowed() {
        for url in [
            "",
            "/backup",
            "s3://bucket/x",
            "file:/x",
            "file://host/x",
            "file://",
            "FILE:///x",
            "file:///a\0b",
        ] {
            let error = parse_url(url).unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid);
            assert!(error.to_string().contains("allowed is file:///absolute/folder"), "{error}");
        }
    }
}
