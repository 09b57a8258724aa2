//! What happens to flavors and profiles on the way into the store.

use std::sync::Arc;

use madang_store::{Op, Resource, StoreBuilder};

use super::{Flavor, ServiceProfile};
use crate::{
    lookup::hold,
    refusal::{self, Missing},
};

/// Makes flavors and profiles known.
pub(crate) fn register(builder: &mut StoreBuilder) {
    builder.rule::<Flavor>(|tx, op| match op {
        Op::Create(new) | Op::Update { new, .. } => {
            let profiles = new.spec.profiles.clone();
            let there = |id: &String| hold::<ServiceProfile>(tx, Missing::ServiceProfile, id).map(|_| ());
            profiles.iter().try_for_each(there)
        }
        Op::Remove(_) => Ok(()),
    });
    builder.rule::<ServiceProfile>(|tx, op| match op {
        Op::Remove(profile) => {
            let flavors = tx.store().cache::<Flavor>().by("profile", profile.name());
            let has = |flavor: Arc<Resource<Flavor>>| flavor.spec.profiles.iter().any(|id| id == profile.name());
            if flavors
                .iter()
                .filter_map(|flavor| tx.get::<Flavor>(&flavor.key()))
                .any(has)
            {
                let message = format!("Service Profile {} is used by some service instance.", profile.name());
                return Err(refusal::conflict("ServiceProfileInUse", message));
            }
            Ok(())
        }
        Op::Create(_) | Op::Update { .. } => Ok(()),
    });
}
