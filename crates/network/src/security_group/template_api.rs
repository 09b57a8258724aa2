//! Templates of rules as Neutron shows them.

use std::sync::Arc;

use madang_http::Query;
use madang_store::{Metadata, Resource, Tx};
use serde_json::{Map, Value};

use super::{
    AddressGroup, SecurityGroup,
    rule_api::{RULE, read_spec, rule_view},
    template::{self, PARENT, RuleTemplate, RuleTemplateSpec},
};
use crate::{
    api::{
        attribute::{Attribute, Body},
        convert,
        failure::Stop,
        resource::{Context, Exposed, Facts, visible},
        view::View,
    },
    refusal::Missing,
};

impl Exposed for RuleTemplate {
    const SINGULAR: &'static str = "default_security_group_rule";
    const PLURAL: &'static str = "default_security_group_rules";
    const MISSING: Missing = Missing::DefaultSecurityGroupRule;
    const CHANGES: bool = false;
    const ATTRIBUTES: &'static [Attribute] = &[
        RULE[0],
        RULE[1],
        RULE[2],
        RULE[3],
        RULE[4],
        RULE[5],
        RULE[6],
        RULE[7],
        Attribute::new("used_in_default_sg", convert::flag).fixed(),
        Attribute::new("used_in_non_default_sg", convert::flag).fixed(),
    ];

    fn facts(_: &Context, template: &Resource<Self>) -> Facts {
        Facts::of(template.project())
    }

    fn candidates(context: &Context, _: &Query) -> Vec<Arc<Resource<Self>>> {
        context.store.cache::<Self>().all()
    }

    fn view(_: &Context, template: &Resource<Self>) -> Map<String, Value> {
        let spec = &template.spec;
        rule_view(View::of(template, &spec.rule.description, &[]), &spec.rule)
            .with("used_in_default_sg", spec.used_in_default)
            .with("used_in_non_default_sg", spec.used_in_others)
            .done()
    }

    fn build(context: &Context, tx: &mut Tx<'_>, body: &Body, _: &str) -> Result<Arc<Resource<Self>>, Stop> {
        let rule = read_spec(body, "")?;
        if let Some(remote) = rule.remote_group_id.as_deref().filter(|id| *id != PARENT) {
            visible::<SecurityGroup>(context, remote)?;
        }
        if let Some(addresses) = rule.remote_address_group_id.as_deref() {
            visible::<AddressGroup>(context, addresses)?;
        }
        let spec = RuleTemplateSpec {
            rule,
            used_in_default: body.flag("used_in_default_sg").unwrap_or(false),
            used_in_others: body.flag("used_in_non_default_sg").unwrap_or(true),
        };
        Ok(tx.create(Resource::<Self>::new(Metadata::with_id(""), spec))?)
    }

    fn change(_: &Context, _: &mut Tx<'_>, old: &Resource<Self>, _: &Body) -> Result<Arc<Resource<Self>>, Stop> {
        Ok(Arc::new(old.clone()))
    }

    fn prepare(tx: &mut Tx<'_>, _: &str) -> Result<(), Stop> {
        Ok(template::ensure(tx)?)
    }

    fn needs_preparation(context: &Context, _: &str) -> bool {
        template::are_missing(&context.store)
    }
}
