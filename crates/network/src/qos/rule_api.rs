//! The rules of a policy, each sort at a path of its own below it, and what sorts there are.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Path, State},
    response::{IntoResponse, Response},
    routing::get,
};
use http::{Method, StatusCode};
use madang_http::{Failure, Json, Query, RequestInfo, json};
use madang_identity::Caller;
use madang_store::Resource;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{QosPolicy, QosRule, Says, api::rule_missing};
use crate::{
    Direction,
    api::{
        NetworkApi,
        attribute::{Attribute, Body},
        convert,
        failure::Stop,
        filter,
        resource::{Context, Facts, member, visible, wrapped},
    },
    refusal::{self, Missing},
};

/// Marks that mean something. Source: Neutron's `VALID_DSCP_MARKS`.
const MARKS: [i64; 22] = [
    0, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 32, 34, 36, 38, 40, 46, 48, 56, 44,
];
/// Neutron's `DB_INTEGER_MAX_VALUE`.
const MOST: i64 = 2_147_483_647;

/// A sort of rule: its name in bodies, that of lists of it, what can be said of one.
struct Sort {
    singular: &'static str,
    plural: &'static str,
    word: &'static str,
    attributes: &'static [Attribute],
}

fn rate(value: &Value) -> Result<Value, String> {
    let number = convert::number(value)?;
    match number.as_i64() {
        Some(0..=MOST) => Ok(number),
        _ => Err(format!(
            "{} is not in valid range 0 through {MOST}",
            convert::quoted(value)
        )),
    }
}

fn direction(value: &Value) -> Result<Value, String> {
    convert::one_of(value, &["egress", "ingress"])
}

fn mark(value: &Value) -> Result<Value, String> {
    let number = convert::number(value)?;
    match number.as_i64() {
        Some(mark) if MARKS.contains(&mark) => Ok(number),
        _ => Err(format!("{} is not in {MARKS:?}", convert::quoted(value))),
    }
}

static LIMIT: Sort = Sort {
    singular: "bandwidth_limit_rule",
    plural: "bandwidth_limit_rules",
    word: "bandwidth_limit",
    attributes: &[
        Attribute::shown("id"),
        Attribute::new("max_kbps", rate).required(),
        Attribute::new("max_burst_kbps", rate),
        Attribute::new("direction", direction),
    ],
};

static MARK: Sort = Sort {
    singular: "dscp_marking_rule",
    plural: "dscp_marking_rules",
    word: "dscp_marking",
    attributes: &[Attribute::shown("id"), Attribute::new("dscp_mark", mark).required()],
};

impl Sort {
    /// What a request says, over what was said before.
    fn read(&self, body: &Body, before: Option<&Says>) -> Says {
        let number = |name: &str| body.number(name).and_then(|number| u32::try_from(number).ok());
        if self.word == MARK.word {
            let was = match before {
                Some(Says::DscpMarking { dscp_mark }) => *dscp_mark,
                _ => 0,
            };
            let given = number("dscp_mark").and_then(|mark| u8::try_from(mark).ok());
            return Says::DscpMarking {
                dscp_mark: given.unwrap_or(was),
            };
        }
        let (rate, burst, way) = match before {
            Some(Says::BandwidthLimit {
                max_kbps,
                max_burst_kbps,
                direction,
            }) => (*max_kbps, *max_burst_kbps, *direction),
            _ => (0, 0, Direction::Egress),
        };
        Says::BandwidthLimit {
            max_kbps: number("max_kbps").unwrap_or(rate),
            max_burst_kbps: number("max_burst_kbps").unwrap_or(burst),
            direction: match body.text("direction") {
                Some("ingress") => Direction::Ingress,
                Some(_) => Direction::Egress,
                None => way,
            },
        }
    }

    fn of<'p>(&self, policy: &'p Resource<QosPolicy>) -> impl Iterator<Item = &'p QosRule> {
        let word = self.word;
        policy.spec.rules.iter().filter(move |rule| rule.says.word() == word)
    }
}

fn view(rule: &QosRule) -> Map<String, Value> {
    let mut view = match json!(rule) {
        Value::Object(members) => members,
        _ => Map::new(),
    };
    view.shift_remove("type");
    view
}

/// The routes of rules and of their sorts.
pub(crate) fn routes() -> Router<NetworkApi> {
    Router::new()
        .merge(of_sort(&LIMIT))
        .merge(of_sort(&MARK))
        .route("/qos/rule-types", get(list_types))
        .route("/qos/rule-types/{type}", get(show_type))
}

fn of_sort(sort: &'static Sort) -> Router<NetworkApi> {
    let all = format!("/qos/policies/{{id}}/{}", sort.plural);
    let one = format!("{all}/{{rule}}");
    Router::new()
        .route(
            &all,
            get(move |api, caller, path, query, info| list(sort, api, caller, path, query, info))
                .post(move |api, caller, path, body| create(sort, api, caller, path, body)),
        )
        .route(
            &one,
            get(move |api, caller, path| show(sort, api, caller, path))
                .put(move |api, caller, path, body| update(sort, api, caller, path, body))
                .delete(move |api, caller, path| delete(sort, api, caller, path)),
        )
}

fn context(api: NetworkApi, caller: Caller) -> Context {
    Context {
        store: api.store,
        caller,
    }
}

/// The policy, for who may see it and do this with its rules.
fn policy(context: &Context, id: &str, sort: &Sort, verb: &str) -> Result<Arc<Resource<QosPolicy>>, Failure> {
    let policy = visible::<QosPolicy>(context, id)?;
    let rule = format!("{verb}_policy_{}", sort.singular);
    Facts::of(policy.project()).enforce(&context.caller, &rule)?;
    Ok(policy)
}

async fn list(
    sort: &Sort,
    State(api): State<NetworkApi>,
    caller: Caller,
    Path(id): Path<String>,
    query: Query,
    info: RequestInfo,
) -> Result<Response, Failure> {
    let policy = policy(&context(api, caller), &id, sort, "get")?;
    let items = sort.of(&policy).map(view).collect();
    let names: Vec<_> = sort.attributes.iter().map(|attribute| attribute.name).collect();
    Ok(json(
        StatusCode::OK,
        &filter::page(sort.plural, items, &names, &[], &query, &info)?,
    ))
}

async fn show(
    sort: &Sort,
    State(api): State<NetworkApi>,
    caller: Caller,
    Path((id, rule)): Path<(String, String)>,
) -> Result<Response, Failure> {
    let policy = policy(&context(api, caller), &id, sort, "get")?;
    let found = sort.of(&policy).find(|other| other.id == rule);
    let found = found.ok_or_else(|| rule_missing(&id, &rule))?;
    Ok(json(
        StatusCode::OK,
        &wrapped(sort.singular, Value::Object(view(found))),
    ))
}

async fn create(
    sort: &Sort,
    State(api): State<NetworkApi>,
    caller: Caller,
    Path(id): Path<String>,
    body: Json<Value>,
) -> Result<Response, Failure> {
    let context = context(api, caller);
    // Whose policy it is does not matter to this rule: it comes before the question whether there is one.
    let rule = format!("create_policy_{}", sort.singular);
    Facts::of("").enforce(&context.caller, &rule)?;
    let known = visible::<QosPolicy>(&context, &id)?;
    let body = Body::read(sort.attributes, &Method::POST, &member(body.0, sort.singular)?)?;
    let made = QosRule {
        id: Uuid::new_v4().to_string(),
        says: sort.read(&body, None),
    };
    change(&context, &known, |rules| {
        rules.push(made.clone());
        Ok(())
    })
    .await?;
    Ok(json(
        StatusCode::CREATED,
        &wrapped(sort.singular, Value::Object(view(&made))),
    ))
}

async fn update(
    sort: &Sort,
    State(api): State<NetworkApi>,
    caller: Caller,
    Path((id, rule)): Path<(String, String)>,
    body: Json<Value>,
) -> Result<Response, Failure> {
    let context = context(api, caller);
    let known = policy(&context, &id, sort, "update")?;
    let body = Body::read(sort.attributes, &Method::PUT, &member(body.0, sort.singular)?)?;
    let changed = change(&context, &known, |rules| {
        let found = rules
            .iter_mut()
            .find(|other| other.id == rule && other.says.word() == sort.word);
        let found = found.ok_or_else(|| rule_missing(&id, &rule))?;
        found.says = sort.read(&body, Some(&found.says));
        Ok(found.clone())
    });
    let changed = changed.await?;
    Ok(json(
        StatusCode::OK,
        &wrapped(sort.singular, Value::Object(view(&changed))),
    ))
}

async fn delete(
    sort: &Sort,
    State(api): State<NetworkApi>,
    caller: Caller,
    Path((id, rule)): Path<(String, String)>,
) -> Result<Response, Failure> {
    let context = context(api, caller);
    let known = policy(&context, &id, sort, "delete")?;
    change(&context, &known, |rules| {
        let place = rules
            .iter()
            .position(|other| other.id == rule && other.says.word() == sort.word);
        rules.remove(place.ok_or_else(|| rule_missing(&id, &rule))?);
        Ok(())
    })
    .await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn change<T>(
    context: &Context,
    known: &Resource<QosPolicy>,
    change: impl Fn(&mut Vec<QosRule>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let changed = context.store.transact(context.caller.cause(), |tx| {
        let old = tx.get::<QosPolicy>(&known.key());
        let old = old.ok_or_else(|| refusal::not_found(Missing::QosPolicy, known.name()))?;
        let mut new = (*old).clone();
        let answer = change(&mut new.spec.rules)?;
        tx.update(&old, new)?;
        Ok::<_, Stop>(answer)
    });
    Ok(changed.await?)
}

async fn list_types(_: Caller) -> Response {
    let types = [&LIMIT, &MARK].map(|sort| json!({ "type": sort.word }));
    json(StatusCode::OK, &json!({ "rule_types": types }))
}

async fn show_type(caller: Caller, Path(word): Path<String>) -> Result<Response, Failure> {
    Facts::of("").enforce(&caller, "get_rule_type")?;
    let range = |name: &str| json!({ "parameter_name": name, "parameter_type": "range", "parameter_values": { "start": 0, "end": MOST } });
    let choices = |name: &str, values: Value| json!({ "parameter_name": name, "parameter_type": "choices", "parameter_values": values });
    let parameters = match word.as_str() {
        "bandwidth_limit" => json!([
            range("max_kbps"),
            range("max_burst_kbps"),
            choices("direction", json!(["egress", "ingress"]))
        ]),
        "dscp_marking" => json!([choices("dscp_mark", json!(MARKS))]),
        _ => {
            let message = format!("Rule type {word} could not be found.");
            return Err(refusal::refuse(madang_store::ErrorKind::NotFound, "QosRuleTypeNotFound", message).into());
        }
    };
    let drivers = json!([{ "name": "madang", "supported_parameters": parameters }]);
    Ok(json(
        StatusCode::OK,
        &json!({ "rule_type": { "type": word, "drivers": drivers } }),
    ))
}
