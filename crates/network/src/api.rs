//! Neutron v2.0 over this crate's verbs: the router, and what all resources share.
//!
//! Each resource says in its own `api.rs` which attributes it has ([`attribute`]), how it is shown, and how a request
//! becomes a verb ([`resource::Exposed`]); the handlers for lists, pages, filters and bodies are written once.

mod agents;
pub(crate) mod attribute;
mod availability;
pub(crate) mod below;
pub(crate) mod convert;
mod extensions;
pub(crate) mod failure;
pub(crate) mod filter;
mod policy;
pub(crate) mod resource;
mod tags;
mod versions;
pub(crate) mod view;

use axum::{
    Router,
    routing::{get, put},
};
use madang_http::{Face, Metrics, Shape};
use madang_store::Store;

pub use policy::POLICY;

use crate::{
    AddressGroup, AddressScope, Flavor, FloatingIp, MeteringLabel, MeteringRule, Network, Port, QosPolicy, RbacPolicy,
    Rule, RuleTemplate, SecurityGroup, ServiceProfile, Subnet, SubnetPool, Trunk, address_group, auto_topology, flavor,
    floating_ip, qos, quota, router as routers, subnet_pool, trunk,
};

/// How this face presents itself.
const FACE: Face = Face::new("network", Shape::Neutron);

/// What handlers work with.
#[derive(Clone)]
pub struct NetworkApi {
    /// The store.
    pub store: Store,
}

/// Neutron's router, to be nested at `/network`. `authenticate` wraps the part that needs a token.
pub fn router(api: NetworkApi, metrics: &Metrics, authenticate: impl FnOnce(Router) -> Router) -> Router {
    let resources = Router::new()
        .merge(resource::routes::<Network>("networks"))
        .merge(resource::routes::<Subnet>("subnets"))
        .merge(resource::routes::<SubnetPool>("subnetpools"))
        .merge(resource::routes::<Port>("ports"))
        .merge(resource::routes::<SecurityGroup>("security-groups"))
        .merge(resource::routes::<Rule>("security-group-rules"))
        .merge(resource::routes::<RuleTemplate>("default-security-group-rules"))
        .merge(resource::routes::<MeteringLabel>("metering/metering-labels"))
        .merge(resource::routes::<MeteringRule>("metering/metering-label-rules"))
        .merge(resource::routes::<Flavor>("flavors"))
        .merge(resource::routes::<ServiceProfile>("service_profiles"))
        .merge(flavor::api::routes())
        .merge(resource::routes::<crate::Router>("routers"))
        .merge(resource::routes::<FloatingIp>("floatingips"))
        .merge(resource::routes::<Trunk>("trunks"))
        .merge(resource::routes::<QosPolicy>("qos/policies"))
        .merge(qos::rule_api::routes())
        .merge(floating_ip::forwarding_api::routes())
        .merge(resource::routes::<RbacPolicy>("rbac-policies"))
        .merge(resource::routes::<AddressScope>("address-scopes"))
        .merge(resource::routes::<AddressGroup>("address-groups"));
    let actions = Router::new()
        .route("/routers/{id}/add_router_interface", put(routers::api::add_interface))
        .route(
            "/routers/{id}/remove_router_interface",
            put(routers::api::remove_interface),
        )
        .route("/routers/{id}/add_extraroutes", put(routers::api::add_routes))
        .route("/routers/{id}/remove_extraroutes", put(routers::api::remove_routes))
        .route("/subnetpools/{id}/add_prefixes", put(subnet_pool::api::add_prefixes))
        .route(
            "/subnetpools/{id}/remove_prefixes",
            put(subnet_pool::api::remove_prefixes),
        )
        .route("/trunks/{id}/get_subports", get(trunk::api::subports))
        .route("/trunks/{id}/add_subports", put(trunk::api::add_subports))
        .route("/trunks/{id}/remove_subports", put(trunk::api::remove_subports))
        .route("/address-groups/{id}/add_addresses", put(address_group::api::add))
        .route("/address-groups/{id}/remove_addresses", put(address_group::api::remove))
        .route("/quotas", get(quota::api::list))
        .route(
            "/quotas/{project}",
            get(quota::api::show).put(quota::api::update).delete(quota::api::reset),
        )
        .route("/quotas/{project}/default", get(quota::api::default))
        .route("/quotas/{project}/details", get(quota::api::details));
    let about = Router::new()
        .route(
            "/auto-allocated-topology/{project}",
            get(auto_topology::api::show).delete(auto_topology::api::delete),
        )
        .route("/agents", get(agents::list))
        .route(
            "/agents/{id}",
            get(agents::show).put(agents::update).delete(agents::delete),
        )
        .route("/availability_zones", get(agents::zones))
        .route("/network-ip-availabilities", get(availability::list))
        .route("/network-ip-availabilities/{id}", get(availability::show))
        .route("/floatingip-pools", get(availability::floating_pools))
        .route("/service-providers", get(versions::service_providers))
        .route("/extensions", get(extensions::list))
        .route("/extensions/{alias}", get(extensions::show));
    let v2 = resources.merge(actions).merge(tags::routes()).merge(about);
    let v2 = v2.with_state(api);
    let v2 = Router::new()
        .nest("/v2.0", v2)
        .route("/v2.0", get(versions::resources))
        .route("/v2.0/", get(versions::resources));
    let public = Router::new().route("/", get(versions::list));
    FACE.wrap(authenticate(v2).merge(public), metrics)
}
