//! Getting tokens: with a password, whose hash is what takes time, and with another token, where nothing but the token is
//! made.

use std::time::Duration;

use anyhow::bail;
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::Instant};

use crate::{
    cloud::{Bench, Session},
    report::{Better, Report},
};

const CONNECTIONS: usize = 16;
const SPAN: Duration = Duration::from_secs(5);
const TIMES: usize = 3;

pub async fn run(bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
    let cloud = bench.up("login", &[]).await?;
    let demo = cloud.log_in("demo").await?;
    let with_password = cloud.login("demo")?;
    let with_token = json!({"auth": {
        "identity": {"methods": ["token"], "token": {"id": demo.token}},
        "scope": {"project": {"id": demo.project}},
    }});
    for (row, body, wanted) in [
        ("password login", &with_password, 40.0),
        ("token issue", &with_token, 5_000.0),
    ] {
        let mut rates = Vec::new();
        for _ in 0..TIMES {
            rates.push(rate(&demo, body).await?);
        }
        report.add(row, "1/s", &rates, wanted, Better::Higher);
    }
    cloud.close().await
}

async fn rate(any: &Session, body: &Value) -> anyhow::Result<f64> {
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let mut session = any.another().await?;
        let request = session
            .connection
            .prepare("POST", "/identity/v3/auth/tokens", &[], Some(body));
        tasks.spawn(async move {
            let mut count = 0_u64;
            while began.elapsed() < SPAN {
                let answer = session.connection.exchange(&request).await?;
                if answer.status != 201 || answer.token.is_none() {
                    bail!("a login is answered with {}", answer.status);
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
