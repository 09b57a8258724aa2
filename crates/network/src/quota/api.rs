//! Quotas as Neutron shows them.

use axum::{
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use http::StatusCode;
use madang_http::{Failure, Json, json};
use madang_identity::Caller;
use madang_store::{Metadata, Resource};
use serde_json::{Map, Value, json};

use super::{COUNTERS, Limited, Quota, key};
use crate::api::{
    NetworkApi, convert,
    failure::Stop,
    resource::{Facts, member, wrapped},
};

/// Neutron's `DB_INTEGER_MAX_VALUE`.
const MOST: i64 = 2_147_483_647;

fn limits(api: &NetworkApi, project: &str) -> Map<String, Value> {
    let limit = |limited: Limited| Value::from(super::limit(&api.store, project, limited).unwrap_or(-1));
    Limited::ALL
        .iter()
        .map(|limited| (limited.name().to_owned(), limit(*limited)))
        .collect()
}

fn check(caller: &Caller, rule: &str, project: &str) -> Result<(), Failure> {
    Facts::of(project).enforce(caller, rule)
}

/// `GET /quotas`: the projects that have limits of their own.
pub(crate) async fn list(State(api): State<NetworkApi>, caller: Caller) -> Result<Response, Failure> {
    check(&caller, "get_quota", "")?;
    let mut quotas: Vec<_> = api.store.cache::<Quota>().all();
    quotas.sort_by(|a, b| a.project().cmp(b.project()));
    let quotas: Vec<_> = quotas
        .iter()
        .map(|quota| {
            let mut limits = limits(&api, quota.project());
            limits.insert("project_id".to_owned(), quota.project().into());
            limits.insert("tenant_id".to_owned(), quota.project().into());
            Value::Object(limits)
        })
        .collect();
    Ok(json(StatusCode::OK, &json!({ "quotas": quotas })))
}

/// `GET /quotas/{project}`; `tenant` and `project` are the caller's own project's id.
pub(crate) async fn show(
    State(api): State<NetworkApi>,
    caller: Caller,
    Path(project): Path<String>,
) -> Result<Response, Failure> {
    if let "tenant" | "project" = project.as_str() {
        let own = caller.project()?;
        return Ok(json(
            StatusCode::OK,
            &wrapped(&project, json!({ "tenant_id": own, "project_id": own })),
        ));
    }
    check(&caller, "get_quota", &project)?;
    Ok(json(
        StatusCode::OK,
        &wrapped("quota", Value::Object(limits(&api, &project))),
    ))
}

/// `GET /quotas/{project}/default`.
pub(crate) async fn default(caller: Caller, Path(project): Path<String>) -> Result<Response, Failure> {
    check(&caller, "get_quota", &project)?;
    let limits = Limited::ALL
        .iter()
        .map(|limited| (limited.name().to_owned(), limited.default_limit().into()));
    Ok(json(StatusCode::OK, &wrapped("quota", Value::Object(limits.collect()))))
}

/// `GET /quotas/{project}/details`: limits and what is used.
pub(crate) async fn details(
    State(api): State<NetworkApi>,
    caller: Caller,
    Path(project): Path<String>,
) -> Result<Response, Failure> {
    check(&caller, "get_quota", &project)?;
    let used = api.store.counters(&project, COUNTERS);
    let limits = limits(&api, &project);
    let detail = |limited: &Limited| {
        let used = used.get(limited.field()).copied().unwrap_or(0);
        (
            limited.name().to_owned(),
            json!({ "limit": limits[limited.name()], "used": used, "reserved": 0 }),
        )
    };
    let details: Map<String, Value> = Limited::ALL.iter().map(detail).collect();
    Ok(json(StatusCode::OK, &wrapped("quota", Value::Object(details))))
}

/// `PUT /quotas/{project}`: sets limits; those not named stay.
pub(crate) async fn update(
    State(api): State<NetworkApi>,
    caller: Caller,
    Path(project): Path<String>,
    body: Json<Value>,
) -> Result<Response, Failure> {
    check(&caller, "update_quota", &project)?;
    let (given, is_checked) = read_limits(member(body.0, "quota")?)?;
    if is_checked {
        check_used(&api, &project, &given)?;
    }
    let set = api.store.transact(caller.cause(), |tx| {
        let key = key(&project);
        let mut spec = tx
            .get::<Quota>(&key)
            .map(|quota| quota.spec.clone())
            .unwrap_or_default();
        spec.limits.extend(given.iter().cloned());
        match tx.get::<Quota>(&key) {
            None => tx
                .create(Resource::<Quota>::new(Metadata::new(project.as_str(), COUNTERS), spec))
                .map(|_| ())?,
            Some(old) => {
                let mut new = (*old).clone();
                new.spec = spec;
                tx.update(&old, new)?;
            }
        }
        Ok::<_, Stop>(())
    });
    set.await?;
    Ok(json(
        StatusCode::OK,
        &wrapped("quota", Value::Object(limits(&api, &project))),
    ))
}

/// The limits of a body, and whether none may be below what is used already.
fn read_limits(body: Map<String, Value>) -> Result<(Vec<(String, i64)>, bool), Failure> {
    let mut limits = Vec::new();
    let mut is_checked = true;
    for (name, value) in body {
        let unfit =
            |reason: String| Failure::invalid(format!("Invalid input for {name}. Reason: {reason}.")).at(name.as_str());
        match name.as_str() {
            "tenant_id" | "project_id" => {}
            "force" => is_checked = convert::flag(&value).map_err(unfit)? == Value::Bool(false),
            // What happens anyway, unless it is forced.
            "check_limit" => _ = convert::flag(&value).map_err(unfit)?,
            limited if Limited::ALL.iter().any(|known| known.name() == limited) => {
                let limit = convert::number(&value).ok().and_then(|number| number.as_i64());
                let limit = limit.filter(|limit| (-1..=MOST).contains(limit)).ok_or_else(|| {
                    unfit(format!(
                        "{} is not in valid range between -1 and {MOST}",
                        convert::quoted(&value)
                    ))
                })?;
                limits.push((name, limit));
            }
            _ => return Err(Failure::invalid(format!("Unrecognized attribute(s) '{name}'")).at(name)),
        }
    }
    Ok((limits, is_checked))
}

fn check_used(api: &NetworkApi, project: &str, limits: &[(String, i64)]) -> Result<(), Failure> {
    let used = api.store.counters(project, COUNTERS);
    for (name, limit) in limits.iter().filter(|(_, limit)| *limit >= 0) {
        let field = Limited::ALL
            .iter()
            .find(|limited| limited.name() == name)
            .map_or("", |limited| limited.field());
        let used = used.get(field).copied().unwrap_or(0);
        if used > *limit {
            let message = format!("Quota limit {limit} for {name} is below what is used: {used}.");
            return Err(Failure::invalid(message)
                .because("QuotaLimitBelowUsage")
                .at(name.as_str()));
        }
    }
    Ok(())
}

/// `DELETE /quotas/{project}`: back to the defaults.
pub(crate) async fn reset(
    State(api): State<NetworkApi>,
    caller: Caller,
    Path(project): Path<String>,
) -> Result<Response, Failure> {
    check(&caller, "delete_quota", &project)?;
    let reset = api.store.transact(caller.cause(), |tx| {
        if let Some(quota) = tx.get::<Quota>(&key(&project)) {
            tx.delete(&quota)?;
        }
        Ok::<_, Stop>(())
    });
    reset.await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
