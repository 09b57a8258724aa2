//! What each request passes on its way to a handler and back, in one layer so that it stays cheap.

use std::{any::Any, panic::AssertUnwindSafe, pin::pin, sync::Arc};

use axum::{
    body::to_bytes,
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures_util::FutureExt;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use http_body::Body as _;
use madang_store::ErrorKind;
use tokio::time::{Instant, sleep_until};
use tracing::{error, info};

use crate::{
    Face, Failure, NO_SUCH_METHOD, NO_SUCH_ROUTE, RequestInfo, TOO_LARGE, metrics::FaceMetrics, request::REQUEST_ID,
    trail::Witness,
};

/// A text answer of axum's own extractors is short; a longer one is a handler's and stays as it is.
const REJECTION_BYTES: usize = 4096;

pub(super) struct Gate {
    pub(super) face: Face,
    pub(super) metrics: FaceMetrics,
    pub(super) alias: Option<HeaderName>,
}

pub(super) async fn no_such_route() -> Failure {
    Failure::not_found("The resource could not be found.").because(NO_SUCH_ROUTE)
}

pub(super) async fn pass(State(gate): State<Arc<Gate>>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let info = RequestInfo::of(&request, gate.face.time);
    let method = request.method().clone();
    let accept = request.headers().get(header::ACCEPT).cloned();
    request.extensions_mut().insert(info.clone());
    let witness = Witness::of(gate.face.name, &request, &info, started);
    let in_flight = gate.metrics.enter();

    let response = run(&gate, &info, request, next, started).await;
    let mut response = worded(&gate, &info, response, accept.as_ref()).await;
    name_request(&gate, &info, response.headers_mut());
    if let Some(witness) = witness {
        response = witness.saw(response).await;
    }

    drop(in_flight);
    let status = response.status();
    gate.metrics.finished(&method, status, started.elapsed());
    log(&gate, &info, &method, status, started);
    response
}

/// The handler's answer; instead of a panic or an answer that takes too long, a failure.
async fn run(gate: &Gate, info: &RequestInfo, request: Request, next: Next, started: Instant) -> Response {
    let mut handler = pin!(AssertUnwindSafe(next.run(request)).catch_unwind());
    loop {
        let limit = info.time_limit();
        let deadline = limit.map(|limit| started + limit);
        let late = async {
            match deadline {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            outcome = &mut handler => {
                return outcome.unwrap_or_else(|panic| {
                    error!(face = gate.face.name, request = info.id(), panic = said(panic.as_ref()), "handler panicked");
                    Failure::internal("handler panicked").into_response()
                });
            }
            () = late => {
                if info.time_limit() == limit {
                    return Failure::timed_out(format!("the request took longer than {:?}", limit.unwrap_or_default())).into_response();
                }
            }
        }
    }
}

fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a message")
}

/// Failures in the face's words. Also for what axum answers by itself: methods a route does not have, and extractors
/// that do not fit.
async fn worded(gate: &Gate, info: &RequestInfo, response: Response, accept: Option<&HeaderValue>) -> Response {
    let status = response.status();
    if !status.is_client_error() && !status.is_server_error() {
        return response;
    }
    if let Some(failure) = response.extensions().get::<Arc<Failure>>() {
        if failure.kind == ErrorKind::Internal {
            error!(
                face = gate.face.name,
                request = info.id(),
                path = info.path(),
                message = failure.message,
                "failed"
            );
        }
        let worded = gate.face.shape.render(failure, info.id(), accept);
        return keep_headers(response, worded);
    }
    match axums_own(response).await {
        Ok((failure, original)) => keep_headers(original, gate.face.shape.render(&failure, info.id(), accept)),
        Err(handlers) => handlers,
    }
}

/// What axum answered by itself, as a failure; or the handler's own answer back.
async fn axums_own(response: Response) -> Result<(Failure, Response), Response> {
    let status = response.status();
    let content_type = response.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    if status == StatusCode::METHOD_NOT_ALLOWED && content_type.is_none() {
        let failure = Failure::invalid("The method is not allowed for this resource.").because(NO_SUCH_METHOD);
        return Ok((failure.with_status(status), response));
    }
    let short = response
        .body()
        .size_hint()
        .upper()
        .is_some_and(|bytes| bytes <= REJECTION_BYTES as u64);
    if !status.is_client_error() || !short || content_type != Some(b"text/plain; charset=utf-8") {
        return Err(response);
    }
    let (parts, body) = response.into_parts();
    let text = to_bytes(body, REJECTION_BYTES).await.unwrap_or_default();
    let reason = if status == StatusCode::PAYLOAD_TOO_LARGE {
        TOO_LARGE
    } else {
        ""
    };
    let failure = Failure::invalid(String::from_utf8_lossy(&text))
        .because(reason)
        .with_status(status);
    Ok((failure, Response::from_parts(parts, axum::body::Body::empty())))
}

/// Headers that a layer or axum put on the answer (`Allow`, versions) stay; those that describe the old body go.
fn keep_headers(original: Response, mut worded: Response) -> Response {
    for (name, value) in original.headers() {
        if name != header::CONTENT_TYPE && name != header::CONTENT_LENGTH && !worded.headers().contains_key(name) {
            worded.headers_mut().append(name, value.clone());
        }
    }
    worded
}

fn name_request(gate: &Gate, info: &RequestInfo, headers: &mut HeaderMap) {
    let Ok(id) = HeaderValue::from_str(info.id()) else {
        return;
    };
    if let Some(alias) = &gate.alias {
        headers.insert(alias.clone(), id.clone());
    }
    headers.insert(REQUEST_ID, id);
}

fn log(gate: &Gate, info: &RequestInfo, method: &Method, status: StatusCode, started: Instant) {
    let took_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
    info!(
        target: "madang::access",
        face = gate.face.name,
        %method,
        path = info.path(),
        status = status.as_u16(),
        took_us,
        request = info.id(),
        global_request = info.global_id(),
        subject = info.subject(),
        peer = info.peer().map(tracing::field::display),
        "answered"
    );
}
