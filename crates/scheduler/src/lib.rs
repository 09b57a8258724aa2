//! Where workloads go: providers and their inventories, claims on them, filter and weigh; Placement's API.

mod amounts;
pub mod api;
pub mod ask;
pub mod candidates;
pub mod claim;
mod class;
pub mod control;
pub mod filter;
pub mod forest;
pub mod host_group;
pub mod options;
pub mod plan;
pub mod provider;
pub mod seat;
pub mod snapshot;
pub mod weigh;

use madang_store::StoreBuilder;

pub use amounts::{Amounts, Class};
pub use claim::{Claim, ClaimGroup, ClaimSpec, ClaimStatus, GroupPolicy, Refusal, Share, Wishes};
pub use class::{ResourceClass, Trait};
pub use host_group::{HostGroup, HostGroupSpec};
pub use options::{Arrange, Options, Policy};
pub use provider::{
    Capabilities, Cell, DISK_GB, Inventory, MEMORY_MB, PCPU, Provider, ProviderSpec, ProviderStatus, VCPU,
};
pub use seat::Seat;

/// Makes the kinds of this crate and their rules known.
pub fn register(store: &mut StoreBuilder) {
    store.kind::<Provider>();
    store.kind::<HostGroup>();
    store.kind::<ResourceClass>();
    store.kind::<Trait>();
    store.rule::<Provider>(provider::rules::admit);
    store.rule::<Claim>(claim::rules::admit);
}
