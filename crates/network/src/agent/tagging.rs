//! Subports of trunks: frames of a VLAN at one port's device are the traffic of another's.
//!
//! ```text
//! guest ──tagged 5──► t<parent> ─(in: tag 5 off)──► t<subport> ── bridge of the subport's network
//! guest ◄─tagged 5─── t<parent> ◄─(out: tag 5 on)── t<subport> ◄─┘
//! ```
//! A subport's device is the near end of a pair whose far end nobody has: what is to leave by it turns off before. Untagged
//! frames of the parent take no notice. The filter meets frames where their tag is off, as those of any port.

use std::collections::BTreeMap;

use madang_host::{
    Error, Result,
    link::{Change, Link, Links},
};

use super::{names, wanted::Fabric};

/// The VLAN in which a device's frames are on another device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tag {
    /// The device of the trunk's parent port.
    pub trunk: String,
    /// From 1 to 4094.
    pub vlan: u16,
}

/// What a link does with tags; others are meant by their number.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Tagging {
    /// Frames of VLANs come in elsewhere.
    Off(Vec<(u16, u32)>),
    /// All frames leave elsewhere.
    On(u16, u32),
}

/// What is to be done with tags, by the number of the link.
fn plan(there: &[Link], wanted: &Fabric) -> BTreeMap<u32, Tagging> {
    let numbers: BTreeMap<&str, u32> = there.iter().map(|link| (link.name.as_str(), link.index)).collect();
    let mut plan = BTreeMap::new();
    for (name, device) in &wanted.devices {
        let Some(tag) = &device.tag else { continue };
        let (Some(link), Some(trunk)) = (numbers.get(name.as_str()), numbers.get(tag.trunk.as_str())) else {
            continue;
        };
        plan.insert(*link, Tagging::On(tag.vlan, *trunk));
        match plan.entry(*trunk).or_insert_with(|| Tagging::Off(Vec::new())) {
            Tagging::Off(vlans) => vlans.push((tag.vlan, *link)),
            // No subport is a trunk: the rules see to it.
            Tagging::On(..) => {}
        }
    }
    plan
}

/// Tags as last made.
#[derive(Default)]
pub(super) struct Tags {
    /// None when that may be wrong.
    made: Option<BTreeMap<u32, Tagging>>,
}

impl Tags {
    /// Whether there is nothing to do: nothing is wanted, and nothing is there.
    pub fn is_idle(&self, wanted: &Fabric) -> bool {
        let nothing_there = self.made.as_ref().is_some_and(BTreeMap::is_empty);
        nothing_there && wanted.devices.values().all(|device| device.tag.is_none())
    }

    /// Forgets what was made: the next pass looks at the kernel.
    pub fn distrust(&mut self) {
        self.made = None;
    }

    /// Makes it so. Returns what failed, by the device.
    pub async fn make(&mut self, links: &Links, there: &[Link], wanted: &Fabric) -> Result<BTreeMap<String, Error>> {
        let plan = plan(there, wanted);
        let before = self.made.take();
        let mut gone: Vec<u32> = match &before {
            Some(before) => before.keys().copied().collect(),
            None => links.tagging().await?,
        };
        gone.retain(|link| !plan.contains_key(link) && there.iter().any(|other| other.index == *link));
        for link in gone {
            links.stop_tagging(link).await?;
        }
        let before = before.unwrap_or_default();
        let mut failed = BTreeMap::new();
        for (link, tagging) in plan.iter().filter(|(link, tagging)| before.get(link) != Some(tagging)) {
            let Some(name) = there.iter().find(|other| other.index == *link).map(|link| &link.name) else {
                continue;
            };
            let made = match tagging {
                Tagging::Off(vlans) => links.untag(*link, vlans).await,
                Tagging::On(vlan, trunk) => match plug_in(links, wanted, name).await {
                    Ok(()) => links.tag(*link, *vlan, *trunk).await,
                    failed => failed,
                },
            };
            if let Err(error) = made {
                failed.insert(name.clone(), error);
            }
        }
        if failed.is_empty() {
            self.made = Some(plan);
        }
        Ok(failed)
    }
}

/// Brings up the far end of a subport's pair: without it the kernel takes the near one for unplugged.
async fn plug_in(links: &Links, wanted: &Fabric, device: &str) -> Result<()> {
    let Some(device) = wanted.devices.get(device) else {
        return Ok(());
    };
    let up = Change {
        up: Some(true),
        ..Change::default()
    };
    links.change(&names::peer(device.id), &up).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::{sample, wanted::Wanted};

    #[test]
    fn both_ends_of_a_vlan_know_each_other() {
        let mut wanted = Wanted::from_view(&sample::view()).fabric;
        let names: Vec<String> = wanted.devices.keys().cloned().collect();
        let [trunk, first, second] = [0, 1, 2].map(|at| names[at].clone());
        for (name, vlan) in [(&first, 5), (&second, 7)] {
            let trunk = trunk.clone();
            wanted.devices.get_mut(name).unwrap().tag = Some(Tag { trunk, vlan });
        }
        let link = |index, name: &String| Link {
            index,
            name: name.clone(),
            ..Link::default()
        };
        let all = [link(3, &trunk), link(4, &first), link(5, &second)];
        let made = plan(&all, &wanted);
        assert_eq!(made[&3], Tagging::Off(vec![(5, 4), (7, 5)]));
        assert_eq!((&made[&4], &made[&5]), (&Tagging::On(5, 3), &Tagging::On(7, 3)));
        // What is not there yet is left out, and its trunk still takes the others' tags off.
        assert_eq!(plan(&all[..2], &wanted)[&3], Tagging::Off(vec![(5, 4)]));
    }
}
