//! `/info`: what this can do, and how much of it.

use serde_json::{Value, json};

use super::{ask, bulk, container::STORAGE_POLICY, describe, listing, put, slo, symlink, tempurl};

/// The Swift whose behaviour this has.
const VERSION: &str = "2.37.0";

/// Everything, as Swift names it.
pub fn info() -> Value {
    json!({
        "swift": {
            "version": VERSION,
            "policies": [{ "name": STORAGE_POLICY, "default": true, "aliases": STORAGE_POLICY }],
            "max_file_size": put::FILE_BYTES,
            "max_meta_name_length": describe::META_NAME_BYTES,
            "max_meta_value_length": describe::META_VALUE_BYTES,
            "max_meta_count": describe::META_COUNT,
            "max_meta_overall_size": describe::META_OVERALL_BYTES,
            "max_header_size": 8192,
            "max_object_name_length": ask::OBJECT_BYTES,
            "max_container_name_length": ask::CONTAINER_BYTES,
            "max_account_name_length": ask::ACCOUNT_BYTES,
            "container_listing_limit": listing::MOST,
            "account_listing_limit": listing::MOST,
            "account_autocreate": true,
            "allow_account_management": false,
            "strict_cors_mode": true,
            "allow_open_expired": false,
            "extra_header_count": 0,
        },
        "account_quotas": {},
        "container_quotas": {},
        "bulk_delete": { "max_deletes_per_request": bulk::DELETES, "max_failed_deletes": bulk::FAILURES },
        "bulk_upload": { "max_containers_per_extraction": 10_000, "max_failed_extractions": bulk::FAILURES },
        "crossdomain": {},
        "dlo": {},
        "slo": {
            "max_manifest_segments": slo::SEGMENTS,
            "max_manifest_size": slo::MANIFEST_BYTES,
            "min_segment_size": 1,
            "allow_async_delete": false,
            "yield_frequency": 10,
        },
        "formpost": { "allowed_digests": tempurl::DIGESTS, "deprecated_digests": ["sha1"] },
        "tempurl": {
            "methods": tempurl::METHODS,
            "incoming_remove_headers": ["x-timestamp"],
            "incoming_allow_headers": [],
            "outgoing_remove_headers": ["x-object-meta-*"],
            "outgoing_allow_headers": ["x-object-meta-public-*"],
            "allowed_digests": tempurl::DIGESTS,
            "deprecated_digests": ["sha1"],
        },
        "staticweb": {},
        "symlink": { "symloop_max": symlink::MOST, "static_links": true },
        "object_versioning": {},
        "versioned_writes": { "allowed_flags": ["x-versions-location", "x-history-location"] },
        "keystoneauth": {},
    })
}

/// What programs of Adobe's are let do: look.
pub const CROSS_DOMAIN: &str = "<?xml version=\"1.0\"?>\n<!DOCTYPE cross-domain-policy SYSTEM \
    \"http://www.adobe.com/xml/dtds/cross-domain-policy.dtd\" >\n<cross-domain-policy>\n<allow-access-from \
    domain=\"*\" secure=\"false\" />\n</cross-domain-policy>";
