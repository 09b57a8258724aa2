//! Ten thousand servers on simulated hosts: made in one storm, then listed page by page and shown one by one.

use tokio::time::Instant;

use super::compute::{all_active, create, list, prepare};
use crate::{
    cloud::{Bench, Session},
    report::{Better, Report},
};

const SERVERS: usize = 10_000;
const PAGE: usize = 1000;
/// Servers that are shown.
const SHOWN: usize = 200;

pub async fn run(bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
    let cloud = bench.up("scale", &["--simulated-hosts", "100"]).await?;
    let mut admin = cloud.log_in("admin").await?;
    let wanted = prepare(&mut admin).await?;
    let began = Instant::now();
    let created = create(&admin, &wanted, SERVERS).await?;
    all_active(&mut admin).await?;
    let rate = created.len() as f64 / began.elapsed().as_secs_f64();
    report.add(
        "10,000 simulated servers with a port each, POST to ACTIVE",
        "1/s",
        &[rate],
        1000.0,
        Better::Higher,
    );
    for (what, path, wanted) in [
        ("GET /servers", format!("servers?limit={PAGE}"), 5.0),
        ("GET /servers/detail", format!("servers/detail?limit={PAGE}"), 15.0),
        (
            "GET /servers of a status",
            format!("servers?limit={PAGE}&status=ACTIVE"),
            5.0,
        ),
        (
            "GET /servers by name",
            format!("servers?limit={PAGE}&sort_key=display_name"),
            10.0,
        ),
    ] {
        let times = list(&mut admin, &format!("/compute/v2.1/{path}"), PAGE).await?;
        report.add(
            &format!("{what}, 1,000 of 10,000 servers"),
            "ms",
            &times,
            wanted,
            Better::Lower,
        );
    }
    let shown = show(&mut admin, &created).await?;
    report.add("GET /servers/ID, of 10,000", "ms", &shown, 1.0, Better::Lower);
    cloud.close().await
}

/// How long servers take to be shown, in milliseconds.
async fn show(admin: &mut Session, created: &[String]) -> anyhow::Result<Vec<f64>> {
    let mut times = Vec::new();
    for id in created.iter().step_by(created.len() / SHOWN) {
        let request = admin.prepare("GET", &format!("/compute/v2.1/servers/{id}"), None);
        let began = Instant::now();
        admin.connection.exchange(&request).await?.succeeded()?;
        times.push(began.elapsed().as_secs_f64() * 1000.0);
    }
    Ok(times)
}
