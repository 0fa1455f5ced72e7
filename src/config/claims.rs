//! One replica, one database: who holds which replica URL and log folder in this process.
//!
//! Two databases on one replica would take each other's txids. Each open claims its places first; the second
//! database that asks for a place of the first is refused. Several connections to one database share a claim. The
//! guard between processes is the local log's lock and the replica itself; this one gives the clear text early.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::lock::Mutex;

/// The claims of this process.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    /// Guards the places taken: place to holder. Held for table work only.
    taken: Arc<Mutex<HashMap<PathBuf, Holder>>>,
}

#[derive(Debug)]
struct Holder {
    database: PathBuf,
    count: usize,
}

impl Claims {
    /// The places of a database that is open in this process.
    pub fn of(&self, database: &Path) -> Vec<PathBuf> {
        let taken = self.taken.lock();
        taken
            .iter()
            .filter(|(_, holder)| holder.database == database)
            .map(|(place, _)| place.clone())
            .collect()
    }
}

/// The right of one open to its places; given back when dropped.
#[derive(Debug)]
pub struct Claim {
    claims: Claims,
    places: Vec<PathBuf>,
}

impl Claims {
    /// Claims all `places`, or none: folders after symbolic links, buckets by their names.
    ///
    /// # Errors
    /// `Invalid` when another database of this process holds one of them.
    pub fn claim(&self, database: &Path, places: Vec<PathBuf>) -> Result<Claim> {
        let mut claim = Claim { claims: self.clone(), places: Vec::new() };
        let mut taken = self.taken.lock();
        for place in &places {
            if let Some(holder) = taken.get(place)
                && holder.database != database
            {
                return Err(Error::invalid(format!(
                    "{} is already the replica or log folder of {} in this process, and {} may not share it; \
                     give each database its own",
                    place.display(),
                    holder.database.display(),
                    database.display()
                )));
            }
        }
        for place in places {
            match taken.entry(place.clone()) {
                Entry::Occupied(mut held) => held.get_mut().count += 1,
                Entry::Vacant(free) => {
                    free.insert(Holder { database: database.to_path_buf(), count: 1 });
                }
            }
            claim.places.push(place);
        }
        Ok(claim)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut taken = self.claims.taken.lock();
        for place in &self.places {
            let held = taken.get_mut(place).expect("BUG: a claimed place is not in the table");
            held.count -= 1;
            if held.count == 0 {
                taken.remove(place);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_database_is_refused_until_the_last_claim_of_the_first_is_gone() {
        let claims = Claims::default();
        let (a, b) = (Path::new("/no/a.db"), Path::new("/no/b.db"));
        let (shared, own) = (PathBuf::from("/no/replica"), PathBuf::from("/no/own"));
        let first = claims.claim(a, vec![shared.clone()]).unwrap();
        let again = claims.claim(a, vec![shared.clone()]).unwrap();
        let text = claims.claim(b, vec![own.clone(), shared.clone()]).unwrap_err().to_string();
        assert!(
            text.starts_with("/no/replica is already the replica or log folder of /no/a.db in this process"),
            "{text}"
        );
        drop(first);
        assert!(claims.claim(b, vec![shared.clone()]).is_err());
        drop(again);
        assert!(claims.claim(b, vec![own.clone(), shared.clone()]).is_ok());
        assert!(claims.taken.lock().is_empty(), "a dropped claim leaves nothing behind");
    }
}
