//! Deciding which host takes a claim. Pure.
//!
//! Hosts are looked at from a turning place on. What cannot take the claim is passed over, in the order that costs least;
//! among those that can, the policy chooses. In a large cloud a sample of those that can is enough to choose well, so that
//! a placement costs the same among a hundred hosts and among ten thousand. Why nobody can is found out in a second look,
//! filter by filter.

use jiff::Timestamp;
use rand::RngExt as _;

use crate::{
    Amounts, Class, Inventory, Refusal, Seat, Share,
    ask::Ask,
    candidates::{self, Request},
    filter::{Context, Filter},
    options::{Arrange, Options, Policy},
    snapshot::{Host, Snapshot},
    weigh,
};

/// With more hosts than this, a claim is weighed on [`SAMPLE`] that fit instead of on all.
const ALL: usize = 512;
/// How many fitting hosts are enough to choose from among many.
const SAMPLE: usize = 64;

/// Where a claim goes.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// The host's name.
    pub host: String,
    /// The uuid of the host's provider.
    pub provider: String,
    /// Who gives what, where it is not that this provider gives all that the claim names.
    pub shares: Vec<Share>,
    /// What it has of single NUMA nodes, where it asked for that.
    pub seats: Vec<Seat>,
}

/// Why a claim goes nowhere.
#[derive(Clone, Debug, PartialEq)]
pub struct Nowhere {
    /// In words for the user.
    pub reason: String,
    /// What each filter left.
    pub refusals: Vec<Refusal>,
}

/// Chooses a host for `ask`, looking from place `start` on, so that equal hosts take turns.
///
/// # Errors
/// Why no host can take it.
pub fn choose(
    snapshot: &Snapshot,
    options: &Options,
    ask: &Ask<'_>,
    now: Timestamp,
    start: usize,
) -> Result<Choice, Box<Nowhere>> {
    let policy = ask.policy.unwrap_or(options.policy);
    let filters = filters(options, policy);
    let context = Context { options, ask, now };
    let mut fitting: Vec<usize> = Vec::new();
    let usual = Snapshot::usual(&ask.resources);
    let asked = ask.spec.host.as_deref().map(|name| snapshot.named(name));
    let places = snapshot.len();
    let (first, count) = match asked {
        Some(Some(at)) => (at, 1),
        Some(None) => (0, 0),
        None => (start, places),
    };
    for step in 0..count {
        let at = (first + step) % places;
        let Some(host) = snapshot.host(at) else { continue };
        let is_simple = snapshot.is_simple(host) && ask.is_plain();
        if is_simple && snapshot.is_full(at, &usual) {
            continue;
        }
        if filters.iter().any(|filter| filter.refuse(&context, host).is_some()) {
            continue;
        }
        if !has_room(snapshot, ask, host, is_simple) {
            continue;
        }
        fitting.push(at);
        if places > ALL && fitting.len() >= SAMPLE {
            break;
        }
    }
    let Some(at) = pick(snapshot, options, ask, policy, &fitting) else {
        return Err(Box::new(explain(snapshot, &filters, &context)));
    };
    give(snapshot, ask, at).ok_or_else(|| Box::new(explain(snapshot, &filters, &context)))
}

/// The filters that a policy goes through.
fn filters(options: &Options, policy: Policy) -> Vec<Filter> {
    let mut filters = Filter::ALWAYS.to_vec();
    if policy == Policy::Filter {
        filters.extend(options.filters.iter().filter(|filter| !Filter::ALWAYS.contains(filter)));
    }
    filters
}

/// Whether a host, with its tree, has what is asked for.
fn has_room(snapshot: &Snapshot, ask: &Ask<'_>, host: &Host, is_simple: bool) -> bool {
    if is_simple {
        let traits = &host.provider.spec.traits;
        return ask.resources.iter().all(|(class, amount)| host.fits(class, amount))
            && ask.spec.required_traits.iter().all(|wanted| traits.contains(wanted))
            && !ask
                .spec
                .forbidden_traits
                .iter()
                .any(|unwanted| traits.contains(unwanted));
    }
    shares(snapshot, ask, host).is_some()
}

/// Who gives what of a host's tree and those that share with it; the first way that is found.
fn shares(snapshot: &Snapshot, ask: &Ask<'_>, host: &Host) -> Option<Vec<Share>> {
    let (forest, root) = snapshot.forest_of(host);
    let mut request = Request {
        groups: ask.granular.clone(),
        policy: ask.isolate,
        ..Request::default()
    };
    if !ask.resources.is_empty() {
        request.groups.insert(String::new(), ask.whole());
    }
    let found = candidates::search(&forest, &request);
    let candidate = found.into_iter().find(|candidate| Some(candidate.anchor) == root)?;
    let mut shares: Vec<Share> = Vec::new();
    for ((at, class), amount) in candidate.given {
        let id = forest.nodes[at].id();
        let add = |share: &mut Share| share.resources.add(&class, amount);
        match shares.iter_mut().find(|share| share.provider == id) {
            Some(share) => add(share),
            None => {
                let mut share = Share {
                    provider: id.to_owned(),
                    resources: Amounts::default(),
                };
                add(&mut share);
                shares.push(share);
            }
        }
    }
    Some(shares)
}

fn give(snapshot: &Snapshot, ask: &Ask<'_>, at: usize) -> Option<Choice> {
    let host = snapshot.host(at)?;
    let mut given = Vec::new();
    if !(snapshot.is_simple(host) && ask.is_plain()) {
        given = shares(snapshot, ask, host)?;
        let is_whole =
            given.len() == 1 && given[0].provider == host.provider.name() && given[0].resources == ask.spec.resources;
        if is_whole {
            given.clear();
        }
    }
    let seats = match &ask.seating {
        Some(seating) => host.seats(seating)?,
        None => Vec::new(),
    };
    Some(Choice {
        seats,
        host: host.name().to_owned(),
        provider: host.provider.name().to_owned(),
        shares: given,
    })
}

/// One of those that can.
fn pick(snapshot: &Snapshot, options: &Options, ask: &Ask<'_>, policy: Policy, fitting: &[usize]) -> Option<usize> {
    let hosts: Vec<&Host> = fitting.iter().filter_map(|at| snapshot.host(*at)).collect();
    let arrange = ask.arrange.unwrap_or(options.arrange);
    let weights: Vec<f64> = match policy {
        Policy::Chance => {
            return (!fitting.is_empty()).then(|| fitting[rand::rng().random_range(0..fitting.len())]);
        }
        Policy::Simple => hosts.iter().map(|host| load(host, arrange)).collect(),
        Policy::Filter => weigh::weights(options, arrange, ask, &hosts),
    };
    let mut order: Vec<usize> = (0..fitting.len()).collect();
    if options.host_subset_size <= 1 {
        // Of equal ones the first, from where the search began.
        return order
            .into_iter()
            .reduce(|best, one| if weights[one] > weights[best] { one } else { best })
            .map(|best| fitting[best]);
    }
    order.sort_by(|a, b| weights[*b].total_cmp(&weights[*a]));
    order.truncate(options.host_subset_size);
    (!order.is_empty()).then(|| fitting[order[rand::rng().random_range(0..order.len())]])
}

/// How empty a host is, or how full.
fn load(host: &Host, arrange: Arrange) -> f64 {
    let free = host.free_share(crate::MEMORY_MB) + host.free_share(crate::VCPU);
    match arrange {
        Arrange::Spread => free,
        Arrange::Pack => -free,
    }
}

/// What each filter left of the hosts, and the words for it.
fn explain(snapshot: &Snapshot, filters: &[Filter], context: &Context<'_>) -> Nowhere {
    let ask = context.ask;
    let mut left: Vec<&Host> = (0..snapshot.len()).filter_map(|at| snapshot.host(at)).collect();
    let all = left.len();
    if all == 0 {
        return Nowhere {
            reason: "No valid host was found. There are no hosts.".to_owned(),
            refusals: Vec::new(),
        };
    }
    let mut refusals = Vec::new();
    let mut words = Vec::new();
    let mut look = |name: &str, left: &mut Vec<&Host>, refuse: &dyn Fn(&Host) -> Option<String>| {
        let before = left.len();
        let mut hosts = Vec::new();
        let mut kept = Vec::with_capacity(before);
        let mut reasons: Vec<(String, usize)> = Vec::new();
        for host in left.drain(..) {
            let Some(why) = refuse(host) else {
                kept.push(host);
                continue;
            };
            let known = reasons.iter().position(|(known, _)| *known == why);
            match known {
                Some(at) => reasons[at].1 += 1,
                None if reasons.len() < Refusal::HOSTS => reasons.push((why.clone(), 1)),
                None => {}
            }
            if hosts.len() < Refusal::HOSTS {
                hosts.push((host.name().to_owned(), why));
            }
        }
        *left = kept;
        if before > left.len() || before == 0 {
            words.extend(
                reasons
                    .into_iter()
                    .map(|(why, number)| format!("{number} of {all} {why}")),
            );
        }
        if before > 0 {
            refusals.push(Refusal {
                filter: name.to_owned(),
                before: before as u32,
                after: left.len() as u32,
                hosts,
            });
        }
    };
    if let Some(wanted) = &ask.spec.host {
        look("RequestedHost", &mut left, &|host| {
            (host.name() != wanted).then(|| "are not the host asked for".to_owned())
        });
    }
    for filter in filters {
        look(filter.name(), &mut left, &|host| {
            filter.refuse(context, host).map(std::borrow::Cow::into_owned)
        });
    }
    look("Placement", &mut left, &|host| lack(snapshot, ask, host));
    let reason = format!(
        "No valid host was found. There are not enough hosts available: {}.",
        words.join(", ")
    );
    Nowhere { reason, refusals }
}

/// What a host does not have of what is asked for; none when it has all.
fn lack(snapshot: &Snapshot, ask: &Ask<'_>, host: &Host) -> Option<String> {
    let is_simple = snapshot.is_simple(host) && ask.is_plain();
    if has_room(snapshot, ask, host, is_simple) {
        return None;
    }
    if !is_simple {
        return Some("do not have enough left in their trees".to_owned());
    }
    let traits = &host.provider.spec.traits;
    if let Some(name) = ask.spec.required_traits.iter().find(|wanted| !traits.contains(wanted)) {
        return Some(format!("do not have the trait {name}"));
    }
    if let Some(name) = ask
        .spec
        .forbidden_traits
        .iter()
        .find(|unwanted| traits.contains(unwanted))
    {
        return Some(format!("have the trait {name}"));
    }
    let short: Vec<&Class> = ask
        .resources
        .iter()
        .filter(|(class, n)| !host.fits(class, *n))
        .map(|(class, _)| class)
        .collect();
    let is_unfit = |class: &&&Class| {
        let inventory: Option<&Inventory> = host.provider.spec.inventories.get(&****class);
        inventory.is_none()
    };
    match short.iter().find(is_unfit) {
        Some(class) => Some(format!("have no {class} at all")),
        None => Some("do not have enough left".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use madang_store::{Change, Metadata, Resource};
    use proptest::prelude::*;

    use super::*;
    use crate::{
        Capabilities, Claim, ClaimGroup, ClaimSpec, GroupPolicy, HostGroup, HostGroupSpec, Provider, ProviderSpec,
        VCPU, Wishes,
    };

    fn provider(name: &str, vcpus: i64) -> Resource<Provider> {
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
            zone: "nova".to_owned(),
            inventories: [(VCPU.to_owned(), inventory)].into(),
            drivers: vec!["qemu".to_owned()],
            is_enabled: true,
            ..ProviderSpec::default()
        };
        let mut provider = Resource::<Provider>::new(Metadata::with_id(""), spec);
        provider.status.seen = Some(Timestamp::UNIX_EPOCH);
        provider
    }

    fn add(snapshot: &mut Snapshot, provider: Resource<Provider>) -> String {
        let id = provider.name().to_owned();
        snapshot.provider_changed(&Change {
            old: None,
            new: Some(Arc::new(provider)),
        });
        id
    }

    /// Hosts with so many processors, and so many of them taken.
    fn cloud(hosts: &[(&str, i64, i64)]) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for (name, total, used) in hosts {
            let id = add(&mut snapshot, provider(name, *total));
            if *used > 0 {
                snapshot.take(&placed(&id, name, *used));
            }
        }
        snapshot
    }

    fn placed(provider: &str, host: &str, vcpus: i64) -> Arc<Resource<Claim>> {
        let mut claim = Resource::<Claim>::new(Metadata::with_id("p"), spec(vcpus));
        claim.status.provider = Some(provider.to_owned());
        claim.status.host = Some(host.to_owned());
        Arc::new(claim)
    }

    fn spec(vcpus: i64) -> ClaimSpec {
        ClaimSpec {
            resources: [(VCPU, vcpus)].into(),
            driver: "qemu".to_owned(),
            ..ClaimSpec::default()
        }
    }

    fn wishing(wishes: Wishes) -> ClaimSpec {
        ClaimSpec {
            wishes: Some(Box::new(wishes)),
            ..spec(1)
        }
    }

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    fn hint(name: &str, value: &str) -> ClaimSpec {
        wishing(Wishes {
            hints: [(name.to_owned(), vec![value.to_owned()])].into(),
            ..Wishes::default()
        })
    }

    fn chosen(snapshot: &Snapshot, options: &Options, spec: &ClaimSpec, members: &[&str]) -> Result<String, Nowhere> {
        let members = members.iter().map(|name| (*name).to_owned()).collect();
        let ask = Ask::new(spec, "p", members, |id| id.strip_prefix("on-").map(str::to_owned));
        match choose(snapshot, options, &ask, Timestamp::UNIX_EPOCH, 0) {
            Ok(choice) => Ok(choice.host),
            Err(nowhere) => Err(*nowhere),
        }
    }

    fn host(snapshot: &Snapshot, options: &Options, spec: &ClaimSpec) -> Option<String> {
        chosen(snapshot, options, spec, &[]).ok()
    }

    fn group(snapshot: &mut Snapshot, hosts: &[&str], metadata: &[(&str, &str)]) {
        let spec = HostGroupSpec {
            name: "g".to_owned(),
            hosts: hosts.iter().map(|name| (*name).to_owned()).collect(),
            metadata: map(metadata),
        };
        snapshot.group_changed(&Change {
            old: None,
            new: Some(Arc::new(Resource::<HostGroup>::new(Metadata::with_id(""), spec))),
        });
    }

    fn only(filter: Filter) -> Options {
        Options {
            filters: vec![filter],
            ..Options::default()
        }
    }

    #[test]
    fn the_emptiest_host_is_chosen_wherever_the_search_starts() {
        let snapshot = cloud(&[("a", 8, 4), ("b", 8, 1), ("c", 8, 6)]);
        let spec = spec(1);
        let ask = Ask::new(&spec, "p", vec![], |_| None);
        for policy in [Policy::Simple, Policy::Filter] {
            let spread = Options {
                policy,
                ..Options::default()
            };
            let pack = Options {
                arrange: Arrange::Pack,
                ..spread.clone()
            };
            for start in 0..3 {
                let choice = |options| {
                    choose(&snapshot, options, &ask, Timestamp::UNIX_EPOCH, start)
                        .unwrap()
                        .host
                };
                assert_eq!(
                    (choice(&spread).as_str(), choice(&pack).as_str()),
                    ("b", "c"),
                    "{policy:?}"
                );
            }
        }
    }

    #[test]
    fn a_request_may_name_its_policy() {
        let snapshot = cloud(&[("a", 8, 4), ("b", 8, 1)]);
        let options = Options::default();
        assert_eq!(
            host(&snapshot, &options, &hint("arrange", "pack")).as_deref(),
            Some("a")
        );
        let seen: std::collections::BTreeSet<String> = (0..200)
            .filter_map(|_| host(&snapshot, &options, &hint("policy", "chance")))
            .collect();
        assert_eq!(seen.len(), 2, "chance takes either");
    }

    #[test]
    fn a_refusal_says_what_each_filter_left() {
        let mut snapshot = cloud(&[("a", 8, 8)]);
        let mut silent = provider("b", 8);
        silent.status.seen = None;
        add(&mut snapshot, silent);
        let why = chosen(&snapshot, &Options::default(), &spec(1), &[]).unwrap_err();
        assert_eq!(
            why.reason,
            "No valid host was found. There are not enough hosts available: 1 of 2 do not answer, 1 of 2 do not have \
             enough left."
        );
        let lines: Vec<String> = why.refusals.iter().map(ToString::to_string).collect();
        assert_eq!(
            lines.first().map(String::as_str),
            Some("ComputeFilter: 1 of 2 hosts left; b do not answer")
        );
        assert_eq!(
            lines.last().map(String::as_str),
            Some("Placement: 0 of 1 hosts left; a do not have enough left")
        );
        let nobody = chosen(&Snapshot::default(), &Options::default(), &spec(1), &[]).unwrap_err();
        assert_eq!(nobody.reason, "No valid host was found. There are no hosts.");
    }

    #[test]
    fn groups_keep_together_and_apart() {
        let snapshot = cloud(&[("a", 8, 4), ("b", 8, 0)]);
        let of = |policy, most| ClaimSpec {
            group: Some(ClaimGroup {
                id: uuid::Uuid::nil(),
                policy,
                max_server_per_host: most,
            }),
            ..spec(1)
        };
        let options = Options::default();
        let on = |spec: &ClaimSpec, members: &[&str]| chosen(&snapshot, &options, spec, members).ok();
        assert_eq!(on(&of(GroupPolicy::Affinity, None), &["a"]).as_deref(), Some("a"));
        assert_eq!(on(&of(GroupPolicy::AntiAffinity, None), &["a"]).as_deref(), Some("b"));
        assert_eq!(on(&of(GroupPolicy::SoftAffinity, None), &["a"]).as_deref(), Some("a"));
        assert_eq!(
            on(&of(GroupPolicy::SoftAntiAffinity, None), &["b"]).as_deref(),
            Some("a")
        );
        assert_eq!(on(&of(GroupPolicy::AntiAffinity, None), &["a", "b"]), None);
        assert_eq!(
            on(&of(GroupPolicy::AntiAffinity, Some(2)), &["a", "b", "b"]).as_deref(),
            Some("a")
        );
    }

    #[test]
    fn hints_name_hosts_by_what_is_on_them() {
        let snapshot = cloud(&[("a", 8, 4), ("b", 8, 0)]);
        let options = Options::default();
        assert_eq!(
            host(&snapshot, &options, &hint("same_host", "on-a")).as_deref(),
            Some("a")
        );
        assert_eq!(
            host(&snapshot, &options, &hint("different_host", "on-b")).as_deref(),
            Some("a")
        );
        assert_eq!(host(&snapshot, &options, &hint("same_host", "nowhere")), None);
        let query = hint(
            "query",
            r#"["and", ["<", "$vcpus_used", "2"], ["in", "$host", "b", "c"]]"#,
        );
        assert_eq!(host(&snapshot, &only(Filter::Json), &query).as_deref(), Some("b"));
        assert_eq!(host(&snapshot, &only(Filter::Json), &hint("query", "nonsense")), None);
    }

    #[test]
    fn aggregates_are_for_some() {
        let mut snapshot = cloud(&[("a", 8, 4), ("b", 8, 0)]);
        group(
            &mut snapshot,
            &["b"],
            &[
                ("filter_tenant_id", "other, another"),
                ("ssd", "true"),
                ("instance_type", "big"),
                ("os", "linux"),
                ("availability_zone", "east"),
                ("max_instances_per_host", "0"),
            ],
        );
        let plain = spec(1);
        let on_a = |filter| {
            assert_eq!(
                host(&snapshot, &only(filter), &plain).as_deref(),
                Some("a"),
                "{filter:?}"
            )
        };
        on_a(Filter::AggregateMultiTenancyIsolation);
        on_a(Filter::AggregateTypeAffinity);
        on_a(Filter::AggregateNumInstances);
        assert_eq!(
            host(&snapshot, &Options::default(), &plain).as_deref(),
            Some("b"),
            "not switched on"
        );
        let ssd = wishing(Wishes {
            extra_specs: map(&[("aggregate_instance_extra_specs:ssd", "true")]),
            ..Wishes::default()
        });
        assert_eq!(
            host(&snapshot, &only(Filter::AggregateInstanceExtraSpecs), &ssd).as_deref(),
            Some("b")
        );
        let windows = wishing(Wishes {
            image_properties: map(&[("os", "windows")]),
            ..Wishes::default()
        });
        let filter = Filter::AggregateImagePropertiesIsolation;
        assert_eq!(host(&snapshot, &only(filter), &windows).as_deref(), Some("a"));
        let east = ClaimSpec {
            zone: Some("east".to_owned()),
            ..spec(1)
        };
        let nova = ClaimSpec {
            zone: Some("nova".to_owned()),
            ..spec(1)
        };
        assert_eq!(host(&snapshot, &Options::default(), &east).as_deref(), Some("b"));
        assert_eq!(host(&snapshot, &Options::default(), &nova).as_deref(), Some("a"));
    }

    #[test]
    fn an_aggregate_may_weigh_its_hosts_otherwise() {
        let mut snapshot = cloud(&[("a", 8, 4), ("b", 8, 0)]);
        group(&mut snapshot, &["a", "b"], &[("cpu_weight_multiplier", "-1.0")]);
        assert_eq!(
            host(&snapshot, &Options::default(), &spec(1)).as_deref(),
            Some("a"),
            "packed"
        );
    }

    #[test]
    fn machines_are_what_images_and_flavors_want() {
        let mut snapshot = cloud(&[("a", 8, 0)]);
        let mut other = provider("b", 8);
        other.status.capabilities = Some(Box::new(Capabilities {
            architectures: vec!["aarch64".to_owned()],
            hypervisor_type: "qemu".to_owned(),
            hypervisor_version: 7_002_009,
            cpu_features: vec!["asimd".to_owned()],
            cells: [0, 1]
                .map(|id| crate::Cell {
                    id,
                    cpus: vec![2 * id, 2 * id + 1],
                    memory_mb: 100,
                    ..crate::Cell::default()
                })
                .into(),
            ..Capabilities::default()
        }));
        add(&mut snapshot, other);
        let image = |name: &str, value: &str| {
            wishing(Wishes {
                image_properties: map(&[(name, value)]),
                ..Wishes::default()
            })
        };
        let flavor = |name: &str, value: &str| {
            wishing(Wishes {
                extra_specs: map(&[(name, value)]),
                ..Wishes::default()
            })
        };
        let options = Options::default();
        assert_eq!(
            host(&snapshot, &options, &image("hw_architecture", "x86_64")).as_deref(),
            Some("a")
        );
        let asimd = flavor("capabilities:cpu_info:features", "<in> asimd");
        assert_eq!(host(&snapshot, &options, &asimd).as_deref(), Some("b"));
        assert_eq!(
            host(&snapshot, &options, &flavor("pci_passthrough:alias", "gpu:1")),
            None
        );
        let numa = only(Filter::NumaTopology);
        assert_eq!(
            host(&snapshot, &numa, &flavor("hw:numa_nodes", "2")).as_deref(),
            Some("b")
        );
        let three = ClaimSpec {
            resources: [(VCPU, 3)].into(),
            ..flavor("hw:numa_nodes", "3")
        };
        assert_eq!(host(&snapshot, &numa, &three), None);
    }

    #[test]
    fn what_a_host_has_may_be_below_and_beside_it() {
        let mut snapshot = Snapshot::default();
        let inventory = |total| Inventory {
            total,
            reserved: 0,
            min_unit: 1,
            max_unit: total,
            step_size: 1,
            allocation_ratio: 1.0,
        };
        let mut root = provider("a", 8);
        root.spec.aggregates = vec!["x".to_owned()];
        let mut numa = provider("a_numa0", 1);
        numa.spec.drivers.clear();
        numa.spec.parent = Some(root.name().to_owned());
        numa.spec.inventories = [("MEMORY_MB".to_owned(), inventory(512))].into();
        let mut disks = provider("disks", 1);
        disks.spec.drivers.clear();
        disks.spec.aggregates = vec!["x".to_owned()];
        disks.spec.traits = vec![crate::forest::SHARES.to_owned()];
        disks.spec.inventories = [("DISK_GB".to_owned(), inventory(100))].into();
        let root = add(&mut snapshot, root);
        let (numa, disks) = (add(&mut snapshot, numa), add(&mut snapshot, disks));
        let wanted = ClaimSpec {
            resources: [("VCPU", 2), ("MEMORY_MB", 256), ("DISK_GB", 60)].into(),
            ..spec(1)
        };
        let ask = Ask::new(&wanted, "p", vec![], |_| None);
        let choice = choose(&snapshot, &Options::default(), &ask, Timestamp::UNIX_EPOCH, 0).unwrap();
        let share = |provider: &String, class, amount| Share {
            provider: provider.clone(),
            resources: [(class, amount)].into(),
        };
        let mut expected = vec![
            share(&root, "VCPU", 2),
            share(&numa, "MEMORY_MB", 256),
            share(&disks, "DISK_GB", 60),
        ];
        let mut given = choice.shares.clone();
        expected.sort_by(|a, b| a.provider.cmp(&b.provider));
        given.sort_by(|a, b| a.provider.cmp(&b.provider));
        assert_eq!((choice.host.as_str(), given), ("a", expected));
        // Once the disks are given, there are not enough for another.
        let mut claim = Resource::<Claim>::new(Metadata::with_id("p"), wanted.clone());
        (claim.status.host, claim.status.provider) = (Some("a".to_owned()), Some(root));
        claim.status.shares = choice.shares;
        snapshot.take(&Arc::new(claim));
        assert!(choose(&snapshot, &Options::default(), &ask, Timestamp::UNIX_EPOCH, 0).is_err());
    }

    proptest! {
        #[test]
        fn a_chosen_host_always_has_room(
            loads in prop::collection::vec((1i64..16, 0i64..16), 1..40), amount in 1i64..16, start in 0usize..40,
        ) {
            let names: Vec<String> = (0..loads.len()).map(|n| n.to_string()).collect();
            let hosts: Vec<_> = loads.iter().zip(&names).map(|((total, used), name)| (name.as_str(), *total, *used)).collect();
            let snapshot = cloud(&hosts);
            let spec = spec(amount);
            let ask = Ask::new(&spec, "p", vec![], |_| None);
            match choose(&snapshot, &Options::default(), &ask, Timestamp::UNIX_EPOCH, start) {
                Ok(choice) => {
                    let index: usize = choice.host.parse().unwrap();
                    prop_assert!(loads[index].1 + amount <= loads[index].0);
                }
                Err(_) => prop_assert!(loads.iter().all(|(total, used)| used + amount > *total)),
            }
        }

        #[test]
        fn no_host_is_over_its_ratio_whatever_comes_and_goes(
            totals in prop::collection::vec(1i64..12, 1..12),
            steps in prop::collection::vec((any::<bool>(), 1i64..6, any::<prop::sample::Index>()), 1..120),
        ) {
            let names: Vec<String> = (0..totals.len()).map(|n| n.to_string()).collect();
            let hosts: Vec<_> = totals.iter().zip(&names).map(|(total, name)| (name.as_str(), *total, 0)).collect();
            let mut snapshot = cloud(&hosts);
            let mut there: Vec<Arc<Resource<Claim>>> = Vec::new();
            for (turn, (comes, amount, which)) in steps.into_iter().enumerate() {
                if comes || there.is_empty() {
                    let spec = spec(amount);
                    let ask = Ask::new(&spec, "p", vec![], |_| None);
                    if let Ok(choice) = choose(&snapshot, &Options::default(), &ask, Timestamp::UNIX_EPOCH, turn) {
                        let claim = placed(&choice.provider, &choice.host, amount);
                        snapshot.take(&claim);
                        there.push(claim);
                    }
                } else {
                    let gone = there.swap_remove(which.index(there.len()));
                    snapshot.untake(&gone);
                }
                for (at, total) in totals.iter().enumerate().take(snapshot.len()) {
                    let host = snapshot.host(at).unwrap();
                    let had: i64 = there.iter().filter(|c| c.status.host.as_deref() == Some(host.name()))
                        .filter_map(|c| c.spec.resources.get(VCPU)).sum();
                    prop_assert_eq!(host.used.get(VCPU).unwrap_or(0), had);
                    prop_assert!(had <= *total);
                }
            }
        }
    }
}
