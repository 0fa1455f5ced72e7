//! A node keeps the replica: the product's keeper, at any moment, by a clock that may be off.

use super::counts::What;
use super::node::{Node, Session};
use super::pages::Db;
use super::world::World;
use crate::error::Result;
use crate::staging::sums::Sums;
use crate::testing::mutation::{self, Mutation};
use crate::types::Pgno;
use crate::upkeep::{DatabaseAt, Keeper};

impl Node {
    pub fn try_keep(&mut self, world: &World) {
        // The product keeps a replica once it has acknowledged something itself.
        let is_reached = self.session.as_ref().is_some_and(|session| session.uploader.is_some());
        if is_reached
            && self.is_writable()
            && (!world.with(|inner| inner.plan.leases) || self.holds_lease(world))
        {
            let result = self.keep(world);
            self.told(world, "keeps the replica", result);
        }
    }

    /// Merges, snapshots, retention: whatever is due by the clock of this node.
    fn keep(&mut self, world: &World) -> Result<()> {
        let now = self.now();
        let (levels, policy) = world.with(|inner| (inner.plan.levels.clone(), inner.plan.policy));
        let Node { db, session, .. } = self;
        let session = session.as_mut().expect("BUG: upkeep without a process");
        let Some(newest) = session.state.acknowledged(0) else { return Ok(()) };
        let done = Keeper {
            client: &*session.client,
            copy: &|file| session.sent.open(file),
            levels: &levels,
            policy,
            scratch: session.log.folder(),
            database: &|| database_at(session, db),
            must_stop: &|| false,
        }
        .run(newest, now)?;
        world.with(|inner| inner.counts.add_many(What::Merged, done.created as u64));
        done.merged.map_or(Ok(()), |merged| session.sent.forget_to(merged))
    }
}

/// As `database::upkeep` gives the keeper a database: one that stands at what was acknowledged.
fn database_at(session: &Session, db: &Db) -> Result<Option<DatabaseAt>> {
    let acknowledged = session.state.acknowledged(0);
    let anything = mutation::is(Mutation::SnapshotOfWhatIsThere);
    let Some(at) = session.recorded.filter(|r| anything || acknowledged == Some(r.position.txid)) else {
        return Ok(None);
    };
    let mut sums = Sums::default();
    sums.grow(at.page_count, session.log.folder())?;
    for pgno in (1..=at.page_count).filter_map(Pgno::new) {
        sums.set(pgno, session.checksums.get(pgno))?;
    }
    if session.checksums.total() != at.position.checksum {
        return Ok(None);
    }
    let bytes = db.now().map(|image| image.bytes.clone()).unwrap_or_default();
    let read = move |offset: u64, buffer: &mut [u8]| {
        let there = &bytes[bytes.len().min(offset as usize)..];
        let n = there.len().min(buffer.len());
        buffer[..n].copy_from_slice(&there[..n]);
        Ok(n)
    };
    Ok(Some(DatabaseAt { at, sums, read: Box::new(read) }))
}
