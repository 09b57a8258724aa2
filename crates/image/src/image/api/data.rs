//! An image's bytes, in and out, as streams.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{Path, State},
    response::Response,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use madang_http::{Failure, RequestInfo};
use madang_identity::Caller;

use super::super::{Content, rules, upload::upload as take};
use crate::library::Library;

const CONTENT_MD5: HeaderName = HeaderName::from_static("content-md5");
const IMAGE_SIZE: HeaderName = HeaderName::from_static("x-openstack-image-size");

pub(crate) async fn upload(
    State(library): State<Arc<Library>>,
    caller: Caller,
    info: RequestInfo,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, Failure> {
    check_media_type(&headers)?;
    // An upload takes as long as it takes.
    info.allow(None);
    let promised = promised(&headers)?;
    take(&library, &caller, &id, promised, body.into_data_stream()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Refuses what is not said to be plain bytes.
pub(super) fn check_media_type(headers: &HeaderMap) -> Result<(), Failure> {
    let media_type = headers
        .get(header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default();
    if media_type.split(';').next() == Some("application/octet-stream") {
        return Ok(());
    }
    Err(Failure::invalid("the data must be application/octet-stream").with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE))
}

/// How many bytes the client says there are.
fn promised(headers: &HeaderMap) -> Result<Option<u64>, Failure> {
    let Some(text) = headers.get(IMAGE_SIZE) else {
        return Ok(None);
    };
    let size = text.to_str().ok().and_then(|text| text.parse().ok());
    size.map(Some)
        .ok_or_else(|| Failure::invalid(format!("Invalid value for header {IMAGE_SIZE}: {text:?}")))
}

pub(crate) async fn download(
    State(library): State<Arc<Library>>,
    caller: Caller,
    info: RequestInfo,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let Some(content) = rules::download(&library, &caller, &id)? else {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        return Ok(response);
    };
    info.allow(None);
    let wanted = headers
        .get(header::RANGE)
        .map(|range| read_range(range, content.size))
        .transpose()?
        .flatten();
    let (begin, length) = wanted.unwrap_or((0, content.size));
    let bytes = library.read(&content, begin, length).await?;
    let mut response = Response::new(Body::from_stream(bytes));
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    headers.insert(header::CONTENT_LENGTH, length.into());
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if wanted.is_some() {
        let range = format!("bytes {begin}-{}/{}", begin + length - 1, content.size);
        headers.insert(
            header::CONTENT_RANGE,
            HeaderValue::try_from(range).expect("digits are valid"),
        );
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    } else if let Some(digest) = md5_header(&content) {
        headers.insert(CONTENT_MD5, digest);
    }
    Ok(response)
}

/// The checksum as Glance puts it there: in hex, which is not what RFC 1864 asks for, and what clients compare.
fn md5_header(content: &Content) -> Option<HeaderValue> {
    HeaderValue::try_from(&content.md5).ok()
}

/// Reads one range of bytes: where it begins and how long it is. None for a header that is not understood, which is
/// ignored (RFC 9110, 14.2).
fn read_range(header: &HeaderValue, size: u64) -> Result<Option<(u64, u64)>, Failure> {
    let Some((begin, end)) = header
        .to_str()
        .ok()
        .and_then(|text| text.strip_prefix("bytes=")?.split_once('-'))
    else {
        return Ok(None);
    };
    let unsatisfiable = || {
        let all = HeaderValue::try_from(format!("bytes */{size}")).expect("digits are valid");
        Failure::invalid(format!("the range {header:?} lies outside of the image's {size} bytes"))
            .with_status(StatusCode::RANGE_NOT_SATISFIABLE)
            .with_header(header::CONTENT_RANGE, all)
    };
    let number = |text: &str| text.trim().parse::<u64>();
    let (begin, end) = match (number(begin), number(end)) {
        (Ok(begin), Ok(end)) if begin <= end => (begin, end.min(size.saturating_sub(1))),
        (Ok(begin), Err(_)) if end.trim().is_empty() => (begin, size.saturating_sub(1)),
        (Err(_), Ok(last)) if begin.trim().is_empty() => {
            if last == 0 {
                return Err(unsatisfiable());
            }
            (size.saturating_sub(last), size.saturating_sub(1))
        }
        (Ok(begin), Ok(end)) if begin > end => return Err(unsatisfiable()),
        _ => return Ok(None),
    };
    if begin >= size {
        Err(unsatisfiable())
    } else {
        Ok(Some((begin, end - begin + 1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_cut_to_what_is_there() {
        let read = |text: &'static str| read_range(&HeaderValue::from_static(text), 10).ok();
        for (text, range) in [
            ("bytes=0-3", Some(Some((0, 4)))),
            ("bytes=4-", Some(Some((4, 6)))),
            ("bytes=-3", Some(Some((7, 3)))),
            ("bytes=-30", Some(Some((0, 10)))),
            ("bytes=8-99", Some(Some((8, 2)))),
            ("bytes=10-", None),
            ("bytes=-0", None),
            ("bytes=5-2", None),
            ("bytes=0-1,3-4", Some(None)),
            ("pieces=1-2", Some(None)),
        ] {
            assert_eq!(read(text), range, "{text}");
        }
    }
}
