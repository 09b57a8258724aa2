//! Servers: what was asked of them, how they come to be, Nova's API over them and the host's agent under them.

pub mod agent;
pub mod aggregate;
pub mod api;
pub mod console;
pub mod driver;
pub mod flavor;
pub mod group;
pub mod guest_data;
pub mod keypair;
pub mod metadata_service;
pub mod quota;
pub mod reach;
pub mod server;

use madang_scheduler::Claim;
use madang_store::StoreBuilder;

pub use aggregate::{Aggregate, AggregateSpec};
pub use flavor::{Flavor, FlavorSpec, FlavorStatus};
pub use group::{ServerGroup, ServerGroupSpec, ServerGroupStatus};
pub use keypair::{Keypair, KeypairSpec, KeypairStatus};
pub use quota::Quota;
pub use server::{Action, Departed, Fault, Migration, Phase, Power, Server, ServerKey, ServerSpec, ServerStatus};

/// Makes the kinds of this crate and their rules known.
pub fn register(store: &mut StoreBuilder) {
    madang_identity::limit::unified::know(store);
    store.kind::<Flavor>().kind::<Keypair>().kind::<Quota>();
    store.rule::<Aggregate>(aggregate::rules::admit);
    store.kind::<Action>().kind::<Departed>().kind::<Migration>();
    store.rule::<ServerGroup>(group::admit);
    store.rule::<Server>(server::rules::admit);
    store.rule::<Server>(quota::count_user);
    store.rule::<Claim>(server::rules::follow_claim);
}
