//! `/types` and `/default-types`: parse, write, render.

use std::sync::Arc;

use axum::{
    extract::{Path, State},
    response::{IntoResponse as _, Response},
};
use http::StatusCode;
use madang_http::{Failure, Json, Microversion, Query, RequestInfo, SortValue, json, parse_bool};
use madang_identity::Caller;
use madang_store::{Key, Kind as _, Metadata, Resource};
use serde_json::{Value, json};

use super::{DefaultType, DefaultTypeSpec, VolumeType, VolumeTypeSpec};
use crate::{
    api::{
        BlockApi, accepted, failure, flag,
        listing::{self, dictionary, has_all},
        member, since, text,
    },
    volume::{api::actions::only_member, verbs::Refusal},
};

/// A type as a caller sees it.
pub(crate) fn view(caller: &Caller, found: &Resource<VolumeType>, version: Microversion) -> Value {
    let spec = &found.spec;
    let mut shown = json!({
        "id": found.name(),
        "name": spec.name,
        "is_public": spec.is_public,
        "description": spec.description,
    });
    if caller.is_admin() {
        shown["qos_specs_id"] = json!(spec.qos_specs);
        shown["extra_specs"] = json!(spec.extra_specs);
    } else if version >= Microversion(3, 0) {
        // What a user has to know to choose.
        let open = ["RESKEY:availability_zones", "multiattach", "replication_enabled"];
        let specs: serde_json::Map<String, Value> = spec
            .extra_specs
            .iter()
            .filter(|(key, _)| open.contains(&key.as_str()))
            .map(|(key, value)| (key.clone(), json!(value)))
            .collect();
        shown["extra_specs"] = Value::Object(specs);
    }
    shown["os-volume-type-access:is_public"] = json!(spec.is_public);
    shown
}

/// The type, if the caller may know of it.
pub(crate) fn type_for(api: &BlockApi, caller: &Caller, id: &str) -> Result<Arc<Resource<VolumeType>>, Failure> {
    let project = caller.subject.project_id().unwrap_or_default();
    let found = api.store.cache::<VolumeType>().by_name(id);
    let found = found.filter(|found| caller.is_admin() || found.spec.is_open_to(project));
    found.ok_or_else(|| Failure::not_found(format!("Volume type {id} could not be found.")))
}

/// Changes a type.
///
/// # Errors
/// What `change` says; `NotFound` when it is gone.
pub(crate) async fn edit(
    api: &BlockApi,
    caller: &Caller,
    found: &Resource<VolumeType>,
    change: impl Fn(&mut Resource<VolumeType>) -> Result<(), Failure>,
) -> Result<Arc<Resource<VolumeType>>, Failure> {
    let key = found.key();
    let changed = api
        .store
        .modify::<VolumeType, Refusal>(&key, caller.cause(), |found| Ok(change(found)?));
    changed.await.map_err(|Refusal(failure)| failure)
}

/// `GET /types`.
pub async fn list(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
    query: Query,
    info: RequestInfo,
) -> Result<Response, Failure> {
    caller.enforce_in("volume_extension:type_get_all", caller.project()?)?;
    let project = caller.project()?;
    let wants_public = match query.get("is_public").map(str::to_lowercase).as_deref() {
        None => Some(true),
        Some("none") => None,
        Some(said) => {
            let bad = || Failure::invalid(format!("Invalid is_public filter [{said}]"));
            Some(parse_bool(said).ok_or_else(bad)?)
        }
    };
    let extra = dictionary(&query, "extra_specs")?.filter(|_| version >= Microversion(3, 52));
    let mut types = api.store.cache::<VolumeType>().all();
    types.retain(|found| {
        let may_see = caller.is_admin() || found.spec.is_open_to(project);
        let fits = !caller.is_admin() || wants_public.is_none_or(|wanted| wanted == found.spec.is_public);
        let has = extra
            .as_ref()
            .is_none_or(|wanted| has_all(&found.spec.extra_specs, wanted));
        let named = query.get("name").is_none_or(|name| name == found.spec.name);
        may_see && fits && has && named
    });
    let keys = ["id", "name", "created_at", "updated_at", "is_public"];
    let page = listing::page(types, &query, &keys, |found, key| match key {
        "id" => found.name().into(),
        "name" => found.spec.name.as_str().into(),
        "is_public" => found.spec.is_public.into(),
        "updated_at" => SortValue::from(found.metadata.updated),
        _ => found.metadata.created.into(),
    })?;
    let shown = page.0.items.iter().map(|found| view(&caller, found, version));
    let answer = listing::answer("volume_types", shown.collect(), &page, (&info, &query, version))?;
    Ok(answer)
}

/// `GET /types/{id}`; `default` is what a volume has where nothing is said.
pub async fn show(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    caller.enforce_in("volume_extension:type_get", caller.project()?)?;
    let found = if id == "default" {
        let missing = || Failure::not_found("Default volume type can not be found.");
        super::default_of(&api.store, caller.project()?).ok_or_else(missing)?
    } else {
        type_for(&api, &caller, &id)?
    };
    Ok(json(
        StatusCode::OK,
        &json!({ "volume_type": view(&caller, &found, version) }),
    ))
}

fn checked_name(name: Option<String>) -> Result<String, Failure> {
    let name = name.unwrap_or_default();
    if name.is_empty() || name.chars().count() > 255 {
        let message =
            format!("Invalid input for field/attribute name. Value: {name}. The name must have 1 to 255 characters.");
        return Err(Failure::invalid(message).at("name"));
    }
    Ok(name)
}

fn checked_description(description: Option<String>) -> Result<Option<String>, Failure> {
    if description.as_ref().is_some_and(|text| text.chars().count() > 255) {
        return Err(
            Failure::invalid("Invalid input for field/attribute description. It is too long").at("description"),
        );
    }
    Ok(description)
}

/// `POST /types`.
pub async fn create(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    caller.enforce("volume_extension:type_create", &[])?;
    let body = member(&body, "volume_type")?;
    let specs = body.get("extra_specs").cloned().unwrap_or_else(|| json!({}));
    let spec = VolumeTypeSpec {
        name: checked_name(text(body, "name"))?,
        description: checked_description(text(body, "description"))?,
        is_public: flag(body, "os-volume-type-access:is_public", true)?,
        extra_specs: super::specs::read(&specs)?,
        ..VolumeTypeSpec::default()
    };
    let made = api.store.transact::<_, Refusal>(caller.cause(), |tx| {
        Ok(tx.create(Resource::<VolumeType>::new(Metadata::with_id(""), spec.clone()))?)
    });
    let made = made.await.map_err(|Refusal(failure)| failure)?;
    let mut shown = view(&caller, &made, version);
    // A new one has none, and is not said to.
    if let Some(members) = shown.as_object_mut() {
        members.remove("qos_specs_id");
    }
    Ok(json(StatusCode::OK, &json!({ "volume_type": shown })))
}

/// `PUT /types/{id}`.
pub async fn update(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    caller.enforce("volume_extension:type_update", &[])?;
    let body = member(&body, "volume_type")?;
    let found = type_for(&api, &caller, &id)?;
    let name = body.get("name").filter(|name| !name.is_null());
    let name = name.map(|_| checked_name(text(body, "name"))).transpose()?;
    let description = checked_description(text(body, "description"))?;
    let is_public = body
        .get("is_public")
        .map(|_| flag(body, "is_public", true))
        .transpose()?;
    if name.is_none() && description.is_none() && is_public.is_none() {
        return Err(Failure::invalid(
            "Specify volume type name, description, is_public or a combination thereof.",
        ));
    }
    let changed = edit(&api, &caller, &found, |found| {
        if let Some(name) = &name {
            found.spec.name.clone_from(name);
        }
        if let Some(description) = &description {
            found.spec.description = Some(description.clone());
        }
        found.spec.is_public = is_public.unwrap_or(found.spec.is_public);
        Ok(())
    });
    let mut shown = view(&caller, &*changed.await?, version);
    if let Some(members) = shown.as_object_mut() {
        for unsaid in ["qos_specs_id", "os-volume-type-access:is_public"] {
            members.remove(unsaid);
        }
    }
    Ok(json(StatusCode::OK, &json!({ "volume_type": shown })))
}

/// `DELETE /types/{id}`.
pub async fn delete(State(api): State<BlockApi>, caller: Caller, Path(id): Path<String>) -> Result<Response, Failure> {
    caller.enforce("volume_extension:type_delete", &[])?;
    let found = type_for(&api, &caller, &id)?;
    let is_default = super::default_of(&api.store, "").is_some_and(|default| default.name() == found.name());
    if is_default {
        let message = format!("The volume type {id} is the default volume type and cannot be deleted.");
        return Err(Failure::invalid(message));
    }
    let mut tx = api.store.begin(caller.cause());
    tx.delete(&found).map_err(failure)?;
    tx.commit().await.map_err(failure)?;
    Ok(accepted())
}

/// `GET /types/{id}/os-volume-type-access`.
pub async fn access(State(api): State<BlockApi>, caller: Caller, Path(id): Path<String>) -> Result<Response, Failure> {
    caller.enforce("volume_extension:volume_type_access:get_all_for_type", &[])?;
    let found = type_for(&api, &caller, &id)?;
    if found.spec.is_public {
        return Err(Failure::not_found("Access list not available for public volume types."));
    }
    let projects = found.spec.access.iter();
    let shown: Vec<Value> = projects
        .map(|project| json!({ "volume_type_id": found.name(), "project_id": project }))
        .collect();
    Ok(json(StatusCode::OK, &json!({ "volume_type_access": shown })))
}

/// `POST /types/{id}/action`: who may use a type that is not public.
pub async fn act(
    State(api): State<BlockApi>,
    caller: Caller,
    Path(id): Path<String>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    let (name, said) = only_member(&body)?;
    let adds = match name {
        "addProjectAccess" => true,
        "removeProjectAccess" => false,
        other => return Err(Failure::invalid(format!("There is no such action: {other}"))),
    };
    caller.enforce(&format!("volume_extension:volume_type_access:{name}"), &[])?;
    let project = said["project"].as_str().filter(|project| !project.is_empty());
    let project =
        project.ok_or_else(|| Failure::invalid("Invalid input for field/attribute project.").at("project"))?;
    let found = type_for(&api, &caller, &id)?;
    edit(&api, &caller, &found, |found| {
        if found.spec.is_public {
            return Err(Failure::conflict(
                "Type access modification is not applicable to public volume type.",
            ));
        }
        if adds && !found.spec.access.insert(project.to_owned()) {
            let message = format!("Volume type access for {id} / {project} combination already exists.");
            return Err(Failure::conflict(message));
        }
        if !adds && !found.spec.access.remove(project) {
            let message = format!("Volume type access not found for {id} / {project} combination.");
            return Err(Failure::not_found(message));
        }
        Ok(())
    })
    .await?;
    Ok(accepted())
}

fn default_view(found: &Resource<DefaultType>) -> Value {
    json!({ "project_id": found.name(), "volume_type_id": found.spec.volume_type })
}

/// `GET /default-types`.
pub async fn default_types(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
) -> Result<Response, Failure> {
    since(version, 62)?;
    caller.enforce("volume_extension:default_get_all", &[])?;
    let all = api.store.cache::<DefaultType>().all();
    let shown: Vec<Value> = all.iter().map(|found| default_view(found)).collect();
    Ok(json(StatusCode::OK, &json!({ "default_types": shown })))
}

/// `GET /default-types/{project}`.
pub async fn default_type(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
    Path(project): Path<String>,
) -> Result<Response, Failure> {
    since(version, 62)?;
    caller.enforce("volume_extension:default_get", &[])?;
    let found = api.store.cache::<DefaultType>().by_name(&project);
    let missing = || Failure::not_found(format!("Default type for project {project} not found."));
    Ok(json(
        StatusCode::OK,
        &json!({ "default_type": default_view(&*found.ok_or_else(missing)?) }),
    ))
}

/// `PUT /default-types/{project}`.
pub async fn set_default_type(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
    Path(project): Path<String>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    since(version, 62)?;
    caller.enforce("volume_extension:default_set_or_update", &[])?;
    let wanted = text(member(&body, "default_type")?, "volume_type").unwrap_or_default();
    let missing = || Failure::not_found(format!("Volume type {wanted} could not be found."));
    let wanted = super::find(&api.store, &wanted).ok_or_else(missing)?;
    let key = Key::new(DefaultType::NAME, "", "", &project);
    let set = api.store.transact::<_, Refusal>(caller.cause(), |tx| {
        let spec = DefaultTypeSpec {
            volume_type: wanted.name().to_owned(),
        };
        Ok(match tx.get::<DefaultType>(&key) {
            Some(old) => tx.update(&old, Resource { spec, ..(*old).clone() })?,
            None => tx.create(Resource::<DefaultType>::new(Metadata::new("", &*project), spec))?,
        })
    });
    let set = set.await.map_err(|Refusal(failure)| failure)?;
    Ok(json(StatusCode::OK, &json!({ "default_type": default_view(&set) })))
}

/// `DELETE /default-types/{project}`.
pub async fn unset_default_type(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
    Path(project): Path<String>,
) -> Result<Response, Failure> {
    since(version, 62)?;
    caller.enforce("volume_extension:default_unset", &[])?;
    if let Some(found) = api.store.cache::<DefaultType>().by_name(&project) {
        let mut tx = api.store.begin(caller.cause());
        tx.delete(&found).map_err(failure)?;
        tx.commit().await.map_err(failure)?;
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}
