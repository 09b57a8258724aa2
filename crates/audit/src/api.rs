//! `/audit/v1/events`: the trail as admins and the readers of a project see it.

use std::sync::Arc;

use axum::{Router, extract::State, response::Response, routing::get};
use http::StatusCode;
use jiff::Timestamp;
use madang_http::{Face, Failure, Metrics, Query, RequestInfo, Shape, json, next_url};
use madang_identity::Caller;
use serde_json::{Value, json as value};
use tokio::sync::Semaphore;

use crate::{Book, Filter, Order, Recorder};

const FACE: Face = Face::new("audit", Shape::Keystone).trimming_slashes();

/// How many events a page has where nothing is asked.
const PAGE: usize = 100;
/// The largest page.
const LARGEST_PAGE: usize = 1_000;
/// Searches at a time: one may read the whole book.
const SEARCHES: usize = 2;

/// Who may read: admins and readers of the system everything, readers of a project what was done with its tokens.
pub const POLICY: &[(&str, &str)] = &[(
    "audit:list_events",
    "rule:context_is_admin or (role:reader and system_scope:all) or (role:reader and project_id:%(project_id)s)",
)];

/// What handlers work with.
#[derive(Clone)]
pub struct AuditApi {
    recorder: Arc<Recorder>,
    searches: Arc<Semaphore>,
}

impl AuditApi {
    /// Over the book that `recorder` writes.
    pub fn new(recorder: Arc<Recorder>) -> Self {
        Self {
            recorder,
            searches: Arc::new(Semaphore::new(SEARCHES)),
        }
    }
}

/// The router, to be nested at `/audit`. `authenticate` wraps the part that needs a token.
pub fn router(api: AuditApi, metrics: &Metrics, authenticate: impl FnOnce(Router) -> Router) -> Router {
    let events = Router::new().route("/v1/events", get(list)).with_state(api);
    let versions = Router::new().route("/", get(versions)).route("/v1", get(version));
    FACE.wrap(authenticate(events).merge(versions), metrics)
}

fn described(info: &RequestInfo) -> Value {
    let href = format!("{}/v1/", info.base_url());
    value!({"id": "v1.0", "status": "CURRENT", "links": [{"rel": "self", "href": href}]})
}

async fn versions(info: RequestInfo) -> Response {
    json(StatusCode::OK, &value!({"versions": [described(&info)]}))
}

async fn version(info: RequestInfo) -> Response {
    json(StatusCode::OK, &value!({"version": described(&info)}))
}

async fn list(
    State(api): State<AuditApi>,
    caller: Caller,
    info: RequestInfo,
    query: Query,
) -> Result<Response, Failure> {
    let (mut filter, limit) = read(&query)?;
    if !caller.allows("audit:list_events", &[]) {
        let project = filter.project_id.as_deref().or(caller.subject.project_id());
        let project = project.unwrap_or_default().to_owned();
        caller.enforce_in("audit:list_events", &project)?;
        filter.project_id = Some(project);
    }
    let seat = Arc::clone(&api.searches).acquire_owned().await;
    let seat = seat.map_err(|_| Failure::unavailable("the audit trail is closing"))?;
    let path = api.recorder.path().to_owned();
    let found = tokio::task::spawn_blocking(move || {
        let _seat = seat;
        // One more than asked says whether there is a next page.
        Book::read_only(&path)?.find(&filter, limit + 1)
    });
    let mut found = found
        .await
        .map_err(|error| Failure::internal(error.to_string()))?
        .map_err(|error| Failure::internal(format!("{error}: {:?}", std::error::Error::source(&error))))?;
    let has_next = found.len() > limit;
    found.truncate(limit);
    let next = found
        .last()
        .filter(|_| has_next)
        .map(|last| next_url(&info.url(), &query, &last.id.to_string()));
    Ok(json(
        StatusCode::OK,
        &value!({"events": found, "links": {"next": next}}),
    ))
}

/// What is asked for. Unknown parameters are refused, so that a misspelt filter does not show everything.
fn read(query: &Query) -> Result<(Filter, usize), Failure> {
    let mut filter = Filter::default();
    let mut limit = PAGE;
    for (name, text) in query.iter() {
        let owned = || Some(text.to_owned());
        let wrong = |wanted: &str| Failure::invalid(format!("{name} has to be {wanted}: {text:?}")).at(name);
        let time = || {
            text.parse::<Timestamp>()
                .map(Some)
                .map_err(|_| wrong("a time such as 2026-01-31T12:00:00Z"))
        };
        match name {
            "project_id" => filter.project_id = owned(),
            "project" => filter.project = owned(),
            "user" => filter.user = owned(),
            "service" => filter.service = owned(),
            "action" => filter.action = owned(),
            "resource" => filter.resource = owned(),
            "resource_id" => filter.resource_id = owned(),
            "request_id" => filter.request_id = owned(),
            "status" => filter.status = Some(text.parse().map_err(|_| wrong("a status code"))?),
            "since" => filter.since = time()?,
            "until" => filter.until = time()?,
            "marker" => filter.after = Some(text.parse().map_err(|_| wrong("the id of an event"))?),
            "limit" => {
                let asked: usize = text.parse().map_err(|_| wrong("a number"))?;
                limit = asked.clamp(1, LARGEST_PAGE);
            }
            "outcome" => {
                filter.succeeded = match text {
                    "success" => Some(true),
                    "failure" => Some(false),
                    _ => return Err(wrong("success or failure")),
                }
            }
            "sort" => {
                filter.order = match text {
                    "asc" => Order::OldestFirst,
                    "desc" => Order::NewestFirst,
                    _ => return Err(wrong("asc or desc")),
                }
            }
            _ => return Err(Failure::invalid(format!("there is no filter {name}")).at(name)),
        }
    }
    Ok((filter, limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_read_and_misspelt_ones_refused() {
        let text = "user=alice&outcome=failure&since=2026-01-01T00:00:00Z&limit=5000&marker=7&sort=asc";
        let (filter, limit) = read(&Query::parse(text)).unwrap();
        assert_eq!(
            (filter.user.as_deref(), filter.succeeded, limit),
            (Some("alice"), Some(false), 1_000)
        );
        assert_eq!((filter.after, filter.order), (Some(7), Order::OldestFirst));
        assert_eq!(read(&Query::default()).unwrap(), (Filter::default(), PAGE));
        for (bad, named) in [
            ("usr=alice", "usr"),
            ("outcome=maybe", "outcome"),
            ("since=yesterday", "since"),
            ("marker=x", "marker"),
            ("limit=-1", "limit"),
        ] {
            let failure = read(&Query::parse(bad)).unwrap_err();
            assert!(failure.message.contains(named), "{bad}: {}", failure.message);
        }
    }
}
