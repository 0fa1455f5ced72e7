//! One LTX file: read in order, and by its index.

use super::{MIB, Target, check_names, codes};
use crate::ltx::sample::{Random, file, header, read_in_parts};
use crate::ltx::{Decoder, Encoder, Proof};
use crate::types::{Checksum, PageSize, Pgno};

pub const DECODER: Target = Target {
    name: "ltx",
    samples,
    words: &["LTX1", "SQR2", "\x04\x22\x4d\x18\x64"],
    mend: codes::ltx,
    run: decode,
    memory_max: MIB,
    is_parts: false,
};

pub const IN_PARTS: Target = Target { name: "ltx-in-parts", run: in_parts, ..DECODER };

/// Files of every kind that is written, and the older kind of records.
pub fn samples() -> Vec<Vec<u8>> {
    let mut random = Random::new(7);
    let mut pages = |size: u32, list: &[u32]| -> Vec<(u32, Vec<u8>)> {
        list.iter().map(|pgno| (*pgno, random.page(PageSize::new(size).unwrap()))).collect()
    };
    let proof = Some(Proof { pre: Checksum::from_crc(3), post: Checksum::from_crc(4) });
    let start = Some(Proof { pre: Checksum::EMPTY, post: Checksum::from_crc(4) });
    let mut with_checksums = file(header(2, 2, 512, 9), &pages(512, &[1, 5]));
    with_checksums[7] = 0;
    with_checksums[40] = 0x80;
    vec![
        file(crate::ltx::Header { proof: start, ..header(1, 1, 512, 3) }, &pages(512, &[1, 2, 3])),
        file(crate::ltx::Header { proof, ..header(2, 4, 512, 9) }, &pages(512, &[1, 5, 9])),
        file(header(3, 3, 4096, 2), &pages(4096, &[2])),
        file(header(5, 9, 65536, 20_000), &pages(65536, &[16_384, 16_386])),
        file(header(2, 2, 512, 1), &[]),
        with_checksums,
        framed(),
    ]
}

/// With pages as LZ4 frames.
fn framed() -> Vec<u8> {
    use std::io::Write;
    let page = vec![7; 512];
    let info = lz4_flex::frame::FrameInfo::new().content_checksum(true);
    let mut frame = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
    frame.write_all(&page).unwrap();
    let frame = frame.finish().unwrap();
    let mut bytes = header(2, 2, 512, 3).encode().unwrap().to_vec();
    let mut crc = crate::ltx::Crc64::new();
    crc.update(&bytes);
    let record = [&2u32.to_be_bytes()[..], &[0, 0]].concat();
    crc.update(&record);
    crc.update(&page);
    let entry =
        crate::ltx::index::Entry { pgno: Pgno::new(2).unwrap(), offset: 100, length: 6 + frame.len() as u64 };
    bytes.extend([&record[..], &frame].concat());
    let mut tail = vec![0; 6];
    entry.encode(|b| tail.extend(b));
    tail.push(0);
    tail.extend((tail.len() as u64 - 6).to_be_bytes());
    tail.extend([0; 8]);
    crc.update(&tail);
    bytes.extend(&tail);
    bytes.extend(Checksum::from_crc(crc.value()).get().to_be_bytes());
    bytes
}

/// What an undamaged file holds, is written again and read again.
fn decode(bytes: &[u8]) {
    let read = || -> crate::error::Result<_> {
        let mut decoder = Decoder::new(bytes, "hostile.ltx")?;
        let (header, mut pages) = (*decoder.header(), Vec::new());
        let mut page = vec![0; header.page_size.bytes()];
        while let Some(pgno) = decoder.next_page(&mut page)? {
            pages.push((pgno, page.clone()));
        }
        assert_eq!(decoder.bytes(), bytes.len() as u64, "bytes were passed over");
        Ok((header, pages, decoder.post()))
    };
    let (header, pages, post) = match read() {
        Ok(all) => all,
        Err(error) => return check_names(&error, "hostile.ltx"),
    };
    let _ = (header.timestamp.to_string(), post);
    let mut again = Vec::new();
    let mut encoder = Encoder::new(&mut again, header).unwrap();
    pages.iter().for_each(|(pgno, page)| encoder.page(*pgno, page).unwrap());
    encoder.finish().unwrap();
    let mut decoder = Decoder::new(&again[..], "again.ltx").unwrap();
    assert_eq!(*decoder.header(), header);
    let mut page = vec![0; header.page_size.bytes()];
    for (pgno, expected) in &pages {
        assert_eq!(decoder.next_page(&mut page).unwrap(), Some(*pgno));
        assert!(page == *expected, "page {pgno} differs");
    }
    assert_eq!(decoder.next_page(&mut page).unwrap(), None);
}

/// By its index a file gives the same pages as in order.
fn in_parts(bytes: &[u8]) {
    if bytes.len() < 124 {
        return;
    }
    let Ok(by_index) = read_in_parts(bytes) else { return };
    let mut decoder = Decoder::new(bytes, "hostile.ltx").unwrap();
    let mut page = vec![0; decoder.header().page_size.bytes()];
    for (pgno, expected) in by_index {
        let found = decoder.next_page(&mut page);
        assert_eq!(found.unwrap().map(Pgno::get), Some(pgno));
        assert!(page == expected, "page {pgno} differs");
    }
    assert_eq!(decoder.next_page(&mut page).unwrap(), None);
}
