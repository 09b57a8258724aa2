//! What may be done to registered limits and limits.

use std::sync::Arc;

use madang_http::Failure;
use madang_store::{ErrorKind, Metadata, Op, Rejection, Resource, StoreBuilder, StoreError, Tx};

use super::{Limit, LimitSpec, Model, RegisteredLimit, RegisteredLimitSpec, UNLIMITED, What, key_of, unified};
use crate::{
    Caller, Identity,
    api::not_found,
    assignment::effective,
    cascade::remove_all,
    catalog::{Region, Service},
    names,
    project::Project,
};

pub(crate) fn register(builder: &mut StoreBuilder) {
    unified::know(builder);
    builder.rule::<RegisteredLimit>(|tx, op| {
        let describe = |_: &RegisteredLimitSpec| "registered_limit - Duplicate entry".to_owned();
        names::keep_unique(tx, &op, |spec| spec.what.as_text(), describe)?;
        match op {
            Op::Create(new) => check_what(tx, &new.spec.what, "registered_limit"),
            Op::Update { old, new } if old.spec.what != new.spec.what => {
                check_unused(tx, old)?;
                check_what(tx, &new.spec.what, "registered_limit")
            }
            Op::Update { .. } => Ok(()),
            Op::Remove(old) => check_unused(tx, old),
        }
    });
    builder.rule::<Limit>(|tx, op| {
        names::keep_unique(tx, &op, LimitSpec::as_text, |_| "limit - Duplicate entry".to_owned())?;
        match op {
            Op::Create(new) => {
                check_what(tx, &new.spec.what, "limit")?;
                check_registered(tx, &new.spec.what)
            }
            Op::Update { .. } | Op::Remove(_) => Ok(()),
        }
    });
    builder.rule::<Project>(|tx, op| {
        let Op::Remove(project) = op else { return Ok(()) };
        remove_all(tx, tx.store().cache::<Limit>().by("owner", project.name()))
    });
}

fn check_what(tx: &mut Tx<'_>, what: &What, target: &str) -> Result<(), StoreError> {
    let service = tx.get::<Service>(&Service::key(&what.service_id));
    let service = service.ok_or_else(|| unknown("service_id", target))?;
    tx.expect(&*service)?;
    if let Some(id) = &what.region_id {
        let region = tx.get::<Region>(&Region::key(id));
        let region = region.ok_or_else(|| unknown("region_id", target))?;
        tx.expect(&*region)?;
    }
    Ok(())
}

/// Keystone's answer to a reference to something that is not there.
fn unknown(attribute: &'static str, target: &str) -> StoreError {
    let message = format!(
        "Expecting to find {attribute} in {target}. The server could not comply with the request since it is either \
         malformed or otherwise incorrect. The client is assumed to be in error."
    );
    Rejection::new(ErrorKind::Invalid, "ValidationError", message)
        .at(attribute)
        .into()
}

fn check_registered(tx: &mut Tx<'_>, what: &What) -> Result<(), StoreError> {
    let all = tx.store().cache::<RegisteredLimit>().by("name", &what.as_text());
    let registered = all.iter().find_map(|known| tx.get::<RegisteredLimit>(&known.key()));
    match registered {
        Some(registered) => tx.expect(&*registered),
        None => {
            let message = "Unable to create a limit that has no corresponding registered limit.";
            Err(Rejection::new(ErrorKind::Forbidden, "NoLimitReference", message).into())
        }
    }
}

fn check_unused(tx: &Tx<'_>, registered: &Resource<RegisteredLimit>) -> Result<(), StoreError> {
    let what = registered.spec.what.as_text();
    if tx.store().cache::<Limit>().count_by("what", &what) == 0 {
        return Ok(());
    }
    let message = format!(
        "Unable to update or delete registered limit {} because there are project limits associated with it.",
        registered.name()
    );
    Err(Rejection::new(ErrorKind::Forbidden, "RegisteredLimitError", message).into())
}

/// Registers limits, all or none.
///
/// # Errors
/// 400 for a service or region that is missing, 403 for policy, 409 where one is registered.
pub async fn register_limits(
    identity: &Identity,
    caller: &Caller,
    specs: &[RegisteredLimitSpec],
) -> Result<Vec<Arc<Resource<RegisteredLimit>>>, Failure> {
    caller.enforce("identity:create_registered_limits", &[])?;
    let made = identity.store.transact(caller.cause(), |tx| {
        let mut made = Vec::with_capacity(specs.len());
        for spec in specs {
            made.push(tx.create(Resource::<RegisteredLimit>::new(new_id(), spec.clone()))?);
        }
        Ok::<_, Failure>(made)
    });
    made.await
}

/// Sets limits of projects and domains, all or none.
///
/// # Errors
/// 400 for something that is missing, 403 for policy, where nothing is registered and where the model forbids it, 409
/// where one is set.
pub async fn limit(
    identity: &Identity,
    caller: &Caller,
    mut specs: Vec<LimitSpec>,
) -> Result<Vec<Arc<Resource<Limit>>>, Failure> {
    caller.enforce("identity:create_limits", &[])?;
    for spec in &mut specs {
        place(identity, spec)?;
    }
    let made = identity.store.transact(caller.cause(), |tx| {
        let mut made = Vec::with_capacity(specs.len());
        for spec in &specs {
            check_model(identity, spec, &specs)?;
            made.push(tx.create(Resource::<Limit>::new(new_id(), spec.clone()))?);
        }
        Ok::<_, Failure>(made)
    });
    made.await
}

fn new_id() -> Metadata {
    let mut metadata = Metadata::new("", "");
    metadata.name = metadata.uid.simple().to_string();
    metadata
}

/// A limit of a project that is a domain is a limit of that domain.
fn place(identity: &Identity, spec: &mut LimitSpec) -> Result<(), Failure> {
    let field = if spec.project_id.is_some() {
        "project_id"
    } else {
        "domain_id"
    };
    let owner = identity.store.get::<Project>(&Project::key(spec.owner()));
    let owner = owner.filter(|owner| spec.project_id.is_some() || owner.spec.is_domain);
    let owner = owner.ok_or_else(|| Failure::from(unknown(field, "limit")))?;
    if owner.spec.is_domain {
        spec.project_id = None;
        spec.domain_id = Some(owner.name().to_owned());
    }
    Ok(())
}

/// Whether a limit fits to those above and below it. `beside` are set in the same transaction.
pub(crate) fn check_model(identity: &Identity, spec: &LimitSpec, beside: &[LimitSpec]) -> Result<(), Failure> {
    if identity.options.limit_model == Model::Flat {
        return Ok(());
    }
    let store = &identity.store;
    let limit_of = |owner: &str| {
        let staged = beside
            .iter()
            .find(|other| other.owner() == owner && other.what == spec.what)
            .map(|other| other.resource_limit);
        let stored = || {
            let found = store.cache::<Limit>().by("name", &key_of(owner, &spec.what));
            found.first().map(|limit| limit.spec.resource_limit)
        };
        staged.or_else(stored)
    };
    let fits = match (&spec.project_id, &spec.domain_id) {
        (Some(id), _) => {
            let project = store.get::<Project>(&Project::key(id));
            let project = project.ok_or_else(|| not_found("project", id))?;
            let above = limit_of(&project.spec.domain_id).or_else(|| {
                let registered = store.cache::<RegisteredLimit>().by("name", &spec.what.as_text());
                registered.first().map(|registered| registered.spec.default_limit)
            });
            above.is_none_or(|above| is_within(spec.resource_limit, above))
        }
        (None, Some(id)) => effective::descendants(store, id).iter().all(|project| {
            let below = limit_of(project.name());
            below.is_none_or(|below| is_within(below, spec.resource_limit))
        }),
        (None, None) => true,
    };
    if fits {
        return Ok(());
    }
    let message = format!(
        "Invalid resource limit: The resource limit ({} of {} for {}) doesn't satisfy current hierarchy model..",
        spec.resource_limit,
        spec.what.resource_name,
        spec.owner()
    );
    Err(Failure::forbidden(message).because("InvalidLimit"))
}

fn is_within(limit: i64, above: i64) -> bool {
    above == UNLIMITED || (limit != UNLIMITED && limit <= above)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unlimited_is_above_everything() {
        for (limit, above, within) in [
            (5, 10, true),
            (10, 10, true),
            (11, 10, false),
            (-1, 10, false),
            (-1, -1, true),
        ] {
            assert_eq!(is_within(limit, above), within, "{limit} within {above}");
        }
    }
}
