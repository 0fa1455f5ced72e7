//! The 100-byte database header (SQLite file format 1.3), as far as capture needs it.
//!
//! An encrypted database has no readable header: nothing here is used where the wal-index or the log already
//! says the page size, and the change tag is compared as opaque bytes.

use crate::types::PageSize;

/// Bytes 24..40: change counter, page count, freelist. Every commit in a rollback mode changes them, also
/// under encryption; what they mean is not looked at.
pub const TAG_OFFSET: u64 = 24;
pub const TAG_LEN: usize = 16;

/// Name of one state of page 1, from the bytes at [`TAG_OFFSET`]. Never 0.
pub fn change_tag(bytes: &[u8; TAG_LEN]) -> u64 {
    let high = u64::from_be_bytes(bytes[..8].try_into().expect("BUG: 8 of 16 bytes"));
    let low = u64::from_be_bytes(bytes[8..].try_into().expect("BUG: 8 of 16 bytes"));
    // Odd multipliers keep every single-field change visible; the halves are mixed, not compared.
    (high.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ low.wrapping_mul(0xc2b2_ae3d_27d4_eb4f).rotate_left(29))
        .max(1)
}

/// The same from the first bytes of page 1; 0 where they do not reach that far.
pub fn tag_of(page_1: &[u8]) -> u64 {
    let bytes = page_1.get(TAG_OFFSET as usize..).and_then(<[u8]>::first_chunk);
    bytes.map_or(0, change_tag)
}

/// What the plain header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub page_size: PageSize,
    /// Size in pages, where the header field is valid (bytes 92..96 equal 24..28, format 1.3.7).
    pub page_count: Option<u32>,
    /// Counts commits in the rollback modes; in WAL mode those that write page 1, not each of them. It wraps.
    pub changes: u32,
    /// Bytes 18 and 19 say WAL.
    pub wal: bool,
}

/// `None` when these bytes are not the header of an unencrypted database.
pub fn parse(bytes: &[u8]) -> Option<Header> {
    if bytes.len() < 100 || &bytes[..16] != b"SQLite format 3\0" {
        return None;
    }
    let page_size = match u16::from_be_bytes([bytes[16], bytes[17]]) {
        1 => 65536,
        n => u32::from(n),
    };
    let field = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let count = field(28);
    Some(Header {
        page_size: PageSize::new(page_size)?,
        page_count: if count != 0 && field(24) == field(92) { Some(count) } else { None },
        changes: field(24),
        wal: bytes[18] == 2 && bytes[19] == 2,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(page_size: u16, count: u32) -> Vec<u8> {
        let mut bytes = vec![0u8; 100];
        bytes[..16].copy_from_slice(b"SQLite format 3\0");
        bytes[16..18].copy_from_slice(&page_size.to_be_bytes());
        bytes[28..32].copy_from_slice(&count.to_be_bytes());
        bytes
    }

    #[test]
    fn page_size_one_means_65536() {
        assert_eq!(parse(&header(1, 3)).unwrap().page_size.get(), 65536);
        assert_eq!(parse(&header(4096, 3)).unwrap().page_count, Some(3));
        assert_eq!(parse(&header(1000, 3)), None);
        assert_eq!(parse(&[0; 100]), None);
    }

    #[test]
    fn page_count_is_void_when_an_old_writer_left_it_behind() {
        let mut bytes = header(4096, 3);
        bytes[27] = 9;
        assert_eq!(parse(&bytes).unwrap().page_count, None);
    }

    #[test]
    fn every_field_changes_the_tag() {
        let base = change_tag(&[0; TAG_LEN]);
        for at in 0..TAG_LEN {
            let mut bytes = [0; TAG_LEN];
            bytes[at] = 1;
            assert_ne!(change_tag(&bytes), base, "byte {at}");
        }
    }
}
