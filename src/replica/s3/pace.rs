//! A body that must come at some pace: a store that is never silent could hold a restore for ever, byte by byte.

use std::io::{Error, ErrorKind, Read, Result};

use crate::clock;

/// In each such time of waiting ...
const WINDOW_MS: u64 = 30_000;
/// ... so many bytes at least, or the end. A slow line has a hundred times as many.
const WINDOW_BYTES: u64 = 16 << 10;

/// A reader that fails when what it reads comes too slowly.
pub struct Paced<R> {
    reader: R,
    window: Window,
}

impl<R: Read> Paced<R> {
    pub fn new(reader: R) -> Paced<R> {
        Paced { reader, window: Window::default() }
    }
}

impl<R: Read> Read for Paced<R> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let asked = clock::monotonic_ms();
        let bytes = self.reader.read(buffer)?;
        if bytes > 0 {
            self.window.take(clock::monotonic_ms() - asked, bytes)?;
        }
        Ok(bytes)
    }
}

/// What came, and how long it was waited for.
#[derive(Debug, Default)]
struct Window {
    waited_ms: u64,
    bytes: u64,
}

impl Window {
    /// # Errors
    /// `TimedOut` when a window ends with too little in it.
    fn take(&mut self, waited_ms: u64, bytes: usize) -> Result<()> {
        self.waited_ms += waited_ms;
        self.bytes += bytes as u64;
        if self.waited_ms < WINDOW_MS {
            return Ok(());
        }
        let came = std::mem::take(self);
        if came.bytes >= WINDOW_BYTES {
            return Ok(());
        }
        let text = format!("only {} bytes came in {} s", came.bytes, came.waited_ms / 1000);
        Err(Error::new(ErrorKind::TimedOut, text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_that_drips_is_given_up_and_a_slow_one_is_not() {
        let mut slow = Window::default();
        assert!((0..10_000).all(|_| slow.take(1000, 1 << 10).is_ok()), "1 KiB a second");
        let mut drip = Window::default();
        let (at, error) = (0..).find_map(|at| Some((at, drip.take(900, 1).err()?))).unwrap();
        assert_eq!((at, error.to_string().as_str()), (33, "only 34 bytes came in 30 s"));
    }

    #[test]
    fn who_reads_slowly_is_not_the_stores_fault() {
        let mut window = Window::default();
        assert!((0..100_000).all(|_| window.take(0, 1).is_ok()));
    }

    #[test]
    fn bytes_pass_as_they_are() {
        let mut read = Vec::new();
        Paced::new(&b"abc"[..]).read_to_end(&mut read).unwrap();
        assert_eq!(read, b"abc");
    }
}
