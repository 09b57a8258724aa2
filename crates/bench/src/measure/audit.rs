//! What the audit trail adds to a write: the processor time of an event, from the gate of a face to the book, in this process;
//! the processor time of a small write of a real cloud; and the part of the one in the other.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use axum::{Router, body::Body, routing::put};
use http::{Method, Request, StatusCode};
use jiff::SignedDuration;
use madang_audit::{Keep, Recorder};
use madang_control::TaskGroup;
use madang_http::{Actor, Face, Metrics, RequestInfo, Shape, Trail};
use nix::sys::resource::{UsageWho, getrusage};
use serde_json::json;
use tokio::task::JoinSet;
use tower::ServiceExt as _;

use crate::{
    cloud::{Bench, Cloud},
    report::{Better, Report},
};

/// Events of one run: fewer than the trail's queue takes, so that none is lost.
const EVENTS: usize = 12_000;
const TIMES: usize = 5;
const CONNECTIONS: usize = 8;
/// Writes on each connection.
const WRITES: usize = 500;

pub async fn run(bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
    let cloud = bench.up("audit", &[]).await?;
    let (mut shares, mut events) = (Vec::new(), Vec::new());
    for _ in 0..TIMES {
        let event = event(&bench.scratch).await?;
        let write = write(&cloud).await?;
        events.push(event * 1e6);
        shares.push(100.0 * event / (write - event));
    }
    cloud.close().await?;
    report.add("audit trail: an event", "µs", &events, 20.0, Better::Lower);
    report.add("audit trail: part of a small write", "%", &shares, 5.0, Better::Lower);
    Ok(())
}

/// Processor seconds of an event: of requests that are written down, less those of the same that are not.
async fn event(scratch: &Path) -> anyhow::Result<f64> {
    let directory = tempfile::tempdir_in(scratch)?;
    let without = requests(None).await?;
    let with = requests(Some(&directory.path().join("audit.db"))).await?;
    Ok((with - without).max(0.0) / EVENTS as f64)
}

async fn requests(book: Option<&Path>) -> anyhow::Result<f64> {
    let metrics = Metrics::new();
    let actor = Arc::new(Actor {
        user_id: "0123456789abcdef0123456789abcdef".to_owned(),
        user_name: "bench".to_owned(),
        user_domain_id: "default".to_owned(),
        project_id: Some("fedcba9876543210fedcba9876543210".to_owned()),
        project_name: Some("bench".to_owned()),
        domain_id: None,
        system: false,
        roles: ["admin", "member", "reader"].map(str::to_owned).to_vec(),
    });
    let answer = move |info: RequestInfo| {
        let actor = Arc::clone(&actor);
        async move {
            info.set_actor(actor);
            StatusCode::NO_CONTENT
        }
    };
    let router = Router::new().route("/v2.0/networks/{id}", put(answer));
    let router = Face::new("network", Shape::Neutron).wrap(router, &metrics);
    let group = TaskGroup::new("bench");
    let router = match book {
        None => router,
        Some(path) => {
            let keep = Keep {
                age: SignedDuration::from_hours(24),
                bytes: 1 << 30,
            };
            Trail::new(Recorder::start(path, keep, &metrics, &group).await?, &[]).over(router)
        }
    };
    let before = processor_seconds()?;
    for number in 0..EVENTS {
        let request = Request::builder()
            .method(Method::PUT)
            .uri(format!("/v2.0/networks/00000000-0000-4000-8000-{number:012x}"))
            .header("x-auth-token", "bench")
            .body(Body::empty())?;
        let answered = router.clone().oneshot(request).await?;
        ensure!(answered.status() == StatusCode::NO_CONTENT, "{}", answered.status());
    }
    // Who stops writes down what was said before.
    let late = group.shutdown(Duration::from_secs(60)).await;
    ensure!(late.is_empty(), "{late:?} did not stop");
    Ok(processor_seconds()? - before)
}

/// Processor seconds that a cloud takes for a small write.
async fn write(cloud: &Cloud) -> anyhow::Result<f64> {
    let mut admin = cloud.log_in("admin").await?;
    let mut requests = Vec::new();
    for number in 0..CONNECTIONS {
        let network = json!({"network": {"name": format!("bench-{number}")}});
        let made = admin.call("POST", "/network/v2.0/networks", Some(&network)).await?;
        let id = made["network"]["id"].as_str().context("no id")?.to_owned();
        requests.push((admin.another().await?, format!("/network/v2.0/networks/{id}")));
    }
    let before = cloud.cpu_seconds()?;
    let mut tasks = JoinSet::new();
    for (mut session, path) in requests {
        tasks.spawn(async move {
            for number in 0..WRITES {
                let change = json!({"network": {"description": format!("number {number}")}});
                session.call("PUT", &path, Some(&change)).await?;
            }
            session.call("DELETE", &path, None).await
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok((cloud.cpu_seconds()? - before) / (CONNECTIONS * WRITES) as f64)
}

/// Of this process so far.
fn processor_seconds() -> anyhow::Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}
