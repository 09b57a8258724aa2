//! One request to Placement, and what all its handlers do with it: who may, which form of the body, how the answer is
//! dated.

use axum::{
    body::{Body, Bytes},
    extract::{FromRequest, FromRequestParts, Request},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use jiff::Timestamp;
use madang_http::{Failure, MALFORMED_BODY, Microversion, Query, RequestInfo, Schema};
use madang_identity::{Caller, Scope};
use serde_json::{Map, Value};

use super::PlacementApi;

/// A request, taken apart. An extractor for handlers.
pub(crate) struct Call {
    /// What handlers work with.
    pub(crate) api: PlacementApi,
    /// Who asks.
    pub(crate) caller: Caller,
    /// In which form.
    pub(crate) version: Microversion,
    /// The parameters.
    pub(crate) query: Query,
    /// Where the face is mounted, such as `/placement`.
    mount: String,
    /// The same as clients name it: `http://127.0.0.1:8000/placement`.
    base: String,
    headers: HeaderMap,
    body: Bytes,
}

impl FromRequest<PlacementApi> for Call {
    type Rejection = Failure;

    async fn from_request(request: Request, api: &PlacementApi) -> Result<Self, Failure> {
        let (mut parts, body) = request.into_parts();
        let caller = Caller::from_request_parts(&mut parts, api)
            .await
            .map_err(|_| Failure::unauthenticated("The request you have made requires authentication."))?;
        let version = Microversion::from_request_parts(&mut parts, api).await?;
        let Ok(query) = Query::from_request_parts(&mut parts, api).await;
        let Ok(info) = RequestInfo::from_request_parts(&mut parts, api).await;
        let headers = parts.headers.clone();
        let body = Bytes::from_request(Request::from_parts(parts, body), api).await;
        let body = body.map_err(|refused| Failure::invalid(refused.body_text()).with_status(refused.status()))?;
        Ok(Self {
            api: api.clone(),
            caller,
            version,
            query,
            mount: info.mount().to_owned(),
            base: info.base_url(),
            headers,
            body,
        })
    }
}

impl Call {
    /// Whether the form asked for is that of 1.`minor` or later.
    pub(crate) fn is_since(&self, minor: u16) -> bool {
        self.version >= Microversion(1, minor)
    }

    /// Refuses what is not there before 1.`minor`.
    pub(crate) fn since(&self, minor: u16) -> Result<(), Failure> {
        if self.is_since(minor) {
            Ok(())
        } else {
            Err(Failure::not_found("The resource could not be found."))
        }
    }

    /// Requires that policy allows what is asked. Placement's rules are for admins and services, and of one shape.
    pub(crate) fn may(&self, rule: &str) -> Result<(), Failure> {
        self.may_on(rule, "")
    }

    /// Requires that policy allows what is asked of a project. All of Placement's rules are for tokens of a project.
    pub(crate) fn may_on(&self, rule: &str, project: &str) -> Result<(), Failure> {
        if self.caller.subject.scope == Scope::System {
            return Err(Failure::forbidden(format!(
                "Policy does not allow {rule} to be performed with system scope."
            )));
        }
        self.caller.enforce(rule, &[("project_id", project)])
    }

    /// Refuses who takes no JSON for an answer.
    pub(crate) fn takes_json(&self) -> Result<(), Failure> {
        let accept = self.headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
        let accept = accept.filter(|text| !text.trim().is_empty()).unwrap_or("*/*");
        let kinds = accept
            .split(',')
            .map(|one| one.split(';').next().unwrap_or_default().trim());
        if kinds
            .into_iter()
            .any(|kind| ["*/*", "application/*", "application/json"].contains(&kind))
        {
            return Ok(());
        }
        Err(Failure::invalid("Only application/json is provided").with_status(StatusCode::NOT_ACCEPTABLE))
    }

    /// Refuses a body that is not said to be JSON.
    pub(crate) fn sends_json(&self) -> Result<(), Failure> {
        let kind = self
            .headers
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok());
        let kind = kind
            .map(|text| text.split(';').next().unwrap_or_default().trim())
            .filter(|text| !text.is_empty());
        if kind == Some("application/json") {
            return Ok(());
        }
        if kind.is_none() && !self.body.is_empty() {
            return Err(Failure::invalid("content-type header required when content-length > 0"));
        }
        let message = format!(
            "The media type {} is not supported, use application/json",
            kind.unwrap_or("None")
        );
        Err(Failure::invalid(message).with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE))
    }

    /// The body, as a schema allows it.
    pub(crate) fn content(&self, schema: &Schema) -> Result<Value, Failure> {
        let body: Value =
            serde_json::from_slice(&self.body).map_err(|e| Failure::invalid(e.to_string()).because(MALFORMED_BODY))?;
        schema.check(&body)?;
        Ok(body)
    }

    /// Refuses parameters that a schema does not allow. Of one that is repeated, the last counts.
    pub(crate) fn check_query(&self, schema: &Schema) -> Result<(), Failure> {
        let given = self.query.iter().map(|(name, value)| (name.to_owned(), value.into()));
        let given: Map<String, Value> = given.collect();
        schema.check(&Value::Object(given)).map_err(|mut failure| {
            let why = failure.message.trim_start_matches("JSON does not validate: ");
            failure.message = format!("Invalid query string parameters: {why}");
            failure
        })
    }

    /// An answer. Since 1.15 it says when it was last changed and that it is not to be kept.
    pub(crate) fn answer(&self, status: StatusCode, body: &Value, modified: Option<Timestamp>) -> Response {
        let mut response = madang_http::json(status, body);
        self.date(&mut response, modified);
        response
    }

    /// Dates an answer.
    pub(crate) fn date(&self, response: &mut Response, modified: Option<Timestamp>) {
        if self.is_since(15) {
            date(response, modified);
        }
    }

    /// An answer without a body.
    pub(crate) fn done() -> Response {
        StatusCode::NO_CONTENT.into_response()
    }

    /// An answer without a body that says where the thing is.
    pub(crate) fn at(&self, status: StatusCode, path: &str) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = status;
        self.locate(&mut response, path);
        response
    }

    /// Says where the thing is.
    pub(crate) fn locate(&self, response: &mut Response, path: &str) {
        if let Ok(value) = HeaderValue::try_from(format!("{}{path}", self.base)) {
            response.headers_mut().insert(header::LOCATION, value);
        }
    }

    /// A path of this face as clients see it.
    pub(crate) fn path(&self, path: &str) -> String {
        format!("{}{path}", self.mount)
    }
}

/// Says when an answer was last changed, now when nothing better is known, and that it is not to be kept.
pub(super) fn date(response: &mut Response, modified: Option<Timestamp>) {
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    let modified = modified.unwrap_or_else(Timestamp::now);
    let text = modified.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    if let Ok(value) = HeaderValue::try_from(text) {
        headers.insert(header::LAST_MODIFIED, value);
    }
}
