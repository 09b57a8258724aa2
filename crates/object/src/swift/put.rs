//! How objects come in: from outside, as copies, as links, as manifests.

use std::sync::Arc;

use axum::{body::Body, response::Response};
use futures_util::StreamExt;
use http::{HeaderMap, Method, StatusCode};
use http_body::Body as _;
use madang_http::Failure;

use super::{
    ask::{Ask, Target, is_yes, quote, refuse, refused, unquote},
    container::empty,
    describe, large,
    object::{Found, find, writable},
    parts::{self, Reader},
    ranges::{Asked, asked},
    slo, symlink,
};
use crate::{
    disk::Uploaded,
    objects::{Bytes, Headers, NewObject, Object, ObjectError, Which},
};

/// The largest object that is not made of segments: Swift's limit.
pub const FILE_BYTES: u64 = 5_368_709_122;

/// Answers `PUT`.
///
/// # Errors
/// What is refused.
pub async fn answer(ask: &Ask, body: Body) -> Result<Response, Failure> {
    let copies = ask.headers.contains_key("x-copy-from");
    let has_length = ask.headers.contains_key("content-length")
        || ask.headers.contains_key("transfer-encoding")
        || !body.is_end_stream();
    if !has_length && !copies && !ask.query.has("version-id") {
        return Err(refuse(StatusCode::LENGTH_REQUIRED, "Missing Content-Length header."));
    }
    writable(ask).await?;
    if ask.header("if-none-match").is_some_and(|tag| tag.trim() != "*") {
        return Err(refuse(StatusCode::BAD_REQUEST, "If-None-Match only supports *"));
    }
    if ask.query.get("multipart-manifest") == Some("put") {
        return slo::put(ask, body).await;
    }
    if copies {
        return copy_from(ask).await;
    }
    if ask.query.has("version-id") {
        return bring_back(ask).await;
    }
    let said = describe::of_object(&ask.headers)?;
    if let Some(link) = symlink::asked(ask)? {
        return put_link(ask, body, said, link).await;
    }
    let uploaded = receive(ask, body).await?;
    check_etag(ask, uploaded.md5())?;
    let object = Object {
        bytes: uploaded.length(),
        etag: uploaded.md5().to_owned(),
        content_type: content_type(ask),
        headers: said,
        ..Object::default()
    };
    let kept = put(ask, object, Bytes::Uploaded(Arc::new(uploaded))).await?;
    Ok(created(&kept, &kept.etag))
}

/// Puts what was made ready.
///
/// # Errors
/// What the verb refuses.
pub async fn put(ask: &Ask, object: Object, bytes: Bytes) -> Result<Object, Failure> {
    let new = NewObject {
        object,
        bytes,
        only_new: ask.headers.contains_key("if-none-match"),
    };
    let Target {
        account,
        container,
        object,
    } = &ask.target;
    let which = Which::new(account, container, object);
    ask.api.objects.put_object(&which, new).await.map_err(refused)
}

/// The answer to a `PUT` that made an object.
pub fn created(object: &Object, etag: &str) -> Response {
    let mut response = empty(StatusCode::CREATED);
    let headers = response.headers_mut();
    describe::put(headers, "etag", etag);
    describe::put(headers, "last-modified", object.at.http());
    if let Some(version) = object.version {
        describe::put(headers, "x-object-version-id", version);
    }
    response
}

/// Takes a body, at whatever speed it comes.
///
/// # Errors
/// 413 where it is too large, 499 where it breaks off.
pub async fn receive(ask: &Ask, body: Body) -> Result<Uploaded, Failure> {
    let too_large = || refuse(StatusCode::PAYLOAD_TOO_LARGE, "Your request is too large.");
    let announced = ask.header("content-length").and_then(|text| text.parse::<u64>().ok());
    if announced.is_some_and(|bytes| bytes > FILE_BYTES) {
        return Err(too_large());
    }
    ask.info.allow(None);
    let mut upload = ask.api.objects.disk().upload();
    let mut stream = body.into_data_stream();
    while let Some(piece) = stream.next().await {
        let gone = StatusCode::from_u16(madang_http::CLIENT_GONE).unwrap_or(StatusCode::BAD_REQUEST);
        let piece = piece.map_err(|_| refuse(gone, "Client Disconnect"))?;
        upload.write(&piece).await.map_err(|error| refused(error.into()))?;
        if upload.length() > FILE_BYTES {
            return Err(too_large());
        }
    }
    upload.finish().await.map_err(|error| refused(error.into()))
}

/// Whether the bytes are those that were meant.
///
/// # Errors
/// 422 where not.
pub fn check_etag(ask: &Ask, etag: &str) -> Result<(), Failure> {
    let meant = ask
        .header("etag")
        .map(|tag| tag.trim().trim_matches('"').to_ascii_lowercase());
    match meant {
        Some(meant) if !meant.is_empty() && meant != etag => Err(refuse(StatusCode::UNPROCESSABLE_ENTITY, "")),
        _ => Ok(()),
    }
}

/// What the object is: as said, else by its name.
pub fn content_type(ask: &Ask) -> String {
    let said = ask.header("content-type").filter(|kind| !kind.is_empty());
    match said.filter(|_| !ask.flag("x-detect-content-type")) {
        Some(kind) => kind.to_owned(),
        None => describe::guess_type(&ask.target.object).to_owned(),
    }
}

async fn put_link(ask: &Ask, body: Body, said: Headers, link: Headers) -> Result<Response, Failure> {
    let uploaded = receive(ask, body).await?;
    if uploaded.length() > 0 {
        return Err(refuse(
            StatusCode::BAD_REQUEST,
            "Symlink requests require a zero byte body",
        ));
    }
    let mut headers = said;
    headers.extend(link);
    let mut object = Object {
        etag: uploaded.md5().to_owned(),
        content_type: "application/symlink".to_owned(),
        headers,
        ..Object::default()
    };
    if let Some(etag) = object.headers.get("x-symlink-target-etag").cloned() {
        let target = symlink::target(&ask.target.account, &object);
        let target = target.ok_or_else(|| refuse(StatusCode::PRECONDITION_FAILED, ""))?;
        let found = find(ask, target, true)
            .await
            .map_err(|_| refuse(StatusCode::CONFLICT, "X-Symlink-Target does not exist"))?;
        if found.given.object.etag != etag {
            let text = "Object Etag does not match X-Symlink-Target-Etag header value";
            return Err(refuse(StatusCode::CONFLICT, text));
        }
        let bytes = found.given.object.bytes.to_string();
        object.headers.insert("x-symlink-target-bytes".to_owned(), bytes);
    }
    if let Some(kind) = ask.header("content-type").filter(|kind| !kind.is_empty()) {
        kind.clone_into(&mut object.content_type);
    }
    let kept = put(ask, object, Bytes::Uploaded(Arc::new(uploaded))).await?;
    Ok(created(&kept, &kept.etag))
}

/// `CONTAINER/OBJECT` of a header, as Swift takes it.
fn place(header: &str, value: &str) -> Result<(String, String), Failure> {
    let text = unquote(value.split('?').next().unwrap_or_default());
    let parts = text.trim_start_matches('/').split_once('/');
    match parts.filter(|(container, name)| !container.is_empty() && !name.is_empty()) {
        Some((container, name)) => Ok((container.to_owned(), name.to_owned())),
        None => {
            let text = format!("{header} header must be of the form <container name>/<object name>");
            Err(refuse(StatusCode::PRECONDITION_FAILED, &text))
        }
    }
}

fn account_of(ask: &Ask, header: &str) -> Result<String, Failure> {
    let account = ask.header(header).map(unquote);
    match account {
        Some(account) if account.contains('/') || account.is_empty() => Err(refuse(
            StatusCode::PRECONDITION_FAILED,
            "Account name cannot contain slashes",
        )),
        Some(account) => Ok(account),
        None => Ok(ask.target.account.clone()),
    }
}

/// Answers `COPY`.
///
/// # Errors
/// What is refused.
pub async fn copy_to(ask: &Ask) -> Result<Response, Failure> {
    let Some(destination) = ask.header("destination") else {
        return Err(refuse(StatusCode::PRECONDITION_FAILED, "Destination header required"));
    };
    let (container, object) = place("Destination", destination)?;
    let there = Ask {
        method: Method::PUT,
        target: Target {
            account: account_of(ask, "destination-account")?,
            container,
            object,
        },
        ..ask.clone()
    };
    writable(&there).await?;
    let source = ask.which()?;
    copy(&there, source).await
}

async fn copy_from(ask: &Ask) -> Result<Response, Failure> {
    let has_body = ask.header("content-length").is_some_and(|length| length != "0");
    if has_body {
        return Err(refuse(
            StatusCode::BAD_REQUEST,
            "Copy requests require a zero byte body",
        ));
    }
    let value = ask.header("x-copy-from").unwrap_or_default();
    let (container, name) = place("X-Copy-From", value)?;
    let mut source = Which::new(&account_of(ask, "x-copy-from-account")?, &container, &name);
    if let Some((_, query)) = value.split_once('?') {
        let query = madang_http::Query::parse(query);
        source.version = query.get("version-id").and_then(crate::Stamp::parse);
    }
    copy(ask, source).await
}

/// Whose metadata is not taken over: what an object is made of, and what is only so where it was.
fn is_its_own(name: &str) -> bool {
    name == "x-object-manifest" || name.starts_with("x-symlink-target")
}

async fn copy(ask: &Ask, source: Which) -> Result<Response, Failure> {
    let from = Ask {
        method: Method::GET,
        target: Target {
            account: source.account.clone(),
            container: source.container.clone(),
            object: source.name.clone(),
        },
        ..ask.clone()
    };
    let follow = ask.query.get("symlink") != Some("get");
    let found = find(&from, source.clone(), follow).await?;
    let is_as_it_is = ask.query.get("multipart-manifest") == Some("get");
    let old = &found.given.object;
    let mut object = Object {
        content_type: ask
            .header("content-type")
            .filter(|kind| !kind.is_empty())
            .map_or_else(|| old.content_type.clone(), str::to_owned),
        ..Object::default()
    };
    if !ask.header("x-fresh-metadata").is_some_and(is_yes) {
        let kept = old
            .headers
            .iter()
            .filter(|(name, _)| is_as_it_is || !follow || !is_its_own(name));
        object
            .headers
            .extend(kept.map(|(name, value)| (name.clone(), value.clone())));
    } else if !follow || is_as_it_is {
        let own = old.headers.iter().filter(|(name, _)| is_its_own(name));
        object
            .headers
            .extend(own.map(|(name, value)| (name.clone(), value.clone())));
    }
    object.headers.extend(describe::of_object(&ask.headers)?);
    let bytes = bytes_of(&from, &found, &mut object, is_as_it_is).await?;
    check_etag(ask, &object.etag)?;
    let kept = put(ask, object, bytes).await?;
    let mut response = created(&kept, &kept.etag);
    let headers = response.headers_mut();
    describe::show(&kept.headers, headers);
    let path = format!("{}/{}", quote(&source.container), quote(&source.name));
    describe::put(headers, "x-copied-from", path);
    describe::put(headers, "x-copied-from-account", quote(&source.account));
    describe::put(headers, "x-copied-from-last-modified", found.given.object.at.http());
    Ok(response)
}

/// The bytes of a copy: the same ones where that can be, else what is put together and cut out.
async fn bytes_of(from: &Ask, found: &Found, object: &mut Object, is_as_it_is: bool) -> Result<Bytes, Failure> {
    let old = &found.given.object;
    let is_whole = is_as_it_is || (old.large.is_none() && !old.headers.contains_key("x-object-manifest"));
    let range = from.header("range");
    if is_whole && range.is_none() {
        object.bytes = old.bytes;
        object.etag.clone_from(&old.etag);
        object.large.clone_from(&old.large);
        return Ok(Bytes::Of {
            key: found.given.key.clone(),
            place: found.given.place,
        });
    }
    let mut parts = match is_as_it_is {
        true => vec![parts::Part::all(found.given.stream.clone())],
        false => large::parts(from, old, &found.given.stream).await?.0,
    };
    match asked(range, parts::length(&parts)) {
        Asked::All => {}
        Asked::One(span) => parts = parts::cut(&parts, span),
        Asked::Many(_) | Asked::Nothing => return Err(refuse(StatusCode::RANGE_NOT_SATISFIABLE, "")),
    }
    if parts::length(&parts) > FILE_BYTES {
        return Err(refuse(StatusCode::PAYLOAD_TOO_LARGE, ""));
    }
    from.info.allow(None);
    let mut upload = from.api.objects.disk().upload();
    Reader::new(&from.api.objects, parts).pour(&mut upload).await?;
    let uploaded = upload.finish().await.map_err(|error| refused(error.into()))?;
    object.bytes = uploaded.length();
    uploaded.md5().clone_into(&mut object.etag);
    Ok(Bytes::Uploaded(Arc::new(uploaded)))
}

/// `PUT ?version-id=`: an older version is the newest once more.
async fn bring_back(ask: &Ask) -> Result<Response, Failure> {
    let which = ask.which()?;
    let (_, given) = ask.api.objects.object(&which).await.map_err(refused)?;
    let given = given.filter(|given| !given.object.deleted);
    let given = given.ok_or_else(|| refuse(StatusCode::NOT_FOUND, ""))?;
    let bytes = Bytes::Of {
        key: given.key,
        place: given.place,
    };
    let kept = put(ask, given.object, bytes).await?;
    Ok(created(&kept, &kept.etag))
}

/// What a verb's own failure is, where a part of a request fails by itself.
pub fn status_of(failure: &Failure) -> StatusCode {
    failure.status().unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// As [`status_of`], of a verb.
pub fn status_of_verb(error: ObjectError) -> StatusCode {
    status_of(&refused(error))
}

/// `404 Not Found`.
pub fn line(status: StatusCode) -> String {
    let text = match status.as_u16() {
        413 => "Request Entity Too Large",
        _ => status.canonical_reason().unwrap_or_default(),
    };
    format!("{} {text}", status.as_u16())
}

/// A request for another object, without what was said of the first.
pub fn about(ask: &Ask, method: Method, target: Target) -> Ask {
    Ask {
        method,
        target,
        headers: HeaderMap::new(),
        query: madang_http::Query::default(),
        ..ask.clone()
    }
}
