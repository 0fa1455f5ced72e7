//! Where a verb reads and writes: standard streams, or what a test holds.

use crate::error::{Error, Kind, Result};
use std::io::{self, BufRead, IsTerminal, Write};

pub struct Terminal<'a> {
    input: &'a mut dyn BufRead,
    out: &'a mut dyn Write,
    err: &'a mut dyn Write,
    /// Somebody looks at stdout, at stderr.
    out_is_seen: bool,
    err_is_seen: bool,
}

impl<'a> Terminal<'a> {
    /// Calls `body` with this process's streams.
    pub fn with_standard<T>(
        out: io::Stdout,
        err: io::Stderr,
        body: impl FnOnce(&mut Terminal<'_>) -> T,
    ) -> T {
        let (out_is_seen, err_is_seen) = (out.is_terminal(), err.is_terminal());
        let mut input = io::stdin().lock();
        let mut err = err;
        let mut out = out.lock();
        body(&mut Terminal { input: &mut input, out: &mut out, err: &mut err, out_is_seen, err_is_seen })
    }

    #[cfg(test)]
    pub fn of_test(
        input: &'a mut dyn BufRead,
        out: &'a mut dyn Write,
        err: &'a mut dyn Write,
    ) -> Terminal<'a> {
        Terminal { input, out, err, out_is_seen: false, err_is_seen: false }
    }

    /// Writes to stdout. A reader that has seen enough (`| head`) is no failure.
    ///
    /// # Errors
    /// `Io`.
    pub fn print(&mut self, text: &str) -> Result<()> {
        match self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush()) {
            Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(unwritten(&e)),
            _ => Ok(()),
        }
    }

    /// Writes bytes to stdout, all of which matter.
    ///
    /// # Errors
    /// `Io`.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).map_err(|e| unwritten(&e))
    }

    /// Returns when stdout has what was written.
    ///
    /// # Errors
    /// `Io`.
    pub fn flush(&mut self) -> Result<()> {
        self.out.flush().map_err(|e| unwritten(&e))
    }

    /// Says why something failed.
    pub fn complain(&mut self, text: &str) {
        // Nobody is left to tell when stderr is gone.
        let _ = writeln!(self.err, "sqlitereplicate: {text}");
    }

    /// Says what somebody should know although it went well.
    pub fn notice(&mut self, text: &str) {
        self.complain(&format!("notice: {text}"));
    }

    /// Asks for a line; `None` at the end of the input.
    ///
    /// # Errors
    /// `Io`.
    pub fn ask(&mut self, question: &str) -> Result<Option<String>> {
        let _ = write!(self.err, "{question}").and_then(|()| self.err.flush());
        let mut line = String::new();
        let read = self.input.read_line(&mut line);
        let read =
            read.map_err(|e| Error::new(Kind::Io, format!("cannot read the answer from stdin: {e}")))?;
        Ok((read > 0).then(|| line.trim_end_matches(['\n', '\r']).to_owned()))
    }

    /// Somebody would see raw bytes.
    pub fn out_is_seen(&self) -> bool {
        self.out_is_seen
    }

    /// Somebody would see a progress bar.
    pub fn err_is_seen(&self) -> bool {
        self.err_is_seen
    }
}

fn unwritten(error: &io::Error) -> Error {
    Error::new(Kind::Io, format!("cannot write to stdout: {error}"))
}
