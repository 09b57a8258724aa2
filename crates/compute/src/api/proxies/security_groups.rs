//! `/os-security-groups` and `/os-security-group-rules`; groups as servers show them.

use std::sync::{Arc, LazyLock};

use axum::{
    Router,
    extract::{Path, State},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use http::StatusCode;
use ipnet::IpNet;
use madang_http::{Failure, Json, Microversion, Query, Schema, json};
use madang_identity::Caller;
use madang_network::{
    Direction, EtherType, Rule, RuleSpec, SecurityGroup, SecurityGroupSpec,
    security_group::{default_id, default_key},
};
use madang_store::{Metadata, Resource, Store, StoreError, Tx};
use serde_json::{Value, json};

use super::{allowed, refusal};
use crate::api::{ComputeApi, input};

pub(super) fn routes() -> Router<ComputeApi> {
    Router::new()
        .route("/os-security-groups", get(list).post(create))
        .route("/os-security-groups/{id}", get(show).put(update).delete(delete))
        .route("/os-security-group-rules", post(create_rule))
        .route("/os-security-group-rules/{id}", axum::routing::delete(delete_rule))
}

/// A group in the words of the networks before Neutron, which knew only what comes in.
pub(crate) fn view(store: &Store, group: &Resource<SecurityGroup>) -> Value {
    let mut rules = store.cache::<Rule>().by("group", group.name());
    rules.retain(|rule| rule.spec.direction == Direction::Ingress);
    rules.sort_unstable_by_key(|rule| (rule.metadata.created, rule.metadata.uid));
    json!({
        "id": group.name(),
        "name": group.spec.name,
        "description": group.spec.description,
        "tenant_id": group.project(),
        "rules": rules.iter().map(|rule| rule_view(store, rule)).collect::<Vec<_>>(),
    })
}

fn rule_view(store: &Store, rule: &Resource<Rule>) -> Value {
    let spec = &rule.spec;
    let has_ports = spec
        .protocol
        .as_deref()
        .is_some_and(|protocol| matches!(protocol, "tcp" | "udp"));
    let (from, to) = match (&spec.protocol, spec.port_range_min, spec.port_range_max) {
        (Some(_), None, None) if has_ports => (json!(1), json!(65535)),
        (Some(_), None, None) => (json!(-1), json!(-1)),
        (_, from, to) => (json!(from), json!(to)),
    };
    let remote = spec
        .remote_group_id
        .as_deref()
        .and_then(|id| store.cache::<SecurityGroup>().by_name(id));
    let (group, range) = match remote {
        Some(group) => (
            json!({ "name": group.spec.name, "tenant_id": group.project() }),
            json!({}),
        ),
        None => {
            let anywhere = if spec.ethertype == EtherType::IPv4 {
                "0.0.0.0/0"
            } else {
                "::/0"
            };
            let cidr = spec
                .remote_ip_prefix
                .map_or_else(|| anywhere.to_owned(), |net| net.to_string());
            (json!({}), json!({ "cidr": cidr }))
        }
    };
    json!({
        "id": rule.name(),
        "parent_group_id": spec.group_id,
        "ip_protocol": spec.protocol,
        "from_port": from,
        "to_port": to,
        "group": group,
        "ip_range": range,
    })
}

fn check_id(id: &str) -> Result<(), Failure> {
    if uuid::Uuid::try_parse(id).is_ok() {
        return Ok(());
    }
    Err(Failure::invalid("Security group id should be uuid"))
}

fn find(store: &Store, caller: &Caller, id: &str) -> Result<Arc<Resource<SecurityGroup>>, Failure> {
    check_id(id)?;
    let group = store.cache::<SecurityGroup>().by_name(id);
    let group = group.filter(|group| caller.can_see(group.project()));
    group.ok_or_else(|| Failure::not_found(format!("Security group {id} not found.")))
}

/// `GET /os-security-groups`: the project's own, its default one among them.
async fn list(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    query: Query,
) -> Result<Response, Failure> {
    let project = allowed(&caller, version, "os_compute_api:os-security-groups:get")?;
    let store = &api.store;
    ensure_default(store, &caller, project).await?;
    let wants_all = query.switch("all_tenants") && caller.is_admin();
    let groups = store.cache::<SecurityGroup>();
    let mut groups = if wants_all {
        groups.all()
    } else {
        groups.in_project(project)
    };
    groups.sort_unstable_by(|a, b| (a.project(), &a.spec.name, a.name()).cmp(&(b.project(), &b.spec.name, b.name())));
    let number = |name: &str| query.get(name).and_then(|text| text.parse::<usize>().ok());
    let limit = number("limit").filter(|limit| *limit > 0).unwrap_or(1000).min(1000);
    let page = groups.iter().skip(number("offset").unwrap_or(0)).take(limit);
    let shown: Vec<Value> = page.map(|group| view(store, group)).collect();
    Ok(json(StatusCode::OK, &json!({ "security_groups": shown })))
}

/// Makes the project's default group where it is not there yet, as Neutron does when it is asked for groups.
async fn ensure_default(store: &Store, caller: &Caller, project: &str) -> Result<(), Failure> {
    let key = default_key(project);
    if store.get::<SecurityGroup>(&key).is_some() {
        return Ok(());
    }
    let made = store.transact::<(), StoreError>(caller.cause(), |tx| {
        if tx.get::<SecurityGroup>(&key).is_some() {
            return Ok(());
        }
        let spec = SecurityGroupSpec {
            name: "default".to_owned(),
            description: "Default security group".to_owned(),
            is_stateful: true,
            is_default: true,
            tags: Vec::new(),
        };
        let metadata = Metadata::with_uid(default_id(project), project, key.name.as_str());
        make(tx, Resource::new(metadata, spec)).map(|_| ())
    });
    match made.await {
        // Somebody else was faster.
        Ok(()) | Err(StoreError::Exists { .. }) => Ok(()),
        Err(error) => Err(refusal(error)),
    }
}

/// Makes a group with the rules that every new one has.
fn make(tx: &mut Tx<'_>, group: Resource<SecurityGroup>) -> Result<Arc<Resource<SecurityGroup>>, StoreError> {
    let group = tx.create(group)?;
    for ethertype in [EtherType::IPv4, EtherType::IPv6] {
        let out = RuleSpec::any(group.name(), Direction::Egress, ethertype);
        tx.create(Resource::<Rule>::new(Metadata::with_id(group.project()), out))?;
        if group.spec.is_default {
            let mut within = RuleSpec::any(group.name(), Direction::Ingress, ethertype);
            within.remote_group_id = Some(group.name().to_owned());
            tx.create(Resource::<Rule>::new(Metadata::with_id(group.project()), within))?;
        }
    }
    Ok(group)
}

/// `GET /os-security-groups/{id}`.
async fn show(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    allowed(&caller, version, "os_compute_api:os-security-groups:show")?;
    let group = find(&api.store, &caller, &id)?;
    Ok(json(
        StatusCode::OK,
        &json!({ "security_group": view(&api.store, &group) }),
    ))
}

static GROUP: LazyLock<Schema> = LazyLock::new(|| {
    let text = json!({ "type": "string", "minLength": 0, "maxLength": 255 });
    input::nova(json!({
        "type": "object",
        "properties": { "security_group": {
            "type": "object",
            "properties": { "name": text, "description": text },
            "required": ["name", "description"],
        } },
        "required": ["security_group"],
    }))
});

fn text(body: &Value, name: &str) -> String {
    body["security_group"][name].as_str().unwrap_or_default().to_owned()
}

/// `POST /os-security-groups`.
async fn create(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    let project = allowed(&caller, version, "os_compute_api:os-security-groups:create")?;
    GROUP.check(&body)?;
    let spec = SecurityGroupSpec {
        name: text(&body, "name"),
        description: text(&body, "description"),
        is_stateful: true,
        is_default: false,
        tags: Vec::new(),
    };
    let group = Resource::<SecurityGroup>::new(Metadata::with_id(project), spec);
    let made = api
        .store
        .transact::<_, StoreError>(caller.cause(), |tx| make(tx, group.clone()))
        .await
        .map_err(refusal)?;
    Ok(json(
        StatusCode::OK,
        &json!({ "security_group": view(&api.store, &made) }),
    ))
}

/// `PUT /os-security-groups/{id}`.
async fn update(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    allowed(&caller, version, "os_compute_api:os-security-groups:update")?;
    GROUP.check(&body)?;
    let group = find(&api.store, &caller, &id)?;
    let key = group.key();
    let changed = api
        .store
        .modify::<SecurityGroup, StoreError>(&key, caller.cause(), |group| {
            group.spec.name = text(&body, "name");
            group.spec.description = text(&body, "description");
            Ok(())
        });
    let group = changed.await.map_err(refusal)?;
    Ok(json(
        StatusCode::OK,
        &json!({ "security_group": view(&api.store, &group) }),
    ))
}

/// `DELETE /os-security-groups/{id}`.
async fn delete(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    allowed(&caller, version, "os_compute_api:os-security-groups:delete")?;
    let group = find(&api.store, &caller, &id)?;
    if group.spec.is_default && !caller.is_admin() {
        return Err(Failure::invalid(
            "Insufficient rights for removing default security group.",
        ));
    }
    let key = group.key();
    let gone = api
        .store
        .transact::<(), StoreError>(caller.cause(), |tx| match tx.get::<SecurityGroup>(&key) {
            Some(group) => tx.delete(&group),
            None => Ok(()),
        });
    gone.await.map_err(refusal)?;
    Ok(StatusCode::ACCEPTED.into_response())
}

/// `POST /os-security-group-rules`.
async fn create_rule(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    static RULE: LazyLock<Schema> = LazyLock::new(|| {
        input::nova(json!({
            "type": "object",
            "properties": { "security_group_rule": {
                "type": "object",
                "properties": {
                    "group_id": { "type": ["string", "null"], "format": "uuid" },
                    "parent_group_id": { "type": "string", "format": "uuid" },
                },
                "required": ["parent_group_id"],
            } },
            "required": ["security_group_rule"],
        }))
    });
    allowed(&caller, version, "os_compute_api:os-security-groups:rule:create")?;
    RULE.check(&body)?;
    let wanted = &body["security_group_rule"];
    let group = find(
        &api.store,
        &caller,
        wanted["parent_group_id"].as_str().unwrap_or_default(),
    )?;
    let remote = wanted["group_id"]
        .as_str()
        .map(|id| find(&api.store, &caller, id))
        .transpose()?;
    let spec = rule_spec(group.name(), remote.as_deref(), wanted)?;
    let rule = Resource::<Rule>::new(Metadata::with_id(group.project()), spec);
    let made = api
        .store
        .transact::<_, StoreError>(caller.cause(), |tx| tx.create(rule.clone()))
        .await
        .map_err(refusal)?;
    Ok(json(
        StatusCode::OK,
        &json!({ "security_group_rule": rule_view(&api.store, &made) }),
    ))
}

/// Protocol and ports as old clients give them: numbers, texts, -1 for any.
fn rule_spec(group: &str, remote: Option<&Resource<SecurityGroup>>, wanted: &Value) -> Result<RuleSpec, Failure> {
    let protocol = match &wanted["ip_protocol"] {
        Value::Null => None,
        Value::String(text) => Some(text.to_lowercase()),
        other => Some(other.to_string()),
    };
    let mut spec = RuleSpec::any(group, Direction::Ingress, EtherType::IPv4);
    match remote {
        Some(remote) => spec.remote_group_id = Some(remote.name().to_owned()),
        None => {
            let cidr = wanted["cidr"]
                .as_str()
                .filter(|cidr| !cidr.is_empty())
                .unwrap_or("0.0.0.0/0");
            let net: IpNet = cidr
                .parse()
                .map_err(|_| Failure::invalid(format!("Invalid cidr {cidr}.")))?;
            if net.prefix_len() == 0 && !net.addr().is_unspecified() {
                return Err(Failure::invalid(format!("Bad prefix for network in cidr {cidr}")));
            }
            if net.addr().is_ipv6() {
                spec.ethertype = EtherType::IPv6;
            }
            spec.remote_ip_prefix = Some(net);
        }
    }
    let (from, to) = (port(wanted, "from_port")?, port(wanted, "to_port")?);
    match (protocol, from, to) {
        (Some(protocol), Some(from), Some(to)) => set_ports(&mut spec, protocol, from, to)?,
        (protocol, ..) if remote.is_some() => spec.protocol = protocol,
        _ => return Err(Failure::invalid("Not enough parameters to build a valid rule.")),
    }
    Ok(spec)
}

fn port(wanted: &Value, name: &str) -> Result<Option<i64>, Failure> {
    match &wanted[name] {
        Value::Null => Ok(None),
        Value::Number(number) => Ok(number.as_i64()),
        Value::String(text) => match text.parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(Failure::invalid(
                "Invalid input received: To and From ports must be integers",
            )),
        },
        _ => Err(Failure::invalid(
            "Invalid input received: To and From ports must be integers",
        )),
    }
}

fn set_ports(spec: &mut RuleSpec, protocol: String, from: i64, to: i64) -> Result<(), Failure> {
    let bad = |why: &str| Failure::invalid(format!("Invalid port range {from}:{to}. {why}"));
    match protocol.as_str() {
        "tcp" | "udp" if from > to => return Err(bad("Former value cannot be greater than the later")),
        "tcp" | "udp" if from < 1 || to > 65535 => return Err(bad("Valid ports should be between 1-65535")),
        "icmp" if !(-1..=255).contains(&from) || !(-1..=255).contains(&to) => {
            return Err(bad("For ICMP, the type:code must be valid"));
        }
        "tcp" | "udp" | "icmp" => {}
        other => return Err(Failure::invalid(format!("Invalid IP protocol {other}."))),
    }
    let is_v6_icmp = protocol == "icmp" && spec.ethertype == EtherType::IPv6;
    spec.protocol = Some(if is_v6_icmp { "ipv6-icmp".to_owned() } else { protocol });
    spec.port_range_min = u16::try_from(from).ok();
    spec.port_range_max = u16::try_from(to).ok();
    Ok(())
}

/// `DELETE /os-security-group-rules/{id}`.
async fn delete_rule(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    allowed(&caller, version, "os_compute_api:os-security-groups:rule:delete")?;
    check_id(&id)?;
    let rule = api.store.cache::<Rule>().by_name(&id);
    let rule = rule.filter(|rule| caller.can_see(rule.project()));
    let rule = rule.ok_or_else(|| Failure::not_found(format!("Security group with rule {id} not found.")))?;
    let key = rule.key();
    let gone = api
        .store
        .transact::<(), StoreError>(caller.cause(), |tx| match tx.get::<Rule>(&key) {
            Some(rule) => tx.delete(&rule),
            None => Ok(()),
        });
    gone.await.map_err(refusal)?;
    Ok(StatusCode::ACCEPTED.into_response())
}
