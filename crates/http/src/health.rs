//! Whether this process lives, and whether it can do its work.

use std::{collections::BTreeMap, pin::Pin, sync::Arc, time::Duration};

use axum::{Router, extract::State, response::Response, routing::get};
use futures_util::future::join_all;
use http::StatusCode;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::body::json;

/// A check that takes longer has failed: who asks (a balancer, an init system) gives up after a few seconds.
const CHECK_TIME: Duration = Duration::from_secs(2);

type Outcome = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;
type Check = Arc<dyn Fn() -> Outcome + Send + Sync>;

/// Named checks of the parts this process needs. Cheap to clone; all clones share the checks.
///
/// `/healthz` answers 200 as long as requests are served at all; `/readyz` runs the checks and answers 503 when one
/// fails, naming it.
#[derive(Clone, Default)]
pub struct Health(Arc<Mutex<BTreeMap<&'static str, Check>>>);

impl Health {
    /// Without any check.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a check; a second one of the same name replaces the first. An error says what is wrong.
    pub fn register<F>(&self, name: &'static str, check: impl Fn() -> F + Send + Sync + 'static)
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        self.0.lock().insert(name, Arc::new(move || Box::pin(check())));
    }

    /// Runs all checks at once. Each name with what is wrong, if anything.
    pub async fn check(&self) -> Vec<(&'static str, Result<(), String>)> {
        let checks: Vec<(&'static str, Check)> = self.0.lock().iter().map(|(n, c)| (*n, Arc::clone(c))).collect();
        join_all(checks.into_iter().map(async |(name, check)| {
            let outcome = timeout(CHECK_TIME, check()).await;
            (
                name,
                outcome.unwrap_or_else(|_| Err(format!("no answer within {CHECK_TIME:?}"))),
            )
        }))
        .await
    }

    /// A router with `GET /healthz` and `GET /readyz`.
    pub fn router(&self) -> Router {
        Router::new()
            .route("/healthz", get(async || "ok\n"))
            .route("/readyz", get(ready))
            .with_state(self.clone())
    }
}

async fn ready(State(health): State<Health>) -> Response {
    let outcomes = health.check().await;
    let ready = outcomes.iter().all(|(_, outcome)| outcome.is_ok());
    let checks: Vec<Value> = outcomes
        .into_iter()
        .map(|(name, outcome)| match outcome {
            Ok(()) => json!({ "name": name, "ok": true }),
            Err(why) => json!({ "name": name, "ok": false, "message": why }),
        })
        .collect();
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    json(status, &json!({ "ready": ready, "checks": checks }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_check_that_fails_or_hangs_is_named() {
        let health = Health::new();
        health.register("store", async || Ok(()));
        health.register("agent", async || Err("no heartbeat".to_owned()));
        health.register("network", async || std::future::pending().await);
        let outcomes = health.check().await;
        assert_eq!(outcomes[0], ("agent", Err("no heartbeat".to_owned())));
        assert_eq!(outcomes[1], ("network", Err("no answer within 2s".to_owned())));
        assert_eq!(outcomes[2], ("store", Ok(())));
    }
}
