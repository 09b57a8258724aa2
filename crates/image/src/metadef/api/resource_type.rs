//! What namespaces are for, on the wire.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    extract::{Path, State},
    response::Response,
};
use http::StatusCode;
use jiff::Timestamp;
use madang_http::{Failure, Json, json};
use madang_identity::Caller;
use serde_json::{Map, Value, json as object};

use super::{
    super::{Association, Namespace, NamespaceSpec, rules, schema},
    time,
};
use crate::library::Library;

/// The types that there are from the start: those that Glance's own definitions are for.
const KNOWN: [&str; 5] = [
    "OS::Cinder::Volume",
    "OS::Glance::Image",
    "OS::Nova::Aggregate",
    "OS::Nova::Flavor",
    "OS::Nova::Server",
];

impl Association {
    /// From a body that was checked.
    pub(super) fn from_wire(body: &Value, created: Timestamp) -> Self {
        let text = |name: &str| body[name].as_str().map(str::to_owned);
        Self {
            name: text("name").unwrap_or_default(),
            prefix: text("prefix"),
            properties_target: text("properties_target"),
            created,
        }
    }
}

impl NamespaceSpec {
    /// What stands before the names of its properties on resources of a type.
    pub(super) fn prefix(&self, resource_type: &str) -> &str {
        let association = self.resource_types.iter().find(|of| of.name == resource_type);
        association.and_then(|of| of.prefix.as_deref()).unwrap_or_default()
    }
}

pub(super) fn association_view(association: &Association) -> Value {
    let mut view = Map::new();
    view.insert("name".into(), association.name.as_str().into());
    for (name, value) in [
        ("prefix", &association.prefix),
        ("properties_target", &association.properties_target),
    ] {
        if let Some(value) = value {
            view.insert(name.into(), value.as_str().into());
        }
    }
    let at = time(association.created);
    view.insert("created_at".into(), at.as_str().into());
    view.insert("updated_at".into(), at.into());
    Value::Object(view)
}

/// Every type that some namespace is for.
pub(super) async fn list_all(State(library): State<Arc<Library>>, caller: Caller) -> Result<Response, Failure> {
    rules::enforce(&caller, "list_metadef_resource_types")?;
    let mut types: BTreeMap<String, Timestamp> = KNOWN
        .iter()
        .map(|name| ((*name).to_owned(), Timestamp::UNIX_EPOCH))
        .collect();
    for namespace in library.store.cache::<Namespace>().all() {
        for of in &namespace.spec.resource_types {
            let first = types.entry(of.name.clone()).or_insert(of.created);
            *first = of.created.min(*first);
        }
    }
    let views = types
        .iter()
        .map(|(name, created)| object!({ "name": name, "created_at": time(*created), "updated_at": time(*created) }));
    let views: Vec<Value> = views.collect();
    Ok(json(StatusCode::OK, &object!({ "resource_types": views })))
}

pub(super) async fn list(
    State(library): State<Arc<Library>>,
    caller: Caller,
    Path(namespace): Path<String>,
) -> Result<Response, Failure> {
    let found = rules::find(&library, &caller, "list_metadef_resource_types", &namespace)?;
    let associations: Vec<Value> = found.spec.resource_types.iter().map(association_view).collect();
    Ok(json(
        StatusCode::OK,
        &object!({ "resource_type_associations": associations }),
    ))
}

pub(super) async fn associate(
    State(library): State<Arc<Library>>,
    caller: Caller,
    Path(namespace): Path<String>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    schema::check(&schema::RESOURCE_TYPE, "resource_type_association", &body)?;
    let association = Association::from_wire(&body, Timestamp::now());
    let rule = "add_metadef_resource_type_association";
    rules::change(&library, &caller, rule, &namespace, |spec| {
        rules::associate(spec, association.clone())
    })
    .await?;
    Ok(json(StatusCode::CREATED, &association_view(&association)))
}

pub(super) async fn dissociate(
    State(library): State<Arc<Library>>,
    caller: Caller,
    Path((namespace, name)): Path<(String, String)>,
) -> Result<StatusCode, Failure> {
    let rule = "remove_metadef_resource_type_association";
    rules::change(&library, &caller, rule, &namespace, |spec| {
        rules::dissociate(spec, &name)
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}
