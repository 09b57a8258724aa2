//! `/v2/tasks` and `/v2/images/{id}/tasks`: render, and take what is to be imported by itself.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Path, State},
    response::Response,
    routing::get,
};
use http::{HeaderValue, StatusCode, header};
use madang_http::{Failure, Json, Query, json};
use madang_identity::Caller;
use madang_store::Resource;
use serde_json::{Value, json as object};

use super::{Task, expires};
use crate::{
    image::{
        ImageSpec,
        api::{patch, view::time},
        import, rules,
    },
    library::Library,
};

pub(crate) fn router() -> Router<Arc<Library>> {
    Router::new()
        .route("/v2/tasks", get(list).post(create))
        .route("/v2/tasks/{id}", get(show).delete(delete))
}

fn brief(task: &Resource<Task>) -> Value {
    let mut view = object!({
        "id": task.name(),
        "type": task.spec.kind,
        "status": task.status.state.as_str(),
        "owner": task.project(),
        "created_at": time(task.metadata.created),
        "updated_at": time(task.metadata.updated),
        "self": format!("/v2/tasks/{}", task.name()),
        "schema": "/v2/schemas/task",
    });
    if let Some(at) = expires(task) {
        view["expires_at"] = time(at).into();
    }
    view
}

fn full(task: &Resource<Task>) -> Value {
    let mut view = brief(task);
    view["input"] = task.spec.input.clone();
    view["message"] = task.status.message.as_str().into();
    view["result"] = match &task.spec.image {
        Some(image) if task.status.ended.is_some() => object!({ "image_id": image }),
        _ => Value::Null,
    };
    view
}

/// `GET /v2/images/{id}/tasks`: what was and is done to an image.
pub(crate) async fn of_image(
    State(library): State<Arc<Library>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    rules::find(&library, &caller, &id)?;
    let mut tasks = library.store.cache::<Task>().by("image", &id);
    tasks.sort_by_key(|task| task.metadata.created);
    let views = tasks.iter().map(|task| {
        let mut view = full(task);
        view["image_id"] = id.as_str().into();
        view["request_id"] = task.spec.request.as_str().into();
        view["user_id"] = task.spec.user.as_str().into();
        view
    });
    let views: Vec<Value> = views.collect();
    Ok(json(StatusCode::OK, &object!({ "tasks": views })))
}

fn enforce(caller: &Caller) -> Result<(), Failure> {
    if caller.allows("tasks_api_access", &[]) {
        return Ok(());
    }
    Err(Failure::forbidden(
        "You are not authorized to complete tasks_api_access action.",
    ))
}

async fn list(State(library): State<Arc<Library>>, caller: Caller, query: Query) -> Result<Response, Failure> {
    enforce(&caller)?;
    for (name, known) in [
        ("status", &["pending", "processing", "success", "failure"][..]),
        ("type", &["import", "api_image_import"][..]),
    ] {
        if let Some(said) = query.get(name).filter(|said| !known.contains(said)) {
            return Err(Failure::invalid(format!("Invalid {name} value: {said}")).at(name));
        }
    }
    let mut tasks = library.store.cache::<Task>().all();
    tasks.retain(|task| {
        query
            .get("status")
            .is_none_or(|said| task.status.state.as_str() == said)
            && query.get("type").is_none_or(|said| task.spec.kind == said)
    });
    tasks.sort_by_key(|task| std::cmp::Reverse(task.metadata.created));
    let views: Vec<Value> = tasks.iter().map(|task| brief(task)).collect();
    let page = object!({ "tasks": views, "first": "/v2/tasks", "schema": "/v2/schemas/tasks" });
    Ok(json(StatusCode::OK, &page))
}

async fn show(
    State(library): State<Arc<Library>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    enforce(&caller)?;
    let missing = || Failure::not_found(format!("Failed to find task {id}. Reason: No task found with ID {id}"));
    let task = library.store.cache::<Task>().by_name(&id).ok_or_else(missing)?;
    Ok(json(StatusCode::OK, &full(&task)))
}

async fn delete(caller: Caller) -> Result<Response, Failure> {
    enforce(&caller)?;
    let message = "This operation is currently not permitted on Glance Tasks. They are auto deleted after reaching the \
                   time based on their expires_at property.";
    Err(Failure::invalid(message).with_status(StatusCode::METHOD_NOT_ALLOWED))
}

/// `POST /v2/tasks`: an image, and its bytes from elsewhere.
async fn create(
    State(library): State<Arc<Library>>,
    caller: Caller,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    enforce(&caller)?;
    for name in ["type", "input"] {
        if body.get(name).is_none() {
            return Err(Failure::invalid(format!("Task '{name}' is required")).at(name));
        }
    }
    if body["type"] != "import" {
        let message = format!(
            "Provided object does not match schema 'task': {} is not one of ['import']",
            body["type"]
        );
        return Err(Failure::invalid(message).at("type"));
    }
    let input = &body["input"];
    for name in ["import_from", "import_from_format", "image_properties"] {
        if input.get(name).is_none_or(Value::is_null) {
            return Err(Failure::invalid(format!("Input does not contain '{name}' field")).at(name));
        }
    }
    let uri = input["import_from"].as_str().unwrap_or_default();
    import::check_uri(&library, uri)?;
    let mut spec = ImageSpec::default();
    for (name, value) in input["image_properties"].as_object().into_iter().flatten() {
        patch::set(&mut spec, name, value)?;
    }
    let task = import::create(&library, &caller, spec, uri, input.clone()).await?;
    let mut response = json(StatusCode::CREATED, &full(&task));
    if let Ok(location) = HeaderValue::try_from(format!("/v2/tasks/{}", task.name())) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}
