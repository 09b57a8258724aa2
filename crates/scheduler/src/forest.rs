//! Providers as trees, with what is taken of them: what the search for candidates works on. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ahash::AHashMap;
use madang_store::{Resource, Store};

use crate::{Inventory, Provider, claim::rules::usage_group};

/// The trait of providers that give to all members of their aggregates.
pub const SHARES: &str = "MISC_SHARES_VIA_AGGREGATE";

/// One provider in its tree.
#[derive(Clone, Debug)]
pub struct Node {
    /// The provider.
    pub provider: Arc<Resource<Provider>>,
    /// Resource class to amount taken.
    pub used: BTreeMap<String, i64>,
    /// Its parent's place in the forest.
    pub parent: Option<usize>,
    /// The place of its tree's root; its own where it has no parent.
    pub root: usize,
}

impl Node {
    /// The provider's uuid.
    pub fn id(&self) -> &str {
        self.provider.name()
    }

    /// Whether it has a trait.
    pub fn has(&self, wanted: &str) -> bool {
        self.provider.spec.traits.iter().any(|own| own == wanted)
    }

    /// Whether it is in an aggregate.
    pub fn is_in(&self, aggregate: &str) -> bool {
        self.provider.spec.aggregates.iter().any(|own| own == aggregate)
    }

    /// Its inventory of a class.
    pub fn inventory(&self, class: &str) -> Option<&Inventory> {
        self.provider.spec.inventories.get(class)
    }

    /// How much of a class is taken.
    pub fn used(&self, class: &str) -> i64 {
        self.used.get(class).copied().unwrap_or(0)
    }

    /// Whether one consumer can take this much of a class.
    pub fn fits(&self, class: &str, amount: i64) -> bool {
        self.inventory(class)
            .is_some_and(|inventory| inventory.takes(amount) && self.used(class) + amount <= inventory.capacity())
    }
}

/// Trees of providers.
#[derive(Clone, Debug, Default)]
pub struct Forest {
    /// Every provider, by name.
    pub nodes: Vec<Node>,
    by_id: AHashMap<String, usize>,
    by_aggregate: AHashMap<String, Vec<usize>>,
}

impl Forest {
    /// The forest of these providers with what is taken of each. A parent that is not among them counts as none.
    pub fn new(providers: Vec<(Arc<Resource<Provider>>, BTreeMap<String, i64>)>) -> Self {
        let mut providers = providers;
        providers.sort_unstable_by(|a, b| a.0.spec.name.cmp(&b.0.spec.name));
        let by_id: AHashMap<String, usize> = providers
            .iter()
            .enumerate()
            .map(|(at, (provider, _))| (provider.name().to_owned(), at))
            .collect();
        let parents: Vec<Option<usize>> = providers
            .iter()
            .map(|(provider, _)| {
                provider
                    .spec
                    .parent
                    .as_ref()
                    .and_then(|parent| by_id.get(parent).copied())
            })
            .collect();
        let root = |mut at: usize| {
            // A circle, which the rules refuse, ends as well.
            for _ in 0..parents.len() {
                match parents[at] {
                    Some(parent) => at = parent,
                    None => break,
                }
            }
            at
        };
        let mut by_aggregate: AHashMap<String, Vec<usize>> = AHashMap::new();
        for (at, (provider, _)) in providers.iter().enumerate() {
            for aggregate in &provider.spec.aggregates {
                by_aggregate.entry(aggregate.clone()).or_default().push(at);
            }
        }
        let nodes = providers.into_iter().enumerate().map(|(at, (provider, used))| Node {
            provider,
            used,
            parent: parents[at],
            root: root(at),
        });
        Self {
            nodes: nodes.collect(),
            by_id,
            by_aggregate,
        }
    }

    /// All providers as the caches show them.
    pub fn of(store: &Store) -> Self {
        let providers = store.cache::<Provider>().all();
        let with_use = providers.into_iter().map(|provider| {
            let used = store.counters("", &usage_group(provider.name()));
            (provider, used)
        });
        Self::new(with_use.collect())
    }

    /// Where a provider is.
    pub fn place(&self, id: &str) -> Option<usize> {
        self.by_id.get(id).copied()
    }

    /// The places of an aggregate's members.
    pub fn members(&self, aggregate: &str) -> &[usize] {
        self.by_aggregate.get(aggregate).map_or(&[], Vec::as_slice)
    }

    /// The places of a provider and all above it, up to its root.
    pub fn ancestors(&self, at: usize) -> impl Iterator<Item = usize> + '_ {
        let mut next = Some(at);
        let mut left = self.nodes.len();
        std::iter::from_fn(move || {
            let now = next.filter(|_| left > 0)?;
            left -= 1;
            next = self.nodes[now].parent;
            Some(now)
        })
    }

    /// The roots of the trees that a sharing provider gives to: those with a member of one of its aggregates.
    pub fn anchors(&self, sharing: usize) -> BTreeSet<usize> {
        let aggregates = self.nodes[sharing].provider.spec.aggregates.iter();
        let members = aggregates.flat_map(|aggregate| self.members(aggregate));
        members.map(|member| self.nodes[*member].root).collect()
    }
}
