//! Changes to an image as Glance's dialect of JSON patch, and setting one attribute from its JSON value.

use http::{HeaderMap, StatusCode, header};
use madang_http::Failure;
use madang_store::Resource;
use serde_json::{Map, Value};

use super::{
    super::{Image, ImageSpec, ImageState},
    image::{read_only, reserved},
    schema::{self, BASE, READ_ONLY, RESERVED},
};

/// The media types of a patch; in the older one the operation's name is the key of the path.
const NEW: &str = "application/openstack-images-v2.1-json-patch";
const OLD: &str = "application/openstack-images-v2.0-json-patch";

/// The most operations in one patch; more than there are attributes, tags and properties.
const MAX_CHANGES: usize = 1000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Add,
    Replace,
    Remove,
}

/// One operation.
#[derive(Debug, PartialEq)]
pub(super) struct Change {
    operation: Operation,
    attribute: String,
    value: Value,
}

/// Reads a patch.
///
/// # Errors
/// 415 for another media type; 400 for what is not a patch; 403 for attributes that are not the client's to set.
pub(super) fn parse(headers: &HeaderMap, body: &[u8]) -> Result<Vec<Change>, Failure> {
    let media_type = headers
        .get(header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default();
    let media_type = media_type.split(';').next().unwrap_or_default().trim();
    if !matches!(media_type, NEW | OLD) {
        let message = format!("The request body must be {NEW} or {OLD}, not {media_type}");
        return Err(Failure::invalid(message).with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE));
    }
    let body: Value = serde_json::from_slice(body)
        .map_err(|error| Failure::invalid(format!("Malformed JSON in request body: {error}")))?;
    let Value::Array(operations) = body else {
        return Err(Failure::invalid(
            "Request body must be a JSON array of operation objects.",
        ));
    };
    if operations.len() > MAX_CHANGES {
        return Err(Failure::invalid(format!(
            "there are more than {MAX_CHANGES} operations"
        )));
    }
    operations
        .into_iter()
        .map(|operation| read(operation, media_type == OLD))
        .collect()
}

fn read(operation: Value, is_old: bool) -> Result<Change, Failure> {
    let Value::Object(mut members) = operation else {
        return Err(Failure::invalid("Operations must be JSON objects."));
    };
    let (word, path) = if is_old {
        old_form(&members)?
    } else {
        new_form(&members)?
    };
    let operation = match word.as_str() {
        "add" => Operation::Add,
        "replace" => Operation::Replace,
        "remove" => Operation::Remove,
        _ => {
            return Err(Failure::invalid(format!(
                "Operation objects must contain one of 'add', 'replace' or 'remove', not '{word}'."
            )));
        }
    };
    let attribute = attribute(&path)?;
    let value = match (operation, members.shift_remove("value")) {
        (Operation::Remove, _) => Value::Null,
        (_, Some(value)) => value,
        (_, None) => {
            return Err(Failure::invalid(format!(
                "Operation \"{word}\" requires a member named \"value\"."
            )));
        }
    };
    if READ_ONLY.contains(&attribute.as_str()) || attribute == "id" {
        return Err(read_only(&attribute));
    }
    if RESERVED.contains(&attribute.as_str()) || attribute.starts_with("os_glance") {
        return Err(reserved(&attribute));
    }
    if operation != Operation::Remove {
        let mut partial = Map::new();
        partial.insert(attribute.clone(), value.clone());
        schema::check(&Value::Object(partial))?;
    }
    Ok(Change {
        operation,
        attribute,
        value,
    })
}

fn new_form(members: &Map<String, Value>) -> Result<(String, String), Failure> {
    let text = |name: &str| {
        let text = members.get(name).and_then(Value::as_str);
        text.map(str::to_owned)
            .ok_or_else(|| Failure::invalid(format!("Unable to find '{name}' in JSON Schema change")))
    };
    Ok((text("op")?, text("path")?))
}

fn old_form(members: &Map<String, Value>) -> Result<(String, String), Failure> {
    let found = members.iter().find(|(name, _)| name.as_str() != "value");
    match found {
        Some((word, Value::String(path))) => Ok((word.clone(), path.clone())),
        _ => Err(Failure::invalid(
            "Operation objects must contain exactly one member that names the operation.",
        )),
    }
}

/// The attribute that a JSON pointer names; images have no deeper parts that could be changed.
fn attribute(path: &str) -> Result<String, Failure> {
    let bad = |why: &str| Failure::invalid(format!("Pointer `{path}` {why}."));
    let rest = path.strip_prefix('/').ok_or_else(|| bad("does not start with \"/\""))?;
    if rest.is_empty() || rest.contains('/') {
        return Err(Failure::invalid(format!(
            "Invalid JSON pointer for this resource: '{path}'"
        )));
    }
    let mut escapes = rest.split('~').skip(1);
    if !escapes.all(|escaped| escaped.starts_with(['0', '1'])) {
        return Err(bad("contains \"~\" not part of a recognized escape sequence"));
    }
    Ok(rest.replace("~1", "/").replace("~0", "~"))
}

/// Applies the changes in order.
///
/// # Errors
/// Conflict for a property that should be there and is not, or the other way round; forbidden for formats of an image
/// that has its bytes.
pub(super) fn apply(image: &mut Resource<Image>, changes: &[Change]) -> Result<(), Failure> {
    let state = image.status.state;
    for Change {
        operation,
        attribute,
        value,
    } in changes
    {
        let is_base = BASE.contains_key(attribute);
        let is_there = is_base || image.spec.properties.contains_key(attribute);
        match operation {
            Operation::Replace | Operation::Remove if !is_there => {
                return Err(Failure::conflict(format!("Property {attribute} does not exist.")).at(attribute.as_str()));
            }
            Operation::Remove if is_base => {
                return Err(
                    Failure::forbidden(format!("Property {attribute} may not be removed.")).at(attribute.as_str())
                );
            }
            Operation::Remove => {
                image.spec.properties.remove(attribute);
            }
            Operation::Add if is_there && !is_base => {
                return Err(Failure::conflict(format!("Property {attribute} already present.")).at(attribute.as_str()));
            }
            // Changing hands is a verb of its own, see `owner`.
            Operation::Add | Operation::Replace if attribute == "owner" => {}
            Operation::Add | Operation::Replace => {
                if matches!(attribute.as_str(), "disk_format" | "container_format") && state != ImageState::Queued {
                    return Err(Failure::forbidden(format!(
                        "Attribute {attribute} can be only replaced for a queued image."
                    ))
                    .at(attribute.as_str()));
                }
                set(&mut image.spec, attribute, value)?;
            }
        }
    }
    Ok(())
}

/// The project that the image is to be given to, when the patch says so.
pub(super) fn owner(changes: &[Change]) -> Option<&str> {
    let change = changes.iter().rev().find(|change| change.attribute == "owner");
    change.and_then(|change| change.value.as_str())
}

/// Sets one attribute or property from a value that has passed the schema.
pub(crate) fn set(spec: &mut ImageSpec, name: &str, value: &Value) -> Result<(), Failure> {
    let misfit = || {
        Failure::invalid(format!(
            "Provided object does not match schema 'image': {value} is no {name}"
        ))
    };
    let word = || value.as_str().map(str::to_owned);
    let count = || value.as_u64().and_then(|n| u32::try_from(n).ok()).ok_or_else(misfit);
    match name {
        "name" => spec.name = word(),
        "visibility" => spec.visibility = word().and_then(|w| w.parse().ok()).ok_or_else(misfit)?,
        "container_format" => {
            spec.container_format = word().map(|w| w.parse()).transpose().map_err(|_| misfit())?;
        }
        "disk_format" => spec.disk_format = word().map(|w| w.parse()).transpose().map_err(|_| misfit())?,
        "min_disk" => spec.min_disk = count()?,
        "min_ram" => spec.min_ram = count()?,
        "protected" => spec.is_protected = value.as_bool().ok_or_else(misfit)?,
        "os_hidden" => spec.is_hidden = value.as_bool().ok_or_else(misfit)?,
        "tags" => {
            let tags = value.as_array().ok_or_else(misfit)?;
            spec.tags = tags.iter().filter_map(Value::as_str).map(str::to_owned).collect();
        }
        _ if name.chars().count() > 255 => {
            return Err(Failure::invalid(format!(
                "the property name {name} is longer than 255 characters"
            )));
        }
        _ => {
            spec.properties.insert(name.to_owned(), word().ok_or_else(misfit)?);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use madang_store::Metadata;
    use serde_json::json;

    use super::*;

    fn parsed(media_type: &'static str, body: Value) -> Result<Vec<Change>, Failure> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, http::HeaderValue::from_static(media_type));
        parse(&headers, body.to_string().as_bytes())
    }

    fn patched(body: Value) -> Result<Resource<Image>, Failure> {
        let mut image = Resource::<Image>::new(Metadata::with_id("p"), ImageSpec::default());
        image.spec.properties.insert("there".into(), "1".into());
        image.status.state = ImageState::Active;
        apply(&mut image, &parsed(NEW, body)?)?;
        Ok(image)
    }

    #[test]
    fn both_dialects_say_the_same() {
        let new = parsed(
            NEW,
            json!([{"op": "replace", "path": "/name", "value": "a"}, {"op": "remove", "path": "/x~1y"}]),
        );
        let old = parsed(OLD, json!([{"replace": "/name", "value": "a"}, {"remove": "/x~1y"}]));
        assert_eq!(new.unwrap(), old.unwrap());
    }

    #[test]
    fn changes_are_applied_in_order() {
        let image = patched(json!([
            {"op": "replace", "path": "/name", "value": "n"},
            {"op": "add", "path": "/new", "value": "2"},
            {"op": "replace", "path": "/new", "value": "3"},
            {"op": "remove", "path": "/there"},
            {"op": "replace", "path": "/tags", "value": ["b", "a", "b"]},
            {"op": "replace", "path": "/min_disk", "value": 7},
        ]))
        .unwrap();
        assert_eq!(image.spec.name.as_deref(), Some("n"));
        assert_eq!(
            image.spec.properties.into_iter().collect::<Vec<_>>(),
            [("new".into(), "3".into())]
        );
        assert_eq!(image.spec.tags.into_iter().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(image.spec.min_disk, 7);
    }

    #[test]
    fn what_is_wrong_is_refused_with_glances_codes() {
        use madang_store::ErrorKind::{Conflict, Forbidden, Invalid};
        for (change, kind) in [
            (json!({"op": "replace", "path": "/absent", "value": "1"}), Conflict),
            (json!({"op": "remove", "path": "/absent"}), Conflict),
            (json!({"op": "add", "path": "/there", "value": "1"}), Conflict),
            (json!({"op": "remove", "path": "/name"}), Forbidden),
            (
                json!({"op": "replace", "path": "/status", "value": "active"}),
                Forbidden,
            ),
            (json!({"op": "replace", "path": "/id", "value": "1"}), Forbidden),
            (json!({"op": "add", "path": "/deleted", "value": "1"}), Forbidden),
            (
                json!({"op": "replace", "path": "/disk_format", "value": "raw"}),
                Forbidden,
            ),
            (
                json!({"op": "replace", "path": "/disk_format", "value": "nope"}),
                Invalid,
            ),
            (json!({"op": "replace", "path": "/min_disk", "value": -1}), Invalid),
            (json!({"op": "replace", "path": "/min_disk", "value": "1"}), Invalid),
            (
                json!({"op": "replace", "path": "/visibility", "value": "secret"}),
                Invalid,
            ),
            (json!({"op": "add", "path": "/x", "value": {"deep": 1}}), Invalid),
            (json!({"op": "move", "path": "/x", "value": "1"}), Invalid),
            (json!({"op": "add", "path": "x", "value": "1"}), Invalid),
            (json!({"op": "add", "path": "/x/y", "value": "1"}), Invalid),
            (json!({"op": "add", "path": "/x~2", "value": "1"}), Invalid),
            (json!({"op": "add", "path": "/x"}), Invalid),
            (json!("x"), Invalid),
        ] {
            let failure = patched(json!([change]))
                .err()
                .unwrap_or_else(|| panic!("{change} was taken"));
            assert_eq!(failure.kind, kind, "{change}: {failure}");
        }
        assert_eq!(
            parsed("application/json", json!([])).unwrap_err().status(),
            Some(StatusCode::UNSUPPORTED_MEDIA_TYPE)
        );
    }
}
