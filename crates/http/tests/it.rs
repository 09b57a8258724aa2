//! A real server on real sockets, asked by a real client.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "it/trail.rs"]
mod trail;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use http::StatusCode;
use jiff::Timestamp;
use madang_control::TaskGroup;
use madang_http::{
    Certificates, Face, Failure, Health, Json, Metrics, Microversion, Microversions, Query, RequestInfo, Server,
    ServerError, ServerOptions, Shape, json,
};
use serde_json::{Value, json as value};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const COMPUTE: Face = Face::new("compute", Shape::Nova)
    .request_id_alias("x-compute-request-id")
    .body_limit(1000)
    .time_limit(Duration::from_millis(300));

async fn show(info: RequestInfo, version: Microversion, query: Query) -> Response {
    let body = value!({
        "version": version.to_string(), "url": info.url(), "base": info.base_url(), "name": query.get("name"),
        "peer": info.peer().map(|peer| peer.ip().to_string()),
    });
    json(StatusCode::OK, &body)
}

async fn echo(Json(body): Json<Value>) -> Response {
    json(StatusCode::ACCEPTED, &body)
}

async fn patient(info: RequestInfo) -> &'static str {
    info.allow(None);
    tokio::time::sleep(Duration::from_millis(600)).await;
    "done"
}

async fn slow() -> &'static str {
    tokio::time::sleep(Duration::from_secs(60)).await;
    "too late"
}

async fn clumsy() -> Response {
    panic!("secret detail")
}

async fn broken() -> Result<Response, Failure> {
    Err(Failure::internal("secret detail"))
}

async fn numbered(axum::extract::Path(number): axum::extract::Path<u8>) -> Response {
    number.to_string().into_response()
}

fn app(metrics: &Metrics, health: &Health) -> Router {
    let versions =
        Microversions::new("compute", Microversion(2, 1), Microversion(2, 96)).legacy("x-openstack-nova-api-version");
    let routes = Router::new()
        .route("/servers", get(show).post(echo))
        .route("/big", post(echo).layer(DefaultBodyLimit::max(100_000)))
        .route("/patient", get(patient))
        .route("/slow", get(slow))
        .route("/clumsy", get(clumsy))
        .route("/broken", get(broken))
        .route("/numbers/{number}", get(numbered));
    let compute = COMPUTE.wrap(versions.wrap(Router::new().nest("/v2.1", routes)), metrics);
    Router::new()
        .nest("/compute", compute)
        .merge(metrics.router())
        .merge(health.router())
}

struct Running {
    url: String,
    address: SocketAddr,
    group: TaskGroup,
    health: Health,
}

async fn running(change: impl FnOnce(&mut ServerOptions)) -> Running {
    let mut options = ServerOptions::new("127.0.0.1:0".parse().unwrap(), None);
    change(&mut options);
    let server = Server::bind(options).await.unwrap();
    let (url, address) = (server.url(), server.address());
    let group = TaskGroup::new("test");
    let health = Health::new();
    server.serve(app(&Metrics::new(), &health), &group);
    Running {
        url,
        address,
        group,
        health,
    }
}

fn client() -> reqwest::Client {
    client_with(|builder| builder)
}

fn client_with(change: impl FnOnce(reqwest::ClientBuilder) -> reqwest::ClientBuilder) -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    change(reqwest::Client::builder().no_proxy()).build().unwrap()
}

async fn read(response: reqwest::Response) -> (u16, Value) {
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

#[tokio::test]
async fn requests_have_ids_urls_and_versions() {
    let server = running(|_| {}).await;
    let global = "req-7d2cb6e0-2e5c-4c3a-9a54-6d6f6f0a1b2c";
    let response = client()
        .get(format!("{}/compute/v2.1/servers?name=a%20b", server.url))
        .header("OpenStack-API-Version", "compute 2.53")
        .header("X-OpenStack-Request-ID", global)
        .send()
        .await
        .unwrap();
    let headers = response.headers().clone();
    let id = headers["x-openstack-request-id"].to_str().unwrap();
    assert!(id.starts_with("req-") && id.len() == 40 && id != global, "{id}");
    assert_eq!(headers["x-compute-request-id"], id);
    assert_eq!(headers["openstack-api-version"], "compute 2.53");
    assert_eq!(headers["x-openstack-nova-api-version"], "2.53");
    assert_eq!(headers["vary"], "openstack-api-version, x-openstack-nova-api-version");
    let (_, body) = read(response).await;
    let url = format!("{}/compute/v2.1/servers", server.url);
    let base = format!("{}/compute", server.url);
    assert_eq!(
        body,
        value!({ "version": "2.53", "url": url, "base": base, "name": "a b", "peer": "127.0.0.1" })
    );
}

#[tokio::test]
async fn what_goes_wrong_is_worded_by_the_face() {
    let server = running(|_| {}).await;
    let url = |path: &str| format!("{}/compute{path}", server.url);
    let get = async |path: &str| read(client().get(url(path)).send().await.unwrap()).await;

    let missing = value!({ "itemNotFound": { "code": 404, "message": "The resource could not be found." } });
    assert_eq!(get("/v2.1/nope").await, (404, missing.clone()));
    assert_eq!(get("/nope").await, (404, missing));

    let response = client().delete(url("/v2.1/servers")).send().await.unwrap();
    assert_eq!(response.headers()["allow"], "GET,HEAD,POST");
    let (status, body) = read(response).await;
    assert_eq!((status, &body["badMethod"]["code"]), (405, &value!(405)));

    let (status, body) = get("/v2.1/numbers/300").await;
    assert_eq!((status, &body["badRequest"]["code"]), (400, &value!(400)), "{body}");

    let response = client()
        .get(url("/v2.1/servers"))
        .header("OpenStack-API-Version", "compute 9.9")
        .send()
        .await;
    let (status, body) = read(response.unwrap()).await;
    let words = "Version 9.9 is not supported by the API. Minimum is 2.1 and maximum is 2.96.";
    assert_eq!(
        (status, body),
        (406, value!({ "computeFault": { "code": 406, "message": words } }))
    );

    for path in ["/v2.1/clumsy", "/v2.1/broken"] {
        let (status, body) = get(path).await;
        assert_eq!(status, 500);
        let message = body["computeFault"]["message"].as_str().unwrap();
        assert!(message.contains("req-") && !message.contains("secret"), "{message}");
    }
}

#[tokio::test]
async fn bodies_are_limited_and_checked() {
    let server = running(|_| {}).await;
    let post = async |path: &str, body: String| {
        let request = client().post(format!("{}/compute/v2.1{path}", server.url)).body(body);
        read(request.header("content-type", "application/json").send().await.unwrap()).await
    };
    assert_eq!(post("/servers", "[1, 2]".into()).await, (202, value!([1, 2])));
    let large = format!("[{}0]", "0,".repeat(1000));
    assert_eq!(post("/big", large.clone()).await.0, 202);
    let (status, body) = post("/servers", large).await;
    assert_eq!(
        (status, body),
        (
            413,
            value!({ "overLimit": { "code": 413, "message": "Request is too large." } })
        )
    );
    let (status, body) = post("/servers", "{".into()).await;
    assert_eq!(
        (status, body),
        (
            400,
            value!({ "badRequest": { "code": 400, "message": "Malformed request body" } })
        )
    );
}

#[tokio::test]
async fn handlers_have_a_time_limit_that_they_can_lift() {
    let server = running(|_| {}).await;
    let get = async |path: &str| {
        read(
            client()
                .get(format!("{}/compute/v2.1{path}", server.url))
                .send()
                .await
                .unwrap(),
        )
        .await
    };
    assert_eq!(get("/patient").await, (200, value!("done")));
    assert_eq!(get("/slow").await.0, 504);
}

#[tokio::test]
async fn metrics_and_health_are_served() {
    let server = running(|_| {}).await;
    let get = async |path: &str| read(client().get(format!("{}{path}", server.url)).send().await.unwrap()).await;
    get("/compute/v2.1/servers").await;
    let (_, page) = get("/metrics").await;
    let counted = r#"madang_http_requests_total{face="compute",method="GET",status="200"} 1"#;
    assert!(page.as_str().unwrap().contains(counted), "{page}");

    assert_eq!(get("/healthz").await.0, 200);
    server.health.register("store", async || Ok(()));
    assert_eq!(
        get("/readyz").await,
        (
            200,
            value!({ "ready": true, "checks": [{ "name": "store", "ok": true }] })
        )
    );
    server.health.register("agent", async || Err("no heartbeat".to_owned()));
    let (status, body) = get("/readyz").await;
    assert_eq!((status, &body["checks"][0]["message"]), (503, &value!("no heartbeat")));
}

#[tokio::test]
async fn tls_is_served_with_an_authority_that_clients_can_trust() {
    let dir = tempfile::tempdir().unwrap();
    let names = ["127.0.0.1".to_owned(), "localhost".to_owned()];
    let certificates = Arc::new(Certificates::generated(dir.path(), &names, Timestamp::now()).unwrap());
    let authority = std::fs::read(certificates.authority().unwrap()).unwrap();
    let server = running(|options| options.certificates = Some(Arc::clone(&certificates))).await;
    assert!(server.url.starts_with("https://"));

    let authority = reqwest::Certificate::from_pem(&authority).unwrap();
    let trusting = client_with(|b| b.tls_certs_only([authority.clone()]));
    let response = trusting
        .get(format!("{}/compute/v2.1/servers", server.url))
        .send()
        .await
        .unwrap();
    assert_eq!(response.version(), http::Version::HTTP_2);
    let (_, body) = read(response).await;
    assert_eq!(body["url"], format!("{}/compute/v2.1/servers", server.url));

    let old = client_with(|b| b.tls_certs_only([authority]).http1_only());
    let response = old.get(format!("{}/healthz", server.url)).send().await.unwrap();
    assert_eq!(response.version(), http::Version::HTTP_11);
    assert!(
        client_with(|b| b.tls_certs_only([]))
            .get(format!("{}/healthz", server.url))
            .send()
            .await
            .is_err()
    );
}

#[tokio::test]
async fn plain_text_is_for_loopback_only() {
    let outcome = Server::bind(ServerOptions::new("0.0.0.0:0".parse().unwrap(), None)).await;
    assert!(matches!(outcome, Err(ServerError::PlainText { .. })));
}

#[tokio::test]
async fn shutdown_lets_requests_finish_and_closes_the_rest() {
    let server = running(|_| {}).await;
    let url = format!("{}/compute/v2.1/patient", server.url);
    let asking = async { client().get(url).send().await.unwrap().text().await.unwrap() };
    let mut idle = TcpStream::connect(server.address).await.unwrap();
    let stopping = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        server.group.shutdown(Duration::from_secs(5)).await
    };
    let (answer, late) = tokio::join!(asking, stopping);
    assert_eq!((answer.as_str(), late), ("done", Vec::new()));
    assert_eq!(
        idle.read(&mut [0; 10]).await.unwrap_or(0),
        0,
        "an idle connection is closed"
    );
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn connections_are_bounded_and_idle_ones_end() {
    let server = running(|options| {
        options.max_connections = 1;
        options.idle = Duration::from_millis(300);
    })
    .await;
    let mut first = TcpStream::connect(server.address).await.unwrap();
    first
        .write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    assert!(first.read(&mut [0; 1000]).await.unwrap() > 0);
    let mut second = TcpStream::connect(server.address).await.unwrap();
    second
        .write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let early = tokio::time::timeout(Duration::from_millis(100), second.read(&mut [0; 1000])).await;
    assert!(early.is_err(), "the second has to wait for the first's place");
    assert_eq!(
        first.read(&mut [0; 10]).await.unwrap(),
        0,
        "the first idled for too long"
    );
    assert!(second.read(&mut [0; 1000]).await.unwrap() > 0);
}
