//! One number a page: in memory, or in a scratch file when there are too many.

use crate::error::{Error, Result};
use crate::fs::durable::Temp;
use crate::types::{Checksum, Pgno};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Page checksums kept in memory: a database of 16 GiB with pages of 4 KiB.
pub const MEMORY_BYTES_MAX: usize = 32 << 20;
/// Numbers of the scratch file that are read and written at once.
const WINDOW: usize = 8 << 10;

/// The checksum of each page from 1; `None` for a page that is not there.
pub struct Sums {
    count: u32,
    store: Store,
    /// Largest count that stays in memory.
    memory_max: u32,
}

enum Store {
    Memory(Vec<u64>),
    Scratch(Scratch),
}

impl Default for Sums {
    fn default() -> Sums {
        Sums::with_memory((MEMORY_BYTES_MAX / size_of::<u64>()) as u32)
    }
}

impl Sums {
    fn with_memory(memory_max: u32) -> Sums {
        Sums { count: 0, store: Store::Memory(Vec::new()), memory_max }
    }

    /// Makes room for `count` pages at least; those that are new are not there yet.
    ///
    /// # Errors
    /// Those of a file in `scratch`.
    pub fn grow(&mut self, count: u32, scratch: &Path) -> Result<()> {
        if count <= self.count {
            return Ok(());
        }
        match &mut self.store {
            Store::Memory(sums) if count <= self.memory_max => {
                // What a vector takes ahead would go past the most that is kept in memory.
                let room = sums.capacity().saturating_mul(2).clamp(count as usize, self.memory_max as usize);
                sums.reserve_exact(room - sums.len());
                sums.resize(count as usize, 0);
            }
            Store::Memory(sums) => {
                let mut file = Scratch::new(scratch)?;
                for (index, sum) in sums.iter().enumerate() {
                    file.set(index as u64, *sum)?;
                }
                self.store = Store::Scratch(file);
            }
            Store::Scratch(_) => {}
        }
        self.count = count;
        Ok(())
    }

    /// # Errors
    /// `Io` of the scratch file.
    pub fn get(&mut self, pgno: Pgno) -> Result<Option<Checksum>> {
        let index = pgno.get() - 1;
        if index >= self.count {
            return Ok(None);
        }
        let sum = match &mut self.store {
            Store::Memory(sums) => sums[index as usize],
            Store::Scratch(file) => file.get(u64::from(index))?,
        };
        Ok(Checksum::from_wire(sum))
    }

    /// Puts a page's checksum in place and answers the one before.
    ///
    /// # Errors
    /// `Io` or `Full` of the scratch file.
    ///
    /// # Panics
    /// For a page past the room that was made.
    pub fn set(&mut self, pgno: Pgno, sum: Option<Checksum>) -> Result<Option<Checksum>> {
        assert!(pgno.get() <= self.count, "BUG: room is made before a page is noted");
        let before = self.get(pgno)?;
        let (index, sum) = (pgno.get() - 1, sum.map_or(0, Checksum::get));
        match &mut self.store {
            Store::Memory(sums) => sums[index as usize] = sum,
            Store::Scratch(file) => file.set(u64::from(index), sum)?,
        }
        Ok(before)
    }
}

/// A file of numbers, of which one window is in memory. What lies past its end is 0.
struct Scratch {
    temp: Temp,
    window: Vec<u8>,
    /// Number of the window.
    at: u64,
    is_changed: bool,
}

impl Scratch {
    fn new(folder: &Path) -> Result<Scratch> {
        let temp = Temp::unnamed(&folder.join("verify"))?;
        Ok(Scratch { temp, window: vec![0; WINDOW * 8], at: 0, is_changed: false })
    }

    fn get(&mut self, index: u64) -> Result<u64> {
        let at = self.turn_to(index)?;
        Ok(u64::from_ne_bytes(self.window[at..at + 8].try_into().expect("BUG: a range of 8 bytes")))
    }

    fn set(&mut self, index: u64, value: u64) -> Result<()> {
        let at = self.turn_to(index)?;
        self.window[at..at + 8].copy_from_slice(&value.to_ne_bytes());
        self.is_changed = true;
        Ok(())
    }

    /// Brings the window that holds `index` into memory; answers where in it.
    fn turn_to(&mut self, index: u64) -> Result<usize> {
        let (wanted, at) = (index / WINDOW as u64, (index % WINDOW as u64) as usize * 8);
        if wanted == self.at {
            return Ok(at);
        }
        let offset = |window: u64| window * (WINDOW as u64) * 8;
        if self.is_changed {
            let written = self.temp.file().write_all_at(&self.window, offset(self.at));
            written.map_err(|e| Error::io("write", self.temp.path(), e))?;
            self.is_changed = false;
        }
        let mut filled = 0;
        while filled < self.window.len() {
            let read = self.temp.file().read_at(&mut self.window[filled..], offset(wanted) + filled as u64);
            match read {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::io("read", self.temp.path(), e)),
            }
        }
        self.window[filled..].fill(0);
        self.at = wanted;
        Ok(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ltx::sample::Random;
    use crate::testing::Folder;

    #[test]
    fn a_scratch_file_holds_what_memory_would() {
        let folder = Folder::new();
        let (mut small, mut large) = (Sums::with_memory(100), Sums::with_memory(1 << 20));
        let mut random = Random::new(1);
        for count in [50, 100, 101, 60_000] {
            for sums in [&mut small, &mut large] {
                sums.grow(count, folder.path()).unwrap();
            }
            for _ in 0..2000 {
                let pgno = Pgno::new(1 + random.below(u64::from(count)) as u32).unwrap();
                let sum = (random.below(5) > 0).then(|| Checksum::from_crc(random.next()));
                assert_eq!(small.set(pgno, sum).unwrap(), large.set(pgno, sum).unwrap());
            }
        }
        assert!(matches!(small.store, Store::Scratch(_)) && matches!(large.store, Store::Memory(_)));
        let mut nearly = Sums::with_memory(1000);
        (1..=1000).for_each(|count| nearly.grow(count, folder.path()).unwrap());
        assert!(
            matches!(&nearly.store, Store::Memory(sums) if sums.capacity() == 1000),
            "no room past the most"
        );
        for pgno in (1..=60_001).map(|n| Pgno::new(n).unwrap()) {
            assert_eq!(small.get(pgno).unwrap(), large.get(pgno).unwrap(), "page {pgno}");
        }
    }
}
