//! `/v3/policies`.

use std::sync::{Arc, LazyLock};

use axum::{
    Router,
    extract::{Path, State},
    response::Response,
    routing::get,
};
use http::StatusCode;
use madang_http::{Failure, Json, Query, RequestInfo, Schema};
use madang_store::Resource;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{PolicyDocument, PolicyDocumentSpec};
use crate::{
    Caller, Identity,
    api::{
        Links, Listed,
        input::{Input, resource_schema},
        links, many, merge, no_content, one,
    },
    catalog::rules,
};

static CREATE: LazyLock<Schema> = LazyLock::new(|| resource_schema("policy", properties(), &["blob", "type"]));
static UPDATE: LazyLock<Schema> = LazyLock::new(|| resource_schema("policy", properties(), &[]));

fn properties() -> Value {
    json!({ "blob": { "type": "string" }, "type": { "type": "string", "maxLength": 255 } })
}

/// A policy document as Keystone shows it.
#[derive(Serialize)]
struct View {
    id: String,
    #[serde(rename = "type")]
    media_type: String,
    blob: String,
    #[serde(flatten)]
    extra: Map<String, Value>,
    links: Links,
}

impl Listed for View {
    fn id(&self) -> &str {
        &self.id
    }
}

fn view(info: &RequestInfo, document: &Resource<PolicyDocument>) -> View {
    View {
        id: document.name().to_owned(),
        media_type: document.spec.media_type.clone(),
        blob: document.spec.blob.clone(),
        extra: document.spec.extra.clone(),
        links: links(info, "policies", document.name()),
    }
}

pub(crate) fn routes() -> Router<Arc<Identity>> {
    Router::new()
        .route("/policies", get(list).post(create))
        .route("/policies/{id}", get(show).patch(update).delete(delete))
}

async fn create(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    let mut input = Input::read(&CREATE, body, "policy")?;
    let spec = PolicyDocumentSpec {
        media_type: input.text("type").unwrap_or_default(),
        blob: input.text("blob").unwrap_or_default(),
        extra: input.rest(),
    };
    let document = rules::create::<PolicyDocument>(&identity, &caller, "identity:create_policy", None, spec).await?;
    Ok(one(StatusCode::CREATED, "policy", &view(&info, &document)))
}

async fn show(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let document = rules::find::<PolicyDocument>(&identity, &caller, "identity:get_policy", &id)?;
    Ok(one(StatusCode::OK, "policy", &view(&info, &document)))
}

async fn list(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    query: Query,
) -> Result<Response, Failure> {
    caller.enforce("identity:list_policies", &[])?;
    let mut documents = identity.store.cache::<PolicyDocument>().all();
    documents.retain(|document| {
        query
            .get("type")
            .is_none_or(|wanted| document.spec.media_type == wanted)
    });
    documents.sort_by(|a, b| a.name().cmp(b.name()));
    many(
        &info,
        &query,
        "policies",
        documents.iter().map(|document| view(&info, document)).collect(),
    )
}

async fn update(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    Path(id): Path<String>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    let mut input = Input::read(&UPDATE, body, "policy")?;
    let (media_type, blob) = (input.text("type"), input.text("blob"));
    let extra = input.rest();
    let change = |document: &mut Resource<PolicyDocument>| {
        let spec = &mut document.spec;
        spec.media_type = media_type.clone().unwrap_or_else(|| spec.media_type.clone());
        spec.blob = blob.clone().unwrap_or_else(|| spec.blob.clone());
        merge(&mut spec.extra, &extra);
        Ok(())
    };
    let rule = "identity:update_policy";
    let document = rules::update::<PolicyDocument>(&identity, &caller, rule, &id, change).await?;
    Ok(one(StatusCode::OK, "policy", &view(&info, &document)))
}

async fn delete(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    rules::delete::<PolicyDocument>(&identity, &caller, "identity:delete_policy", &id).await?;
    Ok(no_content())
}
