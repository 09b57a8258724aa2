//! `/os-security-groups` and `/os-security-group-rules`; groups as servers show them.

use std::sync::{Arc, LazyLock};

use axum::{
    Router,
    extract::Path,
    response::Response,
    routing::{delete, get, post},
};
use ipnet::IpNet;
use madang_http::{Failure, Json, Schema};
use madang_network::{
    Direction, EtherType, Rule, RuleSpec, SecurityGroup, SecurityGroupSpec,
    security_group::{default_id, default_key},
};
use madang_store::{Metadata, Resource, Store, StoreError, Tx};
use serde_json::{Value, json};

use super::{
    collection::{self, Asked, Collection, Found, find, on_delete, on_list, on_show, one, part},
    refusal,
};
use crate::api::{ComputeApi, input};

pub(super) fn routes() -> Router<ComputeApi> {
    Router::new()
        .route("/os-security-groups", get(on_list::<Groups>).post(create))
        .route(
            "/os-security-groups/{id}",
            get(on_show::<Groups>).put(update).delete(on_delete::<Groups>),
        )
        .route("/os-security-group-rules", post(create_rule))
        .route("/os-security-group-rules/{id}", delete(on_delete::<Rules>))
}

const RULE: &str = "os_compute_api:os-security-groups";

/// The project's groups, its default one among them.
struct Groups;

impl Collection for Groups {
    type Kind = SecurityGroup;
    const ONE: &'static str = "security_group";
    const MANY: &'static str = "security_groups";

    fn allow(asked: &Asked, verb: &str) -> Result<(), Failure> {
        let verb = if verb == "list" { "get" } else { verb };
        asked.allowed(&format!("{RULE}:{verb}")).map(|_| ())
    }

    fn missing(id: &str) -> String {
        format!("Security group {id} not found.")
    }

    fn view(asked: &Asked, group: &Resource<SecurityGroup>) -> Value {
        view(asked.store(), group)
    }

    async fn list(asked: &Asked) -> Result<Found<SecurityGroup>, Failure> {
        ensure_default(asked).await?;
        let wants_all = asked.query.switch("all_tenants") && asked.caller.is_admin();
        let groups = asked.store().cache::<SecurityGroup>();
        let mut groups = match wants_all {
            true => groups.all(),
            false => groups.in_project(asked.project()),
        };
        groups
            .sort_unstable_by(|a, b| (a.project(), &a.spec.name, a.name()).cmp(&(b.project(), &b.spec.name, b.name())));
        Ok(part(groups, &asked.query)?.into())
    }

    fn check_id(id: &str) -> Result<(), Failure> {
        check_id(id)
    }

    fn may_go(asked: &Asked, group: &Resource<SecurityGroup>) -> Result<(), Failure> {
        if group.spec.is_default && !asked.caller.is_admin() {
            return Err(Failure::invalid(
                "Insufficient rights for removing default security group.",
            ));
        }
        Ok(())
    }
}

/// What groups let in.
struct Rules;

impl Collection for Rules {
    type Kind = Rule;
    const ONE: &'static str = "security_group_rule";
    const MANY: &'static str = "security_group_rules";

    fn allow(asked: &Asked, verb: &str) -> Result<(), Failure> {
        asked.allowed(&format!("{RULE}:rule:{verb}")).map(|_| ())
    }

    fn missing(id: &str) -> String {
        format!("Security group with rule {id} not found.")
    }

    fn view(asked: &Asked, rule: &Resource<Rule>) -> Value {
        rule_view(asked.store(), rule)
    }

    fn check_id(id: &str) -> Result<(), Failure> {
        check_id(id)
    }
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

/// Makes the project's default group where it is not there yet, as Neutron does when it is asked for groups.
async fn ensure_default(asked: &Asked) -> Result<(), Failure> {
    let (store, project) = (asked.store(), asked.project());
    let key = default_key(project);
    if store.get::<SecurityGroup>(&key).is_some() {
        return Ok(());
    }
    let made = store.transact::<(), StoreError>(asked.caller.cause(), |tx| {
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
async fn create(asked: Asked, Json(body): Json<Value>) -> Result<Response, Failure> {
    let project = asked.allowed(&format!("{RULE}:create"))?;
    GROUP.check(&body)?;
    let spec = SecurityGroupSpec {
        name: text(&body, "name"),
        description: text(&body, "description"),
        is_stateful: true,
        is_default: false,
        tags: Vec::new(),
    };
    let group = Resource::<SecurityGroup>::new(Metadata::with_id(project), spec);
    let store = asked.store();
    let made = store.transact::<_, StoreError>(asked.caller.cause(), |tx| make(tx, group.clone()));
    Ok(one::<Groups>(&asked, &*made.await.map_err(refusal)?))
}

/// `PUT /os-security-groups/{id}`.
async fn update(asked: Asked, Path(id): Path<String>, Json(body): Json<Value>) -> Result<Response, Failure> {
    asked.allowed(&format!("{RULE}:update"))?;
    GROUP.check(&body)?;
    let key = find::<Groups>(&asked, &id)?.key();
    let store = asked.store();
    let changed = store.modify::<SecurityGroup, StoreError>(&key, asked.caller.cause(), |group| {
        group.spec.name = text(&body, "name");
        group.spec.description = text(&body, "description");
        Ok(())
    });
    Ok(one::<Groups>(&asked, &*changed.await.map_err(refusal)?))
}

/// `POST /os-security-group-rules`.
async fn create_rule(asked: Asked, Json(body): Json<Value>) -> Result<Response, Failure> {
    static CREATE: LazyLock<Schema> = LazyLock::new(|| {
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
    asked.allowed(&format!("{RULE}:rule:create"))?;
    CREATE.check(&body)?;
    let wanted = &body["security_group_rule"];
    let group = find::<Groups>(&asked, wanted["parent_group_id"].as_str().unwrap_or_default())?;
    let remote = wanted["group_id"].as_str().map(|id| find::<Groups>(&asked, id));
    let spec = rule_spec(group.name(), remote.transpose()?.as_deref(), wanted)?;
    let rule = Resource::<Rule>::new(Metadata::with_id(group.project()), spec);
    let made = collection::make(&asked, rule).await.map_err(refusal)?;
    Ok(one::<Rules>(&asked, &made))
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
