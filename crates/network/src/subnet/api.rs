//! Subnets as Neutron shows them.

use std::{net::IpAddr, sync::Arc};

use ipnet::IpNet;
use madang_http::{Failure, Query};
use madang_store::{Metadata, Resource, Tx};
use serde_json::{Map, Value};

use super::{Subnet, SubnetSpec, rules, shape};
use crate::{
    Network,
    api::{
        attribute::{Attribute, Body},
        convert,
        failure::Stop,
        resource::{Context, Exposed, Facts, add_missing, own_or_all, visible},
        view::View,
    },
    network::api::facts_on,
    refusal::{self, Missing},
};

fn ip_version(value: &Value) -> Result<Value, String> {
    let version = convert::number(value)?;
    match version.as_i64() {
        Some(4 | 6) => Ok(version),
        _ => Err(format!("{} is not in [4, 6]", convert::quoted(value))),
    }
}

fn ipv6_mode(value: &Value) -> Result<Value, String> {
    if value.is_null() {
        return Ok(Value::Null);
    }
    convert::one_of(value, &["dhcpv6-stateful", "dhcpv6-stateless", "slaac"])
}

fn no_subnet_pool(value: &Value) -> Result<Value, String> {
    if value.is_null() {
        Ok(Value::Null)
    } else {
        Err("subnet pools are not supported: give a cidr".to_owned())
    }
}

impl Exposed for Subnet {
    const SINGULAR: &'static str = "subnet";
    const PLURAL: &'static str = "subnets";
    const MISSING: Missing = Missing::Subnet;
    const ATTRIBUTES: &'static [Attribute] = &[
        Attribute::new("name", convert::text),
        Attribute::new("network_id", convert::uuid).required().fixed(),
        Attribute::new("ip_version", ip_version).required().fixed(),
        Attribute::new("cidr", convert::cidr_or_null).fixed(),
        Attribute::new("gateway_ip", convert::ip_or_null),
        Attribute::new("allocation_pools", convert::pools),
        Attribute::new("enable_dhcp", convert::flag),
        Attribute::new("dns_nameservers", convert::name_servers),
        Attribute::new("host_routes", convert::routes),
        Attribute::new("ipv6_address_mode", ipv6_mode).fixed(),
        Attribute::new("ipv6_ra_mode", ipv6_mode).fixed(),
        Attribute::new("service_types", convert::texts),
        Attribute::new("subnetpool_id", no_subnet_pool).fixed(),
    ];

    const HIDDEN: &'static [&'static str] = &["shared"];

    fn hidden(context: &Context, subnet: &Resource<Self>, _name: &str) -> Value {
        Value::Bool(Self::facts(context, subnet).is_shared)
    }

    fn facts(context: &Context, subnet: &Resource<Self>) -> Facts {
        facts_on(context, &subnet.spec.network_id, subnet.project())
    }

    fn candidates(context: &Context, query: &Query) -> Vec<Arc<Resource<Self>>> {
        let cache = context.store.cache::<Subnet>();
        if query.has("network_id") {
            return query
                .all("network_id")
                .flat_map(|network| cache.by("network", network))
                .collect();
        }
        let mut found = own_or_all(context, query);
        if !query.has("id") {
            let networks = context.store.cache::<Network>();
            let own = context
                .caller
                .subject
                .project_id()
                .map(|project| networks.in_project(project));
            let seen = networks
                .by("shared", "yes")
                .into_iter()
                .chain(own.into_iter().flatten());
            add_missing(
                &mut found,
                seen.flat_map(|network| cache.by("network", network.name())).collect(),
            );
            found.sort_by_key(|subnet| subnet.metadata.uid);
            found.dedup_by_key(|subnet| subnet.metadata.uid);
        }
        found
    }

    fn view(_: &Context, subnet: &Resource<Self>) -> Map<String, Value> {
        let spec = &subnet.spec;
        View::of(subnet, &spec.description, &spec.tags)
            .with("name", spec.name.as_str())
            .with("network_id", spec.network_id.as_str())
            .with("ip_version", spec.ip_version())
            .with("cidr", spec.cidr.to_string())
            .with("gateway_ip", spec.gateway_ip.map(|ip| ip.to_string()))
            .typed("allocation_pools", &spec.allocation_pools)
            .with("enable_dhcp", spec.enable_dhcp)
            .typed("dns_nameservers", &spec.dns_nameservers)
            .typed("host_routes", &spec.host_routes)
            .with("ipv6_address_mode", spec.ipv6_address_mode.clone())
            .with("ipv6_ra_mode", spec.ipv6_ra_mode.clone())
            .with("service_types", spec.service_types.clone())
            .with("subnetpool_id", Value::Null)
            .done()
    }

    fn build(context: &Context, tx: &mut Tx<'_>, body: &Body, project: &str) -> Result<Arc<Resource<Self>>, Stop> {
        let network_id = body.text("network_id").unwrap_or_default();
        let network = visible::<Network>(context, network_id)?;
        let cidr: IpNet = body.typed("cidr")?.ok_or_else(|| {
            refusal::bad_request("subnets", "a subnetpool must be specified in the absence of a cidr")
        })?;
        check_version(body, cidr)?;
        let cidr = cidr.trunc();
        let gateway_ip: Option<IpAddr> = if body.has("gateway_ip") {
            body.typed("gateway_ip")?
        } else {
            shape::default_gateway(cidr)
        };
        let mut spec = SubnetSpec {
            name: String::new(),
            description: String::new(),
            network_id: network.name().to_owned(),
            cidr,
            gateway_ip,
            allocation_pools: Vec::new(),
            enable_dhcp: true,
            dns_nameservers: Vec::new(),
            host_routes: Vec::new(),
            ipv6_address_mode: body.typed("ipv6_address_mode")?,
            ipv6_ra_mode: body.typed("ipv6_ra_mode")?,
            service_types: Vec::new(),
            tags: Vec::new(),
        };
        fill(&mut spec, body)?;
        Ok(rules::create(tx, Resource::new(Metadata::with_id(project), spec))?)
    }

    fn change(_: &Context, tx: &mut Tx<'_>, old: &Resource<Self>, body: &Body) -> Result<Arc<Resource<Self>>, Stop> {
        let mut new = old.clone();
        if body.has("gateway_ip") {
            new.spec.gateway_ip = body.typed("gateway_ip")?;
        }
        fill(&mut new.spec, body)?;
        Ok(tx.update(old, new)?)
    }
}

fn check_version(body: &Body, cidr: IpNet) -> Result<(), Failure> {
    let version = body.number("ip_version").unwrap_or(4);
    if cidr.addr().is_ipv4() == (version == 4) {
        return Ok(());
    }
    Err(refusal::invalid(format_args!("cidr '{cidr}' does not match the ip_version '{version}'")).into())
}

fn fill(spec: &mut SubnetSpec, body: &Body) -> Result<(), Stop> {
    body.set_text("name", &mut spec.name);
    body.set_text("description", &mut spec.description);
    body.set_flag("enable_dhcp", &mut spec.enable_dhcp);
    body.set("allocation_pools", &mut spec.allocation_pools)?;
    body.set("dns_nameservers", &mut spec.dns_nameservers)?;
    body.set("host_routes", &mut spec.host_routes)?;
    body.set("service_types", &mut spec.service_types)?;
    Ok(())
}
