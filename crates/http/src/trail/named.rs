//! What a request was about, read from its route, its path and the id in its answer.

use axum::body::Bytes;
use http::Method;
use serde_json::Value;

/// The first resource on the route, and what was done to it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) resource: String,
    pub(super) id: Option<String>,
    pub(super) action: String,
}

/// Reads `/compute/v2.1/servers/{id}/metadata/{key}` beside `/compute/v2.1/servers/42/metadata/colour`: of the server 42,
/// the metadata. A project in front of everything, as in block storage's paths, is no resource.
pub(super) fn named(method: &Method, route: &str, path: &str) -> Named {
    let verb = match *method {
        Method::POST => "create",
        Method::PUT | Method::PATCH => "update",
        Method::DELETE => "delete",
        _ => "read",
    };
    let mut resource = "";
    let mut id = None;
    let mut parts = Vec::new();
    for (segment, value) in route.split('/').zip(path.split('/')) {
        if !segment.starts_with('{') {
            if id.is_some() {
                parts.push(segment);
            } else {
                resource = segment;
            }
        } else if id.is_none() && !is_version(resource) {
            id = Some(value.to_owned());
        }
    }
    let action = if parts.is_empty() {
        verb.to_owned()
    } else {
        format!("{verb}:{}", parts.join("/"))
    };
    Named {
        resource: resource.to_owned(),
        id: id.filter(|id| !id.is_empty()),
        action,
    }
}

/// `v3`, `v2.1`.
fn is_version(segment: &str) -> bool {
    let digits = segment.strip_prefix('v').unwrap_or_default();
    !digits.is_empty() && digits.chars().all(|letter| letter.is_ascii_digit() || letter == '.')
}

/// The id in an answer: `{"server": {"id": …}}`, `{"id": …}`, `{"uuid": …}`.
pub(super) fn made(body: &Bytes) -> Option<String> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let own = |value: &Value| Some(value.get("id").or_else(|| value.get("uuid"))?.as_str()?.to_owned());
    own(&body).or_else(|| own(body.as_object()?.values().next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_resource_on_the_route_is_what_it_is_about() {
        for (method, route, path, resource, id, action) in [
            (
                "POST",
                "/compute/v2.1/servers",
                "/compute/v2.1/servers",
                "servers",
                None,
                "create",
            ),
            (
                "DELETE",
                "/compute/v2.1/servers/{id}",
                "/compute/v2.1/servers/42",
                "servers",
                Some("42"),
                "delete",
            ),
            (
                "DELETE",
                "/compute/v2.1/servers/{id}/metadata/{key}",
                "/compute/v2.1/servers/42/metadata/colour",
                "servers",
                Some("42"),
                "delete:metadata",
            ),
            (
                "PUT",
                "/identity/v3/projects/{p}/users/{u}/roles/{r}",
                "/identity/v3/projects/1/users/2/roles/3",
                "projects",
                Some("1"),
                "update:users/roles",
            ),
            (
                "PUT",
                "/volume/v3/{project}/volumes/{id}",
                "/volume/v3/1/volumes/2",
                "volumes",
                Some("2"),
                "update",
            ),
            (
                "POST",
                "/identity/v3/auth/tokens",
                "/identity/v3/auth/tokens",
                "tokens",
                None,
                "create",
            ),
            ("DELETE", "", "/nowhere", "", None, "delete"),
        ] {
            let wanted = Named {
                resource: resource.into(),
                id: id.map(Into::into),
                action: action.into(),
            };
            assert_eq!(named(&method.parse().unwrap(), route, path), wanted);
        }
    }

    #[test]
    fn the_id_of_what_was_made_is_found() {
        let made = |text: &'static str| made(&Bytes::from_static(text.as_bytes()));
        assert_eq!(made(r#"{"server": {"id": "a", "links": []}}"#).as_deref(), Some("a"));
        assert_eq!(made(r#"{"name": "x", "id": "b"}"#).as_deref(), Some("b"));
        assert_eq!(made(r#"{"uuid": "c"}"#).as_deref(), Some("c"));
        for none in ["", "[]", "{}", r#"{"ports": [{"id": "d"}]}"#, r#"{"id": 1}"#] {
            assert_eq!(made(none), None, "{none}");
        }
    }
}
