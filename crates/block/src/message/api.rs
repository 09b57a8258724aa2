//! `/messages`: what went wrong, for users.

use std::sync::Arc;

use axum::{
    extract::{Path, State},
    response::{IntoResponse as _, Response},
};
use http::StatusCode;
use madang_http::{Failure, Microversion, Query, RequestInfo, SortValue, json};
use madang_identity::Caller;
use madang_store::Resource;
use serde_json::{Value, json};

use super::{Message, expires};
use crate::api::{BlockApi, enforce, failure, links, listing, micros, since};

/// The version with which messages came, and with which lists of them are sorted, cut and filtered.
const SINCE: u16 = 3;
const FILTERED: u16 = 5;

fn view(message: &Resource<Message>, info: &RequestInfo, caller: &Caller) -> Value {
    let spec = &message.spec;
    json!({
        "id": message.name(),
        "event_id": spec.event(),
        "user_message": spec.words(),
        "message_level": "ERROR",
        "created_at": micros(message.metadata.created),
        "guaranteed_until": micros(expires(message)),
        "request_id": spec.request,
        "resource_type": spec.resource,
        "resource_uuid": spec.about,
        "links": links(info, caller, "messages", message.name()),
    })
}

fn message_for(api: &BlockApi, caller: &Caller, id: &str, rule: &str) -> Result<Arc<Resource<Message>>, Failure> {
    let found = api.store.cache::<Message>().by_name(id);
    let found = found.filter(|message| caller.can_see(message.project()));
    let found = found.ok_or_else(|| Failure::not_found(format!("Message {id} could not be found.")))?;
    enforce(caller, rule, found.project())?;
    Ok(found)
}

/// `GET /messages`.
pub async fn list(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
    query: Query,
    info: RequestInfo,
) -> Result<Response, Failure> {
    since(version, SINCE)?;
    caller.enforce_in("message:get_all", caller.project()?)?;
    let now = jiff::Timestamp::now();
    let mut messages = listing::visible(api.store.cache::<Message>(), &caller, &query);
    messages.retain(|message| {
        let spec = &message.spec;
        expires(message) > now
            && query.iter().all(|(name, said)| match name {
                _ if version < Microversion(3, FILTERED) => true,
                "resource_uuid" => spec.about == said,
                "resource_type" => spec.resource == said,
                "event_id" => spec.event() == said,
                "request_id" => spec.request == said,
                "message_level" => said == "ERROR",
                _ => true,
            })
    });
    let keys = [
        "id",
        "event_id",
        "resource_uuid",
        "resource_type",
        "request_id",
        "message_level",
        "created_at",
    ];
    let page = listing::page(messages, &query, &keys, |message, key| match key {
        "id" => message.name().into(),
        "resource_uuid" => message.spec.about.as_str().into(),
        "resource_type" => message.spec.resource.as_str().into(),
        "request_id" => message.spec.request.as_str().into(),
        _ => SortValue::from(message.metadata.created),
    })?;
    let shown = page.0.items.iter().map(|message| view(message, &info, &caller));
    listing::answer("messages", shown.collect(), &page, (&info, &query, version))
}

/// `GET /messages/{id}`.
pub async fn show(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
    info: RequestInfo,
) -> Result<Response, Failure> {
    since(version, SINCE)?;
    let found = message_for(&api, &caller, &id, "message:get")?;
    Ok(json(
        StatusCode::OK,
        &json!({ "message": view(&found, &info, &caller) }),
    ))
}

/// `DELETE /messages/{id}`.
pub async fn delete(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    since(version, SINCE)?;
    let found = message_for(&api, &caller, &id, "message:delete")?;
    let mut tx = api.store.begin(caller.cause());
    tx.delete(&found).map_err(failure)?;
    tx.commit().await.map_err(failure)?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
