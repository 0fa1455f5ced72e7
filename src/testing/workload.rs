//! Seeded random SQL: what an application may do to a database, in an order nobody would write down.
//!
//! The same seed gives the same statements for the same answers. Nothing here is random to SQLite itself: no
//! `random()`, no time, so that two databases that run the same steps end up alike.

use crate::ltx::sample::Random;

/// What a run may do.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Journal mode at the start.
    pub journal: &'static str,
    /// `locking_mode=EXCLUSIVE`; then there is one connection.
    pub exclusive: bool,
    /// The journal mode changes between steps.
    pub switches: bool,
    pub connections: usize,
    /// A second database is attached to every connection, and followed too.
    pub attached: bool,
    /// Who else writes, without the extension.
    pub foreign: Foreign,
    /// The store goes away for a while, again and again.
    pub faults: bool,
    pub steps: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foreign {
    Nobody,
    /// A connection of this process through the base VFS.
    Connection,
    /// Another process.
    Process,
}

/// One thing that happens on both sides.
#[derive(Clone, Debug)]
pub enum Step {
    Sql(usize, String),
    /// One connection closes and opens again.
    Reopen(usize),
    ReopenAll,
    /// The backup interface writes a small database of this page size over main.
    Backup(usize, u32),
    Sync,
    /// The store is away from here on, or back.
    Store(bool),
}

/// What the generator must know of the run.
pub struct Now {
    /// By connection, whether a transaction is open.
    pub open: Vec<bool>,
    pub journal: String,
    /// The store does not answer.
    pub away: bool,
}

pub struct Workload {
    random: Random,
    setting: Setting,
    page_size: u32,
}

impl Workload {
    pub fn new(seed: u64, setting: Setting) -> Workload {
        let mut random = Random::new(seed);
        (0..8).for_each(|_| _ = random.next());
        let page_size = 512 << random.below(8);
        Workload { random, setting, page_size }
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.random.below(end)
    }

    fn one_of<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.below(words.len() as u64) as usize]
    }

    /// Before the first step of the run, on the first connection.
    pub fn first(&mut self) -> Vec<String> {
        let mut sql = vec![format!("PRAGMA page_size={}", self.page_size)];
        sql.push(format!("PRAGMA auto_vacuum={}", self.below(3)));
        if self.setting.attached {
            sql.push(format!("PRAGMA aux.page_size={}", 512 << self.below(8)));
        }
        sql
    }

    /// What every connection is told after it is opened.
    pub fn opened(&mut self) -> Vec<String> {
        let mut sql = Vec::new();
        if self.setting.exclusive {
            sql.push("PRAGMA locking_mode=EXCLUSIVE".into());
        }
        sql.push(format!("PRAGMA journal_mode={}", self.setting.journal));
        if self.setting.exclusive {
            // The first transaction under the lock ends with a commit; see `vfs::main_file`.
            sql.push(format!("PRAGMA user_version={}", self.below(1000)));
        }
        sql.push(format!("PRAGMA cache_size={}", self.one_of(&["5", "10", "2000"])));
        sql.push(format!("PRAGMA mmap_size={}", self.one_of(&["0", "0", "65536", "10000000"])));
        sql.push(format!("PRAGMA synchronous={}", self.one_of(&["OFF", "NORMAL", "FULL"])));
        sql.push(format!("PRAGMA wal_autocheckpoint={}", self.one_of(&["0", "1", "20", "1000"])));
        sql.push(format!("PRAGMA journal_size_limit={}", self.one_of(&["-1", "0", "20000"])));
        sql.push(format!("PRAGMA secure_delete={}", self.one_of(&["0", "1", "FAST"])));
        sql
    }

    pub fn step(&mut self, now: &Now) -> Step {
        if self.setting.faults && self.below(if now.away { 6 } else { 12 }) == 0 {
            return Step::Store(!now.away);
        }
        let on = self.below(now.open.len() as u64) as usize;
        let off = now.journal == "off";
        let quiet = now.open.iter().all(|open| !open);
        if now.open[on] {
            let alone = now.open.iter().filter(|open| **open).count() == 1;
            return match self.below(20) {
                0..=4 => Step::Sql(on, "COMMIT".into()),
                5 | 6 if !off => Step::Sql(on, "ROLLBACK".into()),
                7 => Step::Sql(on, format!("SAVEPOINT s{}", self.below(3))),
                8 => Step::Sql(on, format!("RELEASE s{}", self.below(3))),
                9 if !off => Step::Sql(on, format!("ROLLBACK TO s{}", self.below(3))),
                10 if now.journal == "wal" => Step::Sync,
                11 if !off && alone && !now.away && self.below(3) == 0 => Step::Reopen(on),
                _ => Step::Sql(on, self.change(off)),
            };
        }
        match self.below(40) {
            0..=4 if quiet || now.journal == "wal" => Step::Sync,
            5..=9 => {
                let kind = self.one_of(&["", " IMMEDIATE", " IMMEDIATE", " EXCLUSIVE"]);
                Step::Sql(on, format!("BEGIN{kind}"))
            }
            10 | 11 => Step::Sql(on, "VACUUM".into()),
            12 => Step::Sql(on, format!("PRAGMA page_size={}", 512 << self.below(8))),
            13 => Step::Sql(on, format!("PRAGMA auto_vacuum={}", self.below(3))),
            14 => Step::Sql(on, format!("PRAGMA incremental_vacuum({})", 1 + self.below(9))),
            15..=17 => {
                let kind = self.one_of(&["PASSIVE", "FULL", "RESTART", "TRUNCATE"]);
                Step::Sql(on, format!("PRAGMA wal_checkpoint({kind})"))
            }
            18 | 19 if self.setting.switches => {
                let mode = self.one_of(&["delete", "truncate", "persist", "memory", "wal", "wal", "wal"]);
                Step::Sql(on, format!("PRAGMA journal_mode={mode}"))
            }
            20 if quiet && !now.away => Step::Reopen(on),
            21 if quiet && !now.away => Step::ReopenAll,
            22 if self.below(2) == 0 => Step::Backup(on, 512 << self.below(8)),
            23 => Step::Sql(on, format!("PRAGMA user_version={}", self.below(1000))),
            24 => Step::Sql(on, format!("PRAGMA cache_size={}", self.one_of(&["1", "5", "100"]))),
            _ => Step::Sql(on, self.change(off)),
        }
    }

    /// One statement that changes data or schema. `safe`: it must not fail half-way, for nothing could undo it.
    fn change(&mut self, safe: bool) -> String {
        let schema = if self.setting.attached { self.one_of(&["main.", "aux.", "main."]) } else { "" };
        let table = format!("{schema}t{}", self.below(4));
        match self.below(30) {
            0..=4 => format!("CREATE TABLE IF NOT EXISTS {table}(a INTEGER PRIMARY KEY, b, c TEXT)"),
            5 => format!(
                "CREATE INDEX IF NOT EXISTS {table}i ON t{}(c, b)",
                table.chars().last().unwrap_or('0')
            ),
            6 => format!("DROP TABLE IF EXISTS {table}"),
            7 => format!("DROP INDEX IF EXISTS {table}i"),
            8 => format!("ALTER TABLE {table} ADD COLUMN d{} DEFAULT {}", self.below(3), self.below(100)),
            9 => format!("DELETE FROM {table}"),
            10..=12 => format!("DELETE FROM {table} WHERE a%{}={}", 2 + self.below(5), self.below(2)),
            13..=17 => {
                let (factor, len) = (1 + self.below(1_000_000), self.len());
                let (modulo, rest) = (1 + self.below(12), self.below(12));
                format!("UPDATE {table} SET b={factor}*a, c={} WHERE a%{modulo}={rest}", text(factor, len))
            }
            18 => format!("REINDEX {table}"),
            19 if !safe && self.setting.attached => {
                format!("INSERT INTO main.t0 SELECT * FROM aux.t{}", self.below(4))
            }
            20 => "ANALYZE".into(),
            21 if !safe => format!("INSERT INTO {table}(a, b) SELECT 150-a, b FROM {table}"),
            _ => {
                let (from, count) = (self.below(100), 1 + self.below(30));
                let (factor, len) = (1 + self.below(1_000_000), self.len());
                format!(
                    "WITH RECURSIVE n(a) AS (SELECT {from} UNION ALL SELECT a+1 FROM n WHERE a<{}) \
                     INSERT OR REPLACE INTO {table}(a, b, c) SELECT a, a*{factor}, {} FROM n",
                    from + count,
                    text(factor, len)
                )
            }
        }
    }

    /// Bytes of a row: mostly small, sometimes over several pages.
    fn len(&mut self) -> u64 {
        let most = u64::from(self.page_size * 2).min(6000);
        if self.below(3) == 0 { self.below(most) } else { self.below(100) }
    }
}

/// An SQL expression: a text of `len` bytes that depends on column `a`.
fn text(factor: u64, len: u64) -> String {
    format!("substr(hex(a*{factor}) || printf('%.*c', {len}, char(65+(a*{factor})%26)), 1, {len})")
}
