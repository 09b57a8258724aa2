//! Creating, showing, changing and deleting an image, its actions and tags. Its tasks are in [`crate::task`].

use std::sync::Arc;

use axum::{
    body::Bytes,
    extract::{Path, State},
    response::Response,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use madang_http::{Failure, Json, RequestInfo, json};
use madang_identity::Caller;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{
    super::{ImageSpec, rules},
    patch,
    schema::{self, READ_ONLY, RESERVED},
    view::view,
};
use crate::{api::STORE, library::Library};

pub(crate) async fn create(
    State(library): State<Arc<Library>>,
    caller: Caller,
    info: RequestInfo,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    let Value::Object(body) = body else {
        return Err(Failure::invalid("the body must be an object"));
    };
    refuse_foreign(&body)?;
    let body = Value::Object(body);
    schema::check(&body)?;
    let Value::Object(mut body) = body else {
        unreachable!("it was one above")
    };
    let id = body
        .shift_remove("id")
        .and_then(|id| id.as_str().and_then(|id| Uuid::try_parse(id).ok()));
    let owner = body
        .shift_remove("owner")
        .and_then(|owner| owner.as_str().map(str::to_owned));
    let mut spec = ImageSpec::default();
    for (name, value) in &body {
        patch::set(&mut spec, name, value)?;
    }
    let image = rules::create(&library, &caller, id, owner, spec).await?;
    let mut response = json(StatusCode::CREATED, &view(&image));
    let location = format!("{}/v2/images/{}", info.base_url(), image.name());
    let headers = response.headers_mut();
    if let Ok(location) = HeaderValue::try_from(location) {
        headers.insert(header::LOCATION, location);
    }
    headers.insert(
        HeaderName::from_static("openstack-image-store-ids"),
        HeaderValue::from_static(STORE),
    );
    Ok(response)
}

fn refuse_foreign(body: &Map<String, Value>) -> Result<(), Failure> {
    for name in body.keys().map(String::as_str) {
        if READ_ONLY.contains(&name) {
            return Err(read_only(name));
        }
        if RESERVED.contains(&name) || name.starts_with("os_glance") {
            return Err(reserved(name));
        }
    }
    Ok(())
}

pub(super) fn read_only(name: &str) -> Failure {
    Failure::forbidden(format!("Attribute '{name}' is read-only.")).at(name)
}

pub(super) fn reserved(name: &str) -> Failure {
    Failure::forbidden(format!("Attribute '{name}' is reserved.")).at(name)
}

pub(crate) async fn show(
    State(library): State<Arc<Library>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    Ok(json(StatusCode::OK, &view(&*rules::find(&library, &caller, &id)?)))
}

pub(crate) async fn update(
    State(library): State<Arc<Library>>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Failure> {
    let changes = patch::parse(&headers, &body)?;
    let owner = patch::owner(&changes);
    if owner.is_some() {
        rules::may_give(&caller)?;
    }
    let mut image = rules::update(&library, &caller, &id, |image| patch::apply(image, &changes)).await?;
    if let Some(owner) = owner {
        image = rules::give(&library, &caller, &id, owner).await?;
    }
    Ok(json(StatusCode::OK, &view(&image)))
}

pub(crate) async fn delete(
    State(library): State<Arc<Library>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<StatusCode, Failure> {
    rules::delete(&library, &caller, &id)
        .await
        .map(|()| StatusCode::NO_CONTENT)
}

pub(crate) async fn deactivate(
    State(library): State<Arc<Library>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<StatusCode, Failure> {
    rules::set_active(&library, &caller, &id, false)
        .await
        .map(|()| StatusCode::NO_CONTENT)
}

pub(crate) async fn reactivate(
    State(library): State<Arc<Library>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<StatusCode, Failure> {
    rules::set_active(&library, &caller, &id, true)
        .await
        .map(|()| StatusCode::NO_CONTENT)
}

pub(crate) async fn add_tag(
    State(library): State<Arc<Library>>,
    caller: Caller,
    Path((id, tag)): Path<(String, String)>,
) -> Result<StatusCode, Failure> {
    rules::set_tag(&library, &caller, &id, &tag, true)
        .await
        .map(|()| StatusCode::NO_CONTENT)
}

pub(crate) async fn remove_tag(
    State(library): State<Arc<Library>>,
    caller: Caller,
    Path((id, tag)): Path<(String, String)>,
) -> Result<StatusCode, Failure> {
    rules::set_tag(&library, &caller, &id, &tag, false)
        .await
        .map(|()| StatusCode::NO_CONTENT)
}
