//! Routers as Neutron shows them, and what is done to their interfaces and routes.

use std::sync::Arc;

use axum::{
    extract::{Path, State},
    response::Response,
};
use http::StatusCode;
use madang_http::{Failure, Json, json};
use madang_identity::Caller;
use madang_store::{Key, Metadata, Resource, Tx};
use serde_json::{Map, Value, json};

use super::{ExternalGateway, Router, RouterSpec, interfaces};
use crate::{
    FixedIp, HostRoute, Network, Port, Subnet,
    api::{
        NetworkApi,
        attribute::{Attribute, Body},
        convert,
        failure::Stop,
        resource::{Context, Exposed, Facts, Shown, member, stored, visible, wrapped},
        view::View,
    },
    network::api::zones,
    refusal::{self, Missing},
};

impl Exposed for Router {
    const SINGULAR: &'static str = "router";
    const PLURAL: &'static str = "routers";
    const MISSING: Missing = Missing::Router;
    const ATTRIBUTES: &'static [Attribute] = &[
        Attribute::new("name", convert::text),
        Attribute::new("admin_state_up", convert::flag),
        Attribute::new("external_gateway_info", convert::object_or_null),
        Attribute::new("routes", convert::routes),
        Attribute::new("distributed", convert::flag).guarded_flag().restricted(),
        Attribute::new("ha", convert::flag).guarded_flag().restricted(),
        Attribute::new("availability_zone_hints", convert::texts).fixed(),
        Attribute::shown("status"),
        Attribute::shown("availability_zones"),
    ];

    fn facts(_: &Context, router: &Resource<Self>) -> Facts {
        Facts::of(router.project())
    }

    fn view(context: &Context, router: &Resource<Self>) -> Map<String, Value> {
        let spec = &router.spec;
        View::of(router, &spec.description, &spec.tags)
            .with("name", spec.name.as_str())
            .with("admin_state_up", spec.admin_state_up)
            .with(
                "status",
                if router.status.failure.is_some() {
                    "ERROR"
                } else {
                    "ACTIVE"
                },
            )
            .with("external_gateway_info", spec.gateway.as_ref().map(gateway_view))
            .typed("routes", &spec.routes)
            .with("distributed", spec.distributed)
            .with("ha", spec.ha)
            .with("availability_zone_hints", spec.availability_zone_hints.clone())
            .with("availability_zones", zones(context))
            .done()
    }

    fn build(context: &Context, tx: &mut Tx<'_>, body: &Body, project: &str) -> Result<Arc<Resource<Self>>, Stop> {
        let mut spec = RouterSpec {
            name: String::new(),
            description: String::new(),
            admin_state_up: true,
            gateway: None,
            routes: Vec::new(),
            distributed: false,
            ha: false,
            availability_zone_hints: Vec::new(),
            tags: Vec::new(),
        };
        body.set("availability_zone_hints", &mut spec.availability_zone_hints)?;
        fill(context, &mut spec, body, "create_router", project)?;
        Ok(tx.create(Resource::<Self>::new(Metadata::with_id(project), spec))?)
    }

    fn change(
        context: &Context,
        tx: &mut Tx<'_>,
        old: &Resource<Self>,
        body: &Body,
    ) -> Result<Arc<Resource<Self>>, Stop> {
        let mut new = old.clone();
        fill(context, &mut new.spec, body, "update_router", old.project())?;
        // As in Neutron, which moves what a router has; here nothing moves, but clients rely on being told.
        if new.spec.distributed != old.spec.distributed && old.spec.admin_state_up && new.spec.admin_state_up {
            let why = "Cannot change the distribution of an active router: set its admin_state_up to False before";
            return Err(refusal::bad_request("router", why).into());
        }
        Ok(tx.update(old, new)?)
    }
}

fn gateway_view(gateway: &ExternalGateway) -> Value {
    json!({
        "network_id": gateway.network_id,
        "enable_snat": gateway.enable_snat,
        "external_fixed_ips": gateway.fixed_ips,
    })
}

fn fill(context: &Context, spec: &mut RouterSpec, body: &Body, action: &str, project: &str) -> Result<(), Stop> {
    body.set_text("name", &mut spec.name);
    body.set_text("description", &mut spec.description);
    body.set_flag("admin_state_up", &mut spec.admin_state_up);
    body.set_flag("distributed", &mut spec.distributed);
    body.set_flag("ha", &mut spec.ha);
    body.set("routes", &mut spec.routes)?;
    if body.has("external_gateway_info") {
        let info = body
            .get("external_gateway_info")
            .and_then(Value::as_object)
            .filter(|info| !info.is_empty());
        spec.gateway = match info {
            None => None,
            Some(info) => Some(read_gateway(context, info, spec.gateway.as_ref(), action, project)?),
        };
    }
    Ok(())
}

fn read_gateway(
    context: &Context,
    info: &Map<String, Value>,
    known: Option<&ExternalGateway>,
    action: &str,
    project: &str,
) -> Result<ExternalGateway, Stop> {
    let unfit = |name: &str, why: String| {
        Failure::invalid(format!("Invalid input for external_gateway_info. Reason: {why}."))
            .at(format!("external_gateway_info.{name}"))
    };
    if let Some(odd) = info
        .keys()
        .find(|name| !["network_id", "enable_snat", "external_fixed_ips"].contains(&name.as_str()))
    {
        return Err(unfit(odd, format!("Unexpected keys supplied: {odd}")).into());
    }
    let network_id = match info.get("network_id").filter(|id| !id.is_null()) {
        Some(id) => convert::uuid(id).map_err(|why| unfit("network_id", why))?,
        None => {
            return Err(unfit(
                "network_id",
                "Validation of dictionary's keys failed. Missing keys: network_id".into(),
            )
            .into());
        }
    };
    let network = visible::<Network>(context, network_id.as_str().unwrap_or_default())?;
    let facts = Facts::of(project);
    let enable_snat = match info.get("enable_snat").filter(|flag| !flag.is_null()) {
        Some(flag) => {
            let wanted = convert::flag(flag).map_err(|why| unfit("enable_snat", why))? == Value::Bool(true);
            let usual = known.is_none_or(|gateway| gateway.enable_snat);
            if wanted != usual {
                facts.enforce(&context.caller, &format!("{action}:external_gateway_info:enable_snat"))?;
            }
            wanted
        }
        None => known.is_none_or(|gateway| gateway.enable_snat),
    };
    let mut fixed_ips: Vec<FixedIp> = Vec::new();
    if let Some(given) = info.get("external_fixed_ips").filter(|ips| !ips.is_null()) {
        facts.enforce(
            &context.caller,
            &format!("{action}:external_gateway_info:external_fixed_ips"),
        )?;
        let read = convert::fixed_ips(given).map_err(|why| unfit("external_fixed_ips", why))?;
        fixed_ips = serde_json::from_value(read).map_err(|why| unfit("external_fixed_ips", why.to_string()))?;
    }
    let port_id = String::new(); // the kind's rule keeps or makes the port
    Ok(ExternalGateway {
        network_id: network.name().to_owned(),
        port_id,
        fixed_ips,
        enable_snat,
    })
}

/// What a router's action is about.
struct Action {
    context: Context,
    key: Key,
    body: Map<String, Value>,
}

impl Action {
    fn new(api: NetworkApi, caller: Caller, id: &str, body: Map<String, Value>, rule: &str) -> Result<Self, Failure> {
        let context = Context {
            store: api.store,
            caller,
        };
        let router = visible::<Router>(&context, id)?;
        Facts::of(router.project()).enforce(&context.caller, rule)?;
        Ok(Self {
            context,
            key: router.key(),
            body,
        })
    }

    fn router(&self, tx: &Tx<'_>) -> Result<Arc<Resource<Router>>, Stop> {
        Ok(tx
            .get::<Router>(&self.key)
            .ok_or_else(|| refusal::not_found(Missing::Router, &self.key.name))?)
    }

    /// An id in the body.
    fn id(&self, name: &str) -> Result<Option<&str>, Failure> {
        match self.body.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => {
                let bad = |why| Failure::invalid(format!("Invalid input for {name}. Reason: {why}.")).at(name);
                convert::uuid(value).map_err(bad)?;
                Ok(value.as_str())
            }
        }
    }
}

fn object(body: Value) -> Result<Map<String, Value>, Failure> {
    match body {
        Value::Object(members) => Ok(members),
        _ => Err(refusal::bad_request("router", "Missing or malformed interface information").into()),
    }
}

/// `PUT /routers/{id}/add_router_interface` with `subnet_id` or `port_id`.
pub(crate) async fn add_interface(
    State(api): State<NetworkApi>,
    caller: Caller,
    Path(id): Path<String>,
    body: Json<Value>,
) -> Result<Response, Failure> {
    let action = Action::new(api, caller, &id, object(body.0)?, "add_router_interface")?;
    let (subnet, port) = (action.id("subnet_id")?, action.id("port_id")?);
    let context = &action.context;
    let added = context.store.transact(context.caller.cause(), |tx| {
        let router = action.router(tx)?;
        match (subnet, port) {
            (Some(_), Some(_)) => {
                Err(refusal::bad_request("router", "Cannot specify both subnet-id and port-id").into())
            }
            (None, None) => Err(refusal::bad_request("router", "Either subnet_id or port_id must be specified").into()),
            (Some(subnet), None) => {
                let subnet = visible::<Subnet>(context, subnet)?;
                Ok::<_, Stop>(interfaces::add_subnet(tx, &router, &subnet)?)
            }
            (None, Some(port)) => {
                let port = visible::<Port>(context, port)?;
                if port.project() != router.project() && !context.caller.is_admin() {
                    return Err(refusal::not_found(Missing::Port, port.name()).into());
                }
                Ok(interfaces::add_port(tx, &router, &port)?)
            }
        }
    });
    let added = added.await?;
    Ok(interface_answer(&action.key, &added))
}

/// `PUT /routers/{id}/remove_router_interface` with `subnet_id` or `port_id`, or both where they belong together.
pub(crate) async fn remove_interface(
    State(api): State<NetworkApi>,
    caller: Caller,
    Path(id): Path<String>,
    body: Json<Value>,
) -> Result<Response, Failure> {
    let action = Action::new(api, caller, &id, object(body.0)?, "remove_router_interface")?;
    let (subnet, port) = (action.id("subnet_id")?, action.id("port_id")?);
    let context = &action.context;
    let removed = context.store.transact(context.caller.cause(), |tx| {
        let router = action.router(tx)?;
        let interface = match (subnet, port) {
            (None, None) => {
                return Err(refusal::bad_request("router", "Either subnet_id or port_id must be specified").into());
            }
            (subnet, Some(port)) => {
                let interface = interfaces::by_port(tx, &router, port)?;
                let has = |subnet: &str| interface.spec.fixed_ips.iter().any(|ip| ip.subnet_id == subnet);
                if let Some(subnet) = subnet.filter(|subnet| !has(subnet)) {
                    let message = format!("Subnet on port {port} does not match the requested subnet {subnet}.");
                    return Err(refusal::bad("SubnetMismatchForPort", message).into());
                }
                interface
            }
            (Some(subnet), None) => interfaces::by_subnet(tx, &router, subnet)?,
        };
        interfaces::remove(tx, &router, &interface)?;
        Ok::<_, Stop>(interface)
    });
    let removed = removed.await?;
    Ok(interface_answer(&action.key, &removed))
}

fn interface_answer(router: &Key, port: &Resource<Port>) -> Response {
    let subnets: Vec<_> = port.spec.fixed_ips.iter().map(|ip| ip.subnet_id.as_str()).collect();
    json(
        StatusCode::OK,
        &json!({
            "id": router.name,
            "project_id": router.project,
            "tenant_id": router.project,
            "port_id": port.name(),
            "network_id": port.spec.network_id,
            "subnet_id": subnets.first(),
            "subnet_ids": subnets,
            "tags": [],
        }),
    )
}

/// `PUT /routers/{id}/add_extraroutes`: adds routes that are not there yet.
pub(crate) async fn add_routes(
    State(api): State<NetworkApi>,
    caller: Caller,
    Path(id): Path<String>,
    body: Json<Value>,
) -> Result<Response, Failure> {
    change_routes(api, caller, &id, body.0, "add_extraroutes", |routes, given| {
        let new: Vec<_> = given.into_iter().filter(|route| !routes.contains(route)).collect();
        routes.extend(new);
    })
    .await
}

/// `PUT /routers/{id}/remove_extraroutes`: removes routes; those that are not there are fine.
pub(crate) async fn remove_routes(
    State(api): State<NetworkApi>,
    caller: Caller,
    Path(id): Path<String>,
    body: Json<Value>,
) -> Result<Response, Failure> {
    change_routes(api, caller, &id, body.0, "remove_extraroutes", |routes, given| {
        routes.retain(|route| !given.contains(route));
    })
    .await
}

async fn change_routes(
    api: NetworkApi,
    caller: Caller,
    id: &str,
    body: Value,
    rule: &str,
    change: impl Fn(&mut Vec<HostRoute>, Vec<HostRoute>),
) -> Result<Response, Failure> {
    let action = Action::new(api, caller, id, member(body, Router::SINGULAR)?, rule)?;
    let given = action.body.get("routes").unwrap_or(&Value::Null);
    let bad = |why: String| Failure::invalid(format!("Invalid input for routes. Reason: {why}.")).at("routes");
    let given = convert::routes(given).map_err(bad)?;
    let given: Vec<HostRoute> = serde_json::from_value(given).map_err(|why| bad(why.to_string()))?;
    let context = &action.context;
    let changed = context.store.transact(context.caller.cause(), |tx| {
        let old = action.router(tx)?;
        let mut new = (*old).clone();
        change(&mut new.spec.routes, given.clone());
        Ok::<_, Stop>(tx.update(&old, new)?)
    });
    let changed = changed.await?;
    let view = Shown::<Router>::new(context).view(context, &stored(context, &changed));
    Ok(json(StatusCode::OK, &wrapped(Router::SINGULAR, Value::Object(view))))
}
