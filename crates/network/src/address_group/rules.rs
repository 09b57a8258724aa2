//! What happens to an address group on its way into the store.

use madang_store::{Op, Resource, StoreBuilder, StoreError, Tx};

use super::AddressGroup;
use crate::{
    Rule,
    quota::{self, Limited},
    rbac::rules as sharing,
    refusal,
};

/// The most addresses of a group: each is an element of sets in the kernel.
const MAX_ADDRESSES: usize = 10_000;

/// Makes groups known, with their rule.
pub(crate) fn register(builder: &mut StoreBuilder) {
    builder.rule::<AddressGroup>(|tx, op| match op {
        Op::Create(group) => {
            check(group)?;
            quota::take(tx, group.project(), Limited::AddressGroup);
            Ok(())
        }
        Op::Update { new, .. } => check(new),
        Op::Remove(group) => remove(tx, group),
    });
}

fn check(group: &mut Resource<AddressGroup>) -> Result<(), StoreError> {
    let addresses = &mut group.spec.addresses;
    for address in addresses.iter_mut() {
        *address = address.trunc();
    }
    addresses.sort_unstable();
    addresses.dedup();
    if addresses.len() > MAX_ADDRESSES {
        return Err(refusal::invalid(format_args!(
            "an address group has at most {MAX_ADDRESSES} addresses"
        )));
    }
    Ok(())
}

fn remove(tx: &mut Tx<'_>, group: &Resource<AddressGroup>) -> Result<(), StoreError> {
    let rules = tx.store().cache::<Rule>().by("address_group", group.name());
    if rules.iter().any(|rule| tx.get::<Rule>(&rule.key()).is_some()) {
        let message = format!(
            "Address group {} is in use on one or more security group rules.",
            group.name()
        );
        return Err(refusal::conflict("AddressGroupInUse", message));
    }
    sharing::object_goes(tx, group.name())?;
    quota::give_back(tx, group.project(), Limited::AddressGroup);
    Ok(())
}
