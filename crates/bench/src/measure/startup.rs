//! From the command to the line that says ready, and what the process costs when nobody asks anything of it.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::{
    cloud::Bench,
    report::{Better, Report},
};

const STARTS: usize = 5;
/// What the start has allocated in passing has been given back by then.
const SETTLE: Duration = Duration::from_secs(5);
const IDLE: Duration = Duration::from_secs(30);

pub async fn run(bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
    // The first one also makes keys, networks and, on a machine's very first day, the tiny image.
    bench.up("startup", &[]).await?.stop().await?;
    let mut starts = Vec::new();
    for _ in 0..STARTS {
        let cloud = bench.up("startup", &[]).await?;
        starts.push(cloud.took.as_secs_f64());
        cloud.stop().await?;
    }
    report.add("up to ready, second start", "s", &starts, 1.0, Better::Lower);

    let cloud = bench.up("startup", &[]).await?;
    sleep(SETTLE).await;
    let (began, cpu) = (Instant::now(), cloud.cpu_seconds()?);
    sleep(IDLE).await;
    let share = 100.0 * (cloud.cpu_seconds()? - cpu) / began.elapsed().as_secs_f64();
    report.add(
        "resident memory, idle",
        "MB",
        &[cloud.memory_kib("VmRSS")? * 1024.0 / 1e6],
        150.0,
        Better::Lower,
    );
    // A clock tick in the whole time is the least that can be seen.
    let least = 1.0 / IDLE.as_secs_f64();
    report.add(
        "processor, idle",
        "% of a core",
        &[share.max(least)],
        1.0,
        Better::Lower,
    );
    cloud.close().await
}
