//! Filters that look at the metadata of a host's aggregates.

use super::{Context, Why, matches, when};
use crate::snapshot::Host;

/// The prefix of extra specs that are for [`extra_specs`] only.
const SCOPE: &str = "aggregate_instance_extra_specs:";

/// Every extra spec without a scope, or with [`SCOPE`], must be met by one of the aggregates' values.
pub(super) fn extra_specs(context: &Context<'_>, host: &Host) -> Option<Why> {
    for (key, asked) in context.ask.extra_specs() {
        let key = match key.strip_prefix(SCOPE) {
            Some(key) => key,
            None if key.contains(':') => continue,
            None => key,
        };
        // What is not granular but for the scheduler itself is no property of an aggregate.
        if key == "group_policy" {
            continue;
        }
        if !host.metadata(key).any(|value| matches(value, asked)) {
            return Some(format!("are in no aggregate with {key}={asked}").into());
        }
    }
    None
}

/// A host in aggregates with `filter_tenant_id…` takes only what these projects own.
pub(super) fn tenancy(context: &Context<'_>, host: &Host) -> Option<Why> {
    let keys = host.groups.iter().flat_map(|group| &group.spec.metadata);
    let mut tenants = keys
        .filter(|(key, _)| key.starts_with("filter_tenant_id"))
        .flat_map(|(_, value)| value.split(',').map(str::trim))
        .peekable();
    tenants.peek()?;
    when(
        !tenants.any(|tenant| tenant == context.ask.project),
        "are for other projects",
    )
}

/// Where both an aggregate and the image name a property, the image's value must be one of the aggregates'.
pub(super) fn image_properties(context: &Context<'_>, host: &Host) -> Option<Why> {
    let options = context.options;
    let namespace = &options.aggregate_image_properties_isolation_namespace;
    let prefix = match namespace.as_str() {
        "" => String::new(),
        name => format!("{name}{}", options.aggregate_image_properties_isolation_separator),
    };
    let keys = host.groups.iter().flat_map(|group| group.spec.metadata.keys());
    for key in keys.filter(|key| key.starts_with(&prefix)) {
        let Some(value) = context.ask.image_property(key) else {
            continue;
        };
        if !host.metadata(key).any(|one| one == value) {
            return Some(format!("are for images with another {key}").into());
        }
    }
    None
}

/// A limit of the aggregates: the least of theirs, `default` where they have none.
fn limit(host: &Host, key: &str, default: u32) -> u32 {
    host.metadata(key)
        .filter_map(|value| value.parse().ok())
        .min()
        .unwrap_or(default)
}

pub(super) fn io_ops(context: &Context<'_>, host: &Host) -> Option<Why> {
    let most = limit(host, "max_io_ops_per_host", context.options.max_io_ops_per_host);
    when(host.busy >= most, "have too many I/O operations")
}

pub(super) fn instances(context: &Context<'_>, host: &Host) -> Option<Why> {
    let most = limit(host, "max_instances_per_host", context.options.max_instances_per_host);
    when(host.servers >= most, "have too many instances")
}

/// A host in aggregates with `instance_type` takes only these flavors.
pub(super) fn flavor(context: &Context<'_>, host: &Host) -> Option<Why> {
    let mut flavors = host.metadata("instance_type").peekable();
    flavors.peek()?;
    let wanted = context
        .ask
        .spec
        .wishes
        .as_ref()
        .map_or("", |wishes| wishes.flavor.as_str());
    when(!flavors.any(|flavor| flavor == wanted), "are for other flavors")
}

/// Where it is switched on: a host in aggregates with `trait:NAME=required` takes only what asks for all these traits.
pub(super) fn isolated(context: &Context<'_>, host: &Host) -> Option<Why> {
    if !context.options.enable_isolated_aggregate_filtering {
        return None;
    }
    let keys = host.groups.iter().flat_map(|group| &group.spec.metadata);
    let mut wanted = keys.filter_map(|(key, value)| key.strip_prefix("trait:").filter(|_| value == "required"));
    let asked = &context.ask.spec.required_traits;
    when(
        wanted.any(|name| !asked.iter().any(|one| one == name)),
        "are for workloads with other traits",
    )
}
