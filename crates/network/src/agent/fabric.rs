//! Keeps the fabric as it is wanted: one pass for however many changes came meanwhile.
//!
//! ```text
//! changes ─► pass: read store ─► plan ─► remove links ─► filter (one `nft`), make links ─► port.status ─► edges
//! ```
//! A device that the filter does not know yet passes nothing, and a device is gone before its rules are. A thorough pass (at the start,
//! on the slow clock, after any failure) reads the kernel's links and sets the whole filter anew, in one step that no
//! packet notices. Between two of them what was read and set last is remembered; the kernel tells of links that go.
//!
//! A bridge of the kernel takes 1,023 ports; more of one network on one host fail, and say so.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use madang_host::{
    Instance, conntrack,
    link::{Link, Removals},
};
use madang_store::{Key, Store};
use tokio::{sync::watch, time::Instant};
use tracing::{debug, info, warn};

use super::{
    Error, Options, Shared, filter, kept,
    kept::Kept,
    names, plan,
    plan::Step,
    ruleset::Ruleset,
    status,
    status::Wiring,
    tagging::Tags,
    view::View,
    wanted::{Device, Wanted, bridge_name},
};
use crate::{Network, Port, driver::FabricSpace};

/// With more new links than this, listing all is as quick as asking for each.
const ASK_FOR_EACH: usize = 16;

/// What the edges have to be made like, and where they are plugged in.
#[derive(Clone)]
pub(super) struct Handover {
    /// Everything that is wanted.
    pub wanted: Arc<Wanted>,
    /// The fabric, with its bridges made.
    pub space: Arc<FabricSpace>,
    /// Counts thorough passes: with a new number, look at the kernel even where nothing seems to have changed.
    pub thorough: u64,
    /// How often bridges had gone, and by now.
    removals: (u64, Arc<AtomicU64>),
}

impl Handover {
    /// Whether bridges went, or are about to, since this was handed over: plugging into one of them fails for no fault
    /// of its own.
    pub fn is_outdated(&self) -> bool {
        self.removals.0 != self.removals.1.load(Ordering::Acquire)
    }
}

/// The fabric of one host.
pub(super) struct FabricAgent {
    store: Store,
    host: String,
    instance: Instance,
    shared: Arc<Shared>,
    edges: watch::Sender<Option<Handover>>,
    space: Option<Arc<FabricSpace>>,
    removals: Option<Removals>,
    /// The kernel's links as last seen; none when that may be wrong.
    links: Option<Vec<Link>>,
    /// The filter as last set; none when that may be wrong.
    rules: Option<Ruleset>,
    thorough: u64,
    /// How often bridges were taken away.
    bridge_removals: Arc<AtomicU64>,
    /// Zones of connections, by bridge, and devices as last made.
    made: (BTreeMap<String, u16>, BTreeMap<String, Device>),
    tags: Tags,
    linger: Duration,
    kept: Kept,
    /// When the first networks are made ready; none once they are.
    ready_at: Option<Instant>,
}

impl FabricAgent {
    pub fn new(
        store: Store,
        host: String,
        instance: Instance,
        shared: Arc<Shared>,
        edges: watch::Sender<Option<Handover>>,
        options: &Options,
    ) -> Self {
        Self {
            store,
            host,
            instance,
            shared,
            edges,
            space: None,
            removals: None,
            links: None,
            rules: None,
            thorough: 0,
            bridge_removals: Arc::default(),
            made: Default::default(),
            tags: Tags::default(),
            linger: options.linger,
            kept: Kept::default(),
            ready_at: options.ready_after.map(|pause| Instant::now() + pause),
        }
    }

    /// When a pass is due without any change: something is to be made ready, or has been kept long enough.
    pub fn next_pass(&self) -> Option<Instant> {
        self.ready_at.into_iter().chain(self.kept.next_end()).min()
    }

    /// Waits until a link is gone that should be there, such as one whose other end was in a container that died.
    pub async fn lost(&mut self) {
        loop {
            let gone = match &mut self.removals {
                Some(removals) => removals.next().await,
                None => std::future::pending().await,
            };
            match (gone, &mut self.links) {
                (Some(gone), Some(links)) if links.iter().any(|link| link.name == gone) => {
                    info!(host = self.host, link = gone, "a link is gone");
                    links.retain(|link| link.name != gone);
                    return;
                }
                (Some(_), _) => {}
                (None, _) => {
                    warn!(host = self.host, "the kernel tells no more of links that go");
                    self.removals = None;
                }
            }
        }
    }

    /// Makes the fabric what it should be. A thorough pass trusts nothing that is remembered.
    pub async fn pass(&mut self, is_thorough: bool) -> Result<(), Error> {
        let begun = Instant::now();
        if self.ready_at.is_some_and(|at| at <= begun) {
            self.ready_at = None;
            self.kept.make_ready(kept::ready_ahead(&self.store));
        }
        if self.space.is_none() && self.instance.fabric().exists() {
            self.find_kept().await?;
        }
        let (keep, linger, shared) = (&mut self.kept, self.linger, &self.shared);
        let view = View::read(
            &self.store,
            &self.host,
            |in_use| keep.look(in_use, begun, linger),
            |peers| *shared.peers.write() = Some(peers.clone()),
        );
        let mut wanted = Wanted::from_view(&view);
        if is_thorough {
            self.find_released();
        }
        if wanted.fabric.bridges.is_empty() && self.space.is_none() && !self.instance.fabric().exists() {
            self.write_released().await?;
            return Ok(());
        }
        let space = self.open().await?;
        if is_thorough {
            self.rules = None;
            self.links = None;
            self.tags.distrust();
        }
        let failed = self.make(&space, &mut wanted).await?;
        let failures = failed.len();
        // Before anybody is told that an address is theirs.
        self.forget_connections(&wanted).await;
        let wired = outcomes(&wanted, failed);
        let ports = wired.len();
        status::ports(&self.store, &self.host, wired).await?;
        self.write_released().await?;
        debug!(host = self.host, ports, took = ?begun.elapsed(), is_thorough, "made the fabric");
        self.thorough += u64::from(is_thorough);
        let removals = &self.bridge_removals;
        self.edges.send_replace(Some(Handover {
            wanted: Arc::new(wanted),
            space,
            thorough: self.thorough,
            removals: (removals.load(Ordering::Acquire), Arc::clone(removals)),
        }));
        if failures > 0 {
            Err(Error::Links(failures))
        } else {
            Ok(())
        }
    }

    /// Says on every port that waits to be wired why it is not.
    pub async fn tell(&self, failed: &Error) {
        let waiting = self.store.cache::<Port>().by("host", &self.host);
        let waiting = waiting.into_iter().filter(|port| {
            port.status.wired_on.as_deref() != Some(self.host.as_str()) && port.status.failure.is_none()
        });
        let outcomes = waiting.map(|port| (port.key(), Wiring::Failed(failed.to_string())));
        if let Err(error) = status::ports(&self.store, &self.host, outcomes.collect()).await {
            warn!(host = self.host, %error, "could not say why ports are not wired");
        }
    }

    /// After a restart: networks whose bridges are there.
    async fn find_kept(&mut self) -> Result<(), Error> {
        let links = self.open().await?.list().await?;
        let links: BTreeSet<&String> = links.iter().map(|link| &link.name).collect();
        let networks = self.store.cache::<Network>().all();
        let here = networks
            .iter()
            .filter(|network| !network.spec.is_external && links.contains(&bridge_name(network)));
        let until = Instant::now() + self.linger;
        self.kept.found(here.map(|network| network.name().to_owned()), until);
        Ok(())
    }

    async fn open(&mut self) -> Result<Arc<FabricSpace>, Error> {
        if let Some(space) = self.space.clone().filter(|space| space.exists()) {
            return Ok(space);
        }
        let space = Arc::new(FabricSpace::open(&self.instance).await?);
        self.removals = Some(space.removals().await?);
        info!(
            host = self.host,
            namespace = self.instance.fabric().name(),
            "opened the fabric"
        );
        self.rules = None;
        self.links = None;
        self.tags.distrust();
        self.space = Some(Arc::clone(&space));
        Ok(space)
    }

    /// Returns the links that could not be made, with why.
    async fn make(&mut self, space: &FabricSpace, wanted: &mut Wanted) -> Result<BTreeMap<String, String>, Error> {
        // Until this is through, nothing is known; so also when it is dropped halfway.
        let (before, links) = (self.rules.take(), self.links.take());
        let mut is = match links {
            Some(links) => links,
            None => space.list().await?,
        };
        let zones = plan::zones(&is, &wanted.fabric);
        // The zones of bridges that go are needed once more.
        self.made.0.extend(zones.clone());
        filter::set_zones(&mut wanted.fabric.rules, &zones);
        let removals = plan::fabric_removals(&is, &wanted.fabric);
        is.retain(|link| !removals.contains(&Step::RemoveLink(link.name.clone())));
        let additions = plan::fabric_additions(&is, &wanted.fabric, &zones);
        if removals.iter().filter_map(Step::link).any(names::is_bridge) {
            self.bridge_removals.fetch_add(1, Ordering::AcqRel);
        }
        let mut failed = space.take(removals, &wanted.fabric).await;
        let touched: BTreeSet<String> = additions.iter().filter_map(Step::link).map(str::to_owned).collect();
        let filter = self.filter(space, before.as_ref(), &wanted.fabric.rules);
        if before.is_some() {
            // The filter that is there lets nothing of a device through that it does not know.
            let (filtered, added) = tokio::join!(filter, space.take(additions, &wanted.fabric));
            filtered?;
            failed.extend(added);
        } else {
            filter.await?;
            failed.extend(space.take(additions, &wanted.fabric).await);
        }
        for (link, error) in &failed {
            warn!(host = self.host, link, error = %error.chain(), "could not make a link");
        }
        if failed.is_empty() && touched.len() <= ASK_FOR_EACH {
            is.retain(|link| !touched.contains(&link.name));
            for name in &touched {
                is.extend(space.find(name).await?);
            }
            self.links = Some(is);
        }
        if !self.tags.is_idle(&wanted.fabric) {
            // The way out is made beside the fabric: what is remembered may not have it.
            let is_there = |links: &&Vec<Link>| {
                let has = |name: &str| links.iter().any(|link| link.name == name);
                let trunks = wanted.fabric.devices.values().filter_map(|device| device.tag.as_ref());
                trunks.map(|tag| tag.trunk.as_str()).all(has)
            };
            let there = match self.links.as_ref().filter(is_there) {
                Some(links) => links.clone(),
                None => space.list().await?,
            };
            let tagged = self.tags.make(space.links(), &there, &wanted.fabric).await?;
            for (link, error) in &tagged {
                warn!(host = self.host, link, error = %error.chain(), "could not tag frames of a trunk");
            }
            failed.extend(tagged);
        }
        self.rules = Some(wanted.fabric.rules.clone());
        Ok(failed.into_iter().map(|(link, error)| (link, error.chain())).collect())
    }

    async fn filter(&self, space: &FabricSpace, before: Option<&Ruleset>, rules: &Ruleset) -> Result<(), Error> {
        match space.filter(before, rules).await {
            Err(error) if before.is_some() => {
                warn!(host = self.host, error = %error.chain(), "could not change the filter, setting it as a whole");
                Ok(space.filter(None, rules).await?)
            }
            other => Ok(other?),
        }
    }

    async fn forget_connections(&mut self, wanted: &Wanted) {
        let devices = &wanted.fabric.devices;
        let ended = plan::ended(&self.made.1, &self.made.0, devices);
        match conntrack::forget(&self.instance.fabric(), ended).await {
            Ok(0) => {}
            Ok(connections) => debug!(
                host = self.host,
                connections, "forgot connections of ports that are gone"
            ),
            Err(error) => warn!(host = self.host, error = %error.chain(), "could not forget connections"),
        }
        self.made
            .0
            .retain(|bridge, _| wanted.fabric.bridges.contains_key(bridge));
        if self.made.1 != *devices {
            self.made.1.clone_from(devices);
        }
    }

    fn find_released(&self) {
        let all = self.store.cache::<Port>().all();
        let left = all.iter().filter(|port| {
            let is_wired_here = port.status.wired_on.as_deref() == Some(self.host.as_str());
            is_wired_here && port.spec.binding_host.as_deref().is_some_and(|host| host != self.host)
        });
        self.shared.released.lock().extend(left.map(|port| port.key()));
    }

    async fn write_released(&self) -> Result<(), Error> {
        let released = std::mem::take(&mut *self.shared.released.lock());
        if !released.is_empty() {
            let outcomes = released.into_iter().map(|key| (key, Wiring::Released)).collect();
            status::ports(&self.store, &self.host, outcomes).await?;
        }
        Ok(())
    }
}

/// A bridge that could not be made fails the ports that are to be in it.
fn outcomes(wanted: &Wanted, failed: BTreeMap<String, String>) -> Vec<(Key, Wiring)> {
    let outcome = |(name, device): (&String, &super::wanted::Device)| {
        let wiring = match failed.get(name).or_else(|| failed.get(&device.bridge)) {
            Some(reason) => Wiring::Failed(reason.clone()),
            None => Wiring::Device,
        };
        (device.port.clone(), wiring)
    };
    wanted.fabric.devices.iter().map(outcome).collect()
}
