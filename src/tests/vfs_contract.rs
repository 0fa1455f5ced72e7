//! The sentences of SQLite's VFS contract that its own test suite does not check, each as a test; and what the
//! hooks are promised. Every test registers a VFS of its own over the linked SQLite's.

use std::any::Any;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::ffi::engine::{Engine, register_vfs};
use crate::ffi::hooks::{
    ConnectionFile, FileKind, MainHooks, MayNotWrite, NotAcknowledged, OpenPlan, OpenRequest,
    OpenedConnection, PendingMain, ShmRegion, VfsHooks, WalHooks,
};
use crate::ffi::probe::{self, RawFile};
use crate::ffi::sql::Value;
use crate::testing::Folder;
use crate::testing::mutation::{Mutated, Mutation};
use crate::vfs::shim::WrapAll;

/// Follows everything and writes down what it is told; refuses paths that hold "refuse".
/// One of the ways to refuse, to be given its text.
type Refusal = fn(String) -> MayNotWrite;

#[derive(Default)]
struct Witness {
    seen: Mutex<Vec<String>>,
    regions: Mutex<Vec<ShmRegion>>,
    file: Mutex<Option<ConnectionFile>>,
    panic_at_commit: AtomicBool,
    /// What `committed` answers.
    is_late: AtomicBool,
    /// What who wants to write is answered.
    refusal: Mutex<Option<Refusal>>,
}

impl Witness {
    fn register(name: &str) -> Arc<Witness> {
        let witness = Arc::new(Witness::default());
        register_vfs(name, Arc::new(Follow(Arc::clone(&witness))));
        witness
    }

    fn note(&self, text: impl Into<String>) {
        self.seen.lock().unwrap().push(text.into());
    }

    fn count(&self, text: &str) -> usize {
        self.seen.lock().unwrap().iter().filter(|line| line.starts_with(text)).count()
    }

    fn may_write(&self) -> Result<(), MayNotWrite> {
        self.refusal.lock().unwrap().map_or(Ok(()), |refusal| Err(refusal("not now".into())))
    }
}

struct Follow(Arc<Witness>);

impl VfsHooks for Follow {
    fn open(&self, request: &OpenRequest<'_>) -> OpenPlan {
        let path = request.path.map(|path| path.display().to_string()).unwrap_or_default();
        match request.kind {
            FileKind::Main if path.contains("refuse") => OpenPlan::Refuse(format!("no {path} here")),
            FileKind::Main => {
                let parameters: Vec<String> =
                    request.parameters().map(|(key, value)| format!("{key:?}={value:?}")).collect();
                self.0.note(format!("open {} {}", request.named_explicitly, parameters.join(" ")));
                OpenPlan::Main(Box::new(Follow(Arc::clone(&self.0))))
            }
            FileKind::Wal => OpenPlan::Wal(Arc::new(Follow(Arc::clone(&self.0)))),
            FileKind::MainJournal | FileKind::Other => OpenPlan::PassThrough,
        }
    }

    fn connection_opened(&self, opened: &OpenedConnection<'_>) -> Result<(), String> {
        if opened.ours && opened.named_explicitly && opened.path.is_none() {
            return Err("no database in memory".into());
        }
        Ok(())
    }

    fn panicked(&self, text: &str) {
        self.0.note(format!("vfs panicked {text}"));
    }

    fn before_delete(&self, path: &Path) {
        self.0.note(format!("delete {}", path.file_name().unwrap().display()));
    }
}

impl PendingMain for Follow {
    fn opened(self: Box<Self>, file: ConnectionFile) -> Result<Arc<dyn MainHooks>, String> {
        let size = file.size().unwrap();
        assert_ne!(size, 5, "BUG: five bytes");
        if size == 3 {
            return Err("three bytes are no database".into());
        }
        *self.0.file.lock().unwrap() = Some(file);
        Ok(Arc::new(Follow(self.0)))
    }
}

impl MainHooks for Follow {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn before_write(&self, offset: u64, bytes: &[u8]) {
        self.0.note(format!("write {offset} {}", bytes.len()));
    }

    fn committed(&self) -> Result<(), NotAcknowledged> {
        assert!(!self.0.panic_at_commit.load(Ordering::SeqCst), "BUG: on purpose");
        let mut header = [0; 16];
        let file = self.0.file.lock().unwrap().clone().unwrap();
        file.read(0, &mut header).unwrap();
        self.0.note(format!("commit {}", String::from_utf8_lossy(&header[..13])));
        if self.0.is_late.load(Ordering::SeqCst) { Err(NotAcknowledged("late".into())) } else { Ok(()) }
    }

    fn before_reserved(&self) -> Result<(), MayNotWrite> {
        self.0.may_write()
    }

    fn before_wal_write(&self) -> Result<(), MayNotWrite> {
        self.0.may_write()
    }

    fn locked(&self, level: i32) {
        self.0.note(format!("lock {level}"));
    }

    fn before_unlock(&self, level: i32) {
        self.0.note(format!("unlock {level}"));
    }

    fn shm_region(&self, region: u32, view: ShmRegion) {
        self.0.note(format!("region {region}"));
        self.0.regions.lock().unwrap().push(view);
    }

    fn before_shm_lock(&self, first: i32, count: i32) {
        self.0.note(format!("shm ask {first} {count}"));
    }

    fn after_shm_unlock(&self, first: i32, count: i32) {
        self.0.note(format!("shm back {first} {count}"));
    }

    fn before_shm_unmap(&self, delete: bool) {
        self.0.note(format!("shm unmap {delete}"));
    }

    fn checkpoint_started(&self) {
        self.0.note("checkpoint");
    }

    fn before_close(&self) {
        self.0.note("close");
    }

    fn after_close(&self) {
        self.0.note("closed");
    }

    fn panicked(&self, text: &str) {
        self.0.note(format!("panicked {text}"));
    }
}

impl WalHooks for Follow {
    fn before_write(&self, offset: u64, bytes: &[u8]) {
        self.0.note(format!("wal write {offset} {}", bytes.len()));
    }

    fn before_truncate(&self, size: u64) {
        self.0.note(format!("wal truncate {size}"));
    }

    fn closed(&self) {
        self.0.note("wal closed");
    }
}

fn open(folder: &Folder, vfs: &str) -> Engine {
    Engine::open(&folder.path().join("a.db").display().to_string(), Some(vfs)).unwrap()
}

#[test]
fn a_short_read_is_zero_filled_and_says_so() {
    let folder = Folder::new();
    Witness::register("contract-short");
    for file in [
        RawFile::open("contract-short", &folder.path().join("a.db")).ok().unwrap(),
        RawFile::open_wal("contract-short", &folder.path().join("a.db-wal")).ok().unwrap(),
    ] {
        assert_eq!(file.write(0, b"abc"), probe::SQLITE_OK);
        let mut buffer = [7; 6];
        assert_eq!(file.read(1, &mut buffer), probe::SQLITE_IOERR_SHORT_READ);
        assert_eq!(&buffer, b"bc\0\0\0\0");
        let _seeded = Mutated::by(Some(Mutation::FlattenedShortRead));
        assert_eq!(file.read(1, &mut buffer), probe::SQLITE_OK, "the assertion above finds that");
    }
}

#[test]
fn the_time_is_that_of_the_base() {
    Witness::register("contract-time");
    let (before, ours, after) = (probe::times("unix"), probe::times("contract-time"), probe::times("unix"));
    assert!((before.0..=after.0).contains(&ours.0), "{before:?} {ours:?} {after:?}");
    assert!((before.1..=after.1).contains(&ours.1), "{before:?} {ours:?} {after:?}");
}

#[test]
fn a_reserved_lock_of_another_connection_is_seen() {
    let folder = Folder::new();
    Witness::register("contract-reserved");
    let [one, two] =
        [0, 1].map(|_| RawFile::open("contract-reserved", &folder.path().join("a.db")).ok().unwrap());
    assert_eq!(two.check_reserved(), (probe::SQLITE_OK, 0));
    assert_eq!((one.lock(1), one.lock(2)), (probe::SQLITE_OK, probe::SQLITE_OK));
    assert_eq!(two.check_reserved(), (probe::SQLITE_OK, 1));
    assert_eq!(one.unlock(0), probe::SQLITE_OK);
    assert_eq!(two.check_reserved(), (probe::SQLITE_OK, 0));
}

#[test]
fn deleting_a_missing_file_says_so() {
    let folder = Folder::new();
    Witness::register("contract-delete");
    let missing = folder.path().join("missing");
    assert_eq!(probe::delete("contract-delete", &missing), probe::SQLITE_IOERR_DELETE_NOENT);
}

#[test]
fn shared_memory_is_extended_only_when_asked_for() {
    let folder = Folder::new();
    Witness::register("contract-extend");
    let file = RawFile::open("contract-extend", &folder.path().join("a.db")).ok().unwrap();
    assert_eq!(file.shm_map(0, false), (probe::SQLITE_OK, false), "nothing there yet");
    assert_eq!(file.shm_map(0, true), (probe::SQLITE_OK, true));
    assert_eq!(file.shm_map(1, false), (probe::SQLITE_OK, false), "the second region was not asked for");
    assert_eq!(file.shm_unmap(true), probe::SQLITE_OK);
}

/// One test for all that needs the odd VFS: its answers are one static.
#[test]
fn codes_limits_and_capabilities_of_the_base_come_through_unchanged() {
    let folder = Folder::new();
    Engine::open(":memory:", None).unwrap();
    probe::register_over_odd("contract-odd", Arc::new(WrapAll));
    let (version, pathname, size) = probe::limits("contract-odd");
    let (unix_version, _, unix_size) = probe::limits("unix");
    assert_eq!((version, pathname), (unix_version, probe::ODD_PATHNAME));
    assert!(size >= unix_size + 16 && size % 8 == 0, "{size}");

    let file = RawFile::open("contract-odd", &folder.path().join("a.db")).ok().unwrap();
    let plain = RawFile::open("unix", &folder.path().join("b.db")).ok().unwrap();
    assert_eq!(file.version(), plain.version());
    assert_eq!(file.sector_size(), probe::ODD_SECTOR);
    let has = file.device_characteristics();
    assert_ne!(has, 0, "what the base has is passed on");
    assert_eq!(has & probe::SQLITE_IOCAP_BATCH_ATOMIC, 0, "commits without a journal cannot be followed");

    for code in [10, 10 | (4 << 8), 10 | (77 << 8), 13, 5] {
        probe::ODD_CODE.store(code, Ordering::SeqCst);
        let mut buffer = [0; 4];
        let answers = [
            file.read(0, &mut buffer),
            file.write(0, b"abcd"),
            file.truncate(0),
            file.sync(),
            file.size().0,
            file.lock(1),
            file.unlock(0),
        ];
        let seeded = Mutated::by(Some(Mutation::FlattenedSync));
        assert_eq!(file.sync(), code & 0xff, "the assertion below finds that");
        drop(seeded);
        probe::ODD_CODE.store(0, Ordering::SeqCst);
        assert_eq!(answers, [code; 7]);
    }
}

#[test]
fn a_failed_open_leaves_no_methods() {
    let folder = Folder::new();
    let witness = Witness::register("contract-fail");
    let (code, has_methods) =
        RawFile::open("contract-fail", &folder.path().join("no/such/folder/a.db")).err().unwrap();
    assert_eq!((code & 0xff, has_methods), (probe::SQLITE_CANTOPEN, false));
    assert_eq!(witness.count("closed"), 0);
}

#[test]
fn a_refused_open_shows_the_text_and_creates_nothing() {
    let folder = Folder::new();
    Witness::register("contract-refuse");
    let path = folder.path().join("refuse.db");
    let error = Engine::open(&path.display().to_string(), Some("contract-refuse")).err().unwrap().to_string();
    assert!(error.contains(&format!("no {} here", path.display())) && error.contains("code 14"), "{error}");
    assert_eq!(folder.files(), Vec::<String>::new());
}

#[test]
fn a_refused_attach_fails_and_the_stub_tells_a_pragma_why() {
    let folder = Folder::new();
    Witness::register("contract-attach");
    let main = open(&folder, "contract-attach");
    let path = folder.path().join("refuse.db");
    let error = main.exec(&format!("ATTACH '{}' AS b", path.display())).unwrap_err().to_string();
    assert!(error.contains("unable to open database"), "{error}");
    assert!(!path.exists());
    assert_eq!(main.connection().schemas().unwrap(), ["main"]);

    let stub = RawFile::open("contract-attach", &path).ok().unwrap();
    assert_eq!(stub.lock(1), probe::SQLITE_CANTOPEN);
    let (code, text) = stub.control_text(probe::SQLITE_FCNTL_PRAGMA);
    assert_eq!((code, text), (probe::SQLITE_ERROR, format!("no {} here", path.display())));
    assert_eq!(stub.control_text(probe::SQLITE_FCNTL_VFSNAME).0, probe::SQLITE_NOTFOUND);
}

#[test]
fn a_refusal_after_the_base_opened_closes_it_and_shows_the_text() {
    let folder = Folder::new();
    Witness::register("contract-late");
    std::fs::write(folder.path().join("a.db"), b"abc").unwrap();
    let name = folder.path().join("a.db").display().to_string();
    let error = Engine::open(&name, Some("contract-late")).err().unwrap().to_string();
    assert!(error.contains("three bytes are no database"), "{error}");
    let open_files = std::fs::read_dir("/proc/self/fd").unwrap();
    let held = open_files.filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok());
    assert_eq!(held.filter(|target| *target == folder.path().join("a.db")).count(), 0);
}

#[test]
fn a_panic_in_a_hook_turns_into_pass_through() {
    let folder = Folder::new();
    let witness = Witness::register("contract-panic");
    let db = open(&folder, "contract-panic");
    db.exec("CREATE TABLE t(x)").unwrap();
    witness.panic_at_commit.store(true, Ordering::SeqCst);
    db.exec("INSERT INTO t VALUES (1)").unwrap();
    let notes = witness.seen.lock().unwrap().len();
    db.exec("INSERT INTO t VALUES (2)").unwrap();
    assert_eq!(
        witness.seen.lock().unwrap().len(),
        notes + 1,
        "the journal's delete is the VFS's, not the file's"
    );
    assert_eq!(db.value("SELECT group_concat(x) FROM t").unwrap(), Value::from("1,2"));
    drop(db);
    assert_eq!(witness.count("panicked BUG: on purpose"), 1);
    assert_eq!((witness.count("close"), witness.count("closed")), (1, 1), "told once that it is closed");
}

#[test]
fn a_code_answered_at_commit_reaches_the_application_and_the_rows_stay() {
    let folder = Folder::new();
    let witness = Witness::register("contract-code");
    let db = open(&folder, "contract-code");
    db.exec("CREATE TABLE t(x)").unwrap();
    witness.is_late.store(true, Ordering::SeqCst);
    db.exec("INSERT INTO t VALUES (1)").unwrap_err();
    assert_eq!(db.code(), 51210);
    witness.is_late.store(false, Ordering::SeqCst);
    assert_eq!(db.value("SELECT count(*) FROM t").unwrap(), Value::Integer(1));
}

#[test]
fn a_write_that_may_not_begin_changes_nothing_and_reading_goes_on() {
    for mode in ["delete", "wal"] {
        let folder = Folder::new();
        let name = format!("contract-gate-{mode}");
        let witness = Witness::register(&name);
        let db = open(&folder, &name);
        db.exec(&format!("PRAGMA journal_mode={mode}; CREATE TABLE t(x)")).unwrap();
        for (refusal, code) in [(MayNotWrite::Yet as Refusal, 5), (MayNotWrite::AnyMore, 51208)] {
            *witness.refusal.lock().unwrap() = Some(refusal);
            db.exec("INSERT INTO t VALUES (1)").unwrap_err();
            assert_eq!(db.code(), code, "{mode}");
            assert_eq!(db.value("SELECT count(*) FROM t").unwrap(), Value::Integer(0), "{mode}");
            db.exec("BEGIN IMMEDIATE").unwrap_err();
            assert_eq!(db.code(), code, "{mode}");
        }
        *witness.refusal.lock().unwrap() = None;
        db.exec("INSERT INTO t VALUES (1)").unwrap();
        assert_eq!(db.value("SELECT count(*) FROM t").unwrap(), Value::Integer(1), "{mode}");
    }
}

#[test]
fn a_rollback_commit_is_told_in_order() {
    let folder = Folder::new();
    let witness = Witness::register("contract-delete-mode");
    let db = open(&folder, "contract-delete-mode");
    db.exec("CREATE TABLE t(x)").unwrap();
    witness.seen.lock().unwrap().clear();
    db.exec("INSERT INTO t VALUES (1)").unwrap();
    let expected = [
        "lock 1",
        "lock 2",
        "lock 4",
        "write 0 4096",
        "write 4096 4096",
        "delete a.db-journal",
        "commit SQLite format",
        "unlock 1",
        "unlock 0",
    ];
    let seen: Vec<String> = witness.seen.lock().unwrap().clone();
    let first_lock = seen.iter().position(|line| line == "lock 2").unwrap() - 1;
    assert_eq!(seen[first_lock..], expected);
}

#[test]
fn a_wal_is_told_with_its_regions_locks_and_checkpoint() {
    let folder = Folder::new();
    let witness = Witness::register("contract-wal");
    let db = open(&folder, "contract-wal");
    db.exec("PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES (1)").unwrap();
    assert_eq!((witness.count("region 0"), witness.count("wal write 0 32")), (1, 1));
    let region = witness.regions.lock().unwrap()[0].clone();
    {
        let view = region.pin().expect("mapped");
        assert_eq!(view.load(0), 3_007_000, "the wal-index version");
        assert!(view.load(4) > 0, "mxFrame");
        assert_eq!(view.load_u16(7), 4096, "the page size");
    }
    let file = witness.file.lock().unwrap().clone().unwrap();
    assert!(file.shm_map(0).is_some() && file.shm_map(1).is_none());
    assert!(file.read(0, &mut [0; 4]).is_err(), "only inside a hook");

    db.exec("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    assert_eq!((witness.count("checkpoint"), witness.count("wal truncate 0")), (1, 1));
    assert!(witness.count("shm ask 4 4") > 0 || witness.count("shm ask 4 1") > 0, "the restart's lock");
    drop(db);
    assert_eq!((witness.count("shm unmap true"), witness.count("wal closed")), (1, 1));
    assert!(region.pin().is_none() && file.shm_map(0).is_none(), "gone with the connection");
}

#[test]
fn a_region_of_an_earlier_mapping_is_not_one_of_the_present() {
    let folder = Folder::new();
    let witness = Witness::register("contract-epoch");
    let db = open(&folder, "contract-epoch");
    db.exec(
        "PRAGMA journal_mode=WAL; CREATE TABLE t(x); PRAGMA journal_mode=DELETE; PRAGMA journal_mode=WAL",
    )
    .unwrap();
    db.exec("INSERT INTO t VALUES (1)").unwrap();
    let regions = witness.regions.lock().unwrap();
    let (old, new) = (regions.first().unwrap(), regions.last().unwrap());
    assert!(old.pin().is_none() && new.pin().is_some());
}

#[test]
fn an_open_brings_its_uri_parameters_and_the_vfs_names_itself() {
    let folder = Folder::new();
    let witness = Witness::register("contract-uri");
    let name = format!("file:{}/a.db?vfs=contract-uri&replica=file%3A%2F%2F%2Fb&x=", folder.path().display());
    let db = Engine::open(&name, None).unwrap();
    assert_eq!(witness.count(r#"open true "vfs"="contract-uri" "replica"="file:///b" "x"="""#), 1);
    assert!(db.connection().main_hooks("main").is_some_and(|hooks| hooks.as_any().is::<Follow>()));
    assert!(db.connection().main_hooks("nosuch").is_none());
    let raw = RawFile::open("contract-uri", &folder.path().join("a.db")).ok().unwrap();
    assert_eq!(raw.control_text(probe::SQLITE_FCNTL_VFSNAME), (probe::SQLITE_OK, "contract-uri/unix".into()));
}

#[test]
fn a_forked_child_passes_through_without_hooks() {
    let folder = Folder::new();
    let witness = Witness::register("contract-fork");
    let file = RawFile::open("contract-fork", &folder.path().join("a.db")).ok().unwrap();
    assert_eq!(file.write(0, b"parent"), probe::SQLITE_OK);
    let region = {
        assert_eq!(file.shm_map(0, true), (probe::SQLITE_OK, true));
        witness.regions.lock().unwrap()[0].clone()
    };
    let silent = probe::in_forked_child(|| {
        let wrote = file.write(0, b"child!") == probe::SQLITE_OK;
        // The lock is this test's own and free: no other thread uses this witness.
        wrote && witness.count("write") == 1 && region.pin().is_none()
    });
    assert!(silent);
    assert_eq!(std::fs::read(folder.path().join("a.db")).unwrap(), b"child!");
    assert_eq!(file.write(0, b"parent"), probe::SQLITE_OK);
    assert_eq!(witness.count("write"), 2, "the parent is followed as before");
}

#[test]
fn a_panic_while_a_file_is_opened_passes_that_file_through_and_no_other() {
    let folder = Folder::new();
    let witness = Witness::register("contract-open-panic");
    std::fs::write(folder.path().join("a.db"), b"12345").unwrap();
    let file = RawFile::open("contract-open-panic", &folder.path().join("a.db")).ok().unwrap();
    assert_eq!(witness.count("vfs panicked"), 1);
    assert_eq!((file.write(0, b"x"), witness.count("write")), (probe::SQLITE_OK, 0));
    let other = RawFile::open("contract-open-panic", &folder.path().join("b.db")).ok().unwrap();
    assert_eq!((other.write(0, b"x"), witness.count("write")), (probe::SQLITE_OK, 1));
}

#[test]
fn a_database_in_memory_is_seen_and_may_be_refused() {
    Witness::register("contract-memory");
    for name in [":memory:", "file:a.db?mode=memory", ""] {
        let error = Engine::open(name, Some("contract-memory")).err().unwrap().to_string();
        assert!(error.contains("no database in memory"), "{name}: {error}");
        Engine::open(name, None).unwrap();
    }
}
