//! `/resource_classes` and `/traits`: the names of what providers have.

use std::sync::{Arc, LazyLock};

use axum::{
    extract::Path,
    response::{IntoResponse, Response},
};
use http::StatusCode;
use jiff::Timestamp;
use madang_http::{Failure, Form, Schema};
use madang_store::{Metadata, Resource, StoreError};
use serde_json::{Value, json};

use super::{call::Call, failure, standard};
use crate::{
    Provider, ResourceClass, Trait,
    class::{classes, is_class, is_trait, traits},
};

static CLASS: LazyLock<Schema> = LazyLock::new(|| {
    Schema::new(
        Form::Placement,
        json!({
            "type": "object",
            "properties": { "name": { "type": "string", "pattern": "^CUSTOM_[A-Z0-9_]+$", "maxLength": 255 } },
            "required": ["name"],
            "additionalProperties": false,
        }),
    )
});

fn class_view(call: &Call, name: &str) -> Value {
    let href = call.path(&format!("/resource_classes/{name}"));
    json!({ "name": name, "links": [{ "rel": "self", "href": href }] })
}

fn made(call: &Call, name: &str) -> Option<Timestamp> {
    let class = call.api.store.cache::<ResourceClass>().by_name(name)?;
    Some(class.metadata.updated)
}

fn no_class(name: &str) -> Failure {
    Failure::not_found(format!("No such resource class {name}."))
}

/// `GET /resource_classes`, since 1.2.
pub(super) async fn list(call: Call) -> Result<Response, Failure> {
    call.since(2)?;
    call.takes_json()?;
    call.may("placement:resource_classes:list")?;
    let names = classes(&call.api.store);
    let shown: Vec<Value> = names.iter().map(|name| class_view(&call, name)).collect();
    Ok(call.answer(StatusCode::OK, &json!({ "resource_classes": shown }), None))
}

/// `POST /resource_classes`, since 1.2.
pub(super) async fn create(call: Call) -> Result<Response, Failure> {
    call.since(2)?;
    call.sends_json()?;
    call.may("placement:resource_classes:create")?;
    let body = call.content(&CLASS)?;
    let name = body["name"].as_str().unwrap_or_default();
    if !make_class(&call, name).await? {
        return Err(Failure::conflict(format!(
            "Conflicting resource class already exists: {name}"
        )));
    }
    Ok(call.at(StatusCode::CREATED, &format!("/resource_classes/{name}")))
}

/// Makes a class; false when there is one.
async fn make_class(call: &Call, name: &str) -> Result<bool, Failure> {
    if is_class(&call.api.store, name) {
        return Ok(false);
    }
    let mut tx = call.api.store.begin(call.caller.cause());
    let made = tx.create(Resource::<ResourceClass>::new(Metadata::new("", name), ()));
    match made {
        Ok(_) => {}
        Err(StoreError::Exists { .. }) => return Ok(false),
        Err(other) => return Err(failure(other)),
    }
    match tx.commit().await {
        Ok(_) => Ok(true),
        Err(StoreError::Exists { .. }) => Ok(false),
        Err(other) => Err(failure(other)),
    }
}

/// `GET /resource_classes/{name}`.
pub(super) async fn show(Path(name): Path<String>, call: Call) -> Result<Response, Failure> {
    call.since(2)?;
    call.takes_json()?;
    call.may("placement:resource_classes:show")?;
    if !is_class(&call.api.store, &name) {
        return Err(no_class(&name));
    }
    Ok(call.answer(StatusCode::OK, &class_view(&call, &name), made(&call, &name)))
}

/// `PUT /resource_classes/{name}`: up to 1.6 renames, from 1.7 on makes sure that there is one.
pub(super) async fn put(Path(name): Path<String>, call: Call) -> Result<Response, Failure> {
    call.since(2)?;
    if !call.is_since(7) {
        return rename(&call, &name).await;
    }
    call.may("placement:resource_classes:update")?;
    CLASS.check(&json!({ "name": name }))?;
    let status = if make_class(&call, &name).await? {
        StatusCode::CREATED
    } else {
        StatusCode::NO_CONTENT
    };
    Ok(call.at(status, &format!("/resource_classes/{name}")))
}

async fn rename(call: &Call, name: &str) -> Result<Response, Failure> {
    call.sends_json()?;
    call.may("placement:resource_classes:update")?;
    let body = call.content(&CLASS)?;
    let new = body["name"].as_str().unwrap_or_default();
    if !is_class(&call.api.store, name) {
        return Err(no_class(name));
    }
    if standard::CLASSES.contains(&name) {
        return Err(Failure::invalid(format!(
            "Cannot update standard resource class {name}"
        )));
    }
    if new != name {
        refuse_used(call, name)?;
        if !make_class(call, new).await? {
            return Err(Failure::conflict(format!("Resource class already exists: {new}")));
        }
        remove_class(call, name).await?;
    }
    Ok(call.answer(StatusCode::OK, &class_view(call, new), None))
}

fn refuse_used(call: &Call, name: &str) -> Result<(), Failure> {
    if call.api.store.cache::<Provider>().count_by("class", name) == 0 {
        return Ok(());
    }
    Err(Failure::conflict(format!(
        "Error in delete resource class: Cannot delete resource class {name}. Class is in use in inventory."
    )))
}

async fn remove_class(call: &Call, name: &str) -> Result<(), Failure> {
    if let Some(class) = call.api.store.cache::<ResourceClass>().by_name(name) {
        let mut tx = call.api.store.begin(call.caller.cause());
        tx.delete(&*class).map_err(failure)?;
        tx.commit().await.map_err(failure)?;
    }
    Ok(())
}

/// `DELETE /resource_classes/{name}`.
pub(super) async fn delete(Path(name): Path<String>, call: Call) -> Result<Response, Failure> {
    call.since(2)?;
    call.may("placement:resource_classes:delete")?;
    if !is_class(&call.api.store, &name) {
        return Err(no_class(&name));
    }
    if standard::CLASSES.contains(&name.as_str()) {
        return Err(Failure::invalid(format!(
            "Error in delete resource class: Cannot delete standard resource class {name}."
        )));
    }
    refuse_used(&call, &name)?;
    remove_class(&call, &name).await?;
    Ok(Call::done())
}

static TRAITS_QUERY: LazyLock<Schema> = LazyLock::new(|| {
    Schema::new(
        Form::Placement,
        json!({
            "type": "object",
            "properties": { "name": { "type": "string" }, "associated": { "type": "string" } },
            "additionalProperties": false,
        }),
    )
});

/// `GET /traits`: all, or those that `name=in:…` or `name=startswith:…` selects, or that providers have.
pub(super) async fn list_traits(call: Call) -> Result<Response, Failure> {
    call.since(6)?;
    call.takes_json()?;
    call.may("placement:traits:list")?;
    call.check_query(&TRAITS_QUERY)?;
    let associated = match call.query.get("associated").map(str::to_lowercase).as_deref() {
        None => None,
        Some("true") => Some(true),
        Some("false") => Some(false),
        Some(_) => {
            let message = "The query parameter \"associated\" only accepts \"true\" or \"false\"";
            return Err(Failure::invalid(message).at("associated"));
        }
    };
    let mut found = traits(&call.api.store, associated);
    if let Some(filter) = call.query.get("name") {
        match filter.split_once(':') {
            Some(("in", names)) => found.retain(|name| names.split(',').any(|wanted| wanted == name)),
            Some(("startswith", start)) => found.retain(|name| name.starts_with(start)),
            Some(_) => {}
            None => {
                let message = format!(
                    "Badly formatted name parameter. Expected name query string parameter in form: \
                     ?name=[in|startswith]:[name1,name2|prefix]. Got: \"{filter}\""
                );
                return Err(Failure::invalid(message).at("name"));
            }
        }
    }
    Ok(call.answer(StatusCode::OK, &json!({ "traits": found }), None))
}

fn no_trait(name: &str) -> Failure {
    Failure::not_found(format!("No such trait(s): {name}."))
}

fn trait_known(call: &Call, name: &str) -> Option<Arc<Resource<Trait>>> {
    call.api.store.cache::<Trait>().by_name(name)
}

/// `GET /traits/{name}`: 204 when it is known.
pub(super) async fn show_trait(Path(name): Path<String>, call: Call) -> Result<Response, Failure> {
    call.since(6)?;
    call.may("placement:traits:show")?;
    if !is_trait(&call.api.store, &name) {
        return Err(no_trait(&name));
    }
    let mut response = Call::done();
    call.date(&mut response, trait_known(&call, &name).map(|one| one.metadata.created));
    Ok(response)
}

/// `PUT /traits/{name}`: 201 when it is new, 204 when it was known.
pub(super) async fn put_trait(Path(name): Path<String>, call: Call) -> Result<Response, Failure> {
    call.since(6)?;
    call.may("placement:traits:update")?;
    let rest = name.strip_prefix("CUSTOM_").unwrap_or_default();
    let is_plain = |c: u8| c.is_ascii_uppercase() || c.is_ascii_digit() || c == b'_';
    if rest.is_empty() || name.len() > 255 || !rest.bytes().all(is_plain) {
        return Err(Failure::invalid(
            "The trait is invalid. A valid trait must be no longer than 255 characters, start with the prefix \
             \"CUSTOM_\" and use following characters: \"A\"-\"Z\", \"0\"-\"9\" and \"_\"",
        )
        .at("name"));
    }
    let mut status = StatusCode::NO_CONTENT;
    if trait_known(&call, &name).is_none() {
        let mut tx = call.api.store.begin(call.caller.cause());
        let is_new = tx.create(Resource::<Trait>::new(Metadata::new("", &name), ())).is_ok();
        match tx.commit().await {
            Ok(_) if is_new => status = StatusCode::CREATED,
            Ok(_) | Err(StoreError::Exists { .. }) => {}
            Err(other) => return Err(failure(other)),
        }
    }
    let mut response = status.into_response();
    call.locate(&mut response, &format!("/traits/{name}"));
    call.date(&mut response, trait_known(&call, &name).map(|one| one.metadata.created));
    Ok(response)
}

/// `DELETE /traits/{name}`.
pub(super) async fn delete_trait(Path(name): Path<String>, call: Call) -> Result<Response, Failure> {
    call.since(6)?;
    call.may("placement:traits:delete")?;
    if standard::TRAITS.binary_search(&name.as_str()).is_ok() {
        return Err(Failure::invalid(format!("Cannot delete standard trait {name}.")));
    }
    if !is_trait(&call.api.store, &name) {
        return Err(no_trait(&name));
    }
    if call.api.store.cache::<Provider>().count_by("trait", &name) > 0 {
        return Err(Failure::conflict(format!(
            "The trait {name} is in use by a resource provider."
        )));
    }
    if let Some(known) = trait_known(&call, &name) {
        let mut tx = call.api.store.begin(call.caller.cause());
        tx.delete(&*known).map_err(failure)?;
        tx.commit().await.map_err(failure)?;
    }
    Ok(Call::done())
}
