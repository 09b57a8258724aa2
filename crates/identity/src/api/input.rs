//! The members of a request's resource, taken out one by one; what is left is what clients keep beside.

use madang_http::{Failure, Schema};
use serde_json::{Map, Value, json};

use super::collection::Schemas;

/// A resource as a client sent it, after its schema was checked.
#[derive(Clone, Debug)]
pub(crate) struct Input(Map<String, Value>);

impl Input {
    /// Checks a body such as `{"project": {…}}` and takes the resource out of it.
    pub(crate) fn read(schema: &Schema, mut body: Value, name: &str) -> Result<Self, Failure> {
        schema.check(&body)?;
        match body.get_mut(name).map(Value::take) {
            Some(Value::Object(members)) => Ok(Self(members)),
            _ => Err(Failure::invalid(format!("'{name}' is a required property")).at(name)),
        }
    }

    /// A text; `null` is as good as nothing.
    pub(crate) fn text(&mut self, name: &str) -> Option<String> {
        self.nullable(name).flatten()
    }

    /// A text that may be taken off with `null`.
    pub(crate) fn nullable(&mut self, name: &str) -> Option<Option<String>> {
        match self.0.shift_remove(name)? {
            Value::String(text) => Some(Some(text)),
            _ => Some(None),
        }
    }

    /// A flag.
    pub(crate) fn flag(&mut self, name: &str) -> Option<bool> {
        self.0.shift_remove(name)?.as_bool()
    }

    /// An object; nothing is an empty one.
    pub(crate) fn object(&mut self, name: &str) -> Map<String, Value> {
        match self.0.shift_remove(name) {
            Some(Value::Object(members)) => members,
            _ => Map::new(),
        }
    }

    /// A list of texts.
    pub(crate) fn texts(&mut self, name: &str) -> Option<Vec<String>> {
        let Value::Array(items) = self.0.shift_remove(name)? else {
            return None;
        };
        Some(
            items
                .into_iter()
                .filter_map(|item| item.as_str().map(str::to_owned))
                .collect(),
        )
    }

    /// Any member.
    pub(crate) fn take(&mut self, name: &str) -> Option<Value> {
        self.0.shift_remove(name)
    }

    /// Sets a text that the client sent.
    pub(crate) fn set(&mut self, name: &str, text: &mut String) {
        if let Some(new) = self.text(name) {
            *text = new;
        }
    }

    /// Sets, or with `null` takes off, a text that the client sent.
    pub(crate) fn set_nullable(&mut self, name: &str, text: &mut Option<String>) {
        if let Some(new) = self.nullable(name) {
            *text = new;
        }
    }

    /// Sets a flag that the client sent.
    pub(crate) fn set_flag(&mut self, name: &str, flag: &mut bool) {
        if let Some(new) = self.flag(name) {
            *flag = new;
        }
    }

    /// Takes out what can never change; it may be sent as it is.
    pub(crate) fn keep(&mut self, name: &str, is: &str) -> Result<(), Failure> {
        if self.has(name) && self.text(name).unwrap_or_default() != is {
            return Err(Failure::invalid(format!("Update of `{name}` is not allowed.")).at(name));
        }
        Ok(())
    }

    /// As [`Input::keep`], for the domain of users and groups.
    pub(crate) fn keep_domain(&mut self, is: &str) -> Result<(), Failure> {
        match self.text("domain_id") {
            Some(domain_id) if domain_id != is => Err(Failure::invalid("Cannot change Domain ID").at("domain_id")),
            _ => Ok(()),
        }
    }

    /// Whether it takes the option `immutable` off.
    pub(crate) fn unlocks(&self) -> bool {
        let immutable = self.0.get("options").and_then(|options| options.get("immutable"));
        immutable.is_some_and(|immutable| *immutable != Value::Bool(true))
    }

    /// Whether a member is there.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// What is left. Not what only the server says.
    pub(crate) fn rest(mut self) -> Map<String, Value> {
        self.0.retain(|name, _| !matches!(name.as_str(), "id" | "links"));
        self.0
    }
}

/// The schema of `{name: {…}}`, whose resource has `properties` and must have `required`.
pub(crate) fn resource_schema(name: &str, properties: Value, required: &[&str]) -> Schema {
    let mut resource = json!({ "type": "object", "properties": properties, "additionalProperties": true });
    // Draft 4 wants at least one.
    if !required.is_empty() {
        resource["required"] = json!(required);
    }
    let body = json!({ "type": "object", "properties": { name: resource }, "required": [name] });
    Schema::new(madang_http::Form::Keystone, body)
}

/// The schemas of a collection: the same properties, of which only what creates must have `required`.
pub(crate) fn schemas(name: &str, properties: Value, required: &[&str]) -> Schemas {
    Schemas {
        create: resource_schema(name, properties.clone(), required),
        update: resource_schema(name, properties, &[]),
    }
}

/// A name of at most `max` characters, one of which shows.
pub(crate) fn name_schema(max: u32) -> Value {
    json!({ "type": "string", "minLength": 1, "maxLength": max, "pattern": "[\\S]+" })
}

/// An id, or nothing.
pub(crate) fn id_schema() -> Value {
    json!({ "type": ["string", "null"], "pattern": "^[a-zA-Z0-9-]+$", "maxLength": 64 })
}

/// The option `immutable`.
pub(crate) fn immutable_schema() -> Value {
    json!({
        "type": "object",
        "properties": { "immutable": { "type": ["boolean", "null"] } },
        "additionalProperties": false,
    })
}
