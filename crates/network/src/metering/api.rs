//! Metering labels and their rules as Neutron shows them, and what was counted.

use std::sync::Arc;

use madang_store::{Metadata, Resource, Tx};
use serde_json::{Map, Value};

use super::{MeteringLabel, MeteringLabelSpec, MeteringRule, MeteringRuleSpec};
use crate::{
    Direction,
    api::{
        attribute::{Attribute, Body},
        convert,
        failure::Stop,
        resource::{Context, Exposed, Facts, visible},
        view::View,
    },
    refusal::Missing,
};

impl Exposed for MeteringLabel {
    const SINGULAR: &'static str = "metering_label";
    const PLURAL: &'static str = "metering_labels";
    const MISSING: Missing = Missing::MeteringLabel;
    const CHANGES: bool = false;
    const ATTRIBUTES: &'static [Attribute] = &[
        Attribute::new("name", convert::text).fixed(),
        Attribute::new("description", convert::text).fixed(),
        Attribute::new("shared", convert::flag).fixed(),
        Attribute::shown("packets"),
        Attribute::shown("bytes"),
    ];

    fn facts(_: &Context, label: &Resource<Self>) -> Facts {
        Facts::of(label.project())
    }

    fn view(_: &Context, label: &Resource<Self>) -> Map<String, Value> {
        View::bare(label)
            .with("name", label.spec.name.as_str())
            .with("description", label.spec.description.as_str())
            .with("shared", label.spec.is_shared)
            .with("packets", label.status.packets)
            .with("bytes", label.status.bytes)
            .done()
    }

    fn build(_: &Context, tx: &mut Tx<'_>, body: &Body, project: &str) -> Result<Arc<Resource<Self>>, Stop> {
        let spec = MeteringLabelSpec {
            name: body.text("name").unwrap_or_default().to_owned(),
            description: body.text("description").unwrap_or_default().to_owned(),
            is_shared: body.flag("shared").unwrap_or(false),
        };
        Ok(tx.create(Resource::<Self>::new(Metadata::with_id(project), spec))?)
    }

    fn change(_: &Context, _: &mut Tx<'_>, old: &Resource<Self>, _: &Body) -> Result<Arc<Resource<Self>>, Stop> {
        Ok(Arc::new(old.clone()))
    }
}

fn direction(value: &Value) -> Result<Value, String> {
    convert::one_of(value, &["ingress", "egress"])
}

impl Exposed for MeteringRule {
    const SINGULAR: &'static str = "metering_label_rule";
    const PLURAL: &'static str = "metering_label_rules";
    const MISSING: Missing = Missing::MeteringLabelRule;
    const CHANGES: bool = false;
    const ATTRIBUTES: &'static [Attribute] = &[
        Attribute::new("metering_label_id", convert::uuid).required().fixed(),
        Attribute::new("direction", direction).required().fixed(),
        Attribute::new("excluded", convert::flag).fixed(),
        Attribute::new("remote_ip_prefix", convert::cidr_or_null).fixed(),
        Attribute::new("source_ip_prefix", convert::cidr_or_null).fixed(),
        Attribute::new("destination_ip_prefix", convert::cidr_or_null).fixed(),
    ];

    fn facts(_: &Context, rule: &Resource<Self>) -> Facts {
        Facts::of(rule.project())
    }

    fn view(_: &Context, rule: &Resource<Self>) -> Map<String, Value> {
        let spec = &rule.spec;
        View::bare(rule)
            .with("metering_label_id", spec.label_id.as_str())
            .typed("direction", &spec.direction)
            .with("excluded", spec.is_excluded)
            .typed("remote_ip_prefix", &spec.remote_ip_prefix)
            .typed("source_ip_prefix", &spec.source_ip_prefix)
            .typed("destination_ip_prefix", &spec.destination_ip_prefix)
            .done()
    }

    fn build(context: &Context, tx: &mut Tx<'_>, body: &Body, _: &str) -> Result<Arc<Resource<Self>>, Stop> {
        let label = visible::<MeteringLabel>(context, body.text("metering_label_id").unwrap_or_default())?;
        let spec = MeteringRuleSpec {
            label_id: label.name().to_owned(),
            direction: body.typed("direction")?.unwrap_or(Direction::Ingress),
            is_excluded: body.flag("excluded").unwrap_or(false),
            remote_ip_prefix: body.typed("remote_ip_prefix")?,
            source_ip_prefix: body.typed("source_ip_prefix")?,
            destination_ip_prefix: body.typed("destination_ip_prefix")?,
        };
        Ok(tx.create(Resource::<Self>::new(Metadata::with_id(label.project()), spec))?)
    }

    fn change(_: &Context, _: &mut Tx<'_>, old: &Resource<Self>, _: &Body) -> Result<Arc<Resource<Self>>, Stop> {
        Ok(Arc::new(old.clone()))
    }
}
