//! `POST /servers`: what Nova's schema takes, resolved to what the verb needs.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Arc, LazyLock},
};

use axum::{extract::State, response::Response};
use base64::Engine as _;
use http::StatusCode;
use madang_host::workload::DiskBus;
use madang_http::{Failure, Form, Json, Microversion, RequestInfo, Schema, json, parse_bool};
use madang_identity::Caller;
use madang_image::{Image, ImageState, is_visible};
use madang_network::{AutoTopology, Network, Port, Subnet, auto_topology};
use madang_scheduler::{ClaimGroup, Provider};
use madang_store::{Key, Kind as _, Resource, Store, StoreError};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{filter::last_segment, located, security_group};
use crate::{
    Aggregate, Flavor, FlavorSpec, Keypair,
    aggregate::zone_of,
    api::{ComputeApi, base, enforce, failure},
    quota,
    server::{
        Injected, InjectedFile, LocalDiskSpec, ServerKey,
        create::{CreateServers, NicRequest},
        hardware, local, machine,
        view::links_of,
        volumes::{self, mapping},
    },
};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// The body as the schema lets it through.
#[derive(Deserialize)]
struct Body {
    server: Wanted,
    #[serde(rename = "os:scheduler_hints", alias = "OS-SCH-HNT:scheduler_hints", default)]
    hints: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
struct Wanted {
    name: String,
    #[serde(rename = "imageRef", default)]
    image: String,
    #[serde(rename = "flavorRef")]
    flavor: Value,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
    networks: Option<Networks>,
    #[serde(default)]
    availability_zone: Option<String>,
    host: Option<String>,
    hypervisor_hostname: Option<String>,
    config_drive: Option<Value>,
    key_name: Option<String>,
    min_count: Option<Value>,
    max_count: Option<Value>,
    #[serde(default)]
    return_reservation_id: Value,
    security_groups: Option<Vec<NamedGroup>>,
    user_data: Option<String>,
    description: Option<String>,
    #[serde(default)]
    tags: BTreeSet<String>,
    hostname: Option<String>,
    #[serde(default)]
    personality: Vec<InjectedFile>,
    #[serde(default)]
    block_device_mapping: Vec<Value>,
    #[serde(default)]
    block_device_mapping_v2: Vec<Value>,
    trusted_image_certificates: Option<Vec<String>>,
    #[serde(rename = "adminPass")]
    admin_password: Option<String>,
    #[serde(rename = "OS-DCF:diskConfig")]
    disk_config: Option<String>,
    #[serde(rename = "accessIPv4")]
    access_ipv4: Option<Ipv4Addr>,
    #[serde(rename = "accessIPv6")]
    access_ipv6: Option<Ipv6Addr>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Networks {
    Word(String),
    List(Vec<NetworkWanted>),
}

#[derive(Deserialize)]
struct NetworkWanted {
    uuid: Option<String>,
    port: Option<String>,
    fixed_ip: Option<IpAddr>,
    tag: Option<String>,
}

#[derive(Deserialize)]
struct NamedGroup {
    name: String,
}

pub(super) fn name_schema() -> Value {
    json!({ "type": "string", "minLength": 1, "maxLength": 255, "pattern": "^\\s*\\S[\\s\\S]*$" })
}

pub(super) fn description_schema() -> Value {
    json!({ "type": ["string", "null"], "minLength": 0, "maxLength": 255 })
}

pub(super) fn hostname_schema() -> Value {
    json!({ "type": "string", "minLength": 2, "maxLength": 63, "pattern": "^[a-zA-Z0-9]+[a-zA-Z0-9-]*[a-zA-Z0-9]+$" })
}

/// Files for the guest's root, until 2.56.
pub(super) fn personality_schema() -> Value {
    json!({ "type": "array", "items": {
        "type": "object",
        "properties": { "path": { "type": "string" }, "contents": { "type": "string", "format": "base64" } },
        "required": ["path", "contents"],
        "additionalProperties": false,
    } })
}

/// The members of `server` that came with each microversion, and their schemas.
fn since() -> [(u16, &'static str, Value); 7] {
    let tag = json!({ "type": "string", "minLength": 1, "maxLength": 60, "pattern": "^[^,/]*$" });
    [
        (19, "description", description_schema()),
        (52, "tags", json!({ "type": "array", "items": tag, "maxItems": 50 })),
        (
            63,
            "trusted_image_certificates",
            json!({ "type": ["array", "null"], "minItems": 1, "maxItems": 50, "uniqueItems": true,
                    "items": { "type": "string", "minLength": 1 } }),
        ),
        (74, "host", name_schema()),
        (74, "hypervisor_hostname", name_schema()),
        (90, "hostname", hostname_schema()),
        (
            94,
            "hostname",
            json!({ "type": "string", "minLength": 2, "maxLength": 255,
            "pattern": "^[a-zA-Z0-9]+[a-zA-Z0-9.-]*[a-zA-Z0-9]+$" }),
        ),
    ]
}

/// The schema for a microversion, compiled once for each step between versions.
fn schema(version: Microversion) -> Arc<Schema> {
    static COMPILED: LazyLock<Mutex<HashMap<u16, Arc<Schema>>>> = LazyLock::new(Mutex::default);
    let steps = [19, 32, 37, 42, 52, 57, 63, 74, 90, 94];
    let step = steps
        .into_iter()
        .rev()
        .find(|step| version >= Microversion(2, *step))
        .unwrap_or(1);
    let mut compiled = COMPILED.lock();
    let compile = || {
        Arc::new(Schema::with_formats(
            Form::Nova,
            body_schema(step),
            &[("base64", is_base64)],
        ))
    };
    Arc::clone(compiled.entry(step).or_insert_with(compile))
}

fn body_schema(step: u16) -> Value {
    let count = json!({ "type": ["integer", "string"], "pattern": "^[0-9]*$", "minimum": 1, "minLength": 1 });
    let boolean = json!({ "type": ["boolean", "string"], "enum": [
        true, "True", "TRUE", "true", "1", "ON", "On", "on", "YES", "Yes", "yes",
        false, "False", "FALSE", "false", "0", "OFF", "Off", "off", "NO", "No", "no",
    ] });
    let mut properties = json!({
        "name": name_schema(),
        "imageRef": { "oneOf": [{ "type": "string", "format": "uuid" }, { "type": "string", "maxLength": 0 }] },
        "flavorRef": { "type": ["string", "integer"], "minLength": 1 },
        "adminPass": { "type": "string" },
        "metadata": {
            "type": "object",
            "patternProperties": { "^[a-zA-Z0-9-_:. ]{1,255}$": { "type": "string", "maxLength": 255 } },
            "additionalProperties": false,
        },
        "networks": networks_schema(step),
        "OS-DCF:diskConfig": { "type": "string", "enum": ["AUTO", "MANUAL"] },
        "accessIPv4": { "type": "string", "format": "ipv4" },
        "accessIPv6": { "type": "string", "format": "ipv6" },
        "availability_zone": { "type": "string", "minLength": 1, "maxLength": 255 },
        "block_device_mapping": { "type": "array" },
        "block_device_mapping_v2": { "type": "array", "items": { "type": "object" } },
        "config_drive": boolean,
        "key_name": { "type": "string", "minLength": 1, "maxLength": 255 },
        "min_count": count,
        "max_count": count,
        "return_reservation_id": boolean,
        "security_groups": { "type": "array", "items": {
            "type": "object",
            "properties": { "name": { "type": "string", "minLength": 1, "maxLength": 255 } },
            "additionalProperties": false,
        } },
        "user_data": { "type": "string", "format": "base64", "maxLength": 65535 },
    });
    if step < 57 {
        properties["personality"] = personality_schema();
    }
    for (from, name, schema) in since() {
        if step >= from {
            properties[name] = schema;
        }
    }
    let mut required = vec!["name", "flavorRef"];
    if step >= 37 {
        required.push("networks");
    }
    let server = json!({ "type": "string", "format": "uuid" });
    let servers = json!({ "oneOf": [server, { "type": "array", "items": server }] });
    // Others are for filters that a deployment has by itself.
    let hints = json!({
        "type": "object",
        "properties": {
            "group": servers,
            "different_host": servers,
            "same_host": { "type": ["string", "array"], "items": server },
            "query": { "type": ["string", "object"] },
            "different_cell": { "type": ["string", "array"], "items": { "type": "string" } },
            "build_near_host_ip": { "type": "string", "oneOf": [{ "format": "ipv4" }, { "format": "ipv6" }] },
            "cidr": { "type": "string", "pattern": "^/[0-9a-f.:]+$" },
        },
    });
    json!({
        "type": "object",
        "properties": {
            "server": { "type": "object", "properties": properties, "required": required, "additionalProperties": false },
            "os:scheduler_hints": hints,
            "OS-SCH-HNT:scheduler_hints": hints,
        },
        "required": ["server"],
        "additionalProperties": false,
    })
}

fn networks_schema(step: u16) -> Value {
    let mut properties = json!({
        "fixed_ip": { "type": "string", "oneOf": [{ "format": "ipv4" }, { "format": "ipv6" }] },
        "port": { "oneOf": [{ "type": "string", "format": "uuid" }, { "type": "null" }] },
        "uuid": { "type": "string", "format": "uuid" },
    });
    // Tags came with 2.32, went by accident from 2.37 to 2.41, and stayed from 2.42.
    if (32..37).contains(&step) || step >= 42 {
        properties["tag"] = json!({ "type": "string", "minLength": 1, "maxLength": 60, "pattern": "^[^,/]*$" });
    }
    let list = json!({ "type": "array", "items": {
        "type": "object", "properties": properties, "additionalProperties": false,
    } });
    if step >= 37 {
        json!({ "oneOf": [list, { "type": "string", "enum": ["none", "auto"] }] })
    } else {
        list
    }
}

/// `POST /servers`.
pub async fn create(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    info: RequestInfo,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    let body: Body = schema(version).parse(body)?;
    let project = caller.project()?.to_owned();
    enforce(&caller, "os_compute_api:servers:create", &project)?;
    let as_reservation = truth(&body.server.return_reservation_id);
    let password = body.server.admin_password.clone().unwrap_or_else(new_password);
    if matches!(&body.server.networks, Some(Networks::Word(word)) if word == "auto") {
        allocate_network(&api.store, &caller, &project).await?;
    }
    let mut request = resolve(&api.store, &caller, &project, body)?;
    request.injected.password = Some(password.clone());
    let servers = crate::server::create::create(&api.store, caller.cause(), &request)
        .await
        .map_err(failure)?;
    let first = servers
        .first()
        .ok_or_else(|| Failure::internal("a request for servers made none"))?;
    if as_reservation {
        return Ok(json(
            StatusCode::ACCEPTED,
            &json!({ "reservation_id": first.spec.reservation_id }),
        ));
    }
    let base = base(&info);
    let links = links_of(&base, first.name());
    let groups: Vec<Value> = group_names(&api.store, &request)
        .into_iter()
        .map(|name| json!({ "name": name }))
        .collect();
    let answer = json!({ "server": {
        "id": first.name(),
        "links": serde_json::to_value(links).unwrap_or_default(),
        "OS-DCF:diskConfig": if request.is_disk_automatic { "AUTO" } else { "MANUAL" },
        "security_groups": groups,
        "adminPass": password,
    } });
    Ok(located(
        json(StatusCode::ACCEPTED, &answer),
        &format!("{base}/v2.1/servers/{}", first.name()),
    ))
}

/// A password for the guest's administrator, as it is told to a guest with a config drive.
pub(super) fn new_password() -> String {
    Uuid::new_v4().simple().to_string()[..12].to_owned()
}

fn group_names(store: &Store, request: &CreateServers) -> Vec<String> {
    match &request.security_groups {
        None => vec!["default".to_owned()],
        Some(ids) => {
            let groups = store.cache::<madang_network::SecurityGroup>();
            ids.iter()
                .filter_map(|id| Some(groups.by_name(id)?.spec.name.clone()))
                .collect()
        }
    }
}

fn resolve(store: &Store, caller: &Caller, project: &str, body: Body) -> Result<CreateServers, Failure> {
    let Body { server, hints } = body;
    refuse_what_is_not_there(&server)?;
    let flavor = flavor(store, caller, project, &server.flavor)?;
    let mut mappings = mapping::of_image(store, &server.image);
    mappings.extend_from_slice(&server.block_device_mapping_v2);
    let disks = mapping::read(
        store,
        caller,
        project,
        &server.image,
        &server.block_device_mapping,
        &mappings,
    )?;
    let (image, image_properties) = match disks.root() {
        Some(root) => (None, machine::image_properties_in(store, root)),
        None => {
            let image = image(store, caller, project, &server, &flavor)?;
            let properties = image.spec.properties.clone();
            (Some(image), properties)
        }
    };
    let locals = local_disks(image.as_deref(), &image_properties, &flavor.spec, &disks)?;
    let (min_count, max_count) = counts(&server)?;
    let nics = nics(store, caller, project, server.networks)?;
    if max_count > 1 && nics.iter().any(|nic| matches!(nic, NicRequest::Port { .. })) {
        return Err(Failure::invalid(
            "Unable to launch multiple instances with a single configured port ID. Please launch your instance one by \
             one with different ports.",
        ));
    }
    check_metadata(store, project, &server.metadata)?;
    check_files(store, project, &server.personality)?;
    let (availability_zone, host) = place(
        store,
        caller,
        &server.availability_zone,
        server.host.or(server.hypervisor_hostname),
    )?;
    let groups = server
        .security_groups
        .map(|groups| resolve_groups(store, project, &groups))
        .transpose()?;
    Ok(CreateServers {
        project: project.to_owned(),
        user: caller.subject.user.id.clone(),
        name: server.name.trim().to_owned(),
        hostname: server.hostname,
        description: server.description,
        min_count,
        max_count,
        is_container: image.as_ref().is_some_and(|image| image.spec.is_container()),
        image: image.map(|image| image.name().to_owned()),
        devices: disks.volumes,
        locals,
        image_properties,
        flavor,
        key: server.key_name.map(|name| key(store, caller, &name)).transpose()?,
        user_data: server.user_data,
        metadata: server.metadata,
        tags: server.tags,
        config_drive: server.config_drive.as_ref().is_some_and(truth),
        availability_zone,
        host,
        group: match hints.get("group").and_then(Value::as_str) {
            Some(id) => Some(server_group(store, caller, id)?),
            None => None,
        },
        hints: hint_values(&hints),
        nics,
        security_groups: groups,
        is_disk_automatic: server.disk_config.as_deref() == Some("AUTO"),
        access_ipv4: server.access_ipv4,
        access_ipv6: server.access_ipv6,
        injected: Injected {
            files: server.personality,
            password: None,
        },
    })
}

/// What its host makes for it, where machine (or container), flavor and disks fit together.
fn local_disks(
    image: Option<&Resource<Image>>,
    properties: &hardware::Properties,
    flavor: &FlavorSpec,
    disks: &mapping::Disks,
) -> Result<Vec<LocalDiskSpec>, Failure> {
    let unfit = |unfit: hardware::Unfit| Failure::invalid(unfit.to_string());
    let at_disks = |failure: Failure| failure.at("block_device_mapping_v2");
    let mut bus = DiskBus::default();
    if image.is_some_and(|image| image.spec.is_container()) {
        hardware::of_container(flavor).map_err(|why| unfit(why).at("flavorRef"))?;
        if !disks.is_empty() {
            let message = format!("A container has no block devices: {}", volumes::NO_VOLUMES);
            return Err(at_disks(Failure::invalid(message)));
        }
    } else {
        let is_iso = image.is_some_and(|image| image.spec.disk_format == Some(madang_image::DiskFormat::Iso));
        let machine = hardware::of(properties, is_iso, &flavor.extra_specs, flavor.vcpus, flavor.ram_mb);
        bus = machine.map_err(unfit)?.disk_bus;
    }
    let divided = local::divided(flavor, disks.locals.clone(), image.is_some(), bus);
    divided.map_err(|much| at_disks(Failure::invalid(much.to_string())))
}

/// Refuses more files, or longer ones, than the quota allows.
pub(super) fn check_files(store: &Store, project: &str, files: &[InjectedFile]) -> Result<(), Failure> {
    let beyond =
        |resource: &str, is: usize| quota::limit(store, project, resource).is_some_and(|limit| is as i64 > limit);
    let refuse = |what: &str| {
        let message = format!("Personality {what} limit exceeded");
        Err(Failure::forbidden(message).because("OverQuota").at("personality"))
    };
    if beyond("injected_files", files.len()) {
        return refuse("file");
    }
    for file in files {
        if beyond("injected_file_path_bytes", file.path.len()) {
            return refuse("file path");
        }
        if beyond("injected_file_content_bytes", bytes_of(&file.contents)) {
            return refuse("file content");
        }
    }
    Ok(())
}

/// How many bytes a text in base64 stands for.
fn bytes_of(base64: &str) -> usize {
    let digits = base64.chars().filter(|c| !c.is_ascii_whitespace() && *c != '=');
    digits.count() * 3 / 4
}

/// What the schema knows and this cloud does not do is refused in words, never ignored.
fn refuse_what_is_not_there(server: &Wanted) -> Result<(), Failure> {
    if server.trusted_image_certificates.is_none() {
        return Ok(());
    }
    let message = "trusted_image_certificates are not available: image signatures are not verified";
    Err(Failure::invalid(message).at("trusted_image_certificates"))
}

pub(super) fn flavor(
    store: &Store,
    caller: &Caller,
    project: &str,
    reference: &Value,
) -> Result<Arc<Resource<Flavor>>, Failure> {
    let id = reference.as_str().map_or_else(|| reference.to_string(), last_segment);
    let flavor = store.cache::<Flavor>().by_name(&id);
    let flavor = flavor.filter(|flavor| flavor.spec.is_visible(project) || caller.is_admin());
    let missing = || Failure::invalid(format!("Flavor {id} could not be found.")).at("flavorRef");
    flavor.ok_or_else(missing)
}

fn image(
    store: &Store,
    caller: &Caller,
    project: &str,
    server: &Wanted,
    flavor: &Resource<Flavor>,
) -> Result<Arc<Resource<Image>>, Failure> {
    let at = |message: String| Failure::invalid(message).at("imageRef");
    if server.image.is_empty() {
        return Err(at("Invalid imageRef provided.".to_owned()));
    }
    let image = store.cache::<Image>().by_name(&server.image);
    let image = image.filter(|image| is_visible(image, project) || caller.is_admin());
    let image = image.ok_or_else(|| at("Can not find requested image".to_owned()))?;
    if image.status.state != ImageState::Active {
        return Err(at(format!("Image {} is not active.", image.name())));
    }
    if flavor.spec.ram_mb < image.spec.min_ram {
        return Err(at("Flavor's memory is too small for requested image.".to_owned()));
    }
    // A flavor without a disk size takes whatever the image has.
    let disk = u64::from(flavor.spec.disk_gb) * GIB;
    let content = image.status.content.as_ref();
    let needed = content.map_or(0, |content| content.virtual_size.unwrap_or(content.size));
    let needed = needed.max(u64::from(image.spec.min_disk) * GIB);
    if disk > 0 && disk < needed && !image.spec.is_container() {
        return Err(at(format!(
            "Flavor's disk is too small for requested image. Flavor disk is {disk} bytes, image is {needed} bytes."
        )));
    }
    if u64::from(flavor.spec.ram_mb) * MIB == 0 {
        return Err(at(format!("Flavor {} has no memory.", flavor.spec.name)));
    }
    Ok(image)
}

fn counts(server: &Wanted) -> Result<(u32, u32), Failure> {
    let read = |value: &Option<Value>| -> Option<u32> {
        let value = value.as_ref()?;
        let number = value.as_u64().or_else(|| value.as_str()?.parse().ok());
        number.and_then(|number| u32::try_from(number).ok())
    };
    let min = read(&server.min_count).unwrap_or(1);
    let max = read(&server.max_count).unwrap_or(min);
    match () {
        () if min == 0 || max == 0 => {
            Err(Failure::invalid("min_count and max_count must be at least 1").at("min_count"))
        }
        () if min > max => Err(Failure::invalid("min_count must be <= max_count").at("min_count")),
        () => Ok((min, max)),
    }
}

fn nics(store: &Store, caller: &Caller, project: &str, networks: Option<Networks>) -> Result<Vec<NicRequest>, Failure> {
    match networks {
        Some(Networks::Word(word)) if word == "none" => Ok(Vec::new()),
        Some(Networks::List(list)) if !list.is_empty() => list
            .into_iter()
            .map(|wanted| nic(store, caller, project, wanted))
            .collect(),
        _ => automatic(store, project),
    }
}

/// Has a network made for a project that has none and asks for any.
async fn allocate_network(store: &Store, caller: &Caller, project: &str) -> Result<(), Failure> {
    let has_one = !usable_networks(store, project).is_empty();
    if has_one || auto_topology::network_of(store, project).is_some() {
        return Ok(());
    }
    let key = auto_topology::key(project);
    let forgotten = store.transact::<(), StoreError>(caller.cause(), |tx| match tx.get::<AutoTopology>(&key) {
        // Of a network that is gone.
        Some(stale) => tx.delete::<AutoTopology>(&stale),
        None => Ok(()),
    });
    forgotten.await.map_err(failure)?;
    let made = store.transact::<_, StoreError>(caller.cause(), |tx| tx.create(auto_topology::record(project)));
    match made.await {
        // Somebody else asked at the same time.
        Ok(_) | Err(StoreError::Exists { .. }) => Ok(()),
        Err(error) => Err(failure(error)),
    }
}

/// The networks that a project means without naming one.
fn usable_networks(store: &Store, project: &str) -> Vec<Arc<Resource<Network>>> {
    let networks = store.cache::<Network>();
    let mut usable: Vec<_> = networks.in_project(project);
    usable.retain(|network| !network.spec.is_external);
    if usable.is_empty() {
        usable = networks.by("shared", "yes");
        usable.retain(|network| !network.spec.is_external);
    }
    usable
}

/// Without a word about networks: the only one there is for the project.
fn automatic(store: &Store, project: &str) -> Result<Vec<NicRequest>, Failure> {
    let usable = usable_networks(store, project);
    if usable.len() > 1 {
        return Err(Failure::conflict(
            "Multiple possible networks found, use a Network ID to be more specific.",
        ));
    }
    let nics = usable.into_iter().map(|network| NicRequest::Network {
        network,
        address: None,
        tag: None,
    });
    Ok(nics.collect())
}

fn nic(store: &Store, caller: &Caller, project: &str, wanted: NetworkWanted) -> Result<NicRequest, Failure> {
    let NetworkWanted {
        uuid,
        port,
        fixed_ip,
        tag,
    } = wanted;
    if let Some(id) = port {
        let port = store.cache::<Port>().by_name(&id);
        let port = port.filter(|port| caller.can_see(port.project()));
        let port =
            port.ok_or_else(|| Failure::invalid(format!("Port id {id} could not be found.")).at("networks.port"))?;
        if !port.spec.device_id.is_empty() {
            return Err(Failure::conflict(format!("Port {id} is still in use.")).at("networks.port"));
        }
        return Ok(NicRequest::Port { port, tag });
    }
    let id = uuid.ok_or_else(|| {
        Failure::invalid("Bad networks format: network uuid is not in proper format (None)").at("networks.uuid")
    })?;
    let network = store.cache::<Network>().by_name(&id);
    let network = network.filter(|network| madang_network::is_visible(store, network, project) || caller.is_admin());
    let missing = || Failure::invalid(format!("Network {id} could not be found.")).at("networks.uuid");
    let network = network.ok_or_else(missing)?;
    if network.spec.is_external && !madang_network::may_plug_into(store, &network, project) && !caller.is_admin() {
        let message = format!("It is not allowed to create an interface on external network {id}");
        return Err(Failure::forbidden(message).at("networks.uuid"));
    }
    if store.cache::<Subnet>().count_by("network", &id) == 0 {
        let message = format!("Network {id} requires a subnet in order to boot instances on.");
        return Err(Failure::invalid(message).at("networks.uuid"));
    }
    if let Some(address) = fixed_ip
        && store
            .cache::<Port>()
            .by("ip", &address.to_string())
            .iter()
            .any(|port| port.spec.network_id == id)
    {
        let message = format!("Fixed IP address {address} is already in use on instance or port of network {id}.");
        return Err(Failure::invalid(message).at("networks.fixed_ip"));
    }
    Ok(NicRequest::Network {
        network,
        address: fixed_ip,
        tag,
    })
}

pub(super) fn check_metadata(store: &Store, project: &str, metadata: &BTreeMap<String, String>) -> Result<(), Failure> {
    let limit = quota::limit(store, project, "metadata_items");
    if limit.is_some_and(|limit| metadata.len() as i64 > limit) {
        let message = "Quota exceeded, too many metadata items";
        return Err(Failure::forbidden(message).because("OverQuota").at("metadata"));
    }
    Ok(())
}

/// The zone and host: `zone`, or for admins `zone:host` and `host`.
fn place(
    store: &Store,
    caller: &Caller,
    zone: &Option<String>,
    host: Option<String>,
) -> Result<(Option<String>, Option<String>), Failure> {
    let mut parts = zone.as_deref().unwrap_or_default().split(':');
    let zone = parts.next().filter(|zone| !zone.is_empty()).map(str::to_owned);
    let forced = parts
        .next()
        .or_else(|| parts.next())
        .filter(|host| !host.is_empty())
        .map(str::to_owned);
    let host = forced.or(host);
    if host.is_some() {
        caller.enforce("os_compute_api:servers:create:forced_host", &[])?;
    }
    let providers = store.cache::<Provider>();
    let is_zone = |zone: &str| {
        let aggregates = store.cache::<Aggregate>().by("zone", zone);
        let has_hosts = aggregates.iter().any(|aggregate| !aggregate.spec.hosts.is_empty());
        has_hosts || providers.all().iter().any(|provider| zone_of(store, provider) == zone)
    };
    if let Some(zone) = &zone
        && !is_zone(zone)
    {
        return Err(Failure::invalid("The requested availability zone is not available").at("availability_zone"));
    }
    if let Some(host) = &host
        && providers.by("name", host).is_empty()
    {
        return Err(Failure::invalid(format!("Compute host {host} could not be found.")).at("host"));
    }
    Ok((zone, host))
}

fn resolve_groups(store: &Store, project: &str, groups: &[NamedGroup]) -> Result<Vec<String>, Failure> {
    let mut ids = Vec::new();
    for NamedGroup { name } in groups {
        let id = match security_group(store, project, name) {
            Some(group) => group.name().to_owned(),
            // The default group is made with the first port; asking for it by name is asking for nothing special.
            None if name == "default" => continue,
            None => {
                let message = format!("Security group {name} not found for project {project}.");
                return Err(Failure::invalid(message).at("security_groups.name"));
            }
        };
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    Ok(ids)
}

pub(super) fn key(store: &Store, caller: &Caller, name: &str) -> Result<ServerKey, Failure> {
    let key = store.get::<Keypair>(&Key::new(Keypair::NAME, "", &caller.subject.user.id, name));
    let key = key.ok_or_else(|| Failure::invalid("Invalid key_name provided.").at("key_name"))?;
    Ok(ServerKey {
        name: name.to_owned(),
        key_type: key.spec.key_type.clone(),
        public_key: key.spec.public_key.clone(),
    })
}

/// Base64 as Nova takes it: line breaks do not matter.
pub(super) fn is_base64(data: &str) -> bool {
    let compact: String = data.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    base64::engine::general_purpose::STANDARD.decode(&compact).is_ok()
}

/// Hints as lists of texts: one text is a list of one, and what is no text stays JSON.
fn hint_values(hints: &BTreeMap<String, Value>) -> BTreeMap<String, Vec<String>> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let others = hints
        .iter()
        .filter(|(name, value)| *name != "group" && !value.is_null());
    let lists = others.map(|(name, value)| match value {
        Value::Array(values) if name != "query" => (name.clone(), values.iter().map(text).collect()),
        one => (name.clone(), vec![text(one)]),
    });
    lists.collect()
}

fn server_group(store: &Store, caller: &Caller, id: &str) -> Result<ClaimGroup, Failure> {
    let missing =
        || Failure::invalid(format!("Instance group {id} could not be found.")).at("os:scheduler_hints.group");
    let group = crate::group::api::find(store, caller, id).map_err(|_| missing())?;
    let id = group.name().parse().map_err(|_| missing())?;
    Ok(ClaimGroup {
        id,
        policy: group.spec.policy,
        max_server_per_host: group.spec.max_server_per_host,
    })
}

fn truth(value: &Value) -> bool {
    value.as_bool().or_else(|| parse_bool(value.as_str()?)).unwrap_or(false)
}
