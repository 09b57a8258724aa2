//! Which routes a router has, for tests that must not forget one.
//!
//! axum does not give them out, but its `Debug` writes all of them: paths and methods are read from there. Should another
//! version of axum write otherwise, the test below says so.

use axum::Router;

/// Methods in the order of axum's fields. `HEAD` goes with `GET`.
const METHODS: [&str; 7] = ["get", "delete", "options", "patch", "post", "put", "trace"];

/// One method of one path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteName {
    /// The face that it belongs to, such as `compute`.
    pub face: &'static str,
    /// As the router has it: `/servers/{id}`.
    pub path: String,
    /// `GET`; `*` where all are taken.
    pub method: String,
}

/// The routes of a face's router, by path.
pub(crate) fn of(face: &'static str, router: &Router) -> Vec<RouteName> {
    let text = format!("{router:?}");
    let own = text.split(", fallback_router:").next().unwrap_or_default();
    let (routes, node) = own.rsplit_once("node: Node").unwrap_or((own, ""));
    let mut found = Vec::new();
    for (id, path) in numbered(node) {
        let path = path.split('"').nth(1).unwrap_or_default();
        let taken = numbered(routes).find(|(other, _)| *other == id);
        let methods = taken.map(|(_, router)| methods(router)).unwrap_or_default();
        found.extend(methods.into_iter().map(|method| RouteName {
            face,
            path: path.to_owned(),
            method,
        }));
    }
    found.sort();
    found
}

/// What follows each `RouteId(n)`, up to the next.
fn numbered(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.split("RouteId(").skip(1).filter_map(|part| part.split_once(')'))
}

fn methods(router: &str) -> Vec<String> {
    if !router.contains("MethodRouter {") || router.contains("allow_header: Skip") {
        return vec!["*".to_owned()];
    }
    let is_taken = |method: &&&str| {
        let field = format!("{method}: ");
        router
            .split_once(&field)
            .is_some_and(|(_, value)| !value.starts_with("None"))
    };
    METHODS
        .iter()
        .filter(is_taken)
        .map(|method| method.to_uppercase())
        .collect()
}

#[cfg(test)]
mod tests {
    use axum::{
        middleware,
        routing::{any, get, post},
    };

    use super::*;

    #[test]
    fn every_route_is_found_through_layers_and_nests() {
        let inner = Router::new()
            .route("/{id}", get(async || ()).delete(async || ()))
            .route("/{id}/action", post(async || ()).put(async || ()).patch(async || ()));
        let inner = inner.layer(middleware::map_response(async |response: axum::response::Response| {
            response
        }));
        let router = Router::new()
            .route("/", any(async || ()))
            .nest("/servers", inner)
            .merge(Router::new().route("/flavors", get(async || ())))
            .fallback(async || ());
        let found = of("compute", &router);
        let lines: Vec<String> = found
            .iter()
            .map(|route| format!("{} {}", route.method, route.path))
            .collect();
        let wanted = [
            "* /",
            "GET /flavors",
            "DELETE /servers/{id}",
            "GET /servers/{id}",
            "PATCH /servers/{id}/action",
            "POST /servers/{id}/action",
            "PUT /servers/{id}/action",
        ];
        assert_eq!(lines, wanted);
    }
}
