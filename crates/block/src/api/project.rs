//! The project in a path: `/v3/{project_id}/volumes`, which is also `/v3/volumes` (since 3.67, and harmless before).

use axum::{
    Router,
    extract::Request,
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use http::Uri;
use madang_http::Failure;
use madang_identity::Caller;

/// The project that a path names.
#[derive(Clone)]
struct Named(String);

/// Takes the project out of the path before the router chooses by it.
pub(super) fn outside(router: Router) -> Router {
    let strip = tower::service_fn(move |mut request: Request| {
        if let Some((uri, project)) = without_project(request.uri()) {
            *request.uri_mut() = uri;
            request.extensions_mut().insert(Named(project));
        }
        tower::ServiceExt::oneshot(router.clone(), request)
    });
    Router::new().fallback_service(strip)
}

/// Refuses a path that names another project than the token.
pub(super) async fn check(request: Request, next: Next) -> Response {
    let named = request.extensions().get::<Named>();
    let own = request
        .extensions()
        .get::<Caller>()
        .and_then(|caller| caller.subject.project_id());
    if let (Some(Named(named)), Some(own)) = (named, own)
        && named != own
    {
        return Failure::invalid("Malformed request url").into_response();
    }
    next.run(request).await
}

fn without_project(uri: &Uri) -> Option<(Uri, String)> {
    let rest = uri.path().strip_prefix("/v3/")?;
    let (project, rest) = rest.split_once('/').unwrap_or((rest, ""));
    let is_id = project.len() >= 8 && project.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    if !is_id {
        return None;
    }
    let path = match uri.query() {
        Some(query) => format!("/v3/{rest}?{query}"),
        None => format!("/v3/{rest}"),
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(path.parse().ok()?);
    Some((Uri::from_parts(parts).ok()?, project.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_project_leaves_the_path() {
        let strip = |uri: &str| {
            let (uri, project) = without_project(&uri.parse().unwrap())?;
            Some((uri.to_string(), project))
        };
        let id = "0123456789abcdef0123456789abcdef";
        assert_eq!(
            strip(&format!("/v3/{id}/volumes/detail?limit=1")),
            Some(("/v3/volumes/detail?limit=1".to_owned(), id.to_owned()))
        );
        assert_eq!(strip("/v3/volumes"), None);
        assert_eq!(strip("/v3/"), None);
        assert_eq!(strip("/"), None);
    }
}
