//! A file mapped into memory, shared between every process that maps it, as words of 64 bits.
//!
//! Words survive the death of a process (the kernel has them), not a loss of power, unless [`SharedMap::sync`]
//! returned. Room on disk is taken before a word is touched: a sparse mapped file on a full disk would end the
//! host with SIGBUS. For the same reason no process may ever shorten such a file. Source: mmap(2), posix_fallocate(3).

use std::fs::{File, OpenOptions};
use std::ops::{Deref, DerefMut};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use crate::error::{Error, Kind, Result};

const WORDS_PER_MEMORY_PAGE: usize = 4096 / 8;

/// A mapped file; no descriptor of it stays open. Words are native-endian; `Sync`, as every word is atomic.
pub struct SharedMap {
    path: PathBuf,
    /// Device and inode: what has the name later may be another file.
    id: (u64, u64),
    words: NonNull<AtomicU64>,
    len_words: usize,
}

// SAFETY: the memory is reached through atomics only, and unmapped by drop or `&mut self` only.
unsafe impl Send for SharedMap {}
// SAFETY: as above.
unsafe impl Sync for SharedMap {}

impl SharedMap {
    /// Maps the file at `path`, made (zeroed) if missing and grown to at least `len_words`; a longer one is
    /// mapped whole.
    ///
    /// # Errors
    /// `Full` without room, `Io`; `Invalid` for a length of 0.
    pub fn open(path: &Path, len_words: usize) -> Result<SharedMap> {
        // Of its owner alone, and not what a link that somebody else put there names.
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW);
        let file = options.open(path).map_err(|e| Error::io("open", path, e))?;
        let len_words = make_room(&file, path, len_words)?;
        let words = map(&file, path, len_words)?;
        Ok(SharedMap { path: path.to_owned(), id: id_of(&file, path)?, words, len_words })
    }

    #[must_use]
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: mapped with this length, page-aligned, until drop; AtomicU64 has the layout of u64.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr(), self.len_words) }
    }

    #[must_use]
    pub fn len_words(&self) -> usize {
        self.len_words
    }

    /// Makes the map at least `len_words` long, new words zero; takes in what another process added, if it must grow.
    ///
    /// # Errors
    /// As `open`; `Conflict` when another file has taken the name. The map is then as before.
    pub fn grow(&mut self, len_words: usize) -> Result<()> {
        // Each new mapping stops every thread of the process for a moment; one for each added word would be felt.
        if len_words <= self.len_words {
            Ok(())
        } else {
            self.map_anew(len_words.next_multiple_of(WORDS_PER_MEMORY_PAGE))
        }
    }

    /// Maps at least so many words, and all that the file has.
    fn map_anew(&mut self, len_words: usize) -> Result<()> {
        let file = OpenOptions::new().read(true).write(true).open(&self.path);
        let file = file.map_err(|e| Error::io("open", &self.path, e))?;
        if id_of(&file, &self.path)? != self.id {
            return Err(Error::conflict(format!("{} was replaced while it was in use", self.path.display())));
        }
        let len_words = make_room(&file, &self.path, len_words)?;
        let words = map(&file, &self.path, len_words)?;
        self.unmap();
        (self.words, self.len_words) = (words, len_words);
        Ok(())
    }

    /// Takes in what another process added to the file; never makes it longer.
    ///
    /// # Errors
    /// As [`SharedMap::grow`].
    pub fn take_in(&mut self) -> Result<()> {
        let bytes = std::fs::metadata(&self.path).map_err(|e| Error::io("size", &self.path, e))?.len();
        let len_words = usize::try_from(bytes).unwrap_or(0) / 8;
        if len_words <= self.len_words { Ok(()) } else { self.map_anew(len_words) }
    }

    /// Returns when all words stored before are on disk.
    ///
    /// # Errors
    /// `Io`; what was lost is unknown then.
    pub fn sync(&self) -> Result<()> {
        // SAFETY: msync(2) on our own mapping.
        let rc = unsafe { libc::msync(self.words.as_ptr().cast(), self.len_words * 8, libc::MS_SYNC) };
        if rc == 0 { Ok(()) } else { Err(Error::io("sync", &self.path, std::io::Error::last_os_error())) }
    }

    fn unmap(&mut self) {
        // SAFETY: munmap(2) of our own mapping, whose borrows have ended (`&mut self`).
        unsafe { libc::munmap(self.words.as_ptr().cast(), self.len_words * 8) };
    }
}

impl Drop for SharedMap {
    fn drop(&mut self) {
        self.unmap();
    }
}

/// Takes room on disk for `len_words`, or for what the file has if that is more; returns the words it holds then.
fn make_room(file: &File, path: &Path, len_words: usize) -> Result<usize> {
    if len_words == 0 {
        return Err(Error::invalid(format!("cannot map 0 words of {}", path.display())));
    }
    let want = words_in(file, path)?.max(len_words);
    loop {
        // SAFETY: posix_fallocate(3) on an open descriptor; allocates what a hole left out, never shortens.
        match unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, (want * 8) as libc::off_t) } {
            0 => return Ok(want),
            libc::EINTR => {}
            code => return Err(Error::io("allocate", path, std::io::Error::from_raw_os_error(code))),
        }
    }
}

fn id_of(file: &File, path: &Path) -> Result<(u64, u64)> {
    let metadata = file.metadata().map_err(|e| Error::io("look at", path, e))?;
    Ok((metadata.dev(), metadata.ino()))
}

fn words_in(file: &File, path: &Path) -> Result<usize> {
    let bytes = file.metadata().map_err(|e| Error::io("size", path, e))?.len();
    Ok(usize::try_from(bytes).unwrap_or(0) / 8)
}

fn map(file: &File, path: &Path, len_words: usize) -> Result<NonNull<AtomicU64>> {
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: mmap(2) of an open file whose first len_words * 8 bytes are allocated.
    let memory = unsafe {
        libc::mmap(std::ptr::null_mut(), len_words * 8, access, libc::MAP_SHARED, file.as_raw_fd(), 0)
    };
    if memory == libc::MAP_FAILED {
        return Err(Error::io("map", path, std::io::Error::last_os_error()));
    }
    Ok(NonNull::new(memory).expect("BUG: mmap answers no NULL").cast())
}

/// Memory of its own that goes back to the system when it is dropped. What several threads allocate and free in turn
/// otherwise stays with each of them, in the allocator's arenas.
pub struct Scratch {
    bytes: NonNull<u8>,
    len: usize,
}

// SAFETY: owned memory, reached through `&self` for reading and `&mut self` for writing only.
unsafe impl Send for Scratch {}
// SAFETY: as above.
unsafe impl Sync for Scratch {}

impl Scratch {
    /// Zeroed.
    ///
    /// # Errors
    /// `Full` when there is no memory.
    pub fn new(len: usize) -> Result<Scratch> {
        let (protection, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: mmap(2): a new mapping, at no place in particular.
        let memory = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, -1, 0) };
        if memory == libc::MAP_FAILED {
            let why = std::io::Error::last_os_error();
            return Err(Error::new(Kind::Full, format!("cannot allocate {len} bytes: {why}")));
        }
        let bytes = NonNull::new(memory.cast()).expect("BUG: a mapping at address 0");
        Ok(Scratch { bytes, len })
    }
}

impl Deref for Scratch {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: mapped with this length until drop.
        unsafe { std::slice::from_raw_parts(self.bytes.as_ptr(), self.len) }
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and reached through nothing else.
        unsafe { std::slice::from_raw_parts_mut(self.bytes.as_ptr(), self.len) }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // SAFETY: munmap(2) of what `new` mapped, once.
        unsafe { libc::munmap(self.bytes.as_ptr().cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Folder;
    use std::sync::atomic::Ordering::Relaxed;

    #[test]
    fn two_maps_of_one_file_share_words_and_growth() {
        let folder = Folder::new();
        let path = folder.path().join("shared");
        let mut one = SharedMap::open(&path, 3).expect("open");
        let two = SharedMap::open(&path, 1).expect("open again");
        assert_eq!((one.len_words(), two.len_words()), (3, 3));
        one.words()[2].store(42, Relaxed);
        assert_eq!(two.words()[2].load(Relaxed), 42);
        one.grow(100_000).expect("grow");
        one.words()[99_999].store(7, Relaxed);
        let mut two = two;
        two.grow(4).expect("take in what the other added");
        assert_eq!(two.len_words(), one.len_words());
        assert_eq!((two.words()[2].load(Relaxed), two.words()[99_999].load(Relaxed)), (42, 7));
        one.sync().expect("sync");
        assert_eq!(std::fs::read(&path).expect("read")[16], 42);
    }

    #[test]
    fn room_on_disk_is_taken_at_once() {
        let folder = Folder::new();
        let path = folder.path().join("room");
        let _map = SharedMap::open(&path, 131_072).expect("open");
        let blocks = std::fs::metadata(&path).expect("stat").blocks();
        assert!(blocks * 512 >= 1_048_576, "{blocks} blocks of 512 bytes");
    }

    #[test]
    fn a_file_that_took_the_name_is_not_mapped_in_place_of_the_old_one() {
        let folder = Folder::new();
        let path = folder.path().join("old");
        let mut map = SharedMap::open(&path, 8).expect("open");
        map.words()[7].store(1, Relaxed);
        std::fs::rename(&path, folder.path().join("away")).expect("rename");
        std::fs::write(&path, [0; 1 << 16]).expect("another file");
        map.grow(8).expect("nothing to do");
        assert_eq!(map.grow(4096).expect_err("not this file").kind(), crate::error::Kind::Conflict);
        assert_eq!((map.len_words(), map.words()[7].load(Relaxed)), (8, 1));
    }

    #[test]
    fn an_empty_map_is_refused() {
        let folder = Folder::new();
        assert_eq!(
            SharedMap::open(&folder.path().join("empty"), 0).err().expect("must fail").kind(),
            crate::error::Kind::Invalid
        );
    }
}
