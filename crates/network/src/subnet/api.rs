//! Subnets as Neutron shows them.

use std::{net::IpAddr, sync::Arc};

use ipnet::IpNet;
use madang_http::{Failure, Query};
use madang_store::{Metadata, Resource, Tx};
use serde_json::{Map, Value};

use super::{Subnet, SubnetSpec, rules, shape};
use crate::{
    Network, SubnetPool,
    api::{
        attribute::{Attribute, Body},
        convert,
        failure::Stop,
        resource::{Context, Exposed, Facts, add_missing, add_shared, own_or_all, visible},
        view::View,
    },
    lookup::hold,
    network::api::facts_on,
    rbac::Shareable,
    refusal::{self, Missing},
    subnet_pool::{self, rules::Wanted},
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

/// A pool's id. Neutron's other value stands for prefixes that a router of the provider delegates.
fn pool(value: &Value) -> Result<Value, String> {
    if value.as_str() == Some("prefix_delegation") {
        return Err("prefix delegation is not supported".to_owned());
    }
    convert::uuid_or_null(value)
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
        Attribute::new("subnetpool_id", pool).fixed(),
        Attribute::new("prefixlen", convert::number_or_null).fixed(),
        Attribute::new("use_default_subnetpool", convert::flag).fixed(),
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
            let mut shared = networks.by("shared", "yes");
            add_shared(context, &mut shared, Shareable::Network);
            let seen = shared.into_iter().chain(own.into_iter().flatten());
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
            .with("subnetpool_id", spec.subnetpool_id.clone())
            .done()
    }

    fn build(context: &Context, tx: &mut Tx<'_>, body: &Body, project: &str) -> Result<Arc<Resource<Self>>, Stop> {
        let network_id = body.text("network_id").unwrap_or_default();
        let network = visible::<Network>(context, network_id)?;
        let (cidr, subnetpool_id) = range(context, tx, body, project)?;
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
            subnetpool_id,
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

/// The range that is given, or one that is cut from the pool that is named, and that pool.
fn range(context: &Context, tx: &mut Tx<'_>, body: &Body, project: &str) -> Result<(IpNet, Option<String>), Stop> {
    let cidr: Option<IpNet> = body.typed("cidr")?;
    if let Some(cidr) = cidr {
        check_version(body, cidr)?;
    }
    let cidr = cidr.map(|cidr| cidr.trunc());
    let bits = body.number("prefixlen");
    if cidr.is_some() && bits.is_some() {
        return Err(refusal::bad_request("subnets", "cidr and prefixlen must not be supplied together").into());
    }
    let Some(pool) = named_pool(context, body)? else {
        let cidr = cidr.ok_or_else(|| {
            refusal::bad_request("subnets", "a subnetpool must be specified in the absence of a cidr")
        })?;
        return Ok((cidr, None));
    };
    let version = body.number("ip_version").unwrap_or(4);
    if version != i64::from(pool.spec.ip_version()) {
        let why = format_args!(
            "Cannot allocate IPv{version} subnet from IPv{} subnet pool",
            pool.spec.ip_version()
        );
        return Err(refusal::bad_request("subnets", why).into());
    }
    let unfit = |_| refusal::invalid(format_args!("prefixlen {} is out of range", bits.unwrap_or_default()));
    let bits = bits.map(u8::try_from).transpose().map_err(unfit)?;
    // As this attempt of the transaction sees it: others cut from it, too.
    let pool = hold::<SubnetPool>(tx, Missing::SubnetPool, pool.name())?;
    let wanted = cidr.map_or(Wanted::Any(bits), Wanted::Exactly);
    let cidr = subnet_pool::rules::cut(tx, &pool, wanted, project)?;
    Ok((cidr, Some(pool.name().to_owned())))
}

/// The pool that is named or is the default; none where neither is asked for.
fn named_pool(context: &Context, body: &Body) -> Result<Option<Arc<Resource<SubnetPool>>>, Stop> {
    if let Some(id) = body.text("subnetpool_id") {
        if body.flag("use_default_subnetpool") == Some(true) {
            let why = "subnetpool_id and use_default_subnetpool cannot both be specified";
            return Err(refusal::bad_request("subnets", why).into());
        }
        return Ok(Some(visible::<SubnetPool>(context, id)?));
    }
    if body.flag("use_default_subnetpool") != Some(true) {
        return Ok(None);
    }
    let version = body.number("ip_version").unwrap_or(4);
    let default = context.store.cache::<SubnetPool>().by("default", &version.to_string());
    let may =
        |pool: &Arc<Resource<SubnetPool>>| SubnetPool::facts(context, pool).allow(&context.caller, "get_subnetpool");
    let default = default.into_iter().find(may);
    let missing = || refusal::bad_request("subnets", format_args!("No default subnetpool found for IPv{version}"));
    Ok(Some(default.ok_or_else(missing)?))
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
