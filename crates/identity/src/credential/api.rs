//! `/v3/credentials`.

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
use serde_json::{Value, json};

use super::{Credential, rules};
use crate::{
    Caller, Identity,
    api::{
        Links, Listed,
        input::{Input, resource_schema},
        links, many, no_content, one,
    },
};

static CREATE: LazyLock<Schema> =
    LazyLock::new(|| resource_schema("credential", properties(), &["blob", "type", "user_id"]));
static UPDATE: LazyLock<Schema> = LazyLock::new(|| resource_schema("credential", properties(), &[]));

fn properties() -> Value {
    let text = json!({ "type": "string" });
    let maybe = json!({ "type": ["string", "null"] });
    json!({ "blob": text, "type": text, "user_id": text, "project_id": maybe })
}

/// A credential as Keystone shows it.
#[derive(Serialize)]
struct View {
    id: String,
    user_id: String,
    project_id: Option<String>,
    #[serde(rename = "type")]
    credential_type: String,
    blob: String,
    links: Links,
}

impl Listed for View {
    fn id(&self) -> &str {
        &self.id
    }
}

fn view(identity: &Identity, info: &RequestInfo, credential: &Resource<Credential>) -> Result<View, Failure> {
    let spec = &credential.spec;
    Ok(View {
        id: credential.name().to_owned(),
        user_id: spec.user_id.clone(),
        project_id: spec.project_id.clone(),
        credential_type: spec.credential_type.clone(),
        blob: identity.open_credential(credential)?,
        links: links(info, "credentials", credential.name()),
    })
}

pub(crate) fn routes() -> Router<Arc<Identity>> {
    Router::new()
        .route("/credentials", get(list).post(create))
        .route("/credentials/{id}", get(show).patch(update).delete(delete))
}

async fn create(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    let mut input = Input::read(&CREATE, body, "credential")?;
    let new = rules::NewCredential {
        user_id: input.text("user_id").unwrap_or_default(),
        project_id: input.text("project_id"),
        credential_type: input.text("type").unwrap_or_default(),
        blob: input.text("blob").unwrap_or_default(),
    };
    let credential = rules::create(&identity, &caller, "identity:create_credential", new).await?;
    Ok(one(
        StatusCode::CREATED,
        "credential",
        &view(&identity, &info, &credential)?,
    ))
}

async fn show(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let credential = rules::find(&identity, &caller, "identity:get_credential", &id)?;
    Ok(one(StatusCode::OK, "credential", &view(&identity, &info, &credential)?))
}

/// Everybody lists what it may see: its own, or all; who acts for somebody sees none.
async fn list(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    query: Query,
) -> Result<Response, Failure> {
    let cache = identity.store.cache::<Credential>();
    let mut credentials = match query.get("user_id") {
        Some(user_id) => cache.by("user", user_id),
        None => cache.all(),
    };
    let is_own = caller.check_not_delegated().is_ok();
    credentials.retain(|credential| {
        let target = [("target.credential.user_id", credential.spec.user_id.as_str())];
        query
            .get("type")
            .is_none_or(|wanted| wanted == credential.spec.credential_type)
            && is_own
            && caller.allows("identity:list_credentials", &target)
    });
    credentials.sort_by(|a, b| a.name().cmp(b.name()));
    let views = credentials.iter().map(|credential| view(&identity, &info, credential));
    many(&info, &query, "credentials", views.collect::<Result<_, _>>()?)
}

async fn update(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    Path(id): Path<String>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    let changes = Input::read(&UPDATE, body, "credential")?.rest();
    let credential = rules::update(&identity, &caller, &id, &changes).await?;
    Ok(one(StatusCode::OK, "credential", &view(&identity, &info, &credential)?))
}

async fn delete(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    rules::find(&identity, &caller, "identity:delete_credential", &id)?;
    rules::delete(&identity, &caller, &id).await?;
    Ok(no_content())
}
