//! The JSON home document: which relation of Keystone's API is where, for clients that ask `/` or `/v3` for
//! `application/json-home`.

use http::{HeaderMap, HeaderValue, StatusCode, header};
use madang_http::json;
use serde_json::{Map, Value, json as value};

const MEDIA_TYPE: &str = "application/json-home";
const RELATIONS: &str = "https://docs.openstack.org/api/openstack-identity/3/";

/// Relations of the API itself: name and path.
const CORE: &[(&str, &str)] = &[
    ("access_rule", "/users/{user_id}/access_rules/{access_rule_id}"),
    ("access_rules", "/users/{user_id}/access_rules"),
    (
        "application_credential",
        "/users/{user_id}/application_credentials/{application_credential_id}",
    ),
    ("application_credentials", "/users/{user_id}/application_credentials"),
    ("auth_catalog", "/auth/catalog"),
    ("auth_domains", "/auth/domains"),
    ("auth_projects", "/auth/projects"),
    ("auth_system", "/auth/system"),
    ("auth_tokens", "/auth/tokens"),
    ("credential", "/credentials/{credential_id}"),
    ("credentials", "/credentials"),
    ("domain", "/domains/{domain_id}"),
    ("domain_config", "/domains/{domain_id}/config"),
    ("domain_config_default", "/domains/config/default"),
    ("domain_config_default_group", "/domains/config/{group}/default"),
    (
        "domain_config_default_option",
        "/domains/config/{group}/{option}/default",
    ),
    ("domain_config_group", "/domains/{domain_id}/config/{group}"),
    ("domain_config_option", "/domains/{domain_id}/config/{group}/{option}"),
    (
        "domain_group_role",
        "/domains/{domain_id}/groups/{group_id}/roles/{role_id}",
    ),
    ("domain_group_roles", "/domains/{domain_id}/groups/{group_id}/roles"),
    (
        "domain_user_role",
        "/domains/{domain_id}/users/{user_id}/roles/{role_id}",
    ),
    ("domain_user_roles", "/domains/{domain_id}/users/{user_id}/roles"),
    ("domains", "/domains"),
    ("endpoint", "/endpoints/{endpoint_id}"),
    ("endpoints", "/endpoints"),
    ("group", "/groups/{group_id}"),
    ("group_user", "/groups/{group_id}/users/{user_id}"),
    ("group_users", "/groups/{group_id}/users"),
    ("groups", "/groups"),
    ("implied_role", "/roles/{prior_role_id}/implies/{implied_role_id}"),
    ("implied_roles", "/roles/{prior_role_id}/implies"),
    ("limit", "/limits/{limit_id}"),
    ("limit_model", "/limits/model"),
    ("limits", "/limits"),
    ("policies", "/policies"),
    ("policy", "/policies/{policy_id}"),
    ("project", "/projects/{project_id}"),
    (
        "project_group_role",
        "/projects/{project_id}/groups/{group_id}/roles/{role_id}",
    ),
    ("project_group_roles", "/projects/{project_id}/groups/{group_id}/roles"),
    ("project_tags", "/projects/{project_id}/tags/{value}"),
    (
        "project_user_role",
        "/projects/{project_id}/users/{user_id}/roles/{role_id}",
    ),
    ("project_user_roles", "/projects/{project_id}/users/{user_id}/roles"),
    ("projects", "/projects"),
    ("region", "/regions/{region_id}"),
    ("regions", "/regions"),
    ("registered_limit", "/registered_limits/{registered_limit_id}"),
    ("registered_limits", "/registered_limits"),
    ("role", "/roles/{role_id}"),
    ("role_assignments", "/role_assignments"),
    ("role_inferences", "/role_inferences"),
    ("roles", "/roles"),
    ("service", "/services/{service_id}"),
    ("services", "/services"),
    ("system_group_role", "/system/groups/{group_id}/roles/{role_id}"),
    ("system_group_roles", "/system/groups/{group_id}/roles"),
    ("system_user_role", "/system/users/{user_id}/roles/{role_id}"),
    ("system_user_roles", "/system/users/{user_id}/roles"),
    ("user", "/users/{user_id}"),
    ("user_change_password", "/users/{user_id}/password"),
    ("user_groups", "/users/{user_id}/groups"),
    ("user_projects", "/users/{user_id}/projects"),
    ("users", "/users"),
];

/// Relations of extensions: the extension, name and path.
const EXTENSIONS: &[(&str, &str, &str)] = &[
    ("OS-EC2", "ec2tokens", "/ec2tokens"),
    (
        "OS-EC2",
        "user_credential",
        "/users/{user_id}/credentials/OS-EC2/{credential_id}",
    ),
    ("OS-EC2", "user_credentials", "/users/{user_id}/credentials/OS-EC2"),
    (
        "OS-ENDPOINT-POLICY",
        "endpoint_policy",
        "/endpoints/{endpoint_id}/OS-ENDPOINT-POLICY/policy",
    ),
    (
        "OS-ENDPOINT-POLICY",
        "endpoint_policy_association",
        "/policies/{policy_id}/OS-ENDPOINT-POLICY/endpoints/{endpoint_id}",
    ),
    (
        "OS-ENDPOINT-POLICY",
        "policy_endpoints",
        "/policies/{policy_id}/OS-ENDPOINT-POLICY/endpoints",
    ),
    (
        "OS-ENDPOINT-POLICY",
        "region_and_service_policy_association",
        "/policies/{policy_id}/OS-ENDPOINT-POLICY/services/{service_id}/regions/{region_id}",
    ),
    (
        "OS-ENDPOINT-POLICY",
        "service_policy_association",
        "/policies/{policy_id}/OS-ENDPOINT-POLICY/services/{service_id}",
    ),
    (
        "OS-EP-FILTER",
        "endpoint_group",
        "/OS-EP-FILTER/endpoint_groups/{endpoint_group_id}",
    ),
    (
        "OS-EP-FILTER",
        "endpoint_group_to_project_association",
        "/OS-EP-FILTER/endpoint_groups/{endpoint_group_id}/projects/{project_id}",
    ),
    ("OS-EP-FILTER", "endpoint_groups", "/OS-EP-FILTER/endpoint_groups"),
    (
        "OS-EP-FILTER",
        "endpoint_projects",
        "/OS-EP-FILTER/endpoints/{endpoint_id}/projects",
    ),
    (
        "OS-EP-FILTER",
        "endpoints_in_endpoint_group",
        "/OS-EP-FILTER/endpoint_groups/{endpoint_group_id}/endpoints",
    ),
    (
        "OS-EP-FILTER",
        "project_endpoint",
        "/OS-EP-FILTER/projects/{project_id}/endpoints/{endpoint_id}",
    ),
    (
        "OS-EP-FILTER",
        "project_endpoint_groups",
        "/OS-EP-FILTER/projects/{project_id}/endpoint_groups",
    ),
    (
        "OS-EP-FILTER",
        "project_endpoints",
        "/OS-EP-FILTER/projects/{project_id}/endpoints",
    ),
    (
        "OS-EP-FILTER",
        "projects_associated_with_endpoint_group",
        "/OS-EP-FILTER/endpoint_groups/{endpoint_group_id}/projects",
    ),
    ("OS-FEDERATION", "domains", "/auth/domains"),
    (
        "OS-FEDERATION",
        "identity_provider",
        "/OS-FEDERATION/identity_providers/{idp_id}",
    ),
    (
        "OS-FEDERATION",
        "identity_provider_protocol",
        "/OS-FEDERATION/identity_providers/{idp_id}/protocols/{protocol_id}",
    ),
    (
        "OS-FEDERATION",
        "identity_provider_protocol_auth",
        "/OS-FEDERATION/identity_providers/{idp_id}/protocols/{protocol_id}/auth",
    ),
    (
        "OS-FEDERATION",
        "identity_provider_protocols",
        "/OS-FEDERATION/identity_providers/{idp_id}/protocols",
    ),
    (
        "OS-FEDERATION",
        "identity_providers",
        "/OS-FEDERATION/identity_providers",
    ),
    (
        "OS-FEDERATION",
        "identity_providers_websso",
        "/auth/OS-FEDERATION/identity_providers/{idp_id}/protocols/{protocol_id}/websso",
    ),
    ("OS-FEDERATION", "mapping", "/OS-FEDERATION/mappings/{mapping_id}"),
    ("OS-FEDERATION", "mappings", "/OS-FEDERATION/mappings"),
    ("OS-FEDERATION", "projects", "/auth/projects"),
    (
        "OS-FEDERATION",
        "service_provider",
        "/OS-FEDERATION/service_providers/{service_provider_id}",
    ),
    ("OS-FEDERATION", "service_providers", "/OS-FEDERATION/service_providers"),
    ("OS-FEDERATION", "websso", "/auth/OS-FEDERATION/websso/{protocol_id}"),
    (
        "OS-INHERIT",
        "domain_group_role_inherited_to_projects",
        "/OS-INHERIT/domains/{domain_id}/groups/{group_id}/roles/{role_id}/inherited_to_projects",
    ),
    (
        "OS-INHERIT",
        "domain_group_roles_inherited_to_projects",
        "/OS-INHERIT/domains/{domain_id}/groups/{group_id}/roles/inherited_to_projects",
    ),
    (
        "OS-INHERIT",
        "domain_user_role_inherited_to_projects",
        "/OS-INHERIT/domains/{domain_id}/users/{user_id}/roles/{role_id}/inherited_to_projects",
    ),
    (
        "OS-INHERIT",
        "domain_user_roles_inherited_to_projects",
        "/OS-INHERIT/domains/{domain_id}/users/{user_id}/roles/inherited_to_projects",
    ),
    (
        "OS-INHERIT",
        "project_group_role_inherited_to_projects",
        "/OS-INHERIT/projects/{project_id}/groups/{group_id}/roles/{role_id}/inherited_to_projects",
    ),
    (
        "OS-INHERIT",
        "project_user_role_inherited_to_projects",
        "/OS-INHERIT/projects/{project_id}/users/{user_id}/roles/{role_id}/inherited_to_projects",
    ),
    ("OS-OAUTH1", "access_tokens", "/OS-OAUTH1/access_token"),
    (
        "OS-OAUTH1",
        "authorize_request_token",
        "/OS-OAUTH1/authorize/{request_token_id}",
    ),
    ("OS-OAUTH1", "consumer", "/OS-OAUTH1/consumers/{consumer_id}"),
    ("OS-OAUTH1", "consumers", "/OS-OAUTH1/consumers"),
    ("OS-OAUTH1", "request_tokens", "/OS-OAUTH1/request_token"),
    (
        "OS-OAUTH1",
        "user_access_token",
        "/users/{user_id}/OS-OAUTH1/access_tokens/{access_token_id}",
    ),
    (
        "OS-OAUTH1",
        "user_access_token_role",
        "/users/{user_id}/OS-OAUTH1/access_tokens/{access_token_id}/roles/{role_id}",
    ),
    (
        "OS-OAUTH1",
        "user_access_token_roles",
        "/users/{user_id}/OS-OAUTH1/access_tokens/{access_token_id}/roles",
    ),
    (
        "OS-OAUTH1",
        "user_access_tokens",
        "/users/{user_id}/OS-OAUTH1/access_tokens",
    ),
    ("OS-OAUTH2", "token", "/OS-OAUTH2/token"),
    ("OS-PKI", "revocations", "/auth/tokens/OS-PKI/revoked"),
    ("OS-REVOKE", "events", "/OS-REVOKE/events"),
    ("OS-SIMPLE-CERT", "ca_certificate", "/OS-SIMPLE-CERT/ca"),
    ("OS-SIMPLE-CERT", "certificates", "/OS-SIMPLE-CERT/certificates"),
    ("OS-TRUST", "trust", "/OS-TRUST/trusts/{trust_id}"),
    ("OS-TRUST", "trust_role", "/OS-TRUST/trusts/{trust_id}/roles/{role_id}"),
    ("OS-TRUST", "trust_roles", "/OS-TRUST/trusts/{trust_id}/roles"),
    ("OS-TRUST", "trusts", "/OS-TRUST/trusts"),
    ("s3tokens", "s3tokens", "/s3tokens"),
];

/// What Keystone calls experimental.
const EXPERIMENTAL: [&str; 5] = [
    "limit",
    "limit_model",
    "limits",
    "registered_limit",
    "registered_limits",
];

/// Parameters that have other names than in the path, or belong to an extension.
const PARAMETERS: &[(&str, &str)] = &[
    ("access_token_id", "ext/OS-OAUTH1/1.0/param/access_token_id"),
    ("consumer_id", "ext/OS-OAUTH1/1.0/param/consumer_id"),
    ("endpoint_group_id", "ext/OS-EP-FILTER/1.0/param/endpoint_group_id"),
    ("group", "param/config_group"),
    ("idp_id", "ext/OS-FEDERATION/1.0/param/idp_id"),
    ("implied_role_id", "param/role_id"),
    ("mapping_id", "ext/OS-FEDERATION/1.0/param/mapping_id"),
    ("option", "param/config_option"),
    ("prior_role_id", "param/role_id"),
    ("protocol_id", "ext/OS-FEDERATION/1.0/param/protocol_id"),
    ("request_token_id", "ext/OS-OAUTH1/1.0/param/request_token_id"),
    ("service_provider_id", "ext/OS-FEDERATION/1.0/param/service_provider_id"),
    ("trust_id", "ext/OS-TRUST/1.0/param/trust_id"),
    ("value", "param/tag_value"),
];

/// Whether a client would rather have this document.
pub(super) fn is_asked(headers: &HeaderMap) -> bool {
    let accepted = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let (mut json, mut home) = (0.0, 0.0);
    for part in accepted.unwrap_or_default().split(',') {
        let mut parameters = part.split(';').map(str::trim);
        let kind = parameters.next().unwrap_or_default();
        let quality = parameters.find_map(|parameter| parameter.strip_prefix("q="));
        let quality: f32 = quality.and_then(|quality| quality.parse().ok()).unwrap_or(1.0);
        match kind {
            MEDIA_TYPE => home = quality,
            "application/json" | "application/*" | "*/*" => json = quality.max(json),
            _ => {}
        }
    }
    home > json
}

/// The document, with `prefix` in front of all paths.
pub(super) fn answer(prefix: &str) -> axum::response::Response {
    let core = CORE
        .iter()
        .map(|(name, path)| (format!("rel/{name}"), *path, EXPERIMENTAL.contains(name)));
    let extensions = EXTENSIONS
        .iter()
        .map(|(extension, name, path)| (format!("ext/{extension}/1.0/rel/{name}"), *path, false));
    let resources: Map<String, Value> = core
        .chain(extensions)
        .map(|(relation, path, is_experimental)| {
            let mut resource = place(&format!("{prefix}{path}"));
            if is_experimental {
                resource["hints"] = value!({ "status": "experimental" });
            }
            (format!("{RELATIONS}{relation}"), resource)
        })
        .collect();
    let mut response = json(StatusCode::OK, &value!({ "resources": resources }));
    let kind = HeaderValue::from_static(MEDIA_TYPE);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// An address, or a template of addresses with what its parameters mean.
fn place(path: &str) -> Value {
    let names = path
        .split('{')
        .skip(1)
        .filter_map(|rest| rest.split_once('}').map(|(name, _)| name));
    let parameters: Map<String, Value> = names
        .map(|name| {
            let known = PARAMETERS.iter().find(|(known, _)| *known == name);
            let meaning = known.map_or_else(|| format!("param/{name}"), |(_, meaning)| (*meaning).to_owned());
            (name.to_owned(), format!("{RELATIONS}{meaning}").into())
        })
        .collect();
    if parameters.is_empty() {
        value!({ "href": path })
    } else {
        value!({ "href-template": path, "href-vars": parameters })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_given_to_who_does_not_ask_for_more() {
        let asked = |accept: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
            is_asked(&headers)
        };
        for yes in ["application/json-home", "application/json;q=0.5, application/json-home"] {
            assert!(asked(yes), "{yes}");
        }
        for no in [
            "",
            "*/*",
            "application/json",
            "application/json-home;q=0.2, application/json",
        ] {
            assert!(!asked(no), "{no}");
        }
        assert!(!is_asked(&HeaderMap::new()));
    }

    #[test]
    fn parameters_say_what_they_are() {
        let place = place("/v3/OS-TRUST/trusts/{trust_id}/roles/{role_id}");
        let meanings = &place["href-vars"];
        assert_eq!(
            meanings["trust_id"],
            format!("{RELATIONS}ext/OS-TRUST/1.0/param/trust_id")
        );
        assert_eq!(meanings["role_id"], format!("{RELATIONS}param/role_id"));
    }
}
