//! What happens to a node from outside: power is lost, people copy, delete and put back what lies on its disk.

use std::path::Path;

use super::counts::What;
use super::node::Node;
use super::opening::Said;
use super::store::Kind;
use super::world::World;
use crate::config::{IfMissing, OnBehind};
use crate::staging::state::State;

/// The words of the state page that a schedule uses, and as much of the page checksums: one page of memory each.
const MARKS: usize = 4096;

impl Node {
    /// What is on disk of the marks from here on, at the least.
    pub fn remember_marks(&mut self) {
        self.marks = head_of(&self.folder.join("state"));
    }

    pub fn remember_marks_of(&mut self, _: &State) {
        self.remember_marks();
    }

    /// Some version of the page checksums that the kernel may have written.
    pub fn remember_map(&mut self) {
        self.map = head_of(&self.folder.join("checksums"));
    }

    /// The machine goes down. What was not synced is there or not: database, marks, page checksums and each group of the log
    /// by themselves.
    pub fn lose_power(&mut self, world: &World) {
        self.go_down(world);
        // One machine with every node, and the folder of the replica.
        if world.with(|inner| inner.objects.kind == Kind::Folder && inner.is_between_all() && inner.fault(4))
        {
            let count = world.with(|inner| inner.nodes.len());
            for id in 0..count {
                if let Some(mut node) = world.with(|inner| inner.nodes[id].take()) {
                    node.go_down(world);
                    world.with(|inner| inner.nodes[id] = Some(node));
                }
            }
            world.with(|inner| inner.lose_names());
        }
    }

    fn go_down(&mut self, world: &World) {
        let name = &self.name;
        world.trace(|| format!("{name} loses power"));
        world.count(What::PowerLost);
        self.killed(world);
        self.boot[1] += 1;
        self.changed_since_boot = false;
        let kept = world.below(self.db.images.len().max(1) as u64) as usize;
        if kept + 1 < self.db.images.len() {
            world.count(What::CommitsLost);
            self.db.images.truncate(kept + 1);
            self.db.changes += 1;
        }
        self.db.sync();
        if world.chance(2) {
            put_head(&self.folder.join("state"), &self.marks);
            world.count(What::MarksLost);
        }
        if world.chance(2) {
            put_head(&self.folder.join("checksums"), &self.map);
        }
        self.lose_groups(world);
    }

    fn lose_groups(&mut self, world: &World) {
        let Ok(entries) = std::fs::read_dir(self.folder.join("ltx")) else { return };
        let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths {
            if self.durable.contains(&path) {
                continue;
            }
            match world.below(4) {
                0 => drop(std::fs::remove_file(&path)),
                1 => drop(std::fs::write(&path, b"")),
                // What the power left is on disk.
                _ => {
                    self.durable.insert(path);
                    continue;
                }
            }
            let name = &self.name;
            world.trace(|| format!("{name} loses {} of its log", path.file_name().unwrap().display()));
            world.count(What::LogLost);
        }
    }

    /// A person does something to a database that nobody has open.
    pub fn by_hand(&mut self, world: &World) {
        if !world.with(|inner| inner.is_between_all()) {
            return;
        }
        if self.session.is_some() {
            self.killed(world);
        }
        let name = self.name.clone();
        let tell = |what: &str| world.trace(|| format!("by hand: {what} of {name}"));
        match world.below(8) {
            0 => {
                tell("the log is deleted, that");
                let _ = std::fs::remove_dir_all(&self.folder);
                self.by_hand = true;
                world.count(What::LogDeleted);
            }
            1 => {
                let Some(backup) = self.backup.clone() else { return };
                tell("an old copy is put back as the database");
                self.db.replace(Some(backup));
                self.db.inode = world.with(|inner| inner.new_inode());
                self.db.cycle += 1;
                (self.by_hand, self.changed_since_boot) = (true, true);
                world.count(What::OldPutBack);
            }
            2 if world.chance(2) => self.empty_beside(world),
            2 => {
                tell("the database is deleted, that");
                self.db.replace(None);
                self.by_hand = true;
                world.count(What::DatabaseDeleted);
            }
            3 => {
                tell("everybody stops, and the replica is emptied, not by somebody");
                world.with(|inner| {
                    inner.stop_all();
                    inner.empty();
                });
                world.count(What::ReplicaEmptied);
            }
            4 | 5 => self.write_without_us(world),
            6 => {
                self.skew_ms = world.with(|inner| inner.draw_skew());
                tell("the clock is set, that");
                world.count(What::SkewedClock);
            }
            _ => self.become_a_clone(world),
        }
    }

    /// The replica is emptied while this node alone has the database open, and finds that with its next group. What it was told of
    /// the store a moment ago may hide that for a while (`upload`), so some time passes.
    fn empty_beside(&mut self, world: &World) {
        world.with(|inner| {
            inner.stop_all();
            inner.is_quiet = true;
        });
        self.open_as(world, Said { on_behind: OnBehind::Auto, if_missing: IfMissing::Refuse });
        if !self.is_writable() || world.with(|inner| inner.plan.leases) {
            return world.with(|inner| inner.is_quiet = false);
        }
        let l0 = world.with(|inner| inner.plan.l0);
        let name = self.name.clone();
        world.trace(|| format!("by hand: the replica is emptied while {name} has it open"));
        world.with(|inner| {
            inner.empty();
            inner.advance(l0.as_millis() as i64);
        });
        world.count(What::ReplicaEmptied);
        self.try_commit(world);
        (0..3).for_each(|_| self.try_work(world));
        world.with(|inner| inner.is_quiet = false);
    }

    /// A program without the extension commits.
    fn write_without_us(&mut self, world: &World) {
        if self.db.now().is_none() {
            return;
        }
        let Some(commit) = world.with(|inner| inner.checker.register.draw()) else { return };
        let image = self.next_image(world, commit);
        self.db.cycle += 1;
        self.changed_since_boot = true;
        self.put(world, commit, image);
        world.count(What::ForeignWrite);
    }

    /// Database and log of another node are copied over those of this one.
    fn become_a_clone(&mut self, world: &World) {
        let others = world.with(|inner| inner.nodes.iter().flatten().map(|n| n.id).collect::<Vec<_>>());
        let Some(&other) = others.get(world.below(others.len().max(1) as u64) as usize) else { return };
        let Some((folder, db)) = world.with(|inner| {
            let other = inner.nodes[other].as_mut()?;
            Some((other.folder.clone(), other.db.clone()))
        }) else {
            return;
        };
        let _ = std::fs::remove_dir_all(&self.folder);
        copy_folder(&folder, &self.folder);
        self.db = db;
        self.db.inode = world.with(|inner| inner.new_inode());
        self.db.sync();
        self.durable.clear();
        (self.by_hand, self.changed_since_boot) = (true, true);
        self.remember_marks();
        self.remember_map();
        let name = &self.name;
        world.trace(|| format!("by hand: {name} becomes a copy of n{other}"));
        world.count(What::Cloned);
    }
}

fn head_of(path: &Path) -> Vec<u8> {
    use std::io::Read;
    let mut bytes = vec![0; MARKS];
    let Ok(mut file) = std::fs::File::open(path) else { return Vec::new() };
    let mut there = 0;
    while let Ok(n) = file.read(&mut bytes[there..])
        && n > 0
    {
        there += n;
    }
    bytes.truncate(there);
    bytes
}

fn put_head(path: &Path, bytes: &[u8]) {
    use std::os::unix::fs::FileExt;
    if let Ok(file) = std::fs::OpenOptions::new().write(true).open(path) {
        let _ = file.write_all_at(bytes, 0);
    }
}

fn copy_folder(from: &Path, to: &Path) {
    let _ = std::fs::create_dir_all(to);
    for entry in std::fs::read_dir(from).into_iter().flatten().flatten() {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() { copy_folder(&from, &to) } else { drop(std::fs::copy(from, to)) }
    }
}
