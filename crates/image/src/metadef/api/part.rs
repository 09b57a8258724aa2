//! Objects, properties and tags on the wire.

use std::sync::Arc;

use axum::{
    extract::{Path, State},
    response::Response,
};
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use madang_http::{Failure, Json, PageQuery, Query, Schema, json, parse_bool};
use madang_identity::Caller;
use serde_json::{Map, Value, json as object};

use super::{
    super::{NamespaceSpec, Part, Sort, rules, schema},
    LIMITS, time,
};
use crate::library::Library;

impl Sort {
    fn schema(self) -> &'static Schema {
        match self {
            Self::Object => &schema::OBJECT,
            Self::Property => &schema::PROPERTY,
            Self::Tag => &schema::TAG,
        }
    }

    /// Glance's rules: of one, of all, to add, to change, to delete.
    fn rules(self) -> [&'static str; 5] {
        match self {
            Self::Object => [
                "get_metadef_object",
                "get_metadef_objects",
                "add_metadef_object",
                "modify_metadef_object",
                "delete_metadef_object",
            ],
            Self::Property => [
                "get_metadef_property",
                "get_metadef_properties",
                "add_metadef_property",
                "modify_metadef_property",
                "remove_metadef_property",
            ],
            Self::Tag => [
                "get_metadef_tag",
                "get_metadef_tags",
                "add_metadef_tag",
                "modify_metadef_tag",
                "delete_metadef_tag",
            ],
        }
    }
}

/// A part's name, and all else of it.
pub(super) fn split(body: &Value) -> (String, Map<String, Value>) {
    let mut members = body.as_object().cloned().unwrap_or_default();
    let name = members.shift_remove("name");
    (
        name.and_then(|name| name.as_str().map(str::to_owned))
            .unwrap_or_default(),
        members,
    )
}

pub(super) fn object_view(spec: &NamespaceSpec, name: &str, part: &Part, prefix: &str) -> Value {
    let mut view = Map::new();
    view.insert("name".into(), name.into());
    view.extend(part.body.clone());
    if let Some(Value::Object(properties)) = view.get_mut("properties")
        && !prefix.is_empty()
    {
        let named = std::mem::take(properties).into_iter();
        *properties = named.map(|(name, value)| (format!("{prefix}{name}"), value)).collect();
    }
    view.insert("created_at".into(), time(part.created).into());
    view.insert("updated_at".into(), time(part.updated).into());
    view.insert("schema".into(), "/v2/schemas/metadefs/object".into());
    let itself = format!("/v2/metadefs/namespaces/{}/objects/{name}", spec.namespace);
    view.insert("self".into(), itself.into());
    Value::Object(view)
}

fn view(sort: Sort, spec: &NamespaceSpec, name: &str, part: &Part) -> Value {
    match sort {
        Sort::Object => object_view(spec, name, part, ""),
        Sort::Property => {
            let mut view = part.body.clone();
            view.insert("name".into(), name.into());
            Value::Object(view)
        }
        Sort::Tag => object!({ "name": name, "created_at": time(part.created), "updated_at": time(part.updated) }),
    }
}

pub(super) async fn list(
    sort: Sort,
    State(library): State<Arc<Library>>,
    caller: Caller,
    Path(namespace): Path<String>,
    query: Query,
) -> Result<Response, Failure> {
    let [_, rule, ..] = sort.rules();
    let found = rules::find(&library, &caller, rule, &namespace)?;
    let spec = &found.spec;
    if sort == Sort::Property {
        let prefix = query.get("resource_type").map_or("", |wanted| spec.prefix(wanted));
        let named = spec
            .properties
            .iter()
            .map(|(name, part)| (format!("{prefix}{name}"), view(sort, spec, name, part)));
        let properties: Map<String, Value> = named.collect();
        return Ok(json(StatusCode::OK, &object!({ "properties": properties })));
    }
    let page = PageQuery::from(&query, LIMITS)?;
    let mut newest_first: Vec<_> = sort.of(spec).iter().rev().collect();
    newest_first.sort_by_key(|(_, part)| std::cmp::Reverse(part.created));
    if query.get("sort_dir") == Some("asc") {
        newest_first.reverse();
    }
    if query.get("sort_key") == Some("name") {
        newest_first.sort_by_key(|(name, _)| name.as_str());
        if query.get("sort_dir").is_none_or(|direction| direction == "desc") {
            newest_first.reverse();
        }
    }
    let path = format!("/v2/metadefs/namespaces/{namespace}/{}", sort.plural());
    let page = page.cut(newest_first, |(name, _)| name.as_str())?;
    let next = page.next_path(&path, &query, |(name, _)| name.as_str());
    let items = page
        .items
        .iter()
        .map(|(name, part)| view(sort, spec, name, part))
        .collect();
    let mut body = Map::new();
    body.insert(sort.plural().into(), items);
    body.insert("first".into(), path.into());
    if let Some(next) = next {
        body.insert("next".into(), next.into());
    }
    body.insert(
        "schema".into(),
        format!("/v2/schemas/metadefs/{}", sort.plural()).into(),
    );
    Ok(json(StatusCode::OK, &body))
}

pub(super) async fn create(
    sort: Sort,
    State(library): State<Arc<Library>>,
    caller: Caller,
    Path(namespace): Path<String>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    schema::check(sort.schema(), sort.word(), &body)?;
    let (name, body) = split(&body);
    add(sort, &library, &caller, &namespace, &name, &body).await
}

pub(super) async fn create_tag(
    State(library): State<Arc<Library>>,
    caller: Caller,
    Path((namespace, name)): Path<(String, String)>,
) -> Result<Response, Failure> {
    schema::check(&schema::TAG, "tag", &object!({ "name": name }))?;
    add(Sort::Tag, &library, &caller, &namespace, &name, &Map::new()).await
}

async fn add(
    sort: Sort,
    library: &Library,
    caller: &Caller,
    namespace: &str,
    name: &str,
    body: &Map<String, Value>,
) -> Result<Response, Failure> {
    let [_, _, rule, ..] = sort.rules();
    let now = Timestamp::now();
    let changed = rules::change(library, caller, rule, namespace, |spec| {
        rules::insert(spec, sort, name, body, now)
    });
    answer(sort, StatusCode::CREATED, &changed.await?.spec, name)
}

fn answer(sort: Sort, status: StatusCode, spec: &NamespaceSpec, name: &str) -> Result<Response, Failure> {
    let part = sort.of(spec).get(name);
    let part = part.ok_or_else(|| rules::no_part(sort, name, &spec.namespace))?;
    Ok(json(status, &view(sort, spec, name, part)))
}

/// Replaces all tags, or adds to them where `X-Openstack-Append` says so.
pub(super) async fn create_tags(
    State(library): State<Arc<Library>>,
    caller: Caller,
    Path(namespace): Path<String>,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    schema::check(&schema::TAGS, "tags", &body)?;
    let appends = headers.get("x-openstack-append").and_then(|value| value.to_str().ok());
    let appends = appends.and_then(parse_bool).unwrap_or(false);
    let now = Timestamp::now();
    let names = body["tags"].as_array().into_iter().flatten().map(|tag| split(tag).0);
    let names: Vec<String> = names.collect();
    rules::change(&library, &caller, "add_metadef_tags", &namespace, |spec| {
        if !appends {
            rules::refuse_protected(spec, "tags of", &spec.namespace)?;
            spec.tags.clear();
        }
        names
            .iter()
            .try_for_each(|name| rules::insert(spec, Sort::Tag, name, &Map::new(), now))
    })
    .await?;
    let tags: Vec<Value> = names.iter().map(|name| object!({ "name": name })).collect();
    Ok(json(StatusCode::CREATED, &object!({ "tags": tags })))
}

pub(super) async fn show(
    sort: Sort,
    State(library): State<Arc<Library>>,
    caller: Caller,
    Path((namespace, name)): Path<(String, String)>,
    query: Query,
) -> Result<Response, Failure> {
    let [rule, ..] = sort.rules();
    let found = rules::find(&library, &caller, rule, &namespace)?;
    let spec = &found.spec;
    let Some(wanted) = query.get("resource_type").filter(|_| sort == Sort::Property) else {
        return answer(sort, StatusCode::OK, spec, &name);
    };
    let bare = name.strip_prefix(spec.prefix(wanted));
    let part = bare.and_then(|bare| spec.properties.get(bare));
    let part = part.ok_or_else(|| {
        Failure::not_found(format!(
            "Property {name} does not start with the expected resource type association prefix of '{}'.",
            spec.prefix(wanted)
        ))
    })?;
    Ok(json(StatusCode::OK, &view(sort, spec, &name, part)))
}

pub(super) async fn update(
    sort: Sort,
    State(library): State<Arc<Library>>,
    caller: Caller,
    Path((namespace, name)): Path<(String, String)>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    schema::check(sort.schema(), sort.word(), &body)?;
    let (new_name, body) = split(&body);
    let [_, _, _, rule, _] = sort.rules();
    let now = Timestamp::now();
    let changed = rules::change(&library, &caller, rule, &namespace, |spec| {
        rules::replace(spec, sort, &name, (&new_name, &body), now)
    });
    answer(sort, StatusCode::OK, &changed.await?.spec, &new_name)
}

pub(super) async fn delete(
    sort: Sort,
    State(library): State<Arc<Library>>,
    caller: Caller,
    Path((namespace, name)): Path<(String, String)>,
) -> Result<StatusCode, Failure> {
    let [.., rule] = sort.rules();
    rules::change(&library, &caller, rule, &namespace, |spec| {
        rules::remove(spec, sort, &name)
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn delete_all(
    sort: Sort,
    State(library): State<Arc<Library>>,
    caller: Caller,
    Path(namespace): Path<String>,
) -> Result<StatusCode, Failure> {
    let rule = match sort {
        Sort::Tag => "delete_metadef_tags",
        Sort::Object | Sort::Property => "delete_metadef_namespace",
    };
    rules::change(&library, &caller, rule, &namespace, |spec| {
        rules::refuse_protected(spec, "namespace", &spec.namespace)?;
        sort.of_mut(spec).clear();
        Ok(())
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}
