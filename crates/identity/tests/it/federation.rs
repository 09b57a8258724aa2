//! Federated logins against a provider that signs as real ones do.

use std::sync::{
    Arc, LazyLock,
    atomic::{AtomicUsize, Ordering},
};

use axum::{
    Json, Router,
    routing::{get, post},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, Method};
use jiff::{SignedDuration, Timestamp};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use madang_identity::federation::oidc::Settings;
use serde_json::{Value, json};

use crate::cloud::{Answer, Cloud, text};

/// What the provider signs with.
static KEY: LazyLock<rcgen::KeyPair> = LazyLock::new(|| rcgen::KeyPair::generate().unwrap());

/// A coordinate of its public point, which is written as a byte 4 and both.
fn coordinate(at: std::ops::Range<usize>) -> String {
    URL_SAFE_NO_PAD.encode(&KEY.public_key_raw()[at])
}

/// A provider on this machine.
struct Provider {
    issuer: String,
    fetched: Arc<AtomicUsize>,
}

impl Provider {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let issuer = format!("http://{}", listener.local_addr().unwrap());
        let fetched = Arc::new(AtomicUsize::new(0));
        let (base, count) = (issuer.clone(), Arc::clone(&fetched));
        let document = json!({
            "issuer": base, "jwks_uri": format!("{base}/keys"), "userinfo_endpoint": format!("{base}/userinfo"),
            "introspection_endpoint": format!("{base}/introspect"), "token_endpoint": format!("{base}/token"),
            "authorization_endpoint": format!("{base}/authorize"),
        });
        let keys = json!({ "keys": [
            { "kty": "oct", "kid": "odd", "k": "c2VjcmV0" },
            { "kty": "made-up", "kid": "odder" },
            { "kty": "EC", "crv": "P-256", "kid": "one", "use": "sig", "alg": "ES256", "x": coordinate(1..33), "y": coordinate(33..65) },
        ]});
        let app = Router::new()
            .route("/.well-known/openid-configuration", get(async move || Json(document)))
            .route(
                "/keys",
                get(async move || {
                    count.fetch_add(1, Ordering::Relaxed);
                    Json(keys)
                }),
            )
            .route("/introspect", post(introspect));
        #[expect(clippy::disallowed_methods, reason = "it ends with the test's runtime")]
        let _serving = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { issuer, fetched }
    }

    fn settings(&self) -> Settings {
        Settings {
            client_secret: Some("hush".to_owned()),
            ..Settings::new(&self.issuer, "madang")
        }
    }

    /// A token that the provider would give, with some claims changed.
    fn token(&self, changes: Value) -> String {
        let now = Timestamp::now().as_second();
        let mut claims = json!({
            "iss": self.issuer, "sub": "u-1", "aud": "madang", "exp": now + 300, "iat": now,
            "preferred_username": "bob", "email": "bob@example.com", "groups": ["staff", "unknown"],
        });
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        sign(&claims, Algorithm::ES256, Some("one"))
    }
}

fn sign(claims: &Value, algorithm: Algorithm, kid: Option<&str>) -> String {
    let header = Header {
        kid: kid.map(str::to_owned),
        ..Header::new(algorithm)
    };
    let key = match algorithm {
        Algorithm::HS256 => EncodingKey::from_secret(b"secret"),
        _ => EncodingKey::from_ec_der(&KEY.serialize_der()),
    };
    jsonwebtoken::encode(&header, claims, &key).unwrap()
}

async fn introspect(headers: HeaderMap, form: String) -> Json<Value> {
    let form = madang_http::Query::parse(&form);
    // madang:hush
    let is_us = headers["authorization"] == "Basic bWFkYW5nOmh1c2g=";
    let known = json!({
        "active": true, "sub": "u-2", "client_id": "madang", "preferred_username": "opaque-bob", "groups": ["staff"],
    });
    match form.get("token") {
        Some("good") if is_us => Json(known),
        Some("others") if is_us => {
            let mut others = known;
            others["client_id"] = json!("another");
            Json(others)
        }
        _ => Json(json!({ "active": false })),
    }
}

/// A cloud that knows the provider as `sso`, and what its users are in it: a group `staff`, member of a project.
struct Federated {
    cloud: Cloud,
    provider: Provider,
    project_id: String,
    group_id: String,
}

const AUTH: &str = "/v3/OS-FEDERATION/identity_providers/sso/protocols/openid/auth";

fn rules() -> Value {
    json!([{
        "local": [
            { "user": { "id": "{0}", "name": "{1}", "email": "{2}" } },
            { "groups": "{3}", "domain": { "id": "default" } },
        ],
        "remote": [
            { "type": "HTTP_OIDC_SUB" }, { "type": "OIDC-preferred_username" }, { "type": "HTTP_OIDC_EMAIL" },
            { "type": "HTTP_OIDC_GROUPS" },
        ],
    }])
}

impl Federated {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let provider = Provider::start().await;
        let mut settings = provider.settings();
        change(&mut settings);
        let cloud = Cloud::with(|options| {
            options.federation.providers.insert("sso".to_owned(), settings);
            options.federation.trusted_dashboards = vec!["https://Dash.example.org/auth/websso/".to_owned()];
        })
        .await;
        let group = cloud.create("groups", "group", json!({ "name": "staff" })).await;
        let project = cloud.create("projects", "project", json!({ "name": "lab" })).await;
        let (group_id, project_id) = (text(&group["id"]), text(&project["id"]));
        cloud
            .grant(&format!("projects/{project_id}/groups/{group_id}"), "member")
            .await;
        let made = Self {
            cloud,
            provider,
            project_id,
            group_id,
        };
        made.put(
            "identity_providers/sso",
            "identity_provider",
            json!({ "enabled": true, "remote_ids": [made.provider.issuer] }),
        )
        .await;
        made.put("mappings/m", "mapping", json!({ "rules": rules() })).await;
        made.put(
            "identity_providers/sso/protocols/openid",
            "protocol",
            json!({ "mapping_id": "m" }),
        )
        .await;
        made
    }

    async fn put(&self, path: &str, what: &str, of: Value) -> Value {
        let answer = self
            .cloud
            .admin("PUT", &format!("/v3/OS-FEDERATION/{path}"), Some(json!({ what: of })))
            .await;
        assert_eq!(answer.status, 201, "{}", answer.body);
        answer.body[what].clone()
    }

    async fn change(&self, path: &str, what: &str, of: Value) -> Answer {
        self.cloud
            .admin("PATCH", &format!("/v3/OS-FEDERATION/{path}"), Some(json!({ what: of })))
            .await
    }

    async fn login(&self, token: &str) -> Answer {
        let bearer = format!("Bearer {token}");
        self.cloud
            .send(Method::POST, AUTH, &[("authorization", &bearer)], None)
            .await
    }

    async fn logged_in(&self, changes: Value) -> Answer {
        let answer = self.login(&self.provider.token(changes)).await;
        assert_eq!(answer.status, 201, "{}", answer.body);
        answer
    }

    async fn rescoped(&self, token: &str) -> Answer {
        let proof = json!({ "methods": ["token"], "token": { "id": token } });
        self.cloud
            .authenticate(proof, json!({ "project": { "id": self.project_id } }))
            .await
    }

    async fn domain_id(&self) -> String {
        let provider = self
            .cloud
            .admin("GET", "/v3/OS-FEDERATION/identity_providers/sso", None)
            .await;
        text(&provider.body["identity_provider"]["domain_id"])
    }
}

#[tokio::test]
async fn a_providers_user_gets_a_token_and_works_in_a_project() {
    let made = Federated::new().await;
    let answer = made.logged_in(json!({})).await;
    let token = &answer.body["token"];
    assert_eq!(token["methods"], json!(["openid"]));
    assert_eq!(token["user"]["name"], "bob");
    assert_eq!(token["user"]["domain"]["id"], made.domain_id().await);
    let federation = json!({
        "groups": [{ "id": made.group_id }], "identity_provider": { "id": "sso" }, "protocol": { "id": "openid" },
    });
    assert_eq!(token["user"]["OS-FEDERATION"], federation);
    assert!(token["user"].get("password_expires_at").is_none());
    assert!(token.get("project").is_none() && token.get("roles").is_none());

    let unscoped = answer.token();
    for path in ["/v3/OS-FEDERATION/projects", "/v3/auth/projects"] {
        assert_eq!(
            made.cloud.ask(&unscoped, "GET", path, None).await.names("projects"),
            ["lab"],
            "{path}"
        );
    }
    let domains = made
        .cloud
        .ask(&unscoped, "GET", "/v3/OS-FEDERATION/domains", None)
        .await;
    assert_eq!(domains.body["domains"], json!([]));
    let scoped = made.rescoped(&unscoped).await;
    assert_eq!(scoped.names("roles"), ["member", "reader"]);
    assert_eq!(scoped.body["token"]["user"]["OS-FEDERATION"], federation);
    assert_eq!(scoped.body["token"]["expires_at"], token["expires_at"]);
    let path = format!("/test/things/{}", made.project_id);
    assert_eq!(made.cloud.ask(&scoped.token(), "POST", &path, None).await.status, 200);

    let again = made.logged_in(json!({ "preferred_username": "robert" })).await;
    assert_eq!(again.body["token"]["user"]["id"], token["user"]["id"]);
    assert_eq!(again.body["token"]["user"]["name"], "robert");
    assert_eq!(made.provider.fetched.load(Ordering::Relaxed), 1, "keys are kept");
}

#[tokio::test]
async fn tokens_that_do_not_hold_are_refused() {
    let made = Federated::new().await;
    let now = Timestamp::now().as_second();
    for (changes, why) in [
        (json!({ "exp": now - 120 }), "over"),
        (json!({ "nbf": now + 3600 }), "not yet"),
        (json!({ "aud": "another" }), "for somebody else"),
        (json!({ "iss": "https://evil.example.org" }), "of another issuer"),
    ] {
        assert_eq!(made.login(&made.provider.token(changes)).await.status, 401, "{why}");
    }
    let claims = json!({ "iss": made.provider.issuer, "sub": "u-1", "aud": "madang", "exp": now + 300 });
    let whole = made.provider.token(json!({}));
    let (head, signature) = whole.rsplit_once('.').unwrap();
    let (header, _) = head.split_once('.').unwrap();
    let other = made.provider.token(json!({ "sub": "u-9" }));
    let other = other.split('.').nth(1).unwrap();
    for (token, why) in [
        (sign(&claims, Algorithm::HS256, Some("odd")), "signed with a secret"),
        (
            sign(&claims, Algorithm::ES256, Some("unknown")),
            "of a key that is not there",
        ),
        (format!("{header}.{other}.{signature}"), "claims that were not signed"),
        (
            "eyJhbGciOiJub25lIn0.eyJzdWIiOiJ1LTEifQ.".to_owned(),
            "not signed at all",
        ),
        ("x".repeat(20_000), "too long"),
        (String::new(), "nothing"),
    ] {
        assert_eq!(made.login(&token).await.status, 401, "{why}");
    }
    // A key that is not known asks for the keys again, but not at once.
    assert_eq!(made.provider.fetched.load(Ordering::Relaxed), 1);
    assert_eq!(made.cloud.send(Method::POST, AUTH, &[], None).await.status, 401);
    assert!(
        made.cloud
            .admin("GET", "/v3/users?name=bob", None)
            .await
            .names("users")
            .is_empty()
    );
}

#[tokio::test]
async fn opaque_tokens_are_asked_about() {
    let made = Federated::new().await;
    let answer = made.login("good").await;
    // The rules want an email, which this provider does not tell.
    assert_eq!(answer.status, 401, "{}", answer.body);
    let rules =
        json!([{ "local": [{ "user": { "name": "{0}" } }], "remote": [{ "type": "OIDC-preferred_username" }] }]);
    assert_eq!(
        made.change("mappings/m", "mapping", json!({ "rules": rules }))
            .await
            .status,
        200
    );
    let answer = made.login("good").await;
    assert_eq!(answer.body["token"]["user"]["name"], "opaque-bob", "{}", answer.body);
    for token in ["others", "bad"] {
        assert_eq!(made.login(token).await.status, 401, "{token}");
    }
}

#[tokio::test]
async fn who_may_come_in_is_asked_each_time() {
    let made = Federated::new().await;
    let token = made.logged_in(json!({})).await.token();
    let scoped = made.rescoped(&token).await.token();
    // Out of the group, and so out of the project, with the next login.
    made.logged_in(json!({ "groups": ["others"] })).await;
    assert_eq!(made.cloud.validate(&scoped).await.status, 404);
    assert_eq!(made.rescoped(&token).await.status, 401);
    made.logged_in(json!({})).await;
    assert_eq!(made.cloud.validate(&scoped).await.status, 200);

    let other = made
        .change(
            "identity_providers/sso",
            "identity_provider",
            json!({ "remote_ids": ["https://other"] }),
        )
        .await;
    assert_eq!(other.status, 200);
    assert_eq!(made.login(&made.provider.token(json!({}))).await.status, 403);
    let disabled = made
        .change(
            "identity_providers/sso",
            "identity_provider",
            json!({ "enabled": false, "remote_ids": [] }),
        )
        .await;
    assert_eq!(disabled.status, 200);
    assert_eq!(made.login(&made.provider.token(json!({}))).await.status, 403);
    assert_eq!(made.cloud.validate(&scoped).await.status, 404);
    let unknown = "/v3/OS-FEDERATION/identity_providers/sso/protocols/saml/auth";
    assert_eq!(
        made.cloud
            .send(Method::GET, unknown, &[("authorization", "Bearer x")], None)
            .await
            .status,
        403
    );
    made.change(
        "identity_providers/sso",
        "identity_provider",
        json!({ "enabled": true }),
    )
    .await;
    assert_eq!(
        made.cloud
            .send(Method::GET, unknown, &[("authorization", "Bearer x")], None)
            .await
            .status,
        404
    );
    assert_eq!(made.cloud.validate(&scoped).await.status, 200);
}

#[tokio::test]
async fn a_shadow_is_a_user_with_federated_names() {
    let made = Federated::new().await;
    let id = text(&made.logged_in(json!({})).await.body["token"]["user"]["id"]);
    let user = made.cloud.admin("GET", &format!("/v3/users/{id}"), None).await.body["user"].clone();
    let federated = json!([{ "idp_id": "sso", "protocols": [{ "protocol_id": "openid", "unique_id": "u-1" }] }]);
    assert_eq!(user["federated"], federated);
    assert_eq!(user["email"], "bob@example.com");
    for (query, count) in [
        ("idp_id=sso", 1),
        ("unique_id=u-1&protocol_id=openid", 1),
        ("unique_id=u-2", 0),
        ("idp_id=other", 0),
        ("name=bob", 1),
    ] {
        let found = made.cloud.admin("GET", &format!("/v3/users?{query}"), None).await;
        assert_eq!(found.names("users").len(), count, "{query}");
    }
    // Names need not be unique at a provider, and do not collide with those here.
    made.logged_in(json!({ "sub": "u-2" })).await;
    let local = json!({ "name": "bob", "domain_id": made.domain_id().await });
    made.cloud.create("users", "user", local).await;
    // The same one of a provider is one user.
    let twice = json!({ "user": { "name": "eve", "federated": federated } });
    assert_eq!(made.cloud.admin("POST", "/v3/users", Some(twice)).await.status, 409);
    let nobodys = json!([{ "idp_id": "none", "protocols": [{ "protocol_id": "openid", "unique_id": "x" }] }]);
    let nobodys = json!({ "user": { "name": "eve", "federated": nobodys } });
    assert_eq!(made.cloud.admin("POST", "/v3/users", Some(nobodys)).await.status, 400);
    // One that an administrator named beforehand is that user, with its own name.
    let known = json!([{ "idp_id": "sso", "protocols": [{ "protocol_id": "openid", "unique_id": "u-3" }] }]);
    let alice = made
        .cloud
        .create("users", "user", json!({ "name": "alice", "federated": known }))
        .await;
    let answer = made.logged_in(json!({ "sub": "u-3" })).await;
    assert_eq!(answer.body["token"]["user"]["id"], alice["id"]);
    assert_eq!(answer.body["token"]["user"]["name"], "alice");

    let path = "/v3/OS-FEDERATION/identity_providers/sso";
    assert_eq!(made.cloud.admin("DELETE", path, None).await.status, 204);
    assert_eq!(
        made.cloud.admin("GET", &format!("/v3/users/{id}"), None).await.status,
        404
    );
    let alice = made
        .cloud
        .admin("GET", &format!("/v3/users/{}", text(&alice["id"])), None)
        .await;
    assert!(
        alice.status == 200 && alice.body["user"].get("federated").is_none(),
        "{}",
        alice.body
    );
    assert_eq!(
        made.cloud
            .admin("GET", &format!("{path}/protocols/openid"), None)
            .await
            .status,
        404
    );
}

#[tokio::test]
async fn a_providers_word_outlives_the_session_as_long_as_it_may() {
    let made = Federated::new().await;
    let answer = made.logged_in(json!({})).await;
    let id = text(&answer.body["token"]["user"]["id"]);
    let credentials = format!("/v3/users/{id}/application_credentials");
    let body = || json!({ "application_credential": { "name": "robot", "secret": "s" } });
    let scoped = made.rescoped(&answer.token()).await.token();
    // Nothing is said about how long: only for the session.
    assert!(
        made.cloud
            .admin("GET", &format!("/v3/users/{id}/groups"), None)
            .await
            .names("groups")
            .is_empty()
    );
    let long = json!({ "authorization_ttl": 60 });
    made.change("identity_providers/sso", "identity_provider", long).await;
    made.logged_in(json!({})).await;
    let groups = made.cloud.admin("GET", &format!("/v3/users/{id}/groups"), None).await;
    assert_eq!(groups.names("groups"), ["staff"]);
    let end: jiff::civil::DateTime = text(&groups.body["groups"][0]["membership_expires_at"])
        .parse()
        .unwrap();
    let left = end
        .to_zoned(jiff::tz::TimeZone::UTC)
        .unwrap()
        .timestamp()
        .duration_since(Timestamp::now());
    assert!(
        left > SignedDuration::from_mins(58) && left <= SignedDuration::from_mins(60),
        "{left:?}"
    );

    let made_one = made.cloud.ask(&scoped, "POST", &credentials, Some(body())).await;
    assert_eq!(made_one.status, 201, "{}", made_one.body);
    let credential = text(&made_one.body["application_credential"]["id"]);
    let robot =
        json!({ "methods": ["application_credential"], "application_credential": { "id": credential, "secret": "s" } });
    let token = made.cloud.authenticate(robot.clone(), Value::Null).await.token();
    assert_eq!(made.cloud.validate(&token).await.status, 200);
    // The provider takes its word back.
    made.logged_in(json!({ "groups": ["others"] })).await;
    assert_eq!(made.cloud.authenticate(robot, Value::Null).await.status, 401);
    assert_eq!(made.cloud.validate(&token).await.status, 404);
}

#[tokio::test]
async fn a_mapping_makes_projects_and_names_local_users() {
    let made = Federated::new().await;
    let shadow = |version: &str, roles: Value| {
        let projects = json!([{ "name": "{0}-own", "roles": roles }]);
        let local = json!([{ "user": { "name": "{0}" }, "projects": projects }]);
        json!({ "schema_version": version, "rules": [{ "local": local, "remote": [{ "type": "OIDC-preferred_username" }] }] })
    };
    let both = json!([{ "name": "member" }, { "name": "manager" }]);
    made.change("mappings/m", "mapping", shadow("1.0", both)).await;
    let token = made.logged_in(json!({})).await.token();
    let projects = made.cloud.ask(&token, "GET", "/v3/auth/projects", None).await;
    assert_eq!(projects.names("projects"), ["bob-own"]);
    assert_eq!(projects.body["projects"][0]["domain_id"], made.domain_id().await);
    let scope = json!({ "project": { "id": projects.body["projects"][0]["id"] } });
    let roles = async |token: &str| {
        let proof = json!({ "methods": ["token"], "token": { "id": token } });
        made.cloud.authenticate(proof, scope.clone()).await.names("roles")
    };
    assert_eq!(roles(&token).await, ["manager", "member", "reader"]);
    // Roles that are not named any more stay in the first version and go in the third.
    let one = json!([{ "name": "reader" }]);
    made.change("mappings/m", "mapping", shadow("1.0", one.clone())).await;
    assert_eq!(
        roles(&made.logged_in(json!({})).await.token()).await,
        ["manager", "member", "reader"]
    );
    made.change("mappings/m", "mapping", shadow("3.0", one)).await;
    assert_eq!(roles(&made.logged_in(json!({})).await.token()).await, ["reader"]);
    made.change("mappings/m", "mapping", shadow("1.0", json!([{ "name": "nobody" }])))
        .await;
    assert_eq!(made.login(&made.provider.token(json!({}))).await.status, 404);

    let (user, _) = made.cloud.member("carol", "member").await;
    let local = json!([{ "user": { "name": "{0}", "type": "local", "domain": { "id": "default" } } }]);
    let rules = json!([{ "local": local, "remote": [{ "type": "OIDC-preferred_username" }] }]);
    made.change("mappings/m", "mapping", json!({ "rules": rules })).await;
    let answer = made.logged_in(json!({ "preferred_username": "carol" })).await;
    assert_eq!(answer.body["token"]["user"]["id"], user);
    assert!(answer.body["token"]["user"].get("OS-FEDERATION").is_none());
    assert_eq!(
        made.login(&made.provider.token(json!({}))).await.status,
        401,
        "there is no local bob"
    );
}

#[tokio::test]
async fn a_browser_is_sent_to_the_provider_and_nobody_elses_comes_back() {
    let made = Federated::new().await;
    let path = "/v3/auth/OS-FEDERATION/websso/openid";
    let get = async |path: &str, cookie: &str| made.cloud.send(Method::GET, path, &[("cookie", cookie)], None).await;
    assert_eq!(get(path, "").await.status, 400);
    assert_eq!(
        get(&format!("{path}?origin=https://evil.example.org/"), "")
            .await
            .status,
        401
    );
    let origin = "origin=https://dash.example.org/auth/websso/";
    assert_eq!(
        get(&format!("/v3/auth/OS-FEDERATION/websso/other?{origin}"), "")
            .await
            .status,
        401
    );
    for path in [
        path,
        "/v3/auth/OS-FEDERATION/identity_providers/sso/protocols/openid/websso",
    ] {
        let answer = get(&format!("{path}?{origin}"), "").await;
        assert_eq!(answer.status, 302, "{path}: {}", answer.body);
        let location = answer.headers["location"].to_str().unwrap();
        assert!(location.starts_with(&format!(
            "{}/authorize?response_type=code&client_id=madang&",
            made.provider.issuer
        )));
        assert!(location.contains("code_challenge_method=S256") && location.contains("nonce="));
        assert!(
            location.contains("redirect_uri=http%3A%2F%2Fcloud%2Fidentity%2Fv3%2FOS%2DFEDERATION%2Foidc%2Fredirect")
        );
        let state = location
            .split("state=")
            .nth(1)
            .unwrap()
            .split('&')
            .next()
            .unwrap()
            .replace("%2D", "-")
            .replace("%5F", "_");
        let back = format!("/v3/OS-FEDERATION/oidc/redirect?code=c&state={state}");
        assert_eq!(get(&back, "").await.status, 401, "another browser");
        let own = answer.headers["set-cookie"]
            .to_str()
            .unwrap()
            .split(';')
            .next()
            .unwrap()
            .to_owned();
        assert_eq!(get(&back, &own).await.status, 401, "the state counts once");
    }
}

#[tokio::test]
async fn what_is_not_offered_says_so() {
    let cloud = Cloud::new().await;
    for (method, path) in [
        (Method::GET, "/v3/OS-FEDERATION/saml2/metadata"),
        (Method::POST, "/v3/auth/OS-FEDERATION/saml2"),
        (Method::POST, "/v3/auth/OS-FEDERATION/saml2/ecp"),
    ] {
        let answer = cloud.send(method, path, &[], None).await;
        assert_eq!(answer.status, 501, "{path}");
        assert!(
            text(&answer.body["error"]["message"]).contains("OpenID Connect"),
            "{}",
            answer.body
        );
    }
}

#[tokio::test]
async fn providers_keep_their_own_domains_and_remote_ids() {
    let cloud = Cloud::new().await;
    let put = async |path: &str, what: &str, of: Value| {
        cloud
            .admin("PUT", &format!("/v3/OS-FEDERATION/{path}"), Some(json!({ what: of })))
            .await
    };
    let one = put(
        "identity_providers/one",
        "identity_provider",
        json!({ "remote_ids": ["a", "b"] }),
    )
    .await;
    assert_eq!(one.status, 201, "{}", one.body);
    let one = &one.body["identity_provider"];
    assert_eq!(one["enabled"], false);
    let domain_id = text(&one["domain_id"]);
    assert_eq!(
        cloud
            .admin("GET", &format!("/v3/domains/{domain_id}"), None)
            .await
            .status,
        200
    );
    assert_eq!(
        put("identity_providers/one", "identity_provider", json!({}))
            .await
            .status,
        409
    );
    assert_eq!(
        put(
            "identity_providers/two",
            "identity_provider",
            json!({ "remote_ids": ["b"] })
        )
        .await
        .status,
        409
    );
    let two = put(
        "identity_providers/two",
        "identity_provider",
        json!({ "remote_ids": ["c"], "domain_id": "default" }),
    )
    .await;
    assert_eq!(two.status, 201, "{}", two.body);
    assert_eq!(
        put(
            "identity_providers/three",
            "identity_provider",
            json!({ "domain_id": "none" })
        )
        .await
        .status,
        404
    );
    assert_eq!(
        put(
            "identity_providers/three",
            "identity_provider",
            json!({ "color": "red" })
        )
        .await
        .status,
        400
    );
    let freed = json!({ "identity_provider": { "remote_ids": ["a"] } });
    cloud
        .admin("PATCH", "/v3/OS-FEDERATION/identity_providers/one", Some(freed))
        .await;
    assert_eq!(
        put(
            "identity_providers/three",
            "identity_provider",
            json!({ "remote_ids": ["b"] })
        )
        .await
        .status,
        201
    );

    // A domain takes its providers along.
    let off = json!({ "domain": { "enabled": false } });
    cloud
        .admin("PATCH", &format!("/v3/domains/{domain_id}"), Some(off))
        .await;
    assert_eq!(
        cloud
            .admin("DELETE", &format!("/v3/domains/{domain_id}"), None)
            .await
            .status,
        204
    );
    assert_eq!(
        cloud
            .admin("GET", "/v3/OS-FEDERATION/identity_providers/one", None)
            .await
            .status,
        404
    );

    assert_eq!(put("mappings/m", "mapping", json!({})).await.status, 400);
    let rules = json!({ "rules": [{ "local": [], "remote": [{ "type": "x" }] }] });
    assert_eq!(put("mappings/m", "mapping", rules).await.status, 201);
    let protocols = "identity_providers/two/protocols";
    assert_eq!(
        put(&format!("{protocols}/p"), "protocol", json!({ "mapping_id": "none" }))
            .await
            .status,
        400
    );
    assert_eq!(
        put(
            "identity_providers/none/protocols/p",
            "protocol",
            json!({ "mapping_id": "m" })
        )
        .await
        .status,
        404
    );
    assert_eq!(
        put(&format!("{protocols}/p"), "protocol", json!({ "mapping_id": "m" }))
            .await
            .status,
        201
    );
    assert_eq!(
        put(&format!("{protocols}/p"), "protocol", json!({ "mapping_id": "m" }))
            .await
            .status,
        409
    );
}
