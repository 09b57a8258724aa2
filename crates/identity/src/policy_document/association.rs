//! `OS-ENDPOINT-POLICY`: which policy document is for an endpoint, a service, or a service in a region.

use std::{collections::HashMap, sync::Arc};

use axum::{
    Router,
    extract::{Path, State},
    response::Response,
    routing::get,
};
use http::{Method, StatusCode};
use madang_http::{Failure, Query, RequestInfo};
use madang_store::{Indexes, Key, Kind, Metadata, Op, Resource, Store, StoreBuilder};
use serde::{Deserialize, Serialize};

use super::PolicyDocument;
use crate::{
    Caller, Identity,
    api::{
        collection::{self, Collection},
        no_content, not_found, one,
    },
    cascade::remove_all,
    catalog::{Endpoint, Region, Service},
};

/// The kind of associations. `metadata.name` is the place, which has one document at most.
#[derive(Debug)]
pub struct Association;

/// Which document is for which place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AssociationSpec {
    /// The document.
    pub policy_id: String,
    /// What it is for.
    pub place: Place,
}

/// What a document can be for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// An endpoint.
    Endpoint(String),
    /// All endpoints of a service that have none of their own.
    Service(String),
    /// Those of them that are in a region, or in one below it.
    ServiceInRegion(String, String),
}

impl Place {
    fn as_text(&self) -> String {
        match self {
            Self::Endpoint(id) => format!("endpoint:{id}"),
            Self::Service(id) => format!("service:{id}"),
            Self::ServiceInRegion(service, region) => format!("service:{service}.region:{region}"),
        }
    }

    /// What the path names, and what rules call it.
    fn read(names: &HashMap<String, String>) -> (Self, &'static str) {
        let name = |name: &str| names.get(name).cloned();
        match (name("endpoint_id"), name("service_id"), name("region_id")) {
            (Some(id), _, _) => (Self::Endpoint(id), "endpoint"),
            (None, service, Some(region)) => {
                let service = service.unwrap_or_default();
                (Self::ServiceInRegion(service, region), "region_and_service")
            }
            (None, service, None) => (Self::Service(service.unwrap_or_default()), "service"),
        }
    }

    fn check(&self, store: &Store) -> Result<(), Failure> {
        let service = |id: &String| {
            let found = store.get::<Service>(&Service::key(id));
            found.map(|_| ()).ok_or_else(|| not_found("service", id))
        };
        match self {
            Self::Endpoint(id) => {
                let found = store.get::<Endpoint>(&Endpoint::key(id));
                found.map(|_| ()).ok_or_else(|| not_found("endpoint", id))
            }
            Self::Service(id) => service(id),
            Self::ServiceInRegion(id, region) => {
                service(id)?;
                let found = store.get::<Region>(&Region::key(region));
                found.map(|_| ()).ok_or_else(|| not_found("region", region))
            }
        }
    }
}

impl Kind for Association {
    const NAME: &'static str = "policy-associations";
    type Spec = AssociationSpec;
    type Status = ();

    fn indexes() -> Indexes<Self> {
        Indexes::<Self>::new()
            .on("policy", |r| vec![r.spec.policy_id.clone()])
            .on("part", |r| match &r.spec.place {
                Place::Endpoint(id) => vec![format!("endpoint:{id}")],
                Place::Service(id) => vec![format!("service:{id}")],
                Place::ServiceInRegion(service, region) => {
                    vec![format!("service:{service}"), format!("region:{region}")]
                }
            })
    }
}

impl Association {
    /// Where the association of a place is stored.
    pub fn key(place: &Place) -> Key {
        Key::new(Self::NAME, "", "", place.as_text())
    }
}

pub(crate) fn register(builder: &mut StoreBuilder) {
    builder.kind::<Association>();
    builder.rule::<PolicyDocument>(|tx, op| {
        let Op::Remove(document) = op else { return Ok(()) };
        remove_all(tx, tx.store().cache::<Association>().by("policy", document.name()))
    });
    forget_with::<Endpoint>(builder, |id| format!("endpoint:{id}"));
    forget_with::<Service>(builder, |id| format!("service:{id}"));
    forget_with::<Region>(builder, |id| format!("region:{id}"));
}

/// An association goes with any part of its place.
fn forget_with<K: Kind>(builder: &mut StoreBuilder, part: fn(&str) -> String) {
    builder.rule::<K>(move |tx, op| {
        let Op::Remove(gone) = op else { return Ok(()) };
        remove_all(tx, tx.store().cache::<Association>().by("part", &part(gone.name())))
    });
}

pub(crate) fn routes() -> Router<Arc<Identity>> {
    let of_policy = "/policies/{id}/OS-ENDPOINT-POLICY";
    let one = || get(act).put(act).delete(act);
    Router::new()
        .route(&format!("{of_policy}/endpoints"), get(endpoints))
        .route(&format!("{of_policy}/endpoints/{{endpoint_id}}"), one())
        .route(&format!("{of_policy}/services/{{service_id}}"), one())
        .route(
            &format!("{of_policy}/services/{{service_id}}/regions/{{region_id}}"),
            one(),
        )
        .route("/endpoints/{id}/OS-ENDPOINT-POLICY/policy", get(policy))
}

async fn act(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    method: Method,
    Path(names): Path<HashMap<String, String>>,
) -> Result<Response, Failure> {
    let (place, word) = Place::read(&names);
    let policy_id = names.get("id").map(String::as_str).unwrap_or_default();
    let verb = match method {
        Method::PUT => "create",
        Method::DELETE => "delete",
        _ => "check",
    };
    let rule = format!("identity:{verb}_policy_association_for_{word}");
    collection::find::<PolicyDocument>(&identity, &caller, &rule, policy_id)?;
    place.check(&identity.store)?;
    match method {
        Method::PUT => associate(&identity, &caller, policy_id, &place).await?,
        Method::DELETE => separate(&identity, &caller, policy_id, &place).await?,
        _ => {
            let found = identity.store.get::<Association>(&Association::key(&place));
            let found = found.filter(|found| found.spec.policy_id == policy_id);
            found.ok_or_else(not_associated)?;
        }
    }
    Ok(no_content())
}

fn not_associated() -> Failure {
    Failure::not_found("Could not find policy association.")
}

/// The document takes the place of the one before it.
async fn associate(identity: &Identity, caller: &Caller, policy_id: &str, place: &Place) -> Result<(), Failure> {
    let associated = identity.store.transact(caller.cause(), |tx| {
        let document = tx.get::<PolicyDocument>(&PolicyDocument::key(policy_id));
        tx.expect(&*document.ok_or_else(|| not_found("policy", policy_id))?)?;
        let spec = AssociationSpec {
            policy_id: policy_id.to_owned(),
            place: place.clone(),
        };
        let key = Association::key(place);
        match tx.get::<Association>(&key) {
            Some(old) => {
                let mut new = (*old).clone();
                new.spec = spec;
                tx.update(&old, new)?;
            }
            None => _ = tx.create(Resource::<Association>::new(Metadata::new("", key.name), spec))?,
        }
        Ok::<_, Failure>(())
    });
    associated.await
}

async fn separate(identity: &Identity, caller: &Caller, policy_id: &str, place: &Place) -> Result<(), Failure> {
    let separated = identity.store.transact(caller.cause(), |tx| {
        let found = tx.get::<Association>(&Association::key(place));
        let found = found.filter(|found| found.spec.policy_id == policy_id);
        Ok::<_, Failure>(tx.delete(&*found.ok_or_else(not_associated)?)?)
    });
    separated.await
}

async fn endpoints(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    query: Query,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let rule = "identity:list_endpoints_for_policy";
    collection::find::<PolicyDocument>(&identity, &caller, rule, &id)?;
    let store = &identity.store;
    let mut found = store.cache::<Endpoint>().all();
    found.retain(|endpoint| {
        let associations = places(store, endpoint).into_iter();
        let mut associations = associations.filter_map(|place| store.get::<Association>(&Association::key(&place)));
        associations.any(|association| association.spec.policy_id == id)
    });
    collection::respond(&identity, &info, &query, found)
}

async fn policy(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let endpoint = collection::find::<Endpoint>(&identity, &caller, "identity:get_policy_for_endpoint", &id)?;
    let document = document_for(&identity.store, &endpoint);
    let message = format!("No policy is associated with endpoint {id}.");
    let document = document.ok_or_else(|| Failure::not_found(message))?;
    Ok(one(
        StatusCode::OK,
        "policy",
        &PolicyDocument::view(&identity, &info, &document),
    ))
}

/// How many regions stand in a line at most; a circle, which rules prevent, would end here too.
const MAX_REGIONS: usize = 64;

/// Where the document of an endpoint is looked for: itself, its service in the regions around it, nearest first, and its
/// service.
fn places(store: &Store, endpoint: &Resource<Endpoint>) -> Vec<Place> {
    let service = &endpoint.spec.service_id;
    let mut places = vec![Place::Endpoint(endpoint.name().to_owned())];
    let mut region = endpoint.spec.region_id.clone();
    while let Some(id) = region.filter(|_| places.len() < MAX_REGIONS) {
        region = store
            .get::<Region>(&Region::key(&id))
            .and_then(|region| region.spec.parent_region_id.clone());
        places.push(Place::ServiceInRegion(service.clone(), id));
    }
    places.push(Place::Service(service.clone()));
    places
}

fn document_for(store: &Store, endpoint: &Resource<Endpoint>) -> Option<Arc<Resource<PolicyDocument>>> {
    let mut places = places(store, endpoint).into_iter();
    let found = places.find_map(|place| store.get::<Association>(&Association::key(&place)))?;
    store.get::<PolicyDocument>(&PolicyDocument::key(&found.spec.policy_id))
}
