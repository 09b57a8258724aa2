//! Glance's JSON schemas: clients read them to know which attributes there are, and bodies are checked with them.

use std::sync::LazyLock;

use axum::{extract::Path, response::Response};
use http::StatusCode;
use madang_http::{Failure, Form, Schema, json};
use serde_json::{Map, Value, json as object};

use super::super::{ContainerFormat, DiskFormat, ImageState, MemberStatus, Visibility};

/// What a UUID looks like.
const UUID: &str = "^([0-9a-fA-F]){8}-([0-9a-fA-F]){4}-([0-9a-fA-F]){4}-([0-9a-fA-F]){4}-([0-9a-fA-F]){12}$";

/// The properties that only the service writes.
pub(super) const READ_ONLY: &[&str] = &[
    "created_at",
    "updated_at",
    "status",
    "checksum",
    "size",
    "virtual_size",
    "direct_url",
    "self",
    "file",
    "schema",
    "os_hash_algo",
    "os_hash_value",
    "stores",
];

/// The properties that no client may set, because they mean or once meant something else.
pub(super) const RESERVED: &[&str] = &["location", "locations", "deleted", "deleted_at", "owner_is_tenant"];

/// Those of an image that are not the user's own.
pub(super) static BASE: LazyLock<Map<String, Value>> = LazyLock::new(|| match base() {
    Value::Object(members) => members,
    _ => unreachable!("an object is written below"),
});

static IMAGE: LazyLock<Schema> = LazyLock::new(|| Schema::new(Form::Plain, image()));

fn base() -> Value {
    let text = |description: &str, longest: u32| object!({"type": ["null", "string"], "description": description, "maxLength": longest});
    let read_only = |description: &str| object!({"type": "string", "readOnly": true, "description": description});
    let words = |description: &str, words: &[&str]| {
        let words: Vec<Value> = std::iter::once(Value::Null)
            .chain(words.iter().map(|word| (*word).into()))
            .collect();
        object!({"type": ["null", "string"], "description": description, "enum": words})
    };
    let count =
        |description: &str| object!({"type": "integer", "description": description, "minimum": 0, "maximum": i32::MAX});
    object!({
        "id": {"type": "string", "description": "An identifier for the image", "pattern": UUID},
        "name": text("Descriptive name for the image", 255),
        "status": {"type": "string", "readOnly": true, "description": "Status of the image", "enum": ImageState::ALL},
        "visibility": {"type": "string", "description": "Scope of image accessibility", "enum": Visibility::ALL},
        "protected": {"type": "boolean", "description": "If true, image will not be deletable."},
        "os_hidden": {"type": "boolean", "description": "If true, image will not appear in default image list response."},
        "checksum": {"type": ["null", "string"], "readOnly": true, "maxLength": 32, "description": "md5 hash of image contents."},
        "os_hash_algo": {"type": ["null", "string"], "readOnly": true, "maxLength": 64, "description": "Algorithm to calculate the os_hash_value"},
        "os_hash_value": {"type": ["null", "string"], "readOnly": true, "maxLength": 128, "description": "Hexdigest of the image contents using the algorithm specified by the os_hash_algo"},
        "owner": text("Owner of the image", 255),
        "size": {"type": ["null", "integer"], "readOnly": true, "description": "Size of image file in bytes"},
        "virtual_size": {"type": ["null", "integer"], "readOnly": true, "description": "Virtual size of image in bytes"},
        "container_format": words("Format of the container", ContainerFormat::ALL),
        "disk_format": words("Format of the disk", DiskFormat::ALL),
        "created_at": read_only("Date and time of image registration"),
        "updated_at": read_only("Date and time of the last image modification"),
        "tags": {"type": "array", "description": "List of strings related to the image", "items": {"type": "string", "maxLength": 255}},
        "direct_url": read_only("URL to access the image file kept in external store"),
        "min_ram": count("Amount of ram (in MB) required to boot image."),
        "min_disk": count("Amount of disk space (in GB) required to boot image."),
        "self": read_only("An image self url"),
        "file": read_only("An image file url"),
        "stores": read_only("Store in which image data resides. Only present when the operator has enabled multiple stores. May be a comma-separated list of store identifiers."),
        "schema": read_only("An image schema url"),
    })
}

fn image() -> Value {
    object!({
        "name": "image",
        "properties": Value::Object(BASE.clone()),
        "additionalProperties": {"type": "string"},
        "links": [
            {"rel": "self", "href": "{self}"},
            {"rel": "enclosure", "href": "{file}"},
            {"rel": "describedby", "href": "{schema}"},
        ],
    })
}

fn member() -> Value {
    object!({
        "name": "member",
        "properties": {
            "created_at": {"type": "string", "description": "Date and time of image member creation"},
            "image_id": {"type": "string", "description": "An identifier for the image", "pattern": UUID},
            "member_id": {"type": "string", "description": "An identifier for the image member (tenantId)"},
            "schema": {"readOnly": true, "type": "string"},
            "status": {"type": "string", "description": "The status of this image member", "enum": MemberStatus::ALL},
            "updated_at": {"type": "string", "description": "Date and time of last modification of image member"},
        },
    })
}

/// A list of what `item` describes.
fn collection(name: &str, item: Value) -> Value {
    object!({
        "name": name,
        "properties": {
            name: {"type": "array", "items": item},
            "schema": {"type": "string"},
            "first": {"type": "string"},
            "next": {"type": "string"},
        },
        "links": [
            {"rel": "first", "href": "{first}"},
            {"rel": "next", "href": "{next}"},
            {"rel": "describedby", "href": "{schema}"},
        ],
    })
}

pub(crate) async fn show(Path(name): Path<String>) -> Result<Response, Failure> {
    let schema = match name.as_str() {
        "image" => image(),
        "images" => collection("images", image()),
        "member" => member(),
        "members" => collection("members", member()),
        _ => return Err(Failure::not_found("The resource could not be found.")),
    };
    Ok(json(StatusCode::OK, &schema))
}

/// Checks an image, or a part of one, in Glance's words.
pub(super) fn check(image: &Value) -> Result<(), Failure> {
    IMAGE.check(image).map_err(|failure| {
        // Glance says what is wrong, not where.
        let path = failure.field.as_ref().map_or(0, |path| path.len() + ": ".len());
        let why = failure.message.get(path..).unwrap_or(&failure.message);
        let refused = Failure::invalid(format!("Provided object does not match schema 'image': {why}"));
        match failure.field {
            Some(field) => refused.at(field),
            None => refused,
        }
    })
}
