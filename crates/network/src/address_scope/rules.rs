//! What happens to an address scope on its way into the store, and what it asks of its pools.

use ipnet::IpNet;
use madang_store::{Op, Resource, StoreBuilder, StoreError, Tx};

use super::AddressScope;
use crate::{
    SubnetPool,
    lookup::{hold, touch},
    rbac::{Action, Shareable, rules as sharing},
    refusal::{self, Missing},
};

/// Makes scopes known, with their rule.
pub(crate) fn register(builder: &mut StoreBuilder) {
    builder.rule::<AddressScope>(|tx, op| match op {
        Op::Create(scope) => {
            if scope.spec.is_shared {
                follow(tx, scope)?;
            }
            Ok(())
        }
        Op::Update { old, new } if old.spec.is_shared != new.spec.is_shared => follow(tx, new),
        Op::Update { .. } => Ok(()),
        Op::Remove(scope) => remove(tx, scope),
    });
}

fn follow(tx: &mut Tx<'_>, scope: &Resource<AddressScope>) -> Result<(), StoreError> {
    let is_shared = scope.spec.is_shared;
    sharing::follow_flag(tx, scope, Shareable::AddressScope, Action::AccessAsShared, is_shared)
}

fn remove(tx: &mut Tx<'_>, scope: &Resource<AddressScope>) -> Result<(), StoreError> {
    let pools = tx.store().cache::<SubnetPool>().by("scope", scope.name());
    if pools.iter().any(|pool| tx.get::<SubnetPool>(&pool.key()).is_some()) {
        let message = format!(
            "Unable to complete operation on address scope {}. There are one or more subnet pools in use on the address \
             scope",
            scope.name()
        );
        return Err(refusal::conflict("AddressScopeInUse", message));
    }
    sharing::object_goes(tx, scope.name())
}

/// Requires that a pool fits into its scope. Two pools that come at the same time meet at the scope's revision.
pub(crate) fn check_pool(tx: &mut Tx<'_>, pool: &Resource<SubnetPool>) -> Result<(), StoreError> {
    let Some(id) = &pool.spec.address_scope_id else {
        return Ok(());
    };
    let scope = hold::<AddressScope>(tx, Missing::AddressScope, id)?;
    if scope.spec.ip_version != pool.spec.ip_version() {
        let message = format!(
            "Illegal subnetpool association: subnetpool {} cannot associate with address scope {id} because subnetpool \
             ip_version is not {}.",
            pool.name(),
            scope.spec.ip_version
        );
        return Err(refusal::bad(
            "IllegalSubnetPoolIpVersionAssociationToAddressScope",
            message,
        ));
    }
    let others = tx.store().cache::<SubnetPool>().by("scope", id);
    let others = others.iter().filter(|other| other.name() != pool.name());
    let mut others = others.filter_map(|other| tx.get::<SubnetPool>(&other.key()));
    let meets = |a: &IpNet, b: &IpNet| a.contains(b) || b.contains(a);
    let overlaps = |other: &[IpNet]| other.iter().any(|a| pool.spec.prefixes.iter().any(|b| meets(a, b)));
    if others.any(|other| other.spec.address_scope_id.as_ref() == Some(id) && overlaps(&other.spec.prefixes)) {
        let message =
            "Failed to associate address scope: subnetpools within an address scope must have unique prefixes.";
        return Err(refusal::conflict("AddressScopePrefixConflict", message));
    }
    touch(tx, &scope)
}
