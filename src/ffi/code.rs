//! SQLite's result codes, made and read in this one place.

use std::path::Path;

use libsqlite3_sys as sys;

use crate::error::{Error, Kind};

/// COMMIT is durable locally, but the replica has not acknowledged it.
pub const NOT_ACKNOWLEDGED: i32 = sys::SQLITE_IOERR | (200 << 8);

/// A write that may not begin, now or later.
pub const MAY_NOT_WRITE: i32 = sys::SQLITE_READONLY | (200 << 8);

/// The fault behind a result code of the base VFS; `errno` from its xGetLastError, 0 if unknown.
pub(super) fn fault(code: i32, errno: i32, verb: &str, path: &Path) -> Error {
    if code & 0xff == sys::SQLITE_BUSY {
        return Error::busy(format!("cannot {verb} {}: locked by another connection", path.display()));
    }
    if code & 0xff == sys::SQLITE_NOMEM {
        return Error::new(Kind::Full, format!("cannot {verb} {}: out of memory", path.display()));
    }
    if errno != 0 {
        return Error::io(verb, path, std::io::Error::from_raw_os_error(errno));
    }
    let kind = if code & 0xff == sys::SQLITE_FULL { Kind::Full } else { Kind::Io };
    Error::new(kind, format!("cannot {verb} {}: SQLite's VFS answers code {code}", path.display()))
}

/// The code for an error of ours that a VFS method must answer.
#[must_use]
pub fn of_error(error: &Error) -> i32 {
    match error.kind() {
        Kind::Full => sys::SQLITE_FULL,
        Kind::NotFound => sys::SQLITE_CANTOPEN,
        Kind::Corrupt => sys::SQLITE_CORRUPT,
        _ => sys::SQLITE_IOERR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_our_own_are_the_documented_numbers() {
        assert_eq!(NOT_ACKNOWLEDGED, 51210);
        assert_eq!(MAY_NOT_WRITE, 51208);
    }

    #[test]
    fn a_busy_answer_is_a_busy_error_whatever_errno_says() {
        let error = fault(sys::SQLITE_BUSY | (1 << 8), libc::EAGAIN, "lock", Path::new("/x"));
        assert_eq!(error.kind(), Kind::Busy);
    }
}
