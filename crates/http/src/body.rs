//! JSON in and out.

use axum::{
    body::{Body, Bytes},
    extract::{FromRequest, Request},
    response::Response,
};
use http::{HeaderValue, StatusCode, header};
use serde::{Serialize, de::DeserializeOwned};

use crate::{Failure, MALFORMED_BODY, TOO_LARGE, UNSUPPORTED_CONTENT_TYPE};

/// A request's JSON body. `Json<serde_json::Value>` goes to a [`crate::Schema`]; any other type names the field that
/// does not fit.
#[derive(Clone, Debug)]
pub struct Json<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        if !is_json(request.headers().get(header::CONTENT_TYPE)) {
            return Err(Failure::invalid("the body must be application/json")
                .because(UNSUPPORTED_CONTENT_TYPE)
                .with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE));
        }
        let bytes = read(request, state).await?;
        let mut deserializer = serde_json::Deserializer::from_slice(&bytes);
        let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|e| misfit(&e))?;
        deserializer.end().map_err(|e| malformed(&e))?;
        Ok(Self(value))
    }
}

async fn read<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, Failure> {
    Bytes::from_request(request, state)
        .await
        .map_err(|rejection| match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => Failure::invalid("the request body is too large")
                .because(TOO_LARGE)
                .with_status(rejection.status()),
            _ => Failure::invalid(format!("could not read the request body: {}", rejection.body_text())),
        })
}

/// No content type is taken as JSON, as the originals do.
fn is_json(content_type: Option<&HeaderValue>) -> bool {
    let Some(value) = content_type else { return true };
    let text = value.to_str().unwrap_or_default();
    let essence = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence.is_empty()
        || essence == "application/json"
        || (essence.starts_with("application/") && essence.ends_with("+json"))
}

fn malformed(error: &serde_json::Error) -> Failure {
    Failure::invalid(format!("the request body is not JSON: {error}")).because(MALFORMED_BODY)
}

pub(crate) fn misfit(error: &serde_path_to_error::Error<serde_json::Error>) -> Failure {
    if error.inner().is_syntax() || error.inner().is_eof() {
        return malformed(error.inner());
    }
    let path = error.path().to_string();
    Failure::invalid(format!("Invalid input for field/attribute {path}. {}", error.inner())).at(path)
}

/// An answer with a JSON body, written straight from typed structs.
pub fn json(status: StatusCode, body: &impl Serialize) -> Response {
    json_of(status, body, 1024) // most fit without growing
}

/// As [`json`], of a body that is about so many bytes long.
pub fn json_of(status: StatusCode, body: &impl Serialize, expected_bytes: usize) -> Response {
    let mut bytes = Vec::with_capacity(expected_bytes);
    if let Err(error) = serde_json::to_writer(&mut bytes, body) {
        use axum::response::IntoResponse;
        return Failure::internal(format!("could not write the answer: {error}")).into_response();
    }
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    struct Port {
        #[allow(dead_code)]
        mtu: u16,
    }

    async fn read_port(content_type: &str, body: &str) -> Result<Json<Vec<Port>>, Failure> {
        let request = Request::builder()
            .header("content-type", content_type)
            .body(Body::from(body.to_owned()))
            .unwrap();
        Json::from_request(request, &()).await
    }

    #[tokio::test]
    async fn a_misfit_names_its_path() {
        assert!(
            read_port("application/json; charset=utf-8", r#"[{"mtu":1500}]"#)
                .await
                .is_ok()
        );
        let failure = read_port("application/json", r#"[{"mtu":1500},{"mtu":"x"}]"#)
            .await
            .unwrap_err();
        assert_eq!(failure.field.as_deref(), Some("[1].mtu"));
        for broken in ["", "[{", r#"[{"mtu":1}] x"#] {
            assert_eq!(
                read_port("application/json", broken).await.unwrap_err().reason,
                MALFORMED_BODY,
                "{broken}"
            );
        }
        assert_eq!(
            read_port("text/xml", "[]").await.unwrap_err().reason,
            UNSUPPORTED_CONTENT_TYPE
        );
    }
}
