//! Which volumes a list is to have.

use madang_http::{Failure, Microversion, Query, parse_bool};
use madang_identity::Caller;
use madang_store::{Resource, Store};
use serde_json::{Map, Value};

use crate::{
    api::listing::{dictionary, fits_time, has_all},
    volume::Volume,
    volume_type,
};

/// What a user may filter by. Source: Cinder's resource_filters.json.
pub(crate) const FILTERS: &[&str] = &[
    "name",
    "status",
    "metadata",
    "bootable",
    "migration_status",
    "availability_zone",
    "group_id",
    "size",
    "created_at",
    "updated_at",
    "consumes_quota",
];
/// What an admin may filter by besides.
const ADMINS: &[&str] = &[
    "host",
    "id",
    "project_id",
    "user_id",
    "volume_type_id",
    "snapshot_id",
    "source_volid",
    "multiattach",
    "attach_status",
    "display_name",
    "display_description",
    "description",
    "glance_metadata",
    "consistencygroup_id",
];
/// Parameters that are no filters.
pub(crate) const CONTROLS: &[&str] = &[
    "limit",
    "marker",
    "offset",
    "sort",
    "sort_key",
    "sort_dir",
    "all_tenants",
    "all_projects",
    "with_count",
];

/// Refuses a filter that there is not, as newer versions do; older ones look past it.
pub(crate) fn check_names(
    caller: &Caller,
    version: Microversion,
    query: &Query,
    known: &[&str],
    admins: &[&str],
) -> Result<(), Failure> {
    if version < Microversion(3, 31) || caller.is_admin() {
        return Ok(());
    }
    let unknown = query
        .iter()
        .map(|(name, _)| name)
        .find(|name| !known.contains(&name.trim_end_matches('~')) && !CONTROLS.contains(name));
    match unknown {
        Some(name) if admins.contains(&name) || !known.contains(&name) => {
            Err(Failure::invalid(format!("Invalid filters {name} are found in query options.")).at(name))
        }
        _ => Ok(()),
    }
}

/// The filters of one list.
pub(super) struct Filter<'q> {
    query: &'q Query,
    version: Microversion,
    is_admin: bool,
    metadata: Option<Map<String, Value>>,
    image_metadata: Option<Map<String, Value>>,
}

impl<'q> Filter<'q> {
    pub(super) fn read(caller: &Caller, version: Microversion, query: &'q Query) -> Result<Self, Failure> {
        check_names(caller, version, query, FILTERS, ADMINS)?;
        if let Some(said) = query.get("bootable")
            && version >= Microversion(3, 2)
            && parse_bool(said).is_none()
        {
            let message = format!("bootable={said}");
            return Err(Failure::invalid(format!("Invalid filter value: {message}")).at("bootable"));
        }
        let image_metadata = match version >= Microversion(3, 4) {
            true => dictionary(query, "glance_metadata")?,
            false => None,
        };
        Ok(Self {
            query,
            version,
            is_admin: caller.is_admin(),
            metadata: dictionary(query, "metadata")?,
            image_metadata,
        })
    }

    pub(super) fn matches(&self, store: &Store, volume: &Resource<Volume>) -> Result<bool, Failure> {
        let fits = |pair: &(&str, &str)| self.fits(store, volume, pair.0, pair.1);
        for pair in self.query.iter() {
            if !fits(&pair)? {
                return Ok(false);
            }
        }
        let has = |wanted: &Option<Map<String, Value>>, of| wanted.as_ref().is_none_or(|wanted| has_all(of, wanted));
        Ok(has(&self.metadata, &volume.spec.metadata) && has(&self.image_metadata, &volume.spec.image_metadata))
    }

    fn fits(&self, store: &Store, volume: &Resource<Volume>, name: &str, said: &str) -> Result<bool, Failure> {
        if let Some(name) = name.strip_suffix('~') {
            let like = self.version >= Microversion(3, 34);
            return Ok(!like || text_of(volume, name).is_none_or(|is| is.contains(said)));
        }
        if !self.is_admin && !FILTERS.contains(&name) {
            return Ok(true);
        }
        let spec = &volume.spec;
        Ok(match name {
            "size" => said.parse().is_ok_and(|size: u32| size == spec.size_gib),
            "bootable" => parse_bool(said).is_none_or(|wanted| wanted == spec.is_bootable),
            "multiattach" => parse_bool(said).is_none_or(|wanted| wanted == spec.is_multiattach),
            "consumes_quota" => parse_bool(said).unwrap_or(true),
            "created_at" if self.version >= Microversion(3, 60) => fits_time(volume.metadata.created, said, name)?,
            "updated_at" if self.version >= Microversion(3, 60) => fits_time(volume.metadata.updated, said, name)?,
            "volume_type_id" => {
                let wanted = volume_type::find(store, said);
                wanted.is_some_and(|wanted| spec.volume_type.as_deref() == Some(wanted.name()))
            }
            "attach_status" => (said == "attached") != volume.status.attachments.is_empty(),
            "group_id" if self.version < Microversion(3, 10) => true,
            other => text_of(volume, other).is_none_or(|is| is == said),
        })
    }
}

/// The text that a filter compares with; none for what is no such filter.
fn text_of(volume: &Resource<Volume>, name: &str) -> Option<String> {
    let (spec, status) = (&volume.spec, &volume.status);
    let optional = |text: &Option<String>| text.clone().unwrap_or_default();
    let source = || spec.source.id().unwrap_or_default().to_owned();
    Some(match name {
        "name" | "display_name" => optional(&spec.name),
        "description" | "display_description" => optional(&spec.description),
        "status" => status.state.as_str().to_owned(),
        "availability_zone" => spec.availability_zone.clone(),
        "migration_status" => optional(&status.migration),
        "group_id" => optional(&spec.group),
        "host" => optional(&status.host),
        "id" => volume.name().to_owned(),
        "project_id" => volume.project().to_owned(),
        "user_id" => spec.user.clone(),
        "snapshot_id" | "source_volid" => source(),
        _ => return None,
    })
}
