//! Validating a token as every service does: `GET /identity/v3/auth/tokens`.

use std::time::Duration;

use anyhow::bail;
use tokio::{task::JoinSet, time::Instant};

use crate::{
    cloud::{Bench, Session},
    report::{Better, Report},
};

const CONNECTIONS: usize = 16;
const SPAN: Duration = Duration::from_secs(5);
const TIMES: usize = 3;

pub async fn run(bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
    let cloud = bench.up("identity", &[]).await?;
    let mut rates = Vec::new();
    for _ in 0..TIMES {
        let admin = cloud.log_in("admin").await?;
        let subject = cloud.log_in("demo").await?.token;
        rates.push(rate(&admin, &subject).await?);
    }
    report.add("token validation", "1/s", &rates, 20_000.0, Better::Higher);
    cloud.close().await
}

async fn rate(admin: &Session, subject: &str) -> anyhow::Result<f64> {
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let mut session = admin.another().await?;
        let headers = [("x-auth-token", session.token.as_str()), ("x-subject-token", subject)];
        let request = session
            .connection
            .prepare("GET", "/identity/v3/auth/tokens", &headers, None);
        tasks.spawn(async move {
            let mut count = 0_u64;
            while began.elapsed() < SPAN {
                let answer = session.connection.exchange(&request).await?;
                if answer.status != 200 {
                    bail!("a valid token is answered with {}", answer.status);
                }
                count += 1;
            }
            Ok(count)
        });
    }
    let mut total = 0;
    while let Some(done) = tasks.join_next().await {
        total += done??;
    }
    Ok(total as f64 / began.elapsed().as_secs_f64())
}
