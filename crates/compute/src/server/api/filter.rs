//! Which servers a list holds: Nova's query parameters, and who may use which.

use std::{
    borrow::Cow,
    net::IpAddr,
    sync::{Arc, LazyLock},
};

use jiff::Timestamp;
use madang_http::{Failure, Microversion, Query, Schema, parse_bool};
use madang_identity::Caller;
use madang_network::Port;
use madang_store::{Resource, Store, View};
use regex::{Regex, RegexBuilder};
use serde_json::{Map, Value, json};

use crate::{
    Server,
    api::input,
    server::{Departed, departed::as_server, state},
};

/// What a list of servers can be sorted by.
const SORT_KEYS: &[&str] = &[
    "access_ip_v4",
    "access_ip_v6",
    "auto_disk_config",
    "availability_zone",
    "config_drive",
    "created_at",
    "display_description",
    "display_name",
    "host",
    "hostname",
    "image_ref",
    "instance_type_id",
    "kernel_id",
    "key_name",
    "launch_index",
    "launched_at",
    "locked_by",
    "node",
    "power_state",
    "progress",
    "project_id",
    "ramdisk_id",
    "root_device_name",
    "task_state",
    "terminated_at",
    "updated_at",
    "user_id",
    "uuid",
    "vm_state",
];

/// Keys that were taken and ignored up to 2.74; `locked` is a real one since 2.73.
const IGNORED_SORT_KEYS: &[&str] = &[
    "architecture",
    "cell_name",
    "cleaned",
    "default_ephemeral_device",
    "default_swap_device",
    "deleted",
    "deleted_at",
    "disable_terminate",
    "ephemeral_gb",
    "ephemeral_key_uuid",
    "id",
    "key_data",
    "launched_on",
    "locked",
    "memory_mb",
    "os_type",
    "reservation_id",
    "root_gb",
    "shutdown_terminate",
    "user_data",
    "vcpus",
    "vm_mode",
];

/// Every status a server can have here or in Nova.
const STATUSES: &[&str] = &[
    "ACTIVE",
    "BUILD",
    "DELETED",
    "ERROR",
    "HARD_REBOOT",
    "MIGRATING",
    "PASSWORD",
    "PAUSED",
    "REBOOT",
    "REBUILD",
    "RESCUE",
    "RESIZE",
    "REVERT_RESIZE",
    "SHELVED",
    "SHELVED_OFFLOADED",
    "SHUTOFF",
    "SOFT_DELETED",
    "SUSPENDED",
    "VERIFY_RESIZE",
];

/// Filters that compare a text as it is.
const PLAIN: &[&str] = &[
    "user_id",
    "project_id",
    "tenant_id",
    "launch_index",
    "image_ref",
    "image",
    "vm_state",
    "task_state",
    "host",
    "uuid",
    "sort_dir",
    "all_tenants",
    "soft_deleted",
    "deleted",
    "status",
];

/// Filters that are regular expressions.
const PATTERNS: &[&str] = &[
    "kernel_id",
    "ramdisk_id",
    "hostname",
    "key_name",
    "power_state",
    "node",
    "flavor",
    "reservation_id",
    "launched_at",
    "terminated_at",
    "availability_zone",
    "name",
    "display_name",
    "description",
    "display_description",
    "locked_by",
    "root_device_name",
    "config_drive",
    "access_ip_v4",
    "access_ip_v6",
    "auto_disk_config",
    "progress",
    "ip",
    "ip6",
    "created_at",
];

/// Names of tables that Nova joins: asking for one was always an error.
const JOINED: &[&str] = &[
    "block_device_mapping",
    "services",
    "metadata",
    "system_metadata",
    "info_cache",
    "security_groups",
    "pci_devices",
];

/// What everybody may filter by, and since when.
const FOR_ALL: &[(&str, u16)] = &[
    ("reservation_id", 1),
    ("name", 1),
    ("status", 1),
    ("image", 1),
    ("flavor", 1),
    ("ip", 1),
    ("changes-since", 1),
    ("all_tenants", 1),
    ("ip6", 5),
    ("tags", 26),
    ("tags-any", 26),
    ("not-tags", 26),
    ("not-tags-any", 26),
    ("changes-before", 66),
    ("locked", 73),
    ("availability_zone", 83),
    ("config_drive", 83),
    ("key_name", 83),
    ("created_at", 83),
    ("launched_at", 83),
    ("terminated_at", 83),
    ("power_state", 83),
    ("task_state", 83),
    ("vm_state", 83),
    ("progress", 83),
    ("user_id", 83),
];

/// The schema of the query, by the microversions that changed it.
fn schema(version: Microversion) -> &'static Schema {
    fn of(minor: u16) -> Schema {
        let list = |item: Value| json!({ "type": "array", "items": item });
        let (text, pattern) = (
            list(json!({ "type": "string" })),
            list(json!({ "type": "string", "format": "regex" })),
        );
        let time = list(json!({ "type": "string", "format": "date-time" }));
        let limit = json!({ "type": "string", "pattern": "^[0-9]*$", "minLength": 1 });
        let mut keys: Vec<&str> = SORT_KEYS.to_vec();
        if minor >= 73 {
            keys.push("locked");
        }
        if minor < 75 {
            keys.extend(IGNORED_SORT_KEYS.iter().filter(|key| minor < 73 || **key != "locked"));
        }
        let mut properties: Map<String, Value> = Map::new();
        properties.extend(
            PLAIN
                .iter()
                .chain(JOINED)
                .map(|name| ((*name).to_owned(), text.clone())),
        );
        properties.extend(PATTERNS.iter().map(|name| ((*name).to_owned(), pattern.clone())));
        properties.insert("sort_key".to_owned(), list(json!({ "type": "string", "enum": keys })));
        properties.insert("limit".to_owned(), list(limit));
        properties.insert("marker".to_owned(), text.clone());
        properties.insert("changes-since".to_owned(), time.clone());
        if minor >= 26 {
            let tags = ["tags", "tags-any", "not-tags", "not-tags-any"];
            properties.extend(tags.map(|name| (name.to_owned(), pattern.clone())));
        }
        if minor >= 66 {
            properties.insert("changes-before".to_owned(), time);
        }
        if minor >= 73 {
            properties.insert("locked".to_owned(), text);
        }
        input::nova(json!({
            "type": "object", "properties": properties, "additionalProperties": minor < 75,
        }))
    }
    static OLD: LazyLock<Schema> = LazyLock::new(|| of(1));
    static TAGS: LazyLock<Schema> = LazyLock::new(|| of(26));
    static BEFORE: LazyLock<Schema> = LazyLock::new(|| of(66));
    static LOCKED: LazyLock<Schema> = LazyLock::new(|| of(73));
    static STRICT: LazyLock<Schema> = LazyLock::new(|| of(75));
    match version {
        v if v >= Microversion(2, 75) => &STRICT,
        v if v >= Microversion(2, 73) => &LOCKED,
        v if v >= Microversion(2, 66) => &BEFORE,
        v if v >= Microversion(2, 26) => &TAGS,
        _ => &OLD,
    }
}

/// The keys that a request may sort by, and the query without those that are ignored.
///
/// # Errors
/// `Forbidden` where somebody but an admin sorts by hosts.
pub(super) fn sortable(
    caller: &Caller,
    version: Microversion,
    query: &Query,
) -> Result<(Vec<&'static str>, Query), Failure> {
    let mut keys = SORT_KEYS.to_vec();
    if version >= Microversion(2, 73) {
        keys.push("locked");
    }
    if let Some(key) = query.all("sort_key").find(|key| matches!(*key, "host" | "node"))
        && !caller.is_admin()
    {
        return Err(Failure::forbidden(format!(
            "Only administrators can sort servers by {key}"
        )));
    }
    if query.all("sort_key").all(|key| keys.contains(&key)) {
        return Ok((keys, query.clone()));
    }
    // Ignored keys take their directions with them.
    let pairs = query.all("sort_key").enumerate();
    let directions: Vec<&str> = query.all("sort_dir").collect();
    let kept: Vec<(&str, Option<&str>)> = pairs
        .filter(|(_, key)| keys.contains(key))
        .map(|(index, key)| (key, directions.get(index).copied()))
        .collect();
    let mut text = query.with(&[("sort_key", None), ("sort_dir", None)]).encode();
    for (key, direction) in kept {
        text.push_str(&format!("&sort_key={key}&sort_dir={}", direction.unwrap_or("desc")));
    }
    Ok((keys, Query::parse(&text)))
}

/// A list's conditions; all have to hold.
pub(super) struct Filter {
    /// Only of this project; of all when none.
    project: Option<String>,
    conditions: Vec<Condition>,
    /// Whether what is gone is listed, what is there, or both.
    deleted: Option<bool>,
}

enum Condition {
    /// A text of the server, by the name of the filter, is found by the expression.
    Like(String, Regex),
    /// A text of the server is this one.
    Is(&'static str, String),
    Status(Vec<String>),
    LaunchIndex(String),
    Address(Regex, bool),
    ChangedSince(Timestamp),
    ChangedBefore(Timestamp),
    Locked(bool),
    ConfigDrive(bool),
    Tags {
        wanted: Vec<String>,
        all: bool,
        negated: bool,
    },
    PowerState(u8),
}

impl Filter {
    /// Reads the query for a caller: what only admins may ask is ignored for others, as Nova does.
    pub(super) fn read(caller: &Caller, version: Microversion, query: &Query, rule: &str) -> Result<Self, Failure> {
        let own = caller.subject.project_id();
        caller.enforce_in(rule, own.unwrap_or_default())?;
        schema(version).check_query(query)?;
        let all_filters = caller.allows("os_compute_api:servers:allow_all_filters", &[]);
        let project = project(caller, query, rule)?;
        let may = |name: &str| {
            let known = FOR_ALL.iter().find(|(known, _)| *known == name);
            all_filters || known.is_some_and(|(_, since)| version >= Microversion(2, *since))
        };
        let mut conditions = Vec::new();
        for (name, value) in query.iter().filter(|(name, _)| may(name)) {
            if JOINED.contains(&name) || name.starts_with('_') {
                return Err(Failure::invalid(format!("Invalid filter field: {name}.")).at(name));
            }
            conditions.extend(Condition::read(version, query, name, value)?);
        }
        check_times(&conditions)?;
        let deleted = deleted(caller, query, may("deleted"), &conditions)?;
        Ok(Self {
            project,
            conditions,
            deleted,
        })
    }

    /// Those of the servers that are gone which the list may hold.
    pub(super) fn departed(&self, store: &Store) -> Vec<Arc<Resource<Server>>> {
        if self.deleted == Some(false) {
            return Vec::new();
        }
        let gone = store.cache::<Departed>();
        let gone = match &self.project {
            Some(project) => gone.in_project(project),
            None => gone.all(),
        };
        gone.iter().map(|departed| Arc::new(as_server(departed))).collect()
    }

    /// Those of the servers that are there which the list may hold.
    pub(super) fn there<'v>(&self, servers: &'v View<'_, Server>) -> Vec<&'v Arc<Resource<Server>>> {
        match &self.project {
            _ if self.deleted == Some(true) => Vec::new(),
            Some(project) => servers.in_project(project),
            None => servers.all(),
        }
    }

    /// Whether a server is in the list.
    pub(super) fn matches(&self, store: &Store, server: &Resource<Server>) -> bool {
        self.conditions.iter().all(|condition| condition.holds(store, server))
    }
}

/// The project whose servers are meant; none for all.
fn project(caller: &Caller, query: &Query, rule: &str) -> Result<Option<String>, Failure> {
    let all_tenants = match query.get("all_tenants") {
        None => false,
        // Without a value it asks for all, too.
        Some("") => true,
        Some(text) => parse_bool(text).ok_or_else(|| {
            let message = format!("Invalid value '{text}' for all_tenants: it is not a boolean");
            Failure::invalid(message).at("all_tenants")
        })?,
    };
    if !all_tenants {
        return Ok(Some(caller.project()?.to_owned()));
    }
    caller.enforce(&format!("{rule}:get_all_tenants"), &[])?;
    let asked = query.get("project_id").or_else(|| query.get("tenant_id"));
    Ok(asked.map(str::to_owned))
}

fn check_times(conditions: &[Condition]) -> Result<(), Failure> {
    let since = conditions.iter().find_map(|condition| match condition {
        Condition::ChangedSince(at) => Some(*at),
        _ => None,
    });
    let is_before = |at: Timestamp| since.is_some_and(|since| at < since);
    if conditions
        .iter()
        .any(|condition| matches!(condition, Condition::ChangedBefore(at) if is_before(*at)))
    {
        return Err(Failure::invalid(
            "The value of changes-since must be less than or equal to changes-before.",
        ));
    }
    Ok(())
}

/// Whether only what is gone is asked for, only what is there, or (with `changes-since`) both.
fn deleted(caller: &Caller, query: &Query, may_ask: bool, conditions: &[Condition]) -> Result<Option<bool>, Failure> {
    let wants_gone = |condition: &Condition| match condition {
        Condition::Status(wanted) => wanted.iter().all(|status| status == "DELETED"),
        _ => false,
    };
    if conditions.iter().any(wants_gone) {
        if !caller.is_admin() {
            return Err(Failure::forbidden("Only administrators may list deleted instances"));
        }
        return Ok(Some(true));
    }
    if let Some(text) = query.get("deleted").filter(|_| may_ask) {
        return Ok(Some(parse_bool(text).unwrap_or(false)));
    }
    let by_time = |condition: &Condition| matches!(condition, Condition::ChangedSince(_) | Condition::ChangedBefore(_));
    Ok((!conditions.iter().any(by_time)).then_some(false))
}

impl Condition {
    fn read(version: Microversion, query: &Query, name: &str, value: &str) -> Result<Option<Self>, Failure> {
        let text = || value.to_owned();
        let tags = |all, negated| {
            (version >= Microversion(2, 26)).then(|| Self::Tags {
                wanted: value.split(',').map(str::to_owned).collect(),
                all,
                negated,
            })
        };
        let since_66 = |condition| (version >= Microversion(2, 66)).then_some(condition);
        Ok(match name {
            "status" => Some(Self::Status(statuses(version, query)?)),
            "image" | "image_ref" => Some(Self::Is("image", last_segment(value))),
            "flavor" => Some(Self::Is("flavor", last_segment(value))),
            "user_id" | "host" | "uuid" | "vm_state" | "task_state" => Some(Self::Is(known(name), text())),
            "launch_index" => Some(Self::LaunchIndex(text())),
            "ip" => Some(Self::Address(anchored(name, value)?, true)),
            "ip6" => Some(Self::Address(anchored(name, value)?, false)),
            "changes-since" => Some(Self::ChangedSince(time(name, value)?)),
            "changes-before" => since_66(Self::ChangedBefore(time(name, value)?)),
            "locked" if version >= Microversion(2, 73) => Some(Self::Locked(flag(name, value)?)),
            "config_drive" => Some(Self::ConfigDrive(flag(name, value)?)),
            "tags" => tags(true, false),
            "tags-any" => tags(false, false),
            "not-tags" => tags(true, true),
            "not-tags-any" => tags(false, true),
            "power_state" => {
                let bad = || Failure::invalid(format!("Invalid filter value for power_state: {value}")).at(name);
                Some(Self::PowerState(value.parse().map_err(|_| bad())?))
            }
            other if PATTERNS.contains(&other) => Some(Self::Like(text_name(other), pattern(name, value)?)),
            _ => None,
        })
    }

    fn holds(&self, store: &Store, server: &Resource<Server>) -> bool {
        match self {
            Self::Like(name, pattern) => text_of(server, name).is_some_and(|text| pattern.is_match(&text)),
            Self::Is(name, wanted) => text_of(server, name).is_some_and(|text| text == *wanted),
            Self::Status(wanted) => {
                let status = state::of(server).status;
                wanted.iter().any(|one| one == status)
            }
            Self::LaunchIndex(index) => server.spec.launch_index.to_string() == *index,
            Self::Address(pattern, is_v4) => {
                let mut addresses = addresses(store, server);
                addresses.any(|ip| ip.is_ipv4() == *is_v4 && pattern.is_match(&ip.to_string()))
            }
            Self::ChangedSince(at) => server.metadata.updated >= *at,
            Self::ChangedBefore(at) => server.metadata.updated <= *at,
            Self::Locked(wanted) => server.spec.lock.is_some() == *wanted,
            Self::ConfigDrive(wanted) => server.spec.config_drive == *wanted,
            Self::Tags { wanted, all, negated } => {
                let has = |tag: &String| server.spec.tags.contains(tag);
                let found = if *all {
                    wanted.iter().all(has)
                } else {
                    wanted.iter().any(has)
                };
                found != *negated
            }
            Self::PowerState(wanted) => state::of(server).power_state == *wanted,
        }
    }
}

/// The name under which [`text_of`] knows a filter that has two.
fn text_name(filter: &str) -> String {
    match filter {
        "display_name" => "name",
        "display_description" => "description",
        other => other,
    }
    .to_owned()
}

fn known(filter: &str) -> &'static str {
    PLAIN.iter().find(|name| **name == filter).copied().unwrap_or_default()
}

/// What a server has to say for a filter.
fn text_of<'s>(server: &'s Resource<Server>, filter: &str) -> Option<Cow<'s, str>> {
    let (spec, status) = (&server.spec, &server.status);
    let text: &str = match filter {
        "name" => &spec.name,
        "description" => spec.description.as_deref()?,
        "hostname" => &spec.hostname,
        "image" => spec.image.as_deref()?,
        "flavor" => &spec.flavor_id,
        "uuid" => server.name(),
        "user_id" => &spec.user,
        "host" | "node" => status.host.as_deref()?,
        "key_name" => &spec.key.as_ref()?.name,
        "reservation_id" => &spec.reservation_id,
        "availability_zone" => spec.availability_zone.as_deref()?,
        "vm_state" => state::of(server).vm_state,
        "task_state" => state::of(server).task_state?,
        "locked_by" if spec.lock.as_ref()?.by_admin => "admin",
        "locked_by" => "owner",
        "auto_disk_config" if spec.is_disk_automatic => "1",
        "auto_disk_config" => "0",
        "root_device_name" => "/dev/vda",
        "progress" => "0",
        "kernel_id" | "ramdisk_id" => "",
        "access_ip_v4" => return spec.access_ipv4.map(|ip| ip.to_string().into()),
        "access_ip_v6" => return spec.access_ipv6.map(|ip| ip.to_string().into()),
        "created_at" => return Some(server.metadata.created.to_string().into()),
        "launched_at" => return status.launched.map(|at| at.to_string().into()),
        _ => return None,
    };
    Some(Cow::Borrowed(text))
}

/// A regular expression as Nova's database takes it: found anywhere, in any case.
fn pattern(name: &str, value: &str) -> Result<Regex, Failure> {
    let built = RegexBuilder::new(value)
        .case_insensitive(true)
        .size_limit(1 << 18)
        .build();
    built.map_err(|_| {
        let message = format!("Invalid input for query parameters {name}. Value: {value}. '{value}' is not a 'regex'");
        Failure::invalid(message).at(name)
    })
}

/// As [`pattern`], found at the beginning only: Nova compares addresses itself.
fn anchored(name: &str, value: &str) -> Result<Regex, Failure> {
    pattern(name, value)?;
    pattern(name, &format!("^(?:{value})"))
}

fn flag(name: &str, value: &str) -> Result<bool, Failure> {
    let bad = || Failure::invalid(format!("Invalid value '{value}' for {name}: it is not a boolean")).at(name);
    parse_bool(value).ok_or_else(bad)
}

fn addresses(store: &Store, server: &Resource<Server>) -> impl Iterator<Item = IpAddr> + use<> {
    let ports = store.cache::<Port>().by("device", server.name());
    let ips: Vec<IpAddr> = ports
        .iter()
        .flat_map(|port| &port.spec.fixed_ips)
        .map(|ip| ip.ip_address)
        .collect();
    ips.into_iter()
}

/// The statuses asked for that there are; where there is none of them, 400 since 2.38 and an empty list before.
fn statuses(version: Microversion, query: &Query) -> Result<Vec<String>, Failure> {
    let mut asked: Vec<String> = query.all("status").map(str::to_uppercase).collect();
    asked.retain(|status| STATUSES.contains(&status.as_str()));
    if !asked.is_empty() {
        return Ok(asked);
    }
    if version >= Microversion(2, 38) {
        return Err(Failure::invalid("Invalid status value").at("status"));
    }
    Ok(vec![String::new()])
}

/// Images and flavors may be given as URLs.
pub(super) fn last_segment(reference: &str) -> String {
    reference
        .trim_end_matches('/')
        .rsplit('/')
        .next()
        .unwrap_or(reference)
        .to_owned()
}

fn time(name: &str, value: &str) -> Result<Timestamp, Failure> {
    let read = value.parse::<Timestamp>().ok();
    let read = read.or_else(|| format!("{value}Z").parse().ok());
    let read = read.or_else(|| format!("{value}T00:00:00Z").parse().ok());
    read.ok_or_else(|| {
        let message =
            format!("Invalid input for query parameters {name}. Value: {value}. '{value}' is not a 'date-time'");
        Failure::invalid(message).at(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::tests::server;

    #[test]
    fn names_are_regular_expressions_found_anywhere() {
        let found = |expression: &str, name: &str| pattern("name", expression).unwrap().is_match(name);
        assert!(found("web", "my-Web-1") && found("^web", "web-1") && !found("^web", "my-web"));
        assert!(found("web-[0-9]+$", "web-12") && !found("web-[0-9]+$", "web-x"));
        assert!(pattern("name", "[").unwrap_err().message.contains("is not a 'regex'"));
    }

    #[test]
    fn addresses_are_found_from_their_beginning() {
        let found = |expression: &str, ip: &str| anchored("ip", expression).unwrap().is_match(ip);
        assert!(found("10.0", "10.0.0.7") && !found("0.0.7", "10.0.0.7"));
    }

    #[test]
    fn times_come_in_several_forms() {
        for good in [
            "2026-11-21T02:00:00Z",
            "2026-11-21T02:00:00",
            "2026-11-21",
            "2026-11-21T02:00:00+09:00",
        ] {
            assert!(time("changes-since", good).is_ok(), "{good}");
        }
        assert!(
            time("changes-since", "yesterday")
                .unwrap_err()
                .message
                .contains("yesterday")
        );
    }

    #[test]
    fn statuses_that_are_not_there_find_nothing_or_are_refused() {
        let read = |version, query: &str| statuses(Microversion(2, version), &Query::parse(query));
        assert_eq!(read(1, "status=active&status=nonsense").unwrap(), ["ACTIVE"]);
        assert_eq!(read(37, "status=nonsense").unwrap(), [""]);
        assert!(read(38, "status=nonsense").is_err());
    }

    #[test]
    fn every_text_filter_is_answered_or_known_to_have_nothing() {
        let server = server("a");
        let empty = [
            "host",
            "node",
            "key_name",
            "availability_zone",
            "locked_by",
            "access_ip_v4",
            "access_ip_v6",
            "launched_at",
            "terminated_at",
            "description",
            "display_name",
            "display_description",
            "ip",
            "ip6",
            "power_state",
            "config_drive",
            "task_state",
        ];
        for name in PATTERNS.iter().filter(|name| !empty.contains(name)) {
            assert!(text_of(&server, name).is_some(), "{name}");
        }
    }
}
