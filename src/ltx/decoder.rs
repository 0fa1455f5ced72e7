//! Reads an LTX file as a stream and checks every byte that means something.
//!
//! Two page records exist: `pgno u32 | flags u16 = 1 | length u32 | LZ4 block`, and, of older writers,
//! `pgno u32 | flags u16 = 0 | LZ4 frame` with a content checksum. The file checksum covers the uncompressed
//! pages and the index, the index covers the compressed lengths; so a page is proven only when
//! [`Decoder::next_page`] has returned `None`. Nothing a hostile file says makes it allocate more than two
//! pages and one LZ4 frame block.

use super::checksum::{Crc64, page_crc};
use super::damage::Damage;
use super::encoder::{FLAG_BLOCK, check_complete, check_order};
use super::header::Header;
use super::index::Entry;
use crate::error::{Error, Result};
use crate::types::{Checksum, Pgno};
use lz4_flex::block::{decompress_into, get_maximum_output_size};
use lz4_flex::frame::FrameDecoder;
use std::io::{BufReader, ErrorKind, Read};
use std::path::Path;

/// Start of the only LZ4 frame writers make: magic, version 1, independent blocks, content checksum.
const FRAME_START: [u8; 5] = [0x04, 0x22, 0x4d, 0x18, 0x64];
const READ_BYTES: usize = 32 << 10;

/// An LTX file being read.
pub struct Decoder<R> {
    source: Source<R>,
    header: Header,
    /// Whether the trailer holds the format's own post-apply checksum.
    checksums: bool,
    /// XOR of the pages' CRCs, which is that checksum for a snapshot; summed up where it is stated.
    crcs: u64,
    crc: Crc64,
    /// CRC and bytes of the index that the pages read so far imply.
    index_crc: Crc64,
    index_bytes: u64,
    last: Option<Pgno>,
    pages: u32,
    done: bool,
    payload: Vec<u8>,
}

impl<R: Read> Decoder<R> {
    /// Reads the header. `name` is the file's, for messages. The reader need not be buffered.
    ///
    /// # Errors
    /// `Corrupt` with file, offset and reason; those of reading.
    pub fn new(reader: R, name: impl Into<String>) -> Result<Decoder<R>> {
        let mut source = Source::new(reader, name.into());
        let mut bytes = [0; Header::BYTES];
        source.exact(&mut bytes)?;
        let (header, checksums) = Header::decode(&bytes).map_err(|damage| damage.at(&source.name, 0))?;
        let mut crc = Crc64::new();
        crc.update(&bytes);
        let payload = vec![0; get_maximum_output_size(header.page_size.bytes())];
        Ok(Decoder {
            source,
            header,
            checksums,
            crcs: 0,
            crc,
            index_crc: Crc64::new(),
            index_bytes: 0,
            last: None,
            pages: 0,
            done: false,
            payload,
        })
    }

    pub fn header(&self) -> &Header {
        &self.header
    }

    pub fn name(&self) -> &str {
        &self.source.name
    }

    /// Checksum of the database after this file, as the file states it; `None` when it does not. The format's own field in the
    /// trailer is another sum, verified where the file alone tells it: in a snapshot.
    pub fn post(&self) -> Option<Checksum> {
        self.header.proof.map(|proof| proof.post)
    }

    /// Page records read so far.
    pub fn pages(&self) -> u32 {
        self.pages
    }

    /// Bytes read so far; after the last page, the size of the file.
    pub fn bytes(&self) -> u64 {
        self.source.offset
    }

    /// Fills `page` with the next page. `None` after the last one, when index, trailer and file checksum
    /// have been verified and nothing follows; only then the pages before are proven.
    ///
    /// # Errors
    /// `Corrupt` with file, offset and reason; those of reading.
    ///
    /// # Panics
    /// When `page` is not one page long.
    pub fn next_page(&mut self, page: &mut [u8]) -> Result<Option<Pgno>> {
        assert_eq!(page.len(), self.header.page_size.bytes(), "BUG: a page must have the page size");
        if self.done {
            return Ok(None);
        }
        let at = self.source.offset;
        let mut record = [0; 6];
        self.source.exact(&mut record)?;
        self.crc.update(&record);
        let flags = u16::from_be_bytes([record[4], record[5]]);
        let Some(pgno) = Pgno::new(u32::from_be_bytes([record[0], record[1], record[2], record[3]])) else {
            if flags != 0 {
                return Err(Damage::EndMark.at(&self.source.name, at));
            }
            self.finish()?;
            return Ok(None);
        };
        check_order(&self.header, self.last, pgno).map_err(|damage| damage.at(&self.source.name, at))?;
        match flags {
            FLAG_BLOCK => self.read_block(page)?,
            0 => self.source.read_frame(page)?,
            other => return Err(Damage::PageFlags(other).at(&self.source.name, at)),
        }
        self.crc.update(page);
        if self.checksums && self.header.is_snapshot() {
            self.crcs ^= page_crc(pgno, page);
        }
        let entry = Entry { pgno, offset: at, length: self.source.offset - at };
        entry.encode(|bytes| {
            self.index_crc.update(bytes);
            self.index_bytes += bytes.len() as u64;
        });
        self.last = Some(pgno);
        self.pages += 1;
        Ok(Some(pgno))
    }

    /// Reads and verifies what is left, page by page, for nobody.
    pub fn verify_rest(&mut self) -> Result<()> {
        let mut page = vec![0; self.header.page_size.bytes()];
        while self.next_page(&mut page)?.is_some() {}
        Ok(())
    }

    fn read_block(&mut self, page: &mut [u8]) -> Result<()> {
        let at = self.source.offset;
        let mut length = [0; 4];
        self.source.exact(&mut length)?;
        self.crc.update(&length);
        let length = u32::from_be_bytes(length);
        let Some(payload) = self.payload.get_mut(..length as usize) else {
            return Err(Damage::PayloadSize(length).at(&self.source.name, at));
        };
        self.source.exact(payload)?;
        let damage = match decompress_into(payload, page) {
            Ok(found) if found == page.len() => return Ok(()),
            Ok(found) => Damage::PageLength { expected: self.header.page_size, found },
            Err(_) => Damage::Payload,
        };
        Err(damage.at(&self.source.name, at))
    }

    /// The index and the trailer.
    fn finish(&mut self) -> Result<()> {
        let name = self.source.name.clone();
        check_complete(&self.header, self.last).map_err(|damage| damage.at(&name, self.source.offset))?;
        self.index_crc.update(&[0]);
        self.index_bytes += 1;
        let index_at = self.source.offset;
        let mut found = Crc64::new();
        let mut left = self.index_bytes;
        let mut chunk = [0; 512];
        while left > 0 {
            let part = &mut chunk[..left.min(512) as usize];
            self.source.exact(part)?;
            self.crc.update(part);
            found.update(part);
            left -= part.len() as u64;
        }
        if found.value() != self.index_crc.value() {
            return Err(Damage::Index.at(&name, index_at));
        }
        let size_at = self.source.offset;
        let size = self.hashed_u64()?;
        if size != self.index_bytes {
            return Err(Damage::IndexSize { expected: self.index_bytes, found: size }.at(&name, size_at));
        }
        self.read_trailer(&name)?;
        self.done = true;
        Ok(())
    }

    fn read_trailer(&mut self, name: &str) -> Result<()> {
        let at = self.source.offset;
        let post = self.hashed_u64()?;
        let stated = Checksum::from_wire(post);
        if stated.is_some() != self.checksums || (!self.checksums && post != 0) {
            return Err(Damage::Post(post).at(name, at));
        }
        let own = Checksum::from_crc(self.crcs);
        if self.header.is_snapshot() && stated.is_some_and(|stated| stated != own) {
            return Err(Damage::PostChecksum { expected: own, found: post }.at(name, at));
        }
        let expected = Checksum::from_crc(self.crc.value());
        let mut found = [0; 8];
        self.source.exact(&mut found)?;
        let found = u64::from_be_bytes(found);
        if found != expected.get() {
            return Err(Damage::FileChecksum { expected, found }.at(name, at + 8));
        }
        if !self.source.at_end()? {
            return Err(Damage::TrailingBytes.at(name, at + 16));
        }
        Ok(())
    }

    fn hashed_u64(&mut self) -> Result<u64> {
        let mut bytes = [0; 8];
        self.source.exact(&mut bytes)?;
        self.crc.update(&bytes);
        Ok(u64::from_be_bytes(bytes))
    }
}

/// The bytes of the file, counted.
struct Source<R> {
    reader: BufReader<R>,
    name: String,
    offset: u64,
    /// What a read inside the LZ4 frame decoder met, which wraps errors in its own.
    end: bool,
    failure: Option<std::io::Error>,
}

impl<R: Read> Source<R> {
    fn new(reader: R, name: String) -> Source<R> {
        Source {
            reader: BufReader::with_capacity(READ_BYTES, reader),
            name,
            offset: 0,
            end: false,
            failure: None,
        }
    }

    fn exact(&mut self, bytes: &mut [u8]) -> Result<()> {
        match self.reader.read_exact(bytes) {
            Ok(()) => {
                self.offset += bytes.len() as u64;
                Ok(())
            }
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => {
                Err(Damage::Truncated.at(&self.name, self.offset))
            }
            Err(e) => Err(Error::io("read", Path::new(&self.name), e)),
        }
    }

    fn at_end(&mut self) -> Result<bool> {
        let mut byte = [0];
        loop {
            match self.reader.read(&mut byte) {
                Ok(count) => return Ok(count == 0),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::io("read", Path::new(&self.name), e)),
            }
        }
    }

    /// One page as an LZ4 frame, which must hold exactly that.
    fn read_frame(&mut self, page: &mut [u8]) -> Result<()> {
        let at = self.offset;
        let mut start = FRAME_START;
        self.exact(&mut start)?;
        if start != FRAME_START {
            return Err(Damage::FrameHeader.at(&self.name, at));
        }
        let mut frame = FrameDecoder::new((&start[..]).chain(&mut *self));
        let filled = fill(&mut frame, page);
        let over = match filled {
            Ok(count) if count == page.len() => fill(&mut frame, &mut [0]),
            _ => Ok(0),
        };
        if let Some(e) = self.failure.take() {
            return Err(Error::io("read", Path::new(&self.name), e));
        }
        if self.end {
            return Err(Damage::Truncated.at(&self.name, self.offset));
        }
        match (filled, over) {
            (Ok(count), Ok(0)) if count == page.len() => Ok(()),
            (Ok(_), Ok(over)) if over > 0 => Err(Damage::FrameEnd.at(&self.name, at)),
            _ => Err(Damage::Payload.at(&self.name, at)),
        }
    }
}

/// Reads until `bytes` is full or the frame ends.
fn fill(reader: &mut impl Read, bytes: &mut [u8]) -> std::io::Result<usize> {
    let mut count = 0;
    while count < bytes.len() {
        match reader.read(&mut bytes[count..])? {
            0 => break,
            more => count += more,
        }
    }
    Ok(count)
}

/// For the frame decoder; remembers what ended it.
impl<R: Read> Read for &mut Source<R> {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        loop {
            match self.reader.read(bytes) {
                Ok(count) => {
                    self.offset += count as u64;
                    self.end |= count == 0 && !bytes.is_empty();
                    return Ok(count);
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => {
                    self.failure = Some(std::io::Error::from(e.kind()));
                    return Err(e);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
