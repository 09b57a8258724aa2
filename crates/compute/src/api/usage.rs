//! `/os-simple-tenant-usage`: what projects used over a period; `/os-instance_usage_audit_log`: whether hosts told.

use std::collections::BTreeMap;

use axum::{
    Router,
    extract::{Path, State},
    response::Response,
    routing::get,
};
use http::StatusCode;
use jiff::{Timestamp, ToSpan as _, civil::DateTime, tz::TimeZone};
use madang_http::{Failure, LimitRules, Microversion, PageQuery, Query, RequestInfo, json, next_url};
use madang_identity::Caller;
use madang_scheduler::Provider;
use madang_store::Store;
use serde_json::{Value, json};

use super::{ComputeApi, enforce};
use crate::{
    Departed, FlavorSpec, Server,
    server::{state, view::micros},
};

/// Nova's `max_limit`.
const LIMITS: LimitRules = LimitRules::up_to(1000);

/// The routes.
pub(super) fn routes() -> Router<ComputeApi> {
    Router::new()
        .route("/os-simple-tenant-usage", get(list))
        .route("/os-simple-tenant-usage/{project}", get(show))
        .route("/os-instance_usage_audit_log", get(audit))
        .route("/os-instance_usage_audit_log/{before}", get(audit_before))
}

/// A server's life, as far as it is paid for.
struct Life {
    id: String,
    name: String,
    project: String,
    flavor: FlavorSpec,
    launched: Timestamp,
    ended: Option<Timestamp>,
    vm_state: &'static str,
}

/// The lives of servers that overlap a period, of one project or of all, in the order of project and id.
fn lives(store: &Store, project: Option<&str>, period: &Period) -> Vec<Life> {
    let servers = match project {
        Some(project) => store.cache::<Server>().in_project(project),
        None => store.cache::<Server>().all(),
    };
    let living = servers.iter().filter_map(|server| {
        Some(Life {
            id: server.name().to_owned(),
            name: server.spec.name.clone(),
            project: server.project().to_owned(),
            flavor: server.spec.flavor.clone(),
            launched: server.status.launched?,
            ended: None,
            vm_state: state::of(server).vm_state,
        })
    });
    let departed = match project {
        Some(project) => store.cache::<Departed>().in_project(project),
        None => store.cache::<Departed>().all(),
    };
    let gone = departed.iter().filter_map(|departed| {
        let spec = &departed.spec;
        Some(Life {
            id: departed.name().to_owned(),
            name: spec.spec.name.clone(),
            project: departed.project().to_owned(),
            flavor: spec.spec.flavor.clone(),
            launched: spec.status.launched?,
            ended: Some(spec.ended),
            vm_state: "deleted",
        })
    });
    let mut lives: Vec<Life> = living.chain(gone).collect();
    lives.retain(|life| life.launched < period.stop && life.ended.is_none_or(|ended| ended > period.start));
    lives.sort_unstable_by(|a, b| (&a.project, &a.id).cmp(&(&b.project, &b.id)));
    lives
}

/// What is asked about.
#[derive(Clone, Copy, Debug)]
struct Period {
    start: Timestamp,
    stop: Timestamp,
    is_detailed: bool,
}

impl Period {
    fn read(query: &Query, now: Timestamp) -> Result<Self, Failure> {
        let read = |name: &str| match query.all(name).next().filter(|text| !text.is_empty()) {
            None => Ok(now),
            Some(text) => time(text),
        };
        let (start, stop) = (read("start")?, read("end")?);
        if start >= stop {
            return Err(Failure::invalid(
                "Invalid start time. The start time cannot occur after the end time.",
            ));
        }
        Ok(Self {
            start,
            stop: stop.min(now),
            is_detailed: query.all("detailed").next() == Some("1"),
        })
    }
}

/// `2026-11-21T02:30:00`, with parts of seconds or a space between date and time; always UTC.
fn time(text: &str) -> Result<Timestamp, Failure> {
    let bad = || Failure::invalid("Invalid datetime string: Datetime is in invalid format");
    let read: DateTime = text.parse().map_err(|_| bad())?;
    let has_time = text.len() > 10;
    let zoned = read.to_zoned(TimeZone::UTC).map_err(|_| bad())?;
    if has_time { Ok(zoned.timestamp()) } else { Err(bad()) }
}

/// A project's sums over its servers.
#[derive(Default)]
struct Sum {
    hours: f64,
    memory_mb_hours: f64,
    vcpu_hours: f64,
    gb_hours: f64,
    servers: Vec<Value>,
}

impl Sum {
    fn add(&mut self, life: &Life, period: &Period, now: Timestamp) {
        let stop = life.ended.map_or(period.stop, |ended| ended.min(period.stop));
        let seconds = |from: Timestamp, to: Timestamp| to.duration_since(from).as_secs_f64().max(0.0);
        let hours = seconds(life.launched.max(period.start), stop) / 3600.0;
        let flavor = &life.flavor;
        let local_gb = flavor.disk_gb + flavor.ephemeral_gb;
        self.hours += hours;
        self.memory_mb_hours += f64::from(flavor.ram_mb) * hours;
        self.vcpu_hours += f64::from(flavor.vcpus) * hours;
        self.gb_hours += f64::from(local_gb) * hours;
        if !period.is_detailed {
            return;
        }
        self.servers.push(json!({
            "instance_id": life.id,
            "name": life.name,
            "tenant_id": life.project,
            "flavor": flavor.name,
            "hours": hours,
            "memory_mb": flavor.ram_mb,
            "local_gb": local_gb,
            "vcpus": flavor.vcpus,
            "started_at": micros(life.launched),
            "ended_at": life.ended.map(micros),
            "state": if life.ended.is_some() { "terminated" } else { life.vm_state },
            "uptime": seconds(life.launched, life.ended.unwrap_or(now)) as u64,
        }));
    }

    fn view(self, project: &str, period: &Period) -> Value {
        let mut shown = json!({
            "tenant_id": project,
            "total_hours": self.hours,
            "total_memory_mb_usage": self.memory_mb_hours,
            "total_vcpus_usage": self.vcpu_hours,
            "total_local_gb_usage": self.gb_hours,
            "start": micros(period.start),
            "stop": micros(period.stop),
        });
        if period.is_detailed {
            shown["server_usages"] = json!(self.servers);
        }
        shown
    }
}

/// The sums of projects for a page of servers, and the link to the next page.
fn usages(
    api: &ComputeApi,
    project: Option<&str>,
    period: &Period,
    version: Microversion,
    query: &Query,
    info: &RequestInfo,
) -> Result<(Vec<Value>, Option<Value>), Failure> {
    let lives = lives(&api.store, project, period);
    let page = if version >= Microversion(2, 40) {
        PageQuery::from(query, LIMITS)?
    } else {
        PageQuery {
            limit: None,
            ..PageQuery::default()
        }
    };
    let page = page.cut(lives, |life| life.id.as_str())?;
    let now = Timestamp::now();
    let mut sums: BTreeMap<&str, Sum> = BTreeMap::new();
    for life in &page.items {
        sums.entry(&life.project).or_default().add(life, period, now);
    }
    let shown = sums
        .into_iter()
        .map(|(project, sum)| sum.view(project, period))
        .collect();
    let last = page.items.last().filter(|_| page.has_next);
    let next = last.map(|life| json!([{ "rel": "next", "href": next_url(&info.url(), query, &life.id) }]));
    Ok((shown, next))
}

/// `GET /os-simple-tenant-usage`: of all projects.
async fn list(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    query: Query,
    info: RequestInfo,
) -> Result<Response, Failure> {
    caller.enforce("os_compute_api:os-simple-tenant-usage:list", &[])?;
    let period = Period::read(&query, Timestamp::now())?;
    let (shown, next) = usages(&api, None, &period, version, &query, &info)?;
    let mut body = json!({ "tenant_usages": shown });
    if let Some(next) = next {
        body["tenant_usages_links"] = next;
    }
    Ok(json(StatusCode::OK, &body))
}

/// `GET /os-simple-tenant-usage/{project}`: always with its servers; an empty object where there are none.
async fn show(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path(project): Path<String>,
    query: Query,
    info: RequestInfo,
) -> Result<Response, Failure> {
    enforce(&caller, "os_compute_api:os-simple-tenant-usage:show", &project)?;
    let period = Period {
        is_detailed: true,
        ..Period::read(&query, Timestamp::now())?
    };
    let (shown, next) = usages(&api, Some(&project), &period, version, &query, &info)?;
    let usage = shown.into_iter().next().unwrap_or_else(|| json!({}));
    let mut body = json!({ "tenant_usage": usage });
    if let Some(next) = next {
        body["tenant_usage_links"] = next;
    }
    Ok(json(StatusCode::OK, &body))
}

/// Nova's hosts may write a log of who used what; ours do not, since usage is always known. As with Nova's default, no
/// host has told anything of the month before `before`.
fn audit_log(store: &Store, before: Timestamp) -> Option<Value> {
    let date = before.to_zoned(TimeZone::UTC).date();
    let end = date.first_of_month();
    let begin = end.checked_sub(1.month()).ok()?;
    let day = |date: jiff::civil::Date| format!("{date} 00:00:00");
    let mut hosts = store.cache::<Provider>().all();
    hosts.retain(|host| !host.spec.drivers.is_empty());
    let mut names: Vec<&str> = hosts.iter().map(|host| host.spec.name.as_str()).collect();
    names.sort_unstable();
    Some(json!({
        "period_beginning": day(begin),
        "period_ending": day(end),
        "num_hosts": names.len(),
        "num_hosts_done": 0,
        "num_hosts_running": 0,
        "num_hosts_not_run": names.len(),
        "hosts_not_run": names,
        "total_instances": 0,
        "total_errors": 0,
        "overall_status": format!("0 of {} hosts done. 0 errors.", names.len()),
        "log": {},
    }))
}

/// `GET /os-instance_usage_audit_log`.
async fn audit(State(api): State<ComputeApi>, caller: Caller) -> Result<Response, Failure> {
    caller.enforce("os_compute_api:os-instance-usage-audit-log:list", &[])?;
    let log = audit_log(&api.store, Timestamp::now());
    Ok(json(StatusCode::OK, &json!({ "instance_usage_audit_logs": log })))
}

/// `GET /os-instance_usage_audit_log/{before}`: of the period that ended before a time.
async fn audit_before(
    State(api): State<ComputeApi>,
    caller: Caller,
    Path(before): Path<String>,
) -> Result<Response, Failure> {
    caller.enforce("os_compute_api:os-instance-usage-audit-log:show", &[])?;
    let bad = || Failure::invalid(format!("Invalid timestamp for date {before}"));
    let at = time(&before).map_err(|_| bad())?;
    let log = audit_log(&api.store, at);
    Ok(json(StatusCode::OK, &json!({ "instance_usage_audit_log": log })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_nova_s() {
        for good in [
            "2026-11-21T02:00:00",
            "2026-11-21T02:00:00.5",
            "2026-11-21 02:00:00.000001",
        ] {
            assert!(time(good).is_ok(), "{good}");
        }
        for bad in ["yesterday", "2026-11-21", "1425"] {
            assert!(time(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_period_ends_now_at_the_latest_and_never_before_it_starts() {
        let now: Timestamp = "2026-11-21T00:00:00Z".parse().unwrap();
        let query = Query::parse("start=2026-11-01T00:00:00&end=2027-01-01T00:00:00&detailed=1");
        let period = Period::read(&query, now).unwrap();
        assert!(period.stop == now && period.is_detailed);
        assert!(Period::read(&Query::parse("start=2027-11-01T00:00:00"), now).is_err());
    }

    #[test]
    fn hours_count_within_the_period_only() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let period = Period {
            start: at("2026-11-01T10:00:00Z"),
            stop: at("2026-11-01T20:00:00Z"),
            is_detailed: true,
        };
        let flavor = crate::server::tests::server("a").spec.flavor;
        let life = Life {
            id: "1".to_owned(),
            name: "a".to_owned(),
            project: "p".to_owned(),
            flavor,
            launched: at("2026-11-01T08:00:00Z"),
            ended: Some(at("2026-11-01T12:00:00Z")),
            vm_state: "active",
        };
        let mut sum = Sum::default();
        sum.add(&life, &period, at("2026-11-02T00:00:00Z"));
        assert_eq!((sum.hours, sum.memory_mb_hours), (2.0, 256.0));
        assert_eq!(sum.servers[0]["uptime"], 4 * 3600);
    }
}
