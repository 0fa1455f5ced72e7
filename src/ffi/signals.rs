//! The signals that ask a program to end, as something to wait for. Of the program alone: a library takes no signals of
//! its host.

use std::time::Duration;
use std::{io, mem, ptr};

use crate::error::{Error, Kind, Result};

/// SIGTERM and SIGINT, held back from now on.
pub struct EndSignals(libc::sigset_t);

impl EndSignals {
    /// Holds them back on this thread and those it starts.
    ///
    /// # Errors
    /// `Io`, as pthread_sigmask(3).
    pub fn hold() -> Result<EndSignals> {
        // SAFETY: sigset_t is plain data, filled by sigemptyset(3); pthread_sigmask(3) reads it.
        let (set, code) = unsafe {
            let mut set: libc::sigset_t = mem::zeroed();
            libc::sigemptyset(&raw mut set);
            libc::sigaddset(&raw mut set, libc::SIGTERM);
            libc::sigaddset(&raw mut set, libc::SIGINT);
            (set, libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()))
        };
        match code {
            0 => Ok(EndSignals(set)),
            code => Err(Error::new(
                Kind::Io,
                format!("cannot hold back signals: {}", io::Error::from_raw_os_error(code)),
            )),
        }
    }

    /// Whether one came within this time.
    #[must_use]
    pub fn wait(&self, timeout: Duration) -> bool {
        let time = libc::timespec {
            tv_sec: timeout.as_secs() as libc::time_t,
            tv_nsec: timeout.subsec_nanos() as libc::c_long,
        };
        // SAFETY: sigtimedwait(2) reads the set and the time; no information on the signal is asked for.
        unsafe { libc::sigtimedwait(&raw const self.0, ptr::null_mut(), &raw const time) > 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_that_is_held_back_is_waited_for() {
        let signals = EndSignals::hold().unwrap();
        assert!(!signals.wait(Duration::ZERO));
        // SAFETY: pthread_kill(3) to this thread, which holds the signal back.
        assert_eq!(unsafe { libc::pthread_kill(libc::pthread_self(), libc::SIGTERM) }, 0);
        assert!(signals.wait(Duration::ZERO), "it is pending");
        assert!(!signals.wait(Duration::ZERO), "and taken");
    }
}
