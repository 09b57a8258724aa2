//! Glance's JSON schemas of metadata definitions: shown to clients, and what bodies are checked with.

use std::sync::LazyLock;

use axum::{extract::Path, response::Response};
use http::StatusCode;
use madang_http::{Failure, Form, Schema, json};
use serde_json::{Map, Value, json as object};

pub(super) static NAMESPACE: LazyLock<Schema> = LazyLock::new(|| Schema::new(Form::Plain, namespace()));
pub(super) static OBJECT: LazyLock<Schema> = LazyLock::new(|| Schema::new(Form::Plain, object_schema()));
pub(super) static PROPERTY: LazyLock<Schema> = LazyLock::new(|| Schema::new(Form::Plain, property()));
pub(super) static TAG: LazyLock<Schema> = LazyLock::new(|| Schema::new(Form::Plain, tag()));
pub(super) static TAGS: LazyLock<Schema> = LazyLock::new(|| Schema::new(Form::Plain, tag_list()));
pub(super) static RESOURCE_TYPE: LazyLock<Schema> = LazyLock::new(|| Schema::new(Form::Plain, resource_type()));

fn definitions() -> Value {
    let types = object!(["array", "boolean", "integer", "number", "object", "string", null]);
    object!({
        "positiveInteger": {"type": "integer", "minimum": 0},
        "positiveIntegerDefault0": {"allOf": [{"$ref": "#/definitions/positiveInteger"}, {"default": 0}]},
        "stringArray": {"type": "array", "items": {"type": "string"}, "uniqueItems": true},
        "property": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "required": ["title", "type"],
                "properties": property_members(&types),
            },
        },
    })
}

fn property_members(types: &Value) -> Value {
    object!({
        "name": {"type": "string", "maxLength": 80},
        "title": {"type": "string"},
        "description": {"type": "string"},
        "operators": {"type": "array", "items": {"type": "string"}},
        "type": {"type": "string", "enum": types},
        "required": {"$ref": "#/definitions/stringArray"},
        "minimum": {"type": "number"},
        "maximum": {"type": "number"},
        "maxLength": {"$ref": "#/definitions/positiveInteger"},
        "minLength": {"$ref": "#/definitions/positiveIntegerDefault0"},
        "pattern": {"type": "string", "format": "regex"},
        "enum": {"type": "array"},
        "readonly": {"type": "boolean"},
        "default": {},
        "items": {"type": "object", "properties": {"type": {"type": "string", "enum": types}, "enum": {"type": "array"}}},
        "maxItems": {"$ref": "#/definitions/positiveInteger"},
        "minItems": {"$ref": "#/definitions/positiveIntegerDefault0"},
        "uniqueItems": {"type": "boolean", "default": false},
        "additionalItems": {"type": "boolean"},
    })
}

/// A schema of a thing with these members.
fn schema(name: &str, members: Value, required: &[&str]) -> Value {
    object!({
        "name": name, "properties": members, "additionalProperties": false, "required": required,
        "definitions": definitions(),
    })
}

fn times(members: &mut Map<String, Value>) {
    for (name, what) in [("created_at", "creation"), ("updated_at", "the last modification")] {
        let description = format!("Date and time of {what}");
        members.insert(
            name.to_owned(),
            object!({"type": "string", "readOnly": true, "format": "date-time", "description": description}),
        );
    }
}

fn with_times(members: Value) -> Value {
    let Value::Object(mut members) = members else {
        return members;
    };
    times(&mut members);
    Value::Object(members)
}

fn association_members() -> Value {
    object!({
        "name": {"type": "string", "maxLength": 80, "description": "Resource type names should be aligned with Heat resource types whenever possible"},
        "prefix": {"type": "string", "maxLength": 80, "description": "Prefix of the properties' names on such resources"},
        "properties_target": {"type": "string", "maxLength": 80, "description": "Which properties of the resource are meant"},
    })
}

fn object_members() -> Value {
    with_times(object!({
        "name": {"type": "string", "maxLength": 255},
        "description": {"type": "string"},
        "required": {"$ref": "#/definitions/stringArray"},
        "properties": {"$ref": "#/definitions/property"},
        "schema": {"type": "string", "readOnly": true},
        "self": {"type": "string", "readOnly": true},
    }))
}

fn namespace() -> Value {
    let members = object!({
        "namespace": {"type": "string", "maxLength": 80, "description": "The unique namespace text."},
        "display_name": {"type": "string", "maxLength": 80, "description": "The user friendly name for the namespace."},
        "description": {"type": "string", "maxLength": 500, "description": "A user friendly description of the namespace."},
        "visibility": {"type": "string", "enum": ["public", "private"], "description": "Scope of namespace accessibility."},
        "protected": {"type": "boolean", "description": "If true, namespace will not be deletable."},
        "owner": {"type": "string", "maxLength": 255, "description": "Owner of the namespace."},
        "schema": {"type": "string", "readOnly": true},
        "self": {"type": "string", "readOnly": true},
        "resource_type_associations": {"type": "array", "items": {"type": "object", "properties": association_members(), "required": ["name"]}},
        "properties": {"$ref": "#/definitions/property"},
        "objects": {"type": "array", "items": {"type": "object", "properties": object_members(), "required": ["name"]}},
        "tags": {"type": "array", "items": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 80}}, "required": ["name"]}},
    });
    schema("namespace", with_times(members), &["namespace"])
}

fn object_schema() -> Value {
    schema("object", object_members(), &["name"])
}

fn property() -> Value {
    let types = object!(["array", "boolean", "integer", "number", "object", "string", null]);
    schema("property", property_members(&types), &["name", "title", "type"])
}

fn tag() -> Value {
    schema(
        "tag",
        with_times(object!({"name": {"type": "string", "maxLength": 80}})),
        &["name"],
    )
}

fn tag_list() -> Value {
    let one = object!({"type": "object", "properties": {"name": {"type": "string", "maxLength": 80}}, "required": ["name"], "additionalProperties": false});
    schema("tags", object!({"tags": {"type": "array", "items": one}}), &["tags"])
}

fn resource_type() -> Value {
    schema(
        "resource_type_association",
        with_times(association_members()),
        &["name"],
    )
}

fn collection(name: &str, item: Value) -> Value {
    let links = object!([
        {"rel": "first", "href": "{first}"}, {"rel": "next", "href": "{next}"}, {"rel": "describedby", "href": "{schema}"},
    ]);
    let text = object!({"type": "string"});
    object!({
        "name": name,
        "properties": {name: {"type": "array", "items": item}, "first": text, "next": text, "schema": text},
        "links": links,
    })
}

pub(crate) async fn show(Path(name): Path<String>) -> Result<Response, Failure> {
    let schema = match name.as_str() {
        "namespace" => namespace(),
        "namespaces" => collection("namespaces", namespace()),
        "object" => object_schema(),
        "objects" => collection("objects", object_schema()),
        "property" => property(),
        "properties" => object!({
            "name": "properties",
            "properties": {"properties": {"type": "object", "additionalProperties": property()}},
        }),
        "tag" => tag(),
        "tags" => collection("tags", tag()),
        "resource_type" => resource_type(),
        "resource_types" => collection("resource_type_associations", resource_type()),
        _ => return Err(Failure::not_found("The resource could not be found.")),
    };
    Ok(json(StatusCode::OK, &schema))
}

/// Checks a body in Glance's words, and refuses what only the service writes.
pub(super) fn check(schema: &Schema, name: &str, body: &Value) -> Result<(), Failure> {
    for read_only in ["self", "schema", "created_at", "updated_at"] {
        if body.get(read_only).is_some() {
            return Err(Failure::forbidden(format!("Attribute '{read_only}' is read-only.")).at(read_only));
        }
    }
    schema.check(body).map_err(|mut failure| {
        failure.message = format!("Provided object does not match schema '{name}': {}", failure.message);
        failure
    })
}
