//! The WAL as the shared wal-index shows it, through one connection's mapping.
//!
//! Regions are those that SQLite mapped for the connection; what another process added is mapped when it is asked
//! for. A region is pinned for one answer only, so that the connection can close at any moment: from then on every
//! answer is "not there".

use crate::capture::WalView;
use crate::ffi::hooks::{ConnectionFile, ShmRegion, ShmView};
use crate::lock::{Mutex, RwLock};
use crate::sqlite::wal_index::{self, Header, Regions, Salts};
use crate::types::Pgno;

pub struct ShmWal {
    file: ConnectionFile,
    // Guards region 0, which every commit looks at.
    first: RwLock<Option<ShmRegion>>,
    // Guards the list of mapped regions.
    regions: Mutex<Vec<Option<ShmRegion>>>,
}

impl ShmWal {
    pub fn new(file: ConnectionFile) -> ShmWal {
        ShmWal { file, first: RwLock::new(None), regions: Mutex::default() }
    }

    /// SQLite mapped a region for the connection.
    pub fn add(&self, region: u32, view: ShmRegion) {
        let mut regions = self.regions.lock();
        if region == 0 {
            // Mapped anew: regions of an earlier mapping are gone with it.
            if regions.first().is_some_and(|r| r.as_ref().is_none_or(|r| r.pin().is_none())) {
                regions.clear();
            }
            *self.first.write() = Some(view.clone());
        }
        let at = region as usize;
        if regions.len() <= at {
            regions.resize(at + 1, None);
        }
        regions[at] = Some(view);
    }

    pub fn is_mapped(&self) -> bool {
        self.first.read().as_ref().is_some_and(|r| r.pin().is_some())
    }

    fn region(&self, at: usize) -> Option<ShmRegion> {
        if let Some(Some(region)) = self.regions.lock().get(at) {
            return Some(region.clone());
        }
        let region = self.file.shm_map(at as u32)?;
        self.add(at as u32, region.clone());
        Some(region)
    }

    /// The regions that list the frames up to `frame`.
    fn regions_for(&self, frame: u32) -> Option<Vec<ShmRegion>> {
        (0..wal_index::regions_for(frame)).map(|at| self.region(at)).collect()
    }

    /// Salts and last frame, to be compared with other positions: both of one moment, or none while somebody commits.
    pub fn position(&self) -> Option<(Salts, u32)> {
        self.header().map(|header| (header.salts, header.mx_frame))
    }

    /// Salts and last frame as they are this moment, unchecked: cheap enough for every commit.
    pub fn glance(&self) -> Option<(u32, u32, u32)> {
        let first = self.first.read();
        let view = first.as_ref()?.pin()?;
        Some((view.load(8), view.load(9), view.load(4)))
    }
}

/// Some regions, pinned.
struct Pins<'a>(Vec<Option<ShmView<'a>>>);

impl Regions for Pins<'_> {
    fn word(&self, region: usize, word: usize) -> Option<u32> {
        self.0.get(region)?.as_ref().map(|view| view.load(word))
    }

    fn fence(&self) {
        if let Some(Some(view)) = self.0.first() {
            view.fence();
        }
    }
}

impl WalView for ShmWal {
    fn header(&self) -> Option<Header> {
        let region = self.region(0)?;
        let pins = Pins(vec![region.pin()]);
        pins.fence();
        wal_index::read_header(&pins)
    }

    fn pages_of(&self, from: u32, to: u32, each: &mut dyn FnMut(Pgno)) -> bool {
        if from >= to {
            return true;
        }
        let Some(regions) = self.regions_for(to) else { return false };
        let pins = Pins(regions.iter().map(ShmRegion::pin).collect());
        (from + 1..=to).try_for_each(|frame| wal_index::pgno_of(&pins, frame).map(&mut *each)).is_some()
    }

    fn find(&self, pages: &[Pgno], mx_frame: u32, frames: &mut Vec<Option<u32>>) -> Result<(), ()> {
        let regions = self.regions_for(mx_frame).ok_or(())?;
        let pins = Pins(regions.iter().map(ShmRegion::pin).collect());
        for &pgno in pages {
            frames.push(wal_index::find(&pins, pgno, mx_frame)?);
        }
        Ok(())
    }

    fn backfill_attempted(&self) -> Option<u32> {
        let region = self.region(0)?;
        let pins = Pins(vec![region.pin()]);
        pins.fence();
        wal_index::backfill_attempted(&pins)
    }

    fn backfilled(&self) -> Option<u32> {
        let region = self.region(0)?;
        let pins = Pins(vec![region.pin()]);
        pins.fence();
        wal_index::backfilled(&pins)
    }
}
