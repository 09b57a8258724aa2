//! What Nova's schemas share: names, numbers, switches, and the formats that its validator knows.

use base64::Engine as _;
use madang_http::{Failure, Form, Format, Microversion, Query, Schema, parse_bool};
use serde_json::{Value, json};

/// Formats that JSON schema does not have and Nova's validator does.
const FORMATS: &[(&str, Format)] = &[
    ("name", is_name),
    ("az_name", is_zone_name),
    ("base64", is_base64),
    ("date-time", is_time),
    ("regex", is_regex),
];

/// A body's schema, compiled.
pub(crate) fn nova(schema: Value) -> Schema {
    Schema::with_formats(Form::Nova, schema, FORMATS)
}

/// The schema of a body that is one object named `member`, which needs `required` and takes nothing else.
pub(crate) fn wrapped(member: &str, properties: Value, required: &[&str]) -> Value {
    let mut inner = json!({ "type": "object", "properties": properties, "additionalProperties": false });
    if !required.is_empty() {
        inner["required"] = json!(required);
    }
    json!({
        "type": "object",
        "properties": { member: inner },
        "required": [member],
        "additionalProperties": false,
    })
}

/// The schema of a body that is one member.
pub(crate) fn of_one(member: &str, schema: Value) -> Value {
    json!({
        "type": "object",
        "properties": { member: schema },
        "required": [member],
        "additionalProperties": false,
    })
}

/// A name: printable, 1 to 255 characters, no space at its ends.
pub(crate) fn name() -> Value {
    json!({ "type": "string", "format": "name", "minLength": 1, "maxLength": 255 })
}

/// An availability zone's name, which has no colon, or null.
pub(crate) fn zone_or_null() -> Value {
    json!({ "oneOf": [
        { "type": "string", "format": "az_name", "minLength": 1, "maxLength": 255 },
        { "type": "null" },
    ] })
}

/// A host's name.
pub(crate) fn host() -> Value {
    json!({ "type": "string", "pattern": "^[a-zA-Z0-9-._]*$", "minLength": 1, "maxLength": 255 })
}

/// A switch in one of Nova's spellings.
pub(crate) fn boolean() -> Value {
    json!({ "type": ["boolean", "string"], "enum": [
        true, "True", "TRUE", "true", "1", "ON", "On", "on", "YES", "Yes", "yes",
        false, "False", "FALSE", "false", "0", "OFF", "Off", "off", "NO", "No", "no",
    ] })
}

/// A number from `minimum`, also as text.
pub(crate) fn number(minimum: i64) -> Value {
    json!({ "type": ["integer", "string"], "pattern": "^[0-9]*$", "minimum": minimum, "minLength": 1 })
}

/// Items of a user's own; with `has_null` a null removes one.
pub(crate) fn items(has_null: bool) -> Value {
    let types = if has_null {
        json!(["string", "null"])
    } else {
        json!("string")
    };
    json!({
        "type": "object",
        "patternProperties": { "^[a-zA-Z0-9-_:. ]{1,255}$": { "type": types, "maxLength": 255 } },
        "additionalProperties": false,
    })
}

/// Whether a switch of a checked body is on.
pub(crate) fn truth(value: &Value) -> bool {
    value.as_bool().or_else(|| parse_bool(value.as_str()?)).unwrap_or(false)
}

/// Refuses a call that came with microversion `2.minor`.
///
/// # Errors
/// `NotFound` in Nova's words.
pub(crate) fn since(version: Microversion, minor: u16) -> Result<(), Failure> {
    if version >= Microversion(2, minor) {
        Ok(())
    } else {
        Err(unsupported(version))
    }
}

/// Refuses a call that `2.minor` was the last to have.
///
/// # Errors
/// `NotFound` in Nova's words.
pub(crate) fn until(version: Microversion, minor: u16) -> Result<(), Failure> {
    if version <= Microversion(2, minor) {
        Ok(())
    } else {
        Err(unsupported(version))
    }
}

/// Refuses a query with a parameter that is not `known`.
///
/// # Errors
/// `Invalid` in the words of Nova's schemas.
pub(crate) fn refuse_unknown(query: &Query, known: impl Fn(&str) -> bool) -> Result<(), Failure> {
    let Some((name, _)) = query.iter().find(|(name, _)| !known(name)) else {
        return Ok(());
    };
    let message = format!("Additional properties are not allowed ('{name}' was unexpected)");
    Err(Failure::invalid(message).because("SchemaValidationError").at(name))
}

fn unsupported(version: Microversion) -> Failure {
    Failure::not_found(format!("API version '{version}' is not supported on this method."))
}

fn is_printable(text: &str) -> bool {
    !text
        .chars()
        .any(|c| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{200b}'..='\u{200f}' | '\u{feff}'))
}

fn is_name(text: &str) -> bool {
    is_printable(text) && text.trim() == text
}

fn is_zone_name(text: &str) -> bool {
    is_name(text) && !text.contains(':')
}

/// ISO 8601 in the forms that clients send; without a zone it is UTC.
fn is_time(text: &str) -> bool {
    let read = |text: &str| text.parse::<jiff::Timestamp>().is_ok();
    read(text) || read(&format!("{text}Z")) || read(&format!("{text}T00:00:00Z"))
}

fn is_regex(text: &str) -> bool {
    regex::Regex::new(text).is_ok()
}

/// Base64 as Nova takes it: line breaks do not matter.
fn is_base64(data: &str) -> bool {
    let compact: String = data.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    base64::engine::general_purpose::STANDARD.decode(&compact).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_printable_and_tight() {
        for good in ["a", "웹 서버", "x y", ""] {
            assert!(is_name(good), "{good:?}");
        }
        for bad in [" a", "a ", "a\u{7}b", "\t"] {
            assert!(!is_name(bad), "{bad:?}");
        }
        assert!(is_zone_name("az-1") && !is_zone_name("az:1"));
    }

    #[test]
    fn calls_come_and_go_with_microversions() {
        assert!(since(Microversion(2, 26), 26).is_ok() && since(Microversion(2, 25), 26).is_err());
        assert!(until(Microversion(2, 35), 35).is_ok() && until(Microversion(2, 36), 35).is_err());
    }
}
