//! How many pages a database can have, by the files that it lies in.
//!
//! The size of a database is a number that page 1, a frame of the WAL or a journal says, in files that anybody may have
//! made. Work and memory grow with it: a page count that the files cannot hold is refused before.
//!
//! Pages that a transaction makes and frees again need not lie anywhere before the next checkpoint; so many are allowed for.

use super::{Files, Shape};
use crate::error::{Error, Result};
use crate::types::PageSize;

/// 16 GiB of pages of 4 KiB; their checksums take 32 MiB.
const UNWRITTEN_PAGES_MAX: u64 = 1 << 22;

/// No database in these files has more pages.
///
/// # Errors
/// `Io`.
pub fn pages_max(files: &dyn Files, page_size: PageSize) -> Result<u64> {
    // In this order: before a WAL is cut off, the database file has grown.
    let wal = files.wal_size()?;
    let bytes = files.database_size()?.saturating_add(wal);
    Ok(bytes.div_ceil(page_size.get().into()) + UNWRITTEN_PAGES_MAX)
}

/// The same shape.
///
/// # Errors
/// `Corrupt` for one that its files cannot hold; `Io`.
pub fn check(files: &dyn Files, shape: Shape) -> Result<Shape> {
    if u64::from(shape.page_count) <= UNWRITTEN_PAGES_MAX {
        return Ok(shape);
    }
    let most = pages_max(files, shape.page_size)?;
    if u64::from(shape.page_count) <= most {
        return Ok(shape);
    }
    Err(Error::corrupt(format!(
        "the database says that it has {} pages of {} bytes, its file and WAL hold no more than {most}: it is damaged; \
         check it with PRAGMA integrity_check",
        shape.page_count, shape.page_size
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::at_rest::{self, Hot};
    use crate::capture::wal_pages::file_shape;
    use crate::error::Kind;
    use crate::sqlite::journal::Playback;
    use crate::types::Pgno;
    use std::collections::BTreeMap;

    /// A database of one page that says how many it has.
    struct One(u32);

    impl Files for One {
        fn read_database(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
            let mut page = vec![0; 512];
            page[..18].copy_from_slice(b"SQLite format 3\0\x02\0");
            page[28..32].copy_from_slice(&self.0.to_be_bytes());
            buffer.fill(0);
            let there = page.get(offset as usize..).unwrap_or_default();
            let count = there.len().min(buffer.len());
            buffer[..count].copy_from_slice(&there[..count]);
            Ok(count)
        }
        fn database_size(&self) -> Result<u64> {
            Ok(512)
        }
        fn read_wal(&self, _: u64, _: &mut [u8]) -> Result<usize> {
            Ok(0)
        }
        fn wal_size(&self) -> Result<u64> {
            Ok(0)
        }
    }

    #[test]
    fn page_count_that_no_file_can_hold_is_refused_before_anything_is_made_of_it() {
        for count in [u32::MAX, UNWRITTEN_PAGES_MAX as u32 + 2] {
            let error = file_shape(&One(count), None).unwrap_err();
            assert!(
                error.kind() == Kind::Corrupt && error.to_string().contains(&count.to_string()),
                "{error}"
            );
            assert!(at_rest::read(&One(count), None).unwrap().is_none());
        }
        let page_size = PageSize::new(512).unwrap();
        let playback =
            Playback { page_size, page_count: u32::MAX, pages: BTreeMap::from([(Pgno::FIRST, 0)]) };
        let hot = Hot { playback, read: &|_, _| Ok(0) };
        assert!(at_rest::read(&One(1), Some(&hot)).unwrap().is_none());
        assert!(file_shape(&One(9), None).unwrap().is_some(), "pages that were freed lie nowhere");
    }
}
