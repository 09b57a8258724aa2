//! Where workloads go: providers and their inventories, claims on them, filter and weigh; Placement's API.

pub mod api;
pub mod claim;
pub mod control;
pub mod placement;
pub mod provider;

use madang_store::StoreBuilder;

pub use claim::{Claim, ClaimGroup, ClaimSpec, ClaimStatus, GroupPolicy};
pub use provider::{DISK_GB, Inventory, MEMORY_MB, Provider, ProviderSpec, ProviderStatus, VCPU};

/// Makes the kinds of this crate and their rules known.
pub fn register(store: &mut StoreBuilder) {
    store.kind::<Provider>();
    store.rule::<Claim>(claim::rules::admit);
}
