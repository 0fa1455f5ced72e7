//! The end of a schedule: no more faults, everything that is under way arrives, every node is opened and works. Then it is
//! Live, Fenced or refused, and nothing is lost.

use super::counts::What;
use super::node::Node;
use super::opening::Said;
use super::pages::total;
use super::reader;
use super::store::New;
use super::term::LIFE;
use super::world::World;
use crate::capture::Phase;
use crate::config::{IfMissing, OnBehind};
use crate::ltx::name;
use crate::types::{Checksum, Level, Timestamp};
use std::path::{Path, PathBuf};

/// Cycles until a node has nothing to do any more.
const CYCLES: u32 = 4;

impl World {
    pub fn end(&self) {
        self.with(|inner| {
            inner.trace(|| "no more faults".into());
            inner.is_quiet = true;
            inner.deliver_all();
        });
        let count = self.with(|inner| inner.nodes.len());
        for id in 0..count {
            let node = self.with(|inner| inner.nodes[id].take()).expect("BUG: a node is free");
            self.act(node, Node::come_to_rest);
        }
        let checked = self.with(|inner| inner.checker.check_newest(&inner.objects));
        self.require(checked);
        if self.chance(3)
            && self.with(|inner| inner.checker.end().is_some() && inner.objects.iter().next().is_some())
        {
            let folder =
                self.with(|inner| inner.nodes[0].as_ref().map(|node| node.folder.with_extension("end")));
            reader::read_newest(self, &folder.expect("BUG: a node is free"));
        }
    }
}

impl Node {
    fn come_to_rest(&mut self, world: &World) {
        if self.session.is_none() {
            self.open_as(world, Said { on_behind: OnBehind::Auto, if_missing: IfMissing::Restore });
        }
        if world.with(|inner| inner.plan.leases) {
            // Whoever holds the lease, it ends; what waits for one is sent under the next.
            world.with(|inner| inner.advance(3 * LIFE.as_millis() as i64));
        }
        for _ in 0..CYCLES {
            if world.with(|inner| inner.plan.leases) && !self.holds_lease(world) {
                self.tend_lease(world);
            }
            self.try_work(world);
        }
        match self.phase() {
            Some(Phase::Live | Phase::Cold) => {
                world.count(What::EndedLive);
                self.check_at_rest(world);
            }
            Some(_) => world.count(What::EndedFenced),
            None if self.refused => world.count(What::EndedRefused),
            None => {
                world.breach(format!("{} neither opens nor is refused while the store is quiet", self.name))
            }
        }
        self.check_tails(world);
        self.release_lease(world);
    }

    /// The database is where the log is, and the replica has it.
    fn check_at_rest(&self, world: &World) {
        let session = self.session.as_ref().expect("BUG: live without a process");
        let recorded = session.recorded.map(|r| r.position);
        let acknowledged = session.state.acknowledged(0);
        // A new database that continues a history begins with its first commit.
        if self.db.now().is_some() && recorded.map(|p| p.checksum) != self.db.state() {
            world.breach(format!(
                "{} is live at {recorded:?}, its database at {:?}",
                self.name,
                self.db.state()
            ));
        }
        if recorded.map(|p| p.txid) != acknowledged {
            world.breach(format!(
                "{} is live at {recorded:?}, and {acknowledged:?} is acknowledged",
                self.name
            ));
        }
    }

    /// Whatever did not come into the history is kept so that it can be restored.
    fn check_tails(&self, world: &World) {
        let mut files = Vec::new();
        collect(&self.folder.join("saved"), &mut files);
        if self.phase() == Some(Phase::Fenced) {
            let session = self.session.as_ref().expect("BUG: fenced without a process");
            let acknowledged = session.state.acknowledged(0);
            let unsent = session.groups.after(acknowledged);
            files.extend(unsent.iter().map(|&txid| session.log.path_of(txid)));
        }
        let read = |path: &PathBuf| {
            let range = path.file_name().and_then(|name| name::parse(name.to_str()?)).expect("BUG: a name");
            let bytes = std::fs::read(path).expect("BUG: it was listed");
            New::of(Level::CAPTURED, range, Timestamp(0), bytes)
                .map_err(|error| format!("{}: {error}", path.display()))
        };
        let tails: Result<Vec<New>, String> = files.iter().map(read).collect();
        match tails {
            Ok(tails) => {
                let mut all = tails.clone();
                if self.refused {
                    // It keeps its log as it is, and a saved file may follow what is in there.
                    let mut in_log = Vec::new();
                    collect(&self.folder.join("ltx"), &mut in_log);
                    all.extend(in_log.iter().filter_map(|path| read(path).ok()));
                }
                tails.iter().for_each(|tail| self.check_tail(world, tail, &all));
            }
            Err(why) => world.breach(format!("a saved tail is damaged: {why}")),
        }
    }

    fn check_tail(&self, world: &World, tail: &New, all: &[New]) {
        let proof = tail.header().proof.expect("BUG: a group of ours is proven");
        let follows_one = all.iter().any(|other| other.header().proof.is_some_and(|p| p.post == proof.pre));
        let checked = world.with(|inner| {
            let checker = &inner.checker;
            if !follows_one && !checker.was_history(proof.pre) {
                return Err(format!("a saved tail of {} follows {}, which is nowhere", self.name, proof.pre));
            }
            if checker.register.get(proof.post).is_none() {
                return Err(format!(
                    "a saved tail of {} leads to {}, which nobody committed",
                    self.name, proof.post
                ));
            }
            let mut sums = checker.register.get(proof.pre).map(|c| c.sums.clone()).unwrap_or_default();
            sums.resize(tail.header().page_count as usize, Checksum::EMPTY);
            tail.pages().iter().for_each(|&(pgno, sum)| sums[pgno.get() as usize - 1] = sum);
            if total(&sums) != proof.post {
                return Err(format!("a saved tail of {} does not make what it says", self.name));
            }
            inner.counts.add(What::SavedTail);
            Ok(())
        });
        world.require(checked);
    }
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "ltx") {
            files.push(path);
        }
    }
    files.sort();
}
