//! Objects: read, described, deleted. How they come in is in [`super::put`].

use axum::{body::Body, response::Response};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use madang_http::Failure;

use super::{
    access,
    ask::{Ask, OBJECT_BYTES, Target, refuse, refused, too_long},
    bulk,
    container::empty,
    describe,
    large::{self, Segment},
    parts::{self, Part, Reader},
    put,
    ranges::{self, Asked, Met},
    staticweb, symlink,
};
use crate::objects::{Container, Given, Object, ObjectError, Which};

/// Answers what is about an object.
///
/// # Errors
/// What is refused.
pub async fn answer(ask: &Ask, body: Body) -> Result<Response, Failure> {
    match ask.method.as_str() {
        "GET" | "HEAD" => show_or_page(ask).await,
        "PUT" => put::answer(ask, body).await,
        "COPY" => put::copy_to(ask).await,
        "POST" => describe_anew(ask).await,
        "DELETE" => delete(ask).await,
        _ => Err(refuse(StatusCode::METHOD_NOT_ALLOWED, "")),
    }
}

/// An object that was found, behind whatever links lead to it.
pub struct Found {
    /// Where it is.
    pub which: Which,
    /// The object.
    pub given: Given,
    /// Whether a link led to it.
    pub is_linked: bool,
}

/// Finds an object that who asks may read.
///
/// # Errors
/// 401, 403, 404; 409 where links go in circles.
pub async fn find(ask: &Ask, mut which: Which, follow: bool) -> Result<Found, Failure> {
    let mut etag: Option<String> = None;
    for hops in 0..=symlink::MOST {
        let there = Ask {
            target: Target {
                account: which.account.clone(),
                container: which.container.clone(),
                object: which.name.clone(),
            },
            ..ask.clone()
        };
        let (container, given) = ask.api.objects.object(&which).await.map_err(refused)?;
        access::object_as(&there, container.as_ref(), &Method::GET)?;
        let found = container.zip(given).filter(|(_, given)| !given.object.deleted);
        let Some((_, given)) = found else {
            return Err(refuse(StatusCode::NOT_FOUND, ""));
        };
        if etag.is_some_and(|etag| etag != given.object.etag) {
            return Err(refuse(
                StatusCode::CONFLICT,
                "Object Etag does not match X-Symlink-Target-Etag header.",
            ));
        }
        match symlink::target(&which.account, &given.object).filter(|_| follow) {
            Some(target) => {
                etag = given.object.headers.get("x-symlink-target-etag").cloned();
                which = target;
            }
            None => {
                return Ok(Found {
                    which,
                    given,
                    is_linked: hops > 0,
                });
            }
        }
    }
    let text = format!(
        "Too many levels of symbolic links, maximum allowed is {}",
        symlink::MOST
    );
    Err(refuse(StatusCode::CONFLICT, &text))
}

async fn show_or_page(ask: &Ask) -> Result<Response, Failure> {
    match show(ask).await {
        Err(failure) => staticweb::object(ask, failure).await,
        shown => shown,
    }
}

/// Answers `GET` and `HEAD`.
///
/// # Errors
/// What is refused.
pub async fn show(ask: &Ask) -> Result<Response, Failure> {
    let follow = ask.query.get("symlink") != Some("get");
    let found = find(ask, ask.which()?, follow).await?;
    let object = &found.given.object;
    let is_manifest = ask.query.get("multipart-manifest") == Some("get");
    let mut headers = HeaderMap::new();
    describe_object(object, &mut headers);
    if found.is_linked {
        let path = format!(
            "/v1/{}/{}/{}",
            super::ask::quote(&found.which.account),
            super::ask::quote(&found.which.container),
            super::ask::quote(&found.which.name)
        );
        describe::put(&mut headers, "content-location", path);
    }
    let there = Ask {
        target: Target {
            account: found.which.account.clone(),
            container: found.which.container.clone(),
            object: found.which.name.clone(),
        },
        ..ask.clone()
    };
    let (all, etag) = match (is_manifest, &object.large) {
        (true, Some(_)) => {
            describe::put(&mut headers, "content-type", "application/json; charset=utf-8");
            manifest_as_asked(ask, &found.given).await?
        }
        (true, None) => (vec![Part::all(found.given.stream.clone())], object.etag.clone()),
        (false, _) => large::parts(&there, object, &found.given.stream).await?,
    };
    describe::put(&mut headers, "etag", &etag);
    respond(ask, headers, all, &etag, object.at.0).await
}

/// A manifest as it is kept, or (`format=raw`) as it would be put.
async fn manifest_as_asked(ask: &Ask, given: &Given) -> Result<(Vec<Part>, String), Failure> {
    let kept = || (vec![Part::all(given.stream.clone())], given.object.etag.clone());
    if ask.query.get("format") != Some("raw") {
        return Ok(kept());
    }
    let segments = large::manifest(&given.stream).await?;
    let raw = segments.into_iter().map(|segment| match segment {
        Segment { data: Some(data), .. } => serde_json::json!({ "data": data }),
        Segment {
            name,
            hash,
            bytes,
            range,
            ..
        } => {
            let mut value = serde_json::json!({ "path": name, "etag": hash, "size_bytes": bytes });
            if let Some(range) = range {
                value["range"] = range.into();
            }
            value
        }
    });
    let text = serde_json::to_string(&raw.collect::<Vec<_>>()).unwrap_or_default();
    let etag = crate::disk::Uploaded::of(text.clone().into()).md5().to_owned();
    Ok((vec![Part::text(text)], etag))
}

/// What is said of an object.
pub fn describe_object(object: &Object, headers: &mut HeaderMap) {
    describe::show(&object.headers, headers);
    describe::put(headers, "content-type", &object.content_type);
    describe::put(headers, "etag", &object.etag);
    describe::put(headers, "last-modified", object.at.http());
    describe::put(headers, "x-timestamp", object.at);
    describe::put(headers, "accept-ranges", "bytes");
    if object.large.is_some() {
        describe::put(headers, "x-static-large-object", "True");
        describe::put(headers, "x-manifest-etag", &object.etag);
    }
    if let Some(version) = object.version {
        describe::put(headers, "x-object-version-id", version);
    }
}

/// Answers with what of the pieces is asked for.
async fn respond(ask: &Ask, mut headers: HeaderMap, all: Vec<Part>, etag: &str, at: u64) -> Result<Response, Failure> {
    let length = parts::length(&all);
    match ranges::conditions(&ask.headers, Some(etag), crate::Stamp(at)) {
        Met::Yes => {}
        met => {
            let status = match met {
                Met::NotModified => StatusCode::NOT_MODIFIED,
                _ => StatusCode::PRECONDITION_FAILED,
            };
            let mut response = empty(status);
            *response.headers_mut() = headers;
            return Ok(response);
        }
    }
    let is_for_this = ask
        .header("if-range")
        .is_none_or(|tag| tag.trim_matches('"') == etag.trim_matches('"'));
    let range = ask.header("range").filter(|_| is_for_this && ask.method == Method::GET);
    let (status, parts) = match ranges::asked(range, length) {
        Asked::All => (StatusCode::OK, all),
        Asked::One(span) => {
            let text = format!("bytes {}-{}/{length}", span.0, span.1 - 1);
            describe::put(&mut headers, "content-range", text);
            (StatusCode::PARTIAL_CONTENT, parts::cut(&all, span))
        }
        Asked::Many(spans) => {
            let boundary = format!("{:032x}", rand::random::<u128>());
            let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
            let content_type = content_type.unwrap_or_default().to_owned();
            let mut pieces = Vec::new();
            for span in spans {
                pieces.push(Part::text(format!(
                    "--{boundary}\r\nContent-Type: {content_type}\r\nContent-Range: bytes {}-{}/{length}\r\n\r\n",
                    span.0,
                    span.1 - 1
                )));
                pieces.extend(parts::cut(&all, span));
                pieces.push(Part::text("\r\n".to_owned()));
            }
            pieces.push(Part::text(format!("--{boundary}--")));
            let kind = format!("multipart/byteranges;boundary={boundary}");
            describe::put(&mut headers, "content-type", kind);
            (StatusCode::PARTIAL_CONTENT, pieces)
        }
        Asked::Nothing => {
            let failure = refuse(StatusCode::RANGE_NOT_SATISFIABLE, "");
            let range = HeaderValue::try_from(format!("bytes */{length}"));
            return Err(match range {
                Ok(range) => failure.with_header(header::CONTENT_RANGE, range),
                Err(_) => failure,
            });
        }
    };
    describe::put(&mut headers, "content-length", parts::length(&parts));
    let body = if ask.method == Method::HEAD {
        Body::empty()
    } else {
        let mut reader = Reader::new(&ask.api.objects, parts);
        // With the first piece at hand, what cannot be read is still told in a status.
        let first = reader.next().await.map_err(refused)?;
        reader.body(Some(first.unwrap_or_default()))
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(response)
}

/// Who may write an object here, in a container that is there.
///
/// # Errors
/// 401, 403, 404.
pub async fn writable(ask: &Ask) -> Result<Container, Failure> {
    let Target {
        account,
        container,
        object,
    } = &ask.target;
    if object.len() > OBJECT_BYTES {
        return Err(too_long("Object", object.len(), OBJECT_BYTES));
    }
    let found = ask.api.objects.container(account, container).await.map_err(refused)?;
    let found = found.map(|listed| listed.container);
    access::object_as(ask, found.as_ref(), &Method::PUT)?;
    found.ok_or_else(|| refuse(StatusCode::NOT_FOUND, ""))
}

async fn describe_anew(ask: &Ask) -> Result<Response, Failure> {
    writable(ask).await?;
    let which = ask.which()?;
    let (_, given) = ask.api.objects.object(&which).await.map_err(refused)?;
    let link = given.and_then(|given| symlink::target(&which.account, &given.object));
    if let Some(target) = link {
        let location = format!(
            "{}/v1/{}/{}/{}",
            ask.info.mount(),
            super::ask::quote(&target.account),
            super::ask::quote(&target.container),
            super::ask::quote(&target.name)
        );
        let mut response = empty(StatusCode::TEMPORARY_REDIRECT);
        describe::put(response.headers_mut(), "location", location);
        return Ok(response);
    }
    let said = describe::of_object(&ask.headers)?;
    let content_type = ask
        .header("content-type")
        .filter(|kind| !kind.is_empty())
        .map(str::to_owned);
    let set = ask.api.objects.set_object(&which, move |object| {
        object.headers = said;
        if let Some(content_type) = content_type {
            object.content_type = content_type;
        }
        Ok(())
    });
    set.await.map_err(refused)?;
    Ok(empty(StatusCode::ACCEPTED))
}

async fn delete(ask: &Ask) -> Result<Response, Failure> {
    writable(ask).await?;
    let which = ask.which()?;
    if ask.query.get("multipart-manifest") == Some("delete") {
        return bulk::delete_with_segments(ask, &which).await;
    }
    let deleted = match ask.api.objects.delete_object(&which).await {
        Err(ObjectError::Invalid(_)) => return Err(refuse(StatusCode::BAD_REQUEST, "")),
        deleted => deleted.map_err(refused)?,
    };
    let mut response = empty(StatusCode::NO_CONTENT);
    let version = deleted.and_then(|sign| sign.version).or(which.version);
    if let Some(version) = version {
        describe::put(response.headers_mut(), "x-object-version-id", version);
    }
    Ok(response)
}
