//! What the decoder takes and what it refuses.

use super::*;
use crate::error::Kind;
use crate::ltx::checksum::page_crc;
use crate::ltx::sample::{Random, file, header, read_in_parts};
use crate::ltx::{Proof, WalSpan};
use crate::types::{PageSize, Timestamp, Txid, TxidRange};
use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
use std::io::Write;

type Pages = Vec<(u32, Vec<u8>)>;

/// The page sizes, as powers of two.
const BITS: std::ops::RangeInclusive<u64> = 9..=if cfg!(miri) { 10 } else { 16 };

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
    assert_eq!(read_in_parts(&minimal()).unwrap(), pages);
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
    for bits in BITS {
        for seed in 0..crate::testing::cases(6) {
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
            assert_eq!(read_in_parts(&bytes), Ok(pages));
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "1 GiB")]
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
    for bits in BITS {
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
    let post = Checksum::from_crc(page_crc(Pgno::FIRST, &page));
    let records = [(1, 1, block(&page), page)];
    assert!(reason(&assemble(&bytes, &records, post.get())).contains("invalid post-apply checksum"));
    bytes[7] = 0;
    let file = assemble(&bytes, &records, post.get());
    let mut decoder = Decoder::new(&file[..], "x.ltx").unwrap();
    decoder.verify_rest().unwrap();
    assert_eq!(decoder.post(), None, "the field is another sum than ours");
    assert!(reason(&assemble(&bytes, &records, post.get() ^ 1)).contains("the pages have checksum"));
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
        for bit in (0..bytes.len() * 8).step_by(crate::testing::STRIDE) {
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
    for length in (0..bytes.len()).step_by(crate::testing::STRIDE) {
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
    for round in 0..crate::testing::cases(3000) {
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
        if let Ok(found) = read_in_parts(&noisy) {
            assert_eq!(found, pages, "round {round}");
        }
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
        let error = Decoder::new(reader, "x.ltx").and_then(|mut decoder| decoder.verify_rest()).unwrap_err();
        assert_eq!(error.kind(), Kind::Io, "{error}");
        assert!(error.to_string().starts_with("cannot read x.ltx"), "{error}");
    }
}
