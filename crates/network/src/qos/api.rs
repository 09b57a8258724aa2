//! Policies of quality of service as Neutron shows them.

use std::sync::Arc;

use madang_http::{Failure, Query};
use madang_store::{ErrorKind, Metadata, Resource, Tx};
use serde_json::{Map, Value, json};

use super::{QosPolicy, QosPolicySpec, QosRule};
use crate::{
    api::{
        attribute::{Attribute, Body},
        convert,
        failure::Stop,
        resource::{Context, Exposed, Facts, own_or_shared, visible},
        view::View,
    },
    rbac::Shareable,
    refusal::{self, Missing},
};

impl Exposed for QosPolicy {
    const SINGULAR: &'static str = "policy";
    const PLURAL: &'static str = "policies";
    const MISSING: Missing = Missing::QosPolicy;
    const HAS_OPEN_MARKERS: bool = true;
    const ATTRIBUTES: &'static [Attribute] = &[
        Attribute::new("name", convert::text),
        Attribute::new("shared", convert::flag),
        Attribute::new("is_default", convert::flag),
        Attribute::shown("rules"),
    ];

    fn facts(context: &Context, policy: &Resource<Self>) -> Facts {
        Facts {
            is_shared: policy.spec.is_shared || context.is_shared(policy.name()),
            ..Facts::of(policy.project())
        }
    }

    fn candidates(context: &Context, query: &Query) -> Vec<Arc<Resource<Self>>> {
        own_or_shared(context, query, Shareable::QosPolicy)
    }

    fn view(context: &Context, policy: &Resource<Self>) -> Map<String, Value> {
        let spec = &policy.spec;
        let rules: Vec<_> = spec.rules.iter().map(|rule| in_policy(policy, rule)).collect();
        View::of(policy, &spec.description, &spec.tags)
            .with("name", spec.name.as_str())
            .with("shared", Self::facts(context, policy).is_shared)
            .with("is_default", spec.is_default)
            .with("rules", rules)
            .done()
    }

    fn build(_: &Context, tx: &mut Tx<'_>, body: &Body, project: &str) -> Result<Arc<Resource<Self>>, Stop> {
        let mut spec = QosPolicySpec::default();
        fill(&mut spec, body);
        Ok(tx.create(Resource::<Self>::new(Metadata::with_id(project), spec))?)
    }

    fn change(_: &Context, tx: &mut Tx<'_>, old: &Resource<Self>, body: &Body) -> Result<Arc<Resource<Self>>, Stop> {
        let mut new = old.clone();
        fill(&mut new.spec, body);
        Ok(tx.update(old, new)?)
    }
}

fn fill(spec: &mut QosPolicySpec, body: &Body) {
    body.set_text("name", &mut spec.name);
    body.set_text("description", &mut spec.description);
    body.set_flag("shared", &mut spec.is_shared);
    body.set_flag("is_default", &mut spec.is_default);
}

/// A rule as its policy shows it.
fn in_policy(policy: &Resource<QosPolicy>, rule: &QosRule) -> Value {
    let mut view = json!(rule);
    view["qos_policy_id"] = policy.name().into();
    view
}

/// Gives a port or network the policy that a request names. One that the caller does not know cannot be given, nor taken
/// away.
pub(crate) fn set(context: &Context, body: &Body, to: &mut Option<String>) -> Result<(), Stop> {
    if !body.has("qos_policy_id") {
        return Ok(());
    }
    let wanted = body.text("qos_policy_id");
    if let Some(wanted) = wanted {
        visible::<QosPolicy>(context, wanted)?;
    }
    if let Some(had) = to.as_deref().filter(|had| Some(*had) != wanted)
        && visible::<QosPolicy>(context, had).is_err()
    {
        let message = format!("Failed to remove provided policy {had} because you are not authorized.");
        let failure = Failure::new(ErrorKind::Forbidden, message).because("PolicyRemoveAuthorizationError");
        return Err(failure.into());
    }
    *to = wanted.map(str::to_owned);
    Ok(())
}

/// What is missing when a rule is.
pub(super) fn rule_missing(policy: &str, rule: &str) -> Failure {
    let message = format!("QoS rule {rule} for policy {policy} could not be found.");
    refusal::refuse(ErrorKind::NotFound, "QosRuleNotFound", message).into()
}
