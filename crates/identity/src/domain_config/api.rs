//! `/v3/domains/{id}/config` and `/v3/domains/config/default`.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Path, State},
    response::Response,
    routing::get,
};
use http::StatusCode;
use madang_http::{Failure, Json, json};
use serde_json::{Map, Value, json as value};

use super::rules::{self, Part};
use crate::{Caller, Identity, api::no_content, bootstrap::DEFAULT_DOMAIN};

/// The group that everybody may read, so that users learn what their passwords must be.
const COMPLIANCE: &str = "security_compliance";

pub(crate) fn routes() -> Router<Arc<Identity>> {
    let one = || get(show).patch(update).delete(remove);
    Router::new()
        .route("/domains/config/default", get(defaults))
        .route("/domains/config/{group}/default", get(defaults))
        .route("/domains/config/{group}/{option}/default", get(defaults))
        .route("/domains/{id}/config", one().put(replace))
        .route("/domains/{id}/config/{group}", one())
        .route("/domains/{id}/config/{group}/{option}", one())
}

/// What the path names: the domain, where there is one, the group and the option.
type Names = Path<std::collections::HashMap<String, String>>;

fn part(names: &Names) -> Part<'_> {
    Part {
        group: names.get("group").map(String::as_str),
        option: names.get("option").map(String::as_str),
    }
}

fn domain(names: &Names) -> &str {
    names.get("id").map_or("", String::as_str)
}

fn read(body: &Value) -> Result<Map<String, Value>, Failure> {
    let config = body["config"].as_object().cloned();
    config.ok_or_else(|| Failure::invalid("'config' is a required property").at("config"))
}

fn answer(status: StatusCode, config: &Value) -> Response {
    json(status, &value!({ "config": config }))
}

async fn replace(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    names: Names,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    let (config, is_new) = rules::replace(&identity, &caller, domain(&names), &read(&body)?).await?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok(answer(status, &config))
}

async fn show(State(identity): State<Arc<Identity>>, caller: Caller, names: Names) -> Result<Response, Failure> {
    let part = part(&names);
    let config = if part.group == Some(COMPLIANCE) {
        compliance(&identity, &caller, domain(&names), part.option)?
    } else {
        rules::show(&identity, &caller, domain(&names), &part)?
    };
    Ok(answer(StatusCode::OK, &config))
}

/// What passwords must be, in the one domain that Keystone says it for.
fn compliance(identity: &Identity, caller: &Caller, domain_id: &str, option: Option<&str>) -> Result<Value, Failure> {
    caller.enforce("identity:get_security_compliance_domain_config", &[])?;
    let refuse = |reason: &str| Failure::forbidden(format!("Invalid domain specific configuration: {reason}"));
    if domain_id != DEFAULT_DOMAIN {
        return Err(refuse("only the default domain has security compliance information."));
    }
    let rules = &identity.options.compliance;
    let all = value!({
        "password_regex": rules.password_regex.as_ref().map(|regex| regex.as_str()),
        "password_regex_description": rules.password_regex_description,
    });
    match option {
        None => Ok(value!({ COMPLIANCE: all })),
        Some(option) => match all.get(option) {
            Some(set) => Ok(value!({ option: set })),
            None => Err(refuse(&format!("the option {option} cannot be read."))),
        },
    }
}

async fn update(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    names: Names,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    let config = rules::update(&identity, &caller, domain(&names), &part(&names), read(&body)?).await?;
    Ok(answer(StatusCode::OK, &config))
}

async fn remove(State(identity): State<Arc<Identity>>, caller: Caller, names: Names) -> Result<Response, Failure> {
    rules::remove(&identity, &caller, domain(&names), &part(&names)).await?;
    Ok(no_content())
}

async fn defaults(caller: Caller, names: Names) -> Result<Response, Failure> {
    Ok(answer(StatusCode::OK, &rules::defaults(&caller, &part(&names))?))
}
