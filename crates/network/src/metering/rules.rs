//! What happens to labels and their rules on the way into the store.

use ipnet::IpNet;
use madang_store::{Op, Resource, StoreBuilder, StoreError, Tx};

use super::{MeteringLabel, MeteringRule, MeteringRuleSpec};
use crate::{
    lookup::{hold, touch},
    refusal::{self, Missing},
};

/// Makes labels and rules known.
pub(crate) fn register(builder: &mut StoreBuilder) {
    builder.rule::<MeteringLabel>(|tx, op| match op {
        Op::Remove(label) => {
            let rules = tx.store().cache::<MeteringRule>().by("label", label.name());
            let there: Vec<_> = rules
                .iter()
                .filter_map(|rule| tx.get::<MeteringRule>(&rule.key()))
                .collect();
            there.iter().try_for_each(|rule| tx.delete(rule))
        }
        Op::Create(_) | Op::Update { .. } => Ok(()),
    });
    builder.rule::<MeteringRule>(|tx, op| match op {
        Op::Create(rule) => create(tx, rule),
        Op::Update { .. } | Op::Remove(_) => Ok(()),
    });
}

fn create(tx: &mut Tx<'_>, rule: &mut Resource<MeteringRule>) -> Result<(), StoreError> {
    // Two who add rules at the same time meet at the label's revision.
    let label = hold::<MeteringLabel>(tx, Missing::MeteringLabel, &rule.spec.label_id)?;
    let spec = &rule.spec;
    let given = [spec.remote_ip_prefix, spec.source_ip_prefix, spec.destination_ip_prefix];
    let mut versions = given.iter().flatten().map(|net| net.addr().is_ipv4());
    let Some(first) = versions.next() else {
        return Err(refusal::invalid(
            "You must define at least one of the following parameters: remote_ip_prefix, source_ip_prefix, \
             destination_ip_prefix",
        ));
    };
    if versions.any(|other| other != first) {
        return Err(refusal::invalid(
            "the prefixes of a metering rule are of one version of IP",
        ));
    }
    if spec.remote_ip_prefix.is_some() && (spec.source_ip_prefix.is_some() || spec.destination_ip_prefix.is_some()) {
        return Err(refusal::invalid(
            "Cannot use 'remote-ip-prefix' in conjunction with 'source-ip-prefix' or 'destination-ip-prefix'",
        ));
    }
    let others = tx.store().cache::<MeteringRule>().by("label", label.name());
    let mut others = others.iter().filter_map(|other| tx.get::<MeteringRule>(&other.key()));
    if others.any(|other| overlaps(&other.spec, spec)) {
        let prefix = spec.remote_ip_prefix.map(|net| net.to_string()).unwrap_or_default();
        let message = format!("Metering label rule with remote_ip_prefix '{prefix}' overlaps another.");
        return Err(refusal::conflict("MeteringLabelRuleOverlaps", message));
    }
    if rule.metadata.owners.is_empty() {
        rule.metadata.owners.push(label.as_owner());
    }
    touch(tx, &label)
}

fn overlaps(a: &MeteringRuleSpec, b: &MeteringRuleSpec) -> bool {
    let meet = |a: &Option<IpNet>, b: &Option<IpNet>| match (a, b) {
        (Some(a), Some(b)) => a.contains(b) || b.contains(a),
        (None, None) => true,
        _ => false,
    };
    (a.direction, a.is_excluded) == (b.direction, b.is_excluded)
        && meet(&a.remote_ip_prefix, &b.remote_ip_prefix)
        && meet(&a.source_ip_prefix, &b.source_ip_prefix)
        && meet(&a.destination_ip_prefix, &b.destination_ip_prefix)
}
