//! `/resource_providers/{id}/traits` and `/aggregates`.

use axum::{
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use http::StatusCode;
use madang_http::{Failure, Json, Microversion, json};
use madang_identity::Caller;
use madang_store::Resource;
use serde_json::{Value, json};
use uuid::Uuid;

use super::api::{check_generation, edit};
use crate::{
    Provider,
    api::{PlacementApi, check_trait, dated, enforce, find},
};

fn traits_view(provider: &Resource<Provider>) -> Value {
    json!({ "traits": provider.spec.traits, "resource_provider_generation": provider.spec.generation })
}

/// `GET …/traits`.
pub(crate) async fn traits(
    State(api): State<PlacementApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    enforce(&caller, "placement:resource_providers:traits:list")?;
    Ok(dated(
        json(StatusCode::OK, &traits_view(&*find(&api.store, &id)?)),
        version,
    ))
}

/// `PUT …/traits`: these and no others.
pub(crate) async fn set_traits(
    State(api): State<PlacementApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    enforce(&caller, "placement:resource_providers:traits:update")?;
    let mut wanted = texts(&body["traits"])
        .ok_or_else(|| Failure::invalid("JSON does not validate: 'traits' is a required property").at("traits"))?;
    wanted.sort();
    wanted.dedup();
    let provider = find(&api.store, &id)?;
    check_generation(&provider, &body)?;
    wanted.iter().try_for_each(|name| check_trait(&api.store, name))?;
    let provider = edit(&api, &caller, &provider, |spec| spec.traits = wanted).await?;
    Ok(dated(json(StatusCode::OK, &traits_view(&provider)), version))
}

/// `DELETE …/traits`.
pub(crate) async fn clear_traits(
    State(api): State<PlacementApi>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    enforce(&caller, "placement:resource_providers:traits:delete")?;
    let provider = find(&api.store, &id)?;
    edit(&api, &caller, &provider, |spec| spec.traits.clear()).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn aggregates_view(provider: &Resource<Provider>, version: Microversion) -> Value {
    let mut shown = json!({ "aggregates": provider.spec.aggregates });
    if version >= Microversion(1, 19) {
        shown["resource_provider_generation"] = json!(provider.spec.generation);
    }
    shown
}

/// `GET …/aggregates`.
pub(crate) async fn aggregates(
    State(api): State<PlacementApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    enforce(&caller, "placement:resource_providers:aggregates:list")?;
    Ok(dated(
        json(StatusCode::OK, &aggregates_view(&*find(&api.store, &id)?, version)),
        version,
    ))
}

/// `PUT …/aggregates`: up to 1.18 a bare list, from 1.19 on with the generation.
pub(crate) async fn set_aggregates(
    State(api): State<PlacementApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    enforce(&caller, "placement:resource_providers:aggregates:update")?;
    let provider = find(&api.store, &id)?;
    let list = if version >= Microversion(1, 19) {
        check_generation(&provider, &body)?;
        &body["aggregates"]
    } else {
        &body
    };
    let wanted = texts(list).filter(|ids| ids.iter().all(|id| Uuid::try_parse(id).is_ok()));
    let wanted = wanted.ok_or_else(|| {
        Failure::invalid("JSON does not validate: aggregates must be a list of uuids").at("aggregates")
    })?;
    let provider = edit(&api, &caller, &provider, |spec| spec.aggregates = wanted).await?;
    Ok(dated(
        json(StatusCode::OK, &aggregates_view(&provider, version)),
        version,
    ))
}

fn texts(value: &Value) -> Option<Vec<String>> {
    value
        .as_array()?
        .iter()
        .map(|one| one.as_str().map(str::to_owned))
        .collect()
}
