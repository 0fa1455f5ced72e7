//! A replica in a folder.
//!
//! An object is created whole by [`crate::fs::durable`]: temp file in the level's folder, timestamp as its
//! modification time, fsync, a rename that never replaces. The fsync of the folder comes with the next object,
//! before that one's rename, or when it is asked for: there the journal of the filesystem has just been written for
//! the file, and has nothing left to write for the folder. Only levels are made on demand, never the root: a folder
//! that vanished (an unmounted disk) must not come back empty.
//!
//! An object is the same as before when device, inode, size, modification and change time are (rule 1 of the
//! protocol). All are final when the name appears, except where a filesystem makes us link and unlink; a
//! reader that looked in between sees a conflict and lists again.

use super::client::{Client, ReadSeek};
use super::layout;
use super::leases::Leases;
use super::objects::{ObjectInfo, Objects};
use crate::error::{Error, Kind, Result};
use crate::fs::FileStat;
use crate::fs::durable::{self, Temp};
use crate::lock::Mutex;
use crate::ltx::name;
use crate::types::{FileInfo, Identity, Level, Timestamp, TxidRange};
use std::fs::{File, Metadata};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const COPY_BYTES: u64 = 64 << 10;
const NS_PER_MS: i128 = 1_000_000;

/// A file replica; holds no open files.
#[derive(Clone, Debug)]
pub struct FileReplica {
    root: PathBuf,
    url: String,
    /// The folder of the name that this replica made last, until it is synced; held while it is.
    unsynced: Arc<Mutex<Option<PathBuf>>>,
}

impl FileReplica {
    /// The replica of a `file:///` URL. Touches nothing; a missing folder shows at the first use.
    ///
    /// # Errors
    /// `Invalid` with the URL and what is allowed.
    pub fn open(url: &str) -> Result<FileReplica> {
        let root = layout::parse_url(url.as_bytes()).map_err(|why| {
            Error::invalid(format!("replica URL {url:?}: {why}; allowed is {}", layout::ALLOWED))
        })?;
        Ok(FileReplica { root, url: url.to_owned(), unsynced: Arc::default() })
    }

    /// The replica in a folder, which need not have a name in UTF-8. Touches nothing.
    pub fn at(root: PathBuf) -> FileReplica {
        FileReplica { url: format!("file://{}", root.display()), root, unsynced: Arc::default() }
    }

    /// As [`FileReplica::at`]; makes the folder where it is missing, and temp files of dead writers go.
    ///
    /// # Errors
    /// Those of making the folder.
    pub fn at_or_create(root: PathBuf) -> Result<FileReplica> {
        let replica = FileReplica::at(root);
        replica.prepare()?;
        Ok(replica)
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Nothing is an empty level only while the root is there.
    fn check_root(&self) -> Result<()> {
        match std::fs::metadata(&self.root) {
            Ok(metadata) if metadata.is_dir() => Ok(()),
            Ok(_) => Err(Error::invalid(format!("replica {} is not a folder", self.root.display()))),
            Err(e) => Err(Error::io("find the replica folder", &self.root, e)),
        }
    }

    fn path(&self, level: Level, range: TxidRange) -> PathBuf {
        layout::path(&self.root, level, range)
    }

    fn sync_name_before(&self) -> Result<()> {
        let mut unsynced = self.unsynced.lock();
        if let Some(folder) = unsynced.as_deref() {
            durable::sync_folder(folder)?;
            *unsynced = None;
        }
        Ok(())
    }

    fn write(&self, temp: &mut Temp, path: &Path, body: &mut dyn ReadSeek) -> Result<()> {
        body.rewind().map_err(|e| Error::io("read what is to become", path, e))?;
        // As large as most files need; it grows to COPY_BYTES.
        let mut buffer = Vec::with_capacity(16 << 10);
        loop {
            buffer.clear();
            match body.take(COPY_BYTES).read_to_end(&mut buffer) {
                Ok(n) => {
                    temp.write(&buffer)?;
                    if (n as u64) < COPY_BYTES {
                        return Ok(());
                    }
                }
                Err(e) => return Err(Error::io("read what is to become", path, e)),
            }
        }
    }
}

impl Client for FileReplica {
    fn url(&self) -> &str {
        &self.url
    }

    fn prepare(&self) -> Result<()> {
        durable::create_folder(&self.root)?;
        durable::remove_stale(&self.root)?;
        Level::all().try_for_each(|level| durable::remove_stale(&layout::folder(&self.root, level)).map(drop))
    }

    /// The change time of a file made for it: of a folder on another machine its clock, not ours.
    fn now(&self) -> Result<Option<Timestamp>> {
        self.check_root()?;
        let temp = Temp::unnamed(&self.root.join("clock"))?;
        let metadata = temp.file().metadata().map_err(|e| Error::io("look at", temp.path(), e))?;
        let stat = FileStat::from_metadata(&metadata);
        Ok(Some(Timestamp(stat.changed_ns / NS_PER_MS as i64)))
    }

    fn list(&self, level: Level) -> Result<Vec<FileInfo>> {
        self.check_root()?;
        let folder = layout::folder(&self.root, level);
        let entries = match std::fs::read_dir(&folder) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(|e| Error::io("list", &folder, e))?,
        };
        let mut files = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|e| Error::io("list", &folder, e))?;
            let range = entry.file_name().to_str().and_then(name::parse);
            if let Some(range) = range {
                files.extend(self.stat(level, range)?);
            }
        }
        files.sort_by_key(|file| file.range);
        Ok(files)
    }

    /// Inode and change time.
    fn tells_objects_apart(&self) -> bool {
        true
    }

    fn open(&self, file: &FileInfo) -> Result<Box<dyn ReadSeek>> {
        let path = self.path(file.level, file.range);
        let opened = File::open(&path).map_err(|e| Error::io("open", &path, e))?;
        let metadata = opened.metadata().map_err(|e| Error::io("look at", &path, e))?;
        if !info(file.level, file.range, &metadata).same_object(file) {
            return Err(changed(&path));
        }
        Ok(Box::new(opened))
    }

    fn create(
        &self,
        level: Level,
        range: TxidRange,
        timestamp: Timestamp,
        body: &mut dyn ReadSeek,
    ) -> Result<FileInfo> {
        let path = self.path(level, range);
        let mut temp = match Temp::unnamed(&path) {
            Err(e) if e.kind() == Kind::NotFound => {
                self.check_root()?;
                durable::create_folder_below(&self.root, durable::parent(&path))?;
                Temp::unnamed(&path)?
            }
            other => other?,
        };
        self.write(&mut temp, &path, body)?;
        temp.set_modified(timestamp)?;
        temp.sync()?;
        self.sync_name_before()?;
        let file = temp.publish_unsynced(&path)?;
        *self.unsynced.lock() = Some(durable::parent(&path).to_owned());
        let metadata = file.metadata().map_err(|e| Error::io("look at", &path, e))?;
        Ok(info(level, range, &metadata))
    }

    fn make_durable(&self, level: Level) -> Result<()> {
        let folder = layout::folder(&self.root, level);
        let mut unsynced = self.unsynced.lock();
        durable::sync_folder(&folder)?;
        if unsynced.as_deref() == Some(&folder) {
            *unsynced = None;
        }
        Ok(())
    }

    fn stat(&self, level: Level, range: TxidRange) -> Result<Option<FileInfo>> {
        let path = self.path(level, range);
        match std::fs::metadata(&path) {
            Ok(metadata) if metadata.is_file() => Ok(Some(info(level, range, &metadata))),
            Ok(_) => Ok(None),
            Err(e) if e.kind() == ErrorKind::NotFound => self.check_root().map(|()| None),
            Err(e) => Err(Error::io("look at", &path, e)),
        }
    }

    fn objects(&self) -> Option<&dyn Objects> {
        Some(self)
    }

    fn leases(&self) -> Option<&(dyn Leases + Sync)> {
        Some(self)
    }

    fn delete(&self, file: &FileInfo) -> Result<()> {
        let path = self.path(file.level, file.range);
        match self.stat(file.level, file.range)? {
            None => return Ok(()),
            Some(found) if !found.same_object(file) => return Err(changed(&path)),
            Some(_) => {}
        }
        match std::fs::remove_file(&path).map_err(|e| Error::io("delete", &path, e)) {
            Err(e) if e.kind() == Kind::NotFound => Ok(()),
            other => other,
        }
    }
}

/// Every folder at or below `root` that holds a replica, by path. Links are not followed.
///
/// # Errors
/// `NotFound`, `Io`.
pub fn below(root: &Path) -> Result<Vec<PathBuf>> {
    let (mut found, mut folders) = (Vec::new(), vec![root.to_owned()]);
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder).map_err(|e| Error::io("list", &folder, e))?;
        for entry in entries {
            let entry = entry.map_err(|e| Error::io("list", &folder, e))?;
            if !entry.file_type().map_err(|e| Error::io("look at", &entry.path(), e))?.is_dir() {
                continue;
            }
            let is_replica = entry.file_name() == layout::LTX
                && Level::all().any(|level| layout::folder(&folder, level).is_dir());
            if is_replica {
                found.push(folder.clone());
            } else {
                folders.push(entry.path());
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Removes the folders of an emptied replica; what holds something else stays.
///
/// # Errors
/// `Io`.
pub fn remove_emptied(root: &Path) -> Result<()> {
    let levels = Level::all().map(|level| layout::folder(root, level));
    for folder in levels.chain([root.join(layout::LTX), root.to_owned()]) {
        match std::fs::remove_dir(&folder) {
            Err(e) if !matches!(e.kind(), ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty) => {
                return Err(Error::io("remove", &folder, e));
            }
            _ => {}
        }
    }
    Ok(())
}

impl Objects for FileReplica {
    fn list_below(&self, folder: &str) -> Result<Vec<ObjectInfo>> {
        self.check_root()?;
        let (mut objects, mut folders) = (Vec::new(), vec![folder.to_owned()]);
        while let Some(name) = folders.pop() {
            let path = self.root.join(&name);
            let entries = match std::fs::read_dir(&path) {
                Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => continue,
                other => other.map_err(|e| Error::io("list", &path, e))?,
            };
            for entry in entries {
                let entry = entry.map_err(|e| Error::io("list", &path, e))?;
                // What has no name in UTF-8 is no object of a known layout.
                let Some(name) = entry.file_name().to_str().map(|last| format!("{name}/{last}")) else {
                    continue;
                };
                match entry.metadata() {
                    Ok(metadata) if metadata.is_dir() => folders.push(name),
                    Ok(metadata) if metadata.is_file() => objects.push(object(name, &metadata)),
                    Ok(_) => {}
                    Err(e) if e.kind() == ErrorKind::NotFound => {}
                    Err(e) => return Err(Error::io("look at", &entry.path(), e)),
                }
            }
        }
        objects.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(objects)
    }

    fn read(&self, listed: &ObjectInfo) -> Result<Box<dyn Read + Send>> {
        let path = self.root.join(&listed.name);
        let opened = File::open(&path).map_err(|e| Error::io("open", &path, e))?;
        let metadata = opened.metadata().map_err(|e| Error::io("look at", &path, e))?;
        if object(listed.name.clone(), &metadata) != *listed {
            return Err(changed(&path));
        }
        Ok(Box::new(opened))
    }
}

fn object(name: String, metadata: &Metadata) -> ObjectInfo {
    let (created_at, identity) = identity(metadata);
    ObjectInfo { name, size: metadata.len(), created_at, identity }
}

fn changed(path: &Path) -> Error {
    Error::conflict(format!("{} is another file than was listed: list again", path.display()))
}

fn info(level: Level, range: TxidRange, metadata: &Metadata) -> FileInfo {
    let (created_at, identity) = identity(metadata);
    FileInfo { level, range, size: metadata.len(), created_at, identity }
}

pub(super) fn identity(metadata: &Metadata) -> (Timestamp, Identity) {
    let ns = |seconds: i64, rest: i64| seconds as i128 * 1_000_000_000 + rest as i128;
    let modified_ns = ns(metadata.mtime(), metadata.mtime_nsec());
    let identity = Identity::File {
        device: metadata.dev(),
        inode: metadata.ino(),
        changed_ns: ns(metadata.ctime(), metadata.ctime_nsec()),
        modified_ns,
    };
    (Timestamp(modified_ns.div_euclid(NS_PER_MS) as i64), identity)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::replica::{conformance, lease_conformance};
    use crate::testing::Folder;
    use crate::types::Txid;
    use std::os::unix::fs::PermissionsExt;

    fn replica(folder: &Folder) -> FileReplica {
        FileReplica::at_or_create(folder.path().join("r")).unwrap()
    }

    #[test]
    fn obeys_the_contract_of_every_store() {
        for (name, check) in conformance::SUITE {
            let folder = Folder::new();
            println!("{name}");
            check(&replica(&folder));
            assert!(
                folder.files().iter().all(|file| file.ends_with(".ltx")),
                "{name} left {:?}",
                folder.files()
            );
        }
    }

    #[test]
    fn obeys_the_contract_of_every_lease() {
        for (name, check) in lease_conformance::SUITE {
            let folder = Folder::new();
            println!("{name}");
            check(&replica(&folder));
            let is_known = |file: &String| file.starts_with("r/lock.") && file.ends_with(".json");
            assert!(folder.files().iter().all(is_known), "{name} left {:?}", folder.files());
        }
    }

    #[test]
    fn a_name_is_synced_before_the_next_one_is_made_or_when_asked() {
        let folder = Folder::new();
        let replica = replica(&folder);
        let owed = || replica.unsynced.lock().clone();
        let create = |level, txid| {
            let range = TxidRange::one(Txid::new(txid).unwrap());
            replica.create(level, range, Timestamp(0), &mut Cursor::new(b"x"))
        };
        create(Level::CAPTURED, 1).unwrap();
        assert_eq!(owed(), Some(folder.path().join("r/ltx/0")));
        replica.make_durable(Level::CAPTURED).unwrap();
        assert_eq!(owed(), None);
        create(Level::CAPTURED, 2).unwrap();
        create(Level::SNAPSHOT, 2).unwrap();
        assert_eq!(owed(), Some(folder.path().join("r/ltx/9")), "level 0 was synced on the way");
        std::fs::remove_dir_all(folder.path().join("r/ltx/9")).unwrap();
        assert!(create(Level::CAPTURED, 3).is_err(), "what cannot be synced is not passed over");
        assert_eq!(owed(), Some(folder.path().join("r/ltx/9")));
    }

    #[test]
    fn strays_are_not_listed() {
        let folder = Folder::new();
        let replica = replica(&folder);
        let range = TxidRange::one(Txid::FIRST);
        replica.create(Level::CAPTURED, range, Timestamp(5), &mut Cursor::new(b"x")).unwrap();
        let level = folder.path().join("r/ltx/0");
        std::fs::write(level.join("0000000000000002-0000000000000002.ltx.0.tmp"), b"").unwrap();
        std::fs::write(level.join("README"), b"").unwrap();
        std::fs::create_dir(level.join("0000000000000003-0000000000000003.ltx")).unwrap();
        let listed = replica.list(Level::CAPTURED).unwrap();
        assert_eq!(listed.iter().map(|file| file.range).collect::<Vec<_>>(), [range]);
    }

    #[test]
    fn replicas_below_a_folder_are_found_and_emptied_ones_go() {
        let folder = Folder::new();
        let range = TxidRange::one(Txid::FIRST);
        for name in ["one", "deep/er/two", "deep"] {
            let replica = FileReplica::at_or_create(folder.path().join(name)).unwrap();
            replica.create(Level::CAPTURED, range, Timestamp(5), &mut Cursor::new(b"x")).unwrap();
        }
        std::fs::create_dir_all(folder.path().join("other/ltx/notes")).unwrap();
        std::os::unix::fs::symlink(folder.path(), folder.path().join("round")).unwrap();
        let names = || -> Vec<String> {
            let below = below(folder.path()).unwrap();
            below.iter().map(|p| p.strip_prefix(folder.path()).unwrap().display().to_string()).collect()
        };
        assert_eq!(names(), ["deep", "deep/er/two", "one"]);
        for name in ["one", "deep"] {
            let replica = FileReplica::at(folder.path().join(name));
            replica.delete(&replica.list_all().unwrap()[0]).unwrap();
            remove_emptied(replica.root()).unwrap();
        }
        assert_eq!(names(), ["deep/er/two"]);
        assert!(!folder.path().join("one").exists() && folder.path().join("deep").exists());
        assert_eq!(below(&folder.path().join("none")).unwrap_err().kind(), Kind::NotFound);
    }

    #[test]
    fn a_vanished_root_is_an_error_and_never_made_again_by_use() {
        let folder = Folder::new();
        let replica = replica(&folder);
        std::fs::remove_dir(replica.root()).unwrap();
        let range = TxidRange::one(Txid::FIRST);
        assert_eq!(replica.list(Level::CAPTURED).unwrap_err().kind(), Kind::NotFound);
        assert_eq!(replica.stat(Level::CAPTURED, range).unwrap_err().kind(), Kind::NotFound);
        let created = replica.create(Level::CAPTURED, range, Timestamp(0), &mut Cursor::new(b"x"));
        assert_eq!(created.unwrap_err().kind(), Kind::NotFound);
        assert!(!replica.root().exists());
    }

    #[test]
    fn files_are_private_and_lie_where_other_tools_look() {
        let folder = Folder::new();
        let replica = replica(&folder);
        let range = TxidRange::one(Txid::FIRST);
        replica.create(Level::SNAPSHOT, range, Timestamp(5), &mut Cursor::new(b"x")).unwrap();
        assert_eq!(folder.files(), ["r/ltx/9/0000000000000001-0000000000000001.ltx"]);
        let mode =
            |path: &str| std::fs::metadata(folder.path().join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode("r/ltx/9/0000000000000001-0000000000000001.ltx"), 0o600);
        assert_eq!((mode("r"), mode("r/ltx"), mode("r/ltx/9")), (0o700, 0o700, 0o700));
    }
}
