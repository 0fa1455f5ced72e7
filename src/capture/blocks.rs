//! Blocks of memory for the pages of a group, kept from one group to the next.
//!
//! What is mapped, touched and unmapped for each group interrupts the application's thread on its core, as both share one
//! address space: at 30,000 transactions a second that was one transaction in a hundred. A block is never given to the
//! allocator, whose arenas would keep it with each thread ([`Scratch`]).

use crate::error::Result;
use crate::fs::Scratch;
use crate::lock::Mutex;

/// A multiple of every page size.
pub const BLOCK: usize = 256 << 10;
/// Bytes of pages that a group holds in memory, and of blocks that are kept for all databases. A group of a busy writer is
/// smaller; a bulk load is not.
pub const MEMORY_MAX: usize = 8 << 20;

// Guards what is kept, for a few instructions; who finds it taken, as a forked child may for ever, goes without.
static KEPT: Mutex<Kept> = Mutex::new(Kept { blocks: Vec::new(), was_used: false });

struct Kept {
    blocks: Vec<Scratch>,
    /// Since the last look.
    was_used: bool,
}

impl Kept {
    fn give(&mut self, blocks: &mut Vec<Scratch>) {
        let room = (MEMORY_MAX / BLOCK).saturating_sub(self.blocks.len()).min(blocks.len());
        self.blocks.extend(blocks.drain(..room));
        self.was_used = true;
    }

    fn forget_unused(&mut self) {
        if !std::mem::take(&mut self.was_used) {
            self.blocks.clear();
        }
    }
}

/// A block whose bytes are whatever they are.
///
/// # Errors
/// `Full` when there is no memory.
pub fn take() -> Result<Scratch> {
    match KEPT.try_lock().and_then(|mut kept| kept.blocks.pop()) {
        Some(block) => Ok(block),
        None => Scratch::new(BLOCK),
    }
}

/// Gives blocks back; those for which there is no room are unmapped.
pub fn give(mut blocks: Vec<Scratch>) {
    if !blocks.is_empty()
        && let Some(mut kept) = KEPT.try_lock()
    {
        kept.give(&mut blocks);
    }
}

/// Unmaps what nobody has used since the last time. The worker asks for it at each look at its databases.
pub fn forget_unused() {
    if let Some(mut kept) = KEPT.try_lock() {
        kept.forget_unused();
    }
}

/// Unmaps everything that is kept: no database is open.
pub fn forget() {
    if let Some(mut kept) = KEPT.try_lock() {
        kept.blocks.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_kept_up_to_their_room_and_until_nobody_uses_them() {
        let mut kept = Kept { blocks: Vec::new(), was_used: false };
        let room = MEMORY_MAX / BLOCK;
        let mut blocks: Vec<_> = (0..room + 2).map(|_| Scratch::new(BLOCK).unwrap()).collect();
        kept.give(&mut blocks);
        assert_eq!((kept.blocks.len(), blocks.len()), (room, 2));
        kept.forget_unused();
        assert_eq!(kept.blocks.len(), room, "used since the last time");
        kept.forget_unused();
        assert!(kept.blocks.is_empty());
    }
}
