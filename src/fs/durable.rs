//! Files that appear whole under their name, never in place of another, and survive power loss.
//!
//! ```text
//! Temp::create   folder/name.<n>.tmp made, empty, locked      a crash leaves a temp nobody holds
//! Temp::unnamed  the same without a name, where the filesystem can (O_TMPFILE)      a crash leaves nothing
//! write          by the caller
//! Temp::publish  fsync file; rename without replacing, or link; fsync folder
//! ```
//!
//! One change of the folder instead of two, and no sync of a passing name: the unnamed kind is for files made by the
//! thousand. The rename is `renameat2(RENAME_NOREPLACE)`, so that the file's change time is final the moment its name
//! can be seen; where the filesystem lacks it, `link(2)` and `unlink(2)`. A filesystem with neither is
//! refused: a plain rename replaces. A temp file is locked (`flock`) while its writer lives, which is how
//! [`remove_stale`] knows the dead ones.
//!
//! Assumed of the system: an fsynced folder keeps its names, rename and link are atomic.

use crate::error::{Error, Result};
use crate::ffi::writeback;
use crate::types::Timestamp;
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;
const TEMP_SUFFIX: &str = ".tmp";
/// Temp names tried; each miss is a file that another writer holds or a dead one left.
const TEMP_NAMES_MAX: u32 = 10_000;
/// Writers of one name at the same time whose leftovers are looked for.
const WRITERS_MAX: u32 = 16;

/// Makes a new file, open for reading and writing.
///
/// # Errors
/// `Exists`; else as the system says.
pub fn create_new(path: &Path) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(FILE_MODE)
        .open(path)
        .map_err(|e| Error::io("create", path, e))
}

/// Makes a folder and those above it, where missing, so that they survive power loss.
pub fn create_folder(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    // Somebody else may have made the folder between the two looks.
    if path.exists() && !path.is_dir() {
        return Err(Error::exists(format!(
            "cannot create folder {}: a file is in its place",
            path.display()
        )));
    }
    create_folder(parent(path))?;
    create_one(path)
}

/// As [`create_folder`], but neither makes `root` nor what is above it.
///
/// # Errors
/// `NotFound` when `root` is not there, also when it goes meanwhile.
pub fn create_folder_below(root: &Path, path: &Path) -> Result<()> {
    debug_assert!(path.starts_with(root) && path != root);
    if path.is_dir() {
        return Ok(());
    }
    let parent = parent(path);
    if parent != root {
        create_folder_below(root, parent)?;
    }
    create_one(path)
}

fn create_one(path: &Path) -> Result<()> {
    match DirBuilder::new().mode(FOLDER_MODE).create(path) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists || !path.is_dir() => {
            Err(Error::io("create folder", path, e))
        }
        _ => sync_folder(parent(path)),
    }
}

/// Brings a file's content and times to disk. After an error the file is suspect: drop it, never retry.
pub fn sync_file(file: &File, path: &Path) -> Result<()> {
    file.sync_all().map_err(|e| Error::io("sync", path, e))
}

/// Brings the names in a folder to disk.
pub fn sync_folder(path: &Path) -> Result<()> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(|e| Error::io("sync folder", path, e))
}

/// Gives `from` the name `to`, which must be free. Does not sync.
///
/// # Errors
/// `Exists` when the name is taken; `Invalid` when the filesystem cannot do it without replacing.
pub fn rename_new(from: &Path, to: &Path) -> Result<()> {
    let cwd = rustix::fs::CWD;
    match rustix::fs::renameat_with(cwd, from, cwd, to, RenameFlags::NOREPLACE) {
        Ok(()) => return Ok(()),
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {}
        Err(e) => return Err(Error::io("create", to, e.into())),
    }
    link_new(from, to)
}

fn link_new(from: &Path, to: &Path) -> Result<()> {
    match rustix::fs::link(from, to) {
        Ok(()) => std::fs::remove_file(from).map_err(|e| Error::io("remove", from, e)),
        Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::MLINK) => Err(Error::invalid(format!(
            "cannot create {}: its filesystem can neither rename without replacing nor make hard links; \
             use another folder",
            to.display()
        ))),
        Err(e) => Err(Error::io("create", to, e.into())),
    }
}

/// A file being written, under a passing name or none. Dropped before it is published, it is removed.
pub struct Temp {
    file: File,
    name: PassingName,
}

/// Removed when it is dropped, unless it was given up.
struct PassingName {
    path: PathBuf,
    is_there: bool,
}

impl Drop for PassingName {
    fn drop(&mut self) {
        if self.is_there {
            // Best effort: what stays is a stale temp file, which nobody reads and `remove_stale` finds.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Temp {
    fn named(file: File, path: PathBuf) -> Temp {
        Temp { file, name: PassingName { path, is_there: true } }
    }

    /// Makes `<target>.<n>.tmp` beside `target`, empty and locked.
    pub fn create(target: &Path) -> Result<Temp> {
        for n in 0..TEMP_NAMES_MAX {
            let path = temp_name(target, n);
            let file = match create_new(&path) {
                Err(e) if e.kind() == crate::error::Kind::Exists => continue,
                other => other?,
            };
            // Somebody may have taken it for a dead one between the two calls; then the name is not ours.
            if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
                && is_at(&file, &path)
            {
                return Ok(Temp::named(file, path));
            }
        }
        Err(Error::busy(format!(
            "cannot create a temporary file beside {}: {TEMP_NAMES_MAX} of them exist; remove those ending in \
             {TEMP_SUFFIX}",
            target.display()
        )))
    }

    /// As [`Temp::create`], but without a passing name where the filesystem of `target` can do that.
    pub fn unnamed(target: &Path) -> Result<Temp> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        match rustix::fs::open(parent(target), flags, Mode::from_raw_mode(FILE_MODE)) {
            Ok(file) if can_link_unnamed() => {
                Ok(Temp { file: file.into(), name: PassingName { path: target.to_owned(), is_there: false } })
            }
            // Whatever is wrong with the folder itself, it says there.
            _ => Temp::create(target),
        }
    }

    /// Makes a file that nobody needs any longer a temp file, for its place on the disk to be written anew: it still
    /// has its old content. Making and removing inodes at every step costs more than what is written to them.
    pub fn of_unneeded(path: &Path) -> Result<Temp> {
        let file =
            OpenOptions::new().read(true).write(true).open(path).map_err(|e| Error::io("open", path, e))?;
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(Error::busy(format!("{} is in use", path.display())));
        }
        let temp = temp_name(path, 0);
        rename_new(path, &temp)?;
        Ok(Temp::named(file, temp))
    }

    pub fn file(&self) -> &File {
        &self.file
    }

    /// The passing name; that of the target where there is none.
    pub fn path(&self) -> &Path {
        &self.name.path
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|e| Error::io("write", self.path(), e))
    }

    /// Sets the modification time, which is where a file replica keeps an LTX file's timestamp.
    pub fn set_modified(&self, at: Timestamp) -> Result<()> {
        let distance = Duration::from_millis(at.0.unsigned_abs());
        let epoch = SystemTime::UNIX_EPOCH;
        let time = if at.0 < 0 { epoch.checked_sub(distance) } else { epoch.checked_add(distance) };
        let time = time.ok_or_else(|| {
            Error::invalid(format!("cannot set the time of {} to {} ms", self.path().display(), at.0))
        })?;
        self.file.set_modified(time).map_err(|e| Error::io("set the time of", self.path(), e))
    }

    /// Makes the content last. Its name is another matter: [`sync_folder`] after it was published.
    pub fn sync(&self) -> Result<()> {
        sync_file(&self.file, self.path())
    }

    /// Lets the disk begin with a part that is written, so that less is left for [`Temp::sync`], which is needed all the
    /// same.
    pub fn begin_sync(&self, offset: u64, bytes: u64) {
        writeback::begin(&self.file, offset, bytes);
    }

    /// Gives the file its name without making anything last: after a loss of power the name may be gone, or, without
    /// [`Temp::sync`] before, its content.
    ///
    /// # Errors
    /// `Exists` when the name is taken, and then nothing is changed; `Invalid` as [`rename_new`]; else as the
    /// system says.
    pub fn publish_unsynced(mut self, name: &Path) -> Result<File> {
        if self.name.is_there {
            rename_new(&self.name.path, name)?;
            self.name.is_there = false;
        } else {
            link_unnamed(&self.file, name)?;
        }
        Ok(self.file)
    }

    /// Makes the file last and gives it its name; what it returns has survived power loss.
    ///
    /// # Errors
    /// As [`Temp::publish_unsynced`]. After an error in the last step, the sync of the folder, the name may exist.
    pub fn publish(self, name: &Path) -> Result<File> {
        self.sync()?;
        let file = self.publish_unsynced(name)?;
        sync_folder(parent(name))?;
        Ok(file)
    }

    /// The same in place of whatever file has the name, which is there or the new one at every moment, never a part of it.
    /// Only for what one process alone writes: a name of the history is made once.
    pub fn publish_over(mut self, name: &Path) -> Result<File> {
        assert!(self.name.is_there, "BUG: only a file with a passing name can take the place of another");
        self.sync()?;
        std::fs::rename(&self.name.path, name).map_err(|e| Error::io("replace", name, e))?;
        self.name.is_there = false;
        sync_folder(parent(name))?;
        Ok(self.file)
    }
}

/// Where the kernel shows open files by name, which takes no privilege to link them.
const OPEN_FILES: &str = "/proc/self/fd";

/// Whether an unnamed file can be given a name here: without /proc, only the privileged can.
fn can_link_unnamed() -> bool {
    static HAS_PROC: OnceLock<bool> = OnceLock::new();
    *HAS_PROC.get_or_init(|| Path::new(OPEN_FILES).is_dir())
}

fn link_unnamed(file: &File, name: &Path) -> Result<()> {
    let cwd = rustix::fs::CWD;
    let linked = match rustix::fs::linkat(file, "", cwd, name, AtFlags::EMPTY_PATH) {
        // Without the privilege to do it so.
        Err(Errno::NOENT | Errno::PERM | Errno::INVAL) => {
            let open = format!("{OPEN_FILES}/{}", file.as_raw_fd());
            rustix::fs::linkat(cwd, open, cwd, name, AtFlags::SYMLINK_FOLLOW)
        }
        other => other,
    };
    linked.map_err(|e| Error::io("create", name, e.into()))
}

/// Removes our temp files in `folder` whose writers are dead; returns how many. Those of other programs,
/// which hold no lock, have other names.
pub fn remove_stale(folder: &Path) -> Result<u32> {
    let entries = match std::fs::read_dir(folder) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        other => other.map_err(|e| Error::io("list", folder, e))?,
    };
    let mut removed = 0;
    for entry in entries {
        let path = entry.map_err(|e| Error::io("list", folder, e))?.path();
        removed += u32::from(is_ours(&path) && remove_if_dead(&path));
    }
    Ok(removed)
}

/// Removes what dead writers of `target` left beside it, in a folder that may not be ours; returns how many.
pub fn remove_stale_of(target: &Path) -> u32 {
    (0..WRITERS_MAX).map(|n| u32::from(remove_if_dead(&temp_name(target, n)))).sum()
}

/// Whether a temp file had no living writer and is gone.
fn remove_if_dead(path: &Path) -> bool {
    if !path.is_file() {
        return false;
    }
    let Ok(file) = File::open(path) else { return false };
    let dead = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
    dead && is_at(&file, path) && std::fs::remove_file(path).is_ok()
}

fn temp_name(target: &Path, n: u32) -> PathBuf {
    let mut name = target.as_os_str().to_owned();
    name.push(format!(".{n}{TEMP_SUFFIX}"));
    PathBuf::from(name)
}

/// Whether a name ends as [`temp_name`] makes it: in a number and the suffix.
fn is_ours(path: &Path) -> bool {
    let stem = path.to_str().and_then(|name| name.strip_suffix(TEMP_SUFFIX));
    let number = stem.and_then(|stem| stem.rsplit_once('.')).map(|(_, number)| number);
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}

/// Whether `path` still names this very file.
fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

/// The folder of a path; the working folder for a bare name.
pub fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) => Path::new("."),
        None => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::testing::Folder;
    use std::os::unix::fs::PermissionsExt;

    fn temp(target: &Path, content: &[u8]) -> Temp {
        let mut temp = Temp::create(target).unwrap();
        temp.write(content).unwrap();
        temp
    }

    #[test]
    fn a_folder_may_be_made_by_several_at_once() {
        let folder = Folder::new();
        for round in 0..300 {
            let path = folder.path().join(format!("{round}/log/ltx"));
            let start = std::sync::Barrier::new(3);
            std::thread::scope(|scope| {
                for _ in 0..3 {
                    scope.spawn(|| {
                        start.wait();
                        create_folder(&path).unwrap();
                    });
                }
            });
        }
    }

    #[test]
    fn folders_below_a_root_that_vanished_are_not_made() {
        let folder = Folder::new();
        let root = folder.path().join("replica");
        let error = create_folder_below(&root, &root.join("ltx/0")).unwrap_err();
        assert_eq!((error.kind(), root.exists()), (Kind::NotFound, false));
        std::fs::create_dir(&root).unwrap();
        create_folder_below(&root, &root.join("ltx/0")).unwrap();
        assert!(root.join("ltx/0").is_dir());
    }

    #[test]
    fn an_unneeded_file_is_written_anew_in_its_place() {
        let folder = Folder::new();
        let (old, new) = (folder.path().join("old"), folder.path().join("new"));
        std::fs::write(&old, b"longer than what comes").unwrap();
        let inode = std::fs::metadata(&old).unwrap().ino();
        let mut temp = Temp::of_unneeded(&old).unwrap();
        assert_eq!(folder.files(), ["old.0.tmp"]);
        assert_eq!(remove_stale(folder.path()).unwrap(), 0, "its writer lives");
        temp.write(b"short").unwrap();
        temp.file().set_len(5).unwrap();
        temp.publish_unsynced(&new).unwrap();
        assert_eq!(
            (std::fs::read(&new).unwrap(), folder.files()),
            (b"short".to_vec(), vec!["new".to_owned()])
        );
        assert_eq!(std::fs::metadata(&new).unwrap().ino(), inode);
        drop(Temp::of_unneeded(&new).unwrap());
        assert!(folder.files().is_empty());
    }

    #[test]
    fn published_file_has_content_time_and_mode() {
        let folder = Folder::new();
        let name = folder.path().join("a");
        let temp = temp(&name, b"one");
        temp.set_modified(Timestamp(1_700_000_000_123)).unwrap();
        temp.publish(&name).unwrap();
        let metadata = std::fs::metadata(&name).unwrap();
        assert_eq!(std::fs::read(&name).unwrap(), b"one");
        assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (1_700_000_000, 123_000_000));
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
        assert_eq!(folder.files(), ["a"]);
    }

    #[test]
    fn publish_never_replaces_and_leaves_no_temp() {
        let folder = Folder::new();
        let name = folder.path().join("a");
        temp(&name, b"one").publish(&name).unwrap();
        let error = temp(&name, b"two").publish(&name).unwrap_err();
        assert_eq!(error.kind(), Kind::Exists, "{error}");
        assert_eq!(std::fs::read(&name).unwrap(), b"one");
        assert_eq!(folder.files(), ["a"]);
    }

    #[test]
    fn an_unnamed_file_shows_when_it_is_published_and_never_replaces() {
        let folder = Folder::new();
        let name = folder.path().join("a");
        let unnamed = |content: &[u8]| {
            let mut temp = Temp::unnamed(&name).unwrap();
            temp.write(content).unwrap();
            temp.set_modified(Timestamp(5)).unwrap();
            temp
        };
        drop(unnamed(b"none"));
        let one = unnamed(b"one");
        assert_eq!(one.name.is_there, !folder.files().is_empty(), "a name only where there must be one");
        let file = one.publish(&name).unwrap();
        let seen = std::fs::metadata(&name).unwrap();
        assert_eq!((seen.ino(), seen.ctime_nsec()), {
            let held = file.metadata().unwrap();
            (held.ino(), held.ctime_nsec())
        });
        assert_eq!((seen.permissions().mode() & 0o777, seen.mtime_nsec()), (0o600, 5_000_000));
        assert_eq!(unnamed(b"two").publish(&name).unwrap_err().kind(), Kind::Exists);
        assert_eq!((folder.files(), std::fs::read(&name).unwrap()), (vec!["a".to_owned()], b"one".to_vec()));
        let missing = Temp::unnamed(&folder.path().join("none/a")).map(drop).unwrap_err();
        assert_eq!(missing.kind(), Kind::NotFound);
    }

    #[test]
    fn link_keeps_the_same_promise_where_rename_cannot() {
        let folder = Folder::new();
        let (a, b, c) = (folder.path().join("a"), folder.path().join("b"), folder.path().join("c"));
        std::fs::write(&a, b"one").unwrap();
        std::fs::write(&b, b"two").unwrap();
        assert_eq!(link_new(&a, &b).unwrap_err().kind(), Kind::Exists);
        link_new(&a, &c).unwrap();
        assert_eq!(folder.files(), ["b", "c"]);
        assert_eq!(std::fs::read(&c).unwrap(), b"one");
    }

    #[test]
    fn stale_temps_go_and_those_of_living_writers_stay() {
        let folder = Folder::new();
        let name = folder.path().join("a");
        std::fs::write(folder.path().join("dead.0.tmp"), b"x").unwrap();
        std::fs::write(folder.path().join("other.tmp"), b"x").unwrap();
        let living = temp(&name, b"one");
        assert_eq!(remove_stale(folder.path()).unwrap(), 1);
        assert_eq!(folder.files(), ["a.0.tmp", "other.tmp"]);
        living.publish(&name).unwrap();
        assert_eq!(folder.files(), ["a", "other.tmp"]);
        assert_eq!(remove_stale(&folder.path().join("none")).unwrap(), 0);
    }

    #[test]
    fn stale_temps_of_one_name_go_and_no_others() {
        let folder = Folder::new();
        let name = folder.path().join("a");
        for dead in ["a.0.tmp", "a.3.tmp", "b.0.tmp", "a.x.tmp"] {
            std::fs::write(folder.path().join(dead), b"x").unwrap();
        }
        let living = temp(&name, b"one");
        assert_eq!(remove_stale_of(&name), 2);
        assert_eq!(folder.files(), ["a.1.tmp", "a.x.tmp", "b.0.tmp"]);
        drop(living);
        assert_eq!(remove_stale_of(&folder.path().join("none/a")), 0);
    }

    #[test]
    fn dropped_temp_is_removed_and_two_do_not_collide() {
        let folder = Folder::new();
        let name = folder.path().join("a");
        let (one, two) = (temp(&name, b"1"), temp(&name, b"2"));
        assert_eq!(folder.files(), ["a.0.tmp", "a.1.tmp"]);
        drop((one, two));
        assert!(folder.files().is_empty());
    }

    #[test]
    fn folders_above_are_made_private() {
        let folder = Folder::new();
        let deep = folder.path().join("x/y");
        create_folder(&deep).unwrap();
        create_folder(&deep).unwrap();
        assert_eq!(std::fs::metadata(&deep).unwrap().permissions().mode() & 0o777, 0o700);
        std::fs::write(deep.join("f"), b"").unwrap();
        assert!(create_folder(&deep.join("f/z")).is_err());
    }
}
