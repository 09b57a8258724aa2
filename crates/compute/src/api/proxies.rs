//! What Nova had before Glance, Neutron and Cinder: images, networks, volumes, floating addresses, security groups; for clients that
//! still ask it. Gone since microversion 2.36 (image metadata since 2.39). Everything here reads and writes the other
//! domains' resources; their own rules decide.

mod collection;
pub(crate) mod floating_ips;
mod images;
mod networks;
mod removed;
pub(crate) mod security_groups;
mod volumes;

use axum::Router;
use madang_http::Failure;
use madang_store::{ErrorKind, StoreError};

use super::ComputeApi;

/// The last microversion that has these.
const LAST: u16 = 35;

/// The routes.
pub(super) fn routes() -> Router<ComputeApi> {
    images::routes()
        .merge(networks::routes())
        .merge(floating_ips::routes())
        .merge(security_groups::routes())
        .merge(volumes::routes())
        .merge(removed::routes())
}

/// What another domain's rule refused, with the statuses that Nova gave it: what does not fit was the request's fault.
fn refusal(error: StoreError) -> Failure {
    let mut failure = super::failure(error);
    if failure.kind == ErrorKind::Conflict {
        failure.kind = ErrorKind::Invalid;
    }
    failure
}
