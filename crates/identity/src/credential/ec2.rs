//! `/v3/users/{id}/credentials/OS-EC2`: access keys, as clients of S3 use them.

use std::sync::{Arc, LazyLock};

use axum::{
    Router,
    extract::{Path, State},
    response::Response,
    routing::get,
};
use http::StatusCode;
use madang_http::{Failure, Form, Json, Query, RequestInfo, Schema};
use madang_store::Resource;
use serde::Serialize;
use serde_json::{Value, json};

use super::{Credential, EC2, access_key, rules};
use crate::{
    Caller, Identity,
    api::{Links, Listed, links, many, no_content, one},
    user,
};

static CREATE: LazyLock<Schema> = LazyLock::new(|| {
    let properties = json!({ "tenant_id": { "type": "string" } });
    Schema::new(
        Form::Keystone,
        json!({ "type": "object", "properties": properties, "required": ["tenant_id"] }),
    )
});

/// An access key as Keystone shows it.
#[derive(Serialize)]
struct View {
    user_id: String,
    tenant_id: String,
    access: String,
    secret: String,
    trust_id: Option<()>,
    links: Links,
}

impl Listed for View {
    fn id(&self) -> &str {
        &self.access
    }
}

fn view(identity: &Identity, info: &RequestInfo, credential: &Resource<Credential>) -> Result<View, Failure> {
    let spec = &credential.spec;
    let (access, secret) = access_key(&identity.open_credential(credential)?).unwrap_or_default();
    let links = links(info, &format!("users/{}/credentials/OS-EC2", spec.user_id), &access);
    let tenant_id = spec.project_id.clone().unwrap_or_default();
    Ok(View {
        user_id: spec.user_id.clone(),
        tenant_id,
        access,
        secret,
        trust_id: None,
        links,
    })
}

pub(crate) fn routes() -> Router<Arc<Identity>> {
    Router::new()
        .route("/users/{user_id}/credentials/OS-EC2", get(list).post(create))
        .route("/users/{user_id}/credentials/OS-EC2/{access}", get(show).delete(delete))
}

async fn create(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    Path(user_id): Path<String>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    CREATE.check(&body)?;
    let project_id = body["tenant_id"].as_str().unwrap_or_default();
    let credential = rules::create_ec2(&identity, &caller, &user_id, project_id).await?;
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
    Path((user_id, access)): Path<(String, String)>,
) -> Result<Response, Failure> {
    let credential = rules::find_ec2(&identity, &caller, "identity:ec2_get_credential", &user_id, &access)?;
    Ok(one(StatusCode::OK, "credential", &view(&identity, &info, &credential)?))
}

async fn list(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    query: Query,
    Path(user_id): Path<String>,
) -> Result<Response, Failure> {
    user::rules::find(&identity, &caller, "identity:ec2_list_credentials", &user_id)?;
    caller.check_not_delegated()?;
    let mut credentials = identity.store.cache::<Credential>().by("user", &user_id);
    credentials.retain(|credential| credential.spec.credential_type == EC2);
    credentials.sort_by(|a, b| a.name().cmp(b.name()));
    let views = credentials.iter().map(|credential| view(&identity, &info, credential));
    many(&info, &query, "credentials", views.collect::<Result<_, _>>()?)
}

async fn delete(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    Path((user_id, access)): Path<(String, String)>,
) -> Result<Response, Failure> {
    let credential = rules::find_ec2(&identity, &caller, "identity:ec2_delete_credential", &user_id, &access)?;
    rules::delete(&identity, &caller, credential.name()).await?;
    Ok(no_content())
}
