//! One LZ4 frame: what every object of these replicas is. Its content checksum must be there and right, and nothing may
//! follow it.
//!
//! `lz4_flex` takes the end of its input for the end of the frame where a block would begin, and for an empty frame at
//! the start: whoever reads it must see that the input has not ended yet.

use crate::error::{Error, Result};
use lz4_flex::frame::FrameDecoder;
use std::io::{ErrorKind, Read};
use std::path::Path;

const MAGIC: [u8; 4] = [0x04, 0x22, 0x4d, 0x18];
/// Of the byte after the magic: a content checksum follows the last block.
const CONTENT_CHECKSUM: u8 = 4;
/// How files of `age` begin.
const AGE: &[u8] = b"age-e";

/// The content of one object.
pub struct Frame {
    decoder: FrameDecoder<Source>,
    name: String,
    is_over: bool,
}

/// The object's bytes, the first of which have been looked at.
struct Source {
    start: Vec<u8>,
    rest: Box<dyn Read + Send>,
    has_ended: bool,
    failure: Option<std::io::Error>,
}

impl Read for Source {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        if !self.start.is_empty() {
            let count = self.start.len().min(bytes.len());
            bytes[..count].copy_from_slice(&self.start[..count]);
            self.start.drain(..count);
            return Ok(count);
        }
        loop {
            match self.rest.read(bytes) {
                Ok(count) => {
                    self.has_ended |= count == 0 && !bytes.is_empty();
                    return Ok(count);
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => {
                    let kind = e.kind();
                    self.failure = Some(e);
                    return Err(kind.into());
                }
            }
        }
    }
}

impl Frame {
    /// # Errors
    /// `Invalid` for an encrypted object; `Corrupt` for what is no such frame; those of reading.
    pub fn new(bytes: Box<dyn Read + Send>, name: &str) -> Result<Frame> {
        let mut source = Source { start: Vec::new(), rest: bytes, has_ended: false, failure: None };
        let mut start = Vec::with_capacity(5);
        let read = (&mut source).take(5).read_to_end(&mut start);
        read.map_err(|e| Error::io("read", Path::new(name), source.failure.take().unwrap_or(e)))?;
        if start == AGE {
            return Err(Error::invalid(format!(
                "{name} is encrypted with age: decrypt every object of the generation with `age --decrypt` into a \
                 folder of the same layout, and restore from there"
            )));
        }
        if start.len() == 5 && start[..4] == MAGIC && start[4] & CONTENT_CHECKSUM == 0 {
            return Err(Error::corrupt(format!("{name} is damaged: its LZ4 frame has no content checksum")));
        }
        if start.len() < 5 || start[..4] != MAGIC {
            return Err(Error::corrupt(format!("{name} is damaged: it does not begin with an LZ4 frame")));
        }
        source.start = start;
        source.has_ended = false;
        Ok(Frame { decoder: FrameDecoder::new(source), name: name.to_owned(), is_over: false })
    }

    /// Fills `bytes` as far as the content goes. Less than all of them only at its end, which has then been checked.
    ///
    /// # Errors
    /// `Corrupt` with the name; those of reading.
    pub fn fill(&mut self, bytes: &mut [u8]) -> Result<usize> {
        let mut filled = 0;
        while filled < bytes.len() && !self.is_over {
            match self.decoder.read(&mut bytes[filled..]) {
                Ok(0) => self.finish()?,
                Ok(count) => filled += count,
                Err(e) => return Err(self.refusal(&e.to_string())),
            }
        }
        Ok(filled)
    }

    fn finish(&mut self) -> Result<()> {
        if self.decoder.get_ref().has_ended {
            return Err(self.refusal("it ends too early"));
        }
        match self.decoder.get_mut().read(&mut [0]) {
            Ok(0) => {}
            Ok(_) => return Err(self.refusal("something follows its LZ4 frame")),
            Err(e) => return Err(self.refusal(&e.to_string())),
        }
        self.is_over = true;
        Ok(())
    }

    fn refusal(&mut self, why: &str) -> Error {
        match self.decoder.get_mut().failure.take() {
            Some(e) => Error::io("read", Path::new(&self.name), e),
            None => Error::corrupt(format!("{} is damaged: {why}", self.name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::ltx::sample::Random;
    use lz4_flex::frame::{BlockSize, FrameEncoder, FrameInfo};
    use std::io::{Cursor, Write};

    fn encode(content: &[u8], checksum: bool) -> Vec<u8> {
        let info = FrameInfo::new().content_checksum(checksum).block_size(BlockSize::Max64KB);
        let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn decode(bytes: &[u8]) -> Result<Vec<u8>> {
        let mut frame = Frame::new(Box::new(Cursor::new(bytes.to_vec())), "x.lz4")?;
        let (mut content, mut part) = (Vec::new(), [0; 1000]);
        loop {
            let count = frame.fill(&mut part)?;
            content.extend(&part[..count]);
            if count < part.len() {
                return Ok(content);
            }
        }
    }

    #[test]
    fn every_cut_flip_and_added_byte_is_found() {
        let mut random = Random::new(3);
        let content: Vec<u8> =
            (0..150_000u64).map(|i| (i / 50 % 200) as u8 ^ (random.below(50) == 0) as u8).collect();
        let bytes = encode(&content, true);
        assert_eq!(decode(&bytes).unwrap(), content);
        let mut cuts: Vec<usize> = (0..40).chain(bytes.len() - 40..bytes.len()).collect();
        cuts.extend((0..300).map(|_| random.below(bytes.len() as u64) as usize));
        // Where a block begins.
        let mut at = 7;
        while at < bytes.len() - 8 {
            cuts.push(at);
            at += 4 + (u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) & 0x7fff_ffff) as usize;
        }
        for cut in cuts {
            assert_eq!(decode(&bytes[..cut]).unwrap_err().kind(), Kind::Corrupt, "cut to {cut}");
            let mut flipped = bytes.clone();
            flipped[cut] ^= 1 << random.below(8);
            // Other bytes may mean the same.
            assert!(
                decode(&flipped).map_or_else(|e| e.kind() == Kind::Corrupt, |found| found == content),
                "{cut}"
            );
        }
        for more in [&bytes[..], &[0]] {
            assert_eq!(decode(&[&bytes, more].concat()).unwrap_err().kind(), Kind::Corrupt);
        }
    }

    #[test]
    fn a_frame_without_checksum_and_an_encrypted_object_are_refused_by_name() {
        let refusal = |bytes: &[u8]| decode(bytes).unwrap_err().to_string();
        assert!(refusal(&encode(b"abc", false)).contains("has no content checksum"));
        assert!(refusal(b"age-encryption.org/v1\n").contains("age --decrypt"));
        assert!(refusal(b"SQLite format 3").contains("does not begin with an LZ4 frame"));
        assert!(decode(&encode(b"", true)).unwrap().is_empty());
    }
}
