//! How many addresses each network has, and how many are used.

use axum::{
    extract::{Path, State},
    response::Response,
};
use http::StatusCode;
use madang_http::{Failure, Query, RequestInfo, json};
use madang_identity::Caller;
use madang_store::{Resource, Store};
use serde_json::{Map, Number, Value, json};

use super::{NetworkApi, filter, resource::Facts};
use crate::{
    Network, Port, Subnet,
    refusal::{self, Missing},
    subnet::rules::pool_size,
};

const ATTRIBUTES: [&str; 8] = [
    "network_id",
    "network_name",
    "tenant_id",
    "project_id",
    "total_ips",
    "used_ips",
    "subnet_ip_availability",
    "ip_version",
];

fn count(number: u128) -> Value {
    // Pools of version 6 are larger than any number JSON's readers agree on: as text, exactly.
    u64::try_from(number).map_or_else(
        |_| Value::from(number.to_string()),
        |number| Value::Number(Number::from(number)),
    )
}

fn view(store: &Store, network: &Resource<Network>) -> Map<String, Value> {
    let (mut total, mut used) = (0u128, 0u128);
    let mut subnets = store.cache::<Subnet>().by("network", network.name());
    subnets.sort_by_key(|subnet| (subnet.metadata.created, subnet.metadata.uid));
    let of_subnets: Vec<_> = subnets
        .iter()
        .map(|subnet| {
            let has = pool_size(&subnet.spec.allocation_pools);
            let uses = store.cache::<Port>().count_by("subnet", subnet.name()) as u128;
            total = total.saturating_add(has);
            used += uses;
            json!({
                "subnet_id": subnet.name(),
                "subnet_name": subnet.spec.name,
                "cidr": subnet.spec.cidr.to_string(),
                "ip_version": subnet.spec.ip_version(),
                "total_ips": count(has),
                "used_ips": count(uses),
            })
        })
        .collect();
    let view = json!({
        "network_id": network.name(),
        "network_name": network.spec.name,
        "project_id": network.project(),
        "tenant_id": network.project(),
        "total_ips": count(total),
        "used_ips": count(used),
        "subnet_ip_availability": of_subnets,
    });
    view.as_object().cloned().unwrap_or_default()
}

/// `GET /floatingip-pools`: the subnets of external networks from which floating addresses are taken.
pub(super) async fn floating_pools(
    State(api): State<NetworkApi>,
    caller: Caller,
    query: Query,
    info: RequestInfo,
) -> Result<Response, Failure> {
    Facts::default().enforce(&caller, "get_floatingip_pool")?;
    let external = api.store.cache::<Network>().by("external", "yes");
    let subnets = external
        .iter()
        .flat_map(|network| api.store.cache::<Subnet>().by("network", network.name()));
    let view = |subnet: std::sync::Arc<Resource<Subnet>>| {
        let mut pool = Map::new();
        for (name, value) in [
            ("subnet_id", subnet.name().to_owned()),
            ("subnet_name", subnet.spec.name.clone()),
            ("network_id", subnet.spec.network_id.clone()),
            ("project_id", subnet.project().to_owned()),
            ("tenant_id", subnet.project().to_owned()),
            ("cidr", subnet.spec.cidr.to_string()),
        ] {
            pool.insert(name.to_owned(), Value::from(value));
        }
        pool
    };
    let pools = subnets.filter(|subnet| subnet.spec.cidr.addr().is_ipv4()).map(view);
    let names = [
        "subnet_id",
        "subnet_name",
        "network_id",
        "project_id",
        "tenant_id",
        "cidr",
    ];
    Ok(json(
        StatusCode::OK,
        &filter::page("floatingip_pools", pools.collect(), &names, &[], &query, &info)?,
    ))
}

/// `GET /network-ip-availabilities`.
pub(super) async fn list(
    State(api): State<NetworkApi>,
    caller: Caller,
    query: Query,
    info: RequestInfo,
) -> Result<Response, Failure> {
    let rule = "get_network_ip_availability";
    let networks = if Facts::default().allow(&caller, rule) {
        api.store.cache::<Network>().all()
    } else {
        Vec::new()
    };
    let items = networks.iter().map(|network| view(&api.store, network)).collect();
    Ok(json(
        StatusCode::OK,
        &filter::page("network_ip_availabilities", items, &ATTRIBUTES, &[], &query, &info)?,
    ))
}

/// `GET /network-ip-availabilities/{network}`.
pub(super) async fn show(
    State(api): State<NetworkApi>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let network = api.store.cache::<Network>().by_name(&id);
    let network = network.filter(|_| Facts::default().allow(&caller, "get_network_ip_availability"));
    let network = network.ok_or_else(|| refusal::not_found(Missing::Network, &id))?;
    Ok(json(
        StatusCode::OK,
        &json!({ "network_ip_availability": view(&api.store, &network) }),
    ))
}
