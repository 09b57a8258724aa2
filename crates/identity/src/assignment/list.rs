//! `/v3/role_assignments`: who has which role where, as stored or as it works out.

use std::{collections::BTreeSet, sync::Arc};

use axum::{Router, extract::State, response::Response, routing::get};
use http::StatusCode;
use madang_http::{Failure, Query, RequestInfo, json};
use madang_store::{Resource, Store};
use serde_json::{Map, Value, json as value};

use super::{Actor, Assignment, AssignmentSpec, On, effective};
use crate::{
    Caller, Identity,
    api::not_found,
    group::{Group, Membership},
    project::Project,
    role::Role,
    user::User,
};

pub(crate) fn routes() -> Router<Arc<Identity>> {
    Router::new().route("/role_assignments", get(list))
}

/// What a list is narrowed to.
#[derive(Debug, Default)]
struct Filter {
    actor: Option<Actor>,
    role_id: Option<String>,
    on: Option<On>,
    inherited: Option<bool>,
    effective: bool,
    subtree: bool,
}

impl Filter {
    fn read(query: &Query) -> Result<Self, Failure> {
        let text = |name| query.get(name).map(str::to_owned);
        let (user, group) = (text("user.id"), text("group.id"));
        let (project, domain, system) = (text("scope.project.id"), text("scope.domain.id"), text("scope.system"));
        let effective = query.switch("effective");
        if user.is_some() && group.is_some() {
            return Err(Failure::invalid("Specify a user or group, not both"));
        }
        if effective && group.is_some() {
            return Err(Failure::invalid(
                "Combining effective and group filter will always result in an empty list.",
            ));
        }
        if [project.is_some(), domain.is_some(), system.is_some()]
            .iter()
            .filter(|given| **given)
            .count()
            > 1
        {
            return Err(Failure::invalid("Specify a domain or project, not both"));
        }
        let inherited = text("scope.OS-INHERIT:inherited_to");
        if effective && inherited.is_some() && domain.is_some() {
            let message = "Combining effective, domain and inherited filters will always result in an empty list.";
            return Err(Failure::invalid(message));
        }
        let subtree = query.switch("include_subtree");
        if subtree && project.is_none() {
            return Err(Failure::invalid(
                "scope.project.id must be specified if include_subtree is also specified",
            ));
        }
        let system = system.map(|_| On::System);
        Ok(Self {
            actor: user.map(Actor::User).or(group.map(Actor::Group)),
            role_id: text("role.id"),
            on: project.map(On::Project).or(domain.map(On::Domain)).or(system),
            inherited: inherited.map(|to| to == "projects"),
            effective,
            subtree,
        })
    }

    /// Whether an entry is in the list. `tree` are the ids of the project asked for and, where wanted, those below it.
    fn takes(&self, entry: &Entry, tree: &BTreeSet<String>) -> bool {
        let on = match (&self.on, &entry.spec.on) {
            (Some(On::Project(_)), On::Project(id)) => tree.contains(id),
            (Some(wanted), on) => wanted == on,
            (None, _) => true,
        };
        on && self.actor.as_ref().is_none_or(|actor| *actor == entry.spec.actor)
            && self.role_id.as_ref().is_none_or(|id| *id == entry.spec.role_id)
            && self
                .inherited
                .is_none_or(|inherited| inherited == entry.origin.inherited)
    }
}

/// One line of the list.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    /// Who has which role where.
    spec: AssignmentSpec,
    /// The assignment it comes from.
    origin: AssignmentSpec,
    /// The role that implies this one.
    prior: Option<String>,
}

async fn list(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    query: Query,
) -> Result<Response, Failure> {
    let filter = Filter::read(&query)?;
    let store = &identity.store;
    may_list(store, &caller, &filter)?;
    let tree = tree(store, &filter);
    let mut entries = entries(store, &filter);
    entries.retain(|entry| filter.takes(entry, &tree) && is_seen(store, &caller, entry));
    entries.sort();
    entries.dedup_by(|a, b| a.spec == b.spec);
    let names = query.switch("include_names");
    let rendered: Vec<Value> = entries
        .iter()
        .map(|entry| render(store, &info, entry, filter.effective, names))
        .collect();
    let itself = if info.query().is_empty() {
        info.url()
    } else {
        format!("{}?{}", info.url(), info.query())
    };
    let links = value!({ "self": itself, "next": null, "previous": null });
    Ok(json(
        StatusCode::OK,
        &value!({ "role_assignments": rendered, "links": links }),
    ))
}

fn may_list(store: &Store, caller: &Caller, filter: &Filter) -> Result<(), Failure> {
    let own_domain = caller.subject.domain_id().unwrap_or("None");
    if !filter.subtree {
        return caller.enforce("identity:list_role_assignments", &[("target.domain_id", own_domain)]);
    }
    let Some(On::Project(id)) = &filter.on else {
        return Ok(());
    };
    let project = store.get::<Project>(&Project::key(id));
    let domain_id = project
        .as_ref()
        .map_or("None", |project| project.spec.domain_id.as_str());
    let target = [("target.domain_id", domain_id), ("target.project.domain_id", domain_id)];
    caller.enforce("identity:list_role_assignments_for_tree", &target)?;
    project.map(|_| ()).ok_or_else(|| not_found("project", id))
}

/// Who asks with a domain's token sees what is in that domain.
fn is_seen(store: &Store, caller: &Caller, entry: &Entry) -> bool {
    let Some(own) = caller.subject.domain_id() else {
        return true;
    };
    match &entry.spec.on {
        On::Domain(id) => id == own,
        On::Project(id) => store
            .get::<Project>(&Project::key(id))
            .is_some_and(|project| project.spec.domain_id == own),
        On::System => false,
    }
}

fn tree(store: &Store, filter: &Filter) -> BTreeSet<String> {
    let Some(On::Project(id)) = &filter.on else {
        return BTreeSet::new();
    };
    let below = if filter.subtree {
        effective::descendants(store, id)
    } else {
        Vec::new()
    };
    below
        .iter()
        .map(|project| project.name().to_owned())
        .chain([id.clone()])
        .collect()
}

fn entries(store: &Store, filter: &Filter) -> Vec<Entry> {
    let cache = store.cache::<Assignment>();
    let stored = match (&filter.actor, filter.effective) {
        (Some(Actor::User(id)), true) => effective::assignments_of(store, id),
        (Some(actor), _) => cache.by("actor", &actor.as_text()),
        (None, _) => cache.all(),
    };
    let stored = stored.iter().map(|assignment| Entry {
        spec: assignment.spec.clone(),
        origin: assignment.spec.clone(),
        prior: None,
    });
    if filter.effective {
        stored.flat_map(|entry| worked_out(store, &entry)).collect()
    } else {
        stored.collect()
    }
}

/// What an assignment comes to: for each member of its group, in each project that inherits it, each role it implies.
fn worked_out(store: &Store, entry: &Entry) -> Vec<Entry> {
    let actors = match &entry.spec.actor {
        Actor::Group(id) => {
            let memberships = store.cache::<Membership>().by("group", id);
            memberships
                .iter()
                .map(|membership| Actor::User(membership.spec.user_id.clone()))
                .collect()
        }
        user @ Actor::User(_) => vec![user.clone()],
    };
    let places = match (&entry.spec.on, entry.spec.inherited) {
        (On::Project(id) | On::Domain(id), true) => {
            let below = effective::descendants(store, id);
            below
                .iter()
                .map(|project| On::Project(project.name().to_owned()))
                .collect()
        }
        (on, _) => vec![on.clone()],
    };
    let mut roles = effective::with_implied(store, &BTreeSet::from([entry.spec.role_id.clone()]));
    // A domain's own role holds nowhere by itself.
    roles.retain(|id, _| role(store, id).is_some_and(|(_, domain_id)| domain_id.is_empty()));
    let mut found = Vec::new();
    for actor in &actors {
        for on in &places {
            for (role_id, prior) in &roles {
                let spec = AssignmentSpec {
                    actor: actor.clone(),
                    on: on.clone(),
                    role_id: role_id.clone(),
                    inherited: false,
                };
                let prior = (prior != role_id).then(|| prior.clone());
                found.push(Entry {
                    spec,
                    origin: entry.origin.clone(),
                    prior,
                });
            }
        }
    }
    found
}

fn render(store: &Store, info: &RequestInfo, entry: &Entry, effective: bool, names: bool) -> Value {
    let mut links = Map::new();
    links.insert("assignment".into(), link(info, &entry.origin).into());
    if let (Actor::Group(group_id), Actor::User(user_id)) = (&entry.origin.actor, &entry.spec.actor) {
        links.insert(
            "membership".into(),
            format!("{}/v3/groups/{group_id}/users/{user_id}", info.base_url()).into(),
        );
    }
    if let Some(prior) = &entry.prior {
        let url = format!(
            "{}/v3/prior_role/{prior}/implies/{}",
            info.base_url(),
            entry.spec.role_id
        );
        links.insert("prior_role".into(), url.into());
    }
    let (who, actor) = match &entry.spec.actor {
        Actor::User(id) => ("user", named(store, id, names, user)),
        Actor::Group(id) => ("group", named(store, id, names, group)),
    };
    let mut scope = match &entry.spec.on {
        On::Project(id) => value!({ "project": named(store, id, names, project) }),
        On::Domain(id) => value!({ "domain": named(store, id, names, project) }),
        On::System => value!({ "system": { "all": true } }),
    };
    if entry.origin.inherited && (!effective || matches!(entry.spec.on, On::Project(_))) {
        scope["OS-INHERIT:inherited_to"] = "projects".into();
    }
    value!({ "links": links, "role": named(store, &entry.spec.role_id, names, role), "scope": scope, who: actor })
}

fn link(info: &RequestInfo, spec: &AssignmentSpec) -> String {
    let (actor, id) = match &spec.actor {
        Actor::User(id) => ("users", id),
        Actor::Group(id) => ("groups", id),
    };
    let place = match &spec.on {
        On::Project(id) => format!("projects/{id}"),
        On::Domain(id) => format!("domains/{id}"),
        On::System => "system".to_owned(),
    };
    let base = format!("{}/v3", info.base_url());
    let tail = format!("{place}/{actor}/{id}/roles/{}", spec.role_id);
    if spec.inherited {
        format!("{base}/OS-INHERIT/{tail}/inherited_to_projects")
    } else {
        format!("{base}/{tail}")
    }
}

/// The name and the domain's id of something; a domain's id is empty where there is none.
type Lookup = fn(&Store, &str) -> Option<(String, String)>;

fn named(store: &Store, id: &str, names: bool, lookup: Lookup) -> Value {
    let Some((name, domain_id)) = lookup(store, id).filter(|_| names) else {
        return value!({ "id": id });
    };
    if domain_id.is_empty() {
        return value!({ "id": id, "name": name });
    }
    let domain = store
        .get::<Project>(&Project::key(&domain_id))
        .map(|domain| domain.spec.name.clone());
    value!({ "id": id, "name": name, "domain": { "id": domain_id, "name": domain } })
}

fn user(store: &Store, id: &str) -> Option<(String, String)> {
    store
        .get::<User>(&User::key(id))
        .map(|user| (user.spec.name.clone(), user.spec.domain_id.clone()))
}

fn group(store: &Store, id: &str) -> Option<(String, String)> {
    store
        .get::<Group>(&Group::key(id))
        .map(|group| (group.spec.name.clone(), group.spec.domain_id.clone()))
}

fn project(store: &Store, id: &str) -> Option<(String, String)> {
    store
        .get::<Project>(&Project::key(id))
        .map(|project| (project.spec.name.clone(), project.spec.domain_id.clone()))
}

fn role(store: &Store, id: &str) -> Option<(String, String)> {
    store
        .get::<Role>(&Role::key(id))
        .map(|role: Arc<Resource<Role>>| (role.spec.name.clone(), role.spec.domain_id.clone()))
}
