//! Policies of sharing as Neutron shows them.

use std::sync::Arc;

use madang_store::{Resource, Tx};
use serde_json::{Map, Value};

use super::{Action, EVERYBODY, RbacPolicy, RbacPolicySpec, Shareable, rules};
use crate::{
    api::{
        attribute::{Attribute, Body},
        convert,
        failure::Stop,
        resource::{Context, Exposed, Facts},
        view::View,
    },
    refusal::{self, Missing},
};

fn object_type(value: &Value) -> Result<Value, String> {
    convert::one_of(
        value,
        &[
            "network",
            "security_group",
            "address_scope",
            "subnetpool",
            "address_group",
            "qos_policy",
        ],
    )
}

fn action(value: &Value) -> Result<Value, String> {
    convert::one_of(value, &["access_as_shared", "access_as_external"])
}

/// Whom only an admin may name.
fn is_one_project(value: &Value) -> bool {
    value.as_str() != Some(EVERYBODY)
}

impl Exposed for RbacPolicy {
    const SINGULAR: &'static str = "rbac_policy";
    const PLURAL: &'static str = "rbac_policies";
    const MISSING: Missing = Missing::RbacPolicy;
    const ATTRIBUTES: &'static [Attribute] = &[
        Attribute::new("object_type", object_type).required().fixed(),
        Attribute::new("object_id", convert::uuid).required().fixed(),
        Attribute::new("action", action).required().fixed(),
        Attribute::new("target_tenant", convert::text)
            .required()
            .guarded_unless(is_one_project),
    ];

    fn facts(_: &Context, policy: &Resource<Self>) -> Facts {
        Facts::of(policy.project())
    }

    fn view(_: &Context, policy: &Resource<Self>) -> Map<String, Value> {
        let spec = &policy.spec;
        View::bare(policy)
            .typed("object_type", &spec.object_type)
            .with("object_id", spec.object_id.as_str())
            .typed("action", &spec.action)
            .with("target_tenant", spec.target.as_str())
            .done()
    }

    fn build(context: &Context, tx: &mut Tx<'_>, body: &Body, project: &str) -> Result<Arc<Resource<Self>>, Stop> {
        let required =
            |value: Option<_>, name: &str| value.ok_or_else(|| refusal::invalid(format_args!("{name} is none")));
        let object_type: Option<Shareable> = body.typed("object_type")?;
        let action: Option<Action> = body.typed("action")?;
        let spec = RbacPolicySpec {
            object_type: required(object_type, "object_type")?,
            object_id: body.text("object_id").unwrap_or_default().to_owned(),
            action: action.ok_or_else(|| refusal::invalid("action is none"))?,
            target: body.text("target_tenant").unwrap_or_default().to_owned(),
        };
        if spec.action == Action::AccessAsExternal && spec.object_type != Shareable::Network {
            let message = "Action access_as_external is not valid for this object type; networks alone are external";
            return Err(refusal::invalid(message).into());
        }
        let Some(owner) = rules::owner(tx, &spec) else {
            return Err(refusal::not_found(Missing::RbacPolicy, &spec.object_id).into());
        };
        if owner != project && !context.caller.is_admin() {
            let why = "Only admins can manipulate policies on objects they do not own";
            return Err(refusal::invalid(why).into());
        }
        Ok(rules::share(tx, project, spec)?)
    }

    fn change(_: &Context, tx: &mut Tx<'_>, old: &Resource<Self>, body: &Body) -> Result<Arc<Resource<Self>>, Stop> {
        let target = body.text("target_tenant").unwrap_or(&old.spec.target);
        Ok(rules::retarget(tx, old, target)?)
    }

    fn remove(_: &Context, tx: &mut Tx<'_>, policy: &Resource<Self>) -> Result<(), Stop> {
        Ok(rules::unshare(tx, policy)?)
    }
}
