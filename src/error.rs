//! One error for the whole crate, sorted by what to do next.
//!
//! Messages are lower case: verb, object, expected against found, remedy. They never hold a secret.
//! A *bug* is not an `Error` but an assertion whose text begins `BUG:`.

use std::fmt;
use std::path::Path;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What to do about an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Retry later.
    Busy,
    /// What was asked for is not there: choose again.
    NotFound,
    /// It is there already.
    Exists,
    /// A file between two others is missing: try another chain.
    Gap,
    /// Something changed under us: read again first.
    Conflict,
    /// Another writer won the name: stop writing.
    Fenced,
    /// Damaged bytes; the text names file and offset.
    Corrupt,
    /// A setting or argument is wrong: mend it.
    Invalid,
    /// Out of room: make some.
    Full,
    /// The operating system or the store refused; the text says what was tried on what.
    Io,
}

/// A fault: disk, network, peer, user or damaged bytes.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    text: String,
    source: Option<std::io::Error>,
}

impl Error {
    pub fn new(kind: Kind, text: impl Into<String>) -> Error {
        Error { kind, text: text.into(), source: None }
    }

    pub fn busy(text: impl Into<String>) -> Error {
        Error::new(Kind::Busy, text)
    }

    pub fn not_found(text: impl Into<String>) -> Error {
        Error::new(Kind::NotFound, text)
    }

    pub fn exists(text: impl Into<String>) -> Error {
        Error::new(Kind::Exists, text)
    }

    pub fn gap(text: impl Into<String>) -> Error {
        Error::new(Kind::Gap, text)
    }

    pub fn conflict(text: impl Into<String>) -> Error {
        Error::new(Kind::Conflict, text)
    }

    pub fn fenced(text: impl Into<String>) -> Error {
        Error::new(Kind::Fenced, text)
    }

    pub fn corrupt(text: impl Into<String>) -> Error {
        Error::new(Kind::Corrupt, text)
    }

    pub fn invalid(text: impl Into<String>) -> Error {
        Error::new(Kind::Invalid, text)
    }

    /// An operating system error: `verb` as in "create", and the path it was tried on.
    /// The kind follows the code: `NotFound`, `Exists`, `Full` (no space, quota), else `Io`.
    pub fn io(verb: &str, path: &Path, source: std::io::Error) -> Error {
        use std::io::ErrorKind as Os;
        let kind = match source.kind() {
            Os::NotFound => Kind::NotFound,
            Os::AlreadyExists => Kind::Exists,
            Os::StorageFull | Os::QuotaExceeded => Kind::Full,
            _ => Kind::Io,
        };
        Error { kind, text: format!("cannot {verb} {}: {source}", path.display()), source: Some(source) }
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The same error with the words of the caller in front: what was being done when it came.
    #[must_use]
    pub fn while_doing(mut self, what: impl fmt::Display) -> Error {
        self.text = format!("{what}: {}", self.text);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|e| e as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn io_kind_follows_the_code_and_text_names_verb_and_path() {
        let error = Error::io("create", Path::new("/x/y"), std::io::Error::from_raw_os_error(libc::ENOSPC));
        assert_eq!(error.kind(), Kind::Full);
        assert!(error.to_string().starts_with("cannot create /x/y: "), "{error}");
    }

    #[test]
    fn context_goes_in_front() {
        assert_eq!(Error::gap("no file").while_doing("restore").to_string(), "restore: no file");
    }
}
