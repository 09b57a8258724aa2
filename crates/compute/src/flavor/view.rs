//! A flavor as Nova shows it, by microversion.

use madang_http::Microversion;
use madang_store::Resource;
use serde_json::{Value, json};

use crate::Flavor;

/// Id, name and links.
pub(super) fn brief(flavor: &Resource<Flavor>, base: &str, version: Microversion) -> Value {
    let id = flavor.name();
    let mut shown = json!({ "id": id, "name": flavor.spec.name, "links": links(base, id) });
    if version >= Microversion(2, 55) {
        shown["description"] = json!(flavor.spec.description);
    }
    shown
}

/// Everything.
pub(super) fn full(flavor: &Resource<Flavor>, base: &str, version: Microversion, has_specs: bool) -> Value {
    let (id, spec) = (flavor.name(), &flavor.spec);
    // No swap is an empty text up to 2.74, and 0 from 2.75.
    let swap = match spec.swap_mb {
        0 if version < Microversion(2, 75) => json!(""),
        mb => json!(mb),
    };
    let mut shown = json!({
        "id": id,
        "name": spec.name,
        "ram": spec.ram_mb,
        "disk": spec.disk_gb,
        "swap": swap,
        "OS-FLV-EXT-DATA:ephemeral": spec.ephemeral_gb,
        "vcpus": spec.vcpus,
        "os-flavor-access:is_public": spec.is_public,
        "links": links(base, id),
    });
    if version < Microversion(2, 102) {
        shown["OS-FLV-DISABLED:disabled"] = json!(spec.is_disabled);
        shown["rxtx_factor"] = json!(spec.rxtx_factor);
    }
    if version >= Microversion(2, 55) {
        shown["description"] = json!(spec.description);
    }
    if version >= Microversion(2, 61) && has_specs {
        shown["extra_specs"] = json!(spec.extra_specs);
    }
    shown
}

fn links(base: &str, id: &str) -> Value {
    json!([
        { "rel": "self", "href": format!("{base}/v2.1/flavors/{id}") },
        { "rel": "bookmark", "href": format!("{base}/flavors/{id}") },
    ])
}
