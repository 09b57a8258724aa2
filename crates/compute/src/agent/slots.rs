//! Which user id of the host belongs to which server.
//!
//! A slot is chosen in memory, among those that no server of the host has in the store, and written down before anything
//! runs under it.

use std::{collections::BTreeMap, sync::Arc};

use madang_store::{Resource, Store, StoreError};
use parking_lot::Mutex;
use uuid::Uuid;

use super::filing;
use crate::server::Server;

#[derive(Default)]
pub(super) struct Slots {
    taken: Mutex<BTreeMap<u32, Uuid>>,
}

impl Slots {
    /// As servers have them.
    pub(super) fn read(&self, servers: &[Arc<Resource<Server>>]) {
        let taken = servers
            .iter()
            .filter_map(|server| Some((server.status.slot?, server.metadata.uid)));
        self.taken.lock().extend(taken);
    }

    /// The server's slot: the one it has, or a free one, written down.
    pub(super) async fn take(&self, store: &Store, server: &Resource<Server>) -> Result<u32, StoreError> {
        if let Some(slot) = server.status.slot {
            return Ok(slot);
        }
        let slot = self.choose(server.metadata.uid);
        let key = server.key();
        let written = store.modify::<Server, StoreError>(&key, filing::cause(super::host_of(server)), |server| {
            server.status.slot = Some(slot);
            Ok(())
        });
        written.await?;
        Ok(slot)
    }

    fn choose(&self, uid: Uuid) -> u32 {
        let mut taken = self.taken.lock();
        if let Some((slot, _)) = taken.iter().find(|(_, owner)| **owner == uid) {
            return *slot;
        }
        // Sorted, so the first place where the count and the slot part is free.
        let gap = taken
            .keys()
            .zip(0u32..)
            .find(|(slot, expected)| **slot != *expected)
            .map(|(_, free)| free);
        let slot = gap.unwrap_or(taken.len() as u32);
        taken.insert(slot, uid);
        slot
    }

    /// Frees what a server had.
    pub(super) fn free(&self, server: &Resource<Server>) {
        self.taken.lock().retain(|_, owner| *owner != server.metadata.uid);
    }
}
