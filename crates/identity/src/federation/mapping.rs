//! Mappings: rules by which a provider's users become users here. The language is Keystone's, all three versions of it.

pub mod engine;
mod template;
#[cfg(test)]
mod tests;

use std::sync::{Arc, LazyLock};

use axum::Router;
use madang_http::{Failure, Form, RequestInfo, Schema};
use madang_store::{Key, Kind, Resource};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    Caller, Identity,
    api::{
        Links, Listed,
        collection::{self, Collection, Schemas},
        input::Input,
        links,
    },
};
use engine::Version;

/// The version of mappings that name none.
const DEFAULT_VERSION: &str = "1.0";

/// The kind of mappings.
#[derive(Debug)]
pub struct Mapping;

/// What a mapping is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MappingSpec {
    /// The rules, as they were given.
    pub rules: Value,
    /// The version of the language they are in: `1.0`, `2.0`, `3.0`.
    pub schema_version: String,
}

impl Kind for Mapping {
    const NAME: &'static str = "federation-mappings";
    type Spec = MappingSpec;
    type Status = ();
}

impl Mapping {
    /// Where a mapping is stored.
    pub fn key(id: &str) -> Key {
        Key::new(Self::NAME, "", "", id)
    }
}

static SCHEMAS: LazyLock<Schemas> = LazyLock::new(|| {
    let body = json!({ "type": "object", "properties": { "mapping": { "type": "object" } } });
    Schemas {
        create: Schema::new(Form::Keystone, body.clone()),
        update: Schema::new(Form::Keystone, body),
    }
});

static ONE: LazyLock<Schema> = LazyLock::new(|| rules_schema(Version::One));
static TWO: LazyLock<Schema> = LazyLock::new(|| rules_schema(Version::Two));
static THREE: LazyLock<Schema> = LazyLock::new(|| rules_schema(Version::Three));

fn rules_schema(version: Version) -> Schema {
    let text = json!({ "type": "string" });
    let domain = json!({ "type": "object", "properties": { "id": text, "name": text }, "additionalProperties": false });
    let role = json!({
        "type": "object", "properties": { "name": text }, "required": ["name"], "additionalProperties": false,
    });
    let mut project = json!({ "name": text, "roles": { "type": "array", "items": role } });
    if version >= Version::Two {
        project["domain"] = domain.clone();
    }
    let projects = json!({ "type": "array", "items": {
        "type": "object", "properties": project, "required": ["name", "roles"], "additionalProperties": false,
    }});
    let user = json!({
        "type": "object",
        "properties": {
            "id": text, "name": text, "email": text, "domain": domain,
            "type": { "type": "string", "enum": ["ephemeral", "local"] },
        },
        "additionalProperties": false,
    });
    let group = json!({ "type": "object", "oneOf": [
        { "type": "object", "properties": { "id": text }, "required": ["id"], "additionalProperties": false },
        {
            "type": "object", "properties": { "name": text, "domain": domain }, "required": ["name", "domain"],
            "additionalProperties": false,
        },
    ]});
    let mut local = json!({
        "user": user, "projects": projects, "group": group, "groups": text, "group_ids": text, "domain": domain,
    });
    if version >= Version::Three {
        local["projects_json"] = text.clone();
        local["projects"] = json!({ "oneOf": [local["projects"], text] });
    }
    let remote = |condition: &str| {
        json!({
            "type": "object",
            "properties": { "type": text, condition: { "type": "array" }, "regex": { "type": "boolean" } },
            "required": ["type", condition],
            "additionalProperties": false,
        })
    };
    let plain = json!({
        "type": "object", "properties": { "type": text }, "required": ["type"], "additionalProperties": false,
    });
    let conditions = json!([
        plain,
        remote("any_one_of"),
        remote("not_any_of"),
        remote("blacklist"),
        remote("whitelist"),
    ]);
    let rule = json!({
        "type": "object",
        "properties": {
            "local": { "type": "array", "items": {
                "type": "object", "properties": local, "additionalProperties": false,
            }},
            "remote": { "type": "array", "minItems": 1, "items": { "type": "object", "oneOf": conditions } },
        },
        "required": ["local", "remote"],
        "additionalProperties": false,
    });
    let mapping = json!({
        "type": "object",
        "properties": { "rules": { "type": "array", "minItems": 1, "items": rule }, "schema_version": text },
        "required": ["rules"],
    });
    Schema::new(Form::Keystone, mapping)
}

/// The version and the rules of a mapping as people write it: an object with `rules`, or the list of them.
///
/// # Errors
/// 400 with what is wrong, and where.
pub fn read(mapping: &Value, version: Option<&str>) -> Result<(Version, MappingSpec), Failure> {
    let listed = json!({ "rules": mapping });
    let mapping = if mapping.is_array() { &listed } else { mapping };
    let named = version
        .or(mapping["schema_version"].as_str())
        .unwrap_or(DEFAULT_VERSION);
    let version = Version::read(named).ok_or_else(|| {
        Failure::invalid(format!("schema_version {named} is none of 1.0, 2.0 and 3.0")).at("schema_version")
    })?;
    let schema = match version {
        Version::One => &ONE,
        Version::Two => &TWO,
        Version::Three => &THREE,
    };
    schema.check(mapping)?;
    let rules = mapping["rules"].clone();
    engine::check_patterns(&rules).map_err(|error| Failure::invalid(error.to_string()).at("rules"))?;
    let schema_version = named.to_owned();
    Ok((version, MappingSpec { rules, schema_version }))
}

/// A mapping as Keystone shows it.
#[derive(Serialize)]
pub(crate) struct View {
    id: String,
    rules: Value,
    schema_version: String,
    links: Links,
}

impl Listed for View {
    fn id(&self) -> &str {
        &self.id
    }
}

pub(crate) fn routes() -> Router<Arc<Identity>> {
    collection::named_routes::<Mapping>("/OS-FEDERATION/mappings")
}

fn spec_of(mut input: Input) -> Result<MappingSpec, Failure> {
    let mut mapping = json!({});
    for name in ["rules", "schema_version"] {
        if let Some(value) = input.take(name).filter(|value| !value.is_null()) {
            mapping[name] = value;
        }
    }
    read(&mapping, None).map(|(_, spec)| spec)
}

impl Collection for Mapping {
    const ONE: &'static str = "mapping";
    const MANY: &'static str = "mappings";
    type View = View;

    fn view(_: &Identity, info: &RequestInfo, mapping: &Resource<Self>) -> View {
        View {
            id: mapping.name().to_owned(),
            rules: mapping.spec.rules.clone(),
            schema_version: mapping.spec.schema_version.clone(),
            links: links(info, "OS-FEDERATION/mappings", mapping.name()),
        }
    }

    fn schemas() -> &'static Schemas {
        &SCHEMAS
    }

    fn spec(input: Input) -> Result<(Option<String>, MappingSpec), Failure> {
        Ok((None, spec_of(input)?))
    }

    /// Never: a mapping is given anew as a whole.
    fn apply(_: &mut MappingSpec, _: Input) {}

    async fn update(
        identity: &Identity,
        caller: &Caller,
        id: &str,
        input: Input,
    ) -> Result<Arc<Resource<Self>>, Failure> {
        let key = Self::find(identity, caller, "update", id)?.key();
        let spec = spec_of(input)?;
        let changed = identity.store.modify::<Self, Failure>(&key, caller.cause(), |mapping| {
            mapping.spec = spec.clone();
            Ok(())
        });
        changed.await
    }
}
