//! Flavors and service profiles as Neutron shows them, and what joins them.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Path, State},
    response::{IntoResponse, Response},
    routing::{delete, post},
};
use http::StatusCode;
use madang_http::{Failure, Json, Query, json};
use madang_identity::Caller;
use madang_store::{ErrorKind, Metadata, Resource, Tx};
use serde_json::{Map, Value, json};

use super::{Flavor, FlavorSpec, ServiceProfile, ServiceProfileSpec};
use crate::{
    api::{
        NetworkApi,
        attribute::{Attribute, Body},
        convert,
        failure::Stop,
        resource::{Context, Exposed, Facts, member, visible},
        view::View,
    },
    refusal::{self, Missing},
};

/// Services that there are flavors of: those whose API is here. Source: neutron-lib's `plugins/constants.py`.
const SERVICES: [&str; 8] = [
    "CORE",
    "L3_ROUTER_NAT",
    "FLAVORS",
    "QOS",
    "METERING",
    "PORTFORWARDING",
    "NETWORK_IP_AVAILABILITY",
    "TRUNK",
];

fn service_type(value: &Value) -> Result<Value, String> {
    let is_known = value.as_str().is_some_and(|text| SERVICES.contains(&text));
    if is_known {
        Ok(value.clone())
    } else {
        Err(format!("{} is not a valid service type", convert::quoted(value)))
    }
}

/// Anything, as text: Neutron keeps what it is given.
fn words(value: &Value) -> Result<Value, String> {
    match value {
        Value::String(_) => Ok(value.clone()),
        other => Ok(other.to_string().into()),
    }
}

impl Exposed for Flavor {
    const SINGULAR: &'static str = "flavor";
    const PLURAL: &'static str = "flavors";
    const MISSING: Missing = Missing::Flavor;
    const ATTRIBUTES: &'static [Attribute] = &[
        Attribute::new("name", convert::text),
        Attribute::new("service_type", service_type).required().fixed(),
        Attribute::new("enabled", convert::flag),
        Attribute::new("service_profiles", convert::uuids),
    ];

    fn facts(_: &Context, flavor: &Resource<Self>) -> Facts {
        Facts::of(flavor.project())
    }

    fn candidates(context: &Context, _: &Query) -> Vec<Arc<Resource<Self>>> {
        context.store.cache::<Self>().all()
    }

    fn view(_: &Context, flavor: &Resource<Self>) -> Map<String, Value> {
        let spec = &flavor.spec;
        View::of_nobody(flavor)
            .with("name", spec.name.as_str())
            .with("description", spec.description.as_str())
            .with("service_type", spec.service_type.as_str())
            .with("enabled", spec.is_enabled)
            .with("service_profiles", spec.profiles.clone())
            .done()
    }

    fn build(_: &Context, tx: &mut Tx<'_>, body: &Body, _: &str) -> Result<Arc<Resource<Self>>, Stop> {
        let mut spec = FlavorSpec {
            is_enabled: true,
            service_type: body.text("service_type").unwrap_or_default().to_owned(),
            ..FlavorSpec::default()
        };
        fill(&mut spec, body)?;
        Ok(tx.create(Resource::<Self>::new(Metadata::with_id(""), spec))?)
    }

    fn change(_: &Context, tx: &mut Tx<'_>, old: &Resource<Self>, body: &Body) -> Result<Arc<Resource<Self>>, Stop> {
        let mut new = old.clone();
        fill(&mut new.spec, body)?;
        Ok(tx.update(old, new)?)
    }
}

fn fill(spec: &mut FlavorSpec, body: &Body) -> Result<(), Stop> {
    body.set_text("name", &mut spec.name);
    body.set_text("description", &mut spec.description);
    body.set_flag("enabled", &mut spec.is_enabled);
    body.set("service_profiles", &mut spec.profiles)?;
    Ok(())
}

impl Exposed for ServiceProfile {
    const SINGULAR: &'static str = "service_profile";
    const PLURAL: &'static str = "service_profiles";
    const MISSING: Missing = Missing::ServiceProfile;
    const ATTRIBUTES: &'static [Attribute] = &[
        Attribute::new("driver", convert::text),
        Attribute::new("metainfo", words),
        Attribute::new("enabled", convert::flag),
        Attribute::shown("flavors"),
    ];

    fn facts(_: &Context, profile: &Resource<Self>) -> Facts {
        Facts::of(profile.project())
    }

    fn candidates(context: &Context, _: &Query) -> Vec<Arc<Resource<Self>>> {
        context.store.cache::<Self>().all()
    }

    fn view(context: &Context, profile: &Resource<Self>) -> Map<String, Value> {
        let spec = &profile.spec;
        let flavors = context.store.cache::<Flavor>().by("profile", profile.name());
        let flavors: Vec<_> = flavors.iter().map(|flavor| flavor.name().to_owned()).collect();
        View::of_nobody(profile)
            .with("description", spec.description.as_str())
            .with("driver", "")
            .with("metainfo", spec.metainfo.as_str())
            .with("enabled", spec.is_enabled)
            .with("flavors", flavors)
            .done()
    }

    fn build(_: &Context, tx: &mut Tx<'_>, body: &Body, _: &str) -> Result<Arc<Resource<Self>>, Stop> {
        let mut spec = ServiceProfileSpec {
            is_enabled: true,
            ..ServiceProfileSpec::default()
        };
        fill_profile(&mut spec, body)?;
        Ok(tx.create(Resource::<Self>::new(Metadata::with_id(""), spec))?)
    }

    fn change(_: &Context, tx: &mut Tx<'_>, old: &Resource<Self>, body: &Body) -> Result<Arc<Resource<Self>>, Stop> {
        let mut new = old.clone();
        fill_profile(&mut new.spec, body)?;
        Ok(tx.update(old, new)?)
    }
}

fn fill_profile(spec: &mut ServiceProfileSpec, body: &Body) -> Result<(), Stop> {
    body.set_text("description", &mut spec.description);
    body.set_text("metainfo", &mut spec.metainfo);
    body.set_flag("enabled", &mut spec.is_enabled);
    if let Some(driver) = body.text("driver").filter(|driver| !driver.is_empty()) {
        let message = format!("Service Profile driver {driver} could not be found.");
        return Err(refusal::refuse(ErrorKind::NotFound, "ServiceProfileDriverNotFound", message).into());
    }
    if spec.metainfo.is_empty() {
        let message = "Service Profile needs either a driver or metainfo.";
        return Err(refusal::bad("ServiceProfileEmpty", message).into());
    }
    Ok(())
}

/// The routes that join the two.
pub(crate) fn routes() -> Router<NetworkApi> {
    Router::new()
        .route("/flavors/{id}/service_profiles", post(join))
        .route("/flavors/{id}/service_profiles/{profile}", delete(part))
}

fn context(api: NetworkApi, caller: Caller) -> Context {
    Context {
        store: api.store,
        caller,
    }
}

async fn join(
    State(api): State<NetworkApi>,
    caller: Caller,
    Path(id): Path<String>,
    body: Json<Value>,
) -> Result<Response, Failure> {
    let context = context(api, caller);
    Facts::of("").enforce(&context.caller, "create_flavor_service_profile")?;
    let given = member(body.0, ServiceProfile::SINGULAR)?;
    let profile = given.get("id").and_then(Value::as_str).unwrap_or_default();
    let profile = visible::<ServiceProfile>(&context, profile)?.name().to_owned();
    change(&context, &id, |profiles| {
        if profiles.contains(&profile) {
            let message = format!("Service Profile {profile} is already associated with flavor {id}.");
            return Err(refusal::conflict("FlavorServiceProfileBindingExists", message).into());
        }
        profiles.push(profile.clone());
        Ok(())
    })
    .await?;
    Ok(json(
        StatusCode::CREATED,
        &json!({ "service_profile": { "id": profile } }),
    ))
}

async fn part(
    State(api): State<NetworkApi>,
    caller: Caller,
    Path((id, profile)): Path<(String, String)>,
) -> Result<Response, Failure> {
    let context = context(api, caller);
    Facts::of("").enforce(&context.caller, "delete_flavor_service_profile")?;
    change(&context, &id, |profiles| {
        let Some(at) = profiles.iter().position(|known| *known == profile) else {
            let message = format!("Service Profile {profile} is not associated with flavor {id}.");
            let reason = "FlavorServiceProfileBindingNotFound";
            return Err(refusal::refuse(ErrorKind::NotFound, reason, message).into());
        };
        profiles.remove(at);
        Ok(())
    })
    .await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn change(
    context: &Context,
    id: &str,
    change: impl Fn(&mut Vec<String>) -> Result<(), Stop>,
) -> Result<(), Failure> {
    let known = visible::<Flavor>(context, id)?;
    let changed = context.store.transact(context.caller.cause(), |tx| {
        let old = tx.get::<Flavor>(&known.key());
        let old = old.ok_or_else(|| refusal::not_found(Missing::Flavor, id))?;
        let mut new = (*old).clone();
        change(&mut new.spec.profiles)?;
        tx.update(&old, new)?;
        Ok::<_, Stop>(())
    });
    Ok(changed.await?)
}
