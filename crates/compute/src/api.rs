//! Nova's API over this crate's verbs: the router, its versions, and what all handlers share.

mod extensions;
mod hosts;
pub(crate) mod input;
mod policy;
pub(crate) mod proxies;
mod queries;
mod usage;
mod versions;

use std::sync::Arc;

use axum::{
    Router,
    routing::{any, delete, get, post},
};
pub(crate) use madang_http::write_failure as failure;
use madang_http::{Face, Failure, Metrics, Microversion, Microversions, RequestInfo, Shape};
use madang_identity::Caller;
use madang_store::Store;

pub use policy::POLICY;

use crate::{
    aggregate,
    console::{self, Consoles},
    flavor, group, keypair, quota,
    reach::Reach,
    server,
    server::control::Options,
};

/// The newest microversion spoken.
pub const NEWEST: Microversion = Microversion(2, 104);
/// The oldest, and what a request without the header gets.
pub const OLDEST: Microversion = Microversion(2, 1);

/// What a request to `/v2` gets.
const LEGACY: Microversion = Microversion(2, 0);

/// What handlers work with.
#[derive(Clone)]
pub struct ComputeApi {
    /// The store.
    pub store: Store,
    /// Where console output is read from.
    pub consoles: Arc<dyn Consoles>,
    /// The drivers of this process's hosts, for calls that are answered at once.
    pub reach: Reach,
    /// What the operator chose.
    pub options: Options,
}

/// The router, to be nested at `/compute`. `authenticate` wraps the part that needs a token.
pub fn router(api: ComputeApi, metrics: &Metrics, authenticate: impl FnOnce(Router) -> Router) -> Router {
    let servers = Router::new()
        .route("/servers", get(server::api::list).post(server::api::create))
        .route("/servers/detail", get(server::api::detail))
        .route(
            "/servers/{id}",
            get(server::api::show)
                .put(server::api::update)
                .delete(server::api::delete),
        )
        .route("/servers/{id}/action", post(server::api::act))
        .route("/servers/{id}/ips", get(server::api::addresses))
        .route("/servers/{id}/ips/{network}", get(server::api::network_addresses))
        .route(
            "/servers/{id}/metadata",
            get(server::metadata::list)
                .post(server::metadata::merge)
                .put(server::metadata::replace),
        )
        .route(
            "/servers/{id}/metadata/{key}",
            get(server::metadata::show)
                .put(server::metadata::set)
                .delete(server::metadata::remove),
        )
        .route(
            "/servers/{id}/tags",
            get(server::tags::list)
                .put(server::tags::replace)
                .delete(server::tags::clear),
        )
        .route(
            "/servers/{id}/tags/{tag}",
            get(server::tags::show)
                .put(server::tags::add)
                .delete(server::tags::remove),
        )
        .route(
            "/servers/{id}/os-interface",
            get(server::interfaces::list).post(server::interfaces::attach),
        )
        .route(
            "/servers/{id}/os-interface/{port}",
            get(server::interfaces::show).delete(server::interfaces::detach),
        )
        .route("/servers/{id}/remote-consoles", post(console::api::create))
        .route(
            "/servers/{id}/os-security-groups",
            get(server::interfaces::security_groups),
        )
        .route(
            "/servers/{id}/os-volume_attachments",
            get(server::volumes::api::list).post(server::volumes::api::attach),
        )
        .route(
            "/servers/{id}/os-volume_attachments/{volume}",
            get(server::volumes::api::show)
                .put(server::volumes::api::update)
                .delete(server::volumes::api::detach),
        )
        .route(
            "/servers/{id}/os-server-password",
            get(server::password::show).delete(server::password::clear),
        )
        .route("/servers/{id}/os-instance-actions", get(server::api::actions::list))
        .route(
            "/servers/{id}/os-instance-actions/{request}",
            get(server::api::actions::show),
        )
        .route("/servers/{id}/migrations", get(server::api::migrations::of_server))
        .route(
            "/servers/{id}/migrations/{migration}",
            get(server::api::migrations::show).delete(server::api::migrations::abort),
        )
        .route(
            "/servers/{id}/migrations/{migration}/action",
            post(server::api::migrations::act),
        )
        .route(
            "/servers/{id}/shares",
            get(server::shares::list).post(server::shares::attach),
        )
        .route(
            "/servers/{id}/shares/{share}",
            get(server::shares::show).delete(server::shares::detach),
        );
    let sizes = Router::new()
        .route("/flavors", get(flavor::api::list).post(flavor::api::create))
        .route("/flavors/detail", get(flavor::api::detail))
        .route(
            "/flavors/{id}",
            get(flavor::api::show)
                .put(flavor::api::update)
                .delete(flavor::api::delete),
        )
        .route("/flavors/{id}/action", post(flavor::api::act))
        .route("/flavors/{id}/os-flavor-access", get(flavor::api::access))
        .route(
            "/flavors/{id}/os-extra_specs",
            get(flavor::specs::list).post(flavor::specs::merge),
        )
        .route(
            "/flavors/{id}/os-extra_specs/{key}",
            get(flavor::specs::show)
                .put(flavor::specs::set)
                .delete(flavor::specs::remove),
        )
        .route("/os-server-groups", get(group::api::list).post(group::api::create))
        .route(
            "/os-server-groups/{id}",
            get(group::api::show).delete(group::api::delete),
        )
        .route("/os-keypairs", get(keypair::api::list).post(keypair::api::create))
        .route(
            "/os-keypairs/{name}",
            get(keypair::api::show).delete(keypair::api::delete),
        );
    let operations = Router::new()
        .route("/os-migrations", get(server::api::migrations::list))
        .route("/os-server-external-events", post(server::api::external::events))
        .route(
            "/os-assisted-volume-snapshots",
            post(server::api::external::create_snapshot),
        )
        .route(
            "/os-assisted-volume-snapshots/{id}",
            delete(server::api::external::delete_snapshot),
        )
        .route("/os-console-auth-tokens/{token}", get(console::api::token));
    let door = console::door::router(api.clone());
    let all = servers.merge(sizes).merge(operations).merge(around());
    let authenticated = authenticate(queries::checked(all).with_state(api));
    let microversions = Microversions::new("compute", OLDEST, NEWEST).legacy("x-openstack-nova-api-version");
    // The API before microversions: the same calls in their oldest form.
    let v2 = authenticated
        .clone()
        .merge(Router::new().route("/", any(versions::v2)))
        .layer(axum::Extension(LEGACY));
    let v21 = microversions.wrap(authenticated.merge(Router::new().route("/", any(versions::v21))));
    let all = Router::new()
        .route("/", get(versions::all))
        // Nested routes have no slash at their end, and clients ask with it.
        .route("/v2.1/", get(versions::v21))
        .route("/v2/", get(versions::v2))
        .nest("/v2.1", v21)
        .nest("/v2", v2)
        .merge(door);
    Face::new("compute", Shape::Nova)
        .request_id_alias("x-compute-request-id")
        .wrap(all, metrics)
}

/// What is around servers, for operators mostly. Each subject has its own routes.
fn around() -> Router<ComputeApi> {
    aggregate::api::routes()
        .merge(hosts::routes())
        .merge(quota::api::routes())
        .merge(extensions::routes())
        .merge(proxies::routes())
        .merge(usage::routes())
        .merge(server::diagnostics::routes())
        .merge(server::api::volumes_boot())
}

/// Where the service is, as the client names it: what links start with.
pub(crate) fn base(info: &RequestInfo) -> String {
    let url = info.url();
    let end = url.find("/v2").unwrap_or(url.len());
    url[..end].to_owned()
}

/// Requires that a caller may do `rule` to what belongs to `project`, which it may know of.
pub(crate) fn enforce(caller: &Caller, rule: &str, project: &str) -> Result<(), Failure> {
    caller.enforce_in(rule, project)
}
