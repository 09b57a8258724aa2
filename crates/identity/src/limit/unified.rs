//! Which services' quotas are unified limits: operators name them, and those services ask here instead of looking at the
//! limits that their own quota APIs keep.

use std::collections::BTreeSet;

use madang_http::Failure;
use madang_store::{Cause, Key, Kind, Metadata, Resource, Store, StoreBuilder};
use serde::{Deserialize, Serialize};

use super::{Limit, RegisteredLimit, of_project};
use crate::catalog::Service;

/// The kind of the decision, of which there is one. Written by [`decide`], at each start.
#[derive(Debug)]
pub struct Unified;

/// What operators decided.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnifiedSpec {
    /// Types of services, as the catalog has them: `compute`.
    pub services: BTreeSet<String>,
    /// The region whose limits count before those without a region.
    #[serde(default)]
    pub region: Option<String>,
}

impl Kind for Unified {
    const NAME: &'static str = "unified-limits";
    type Spec = UnifiedSpec;
    type Status = ();
}

/// Makes what [`asked`] looks at known to a store that is about to be opened, for services that ask.
pub fn know(builder: &mut StoreBuilder) {
    builder.kind::<Unified>();
    builder.kind::<Service>();
    builder.kind::<RegisteredLimit>();
    builder.kind::<Limit>();
}

const NAME: &str = "decision";

fn key() -> Key {
    Key::new(Unified::NAME, "", "", NAME)
}

/// What a service that asks is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Its own quota counts.
    Own,
    /// Unified limits count, and none is registered for this.
    Unregistered,
    /// So many; any number where there is none.
    AtMost(Option<i64>),
}

/// Writes down whose quotas are unified limits.
///
/// # Errors
/// What the store says.
pub async fn decide(store: &Store, services: BTreeSet<String>, region: &str) -> Result<(), Failure> {
    let spec = UnifiedSpec {
        services,
        region: Some(region.to_owned()),
    };
    let written = store.transact(Cause::system("unified-limits"), |tx| {
        match tx.get::<Unified>(&key()) {
            Some(old) if old.spec == spec => {}
            Some(old) => {
                let mut new = (*old).clone();
                new.spec = spec.clone();
                tx.update(&old, new)?;
            }
            None => {
                tx.create(Resource::<Unified>::new(Metadata::new("", NAME), spec.clone()))?;
            }
        }
        Ok::<_, Failure>(())
    });
    written.await
}

/// Whether a service's quotas are unified limits.
pub fn decides(store: &Store, service_type: &str) -> bool {
    let decision = store.get::<Unified>(&key());
    decision.is_some_and(|decision| decision.spec.services.contains(service_type))
}

/// How much of a resource a project may have, for the service to hold it to. With `""` for the project, what is registered
/// for everybody.
pub fn asked(store: &Store, service_type: &str, resource: &str, project_id: &str) -> Asked {
    let decision = store.get::<Unified>(&key());
    let Some(decision) = decision.filter(|decision| decision.spec.services.contains(service_type)) else {
        return Asked::Own;
    };
    let region = decision.spec.region.as_deref();
    match of_project(store, service_type, region, resource, project_id) {
        Some(limit) => Asked::AtMost((limit >= 0).then_some(limit)),
        None => Asked::Unregistered,
    }
}
