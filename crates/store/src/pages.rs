//! All records of an engine that nobody writes to, for copying and comparing.

use crate::{Backend, Key, Prefix, Record, Revision, StoreError};

/// Records at a time.
const AT_ONCE: usize = 1000;

/// Goes through all records in key order.
pub struct Pages<'b> {
    of: &'b dyn Backend,
    revision: Option<Revision>,
    after: Option<Key>,
    is_done: bool,
}

impl<'b> Pages<'b> {
    /// From the beginning.
    pub fn new(of: &'b dyn Backend) -> Self {
        Self {
            of,
            revision: None,
            after: None,
            is_done: false,
        }
    }

    /// The next ones; none after the last.
    ///
    /// # Errors
    /// `Invalid` when somebody has written since the first; what the engine says.
    pub async fn next(&mut self) -> Result<Option<Vec<Record>>, StoreError> {
        if self.is_done {
            return Ok(None);
        }
        let page = self.of.range(&Prefix::all(), self.after.as_ref(), AT_ONCE).await?;
        let began = *self.revision.get_or_insert(page.revision);
        if began != page.revision {
            let now = page.revision;
            return Err(StoreError::Invalid(format!(
                "somebody writes to the store that is read: it was at revision {began} and is at {now}"
            )));
        }
        self.is_done = !page.more;
        self.after = page.records.last().map(|last| last.key.clone());
        Ok((!page.records.is_empty()).then_some(page.records))
    }

    /// The revision of all that was read so far.
    pub fn revision(&self) -> Revision {
        self.revision.unwrap_or_default()
    }
}
