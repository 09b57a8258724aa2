//! Which roles hold for a user somewhere: assigned or through a group, here or inherited from above, and implied.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use madang_store::{Resource, Store};

use super::{Actor, Assignment, AssignmentSpec, On};
use crate::{
    RoleRef, Subject,
    federation::shadow,
    group::Membership,
    project::{Project, domain_of},
    role::{Implication, Role},
};

/// The tree is at most this deep (see `project::rules`); a circle, which rules prevent, would end here too.
const MAX_DEPTH: usize = 16;

/// Whose roles are asked for.
#[derive(Clone, Copy)]
pub(crate) struct Who<'a> {
    user_id: &'a str,
    in_session: bool,
}

impl<'a> Who<'a> {
    /// A user in a session that a login at an identity provider began: what the provider said there of its groups holds
    /// until the session is over.
    pub(crate) fn in_session(user_id: &'a str) -> Self {
        Self {
            user_id,
            in_session: true,
        }
    }
}

impl<'a> From<&'a str> for Who<'a> {
    fn from(user_id: &'a str) -> Self {
        Self {
            user_id,
            in_session: false,
        }
    }
}

impl<'a> From<&'a String> for Who<'a> {
    fn from(user_id: &'a String) -> Self {
        user_id.as_str().into()
    }
}

impl<'a> From<&'a Subject> for Who<'a> {
    fn from(subject: &'a Subject) -> Self {
        Self {
            user_id: &subject.user.id,
            in_session: subject.federated.is_some(),
        }
    }
}

/// The user, and the groups it is in.
pub(crate) fn actors<'a>(store: &Store, who: impl Into<Who<'a>>) -> Vec<Actor> {
    let Who { user_id, in_session } = who.into();
    let groups = store.cache::<Membership>().by("user", user_id);
    let groups = groups.iter().map(|membership| membership.spec.group_id.clone());
    let vouched = shadow::memberships(store, user_id, in_session);
    let vouched = vouched.iter().map(|membership| membership.spec.group_id.clone());
    let groups: BTreeSet<String> = groups.chain(vouched).collect();
    let groups = groups.into_iter().map(Actor::Group);
    std::iter::once(Actor::User(user_id.to_owned())).chain(groups).collect()
}

/// The assignments of a user, its groups' included.
pub(crate) fn assignments_of<'a>(store: &Store, who: impl Into<Who<'a>>) -> Vec<Arc<Resource<Assignment>>> {
    let cache = store.cache::<Assignment>();
    actors(store, who)
        .iter()
        .flat_map(|actor| cache.by("actor", &actor.as_text()))
        .collect()
}

/// The projects above one, nearest first, without its domain.
pub(crate) fn ancestors(store: &Store, project: &Resource<Project>) -> Vec<Arc<Resource<Project>>> {
    let mut above = Vec::new();
    let mut parent_id = project.spec.parent_id.clone();
    while above.len() < MAX_DEPTH {
        let Some(parent) = store.get::<Project>(&Project::key(&parent_id)) else {
            break;
        };
        if parent.spec.is_domain {
            break;
        }
        parent_id.clone_from(&parent.spec.parent_id);
        above.push(parent);
    }
    above
}

/// The projects below one (or all of a domain), in no order.
pub(crate) fn descendants(store: &Store, id: &str) -> Vec<Arc<Resource<Project>>> {
    let cache = store.cache::<Project>();
    let mut below = cache.by("parent", id);
    let mut at = 0;
    while at < below.len() {
        let children = cache.by("parent", below[at].name());
        below.extend(children);
        at += 1;
    }
    below
}

/// Where an assignment has to be, and whether inherited, to hold on `on`.
fn places(store: &Store, on: &On) -> Vec<(On, bool)> {
    let mut places = vec![(on.clone(), false)];
    let On::Project(id) = on else { return places };
    if let Some(project) = store.get::<Project>(&Project::key(id)) {
        let above = ancestors(store, &project);
        places.extend(
            above
                .iter()
                .map(|ancestor| (On::Project(ancestor.name().to_owned()), true)),
        );
        places.push((On::Domain(domain_of(&project).to_owned()), true));
    }
    places
}

/// The ids of the roles that are assigned to a user so that they hold on `on`, without implied ones.
pub(crate) fn assigned<'a>(store: &Store, who: impl Into<Who<'a>>, on: &On) -> BTreeSet<String> {
    let places = places(store, on);
    let holds = |a: &AssignmentSpec| {
        places
            .iter()
            .any(|(place, inherited)| a.on == *place && a.inherited == *inherited)
    };
    let all = assignments_of(store, who);
    all.iter()
        .filter(|a| holds(&a.spec))
        .map(|a| a.spec.role_id.clone())
        .collect()
}

/// These roles and all that they imply, by id. The value is the role that brought it, itself for those assigned.
pub(crate) fn with_implied(store: &Store, role_ids: &BTreeSet<String>) -> BTreeMap<String, String> {
    let cache = store.cache::<Implication>();
    let mut found: BTreeMap<String, String> = role_ids.iter().map(|id| (id.clone(), id.clone())).collect();
    let mut ahead: Vec<String> = role_ids.iter().cloned().collect();
    while let Some(prior) = ahead.pop() {
        for implication in cache.by("prior", &prior) {
            let implied = &implication.spec.implied_id;
            if !found.contains_key(implied) {
                found.insert(implied.clone(), prior.clone());
                ahead.push(implied.clone());
            }
        }
    }
    found
}

/// The roles of these ids and all they imply, as a token has them: without domains' own roles, by name.
pub(crate) fn in_token(store: &Store, role_ids: &BTreeSet<String>) -> Vec<RoleRef> {
    let expanded = with_implied(store, role_ids);
    let roles = expanded.keys().filter_map(|id| store.get::<Role>(&Role::key(id)));
    let global = roles.filter(|role| role.spec.domain_id.is_empty());
    let mut roles: Vec<RoleRef> = global
        .map(|role| RoleRef {
            id: role.name().to_owned(),
            name: role.spec.name.clone(),
        })
        .collect();
    roles.sort_by(|a, b| a.name.cmp(&b.name));
    roles
}

/// The roles that hold for a user on `on`.
pub(crate) fn roles<'a>(store: &Store, who: impl Into<Who<'a>>, on: &On) -> Vec<RoleRef> {
    in_token(store, &assigned(store, who, on))
}

/// The projects that a user has a role in, by name.
pub(crate) fn projects_of<'a>(store: &Store, who: impl Into<Who<'a>>) -> Vec<Arc<Resource<Project>>> {
    let mut found: BTreeMap<String, Arc<Resource<Project>>> = BTreeMap::new();
    for assignment in assignments_of(store, who) {
        let projects = match (&assignment.spec.on, assignment.spec.inherited) {
            (On::Project(id), false) => store.get::<Project>(&Project::key(id)).into_iter().collect(),
            (On::Project(id) | On::Domain(id), true) => descendants(store, id),
            (On::Domain(_), false) | (On::System, _) => Vec::new(),
        };
        found.extend(projects.into_iter().map(|project| (project.name().to_owned(), project)));
    }
    let mut projects: Vec<_> = found.into_values().filter(|project| !project.spec.is_domain).collect();
    projects.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
    projects
}

/// The domains that a user has a role on, by name.
pub(crate) fn domains_of<'a>(store: &Store, who: impl Into<Who<'a>>) -> Vec<Arc<Resource<Project>>> {
    let all = assignments_of(store, who);
    let ids: BTreeSet<&str> = all
        .iter()
        .filter_map(|assignment| match (&assignment.spec.on, assignment.spec.inherited) {
            (On::Domain(id), false) => Some(id.as_str()),
            _ => None,
        })
        .collect();
    let mut domains: Vec<_> = ids
        .into_iter()
        .filter_map(|id| store.get::<Project>(&Project::key(id)))
        .collect();
    domains.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
    domains
}
