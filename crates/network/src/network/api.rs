//! Networks as Neutron shows them.

use std::sync::Arc;

use madang_http::Query;
use madang_scheduler::Provider;
use madang_store::{Metadata, Resource, Tx};
use serde_json::{Map, Value};

use super::{Network, NetworkSpec};
use crate::{
    Subnet,
    api::{
        attribute::{Attribute, Body},
        convert,
        failure::Stop,
        resource::{Context, Exposed, Facts, add_missing, add_shared, own_or_all},
        view::View,
    },
    qos,
    rbac::{self, Action, Shareable},
    refusal::{self, Missing},
};

impl Exposed for Network {
    const SINGULAR: &'static str = "network";
    const PLURAL: &'static str = "networks";
    const MISSING: Missing = Missing::Network;
    const ATTRIBUTES: &'static [Attribute] = &[
        Attribute::new("name", convert::text),
        Attribute::new("admin_state_up", convert::flag),
        Attribute::new("shared", convert::flag).guarded_flag(),
        Attribute::new("router:external", convert::flag).guarded_flag(),
        Attribute::new("is_default", convert::flag).guarded_flag(),
        Attribute::new("port_security_enabled", convert::flag),
        Attribute::new("mtu", convert::number),
        Attribute::new("dns_domain", convert::text),
        Attribute::new("availability_zone_hints", convert::texts).fixed(),
        Attribute::new("provider:network_type", convert::text)
            .guarded()
            .restricted(),
        Attribute::new("provider:physical_network", convert::text_or_null)
            .guarded()
            .restricted(),
        Attribute::new("provider:segmentation_id", convert::number_or_null)
            .guarded()
            .restricted(),
        Attribute::shown("status"),
        Attribute::shown("subnets"),
        Attribute::shown("availability_zones"),
        Attribute::new("qos_policy_id", convert::uuid_or_null),
        Attribute::shown("ipv4_address_scope"),
        Attribute::shown("ipv6_address_scope"),
    ];

    fn facts(context: &Context, network: &Resource<Self>) -> Facts {
        facts_of(context, Some(network), network.project())
    }

    fn candidates(context: &Context, query: &Query) -> Vec<Arc<Resource<Self>>> {
        let mut found = own_or_all(context, query);
        if !query.has("id") {
            add_missing(&mut found, context.store.cache::<Network>().by("external", "yes"));
            add_shared(context, &mut found, Shareable::Network);
        }
        found
    }

    fn view(context: &Context, network: &Resource<Self>) -> Map<String, Value> {
        let spec = &network.spec;
        let mut subnets = context.store.cache::<Subnet>().by("network", network.name());
        subnets.sort_by(|a, b| (a.metadata.created, a.name()).cmp(&(b.metadata.created, b.name())));
        let subnets: Vec<_> = subnets.iter().map(|subnet| subnet.name().to_owned()).collect();
        let zones = if subnets.is_empty() { Vec::new() } else { zones(context) };
        let segment = (spec.segmentation_id != 0).then_some(spec.segmentation_id);
        View::of(network, &spec.description, &spec.tags)
            .with("name", spec.name.as_str())
            .with("admin_state_up", spec.admin_state_up)
            .with("status", if spec.admin_state_up { "ACTIVE" } else { "DOWN" })
            .with("subnets", subnets)
            .with("shared", spec.is_shared || context.is_shared(network.name()))
            .with("router:external", spec.is_external)
            .with("is_default", spec.is_default)
            .with("port_security_enabled", spec.port_security_enabled)
            .with("mtu", spec.mtu)
            .with("dns_domain", spec.dns_domain.as_str())
            .with("availability_zone_hints", spec.availability_zone_hints.clone())
            .with("availability_zones", zones)
            .with("qos_policy_id", spec.qos_policy_id.clone())
            .with("ipv4_address_scope", scope_of(context, network.name(), true))
            .with("ipv6_address_scope", scope_of(context, network.name(), false))
            .with("provider:network_type", spec.network_type.as_str())
            .with("provider:physical_network", spec.physical_network.clone())
            .with("provider:segmentation_id", segment)
            .done()
    }

    fn build(context: &Context, tx: &mut Tx<'_>, body: &Body, project: &str) -> Result<Arc<Resource<Self>>, Stop> {
        let mut spec = NetworkSpec::default();
        if body.get("qos_policy_id").is_none() {
            spec.qos_policy_id = qos::rules::default_of(tx, project);
        } else {
            qos::api::set(context, body, &mut spec.qos_policy_id)?;
        }
        fill(&mut spec, body)?;
        Ok(tx.create(Resource::<Self>::new(Metadata::with_id(project), spec))?)
    }

    fn change(
        context: &Context,
        tx: &mut Tx<'_>,
        old: &Resource<Self>,
        body: &Body,
    ) -> Result<Arc<Resource<Self>>, Stop> {
        let mut new = old.clone();
        qos::api::set(context, body, &mut new.spec.qos_policy_id)?;
        fill(&mut new.spec, body)?;
        Ok(tx.update(old, new)?)
    }
}

impl Default for NetworkSpec {
    /// A network as Neutron makes it when nothing is said: up, of one project, with port security. What is zero or empty
    /// is filled in by the kind's rule.
    fn default() -> Self {
        Self {
            name: String::new(),
            description: String::new(),
            admin_state_up: true,
            is_shared: false,
            is_external: false,
            is_default: false,
            port_security_enabled: true,
            mtu: 0,
            segmentation_id: 0,
            network_type: String::new(),
            physical_network: None,
            dns_domain: String::new(),
            qos_policy_id: None,
            availability_zone_hints: Vec::new(),
            tags: Vec::new(),
        }
    }
}

fn fill(spec: &mut NetworkSpec, body: &Body) -> Result<(), Stop> {
    body.set_text("name", &mut spec.name);
    body.set_text("description", &mut spec.description);
    body.set_flag("admin_state_up", &mut spec.admin_state_up);
    body.set_flag("shared", &mut spec.is_shared);
    body.set_flag("router:external", &mut spec.is_external);
    body.set_flag("is_default", &mut spec.is_default);
    body.set_flag("port_security_enabled", &mut spec.port_security_enabled);
    body.set_text("dns_domain", &mut spec.dns_domain);
    body.set("availability_zone_hints", &mut spec.availability_zone_hints)?;
    body.set_text("provider:network_type", &mut spec.network_type);
    body.set("provider:physical_network", &mut spec.physical_network)?;
    if let Some(mtu) = body.number("mtu") {
        spec.mtu = u16::try_from(mtu).map_err(|_| refusal::invalid(format_args!("mtu {mtu} is out of range")))?;
    }
    if let Some(segment) = body.number("provider:segmentation_id") {
        let read = u32::try_from(segment).ok().filter(|id| *id != 0);
        spec.segmentation_id =
            read.ok_or_else(|| refusal::invalid(format_args!("segmentation_id {segment} is out of range")))?;
    }
    Ok(())
}

/// The availability zones there are, in order.
pub(crate) fn zones(context: &Context) -> Vec<String> {
    let mut zones: Vec<_> = context
        .store
        .cache::<Provider>()
        .all()
        .iter()
        .map(|host| host.spec.zone.clone())
        .collect();
    zones.sort_unstable();
    zones.dedup();
    zones
}

/// The address scope that a network's subnets of one version of IP are in; none without one.
pub(crate) fn scope_of(context: &Context, network: &str, is_v4: bool) -> Option<String> {
    crate::subnet_pool::scope_of(&context.store, network, is_v4)
}

/// Facts of something on a network.
pub(crate) fn facts_on(context: &Context, network: &str, project: &str) -> Facts {
    let network = context.store.cache::<Network>().by_name(network);
    facts_of(context, network.as_deref(), project)
}

/// Facts of what is a project's and on a network, as the caller's project is concerned.
fn facts_of(context: &Context, network: Option<&Resource<Network>>, project: &str) -> Facts {
    let (store, caller) = (&context.store, context.caller.subject.project_id().unwrap_or_default());
    let is_shared =
        |network: &Resource<Network>| network.spec.is_shared || rbac::is_shared_with(store, network.name(), caller);
    let is_external = |network: &Resource<Network>| {
        network.spec.is_external && rbac::allows(store, network.name(), Action::AccessAsExternal, caller)
    };
    Facts {
        project: project.to_owned(),
        network_project: network.map(|network| network.project().to_owned()).unwrap_or_default(),
        is_shared: network.is_some_and(is_shared),
        is_external: network.is_some_and(is_external),
        is_network_device: false,
    }
}
