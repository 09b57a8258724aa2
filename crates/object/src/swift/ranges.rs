//! Which bytes of an object are asked for, and whether it is the one that is meant.

use http::HeaderMap;
use jiff::{Timestamp, fmt::rfc2822};

use crate::Stamp;

/// Bytes, from the first to the one behind the last.
pub type Span = (u64, u64);

/// More ranges than this are no request for ranges any more: Swift's limit.
const MOST: usize = 50;

/// What of the bytes is to be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// All of them.
    All,
    /// One piece.
    One(Span),
    /// Some pieces.
    Many(Vec<Span>),
    /// None that there are.
    Nothing,
}

/// Reads a `Range` header; one that cannot be read is as none.
pub fn asked(range: Option<&str>, length: u64) -> Asked {
    let Some(spec) = range.and_then(|range| range.trim().strip_prefix("bytes=")) else {
        return Asked::All;
    };
    let mut spans = Vec::new();
    let mut count = 0;
    for part in spec.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        count += 1;
        let Some((first, last)) = part.split_once('-') else {
            return Asked::All;
        };
        let number = |text: &str| text.trim().parse::<u64>().ok();
        let span = match (first.trim(), last.trim()) {
            ("", "") => return Asked::All,
            ("", last) => match number(last) {
                Some(0) => continue,
                Some(last) => (length.saturating_sub(last), length),
                None => return Asked::All,
            },
            (first, last) => {
                let Some(first) = number(first) else { return Asked::All };
                let last = match last {
                    "" => u64::MAX,
                    last => match number(last) {
                        Some(last) if last >= first => last,
                        _ => return Asked::All,
                    },
                };
                (first, last.saturating_add(1).min(length))
            }
        };
        if span.0 < span.1 {
            spans.push(span);
        }
    }
    match (count, &spans[..]) {
        (0, _) => Asked::All,
        (1.., []) => Asked::Nothing,
        (_, [one]) => Asked::One(*one),
        _ if count > MOST || overlaps_too_much(&spans) => Asked::Nothing,
        _ => Asked::Many(spans),
    }
}

/// Many small pieces that overlap or go backwards only make work: as in Swift, a few are let through.
fn overlaps_too_much(spans: &[Span]) -> bool {
    let overlapping = spans.iter().enumerate().filter(|(i, span)| {
        let before = &spans[..*i];
        before.iter().any(|other| other.0 < span.1 && span.0 < other.1)
    });
    let unordered = spans.windows(2).filter(|pair| pair[1].0 < pair[0].0);
    overlapping.count() > 2 || unordered.count() > 8
}

/// What conditions come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Met {
    /// They hold.
    Yes,
    /// 304.
    NotModified,
    /// 412.
    Failed,
}

fn has_tag(header: &str, etag: &str) -> bool {
    let plain = |tag: &str| tag.trim().trim_start_matches("W/").trim_matches('"').to_owned();
    header
        .split(',')
        .any(|tag| tag.trim() == "*" || plain(tag) == plain(etag))
}

fn date(headers: &HeaderMap, name: &str) -> Option<u64> {
    let text = headers.get(name)?.to_str().ok()?;
    let parsed = rfc2822::DateTimeParser::new().parse_timestamp(text).ok();
    let stamp = parsed.or_else(|| text.parse::<Timestamp>().ok())?;
    u64::try_from(stamp.as_second()).ok()
}

/// Whether the conditions of a request hold for what there is; `etag` is none where there is nothing.
pub fn conditions(headers: &HeaderMap, etag: Option<&str>, at: Stamp) -> Met {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let seconds = at.0.div_ceil(1_000_000);
    let tag = |header: &str| etag.is_some_and(|etag| has_tag(header, etag));
    if text("if-match").is_some_and(|header| !tag(header)) {
        return Met::Failed;
    }
    if text("if-match").is_none() && date(headers, "if-unmodified-since").is_some_and(|since| seconds > since) {
        return Met::Failed;
    }
    if let Some(header) = text("if-none-match") {
        return if tag(header) { Met::NotModified } else { Met::Yes };
    }
    if date(headers, "if-modified-since").is_some_and(|since| seconds <= since) {
        return Met::NotModified;
    }
    Met::Yes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_http_says() {
        let of = |range| asked(Some(range), 100);
        assert_eq!(of("bytes=0-9"), Asked::One((0, 10)));
        assert_eq!(of("bytes=90-"), Asked::One((90, 100)));
        assert_eq!(of("bytes=-5"), Asked::One((95, 100)));
        assert_eq!(of("bytes=-500"), Asked::One((0, 100)));
        assert_eq!(of("bytes=50-500"), Asked::One((50, 100)));
        assert_eq!(of("bytes=0-0, -1"), Asked::Many(vec![(0, 1), (99, 100)]));
        assert_eq!(of("bytes=100-"), Asked::Nothing);
        assert_eq!(of("bytes=-0"), Asked::Nothing);
        for none in ["bytes=5-4", "bytes=a-b", "bytes=", "lines=1-2", "bytes=-", "bytes=1"] {
            assert_eq!(of(none), Asked::All, "{none}");
        }
        assert_eq!(asked(None, 5), Asked::All);
        let bad = format!("bytes={}", ["0-50"; 9].join(","));
        assert_eq!(of(&bad), Asked::Nothing);
    }

    #[test]
    fn conditions_are_those_of_http() {
        let at = Stamp(1_000_000_000_000_000);
        let met = |pairs: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.insert(*name, value.parse().unwrap());
            }
            conditions(&headers, Some("abc"), at)
        };
        assert_eq!(met(&[]), Met::Yes);
        assert_eq!(met(&[("if-match", "\"abc\"")]), Met::Yes);
        assert_eq!(met(&[("if-match", "x, y")]), Met::Failed);
        assert_eq!(met(&[("if-none-match", "x, abc")]), Met::NotModified);
        assert_eq!(met(&[("if-none-match", "*")]), Met::NotModified);
        assert_eq!(
            met(&[("if-modified-since", "Sun, 09 Sep 2001 01:46:40 GMT")]),
            Met::NotModified
        );
        assert_eq!(met(&[("if-modified-since", "Sun, 09 Sep 2001 01:46:39 GMT")]), Met::Yes);
        assert_eq!(
            met(&[("if-unmodified-since", "Sun, 09 Sep 2001 01:46:39 GMT")]),
            Met::Failed
        );
    }
}
