//! The password that a guest made for itself and encrypted with its user's key; whoever has the key can read it.

use axum::{
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use http::StatusCode;
use madang_http::{Failure, json};
use madang_identity::Caller;
use madang_store::{Cause, Resource, Store, StoreError};
use serde_json::json;

use super::{Server, api::find_for, verbs};
use crate::api::ComputeApi;

/// As much as Nova keeps, in bytes.
pub const MAX_BYTES: usize = 4 * 255;

/// `GET /servers/{id}/os-server-password`.
pub async fn show(State(api): State<ComputeApi>, caller: Caller, Path(id): Path<String>) -> Result<Response, Failure> {
    let server = find_for(&api, &caller, &id, "os_compute_api:os-server-password:show")?;
    let password = server.status.password.as_deref().unwrap_or_default();
    Ok(json(StatusCode::OK, &json!({ "password": password })))
}

/// `DELETE /servers/{id}/os-server-password`: forgets it; the guest keeps it.
pub async fn clear(State(api): State<ComputeApi>, caller: Caller, Path(id): Path<String>) -> Result<Response, Failure> {
    let server = find_for(&api, &caller, &id, "os_compute_api:os-server-password:clear")?;
    verbs::edit(&api.store, &caller, &server, |server| {
        server.status.password = None;
        Ok(())
    })
    .await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Keeps what a guest posts; says whether it was the first.
///
/// # Errors
/// What the store says.
pub async fn post(store: &Store, server: &Resource<Server>, password: &str) -> Result<bool, StoreError> {
    let key = server.key();
    store
        .transact::<bool, StoreError>(Cause::system("metadata"), |tx| {
            let Some(server) = tx.get::<Server>(&key) else {
                return Ok(false);
            };
            if server.status.password.is_some() {
                return Ok(false);
            }
            let mut changed = (*server).clone();
            changed.status.password = Some(password.to_owned());
            tx.update(&server, changed)?;
            Ok(true)
        })
        .await
}
