//! Records that lie beside each other in a file: read at once, decoded, checked against the index, written.

use super::pages::Runs;
use super::survey::Open;
use super::{Attempt, Setback, doubt};
use crate::ltx::index::Entry;
use crate::ltx::parts::{Records, Sum};
use crate::ltx::{Crc64, Damage};
use crate::replica::Client;
use crate::types::{Checksum, Pgno};
use std::sync::Arc;

/// Compressed bytes of a batch, but for a last record, and its records.
pub const BYTES: u64 = if cfg!(test) { 2 << 10 } else { 512 << 10 };
pub const RECORDS: usize = if cfg!(test) { 16 } else { 4096 };

/// A record as the index has it.
#[derive(Clone, Copy, Debug)]
pub struct Planned {
    pub pgno: Pgno,
    pub length: u32,
    /// The output takes this page from this record.
    pub is_wanted: bool,
}

pub struct Batch {
    pub file: Arc<Open>,
    /// Its place among the batches of its file.
    pub number: usize,
    pub offset: u64,
    pub bytes: u64,
    pub records: Vec<Planned>,
    /// Unwanted records are decoded too, for the file checksum.
    pub is_summed: bool,
}

/// What a batch gave.
pub struct Done {
    /// Of the pages written, together and each.
    pub checksum: Checksum,
    pub pages: Vec<(Pgno, Checksum)>,
    /// Of the records, where they count for the file checksum.
    pub sum: Option<Sum>,
}

/// What one thread works with, batch after batch.
pub struct Bench<'a> {
    client: &'a dyn Client,
    records: Records,
    runs: Runs<'a>,
    input: Vec<u8>,
    /// Say the checksum of each page.
    page_checksums: bool,
}

impl<'a> Bench<'a> {
    pub fn new(client: &'a dyn Client, records: Records, runs: Runs<'a>, page_checksums: bool) -> Bench<'a> {
        Bench { client, records, runs, input: Vec::new(), page_checksums }
    }

    /// Does a batch.
    ///
    /// # Errors
    /// `Doubt` for damage; `Changed`, `Failed`.
    pub fn work(&mut self, batch: &Batch) -> Attempt<Done> {
        let input = std::mem::take(&mut self.input);
        let (done, input) = self.work_with(batch, input);
        self.input = input;
        done
    }

    fn work_with(&mut self, batch: &Batch, mut input: Vec<u8>) -> (Attempt<Done>, Vec<u8>) {
        let (from, to) = (batch.offset as usize, (batch.offset + batch.bytes) as usize);
        if let Some(content) = &batch.file.stored.content {
            return (self.decode(batch, &content[from..to]), input);
        }
        // What is there stays: it is written over.
        if input.len() < to - from {
            input.resize(to - from, 0);
        }
        let bytes = &mut input[..to - from];
        let done = match self.client.read_at(&batch.file.stored.file, batch.offset, bytes) {
            Ok(()) => self.decode(batch, bytes),
            Err(error) => Err(Setback::of(error)),
        };
        (done, input)
    }

    fn decode(&mut self, batch: &Batch, bytes: &[u8]) -> Attempt<Done> {
        let mut done = Done { checksum: Checksum::EMPTY, pages: Vec::new(), sum: None };
        let mut crc = Crc64::new();
        let mut at = 0;
        for planned in &batch.records {
            let offset = batch.offset + at as u64;
            let record = &bytes[at..at + planned.length as usize];
            at += record.len();
            if !planned.is_wanted && !batch.is_summed {
                continue;
            }
            let entry = Entry { pgno: planned.pgno, offset, length: u64::from(planned.length) };
            let damaged = |damage: Damage| doubt(damage.at(&batch.file.stored.name, offset));
            let checksum =
                self.records.decode(entry, record, self.runs.room()?, &mut crc).map_err(damaged)?;
            if planned.is_wanted {
                self.runs.keep(planned.pgno);
                done.checksum = done.checksum.toggle(checksum);
                if self.page_checksums {
                    done.pages.push((planned.pgno, checksum));
                }
            }
        }
        self.runs.flush()?;
        let bytes = batch.records.len() as u64 * self.records.summed_bytes();
        done.sum = batch.is_summed.then(|| Sum { crc: crc.value(), bytes });
        Ok(done)
    }
}
