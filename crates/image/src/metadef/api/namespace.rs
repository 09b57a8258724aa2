//! Namespaces on the wire.

use std::sync::Arc;

use axum::{
    extract::{Path, State},
    response::Response,
};
use http::{HeaderValue, StatusCode, header};
use jiff::Timestamp;
use madang_http::{Direction, Failure, Json, PageQuery, Query, SortKeys, SortValue, json};
use madang_identity::Caller;
use madang_store::Resource;
use serde_json::{Map, Value, json as object};

use super::{
    super::{Association, Namespace, NamespaceSpec, Part, Sort, rules, schema},
    LIMITS, part,
    resource_type::association_view,
    time,
};
use crate::library::Library;

const PATH: &str = "/v2/metadefs/namespaces";
const SORT_KEYS: &[&str] = &["created_at", "updated_at", "namespace", "id"];
const DEFAULT_SORT: &[(&str, Direction)] = &[("created_at", Direction::Descending)];

pub(super) async fn list(
    State(library): State<Arc<Library>>,
    caller: Caller,
    query: Query,
) -> Result<Response, Failure> {
    let visibility = query.get("visibility");
    if let Some(other) = visibility.filter(|word| !["public", "private"].contains(word)) {
        return Err(Failure::invalid(format!("Invalid visibility value: {other}")).at("visibility"));
    }
    let types: Vec<&str> = query
        .get("resource_types")
        .map(|words| words.split(',').collect())
        .unwrap_or_default();
    let sort = SortKeys::from(&query, SORT_KEYS, DEFAULT_SORT)?;
    let page = PageQuery::from(&query, LIMITS)?;
    let mut all = rules::list(&library, &caller)?;
    all.retain(|namespace| {
        let spec = &namespace.spec;
        let is_for = types.is_empty() || spec.resource_types.iter().any(|of| types.contains(&of.name.as_str()));
        is_for && visibility.is_none_or(|word| (word == "public") == spec.is_public)
    });
    sort.sort(&mut all, |namespace, key| match key {
        "namespace" => SortValue::from(namespace.spec.namespace.as_str()),
        "updated_at" => SortValue::from(namespace.metadata.updated),
        _ => SortValue::from(namespace.metadata.created),
    });
    let page = page.cut(all, |namespace| &namespace.spec.namespace)?;
    let next = page.next_path(PATH, &query, |namespace| &namespace.spec.namespace);
    let first = query.with(&[("marker", None)]).encode();
    let mut body = Map::new();
    let items = page.items.iter().map(|namespace| {
        let mut item = summary(namespace);
        add_associations(&mut item, &namespace.spec);
        Value::Object(item)
    });
    body.insert("namespaces".into(), items.collect());
    let question = if first.is_empty() { "" } else { "?" };
    body.insert("first".into(), format!("{PATH}{question}{first}").into());
    if let Some(next) = next {
        body.insert("next".into(), next.into());
    }
    body.insert("schema".into(), "/v2/schemas/metadefs/namespaces".into());
    Ok(json(StatusCode::OK, &body))
}

pub(super) async fn create(
    State(library): State<Arc<Library>>,
    caller: Caller,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    schema::check(&schema::NAMESPACE, "namespace", &body)?;
    let owner = caller.subject.project_id().unwrap_or_default();
    let mut spec = NamespaceSpec {
        namespace: text(&body, "namespace").unwrap_or_default(),
        display_name: None,
        description: None,
        is_public: false,
        is_protected: false,
        owner: String::new(),
        resource_types: Vec::new(),
        objects: Default::default(),
        properties: Default::default(),
        tags: Default::default(),
    };
    set(&mut spec, &body, owner);
    contents(&mut spec, &caller, &body)?;
    let namespace = rules::create(&library, &caller, spec).await?;
    let mut answer = json(StatusCode::CREATED, &detail(&namespace, None));
    if let Ok(location) = HeaderValue::try_from(format!("{PATH}/{}", namespace.spec.namespace)) {
        answer.headers_mut().insert(header::LOCATION, location);
    }
    Ok(answer)
}

/// What a namespace says of itself; what is left out is as at the beginning.
fn set(spec: &mut NamespaceSpec, body: &Value, owner: &str) {
    spec.display_name = text(body, "display_name");
    spec.description = text(body, "description");
    spec.is_public = body["visibility"] == "public";
    spec.is_protected = body["protected"] == true;
    spec.owner = text(body, "owner").unwrap_or_else(|| owner.to_owned());
}

fn text(body: &Value, name: &str) -> Option<String> {
    body[name].as_str().map(str::to_owned)
}

/// What a new namespace brings along.
fn contents(spec: &mut NamespaceSpec, caller: &Caller, body: &Value) -> Result<(), Failure> {
    let now = Timestamp::now();
    let none = Vec::new();
    let list = |name: &str| body[name].as_array().unwrap_or(&none);
    for (name, rule) in [
        ("resource_type_associations", "add_metadef_resource_type_association"),
        ("objects", "add_metadef_object"),
        ("properties", "add_metadef_property"),
        ("tags", "add_metadef_tag"),
    ] {
        if body.get(name).is_some() {
            rules::enforce(caller, rule)?;
        }
    }
    for item in list("resource_type_associations") {
        rules::associate(spec, Association::from_wire(item, now))?;
    }
    for (sort, items) in [(Sort::Object, list("objects")), (Sort::Tag, list("tags"))] {
        for item in items {
            let (name, body) = part::split(item);
            rules::insert(spec, sort, &name, &body, now)?;
        }
    }
    for (name, item) in body["properties"].as_object().into_iter().flatten() {
        let (_, body) = part::split(item);
        rules::insert(spec, Sort::Property, name, &body, now)?;
    }
    Ok(())
}

pub(super) async fn show(
    State(library): State<Arc<Library>>,
    caller: Caller,
    Path(name): Path<String>,
    query: Query,
) -> Result<Response, Failure> {
    let namespace = rules::find(&library, &caller, "get_metadef_namespace", &name)?;
    Ok(json(StatusCode::OK, &detail(&namespace, query.get("resource_type"))))
}

pub(super) async fn update(
    State(library): State<Arc<Library>>,
    caller: Caller,
    Path(name): Path<String>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    schema::check(&schema::NAMESPACE, "namespace", &body)?;
    let owner = caller.subject.project_id().unwrap_or_default();
    let changed = rules::change(&library, &caller, "modify_metadef_namespace", &name, |spec| {
        spec.namespace = text(&body, "namespace").unwrap_or_default();
        set(spec, &body, owner);
        Ok(())
    });
    Ok(json(StatusCode::OK, &summary(&*changed.await?)))
}

pub(super) async fn delete(
    State(library): State<Arc<Library>>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<StatusCode, Failure> {
    rules::delete(&library, &caller, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A namespace without what is in it.
fn summary(namespace: &Resource<Namespace>) -> Map<String, Value> {
    let spec = &namespace.spec;
    let mut view = Map::new();
    let mut put = |name: &str, value: Value| drop(view.insert(name.to_owned(), value));
    put("namespace", spec.namespace.as_str().into());
    if let Some(name) = &spec.display_name {
        put("display_name", name.as_str().into());
    }
    if let Some(description) = &spec.description {
        put("description", description.as_str().into());
    }
    put("visibility", if spec.is_public { "public" } else { "private" }.into());
    put("protected", spec.is_protected.into());
    put("owner", spec.owner.as_str().into());
    put("created_at", time(namespace.metadata.created).into());
    put("updated_at", time(namespace.metadata.updated).into());
    put("schema", "/v2/schemas/metadefs/namespace".into());
    put("self", format!("{PATH}/{}", spec.namespace).into());
    view
}

fn add_associations(view: &mut Map<String, Value>, spec: &NamespaceSpec) {
    if !spec.resource_types.is_empty() {
        let associations = spec.resource_types.iter().map(association_view).collect();
        view.insert("resource_type_associations".into(), associations);
    }
}

/// A namespace with what is in it; properties are named as they are on resources of a type.
fn detail(namespace: &Resource<Namespace>, resource_type: Option<&str>) -> Map<String, Value> {
    let spec = &namespace.spec;
    let prefix = resource_type.map_or("", |wanted| spec.prefix(wanted));
    let mut view = summary(namespace);
    add_associations(&mut view, spec);
    if !spec.objects.is_empty() {
        let objects = spec
            .objects
            .iter()
            .map(|(name, object)| part::object_view(spec, name, object, prefix));
        view.insert("objects".into(), objects.collect());
    }
    if !spec.properties.is_empty() {
        let named =
            |(name, property): (&String, &Part)| (format!("{prefix}{name}"), Value::Object(property.body.clone()));
        let properties: Map<String, Value> = spec.properties.iter().map(named).collect();
        view.insert("properties".into(), properties.into());
    }
    if !spec.tags.is_empty() {
        let tags = spec.tags.keys().map(|name| object!({ "name": name }));
        view.insert("tags".into(), tags.collect());
    }
    view
}
