//! Trunks as Neutron shows them, and the actions on their subports.

use std::sync::Arc;

use axum::{
    extract::{Path, State},
    response::Response,
};
use http::StatusCode;
use madang_http::{Failure, Json, json};
use madang_identity::Caller;
use madang_store::{Metadata, Resource, Tx};
use serde_json::{Map, Value, json};

use super::{SubPort, Trunk, TrunkSpec};
use crate::{
    Network, Port,
    api::{
        NetworkApi,
        attribute::{Attribute, Body},
        convert,
        failure::Stop,
        resource::{Context, Exposed, Facts, stored, visible},
        view::View,
    },
    refusal::{self, Missing},
};

impl Exposed for Trunk {
    const SINGULAR: &'static str = "trunk";
    const PLURAL: &'static str = "trunks";
    const MISSING: Missing = Missing::Trunk;
    const ATTRIBUTES: &'static [Attribute] = &[
        Attribute::new("name", convert::text),
        Attribute::new("admin_state_up", convert::flag),
        Attribute::new("port_id", convert::uuid).required().fixed(),
        Attribute::new("sub_ports", sub_ports).fixed(),
        Attribute::shown("status"),
    ];

    fn facts(_: &Context, trunk: &Resource<Self>) -> Facts {
        Facts::of(trunk.project())
    }

    fn view(context: &Context, trunk: &Resource<Self>) -> Map<String, Value> {
        let spec = &trunk.spec;
        View::of(trunk, &spec.description, &spec.tags)
            .with("name", spec.name.as_str())
            .with("admin_state_up", spec.admin_state_up)
            .with("port_id", spec.port_id.as_str())
            .typed("sub_ports", &spec.sub_ports)
            .with("status", status(context, spec))
            .done()
    }

    fn build(context: &Context, tx: &mut Tx<'_>, body: &Body, project: &str) -> Result<Arc<Resource<Self>>, Stop> {
        let parent = body.text("port_id").unwrap_or_default();
        let mut spec = TrunkSpec {
            admin_state_up: true,
            port_id: usable(context, parent, project)?.name().to_owned(),
            ..TrunkSpec::default()
        };
        fill(&mut spec, body);
        let given: Vec<Value> = body.typed("sub_ports")?.unwrap_or_default();
        spec.sub_ports = resolve(context, &given, project)?;
        Ok(tx.create(Resource::<Self>::new(Metadata::with_id(project), spec))?)
    }

    fn change(_: &Context, tx: &mut Tx<'_>, old: &Resource<Self>, body: &Body) -> Result<Arc<Resource<Self>>, Stop> {
        let mut new = old.clone();
        fill(&mut new.spec, body);
        Ok(tx.update(old, new)?)
    }

    fn remove(_: &Context, tx: &mut Tx<'_>, trunk: &Resource<Self>) -> Result<(), Stop> {
        require_enabled(trunk)?;
        Ok(tx.delete(trunk)?)
    }
}

fn fill(spec: &mut TrunkSpec, body: &Body) {
    body.set_text("name", &mut spec.name);
    body.set_text("description", &mut spec.description);
    body.set_flag("admin_state_up", &mut spec.admin_state_up);
}

/// A trunk is as far as its ports are.
fn status(context: &Context, spec: &TrunkSpec) -> &'static str {
    let ports = context.store.cache::<Port>();
    let Some(parent) = ports.by_name(&spec.port_id) else {
        return "DOWN";
    };
    let Some(host) = parent.spec.binding_host.as_deref() else {
        return "DOWN";
    };
    let subs: Vec<_> = spec
        .sub_ports
        .iter()
        .filter_map(|sub| ports.by_name(&sub.port_id))
        .collect();
    let is_wired = |port: &Arc<Resource<Port>>| port.status.wired_on.as_deref() == Some(host);
    if subs.iter().any(|sub| sub.status.failure.is_some()) {
        "DEGRADED"
    } else if is_wired(&parent) && subs.iter().all(is_wired) {
        "ACTIVE"
    } else {
        "BUILD"
    }
}

fn require_enabled(trunk: &Resource<Trunk>) -> Result<(), Stop> {
    if trunk.spec.admin_state_up {
        return Ok(());
    }
    let message = format!("Trunk {} is currently disabled.", trunk.name());
    Err(refusal::conflict("TrunkDisabled", message).into())
}

/// A port that the project may put into a trunk: its own, or any for an admin.
fn usable(context: &Context, id: &str, project: &str) -> Result<Arc<Resource<Port>>, Failure> {
    let port = visible::<Port>(context, id)?;
    if port.project() == project || context.caller.is_admin() {
        Ok(port)
    } else {
        Err(refusal::not_found(Missing::Port, id).into())
    }
}

/// Checks the shape of a list of subports. What it refuses are the words of Neutron's validator.
fn sub_ports(value: &Value) -> Result<Value, String> {
    if value.is_null() {
        return Ok(Value::Array(Vec::new()));
    }
    let quoted = convert::quoted;
    let Some(list) = value.as_array() else {
        return Err(format!(
            "Invalid data format for subports: '{}' is not a list",
            quoted(value)
        ));
    };
    let mut ids = Vec::new();
    let mut numbers = Vec::new();
    for sub in list {
        let Some(members) = sub.as_object() else {
            return Err(format!(
                "Invalid data format for subport: '{}' is not a dict",
                quoted(sub)
            ));
        };
        let Some(id) = members.get("port_id") else {
            return Err("A valid port UUID must be specified".to_owned());
        };
        if convert::uuid(id).is_err() {
            return Err(format!("Invalid UUID for subport: '{}'", plain(id)));
        }
        if ids.contains(&id) {
            return Err(format!("Non unique UUID for subport: '{}'", plain(id)));
        }
        ids.push(id);
        let kind = members.get("segmentation_type").filter(|kind| !is_blank(kind));
        if kind.and_then(Value::as_str) == Some("inherit") {
            continue;
        }
        let number = members.get("segmentation_id").filter(|number| !number.is_null());
        let is_whole = kind.is_some() && number.is_some();
        if !is_whole && members.len() > 1 {
            return Err(incomplete(sub));
        }
        if let Some(number) = number {
            if numbers.contains(&(kind, number)) {
                let (number, port) = (plain(number), plain(id));
                return Err(format!("Segmentation ID '{number}' for '{port}' is not unique"));
            }
            numbers.push((kind, number));
        }
    }
    Ok(value.clone())
}

fn incomplete(sub: &Value) -> String {
    let sub = convert::quoted(sub);
    format!(
        "Invalid subport details '{sub}': missing segmentation information. Must specify both segmentation_id and \
         segmentation_type"
    )
}

fn is_blank(value: &Value) -> bool {
    value.is_null() || value.as_str() == Some("")
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// From what was given to subports with numbers: those that inherit theirs take it from their network.
fn resolve(context: &Context, given: &[Value], project: &str) -> Result<Vec<SubPort>, Stop> {
    let one = |sub: &Value| {
        let port = usable(context, sub["port_id"].as_str().unwrap_or_default(), project)?;
        let (kind, number) = match sub["segmentation_type"].as_str() {
            Some("inherit") => {
                let network = context.store.cache::<Network>().by_name(&port.spec.network_id);
                let network = network.ok_or_else(|| refusal::not_found(Missing::Network, &port.spec.network_id))?;
                (
                    network.spec.network_type.clone(),
                    Some(i64::from(network.spec.segmentation_id)),
                )
            }
            Some(kind) => (kind.to_owned(), whole(&sub["segmentation_id"])?),
            None => return Err(Stop::from(refusal::invalid(incomplete(sub)))),
        };
        if kind != "vlan" {
            return Err(refusal::invalid(format_args!("Unknown segmentation_type '{kind}'")).into());
        }
        let number = number.ok_or_else(|| refusal::invalid(incomplete(sub)))?;
        let fits = u16::try_from(number);
        let fits = fits.map_err(|_| refusal::invalid(format_args!("Segmentation ID '{number}' is not in range")));
        Ok(SubPort {
            port_id: port.name().to_owned(),
            segmentation_type: kind,
            segmentation_id: fits?,
        })
    };
    given.iter().map(one).collect()
}

fn whole(value: &Value) -> Result<Option<i64>, Stop> {
    let unfit = || {
        let value = plain(value);
        refusal::invalid(format_args!(
            "Invalid subport details: segmentation_id '{value}' is not an integer"
        ))
    };
    match convert::number_or_null(value) {
        Ok(number) => Ok(number.as_i64()),
        Err(_) => Err(unfit().into()),
    }
}

/// `GET /trunks/{id}/get_subports`.
pub(crate) async fn subports(
    State(api): State<NetworkApi>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let context = Context {
        store: api.store,
        caller,
    };
    let trunk = visible::<Trunk>(&context, &id)?;
    Facts::of(trunk.project()).enforce(&context.caller, "get_subports")?;
    Ok(json(StatusCode::OK, &json!({ "sub_ports": trunk.spec.sub_ports })))
}

/// `PUT /trunks/{id}/add_subports`.
pub(crate) async fn add_subports(
    State(api): State<NetworkApi>,
    caller: Caller,
    Path(id): Path<String>,
    body: Json<Value>,
) -> Result<Response, Failure> {
    change_subports(api, caller, &id, &body.0, "add_subports", |context, trunk, given| {
        let more = resolve(context, given, trunk.project())?;
        let mut new = trunk.clone();
        new.spec.sub_ports.extend(more);
        Ok(new)
    })
    .await
}

/// `PUT /trunks/{id}/remove_subports`. Only the ports' ids count.
pub(crate) async fn remove_subports(
    State(api): State<NetworkApi>,
    caller: Caller,
    Path(id): Path<String>,
    body: Json<Value>,
) -> Result<Response, Failure> {
    change_subports(api, caller, &id, &body.0, "remove_subports", |_, trunk, given| {
        let mut new = trunk.clone();
        for sub in given {
            let id = sub["port_id"].as_str().unwrap_or_default();
            let subs = &mut new.spec.sub_ports;
            let Some(place) = subs.iter().position(|sub| sub.port_id == id) else {
                let message = format!(
                    "SubPort on trunk {} with parent port {id} could not be found.",
                    trunk.name()
                );
                return Err(refusal::refuse(madang_store::ErrorKind::NotFound, "SubPortNotFound", message).into());
            };
            subs.remove(place);
        }
        Ok(new)
    })
    .await
}

/// Answers with the trunk, not wrapped, as Neutron does.
async fn change_subports(
    api: NetworkApi,
    caller: Caller,
    id: &str,
    body: &Value,
    rule: &str,
    change: impl Fn(&Context, &Resource<Trunk>, &[Value]) -> Result<Resource<Trunk>, Stop>,
) -> Result<Response, Failure> {
    let context = Context {
        store: api.store,
        caller,
    };
    let known = visible::<Trunk>(&context, id)?;
    Facts::of(known.project()).enforce(&context.caller, rule)?;
    let given = sub_ports(body.get("sub_ports").unwrap_or(&json!({}))).map_err(refusal::invalid)?;
    let given = given.as_array().cloned().unwrap_or_default();
    let changed = context.store.transact(context.caller.cause(), |tx| {
        let old = tx.get::<Trunk>(&known.key());
        let old = old.ok_or_else(|| refusal::not_found(Missing::Trunk, id))?;
        require_enabled(&old)?;
        let new = change(&context, &old, &given)?;
        Ok::<_, Stop>(tx.update(&old, new)?)
    });
    let changed = changed.await?;
    let view = Trunk::view(&context, &stored(&context, &changed));
    Ok(json(StatusCode::OK, &Value::Object(view)))
}
