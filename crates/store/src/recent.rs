//! What an engine's writer remembers of the records it touched last: their rows, revisions and sums, so that what is written again
//! soon (a claim that was just made, a provider's usage) is not looked for in a tree of a million keys.
//!
//! True as long as nobody else writes: every write goes through [`Recent::note`], [`Recent::forget`] or
//! [`Recent::clear`]. Two generations keep it small: when the younger one is full, the older one goes.

use ahash::AHashMap;

/// Records in one generation; there are two. With keys of a hundred bytes, 12 MB in all at most.
const GENERATION: usize = 32 * 1024;

/// What is known of the records touched last, by encoded key.
pub(crate) struct Recent<K> {
    young: AHashMap<String, K>,
    old: AHashMap<String, K>,
}

impl<K> Default for Recent<K> {
    fn default() -> Self {
        Self {
            young: AHashMap::new(),
            old: AHashMap::new(),
        }
    }
}

impl<K> Recent<K> {
    /// What is known of the record at a key; none says nothing.
    pub(crate) fn get(&mut self, key: &str) -> Option<&K> {
        if let Some((key, known)) = self.old.remove_entry(key) {
            self.put(key, known);
        }
        self.young.get(key)
    }

    /// As [`Recent::get`], of what is in use at the moment.
    pub(crate) fn peek(&self, key: &str) -> Option<&K> {
        self.young.get(key).or_else(|| self.old.get(key))
    }

    /// A record is there, like this.
    pub(crate) fn note(&mut self, key: &str, known: K) {
        self.old.remove(key);
        match self.young.get_mut(key) {
            Some(before) => *before = known,
            None => self.put(key.to_owned(), known),
        }
    }

    /// A record is gone.
    pub(crate) fn forget(&mut self, key: &str) {
        self.young.remove(key);
        self.old.remove(key);
    }

    /// Nothing is known any more: what was noted did not come about.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    fn put(&mut self, key: String, known: K) {
        if self.young.len() >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, known);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_touched_stays_and_the_rest_goes() {
        let mut recent = Recent::<i64>::default();
        recent.note("kept", 1);
        recent.note("gone", 2);
        recent.note("untouched", 3);
        recent.forget("gone");
        for row in 0..3 * GENERATION as i64 {
            recent.note(&format!("passing-{row}"), row);
            assert!(row % 1000 != 0 || recent.get("kept").is_some());
        }
        assert_eq!(recent.get("kept"), Some(&1));
        assert_eq!(recent.get("gone"), None);
        assert_eq!(recent.get("untouched"), None);
        assert!(recent.young.len() + recent.old.len() <= 2 * GENERATION);
        recent.note("kept", 9);
        assert_eq!(recent.get("kept"), Some(&9));
        recent.clear();
        assert_eq!(recent.get("kept"), None);
    }
}
