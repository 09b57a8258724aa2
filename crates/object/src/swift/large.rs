//! Large objects: a manifest that names its segments (static), and all that begin with a name (dynamic).

use std::collections::BTreeSet;

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{Method, StatusCode};
use madang_http::Failure;
use md5::{Digest, Md5};
use serde::{Deserialize, Serialize};

use super::{
    access,
    ask::{Ask, Target, refuse, refused},
    parts::{Part, Source},
    ranges::{Asked, asked},
};
use crate::{
    disk::{Stream, hex},
    listing::{Line, Wanted},
    objects::{Object, Which},
};

/// How deep manifests may name manifests.
const DEPTH: usize = 10;
/// Segments that are looked up at a time.
const BATCH: usize = 10_000;

/// A segment of a static large object, as a manifest is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// `/CONTAINER/OBJECT`; nothing where the bytes are here.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Its MD5.
    pub hash: String,
    /// How many bytes it has.
    pub bytes: u64,
    /// What it is.
    #[serde(default)]
    pub content_type: String,
    /// When it was last changed.
    #[serde(default)]
    pub last_modified: String,
    /// The part of it that is meant, where not all is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<String>,
    /// It is a manifest itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sub_slo: bool,
    /// The bytes themselves, in base 64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
}

impl Segment {
    /// Which object it is.
    pub fn which(&self, account: &str) -> Which {
        let (container, name) = self.name.trim_start_matches('/').split_once('/').unwrap_or_default();
        Which::new(account, container, name)
    }

    /// How many bytes of it are meant.
    pub fn length(&self) -> u64 {
        let (from, to) = self.span();
        to - from
    }

    fn span(&self) -> (u64, u64) {
        let range = self.range.as_ref().map(|range| format!("bytes={range}"));
        match asked(range.as_deref(), self.bytes) {
            Asked::One(span) => span,
            _ => (0, self.bytes),
        }
    }
}

/// Reads a manifest.
///
/// # Errors
/// When it is damaged.
pub async fn manifest(stream: &Stream) -> Result<Vec<Segment>, Failure> {
    let bytes = stream.all().await.map_err(|error| refused(error.into()))?;
    serde_json::from_slice(&bytes).map_err(|error| Failure::internal(format!("a manifest cannot be read: {error}")))
}

/// The pieces of an object; a manifest's are those of its segments. And its tag: in quotes where it is put together.
///
/// # Errors
/// When segments are not there, not what they were, or not for who asks.
pub async fn parts(ask: &Ask, object: &Object, stream: &Stream) -> Result<(Vec<Part>, String), Failure> {
    if let Some(large) = &object.large {
        let mut seen = BTreeSet::new();
        let parts = static_parts(ask, manifest(stream).await?, 0, &mut seen).await?;
        return Ok((parts, format!("\"{}\"", large.etag)));
    }
    match object.headers.get("x-object-manifest") {
        Some(manifest) => dynamic_parts(ask, manifest).await,
        None => Ok((vec![Part::all(stream.clone())], object.etag.clone())),
    }
}

/// Whether who asks may read what segments are in.
async fn may_read(ask: &Ask, container: &str, seen: &mut BTreeSet<String>) -> Result<(), Failure> {
    if ask.is_signed || !seen.insert(container.to_owned()) {
        return Ok(());
    }
    let found = ask.api.objects.container(&ask.target.account, container).await;
    let there = Ask {
        target: Target {
            container: container.to_owned(),
            ..ask.target.clone()
        },
        ..ask.clone()
    };
    let container = found.map_err(refused)?.map(|listed| listed.container);
    access::object_as(&there, container.as_ref(), &Method::GET)?;
    Ok(())
}

fn conflict() -> Failure {
    refuse(StatusCode::CONFLICT, "")
}

async fn static_parts(
    ask: &Ask,
    segments: Vec<Segment>,
    depth: usize,
    seen: &mut BTreeSet<String>,
) -> Result<Vec<Part>, Failure> {
    if depth > DEPTH {
        return Err(conflict());
    }
    let mut parts = Vec::new();
    for segment in segments {
        if let Some(data) = &segment.data {
            let bytes = STANDARD.decode(data).map_err(|_| conflict())?;
            parts.push(Part::all(Stream::of(bytes.into())));
            continue;
        }
        let which = segment.which(&ask.target.account);
        may_read(ask, &which.container, seen).await?;
        let span = segment.span();
        if segment.sub_slo {
            let (_, given) = ask.api.objects.object(&which).await.map_err(refused)?;
            let given = given.filter(|given| given.object.large.as_ref().is_some_and(|l| l.etag == segment.hash));
            let given = given.ok_or_else(conflict)?;
            let inner = manifest(&given.stream).await?;
            let inner = Box::pin(static_parts(ask, inner, depth + 1, seen)).await?;
            parts.extend(super::parts::cut(&inner, span));
            continue;
        }
        parts.push(Part {
            source: Source::Later(which, segment.hash),
            from: span.0,
            length: span.1 - span.0,
        });
    }
    // What cannot be read at all is told while there is still an answer to tell it with.
    if let Some(Part {
        source: Source::Later(which, etag),
        ..
    }) = parts.first()
    {
        let (_, given) = ask.api.objects.object(which).await.map_err(refused)?;
        if given.is_none_or(|given| given.object.etag != *etag) {
            return Err(conflict());
        }
    }
    Ok(parts)
}

async fn dynamic_parts(ask: &Ask, manifest: &str) -> Result<(Vec<Part>, String), Failure> {
    let (container, prefix) = manifest.split_once('/').unwrap_or((manifest, ""));
    may_read(ask, container, &mut BTreeSet::new()).await?;
    let (account, objects) = (&ask.target.account, &ask.api.objects);
    let mut parts = Vec::new();
    let mut md5 = Md5::new();
    let found = objects.container(account, container).await.map_err(refused)?;
    let Some(found) = found else {
        return Ok((parts, format!("\"{}\"", hex(&md5.finalize()))));
    };
    let mut marker = String::new();
    loop {
        let wanted = Wanted {
            prefix: prefix.to_owned(),
            marker,
            limit: BATCH,
            ..Wanted::default()
        };
        let lines = objects.objects(found.container.id, wanted).await.map_err(refused)?;
        let is_last = lines.len() < BATCH;
        marker = String::new();
        for line in lines {
            let Line::One(name, (object, _)) = line else { continue };
            md5.update(object.etag.as_bytes());
            marker.clone_from(&name);
            parts.push(Part {
                source: Source::Later(Which::new(account, container, &name), object.etag),
                from: 0,
                length: object.bytes,
            });
        }
        if is_last {
            break;
        }
    }
    Ok((parts, format!("\"{}\"", hex(&md5.finalize()))))
}
