//! Rules of security groups as Neutron shows them.

use std::sync::Arc;

use ipnet::IpNet;
use madang_http::Query;
use madang_store::{Metadata, Resource, Tx};
use serde_json::{Map, Value};

use super::{Direction, EtherType, Rule, RuleSpec, SecurityGroup, rules};
use crate::{
    AddressGroup,
    api::{
        attribute::{Attribute, Body},
        convert,
        failure::Stop,
        resource::{Context, Exposed, Facts, own_or_all, visible},
        view::View,
    },
    refusal::{self, Missing},
};

fn direction(value: &Value) -> Result<Value, String> {
    let lower = value
        .as_str()
        .map(str::to_lowercase)
        .map_or_else(|| value.clone(), Value::from);
    convert::one_of(&lower, &["ingress", "egress"])
}

fn ethertype(value: &Value) -> Result<Value, String> {
    match value.as_str() {
        Some(text) if text.eq_ignore_ascii_case("ipv4") => Ok("IPv4".into()),
        Some(text) if text.eq_ignore_ascii_case("ipv6") => Ok("IPv6".into()),
        // The rule itself refuses it, with a name of its own.
        _ => Ok(value.clone()),
    }
}

/// A name or number as text, in lower case; `any` and null are none.
fn protocol(value: &Value) -> Result<Value, String> {
    match value {
        Value::Null => Ok(Value::Null),
        Value::Number(number) => Ok(number.to_string().into()),
        Value::String(text) if text.is_empty() || text.eq_ignore_ascii_case("any") => Ok(Value::Null),
        Value::String(text) => Ok(text.to_lowercase().into()),
        other => Err(format!("{} is not a protocol", convert::quoted(other))),
    }
}

/// What a rule says, wherever it is.
pub(super) const RULE: [Attribute; 8] = [
    Attribute::new("direction", direction).required().fixed(),
    Attribute::new("ethertype", ethertype).fixed(),
    Attribute::new("protocol", protocol).fixed(),
    Attribute::new("port_range_min", convert::number_or_null).fixed(),
    Attribute::new("port_range_max", convert::number_or_null).fixed(),
    Attribute::new("remote_ip_prefix", convert::cidr_or_null).fixed(),
    Attribute::new("remote_group_id", convert::text_or_null).fixed(),
    Attribute::new("remote_address_group_id", convert::uuid_or_null).fixed(),
];

impl Exposed for Rule {
    const SINGULAR: &'static str = "security_group_rule";
    const PLURAL: &'static str = "security_group_rules";
    const MISSING: Missing = Missing::SecurityGroupRule;
    const CHANGES: bool = false;
    const ATTRIBUTES: &'static [Attribute] = &[
        Attribute::new("security_group_id", convert::uuid).required().fixed(),
        RULE[0],
        RULE[1],
        RULE[2],
        RULE[3],
        RULE[4],
        RULE[5],
        RULE[6],
        RULE[7],
        Attribute::shown("normalized_cidr"),
    ];

    fn facts(_: &Context, rule: &Resource<Self>) -> Facts {
        Facts::of(rule.project())
    }

    fn candidates(context: &Context, query: &Query) -> Vec<Arc<Resource<Self>>> {
        if query.has("security_group_id") {
            let cache = context.store.cache::<Rule>();
            return query
                .all("security_group_id")
                .flat_map(|group| cache.by("group", group))
                .collect();
        }
        own_or_all(context, query)
    }

    fn view(_: &Context, rule: &Resource<Self>) -> Map<String, Value> {
        let spec = &rule.spec;
        let view = View::of(rule, &spec.description, &[]).with("security_group_id", spec.group_id.as_str());
        rule_view(view, spec)
            .with(
                "normalized_cidr",
                spec.remote_ip_prefix.map(|net| net.trunc().to_string()),
            )
            .done()
    }

    fn build(context: &Context, tx: &mut Tx<'_>, body: &Body, _: &str) -> Result<Arc<Resource<Self>>, Stop> {
        let group = visible::<SecurityGroup>(context, body.text("security_group_id").unwrap_or_default())?;
        if group.project() != context.caller.subject.project_id().unwrap_or_default() && !context.caller.is_admin() {
            return Err(refusal::not_found(Missing::SecurityGroup, group.name()).into());
        }
        if let Some(remote) = remote_group(body) {
            visible::<SecurityGroup>(context, remote)?;
        }
        if let Some(addresses) = body.text("remote_address_group_id") {
            visible::<AddressGroup>(context, addresses)?;
        }
        let spec = read_spec(body, group.name())?;
        // A rule is its group's: an admin who adds one does not make it his own.
        Ok(tx.create(Resource::<Self>::new(Metadata::with_id(group.project()), spec))?)
    }

    fn change(_: &Context, tx: &mut Tx<'_>, old: &Resource<Self>, _: &Body) -> Result<Arc<Resource<Self>>, Stop> {
        Ok(rules::find_rule(tx, old.name())?)
    }
}

/// What a rule says.
pub(super) fn rule_view(view: View, spec: &RuleSpec) -> View {
    view.typed("direction", &spec.direction)
        .typed("ethertype", &spec.ethertype)
        .with("protocol", spec.protocol.clone())
        .with("port_range_min", spec.port_range_min)
        .with("port_range_max", spec.port_range_max)
        .with("remote_ip_prefix", spec.remote_ip_prefix.map(|net| net.to_string()))
        .with("remote_group_id", spec.remote_group_id.clone())
        .with("remote_address_group_id", spec.remote_address_group_id.clone())
}

/// A rule of a group, as a request says it.
pub(super) fn read_spec(body: &Body, group: &str) -> Result<RuleSpec, Stop> {
    Ok(RuleSpec {
        group_id: group.to_owned(),
        direction: if body.text("direction") == Some("egress") {
            Direction::Egress
        } else {
            Direction::Ingress
        },
        ethertype: read_ethertype(body)?,
        protocol: body.text("protocol").map(str::to_owned),
        port_range_min: read_port(body, "port_range_min")?,
        port_range_max: read_port(body, "port_range_max")?,
        remote_ip_prefix: body.typed::<IpNet>("remote_ip_prefix")?,
        remote_group_id: remote_group(body).map(str::to_owned),
        remote_address_group_id: body.text("remote_address_group_id").map(str::to_owned),
        description: body.text("description").unwrap_or_default().to_owned(),
    })
}

/// Clients send an empty text where they mean none.
fn remote_group(body: &Body) -> Option<&str> {
    body.text("remote_group_id").filter(|id| !id.is_empty())
}

fn read_ethertype(body: &Body) -> Result<EtherType, Stop> {
    match body.get("ethertype") {
        None => Ok(EtherType::IPv4),
        Some(value) => match value.as_str() {
            Some("IPv4") => Ok(EtherType::IPv4),
            Some("IPv6") => Ok(EtherType::IPv6),
            _ => {
                let message = format!(
                    "Security group rule for ethertype {} not supported. Allowed values are ['IPv4', 'IPv6'].",
                    convert::quoted(value)
                );
                Err(refusal::bad("SecurityGroupRuleInvalidEtherType", message).into())
            }
        },
    }
}

fn read_port(body: &Body, name: &str) -> Result<Option<u16>, Stop> {
    let Some(port) = body.number(name) else { return Ok(None) };
    let read = u16::try_from(port);
    let message = || format!("Invalid value for port {port}");
    read.map(Some)
        .map_err(|_| refusal::bad("SecurityGroupInvalidPortValue", message()).into())
}
