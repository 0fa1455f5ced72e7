//! Somebody restores while the replica changes: what comes out is a state of the history, or an error.

use std::num::NonZeroUsize;
use std::path::Path;

use super::client::SimClient;
use super::counts::What;
use super::pages::{Commits, Image};
use super::world::World;
use crate::catalog::Target;
use crate::restore::{self, Options};
use crate::types::{Position, Txid};

/// Restores by the product; the newest state, or one of the last.
pub fn read(world: &World, output: &Path) {
    let (owed, end) = world.with(|inner| (inner.checker.owed(), inner.checker.end()));
    let target = match end {
        Some(end) if world.chance(2) => {
            let back = world.below(4).min(end.txid.get() - 1);
            Txid::new(end.txid.get() - back).map_or(Target::Newest, Target::Txid)
        }
        _ => Target::Newest,
    };
    read_at(world, output, target, owed);
}

/// Restores the newest state, which must be possible.
pub fn read_newest(world: &World, output: &Path) {
    let owed = world.with(|inner| inner.checker.owed());
    if !read_at(world, output, Target::Newest, owed) && !owed.is_empty() {
        world.breach("the newest state cannot be restored while the store is quiet");
    }
}

fn read_at(world: &World, output: &Path, target: Target, owed: Commits) -> bool {
    let client = SimClient::new(world, "a reader");
    let _ = std::fs::remove_file(output);
    let options = Options { parallelism: NonZeroUsize::new(1), ..Options::default() };
    let restored = restore::restore(&client, target, output, options);
    let restored = match restored {
        Ok(restored) => restored,
        Err(error) => {
            world.count(What::RestoreFailed);
            world.trace(|| format!("a reader of {target:?} is refused: {error}"));
            return false;
        }
    };
    world.count(What::Restored);
    let image = Image::of(std::fs::read(output).expect("BUG: it was restored"));
    let _ = std::fs::remove_file(output);
    let position = Position { txid: restored.position.txid, checksum: image.state };
    world.trace(|| format!("a reader of {target:?} gets {position}"));
    world.require(world.with(|inner| inner.checker.check_state(position)));
    if let Target::Txid(txid) = target
        && txid != position.txid
    {
        world.breach(format!("a reader of txid {txid} gets {position}"));
    }
    if target == Target::Newest {
        world.require(
            world.with(|inner| inner.checker.check_holds(position, owed.without(inner.checker.waived()))),
        );
    }
    true
}
