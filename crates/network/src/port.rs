//! A port: a place on a network, with a MAC address, addresses and filters.
//!
//! ```text
//! DOWN ──(binding_host set by the owner's domain)──► the host's network agent makes the device ──► wired, ACTIVE
//! ```

mod addresses;
pub mod api;
mod assign;
mod intervals;
pub(crate) mod mac;
pub(crate) mod number;
pub mod owner;
pub(crate) mod rules;

use std::net::IpAddr;

use ipnet::IpNet;
use madang_host::workload::Attachment;
use madang_store::{Indexes, Kind};
use serde::{Deserialize, Serialize};

/// The kind of ports. `metadata.name` is the id. A server owns the ports made for it; others outlive it.
pub struct Port;

impl Kind for Port {
    const NAME: &'static str = "ports";
    type Spec = PortSpec;
    type Status = PortStatus;

    fn indexes() -> Indexes<Self> {
        Indexes::<Self>::new()
            .on("network", |r| vec![r.spec.network_id.clone()])
            .on("subnet", |r| {
                r.spec.fixed_ips.iter().map(|ip| ip.subnet_id.clone()).collect()
            })
            .on("device", |r| {
                if r.spec.device_id.is_empty() {
                    vec![]
                } else {
                    vec![r.spec.device_id.clone()]
                }
            })
            .on("host", |r| r.spec.binding_host.iter().cloned().collect())
            .on("group", |r| r.spec.security_groups.clone())
            .on("interface", |r| match r.spec.device_owner.as_str() {
                owner::ROUTER_INTERFACE => r.spec.fixed_ips.iter().map(|ip| ip.subnet_id.clone()).collect(),
                _ => Vec::new(),
            })
            .on("qos", |r| r.spec.qos_policy_id.iter().cloned().collect())
            .on("mac", |r| vec![r.spec.mac_address.clone()])
            .on("ip", |r| {
                r.spec.fixed_ips.iter().map(|ip| ip.ip_address.to_string()).collect()
            })
    }
}

/// What was asked of a port. The kind's rule fills in what is left open (see each field) in the same transaction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PortSpec {
    /// What the user calls it; need not be unique.
    #[serde(default)]
    pub name: String,
    /// Free text.
    #[serde(default)]
    pub description: String,
    /// The network it is on.
    pub network_id: String,
    /// Lower case, colons. Empty at creation: the rule gives one (`fa:16:3e:…`).
    #[serde(default)]
    pub mac_address: String,
    /// Addresses. At creation none means one of each version from any subnet of the network, unless `no_fixed_ips`.
    #[serde(default)]
    pub fixed_ips: Vec<FixedIp>,
    /// At creation: wants no address at all.
    #[serde(default)]
    pub no_fixed_ips: bool,
    /// The id of what uses it: a server, a router; empty when free.
    #[serde(default)]
    pub device_id: String,
    /// What sort of thing uses it: `compute:nova`, `network:router_interface`, `network:dhcp`, ….
    #[serde(default)]
    pub device_owner: String,
    /// Carries traffic when true.
    #[serde(default = "yes")]
    pub admin_state_up: bool,
    /// Ids of the groups whose rules hold. `None` at creation: the rule gives the project's default group.
    #[serde(default)]
    pub security_groups: Vec<String>,
    /// At creation: take `security_groups` as it is, also when empty.
    #[serde(default)]
    pub explicit_security_groups: bool,
    /// Filters spoofed and unwanted traffic.
    #[serde(default = "yes")]
    pub port_security_enabled: bool,
    /// Further addresses it may send from.
    #[serde(default)]
    pub allowed_address_pairs: Vec<AddressPair>,
    /// What DHCP tells whoever asks from it, beside or instead of the usual.
    #[serde(default)]
    pub extra_dhcp_opts: Vec<ExtraDhcpOption>,
    /// Its quality of service, instead of its network's.
    #[serde(default)]
    pub qos_policy_id: Option<String>,
    /// Its DNS name in the network's domain.
    #[serde(default)]
    pub dns_name: String,
    /// `normal`, `direct`, …; kept and shown.
    #[serde(default = "normal")]
    pub vnic_type: String,
    /// The host (a provider's name) on which it is to be wired. Written by the domain of its device.
    #[serde(default)]
    pub binding_host: Option<String>,
    /// What device the host makes for it.
    #[serde(default = "tap")]
    pub attachment: Attachment,
    /// The user's tags.
    #[serde(default)]
    pub tags: Vec<String>,
    /// The virtual device tag (Nova's device tagging).
    #[serde(default)]
    pub device_tag: Option<String>,
    /// Its place among the interfaces of its device, from 0.
    #[serde(default)]
    pub device_index: u32,
}

impl PortSpec {
    /// A port on a network, everything else left to the rule of the kind.
    pub fn on(network_id: &str) -> Self {
        Self {
            name: String::new(),
            description: String::new(),
            network_id: network_id.to_owned(),
            mac_address: String::new(),
            fixed_ips: Vec::new(),
            no_fixed_ips: false,
            device_id: String::new(),
            device_owner: String::new(),
            admin_state_up: true,
            security_groups: Vec::new(),
            explicit_security_groups: false,
            port_security_enabled: true,
            allowed_address_pairs: Vec::new(),
            extra_dhcp_opts: Vec::new(),
            qos_policy_id: None,
            dns_name: String::new(),
            vnic_type: normal(),
            binding_host: None,
            attachment: tap(),
            tags: Vec::new(),
            device_tag: None,
            device_index: 0,
        }
    }
}

fn yes() -> bool {
    true
}

fn normal() -> String {
    "normal".to_owned()
}

fn tap() -> Attachment {
    Attachment::Tap
}

/// One address of a port. At creation either part may be open: an empty `subnet_id` with an address, or a subnet with
/// the unspecified address (`0.0.0.0`/`::`), which the rule replaces by a free one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FixedIp {
    /// The subnet it is from.
    pub subnet_id: String,
    /// The address.
    pub ip_address: IpAddr,
}

/// An address (or range), and optionally a MAC address, that a port may also send from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressPair {
    /// Which addresses.
    pub ip_address: IpNet,
    /// From which MAC; the port's own when none.
    #[serde(default)]
    pub mac_address: Option<String>,
}

/// An option of DHCP for one port; one of each name and version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtraDhcpOption {
    /// As dnsmasq calls it (`bootfile-name`), or its number.
    pub opt_name: String,
    /// In words; addresses are separated by commas.
    pub opt_value: String,
    /// The version of IP: 4 or 6.
    pub ip_version: u8,
}

/// What is seen of a port. Written by the network agent of its host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PortStatus {
    /// The host on which its device exists and its filters hold; equal to `spec.binding_host` once wired.
    #[serde(default)]
    pub wired_on: Option<String>,
    /// The device in the fabric namespace: the tap, or the veth's outer end. Set together with `wired_on`; whoever runs
    /// the workload reads it here.
    #[serde(default)]
    pub device: Option<String>,
    /// The veth end that goes into the workload; none for a tap.
    #[serde(default)]
    pub peer: Option<String>,
    /// Why it could not be wired, in words.
    #[serde(default)]
    pub failure: Option<String>,
}

impl PortStatus {
    /// Neutron's status of a port whose binding host is `host`.
    pub fn neutron(&self, host: Option<&str>) -> &'static str {
        match (&self.wired_on, host) {
            (Some(wired), Some(host)) if wired == host => "ACTIVE",
            _ => "DOWN",
        }
    }
}
