//! What the files that a merged file was made from give together: of each page the newest.

use crate::error::{Error, Kind, Result};
use crate::ltx::page_checksum;
use crate::replica::{Client, open_decoder};
use crate::staging::sums::Sums;
use crate::types::{Checksum, FileInfo, PageSize, Pgno, TxidRange};
use std::path::Path;

pub struct Fold {
    page_size: PageSize,
    page_count: u32,
    sums: Sums,
    pages: u32,
    /// Bytes read for it.
    pub bytes: u64,
}

/// Files of finer levels that together hold exactly the txids of `file`, oldest first. `None` when they are not there.
pub fn sources<'a>(
    listing: impl Iterator<Item = &'a FileInfo> + Clone,
    file: &FileInfo,
) -> Option<Vec<&'a FileInfo>> {
    let TxidRange { min, max } = file.range;
    let inside = listing.filter(|f| f.level < file.level && f.range.min >= min && f.range.max <= max);
    let mut inside: Vec<&FileInfo> = inside.collect();
    inside.sort_by_key(|f| f.range.min);
    let (mut found, mut end, mut at) = (Vec::new(), min.get() - 1, 0);
    while end < max.get() {
        let mut best: Option<&FileInfo> = None;
        while let Some(next) = inside.get(at).filter(|f| f.range.min.get() <= end + 1) {
            best = if best.is_none_or(|b| b.range.max < next.range.max) { Some(next) } else { best };
            at += 1;
        }
        let step = best.filter(|f| f.range.max.get() > end)?;
        end = step.range.max.get();
        found.push(step);
    }
    Some(found)
}

impl Fold {
    /// Reads the sources. `None` when one of them went, is damaged, which is a finding of its own, has another
    /// page size, or says that there are more than `pages_max` pages.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn of(
        client: &dyn Client,
        sources: &[FileInfo],
        pages_max: u64,
        scratch: &Path,
    ) -> Result<Option<Fold>> {
        let mut fold: Option<Fold> = None;
        for source in sources {
            match Fold::add(&mut fold, client, source, pages_max, scratch) {
                Ok(true) => {}
                Ok(false) => return Ok(None),
                Err(e) if matches!(e.kind(), Kind::NotFound | Kind::Conflict | Kind::Corrupt) => {
                    return Ok(None);
                }
                Err(e) => return Err(e),
            }
        }
        Ok(fold)
    }

    fn add(
        fold: &mut Option<Fold>,
        client: &dyn Client,
        source: &FileInfo,
        pages_max: u64,
        scratch: &Path,
    ) -> Result<bool> {
        let mut decoder = open_decoder(client, source)?;
        let header = *decoder.header();
        let empty =
            Fold { page_size: header.page_size, page_count: 0, sums: Sums::default(), pages: 0, bytes: 0 };
        let fold = fold.get_or_insert(empty);
        if fold.page_size != header.page_size || u64::from(header.page_count) > pages_max {
            return Ok(false);
        }
        fold.sums.grow(header.page_count, scratch)?;
        let mut page = vec![0; header.page_size.bytes()];
        while let Some(pgno) = decoder.next_page(&mut page)? {
            let before = fold.sums.set(pgno, Some(page_checksum(pgno, &page)))?;
            fold.pages += u32::from(before.is_none());
        }
        for pgno in (header.page_count..fold.page_count).filter_map(|before| Pgno::new(before + 1)) {
            fold.pages -= u32::from(fold.sums.set(pgno, None)?.is_some());
        }
        fold.page_count = header.page_count;
        fold.bytes += decoder.bytes();
        Ok(true)
    }

    /// Whether the merged file's page is the right one.
    ///
    /// # Errors
    /// Those of the scratch file.
    pub fn has(&mut self, pgno: Pgno, sum: Checksum) -> Result<bool> {
        Ok(self.sums.get(pgno)? == Some(sum))
    }

    /// What else is wrong with a merged file all of whose pages are right.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn finish(&self, name: &str, page_count: u32, pages: u32) -> Result<()> {
        if page_count != self.page_count {
            return Err(Error::corrupt(format!(
                "{name} makes the database {page_count} pages long, the files it merges {}",
                self.page_count
            )));
        }
        if pages != self.pages {
            return Err(Error::corrupt(format!(
                "{name} holds {pages} pages, the files it merges {}",
                self.pages
            )));
        }
        Ok(())
    }
}
