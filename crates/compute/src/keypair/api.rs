//! `/os-keypairs`.

use std::sync::{Arc, LazyLock};

use axum::{
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use http::StatusCode;
use madang_http::{Failure, Json, LimitRules, Microversion, PageQuery, Query, RequestInfo, Schema, json};
use madang_identity::Caller;
use madang_store::{Delta, Key, Kind as _, Metadata, Resource, StoreError};
use serde_json::{Value, json};

use super::{Keypair, KeypairSpec, key};
use crate::{
    api::{ComputeApi, failure, input},
    quota,
    server::view::micros,
};

const LIMITS: LimitRules = LimitRules::up_to(1000);

/// The counter group of a user's keypairs; limits are those of the project that asks.
const COUNTERS: &str = "keypairs";

/// The user whose keys are meant: the caller, or since 2.10 another that an admin names.
fn owner(caller: &Caller, version: Microversion, query: &Query, rule: &str) -> Result<String, Failure> {
    let asked = query.get("user_id").filter(|_| version >= Microversion(2, 10));
    let user = asked.unwrap_or(&caller.subject.user.id).to_owned();
    caller.enforce(rule, &[("user_id", &user)])?;
    Ok(user)
}

fn view(keypair: &Resource<Keypair>, version: Microversion) -> Value {
    let mut shown = json!({
        "name": keypair.name(),
        "public_key": keypair.spec.public_key,
        "fingerprint": keypair.spec.fingerprint,
    });
    if version >= Microversion(2, 2) {
        shown["type"] = json!(keypair.spec.key_type);
    }
    shown
}

fn of_user(api: &ComputeApi, user: &str) -> Vec<Arc<Resource<Keypair>>> {
    let mut keypairs = api.store.cache::<Keypair>().by("user", user);
    keypairs.sort_unstable_by(|a, b| a.name().cmp(b.name()));
    keypairs
}

/// `GET /os-keypairs`.
pub async fn list(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    query: Query,
    info: RequestInfo,
) -> Result<Response, Failure> {
    let user = owner(&caller, version, &query, "os_compute_api:os-keypairs:index")?;
    let keypairs = of_user(&api, &user);
    let has_pages = version >= Microversion(2, 35);
    let page = if has_pages {
        PageQuery::from(&query, LIMITS)?
    } else {
        PageQuery::default()
    };
    let page = page.cut(keypairs, |keypair| keypair.name())?;
    let items: Vec<Value> = page
        .items
        .iter()
        .map(|keypair| json!({ "keypair": view(keypair, version) }))
        .collect();
    let mut body = json!({ "keypairs": items });
    if let Some(next) = page.next_link(&info, &query, |keypair| keypair.name()) {
        body["keypairs_links"] = json!([next]);
    }
    Ok(json(StatusCode::OK, &body))
}

fn schema(version: Microversion) -> &'static Schema {
    static OLD: LazyLock<Schema> = LazyLock::new(|| input::nova(body_schema(1)));
    static TYPED: LazyLock<Schema> = LazyLock::new(|| input::nova(body_schema(2)));
    static OWNED: LazyLock<Schema> = LazyLock::new(|| input::nova(body_schema(10)));
    static IMPORTED: LazyLock<Schema> = LazyLock::new(|| input::nova(body_schema(92)));
    match version {
        v if v >= Microversion(2, 92) => &IMPORTED,
        v if v >= Microversion(2, 10) => &OWNED,
        v if v >= Microversion(2, 2) => &TYPED,
        _ => &OLD,
    }
}

fn body_schema(minor: u16) -> Value {
    // Since 2.92 `@` and `.` are fine, and a public key must be given.
    let pattern = if minor >= 92 {
        "^[a-zA-Z0-9 @._-]*$"
    } else {
        "^[a-zA-Z0-9 _-]*$"
    };
    let mut properties = json!({
        "name": { "type": "string", "minLength": 1, "maxLength": 255, "pattern": pattern, "format": "name" },
        "public_key": { "type": "string" },
    });
    if minor >= 2 {
        properties["type"] = json!({ "type": "string", "enum": ["ssh", "x509"] });
    }
    if minor >= 10 {
        properties["user_id"] = json!({ "type": "string" });
    }
    let required = if minor >= 92 {
        vec!["name", "public_key"]
    } else {
        vec!["name"]
    };
    json!({
        "type": "object",
        "properties": { "keypair": {
            "type": "object",
            "properties": properties,
            "required": required,
            "additionalProperties": minor < 2,
        } },
        "required": ["keypair"],
        "additionalProperties": false,
    })
}

/// `POST /os-keypairs`: takes a public key, or makes a pair (up to 2.91) and shows the private key this once.
pub async fn create(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    schema(version).check(&body)?;
    let wanted = &body["keypair"];
    let name = wanted["name"].as_str().unwrap_or_default().trim();
    if name.is_empty() {
        return Err(Failure::invalid("Keypair name must not be blank").at("keypair.name"));
    }
    let user = wanted["user_id"].as_str().filter(|_| version >= Microversion(2, 10));
    let user = user.unwrap_or(&caller.subject.user.id).to_owned();
    caller.enforce("os_compute_api:os-keypairs:create", &[("user_id", &user)])?;
    let key_type = wanted["type"].as_str().unwrap_or("ssh").to_owned();
    let (public_key, private_key) = match wanted["public_key"].as_str() {
        Some(public_key) => (public_key.trim().to_owned(), None),
        None => key::generate(&key_type, &user)?,
    };
    let fingerprint = key::fingerprint(&key_type, &public_key)?;
    let mut metadata = Metadata::new("", name);
    metadata.namespace.clone_from(&user);
    let spec = KeypairSpec {
        key_type,
        public_key,
        fingerprint,
    };
    let limit = quota::limit(&api.store, caller.subject.project_id().unwrap_or_default(), "key_pairs");
    let mut tx = api.store.begin(caller.cause());
    let keypair = tx
        .create(Resource::<Keypair>::new(metadata, spec))
        .map_err(|error| taken(error, name))?;
    tx.add(
        "",
        &format!("{COUNTERS}/{user}"),
        vec![Delta {
            field: "key_pairs".to_owned(),
            add: 1,
            limit,
        }],
    );
    tx.commit().await.map_err(|error| taken(error, name))?;
    let mut shown = view(&keypair, version);
    shown["user_id"] = json!(user);
    if let Some(private_key) = private_key {
        shown["private_key"] = json!(private_key);
    }
    let status = if version >= Microversion(2, 2) {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok(json(status, &json!({ "keypair": shown })))
}

fn taken(error: StoreError, name: &str) -> Failure {
    match error {
        StoreError::Exists { .. } => Failure::conflict(format!("Key pair '{name}' already exists.")),
        StoreError::LimitExceeded { .. } => {
            Failure::forbidden("Quota exceeded, too many key pairs.").because("OverQuota")
        }
        other => failure(other),
    }
}

fn find(api: &ComputeApi, user: &str, name: &str) -> Result<Arc<Resource<Keypair>>, Failure> {
    let keypair = api.store.get::<Keypair>(&Key::new(Keypair::NAME, "", user, name));
    keypair.ok_or_else(|| Failure::not_found(format!("Keypair {name} not found for user {user}")))
}

/// `GET /os-keypairs/{name}`.
pub async fn show(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path(name): Path<String>,
    query: Query,
) -> Result<Response, Failure> {
    let user = owner(&caller, version, &query, "os_compute_api:os-keypairs:show")?;
    let keypair = find(&api, &user, &name)?;
    let mut shown = view(&keypair, version);
    shown["user_id"] = json!(user);
    // A number of a database row; clients show it and use it for nothing.
    shown["id"] = json!(keypair.metadata.uid.as_fields().0);
    shown["created_at"] = json!(micros(keypair.metadata.created));
    shown["updated_at"] = Value::Null;
    shown["deleted_at"] = Value::Null;
    shown["deleted"] = json!(false);
    Ok(json(StatusCode::OK, &json!({ "keypair": shown })))
}

/// `DELETE /os-keypairs/{name}`.
pub async fn delete(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path(name): Path<String>,
    query: Query,
) -> Result<Response, Failure> {
    let user = owner(&caller, version, &query, "os_compute_api:os-keypairs:delete")?;
    let keypair = find(&api, &user, &name)?;
    let mut tx = api.store.begin(caller.cause());
    tx.delete(&keypair).map_err(failure)?;
    tx.add(
        "",
        &format!("{COUNTERS}/{user}"),
        vec![Delta {
            field: "key_pairs".to_owned(),
            add: -1,
            limit: None,
        }],
    );
    tx.commit().await.map_err(failure)?;
    let status = if version >= Microversion(2, 2) {
        StatusCode::NO_CONTENT
    } else {
        StatusCode::ACCEPTED
    };
    Ok(status.into_response())
}
