//! A thousand servers on simulated hosts: how fast they become ACTIVE, and how fast all of them are listed. What
//! [`super::scale`] does with ten thousand is here, too.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, bail};
use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::{
    cloud::{Bench, Session},
    report::{Better, Report},
};

const SERVERS: usize = 1000;
const CONNECTIONS: usize = 16;
const LISTS: usize = 20;
const TIMES: usize = 3;

pub async fn run(bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
    let cloud = bench.up("compute", &["--simulated-hosts", "100"]).await?;
    let mut admin = cloud.log_in("admin").await?;
    let wanted = prepare(&mut admin).await?;
    let mut rates = Vec::new();
    for time in 0..TIMES {
        let began = Instant::now();
        let created = create(&admin, &wanted, SERVERS).await?;
        all_active(&mut admin).await?;
        rates.push(SERVERS as f64 / began.elapsed().as_secs_f64());
        if time == 0 {
            report.add(
                "GET /servers/detail, 1,000 servers",
                "ms",
                &list(&mut admin, "/compute/v2.1/servers/detail?limit=1000", SERVERS).await?,
                15.0,
                Better::Lower,
            );
        }
        delete(&mut admin, created).await?;
    }
    report.add(
        "1,000 simulated servers with a port each, POST to ACTIVE",
        "1/s",
        &rates,
        1000.0,
        Better::Higher,
    );
    cloud.close().await
}

/// Lifts the quota, makes a network with room; the body of a create request.
pub(super) async fn prepare(admin: &mut Session) -> anyhow::Result<Arc<Value>> {
    let project = admin.project.clone();
    let compute = json!({"quota_set": {"instances": -1, "cores": -1, "ram": -1}});
    admin
        .call("PUT", &format!("/compute/v2.1/os-quota-sets/{project}"), Some(&compute))
        .await?;
    let ports = json!({"quota": {"port": -1}});
    admin
        .call("PUT", &format!("/network/v2.0/quotas/{project}"), Some(&ports))
        .await?;
    let network = admin
        .call(
            "POST",
            "/network/v2.0/networks",
            Some(&json!({"network": {"name": "bench"}})),
        )
        .await?;
    let network = network["network"]["id"].as_str().context("no network")?.to_owned();
    let subnet =
        json!({"subnet": {"network_id": network, "ip_version": 4, "cidr": "10.200.0.0/16", "enable_dhcp": false}});
    admin.call("POST", "/network/v2.0/subnets", Some(&subnet)).await?;
    let image = admin.id_of("/image/v2/images", "images", "tiny").await?;
    let flavor = admin.id_of("/compute/v2.1/flavors", "flavors", "m1.tiny").await?;
    // Real hosts stay out of it: they would really boot.
    let zone = json!({"server": {"name": "bench", "imageRef": image, "flavorRef": flavor,
        "networks": [{"uuid": network}], "availability_zone": "simulated"}});
    Ok(Arc::new(zone))
}

/// Makes so many servers over several connections; their ids.
pub(super) async fn create(admin: &Session, wanted: &Arc<Value>, count: usize) -> anyhow::Result<Vec<String>> {
    let mut tasks = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let mut session = admin.another().await?;
        let request = session.prepare("POST", "/compute/v2.1/servers", Some(wanted));
        tasks.spawn(async move {
            let mut ids = Vec::new();
            for _ in 0..count.div_ceil(CONNECTIONS) {
                let answer = session.connection.exchange(&request).await?.succeeded()?.json()?;
                ids.push(answer["server"]["id"].as_str().context("no id")?.to_owned());
            }
            anyhow::Ok(ids)
        });
    }
    let mut ids = Vec::new();
    while let Some(done) = tasks.join_next().await {
        ids.extend(done??);
    }
    Ok(ids)
}

/// Waits until no server is being built, of which none may have failed.
pub(super) async fn all_active(admin: &mut Session) -> anyhow::Result<()> {
    let building = admin.prepare("GET", "/compute/v2.1/servers?status=BUILD&limit=1", None);
    let failed = admin.prepare("GET", "/compute/v2.1/servers?status=ERROR&limit=1", None);
    let deadline = Instant::now() + Duration::from_secs(300);
    while Instant::now() < deadline {
        if is_empty(admin, &building).await? {
            return match is_empty(admin, &failed).await? {
                true => Ok(()),
                false => bail!("some servers are in ERROR"),
            };
        }
        sleep(Duration::from_millis(20)).await;
    }
    bail!("not all servers became ACTIVE within five minutes")
}

async fn is_empty(admin: &mut Session, list: &[u8]) -> anyhow::Result<bool> {
    let listed = admin.connection.exchange(list).await?.succeeded()?.json()?;
    Ok(listed["servers"].as_array().is_some_and(Vec::is_empty))
}

/// How long a list of `expected` servers takes, in milliseconds.
pub(super) async fn list(admin: &mut Session, path: &str, expected: usize) -> anyhow::Result<Vec<f64>> {
    let request = admin.prepare("GET", path, None);
    let mut times = Vec::new();
    for _ in 0..LISTS {
        let began = Instant::now();
        let answer = admin.connection.exchange(&request).await?.succeeded()?;
        times.push(began.elapsed().as_secs_f64() * 1000.0);
        let listed = answer.json()?["servers"].as_array().map_or(0, Vec::len);
        if listed < expected {
            bail!("{listed} servers are listed instead of {expected}");
        }
    }
    Ok(times)
}

async fn delete(admin: &mut Session, created: Vec<String>) -> anyhow::Result<()> {
    for id in created {
        admin
            .call("DELETE", &format!("/compute/v2.1/servers/{id}"), None)
            .await?;
    }
    let deadline = Instant::now() + Duration::from_secs(120);
    while Instant::now() < deadline {
        let left = admin.call("GET", "/compute/v2.1/servers?limit=1", None).await?;
        if left["servers"].as_array().is_some_and(Vec::is_empty) {
            return Ok(());
        }
        sleep(Duration::from_millis(50)).await;
    }
    bail!("not all servers were gone within two minutes")
}
