//! How long it takes to say who a token stands for, and to answer `GET /v3/auth/tokens` about it.
#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark")]

use std::sync::Arc;

use axum::{Router, body::Body};
use criterion::{Criterion, criterion_group, criterion_main};
use http::Request;
use madang_http::Metrics;
use madang_identity::{
    Bootstrap, Identity, Options, POLICY, Policy,
    auth::{DomainRef, Login, Proof, ScopeRequest, UserRef},
    bootstrap, register, router,
};
use madang_store::{Sqlite, SqliteOptions, StoreBuilder};
use tower::ServiceExt;

async fn begin(dir: &std::path::Path) -> (Arc<Identity>, String) {
    let mut builder = StoreBuilder::new();
    register(&mut builder);
    let backend = Sqlite::open(SqliteOptions::new(dir.join("store.db"))).await.unwrap();
    let store = builder.open(Arc::new(backend)).await.unwrap();
    let mut policy = Policy::new();
    policy.register(POLICY);
    let identity = Identity::open(store, policy, Options::new(dir.join("keys")))
        .await
        .unwrap();
    let begun = bootstrap(&identity, Bootstrap::new()).await.unwrap();
    let user = UserRef::Name("admin".into(), DomainRef::Id("default".into()));
    let proofs = vec![Proof::Password {
        user,
        password: begun.admin_password.unwrap(),
    }];
    let scope = ScopeRequest::Project(begun.admin_project.unwrap());
    let (token, _) = identity.login(Login { proofs, scope }).await.unwrap();
    (identity, token)
}

fn validation(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (identity, token) = runtime.block_on(begin(dir.path()));
    criterion.bench_function("validate a token seen before", |bench| {
        bench.iter(|| identity.validate(&token).unwrap().subject.roles.len());
    });
    let app: Router = Router::new().nest("/identity", router(&identity, &Metrics::new()));
    criterion.bench_function("GET /v3/auth/tokens", |bench| {
        bench.to_async(&runtime).iter(|| async {
            let request = Request::get("/identity/v3/auth/tokens").header("x-auth-token", &token);
            let request = request.header("x-subject-token", &token).body(Body::empty()).unwrap();
            let response = app.clone().oneshot(request).await.unwrap();
            assert!(response.status().is_success());
        });
    });
}

criterion_group!(benches, validation);
criterion_main!(benches);
