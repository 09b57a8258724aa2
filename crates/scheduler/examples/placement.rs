//! Placement's API alone, for the original's own tests: `placement PORT DIR`.
//!
//! Who asks is what the request says, as in the stand-in for authentication that those tests are written for: the token is
//! `USER` or `USER:PROJECT`, the roles are in `X-Roles`, and `admin` is one. Never a way to run a cloud.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Router,
    extract::{Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use madang_control::TaskGroup;
use madang_http::{Failure, Metrics, Server, ServerOptions};
use madang_identity::{Caller, DomainMember, Policy, RoleRef, Scope, Subject};
use madang_scheduler::api::{POLICY, PlacementApi, router};
use madang_store::{Backend, Sqlite, SqliteOptions, StoreBuilder};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(port), Some(dir)) = (arguments.next(), arguments.next()) else {
        return Err("usage: placement PORT DIR".into());
    };
    let mut builder = StoreBuilder::new();
    madang_scheduler::register(&mut builder);
    let backend: Arc<dyn Backend> = Arc::new(Sqlite::open(SqliteOptions::new(format!("{dir}/store.db"))).await?);
    let store = builder.open(backend).await?;
    let mut policy = Policy::new();
    policy.register(madang_identity::POLICY);
    policy.register(POLICY);
    let policy = Arc::new(policy);
    let authenticate = |router: Router| router.layer(middleware::from_fn_with_state(policy, believe));
    let router = router(PlacementApi { store: store.clone() }, &Metrics::new(), authenticate);
    let address: SocketAddr = format!("127.0.0.1:{port}").parse()?;
    let server = Server::bind(ServerOptions::new(address, None)).await?;
    server.serve(router, &TaskGroup::new("placement"));
    std::future::pending().await
}

/// Takes a request's own word for who asks.
async fn believe(State(policy): State<Arc<Policy>>, mut request: Request, next: Next) -> Response {
    let Some(subject) = subject(request.headers()) else {
        let failure = Failure::unauthenticated("The request you have made requires authentication.");
        return failure.with_status(StatusCode::UNAUTHORIZED).into_response();
    };
    request
        .extensions_mut()
        .insert(Caller::new(Arc::new(subject), policy, "req"));
    next.run(request).await
}

fn subject(headers: &HeaderMap) -> Option<Subject> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let token = text("x-auth-token")?;
    let (user, project) = token.split_once(':').unwrap_or((token, token));
    let member = |id: &str| DomainMember {
        id: id.to_owned(),
        name: id.to_owned(),
        ..DomainMember::default()
    };
    let roles = text("x-roles").unwrap_or(if user == "admin" { "admin" } else { "" });
    let role = |name: &str| RoleRef {
        id: name.to_owned(),
        name: name.to_owned(),
    };
    let scope = match text("openstack-system-scope") {
        Some(_) => Scope::System,
        None => Scope::Project(member(text("x-project-id").unwrap_or(project))),
    };
    Some(Subject {
        user: member(user),
        scope,
        roles: roles.split(',').filter(|name| !name.is_empty()).map(role).collect(),
        methods: Vec::new(),
        audit_ids: Vec::new(),
        issued: Timestamp::UNIX_EPOCH,
        expires: Timestamp::MAX,
        application_credential: None,
        trust: None,
        federated: None,
    })
}
