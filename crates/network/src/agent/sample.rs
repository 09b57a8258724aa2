//! A small cloud for the tests of what is decided: a network with two ports in a group, behind a router.

use std::sync::Arc;

use madang_host::workload::Attachment;
use madang_store::{Kind, Metadata, Resource};
use uuid::Uuid;

use super::view::{GroupView, NetworkView, RouterView, View};
use crate::{
    AddressPair, Direction, EtherType, ExternalGateway, FixedIp, FloatingIp, FloatingIpSpec, Network, NetworkSpec,
    Port, PortSpec, Router, RouterSpec, Rule, RuleSpec, Subnet, SubnetSpec,
};

/// Ids that are the same in every run: `kind` and `number` are their last digits.
pub(crate) fn id(kind: u8, number: u8) -> Uuid {
    Uuid::from_u128((u128::from(kind) << 8) | u128::from(number))
}

const NETWORK: u8 = 1;
const SUBNET: u8 = 2;
const PORT: u8 = 3;
const GROUP: u8 = 4;
const RULE: u8 = 5;
const ROUTER: u8 = 6;
const FLOATING: u8 = 7;

fn made<K: Kind>(id: Uuid, spec: K::Spec) -> Arc<Resource<K>> {
    Arc::new(Resource::new(Metadata::with_uid(id, "p1", id.to_string()), spec))
}

fn network(number: u8, is_external: bool) -> Arc<Resource<Network>> {
    let spec = NetworkSpec {
        name: "net".into(),
        description: String::new(),
        admin_state_up: true,
        is_shared: false,
        is_external,
        is_default: false,
        port_security_enabled: true,
        mtu: if is_external { 1500 } else { 1450 },
        segmentation_id: u32::from(number),
        network_type: "vxlan".into(),
        physical_network: None,
        dns_domain: String::new(),
        qos_policy_id: None,
        availability_zone_hints: vec![],
        tags: vec![],
    };
    made(id(NETWORK, number), spec)
}

fn subnet(number: u8, enable_dhcp: bool) -> Arc<Resource<Subnet>> {
    let spec = SubnetSpec {
        name: "subnet".into(),
        description: String::new(),
        network_id: id(NETWORK, number).to_string(),
        cidr: format!("10.{number}.0.0/24").parse().unwrap(),
        gateway_ip: Some(format!("10.{number}.0.1").parse().unwrap()),
        allocation_pools: vec![],
        enable_dhcp,
        dns_nameservers: vec![],
        host_routes: vec![],
        ipv6_address_mode: None,
        ipv6_ra_mode: None,
        subnetpool_id: None,
        service_types: vec![],
        tags: vec![],
    };
    made(id(SUBNET, number), spec)
}

/// A port of network `net` at `.last`.
pub(crate) fn port(net: u8, last: u8, change: impl FnOnce(&mut PortSpec)) -> Arc<Resource<Port>> {
    let mut spec = PortSpec {
        name: String::new(),
        description: String::new(),
        network_id: id(NETWORK, net).to_string(),
        mac_address: format!("fa:16:3e:00:{net:02x}:{last:02x}"),
        fixed_ips: vec![FixedIp {
            subnet_id: id(SUBNET, net).to_string(),
            ip_address: format!("10.{net}.0.{last}").parse().unwrap(),
        }],
        no_fixed_ips: false,
        device_id: String::new(),
        device_owner: String::new(),
        admin_state_up: true,
        security_groups: vec![],
        explicit_security_groups: true,
        port_security_enabled: true,
        allowed_address_pairs: vec![],
        extra_dhcp_opts: vec![],
        qos_policy_id: None,
        dns_name: String::new(),
        vnic_type: "normal".into(),
        binding_host: Some("h".into()),
        attachment: Attachment::Tap,
        tags: vec![],
        device_tag: None,
        device_index: 0,
    };
    change(&mut spec);
    made(id(PORT, net * 16 + last), spec)
}

fn rule(number: u8, change: impl FnOnce(&mut RuleSpec)) -> Arc<Resource<Rule>> {
    let mut spec = RuleSpec {
        group_id: id(GROUP, 1).to_string(),
        direction: Direction::Ingress,
        ethertype: EtherType::IPv4,
        protocol: None,
        port_range_min: None,
        port_range_max: None,
        remote_ip_prefix: None,
        remote_group_id: None,
        remote_address_group_id: None,
        description: String::new(),
    };
    change(&mut spec);
    made(id(RULE, number), spec)
}

/// Two guests of one group (one more is open), a DHCP port, a router with a way out, a floating address.
pub(crate) fn view() -> View {
    let group = id(GROUP, 1).to_string();
    let grouped = |spec: &mut PortSpec| spec.security_groups = vec![id(GROUP, 1).to_string()];
    let ports = vec![
        port(1, 5, grouped),
        port(1, 6, |spec| {
            grouped(spec);
            spec.attachment = Attachment::Veth;
            let pair = |text: &str| AddressPair {
                ip_address: text.parse().unwrap(),
                mac_address: None,
            };
            spec.allowed_address_pairs = vec![pair("10.1.0.64/27"), pair("10.1.0.64/28"), pair("10.1.0.99/32")];
        }),
        port(1, 7, |spec| spec.port_security_enabled = false),
    ];
    let inside = NetworkView {
        network: network(1, false),
        subnets: vec![subnet(1, true)],
        dhcp: Some(port(1, 2, |spec| spec.binding_host = None)),
    };
    let external = NetworkView {
        network: network(2, true),
        subnets: vec![subnet(2, false)],
        dhcp: None,
    };
    let rules = vec![
        rule(1, |rule| rule.direction = Direction::Egress),
        rule(2, |rule| rule.remote_group_id = Some(group.clone())),
        rule(3, |rule| {
            rule.protocol = Some("tcp".into());
            rule.port_range_min = Some(22);
            rule.port_range_max = Some(22);
        }),
    ];
    View {
        members: [(group.clone(), ports[..2].to_vec())].into(),
        groups: [(
            group,
            GroupView {
                is_stateful: true,
                rules,
            },
        )]
        .into(),
        routers: vec![router()],
        networks: [inside, external]
            .map(|view| (view.network.name().to_owned(), view))
            .into(),
        ports,
        tags: std::collections::BTreeMap::new(),
        addresses: std::collections::BTreeMap::new(),
        scopes: std::collections::BTreeMap::new(),
        qos: std::collections::BTreeMap::new(),
    }
}

fn router() -> RouterView {
    let gateway = port(2, 10, |spec| spec.binding_host = None);
    let spec = RouterSpec {
        name: "router".into(),
        description: String::new(),
        admin_state_up: true,
        gateway: Some(ExternalGateway {
            network_id: id(NETWORK, 2).to_string(),
            port_id: gateway.name().to_owned(),
            fixed_ips: gateway.spec.fixed_ips.clone(),
            enable_snat: true,
        }),
        routes: vec![],
        distributed: false,
        ha: false,
        availability_zone_hints: vec![],
        tags: vec![],
    };
    let floating = FloatingIpSpec {
        description: String::new(),
        network_id: id(NETWORK, 2).to_string(),
        subnet_id: id(SUBNET, 2).to_string(),
        address: "10.2.0.20".parse().unwrap(),
        holder_port_id: String::new(),
        port_id: Some(id(PORT, 21).to_string()),
        fixed_ip_address: Some("10.1.0.5".parse().unwrap()),
        port_forwardings: vec![],
        router_id: Some(id(ROUTER, 1).to_string()),
        qos_policy_id: None,
        dns_domain: String::new(),
        dns_name: String::new(),
        tags: vec![],
    };
    RouterView {
        router: made::<Router>(id(ROUTER, 1), spec),
        interfaces: vec![port(1, 1, |spec| spec.binding_host = None)],
        gateway: Some(gateway),
        meters: vec![],
        floating: vec![made::<FloatingIp>(id(FLOATING, 1), floating)],
    }
}
