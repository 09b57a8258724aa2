//! Bodies and queries checked against JSON schemas, refused in the originals' words.
//!
//! The originals check with Python's `jsonschema`; what it says is part of their API, down to Python's way of writing
//! values. So the checking is left to a crate and the wording is done here.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use jsonschema::{Draft, JsonType, ValidationError, Validator, error::TypeKind, error::ValidationErrorKind as Is};

use crate::{Failure, Query, body::misfit};

/// How a refusal is worded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `Invalid input for field/attribute name. Value: x. 'x' is too long` (Nova, Cinder).
    Nova,
    /// `Invalid input for field 'user/name': 'x' is too long` (Keystone).
    Keystone,
    /// `JSON does not validate: 'x' is too long` (Placement).
    Placement,
    /// `Invalid JSON: …` without more, for faces whose originals have no schema.
    Plain,
}

/// What Nova calls a query in its refusals.
const QUERY: &str = "query parameters";

/// Says whether a text has a format.
pub type Format = fn(&str) -> bool;

/// A compiled schema; one per body, kept in a `LazyLock`.
///
/// ```
/// use std::sync::LazyLock;
/// use madang_http::{Form, Schema};
/// use serde_json::json;
///
/// static CREATE: LazyLock<Schema> = LazyLock::new(|| Schema::new(Form::Nova, json!({
///     "type": "object",
///     "properties": { "name": { "type": "string", "maxLength": 3 } },
///     "required": ["name"],
/// })));
/// let failure = CREATE.check(&json!({ "name": "abcd" })).unwrap_err();
/// assert_eq!(failure.message, "Invalid input for field/attribute name. Value: abcd. 'abcd' is too long");
/// ```
pub struct Schema {
    form: Form,
    validator: Validator,
    source: Value,
}

impl Schema {
    /// Compiles a draft 4 schema, the one the originals use, with its formats checked.
    ///
    /// # Panics
    /// When `schema` is not a schema, which is a mistake in our source.
    pub fn new(form: Form, schema: Value) -> Self {
        Self::with_formats(form, schema, &[])
    }

    /// As [`Schema::new`], with formats of one's own: a name and what accepts a text.
    ///
    /// # Panics
    /// When `schema` is not a schema, which is a mistake in our source.
    pub fn with_formats(form: Form, schema: Value, formats: &[(&'static str, Format)]) -> Self {
        let mut options = jsonschema::options()
            .with_draft(Draft::Draft4)
            .should_validate_formats(true)
            .with_format("uuid", |text: &str| uuid::Uuid::try_parse(text).is_ok());
        for (name, accepts) in formats.iter().copied() {
            options = options.with_format(name, accepts);
        }
        match options.build(&schema) {
            Ok(validator) => Self {
                form,
                validator,
                source: schema,
            },
            Err(error) => panic!("a schema in the source is not one: {error}"),
        }
    }

    /// Checks a body.
    ///
    /// # Errors
    /// 400 with the original's words for the first thing that is wrong.
    pub fn check(&self, value: &Value) -> Result<(), Failure> {
        self.validator
            .validate(value)
            .map_err(|error| self.refuse(&error, "field/attribute"))
    }

    /// Checks a query, as an object from each parameter to the list of its values.
    ///
    /// # Errors
    /// 400 with the original's words for the first thing that is wrong.
    pub fn check_query(&self, query: &Query) -> Result<(), Failure> {
        let mut members = Map::new();
        for (name, value) in query.iter() {
            let values = members.entry(name).or_insert_with(|| Value::Array(Vec::new()));
            if let Value::Array(values) = values {
                values.push(value.into());
            }
        }
        self.validator
            .validate(&Value::Object(members))
            .map_err(|error| self.refuse(&error, QUERY))
    }

    /// Checks a body and turns it into a type.
    ///
    /// # Errors
    /// As [`Schema::check`], also for what the type does not take although the schema does.
    pub fn parse<T: DeserializeOwned>(&self, value: Value) -> Result<T, Failure> {
        self.check(&value)?;
        serde_path_to_error::deserialize(value).map_err(|error| misfit(&error))
    }

    fn refuse(&self, error: &ValidationError<'_>, what: &str) -> Failure {
        let why = self.wording(error);
        let mut path: Vec<String> = error
            .instance_path()
            .as_str()
            .split('/')
            .skip(1)
            .map(unescape)
            .collect();
        if what == QUERY {
            // A parameter is a list of values: its name is what the client knows, not the place in the list.
            path.truncate(1);
        }
        let message = match (self.form, path.last()) {
            (Form::Nova, Some(last)) => {
                format!(
                    "Invalid input for {what} {last}. Value: {}. {why}",
                    python_str(error.instance())
                )
            }
            (Form::Keystone, Some(_)) => format!("Invalid input for field '{}': {why}", path.join("/")),
            (Form::Placement, _) => format!("JSON does not validate: {why}{}", self.details(error)),
            (_, None) => why,
            (Form::Plain, Some(_)) => format!("{}: {why}", path.join("/")),
        };
        let failure = Failure::invalid(message).because("SchemaValidationError");
        if path.is_empty() {
            failure
        } else {
            failure.at(path.join("."))
        }
    }

    /// What Python's `jsonschema` adds when an error is shown in full: the part of the schema and the value.
    fn details(&self, error: &ValidationError<'_>) -> String {
        let steps = |path: &str| -> String {
            let step = |step: &str| match step.parse::<usize>() {
                Ok(number) => format!("[{number}]"),
                Err(_) => format!("[{}]", quoted(&unescape(step))),
            };
            path.split('/').skip(1).map(step).collect()
        };
        let path = error.schema_path().as_str();
        let (above, keyword) = path.rsplit_once('/').unwrap_or(("", path));
        let part = self.source.pointer(above).unwrap_or(&self.source);
        format!(
            "\n\nFailed validating {} in schema{}:\n    {}\n\nOn instance{}:\n    {}",
            quoted(keyword),
            steps(above),
            python_repr(part),
            steps(error.instance_path().as_str()),
            python_repr(error.instance())
        )
    }

    /// What Python's `jsonschema` says.
    fn wording(&self, error: &ValidationError<'_>) -> String {
        let value = error.instance();
        let it = python_repr(value);
        match error.kind() {
            Is::Type { kind } => format!("{it} is not of type {}", self.types(error, kind)),
            Is::Required { property } => format!("{} is a required property", python_repr(property)),
            Is::AdditionalProperties { unexpected } => {
                let names: Vec<String> = unexpected
                    .iter()
                    .map(|name| python_repr(&Value::from(name.as_str())))
                    .collect();
                let (verb, does) = if names.len() == 1 {
                    ("was", "does")
                } else {
                    ("were", "do")
                };
                if let Some(patterns) = self.patterns(error) {
                    return format!("{} {does} not match any of the regexes: {patterns}", names.join(", "));
                }
                format!(
                    "Additional properties are not allowed ({} {verb} unexpected)",
                    names.join(", ")
                )
            }
            Is::AdditionalItems { .. } => "Additional items are not allowed".to_owned(),
            Is::MinLength { .. } | Is::MinItems { .. } => format!("{it} is too short"),
            Is::MaxLength { .. } | Is::MaxItems { .. } => format!("{it} is too long"),
            Is::Pattern { pattern } => format!("{it} does not match {}", python_repr(&Value::from(pattern.as_str()))),
            Is::Enum { options } => format!("{it} is not one of {}", python_repr(options)),
            Is::Constant { expected_value } => format!("{} was expected", python_repr(expected_value)),
            Is::Minimum { limit } => format!("{it} is less than the minimum of {limit}"),
            Is::Maximum { limit } => format!("{it} is greater than the maximum of {limit}"),
            Is::ExclusiveMinimum { limit } => format!("{it} is less than or equal to the minimum of {limit}"),
            Is::ExclusiveMaximum { limit } => format!("{it} is greater than or equal to the maximum of {limit}"),
            Is::MultipleOf { multiple_of } => format!("{it} is not a multiple of {multiple_of}"),
            Is::Format { format } => format!("{it} is not a {}", python_repr(&Value::from(format.as_str()))),
            Is::UniqueItems => format!("{it} has non-unique elements"),
            Is::MinProperties { .. } => format!("{it} does not have enough properties"),
            Is::MaxProperties { .. } => format!("{it} has too many properties"),
            Is::AnyOf { .. } | Is::OneOfNotValid { .. } => format!("{it} is not valid under any of the given schemas"),
            Is::OneOfMultipleValid { .. } => format!("{it} is valid under more than one of the given schemas"),
            Is::Not { schema } => format!("{it} should not be valid under {}", python_repr(schema)),
            _ => error.to_string(),
        }
    }

    /// The patterns that names of properties may have beside those that are listed, where there are any.
    fn patterns(&self, error: &ValidationError<'_>) -> Option<String> {
        let (above, _) = error.schema_path().as_str().rsplit_once('/')?;
        let patterns = self.source.pointer(above)?.get("patternProperties")?.as_object()?;
        let mut quoted: Vec<String> = patterns
            .keys()
            .map(|pattern| python_repr(&Value::from(pattern.as_str())))
            .collect();
        quoted.sort();
        (!quoted.is_empty()).then(|| quoted.join(", "))
    }

    /// The types in the schema's own order, which the compiled one has lost.
    fn types(&self, error: &ValidationError<'_>, kind: &TypeKind) -> String {
        if let Some(Value::Array(names)) = self.source.pointer(error.schema_path().as_str()) {
            return names.iter().map(python_repr).collect::<Vec<_>>().join(", ");
        }
        let quoted = |one: JsonType| format!("'{one}'");
        match kind {
            TypeKind::Single(one) => quoted(*one),
            TypeKind::Multiple(several) => several.iter().map(quoted).collect::<Vec<_>>().join(", "),
        }
    }
}

fn unescape(part: &str) -> String {
    part.replace("~1", "/").replace("~0", "~")
}

/// A value as Python's `str` writes it.
fn python_str(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => python_repr(other),
    }
}

/// A value as Python's `repr` writes it: `None`, `True`, `'text'`, `{'a': [1]}`.
pub fn python_repr(value: &Value) -> String {
    match value {
        Value::Null => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => quoted(text),
        Value::Array(items) => format!("[{}]", items.iter().map(python_repr).collect::<Vec<_>>().join(", ")),
        Value::Object(members) => {
            let members: Vec<String> = members
                .iter()
                .map(|(k, v)| format!("{}: {}", quoted(k), python_repr(v)))
                .collect();
            format!("{{{}}}", members.join(", "))
        }
    }
}

fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    let mut out = String::with_capacity(text.len() + 2);
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            c if c.is_control() && u32::from(c) < 0x100 => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push(quote);
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema(form: Form) -> Schema {
        let body = json!({
            "type": "object",
            "properties": {
                "server": {
                    "type": "object",
                    "properties": {
                        "name": { "type": ["string", "null"], "minLength": 1, "maxLength": 5, "pattern": "^[a-z]*$" },
                        "count": { "type": "integer", "minimum": 1 },
                        "id": { "type": "string", "format": "uuid" },
                        "mode": { "enum": ["a", "b", null] },
                        "tags": { "type": "array", "uniqueItems": true, "maxItems": 2 },
                    },
                    "required": ["name"],
                    "additionalProperties": false,
                },
            },
            "required": ["server"],
        });
        Schema::new(form, body)
    }

    #[test]
    fn novas_words() {
        let wrong = |server: Value| {
            schema(Form::Nova)
                .check(&json!({ "server": server }))
                .unwrap_err()
                .message
        };
        let table = [
            (
                json!({ "name": 5 }),
                "name. Value: 5. 5 is not of type 'string', 'null'",
            ),
            (json!({ "name": "" }), "name. Value: . '' is too short"),
            (json!({ "name": "abcdef" }), "name. Value: abcdef. 'abcdef' is too long"),
            (
                json!({ "name": "A'" }),
                r#"name. Value: A'. "A'" does not match '^[a-z]*$'"#,
            ),
            (
                json!({ "name": "a", "count": 0 }),
                "count. Value: 0. 0 is less than the minimum of 1",
            ),
            (json!({ "name": "a", "id": "x" }), "id. Value: x. 'x' is not a 'uuid'"),
            (
                json!({ "name": "a", "mode": true }),
                "mode. Value: True. True is not one of ['a', 'b', None]",
            ),
            (
                json!({ "name": "a", "tags": [1, 1] }),
                "tags. Value: [1, 1]. [1, 1] has non-unique elements",
            ),
            (json!({}), "server. Value: {}. 'name' is a required property"),
            (
                json!({ "name": "a", "foo": 1 }),
                "server. Value: {'name': 'a', 'foo': 1}. Additional properties are not allowed ('foo' was unexpected)",
            ),
        ];
        for (body, words) in table {
            assert_eq!(wrong(body), format!("Invalid input for field/attribute {words}"));
        }
        assert_eq!(
            schema(Form::Nova).check(&json!({})).unwrap_err().message,
            "'server' is a required property"
        );
    }

    #[test]
    fn keystones_words_have_the_whole_path() {
        let failure = schema(Form::Keystone)
            .check(&json!({ "server": { "name": "abcdef" } }))
            .unwrap_err();
        assert_eq!(
            failure.message,
            "Invalid input for field 'server/name': 'abcdef' is too long"
        );
        assert_eq!(failure.field.as_deref(), Some("server.name"));
    }

    #[test]
    fn queries_are_lists_of_texts() {
        let schema = Schema::new(
            Form::Nova,
            json!({ "type": "object", "properties": { "limit": { "type": "array", "items": { "pattern": "^[0-9]+$" } } } }),
        );
        assert!(schema.check_query(&Query::parse("limit=1&limit=2")).is_ok());
        let failure = schema.check_query(&Query::parse("limit=x")).unwrap_err();
        assert_eq!(
            failure.message,
            "Invalid input for query parameters limit. Value: x. 'x' does not match '^[0-9]+$'"
        );
    }
}
