//! Resources that this process is writing, as they were before they became bytes: the caches take them as they are
//! instead of reading them again.
//!
//! Kept by where their bytes are in memory, which engines pass on without copying. Whoever does copy costs time, not truth:
//! the caches read what is not found here.

use std::{any::Any, sync::Arc};

use ahash::AHashMap;
use bytes::Bytes;
use parking_lot::Mutex;

/// A resource of some kind: an `Arc<Resource<K>>`.
pub(crate) type AnyResource = Arc<dyn Any + Send + Sync>;

/// The resources that are being written. An entry holds its bytes, so that no others can be at their place.
#[derive(Default)]
pub(crate) struct Fresh(Mutex<AHashMap<usize, (Bytes, AnyResource)>>);

/// What one transaction writes; forgotten when this is dropped.
pub(crate) struct Written<'f> {
    fresh: &'f Fresh,
    places: Vec<usize>,
}

impl Fresh {
    /// Keeps what a transaction writes, for as long as the answer lives.
    pub(crate) fn keep(&self, written: impl Iterator<Item = (Bytes, AnyResource)>) -> Written<'_> {
        let mut all = self.0.lock();
        let mut places = Vec::new();
        for (bytes, resource) in written {
            let place = place(&bytes);
            all.insert(place, (bytes, resource));
            places.push(place);
        }
        Written { fresh: self, places }
    }

    /// The resource that became these very bytes, if it is known. It is not known any more then.
    pub(crate) fn take(&self, bytes: &[u8]) -> Option<AnyResource> {
        let mut all = self.0.lock();
        let (known, resource) = all.remove(&place(bytes))?;
        (known.len() == bytes.len()).then_some(resource)
    }
}

impl Drop for Written<'_> {
    fn drop(&mut self) {
        let mut all = self.fresh.0.lock();
        for place in &self.places {
            all.remove(place);
        }
    }
}

fn place(bytes: &[u8]) -> usize {
    bytes.as_ptr() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_bytes_lead_to_a_resource_and_nothing_stays() {
        let fresh = Fresh::default();
        let (one, two) = (Bytes::from(vec![b'x'; 9]), Bytes::from(vec![b'x'; 9]));
        let written = fresh.keep([(one.clone(), Arc::new(1_u8) as AnyResource)].into_iter());
        assert!(fresh.take(&two).is_none(), "a copy is somebody else");
        let found = fresh.take(&one).and_then(|found| found.downcast::<u8>().ok());
        assert_eq!(found.as_deref(), Some(&1));
        assert!(fresh.take(&one).is_none(), "it is taken once");
        drop(written);
        drop(fresh.keep([(two.clone(), Arc::new(2_u8) as AnyResource)].into_iter()));
        assert!(fresh.0.lock().is_empty() && fresh.take(&two).is_none());
    }
}
