//! The port on which a network serves DHCP and metadata: one per network that has a subnet with DHCP.
//!
//! Its id is made from the network's, so that two who need it first make the same one. It has an address in every
//! subnet with DHCP, and goes with the last of them.

use madang_host::workload::Attachment;
use madang_store::{Key, Kind, Metadata, Resource, StoreError, Tx};
use uuid::Uuid;

use crate::{FixedIp, Network, Port, PortSpec, Subnet, port::owner};

/// Under which the ids of these ports are made: any fixed value does.
const SPACE: Uuid = Uuid::from_u128(0x6d61_6461_6e67_4468_8063_7050_6f72_7473);

/// Where the port of a network is.
pub fn key(network: &Resource<Network>) -> Key {
    Key::new(Port::NAME, network.project(), "", uid(network).to_string())
}

fn uid(network: &Resource<Network>) -> Uuid {
    Uuid::new_v5(&SPACE, network.metadata.uid.as_bytes())
}

/// Gives the network's port an address in a subnet with DHCP. A subnet too small or too full for it goes without.
pub(crate) fn serve(tx: &mut Tx<'_>, network: &Resource<Network>, subnet: &Resource<Subnet>) -> Result<(), StoreError> {
    let served = attempt(tx, network, subnet);
    match served {
        Err(StoreError::Rejected(refused)) if refused.reason == "IpAddressGenerationFailure" => Ok(()),
        other => other,
    }
}

fn attempt(tx: &mut Tx<'_>, network: &Resource<Network>, subnet: &Resource<Subnet>) -> Result<(), StoreError> {
    let open = FixedIp {
        subnet_id: subnet.name().to_owned(),
        ip_address: unspecified(subnet),
    };
    let Some(port) = tx.get::<Port>(&key(network)) else {
        return tx
            .create(Resource::<Port>::new(metadata(network), spec(network, open)))
            .map(|_| ());
    };
    if port.spec.fixed_ips.iter().any(|ip| ip.subnet_id == subnet.name()) {
        return Ok(());
    }
    let mut more = (*port).clone();
    more.spec.fixed_ips.push(open);
    tx.update(&port, more).map(|_| ())
}

/// Takes the port out of a subnet; without any subnet left it goes.
pub(crate) fn leave(tx: &mut Tx<'_>, network: &Resource<Network>, subnet: &str) -> Result<(), StoreError> {
    let Some(port) = tx.get::<Port>(&key(network)) else {
        return Ok(());
    };
    let mut less = (*port).clone();
    less.spec.fixed_ips.retain(|ip| ip.subnet_id != subnet);
    if less.spec.fixed_ips.is_empty() {
        return tx.delete(&port);
    }
    tx.update(&port, less).map(|_| ())
}

fn unspecified(subnet: &Resource<Subnet>) -> std::net::IpAddr {
    if subnet.spec.cidr.addr().is_ipv4() {
        std::net::Ipv4Addr::UNSPECIFIED.into()
    } else {
        std::net::Ipv6Addr::UNSPECIFIED.into()
    }
}

fn metadata(network: &Resource<Network>) -> Metadata {
    let uid = uid(network);
    let mut metadata = Metadata::with_uid(uid, network.project(), uid.to_string());
    metadata.owners.push(network.as_owner());
    metadata
}

fn spec(network: &Resource<Network>, ip: FixedIp) -> PortSpec {
    PortSpec {
        fixed_ips: vec![ip],
        device_id: format!("dhcp-{}", network.name()),
        device_owner: owner::DHCP.to_owned(),
        explicit_security_groups: true,
        port_security_enabled: false,
        attachment: Attachment::Veth,
        ..PortSpec::on(network.name())
    }
}
