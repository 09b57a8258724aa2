//! `PUT ?multipart-manifest=put`: a static large object is made of a list of its segments.

use std::sync::Arc;

use axum::{body::Body, response::Response};
use base64::{Engine, engine::general_purpose::STANDARD};
use http::{Method, StatusCode};
use http_body_util::{BodyExt, Limited};
use madang_http::Failure;
use md5::{Digest, Md5};
use serde::Deserialize;

use super::{
    ask::{Ask, Target, refuse, refused},
    bulk, describe,
    large::Segment,
    listing, put,
    ranges::{Asked, asked},
};
use crate::{
    disk::{Uploaded, hex},
    objects::{Bytes, Large, Object},
};

/// Swift's limits.
pub const SEGMENTS: usize = 1000;
/// Swift's limits.
pub const MANIFEST_BYTES: usize = 8 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Given {
    path: Option<String>,
    etag: Option<String>,
    size_bytes: Option<serde_json::Value>,
    range: Option<String>,
    data: Option<String>,
}

/// Answers the request.
///
/// # Errors
/// What is wrong with the list, or with a segment.
pub async fn put(ask: &Ask, body: Body) -> Result<Response, Failure> {
    let bad = |text: &str| refuse(StatusCode::BAD_REQUEST, text);
    let bytes = Limited::new(body, MANIFEST_BYTES).collect().await;
    let bytes = bytes.map_err(|_| refuse(StatusCode::PAYLOAD_TOO_LARGE, "Manifest File > 8388608 bytes"))?;
    let given: Vec<Given> = serde_json::from_slice(&bytes.to_bytes())
        .map_err(|error| bad(&format!("Manifest must be valid JSON: {error}.\n")))?;
    if given.is_empty() {
        return Err(bad("Manifest must have at least one segment.\n"));
    }
    if given.len() > SEGMENTS {
        let text = format!("Number of object-backed segments must be <= {SEGMENTS}.\n");
        return Err(refuse(StatusCode::PAYLOAD_TOO_LARGE, &text));
    }
    let said = describe::of_object(&ask.headers)?;
    let mut problems = Vec::new();
    let mut segments = Vec::new();
    for (i, one) in given.into_iter().enumerate() {
        match segment(ask, i, one).await? {
            Ok(segment) => segments.push(segment),
            Err(problem) => problems.push(problem),
        }
    }
    if !problems.is_empty() {
        let format = listing::best(ask.header("accept").unwrap_or("text/plain")).unwrap_or(listing::Format::Plain);
        let (body, _) = bulk::report(format, "upload", &[], &problems);
        return Err(bad(&body));
    }
    let total: u64 = segments.iter().map(Segment::length).sum();
    if total == 0 {
        return Err(bad("Too small; each segment must be at least 1 byte.\n"));
    }
    let etag = etag_of(&segments);
    put::check_etag(ask, &etag)?;
    let manifest = serde_json::to_vec(&segments).unwrap_or_default();
    let uploaded = Uploaded::of(manifest.into());
    let object = Object {
        bytes: uploaded.length(),
        etag: uploaded.md5().to_owned(),
        content_type: put::content_type(ask),
        headers: said,
        large: Some(Large {
            etag: etag.clone(),
            bytes: total,
        }),
        ..Object::default()
    };
    let kept = put::put(ask, object, Bytes::Uploaded(Arc::new(uploaded))).await?;
    Ok(put::created(&kept, &format!("\"{etag}\"")))
}

fn etag_of(segments: &[Segment]) -> String {
    let mut md5 = Md5::new();
    for segment in segments {
        md5.update(segment.hash.as_bytes());
        if let Some(range) = &segment.range {
            md5.update(format!(":{range};").as_bytes());
        }
    }
    hex(&md5.finalize())
}

/// A segment as it is kept; or its name, with what is wrong with it.
async fn segment(ask: &Ask, index: usize, given: Given) -> Result<Result<Segment, (String, String)>, Failure> {
    if let Some(data) = given.data {
        let clean: String = data.chars().filter(|c| !c.is_whitespace()).collect();
        let bytes = STANDARD.decode(&clean).ok().filter(|bytes| !bytes.is_empty());
        let Some(bytes) = bytes else {
            let text = format!("Index {index}: data must be valid base64 and not empty\n");
            return Err(refuse(StatusCode::BAD_REQUEST, &text));
        };
        return Ok(Ok(Segment {
            hash: hex(&Md5::digest(&bytes)),
            bytes: bytes.len() as u64,
            data: Some(clean),
            ..Segment::default()
        }));
    }
    let path = given.path.unwrap_or_default();
    let Some((container, name)) = path
        .trim_start_matches('/')
        .split_once('/')
        .filter(|(_, name)| !name.is_empty())
    else {
        let text =
            format!("Index {index}: path does not refer to an object. Path must be of the form /container/object.\n");
        return Err(refuse(StatusCode::BAD_REQUEST, &text));
    };
    let size = match given.size_bytes {
        None | Some(serde_json::Value::Null) => None,
        Some(value) => {
            let number = value.as_u64().or_else(|| value.as_str()?.parse().ok());
            let bad = || refuse(StatusCode::BAD_REQUEST, &format!("Index {index}: invalid size_bytes\n"));
            Some(number.ok_or_else(bad)?)
        }
    };
    let target = Target {
        account: ask.target.account.clone(),
        container: container.to_owned(),
        object: name.to_owned(),
    };
    let there = put::about(ask, Method::HEAD, target);
    let problem = |text: &str| Ok(Err((super::ask::quote(&path), text.to_owned())));
    let found = match super::object::find(&there, there.which()?, true).await {
        Ok(found) => found,
        Err(failure) => return problem(&put::line(put::status_of(&failure))),
    };
    let object = &found.given.object;
    let (hash, bytes) = match &object.large {
        Some(large) => (large.etag.clone(), large.bytes),
        None => (object.etag.clone(), object.bytes),
    };
    if size.is_some_and(|size| size != bytes) {
        return problem("Size Mismatch");
    }
    if given.etag.as_ref().is_some_and(|etag| etag.trim_matches('"') != hash) {
        return problem("Etag Mismatch");
    }
    let range = match given.range {
        None => None,
        Some(range) => match asked(Some(&format!("bytes={range}")), bytes) {
            Asked::One((from, to)) if from == 0 && to == bytes => None,
            Asked::One((from, to)) => Some(format!("{from}-{}", to - 1)),
            _ => return problem("Unsatisfiable Range"),
        },
    };
    if bytes == 0 {
        return problem("Too Small; each segment must be at least 1 byte.");
    }
    Ok(Ok(Segment {
        name: format!("/{container}/{name}"),
        hash,
        bytes,
        content_type: object.content_type.clone(),
        last_modified: object.at.iso(),
        range,
        sub_slo: object.large.is_some(),
        data: None,
    }))
}

/// The segments of a manifest, and of those that it names, as objects.
///
/// # Errors
/// When one cannot be read.
pub async fn all_segments(ask: &Ask, segments: Vec<Segment>, depth: usize) -> Result<Vec<Target>, Failure> {
    let mut all = Vec::new();
    for segment in segments.into_iter().filter(|segment| segment.data.is_none()) {
        let which = segment.which(&ask.target.account);
        if segment.sub_slo && depth < 10 {
            let (_, given) = ask.api.objects.object(&which).await.map_err(refused)?;
            if let Some(given) = given.filter(|given| given.object.large.is_some()) {
                let inner = super::large::manifest(&given.stream).await?;
                all.extend(Box::pin(all_segments(ask, inner, depth + 1)).await?);
            }
        }
        all.push(Target {
            account: which.account,
            container: which.container,
            object: which.name,
        });
    }
    Ok(all)
}
