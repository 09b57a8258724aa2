//! Security groups as Neutron shows them.

use std::sync::Arc;

use madang_http::Query;
use madang_store::{ErrorKind, Metadata, Resource, Tx};
use serde_json::{Map, Value};

use super::{Rule, SecurityGroup, SecurityGroupSpec, default_key, rules};
use crate::{
    api::{
        attribute::{Attribute, Body},
        convert,
        failure::Stop,
        resource::{Context, Exposed, Facts, Shown, own_or_shared},
        view::View,
    },
    rbac::Shareable,
    refusal::{self, Missing},
};

impl Exposed for SecurityGroup {
    const SINGULAR: &'static str = "security_group";
    const PLURAL: &'static str = "security_groups";
    const MISSING: Missing = Missing::SecurityGroup;
    const ATTRIBUTES: &'static [Attribute] = &[
        Attribute::new("name", convert::text),
        Attribute::new("stateful", convert::flag),
        Attribute::shown("security_group_rules"),
        Attribute::shown("shared"),
    ];

    fn facts(context: &Context, group: &Resource<Self>) -> Facts {
        Facts {
            is_shared: context.is_shared(group.name()),
            ..Facts::of(group.project())
        }
    }

    fn candidates(context: &Context, query: &Query) -> Vec<Arc<Resource<Self>>> {
        own_or_shared(context, query, Shareable::SecurityGroup)
    }

    fn view(context: &Context, group: &Resource<Self>) -> Map<String, Value> {
        let spec = &group.spec;
        let mut of_group = context.store.cache::<Rule>().by("group", group.name());
        of_group.sort_by_key(|rule| (rule.metadata.created, rule.metadata.uid));
        let shown = Shown::<Rule>::new(context);
        let of_group: Vec<_> = of_group
            .iter()
            .map(|rule| Value::Object(shown.view(context, rule)))
            .collect();
        View::of(group, &spec.description, &spec.tags)
            .with("name", spec.name.as_str())
            .with("stateful", spec.is_stateful)
            .with("shared", Self::facts(context, group).is_shared)
            .with("security_group_rules", of_group)
            .done()
    }

    fn build(_: &Context, tx: &mut Tx<'_>, body: &Body, project: &str) -> Result<Arc<Resource<Self>>, Stop> {
        let spec = SecurityGroupSpec {
            name: body.text("name").unwrap_or_default().to_owned(),
            description: body.text("description").unwrap_or_default().to_owned(),
            is_stateful: body.flag("stateful").unwrap_or(true),
            is_default: false,
            tags: Vec::new(),
        };
        Ok(rules::create(tx, Resource::new(Metadata::with_id(project), spec))?)
    }

    fn change(_: &Context, tx: &mut Tx<'_>, old: &Resource<Self>, body: &Body) -> Result<Arc<Resource<Self>>, Stop> {
        let mut new = old.clone();
        body.set_text("name", &mut new.spec.name);
        body.set_text("description", &mut new.spec.description);
        body.set_flag("stateful", &mut new.spec.is_stateful);
        Ok(tx.update(old, new)?)
    }

    fn remove(context: &Context, tx: &mut Tx<'_>, group: &Resource<Self>) -> Result<(), Stop> {
        if group.spec.is_default && !context.caller.is_admin() {
            let message = "Insufficient rights for removing default security group.";
            return Err(refusal::refuse(ErrorKind::Conflict, "SecurityGroupCannotRemoveDefault", message).into());
        }
        Ok(tx.delete(group)?)
    }

    fn prepare(tx: &mut Tx<'_>, project: &str) -> Result<(), Stop> {
        rules::ensure_default(tx, project)?;
        Ok(())
    }

    fn needs_preparation(context: &Context, project: &str) -> bool {
        context.store.get::<SecurityGroup>(&default_key(project)).is_none()
    }
}
