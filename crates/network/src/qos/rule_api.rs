//! The rules of a policy, each sort at a path of its own below it, and what sorts there are.

use axum::{Router, extract::Path, response::Response, routing::get};
use http::StatusCode;
use madang_http::{Failure, json};
use madang_identity::Caller;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{QosPolicy, QosPolicySpec, QosRule, Says, api::rule_missing};
use crate::{
    api::{
        NetworkApi,
        attribute::{Attribute, Body},
        below::Below,
        convert,
        failure::Stop,
        resource::{Context, Facts},
    },
    refusal,
};

/// Marks that mean something. Source: Neutron's `VALID_DSCP_MARKS`.
const MARKS: [i64; 22] = [
    0, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 32, 34, 36, 38, 40, 46, 48, 56, 44,
];
/// Neutron's `DB_INTEGER_MAX_VALUE`.
const MOST: i64 = 2_147_483_647;

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

fn ways(value: &Value) -> Result<Value, String> {
    convert::one_of(value, &["egress", "ingress", "any"])
}

fn mark(value: &Value) -> Result<Value, String> {
    let number = convert::number(value)?;
    match number.as_i64() {
        Some(mark) if MARKS.contains(&mark) => Ok(number),
        _ => Err(format!("{} is not in {MARKS:?}", convert::quoted(value))),
    }
}

/// What rules say that a request has left open.
fn usual(name: &str) -> Value {
    match name {
        "direction" => "egress".into(),
        _ => 0.into(),
    }
}

/// A sort's word and attributes as a rule: what a request says, over what was said before or else is usual.
fn read(word: &str, attributes: &[Attribute], body: &Body, before: Option<&QosRule>) -> Result<QosRule, Stop> {
    let mut members = before.map(view_all).unwrap_or_default();
    members.insert("type".to_owned(), word.into());
    for name in attributes.iter().map(|attribute| attribute.name) {
        match body.get(name) {
            Some(given) => members.insert(name.to_owned(), given.clone()),
            None if !members.contains_key(name) => members.insert(name.to_owned(), usual(name)),
            None => None,
        };
    }
    members.insert(
        "id".to_owned(),
        before
            .map_or_else(|| Uuid::new_v4().to_string(), |before| before.id.clone())
            .into(),
    );
    let read = serde_json::from_value(Value::Object(members));
    Ok(read.map_err(|why| refusal::invalid(format_args!("{word} rule: {why}")))?)
}

fn view_all(rule: &QosRule) -> Map<String, Value> {
    match json!(rule) {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}

fn view(rule: &QosRule) -> Map<String, Value> {
    let mut view = view_all(rule);
    view.shift_remove("type");
    view
}

fn rules(spec: &mut QosPolicySpec) -> &mut Vec<QosRule> {
    &mut spec.rules
}

/// A sort of rule, by its word, the pattern of what it says, and its attributes.
macro_rules! sort {
    ($name:ident, $word:literal, $says:pat, [$($attribute:expr),* $(,)?]) => {
        static $name: Below<QosPolicy, QosRule> = Below {
            parents: "qos/policies",
            singular: concat!($word, "_rule"),
            plural: concat!($word, "_rules"),
            noun: concat!("policy_", $word, "_rule"),
            is_for_any: true,
            attributes: &[Attribute::shown("id"), $($attribute),*],
            all: rules,
            is_here: |rule| matches!(rule.says, $says),
            id: |rule| &rule.id,
            view,
            read: |_: &Context, body, before| read($word, &[$($attribute),*], body, before),
            missing: rule_missing,
        };
    };
}

sort!(
    BANDWIDTH,
    "bandwidth_limit",
    Says::BandwidthLimit { .. },
    [
        Attribute::new("max_kbps", rate).required(),
        Attribute::new("max_burst_kbps", rate),
        Attribute::new("direction", direction),
    ]
);
sort!(
    PACKETS,
    "packet_rate_limit",
    Says::PacketRateLimit { .. },
    [
        Attribute::new("max_kpps", rate).required(),
        Attribute::new("max_burst_kpps", rate),
        Attribute::new("direction", direction),
    ]
);
sort!(
    LEAST_BANDWIDTH,
    "minimum_bandwidth",
    Says::MinimumBandwidth { .. },
    [
        Attribute::new("min_kbps", rate).required(),
        Attribute::new("direction", direction),
    ]
);
sort!(
    LEAST_PACKETS,
    "minimum_packet_rate",
    Says::MinimumPacketRate { .. },
    [
        Attribute::new("min_kpps", rate).required(),
        Attribute::new("direction", ways),
    ]
);
sort!(
    MARK,
    "dscp_marking",
    Says::DscpMarking { .. },
    [Attribute::new("dscp_mark", mark).required()]
);

static SORTS: [&Below<QosPolicy, QosRule>; 5] = [&BANDWIDTH, &PACKETS, &LEAST_BANDWIDTH, &LEAST_PACKETS, &MARK];

/// The routes of rules and of their sorts.
pub(crate) fn routes() -> Router<NetworkApi> {
    let types = Router::new()
        .route("/qos/rule-types", get(list_types))
        .route("/qos/rule-types/{type}", get(show_type));
    SORTS.iter().fold(types, |routes, sort| routes.merge(sort.routes()))
}

/// The word of a sort, such as `dscp_marking`.
fn word(sort: &Below<QosPolicy, QosRule>) -> &'static str {
    sort.singular.trim_end_matches("_rule")
}

async fn list_types(_: Caller) -> Response {
    let types = SORTS.map(|sort| json!({ "type": word(sort) }));
    json(StatusCode::OK, &json!({ "rule_types": types }))
}

async fn show_type(caller: Caller, Path(asked): Path<String>) -> Result<Response, Failure> {
    Facts::of("").enforce(&caller, "get_rule_type")?;
    let Some(sort) = SORTS.iter().find(|sort| word(sort) == asked) else {
        let message = format!("Rule type {asked} could not be found.");
        return Err(refusal::refuse(madang_store::ErrorKind::NotFound, "QosRuleTypeNotFound", message).into());
    };
    let names = sort.attributes.iter().map(|attribute| attribute.name);
    let parameters: Vec<_> = names
        .filter(|name| *name != "id")
        .map(|name| parameter(sort, name))
        .collect();
    let drivers = json!([{ "name": "madang", "supported_parameters": parameters }]);
    Ok(json(
        StatusCode::OK,
        &json!({ "rule_type": { "type": asked, "drivers": drivers } }),
    ))
}

fn parameter(sort: &Below<QosPolicy, QosRule>, name: &str) -> Value {
    let choices = match name {
        "direction" if word(sort) == "minimum_packet_rate" => json!(["egress", "ingress", "any"]),
        "direction" => json!(["egress", "ingress"]),
        "dscp_mark" => json!(MARKS),
        _ => {
            let range = json!({ "start": 0, "end": MOST });
            return json!({ "parameter_name": name, "parameter_type": "range", "parameter_values": range });
        }
    };
    json!({ "parameter_name": name, "parameter_type": "choices", "parameter_values": choices })
}
