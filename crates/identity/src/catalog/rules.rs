//! What may be done to regions, services and endpoints.

use madang_http::Failure;
use madang_store::{Cause, ErrorKind, Metadata, Op, Rejection, Resource, StoreBuilder, StoreError};
use uuid::Uuid;

use super::{Endpoint, EndpointSpec, Region, RegionSpec, Service, ServiceSpec, render::filled};
use crate::{Caller, Identity, cascade::remove_all};

pub(crate) fn register(builder: &mut StoreBuilder) {
    builder.rule::<Endpoint>(|tx, op| {
        let (Op::Create(endpoint) | Op::Update { new: endpoint, .. }) = op else {
            return Ok(());
        };
        let EndpointSpec {
            service_id,
            region_id,
            url,
            ..
        } = &endpoint.spec;
        tx.get::<Service>(&Service::key(service_id))
            .ok_or_else(|| missing("service", service_id))?;
        if let Some(id) = region_id {
            tx.get::<Region>(&Region::key(id))
                .ok_or_else(|| missing("region", id))?;
        }
        check_url(url)
    });
    builder.rule::<Service>(|tx, op| {
        let Op::Remove(service) = op else { return Ok(()) };
        remove_all(tx, tx.store().cache::<Endpoint>().by("service", service.name()))
    });
    builder.rule::<Region>(|tx, op| match op {
        Op::Create(region) | Op::Update { new: region, .. } => {
            let mut above = region.spec.parent_region_id.clone();
            while let Some(id) = above {
                if id == region.name() {
                    let message = format!("Region {} cannot be below itself", region.name());
                    return Err(Rejection::new(ErrorKind::Invalid, "CircularRegionHierarchy", message).into());
                }
                let parent = tx
                    .get::<Region>(&Region::key(&id))
                    .ok_or_else(|| missing("region", &id))?;
                above = parent.spec.parent_region_id.clone();
            }
            Ok(())
        }
        Op::Remove(region) => {
            let id = region.name();
            let store = tx.store();
            if store.cache::<Endpoint>().count_by("region", id) > 0
                || store.cache::<Region>().count_by("parent", id) > 0
            {
                let message =
                    format!("Unable to delete region {id} because it or its child regions have associated endpoints.");
                return Err(Rejection::new(ErrorKind::Forbidden, "RegionDeletionError", message).into());
            }
            Ok(())
        }
    });
}

fn missing(what: &str, id: &str) -> StoreError {
    Rejection::new(ErrorKind::NotFound, "", format!("Could not find {what}: {id}.")).into()
}

fn check_url(url: &str) -> Result<(), StoreError> {
    if filled(url, "user", Some("project")).is_some() {
        return Ok(());
    }
    let message = format!("Malformed endpoint URL ({url}), see ERROR log for details.");
    Err(Rejection::new(ErrorKind::Invalid, "MalformedEndpoint", message)
        .at("url")
        .into())
}

/// Makes a region that is not there, for who may do `rule`.
///
/// # Errors
/// 403 for policy.
pub async fn ensure_region(identity: &Identity, caller: &Caller, rule: &str, id: &str) -> Result<(), Failure> {
    caller.enforce(rule, &[])?;
    let ensured = identity.store.transact(caller.cause(), |tx| {
        if tx.get::<Region>(&Region::key(id)).is_none() {
            tx.create(Resource::<Region>::new(Metadata::new("", id), RegionSpec::default()))?;
        }
        Ok::<_, Failure>(())
    });
    ensured.await
}

/// A service of this cloud and where it is.
#[derive(Clone, Debug)]
pub struct CatalogEntry {
    /// What clients look for: `compute`.
    pub service_type: &'static str,
    /// What users call it: `nova`.
    pub name: &'static str,
    /// Free text.
    pub description: &'static str,
    /// Its URL, which may hold `$(project_id)s`.
    pub url: String,
}

impl Identity {
    /// Makes the catalog say where these services are: creates what is missing, and moves the URLs of what is there.
    /// What users added beside stays.
    ///
    /// # Errors
    /// What the store says.
    pub async fn publish(&self, region: &str, entries: &[CatalogEntry]) -> Result<(), Failure> {
        let published = self.store.transact(Cause::system("catalog"), |tx| {
            if tx.get::<Region>(&Region::key(region)).is_none() {
                tx.create(Resource::<Region>::new(
                    Metadata::new("", region),
                    RegionSpec::default(),
                ))?;
            }
            for entry in entries {
                let known = self.store.cache::<Service>().by("type", entry.service_type);
                let known = known
                    .into_iter()
                    .find(|service| service.spec.name.as_deref() == Some(entry.name));
                let service_id = match known {
                    Some(service) => service.name().to_owned(),
                    None => tx
                        .create(Resource::<Service>::new(new_id(), service(entry)))?
                        .name()
                        .to_owned(),
                };
                let endpoints = self.store.cache::<Endpoint>().by("service", &service_id);
                for interface in ["public", "internal", "admin"] {
                    let there = endpoints.iter().find(|endpoint| {
                        endpoint.spec.interface == interface && endpoint.spec.region_id.as_deref() == Some(region)
                    });
                    match there {
                        Some(endpoint) => {
                            let mut moved = (**endpoint).clone();
                            moved.spec.url.clone_from(&entry.url);
                            tx.update(endpoint, moved)?;
                        }
                        None => {
                            let spec = endpoint(&service_id, interface, region, &entry.url);
                            tx.create(Resource::<Endpoint>::new(new_id(), spec))?;
                        }
                    }
                }
            }
            Ok::<_, Failure>(())
        });
        published.await
    }
}

fn new_id() -> Metadata {
    let uid = Uuid::new_v4();
    Metadata::with_uid(uid, "", uid.simple().to_string())
}

fn service(entry: &CatalogEntry) -> ServiceSpec {
    ServiceSpec {
        service_type: entry.service_type.to_owned(),
        name: Some(entry.name.to_owned()),
        description: Some(entry.description.to_owned()),
        enabled: true,
        extra: serde_json::Map::new(),
    }
}

fn endpoint(service_id: &str, interface: &str, region: &str, url: &str) -> EndpointSpec {
    EndpointSpec {
        service_id: service_id.to_owned(),
        interface: interface.to_owned(),
        region_id: Some(region.to_owned()),
        url: url.to_owned(),
        enabled: true,
        extra: serde_json::Map::new(),
    }
}
