//! Staging and importing.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{Path, State},
};
use http::{HeaderMap, StatusCode};
use madang_http::{Failure, Json, RequestInfo};
use madang_identity::Caller;
use serde_json::Value;

use super::{
    super::{import, upload},
    data::check_media_type,
};
use crate::library::Library;

/// `PUT /v2/images/{id}/stage`: bytes that are to be imported.
pub(crate) async fn stage(
    State(library): State<Arc<Library>>,
    caller: Caller,
    info: RequestInfo,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, Failure> {
    check_media_type(&headers)?;
    info.allow(None);
    upload::stage(&library, &caller, &id, body.into_data_stream()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /v2/images/{id}/import`.
pub(crate) async fn begin(
    State(library): State<Arc<Library>>,
    caller: Caller,
    Path(id): Path<String>,
    Json(body): Json<Value>,
) -> Result<StatusCode, Failure> {
    import::begin(&library, &caller, &id, &body).await?;
    Ok(StatusCode::ACCEPTED)
}
