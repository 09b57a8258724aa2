//! The flavors that a new cloud starts with.

use std::collections::{BTreeMap, BTreeSet};

use madang_store::{Cause, Store, StoreError};

use super::{Flavor, FlavorSpec, api::make};

/// Id, name, processors, MiB of memory, GiB of disk. `m1.tiny` has what the tiny guest needs; the others are the sizes
/// people know.
const FLAVORS: &[(&str, &str, u32, u32, u32)] = &[
    ("1", "m1.tiny", 1, 128, 1),
    ("2", "m1.small", 1, 2048, 20),
    ("3", "m1.medium", 2, 4096, 40),
    ("4", "m1.large", 4, 8192, 80),
    ("5", "m1.xlarge", 8, 16384, 160),
];

/// Makes the flavors of a new cloud; one whose id is there already is left as it is.
///
/// # Errors
/// What the store says.
pub async fn seed(store: &Store) -> Result<(), StoreError> {
    for (id, name, vcpus, ram_mb, disk_gb) in FLAVORS {
        let flavors = store.cache::<Flavor>();
        if flavors.by_name(id).is_some() || !flavors.by("name", name).is_empty() {
            continue;
        }
        let spec = FlavorSpec {
            name: (*name).to_owned(),
            vcpus: *vcpus,
            ram_mb: *ram_mb,
            disk_gb: *disk_gb,
            ephemeral_gb: 0,
            swap_mb: 0,
            rxtx_factor: 1.0,
            is_public: true,
            is_disabled: false,
            description: None,
            extra_specs: BTreeMap::new(),
            access: BTreeSet::new(),
        };
        make(store, Cause::system("seed"), id, spec).await?;
    }
    Ok(())
}
