//! A followed database beside a plain twin: both run the same steps, and the replica must remember what was.
//!
//! ```text
//! step -> live (replvfs) and twin (base VFS): the same answers
//!      -> now and then replica_sync: the image of live under the txid it answers; the twin holds the same rows
//! end  -> every txid of level 0 is restored: equal to the image saved under it, else to some committed image, in
//!         the order in which they were committed; and sound by SQLite's own check
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::Folder;
use super::child::{Process, outcome};
use super::workload::{Foreign, Now, Setting, Step, Workload};
use crate::catalog::Target;
use crate::ffi::engine::Engine;
use crate::ffi::sql::Value;
use crate::replica::{Client, FileReplica};
use crate::restore;
use crate::types::{Level, Txid};

/// A connection of one side.
enum Connection {
    Here(Engine),
    There(Process),
}

impl Connection {
    /// What came of a statement, and whether a transaction is open afterwards.
    fn run(&mut self, sql: &str) -> (String, bool) {
        match self {
            Connection::Here(engine) => (outcome(engine, sql), !engine.is_autocommit()),
            Connection::There(process) => process.run(sql),
        }
    }
}

/// What is known of one followed file.
struct File {
    schema: &'static str,
    path: PathBuf,
    replica: PathBuf,
    /// Committed images in order, no two alike after each other; complete only if `watched`.
    images: Vec<Vec<u8>>,
    saved: BTreeMap<Txid, Vec<u8>>,
}

pub struct World {
    folder: Folder,
    setting: Setting,
    seed: u64,
    workload: Workload,
    files: Vec<File>,
    live: Vec<Connection>,
    twin: Vec<Connection>,
    now: Now,
    /// Every committed image is looked at, through a connection without the extension.
    watched: bool,
    trace: Vec<String>,
}

impl World {
    pub fn new(seed: u64, setting: Setting) -> World {
        let folder = Folder::new();
        let mut files = Vec::new();
        for schema in if setting.attached { vec!["main", "aux"] } else { vec!["main"] } {
            let path = folder.path().join(format!("live/{schema}.db"));
            let replica = folder.path().join(format!("replica/{schema}"));
            files.push(File { schema, path, replica, images: vec![], saved: BTreeMap::new() });
        }
        for name in ["live", "twin", "replica", "out"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        let now = Now { open: vec![], journal: setting.journal.into(), away: false };
        let workload = Workload::new(seed, setting);
        let watched = seed.is_multiple_of(2);
        World {
            folder,
            setting,
            seed,
            workload,
            files,
            live: vec![],
            twin: vec![],
            now,
            watched,
            trace: vec![],
        }
    }

    /// Runs all steps and looks at every txid.
    pub fn run(mut self) {
        self.open_all(true);
        for _ in 0..self.setting.steps {
            let step = self.workload.step(&self.now);
            self.step(&step);
        }
        for on in 0..self.live.len() {
            if self.now.open[on] {
                self.sql(on, "COMMIT");
                // Somebody else may still be in the way.
                self.sql(on, if self.now.journal == "off" { "COMMIT" } else { "ROLLBACK" });
            }
        }
        if self.now.away {
            self.store(false);
        }
        self.sync();
        self.close_all();
        self.check();
    }

    fn count(&self) -> usize {
        let own = if self.setting.exclusive { 1 } else { self.setting.connections };
        own + usize::from(self.setting.foreign != Foreign::Nobody)
    }

    fn is_foreign(&self, on: usize) -> bool {
        self.setting.foreign != Foreign::Nobody && on + 1 == self.count()
    }

    fn open_all(&mut self, first: bool) {
        for on in 0..self.count() {
            let (live, twin) = (self.open(on, true), self.open(on, false));
            self.live.push(live);
            self.twin.push(twin);
            self.now.open.push(false);
            self.opened(on, first && on == 0);
        }
    }

    fn close_all(&mut self) {
        self.live.clear();
        self.twin.clear();
        self.now.open.clear();
    }

    fn open(&mut self, on: usize, live: bool) -> Connection {
        let side = if live { "live" } else { "twin" };
        let main = self.folder.path().join(side).join("main.db");
        if live && self.is_foreign(on) && self.setting.foreign == Foreign::Process {
            return Connection::There(Process::start(&main));
        }
        let followed = live && !self.is_foreign(on);
        let engine = Engine::open(&self.uri(&main, 0, followed), followed.then_some("replvfs"));
        let engine = engine.unwrap_or_else(|error| self.fail(&format!("cannot open: {error}")));
        if self.setting.attached {
            let aux = self.folder.path().join(side).join("aux.db");
            let uri = self.uri(&aux, 1, followed);
            engine.exec(&format!("ATTACH '{uri}' AS aux")).unwrap_or_else(|e| self.fail(&e.to_string()));
        }
        Connection::Here(engine)
    }

    fn uri(&self, path: &Path, file: usize, followed: bool) -> String {
        if !followed {
            return format!("file:{}?vfs=unix", path.display());
        }
        let interval = ["0s", "1ms", "10ms"][(self.seed / 2 % 3) as usize];
        format!(
            "file:{}?vfs=replvfs&replica=file://{}&replica_interval={interval}",
            path.display(),
            self.files[file].replica.display()
        )
    }

    fn opened(&mut self, on: usize, first: bool) {
        if first {
            self.workload.first().iter().for_each(|sql| self.sql(on, sql));
        }
        self.workload.opened().iter().for_each(|sql| self.sql(on, sql));
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Sql(on, sql) => self.sql(*on, sql),
            Step::Reopen(on) => {
                self.trace.push(format!("{on}: reopen"));
                // The old one closes first.
                self.live[*on] = Connection::Here(Engine::open(":memory:", None).unwrap());
                self.twin[*on] = Connection::Here(Engine::open(":memory:", None).unwrap());
                self.live[*on] = self.open(*on, true);
                self.twin[*on] = self.open(*on, false);
                self.now.open[*on] = false;
                self.opened(*on, false);
            }
            Step::ReopenAll => {
                self.trace.push("reopen all".into());
                self.close_all();
                self.open_all(false);
            }
            Step::Backup(on, page_size) => self.backup(*on, *page_size),
            Step::Sync => self.sync(),
            Step::Store(away) => self.store(*away),
        }
    }

    /// The folders of the replicas go away, or come back.
    fn store(&mut self, away: bool) {
        self.trace.push(format!("the store is {}", if away { "away" } else { "back" }));
        for file in &self.files {
            let aside = file.replica.with_extension("away");
            let (from, to) = if away { (&file.replica, &aside) } else { (&aside, &file.replica) };
            // Before the first open there is none.
            let moved = !from.exists() || std::fs::rename(from, to).is_ok();
            assert!(moved, "{} cannot be moved", from.display());
        }
        self.now.away = away;
    }

    fn sql(&mut self, on: usize, sql: &str) {
        self.trace.push(format!("{on}: {sql}"));
        let (live, open) = self.live[on].run(sql);
        let (twin, twin_open) = self.twin[on].run(sql);
        self.now.open[on] = open;
        if live != twin || open != twin_open {
            self.fail(&format!("live answers {live} (open: {open}), its twin {twin} (open: {twin_open})"));
        }
        if let Some(mode) = sql.strip_prefix("PRAGMA journal_mode=")
            && live.contains(&format!("\"{mode}\""))
        {
            self.now.journal = mode.into();
        }
        self.watch();
    }

    fn backup(&mut self, on: usize, page_size: u32) {
        self.trace.push(format!("{on}: backup of a database with page size {page_size}"));
        let rows = self.workload.below(60);
        let mut answers = Vec::new();
        for side in [&self.live, &self.twin] {
            let Connection::Here(engine) = &side[on] else { return };
            let source = Engine::open(":memory:", None).unwrap();
            source
                .exec(&format!(
                    "PRAGMA page_size={page_size}; CREATE TABLE t0(a INTEGER PRIMARY KEY, b, c TEXT);
                     WITH RECURSIVE n(a) AS (SELECT 1 UNION ALL SELECT a+1 FROM n WHERE a<={rows})
                     INSERT INTO t0 SELECT a, a*a, printf('%.*c', a*7, 'x') FROM n"
                ))
                .unwrap();
            answers.push(engine.copy_from(&source).map_err(|e| e.to_string()));
        }
        if answers[0] != answers[1] {
            self.fail(&format!("backup into live and twin: {answers:?}"));
        }
        self.watch();
    }

    /// Remembers what is committed now.
    fn watch(&mut self) {
        if self.watched {
            for at in 0..self.files.len() {
                let Some(image) = self.image(at) else { continue };
                if self.files[at].images.last() != Some(&image) {
                    self.files[at].images.push(image);
                }
            }
        }
    }

    /// The committed pages of a live file as a program without the extension finds them. `None`: not now, for
    /// somebody is in the middle of a transaction.
    fn image(&self, file: usize) -> Option<Vec<u8>> {
        let path = &self.files[file].path;
        if !self.setting.exclusive {
            return Engine::open(path.to_str().unwrap(), None).and_then(|e| e.image("main")).ok();
        }
        if self.now.open.first() == Some(&true) && self.now.journal != "wal" {
            return None;
        }
        // Its owner lets nobody in: what a copy of the files amounts to.
        let copy = self.folder.path().join("copy.db");
        let beside = |path: &Path, suffix: &str| PathBuf::from(format!("{}{suffix}", path.display()));
        for suffix in ["", "-wal", "-journal"] {
            let _ = std::fs::remove_file(beside(&copy, suffix));
            let _ = std::fs::copy(beside(path, suffix), beside(&copy, suffix));
        }
        let engine = Engine::open(copy.to_str().unwrap(), None).unwrap();
        Some(engine.image("main").unwrap_or_else(|e| self.fail(&format!("read a copy: {e}"))))
    }

    fn sync(&mut self) {
        self.trace.push("sync".into());
        if self.now.away {
            return self.sync_in_vain();
        }
        for at in 0..self.files.len() {
            let schema = self.files[at].schema;
            let Connection::Here(engine) = &self.live[0] else { unreachable!("the first is ours") };
            let answer = engine.value(&format!("SELECT replica_sync(20, '{schema}')"));
            let txid = match answer {
                Ok(Value::Integer(txid)) => Txid::new(txid as u64).unwrap(),
                Ok(Value::Null) => continue,
                other => self.fail(&format!("replica_sync of {schema}: {other:?}")),
            };
            let Some(image) = self.image(at) else { self.fail("nobody writes, but it cannot be read") };
            if self.files[at].images.last() != Some(&image) {
                self.files[at].images.push(image.clone());
            }
            if self.files[at].saved.get(&txid).is_some_and(|before| *before != image) {
                self.fail(&format!("{schema} has changed, but stays at txid {txid}"));
            }
            self.trace.push(format!("{schema} is at {txid}"));
            self.files[at].saved.insert(txid, image);
            self.compare_rows(schema);
        }
    }

    /// While the store is away nothing is acknowledged that was not before.
    fn sync_in_vain(&self) {
        for file in &self.files {
            let Connection::Here(engine) = &self.live[0] else { unreachable!("the first is ours") };
            let answer = engine.value(&format!("SELECT replica_sync(0.05, '{}')", file.schema));
            if let Ok(Value::Integer(txid)) = answer {
                let stored = FileReplica::at(file.replica.with_extension("away")).list(Level::CAPTURED);
                let is_there = stored.unwrap_or_default().iter().any(|f| f.range.max.get() == txid as u64);
                assert!(is_there, "txid {txid} is acknowledged, and the store was away");
            }
        }
    }

    /// Both sides hold the same rows.
    fn compare_rows(&self, schema: &str) {
        let [Connection::Here(live), Connection::Here(twin)] = [&self.live[0], &self.twin[0]] else { return };
        let names = format!("SELECT name FROM {schema}.sqlite_schema WHERE type='table' ORDER BY name");
        let tables = live.query(&names).unwrap_or_else(|e| self.fail(&e.to_string()));
        assert_eq!(tables, twin.query(&names).unwrap());
        for table in tables.iter().flatten() {
            let Value::Text(table) = table else { continue };
            let rows = format!("SELECT * FROM {schema}.{table}");
            if live.query(&rows).unwrap() != twin.query(&rows).unwrap() {
                self.fail(&format!("{schema}.{table} differs from the twin's"));
            }
        }
    }

    /// Restores every txid.
    fn check(&self) {
        for (at, file) in self.files.iter().enumerate() {
            let replica = FileReplica::at(file.replica.clone());
            let txids: Vec<Txid> =
                replica.list(Level::CAPTURED).unwrap().iter().map(|found| found.range.max).collect();
            let expected: Vec<Txid> = (1..=txids.len() as u64).filter_map(Txid::new).collect();
            assert_eq!(txids, expected, "level 0 has a gap");
            let mut reached = 0;
            for &txid in &txids {
                let restored = self.restore(&replica, file.schema, txid);
                match file.saved.get(&txid) {
                    Some(saved) => self.compare(file.schema, txid, saved, &restored),
                    None if self.watched => {
                        let found = file.images[reached..].iter().position(|image| *image == restored);
                        match found {
                            Some(further) => reached += further,
                            None => self.fail(&format!(
                                "{} was never in the state of txid {txid} after committed image {reached}; \
                                 differing 512 bytes of each image: {:?}",
                                file.schema,
                                file.images
                                    .iter()
                                    .map(|image| differing(image, &restored))
                                    .collect::<Vec<_>>()
                            )),
                        }
                    }
                    None => {}
                }
            }
            if let Some(last) = file.saved.last_key_value() {
                let image = self.image(at).unwrap_or_else(|| self.fail("closed, but it cannot be read"));
                self.compare(file.schema, *last.0, last.1, &image);
            }
        }
    }

    fn restore(&self, replica: &FileReplica, schema: &str, txid: Txid) -> Vec<u8> {
        let output = self.folder.path().join("out").join(format!("{schema}-{txid}.db"));
        let restored = restore::restore(replica, Target::Txid(txid), &output, restore::Options::default());
        restored.unwrap_or_else(|e| self.fail(&format!("restore {schema} at {txid}: {e}")));
        let bytes = std::fs::read(&output).unwrap();
        let engine = Engine::open(output.to_str().unwrap(), None).unwrap();
        let answer = outcome(&engine, "PRAGMA integrity_check");
        if answer != "[[Text(\"ok\")]]" {
            self.fail(&format!("{schema} at {txid} is not sound: {answer}"));
        }
        drop(engine);
        std::fs::remove_file(&output).unwrap();
        bytes
    }

    fn compare(&self, schema: &str, txid: Txid, expected: &[u8], found: &[u8]) {
        if expected == found {
            return;
        }
        self.fail(&format!(
            "{schema} at {txid}: expected {} bytes, found {}, differing 512 bytes: {:?}",
            expected.len(),
            found.len(),
            differing(expected, found)
        ))
    }

    fn fail(&self, text: &str) -> ! {
        let shown = if std::env::var_os("MODEL_SEED").is_some() { self.trace.len() } else { 25 };
        let tail = &self.trace[self.trace.len().saturating_sub(shown)..];
        let name = std::thread::current().name().unwrap_or_default().to_owned();
        panic!(
            "{text}\nlast steps:\n  {}\nreplay: MODEL_SEED={} cargo test {name} -- --exact --nocapture",
            tail.join("\n  "),
            self.seed
        );
    }
}

/// Where two images differ, in blocks of 512 bytes, the first few; and their lengths where those differ.
fn differing(one: &[u8], other: &[u8]) -> (usize, Vec<usize>) {
    let unequal = one.chunks(512).zip(other.chunks(512)).enumerate().filter(|(_, (a, b))| a != b);
    let at: Vec<usize> = unequal.map(|(at, _)| at).collect();
    (at.len() + one.len().abs_diff(other.len()) / 512, at.into_iter().take(4).collect())
}

/// Runs a setting with as many seeds as are asked for: `MODEL_RUNS` so many, else `few`; from `MODEL_SEED` on, which
/// alone is one.
pub fn run(setting: Setting, few: u64) {
    let number = |name| {
        let text = std::env::var(name).ok().filter(|text| !text.is_empty());
        text.map(|text| text.parse::<u64>().expect(name))
    };
    let (first, runs) = (number("MODEL_SEED"), number("MODEL_RUNS"));
    let count = runs.unwrap_or(if first.is_some() { 1 } else { few });
    let first = first.unwrap_or(0);
    for seed in first..first + count {
        World::new(seed, setting).run();
    }
}
