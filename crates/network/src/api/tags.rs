//! Tags of every resource: `/{collection}/{id}/tags`.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Path, State},
    response::{IntoResponse, Response},
    routing::get,
};
use http::StatusCode;
use madang_http::{Failure, Json, json};
use madang_identity::Caller;
use madang_store::{ErrorKind, Resource};
use serde_json::{Value, json};

use super::{
    NetworkApi, convert,
    failure::Stop,
    resource::{Context, Exposed, visible},
};
use crate::{FloatingIp, Network, Port, QosPolicy, SecurityGroup, Subnet, SubnetPool, Trunk, refusal};

/// Neutron's `MAX_TAGS_COUNT`.
pub(super) const MAX_TAGS: usize = 50;

/// A resource that has tags.
trait Tagged: Exposed {
    fn tags(resource: &Resource<Self>) -> &Vec<String>;
    fn tags_mut(resource: &mut Resource<Self>) -> &mut Vec<String>;
}

macro_rules! tagged {
    ($($kind:ty),*) => {
        $(impl Tagged for $kind {
            fn tags(resource: &Resource<Self>) -> &Vec<String> {
                &resource.spec.tags
            }
            fn tags_mut(resource: &mut Resource<Self>) -> &mut Vec<String> {
                &mut resource.spec.tags
            }
        })*
    };
}

tagged!(
    Network,
    Subnet,
    SubnetPool,
    Port,
    SecurityGroup,
    crate::Router,
    FloatingIp,
    Trunk,
    QosPolicy
);

/// The routes of all of them.
pub(super) fn routes() -> Router<NetworkApi> {
    Router::new()
        .merge(of::<Network>("networks"))
        .merge(of::<Subnet>("subnets"))
        .merge(of::<SubnetPool>("subnetpools"))
        .merge(of::<Port>("ports"))
        .merge(of::<SecurityGroup>("security-groups"))
        .merge(of::<SecurityGroup>("security_groups"))
        .merge(of::<crate::Router>("routers"))
        .merge(of::<FloatingIp>("floatingips"))
        .merge(of::<Trunk>("trunks"))
        .merge(of::<QosPolicy>("policies"))
}

fn of<K: Tagged>(path: &str) -> Router<NetworkApi> {
    Router::new()
        .route(
            &format!("/{path}/{{id}}/tags"),
            get(list::<K>).put(replace::<K>).post(extend::<K>).delete(clear::<K>),
        )
        .route(
            &format!("/{path}/{{id}}/tags/{{tag}}"),
            get(show::<K>).put(add::<K>).delete(remove::<K>),
        )
}

fn missing(id: &str, tag: &str) -> Failure {
    let message = format!("Tag {tag} could not be found.");
    Failure::from(refusal::refuse(ErrorKind::NotFound, "TagNotFound", message)).at(id)
}

async fn list<K: Tagged>(
    State(api): State<NetworkApi>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let context = Context {
        store: api.store,
        caller,
    };
    let resource = visible::<K>(&context, &id)?;
    Ok(json(StatusCode::OK, &json!({ "tags": K::tags(&resource) })))
}

async fn show<K: Tagged>(
    State(api): State<NetworkApi>,
    caller: Caller,
    Path((id, tag)): Path<(String, String)>,
) -> Result<Response, Failure> {
    let context = Context {
        store: api.store,
        caller,
    };
    let resource = visible::<K>(&context, &id)?;
    if K::tags(&resource).contains(&tag) {
        Ok(StatusCode::NO_CONTENT.into_response())
    } else {
        Err(missing(&id, &tag))
    }
}

fn read(body: &Value) -> Result<Vec<String>, Failure> {
    let bad = |why: String| Failure::invalid(format!("Invalid input for tags. Reason: {why}.")).at("tags");
    let given = body.get("tags").ok_or_else(|| bad("no tags are given".to_owned()))?;
    let given = given
        .as_array()
        .ok_or_else(|| bad(format!("{} is not a list", convert::quoted(given))))?;
    let mut tags = Vec::new();
    for tag in given {
        let tag = convert::tag(tag).map_err(bad)?;
        let tag = tag.as_str().unwrap_or_default().to_owned();
        if !tags.contains(&tag) {
            tags.push(tag);
        }
    }
    Ok(tags)
}

async fn change<K: Tagged>(
    api: NetworkApi,
    caller: Caller,
    id: &str,
    change: impl Fn(&mut Vec<String>) -> Result<(), Failure>,
) -> Result<Arc<Resource<K>>, Failure> {
    let context = Context {
        store: api.store,
        caller,
    };
    let known = visible::<K>(&context, id)?;
    K::facts(&context, &known).enforce(&context.caller, &format!("update_{}", K::SINGULAR))?;
    let key = known.key();
    let changed = context
        .store
        .modify::<K, Stop>(&key, context.caller.cause(), |resource| {
            let tags = K::tags_mut(resource);
            change(tags)?;
            if tags.len() > MAX_TAGS {
                let message = format!("'tags' exceeds maximum length of {MAX_TAGS}");
                return Err(Failure::invalid(format!("Invalid input for tags. Reason: {message}."))
                    .at("tags")
                    .into());
            }
            Ok(())
        });
    Ok(changed.await?)
}

async fn replace<K: Tagged>(
    State(api): State<NetworkApi>,
    caller: Caller,
    Path(id): Path<String>,
    body: Json<Value>,
) -> Result<Response, Failure> {
    let given = read(&body.0)?;
    let changed = change::<K>(api, caller, &id, |tags| {
        tags.clone_from(&given);
        Ok(())
    });
    Ok(json(StatusCode::OK, &json!({ "tags": K::tags(&*changed.await?) })))
}

async fn extend<K: Tagged>(
    State(api): State<NetworkApi>,
    caller: Caller,
    Path(id): Path<String>,
    body: Json<Value>,
) -> Result<Response, Failure> {
    let given = read(&body.0)?;
    let changed = change::<K>(api, caller, &id, |tags| {
        for tag in &given {
            if !tags.contains(tag) {
                tags.push(tag.clone());
            }
        }
        Ok(())
    });
    Ok(json(StatusCode::OK, &json!({ "tags": K::tags(&*changed.await?) })))
}

async fn clear<K: Tagged>(
    State(api): State<NetworkApi>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let cleared = change::<K>(api, caller, &id, |tags| {
        tags.clear();
        Ok(())
    });
    cleared.await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn add<K: Tagged>(
    State(api): State<NetworkApi>,
    caller: Caller,
    Path((id, tag)): Path<(String, String)>,
) -> Result<Response, Failure> {
    let bad = |why: String| Failure::invalid(format!("Invalid input for tag. Reason: {why}.")).at("tag");
    convert::tag(&Value::from(tag.as_str())).map_err(bad)?;
    let added = change::<K>(api, caller, &id, |tags| {
        if !tags.contains(&tag) {
            tags.push(tag.clone());
        }
        Ok(())
    });
    added.await?;
    Ok(StatusCode::CREATED.into_response())
}

async fn remove<K: Tagged>(
    State(api): State<NetworkApi>,
    caller: Caller,
    Path((id, tag)): Path<(String, String)>,
) -> Result<Response, Failure> {
    let removed = change::<K>(api, caller, &id, |tags| {
        let place = tags
            .iter()
            .position(|known| *known == tag)
            .ok_or_else(|| missing(&id, &tag))?;
        tags.remove(place);
        Ok(())
    });
    removed.await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
