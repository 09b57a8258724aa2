//! What happens to groups and their rules on the way into the store; the default group that every project has.

use std::sync::Arc;

use madang_store::{Metadata, Op, Resource, StoreBuilder, StoreError, Tx};

use super::{
    Direction, EtherType, Rule, RuleSpec, SecurityGroup, SecurityGroupSpec, default_id, default_key, protocol, template,
};
use crate::{
    AddressGroup, Port,
    lookup::{find, hold, touch},
    quota::{self, Limited},
    rbac::rules as sharing,
    refusal::{self, Missing},
    usage,
};

/// The name and description that Neutron gives default groups.
const DEFAULT_NAME: &str = "default";
const DEFAULT_DESCRIPTION: &str = "Default security group";

/// Makes groups and their rules known, with their rules of admission.
pub(crate) fn register(builder: &mut StoreBuilder) {
    builder.rule::<SecurityGroup>(|tx, op| match op {
        Op::Create(group) => create_group(tx, group),
        Op::Update { old, new } if old.spec != new.spec => update_group(tx, old, new),
        Op::Update { .. } => Ok(()),
        Op::Remove(group) => remove_group(tx, group),
    });
    builder.rule::<Rule>(|tx, op| match op {
        Op::Create(rule) => create_rule(tx, rule),
        Op::Update { old, new } if signature(&old.spec) != signature(&new.spec) => Err(refusal::invalid(format_args!(
            "security group rule {} cannot change",
            old.name()
        ))),
        Op::Update { .. } => Ok(()),
        Op::Remove(rule) => remove_rule(tx, rule),
    });
}

/// The id of a project's default group, which is made, with Neutron's rules, where it is not there yet.
///
/// # Errors
/// What the store says.
pub(crate) fn ensure_default(tx: &mut Tx<'_>, project: &str) -> Result<String, StoreError> {
    let key = default_key(project);
    if tx.get::<SecurityGroup>(&key).is_some() {
        return Ok(key.name);
    }
    let spec = SecurityGroupSpec {
        name: DEFAULT_NAME.to_owned(),
        description: DEFAULT_DESCRIPTION.to_owned(),
        is_stateful: true,
        is_default: true,
        tags: Vec::new(),
    };
    create(
        tx,
        Resource::new(
            Metadata::with_uid(default_id(project), project, key.name.as_str()),
            spec,
        ),
    )?;
    Ok(key.name)
}

/// Creates a group with the rules that templates give every new one.
///
/// # Errors
/// What the kind's rule says.
pub fn create(tx: &mut Tx<'_>, group: Resource<SecurityGroup>) -> Result<Arc<Resource<SecurityGroup>>, StoreError> {
    let group = tx.create(group)?;
    for rule in template::rules_of(tx, group.name(), group.spec.is_default)? {
        tx.create(Resource::<Rule>::new(Metadata::with_id(group.project()), rule))?;
    }
    Ok(group)
}

impl RuleSpec {
    /// A rule that lets everything of one version of IP pass in one direction.
    pub fn any(group: &str, direction: Direction, ethertype: EtherType) -> Self {
        Self {
            group_id: group.to_owned(),
            direction,
            ethertype,
            protocol: None,
            port_range_min: None,
            port_range_max: None,
            remote_ip_prefix: None,
            remote_group_id: None,
            remote_address_group_id: None,
            description: String::new(),
        }
    }
}

fn create_group(tx: &mut Tx<'_>, group: &mut Resource<SecurityGroup>) -> Result<(), StoreError> {
    let is_the_default = group.metadata.uid == default_id(group.project());
    if group.spec.name == DEFAULT_NAME && !is_the_default {
        return Err(refusal::conflict(
            "SecurityGroupDefaultAlreadyExists",
            "Default security group already exists.",
        ));
    }
    if is_the_default {
        quota::take_regardless(tx, group.project(), Limited::SecurityGroup);
    } else {
        quota::take(tx, group.project(), Limited::SecurityGroup);
    }
    Ok(())
}

fn update_group(
    tx: &mut Tx<'_>,
    old: &Resource<SecurityGroup>,
    new: &mut Resource<SecurityGroup>,
) -> Result<(), StoreError> {
    if new.spec.name != old.spec.name {
        if old.spec.is_default {
            let message = "Updating default security group not allowed.";
            return Err(refusal::conflict("SecurityGroupCannotUpdateDefault", message));
        }
        if new.spec.name == DEFAULT_NAME {
            return Err(refusal::conflict(
                "SecurityGroupDefaultAlreadyExists",
                "Default security group already exists.",
            ));
        }
    }
    if new.spec.is_stateful != old.spec.is_stateful && tx.store().cache::<Port>().count_by("group", old.name()) > 0 {
        return Err(refusal::group_in_use(old.name()));
    }
    Ok(())
}

fn remove_group(tx: &mut Tx<'_>, group: &Resource<SecurityGroup>) -> Result<(), StoreError> {
    let ports = tx.store().cache::<Port>().by("group", group.name());
    let mut ports = ports.iter().filter_map(|cached| tx.get::<Port>(&cached.key()));
    if ports.any(|port| port.spec.security_groups.iter().any(|id| id == group.name())) {
        return Err(refusal::group_in_use(group.name()));
    }
    usage::require_unused_group(tx, group.name());
    let rules = tx.store().cache::<Rule>();
    for rule in rules
        .by("group", group.name())
        .into_iter()
        .chain(rules.by("remote", group.name()))
    {
        if let Some(rule) = tx.get::<Rule>(&rule.key()) {
            tx.delete(&rule)?;
        }
    }
    sharing::object_goes(tx, group.name())?;
    quota::give_back(tx, group.project(), Limited::SecurityGroup);
    Ok(())
}

fn create_rule(tx: &mut Tx<'_>, rule: &mut Resource<Rule>) -> Result<(), StoreError> {
    let group = hold::<SecurityGroup>(tx, Missing::SecurityGroup, &rule.spec.group_id)?;
    if let Some(remote) = rule.spec.remote_group_id.clone()
        && remote != group.name()
    {
        hold::<SecurityGroup>(tx, Missing::SecurityGroup, &remote)?;
    }
    if let Some(addresses) = rule.spec.remote_address_group_id.clone() {
        hold::<AddressGroup>(tx, Missing::AddressGroup, &addresses)?;
    }
    validate(&rule.spec)?;
    let wanted = signature(&rule.spec);
    // Rules seen of a group that this transaction makes are of somebody who makes it at the same time: the commit decides.
    if group.revision.0 != 0
        && let Some(same) = said_already(tx, group.name(), &wanted)
    {
        return Err(exists(&same));
    }
    let space = space(group.name());
    if tx.has_reserved(&space, &wanted) {
        let message = format!("Duplicate Security Group Rule in POST: {wanted}.");
        return Err(refusal::conflict("DuplicateSecurityGroupRuleInPost", message));
    }
    tx.reserve(&space, &wanted, rule.metadata.uid)?;
    touch(tx, &group)?;
    if rule.metadata.owners.is_empty() {
        rule.metadata.owners.push(group.as_owner());
    }
    if group.spec.is_default && group.revision.0 == 0 {
        // The rules that come with the default group are nobody's wish.
        quota::take_regardless(tx, rule.project(), Limited::SecurityGroupRule);
    } else {
        quota::take(tx, rule.project(), Limited::SecurityGroupRule);
    }
    Ok(())
}

/// The id of a rule of the group that says the same.
fn said_already(tx: &Tx<'_>, group: &str, wanted: &str) -> Option<String> {
    let rules = tx.store().cache::<Rule>().by("group", group);
    let mut rules = rules.iter().filter_map(|cached| tx.get::<Rule>(&cached.key()));
    rules
        .find(|rule| signature(&rule.spec) == wanted)
        .map(|rule| rule.name().to_owned())
}

fn exists(id: &str) -> StoreError {
    refusal::conflict(
        "SecurityGroupRuleExists",
        format!("Security group rule already exists. Rule id is {id}."),
    )
}

fn remove_rule(tx: &mut Tx<'_>, rule: &Resource<Rule>) -> Result<(), StoreError> {
    tx.release(&space(&rule.spec.group_id), &signature(&rule.spec));
    quota::give_back(tx, rule.project(), Limited::SecurityGroupRule);
    match find::<SecurityGroup>(tx, &rule.spec.group_id) {
        Some(group) => touch(tx, &group),
        None => Ok(()),
    }
}

/// Where the rules of a group are reserved, so that no two say the same.
fn space(group: &str) -> String {
    format!("rule/{group}")
}

/// What a rule says, as text: two rules of a group with the same text are the same.
pub(super) fn signature(spec: &RuleSpec) -> String {
    let protocol = spec
        .protocol
        .as_deref()
        .map(|name| protocol::number(name).map_or(name.to_owned(), |n| n.to_string()));
    format!(
        "{:?} {:?} {} {:?}-{:?} {} {}",
        spec.direction,
        spec.ethertype,
        protocol.as_deref().unwrap_or("any"),
        spec.port_range_min,
        spec.port_range_max,
        spec.remote_ip_prefix
            .map_or("anywhere".to_owned(), |prefix| prefix.trunc().to_string()),
        spec.remote_group_id
            .as_deref()
            .or(spec.remote_address_group_id.as_deref())
            .unwrap_or("anybody"),
    )
}

/// Checks what a rule says by itself.
pub(super) fn validate(spec: &RuleSpec) -> Result<(), StoreError> {
    let number = match spec.protocol.as_deref() {
        None => None,
        Some(name) => Some(check_protocol(name, spec.ethertype)?),
    };
    check_ports(spec, number)?;
    if spec.remote_group_id.is_some() && spec.remote_ip_prefix.is_some() {
        let message = "Only remote_ip_prefix or remote_group_id may be provided.";
        return Err(refusal::bad("SecurityGroupRemoteGroupAndRemoteIpPrefix", message));
    }
    if spec.remote_address_group_id.is_some() && (spec.remote_group_id.is_some() || spec.remote_ip_prefix.is_some()) {
        let message = "Only one of remote_group_id, remote_ip_prefix, remote_address_group_id may be provided.";
        return Err(refusal::bad("SecurityGroupMultipleRemoteEntites", message));
    }
    match spec.remote_ip_prefix {
        Some(prefix) if prefix.addr().is_ipv4() != (spec.ethertype == EtherType::IPv4) => {
            let message = format!("Conflicting value ethertype {:?} for CIDR {prefix}", spec.ethertype);
            Err(refusal::bad("SecurityGroupRuleParameterConflict", message))
        }
        _ => Ok(()),
    }
}

fn check_protocol(name: &str, ethertype: EtherType) -> Result<u8, StoreError> {
    let Some(number) = protocol::number(name) else {
        let message = format!(
            "Security group rule protocol {name} not supported. Only protocol values {} and integer representations [0 \
             to 255] are supported.",
            protocol::names()
        );
        return Err(refusal::bad("SecurityGroupRuleInvalidProtocol", message));
    };
    if !protocol::fits(number, ethertype) {
        let message = format!("Invalid ethertype {ethertype:?} for protocol {name}.");
        return Err(refusal::bad("SecurityGroupEthertypeConflictWithProtocol", message));
    }
    Ok(number)
}

fn check_ports(spec: &RuleSpec, number: Option<u8>) -> Result<(), StoreError> {
    let (min, max) = (spec.port_range_min, spec.port_range_max);
    if min.is_none() && max.is_none() {
        return Ok(());
    }
    let Some(number) = number else {
        let message = "Must also specify protocol if port range is given.";
        return Err(refusal::bad("SecurityGroupProtocolRequiredWithPorts", message));
    };
    if protocol::has_ports(number) {
        return match (min, max) {
            (Some(0), _) | (_, Some(0)) => Err(refusal::bad(
                "SecurityGroupInvalidPortValue",
                "Invalid value for port 0",
            )),
            (Some(min), Some(max)) if min <= max => Ok(()),
            _ => {
                let message = "For TCP/UDP protocols, port_range_min must be <= port_range_max";
                Err(refusal::bad("SecurityGroupInvalidPortRange", message))
            }
        };
    }
    if !protocol::is_icmp(number) {
        let name = spec.protocol.as_deref().unwrap_or_default();
        let message = format!(
            "Ports cannot be set on protocol {name}, valid protocols: ['dccp', 'sctp', 'tcp', 'udp', 'udplite']."
        );
        return Err(refusal::bad("SecurityGroupInvalidProtocolForPort", message));
    }
    for (field, attribute, value) in [("port_range_min", "type", min), ("port_range_max", "code", max)] {
        if let Some(value) = value.filter(|value| *value > 255) {
            let message = format!("Invalid value for ICMP {attribute} ({field}) {value}. It must be 0 to 255.");
            return Err(refusal::bad("SecurityGroupInvalidIcmpValue", message));
        }
    }
    if let (None, Some(code)) = (min, max) {
        let message =
            format!("ICMP code (port-range-max) {code} is provided but ICMP type (port-range-min) is missing.");
        return Err(refusal::bad("SecurityGroupMissingIcmpType", message));
    }
    Ok(())
}

/// The rule with an id.
///
/// # Errors
/// `SecurityGroupRuleNotFound`.
pub(crate) fn find_rule(tx: &Tx<'_>, id: &str) -> Result<Arc<Resource<Rule>>, StoreError> {
    find::<Rule>(tx, id).ok_or_else(|| refusal::not_found(Missing::SecurityGroupRule, id))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(protocol: Option<&str>, min: Option<u16>, max: Option<u16>) -> RuleSpec {
        RuleSpec {
            protocol: protocol.map(str::to_owned),
            port_range_min: min,
            port_range_max: max,
            ..RuleSpec::any("g", Direction::Ingress, EtherType::IPv4)
        }
    }

    #[test]
    fn rules_are_refused_with_neutrons_reason() {
        let v6 = |spec: RuleSpec| RuleSpec {
            ethertype: EtherType::IPv6,
            ..spec
        };
        let from = |prefix: &str, spec: RuleSpec| RuleSpec {
            remote_ip_prefix: Some(prefix.parse().unwrap()),
            ..spec
        };
        let table = [
            (rule(None, None, None), ""),
            (rule(Some("tcp"), Some(22), Some(22)), ""),
            (rule(Some("6"), Some(22), Some(23)), ""),
            (rule(Some("icmp"), Some(8), Some(0)), ""),
            (rule(Some("icmp"), Some(8), None), ""),
            (rule(Some("vrrp"), None, None), ""),
            (v6(rule(Some("ipv6-icmp"), None, None)), ""),
            (from("10.0.0.0/8", rule(None, None, None)), ""),
            (rule(Some("tcp"), Some(23), Some(22)), "SecurityGroupInvalidPortRange"),
            (rule(Some("tcp"), Some(22), None), "SecurityGroupInvalidPortRange"),
            (rule(Some("udp"), Some(0), Some(5)), "SecurityGroupInvalidPortValue"),
            (rule(None, Some(1), Some(2)), "SecurityGroupProtocolRequiredWithPorts"),
            (rule(Some("icmp"), Some(256), None), "SecurityGroupInvalidIcmpValue"),
            (rule(Some("icmp"), None, Some(1)), "SecurityGroupMissingIcmpType"),
            (
                rule(Some("gre"), Some(1), Some(2)),
                "SecurityGroupInvalidProtocolForPort",
            ),
            (rule(Some("bogus"), None, None), "SecurityGroupRuleInvalidProtocol"),
            (rule(Some("256"), None, None), "SecurityGroupRuleInvalidProtocol"),
            (
                rule(Some("58"), None, None),
                "SecurityGroupEthertypeConflictWithProtocol",
            ),
            (
                from("fd00::/8", rule(None, None, None)),
                "SecurityGroupRuleParameterConflict",
            ),
            (
                RuleSpec {
                    remote_group_id: Some("g".into()),
                    ..from("10.0.0.0/8", rule(None, None, None))
                },
                "SecurityGroupRemoteGroupAndRemoteIpPrefix",
            ),
        ];
        for (spec, reason) in table {
            let got = match validate(&spec) {
                Ok(()) => "",
                Err(StoreError::Rejected(rejection)) => rejection.reason,
                Err(other) => panic!("{other}"),
            };
            assert_eq!(got, reason, "{spec:?}");
        }
    }

    #[test]
    fn names_and_numbers_of_a_protocol_say_the_same() {
        assert_eq!(
            signature(&rule(Some("tcp"), Some(1), Some(2))),
            signature(&rule(Some("6"), Some(1), Some(2)))
        );
        assert_ne!(
            signature(&rule(Some("tcp"), Some(1), Some(2))),
            signature(&rule(None, Some(1), Some(2)))
        );
    }
}
