//! Reads an LTX file as a stream and checks every byte that means something.
//!
//! Two page records exist: `pgno u32 | flags u16 = 1 | length u32 | LZ4 block`, and, of older writers,
//! `pgno u32 | flags u16 = 0 | LZ4 frame` with a content checksum. The file checksum covers the uncompressed
//! pages and the index, the index covers the compressed lengths; so a page is proven only when
//! [`Decoder::next_page`] has returned `None`. Nothing a hostile file says makes it allocate more than two
//! pages and one LZ4 frame block.

use super::checksum::Crc64;
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
    crc: Crc64,
    /// CRC and bytes of the index that the pages read so far imply.
    index_crc: Crc64,
    index_bytes: u64,
    last: Option<Pgno>,
    pages: u32,
    post: Option<Checksum>,
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
        let post = header.proof.map(|proof| proof.post);
        Ok(Decoder {
            source,
            header,
            checksums,
            crc,
            index_crc: Crc64::new(),
            index_bytes: 0,
            last: None,
            pages: 0,
            post,
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

    /// Checksum of the database after this file, as the file states it; `None` when it does not. The
    /// trailer may add one, so ask after the last page.
    pub fn post(&self) -> Option<Checksum> {
        self.post
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
        self.post = self.post.or(stated);
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
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::ltx::index;
    use crate::ltx::sample::{Random, file, header};
    use crate::ltx::{Proof, WalSpan, page_checksum};
    use crate::types::{PageSize, Timestamp, Txid, TxidRange};
    use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
    use std::io::{Cursor, Write};

    type Pages = Vec<(u32, Vec<u8>)>;

    fn decode(bytes: &[u8]) -> Result<(Header, Pages)> {
        let mut decoder = Decoder::new(bytes, "x.ltx")?;
        let mut page = vec![0; decoder.header().page_size.bytes()];
        let mut pages = Vec::new();
        while let Some(pgno) = decoder.next_page(&mut page)? {
            pages.push((pgno.get(), page.clone()));
        }
        assert_eq!(decoder.bytes(), bytes.len() as u64);
        Ok((*decoder.header(), pages))
    }

    fn reason(bytes: &[u8]) -> String {
        let error = decode(bytes).map(|(_, pages)| pages.len()).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt, "{error}");
        error.to_string()
    }

    /// A file put together by hand from page records, with a true index and checksums.
    fn assemble(header: &[u8], records: &[(u32, u16, Vec<u8>, Vec<u8>)], post: u64) -> Vec<u8> {
        let mut bytes = header.to_vec();
        let mut crc = Crc64::new();
        crc.update(header);
        let mut index = Vec::new();
        for (pgno, flags, payload, page) in records {
            let at = bytes.len();
            let mut head = [&pgno.to_be_bytes()[..], &flags.to_be_bytes()].concat();
            if *flags == FLAG_BLOCK {
                head.extend_from_slice(&(payload.len() as u32).to_be_bytes());
            }
            crc.update(&head);
            crc.update(page);
            bytes.extend_from_slice(&head);
            bytes.extend_from_slice(payload);
            let length = (bytes.len() - at) as u64;
            let entry = Entry { pgno: Pgno::new(*pgno).unwrap(), offset: at as u64, length };
            entry.encode(|b| index.extend_from_slice(b));
        }
        index.push(0);
        let size = index.len() as u64;
        let tail = [&[0; 6][..], &index, &size.to_be_bytes(), &post.to_be_bytes()].concat();
        crc.update(&tail);
        bytes.extend_from_slice(&tail);
        bytes.extend_from_slice(&Checksum::from_crc(crc.value()).get().to_be_bytes());
        bytes
    }

    fn frame(page: &[u8], checksum: bool) -> Vec<u8> {
        let info = FrameInfo::new()
            .block_size(BlockSize::Max64KB)
            .block_mode(BlockMode::Independent)
            .content_checksum(checksum);
        let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
        encoder.write_all(page).unwrap();
        encoder.finish().unwrap()
    }

    fn block(page: &[u8]) -> Vec<u8> {
        lz4_flex::block::compress(page)
    }

    /// One page of zeros, as another implementation wrote it.
    const MINIMAL: &str = "\
        4c54583100000002000002000000000100000000000000010000000000000001\
        0000018bcfe56800000000000000000000000000000000200000000000000000\
        0000000000000000000000000000000000000000000000000000000000000000\
        000000000000000100010000000c1f000100ffe8500000000000000000000000\
        01641600000000000000000400000000000000008c829f2f04c64598";

    fn minimal() -> Vec<u8> {
        (0..MINIMAL.len()).step_by(2).map(|i| u8::from_str_radix(&MINIMAL[i..i + 2], 16).unwrap()).collect()
    }

    #[test]
    fn decodes_minimal_file_v3() {
        let (header, pages) = decode(&minimal()).unwrap();
        assert_eq!(header.page_size.get(), 512);
        assert_eq!(header.range, TxidRange::one(Txid::FIRST));
        assert_eq!((header.page_count, header.timestamp), (1, Timestamp(1_700_000_000_000)));
        assert_eq!((header.wal, header.proof), (WalSpan::CAPTURED, None));
        assert_eq!(pages, [(1, vec![0; 512])]);
        let entries = index::read(&mut Cursor::new(minimal()), "x.ltx").unwrap();
        assert_eq!(entries, [Entry { pgno: Pgno::FIRST, offset: 100, length: 22 }]);
    }

    #[test]
    fn encodes_minimal_file_v3() {
        let (header, pages) = decode(&minimal()).unwrap();
        let bytes = file(header, &pages);
        assert_eq!(decode(&bytes).unwrap(), (header, pages));
        // Our LZ4 matches the page one byte shorter: 13 bytes instead of 12, and with them the index.
        assert_eq!(bytes[..106], minimal()[..106]);
        assert_eq!(bytes[106..124], *b"\0\0\0\x0d\x1f\0\x01\0\xff\xe7\x60\0\0\0\0\0\0\0");
        assert_eq!(bytes[128..141], *b"\0\x01\x64\x17\0\0\0\0\0\0\0\0\x04");
        assert_eq!(bytes[149..], 0x8c83_4423_d41b_3498u64.to_be_bytes());
    }

    #[test]
    fn random_files_of_every_page_size_read_back() {
        for bits in 9..=16 {
            for seed in 0..6 {
                let mut random = Random::new(seed * 100 + bits);
                let mut header = header(1 + seed % 2, 9, 1 << bits, 1 + random.below(40) as u32);
                header.proof = Some(Proof { pre: Checksum::EMPTY, post: Checksum::from_crc(random.next()) });
                let snapshot = header.is_snapshot();
                let pages: Pages = (1..=header.page_count)
                    .filter(|_| snapshot || random.below(3) == 0)
                    .map(|pgno| (pgno, Random::new(seed + pgno as u64).page(header.page_size)))
                    .collect();
                let bytes = file(header, &pages);
                assert_eq!(decode(&bytes).unwrap(), (header, pages.clone()), "seed {seed} bits {bits}");
                let entries = index::read(&mut Cursor::new(&bytes), "x.ltx").unwrap();
                let pgnos: Vec<u32> = entries.iter().map(|entry| entry.pgno.get()).collect();
                assert_eq!(pgnos, pages.iter().map(|(pgno, _)| *pgno).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn snapshot_passes_over_the_lock_byte_page() {
        let mut header = header(1, 1, 65536, 16387);
        header.proof = None;
        let page = vec![0; 65536];
        let mut bytes = Vec::new();
        let mut encoder = crate::ltx::Encoder::new(&mut bytes, header).unwrap();
        for pgno in (1..=16387).filter(|pgno| *pgno != 16385) {
            encoder.page(Pgno::new(pgno).unwrap(), &page).unwrap();
        }
        assert_eq!(encoder.finish().unwrap().pages, 16386);
        let mut decoder = Decoder::new(&bytes[..], "x.ltx").unwrap();
        decoder.verify_rest().unwrap();
        assert_eq!(decoder.pages(), 16386);
    }

    #[test]
    fn file_without_pages_is_an_empty_group() {
        let header = header(5, 5, 4096, 3);
        assert_eq!(decode(&file(header, &[])).unwrap(), (header, vec![]));
    }

    #[test]
    fn lz4_frames_of_older_writers_are_read() {
        for bits in 9..=16 {
            let mut random = Random::new(bits);
            let header = header(1, 2, 1 << bits, 3);
            let pages: Pages = (1..=3).map(|pgno| (pgno, random.page(header.page_size))).collect();
            let mut records: Vec<_> =
                pages.iter().map(|(pgno, page)| (*pgno, 0, frame(page, true), page.clone())).collect();
            records[1] = (2, FLAG_BLOCK, block(&pages[1].1), pages[1].1.clone());
            let bytes = assemble(&header.encode().unwrap(), &records, 0);
            assert_eq!(decode(&bytes).unwrap(), (header, pages));
        }
    }

    #[test]
    fn lz4_frame_without_checksum_or_of_wrong_length_is_refused() {
        let header = header(2, 2, 512, 1).encode().unwrap();
        let page = vec![7; 512];
        let with = |payload: Vec<u8>| assemble(&header, &[(1, 0, payload, page.clone())], 0);
        assert!(decode(&with(frame(&page, true))).is_ok());
        assert!(reason(&with(frame(&page, false))).contains("expected an LZ4 frame with"));
        assert!(reason(&with(frame(&[7; 513], true))).contains("more than a page"));
        assert!(reason(&with(frame(&[7; 511], true))).contains("invalid"));
        let mut changed = frame(&page, true);
        *changed.last_mut().unwrap() ^= 1;
        assert!(reason(&with(changed)).contains("LZ4 data of a page is invalid"));
    }

    #[test]
    fn block_of_wrong_length_or_size_is_refused() {
        let header = header(2, 2, 512, 1).encode().unwrap();
        let with = |page: &[u8]| assemble(&header, &[(1, 1, block(page), page.to_vec())], 0);
        assert!(decode(&with(&[7; 512])).is_ok());
        assert!(reason(&with(&[7; 511])).contains("511 bytes uncompressed, expected 512"));
        assert!(reason(&with(&[7; 513])).contains("LZ4 data"));
        let huge = assemble(&header, &[(1, 1, vec![0; 100_000], vec![7; 512])], 0);
        assert!(reason(&huge).contains("100000 bytes is too large"));
    }

    #[test]
    fn pages_in_a_wrong_place_are_refused() {
        let page = vec![7; 512];
        let with = |min, count, pgnos: &[u32]| {
            let records: Vec<_> = pgnos.iter().map(|pgno| (*pgno, 1, block(&page), page.clone())).collect();
            reason(&assemble(&header(min, 9, 512, count).encode().unwrap(), &records, 0))
        };
        assert!(with(2, 9, &[3, 2]).contains("page 2 follows page 3"));
        assert!(with(2, 9, &[3, 3]).contains("page 3 follows page 3"));
        assert!(with(2, 9, &[10]).contains("past the page count 9"));
        assert!(with(2, 3_000_000, &[2097153]).contains("lock-byte page"));
        assert!(with(1, 3, &[1, 3]).contains("lacks page 2, found page 3"));
        assert!(with(1, 3, &[1, 2]).contains("lacks page 3, found the end"));
    }

    #[test]
    fn the_formats_own_post_checksum_is_read_and_must_fit_the_flags() {
        let mut bytes = header(1, 1, 512, 1).encode().unwrap();
        let page = vec![0; 512];
        let post = page_checksum(Pgno::FIRST, &page);
        let records = [(1, 1, block(&page), page)];
        assert!(reason(&assemble(&bytes, &records, post.get())).contains("invalid post-apply checksum"));
        bytes[7] = 0;
        let file = assemble(&bytes, &records, post.get());
        let mut decoder = Decoder::new(&file[..], "x.ltx").unwrap();
        decoder.verify_rest().unwrap();
        assert_eq!(decoder.post(), Some(post));
        assert!(reason(&assemble(&bytes, &records, 0)).contains("invalid post-apply checksum"));
    }

    #[test]
    fn every_flipped_bit_is_refused_or_changes_nothing() {
        let mut random = Random::new(7);
        let header = header(1, 1, 512, 2);
        let pages: Pages = (1..=2).map(|pgno| (pgno, random.page(PageSize::new(512).unwrap()))).collect();
        let framed: Vec<_> =
            pages.iter().map(|(pgno, page)| (*pgno, 0, frame(page, true), page.clone())).collect();
        for bytes in [file(header, &pages), assemble(&header.encode().unwrap(), &framed, 0), minimal()] {
            let original = decode(&bytes).unwrap();
            let mut harmless = 0;
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                match decode(&flipped) {
                    Err(error) => assert!(error.to_string().contains("x.ltx is damaged at byte"), "{error}"),
                    Ok(found) => {
                        assert_eq!(found, original, "bit {bit}");
                        harmless += 1;
                    }
                }
            }
            assert!(harmless < 24, "{harmless} flips within LZ4 data gave the same page");
        }
    }

    #[test]
    fn every_cut_and_every_addition_is_refused() {
        let bytes = minimal();
        for length in 0..bytes.len() {
            assert!(reason(&bytes[..length]).contains("ends too early"), "length {length}");
        }
        assert!(reason(&[&bytes[..], &[0]].concat()).contains("bytes follow the trailer"));
    }

    #[test]
    fn noise_is_refused_without_a_panic() {
        let mut random = Random::new(3);
        let header = header(1, 9, 1024, 5);
        let pages: Pages = (1..=5).map(|pgno| (pgno, random.page(header.page_size))).collect();
        let bytes = file(header, &pages);
        for round in 0..3000 {
            let mut noisy = bytes.clone();
            for _ in 0..=random.below(8) {
                let at = random.below(noisy.len() as u64) as usize;
                noisy[at] = random.next() as u8;
            }
            if noisy == bytes {
                continue;
            }
            if let Ok(found) = decode(&noisy) {
                assert_eq!(found.1, pages, "round {round}");
            }
            let _ = index::read(&mut Cursor::new(&noisy), "x.ltx");
        }
    }

    #[test]
    fn a_failing_reader_is_io_and_not_damage() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
                Err(std::io::Error::from_raw_os_error(libc::EIO))
            }
        }
        let bytes = minimal();
        for length in [0, 50, 104, 115, 150] {
            let reader = (&bytes[..length]).chain(Broken);
            let error =
                Decoder::new(reader, "x.ltx").and_then(|mut decoder| decoder.verify_rest()).unwrap_err();
            assert_eq!(error.kind(), Kind::Io, "{error}");
            assert!(error.to_string().starts_with("cannot read x.ltx"), "{error}");
        }
    }
}
