//! Which servers a list holds: Nova's query parameters.

use std::{net::IpAddr, sync::Arc};

use jiff::Timestamp;
use madang_http::{Failure, Microversion, Query};
use madang_identity::Caller;
use madang_network::Port;
use madang_store::{Resource, Store};

use crate::{Server, server::state};

/// What a list of servers can be sorted by.
pub(super) const SORT_KEYS: &[&str] = &[
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
    "locked",
    "locked_by",
    "node",
    "power_state",
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
    "UNKNOWN",
    "VERIFY_RESIZE",
];

/// A list's conditions; all have to hold.
pub(super) struct Filter {
    /// Only of this project; of all when none.
    project: Option<String>,
    conditions: Vec<Condition>,
}

enum Condition {
    Name(Pattern),
    Status(Vec<String>),
    Image(String),
    Flavor(String),
    Id(String),
    User(String),
    Host(String),
    Key(String),
    ReservationId(String),
    Zone(String),
    Description(Pattern),
    Hostname(String),
    Address(Pattern),
    ChangedSince(Timestamp),
    ChangedBefore(Timestamp),
    Locked(bool),
    Tags {
        wanted: Vec<String>,
        all: bool,
        negated: bool,
    },
    VmState(String),
    TaskState(String),
    PowerState(u8),
    Deleted,
}

/// What Nova's database compares a filter with: a regular expression. Here: a text somewhere in it, with `^`, `$` and
/// `.*` at their usual places, which is what clients send.
struct Pattern {
    text: String,
    from_start: bool,
    to_end: bool,
}

impl Pattern {
    fn new(text: &str) -> Self {
        let (rest, from_start) = text.strip_prefix('^').map_or((text, false), |rest| (rest, true));
        let (rest, to_end) = rest.strip_suffix('$').map_or((rest, false), |rest| (rest, true));
        let open_start = rest.starts_with(".*");
        let open_end = rest.ends_with(".*");
        let rest = rest.strip_prefix(".*").unwrap_or(rest);
        let rest = rest.strip_suffix(".*").unwrap_or(rest);
        Self {
            text: rest.to_lowercase(),
            from_start: from_start && !open_start,
            to_end: to_end && !open_end,
        }
    }

    fn matches(&self, value: &str) -> bool {
        let value = value.to_lowercase();
        match (self.from_start, self.to_end) {
            (true, true) => value == self.text,
            (true, false) => value.starts_with(&self.text),
            (false, true) => value.ends_with(&self.text),
            (false, false) => value.contains(&self.text),
        }
    }
}

impl Filter {
    /// Reads the query for a caller: what only admins may ask is ignored for others, as Nova does.
    pub(super) fn read(caller: &Caller, version: Microversion, query: &Query, rule: &str) -> Result<Self, Failure> {
        let own = caller.subject.project_id();
        caller.enforce_in(rule, own.unwrap_or_default())?;
        let all_tenants = query.has("all_tenants")
            && query.flag("all_tenants").map(|f| f.unwrap_or(true)).or_else(
                // `all_tenants=` without a value asks for all, too.
                |bad| {
                    if query.get("all_tenants") == Some("") {
                        Ok(true)
                    } else {
                        Err(bad)
                    }
                },
            )?;
        if all_tenants {
            caller.enforce(&format!("{rule}:get_all_tenants"), &[])?;
        }
        let project = if all_tenants {
            query
                .get("project_id")
                .or_else(|| query.get("tenant_id"))
                .map(str::to_owned)
        } else {
            Some(caller.project()?.to_owned())
        };
        let mut conditions = Vec::new();
        for (name, value) in query.iter() {
            if let Some(condition) = Condition::read(caller, version, query, name, value)? {
                conditions.push(condition);
            }
        }
        Ok(Self { project, conditions })
    }

    /// The servers to look through.
    pub(super) fn candidates(&self, store: &Store) -> Vec<Arc<Resource<Server>>> {
        match &self.project {
            Some(project) => store.cache::<Server>().in_project(project),
            None => store.cache::<Server>().all(),
        }
    }

    pub(super) fn matches(&self, store: &Store, server: &Resource<Server>) -> bool {
        self.conditions.iter().all(|condition| condition.holds(store, server))
    }
}

impl Condition {
    fn read(
        caller: &Caller,
        version: Microversion,
        query: &Query,
        name: &str,
        value: &str,
    ) -> Result<Option<Self>, Failure> {
        let text = || value.to_owned();
        let is_admin = caller.is_admin();
        let tags = |wanted: &str, all, negated| {
            (version >= Microversion(2, 26)).then(|| Self::Tags {
                wanted: wanted.split(',').map(str::to_owned).collect(),
                all,
                negated,
            })
        };
        Ok(match name {
            "name" => Some(Self::Name(Pattern::new(value))),
            "status" => Some(Self::Status(statuses(version, query)?)),
            "image" => Some(Self::Image(last_segment(value))),
            "flavor" => Some(Self::Flavor(last_segment(value))),
            "reservation_id" => Some(Self::ReservationId(text())),
            "ip" => Some(Self::Address(Pattern::new(value))),
            "ip6" if version >= Microversion(2, 5) || is_admin => Some(Self::Address(Pattern::new(value))),
            "changes-since" => Some(Self::ChangedSince(time(name, value)?)),
            "changes-before" if version >= Microversion(2, 66) => Some(Self::ChangedBefore(time(name, value)?)),
            "locked" if version >= Microversion(2, 73) => query.flag(name)?.map(Self::Locked),
            "tags" => tags(value, true, false),
            "tags-any" => tags(value, false, false),
            "not-tags" => tags(value, true, true),
            "not-tags-any" => tags(value, false, true),
            "user_id" if is_admin || version >= Microversion(2, 83) => Some(Self::User(text())),
            "key_name" if is_admin || version >= Microversion(2, 83) => Some(Self::Key(text())),
            "availability_zone" if is_admin || version >= Microversion(2, 83) => Some(Self::Zone(text())),
            "description" if is_admin || version >= Microversion(2, 83) => Some(Self::Description(Pattern::new(value))),
            "vm_state" if is_admin || version >= Microversion(2, 83) => Some(Self::VmState(text())),
            "task_state" if is_admin || version >= Microversion(2, 83) => Some(Self::TaskState(text())),
            "power_state" if is_admin || version >= Microversion(2, 83) => {
                let bad = || Failure::invalid(format!("Invalid filter value for power_state: {value}")).at(name);
                Some(Self::PowerState(value.parse().map_err(|_| bad())?))
            }
            "hostname" if is_admin => Some(Self::Hostname(text())),
            "host" | "node" if is_admin => Some(Self::Host(text())),
            "uuid" if is_admin => Some(Self::Id(text())),
            "deleted" if is_admin && query.flag(name)? == Some(true) => Some(Self::Deleted),
            _ => None,
        })
    }

    fn holds(&self, store: &Store, server: &Resource<Server>) -> bool {
        let spec = &server.spec;
        match self {
            Self::Name(pattern) => pattern.matches(&spec.name),
            Self::Status(wanted) => wanted.iter().any(|status| *status == state::of(server).status),
            Self::Image(id) => spec.image.as_deref() == Some(id),
            Self::Flavor(id) => spec.flavor_id == *id,
            Self::Id(id) => server.name() == id,
            Self::User(id) => spec.user == *id,
            Self::Host(host) => server.status.host.as_deref() == Some(host),
            Self::Key(name) => spec.key.as_ref().is_some_and(|key| key.name == *name),
            Self::ReservationId(id) => spec.reservation_id == *id,
            Self::Zone(zone) => spec.availability_zone.as_deref() == Some(zone),
            Self::Description(pattern) => spec.description.as_ref().is_some_and(|text| pattern.matches(text)),
            Self::Hostname(name) => spec.hostname == *name,
            Self::Address(pattern) => addresses(store, server).any(|ip| pattern.matches(&ip.to_string())),
            Self::ChangedSince(at) => server.metadata.updated >= *at,
            Self::ChangedBefore(at) => server.metadata.updated <= *at,
            Self::Locked(wanted) => spec.lock.is_some() == *wanted,
            Self::Tags { wanted, all, negated } => {
                let has = |tag: &String| spec.tags.contains(tag);
                let found = if *all {
                    wanted.iter().all(has)
                } else {
                    wanted.iter().any(has)
                };
                found != *negated
            }
            Self::VmState(wanted) => state::of(server).vm_state == wanted,
            Self::TaskState(wanted) => state::of(server).task_state == Some(wanted),
            Self::PowerState(wanted) => state::of(server).power_state == *wanted,
            Self::Deleted => false, // nothing is kept of what is gone
        }
    }
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

fn statuses(version: Microversion, query: &Query) -> Result<Vec<String>, Failure> {
    let asked: Vec<String> = query.all("status").map(str::to_uppercase).collect();
    match asked.iter().find(|status| !STATUSES.contains(&status.as_str())) {
        Some(bad) if version >= Microversion(2, 38) => {
            Err(Failure::invalid(format!("Invalid status value {bad}")).at("status"))
        }
        _ => Ok(asked),
    }
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

    #[test]
    fn patterns_match_as_clients_mean_them() {
        assert!(Pattern::new("web").matches("my-Web-1"));
        assert!(Pattern::new("^web").matches("web-1") && !Pattern::new("^web").matches("my-web"));
        assert!(Pattern::new("^web$").matches("web") && !Pattern::new("^web$").matches("web1"));
        assert!(Pattern::new(".*eb.*").matches("web1"));
        assert!(Pattern::new("^.*1$").matches("web1"));
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
}
