//! Address groups as Neutron shows them, and the actions on their addresses.

use std::{net::IpAddr, sync::Arc};

use axum::{
    extract::{Path, State},
    response::Response,
};
use http::StatusCode;
use ipnet::IpNet;
use madang_http::{Failure, Json, Query, json};
use madang_identity::Caller;
use madang_store::{ErrorKind, Metadata, Resource, StoreError, Tx};
use serde_json::{Map, Value};

use super::{AddressGroup, AddressGroupSpec};
use crate::{
    api::{
        NetworkApi,
        attribute::{Attribute, Body},
        convert,
        failure::Stop,
        resource::{Context, Exposed, Facts, member, own_or_shared, stored, visible, wrapped},
        view::View,
    },
    rbac::Shareable,
    refusal::{self, Missing},
};

/// Ranges in full: an address alone is refused, as in Neutron.
fn ranges(value: &Value) -> Result<Value, String> {
    let alone = |item: &&Value| item.as_str().is_some_and(|text| text.parse::<IpAddr>().is_ok());
    if let Some(address) = value.as_array().into_iter().flatten().find(alone) {
        return Err(format!("{} is not a valid IP subnet", convert::quoted(address)));
    }
    convert::prefixes(value)
}

impl Exposed for AddressGroup {
    const SINGULAR: &'static str = "address_group";
    const PLURAL: &'static str = "address_groups";
    const MISSING: Missing = Missing::AddressGroup;
    const HIDES: bool = true;
    const ATTRIBUTES: &'static [Attribute] = &[
        Attribute::new("name", convert::text),
        Attribute::new("addresses", ranges).fixed(),
        Attribute::shown("shared"),
    ];

    fn facts(context: &Context, group: &Resource<Self>) -> Facts {
        Facts {
            is_shared: context.is_shared(group.name()),
            ..Facts::of(group.project())
        }
    }

    fn candidates(context: &Context, query: &Query) -> Vec<Arc<Resource<Self>>> {
        own_or_shared(context, query, Shareable::AddressGroup)
    }

    fn view(context: &Context, group: &Resource<Self>) -> Map<String, Value> {
        View::of(group, &group.spec.description, &[])
            .with("name", group.spec.name.as_str())
            .typed("addresses", &group.spec.addresses)
            .with("shared", Self::facts(context, group).is_shared)
            .done()
    }

    fn build(_: &Context, tx: &mut Tx<'_>, body: &Body, project: &str) -> Result<Arc<Resource<Self>>, Stop> {
        let spec = AddressGroupSpec {
            name: body.text("name").unwrap_or_default().to_owned(),
            description: body.text("description").unwrap_or_default().to_owned(),
            addresses: body.typed("addresses")?.unwrap_or_default(),
        };
        Ok(tx.create(Resource::<Self>::new(Metadata::with_id(project), spec))?)
    }

    fn change(_: &Context, tx: &mut Tx<'_>, old: &Resource<Self>, body: &Body) -> Result<Arc<Resource<Self>>, Stop> {
        let mut new = old.clone();
        body.set_text("name", &mut new.spec.name);
        body.set_text("description", &mut new.spec.description);
        Ok(tx.update(old, new)?)
    }
}

/// `PUT /address-groups/{id}/add_addresses`.
pub(crate) async fn add(
    State(api): State<NetworkApi>,
    caller: Caller,
    Path(id): Path<String>,
    body: Json<Value>,
) -> Result<Response, Failure> {
    change_addresses(api, caller, &id, body.0, true).await
}

/// `PUT /address-groups/{id}/remove_addresses`.
pub(crate) async fn remove(
    State(api): State<NetworkApi>,
    caller: Caller,
    Path(id): Path<String>,
    body: Json<Value>,
) -> Result<Response, Failure> {
    change_addresses(api, caller, &id, body.0, false).await
}

/// Adds addresses that are all new, or removes some that are all there.
fn change_in(group: &mut Resource<AddressGroup>, given: &[IpNet], is_more: bool) -> Result<(), StoreError> {
    let is_wrong = |range: &&IpNet| group.spec.addresses.contains(range) == is_more;
    let wrong: Vec<_> = given.iter().filter(is_wrong).collect();
    let (listed, id) = (listed(&wrong), group.name());
    match (wrong.is_empty(), is_more) {
        (true, true) => group.spec.addresses.extend(given),
        (true, false) => group.spec.addresses.retain(|range| !given.contains(range)),
        (false, true) => {
            let message = format!("Addresses {listed} already exist in the address group {id}.");
            return Err(refusal::bad("AddressesAlreadyExist", message));
        }
        (false, false) => {
            let message = format!("Addresses {listed} not found in the address group {id}.");
            return Err(refusal::refuse(ErrorKind::NotFound, "AddressesNotFound", message));
        }
    }
    Ok(())
}

fn listed(ranges: &[&IpNet]) -> String {
    let ranges: Vec<_> = ranges.iter().map(|range| format!("'{range}'")).collect();
    format!("[{}]", ranges.join(", "))
}

async fn change_addresses(
    api: NetworkApi,
    caller: Caller,
    id: &str,
    body: Value,
    is_more: bool,
) -> Result<Response, Failure> {
    let context = Context {
        store: api.store,
        caller,
    };
    let known = visible::<AddressGroup>(&context, id)?;
    Facts::of(known.project()).enforce(&context.caller, "update_address_group")?;
    // Neutron documents the addresses alone, and takes them under the group's name as well.
    let members = match body {
        Value::Object(members) if members.contains_key("addresses") => members,
        other => member(other, AddressGroup::SINGULAR)?,
    };
    let given = members.get("addresses").unwrap_or(&Value::Null);
    let bad = |why: String| Failure::invalid(format!("Invalid input for addresses. Reason: {why}.")).at("addresses");
    let given = convert::prefixes(given).map_err(bad)?;
    let given: Vec<IpNet> = serde_json::from_value(given).map_err(|why| bad(why.to_string()))?;
    let changed = context.store.transact(context.caller.cause(), |tx| {
        let old = tx.get::<AddressGroup>(&known.key());
        let old = old.ok_or_else(|| refusal::not_found(Missing::AddressGroup, id))?;
        let mut new = (*old).clone();
        change_in(&mut new, &given, is_more)?;
        Ok::<_, Stop>(tx.update(&old, new)?)
    });
    let changed = changed.await?;
    let view = AddressGroup::view(&context, &stored(&context, &changed));
    Ok(json(
        StatusCode::OK,
        &wrapped(AddressGroup::SINGULAR, Value::Object(view)),
    ))
}
