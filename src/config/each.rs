//! For SQLite's own test suite: a replica for each database that has none, in a folder that a variable names.
//!
//! `SQLITEREPLICATE_TEST_REPLICAS=/absolute/folder` is a seam of the tests and no setting. A test deletes, copies and
//! damages files under the same few names, so that a replica belongs to a *file*, not to a name:
//!
//! ```text
//! <folder>/<hash of the path>/path          the path
//!                             <n>/file      device, inode and birth of the file that it is for, once it has content
//!                                 log/  replica/
//! ```
//! A name where there is no file, or an empty one, gets the next number, unless the last one has nothing yet; one where
//! another file stands than the last time, too. Processes that open the same new file at once agree on the number. As long
//! as a process has the old file open, the new one is to it what it is to its user: the same database, replaced.
//!
//! With `replica_on_behind=keep` whatever a test puts in the file's place is the next txid, where plain SQLite would go on,
//! too. Everything else is as a user has it who says nothing.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use super::rules::Layer;
use super::setting;
use crate::error::{Error, Result};

/// The replica of a database that no source gives one. `held`: its places, if it is open in this process.
///
/// # Errors
/// Those of reading and making folders.
pub fn replica_of(folder: &Path, database: &Path, held: &[PathBuf]) -> Result<Layer> {
    let mut hash = DefaultHasher::new();
    database.hash(&mut hash);
    let names = folder.join(format!("{:016x}", hash.finish()));
    make(&names)?;
    let path = names.join("path");
    if !path.exists() {
        write(&path, database.as_os_str().as_bytes())?;
    }
    let place = match held.iter().find_map(|place| place.parent().filter(|at| at.starts_with(&names))) {
        Some(at) => at.to_owned(),
        None => names.join(number(&names, database)?.to_string()),
    };
    make(&place)?;
    let mut layer = Layer::default();
    let [replica, log] = ["replica", "log"].map(|name| place.join(name).into_os_string());
    let replica = [b"file://", replica.as_bytes()].concat();
    for (name, value) in
        [("replica", &replica[..]), ("replica_log", log.as_bytes()), ("replica_on_behind", b"keep")]
    {
        layer.add(setting::by_name(name.as_bytes()).expect("BUG: no such setting"), name, value)?;
    }
    Ok(layer)
}

/// Which of a name's files this is.
fn number(names: &Path, database: &Path) -> Result<u32> {
    let newest = (1..).take_while(|n| names.join(n.to_string()).exists()).last();
    let Some(newest) = newest else { return Ok(1) };
    let place = names.join(newest.to_string());
    let Some(file) = identity(database) else {
        let is_new = !place.join("file").exists() && !has_history(&place)?;
        return Ok(if is_new { newest } else { newest + 1 });
    };
    let known = std::fs::read_to_string(place.join("file")).ok();
    let number = if known.as_ref().is_none_or(|known| *known == file) { newest } else { newest + 1 };
    if known.as_ref() != Some(&file) {
        let place = names.join(number.to_string());
        make(&place)?;
        write(&place.join("file"), file.as_bytes())?;
    }
    Ok(number)
}

/// Tells a file from one that has its inode later; `None` for no file and an empty one.
fn identity(database: &Path) -> Option<String> {
    let file = std::fs::metadata(database).ok().filter(|file| file.len() > 0)?;
    let born = file.created().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(format!("{} {} {}", file.dev(), file.ino(), born.as_nanos()))
}

/// A commit was captured for it.
fn has_history(folder: &Path) -> Result<bool> {
    for entry in std::fs::read_dir(folder).map_err(|e| Error::io("list", folder, e))? {
        let path = entry.map_err(|e| Error::io("list", folder, e))?.path();
        if path.extension().is_some_and(|e| e == "ltx") || path.is_dir() && has_history(&path)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn make(folder: &PathBuf) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|e| Error::io("make", folder, e))
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    match std::fs::write(path, bytes) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io("write", path, error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Folder;

    fn place(folder: &Folder) -> PathBuf {
        place_while(folder, &[])
    }

    fn place_while(folder: &Folder, held: &[PathBuf]) -> PathBuf {
        let (replicas, database) = (folder.path().join("replicas"), folder.path().join("a.db"));
        let layer = replica_of(&replicas, &database, held).unwrap();
        let Some(setting::Value::Folder(log)) = layer.get("replica_log") else { panic!("no log") };
        log.parent().unwrap().to_owned()
    }

    #[test]
    fn a_new_file_under_an_old_name_gets_a_replica_of_its_own() {
        let folder = Folder::new();
        let database = folder.path().join("a.db");
        let first = place(&folder);
        std::fs::write(&database, b"").unwrap();
        assert_eq!(place(&folder), first, "as empty as no file");
        std::fs::write(&database, b"content").unwrap();
        assert_eq!(place(&folder), first, "the file that came of it");
        std::fs::write(&database, b"other content").unwrap();
        assert_eq!(place(&folder), first, "changed in place");

        std::fs::rename(&database, folder.path().join("b.db")).unwrap();
        std::fs::write(&database, b"content").unwrap();
        let second = place(&folder);
        assert_ne!(second, first, "another file");
        assert_eq!(place(&folder), second);
        std::fs::write(&database, b"").unwrap();
        let third = place(&folder);
        assert_ne!(third, second, "emptied");
        assert_eq!(place(&folder), third, "nothing was captured yet");
        std::fs::create_dir_all(third.join("replica/ltx/0")).unwrap();
        std::fs::write(third.join("replica/ltx/0/1.ltx"), b"").unwrap();
        assert_eq!(place_while(&folder, &[first.join("replica"), first.join("log")]), first, "open");
        assert_ne!(place(&folder), third, "captured, and the file is gone");
    }
}
