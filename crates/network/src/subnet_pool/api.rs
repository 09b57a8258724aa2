//! Subnet pools as Neutron shows them.

use std::sync::Arc;

use axum::{
    extract::{Path, State},
    response::Response,
};
use http::StatusCode;
use ipnet::IpNet;
use madang_http::{Failure, Json, Query, json};
use madang_identity::Caller;
use madang_store::{Metadata, Resource, StoreError, Tx};
use serde_json::{Map, Value, json};

use super::{SubnetPool, SubnetPoolSpec, rules};
use crate::{
    AddressScope,
    api::{
        NetworkApi,
        attribute::{Attribute, Body},
        convert,
        failure::Stop,
        resource::{Context, Exposed, Facts, own_or_shared, visible},
        view::View,
    },
    rbac::Shareable,
    refusal::{self, Missing},
};

/// Neutron's least prefix of subnets cut from a pool.
fn usual_min(is_v4: bool) -> u8 {
    if is_v4 { 8 } else { 64 }
}

fn all_bits(is_v4: bool) -> u8 {
    if is_v4 { 32 } else { 128 }
}

fn not_negative(value: &Value) -> Result<Value, String> {
    if value.is_null() {
        return Ok(Value::Null);
    }
    let number = convert::number(value)?;
    match number.as_i64() {
        Some(0..) => Ok(number),
        _ => Err(format!("{} should be non-negative", convert::quoted(value))),
    }
}

impl Exposed for SubnetPool {
    const SINGULAR: &'static str = "subnetpool";
    const PLURAL: &'static str = "subnetpools";
    const MISSING: Missing = Missing::SubnetPool;
    const ATTRIBUTES: &'static [Attribute] = &[
        Attribute::new("name", convert::text).required(),
        Attribute::new("prefixes", convert::prefixes).required(),
        Attribute::new("min_prefixlen", not_negative),
        Attribute::new("max_prefixlen", not_negative),
        Attribute::new("default_prefixlen", not_negative),
        Attribute::new("default_quota", not_negative),
        Attribute::new("shared", convert::flag).guarded_flag().fixed(),
        Attribute::new("is_default", convert::flag).guarded_flag(),
        Attribute::shown("ip_version"),
        Attribute::new("address_scope_id", convert::uuid_or_null),
    ];

    fn facts(context: &Context, pool: &Resource<Self>) -> Facts {
        Facts {
            is_shared: pool.spec.is_shared || context.is_shared(pool.name()),
            ..Facts::of(pool.project())
        }
    }

    fn candidates(context: &Context, query: &Query) -> Vec<Arc<Resource<Self>>> {
        own_or_shared(context, query, Shareable::SubnetPool)
    }

    fn view(context: &Context, pool: &Resource<Self>) -> Map<String, Value> {
        let spec = &pool.spec;
        View::of(pool, &spec.description, &spec.tags)
            .with("name", spec.name.as_str())
            .typed("prefixes", &spec.prefixes)
            // Texts, as in Neutron.
            .with("min_prefixlen", spec.min_prefixlen.to_string())
            .with("max_prefixlen", spec.max_prefixlen.to_string())
            .with("default_prefixlen", spec.default_prefixlen.to_string())
            .with("default_quota", spec.default_quota)
            .with("shared", Self::facts(context, pool).is_shared)
            .with("is_default", spec.is_default)
            .with("ip_version", spec.ip_version())
            .with("address_scope_id", spec.address_scope_id.clone())
            .done()
    }

    fn build(context: &Context, tx: &mut Tx<'_>, body: &Body, project: &str) -> Result<Arc<Resource<Self>>, Stop> {
        // Before there is anything to say of what others have.
        Facts::of(project)
            .with(|target| body.enforce(Self::ATTRIBUTES, &context.caller, "create_subnetpool", target))?;
        let prefixes: Vec<IpNet> = body.typed("prefixes")?.unwrap_or_default();
        let is_v4 = prefixes.first().is_none_or(|prefix| prefix.addr().is_ipv4());
        let min_prefixlen = bits(body, "min_prefixlen")?.unwrap_or(usual_min(is_v4));
        let mut spec = SubnetPoolSpec {
            name: String::new(),
            description: String::new(),
            prefixes,
            min_prefixlen,
            max_prefixlen: all_bits(is_v4),
            default_prefixlen: min_prefixlen,
            default_quota: None,
            is_shared: false,
            address_scope_id: None,
            is_default: false,
            tags: Vec::new(),
        };
        body.set_flag("shared", &mut spec.is_shared);
        set_scope(context, &mut spec, body)?;
        fill(&mut spec, body)?;
        Ok(tx.create(Resource::<Self>::new(Metadata::with_id(project), spec))?)
    }

    fn change(
        context: &Context,
        tx: &mut Tx<'_>,
        old: &Resource<Self>,
        body: &Body,
    ) -> Result<Arc<Resource<Self>>, Stop> {
        let mut new = old.clone();
        set_scope(context, &mut new.spec, body)?;
        fill(&mut new.spec, body)?;
        let is_kept = |prefix: &IpNet| new.spec.prefixes.iter().any(|kept| kept.contains(prefix));
        if !old.spec.prefixes.iter().all(is_kept) {
            // Taking away has an action of its own.
            let why = "Existing prefixes must be a subset of the new prefixes";
            return Err(rules::illegal_update(why).into());
        }
        // A default that was the old least one follows it.
        let follows = !body.has("default_prefixlen") && old.spec.default_prefixlen == old.spec.min_prefixlen;
        if follows {
            new.spec.default_prefixlen = new.spec.min_prefixlen;
        }
        Ok(tx.update(old, new)?)
    }
}

/// Puts a pool into a scope that its project may use. The prefixes of one in somebody else's scope are not its own business
/// alone, and stay.
fn set_scope(context: &Context, spec: &mut SubnetPoolSpec, body: &Body) -> Result<(), Stop> {
    if body.has("address_scope_id") {
        let wanted = body.text("address_scope_id");
        spec.address_scope_id = match wanted {
            Some(id) => Some(visible::<AddressScope>(context, id)?.name().to_owned()),
            None => None,
        };
        return Ok(());
    }
    let scope = spec.address_scope_id.as_deref();
    let scope = scope.and_then(|id| context.store.cache::<AddressScope>().by_name(id));
    let is_foreign = |scope: &Resource<AddressScope>| Some(scope.project()) != context.caller.subject.project_id();
    if body.has("prefixes") && !context.caller.is_admin() && scope.is_some_and(|scope| is_foreign(&scope)) {
        let message = "Illegal subnetpool update : subnetpool is in an address scope of somebody else.";
        return Err(refusal::bad("IllegalSubnetPoolUpdate", message).into());
    }
    Ok(())
}

fn bits(body: &Body, name: &'static str) -> Result<Option<u8>, Stop> {
    let Some(number) = body.number(name) else {
        return Ok(None);
    };
    let bits = u8::try_from(number).ok().filter(|bits| *bits <= 128);
    let message = || format!("Prefix '{number}' not supported in a subnet pool.");
    Ok(Some(bits.ok_or_else(|| {
        refusal::bad("UnsupportedMinSubnetPoolPrefix", message())
    })?))
}

fn fill(spec: &mut SubnetPoolSpec, body: &Body) -> Result<(), Stop> {
    body.set_text("name", &mut spec.name);
    body.set_text("description", &mut spec.description);
    body.set_flag("is_default", &mut spec.is_default);
    if body.has("prefixes") {
        body.set("prefixes", &mut spec.prefixes)?;
    }
    for (name, to) in [
        ("min_prefixlen", &mut spec.min_prefixlen),
        ("max_prefixlen", &mut spec.max_prefixlen),
        ("default_prefixlen", &mut spec.default_prefixlen),
    ] {
        if let Some(bits) = bits(body, name)? {
            *to = bits;
        }
    }
    if body.has("default_quota") {
        spec.default_quota = body.number("default_quota").and_then(|quota| u64::try_from(quota).ok());
    }
    Ok(())
}

/// `PUT /subnetpools/{id}/add_prefixes`.
pub(crate) async fn add_prefixes(
    State(api): State<NetworkApi>,
    caller: Caller,
    Path(id): Path<String>,
    body: Json<Value>,
) -> Result<Response, Failure> {
    change_prefixes(api, caller, &id, body.0, "add_prefixes", |tx, pool, given| {
        let mut new = pool.clone();
        new.spec.prefixes.extend(given);
        tx.update(pool, new)
    })
    .await
}

/// `PUT /subnetpools/{id}/remove_prefixes`: those that no subnet was cut from.
pub(crate) async fn remove_prefixes(
    State(api): State<NetworkApi>,
    caller: Caller,
    Path(id): Path<String>,
    body: Json<Value>,
) -> Result<Response, Failure> {
    change_prefixes(api, caller, &id, body.0, "remove_prefixes", rules::remove_prefixes).await
}

async fn change_prefixes(
    api: NetworkApi,
    caller: Caller,
    id: &str,
    body: Value,
    rule: &str,
    change: impl Fn(&mut Tx<'_>, &Resource<SubnetPool>, &[IpNet]) -> Result<Arc<Resource<SubnetPool>>, StoreError>,
) -> Result<Response, Failure> {
    let context = Context {
        store: api.store,
        caller,
    };
    let known = visible::<SubnetPool>(&context, id)?;
    Facts::of(known.project()).enforce(&context.caller, rule)?;
    let bad = |why: String| Failure::invalid(format!("Invalid input for prefixes. Reason: {why}.")).at("prefixes");
    let given = convert::prefixes(body.get("prefixes").unwrap_or(&Value::Null)).map_err(bad)?;
    let given: Vec<IpNet> = serde_json::from_value(given).map_err(|why| bad(why.to_string()))?;
    let changed = context.store.transact(context.caller.cause(), |tx| {
        let old = tx.get::<SubnetPool>(&known.key());
        let old = old.ok_or_else(|| refusal::not_found(Missing::SubnetPool, id))?;
        change(tx, &old, &given)
    });
    let changed = changed.await.map_err(Stop::from)?;
    Ok(json(StatusCode::OK, &json!({ "prefixes": changed.spec.prefixes })))
}
