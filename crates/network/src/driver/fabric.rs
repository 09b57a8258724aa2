//! The fabric's namespace: bridges, the devices of ports, and the packet filter in front of them.

use std::{collections::BTreeMap, time::Duration};

use futures_util::{StreamExt, stream};
use madang_host::{
    Error, Instance, Result,
    link::{Bridge, Change, Link, Links, Removals, VethEnd},
    netns::Netns,
    nft,
    process::Command,
    sysctl, tap,
    workload::Attachment,
};
use tracing::warn;

use crate::agent::{
    names,
    plan::Step,
    ruleset::Ruleset,
    wanted::{Device, Fabric},
};

/// Requests to the kernel under way at a time. It takes them one by one anyway; this hides the waiting between.
const AT_A_TIME: usize = 8;

/// Loading a module takes milliseconds.
const LOAD_WITHIN: Duration = Duration::from_secs(10);

/// Makes `inet` filters see bridged packets, and keeps the fabric itself from talking: it has no addresses.
const SETTINGS: [(&str, &str); 5] = [
    ("net/bridge/bridge-nf-call-iptables", "1"),
    ("net/bridge/bridge-nf-call-ip6tables", "1"),
    ("net/bridge/bridge-nf-call-arptables", "0"),
    ("net/ipv6/conf/all/disable_ipv6", "1"),
    ("net/ipv6/conf/default/disable_ipv6", "1"),
];

/// The namespace, open.
pub(crate) struct FabricSpace {
    netns: Netns,
    links: Links,
}

impl FabricSpace {
    /// Makes the namespace if it is not there, and sets it up.
    ///
    /// Errors when the kernel lacks br_netfilter and it cannot be loaded, with what to do.
    pub async fn open(instance: &Instance) -> Result<Self> {
        let netns = instance.fabric();
        netns.ensure().await?;
        if !sees_bridged_packets(&netns).await? {
            load_bridge_filter().await?;
        }
        sysctl::set(&netns, &SETTINGS).await?;
        let links = Links::open(&netns).await?;
        Ok(Self { netns, links })
    }

    /// Whether the namespace is still the one that was opened.
    pub fn exists(&self) -> bool {
        self.netns.exists()
    }

    /// What is there.
    pub async fn list(&self) -> Result<Vec<Link>> {
        self.links.list().await
    }

    /// One link; none when it is not there.
    pub async fn find(&self, name: &str) -> Result<Option<Link>> {
        match self.links.get(name).await {
            Ok(link) => Ok(Some(link)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Links that go from now on.
    pub async fn removals(&self) -> Result<Removals> {
        Removals::watch(&self.netns).await
    }

    /// Brings the packet filter from `before` to `rules`, or replaces whatever is there when `before` is not known.
    pub async fn filter(&self, before: Option<&Ruleset>, rules: &Ruleset) -> Result<()> {
        let batch = match before {
            Some(before) => rules.difference(before),
            None => Some(rules.replace_all(&Ruleset::default())),
        };
        match batch {
            Some(batch) => nft::apply(&self.netns, &batch).await,
            None => Ok(()),
        }
    }

    /// Takes steps: those of one link in order, links side by side, bridges before all others. Returns what failed, by
    /// link; the steps of a link end with its first failure.
    pub async fn take(&self, steps: Vec<Step>, wanted: &Fabric) -> BTreeMap<String, Error> {
        let mut of_bridges = BTreeMap::new();
        let mut of_devices: BTreeMap<String, Vec<Step>> = BTreeMap::new();
        for step in steps {
            let Some(name) = step.link().map(str::to_owned) else {
                continue;
            };
            let target = if names::is_bridge(&name) {
                &mut of_bridges
            } else {
                &mut of_devices
            };
            target.entry(name).or_insert_with(Vec::new).push(step);
        }
        let mut failed = BTreeMap::new();
        for group in [of_bridges, of_devices] {
            let taken = group.into_iter().map(|(name, steps)| async move {
                let mut result = Ok(());
                for step in steps {
                    result = self.take_one(step, wanted).await;
                    if result.is_err() {
                        break;
                    }
                }
                (name, result)
            });
            let results: Vec<(String, Result<()>)> = stream::iter(taken).buffer_unordered(AT_A_TIME).collect().await;
            failed.extend(
                results
                    .into_iter()
                    .filter_map(|(name, result)| Some((name, result.err()?))),
            );
        }
        failed
    }

    async fn take_one(&self, step: Step, wanted: &Fabric) -> Result<()> {
        match step {
            // A machine whose tap goes under its feet ends: it loses the wire now, and the tap goes in a thorough pass
            // once the machine has let go of it.
            Step::RemoveLink(name) if names::is_device(&name) && tap::is_open(&self.netns, &name).await? => {
                let unplugged = Change {
                    up: Some(false),
                    master: Some(None),
                    ..Change::default()
                };
                self.links.change(&name, &unplugged).await
            }
            Step::RemoveLink(name) => self.links.remove(&name).await,
            Step::AddBridge { name, mtu, mac } => {
                self.links
                    .ensure_bridge(
                        &name,
                        &Bridge {
                            mtu: Some(mtu),
                            mac: Some(mac),
                        },
                    )
                    .await
            }
            Step::AddDevice(name) => match wanted.devices.get(&name) {
                Some(device) => self.add_device(&name, device).await,
                None => Ok(()),
            },
            Step::Change(name, change) => self.links.change(&name, &change).await,
            Step::AddPair { .. } | Step::SetAddresses { .. } | Step::AddRoute(_) | Step::RemoveRoute(_) => {
                Err(Error::Invalid(format!("the fabric has no place for {step:?}")))
            }
        }
    }

    async fn add_device(&self, name: &str, device: &Device) -> Result<()> {
        match device.attachment {
            Attachment::Tap => tap::ensure(&self.netns, name).await,
            Attachment::Veth => {
                let near = VethEnd {
                    name: name.into(),
                    netns: self.netns.clone(),
                    mac: None,
                    mtu: Some(device.mtu),
                };
                let far = VethEnd {
                    name: names::peer(device.id),
                    mac: device.mac,
                    ..near.clone()
                };
                self.links.ensure_veth(&near, &far).await
            }
        }
    }

    /// The links, for plugging in edges.
    pub fn links(&self) -> &Links {
        &self.links
    }
}

/// Whether the kernel can show bridged packets to `inet` filters.
async fn sees_bridged_packets(netns: &Netns) -> Result<bool> {
    match sysctl::get(netns, SETTINGS[0].0).await {
        Ok(_) => Ok(true),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Loads the module. It begins with showing bridged packets to the filters of *every* namespace, which could cut off
/// what is on bridges of the host: there it is switched off again at once, so that the host stays as it was.
async fn load_bridge_filter() -> Result<()> {
    warn!("loading the kernel module br_netfilter");
    let missing = || Error::Missing {
        program: "the kernel module br_netfilter".into(),
        remedy: "load it with `modprobe br_netfilter`".into(),
    };
    let load = Command::new("modprobe")
        .arg("br_netfilter")
        .if_missing("install it with `apt-get install kmod`");
    load.run(LOAD_WITHIN).await.map_err(|error| {
        warn!(error = %error.chain(), "could not load it");
        missing()
    })?;
    for (setting, _) in &SETTINGS[..3] {
        let path = format!("/proc/sys/{setting}");
        std::fs::write(&path, "0").map_err(Error::io(format!("switch off {path} on the host")))?;
    }
    Ok(())
}
