//! The allocator of the tests: counts what each thread has in memory, and ends the process at an allocation that no input
//! should cause, with words that say which input it was.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Largest single allocation while inputs are tried, of any thread.
const SINGLE_MAX: usize = 256 << 20;

struct Counted;

#[global_allocator]
static ALLOCATOR: Counted = Counted;

thread_local! {
    // Bytes in memory now, below 0 where others' are freed, and the most there were.
    static NOW: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

/// Name and seed of the input that is tried now: address and length of the name, for they are read where nothing can be
/// allocated.
static NAME: [AtomicUsize; 2] = [AtomicUsize::new(0), AtomicUsize::new(0)];
static SEED: AtomicU64 = AtomicU64::new(0);

/// Says which input is tried from now on; `None`: none is.
pub fn trying(input: Option<(&'static str, u64)>) {
    let (name, seed) = input.unwrap_or_default();
    SEED.store(seed, Ordering::SeqCst);
    NAME[1].store(name.len(), Ordering::SeqCst);
    NAME[0].store(if name.is_empty() { 0 } else { name.as_ptr() as usize }, Ordering::SeqCst);
}

/// Runs `body`; answers the most bytes that this thread had in memory beyond what it had before.
pub fn measured<R>(body: impl FnOnce() -> R) -> (R, usize) {
    let before = NOW.get();
    PEAK.set(before);
    let result = body();
    (result, usize::try_from(PEAK.get() - before).unwrap_or(0))
}

fn count(bytes: isize) {
    // A thread that ends has none of this any more.
    let _ = NOW.try_with(|now| {
        now.set(now.get() + bytes);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(now.get())));
    });
}

fn check(bytes: usize) {
    if bytes > SINGLE_MAX && NAME[0].load(Ordering::SeqCst) != 0 {
        too_large();
    }
}

#[cold]
fn too_large() -> ! {
    let (name, length) = (NAME[0].load(Ordering::SeqCst), NAME[1].load(Ordering::SeqCst));
    // SAFETY: address and length of a text that lives as long as the process, stored by `trying`.
    let name = unsafe { std::slice::from_raw_parts(name as *const u8, length) };
    let mut digits = [b'0'; 20];
    let (mut at, mut left) = (digits.len(), SEED.load(Ordering::SeqCst));
    while left > 0 || at == digits.len() {
        at -= 1;
        digits[at] = b'0' + (left % 10) as u8;
        left /= 10;
    }
    for part in [
        b"\none allocation of too many bytes; replay: make fuzz N=1 TARGET=",
        name,
        b" SEED=",
        &digits[at..],
        b"\n",
    ] {
        // SAFETY: write(2) of bytes that are there; what became of it is no matter.
        unsafe { libc::write(2, part.as_ptr().cast(), part.len()) };
    }
    std::process::abort()
}

// SAFETY: hands everything to the system's allocator; counting neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        check(layout.size());
        count(layout.size() as isize);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        check(layout.size());
        count(layout.size() as isize);
        // SAFETY: as the caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        check(size);
        count(size as isize - layout.size() as isize);
        // SAFETY: as the caller promises.
        unsafe { System.realloc(memory, layout, size) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_bytes_at_a_time_are_counted() {
        let ((), peak) = measured(|| drop((vec![0u8; 1000], vec![1u8; 2000])));
        assert!((3000..4000).contains(&peak), "{peak}");
        let ((), peak) = measured(|| (0..9).for_each(|_| drop(vec![1u8; 2000])));
        assert!((2000..3000).contains(&peak), "{peak}");
    }
}
