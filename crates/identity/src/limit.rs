//! Unified limits: how much of a resource of a service a project may have.
//!
//! A registered limit says what holds for everybody; a limit says what holds for one project or domain instead. Services
//! ask [`unified`], where operators want that.

pub(crate) mod api;
pub mod rules;
pub mod unified;

use madang_store::{Indexes, Key, Kind, Resource, Store};
use serde::{Deserialize, Serialize};

use crate::catalog::Service;

/// As a limit, it means that there is none.
pub const UNLIMITED: i64 = -1;

/// How limits of projects relate to those above them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Model {
    /// They do not.
    #[default]
    Flat,
    /// No project's limit is above its domain's, and no more than two projects stand in a line below a domain.
    StrictTwoLevel,
}

impl Model {
    /// Keystone's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Flat => "flat",
            Self::StrictTwoLevel => "strict_two_level",
        }
    }

    fn description(self) -> &'static str {
        match self {
            Self::Flat => "Limit enforcement and validation does not take project hierarchy into consideration.",
            Self::StrictTwoLevel => "This model requires project hierarchy never exceeds a depth of two",
        }
    }

    /// How many projects stand in a line below a domain at most, where it matters.
    pub(crate) fn max_depth(self) -> Option<usize> {
        (self == Self::StrictTwoLevel).then_some(2)
    }
}

/// What a limit is on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct What {
    /// The service, by id.
    pub service_id: String,
    /// The region; none for all of them.
    #[serde(default)]
    pub region_id: Option<String>,
    /// The resource, in the service's words: `servers`.
    pub resource_name: String,
}

impl What {
    fn as_text(&self) -> String {
        let region = self.region_id.as_deref().unwrap_or_default();
        format!("{}\n{region}\n{}", self.service_id, self.resource_name)
    }
}

/// The kind of registered limits.
#[derive(Debug)]
pub struct RegisteredLimit;

/// What holds for every project.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RegisteredLimitSpec {
    /// On what.
    #[serde(flatten)]
    pub what: What,
    /// How many; [`UNLIMITED`] for any number.
    pub default_limit: i64,
    /// Free text.
    #[serde(default)]
    pub description: Option<String>,
}

impl Kind for RegisteredLimit {
    const NAME: &'static str = "registered-limits";
    type Spec = RegisteredLimitSpec;
    type Status = ();

    fn indexes() -> Indexes<Self> {
        Indexes::<Self>::new()
            .on("name", |r| vec![r.spec.what.as_text()])
            .on("service", |r| vec![r.spec.what.service_id.clone()])
    }
}

impl RegisteredLimit {
    /// Where a registered limit is stored.
    pub fn key(id: &str) -> Key {
        Key::new(Self::NAME, "", "", id)
    }
}

/// The kind of limits.
#[derive(Debug)]
pub struct Limit;

/// What holds for one project or domain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LimitSpec {
    /// On what.
    #[serde(flatten)]
    pub what: What,
    /// The project it is for.
    #[serde(default)]
    pub project_id: Option<String>,
    /// The domain it is for; there is one of both.
    #[serde(default)]
    pub domain_id: Option<String>,
    /// How many; [`UNLIMITED`] for any number.
    pub resource_limit: i64,
    /// Free text.
    #[serde(default)]
    pub description: Option<String>,
}

impl LimitSpec {
    /// The project or the domain it is for.
    pub(crate) fn owner(&self) -> &str {
        let owner = self.project_id.as_deref().or(self.domain_id.as_deref());
        owner.unwrap_or_default()
    }

    fn as_text(&self) -> String {
        key_of(self.owner(), &self.what)
    }
}

fn key_of(owner: &str, what: &What) -> String {
    format!("{owner}\n{}", what.as_text())
}

impl Kind for Limit {
    const NAME: &'static str = "limits";
    type Spec = LimitSpec;
    type Status = ();

    fn indexes() -> Indexes<Self> {
        Indexes::<Self>::new()
            .on("name", |r| vec![r.spec.as_text()])
            .on("what", |r| vec![r.spec.what.as_text()])
            .on("owner", |r| vec![r.spec.owner().to_owned()])
    }
}

impl Limit {
    /// Where a limit is stored.
    pub fn key(id: &str) -> Key {
        Key::new(Self::NAME, "", "", id)
    }
}

/// How many of a resource a project may have: its own limit, else what is registered for everybody; in the region, else
/// where no region was named. None where nothing is registered, and the service's own default holds; [`UNLIMITED`] for
/// any number.
///
/// # Example
/// `of_project(&store, "compute", Some("RegionOne"), "servers", &project_id)`
pub fn of_project(
    store: &Store,
    service_type: &str,
    region_id: Option<&str>,
    resource_name: &str,
    project_id: &str,
) -> Option<i64> {
    let services = store.cache::<Service>().by("type", service_type);
    let regions = region_id.into_iter().map(Some).chain([None]);
    for region in regions {
        for service in &services {
            let what = What {
                service_id: service.name().to_owned(),
                region_id: region.map(str::to_owned),
                resource_name: resource_name.to_owned(),
            };
            let registered = first::<RegisteredLimit>(store, &what.as_text());
            if let Some(registered) = registered {
                let own = first::<Limit>(store, &key_of(project_id, &what));
                return Some(own.map_or(registered.spec.default_limit, |own| own.spec.resource_limit));
            }
        }
    }
    None
}

fn first<K: Kind>(store: &Store, name: &str) -> Option<std::sync::Arc<Resource<K>>> {
    store.cache::<K>().by("name", name).into_iter().next()
}
