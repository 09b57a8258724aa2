//! Containers.

use axum::{body::Body, response::Response};
use http::{HeaderMap, Method, StatusCode};
use madang_http::Failure;

use super::{
    access::{self, Standing},
    ask::{Ask, CONTAINER_BYTES, is_yes, refuse, refused, too_long},
    describe,
    listing::{self, Format},
    staticweb,
};
use crate::objects::{Container, Listed, ObjectError};

/// What may be set on a container beside its metadata.
const ALSO: [&str; 6] = [
    "x-container-read",
    "x-container-write",
    "x-container-sync-key",
    "x-container-sync-to",
    "x-versions-location",
    "x-history-location",
];

/// The only storage policy.
pub const STORAGE_POLICY: &str = "Policy-0";

/// Answers what is about a container.
///
/// # Errors
/// What is refused.
pub async fn answer(ask: &Ask) -> Result<Response, Failure> {
    let Ask { api, target, .. } = ask;
    let found = api.objects.container(&target.account, &target.container).await;
    let found = found.map_err(refused)?;
    let container = found.as_ref().map(|listed| &listed.container);
    if ask.reads()
        && let Some(listed) = &found
        && let Some(page) = staticweb::container(ask, listed).await?
    {
        return Ok(page);
    }
    let standing = access::container(ask, container)?;
    match ask.method {
        Method::GET | Method::HEAD => {
            let listed = found.ok_or_else(|| refuse(StatusCode::NOT_FOUND, ""))?;
            show(ask, &listed, standing).await
        }
        Method::PUT | Method::POST => change(ask).await,
        Method::DELETE => {
            let deleted = api.objects.delete_container(&target.account, &target.container);
            deleted.await.map_err(refused)?;
            Ok(empty(StatusCode::NO_CONTENT))
        }
        _ => Err(refuse(StatusCode::METHOD_NOT_ALLOWED, "")),
    }
}

/// An answer without a body.
pub fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

async fn show(ask: &Ask, listed: &Listed, standing: Standing) -> Result<Response, Failure> {
    let format = Format::of(ask)?;
    let mut response = if ask.method == Method::HEAD {
        let mut response = empty(StatusCode::NO_CONTENT);
        response
            .headers_mut()
            .insert(http::header::CONTENT_TYPE, format.content_type());
        response
    } else {
        let root = ("container", ask.target.container.as_str());
        listing::answer(format, root, &records(ask, listed).await?)
    };
    describe_container(listed, standing, response.headers_mut());
    Ok(response)
}

async fn records(
    ask: &Ask,
    listed: &Listed,
) -> Result<Vec<(&'static str, serde_json::Map<String, serde_json::Value>)>, Failure> {
    let objects = &ask.api.objects;
    let wanted = listing::wanted(ask)?;
    if !ask.query.has("versions") {
        let lines = objects.objects(listed.container.id, wanted).await.map_err(refused)?;
        return Ok(listing::objects(lines));
    }
    if wanted.reverse || !wanted.delimiter.is_empty() {
        let text = "Listing versions takes no reverse and no delimiter";
        return Err(refuse(StatusCode::BAD_REQUEST, text));
    }
    let version = match ask.query.get("version_marker") {
        None => None,
        Some(_) if wanted.marker.is_empty() => {
            return Err(refuse(
                StatusCode::BAD_REQUEST,
                "version_marker without a marker, or invalid",
            ));
        }
        Some("null") => Some(crate::Stamp::default()),
        Some(text) => Some(
            crate::Stamp::parse(text).ok_or_else(|| refuse(StatusCode::BAD_REQUEST, "Invalid version_marker param"))?,
        ),
    };
    let after = (!wanted.marker.is_empty()).then(|| (wanted.marker.clone(), version));
    let versions = objects.versions(
        &ask.target.account,
        &ask.target.container,
        &wanted.prefix,
        after,
        wanted.limit,
    );
    Ok(listing::versions(versions.await.map_err(refused)?))
}

/// What is said of a container.
pub fn describe_container(listed: &Listed, standing: Standing, headers: &mut HeaderMap) {
    let Listed { container, used } = listed;
    let mut kept = container.headers.clone();
    if !standing.is_owner() {
        describe::OWNERS.iter().for_each(|name| _ = kept.remove(*name));
    }
    describe::show(&kept, headers);
    describe::put(headers, "x-container-object-count", used.objects);
    describe::put(headers, "x-container-bytes-used", used.bytes);
    describe::put(headers, "x-timestamp", container.created);
    describe::put(headers, "x-put-timestamp", container.created);
    describe::put(headers, "last-modified", container.changed.http());
    describe::put(headers, "x-storage-policy", STORAGE_POLICY);
    describe::put(headers, "accept-ranges", "bytes");
    if let Some(on) = container.versions {
        describe::put(headers, "x-versions-enabled", if on { "True" } else { "False" });
    }
}

async fn change(ask: &Ask) -> Result<Response, Failure> {
    let target = &ask.target;
    let makes = ask.method == Method::PUT;
    if makes {
        check_name(&target.container)?;
    }
    if let Some(policy) = ask.header("x-storage-policy").filter(|_| makes)
        && !policy.eq_ignore_ascii_case(STORAGE_POLICY)
    {
        let text = format!("Invalid X-Storage-Policy '{policy}'");
        return Err(refuse(StatusCode::BAD_REQUEST, &text));
    }
    for name in ["x-container-meta-quota-bytes", "x-container-meta-quota-count"] {
        let value = ask.header(name).unwrap_or_default();
        if !value.is_empty() && value.parse::<u64>().is_err() {
            let text = match name.ends_with("bytes") {
                true => "Invalid bytes quota.",
                false => "Invalid count quota.",
            };
            return Err(refuse(StatusCode::BAD_REQUEST, text));
        }
    }
    let versions = ask.header("x-versions-enabled").map(is_yes);
    let locations = ["x-versions-location", "x-history-location"].map(|name| ask.header(name).unwrap_or_default());
    if locations.iter().all(|location| !location.is_empty()) {
        let text = "Only one of X-Versions-Location and X-History-Location may be specified";
        return Err(refuse(StatusCode::BAD_REQUEST, text));
    }
    if versions == Some(true) && locations.iter().any(|location| !location.is_empty()) {
        let text = "Cannot enable object versioning with X-Versions-Location or X-History-Location";
        return Err(refuse(StatusCode::BAD_REQUEST, text));
    }
    let headers = ask.headers.clone();
    let set = ask
        .api
        .objects
        .set_container(&target.account, &target.container, makes, move |container| {
            set_all(container, &headers, versions)
        });
    let was_there = set.await.map_err(refused)?;
    Ok(empty(match (makes, was_there) {
        (false, _) => StatusCode::NO_CONTENT,
        (true, false) => StatusCode::CREATED,
        (true, true) => StatusCode::ACCEPTED,
    }))
}

fn set_all(container: &mut Container, headers: &HeaderMap, versions: Option<bool>) -> Result<(), ObjectError> {
    let invalid = |failure: Failure| ObjectError::Invalid(failure.message);
    // One way of keeping versions takes the place of the other.
    let pair = ["x-versions-location", "x-history-location"];
    for (set, other) in [(pair[0], pair[1]), (pair[1], pair[0])] {
        if headers.get(set).is_some_and(|value| !value.is_empty()) {
            container.headers.remove(other);
        }
    }
    describe::change("container", &mut container.headers, headers, &ALSO).map_err(invalid)?;
    if let Some(on) = versions.filter(|on| *on || container.versions.is_some()) {
        if on && pair.iter().any(|name| container.header(name).is_some()) {
            let text = "Cannot enable object versioning on a container with X-Versions-Location or X-History-Location";
            return Err(ObjectError::Invalid(text.to_owned()));
        }
        container.versions = Some(on);
    }
    Ok(())
}

/// Whether a container may be called so.
///
/// # Errors
/// 400 where not.
pub fn check_name(name: &str) -> Result<(), Failure> {
    if name.len() > CONTAINER_BYTES {
        return Err(too_long("Container", name.len(), CONTAINER_BYTES));
    }
    if name.contains('/') {
        return Err(refuse(StatusCode::BAD_REQUEST, "Container name cannot contain slashes"));
    }
    Ok(())
}
