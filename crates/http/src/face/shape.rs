//! How each original words a failure: one table per shape from kind to status, and one body.

use std::borrow::Cow;

use axum::{body::Body, response::Response};
use http::{HeaderValue, StatusCode, header};
use madang_store::ErrorKind;
use serde_json::{Map, Value, json};

use crate::{Failure, MALFORMED_BODY, NO_SUCH_METHOD, NO_SUCH_ROUTE, TOO_LARGE, UNSUPPORTED_CONTENT_TYPE};

/// The original whose failures a face looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `{"badRequest": {"code": 400, "message": "…"}}`.
    Nova,
    /// As Nova, with 413 where a quota is reached.
    Cinder,
    /// `{"error": {"code": 404, "message": "…", "title": "Not Found"}}`.
    Keystone,
    /// `{"NeutronError": {"type": "…", "message": "…", "detail": ""}}`.
    Neutron,
    /// An HTML page, or `{"message": "…", "code": "404 Not Found", "title": "Not Found"}` for who asks for JSON.
    Glance,
    /// `{"errors": [{"status": 404, "title": "…", "detail": "…", "code": "…", "request_id": "…"}]}`.
    Placement,
    /// The message as plain text, or a page that only says what the status means.
    Swift,
}

impl Shape {
    /// The status for a kind of failure.
    pub fn status(self, kind: ErrorKind) -> StatusCode {
        match (kind, self) {
            (ErrorKind::Invalid, _) => StatusCode::BAD_REQUEST,
            (ErrorKind::Unauthenticated, _) => StatusCode::UNAUTHORIZED,
            (ErrorKind::Forbidden, _) => StatusCode::FORBIDDEN,
            (ErrorKind::NotFound, _) => StatusCode::NOT_FOUND,
            (ErrorKind::Conflict, _) => StatusCode::CONFLICT,
            (ErrorKind::Exhausted, Self::Nova | Self::Keystone) => StatusCode::FORBIDDEN,
            (ErrorKind::Exhausted, Self::Cinder | Self::Glance | Self::Swift) => StatusCode::PAYLOAD_TOO_LARGE,
            (ErrorKind::Exhausted, Self::Neutron | Self::Placement) => StatusCode::CONFLICT,
            (ErrorKind::Unavailable, _) => StatusCode::SERVICE_UNAVAILABLE,
            (ErrorKind::TimedOut, _) => StatusCode::GATEWAY_TIMEOUT,
            (ErrorKind::Internal, _) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The answer to a failure. `accept` is the request's `Accept` header.
    pub fn render(self, failure: &Failure, request_id: &str, accept: Option<&HeaderValue>) -> Response {
        let status = self.status_of(failure);
        let message = self.message(failure, request_id);
        // 401 comes from keystonemiddleware in front of every original, so it looks the same everywhere.
        let shape = if status == StatusCode::UNAUTHORIZED && self != Self::Swift {
            Self::Keystone
        } else {
            self
        };
        let (body, content_type) = match shape {
            Self::Nova | Self::Cinder => as_json(&shape.nova(status, &message, failure)),
            Self::Keystone => as_json(&keystone(status, &message, failure)),
            Self::Neutron => as_json(&neutron(status, &message, failure)),
            Self::Glance => glance(status, &message, accept),
            Self::Placement => as_json(&placement(status, &message, failure, request_id)),
            Self::Swift => swift(status, &message),
        };
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = status;
        response.headers_mut().insert(header::CONTENT_TYPE, content_type);
        for (name, value) in failure.headers() {
            response.headers_mut().append(name, value.clone());
        }
        response
    }

    fn status_of(self, failure: &Failure) -> StatusCode {
        if failure.reason == UNSUPPORTED_CONTENT_TYPE && self == Self::Keystone {
            return StatusCode::BAD_REQUEST;
        }
        failure.status().unwrap_or_else(|| self.status(failure.kind))
    }

    /// The words of the original for what can go wrong in any request, the handler's own words otherwise.
    fn message<'f>(self, failure: &'f Failure, request_id: &str) -> Cow<'f, str> {
        if failure.kind == ErrorKind::Internal {
            return format!("an unexpected error occurred: the server's log names request {request_id}").into();
        }
        match (failure.reason, self) {
            (MALFORMED_BODY, Self::Nova | Self::Cinder) => "Malformed request body".into(),
            (MALFORMED_BODY, Self::Keystone) => expecting("valid JSON", "request body").into(),
            (MALFORMED_BODY, Self::Placement) => format!("Malformed JSON: {}", failure.message).into(),
            (UNSUPPORTED_CONTENT_TYPE, Self::Keystone) => expecting("application/json", "Content-Type header").into(),
            (UNSUPPORTED_CONTENT_TYPE, Self::Nova | Self::Cinder) => "Unsupported Content-Type".into(),
            (NO_SUCH_ROUTE, Self::Keystone) => {
                "The requested URL was not found on the server. If you entered the URL manually please check your \
                 spelling and try again."
                    .into()
            }
            (NO_SUCH_ROUTE, _) => "The resource could not be found.".into(),
            (NO_SUCH_METHOD, Self::Keystone) => "The method is not allowed for the requested URL.".into(),
            (TOO_LARGE, Self::Nova | Self::Cinder) => "Request is too large.".into(),
            _ => failure.message.as_str().into(),
        }
    }

    fn nova(self, status: StatusCode, message: &str, failure: &Failure) -> Value {
        let name = match status.as_u16() {
            400 => "badRequest",
            401 => "unauthorized",
            403 => "forbidden",
            404 => "itemNotFound",
            405 => "badMethod",
            409 => "conflictingRequest",
            413 | 429 => "overLimit",
            415 => "badMediaType",
            501 => "notImplemented",
            503 => "serviceUnavailable",
            _ => "computeFault",
        };
        let mut fault = Map::new();
        fault.insert("code".into(), status.as_u16().into());
        fault.insert("message".into(), message.into());
        let retry_after = failure.headers().iter().find(|(name, _)| *name == header::RETRY_AFTER);
        if let Some(text) = retry_after.and_then(|(_, value)| value.to_str().ok()) {
            fault.insert("retryAfter".into(), text.into());
        }
        with_members(&mut fault, failure);
        json!({ name: fault })
    }
}

/// Keystone's `ValidationError`.
fn expecting(attribute: &str, target: &str) -> String {
    format!(
        "Expecting to find {attribute} in {target}. The server could not comply with the request since it is either \
         malformed or otherwise incorrect. The client is assumed to be in error."
    )
}

fn keystone(status: StatusCode, message: &str, failure: &Failure) -> Value {
    let mut error = Map::new();
    error.insert("code".into(), status.as_u16().into());
    error.insert("message".into(), message.into());
    error.insert("title".into(), title(status).into());
    with_members(&mut error, failure);
    json!({ "error": error })
}

fn neutron(status: StatusCode, message: &str, failure: &Failure) -> Value {
    let reason = match (failure.reason, status.as_u16()) {
        ("" | MALFORMED_BODY, 400) => "HTTPBadRequest",
        ("", 403) => "PolicyNotAuthorized",
        ("" | NO_SUCH_ROUTE, 404) => "HTTPNotFound",
        ("" | NO_SUCH_METHOD, 405) => "HTTPMethodNotAllowed",
        ("", 409) => "Conflict",
        ("", 413) => "HTTPRequestEntityTooLarge",
        (UNSUPPORTED_CONTENT_TYPE, _) => "HTTPUnsupportedMediaType",
        ("", 503) => "ServiceUnavailable",
        ("", _) => "HTTPInternalServerError",
        (reason, _) => reason,
    };
    let mut error = Map::new();
    error.insert("type".into(), reason.into());
    error.insert("message".into(), message.into());
    error.insert("detail".into(), "".into());
    with_members(&mut error, failure);
    json!({ "NeutronError": error })
}

fn placement(status: StatusCode, message: &str, failure: &Failure, request_id: &str) -> Value {
    let code = if failure.reason.starts_with("placement.") {
        failure.reason
    } else {
        "placement.undefined_code"
    };
    let mut error = Map::new();
    error.insert("status".into(), status.as_u16().into());
    error.insert("title".into(), title(status).into());
    error.insert("detail".into(), message.into());
    if status != StatusCode::NOT_ACCEPTABLE {
        error.insert("code".into(), code.into());
    }
    error.insert("request_id".into(), request_id.into());
    with_members(&mut error, failure);
    json!({ "errors": [error] })
}

/// WebOb's choice between its pages: HTML unless only JSON is wanted.
fn glance(status: StatusCode, message: &str, accept: Option<&HeaderValue>) -> (Vec<u8>, HeaderValue) {
    let accept = accept.and_then(|v| v.to_str().ok()).unwrap_or("*/*");
    let title = title(status);
    let line = format!("{} {title}", status.as_u16());
    if accept.contains("application/json") && !accept.contains("html") {
        return as_json(&json!({ "message": format!("{message}<br /><br />\n\n\n"), "code": line, "title": title }));
    }
    let text = escape_html(message);
    let page = format!(
        "<html>\n <head>\n  <title>{line}</title>\n </head>\n <body>\n  <h1>{line}</h1>\n  {text}<br /><br />\n\n\n\n \
         </body>\n</html>"
    );
    (page.into_bytes(), HeaderValue::from_static("text/html; charset=UTF-8"))
}

/// Swift's own page where nothing else is said.
fn swift(status: StatusCode, message: &str) -> (Vec<u8>, HeaderValue) {
    if !message.is_empty() {
        return (
            message.as_bytes().to_vec(),
            HeaderValue::from_static("text/plain; charset=UTF-8"),
        );
    }
    let (title, text) = match status.as_u16() {
        401 => (
            "Unauthorized",
            "This server could not verify that you are authorized to access the document you requested.",
        ),
        403 => ("Forbidden", "Access was denied to this resource."),
        404 => ("Not Found", "The resource could not be found."),
        405 => ("Method Not Allowed", "The method is not allowed for this resource."),
        406 => (
            "Not Acceptable",
            "The resource is not available in a format acceptable to your browser.",
        ),
        408 => (
            "Request Timeout",
            "The server has waited too long for the request to be sent by the client.",
        ),
        409 => ("Conflict", "There was a conflict when trying to complete your request."),
        411 => ("Length Required", "Content-Length header required."),
        412 => ("Precondition Failed", "A precondition for this request was not met."),
        413 => (
            "Request Entity Too Large",
            "The body of your request was too large for this server.",
        ),
        416 => (
            "Requested Range Not Satisfiable",
            "The Range requested is not available.",
        ),
        422 => ("Unprocessable Entity", "Unable to process the contained instructions"),
        503 => (
            "Service Unavailable",
            "The server is currently unavailable. Please try again at a later time.",
        ),
        507 => (
            "Insufficient Storage",
            "There was not enough space to save the resource.",
        ),
        _ => (title(status), "The server could not comply with the request."),
    };
    let page = format!("<html><h1>{title}</h1><p>{text}</p></html>");
    (page.into_bytes(), HeaderValue::from_static("text/html; charset=UTF-8"))
}

fn escape_html(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

fn with_members(object: &mut Map<String, Value>, failure: &Failure) {
    if let Some(members) = failure.members() {
        object.extend(members.iter().map(|(name, value)| (name.clone(), value.clone())));
    }
}

fn as_json(value: &Value) -> (Vec<u8>, HeaderValue) {
    (
        value.to_string().into_bytes(),
        HeaderValue::from_static("application/json"),
    )
}

/// Python's `http.client.responses`, which the originals take titles from.
fn title(status: StatusCode) -> &'static str {
    match status {
        StatusCode::PAYLOAD_TOO_LARGE => "Request Entity Too Large",
        other => other.canonical_reason().unwrap_or("Error"),
    }
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;

    use super::*;

    async fn rendered(shape: Shape, failure: Failure, accept: &'static str) -> (u16, String) {
        let response = shape.render(&failure, "req-1", Some(&HeaderValue::from_static(accept)));
        let status = response.status().as_u16();
        let body = to_bytes(response.into_body(), 10_000).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn each_shape_words_a_missing_thing_as_its_original() {
        let missing = || Failure::not_found("No such thing: 42").because("ThingNotFound");
        let table = [
            (
                Shape::Nova,
                r#"{"itemNotFound":{"code":404,"message":"No such thing: 42"}}"#,
            ),
            (
                Shape::Cinder,
                r#"{"itemNotFound":{"code":404,"message":"No such thing: 42"}}"#,
            ),
            (
                Shape::Keystone,
                r#"{"error":{"code":404,"message":"No such thing: 42","title":"Not Found"}}"#,
            ),
            (
                Shape::Neutron,
                r#"{"NeutronError":{"type":"ThingNotFound","message":"No such thing: 42","detail":""}}"#,
            ),
            (
                Shape::Placement,
                r#"{"errors":[{"status":404,"title":"Not Found","detail":"No such thing: 42","code":"placement.undefined_code","request_id":"req-1"}]}"#,
            ),
            (
                Shape::Glance,
                r#"{"message":"No such thing: 42<br /><br />\n\n\n","code":"404 Not Found","title":"Not Found"}"#,
            ),
        ];
        for (shape, body) in table {
            assert_eq!(
                rendered(shape, missing(), "application/json").await,
                (404, body.to_owned()),
                "{shape:?}"
            );
        }
        let (_, page) = rendered(Shape::Glance, Failure::not_found("<b>"), "*/*").await;
        assert!(page.contains("<h1>404 Not Found</h1>\n  &lt;b&gt;<br />"), "{page}");
    }

    #[tokio::test]
    async fn a_reached_limit_has_each_originals_status() {
        for (shape, status) in [
            (Shape::Nova, 403),
            (Shape::Cinder, 413),
            (Shape::Keystone, 403),
            (Shape::Neutron, 409),
            (Shape::Glance, 413),
            (Shape::Placement, 409),
            (Shape::Swift, 413),
        ] {
            assert_eq!(
                rendered(shape, Failure::exhausted("full"), "*/*").await.0,
                status,
                "{shape:?}"
            );
        }
    }

    #[tokio::test]
    async fn an_internal_failure_tells_only_the_request_id() {
        for shape in [
            Shape::Nova,
            Shape::Cinder,
            Shape::Keystone,
            Shape::Neutron,
            Shape::Glance,
            Shape::Placement,
            Shape::Swift,
        ] {
            let (status, body) = rendered(shape, Failure::internal("password is hunter2"), "*/*").await;
            assert_eq!(status, 500);
            assert!(body.contains("req-1") && !body.contains("hunter2"), "{body}");
        }
    }

    #[tokio::test]
    async fn unauthenticated_looks_the_same_in_every_face() {
        let body = r#"{"error":{"code":401,"message":"who","title":"Unauthorized"}}"#;
        for shape in [
            Shape::Nova,
            Shape::Neutron,
            Shape::Glance,
            Shape::Placement,
            Shape::Cinder,
        ] {
            assert_eq!(
                rendered(shape, Failure::unauthenticated("who"), "*/*").await,
                (401, body.to_owned())
            );
        }
    }

    #[tokio::test]
    async fn swift_says_what_a_status_means() {
        let page = "<html><h1>Not Found</h1><p>The resource could not be found.</p></html>";
        assert_eq!(
            rendered(Shape::Swift, Failure::not_found(""), "*/*").await,
            (404, page.to_owned())
        );
        let said = rendered(Shape::Swift, Failure::invalid("Bad digest"), "*/*").await;
        assert_eq!(said, (400, "Bad digest".to_owned()));
        assert_eq!(rendered(Shape::Swift, Failure::unauthenticated(""), "*/*").await.0, 401);
    }

    #[tokio::test]
    async fn retry_after_is_also_in_novas_body() {
        let failure = Failure::exhausted("slow down")
            .with_status(StatusCode::TOO_MANY_REQUESTS)
            .with_header(header::RETRY_AFTER, HeaderValue::from_static("7"));
        let body = r#"{"overLimit":{"code":429,"message":"slow down","retryAfter":"7"}}"#;
        assert_eq!(rendered(Shape::Nova, failure, "*/*").await, (429, body.to_owned()));
    }

    #[tokio::test]
    async fn placement_adds_the_versions_it_knows_to_406() {
        let failure = Failure::invalid("no")
            .with_status(StatusCode::NOT_ACCEPTABLE)
            .with_member("max_version", "1.39")
            .with_member("min_version", "1.0");
        let (status, body) = rendered(Shape::Placement, failure, "*/*").await;
        assert_eq!(status, 406);
        assert!(
            body.contains(r#""max_version":"1.39","min_version":"1.0""#) && !body.contains("code"),
            "{body}"
        );
    }
}
