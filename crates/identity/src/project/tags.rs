//! `/v3/projects/{id}/tags`.

use std::sync::{Arc, LazyLock};

use axum::{
    Router,
    extract::{Path, State},
    response::{IntoResponse, Response},
    routing::get,
};
use http::{HeaderValue, StatusCode, header};
use madang_http::{Failure, Form, Json, RequestInfo, Schema, json};
use madang_store::Resource;
use serde_json::{Value, json as value};

use super::{Project, api::tags_schema, rules};
use crate::{Caller, Identity, api::no_content};

static ALL: LazyLock<Schema> = LazyLock::new(|| {
    let properties = value!({ "tags": tags_schema() });
    Schema::new(
        Form::Keystone,
        value!({ "type": "object", "properties": properties, "required": ["tags"] }),
    )
});
static LIST: LazyLock<Schema> = LazyLock::new(|| Schema::new(Form::Keystone, tags_schema()));

pub(crate) fn routes() -> Router<Arc<Identity>> {
    Router::new()
        .route("/projects/{id}/tags", get(list).put(replace).delete(clear))
        .route("/projects/{id}/tags/{tag}", get(check).put(add).delete(remove))
}

fn find(identity: &Identity, caller: &Caller, rule: &str, id: &str) -> Result<Arc<Resource<Project>>, Failure> {
    rules::find(identity, caller, rule, id, false)
}

/// Changes the tags of a project, once policy allows `rule`.
async fn change(
    identity: &Identity,
    caller: &Caller,
    rule: &str,
    id: &str,
    change: impl Fn(&mut Vec<String>) -> Result<(), Failure>,
) -> Result<Arc<Resource<Project>>, Failure> {
    find(identity, caller, rule, id)?;
    let key = Project::key(id);
    let changed = identity
        .store
        .modify::<Project, Failure>(&key, caller.cause(), |project| {
            change(&mut project.spec.tags)?;
            LIST.check(&value!(project.spec.tags))
        });
    changed.await
}

async fn list(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let project = find(&identity, &caller, "identity:list_project_tags", &id)?;
    Ok(json(StatusCode::OK, &value!({ "tags": project.spec.tags })))
}

async fn replace(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    Path(id): Path<String>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    ALL.check(&body)?;
    let wanted = body["tags"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|tag| tag.as_str().map(str::to_owned));
    let wanted: Vec<String> = wanted.collect();
    let replace = |tags: &mut Vec<String>| {
        tags.clone_from(&wanted);
        Ok(())
    };
    let project = change(&identity, &caller, "identity:update_project_tags", &id, replace).await?;
    let links = value!({ "next": null, "self": info.url(), "previous": null });
    Ok(json(
        StatusCode::OK,
        &value!({ "tags": project.spec.tags, "links": links }),
    ))
}

async fn clear(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let clear = |tags: &mut Vec<String>| {
        tags.clear();
        Ok(())
    };
    change(&identity, &caller, "identity:delete_project_tags", &id, clear).await?;
    Ok(no_content())
}

async fn check(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    Path((id, tag)): Path<(String, String)>,
) -> Result<Response, Failure> {
    let project = find(&identity, &caller, "identity:get_project_tag", &id)?;
    if project.spec.tags.contains(&tag) {
        Ok(no_content())
    } else {
        Err(no_tag(&tag))
    }
}

async fn add(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    Path((id, tag)): Path<(String, String)>,
) -> Result<Response, Failure> {
    let add = |tags: &mut Vec<String>| {
        if !tags.contains(&tag) {
            tags.push(tag.clone());
        }
        Ok(())
    };
    change(&identity, &caller, "identity:create_project_tag", &id, add).await?;
    let place = HeaderValue::try_from(info.url()).map_err(|e| Failure::internal(e.to_string()))?;
    Ok((StatusCode::CREATED, [(header::LOCATION, place)]).into_response())
}

async fn remove(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    Path((id, tag)): Path<(String, String)>,
) -> Result<Response, Failure> {
    let remove = |tags: &mut Vec<String>| {
        let at = tags
            .iter()
            .position(|other| *other == tag)
            .ok_or_else(|| no_tag(&tag))?;
        tags.remove(at);
        Ok(())
    };
    change(&identity, &caller, "identity:delete_project_tag", &id, remove).await?;
    Ok(no_content())
}

fn no_tag(tag: &str) -> Failure {
    Failure::not_found(format!("Could not find project tag: {tag}."))
}
