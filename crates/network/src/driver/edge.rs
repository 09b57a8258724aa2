//! The namespace of a router or of a network's service point.

use std::collections::BTreeMap;

use madang_host::{
    Error, Result,
    link::{Change, Links, VethEnd},
    netns::Netns,
    nft, sysctl,
};

use super::FabricSpace;
use crate::agent::{
    meter::{self, Count},
    plan::{self, EdgeIs, Step},
    ruleset::Ruleset,
    translate,
    wanted::{Edge, Role},
};

/// Forwarding; answers and announcements of addresses only on the link they are on; new addresses are announced.
/// Source of the values: ip-sysctl; they are those that Neutron's routers have.
const ROUTER_SETTINGS: [(&str, &str); 8] = [
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv6/conf/all/forwarding", "1"),
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
    ("net/ipv4/conf/all/arp_ignore", "1"),
    ("net/ipv4/conf/all/arp_announce", "2"),
    ("net/ipv4/conf/default/arp_notify", "1"),
];
/// A service point speaks IPv4 only.
const SERVICE_SETTINGS: [(&str, &str); 2] = [
    ("net/ipv6/conf/all/disable_ipv6", "1"),
    ("net/ipv6/conf/default/disable_ipv6", "1"),
];

/// The namespace, open.
pub(crate) struct EdgeSpace {
    netns: Netns,
    links: Links,
    /// The filter as last set; none until then.
    rules: Option<Ruleset>,
    /// What its counters said when they were last looked at.
    counts: BTreeMap<String, Count>,
}

impl EdgeSpace {
    /// Makes the namespace if it is not there, and sets it up.
    pub async fn open(netns: Netns, role: &Role) -> Result<Self> {
        netns.ensure().await?;
        let settings: &[(&str, &str)] = match role {
            Role::Router { .. } => &ROUTER_SETTINGS,
            Role::Service { .. } => &SERVICE_SETTINGS,
        };
        sysctl::set(&netns, settings).await?;
        let links = Links::open(&netns).await?;
        Ok(Self {
            netns,
            links,
            rules: None,
            counts: BTreeMap::new(),
        })
    }

    /// The namespace.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// The links of the namespace.
    pub fn links(&self) -> &Links {
        &self.links
    }

    /// Forgets what was set: the next [`EdgeSpace::make`] sets the whole filter anew.
    pub fn distrust(&mut self) {
        self.rules = None;
    }

    /// Makes it so. The packet filter comes first, so that nothing passes untranslated. Routes that cannot be set do not
    /// keep the rest from working; the first such failure is returned at the end.
    pub async fn make(&mut self, wanted: &Edge, fabric: &FabricSpace) -> Result<()> {
        self.filter(&wanted.rules).await?;
        let is = self.observe().await?;
        let mut route_failure = Ok(());
        for step in plan::edge(&is, wanted) {
            let is_route = matches!(step, Step::AddRoute(_) | Step::RemoveRoute(_));
            match self.take(step, fabric).await {
                Err(error) if is_route => route_failure = route_failure.and(Err(error)),
                other => other?,
            }
        }
        let there = fabric.list().await?;
        for link in wanted.links.values() {
            if let Some(Step::Change(name, change)) = plan::outer_end(&there, link) {
                fabric.links().change(&name, &change).await?;
            }
        }
        route_failure
    }

    /// What was counted since this was last asked, by counter.
    pub async fn counted(&mut self) -> Result<BTreeMap<String, Count>> {
        let has_counters = self
            .rules
            .as_ref()
            .is_some_and(|rules| rules.tables.contains_key(meter::TABLE));
        if !has_counters {
            return Ok(BTreeMap::new());
        }
        let now = meter::read(&self.netns).await?;
        let news = meter::news(&self.counts, &now);
        self.counts = now;
        Ok(news)
    }

    async fn filter(&mut self, rules: &Ruleset) -> Result<()> {
        let batch = match &self.rules {
            Some(before) => rules.difference(before),
            // Also when nothing is wanted: something may be there from before a restart, or by somebody else.
            None => Some(
                rules.replace_all(&Ruleset {
                    tables: [
                        ("ip madang", Default::default()),
                        ("inet madang_scopes", Default::default()),
                        (meter::TABLE, Default::default()),
                        (translate::LIMITS, Default::default()),
                    ]
                    .into(),
                }),
            ),
        };
        if let Some(batch) = batch {
            let is_whole = self.rules.take().is_none();
            nft::apply(&self.netns, &batch).await?;
            if is_whole {
                self.counts.clear();
            }
        }
        self.rules = Some(rules.clone());
        Ok(())
    }

    async fn observe(&self) -> Result<EdgeIs> {
        let links = self.links.list().await?;
        let mut addresses = BTreeMap::new();
        for link in links.iter().filter(|link| link.kind.as_deref() == Some("veth")) {
            addresses.insert(link.name.clone(), self.links.addresses(&link.name).await?);
        }
        Ok(EdgeIs {
            links,
            addresses,
            routes: self.links.routes().await?,
        })
    }

    async fn take(&self, step: Step, fabric: &FabricSpace) -> Result<()> {
        match step {
            Step::RemoveLink(name) => self.links.remove(&name).await,
            Step::AddPair { inner, link } => {
                // The outer end of a pair that the kernel has not finished removing would be in the way.
                fabric.links().remove(&link.outer).await?;
                let far_netns = fabric.links().netns().clone();
                let near = VethEnd {
                    name: inner,
                    netns: self.netns.clone(),
                    mac: link.mac,
                    mtu: Some(link.mtu),
                };
                let far = VethEnd {
                    name: link.outer,
                    netns: far_netns,
                    mac: None,
                    mtu: Some(link.mtu),
                };
                self.links.ensure_veth(&near, &far).await
            }
            Step::Change(name, change) => self.links.change(&name, &change).await,
            Step::SetAddresses {
                link,
                addresses,
                announce,
            } => {
                self.links.set_addresses(&link, &addresses).await?;
                if announce { self.announce(&link).await } else { Ok(()) }
            }
            Step::AddRoute(route) => self.links.ensure_route(&route).await,
            Step::RemoveRoute(route) => self.links.remove_route(&route).await,
            Step::AddBridge { .. } | Step::AddDevice(_) => {
                Err(Error::Invalid(format!("an edge has no place for {step:?}")))
            }
        }
    }

    /// Tells neighbours of a link's addresses: the kernel does so (`arp_notify`) whenever a link's own address is set,
    /// also to what it was.
    async fn announce(&self, link: &str) -> Result<()> {
        let mac = self.links.get(link).await?.mac;
        self.links
            .change(
                link,
                &Change {
                    mac,
                    ..Change::default()
                },
            )
            .await
    }
}
