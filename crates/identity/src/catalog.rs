//! The service catalog: regions, services, and the endpoints at which clients find them.

pub mod api;
pub mod filter;
pub mod render;
pub mod rules;

use madang_store::{Indexes, Key, Kind};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The kind of regions. `metadata.name` is the id, which users choose.
#[derive(Debug)]
pub struct Region;

/// What a region is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RegionSpec {
    /// Free text.
    #[serde(default)]
    pub description: String,
    /// The region it is a part of.
    #[serde(default)]
    pub parent_region_id: Option<String>,
    /// What clients keep beside.
    #[serde(default)]
    pub extra: Map<String, Value>,
}

impl Kind for Region {
    const NAME: &'static str = "regions";
    type Spec = RegionSpec;
    type Status = ();

    fn indexes() -> Indexes<Self> {
        Indexes::new().on("parent", |r| r.spec.parent_region_id.iter().cloned().collect())
    }
}

impl Region {
    /// Where a region is stored.
    pub fn key(id: &str) -> Key {
        Key::new(Self::NAME, "", "", id)
    }
}

/// The kind of services.
#[derive(Debug)]
pub struct Service;

/// What a service is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServiceSpec {
    /// What clients look for: `compute`, `network`.
    #[serde(rename = "type")]
    pub service_type: String,
    /// What users call it: `nova`.
    #[serde(default)]
    pub name: Option<String>,
    /// Free text.
    #[serde(default)]
    pub description: Option<String>,
    /// Whether it is in the catalog.
    pub enabled: bool,
    /// What clients keep beside.
    #[serde(default)]
    pub extra: Map<String, Value>,
}

impl Kind for Service {
    const NAME: &'static str = "services";
    type Spec = ServiceSpec;
    type Status = ();

    fn indexes() -> Indexes<Self> {
        Indexes::new().on("type", |r| vec![r.spec.service_type.clone()])
    }
}

impl Service {
    /// Where a service is stored.
    pub fn key(id: &str) -> Key {
        Key::new(Self::NAME, "", "", id)
    }
}

/// The kind of endpoints.
#[derive(Debug)]
pub struct Endpoint;

/// Where a service is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EndpointSpec {
    /// The service.
    pub service_id: String,
    /// `public`, `internal` or `admin`.
    pub interface: String,
    /// The region.
    #[serde(default)]
    pub region_id: Option<String>,
    /// A URL; `$(project_id)s` and `%(project_id)s` become the token's project.
    pub url: String,
    /// Whether it is in the catalog.
    pub enabled: bool,
    /// What clients keep beside, such as `name`.
    #[serde(default)]
    pub extra: Map<String, Value>,
}

impl Kind for Endpoint {
    const NAME: &'static str = "endpoints";
    type Spec = EndpointSpec;
    type Status = ();

    fn indexes() -> Indexes<Self> {
        Indexes::<Self>::new()
            .on("service", |r| vec![r.spec.service_id.clone()])
            .on("region", |r| r.spec.region_id.iter().cloned().collect())
    }
}

impl Endpoint {
    /// Where an endpoint is stored.
    pub fn key(id: &str) -> Key {
        Key::new(Self::NAME, "", "", id)
    }
}
