//! One request's witness: made when it comes, speaks when it ends, however it ends.

use axum::{
    body::{Body, to_bytes},
    extract::{MatchedPath, Request},
    response::Response,
};
use http::{HeaderValue, Method, StatusCode, header};
use http_body::Body as _;
use jiff::Timestamp;
use tokio::time::Instant;

use super::{
    CLIENT_GONE, Event, Outcome, Trail,
    named::{made, named},
};
use crate::RequestInfo;

/// The answer to a create that is looked into for the id; a larger one is no single resource.
const LOOKED_INTO_BYTES: u64 = 32 * 1024;

/// The header whose presence says that somebody tried to show who it is.
const PROOF: &str = "x-auth-token";

/// Where the answer is a token, which is nobody's to look into.
const TOKENS: &str = "/auth/tokens";

pub(crate) struct Witness {
    trail: Trail,
    info: RequestInfo,
    face: &'static str,
    method: Method,
    route: String,
    event: Option<Draft>,
}

/// What is known when a request comes.
struct Draft {
    time: Timestamp,
    started: Instant,
    source: Option<std::net::IpAddr>,
    showed_proof: bool,
}

impl Witness {
    /// Of a request; none where nothing is recorded.
    pub(crate) fn of(face: &'static str, request: &Request, info: &RequestInfo, started: Instant) -> Option<Self> {
        let trail = request.extensions().get::<Trail>()?.clone();
        let route = request.extensions().get::<MatchedPath>();
        let draft = Draft {
            time: Timestamp::now(),
            started,
            source: trail.source(info.peer().map(|peer| peer.ip()), request.headers()),
            showed_proof: request.headers().contains_key(PROOF),
        };
        Some(Self {
            trail,
            info: info.clone(),
            face,
            method: request.method().clone(),
            route: route.map(|route| route.as_str().to_owned()).unwrap_or_default(),
            event: Some(draft),
        })
    }

    /// Sees the answer, and speaks. Gives the answer back.
    pub(crate) async fn saw(mut self, response: Response) -> Response {
        let status = response.status();
        let (response, id) = if self.may_name_what_was_made(&response) {
            look_into(response).await
        } else {
            (response, None)
        };
        self.speak(status.as_u16(), id);
        response
    }

    /// Only for what is small and lies in memory already.
    fn may_name_what_was_made(&self, response: &Response) -> bool {
        let small = response.body().size_hint().exact();
        self.method == Method::POST
            && response.status().is_success()
            && !self.route.ends_with(TOKENS)
            && small.is_some_and(|bytes| (1..=LOOKED_INTO_BYTES).contains(&bytes))
            && response.headers().get(header::CONTENT_TYPE) == Some(&HeaderValue::from_static("application/json"))
    }

    fn speak(&mut self, status: u16, made: Option<String>) {
        let Some(draft) = self.event.take() else { return };
        let action = self.info.action();
        let reads = [Method::GET, Method::HEAD, Method::OPTIONS].contains(&self.method);
        let refused_proof = status == StatusCode::UNAUTHORIZED.as_u16() && draft.showed_proof;
        if reads && action.is_none() && !refused_proof {
            return;
        }
        let named = named(&self.method, &self.route, self.info.path());
        let outcome = if status < 400 {
            Outcome::Success
        } else {
            Outcome::Failure
        };
        let duration = draft.started.elapsed().as_micros();
        self.trail.recorder.record(Event {
            time: draft.time,
            request_id: self.info.id().to_owned(),
            global_request_id: self.info.global_id().map(str::to_owned),
            source: draft.source,
            actor: self.info.actor().cloned(),
            claimed: self.info.claimed().map(str::to_owned),
            service: self.face.to_owned(),
            action: action.map_or(named.action, str::to_owned),
            resource: named.resource,
            resource_id: named.id.or(made),
            method: self.method.to_string(),
            path: self.info.path().to_owned(),
            route: std::mem::take(&mut self.route),
            status,
            outcome,
            duration_us: u64::try_from(duration).unwrap_or(u64::MAX),
        });
    }
}

impl Drop for Witness {
    /// The client went away; what the handler did until then is done.
    fn drop(&mut self) {
        self.speak(CLIENT_GONE, None);
    }
}

async fn look_into(response: Response) -> (Response, Option<String>) {
    let (parts, body) = response.into_parts();
    // Its exact size is known and small, so it is in memory and neither fails nor waits.
    match to_bytes(body, usize::try_from(LOOKED_INTO_BYTES).unwrap_or(usize::MAX)).await {
        Ok(bytes) => {
            let id = made(&bytes);
            (Response::from_parts(parts, Body::from(bytes)), id)
        }
        Err(_) => (Response::from_parts(parts, Body::empty()), None),
    }
}
