//! Every state that a replica can give back, with its time.
//!
//! The times of a bucket take one request each, so several are asked for at once.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::catalog::{Point, moments, points};
use crate::error::{Error, Kind, Result};
use crate::ffi::os;
use crate::lock::Mutex;
use crate::replica::Client;
use crate::types::{FileInfo, Level, Timestamp, TxidRange};

/// Requests under way at a time.
const ASKERS: usize = 16;
/// Times a replica is listed anew because its files changed under us.
const LISTINGS_MAX: usize = 5;

/// What was learnt, by name.
type Known = HashMap<(Level, TxidRange), (FileInfo, Timestamp)>;

/// Every restorable state, oldest first, with the time it was captured at.
///
/// # Errors
/// `Conflict` when the replica changed faster than it could be read; those of the store.
pub fn restore_points(client: &dyn Client) -> Result<Vec<(Point, Timestamp)>> {
    let mut known = Known::new();
    let mut listings = 1;
    loop {
        let points = points(&client.list_all()?);
        match said(client, &points, &mut known) {
            Ok(said) => return Ok(points.into_iter().zip(moments(&said)).collect()),
            Err(error) if error.kind() == Kind::Conflict && listings < LISTINGS_MAX => listings += 1,
            Err(error) => return Err(error),
        }
    }
}

/// What the file of each point says.
fn said(client: &dyn Client, points: &[Point], known: &mut Known) -> Result<Vec<Timestamp>> {
    let name = |file: &FileInfo| (file.level, file.range);
    known.retain(|_, (file, _)| {
        let at = points.binary_search_by_key(&file.range.max, |point| point.txid);
        at.is_ok_and(|at| points[at].file.same_object(file))
    });
    let asked: Vec<FileInfo> =
        points.iter().map(|point| point.file).filter(|file| !known.contains_key(&name(file))).collect();
    let (next, answers) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let ask = |_| {
        while let Some(file) = asked.get(next.fetch_add(1, Ordering::Relaxed)) {
            let answer = client.timestamp(file);
            let is_last = answer.is_err();
            answers.lock().push((*file, answer));
            if is_last {
                next.store(asked.len(), Ordering::Relaxed);
            }
        }
    };
    if client.url().starts_with("file:") || asked.len() < 2 {
        ask(0);
    } else {
        os::in_parallel(ASKERS.min(asked.len()), &ask)
            .map_err(|e| Error::new(Kind::Io, format!("cannot start a thread: {e}")))?;
    }
    let answers = std::mem::take(&mut *answers.lock());
    let mut failed = None;
    for (file, answer) in answers {
        match answer {
            Ok(at) => drop(known.insert(name(&file), (file, at))),
            Err(error) => failed = Some(error),
        }
    }
    match failed {
        Some(error) => Err(error),
        None => Ok(points.iter().map(|point| known[&name(&point.file)].1).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ltx::sample::{file, header};
    use crate::replica::FileReplica;
    use crate::testing::Folder;
    use std::io::Cursor;

    /// A store that lets files go when it is first asked for the time of one, as retention does.
    struct Retention<'a> {
        replica: &'a FileReplica,
        gone: Mutex<Vec<FileInfo>>,
    }

    impl Client for Retention<'_> {
        /// As of a bucket, so that several ask at once.
        fn url(&self) -> &str {
            "s3://bucket/app"
        }

        fn prepare(&self) -> Result<()> {
            panic!("a look prepares nothing")
        }

        fn list(&self, level: Level) -> Result<Vec<FileInfo>> {
            self.replica.list(level)
        }

        fn tells_objects_apart(&self) -> bool {
            true
        }

        fn open(&self, file: &FileInfo) -> Result<Box<dyn crate::replica::ReadSeek>> {
            // Under the lock: nobody reads one that is about to go.
            self.gone.lock().drain(..).for_each(|gone| self.replica.delete(&gone).unwrap());
            self.replica.open(file)
        }

        fn create(
            &self,
            _: Level,
            _: TxidRange,
            _: Timestamp,
            _: &mut dyn crate::replica::ReadSeek,
        ) -> Result<FileInfo> {
            panic!("a look creates nothing")
        }

        fn make_durable(&self, _: Level) -> Result<()> {
            panic!("a look creates nothing")
        }

        fn stat(&self, level: Level, range: TxidRange) -> Result<Option<FileInfo>> {
            self.replica.stat(level, range)
        }

        fn delete(&self, _: &FileInfo) -> Result<()> {
            panic!("a look deletes nothing")
        }
    }

    fn replica(folder: &Folder) -> FileReplica {
        let replica = FileReplica::at_or_create(folder.path().join("r")).unwrap();
        let files = [(0, 1, 1), (0, 2, 2), (0, 3, 3), (1, 1, 2), (9, 1, 3)];
        for (level, min, max) in files {
            let header = header(min, max, 512, 1);
            let bytes = file(header, &[(1, vec![max as u8; 512])]);
            let level = Level::new(level).unwrap();
            replica.create(level, header.range, header.timestamp, &mut Cursor::new(&bytes[..])).unwrap();
        }
        replica
    }

    fn found(client: &dyn Client) -> Vec<(u64, u8, Timestamp)> {
        let points = restore_points(client).unwrap();
        points.iter().map(|(point, at)| (point.txid.get(), point.file.level.get(), *at)).collect()
    }

    #[test]
    fn each_state_has_the_time_of_its_header() {
        let folder = Folder::new();
        let at = |txid| header(txid, txid, 512, 1).timestamp;
        assert_eq!(found(&replica(&folder)), [(1, 0, at(1)), (2, 0, at(2)), (3, 0, at(3))]);
    }

    #[test]
    fn files_that_go_meanwhile_are_listed_again() {
        let folder = Folder::new();
        let replica = replica(&folder);
        let gone: Vec<FileInfo> = replica.list(Level::CAPTURED).unwrap();
        let client = Retention { replica: &replica, gone: Mutex::new(gone) };
        let at = |txid| header(txid, txid, 512, 1).timestamp;
        assert_eq!(found(&client), [(2, 1, at(2)), (3, 9, at(3))]);
    }
}
