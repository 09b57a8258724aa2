//! Which query parameters calls take. Nova ignored all others at first, and refuses them since 2.75 or 2.102, call by
//! call; what values may be is the calls' own business. Source: nova/api/openstack/compute/schemas.

use std::collections::HashMap;
use std::sync::LazyLock;

use axum::{
    Router,
    extract::{MatchedPath, Request},
    middleware::{self, Next},
    response::Response,
};
use http::Method;
use madang_http::{Failure, Microversion, Query};

use super::input;

/// Routes, the microversion since which they refuse what they do not take, and what they take. With two entries the later
/// one counts from its microversion on.
const TAKEN: &[(&str, u16, &[&str])] = &[
    ("/extensions", 102, &[]),
    ("/extensions/{alias}", 102, &[]),
    ("/flavors", 75, FLAVORS),
    ("/flavors", 102, FLAVORS_BY_NAME),
    ("/flavors/detail", 75, FLAVORS),
    ("/flavors/detail", 102, FLAVORS_BY_NAME),
    ("/flavors/{id}", 102, &[]),
    ("/flavors/{id}/os-extra_specs", 102, &[]),
    ("/flavors/{id}/os-extra_specs/{key}", 102, &[]),
    ("/flavors/{id}/os-flavor-access", 102, &[]),
    ("/limits", 75, &["tenant_id"]),
    ("/os-aggregates", 102, &[]),
    ("/os-aggregates/{id}", 102, &[]),
    ("/os-assisted-volume-snapshots/{id}", 75, &["delete_info"]),
    ("/os-availability-zone", 102, &[]),
    ("/os-availability-zone/detail", 102, &[]),
    ("/os-console-auth-tokens/{token}", 99, &[]),
    ("/os-instance_usage_audit_log", 102, &[]),
    ("/os-instance_usage_audit_log/{before}", 102, &[]),
    ("/os-keypairs", 75, &["user_id", "limit", "marker"]),
    ("/os-keypairs/{name}", 75, &["user_id"]),
    ("/os-quota-class-sets/{class}", 102, &[]),
    ("/os-quota-sets/{project}", 75, &["user_id"]),
    ("/os-quota-sets/{project}/detail", 75, &["user_id"]),
    ("/os-server-groups", 75, &["all_projects", "limit", "offset"]),
    ("/os-server-groups/{id}", 102, &[]),
    ("/os-services", 75, &["host", "binary"]),
    (
        "/os-simple-tenant-usage",
        75,
        &["start", "end", "detailed", "limit", "marker"],
    ),
    (
        "/os-simple-tenant-usage/{project}",
        75,
        &["start", "end", "limit", "marker"],
    ),
    ("/os-volumes_boot/{id}", 102, &[]),
    ("/servers/{id}", 102, &[]),
    ("/servers/{id}/diagnostics", 102, &[]),
    ("/servers/{id}/ips", 102, &[]),
    ("/servers/{id}/ips/{network}", 102, &[]),
    ("/servers/{id}/metadata", 102, &[]),
    ("/servers/{id}/metadata/{key}", 102, &[]),
    ("/servers/{id}/migrations", 102, &[]),
    ("/servers/{id}/migrations/{migration}", 102, &[]),
    ("/servers/{id}/os-instance-actions/{request}", 102, &[]),
    ("/servers/{id}/os-interface", 102, &[]),
    ("/servers/{id}/os-interface/{port}", 102, &[]),
    ("/servers/{id}/os-security-groups", 102, &[]),
    ("/servers/{id}/os-server-password", 102, &[]),
    ("/servers/{id}/os-volume_attachments", 75, &["limit", "offset"]),
    ("/servers/{id}/shares", 97, &[]),
    ("/servers/{id}/shares/{share}", 97, &[]),
    ("/servers/{id}/topology", 102, &[]),
];

const FLAVORS: &[&str] = &[
    "limit",
    "marker",
    "is_public",
    "minRam",
    "minDisk",
    "sort_key",
    "sort_dir",
];
const FLAVORS_BY_NAME: &[&str] = &[
    "limit",
    "marker",
    "is_public",
    "minRam",
    "minDisk",
    "sort_key",
    "sort_dir",
    "name",
];

/// Routes whose writes are as strict as their reads.
const WRITES: &[&str] = &[
    "/os-assisted-volume-snapshots/{id}",
    "/os-keypairs/{name}",
    "/os-quota-sets/{project}",
];

/// The router, whose calls refuse what they do not take. Microversions have to be around it.
pub(super) fn checked<S: Clone + Send + Sync + 'static>(router: Router<S>) -> Router<S> {
    router.route_layer(middleware::from_fn(check))
}

async fn check(version: Microversion, query: Query, request: Request, next: Next) -> Result<Response, Failure> {
    if !query.is_empty()
        && let Some(route) = request.extensions().get::<MatchedPath>()
        && let Some(taken) = taken(request.method(), of_api(route.as_str()), version)
    {
        input::refuse_unknown(&query, |name| taken.contains(&name))?;
    }
    Ok(next.run(request).await)
}

/// What stands after the version in a route.
fn of_api(route: &str) -> &str {
    let after = |prefix| route.split_once(prefix).map(|(_, rest)| rest);
    after("/v2.1").or_else(|| after("/v2")).unwrap_or(route)
}

/// What a call takes; none where it ignores what it does not know.
fn taken(method: &Method, route: &str, version: Microversion) -> Option<&'static [&'static str]> {
    type Steps = Vec<(u16, &'static [&'static str])>;
    static BY_ROUTE: LazyLock<HashMap<&str, Steps>> = LazyLock::new(|| {
        let mut routes: HashMap<&str, Steps> = HashMap::new();
        for (route, since, names) in TAKEN {
            routes.entry(route).or_default().push((*since, names));
        }
        routes
    });
    if method != Method::GET && !WRITES.contains(&route) {
        return None;
    }
    let steps = BY_ROUTE.get(route)?.iter().rev();
    let mut reached = steps.filter(|(since, _)| version >= Microversion(2, *since));
    reached.next().map(|(_, names)| *names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(method: Method, route: &str, minor: u16) -> Option<&'static [&'static str]> {
        taken(&method, of_api(route), Microversion(2, minor))
    }

    #[test]
    fn calls_become_strict_one_by_one() {
        assert_eq!(of(Method::GET, "/v2.1/servers/{id}", 101), None);
        assert_eq!(of(Method::GET, "/v2.1/servers/{id}", 102), Some(&[][..]));
        assert_eq!(of(Method::DELETE, "/v2.1/servers/{id}", 102), None);
        assert_eq!(of(Method::DELETE, "/v2/os-keypairs/{name}", 75), Some(&["user_id"][..]));
        assert_eq!(of(Method::GET, "/v2.1/flavors", 101), Some(FLAVORS));
        assert_eq!(of(Method::GET, "/compute/v2.1/flavors", 102), Some(FLAVORS_BY_NAME));
        assert_eq!(
            of(Method::GET, "/v2.1/servers", 104),
            None,
            "it has a schema of its own"
        );
    }
}
