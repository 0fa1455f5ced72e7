//! Checksums made right again.

use crate::ltx::index::Entry;
use crate::ltx::{Crc64, Header};
use crate::types::{Checksum, PageSize, Pgno};
use lz4_flex::block::decompress;

/// An LTX file with the index, the index's size and the file checksum that its records call for. What is no LTX file stays.
pub fn ltx(bytes: &[u8]) -> Vec<u8> {
    let Some((head, mut rest)) = bytes.split_at_checked(Header::BYTES) else { return bytes.to_vec() };
    let size = u32::from_be_bytes([head[8], head[9], head[10], head[11]]);
    let Some(page_size) = PageSize::new(size) else { return bytes.to_vec() };
    let mut out = head.to_vec();
    let (mut crc, mut index) = (Crc64::new(), Vec::new());
    crc.update(head);
    while let Some(record) = rest.get(..10) {
        let Some(pgno) = Pgno::new(u32::from_be_bytes([record[0], record[1], record[2], record[3]])) else {
            break;
        };
        let length = u32::from_be_bytes([record[6], record[7], record[8], record[9]]) as usize;
        let Some(payload) = rest.get(10..10 + length) else { break };
        let offset = out.len() as u64;
        out.extend(&rest[..10 + length]);
        crc.update(record);
        if let Ok(page) = decompress(payload, page_size.bytes()) {
            crc.update(&page);
        }
        Entry { pgno, offset, length: out.len() as u64 - offset }.encode(|bytes| index.extend(bytes));
        rest = &rest[10 + length..];
    }
    index.push(0);
    let mut tail = vec![0; 6];
    tail.extend(&index);
    tail.extend((index.len() as u64).to_be_bytes());
    tail.extend([0; 8]);
    crc.update(&tail);
    out.extend(&tail);
    out.extend(Checksum::from_crc(crc.value()).get().to_be_bytes());
    out
}

fn words(big_endian: bool, (mut a, mut b): (u32, u32), bytes: &[u8]) -> (u32, u32) {
    for pair in bytes.chunks_exact(8) {
        let word = |four: &[u8]| {
            let four = [four[0], four[1], four[2], four[3]];
            if big_endian { u32::from_be_bytes(four) } else { u32::from_le_bytes(four) }
        };
        a = a.wrapping_add(word(&pair[..4])).wrapping_add(b);
        b = b.wrapping_add(word(&pair[4..])).wrapping_add(a);
    }
    (a, b)
}

fn put(bytes: &mut [u8], at: usize, (a, b): (u32, u32)) {
    bytes[at..at + 4].copy_from_slice(&a.to_be_bytes());
    bytes[at + 4..at + 8].copy_from_slice(&b.to_be_bytes());
}

/// A WAL whose header and frames have the salts and checksums that a recovery looks for.
pub fn wal(bytes: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    if out.len() < 32 {
        return out;
    }
    let big = out[3] & 1 == 1;
    let mut sum = words(big, (0, 0), &out[..24]);
    put(&mut out, 24, sum);
    let Some(page) = PageSize::new(u32::from_be_bytes([out[8], out[9], out[10], out[11]])) else {
        return out;
    };
    let salts = out[16..24].to_vec();
    let mut at = 32;
    while at + 24 + page.bytes() <= out.len() {
        out[at + 8..at + 16].copy_from_slice(&salts);
        sum = words(big, words(big, sum, &out[at..at + 8]), &out[at + 24..at + 24 + page.bytes()]);
        put(&mut out, at + 16, sum);
        at += 24 + page.bytes();
    }
    out
}

/// A journal whose records have their checksums.
pub fn journal(bytes: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    if out.len() < 28 {
        return out;
    }
    let field = |out: &[u8], at: usize| u32::from_be_bytes([out[at], out[at + 1], out[at + 2], out[at + 3]]);
    let (nonce, sector) = (field(&out, 12), field(&out, 20));
    let Some(page) = PageSize::new(field(&out, 24)) else { return out };
    let mut at = if (32..=65536).contains(&sector) { sector as usize } else { 512 };
    while at + page.bytes() + 8 <= out.len() {
        let data = at + 4..at + 4 + page.bytes();
        let (mut sum, mut byte) = (nonce, page.bytes() - 200);
        while byte > 0 {
            sum = sum.wrapping_add(u32::from(out[data.start + byte]));
            byte = byte.saturating_sub(200);
        }
        out[data.end..data.end + 4].copy_from_slice(&sum.to_be_bytes());
        at = data.end + 4;
    }
    out
}
