//! `/v3/OS-TRUST/trusts`.

use std::sync::{Arc, LazyLock};

use axum::{
    Router,
    extract::{Path, State},
    response::Response,
    routing::get,
};
use http::StatusCode;
use madang_http::{Failure, Json, Query, RequestInfo, Schema, json};
use madang_store::{Resource, Store};
use serde::Serialize;
use serde_json::{Value, json as value};

use super::{Trust, TrustSpec, rules};
use crate::{
    Caller, Identity,
    api::{
        Links, Listed,
        input::{Input, resource_schema},
        links, many, no_content, not_found, one,
    },
    application_credential::api::{expiry, names, role_name},
    auth::render::time,
    role::{self, Role},
};

static CREATE: LazyLock<Schema> = LazyLock::new(|| {
    let text = value!({ "type": "string" });
    let maybe = value!({ "type": ["string", "null"] });
    let role = value!({ "type": "object", "properties": { "id": text, "name": text }, "minProperties": 1 });
    let properties = value!({
        "trustor_user_id": text,
        "trustee_user_id": text,
        "impersonation": { "type": "boolean" },
        "project_id": maybe,
        "remaining_uses": { "type": ["integer", "null"], "minimum": 1 },
        "expires_at": maybe,
        "allow_redelegation": { "type": ["boolean", "null"] },
        "redelegation_count": { "type": ["integer", "null"], "minimum": 0 },
        "roles": { "type": "array", "items": role },
    });
    resource_schema(
        "trust",
        properties,
        &["trustor_user_id", "trustee_user_id", "impersonation"],
    )
});

/// A trust as Keystone shows it; in lists without its roles.
#[derive(Serialize)]
struct View {
    id: String,
    trustor_user_id: String,
    trustee_user_id: String,
    project_id: String,
    impersonation: bool,
    expires_at: Option<String>,
    remaining_uses: Option<u32>,
    redelegation_count: u32,
    redelegated_trust_id: Option<String>,
    deleted_at: Option<()>,
    #[serde(skip_serializing_if = "Option::is_none")]
    roles: Option<Vec<role::api::View>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    roles_links: Option<Value>,
    links: Links,
}

impl Listed for View {
    fn id(&self) -> &str {
        &self.id
    }
}

const COLLECTION: &str = "OS-TRUST/trusts";

fn brief(info: &RequestInfo, trust: &Resource<Trust>) -> View {
    let spec = &trust.spec;
    View {
        id: trust.name().to_owned(),
        trustor_user_id: spec.trustor_user_id.clone(),
        trustee_user_id: spec.trustee_user_id.clone(),
        project_id: spec.project_id.clone(),
        impersonation: spec.impersonation,
        expires_at: spec.expires.map(time),
        remaining_uses: spec.remaining_uses,
        redelegation_count: spec.redelegation_count,
        redelegated_trust_id: spec.redelegated_trust_id.clone(),
        deleted_at: None,
        roles: None,
        roles_links: None,
        links: links(info, COLLECTION, trust.name()),
    }
}

fn full(store: &Store, info: &RequestInfo, trust: &Resource<Trust>) -> View {
    let itself = format!("{}/v3/{COLLECTION}/{}/roles", info.base_url(), trust.name());
    View {
        roles: Some(role_views(store, info, &trust.spec)),
        roles_links: Some(value!({ "self": itself, "next": null, "previous": null })),
        ..brief(info, trust)
    }
}

fn role_views(store: &Store, info: &RequestInfo, trust: &TrustSpec) -> Vec<role::api::View> {
    let roles = trust.role_ids.iter().filter_map(|id| store.get::<Role>(&Role::key(id)));
    roles.map(|role| role::api::view(info, &role)).collect()
}

pub(crate) fn routes() -> Router<Arc<Identity>> {
    Router::new()
        .route("/OS-TRUST/trusts", get(list).post(create))
        .route("/OS-TRUST/trusts/{id}", get(show).delete(delete))
        .route("/OS-TRUST/trusts/{id}/roles", get(roles))
        .route("/OS-TRUST/trusts/{id}/roles/{role_id}", get(show_role))
}

async fn create(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    let mut input = Input::read(&CREATE, body, "trust")?;
    let count = input.take("redelegation_count").and_then(|count| count.as_u64());
    let handing_on = rules::HandingOn {
        is_allowed: input.flag("allow_redelegation") == Some(true),
        count: count.map(|count| u32::try_from(count).unwrap_or(u32::MAX)),
    };
    let uses = input.take("remaining_uses").and_then(|uses| uses.as_u64());
    let spec = TrustSpec {
        trustor_user_id: input.text("trustor_user_id").unwrap_or_default(),
        trustee_user_id: input.text("trustee_user_id").unwrap_or_default(),
        project_id: input.text("project_id").unwrap_or_default(),
        role_ids: Vec::new(),
        impersonation: input.flag("impersonation").unwrap_or(false),
        expires: input.text("expires_at").map(|text| expiry(&text)).transpose()?,
        remaining_uses: uses.map(|uses| u32::try_from(uses).unwrap_or(u32::MAX)),
        redelegation_count: 0,
        redelegated_trust_id: None,
    };
    let roles = names(input.take("roles"), role_name);
    let trust = rules::create(&identity, &caller, spec, &roles, handing_on).await?;
    Ok(one(StatusCode::CREATED, "trust", &full(&identity.store, &info, &trust)))
}

async fn show(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let trust = rules::find(&identity, &caller, "identity:get_trust", &id)?;
    Ok(one(StatusCode::OK, "trust", &full(&identity.store, &info, &trust)))
}

async fn list(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    query: Query,
) -> Result<Response, Failure> {
    let cache = identity.store.cache::<Trust>();
    let mut trusts = if let Some(id) = query.get("trustor_user_id") {
        caller.enforce(
            "identity:list_trusts_for_trustor",
            &[("target.trust.trustor_user_id", id)],
        )?;
        cache.by("trustor", id)
    } else if let Some(id) = query.get("trustee_user_id") {
        caller.enforce(
            "identity:list_trusts_for_trustee",
            &[("target.trust.trustee_user_id", id)],
        )?;
        cache.by("trustee", id)
    } else {
        caller.enforce("identity:list_trusts", &[])?;
        cache.all()
    };
    caller.check_primary()?;
    trusts.retain(|trust| !rules::is_over(&trust.spec));
    trusts.sort_by(|a, b| a.name().cmp(b.name()));
    many(
        &info,
        &query,
        "trusts",
        trusts.iter().map(|trust| brief(&info, trust)).collect(),
    )
}

async fn delete(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    rules::delete(&identity, &caller, &id).await?;
    Ok(no_content())
}

async fn roles(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let trust = rules::find(&identity, &caller, "identity:list_roles_for_trust", &id)?;
    let links = value!({ "self": info.url(), "next": null, "previous": null });
    let roles = role_views(&identity.store, &info, &trust.spec);
    Ok(json(StatusCode::OK, &value!({ "roles": roles, "links": links })))
}

async fn show_role(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    Path((id, role_id)): Path<(String, String)>,
) -> Result<Response, Failure> {
    let trust = rules::find(&identity, &caller, "identity:get_role_for_trust", &id)?;
    let given = trust.spec.role_ids.contains(&role_id);
    let role = identity.store.get::<Role>(&Role::key(&role_id)).filter(|_| given);
    let role = role.ok_or_else(|| not_found("role", &role_id))?;
    Ok(one(StatusCode::OK, "role", &role::api::view(&info, &role)))
}
