//! Edges of capture that the random models reach seldom, one test each.

use std::path::Path;

use crate::catalog::Target;
use crate::database::Runtime;
use crate::ffi::engine::Engine;
use crate::ffi::sql::Value;
use crate::replica::{Client, FileReplica};
use crate::restore;
use crate::sqlite::header::{TAG_LEN, TAG_OFFSET, change_tag};
use crate::testing::Folder;
use crate::types::{Level, Txid};

/// A followed database with one row, in its own folder.
struct Followed {
    folder: Folder,
    engine: Engine,
}

impl Followed {
    fn new(first: &str) -> Followed {
        Followed::with("", first)
    }

    fn with(parameters: &str, first: &str) -> Followed {
        let folder = Folder::new();
        let uri = format!(
            "file:{}?vfs=replvfs&replica=file://{}{parameters}",
            folder.path().join("a.db").display(),
            folder.path().join("replica").display()
        );
        let engine = Engine::open(&uri, Some("replvfs")).unwrap();
        engine.exec(first).unwrap();
        engine.exec("CREATE TABLE t(a INTEGER PRIMARY KEY, b); INSERT INTO t VALUES(1, 0)").unwrap();
        Followed { folder, engine }
    }

    fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("a.db")
    }

    fn plain(&self) -> Engine {
        Engine::open(self.path().to_str().unwrap(), None).unwrap()
    }

    /// What an ordinary program finds in the database.
    fn image(&self) -> Vec<u8> {
        self.plain().image("main").unwrap()
    }

    fn sync(&self) -> Txid {
        match self.engine.value("SELECT replica_sync(20)").unwrap() {
            Value::Integer(txid) => Txid::new(txid as u64).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    fn replica(&self) -> FileReplica {
        FileReplica::at(self.folder.path().join("replica"))
    }

    fn restored(&self, txid: Txid) -> Vec<u8> {
        let output = self.folder.path().join("restored.db");
        let _ = std::fs::remove_file(&output);
        restore::restore(&self.replica(), Target::Txid(txid), &output, restore::Options::default()).unwrap();
        std::fs::read(&output).unwrap()
    }

    /// The replica holds what the database holds.
    fn assert_followed(&self, when: &str) -> Txid {
        let txid = self.sync();
        assert!(self.restored(txid) == self.image(), "{when}: txid {txid} is another state");
        txid
    }
}

fn tag_of(database: &Path) -> u64 {
    let bytes = std::fs::read(database).unwrap();
    change_tag(bytes[TAG_OFFSET as usize..][..TAG_LEN].try_into().unwrap())
}

#[test]
fn model_change_tag_of_a_rolled_back_write_proves_nothing() {
    let followed = Followed::new("");
    followed.assert_followed("at first");
    followed.plain().exec("UPDATE t SET b=1").unwrap();
    let database = Runtime::get().find(&std::fs::canonicalize(followed.path()).unwrap()).unwrap();
    // A write of ours that did not become a commit left the very tag that the next committer comes to.
    database.state.set_tag_written(tag_of(&followed.path()));
    followed.assert_followed("after another program's commit");
    followed.engine.exec("UPDATE t SET b=2").unwrap();
    followed.plain().exec("UPDATE t SET b=3").unwrap();
    database.state.set_tag_written(tag_of(&followed.path()));
    followed.engine.exec("INSERT INTO t VALUES(2, 0)").unwrap();
    followed.assert_followed("after a commit on top of another program's");
}

#[test]
fn model_rollback_of_a_spilled_transaction_under_an_exclusive_lock_is_noticed() {
    for journal in ["delete", "truncate", "persist"] {
        let followed = Followed::new(&format!(
            "PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode={journal}; PRAGMA cache_size=1"
        ));
        followed
            .engine
            .exec(
                "BEGIN;
                 WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i+1 FROM n WHERE i<90)
                 INSERT INTO t SELECT i, zeroblob(3000) FROM n;
                 ROLLBACK",
            )
            .unwrap();
        let txid = followed.sync();
        let restored = followed.restored(txid);
        drop(followed.engine);
        let path = followed.folder.path().join("a.db");
        assert!(restored == std::fs::read(path).unwrap(), "{journal}");
    }
}

#[test]
fn model_change_of_the_page_size_is_followed_by_a_snapshot_of_its_own() {
    let followed = Followed::new("PRAGMA page_size=1024");
    followed.assert_followed("at first");
    followed.engine.exec("PRAGMA page_size=8192; VACUUM; INSERT INTO t VALUES(2, 0)").unwrap();
    followed.assert_followed("after the change");
    let snapshots = followed.replica().list(Level::SNAPSHOT).unwrap();
    assert!(!snapshots.is_empty(), "the group that changed the page size needs a snapshot");
}

#[test]
fn model_wal_that_starts_over_at_every_commit_is_followed() {
    // Each row has pages of its own, and nothing is captured before it is asked for: what is not noted when the WAL starts
    // over is lost.
    let followed =
        Followed::with("&replica_interval=10s", "PRAGMA journal_mode=wal; PRAGMA wal_autocheckpoint=1");
    for kind in ["PASSIVE", "FULL", "RESTART", "TRUNCATE"] {
        for round in 0..20 {
            followed
                .engine
                .exec(&format!(
                    "INSERT INTO t VALUES(NULL, zeroblob(9000 + {round})); PRAGMA wal_checkpoint({kind})"
                ))
                .unwrap();
        }
        followed.assert_followed(kind);
    }
}

#[test]
fn model_vacuum_that_shrinks_carries_every_page() {
    let followed = Followed::new("PRAGMA page_size=512; PRAGMA journal_mode=wal");
    followed
        .engine
        .exec(
            "WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i+1 FROM n WHERE i<200)
             INSERT INTO t SELECT i, zeroblob(300) FROM n;
             DELETE FROM t WHERE a>30",
        )
        .unwrap();
    followed.assert_followed("before");
    followed.engine.exec("VACUUM").unwrap();
    let txid = followed.assert_followed("after");
    let file =
        followed.replica().list(Level::CAPTURED).unwrap().into_iter().find(|f| f.range.max == txid).unwrap();
    let mut decoder = crate::replica::open_decoder(&followed.replica(), &file).unwrap();
    let (count, mut pages, mut page) = (decoder.header().page_count, 0, vec![0; 512]);
    while decoder.next_page(&mut page).unwrap().is_some() {
        pages += 1;
    }
    assert_eq!(pages, count);
}

/// With `mmap_size` set, SQLite makes room for a transaction ahead of its writes and does not always take it back.
#[test]
fn model_bytes_behind_the_last_page_are_no_part_of_the_database() {
    for journal in ["delete", "wal"] {
        let followed = Followed::new(&format!("PRAGMA journal_mode={journal}"));
        followed.engine.exec("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
        followed.assert_followed("at first");
        let file = std::fs::OpenOptions::new().write(true).open(followed.path()).unwrap();
        let (before, longer) = (followed.image(), file.metadata().unwrap().len() + 4096);
        file.set_len(longer).unwrap();
        followed.assert_followed("with bytes behind the last page");
        followed.engine.exec("UPDATE t SET b=1").unwrap();
        let txid = followed.assert_followed("after a commit");
        assert_eq!(file.metadata().unwrap().len(), longer, "SQLite lets them be");
        assert_eq!(followed.restored(txid).len(), before.len(), "{journal}");
    }
}
