//! `/resource_providers`.

use std::sync::{Arc, LazyLock};

use axum::{extract::Path, response::Response};
use http::StatusCode;
use jiff::Timestamp;
use madang_http::{Failure, Form, Microversion, Schema};
use madang_store::{Metadata, Resource, StoreError};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::{
    Provider, ProviderSpec,
    api::{Call, concurrent_update, failure, filter::resources, find, provider_view},
    candidates::Group,
    class::{is_class, is_trait},
    forest::Forest,
};

/// The zone of providers that came through the API.
const ZONE: &str = "nova";

/// The parameters that a form of the list takes.
fn list_schema(version: Microversion) -> Schema {
    let id = || json!({ "type": "string", "format": "uuid" });
    let text = || json!({ "type": "string" });
    let known = [
        (0, "name", text()),
        (0, "uuid", id()),
        (3, "member_of", text()),
        (4, "resources", text()),
        (14, "in_tree", id()),
        (18, "required", text()),
    ];
    let known = known
        .into_iter()
        .filter(|(minor, _, _)| version >= Microversion(1, *minor));
    let properties: Map<String, Value> = known.map(|(_, name, kind)| (name.to_owned(), kind)).collect();
    Schema::new(
        Form::Placement,
        json!({ "type": "object", "properties": properties, "additionalProperties": false }),
    )
}

/// `GET /resource_providers`.
pub(crate) async fn list(call: Call) -> Result<Response, Failure> {
    call.takes_json()?;
    call.may("placement:resource_providers:list")?;
    call.check_query(&list_schema(call.version))?;
    let mut wanted = Group::default();
    call.constrain(&mut wanted, "")?;
    if let Some(text) = call.query.get("resources") {
        wanted.resources = resources(text)?;
    }
    check_names(&call, &wanted)?;
    let forest = Forest::of(&call.api.store);
    let tree = call
        .query
        .get("in_tree")
        .map(|id| forest.place(&plain(id)).map(|at| forest.nodes[at].root));
    let id = call.query.get("uuid").map(plain);
    let nodes = forest.nodes.iter().filter(|node| {
        call.query
            .get("name")
            .is_none_or(|name| node.provider.spec.name == name)
            && id.as_ref().is_none_or(|id| node.id() == id)
            && tree.is_none_or(|root| root == Some(node.root))
            && wanted
                .member_of
                .iter()
                .all(|any| any.iter().any(|aggregate| node.is_in(aggregate)))
            && !wanted
                .forbidden_aggregates
                .iter()
                .any(|aggregate| node.is_in(aggregate))
            && wanted.required.iter().all(|any| any.iter().any(|one| node.has(one)))
            && !wanted.forbidden.iter().any(|one| node.has(one))
            && wanted.resources.iter().all(|(class, amount)| node.fits(class, amount))
    });
    let found: Vec<&Arc<Resource<Provider>>> = nodes.map(|node| &node.provider).collect();
    let shown: Vec<Value> = found.iter().map(|provider| provider_view(&call, provider)).collect();
    let modified = found.iter().map(|provider| provider.metadata.updated).max();
    Ok(call.answer(StatusCode::OK, &json!({ "resource_providers": shown }), modified))
}

/// A uuid as it is stored, however it was written.
fn plain(id: &str) -> String {
    Uuid::try_parse(id).map_or_else(|_| id.to_owned(), |id| id.to_string())
}

fn check_names(call: &Call, wanted: &Group) -> Result<(), Failure> {
    let store = &call.api.store;
    if let Some((class, _)) = wanted.resources.iter().find(|(class, _)| !is_class(store, class)) {
        let message = format!("Invalid resource class in resources parameter: No such resource class {class}.");
        return Err(Failure::invalid(message).at("resources"));
    }
    let asked = wanted.required.iter().flatten().chain(&wanted.forbidden);
    let missing: Vec<&str> = asked
        .filter(|name| !is_trait(store, name))
        .map(String::as_str)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let message = format!(
        "Invalid trait(s) in \"required\" parameter: No such trait(s): {}.",
        missing.join(", ")
    );
    Err(Failure::invalid(message).at("required"))
}

/// `GET /resource_providers/{id}`.
pub(crate) async fn show(Path(id): Path<String>, call: Call) -> Result<Response, Failure> {
    call.takes_json()?;
    call.may("placement:resource_providers:show")?;
    let provider = find(&call.api.store, &id)?;
    Ok(call.answer(
        StatusCode::OK,
        &provider_view(&call, &provider),
        Some(provider.metadata.updated),
    ))
}

fn body_schema(has_id: bool, has_parent: bool) -> Schema {
    let mut properties = json!({ "name": { "type": "string", "maxLength": 200 } });
    if has_parent {
        properties["parent_provider_uuid"] =
            json!({ "anyOf": [{ "type": "string", "format": "uuid" }, { "type": "null" }] });
    }
    if has_id {
        properties["uuid"] = json!({ "type": "string", "format": "uuid" });
    }
    Schema::new(
        Form::Placement,
        json!({ "type": "object", "properties": properties, "required": ["name"], "additionalProperties": false }),
    )
}

static CREATE: LazyLock<Schema> = LazyLock::new(|| body_schema(true, false));
static CREATE_CHILD: LazyLock<Schema> = LazyLock::new(|| body_schema(true, true));
static UPDATE: LazyLock<Schema> = LazyLock::new(|| body_schema(false, false));
static UPDATE_CHILD: LazyLock<Schema> = LazyLock::new(|| body_schema(false, true));

/// `POST /resource_providers`.
pub(crate) async fn create(call: Call) -> Result<Response, Failure> {
    call.sends_json()?;
    call.may("placement:resource_providers:create")?;
    let body = call.content(if call.is_since(14) { &CREATE_CHILD } else { &CREATE })?;
    let asked = body["uuid"].as_str().and_then(|id| Uuid::try_parse(id).ok());
    let uid = asked.unwrap_or_else(Uuid::new_v4);
    let name = body["name"].as_str().unwrap_or_default();
    let parent = body["parent_provider_uuid"].as_str().map(plain);
    let refused = |why: String| {
        let message = format!("Unable to create resource provider \"{name}\", {uid}: {why}");
        Failure::invalid(message)
    };
    let action = |why: &str| refused(format!("Object action create failed because: {why}"));
    if name.is_empty() {
        return Err(action("name is required").at("name"));
    }
    if parent.as_deref() == Some(&uid.to_string()) {
        let why = "parent provider UUID cannot be same as UUID. Please set parent provider UUID to None if there is no \
                   parent.";
        return Err(action(why).at("parent_provider_uuid"));
    }
    let spec = ProviderSpec {
        name: name.to_owned(),
        parent,
        zone: ZONE.to_owned(),
        is_enabled: true,
        ..ProviderSpec::default()
    };
    let store = &call.api.store;
    let taken_id = || taken(&format!("uuid: {uid}"));
    if store.cache::<Provider>().by_uid(uid).is_some() {
        return Err(taken_id());
    }
    let created = store.transact(call.caller.cause(), |tx| {
        tx.create(Resource::<Provider>::new(
            Metadata::with_uid(uid, "", uid.to_string()),
            spec.clone(),
        ))
    });
    let provider = created.await.map_err(|error| match error {
        StoreError::Exists { key } if key.kind == "providers" => taken_id(),
        StoreError::Exists { .. } => taken(&format!("name: {name}")),
        StoreError::Rejected(rejection) if rejection.field.is_some() => action(&rejection.message),
        other => failure(other),
    })?;
    let path = format!("/resource_providers/{uid}");
    // Since 1.20 the answer shows it, too.
    if !call.is_since(20) {
        return Ok(call.at(StatusCode::CREATED, &path));
    }
    let mut response = call.answer(
        StatusCode::OK,
        &provider_view(&call, &provider),
        Some(provider.metadata.updated),
    );
    call.locate(&mut response, &path);
    Ok(response)
}

fn taken(what: &str) -> Failure {
    Failure::conflict(format!("Conflicting resource provider {what} already exists."))
        .because("placement.duplicate_name")
}

/// `PUT /resource_providers/{id}`: renames, and since 1.37 also moves below another parent or none.
pub(crate) async fn update(Path(id): Path<String>, call: Call) -> Result<Response, Failure> {
    call.sends_json()?;
    call.may("placement:resource_providers:update")?;
    let provider = find(&call.api.store, &id)?;
    let body = call.content(if call.is_since(14) { &UPDATE_CHILD } else { &UPDATE })?;
    let name = body["name"].as_str().unwrap_or_default();
    let parent = body
        .get("parent_provider_uuid")
        .map(|parent| parent.as_str().map(plain));
    let refused = |action: &str, why: &str| {
        let message = format!("Unable to save resource provider {id}: Object action {action} failed because: {why}");
        Failure::invalid(message).at("parent_provider_uuid")
    };
    if let (Some(parent), Some(old), false) = (&parent, &provider.spec.parent, call.is_since(37)) {
        match parent {
            None => return Err(refused("update", "un-parenting a provider is not currently allowed.")),
            Some(new) if new != old && call.api.store.cache::<Provider>().by_name(new).is_some() => {
                return Err(refused("update", "re-parenting a provider is not currently allowed."));
            }
            Some(_) => {}
        }
    }
    let mut new = (*provider).clone();
    new.spec.name = name.to_owned();
    if let Some(parent) = parent {
        new.spec.parent = parent;
    }
    let mut tx = call.api.store.begin(call.caller.cause());
    let words = |error| match error {
        StoreError::Exists { .. } => Failure::conflict(format!("Conflicting resource provider {name} already exists."))
            .because("placement.duplicate_name"),
        StoreError::Rejected(rejection) if rejection.field.is_some() => {
            let action = if rejection.message.contains("loop") {
                "update"
            } else {
                "create"
            };
            refused(action, &rejection.message)
        }
        other => failure(other),
    };
    let changed = tx.update(&provider, new).map_err(words)?;
    tx.commit().await.map_err(words)?;
    Ok(call.answer(
        StatusCode::OK,
        &provider_view(&call, &changed),
        Some(changed.metadata.updated),
    ))
}

/// `DELETE /resource_providers/{id}`.
pub(crate) async fn delete(Path(id): Path<String>, call: Call) -> Result<Response, Failure> {
    call.may("placement:resource_providers:delete")?;
    let store = &call.api.store;
    let provider = store
        .cache::<Provider>()
        .by_name(&id)
        .ok_or_else(|| Failure::not_found(format!("No resource provider with uuid {id} found for delete")))?;
    if store.cache::<Provider>().count_by("parent", &id) > 0 {
        let message = format!("Unable to delete parent resource provider {id}: It has child resource providers.");
        return Err(Failure::conflict(message).because("placement.resource_provider.cannot_delete_parent"));
    }
    let in_use = || {
        let message = format!("Unable to delete resource provider {id}: Resource provider has allocations.");
        Failure::conflict(message).because("placement.resource_provider.inuse")
    };
    if !store.counters("", &crate::claim::rules::usage_group(&id)).is_empty() {
        return Err(in_use());
    }
    let mut tx = store.begin(call.caller.cause());
    tx.delete(&provider).map_err(failure)?;
    tx.commit().await.map_err(|error| match error {
        StoreError::LimitExceeded { .. } => in_use(),
        other => failure(other),
    })?;
    Ok(Call::done())
}

/// `GET /resource_providers/{id}/usages`.
pub(crate) async fn usages(Path(id): Path<String>, call: Call) -> Result<Response, Failure> {
    call.takes_json()?;
    call.may("placement:resource_providers:usages")?;
    let provider = find(&call.api.store, &id)?;
    let used = call.api.store.counters("", &crate::claim::rules::usage_group(&id));
    let classes = provider.spec.inventories.keys();
    let usages: Map<String, Value> = classes
        .map(|class| (class.clone(), used.get(class).copied().unwrap_or(0).into()))
        .collect();
    let body = json!({ "usages": usages, "resource_provider_generation": provider.spec.generation });
    Ok(call.answer(StatusCode::OK, &body, None))
}

/// Changes a provider as it was read, and counts its generation up.
///
/// # Errors
/// `Conflict` when it has changed since.
pub(crate) async fn edit(
    call: &Call,
    provider: &Resource<Provider>,
    change: impl FnOnce(&mut ProviderSpec),
) -> Result<Arc<Resource<Provider>>, Failure> {
    edit_or(call, provider, change, failure).await
}

/// As [`edit`], with words of one's own for what the store refuses.
pub(crate) async fn edit_or(
    call: &Call,
    provider: &Resource<Provider>,
    change: impl FnOnce(&mut ProviderSpec),
    words: impl Fn(StoreError) -> Failure,
) -> Result<Arc<Resource<Provider>>, Failure> {
    let mut new = provider.clone();
    change(&mut new.spec);
    new.spec.generation += 1;
    let mut tx = call.api.store.begin(call.caller.cause());
    let changed = tx.update(provider, new).map_err(&words)?;
    tx.commit().await.map_err(words)?;
    Ok(changed)
}

/// Requires the generation that a writer decided on.
pub(crate) fn check_generation(provider: &Resource<Provider>, body: &Value, words: &str) -> Result<(), Failure> {
    let asked = body["resource_provider_generation"].as_i64();
    if asked == i64::try_from(provider.spec.generation).ok() {
        Ok(())
    } else {
        Err(concurrent_update(words))
    }
}

/// The latest of several times; none where there are none.
pub(crate) fn updated(provider: &Resource<Provider>) -> Option<Timestamp> {
    Some(provider.metadata.updated)
}
