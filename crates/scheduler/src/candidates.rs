//! Which providers could give what is asked: the search behind Placement's allocation candidates and behind hosts whose
//! resources are nested or shared. Pure.
//!
//! A request is made of groups. The group without a suffix may be given by several providers of one tree and by those that
//! share with it; every other group by one provider. Each group alone has answers under each anchor (the root of a tree);
//! together they are one answer for every combination under one anchor that keeps the policy and the capacity.

use std::collections::{BTreeMap, BTreeSet};

use ahash::AHashSet;

use crate::{
    Amounts, Class,
    forest::{Forest, SHARES},
};

/// Combinations looked at for one request at most: trees with many alike children have no end of them.
const COMBINATIONS: usize = 200_000;

/// What is asked of one provider, or of one tree.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Group {
    /// How much of which class.
    pub resources: Amounts,
    /// Of each set at least one trait.
    pub required: Vec<BTreeSet<String>>,
    /// None of these traits.
    pub forbidden: BTreeSet<String>,
    /// Of each set at least one aggregate.
    pub member_of: Vec<BTreeSet<String>>,
    /// None of these aggregates.
    pub forbidden_aggregates: BTreeSet<String>,
    /// Only in the tree of this provider.
    pub in_tree: Option<String>,
}

/// How groups with a suffix stand to each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GroupPolicy {
    /// They may be given by one provider.
    #[default]
    None,
    /// Each is given by a provider of its own.
    Isolate,
}

/// A request for candidates.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Request {
    /// By suffix; the empty one for what may come from a whole tree.
    pub groups: BTreeMap<String, Group>,
    /// How groups with a suffix stand to each other.
    pub policy: GroupPolicy,
    /// Traits that the root must have.
    pub root_required: BTreeSet<String>,
    /// Traits that the root must not have.
    pub root_forbidden: BTreeSet<String>,
    /// Groups, by suffix, whose providers are all below one of them.
    pub same_subtrees: Vec<BTreeSet<String>>,
    /// As many answers at most.
    pub limit: Option<usize>,
}

/// One answer: who would give what.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Candidate {
    /// The root of the tree that it is for.
    pub anchor: usize,
    /// Place of a provider and class to amount.
    pub given: BTreeMap<(usize, Class), i64>,
    /// Suffix of a group to the places of the providers that give it.
    pub mappings: BTreeMap<String, BTreeSet<usize>>,
}

/// One group's answer under one anchor.
#[derive(Clone, Debug)]
struct Answer {
    given: Vec<(usize, Class, i64)>,
    providers: BTreeSet<usize>,
}

/// The candidates for a request, at most [`COMBINATIONS`] and the request's limit of them.
pub fn search(forest: &Forest, request: &Request) -> Vec<Candidate> {
    let Some(anchors) = anchors(forest, request) else {
        return Vec::new();
    };
    let mut by_anchor: BTreeMap<usize, Vec<(&str, Vec<Answer>)>> = BTreeMap::new();
    for (place, (suffix, group)) in request.groups.iter().enumerate() {
        let answers = if suffix.is_empty() {
            of_trees(forest, group, anchors.as_ref())
        } else {
            of_single(forest, group, anchors.as_ref())
        };
        if answers.is_empty() {
            return Vec::new();
        }
        for (anchor, answers) in answers {
            let lists = by_anchor.entry(anchor).or_default();
            // An anchor that an earlier group had no answer under is out.
            if lists.len() == place {
                lists.push((suffix, answers));
            }
        }
    }
    by_anchor.retain(|_, lists| lists.len() == request.groups.len());
    combine(forest, request, &by_anchor)
}

/// The roots that may be anchors; `Some(None)` when all may, none when no root can.
#[allow(clippy::option_option, reason = "all, some and none are three answers")]
fn anchors(forest: &Forest, request: &Request) -> Option<Option<BTreeSet<usize>>> {
    if request.root_required.is_empty() && request.root_forbidden.is_empty() {
        return Some(None);
    }
    let roots = forest.nodes.iter().enumerate().filter(|(_, node)| {
        node.parent.is_none()
            && request.root_required.iter().all(|wanted| node.has(wanted))
            && !request.root_forbidden.iter().any(|unwanted| node.has(unwanted))
    });
    let roots: BTreeSet<usize> = roots.map(|(at, _)| at).collect();
    if roots.is_empty() { None } else { Some(Some(roots)) }
}

/// Whether a provider itself is in the aggregates asked for.
fn is_member(forest: &Forest, group: &Group, at: usize) -> bool {
    let node = &forest.nodes[at];
    group
        .member_of
        .iter()
        .all(|any| any.iter().any(|aggregate| node.is_in(aggregate)))
}

/// Whether a provider itself is in a forbidden aggregate.
fn is_barred(forest: &Forest, group: &Group, at: usize) -> bool {
    let node = &forest.nodes[at];
    group.forbidden_aggregates.iter().any(|aggregate| node.is_in(aggregate))
}

/// The providers that have enough of a class, in the tree asked for.
fn with_room(forest: &Forest, group: &Group, class: &str, amount: i64) -> Vec<usize> {
    let tree = match &group.in_tree {
        Some(id) => match forest.place(id) {
            Some(at) => Some(forest.nodes[at].root),
            None => return Vec::new(),
        },
        None => None,
    };
    let nodes = forest.nodes.iter().enumerate();
    let fitting = nodes.filter(|(_, node)| tree.is_none_or(|root| node.root == root) && node.fits(class, amount));
    fitting.map(|(at, _)| at).collect()
}

/// Answers for a group that one provider has to give, by anchor.
fn of_single(forest: &Forest, group: &Group, anchors: Option<&BTreeSet<usize>>) -> BTreeMap<usize, Vec<Answer>> {
    let mut found: BTreeMap<usize, Vec<Answer>> = BTreeMap::new();
    let mut fitting: Option<Vec<usize>> = None;
    for (class, amount) in &group.resources {
        let room = with_room(forest, group, class, amount);
        fitting = Some(match fitting {
            Some(before) => before.into_iter().filter(|at| room.binary_search(at).is_ok()).collect(),
            None => room,
        });
    }
    let fitting = fitting.unwrap_or_else(|| (0..forest.nodes.len()).collect());
    for at in fitting {
        let node = &forest.nodes[at];
        let suits = group
            .required
            .iter()
            .all(|any| any.iter().any(|wanted| node.has(wanted)))
            && !group.forbidden.iter().any(|unwanted| node.has(unwanted))
            && is_member(forest, group, at)
            && !is_barred(forest, group, at);
        // Without resources only what is asked for otherwise makes a provider one.
        let is_asked = !group.resources.is_empty() || !group.required.is_empty() || !group.member_of.is_empty();
        if !suits || !is_asked {
            continue;
        }
        let answer = Answer {
            given: group
                .resources
                .iter()
                .map(|(class, amount)| (at, class.clone(), amount))
                .collect(),
            providers: [at].into(),
        };
        let mut places = BTreeSet::from([node.root]);
        if node.has(SHARES) {
            places.extend(forest.anchors(at));
        }
        for anchor in places
            .into_iter()
            .filter(|anchor| anchors.is_none_or(|all| all.contains(anchor)))
        {
            found.entry(anchor).or_default().push(answer.clone());
        }
    }
    found
}

/// Answers for the group that a tree, with those that share with it, gives together, by anchor.
fn of_trees(forest: &Forest, group: &Group, anchors: Option<&BTreeSet<usize>>) -> BTreeMap<usize, Vec<Answer>> {
    // By anchor, for each class so far, who could give it.
    let mut trees: BTreeMap<usize, Vec<(Class, i64, Vec<usize>)>> = BTreeMap::new();
    for (place, (class, amount)) in group.resources.iter().enumerate() {
        let mut givers: BTreeSet<(usize, usize)> = BTreeSet::new();
        for at in with_room(forest, group, class, amount) {
            givers.insert((forest.nodes[at].root, at));
            if group.in_tree.is_none() && forest.nodes[at].has(SHARES) && is_member(forest, group, at) {
                givers.extend(forest.anchors(at).into_iter().map(|anchor| (anchor, at)));
            }
        }
        // What is said of a root holds for its tree.
        givers.retain(|(anchor, at)| {
            anchors.is_none_or(|all| all.contains(anchor))
                && (group.member_of.is_empty() || is_member(forest, group, *at) || is_member(forest, group, *anchor))
                && !is_barred(forest, group, *at)
                && !is_barred(forest, group, *anchor)
        });
        for (anchor, at) in givers {
            let classes = trees.entry(anchor).or_default();
            if classes.len() == place {
                classes.push((class.clone(), amount, Vec::new()));
            }
            if let Some((_, _, givers)) = classes.get_mut(place) {
                givers.push(at);
            }
        }
        trees.retain(|_, classes| classes.len() == place + 1);
    }
    let mut left = COMBINATIONS;
    let mut found: BTreeMap<usize, Vec<Answer>> = BTreeMap::new();
    for (anchor, classes) in &trees {
        let lists: Vec<usize> = classes.iter().map(|(_, _, givers)| givers.len()).collect();
        for choice in Product::new(lists) {
            if left == 0 {
                return found;
            }
            left -= 1;
            let given: Vec<(usize, Class, i64)> = classes
                .iter()
                .zip(&choice)
                .map(|((class, amount, givers), chosen)| (givers[*chosen], class.clone(), *amount))
                .collect();
            let providers: BTreeSet<usize> = given.iter().map(|(at, _, _)| *at).collect();
            if have_traits(forest, group, &providers) {
                found.entry(*anchor).or_default().push(Answer { given, providers });
            }
        }
    }
    found
}

/// Whether providers together have what is required, and none has what is forbidden.
fn have_traits(forest: &Forest, group: &Group, providers: &BTreeSet<usize>) -> bool {
    let any_has = |name: &String| providers.iter().any(|at| forest.nodes[*at].has(name));
    group.required.iter().all(|any| any.iter().any(any_has)) && !group.forbidden.iter().any(any_has)
}

/// Puts the groups' answers together: every combination that keeps policy, subtrees and capacity.
fn combine(
    forest: &Forest,
    request: &Request,
    by_anchor: &BTreeMap<usize, Vec<(&str, Vec<Answer>)>>,
) -> Vec<Candidate> {
    let mut seen: AHashSet<(BTreeMap<(usize, Class), i64>, BTreeMap<String, BTreeSet<usize>>)> = AHashSet::new();
    let mut found = Vec::new();
    let mut left = COMBINATIONS;
    for (anchor, lists) in by_anchor {
        for choice in Product::new(lists.iter().map(|(_, answers)| answers.len()).collect()) {
            if left == 0 || request.limit.is_some_and(|limit| found.len() >= limit) {
                return found;
            }
            left -= 1;
            let chosen: Vec<(&str, &Answer)> = lists
                .iter()
                .zip(&choice)
                .map(|((suffix, answers), chosen)| (*suffix, &answers[*chosen]))
                .collect();
            if !keeps_policy(request, &chosen) || !keeps_subtrees(forest, request, &chosen) {
                continue;
            }
            let mut candidate = Candidate {
                anchor: *anchor,
                given: BTreeMap::new(),
                mappings: BTreeMap::new(),
            };
            for (suffix, answer) in chosen {
                for (at, class, amount) in &answer.given {
                    *candidate.given.entry((*at, class.clone())).or_default() += amount;
                }
                candidate.mappings.insert(suffix.to_owned(), answer.providers.clone());
            }
            if has_room(forest, &candidate) && seen.insert((candidate.given.clone(), candidate.mappings.clone())) {
                found.push(candidate);
            }
        }
    }
    found
}

fn keeps_policy(request: &Request, chosen: &[(&str, &Answer)]) -> bool {
    if request.policy == GroupPolicy::None {
        return true;
    }
    let granular = chosen.iter().filter(|(suffix, _)| !suffix.is_empty());
    let used: BTreeSet<usize> = granular
        .clone()
        .flat_map(|(_, answer)| answer.providers.iter().copied())
        .collect();
    used.len() == granular.count()
}

/// Whether, for each set of groups, one of their providers is above all others or the same.
fn keeps_subtrees(forest: &Forest, request: &Request, chosen: &[(&str, &Answer)]) -> bool {
    request.same_subtrees.iter().all(|suffixes| {
        let of_them = chosen.iter().filter(|(suffix, _)| suffixes.contains(*suffix));
        let providers: BTreeSet<usize> = of_them
            .flat_map(|(_, answer)| answer.providers.iter().copied())
            .collect();
        providers.is_empty()
            || providers.iter().any(|top| {
                providers
                    .iter()
                    .all(|at| forest.ancestors(*at).any(|above| above == *top))
            })
    })
}

/// Whether the groups' amounts fit when they come together on one provider.
fn has_room(forest: &Forest, candidate: &Candidate) -> bool {
    candidate.given.iter().all(|((at, class), amount)| {
        let node = &forest.nodes[*at];
        node.inventory(class)
            .is_some_and(|inventory| node.used(class) + amount <= inventory.capacity() && *amount <= inventory.max_unit)
    })
}

/// Every choice of one of each of several lists, the last changing fastest; one empty choice of no lists.
struct Product {
    lengths: Vec<usize>,
    next: Option<Vec<usize>>,
}

impl Product {
    fn new(lengths: Vec<usize>) -> Self {
        let next = (!lengths.contains(&0)).then(|| vec![0; lengths.len()]);
        Self { lengths, next }
    }
}

impl Iterator for Product {
    type Item = Vec<usize>;

    fn next(&mut self) -> Option<Vec<usize>> {
        let now = self.next.take()?;
        let mut after = now.clone();
        for place in (0..after.len()).rev() {
            after[place] += 1;
            if after[place] < self.lengths[place] {
                self.next = Some(after);
                return Some(now);
            }
            after[place] = 0;
        }
        Some(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_has_every_choice() {
        let all: Vec<_> = Product::new(vec![2, 1, 2]).collect();
        assert_eq!(all, [[0, 0, 0], [0, 0, 1], [1, 0, 0], [1, 0, 1]]);
        assert_eq!(Product::new(vec![]).count(), 1);
        assert_eq!(Product::new(vec![2, 0]).count(), 0);
    }
}
