//! What holds for QoS specs, whoever writes them: names are unique.

use madang_store::{ErrorKind, Op, Rejection, StoreError, Tx};

use super::QosSpecs;

const NAMES: &str = "names/volumeqos";

/// The rule of QoS specs.
pub(crate) fn admit(tx: &mut Tx<'_>, op: Op<'_, QosSpecs>) -> Result<(), StoreError> {
    match op {
        Op::Create(new) => {
            if !tx.store().cache::<QosSpecs>().by("name", &new.spec.name).is_empty() {
                let message = format!("QoS Specs {} already exists.", new.spec.name);
                return Err(Rejection::new(ErrorKind::Conflict, "QoSSpecsExists", message)
                    .at("name")
                    .into());
            }
            tx.reserve(NAMES, &new.spec.name, new.metadata.uid)
        }
        Op::Update { .. } => Ok(()),
        Op::Remove(old) => {
            tx.release(NAMES, &old.spec.name);
            Ok(())
        }
    }
}
