//! What the writer remembers of the records it touched last: their rows, revisions and sums, so that what is written again
//! soon (a claim that was just made, a provider's usage) is not looked for in a tree of a million keys.
//!
//! True because nobody else writes: every write of the database goes through [`Recent::note`], [`Recent::forget`] or
//! [`Recent::clear`]. Two generations keep it small: when the younger one is full, the older one goes.

use ahash::AHashMap;

use crate::{Revision, tx::CounterFields};

/// Records in one generation; there are two. With keys of a hundred bytes, 12 MB in all at most.
const GENERATION: usize = 32 * 1024;

/// What is known of a record that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    /// Its row.
    pub(super) row: i64,
    /// When it was last written.
    pub(super) modified: Revision,
    /// Its sums, if it is a counter record and they have been read.
    pub(super) sums: Option<CounterFields>,
}

/// The records touched last, by encoded key.
#[derive(Default)]
pub(super) struct Recent {
    young: AHashMap<String, Known>,
    old: AHashMap<String, Known>,
}

impl Recent {
    /// What is known of the record at a key; none says nothing.
    pub(super) fn get(&mut self, key: &str) -> Option<&Known> {
        if let Some((key, known)) = self.old.remove_entry(key) {
            self.put(key, known);
        }
        self.young.get(key)
    }

    /// A record is there, like this.
    pub(super) fn note(&mut self, key: &str, known: Known) {
        self.old.remove(key);
        match self.young.get_mut(key) {
            Some(before) => *before = known,
            None => self.put(key.to_owned(), known),
        }
    }

    /// A record is gone.
    pub(super) fn forget(&mut self, key: &str) {
        self.young.remove(key);
        self.old.remove(key);
    }

    /// Nothing is known any more: what was noted did not come about.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    fn put(&mut self, key: String, known: Known) {
        if self.young.len() >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, known);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(row: i64) -> Known {
        Known {
            row,
            modified: Revision(1),
            sums: None,
        }
    }

    #[test]
    fn what_is_touched_stays_and_the_rest_goes() {
        let mut recent = Recent::default();
        recent.note("kept", known(1));
        recent.note("gone", known(2));
        recent.note("untouched", known(3));
        recent.forget("gone");
        for row in 0..3 * GENERATION as i64 {
            recent.note(&format!("passing-{row}"), known(row));
            assert!(row % 1000 != 0 || recent.get("kept").is_some());
        }
        assert_eq!(recent.get("kept"), Some(&known(1)));
        assert_eq!(recent.get("gone"), None);
        assert_eq!(recent.get("untouched"), None);
        assert!(recent.young.len() + recent.old.len() <= 2 * GENERATION);
        recent.note("kept", known(9));
        assert_eq!(recent.get("kept"), Some(&known(9)));
        recent.clear();
        assert_eq!(recent.get("kept"), None);
    }
}
