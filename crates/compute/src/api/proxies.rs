//! What Nova had before Glance, Neutron and Cinder: images, networks, volumes, floating addresses, security groups; for clients that
//! still ask it. Gone since microversion 2.36 (image metadata since 2.39). Everything here reads and writes the other
//! domains' resources; their own rules decide.

pub(crate) mod floating_ips;
mod images;
mod networks;
mod removed;
pub(crate) mod security_groups;
mod volumes;

use axum::Router;
use madang_http::{Failure, Microversion};
use madang_identity::Caller;
use madang_store::{ErrorKind, StoreError};

use super::{ComputeApi, input};

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

/// Requires a microversion that has it, and that the caller may do `rule` in its own project; says which that is.
fn allowed<'c>(caller: &'c Caller, version: Microversion, rule: &str) -> Result<&'c str, Failure> {
    input::until(version, LAST)?;
    let project = caller.project()?;
    super::enforce(caller, rule, project)?;
    Ok(project)
}

/// What another domain's rule refused, with the statuses that Nova gave it: what does not fit was the request's fault.
fn refusal(error: StoreError) -> Failure {
    let mut failure = super::failure(error);
    if failure.kind == ErrorKind::Conflict {
        failure.kind = ErrorKind::Invalid;
    }
    failure
}
