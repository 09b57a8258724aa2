//! What the store says that concerns one host, read at one moment. Nothing here decides.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ipnet::IpNet;
use madang_store::{Resource, Store};
use uuid::Uuid;

use crate::{
    AddressGroup, FloatingIp, MeteringLabel, MeteringRule, Network, Port, QosPolicy, Router, Rule, Says, SecurityGroup,
    Subnet, port::owner, qos, subnet_pool, trunk,
};

/// Owners of router interfaces: the plain one, and those of distributed and replicated routers.
const INTERFACE_OWNERS: [&str; 3] = [
    owner::ROUTER_INTERFACE,
    "network:router_interface_distributed",
    "network:ha_router_replicated_interface",
];

/// Whether a port is a router's inner interface.
pub(crate) fn is_router_interface(port: &Resource<Port>) -> bool {
    INTERFACE_OWNERS.contains(&port.spec.device_owner.as_str())
}

/// The labels that a project's routers count for, with their rules.
fn meters(store: &Store, project: &str) -> Vec<(String, Vec<Arc<Resource<MeteringRule>>>)> {
    let labels = store.cache::<MeteringLabel>();
    let own = labels
        .in_project(project)
        .into_iter()
        .filter(|label| !label.spec.is_shared);
    let mut labels: Vec<_> = own.chain(labels.by("shared", "yes")).collect();
    labels.sort_by(|a, b| a.name().cmp(b.name()));
    let with_rules = |label: Arc<Resource<MeteringLabel>>| {
        let mut rules = store.cache::<MeteringRule>().by("label", label.name());
        rules.sort_by(|a, b| a.name().cmp(b.name()));
        (label.name().to_owned(), rules)
    };
    let with_rules = labels.into_iter().map(with_rules);
    with_rules.filter(|(_, rules)| !rules.is_empty()).collect()
}

/// Everything in the store that one host's network depends on.
#[derive(Default)]
pub(crate) struct View {
    /// Ports bound to this host whose network exists, by id.
    pub ports: Vec<Arc<Resource<Port>>>,
    /// Networks that something here is on, by id.
    pub networks: BTreeMap<String, NetworkView>,
    /// Groups of the ports here, by id. A group that is gone has no rules.
    pub groups: BTreeMap<String, GroupView>,
    /// Members, on any host, of the groups that rules here name as peers, by group id.
    pub members: BTreeMap<String, Vec<Arc<Resource<Port>>>>,
    /// Routers of the networks here, by id.
    pub routers: Vec<RouterView>,
    /// Subports of trunks, by the port's id: the parent port and the VLAN.
    pub tags: BTreeMap<String, (Uuid, u16)>,
    /// The addresses of address groups that rules here name, by the group's id.
    pub addresses: BTreeMap<String, Vec<IpNet>>,
    /// The rules of quality of service for ports here and floating addresses, by id.
    pub qos: BTreeMap<String, Vec<Says>>,
    /// The address scopes of networks that routers here are on, by the network's id: of version 4 and of version 6.
    pub scopes: BTreeMap<String, [Option<String>; 2]>,
}

/// A network and what is on it for everybody.
pub(crate) struct NetworkView {
    /// The network.
    pub network: Arc<Resource<Network>>,
    /// Its subnets, oldest first.
    pub subnets: Vec<Arc<Resource<Subnet>>>,
    /// The port that holds its DHCP addresses.
    pub dhcp: Option<Arc<Resource<Port>>>,
}

impl NetworkView {
    fn read(store: &Store, network: Arc<Resource<Network>>) -> Self {
        let mut subnets = store.cache::<Subnet>().by("network", network.name());
        subnets.sort_by(|a, b| (a.metadata.created, a.name()).cmp(&(b.metadata.created, b.name())));
        let ports = store.cache::<Port>().by("network", network.name());
        let dhcp = ports.into_iter().filter(|port| port.spec.device_owner == owner::DHCP);
        let dhcp = dhcp.min_by(|a, b| (a.metadata.created, a.name()).cmp(&(b.metadata.created, b.name())));
        Self { network, subnets, dhcp }
    }

    /// A subnet by its id.
    pub fn subnet(&self, id: &str) -> Option<&Arc<Resource<Subnet>>> {
        self.subnets.iter().find(|subnet| subnet.name() == id)
    }
}

/// A group's rules.
pub(crate) struct GroupView {
    /// Whether answers come back by themselves.
    pub is_stateful: bool,
    /// Its rules, by id.
    pub rules: Vec<Arc<Resource<Rule>>>,
}

/// A router and what it joins here.
pub(crate) struct RouterView {
    /// The router.
    pub router: Arc<Resource<Router>>,
    /// Its interfaces on networks that are here, by id.
    pub interfaces: Vec<Arc<Resource<Port>>>,
    /// Its port on the external network.
    pub gateway: Option<Arc<Resource<Port>>>,
    /// Floating addresses it translates, by id.
    pub floating: Vec<Arc<Resource<FloatingIp>>>,
    /// What it counts: labels' ids with their rules, by id.
    pub meters: Vec<(String, Vec<Arc<Resource<MeteringRule>>>)>,
}

impl View {
    /// Reads the caches. `peers` is told which groups' membership matters before their members are read, so that no
    /// change of a member falls between. `keep` is told which networks are in use here, and says which others are looked
    /// at as if they were.
    pub fn read(
        store: &Store,
        host: &str,
        keep: impl FnOnce(BTreeSet<String>) -> BTreeSet<String>,
        peers: impl FnOnce(&BTreeSet<String>),
    ) -> Self {
        let mut view = Self::default();
        let mut ports = store.cache::<Port>().by("host", host);
        ports.retain(|port| !port.metadata.is_deleting() || !port.metadata.finalizers.is_empty());
        ports.sort_by(|a, b| a.name().cmp(b.name()));
        for port in ports {
            if view.networks.contains_key(&port.spec.network_id) || view.add_network(store, &port.spec.network_id) {
                view.ports.push(port);
            }
        }
        for id in keep(view.networks.keys().cloned().collect()) {
            if !view.networks.contains_key(&id) {
                view.add_network(store, &id);
            }
        }
        view.read_tags(store);
        view.read_qos(store);
        view.read_routers(store);
        view.read_qos_of_addresses(store);
        view.read_scopes(store);
        view.read_groups(store);
        view.read_addresses(store);
        peers(&view.peer_groups());
        for group in view.peer_groups() {
            let mut members = store.cache::<Port>().by("group", &group);
            members.sort_by(|a, b| a.name().cmp(b.name()));
            view.members.insert(group, members);
        }
        view
    }

    fn add_network(&mut self, store: &Store, id: &str) -> bool {
        let Some(network) = store.cache::<Network>().by_name(id) else {
            return false;
        };
        self.networks.insert(id.to_owned(), NetworkView::read(store, network));
        true
    }

    fn read_qos(&mut self, store: &Store) {
        for port in &self.ports {
            let policy = qos::policy_of(store, port).and_then(|id| store.cache::<QosPolicy>().by_name(&id));
            let Some(policy) = policy.filter(|policy| !policy.spec.rules.is_empty()) else {
                continue;
            };
            let rules = policy.spec.rules.iter().map(|rule| rule.says.clone()).collect();
            self.qos.insert(port.name().to_owned(), rules);
        }
    }

    fn read_qos_of_addresses(&mut self, store: &Store) {
        for floating in self.routers.iter().flat_map(|router| &router.floating) {
            let policy = floating.spec.qos_policy_id.as_ref();
            if let Some(policy) = policy.and_then(|id| store.cache::<QosPolicy>().by_name(id)) {
                let rules = policy.spec.rules.iter().map(|rule| rule.says.clone()).collect();
                self.qos.insert(floating.name().to_owned(), rules);
            }
        }
    }

    fn read_tags(&mut self, store: &Store) {
        let subports = self
            .ports
            .iter()
            .filter(|port| port.spec.device_owner == owner::SUBPORT);
        for port in subports {
            let Some(trunk) = trunk::of_subport(store, port.name()) else {
                continue;
            };
            let parent = store.cache::<Port>().by_name(&trunk.spec.port_id);
            let sub = trunk.spec.sub_ports.iter().find(|sub| sub.port_id == port.name());
            if let (Some(parent), Some(sub)) = (parent, sub) {
                self.tags
                    .insert(port.name().to_owned(), (parent.metadata.uid, sub.segmentation_id));
            }
        }
    }

    fn read_routers(&mut self, store: &Store) {
        let mut ids = BTreeSet::new();
        for id in self.networks.keys() {
            let ports = store.cache::<Port>().by("network", id);
            ids.extend(
                ports
                    .iter()
                    .filter(|port| is_router_interface(port))
                    .map(|port| port.spec.device_id.clone()),
            );
        }
        for id in ids {
            let Some(router) = store.cache::<Router>().by_name(&id) else {
                continue;
            };
            let mut interfaces = store.cache::<Port>().by("device", &id);
            interfaces.retain(|port| is_router_interface(port) && self.networks.contains_key(&port.spec.network_id));
            interfaces.sort_by(|a, b| a.name().cmp(b.name()));
            let gateway = router.spec.gateway.as_ref().and_then(|gateway| {
                let port = store.cache::<Port>().by_name(&gateway.port_id)?;
                let is_here = self.networks.contains_key(&gateway.network_id);
                (is_here || self.add_network(store, &gateway.network_id)).then_some(port)
            });
            let mut floating = store.cache::<FloatingIp>().by("router", &id);
            floating.sort_by(|a, b| a.name().cmp(b.name()));
            self.routers.push(RouterView {
                meters: meters(store, router.project()),
                router,
                interfaces,
                gateway,
                floating,
            });
        }
    }

    fn read_groups(&mut self, store: &Store) {
        let ids: BTreeSet<&String> = self.ports.iter().flat_map(|port| &port.spec.security_groups).collect();
        for id in ids {
            let is_stateful = store
                .cache::<SecurityGroup>()
                .by_name(id)
                .is_none_or(|group| group.spec.is_stateful);
            let mut rules = store.cache::<Rule>().by("group", id);
            rules.sort_by(|a, b| a.name().cmp(b.name()));
            self.groups.insert(id.clone(), GroupView { is_stateful, rules });
        }
    }

    fn read_addresses(&mut self, store: &Store) {
        let rules = self.groups.values().flat_map(|group| &group.rules);
        let ids: BTreeSet<String> = rules
            .filter_map(|rule| rule.spec.remote_address_group_id.clone())
            .collect();
        for id in ids {
            let group = store.cache::<AddressGroup>().by_name(&id);
            let addresses = group.map(|group| group.spec.addresses.clone()).unwrap_or_default();
            self.addresses.insert(id, addresses);
        }
    }

    fn read_scopes(&mut self, store: &Store) {
        let routed = self.routers.iter().flat_map(|router| {
            let gateway = router.gateway.iter();
            router
                .interfaces
                .iter()
                .chain(gateway)
                .map(|port| port.spec.network_id.clone())
        });
        for network in routed.collect::<BTreeSet<_>>() {
            let scopes = [true, false].map(|is_v4| subnet_pool::scope_of(store, &network, is_v4));
            self.scopes.insert(network, scopes);
        }
    }

    fn peer_groups(&self) -> BTreeSet<String> {
        let rules = self.groups.values().flat_map(|group| &group.rules);
        rules.filter_map(|rule| rule.spec.remote_group_id.clone()).collect()
    }
}
