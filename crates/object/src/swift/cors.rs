//! Browsers on other sites: whom a container's owner lets look.

use axum::response::Response;
use http::{HeaderMap, StatusCode};
use madang_http::Failure;

use super::{
    ask::{Ask, refuse, refused},
    container::empty,
    describe,
};
use crate::objects::Container;

const METHODS: &str = "HEAD, GET, PUT, POST, COPY, OPTIONS, DELETE";
const ALLOW: &str = "access-control-allow-origin";
/// What browsers are always shown.
const EXPOSED: [&str; 9] = [
    "cache-control",
    "content-language",
    "content-type",
    "expires",
    "last-modified",
    "pragma",
    "etag",
    "x-timestamp",
    "x-trans-id",
];

async fn container_of(ask: &Ask) -> Result<Option<Container>, Failure> {
    let (account, container) = (&ask.target.account, &ask.target.container);
    if container.is_empty() {
        return Ok(None);
    }
    let found = ask.api.objects.container(account, container).await.map_err(refused)?;
    Ok(found.map(|listed| listed.container))
}

fn meta<'c>(container: &'c Container, name: &str) -> Option<&'c str> {
    container.header(&format!("x-container-meta-{name}"))
}

/// The word for an origin that is let in.
fn allowed<'o>(container: &'o Container, origin: &'o str) -> Option<&'o str> {
    let mut words = meta(container, ALLOW)?
        .split([' ', ','])
        .filter(|word| !word.is_empty());
    words.find_map(|word| match word {
        "*" => Some("*"),
        word if word.trim_end_matches('/') == origin => Some(origin),
        _ => None,
    })
}

/// Answers `OPTIONS`.
///
/// # Errors
/// 401 for an origin that is not let in.
pub async fn options(ask: &Ask) -> Result<Response, Failure> {
    let mut response = empty(StatusCode::OK);
    let headers = response.headers_mut();
    describe::put(headers, "allow", METHODS);
    let Some(origin) = ask.header("origin") else {
        return Ok(response);
    };
    let container = container_of(ask).await?;
    let refused = || refuse(StatusCode::UNAUTHORIZED, "");
    let method = ask.header("access-control-request-method").ok_or_else(refused)?;
    let container = container.ok_or_else(refused)?;
    let word = allowed(&container, origin).ok_or_else(refused)?;
    if !METHODS.split(", ").any(|known| known == method) {
        return Err(refused());
    }
    describe::put(headers, "access-control-allow-origin", word);
    describe::put(headers, "access-control-allow-methods", METHODS);
    if let Some(age) = meta(&container, "access-control-max-age") {
        describe::put(headers, "access-control-max-age", age);
    }
    if let Some(asked) = ask.header("access-control-request-headers") {
        describe::put(headers, "access-control-allow-headers", asked);
    }
    if word != "*" {
        describe::put(headers, "vary", "Origin, Access-Control-Request-Headers");
    }
    Ok(response)
}

/// Tells a browser what it may show to a page of another site.
pub async fn finish(ask: &Ask, headers: &mut HeaderMap) {
    let Some(origin) = ask.header("origin") else { return };
    let Ok(Some(container)) = container_of(ask).await else {
        return;
    };
    let Some(word) = allowed(&container, origin) else {
        return;
    };
    let mut exposed: Vec<String> = EXPOSED.iter().map(|name| (*name).to_owned()).collect();
    let own = headers.keys().map(http::HeaderName::as_str);
    let meta_names = own.filter(|name| name.starts_with("x-object-meta-") || name.starts_with("x-container-meta-"));
    exposed.extend(meta_names.map(str::to_owned));
    if let Some(more) = meta(&container, "access-control-expose-headers") {
        exposed.extend(
            more.split([' ', ','])
                .filter(|name| !name.is_empty())
                .map(str::to_lowercase),
        );
    }
    describe::put(headers, "access-control-allow-origin", word);
    describe::put(headers, "access-control-expose-headers", exposed.join(", "));
    if word != "*" {
        describe::put(headers, "vary", "Origin");
    }
}
