//! The user's own words about something, as Cinder lets them be read and changed: a map behind a path.

use std::collections::BTreeMap;

use axum::response::Response;
use http::StatusCode;
use madang_http::{Failure, Form, Schema, json};
use serde_json::{Value, json};
use std::sync::LazyLock;

static WHOLE: LazyLock<Schema> = LazyLock::new(|| body("metadata"));
static ONE: LazyLock<Schema> = LazyLock::new(|| body("meta"));

fn body(name: &str) -> Schema {
    let pairs = json!({
        "type": "object",
        "patternProperties": { "^[\\s\\S]{1,255}$": { "type": "string", "maxLength": 255 } },
        "additionalProperties": false,
    });
    let body = json!({
        "type": "object", "properties": { name: pairs }, "required": [name], "additionalProperties": false,
    });
    Schema::new(Form::Nova, body)
}

/// The pairs of a body `{"metadata": {…}}`.
///
/// # Errors
/// 400 for keys and values that cannot be.
pub(crate) fn read(body: Value) -> Result<BTreeMap<String, String>, Failure> {
    WHOLE.check(&body)?;
    Ok(pairs(&body["metadata"]))
}

/// The one pair of a body `{"meta": {…}}`, which must be for `key`.
///
/// # Errors
/// 400 for another key, or several.
pub(crate) fn read_one(body: Value, key: &str) -> Result<String, Failure> {
    ONE.check(&body)?;
    let mut pairs = pairs(&body["meta"]);
    let value = pairs.remove(key);
    if !pairs.is_empty() {
        let message = if value.is_none() {
            "Request body and URI mismatch"
        } else {
            "Request body contains too many items"
        };
        return Err(Failure::invalid(message));
    }
    value.ok_or_else(|| Failure::invalid("Request body and URI mismatch"))
}

fn pairs(object: &Value) -> BTreeMap<String, String> {
    let members = object.as_object().into_iter().flatten();
    members
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect()
}

/// The answer with all pairs.
pub(crate) fn answer(pairs: &BTreeMap<String, String>) -> Response {
    json(StatusCode::OK, &json!({ "metadata": pairs }))
}

/// The answer with one pair.
///
/// # Errors
/// 404 when there is none of this key.
pub(crate) fn answer_one(pairs: &BTreeMap<String, String>, key: &str, whose: &str) -> Result<Response, Failure> {
    let value = pairs.get(key).ok_or_else(|| missing(key, whose))?;
    Ok(json(StatusCode::OK, &json!({ "meta": { key: value } })))
}

/// There is no pair of this key.
pub(crate) fn missing(key: &str, whose: &str) -> Failure {
    Failure::not_found(format!("{whose} has no metadata with key {key}."))
}

/// Declares the handlers of a resource's metadata. `$find` gives the resource for a rule, `$edit` changes it.
macro_rules! handlers {
    ($whose:literal, $find:path, $edit:path, [$get:literal, $create:literal, $update:literal, $delete:literal]) => {
        use axum::{
            extract::{Path, State},
            response::{IntoResponse as _, Response},
        };
        use madang_http::{Failure, Json};
        use madang_identity::Caller;
        use serde_json::Value;

        use crate::api::{BlockApi, metadata as pairs};

        fn whose(id: &str) -> String {
            format!(concat!($whose, " {}"), id)
        }

        /// `GET …/metadata`.
        pub async fn list(
            State(api): State<BlockApi>,
            caller: Caller,
            Path(id): Path<String>,
        ) -> Result<Response, Failure> {
            Ok(pairs::answer(&$find(&api, &caller, &id, $get)?.spec.metadata))
        }

        /// `POST …/metadata`: adds to what is there.
        pub async fn merge(
            State(api): State<BlockApi>,
            caller: Caller,
            Path(id): Path<String>,
            Json(body): Json<Value>,
        ) -> Result<Response, Failure> {
            let new = pairs::read(body)?;
            let found = $find(&api, &caller, &id, $create)?;
            let changed = $edit(&api.store, &caller, &found, |found| {
                found.spec.metadata.extend(new.clone());
                Ok(())
            });
            changed.await?;
            Ok(pairs::answer(&new))
        }

        /// `PUT …/metadata`: takes the place of what is there.
        pub async fn replace(
            State(api): State<BlockApi>,
            caller: Caller,
            Path(id): Path<String>,
            Json(body): Json<Value>,
        ) -> Result<Response, Failure> {
            let new = pairs::read(body)?;
            let found = $find(&api, &caller, &id, $update)?;
            let changed = $edit(&api.store, &caller, &found, |found| {
                found.spec.metadata.clone_from(&new);
                Ok(())
            });
            Ok(pairs::answer(&changed.await?.spec.metadata))
        }

        /// `GET …/metadata/{key}`.
        pub async fn show(
            State(api): State<BlockApi>,
            caller: Caller,
            Path((id, key)): Path<(String, String)>,
        ) -> Result<Response, Failure> {
            let found = $find(&api, &caller, &id, $get)?;
            pairs::answer_one(&found.spec.metadata, &key, &whose(&id))
        }

        /// `PUT …/metadata/{key}`.
        pub async fn set(
            State(api): State<BlockApi>,
            caller: Caller,
            Path((id, key)): Path<(String, String)>,
            Json(body): Json<Value>,
        ) -> Result<Response, Failure> {
            let value = pairs::read_one(body, &key)?;
            let found = $find(&api, &caller, &id, $update)?;
            let changed = $edit(&api.store, &caller, &found, |found| {
                found.spec.metadata.insert(key.clone(), value.clone());
                Ok(())
            });
            pairs::answer_one(&changed.await?.spec.metadata, &key, &whose(&id))
        }

        /// `DELETE …/metadata/{key}`.
        pub async fn remove(
            State(api): State<BlockApi>,
            caller: Caller,
            Path((id, key)): Path<(String, String)>,
        ) -> Result<Response, Failure> {
            let found = $find(&api, &caller, &id, $delete)?;
            let changed = $edit(&api.store, &caller, &found, |found| {
                let removed = found.spec.metadata.remove(&key);
                removed
                    .map(|_| ())
                    .ok_or_else(|| pairs::missing(&key, &whose(&id)))
            });
            changed.await?;
            Ok(http::StatusCode::OK.into_response())
        }
    };
}

pub(crate) use handlers;
