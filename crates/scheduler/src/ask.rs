//! What a claim asks for, made ready for filters: hints read, groups and other consumers looked up.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::{
    Amounts, ClaimSpec, Class, PCPU, VCPU, Wishes,
    candidates::{Group, GroupPolicy},
    options::{Arrange, Policy},
    seat::Seating,
};

/// A claim's request, complete.
#[derive(Clone, Debug)]
pub struct Ask<'a> {
    /// The claim's own words.
    pub spec: &'a ClaimSpec,
    /// Whose it is.
    pub project: &'a str,
    /// What is asked of the host and its tree together: the claim's amounts, changed by `resources:…` extra specs.
    pub resources: Amounts,
    /// What is asked of single providers, by suffix: `resources1:…` and `trait1:…` extra specs.
    pub granular: BTreeMap<String, Group>,
    /// How those stand to each other.
    pub isolate: GroupPolicy,
    /// The hosts of the members of the claim's group, once for each member.
    pub group_hosts: Vec<String>,
    /// Hint `same_host`: the hosts of these; none when nothing was said.
    pub same_hosts: Option<BTreeSet<String>>,
    /// Hint `different_host`: the hosts of these.
    pub different_hosts: BTreeSet<String>,
    /// Hint `policy`.
    pub policy: Option<Policy>,
    /// Hint `arrange`.
    pub arrange: Option<Arrange>,
    /// Hint `query`, for `JsonFilter`: unreadable words are `Null`.
    pub query: Option<Value>,
    /// What is asked of single NUMA nodes.
    pub seating: Option<Seating>,
}

impl<'a> Ask<'a> {
    /// The request of a claim. `host_of` says where another consumer is, by its uuid.
    pub fn new(
        spec: &'a ClaimSpec,
        project: &'a str,
        group_hosts: Vec<String>,
        host_of: impl Fn(&str) -> Option<String>,
    ) -> Self {
        static NONE: std::sync::LazyLock<Wishes> = std::sync::LazyLock::new(Wishes::default);
        let wishes = spec.wishes.as_deref().unwrap_or(&NONE);
        let (resources, granular) = resources(spec, wishes);
        let hint = |name: &str| wishes.hints.get(name).filter(|values| !values.is_empty());
        let first = |name: &str| hint(name).and_then(|values| values.first()).map(String::as_str);
        let hosts = |name: &str| {
            let ids = hint(name).into_iter().flatten();
            ids.filter_map(|id| host_of(id)).collect::<BTreeSet<String>>()
        };
        Self {
            spec,
            project,
            resources,
            granular,
            isolate: match wishes.extra_specs.get("group_policy").map(String::as_str) {
                Some("isolate") => GroupPolicy::Isolate,
                _ => GroupPolicy::None,
            },
            group_hosts,
            same_hosts: hint("same_host").map(|_| hosts("same_host")),
            different_hosts: hosts("different_host"),
            policy: first("policy").and_then(Policy::named),
            arrange: match first("arrange") {
                Some("pack") => Some(Arrange::Pack),
                Some("spread") => Some(Arrange::Spread),
                _ => None,
            },
            query: first("query").map(|text| serde_json::from_str(text).unwrap_or(Value::Null)),
            seating: Seating::of(spec),
        }
    }

    /// The first value of a hint.
    pub fn hint(&self, name: &str) -> Option<&str> {
        let wishes = self.spec.wishes.as_ref()?;
        wishes.hints.get(name)?.first().map(String::as_str)
    }

    /// The flavor's extra specs.
    pub fn extra_specs(&self) -> impl Iterator<Item = (&str, &str)> {
        let specs = self.spec.wishes.iter().flat_map(|wishes| &wishes.extra_specs);
        specs.map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// One of the flavor's extra specs.
    pub fn extra_spec(&self, key: &str) -> Option<&str> {
        self.spec.wishes.as_ref()?.extra_specs.get(key).map(String::as_str)
    }

    /// One of the image's properties.
    pub fn image_property(&self, key: &str) -> Option<&str> {
        self.spec.wishes.as_ref()?.image_properties.get(key).map(String::as_str)
    }

    /// Whether one provider may give all, in the amounts that the claim names.
    pub fn is_plain(&self) -> bool {
        self.granular.is_empty() && self.resources == self.spec.resources
    }

    /// The group for the whole tree, with the traits that the claim asks for.
    pub fn whole(&self) -> Group {
        Group {
            resources: self.resources.clone(),
            required: self
                .spec
                .required_traits
                .iter()
                .map(|name| [name.clone()].into())
                .collect(),
            forbidden: self.spec.forbidden_traits.iter().cloned().collect(),
            ..Group::default()
        }
    }
}

/// What is asked of the tree, and of single providers by suffix. Source: Nova's `ResourceRequest`.
fn resources(spec: &ClaimSpec, wishes: &Wishes) -> (Amounts, BTreeMap<String, Group>) {
    let mut granular: BTreeMap<String, Group> = BTreeMap::new();
    let mut changed: BTreeMap<Class, i64> = BTreeMap::new();
    let mut by_suffix: BTreeMap<String, Vec<(Class, i64)>> = BTreeMap::new();
    for (key, value) in &wishes.extra_specs {
        let Some((kind, name)) = key.split_once(':') else {
            continue;
        };
        if let (Some(suffix), Ok(amount)) = (kind.strip_prefix("resources"), value.parse::<i64>()) {
            if suffix.is_empty() {
                changed.insert(Class::new(name), amount);
            } else if amount > 0 {
                by_suffix
                    .entry(suffix.to_owned())
                    .or_default()
                    .push((Class::new(name), amount));
            }
        } else if let Some(suffix) = kind.strip_prefix("trait").filter(|suffix| !suffix.is_empty()) {
            let group = granular.entry(suffix.to_owned()).or_default();
            match value.as_str() {
                "required" => group.required.push([name.to_owned()].into()),
                "forbidden" => _ = group.forbidden.insert(name.to_owned()),
                _ => {}
            }
        }
    }
    for (suffix, amounts) in by_suffix {
        granular.entry(suffix).or_default().resources = amounts.into_iter().collect();
    }
    let is_dedicated = Seating::of(spec).is_some_and(|seating| seating.is_dedicated);
    if let Some(amount) = spec.resources.get(VCPU).filter(|_| is_dedicated)
        && !changed.contains_key(VCPU)
        && !changed.contains_key(PCPU)
    {
        changed.extend([(Class::new(VCPU), 0), (Class::new(PCPU), amount)]);
    }
    if changed.is_empty() {
        return (spec.resources.clone(), granular);
    }
    let kept = spec.resources.iter().filter(|(class, _)| !changed.contains_key(*class));
    let mut all: Vec<(Class, i64)> = kept.map(|(class, amount)| (class.clone(), amount)).collect();
    all.extend(changed.into_iter().filter(|(_, amount)| *amount > 0));
    (all.into_iter().collect(), granular)
}
