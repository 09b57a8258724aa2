//! Ports as Neutron shows them.

use std::sync::Arc;

use madang_http::{Failure, Query};
use madang_store::{Metadata, Resource, Tx};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{ExtraDhcpOption, FixedIp, Port, PortSpec, owner};
use crate::{
    Network, SecurityGroup, Trunk,
    api::{
        attribute::{Attribute, Body},
        convert,
        failure::Stop,
        resource::{Context, Exposed, Facts, add_missing, own_or_all, visible},
        view::View,
    },
    network::api::facts_on,
    qos,
    refusal::{self, Missing},
    security_group,
};

fn vnic_type(value: &Value) -> Result<Value, String> {
    convert::one_of(
        value,
        &[
            "normal",
            "direct",
            "macvtap",
            "baremetal",
            "direct-physical",
            "virtio-forwarder",
            "smart-nic",
        ],
    )
}

impl Exposed for Port {
    const SINGULAR: &'static str = "port";
    const PLURAL: &'static str = "ports";
    const MISSING: Missing = Missing::Port;
    const ATTRIBUTES: &'static [Attribute] = &[
        Attribute::new("name", convert::text),
        Attribute::new("network_id", convert::uuid).required().fixed(),
        Attribute::new("admin_state_up", convert::flag),
        Attribute::new("mac_address", convert::mac_address_or_null).guarded(),
        Attribute::new("fixed_ips", convert::fixed_ips).guarded(),
        Attribute::new("device_id", convert::text),
        Attribute::new("device_owner", convert::text).guarded(),
        Attribute::new("security_groups", convert::uuids),
        Attribute::new("port_security_enabled", convert::flag).guarded(),
        Attribute::new("allowed_address_pairs", convert::address_pairs).guarded(),
        Attribute::new("extra_dhcp_opts", convert::dhcp_options),
        Attribute::new("dns_name", convert::text_or_null),
        Attribute::new("tags", convert::tags).fixed(),
        Attribute::new("binding:vnic_type", vnic_type),
        Attribute::new("binding:host_id", convert::text_or_null)
            .guarded()
            .restricted(),
        Attribute::shown("binding:vif_type").restricted(),
        Attribute::shown("binding:vif_details").restricted(),
        Attribute::shown("binding:profile").restricted(),
        Attribute::new("qos_policy_id", convert::uuid_or_null),
        Attribute::shown("qos_network_policy_id"),
        Attribute::shown("resource_request").restricted(),
        Attribute::shown("trunk_details"),
        Attribute::shown("status"),
    ];

    fn facts(context: &Context, port: &Resource<Self>) -> Facts {
        let mut facts = facts_on(context, &port.spec.network_id, port.project());
        facts.is_network_device = owner::is_of_the_network(&port.spec.device_owner);
        facts
    }

    fn candidates(context: &Context, query: &Query) -> Vec<Arc<Resource<Self>>> {
        let cache = context.store.cache::<Port>();
        // The narrowest index that the query names; the filters do the rest.
        let indexed = [
            ("device_id", "device"),
            ("mac_address", "mac"),
            ("network_id", "network"),
        ];
        for (filter, index) in indexed {
            if query.has(filter) && query.all(filter).all(|value| !value.is_empty()) {
                let mut values: Vec<_> = query.all(filter).collect();
                values.sort_unstable();
                values.dedup();
                return values.into_iter().flat_map(|value| cache.by(index, value)).collect();
            }
        }
        let mut found = own_or_all(context, query);
        if let Some(project) = context.caller.subject.project_id().filter(|_| !query.has("id")) {
            let networks = context.store.cache::<Network>().in_project(project);
            for network in networks {
                add_missing(&mut found, cache.by("network", network.name()));
            }
        }
        found
    }

    fn view(context: &Context, port: &Resource<Self>) -> Map<String, Value> {
        let spec = &port.spec;
        let vif_type = if spec.binding_host.is_some() {
            "bridge"
        } else {
            "unbound"
        };
        let details = if spec.binding_host.is_some() {
            json!({ "port_filter": true })
        } else {
            json!({})
        };
        let view = View::of(port, &spec.description, &spec.tags)
            .with("name", spec.name.as_str())
            .with("network_id", spec.network_id.as_str())
            .with("mac_address", spec.mac_address.as_str())
            .with("admin_state_up", spec.admin_state_up)
            .with("status", status(port))
            .with("device_id", spec.device_id.as_str())
            .with("device_owner", spec.device_owner.as_str())
            .typed("fixed_ips", &spec.fixed_ips)
            .with("allowed_address_pairs", address_pairs(spec))
            .with("security_groups", spec.security_groups.clone())
            .with("port_security_enabled", spec.port_security_enabled)
            .typed("extra_dhcp_opts", &spec.extra_dhcp_opts)
            .with("qos_policy_id", spec.qos_policy_id.clone())
            .with("qos_network_policy_id", qos::network_policy_of(&context.store, port))
            .with("resource_request", resource_request(context, port))
            .with("dns_name", spec.dns_name.as_str())
            .with("binding:vnic_type", spec.vnic_type.as_str())
            .with("binding:host_id", spec.binding_host.as_deref().unwrap_or_default())
            .with("binding:vif_type", vif_type)
            .with("binding:vif_details", details)
            .with("binding:profile", json!({}));
        match trunk_details(context, port.name()) {
            Some(details) => view.with("trunk_details", details).done(),
            None => view.done(),
        }
    }

    fn build(context: &Context, tx: &mut Tx<'_>, body: &Body, project: &str) -> Result<Arc<Resource<Self>>, Stop> {
        let network = visible::<Network>(context, body.text("network_id").unwrap_or_default())?;
        let mut spec = PortSpec::on(network.name());
        spec.port_security_enabled = network.spec.port_security_enabled;
        if let Some(true) = body.flag("port_security_enabled")
            && !network.spec.port_security_enabled
            && !body.has("security_groups")
        {
            // Asked for against the network's habit: the groups are said outright, or the rule would follow the network.
            spec.explicit_security_groups = true;
            spec.security_groups = vec![security_group::rules::ensure_default(tx, project)?];
        }
        spec.no_fixed_ips = body
            .get("fixed_ips")
            .and_then(Value::as_array)
            .is_some_and(Vec::is_empty);
        if let Some(mac) = body.text("mac_address") {
            mac.clone_into(&mut spec.mac_address);
        }
        body.set("tags", &mut spec.tags)?;
        fill(context, &mut spec, body, &network, project)?;
        Ok(tx.create(Resource::<Self>::new(Metadata::with_id(project), spec))?)
    }

    fn change(
        context: &Context,
        tx: &mut Tx<'_>,
        old: &Resource<Self>,
        body: &Body,
    ) -> Result<Arc<Resource<Self>>, Stop> {
        let network = context.store.cache::<Network>().by_name(&old.spec.network_id);
        let network = network.ok_or_else(|| refusal::not_found(Missing::Network, &old.spec.network_id))?;
        let mut new = old.clone();
        if body.has("mac_address") {
            // Null asks for another that is given, which is as good as setting one.
            Self::facts(context, old).enforce(&context.caller, "update_port:mac_address")?;
        }
        body.set_text("mac_address", &mut new.spec.mac_address);
        fill(context, &mut new.spec, body, &network, old.project())?;
        let held = |spec: &PortSpec| (spec.device_owner.clone(), spec.device_id.clone());
        if owner::is_of_a_router(&old.spec.device_owner) && held(&old.spec) != held(&new.spec) {
            let why = format_args!(
                "port {} is held by {}: its device cannot change",
                old.name(),
                old.spec.device_id
            );
            return Err(refusal::bad_request("port", why).into());
        }
        Ok(tx.update(old, new)?)
    }
}

/// What a server with this port asks of its host, as Neutron tells Nova: a group for bandwidth and one for packets.
fn resource_request(context: &Context, port: &Resource<Port>) -> Value {
    if owner::is_of_the_network(&port.spec.device_owner) {
        return Value::Null;
    }
    let needs = qos::needs(
        &context.store,
        port.spec.qos_policy_id.as_deref(),
        &port.spec.network_id,
    );
    let network = context.store.cache::<Network>().by_name(&port.spec.network_id);
    let physical = network.and_then(|network| network.spec.physical_network.clone());
    let is_word = |c: char| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_uppercase()
        } else {
            '_'
        }
    };
    let vnic = format!(
        "CUSTOM_VNIC_TYPE_{}",
        port.spec.vnic_type.chars().map(is_word).collect::<String>()
    );
    let physical = physical.map(|name| format!("CUSTOM_PHYSNET_{}", name.chars().map(is_word).collect::<String>()));
    let mut groups = Vec::new();
    for (prefix, physical) in [("NET_BW", physical), ("NET_PACKET_RATE", None)] {
        let amounts = needs.iter().filter(|(class, _)| class.starts_with(prefix));
        let resources: Map<String, Value> = amounts
            .map(|(class, amount)| ((*class).to_owned(), (*amount).into()))
            .collect();
        if resources.is_empty() {
            continue;
        }
        let required: Vec<String> = physical.into_iter().chain([vnic.clone()]).collect();
        let id = Uuid::new_v5(&port.metadata.uid, prefix.as_bytes()).to_string();
        groups.push(json!({ "id": id, "required": required, "resources": resources }));
    }
    if groups.is_empty() {
        return Value::Null;
    }
    let ids: Vec<_> = groups.iter().map(|group| group["id"].clone()).collect();
    json!({ "request_groups": groups, "same_subtree": ids })
}

/// What the network itself uses works wherever it is needed; other ports work where they are wired.
pub(crate) fn status(port: &Resource<Port>) -> &'static str {
    let spec = &port.spec;
    match spec.device_owner.as_str() {
        _ if !spec.admin_state_up => "DOWN",
        owner::FLOATING_IP => "N/A",
        owner::DHCP | owner::ROUTER_INTERFACE | owner::ROUTER_GATEWAY => "ACTIVE",
        _ => port.status.neutron(spec.binding_host.as_deref()),
    }
}

/// The trunk that a port is the parent of.
fn trunk_details(context: &Context, port: &str) -> Option<Value> {
    let trunk = context.store.cache::<Trunk>().by("port", port).into_iter().next()?;
    let ports = context.store.cache::<Port>();
    let sub = |sub: &crate::SubPort| {
        let mac = ports.by_name(&sub.port_id).map(|port| port.spec.mac_address.clone());
        json!({
            "port_id": sub.port_id,
            "segmentation_type": sub.segmentation_type,
            "segmentation_id": sub.segmentation_id,
            "mac_address": mac,
        })
    };
    let subs: Vec<_> = trunk.spec.sub_ports.iter().map(sub).collect();
    Some(json!({ "trunk_id": trunk.name(), "sub_ports": subs }))
}

fn address_pairs(spec: &PortSpec) -> Vec<Value> {
    let pair = |pair: &crate::AddressPair| {
        let net = pair.ip_address;
        let whole = net.prefix_len() == net.max_prefix_len();
        let address = if whole { net.addr().to_string() } else { net.to_string() };
        json!({ "ip_address": address, "mac_address": pair.mac_address.as_ref().unwrap_or(&spec.mac_address) })
    };
    spec.allowed_address_pairs.iter().map(pair).collect()
}

fn fill(
    context: &Context,
    spec: &mut PortSpec,
    body: &Body,
    network: &Resource<Network>,
    project: &str,
) -> Result<(), Stop> {
    check_addresses(context, body, network, project)?;
    qos::api::set(context, body, &mut spec.qos_policy_id)?;
    body.set_text("name", &mut spec.name);
    body.set_text("description", &mut spec.description);
    body.set_text("device_id", &mut spec.device_id);
    body.set_text("device_owner", &mut spec.device_owner);
    body.set_text("dns_name", &mut spec.dns_name);
    body.set_text("binding:vnic_type", &mut spec.vnic_type);
    body.set_flag("admin_state_up", &mut spec.admin_state_up);
    body.set("fixed_ips", &mut spec.fixed_ips)?;
    body.set("allowed_address_pairs", &mut spec.allowed_address_pairs)?;
    for option in body
        .typed::<Vec<GivenDhcpOption>>("extra_dhcp_opts")?
        .unwrap_or_default()
    {
        option.put_into(&mut spec.extra_dhcp_opts);
    }
    if spec.extra_dhcp_opts.len() > MAX_DHCP_OPTIONS {
        return Err(refusal::invalid(format_args!("a port has at most {MAX_DHCP_OPTIONS} DHCP options")).into());
    }
    if body.has("binding:host_id") {
        spec.binding_host = body
            .text("binding:host_id")
            .filter(|host| !host.is_empty())
            .map(str::to_owned);
    }
    if body.has("security_groups") {
        body.set("security_groups", &mut spec.security_groups)?;
        spec.explicit_security_groups = true;
        for group in &spec.security_groups {
            visible::<SecurityGroup>(context, group)?;
        }
    }
    if let Some(wanted) = body.flag("port_security_enabled") {
        if !wanted && !spec.security_groups.is_empty() && !body.has("security_groups") {
            let message = "Port has security group associated. Cannot disable port security or IP address until security \
                           group is removed.";
            return Err(refusal::conflict("PortSecurityPortHasSecurityGroup", message).into());
        }
        spec.port_security_enabled = wanted;
    }
    Ok(())
}

/// All of them have to fit into one message.
const MAX_DHCP_OPTIONS: usize = 32;

/// An option as requests have it: without a value it goes.
#[derive(Deserialize)]
struct GivenDhcpOption {
    opt_name: String,
    opt_value: Option<String>,
    ip_version: u8,
}

impl GivenDhcpOption {
    fn put_into(self, options: &mut Vec<ExtraDhcpOption>) {
        let is_it = |option: &ExtraDhcpOption| option.opt_name == self.opt_name && option.ip_version == self.ip_version;
        let place = options.iter().position(is_it);
        match (place, self.opt_value) {
            (Some(place), Some(value)) => options[place].opt_value = value,
            (Some(place), None) => _ = options.remove(place),
            (None, Some(opt_value)) => options.push(ExtraDhcpOption {
                opt_name: self.opt_name,
                opt_value,
                ip_version: self.ip_version,
            }),
            (None, None) => {}
        }
    }
}

/// An address of one's choice on somebody else's network needs a rule of its own.
fn check_addresses(context: &Context, body: &Body, network: &Resource<Network>, project: &str) -> Result<(), Failure> {
    let wanted: Vec<FixedIp> = body.typed("fixed_ips")?.unwrap_or_default();
    if wanted.iter().all(|ip| ip.ip_address.is_unspecified()) {
        return Ok(());
    }
    facts_on(context, network.name(), project).enforce(&context.caller, "create_port:fixed_ips:ip_address")
}
