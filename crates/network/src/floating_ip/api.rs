//! Floating addresses as Neutron shows them.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use madang_http::Query;
use madang_store::{Metadata, Resource, Tx};
use serde_json::{Map, Value, json};

use super::{FloatingIp, FloatingIpSpec, forwarding_api::in_address, is_active};
use crate::{
    Network, Port, Subnet,
    api::{
        attribute::{Attribute, Body},
        convert,
        failure::Stop,
        resource::{Context, Exposed, Facts, own_or_all, visible},
        view::View,
    },
    port::api::status as port_status,
    qos,
    refusal::{self, Missing},
};

impl Exposed for FloatingIp {
    const SINGULAR: &'static str = "floatingip";
    const PLURAL: &'static str = "floatingips";
    const MISSING: Missing = Missing::FloatingIp;
    const ATTRIBUTES: &'static [Attribute] = &[
        Attribute::new("floating_network_id", convert::uuid).required().fixed(),
        Attribute::new("subnet_id", convert::uuid_or_null).fixed(),
        Attribute::new("floating_ip_address", convert::ip_or_null)
            .fixed()
            .guarded(),
        Attribute::new("port_id", convert::uuid_or_null),
        Attribute::new("fixed_ip_address", convert::ip_or_null),
        Attribute::new("qos_policy_id", convert::uuid_or_null),
        Attribute::new("dns_domain", convert::text).fixed(),
        Attribute::new("dns_name", convert::text).fixed(),
        Attribute::shown("router_id"),
        Attribute::shown("status"),
        Attribute::shown("port_details"),
        Attribute::shown("port_forwardings"),
    ];

    fn facts(_: &Context, floating: &Resource<Self>) -> Facts {
        Facts::of(floating.project())
    }

    fn candidates(context: &Context, query: &Query) -> Vec<Arc<Resource<Self>>> {
        let cache = context.store.cache::<FloatingIp>();
        let indexed = [
            ("port_id", "port"),
            ("floating_ip_address", "address"),
            ("router_id", "router"),
        ];
        for (filter, index) in indexed {
            if query.has(filter) && query.all(filter).all(|value| !value.is_empty()) {
                return query.all(filter).flat_map(|value| cache.by(index, value)).collect();
            }
        }
        own_or_all(context, query)
    }

    fn view(context: &Context, floating: &Resource<Self>) -> Map<String, Value> {
        let spec = &floating.spec;
        let port = spec
            .port_id
            .as_deref()
            .and_then(|id| context.store.cache::<Port>().by_name(id));
        let status = if is_active(floating) { "ACTIVE" } else { "DOWN" };
        let forwardings: Vec<_> = spec.port_forwardings.iter().map(in_address).collect();
        View::of(floating, &spec.description, &spec.tags)
            .with("floating_network_id", spec.network_id.as_str())
            .with("floating_ip_address", spec.address.to_string())
            .with("port_id", spec.port_id.clone())
            .with("fixed_ip_address", spec.fixed_ip_address.map(|ip| ip.to_string()))
            .with("router_id", spec.router_id.clone())
            .with("qos_policy_id", spec.qos_policy_id.clone())
            .with("status", status)
            .with("dns_domain", spec.dns_domain.as_str())
            .with("dns_name", spec.dns_name.as_str())
            .with("port_details", port.map(|port| details(&port)))
            .with("port_forwardings", forwardings)
            .done()
    }

    fn build(context: &Context, tx: &mut Tx<'_>, body: &Body, project: &str) -> Result<Arc<Resource<Self>>, Stop> {
        let network = visible::<Network>(context, body.text("floating_network_id").unwrap_or_default())?;
        let subnet_id = match body.text("subnet_id") {
            None => String::new(),
            Some(id) => subnet_of(context, &network, id)?,
        };
        let mut spec = FloatingIpSpec {
            description: body.text("description").unwrap_or_default().to_owned(),
            network_id: network.name().to_owned(),
            subnet_id,
            address: body
                .typed("floating_ip_address")?
                .unwrap_or(Ipv4Addr::UNSPECIFIED.into()),
            holder_port_id: String::new(),
            port_id: None,
            fixed_ip_address: None,
            port_forwardings: Vec::new(),
            router_id: None,
            qos_policy_id: None,
            dns_domain: body.text("dns_domain").unwrap_or_default().to_owned(),
            dns_name: body.text("dns_name").unwrap_or_default().to_owned(),
            tags: Vec::new(),
        };
        lead(context, &mut spec, body, project)?;
        qos::api::set(context, body, &mut spec.qos_policy_id)?;
        Ok(tx.create(Resource::<Self>::new(Metadata::with_id(project), spec))?)
    }

    fn change(
        context: &Context,
        tx: &mut Tx<'_>,
        old: &Resource<Self>,
        body: &Body,
    ) -> Result<Arc<Resource<Self>>, Stop> {
        let mut new = old.clone();
        body.set_text("description", &mut new.spec.description);
        lead(context, &mut new.spec, body, old.project())?;
        qos::api::set(context, body, &mut new.spec.qos_policy_id)?;
        Ok(tx.update(old, new)?)
    }

    /// Who moves an address that is in use would still find its former place behind it for some milliseconds.
    async fn settle(context: &Context, old: &Resource<Self>, new: &Resource<Self>) {
        let leads_to = |floating: &Resource<Self>| (floating.spec.port_id.clone(), floating.spec.fixed_ip_address);
        if !is_active(old) || new.spec.port_id.is_none() || leads_to(old) == leads_to(new) {
            return;
        }
        let until = tokio::time::Instant::now() + MOVES_WITHIN;
        while tokio::time::Instant::now() < until {
            match context.store.get::<Self>(&new.key()) {
                Some(now) if !is_active(&now) => tokio::time::sleep(LOOK_EVERY).await,
                _ => return,
            }
        }
    }
}

/// How long the answer waits for an address to move: it takes milliseconds, or something is wrong that its status tells.
const MOVES_WITHIN: Duration = Duration::from_secs(2);
/// How often it is looked.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A subnet of the external network: users may name it, though they cannot look at it.
fn subnet_of(context: &Context, network: &Resource<Network>, id: &str) -> Result<String, Stop> {
    let subnet = context.store.cache::<Subnet>().by_name(id);
    let subnet = subnet.filter(|subnet| subnet.spec.network_id == network.name());
    let subnet = subnet.ok_or_else(|| refusal::not_found(Missing::Subnet, id))?;
    Ok(subnet.name().to_owned())
}

/// Where the body says the address is to lead.
fn lead(context: &Context, spec: &mut FloatingIpSpec, body: &Body, project: &str) -> Result<(), Stop> {
    let inside: Option<IpAddr> = body.typed("fixed_ip_address")?;
    // An address once had nothing but where it leads: to say nothing is to say nowhere.
    if body.has("port_id") || body.is_blank() {
        spec.port_id = match body.text("port_id") {
            None => None,
            Some(id) => Some(check_port(context, id, project)?),
        };
        spec.fixed_ip_address = inside;
    } else if inside.is_some() {
        if spec.port_id.is_none() {
            let why = "fixed_ip_address cannot be specified without a port_id";
            return Err(refusal::bad_request("floatingip", why).into());
        }
        spec.fixed_ip_address = inside;
    }
    Ok(())
}

fn check_port(context: &Context, id: &str, project: &str) -> Result<String, Stop> {
    let port = visible::<Port>(context, id)?;
    if port.project() != project {
        let why = format_args!(
            "Cannot process floating IP and bind it to Port {id}, since that is owned by a different project"
        );
        return Err(refusal::bad_request("floatingip", why).into());
    }
    Ok(port.name().to_owned())
}

fn details(port: &Resource<Port>) -> Value {
    let spec = &port.spec;
    json!({
        "name": spec.name,
        "network_id": spec.network_id,
        "mac_address": spec.mac_address,
        "admin_state_up": spec.admin_state_up,
        "status": port_status(port),
        "device_id": spec.device_id,
        "device_owner": spec.device_owner,
    })
}
