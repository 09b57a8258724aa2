//! `/auto-allocated-topology`: makes it on the first look, as Neutron does.

use axum::{
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use http::StatusCode;
use madang_http::{Failure, Query, json};
use madang_identity::Caller;
use madang_store::StoreError;
use serde_json::{Value, json};

use super::{AutoTopology, ensure, key, requirements};
use crate::api::{NetworkApi, failure::Stop, resource::Facts};

fn shown(id: &str, project: &str) -> Response {
    let topology: Value = json!({ "id": id, "tenant_id": project, "project_id": project });
    json(StatusCode::OK, &json!({ "auto_allocated_topology": topology }))
}

/// Whose it is: `null` in the path is the caller's own.
fn project_of(caller: &Caller, said: &str) -> String {
    match said {
        "null" | "None" => caller.subject.project_id().unwrap_or_default().to_owned(),
        said => said.to_owned(),
    }
}

/// `GET /auto-allocated-topology/{project}`; with `fields=dry-run`, whether it could be made.
pub(crate) async fn show(
    State(api): State<NetworkApi>,
    caller: Caller,
    Path(project): Path<String>,
    query: Query,
) -> Result<Response, Failure> {
    let project = project_of(&caller, &project);
    Facts::of(&project).enforce(&caller, "get_auto_allocated_topology")?;
    if query.all("fields").any(|field| field == "dry-run") {
        requirements(&api.store).map_err(Stop::from)?;
        return Ok(shown("dry-run=pass", &project));
    }
    let made = api
        .store
        .transact::<_, StoreError>(caller.cause(), |tx| ensure(tx, &project))
        .await
        .map_err(Stop::from)?;
    Ok(shown(&made.status.network, &project))
}

/// `DELETE /auto-allocated-topology/{project}`.
pub(crate) async fn delete(
    State(api): State<NetworkApi>,
    caller: Caller,
    Path(project): Path<String>,
) -> Result<Response, Failure> {
    let project = project_of(&caller, &project);
    Facts::of(&project).enforce(&caller, "delete_auto_allocated_topology")?;
    let deleted =
        api.store
            .transact::<bool, StoreError>(caller.cause(), |tx| match tx.get::<AutoTopology>(&key(&project)) {
                Some(record) => tx.delete::<AutoTopology>(&record).map(|()| true),
                None => Ok(false),
            });
    if !deleted.await.map_err(Stop::from)? {
        let message = format!("Auto allocated topology for project {project} could not be found.");
        return Err(Failure::not_found(message));
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}
