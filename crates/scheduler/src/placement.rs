//! Deciding which host takes a claim: filter, then weigh. Pure.

use std::{collections::BTreeMap, sync::Arc};

use madang_store::Resource;

use crate::{ClaimSpec, GroupPolicy, MEMORY_MB, Provider, VCPU};

/// With more hosts than this, a claim is weighed on [`SAMPLE`] that fit instead of on all.
const ALL: usize = 512;
/// How many fitting hosts are enough to choose from among many.
const SAMPLE: usize = 64;

/// A host as the scheduler sees it: what it has, and what is taken of it.
#[derive(Clone, Debug)]
pub struct HostView {
    /// The provider.
    pub provider: Arc<Resource<Provider>>,
    /// Resource class to amount taken, placements of this round included.
    pub used: BTreeMap<String, i64>,
    /// Whether its agent was heard of lately.
    pub is_alive: bool,
}

impl HostView {
    fn name(&self) -> &str {
        &self.provider.spec.name
    }

    fn fits(&self, class: &str, amount: i64) -> bool {
        self.provider.spec.inventories.get(class).is_some_and(|inventory| {
            let used = self.used.get(class).copied().unwrap_or(0);
            used + amount <= inventory.capacity()
                && (inventory.min_unit..=inventory.max_unit).contains(&amount)
                && amount % inventory.step_size.max(1) == 0
        })
    }

    /// The share of a class that is free, from 0 to 1.
    fn free(&self, class: &str) -> f64 {
        let capacity = self
            .provider
            .spec
            .inventories
            .get(class)
            .map_or(0, crate::Inventory::capacity);
        let used = self.used.get(class).copied().unwrap_or(0);
        if capacity > 0 {
            (capacity - used).max(0) as f64 / capacity as f64
        } else {
            0.0
        }
    }
}

/// Chooses among `hosts`, looking from `start` on, so that equal hosts take turns. `group_hosts` are the hosts that the
/// claim's group is on, once for each member. Says the index of the chosen one.
///
/// # Errors
/// What left none, in words for the user.
pub fn choose(claim: &ClaimSpec, hosts: &[HostView], group_hosts: &[String], start: usize) -> Result<usize, String> {
    let mut rejected: BTreeMap<&'static str, usize> = BTreeMap::new();
    let mut best: Option<(usize, f64)> = None;
    let mut fitting = 0;
    for step in 0..hosts.len() {
        let index = (start + step) % hosts.len();
        let host = &hosts[index];
        if let Some(reason) = refuse(claim, host, group_hosts) {
            *rejected.entry(reason).or_default() += 1;
            continue;
        }
        let weight = weigh(claim, host, group_hosts);
        if best.is_none_or(|(_, most)| weight > most) {
            best = Some((index, weight));
        }
        fitting += 1;
        if hosts.len() > ALL && fitting >= SAMPLE {
            break;
        }
    }
    best.map(|(index, _)| index)
        .ok_or_else(|| explain(hosts.len(), &rejected))
}

/// Why a host cannot take a claim; none when it can.
fn refuse(claim: &ClaimSpec, host: &HostView, group_hosts: &[String]) -> Option<&'static str> {
    let spec = &host.provider.spec;
    if !spec.is_enabled {
        return Some("are disabled");
    }
    if !host.is_alive {
        return Some("do not answer");
    }
    if claim.host.as_deref().is_some_and(|wanted| wanted != host.name()) {
        return Some("are not the host asked for");
    }
    if claim.avoid.iter().any(|avoided| avoided == host.name()) {
        return Some("are to be avoided");
    }
    if claim.zone.as_ref().is_some_and(|zone| *zone != spec.zone) {
        return Some("are in another availability zone");
    }
    if !spec
        .drivers
        .iter()
        .any(|driver| *driver == claim.driver || driver == "simulated")
    {
        return Some("cannot run this kind of workload");
    }
    if !claim.required_traits.iter().all(|wanted| spec.traits.contains(wanted))
        || claim
            .forbidden_traits
            .iter()
            .any(|unwanted| spec.traits.contains(unwanted))
    {
        return Some("do not have the traits asked for");
    }
    let is_member = group_hosts.iter().any(|member| member == host.name());
    match claim.group.as_ref().map(|group| group.policy) {
        Some(GroupPolicy::Affinity) if !group_hosts.is_empty() && !is_member => {
            return Some("are not where the server group is");
        }
        Some(GroupPolicy::AntiAffinity) if is_member => return Some("have a member of the server group already"),
        _ => {}
    }
    if claim.resources.iter().any(|(class, amount)| !host.fits(class, amount)) {
        return Some("do not have enough left");
    }
    None
}

/// Emptier hosts weigh more; soft group policies outweigh that.
fn weigh(claim: &ClaimSpec, host: &HostView, group_hosts: &[String]) -> f64 {
    let room = host.free(MEMORY_MB) + host.free(VCPU);
    let members = group_hosts.iter().filter(|member| *member == host.name()).count() as f64;
    match claim.group.as_ref().map(|group| group.policy) {
        Some(GroupPolicy::SoftAffinity) => room + 10.0 * members,
        Some(GroupPolicy::SoftAntiAffinity) => room - 10.0 * members,
        _ => room,
    }
}

fn explain(hosts: usize, rejected: &BTreeMap<&'static str, usize>) -> String {
    if hosts == 0 {
        return "No valid host was found. There are no hosts.".to_owned();
    }
    let reasons: Vec<_> = rejected
        .iter()
        .map(|(reason, count)| format!("{count} of {hosts} {reason}"))
        .collect();
    format!(
        "No valid host was found. There are not enough hosts available: {}.",
        reasons.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use madang_store::Metadata;
    use proptest::prelude::*;

    use super::*;
    use crate::{ClaimGroup, Inventory, ProviderSpec};

    fn host(name: &str, vcpus: i64, used: i64) -> HostView {
        let inventory = Inventory {
            total: vcpus,
            reserved: 0,
            min_unit: 1,
            max_unit: vcpus,
            step_size: 1,
            allocation_ratio: 1.0,
        };
        let spec = ProviderSpec {
            name: name.to_owned(),
            parent: None,
            zone: "nova".to_owned(),
            inventories: [(VCPU.to_owned(), inventory)].into(),
            traits: vec![],
            aggregates: vec![],
            drivers: vec!["qemu".to_owned()],
            is_enabled: true,
            disabled_reason: None,
            ..ProviderSpec::default()
        };
        let provider = Arc::new(Resource::new(Metadata::with_id(""), spec));
        HostView {
            provider,
            used: [(VCPU.to_owned(), used)].into(),
            is_alive: true,
        }
    }

    fn claim(vcpus: i64) -> ClaimSpec {
        ClaimSpec {
            user: String::new(),
            consumer_kind: "servers".to_owned(),
            resources: [(VCPU, vcpus)].into(),
            driver: "qemu".to_owned(),
            ..ClaimSpec::default()
        }
    }

    #[test]
    fn the_emptiest_host_is_chosen_wherever_the_search_starts() {
        let hosts = [host("a", 8, 4), host("b", 8, 1), host("c", 8, 6)];
        for start in 0..3 {
            assert_eq!(choose(&claim(1), &hosts, &[], start), Ok(1));
        }
    }

    #[test]
    fn a_refusal_says_what_left_no_host() {
        let mut hosts = [host("a", 8, 8), host("b", 8, 0)];
        hosts[1].is_alive = false;
        let why = choose(&claim(1), &hosts, &[], 0).unwrap_err();
        assert_eq!(
            why,
            "No valid host was found. There are not enough hosts available: 1 of 2 do not answer, 1 of 2 do not have \
             enough left."
        );
        assert_eq!(
            choose(&claim(1), &[], &[], 0).unwrap_err(),
            "No valid host was found. There are no hosts."
        );
    }

    #[test]
    fn groups_keep_together_and_apart() {
        let hosts = [host("a", 8, 4), host("b", 8, 0)];
        let group = |policy| ClaimSpec {
            group: Some(ClaimGroup {
                id: uuid::Uuid::nil(),
                policy,
                max_server_per_host: None,
            }),
            ..claim(1)
        };
        let on_a = ["a".to_owned()];
        assert_eq!(choose(&group(GroupPolicy::Affinity), &hosts, &on_a, 0), Ok(0));
        assert_eq!(choose(&group(GroupPolicy::AntiAffinity), &hosts, &on_a, 0), Ok(1));
        assert_eq!(choose(&group(GroupPolicy::SoftAffinity), &hosts, &on_a, 0), Ok(0));
        assert_eq!(
            choose(&group(GroupPolicy::SoftAntiAffinity), &hosts, &["b".to_owned()], 0),
            Ok(0)
        );
        assert!(choose(&group(GroupPolicy::AntiAffinity), &hosts[..1], &on_a, 0).is_err());
    }

    proptest! {
        #[test]
        fn a_chosen_host_always_has_room(
            loads in prop::collection::vec((1i64..16, 0i64..16), 1..40), amount in 1i64..16, start in 0usize..40,
        ) {
            let hosts: Vec<_> = loads.iter().enumerate().map(|(i, (total, used))| host(&i.to_string(), *total, *used)).collect();
            match choose(&claim(amount), &hosts, &[], start) {
                Ok(index) => prop_assert!(loads[index].1 + amount <= loads[index].0),
                Err(_) => prop_assert!(loads.iter().all(|(total, used)| used + amount > *total)),
            }
        }
    }
}
