//! Lists, in the three formats: lines, JSON, XML.

use axum::{body::Body, response::Response};
use http::{HeaderValue, StatusCode, header};
use madang_http::Failure;
use serde_json::{Map, Value, json};

use super::ask::{Ask, refuse};
use crate::{
    listing::{Line, Wanted},
    objects::{Listed, Object},
};

/// The most lines of one list.
pub const MOST: usize = 10_000;

/// How a list is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A name a line.
    Plain,
    /// JSON.
    Json,
    /// XML, under this type.
    Xml(&'static str),
}

impl Format {
    /// By `format=`, else by `Accept`.
    ///
    /// # Errors
    /// 406 where nothing here is acceptable.
    pub fn of(ask: &Ask) -> Result<Self, Failure> {
        match ask.query.get("format").map(str::to_ascii_lowercase).as_deref() {
            Some("json") => return Ok(Self::Json),
            Some("xml") => return Ok(Self::Xml("application/xml")),
            Some(_) => return Ok(Self::Plain),
            None => {}
        }
        let accept = ask.header("accept").unwrap_or("*/*");
        best(accept).ok_or_else(|| refuse(StatusCode::NOT_ACCEPTABLE, ""))
    }

    /// The type of an answer.
    pub fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Plain => "text/plain; charset=utf-8",
            Self::Json => "application/json; charset=utf-8",
            Self::Xml("text/xml") => "text/xml; charset=utf-8",
            Self::Xml(_) => "application/xml; charset=utf-8",
        })
    }
}

/// What `Accept` likes best of what there is.
pub fn best(accept: &str) -> Option<Format> {
    let offers = [
        ("text/plain", Format::Plain),
        ("application/json", Format::Json),
        ("application/xml", Format::Xml("application/xml")),
        ("text/xml", Format::Xml("text/xml")),
    ];
    let mut found: Option<(f32, Format)> = None;
    for (offer, format) in offers {
        let quality = |range: &str| -> Option<(usize, f32)> {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next()?.to_ascii_lowercase();
            let fits = match kind.as_str() {
                "*/*" | "*" | "" => 1,
                kind if kind.strip_suffix("/*").is_some_and(|group| offer.starts_with(group)) => 2,
                kind if kind == offer => 3,
                _ => return None,
            };
            let weight = parts.find_map(|part| part.strip_prefix("q=")?.trim().parse().ok());
            Some((fits, weight.unwrap_or(1.0)))
        };
        let most_exact = accept.split(',').filter_map(quality).max_by_key(|(fits, _)| *fits);
        if let Some((_, weight)) = most_exact.filter(|(_, weight)| *weight > 0.0)
            && found.is_none_or(|(best, _)| weight > best)
        {
            found = Some((weight, format));
        }
    }
    found.map(|(_, format)| format)
}

/// What of a list a request wants.
///
/// # Errors
/// 412 for a limit above the most.
pub fn wanted(ask: &Ask) -> Result<Wanted, Failure> {
    let text = |name: &str| ask.query.get(name).unwrap_or_default().to_owned();
    let limit = match ask.query.get("limit").filter(|text| !text.is_empty()) {
        None => MOST,
        Some(text) => match text.parse::<usize>() {
            Ok(limit) if limit <= MOST => limit,
            Ok(_) => {
                let most = format!("Maximum limit is {MOST}");
                return Err(refuse(StatusCode::PRECONDITION_FAILED, &most));
            }
            Err(_) => MOST,
        },
    };
    Ok(Wanted {
        prefix: text("prefix"),
        delimiter: text("delimiter"),
        marker: text("marker"),
        end_marker: text("end_marker"),
        reverse: ask.query.get("reverse").is_some_and(super::ask::is_yes),
        limit,
        path: ask.query.get("path").map(str::to_owned),
    })
}

/// The answer that a list is: 204 where it is empty and has no format.
pub fn answer(format: Format, root: (&str, &str), records: &[(&'static str, Map<String, Value>)]) -> Response {
    let name_of = |record: &Map<String, Value>| -> String {
        let name = record.get("name").or_else(|| record.get("subdir"));
        name.and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let body = match format {
        Format::Plain => records.iter().fold(String::new(), |mut lines, (_, record)| {
            lines.push_str(&name_of(record));
            lines.push('\n');
            lines
        }),
        Format::Json => {
            let all: Vec<&Map<String, Value>> = records.iter().map(|(_, record)| record).collect();
            serde_json::to_string(&all).unwrap_or_default()
        }
        Format::Xml(_) => xml(root, records, name_of),
    };
    let status = match body.is_empty() {
        true => StatusCode::NO_CONTENT,
        false => StatusCode::OK,
    };
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, format.content_type());
    response
}

fn xml(
    (root, name): (&str, &str),
    records: &[(&'static str, Map<String, Value>)],
    name_of: impl Fn(&Map<String, Value>) -> String,
) -> String {
    let mut text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<{root} name=\"{}\">",
        escape(name)
    );
    for (kind, record) in records {
        if *kind == "subdir" {
            let name = escape(&name_of(record));
            text.push_str(&format!("<subdir name=\"{name}\"><name>{name}</name></subdir>"));
            continue;
        }
        text.push_str(&format!("<{kind}>"));
        let order = ["name", "count", "bytes", "last_modified", "hash", "content_type"];
        let of_container = ["name", "count", "bytes", "last_modified"];
        let of_object = ["name", "hash", "bytes", "content_type", "last_modified"];
        let fields: &[&str] = match *kind {
            "container" => &of_container,
            "object" => &of_object,
            _ => &order,
        };
        for field in fields {
            let Some(value) = record.get(*field) else { continue };
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            text.push_str(&format!("<{field}>{}</{field}>", escape(&value)));
        }
        text.push_str(&format!("</{kind}>"));
    }
    text.push_str(&format!("</{root}>"));
    text
}

/// Text as it stands in XML and HTML.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#x27;"),
            other => escaped.push(other),
        }
    }
    escaped
}

fn group(name: String) -> (&'static str, Map<String, Value>) {
    ("subdir", Map::from_iter([("subdir".to_owned(), Value::String(name))]))
}

fn record(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// Containers as records.
pub fn containers(lines: Vec<Line<Listed>>) -> Vec<(&'static str, Map<String, Value>)> {
    let lines = lines.into_iter().map(|line| match line {
        Line::Group(name) => group(name),
        Line::One(name, listed) => {
            let value = json!({
                "name": name, "count": listed.used.objects, "bytes": listed.used.bytes,
                "last_modified": listed.container.changed.iso(),
            });
            ("container", record(value))
        }
    });
    lines.collect()
}

/// An object as a record.
pub fn object(name: &str, object: &Object) -> Map<String, Value> {
    let mut value = record(json!({
        "bytes": object.large.as_ref().map_or(object.bytes, |large| large.bytes),
        "hash": object.etag, "name": name, "content_type": object.content_type,
        "last_modified": object.at.iso(),
    }));
    if let Some(large) = &object.large {
        value.insert("slo_etag".to_owned(), format!("\"{}\"", large.etag).into());
    }
    if let Some(target) = object.headers.get("x-symlink-target") {
        value.insert("symlink_path".to_owned(), super::symlink::path(object, target).into());
    }
    value
}

/// Objects as records.
pub fn objects<T>(lines: Vec<Line<(Object, T)>>) -> Vec<(&'static str, Map<String, Value>)> {
    let lines = lines.into_iter().map(|line| match line {
        Line::Group(name) => group(name),
        Line::One(name, (one, _)) => ("object", object(&name, &one)),
    });
    lines.collect()
}

/// Versions of objects as records.
pub fn versions(found: Vec<crate::objects::Version>) -> Vec<(&'static str, Map<String, Value>)> {
    let lines = found.into_iter().map(|version| {
        let mut value = object(&version.name, &version.object);
        let id = version.object.version.filter(|at| at.0 > 0);
        value.insert(
            "version_id".to_owned(),
            id.map_or_else(|| "null".to_owned(), |at| at.to_string()).into(),
        );
        value.insert("is_latest".to_owned(), version.is_latest.into());
        ("object", value)
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_accepted_best_is_answered() {
        assert_eq!(best("*/*"), Some(Format::Plain));
        assert_eq!(best("application/json"), Some(Format::Json));
        assert_eq!(
            best("text/*;q=0.5, application/xml"),
            Some(Format::Xml("application/xml"))
        );
        assert_eq!(best("text/xml, */*;q=0.1"), Some(Format::Xml("text/xml")));
        assert_eq!(best("image/png"), None);
        assert_eq!(best("application/json;q=0"), None);
    }
}
