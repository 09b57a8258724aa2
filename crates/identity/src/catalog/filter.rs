//! Endpoint filters: which endpoints the catalog of a project shows, one by one or by groups that name what they hold.
//!
//! A project that nothing was chosen for sees all endpoints.

pub(crate) mod api;

use std::{collections::BTreeSet, sync::Arc};

use madang_http::Failure;
use madang_store::{Indexes, Key, Kind, Metadata, Op, Resource, Store, StoreBuilder};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Endpoint, EndpointSpec};
use crate::{Caller, Identity, api::not_found, cascade::remove_all, project::Project};

/// The kind of endpoint groups.
#[derive(Debug)]
pub struct EndpointGroup;

/// Endpoints that have something in common.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EndpointGroupSpec {
    /// What users call it.
    pub name: String,
    /// Free text.
    #[serde(default)]
    pub description: Option<String>,
    /// What its endpoints have: any of `service_id`, `region_id` and `interface`.
    pub filters: Map<String, Value>,
}

/// What a group can ask of endpoints.
pub(crate) const FILTERS: [&str; 3] = ["service_id", "region_id", "interface"];

impl Kind for EndpointGroup {
    const NAME: &'static str = "endpoint-groups";
    type Spec = EndpointGroupSpec;
    type Status = ();
}

impl EndpointGroup {
    /// Where an endpoint group is stored.
    pub fn key(id: &str) -> Key {
        Key::new(Self::NAME, "", "", id)
    }
}

impl EndpointGroupSpec {
    /// Whether an endpoint has everything that the group asks for.
    pub fn holds(&self, endpoint: &EndpointSpec) -> bool {
        self.filters.iter().all(|(field, wanted)| {
            let is = match field.as_str() {
                "service_id" => Some(endpoint.service_id.as_str()),
                "region_id" => endpoint.region_id.as_deref(),
                "interface" => Some(endpoint.interface.as_str()),
                _ => None,
            };
            is.is_some() && is == wanted.as_str()
        })
    }
}

/// The kind of choices: one endpoint, or one group of them, for one project.
#[derive(Debug)]
pub struct EndpointChoice;

/// What is chosen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Chosen {
    /// An endpoint, by id.
    Endpoint(String),
    /// An endpoint group, by id.
    Group(String),
}

/// What is chosen for whom.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EndpointChoiceSpec {
    /// The project.
    pub project_id: String,
    /// What it sees.
    pub chosen: Chosen,
}

impl Chosen {
    /// As the index `chosen` has it.
    pub(crate) fn as_text(&self) -> String {
        match self {
            Self::Endpoint(id) => format!("endpoint:{id}"),
            Self::Group(id) => format!("group:{id}"),
        }
    }
}

impl Kind for EndpointChoice {
    const NAME: &'static str = "endpoint-choices";
    type Spec = EndpointChoiceSpec;
    type Status = ();

    fn indexes() -> Indexes<Self> {
        Indexes::<Self>::new()
            .on("project", |r| vec![r.spec.project_id.clone()])
            .on("chosen", |r| vec![r.spec.chosen.as_text()])
    }
}

impl EndpointChoice {
    /// Where a choice is stored.
    pub fn key(project_id: &str, chosen: &Chosen) -> Key {
        Key::new(Self::NAME, "", "", format!("{project_id}.{}", chosen.as_text()))
    }
}

pub(crate) fn register(builder: &mut StoreBuilder) {
    builder.kind::<EndpointChoice>();
    builder.rule::<EndpointGroup>(|tx, op| {
        let Op::Remove(group) = op else { return Ok(()) };
        let chosen = Chosen::Group(group.name().to_owned());
        remove_all(tx, tx.store().cache::<EndpointChoice>().by("chosen", &chosen.as_text()))
    });
    builder.rule::<Endpoint>(|tx, op| {
        let Op::Remove(endpoint) = op else { return Ok(()) };
        let chosen = Chosen::Endpoint(endpoint.name().to_owned());
        remove_all(tx, tx.store().cache::<EndpointChoice>().by("chosen", &chosen.as_text()))
    });
    builder.rule::<Project>(|tx, op| {
        let Op::Remove(project) = op else { return Ok(()) };
        remove_all(tx, tx.store().cache::<EndpointChoice>().by("project", project.name()))
    });
}

/// The ids of the endpoints that a project sees; none where nothing was chosen for it, and it sees all.
pub(crate) fn seen_by(store: &Store, project_id: &str) -> Option<BTreeSet<String>> {
    let choices = store.cache::<EndpointChoice>().by("project", project_id);
    if choices.is_empty() {
        return None;
    }
    let mut seen = BTreeSet::new();
    for choice in choices {
        match &choice.spec.chosen {
            Chosen::Endpoint(id) => _ = seen.insert(id.clone()),
            Chosen::Group(id) => {
                let endpoints = store
                    .get::<EndpointGroup>(&EndpointGroup::key(id))
                    .map(|group| in_group(store, &group));
                seen.extend(
                    endpoints
                        .unwrap_or_default()
                        .iter()
                        .map(|endpoint| endpoint.name().to_owned()),
                );
            }
        }
    }
    Some(seen)
}

/// The endpoints that a group holds now.
pub(crate) fn in_group(store: &Store, group: &Resource<EndpointGroup>) -> Vec<Arc<Resource<Endpoint>>> {
    let mut endpoints = store.cache::<Endpoint>().all();
    endpoints.retain(|endpoint| group.spec.holds(&endpoint.spec));
    endpoints.sort_by(|a, b| a.name().cmp(b.name()));
    endpoints
}

/// Chooses an endpoint or a group for a project. Doing it again is fine.
///
/// # Errors
/// 403 for policy, 404 where either is missing.
pub async fn choose(
    identity: &Identity,
    caller: &Caller,
    rule: &str,
    project_id: &str,
    chosen: &Chosen,
) -> Result<(), Failure> {
    caller.enforce(rule, &[])?;
    let made = identity.store.transact(caller.cause(), |tx| {
        let project = tx
            .get::<Project>(&Project::key(project_id))
            .ok_or_else(|| not_found("project", project_id))?;
        tx.expect(&*project)?;
        match chosen {
            Chosen::Endpoint(id) => {
                tx.expect(
                    &*tx.get::<Endpoint>(&Endpoint::key(id))
                        .ok_or_else(|| not_found("endpoint", id))?,
                )?;
            }
            Chosen::Group(id) => {
                let group = tx.get::<EndpointGroup>(&EndpointGroup::key(id));
                tx.expect(&*group.ok_or_else(|| not_found("endpoint group", id))?)?;
            }
        }
        let key = EndpointChoice::key(project_id, chosen);
        if tx.get::<EndpointChoice>(&key).is_none() {
            let spec = EndpointChoiceSpec {
                project_id: project_id.to_owned(),
                chosen: chosen.clone(),
            };
            tx.create(Resource::<EndpointChoice>::new(Metadata::new("", key.name), spec))?;
        }
        Ok::<_, Failure>(())
    });
    made.await
}

/// Takes a choice back.
///
/// # Errors
/// 403 for policy, 404 where it was not made.
pub async fn choose_no_more(
    identity: &Identity,
    caller: &Caller,
    rule: &str,
    project_id: &str,
    chosen: &Chosen,
) -> Result<(), Failure> {
    caller.enforce(rule, &[])?;
    let taken = identity.store.transact(caller.cause(), |tx| {
        let choice = tx.get::<EndpointChoice>(&EndpointChoice::key(project_id, chosen));
        let choice = choice.ok_or_else(|| not_chosen(project_id, chosen))?;
        Ok::<_, Failure>(tx.delete(&choice)?)
    });
    taken.await
}

/// Whether a choice was made: says so, or why not.
///
/// # Errors
/// 403 for policy, 404 where it was not made.
pub fn check_chosen(
    identity: &Identity,
    caller: &Caller,
    rule: &str,
    project_id: &str,
    chosen: &Chosen,
) -> Result<(), Failure> {
    caller.enforce(rule, &[])?;
    let choice = identity
        .store
        .get::<EndpointChoice>(&EndpointChoice::key(project_id, chosen));
    choice.map(|_| ()).ok_or_else(|| not_chosen(project_id, chosen))
}

fn not_chosen(project_id: &str, chosen: &Chosen) -> Failure {
    Failure::not_found(format!(
        "{} is not associated with project {project_id}.",
        chosen.as_text()
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_group_holds_what_has_all_it_asks_for() {
        let endpoint = EndpointSpec {
            service_id: "s".to_owned(),
            interface: "public".to_owned(),
            region_id: Some("east".to_owned()),
            ..EndpointSpec::default()
        };
        for (filters, holds) in [
            (json!({}), true),
            (json!({ "service_id": "s", "interface": "public" }), true),
            (json!({ "service_id": "s", "interface": "admin" }), false),
            (json!({ "region_id": "west" }), false),
            (json!({ "color": "red" }), false),
        ] {
            let filters = filters.as_object().unwrap().clone();
            let group = EndpointGroupSpec {
                name: "g".to_owned(),
                description: None,
                filters,
            };
            assert_eq!(group.holds(&endpoint), holds, "{:?}", group.filters);
        }
    }
}
