//! Many at once: deletes by a list of names, and archives taken apart.

use axum::{body::Body, response::Response};
use futures_util::TryStreamExt;
use http::{HeaderValue, Method, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use madang_http::Failure;
use tokio::runtime::Handle;
use tokio_util::io::{StreamReader, SyncIoBridge};

use super::{
    ask::{Ask, Target, quote, refuse, refused, unquote},
    container, large,
    listing::{self, Format},
    put, slo,
};
use crate::objects::{ObjectError, Which};

/// Swift's limits.
pub const DELETES: usize = 10_000;
/// Swift's limits.
pub const FAILURES: usize = 1000;
/// The longest list of names.
const LIST_BYTES: usize = DELETES * 1300;

/// What became of many things, in a format: the text and its type.
pub fn report(
    format: Format,
    root: &str,
    numbers: &[(&str, String)],
    errors: &[(String, String)],
) -> (String, HeaderValue) {
    let mut sorted = numbers.to_vec();
    sorted.sort();
    let text = match format {
        Format::Json => {
            let mut all = serde_json::Map::new();
            for (name, value) in &sorted {
                let number = value.parse::<u64>().map(serde_json::Value::from);
                all.insert((*name).to_owned(), number.unwrap_or_else(|_| value.as_str().into()));
            }
            let errors: Vec<_> = errors.iter().map(|(name, status)| [name, status]).collect();
            all.insert("Errors".to_owned(), serde_json::json!(errors));
            serde_json::Value::Object(all).to_string()
        }
        Format::Xml(_) => {
            let mut text = format!("<{root}>\n");
            for (name, value) in &sorted {
                let tag = name.to_lowercase().replace(' ', "_");
                text.push_str(&format!("<{tag}>{}</{tag}>\n", listing::escape(value)));
            }
            text.push_str("<errors>\n");
            for (name, status) in errors {
                let (name, status) = (listing::escape(name), listing::escape(status));
                text.push_str(&format!(
                    "<object><name>{name}</name><status>{status}</status></object>\n"
                ));
            }
            text.push_str(&format!("</errors>\n</{root}>\n"));
            text
        }
        Format::Plain => {
            let mut text = String::new();
            for (name, value) in &sorted {
                text.push_str(&format!("{name}: {value}\n"));
            }
            text.push_str("Errors:\n");
            let lines: Vec<String> = errors
                .iter()
                .map(|(name, status)| format!("{name}, {status}"))
                .collect();
            text.push_str(&lines.join("\n"));
            text
        }
    };
    (text, format.content_type())
}

/// What became of many things, counted.
#[derive(Default)]
struct Outcome {
    done: u64,
    missing: u64,
    errors: Vec<(String, String)>,
    is_our_fault: bool,
    refused: Option<(StatusCode, String)>,
}

impl Outcome {
    fn failed(&mut self, name: &str, status: StatusCode) {
        self.is_our_fault |= status.is_server_error();
        self.errors.push((quote(name), put::line(status)));
    }

    fn status(&self, well: StatusCode) -> (StatusCode, String) {
        if let Some(refused) = &self.refused {
            return refused.clone();
        }
        let status = match (self.errors.is_empty(), self.is_our_fault) {
            (true, _) => well,
            (false, true) => StatusCode::BAD_GATEWAY,
            (false, false) => StatusCode::BAD_REQUEST,
        };
        (status, String::new())
    }
}

fn answered(ask: &Ask, root: &str, numbers: &[(&str, String)], outcome: &Outcome) -> Result<Response, Failure> {
    let format = listing::best(ask.header("accept").unwrap_or("*/*"));
    let format = format.ok_or_else(|| refuse(StatusCode::NOT_ACCEPTABLE, ""))?;
    let (text, content_type) = report(format, root, numbers, &outcome.errors);
    let mut response = Response::new(Body::from(text));
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    Ok(response)
}

fn report_deletes(ask: &Ask, mut outcome: Outcome) -> Result<Response, Failure> {
    if outcome.refused.is_none() && outcome.errors.is_empty() && outcome.done + outcome.missing == 0 {
        outcome.refused = Some((StatusCode::BAD_REQUEST, "Invalid bulk delete.".to_owned()));
    }
    let (status, said) = outcome.status(StatusCode::OK);
    let numbers = [
        ("Number Deleted", outcome.done.to_string()),
        ("Number Not Found", outcome.missing.to_string()),
        ("Response Body", said),
        ("Response Status", put::line(status)),
    ];
    answered(ask, "delete", &numbers, &outcome)
}

/// `POST ?bulk-delete`: a name a line, of objects and of containers.
///
/// # Errors
/// Where nothing can be answered at all.
pub async fn delete(ask: &Ask, body: Body) -> Result<Response, Failure> {
    ask.info.allow(None);
    let text = Limited::new(body, LIST_BYTES).collect().await;
    let text = text.map_err(|_| refuse(StatusCode::PAYLOAD_TOO_LARGE, ""))?.to_bytes();
    let names: Vec<String> = String::from_utf8_lossy(&text)
        .lines()
        .map(|line| unquote(line.trim()))
        .filter(|name| !name.is_empty())
        .collect();
    let mut outcome = Outcome::default();
    if names.len() > DELETES {
        let text = format!("Maximum Bulk Deletes: {DELETES} per request");
        outcome.refused = Some((StatusCode::PAYLOAD_TOO_LARGE, text));
        return report_deletes(ask, outcome);
    }
    let targets = names.iter().map(|name| {
        let path = name.trim_start_matches('/');
        let (container, object) = path.split_once('/').unwrap_or((path, ""));
        Target {
            account: ask.target.account.clone(),
            container: container.to_owned(),
            object: object.to_owned(),
        }
    });
    delete_all(ask, targets.collect(), &mut outcome).await?;
    report_deletes(ask, outcome)
}

/// Deletes in order; objects that follow each other go in one transaction.
async fn delete_all(ask: &Ask, targets: Vec<Target>, outcome: &mut Outcome) -> Result<(), Failure> {
    let mut together: Vec<Which> = Vec::new();
    let mut allowed: Option<(String, Result<(), StatusCode>)> = None;
    for target in targets {
        let name = format!("{}/{}", target.container, target.object);
        let there = put::about(ask, Method::DELETE, target.clone());
        if target.object.is_empty() {
            flush(ask, &mut together, outcome).await?;
            let deleted = container::answer(&there).await;
            note(
                outcome,
                &target.container,
                deleted.map(|_| ()).map_err(|f| put::status_of(&f)),
            );
            continue;
        }
        if allowed
            .as_ref()
            .is_none_or(|(container, _)| *container != target.container)
        {
            let may = super::object::writable(&there).await;
            let may = may.map(|_| ()).map_err(|failure| put::status_of(&failure));
            allowed = Some((target.container.clone(), may));
        }
        match &allowed {
            Some((_, Err(status))) => note(outcome, &name, Err(*status)),
            _ => together.push(Which::new(&target.account, &target.container, &target.object)),
        }
        if outcome.errors.len() >= FAILURES {
            outcome.refused = Some((StatusCode::BAD_REQUEST, "Max delete failures exceeded".to_owned()));
            break;
        }
    }
    flush(ask, &mut together, outcome).await
}

async fn flush(ask: &Ask, together: &mut Vec<Which>, outcome: &mut Outcome) -> Result<(), Failure> {
    let all = std::mem::take(together);
    if all.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = all
        .iter()
        .map(|which| format!("{}/{}", which.container, which.name))
        .collect();
    let deleted = ask.api.objects.delete_objects(all).await.map_err(refused)?;
    for (name, one) in names.iter().zip(deleted) {
        note(outcome, name, one.map_err(put::status_of_verb));
    }
    Ok(())
}

fn note(outcome: &mut Outcome, name: &str, done: Result<(), StatusCode>) {
    match done {
        Ok(()) => outcome.done += 1,
        Err(StatusCode::NOT_FOUND) => outcome.missing += 1,
        Err(status) => outcome.failed(name, status),
    }
}

/// `DELETE ?multipart-manifest=delete`: a static large object with all its segments.
///
/// # Errors
/// Where nothing can be answered at all.
pub async fn delete_with_segments(ask: &Ask, which: &Which) -> Result<Response, Failure> {
    let (_, given) = ask.api.objects.object(which).await.map_err(refused)?;
    let mut outcome = Outcome::default();
    let mut targets = Vec::new();
    match given {
        None => outcome.missing = 1,
        Some(given) if given.object.large.is_none() => {
            outcome.refused = Some((StatusCode::BAD_REQUEST, "Not an SLO manifest".to_owned()));
        }
        Some(given) => {
            targets = slo::all_segments(ask, large::manifest(&given.stream).await?, 0).await?;
            targets.push(ask.target.clone());
        }
    }
    delete_all(ask, targets, &mut outcome).await?;
    report_deletes(ask, outcome)
}

/// `PUT ?extract-archive=`: each file of an archive is an object.
///
/// # Errors
/// Where nothing can be answered at all.
pub async fn extract(ask: &Ask, kind: &str, body: Body) -> Result<Response, Failure> {
    ask.info.allow(None);
    let is_packed = match kind.to_ascii_lowercase().trim_matches('.') {
        "tar" => false,
        "tar.gz" | "tgz" => true,
        _ => return Err(refuse(StatusCode::BAD_REQUEST, "Unsupported archive format")),
    };
    let stream = TryStreamExt::map_err(body.into_data_stream(), std::io::Error::other);
    let reader = StreamReader::new(stream);
    let (within, handle) = (ask.clone(), Handle::current());
    let unpacked = tokio::task::spawn_blocking(move || {
        let reader = SyncIoBridge::new_with_handle(reader, handle.clone());
        let reader: Box<dyn std::io::Read> = match is_packed {
            false => Box::new(reader),
            true => Box::new(flate2::read::MultiGzDecoder::new(reader)),
        };
        unpack(&within, tar::Archive::new(reader), &handle)
    });
    let outcome = unpacked
        .await
        .map_err(|_| Failure::internal("an archive could not be taken apart"))?;
    let (status, said) = outcome.status(StatusCode::CREATED);
    let numbers = [
        ("Number Files Created", outcome.done.to_string()),
        ("Response Body", said),
        ("Response Status", put::line(status)),
    ];
    answered(ask, "extract", &numbers, &outcome)
}

fn unpack(ask: &Ask, mut archive: tar::Archive<Box<dyn std::io::Read>>, handle: &Handle) -> Outcome {
    let mut outcome = Outcome::default();
    let invalid = |error: std::io::Error| Some((StatusCode::BAD_REQUEST, format!("Invalid Tar File: {error}")));
    let entries = match archive.entries() {
        Ok(entries) => entries,
        Err(error) => {
            outcome.refused = invalid(error);
            return outcome;
        }
    };
    let mut containers = std::collections::BTreeSet::new();
    for entry in entries {
        let mut entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                outcome.refused = invalid(error);
                return outcome;
            }
        };
        if outcome.errors.len() >= FAILURES {
            break;
        }
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let Some(target) = target_of(ask, &path) else { continue };
        let name = format!("{}/{}", target.container, target.object);
        let is_new = containers.insert(target.container.clone());
        let done = one_file(ask, target, &mut entry, is_new, handle);
        match done {
            Ok(()) => outcome.done += 1,
            Err(status) => outcome.failed(&name, status),
        }
        if outcome
            .errors
            .last()
            .is_some_and(|(_, status)| status.starts_with("401"))
        {
            outcome.refused = Some((StatusCode::UNAUTHORIZED, String::new()));
            return outcome;
        }
    }
    if outcome.errors.is_empty() && outcome.done == 0 {
        let text = "Invalid Tar File: No Valid Files".to_owned();
        outcome.refused = Some((StatusCode::BAD_REQUEST, text));
    }
    outcome
}

/// Which object a file of an archive is; none for what lies beside all containers.
fn target_of(ask: &Ask, path: &str) -> Option<Target> {
    let path = path.strip_prefix("./").unwrap_or(path).trim_start_matches('/');
    let base = match (&*ask.target.container, &*ask.target.object) {
        ("", _) => String::new(),
        (container, "") => format!("{container}/"),
        (container, object) => format!("{container}/{}/", object.trim_end_matches('/')),
    };
    let path = format!("{base}{path}");
    let (container, object) = path.split_once('/')?;
    Some(Target {
        account: ask.target.account.clone(),
        container: container.to_owned(),
        object: object.to_owned(),
    })
}

fn one_file(
    ask: &Ask,
    target: Target,
    entry: &mut impl std::io::Read,
    is_new: bool,
    handle: &Handle,
) -> Result<(), StatusCode> {
    if is_new {
        let there = put::about(
            ask,
            Method::PUT,
            Target {
                object: String::new(),
                ..target.clone()
            },
        );
        // An object may still be let in where a container is not.
        _ = handle.block_on(container::answer(&there));
    }
    let there = put::about(ask, Method::PUT, target);
    let status = |failure: Failure| put::status_of(&failure);
    handle.block_on(super::object::writable(&there)).map_err(status)?;
    let mut upload = ask.api.objects.disk().upload();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = entry.read(&mut buffer).map_err(|_| StatusCode::BAD_REQUEST)?;
        if count == 0 {
            break;
        }
        let written = handle.block_on(upload.write(&buffer[..count]));
        written.map_err(|error| put::status_of_verb(error.into()))?;
    }
    let uploaded = handle.block_on(upload.finish());
    let uploaded = uploaded.map_err(|error| put::status_of_verb(ObjectError::from(error)))?;
    let object = crate::objects::Object {
        bytes: uploaded.length(),
        etag: uploaded.md5().to_owned(),
        content_type: put::content_type(&there),
        ..crate::objects::Object::default()
    };
    let bytes = crate::objects::Bytes::Uploaded(std::sync::Arc::new(uploaded));
    handle.block_on(put::put(&there, object, bytes)).map_err(status)?;
    Ok(())
}
