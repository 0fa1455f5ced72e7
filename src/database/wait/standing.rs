//! Committers in a rollback mode that stand still until the replica has what they committed.

use std::sync::atomic::{AtomicU64, Ordering};

/// Committers in a rollback mode that wait, holding EXCLUSIVE: as long as one stands, the file is one commit.
#[derive(Default)]
pub struct Standing {
    came: AtomicU64,
    left: AtomicU64,
}

/// Somebody stands, as long as this lives.
pub struct Stand<'a>(&'a Standing);

impl Standing {
    pub fn stand(&self) -> Stand<'_> {
        self.came.fetch_add(1, Ordering::SeqCst);
        Stand(self)
    }

    /// A token for [`Standing::still`] when somebody stands now.
    pub fn now(&self) -> Option<u64> {
        let left = self.left.load(Ordering::SeqCst);
        (self.came.load(Ordering::SeqCst) > left).then_some(left)
    }

    /// Nobody has left since, so who stood then still does.
    pub fn still(&self, token: u64) -> bool {
        self.left.load(Ordering::SeqCst) == token
    }
}

impl Drop for Stand<'_> {
    fn drop(&mut self) {
        self.0.left.fetch_add(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stand_counts_until_the_first_of_those_leaves() {
        let standing = Standing::default();
        assert_eq!(standing.now(), None);
        let first = standing.stand();
        let token = standing.now().unwrap();
        let second = standing.stand();
        assert!(standing.still(token));
        drop(first);
        assert!(!standing.still(token), "who stood then may be gone");
        assert!(standing.now().is_some());
        drop(second);
        assert_eq!(standing.now(), None);
    }
}
