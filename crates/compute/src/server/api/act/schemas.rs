//! The bodies of actions, by action and microversion. Source: nova/api/openstack/compute/schemas.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
};

use madang_http::{Form, Microversion, Schema};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::super::create::{self, is_base64};

/// The schema of an action's body for a microversion, compiled once for each step between versions; none for an action
/// there is not.
pub(super) fn schema(action: &str, version: Microversion) -> Option<Arc<Schema>> {
    static COMPILED: LazyLock<Mutex<HashMap<(String, u16), Arc<Schema>>>> = LazyLock::new(Mutex::default);
    let step = steps(action)
        .iter()
        .rev()
        .copied()
        .find(|step| version >= Microversion(2, *step))
        .unwrap_or(1);
    let key = (action.to_owned(), step);
    if let Some(compiled) = COMPILED.lock().get(&key) {
        return Some(Arc::clone(compiled));
    }
    let body = body(action, step)?;
    let compiled = Arc::new(Schema::with_formats(Form::Nova, body, &[("base64", is_base64)]));
    COMPILED.lock().insert(key, Arc::clone(&compiled));
    Some(compiled)
}

/// The microversions at which an action's body changed.
fn steps(action: &str) -> &'static [u16] {
    match action {
        "rebuild" => &[19, 54, 57, 63, 90, 94],
        "evacuate" => &[14, 29, 68],
        "os-migrateLive" => &[25, 30, 68],
        "unshelve" => &[77, 91],
        "migrate" => &[56],
        "lock" => &[73],
        _ => &[],
    }
}

fn body(action: &str, step: u16) -> Option<Value> {
    let argument = match action {
        "reboot" => object(
            json!({ "type": { "type": "string", "enum": ["HARD", "Hard", "hard", "SOFT", "Soft", "soft"] } }),
            &["type"],
        ),
        "addFixedIp" => object(
            json!({ "networkId": { "type": ["string", "number"], "pattern": "^.+$" } }),
            &["networkId"],
        ),
        "removeFixedIp" => object(
            json!({ "address": { "type": "string", "oneOf": [{ "format": "ipv4" }, { "format": "ipv6" }] } }),
            &["address"],
        ),
        "os-resetState" => object(
            json!({ "state": { "type": "string", "enum": ["active", "error"] } }),
            &["state"],
        ),
        "os-getConsoleOutput" => object(
            json!({ "length": { "type": ["integer", "string", "null"], "pattern": "^-?[0-9]+$", "minimum": -1 } }),
            &[],
        ),
        "rebuild" => rebuild(step),
        "resize" => object(
            json!({ "flavorRef": { "type": ["string", "integer"], "minLength": 1 }, "OS-DCF:diskConfig": disk_config() }),
            &["flavorRef"],
        ),
        "createImage" => object(
            json!({ "name": create::name_schema(), "metadata": metadata() }),
            &["name"],
        ),
        "createBackup" => object(
            json!({
                "name": create::name_schema(), "metadata": metadata(), "backup_type": { "type": "string" },
                "rotation": { "type": ["integer", "string"], "pattern": "^[0-9]*$", "minimum": 0, "minLength": 1 },
            }),
            &["name", "backup_type", "rotation"],
        ),
        "changePassword" => object(json!({ "adminPass": { "type": "string" } }), &["adminPass"]),
        "rescue" => or_null(object(
            json!({ "adminPass": { "type": "string" }, "rescue_image_ref": { "type": "string", "format": "uuid" } }),
            &[],
        )),
        "migrate" if step >= 56 => or_null(object(json!({ "host": host(true) }), &[])),
        "lock" if step >= 73 => or_null(object(
            json!({ "locked_reason": { "type": "string", "minLength": 1, "maxLength": 255 } }),
            &[],
        )),
        "unshelve" if step >= 91 => or_null(object(
            json!({ "availability_zone": { "type": ["string", "null"] }, "host": { "type": "string" } }),
            &[],
        )),
        "unshelve" if step >= 77 => or_null(object(
            json!({ "availability_zone": create::name_schema() }),
            &["availability_zone"],
        )),
        "evacuate" => evacuate(step),
        "os-migrateLive" => migrate_live(step),
        "os-start" | "os-stop" | "pause" | "unpause" | "suspend" | "resume" | "lock" | "unlock" | "confirmResize"
        | "revertResize" | "unrescue" | "shelve" | "shelveOffload" | "unshelve" | "migrate" | "restore"
        | "forceDelete" | "injectNetworkInfo" | "trigger_crash_dump" => json!({}),
        _ => return None,
    };
    Some(json!({
        "type": "object",
        "properties": { action: argument },
        "required": [action],
        "additionalProperties": false,
    }))
}

fn rebuild(step: u16) -> Value {
    let mut properties = json!({
        "name": create::name_schema(),
        "imageRef": { "type": "string", "format": "uuid" },
        "adminPass": { "type": "string" },
        "metadata": metadata(),
        "preserve_ephemeral": boolean(),
        "OS-DCF:diskConfig": disk_config(),
        "accessIPv4": { "type": "string", "format": "ipv4" },
        "accessIPv6": { "type": "string", "format": "ipv6" },
    });
    if step < 57 {
        properties["personality"] = create::personality_schema();
    }
    let later = [
        (19, "description", create::description_schema()),
        (
            54,
            "key_name",
            json!({ "oneOf": [{ "type": "string", "minLength": 1, "maxLength": 255 }, { "type": "null" }] }),
        ),
        (
            57,
            "user_data",
            json!({ "type": ["string", "null"], "format": "base64", "maxLength": 65535 }),
        ),
        (
            63,
            "trusted_image_certificates",
            json!({ "type": ["array", "null"], "minItems": 1, "maxItems": 50, "uniqueItems": true,
                "items": { "type": "string", "minLength": 1 } }),
        ),
        (90, "hostname", create::hostname_schema()),
        (
            94,
            "hostname",
            json!({ "type": "string", "minLength": 2, "maxLength": 255,
                "pattern": "^[a-zA-Z0-9]+[a-zA-Z0-9.-]*[a-zA-Z0-9]+$" }),
        ),
    ];
    for (from, name, schema) in later {
        if step >= from {
            properties[name] = schema;
        }
    }
    object(properties, &["imageRef"])
}

fn evacuate(step: u16) -> Value {
    let mut properties = json!({ "host": host(false), "adminPass": { "type": "string" } });
    if step < 14 {
        properties["onSharedStorage"] = boolean();
        return object(properties, &["onSharedStorage"]);
    }
    if (29..68).contains(&step) {
        properties["force"] = boolean();
    }
    object(properties, &[])
}

fn migrate_live(step: u16) -> Value {
    let mut block = boolean();
    if step < 25 {
        let properties = json!({ "block_migration": block, "disk_over_commit": boolean(), "host": host(true) });
        return object(properties, &["block_migration", "disk_over_commit", "host"]);
    }
    if let Some(words) = block["enum"].as_array_mut() {
        words.push(json!("auto"));
    }
    let mut properties = json!({ "block_migration": block, "host": host(true) });
    if (30..68).contains(&step) {
        properties["force"] = boolean();
    }
    object(properties, &["block_migration", "host"])
}

fn object(properties: Value, required: &[&str]) -> Value {
    let mut schema = json!({ "type": "object", "properties": properties, "additionalProperties": false });
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

fn or_null(mut schema: Value) -> Value {
    schema["type"] = json!(["object", "null"]);
    schema
}

fn host(may_be_null: bool) -> Value {
    let kinds = if may_be_null {
        json!(["string", "null"])
    } else {
        json!("string")
    };
    json!({ "type": kinds, "pattern": "^[a-zA-Z0-9-._]*$", "minLength": 1, "maxLength": 255 })
}

fn disk_config() -> Value {
    json!({ "type": "string", "enum": ["AUTO", "MANUAL"] })
}

fn boolean() -> Value {
    json!({ "type": ["boolean", "string"], "enum": [
        true, "True", "TRUE", "true", "1", "ON", "On", "on", "YES", "Yes", "yes",
        false, "False", "FALSE", "false", "0", "OFF", "Off", "off", "NO", "No", "no",
    ] })
}

fn metadata() -> Value {
    json!({
        "type": "object",
        "patternProperties": { "^[a-zA-Z0-9-_:. ]{1,255}$": { "type": "string", "maxLength": 255 } },
        "additionalProperties": false,
    })
}
