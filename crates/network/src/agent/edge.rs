//! Keeps routers, service points and the way outside as they are wanted, beside the fabric's own work.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use futures_util::{StreamExt, stream};
use madang_control::TaskGroup;
use madang_host::{Instance, conntrack, link::Links, netns::Netns};
use madang_store::{Key, Store};
use tracing::{debug, info, warn};

use super::{
    Error, Options, Shared,
    fabric::Handover,
    meter, names, outside, service,
    service::Place,
    status,
    status::Wiring,
    wanted::{Edge, METADATA, Outside, Role, single},
};
use crate::{
    FloatingIpStatus,
    driver::{EdgeSpace, FabricSpace},
};

/// Edges made at a time.
const AT_A_TIME: usize = 4;

/// The edges of one host.
pub(super) struct EdgeAgent {
    store: Store,
    host: String,
    instance: Instance,
    options: Options,
    group: TaskGroup,
    edges: BTreeMap<String, Running>,
    /// The way outside as last made; none when that may be wrong.
    outside: Option<Option<Outside>>,
    outside_links: Option<Links>,
    shared: Arc<Shared>,
    /// The number of the last thorough pass that was followed.
    thorough: u64,
}

/// An edge that is there.
#[derive(Default)]
struct Running {
    space: Option<EdgeSpace>,
    /// As it was last made, whole; none after a failure.
    made: Option<Edge>,
    /// Outside addresses with the inside ones they led to when last made.
    translated: BTreeSet<(Ipv4Addr, Ipv4Addr)>,
    /// The tasks that answer for it, with the addresses they answer at.
    service: Option<service::Service>,
}

impl EdgeAgent {
    pub fn new(
        store: Store,
        host: String,
        instance: Instance,
        shared: Arc<Shared>,
        options: Options,
        group: TaskGroup,
    ) -> Self {
        Self {
            shared,
            store,
            host,
            instance,
            options,
            group,
            edges: BTreeMap::new(),
            outside: None,
            outside_links: None,
            thorough: 0,
        }
    }

    /// Makes the edges what they should be. Errors when something has to be tried again; everything else is done then.
    ///
    /// The fabric goes on meanwhile and takes away bridges that are not wanted any more: what fails once this handover
    /// is outdated says nothing, and the next pass decides.
    pub async fn pass(&mut self, handover: &Handover) -> Result<(), Error> {
        let is_thorough = self.thorough != handover.thorough;
        self.remove_unwanted(handover).await?;
        let mut first = self.make_outside(handover, is_thorough).await;
        if let Err(error) = &first
            && !handover.is_outdated()
        {
            warn!(host = self.host, %error, "could not make the way outside");
        }
        for name in handover.wanted.edges.keys() {
            self.edges.entry(name.clone()).or_default();
        }
        let (store, host, options, group, instance) =
            (&self.store, &self.host, &self.options, &self.group, &self.instance);
        let work = self.edges.iter_mut().filter_map(|(name, running)| {
            let wanted = handover.wanted.edges.get(name)?;
            let is_as_wanted = running.made.as_ref() == Some(wanted) && !is_thorough;
            (!is_as_wanted).then_some(async move {
                let netns = instance.netns(name);
                let begun = tokio::time::Instant::now();
                if running.counts_otherwise(wanted) || is_thorough {
                    // What is set anew counts from nothing.
                    if let Err(error) = running.count(store).await {
                        warn!(host, edge = name, %error, "could not add up what was counted");
                    }
                }
                if is_thorough && let Some(space) = &mut running.space {
                    space.distrust();
                }
                let mut made = running.make(netns, wanted, &handover.space).await;
                if made.is_ok() {
                    made = running.serve(store, host, options, group, wanted).await;
                }
                if let Err(error) = &made {
                    running.made = None;
                    if !handover.is_outdated() {
                        warn!(host, edge = name, error = %error, "could not make an edge");
                    }
                } else {
                    debug!(host, edge = name, took = ?begun.elapsed(), "made an edge");
                }
                (wanted, made)
            })
        });
        let results: Vec<(&Edge, Result<(), Error>)> = stream::iter(work.collect::<Vec<_>>())
            .buffer_unordered(AT_A_TIME)
            .collect()
            .await;
        self.thorough = handover.thorough;
        if handover.is_outdated() {
            let (made, failed): (Vec<_>, Vec<_>) = results.into_iter().partition(|(_, result)| result.is_ok());
            self.report(&made).await?;
            return first.and(failed.into_iter().try_for_each(|(_, result)| result));
        }
        self.report(&results).await?;
        for (_, result) in results {
            first = first.and(result);
        }
        first
    }

    /// Adds what routers have counted to the labels they count for.
    pub async fn count(&mut self) {
        for (name, running) in &mut self.edges {
            if let Err(error) = running.count(&self.store).await {
                warn!(host = self.host, edge = name, %error, "could not add up what was counted");
            }
        }
    }

    async fn report(&self, results: &[(&Edge, Result<(), Error>)]) -> Result<(), Error> {
        let mut ports = Vec::new();
        let mut routers = Vec::new();
        let mut addresses = Vec::new();
        for (edge, result) in results {
            let failure = result.as_ref().err().map(ToString::to_string);
            let wiring = failure.clone().map_or(Wiring::Edge, Wiring::Failed);
            ports.extend(edge.ports.iter().map(|port| (port.clone(), wiring.clone())));
            if let Role::Router { router, floating, .. } = &edge.role {
                routers.push((router.clone(), failure));
                let is_active = result.is_ok();
                addresses.extend(floating.iter().map(|(key, inside): &(Key, Option<IpAddr>)| {
                    let inside = *inside;
                    (key.clone(), FloatingIpStatus { is_active, inside })
                }));
            }
        }
        status::ports(&self.store, &self.host, ports).await?;
        status::routers(&self.store, routers).await?;
        status::floating(&self.store, addresses).await?;
        Ok(())
    }

    async fn remove_unwanted(&mut self, handover: &Handover) -> Result<(), Error> {
        let prefix = self.instance.netns_prefix();
        let mut there: BTreeSet<String> = self.edges.keys().cloned().collect();
        for kind in [names::SERVICES, names::ROUTERS] {
            let found = Netns::list(&format!("{prefix}{kind}"));
            there.extend(
                found
                    .iter()
                    .filter_map(|name| name.strip_prefix(&prefix))
                    .map(str::to_owned),
            );
        }
        for name in there
            .into_iter()
            .filter(|name| !handover.wanted.edges.contains_key(name))
        {
            if let Some(running) = self.edges.remove(&name) {
                running.stop().await;
            }
            self.instance.netns(&name).remove().await?;
            info!(host = self.host, edge = name, "removed an edge");
        }
        Ok(())
    }

    async fn make_outside(&mut self, handover: &Handover, is_thorough: bool) -> Result<(), Error> {
        let wanted = &handover.wanted.outside;
        if self.outside.as_ref() == Some(wanted) && !is_thorough {
            return Ok(());
        }
        self.outside = None;
        match wanted {
            Some(outside) => {
                let links = match self.outside_links.take() {
                    Some(links) => links,
                    None => Links::open(&self.options.outside).await?,
                };
                let links = self.outside_links.insert(links);
                outside::make(&self.instance, links, &handover.space, outside).await?;
            }
            None => outside::remove(&handover.space).await?,
        }
        // Networks of VLANs are joined with it by the fabric.
        self.shared.wake.notify_one();
        self.outside = Some(wanted.clone());
        Ok(())
    }
}

impl Running {
    async fn make(&mut self, netns: Netns, wanted: &Edge, fabric: &Arc<FabricSpace>) -> Result<(), Error> {
        let space = match self.space.take() {
            Some(space) if space.netns().exists() => self.space.insert(space),
            _ => {
                // Whatever was answering did so in a namespace that is gone.
                self.stop_service().await;
                self.space.insert(EdgeSpace::open(netns, &wanted.role).await?)
            }
        };
        space.make(wanted, fabric).await?;
        self.made = Some(wanted.clone());
        if let Role::Router { translated, .. } = &wanted.role
            && self.translated != *translated
        {
            let ended = self.translated.difference(translated);
            let ended = ended.map(|(outer, _)| (0, IpAddr::from(*outer))).collect();
            conntrack::forget(space.netns(), ended).await?;
            self.translated.clone_from(translated);
        }
        Ok(())
    }

    /// Whether other labels are to be counted for than so far.
    fn counts_otherwise(&self, wanted: &Edge) -> bool {
        let table = |edge: &Edge| edge.rules.tables.get(meter::TABLE).cloned();
        self.made.as_ref().is_some_and(|made| table(made) != table(wanted))
    }

    async fn count(&mut self, store: &Store) -> Result<(), Error> {
        match &mut self.space {
            Some(space) => Ok(meter::add(store, &space.counted().await?).await?),
            None => Ok(()),
        }
    }

    async fn serve(
        &mut self,
        store: &Store,
        host: &str,
        options: &Options,
        group: &TaskGroup,
        wanted: &Edge,
    ) -> Result<(), Error> {
        let place = place(wanted);
        if self.service.as_ref().is_some_and(|service| *service.place() == place) {
            return Ok(());
        }
        self.stop_service().await;
        let Some(space) = &self.space else { return Ok(()) };
        if !place.has_dhcp {
            space.links().ensure_address("lo", single(METADATA)).await?;
        }
        let context = service::Context {
            store: store.clone(),
            host: host.to_owned(),
            networks: place.networks.clone(),
            name_servers: options.name_servers.clone(),
            outside: options.outside.clone(),
            metadata: options.metadata.clone(),
        };
        self.service = Some(service::Service::start(context, space.netns(), place, group).await?);
        Ok(())
    }

    async fn stop_service(&mut self) {
        if let Some(service) = self.service.take() {
            service.stop().await;
        }
    }

    /// Stops answering and takes the links away, so that their outer ends are gone when this returns and not when the
    /// kernel gets around to it.
    async fn stop(mut self) {
        self.stop_service().await;
        let Some(space) = self.space.take() else { return };
        for link in self.made.iter().flat_map(|edge| edge.links.keys()) {
            if let Err(error) = space.links().remove(link).await {
                debug!(link, error = %error.chain(), "a link was left to go with its namespace");
            }
        }
    }
}

/// A service point's link has the addresses that are answered at; a router has one more for metadata.
fn place(wanted: &Edge) -> Place {
    match &wanted.role {
        Role::Service { network } => Place {
            networks: vec![network.clone()],
            addresses: wanted
                .links
                .values()
                .flat_map(|link| link.addresses.iter().copied())
                .collect(),
            has_dhcp: true,
            speaks: Vec::new(),
        },
        Role::Router { networks, speaks, .. } => Place {
            networks: networks.clone(),
            addresses: vec![single(METADATA)],
            has_dhcp: false,
            speaks: speaks.clone(),
        },
    }
}
