//! What may be said of accounts, containers and objects in headers, and how much of it.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use madang_http::Failure;

use super::{
    acl,
    ask::{header, refuse, unquote},
};
use crate::{Stamp, objects::Headers};

/// Swift's limits.
pub const META_NAME_BYTES: usize = 128;
/// Swift's limits.
pub const META_VALUE_BYTES: usize = 256;
/// Swift's limits.
pub const META_COUNT: usize = 90;
/// Swift's limits.
pub const META_OVERALL_BYTES: usize = 4096;

/// Headers of an object that are kept beside its metadata.
const OF_OBJECTS: [&str; 8] = [
    "content-encoding",
    "content-disposition",
    "content-language",
    "cache-control",
    "expires",
    "x-robots-tag",
    "x-object-manifest",
    "x-delete-at",
];

/// Headers of a container that only its owner sees and sets.
pub const OWNERS: [&str; 6] = [
    "x-container-read",
    "x-container-write",
    "x-container-sync-key",
    "x-container-sync-to",
    "x-container-meta-temp-url-key",
    "x-container-meta-temp-url-key-2",
];

fn values<'h>(headers: &'h HeaderMap, prefix: &'h str) -> impl Iterator<Item = (&'h str, String)> {
    headers.iter().filter_map(move |(name, value)| {
        let name = name.as_str().strip_prefix(prefix).filter(|name| !name.is_empty())?;
        let value = match std::str::from_utf8(value.as_bytes()) {
            Ok(text) => text.to_owned(),
            Err(_) => value.as_bytes().iter().copied().map(char::from).collect(),
        };
        Some((name, value))
    })
}

fn check(what: &str, kept: &Headers, prefix: &str) -> Result<(), Failure> {
    let bad = |message: String| refuse(StatusCode::BAD_REQUEST, &message);
    let own = kept
        .iter()
        .filter_map(|(name, value)| Some((name.strip_prefix(prefix)?, value)));
    let (mut count, mut bytes) = (0, 0);
    for (name, value) in own {
        if name.len() > META_NAME_BYTES {
            return Err(bad(format!("Metadata name too long: {prefix}{name}")));
        }
        if value.len() > META_VALUE_BYTES {
            return Err(bad(format!(
                "Metadata value longer than {META_VALUE_BYTES}: {prefix}{name}"
            )));
        }
        count += 1;
        bytes += name.len() + value.len();
    }
    if count > META_COUNT {
        return Err(bad(format!("Too many metadata items; max {META_COUNT}")));
    }
    if bytes > META_OVERALL_BYTES {
        return Err(bad(format!(
            "Total {what} metadata too large; max {META_OVERALL_BYTES}"
        )));
    }
    Ok(())
}

/// Changes what is kept of an account or a container by a request's headers: an empty one takes away, and so does
/// `X-Remove-…`.
///
/// # Errors
/// What is not let in.
pub fn change(what: &str, kept: &mut Headers, asked: &HeaderMap, also: &[&str]) -> Result<(), Failure> {
    let meta = format!("x-{what}-meta-");
    let removed = format!("x-remove-{what}-");
    let mut set = |name: String, value: String| match value.is_empty() {
        true => _ = kept.remove(&name),
        false => _ = kept.insert(name, value),
    };
    for (name, _) in values(asked, &removed) {
        set(format!("x-{what}-{name}"), String::new());
    }
    for name in ["versions-location", "history-location"] {
        if asked.contains_key(format!("x-remove-{name}")) {
            set(format!("x-{name}"), String::new());
        }
    }
    for (name, value) in values(asked, &meta) {
        set(format!("{meta}{name}"), value);
    }
    for name in also {
        let Some(value) = header(asked, name) else { continue };
        let value = match *name {
            "x-container-read" | "x-container-write" => {
                acl::clean(name, value).map_err(|why| refuse(StatusCode::BAD_REQUEST, &why))?
            }
            "x-versions-location" | "x-history-location" => unquote(value).trim_matches('/').to_owned(),
            _ => value.to_owned(),
        };
        set((*name).to_owned(), value);
    }
    check(if what == "account" { "account" } else { "container" }, kept, &meta)
}

/// What a request says of an object. Metadata that is empty stays.
///
/// # Errors
/// What is not let in.
pub fn of_object(asked: &HeaderMap) -> Result<Headers, Failure> {
    let mut kept = Headers::new();
    for (name, value) in values(asked, "x-object-meta-") {
        kept.insert(format!("x-object-meta-{name}"), value);
    }
    check("object", &kept, "x-object-meta-")?;
    for name in OF_OBJECTS {
        if let Some(value) = header(asked, name) {
            kept.insert(name.to_owned(), value.to_owned());
        }
    }
    if let Some(manifest) = kept.get_mut("x-object-manifest") {
        *manifest = unquote(manifest);
        let container = manifest.split_once('/');
        if container.is_none_or(|(container, prefix)| container.is_empty() || prefix.is_empty())
            || manifest.contains(['?', '&'])
        {
            let text = "X-Object-Manifest must be in the format container/prefix";
            return Err(refuse(StatusCode::BAD_REQUEST, text));
        }
    }
    end(asked, &mut kept)?;
    Ok(kept)
}

fn end(asked: &HeaderMap, kept: &mut Headers) -> Result<(), Failure> {
    let bad = |text: &str| refuse(StatusCode::BAD_REQUEST, text);
    let now = Stamp::now().seconds();
    if let Some(after) = header(asked, "x-delete-after") {
        let seconds: i64 = after.trim().parse().map_err(|_| bad("Non-integer X-Delete-After"))?;
        let seconds = u64::try_from(seconds).ok().filter(|seconds| *seconds > 0);
        let seconds = seconds.ok_or_else(|| bad("X-Delete-After in past"))?;
        kept.insert("x-delete-at".to_owned(), now.saturating_add(seconds).to_string());
    } else if let Some(at) = kept.get_mut("x-delete-at") {
        let seconds: u64 = at.trim().parse().map_err(|_| bad("Non-integer X-Delete-At"))?;
        if seconds < now {
            return Err(bad("X-Delete-At in past"));
        }
        *at = seconds.to_string();
    }
    Ok(())
}

/// Puts what is kept into an answer.
pub fn show(kept: &Headers, into: &mut HeaderMap) {
    for (name, value) in kept {
        put(into, name, value);
    }
}

/// Puts a header into an answer; one that cannot be written is left out.
pub fn put(into: &mut HeaderMap, name: &str, value: impl ToString) {
    let value = HeaderValue::from_bytes(value.to_string().as_bytes());
    if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), value) {
        into.insert(name, value);
    }
}

/// What an object is, by the end of its name, where nobody says.
pub fn guess_type(name: &str) -> &'static str {
    let end = name
        .rsplit_once('.')
        .map(|(_, end)| end.to_ascii_lowercase())
        .unwrap_or_default();
    match end.as_str() {
        "html" | "htm" => "text/html",
        "css" => "text/css",
        "js" | "mjs" => "text/javascript",
        "json" => "application/json",
        "xml" => "text/xml",
        "txt" | "text" | "log" | "c" | "h" | "conf" => "text/plain",
        "csv" => "text/csv",
        "py" => "text/x-python",
        "md" => "text/markdown",
        "png" => "image/png",
        "jpg" | "jpeg" | "jpe" => "image/jpeg",
        "gif" => "image/gif",
        "svg" => "image/svg+xml",
        "ico" => "image/vnd.microsoft.icon",
        "webp" => "image/webp",
        "tif" | "tiff" => "image/tiff",
        "bmp" => "image/bmp",
        "mp3" => "audio/mpeg",
        "wav" => "audio/x-wav",
        "mp4" => "video/mp4",
        "mpeg" | "mpg" => "video/mpeg",
        "webm" => "video/webm",
        "mov" => "video/quicktime",
        "avi" => "video/x-msvideo",
        "pdf" => "application/pdf",
        "zip" => "application/zip",
        "tar" | "tgz" => "application/x-tar",
        "wasm" => "application/wasm",
        "sh" => "application/x-sh",
        "doc" => "application/msword",
        "xls" => "application/vnd.ms-excel",
        "ppt" => "application/vnd.ms-powerpoint",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pairs = pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
        pairs.collect()
    }

    #[test]
    fn containers_keep_what_is_set_until_it_is_removed() {
        let mut kept = Headers::new();
        let also = ["x-container-read", "x-versions-location"];
        let first = headers(&[
            ("x-container-meta-a", "1"),
            ("x-container-meta-b", "2"),
            ("x-container-read", ".r:*, .rlistings"),
            ("x-versions-location", "old%20ones"),
        ]);
        change("container", &mut kept, &first, &also).unwrap();
        assert_eq!(kept["x-container-read"], ".r:*,.rlistings");
        assert_eq!(kept["x-versions-location"], "old ones");
        let second = headers(&[
            ("x-container-meta-a", ""),
            ("x-remove-container-meta-b", "x"),
            ("x-remove-container-read", "x"),
            ("x-remove-versions-location", "x"),
        ]);
        change("container", &mut kept, &second, &also).unwrap();
        assert!(kept.is_empty(), "{kept:?}");
        let long = "x".repeat(257);
        let refused = change(
            "container",
            &mut kept,
            &headers(&[("x-container-meta-a", &long)]),
            &also,
        );
        assert!(refused.is_err());
    }

    #[test]
    fn objects_end_in_the_future() {
        let soon = (Stamp::now().seconds() + 100).to_string();
        let of = |name, value: &str| of_object(&headers(&[(name, value)]));
        assert_eq!(of("x-delete-at", &soon).unwrap()["x-delete-at"], soon);
        assert!(of("x-delete-after", "5").unwrap().contains_key("x-delete-at"));
        for (name, value) in [
            ("x-delete-at", "1"),
            ("x-delete-at", "a"),
            ("x-delete-after", "0"),
            ("x-delete-after", "-1"),
            ("x-delete-after", "a"),
            ("x-object-manifest", "c"),
            ("x-object-manifest", "c/o?x"),
        ] {
            assert!(of(name, value).is_err(), "{name}: {value}");
        }
    }
}
