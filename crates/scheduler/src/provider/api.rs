//! `/resource_providers`.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};

use axum::{
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use madang_http::{Failure, Form, Json, Microversion, Query, RequestInfo, Schema, json};
use madang_identity::Caller;
use madang_store::{Metadata, Resource, StoreError};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    Provider, ProviderSpec,
    api::{PlacementApi, dated, enforce, failure, find},
    claim::rules::usage_group,
};

/// The zone of providers that came through the API.
const ZONE: &str = "nova";

/// `GET /resource_providers`.
pub(crate) async fn list(
    State(api): State<PlacementApi>,
    caller: Caller,
    version: Microversion,
    query: Query,
) -> Result<Response, Failure> {
    enforce(&caller, "placement:resource_providers:list")?;
    let known = ["name", "uuid", "member_of", "resources", "in_tree", "required"];
    if let Some((name, _)) = query.iter().find(|(name, _)| !known.contains(name)) {
        let message =
            format!("Invalid query string parameters: Additional properties are not allowed ('{name}' was unexpected)");
        return Err(Failure::invalid(message).at(name));
    }
    let wanted = query.get("resources").map(crate::api::requested).transpose()?;
    let mut providers = api.store.cache::<Provider>().all();
    providers.sort_unstable_by(|a, b| a.spec.name.cmp(&b.spec.name));
    providers.retain(|provider| {
        let spec = &provider.spec;
        query.get("name").is_none_or(|name| spec.name == name)
            && query.get("uuid").is_none_or(|id| provider.name() == id)
            && query
                .get("in_tree")
                .is_none_or(|id| provider.name() == id || spec.parent.as_deref() == Some(id))
            && query.get("member_of").is_none_or(|list| {
                list.trim_start_matches("in:")
                    .split(',')
                    .any(|id| spec.aggregates.iter().any(|own| own == id))
            })
            && query
                .all("required")
                .flat_map(|list| list.split(','))
                .all(|wish| match wish.strip_prefix('!') {
                    Some(unwanted) => !spec.traits.iter().any(|own| own == unwanted),
                    None => spec.traits.iter().any(|own| own == wish),
                })
            && wanted.as_ref().is_none_or(|wanted| has_room(&api, provider, wanted))
    });
    let shown: Vec<Value> = providers
        .iter()
        .map(|provider| crate::api::provider_view(provider, version))
        .collect();
    Ok(dated(
        json(StatusCode::OK, &json!({ "resource_providers": shown })),
        version,
    ))
}

fn has_room(api: &PlacementApi, provider: &Resource<Provider>, wanted: &BTreeMap<String, i64>) -> bool {
    let used = api.store.counters("", &usage_group(provider.name()));
    wanted.iter().all(|(class, amount)| {
        let used = used.get(class).copied().unwrap_or(0);
        provider
            .spec
            .inventories
            .get(class)
            .is_some_and(|inventory| used + amount <= inventory.capacity())
    })
}

/// `GET /resource_providers/{id}`.
pub(crate) async fn show(
    State(api): State<PlacementApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    enforce(&caller, "placement:resource_providers:show")?;
    let provider = find(&api.store, &id)?;
    Ok(dated(
        json(StatusCode::OK, &crate::api::provider_view(&provider, version)),
        version,
    ))
}

fn body_schema(has_id: bool) -> Schema {
    let mut properties = json!({
        "name": { "type": "string", "minLength": 1, "maxLength": 200 },
        "parent_provider_uuid": { "anyOf": [{ "type": "string", "format": "uuid" }, { "type": "null" }] },
    });
    if has_id {
        properties["uuid"] = json!({ "type": "string", "format": "uuid" });
    }
    Schema::new(
        Form::Placement,
        json!({ "type": "object", "required": ["name"], "properties": properties, "additionalProperties": false }),
    )
}

/// `POST /resource_providers`.
pub(crate) async fn create(
    State(api): State<PlacementApi>,
    caller: Caller,
    version: Microversion,
    info: RequestInfo,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    static CREATE: LazyLock<Schema> = LazyLock::new(|| body_schema(true));
    enforce(&caller, "placement:resource_providers:create")?;
    CREATE.check(&body)?;
    let uid = body["uuid"]
        .as_str()
        .and_then(|id| Uuid::try_parse(id).ok())
        .unwrap_or_else(Uuid::new_v4);
    let name = body["name"].as_str().unwrap_or_default();
    let parent = body["parent_provider_uuid"].as_str();
    if let Some(parent) = parent {
        let missing =
            |_| Failure::invalid(format!("parent provider UUID {parent} does not exist.")).at("parent_provider_uuid");
        find(&api.store, parent).map_err(missing)?;
    }
    let providers = api.store.cache::<Provider>();
    if providers.by_uid(uid).is_some() || !providers.by("name", name).is_empty() {
        return Err(taken(name));
    }
    let spec = ProviderSpec {
        name: name.to_owned(),
        parent: parent.map(str::to_owned),
        zone: ZONE.to_owned(),
        is_enabled: true,
        ..ProviderSpec::default()
    };
    let mut tx = api.store.begin(caller.cause());
    let provider = tx.create(Resource::<Provider>::new(
        Metadata::with_uid(uid, "", uid.to_string()),
        spec,
    ));
    let provider = provider.map_err(failure)?;
    tx.commit().await.map_err(|error| match error {
        StoreError::Exists { .. } => taken(name),
        other => failure(other),
    })?;
    // Since 1.20 the answer shows it, too.
    let mut response = if version >= Microversion(1, 20) {
        json(StatusCode::OK, &crate::api::provider_view(&provider, version))
    } else {
        StatusCode::CREATED.into_response()
    };
    if let Ok(location) = HeaderValue::try_from(format!("{}/{uid}", info.url())) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

fn taken(name: &str) -> Failure {
    Failure::conflict(format!("Conflicting resource provider name: {name} already exists."))
        .because("placement.duplicate_name")
}

/// `PUT /resource_providers/{id}`: renames.
pub(crate) async fn update(
    State(api): State<PlacementApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    static UPDATE: LazyLock<Schema> = LazyLock::new(|| body_schema(false));
    enforce(&caller, "placement:resource_providers:update")?;
    UPDATE.check(&body)?;
    let provider = find(&api.store, &id)?;
    let name = body["name"].as_str().unwrap_or_default();
    if api
        .store
        .cache::<Provider>()
        .by("name", name)
        .iter()
        .any(|other| other.name() != id)
    {
        return Err(taken(name));
    }
    let parent = body["parent_provider_uuid"].as_str().map(str::to_owned);
    let provider = edit(&api, &caller, &provider, |spec| {
        spec.name = name.to_owned();
        if parent.is_some() {
            spec.parent.clone_from(&parent);
        }
    });
    Ok(dated(
        json(StatusCode::OK, &crate::api::provider_view(&*provider.await?, version)),
        version,
    ))
}

/// `DELETE /resource_providers/{id}`.
pub(crate) async fn delete(
    State(api): State<PlacementApi>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    enforce(&caller, "placement:resource_providers:delete")?;
    let provider = find(&api.store, &id)?;
    if !api.store.counters("", &usage_group(&id)).is_empty() {
        return Err(Failure::conflict(format!(
            "Unable to delete resource provider {id}: Resource provider has allocations."
        ))
        .because("placement.resource_provider.inuse"));
    }
    let mut tx = api.store.begin(caller.cause());
    tx.delete(&provider).map_err(failure)?;
    tx.commit().await.map_err(failure)?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// `GET /resource_providers/{id}/usages`.
pub(crate) async fn usages(
    State(api): State<PlacementApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    enforce(&caller, "placement:resource_providers:usages")?;
    let provider = find(&api.store, &id)?;
    let used = api.store.counters("", &usage_group(&id));
    let usages: BTreeMap<&String, i64> = provider
        .spec
        .inventories
        .keys()
        .map(|class| (class, used.get(class).copied().unwrap_or(0)))
        .collect();
    let body = json!({ "usages": usages, "resource_provider_generation": provider.spec.generation });
    Ok(dated(json(StatusCode::OK, &body), version))
}

/// Changes a provider as it was read, and counts its generation up.
///
/// # Errors
/// `Conflict` when it has changed since.
pub(crate) async fn edit(
    api: &PlacementApi,
    caller: &Caller,
    provider: &Resource<Provider>,
    change: impl FnOnce(&mut ProviderSpec),
) -> Result<Arc<Resource<Provider>>, Failure> {
    let mut new = provider.clone();
    change(&mut new.spec);
    new.spec.generation += 1;
    let mut tx = api.store.begin(caller.cause());
    let changed = tx.update(provider, new).map_err(failure)?;
    tx.commit().await.map_err(failure)?;
    Ok(changed)
}

/// Requires the generation that a writer decided on.
pub(crate) fn check_generation(provider: &Resource<Provider>, body: &Value) -> Result<(), Failure> {
    let asked = body["resource_provider_generation"].as_u64();
    if asked == Some(provider.spec.generation) {
        Ok(())
    } else {
        Err(crate::api::concurrent_update())
    }
}
