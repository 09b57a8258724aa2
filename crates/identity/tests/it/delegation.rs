//! Acting for somebody else: trusts that are handed on, clients of OAuth 2.0, services that finish somebody's work; what
//! was ended before its time; and secrets that are kept for users.

use std::time::Duration;

use http::Method;
use jiff::SignedDuration;
use serde_json::{Value, json};

use crate::cloud::{Answer, Cloud, text};

const TRUSTS: &str = "/v3/OS-TRUST/trusts";

async fn token(cloud: &Cloud, name: &str, project: &str) -> String {
    cloud
        .login(name, "secret", json!({ "project": { "id": project } }))
        .await
        .token()
}

/// Alice, Bob and Carol, each with a project, and a token of Alice's.
struct Three {
    cloud: Cloud,
    ids: [String; 3],
    project: String,
    alice: String,
}

async fn three() -> Three {
    let cloud = Cloud::new().await;
    let (alice, project) = cloud.member("alice", "manager").await;
    let (bob, _) = cloud.member("bob", "member").await;
    let (carol, _) = cloud.member("carol", "member").await;
    let own = token(&cloud, "alice", &project).await;
    Three {
        cloud,
        ids: [alice, bob, carol],
        project,
        alice: own,
    }
}

impl Three {
    /// Asks for a trust of Alice's.
    async fn trust(&self, with: &str, trustee: &str, role: &str, more: Value) -> Answer {
        let mut trust = json!({
            "trustor_user_id": self.ids[0], "trustee_user_id": trustee, "project_id": self.project,
            "impersonation": true, "roles": [{ "name": role }],
        });
        trust.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.cloud
            .ask(with, "POST", TRUSTS, Some(json!({ "trust": trust })))
            .await
    }

    /// Logs in for a trust.
    async fn act(&self, name: &str, trust: &Answer) -> Answer {
        assert_eq!(trust.status, 201, "{}", trust.body);
        let scope = json!({ "OS-TRUST:trust": { "id": trust.body["trust"]["id"] } });
        self.cloud.login(name, "secret", scope).await
    }
}

#[tokio::test]
async fn a_trust_is_handed_on_as_often_as_it_says() {
    let three = three().await;
    let [_, bob, carol] = &three.ids;
    let plain = three.trust(&three.alice, bob, "member", json!({})).await;
    assert_eq!(plain.body["trust"]["redelegation_count"], 0);
    let acting = three.act("bob", &plain).await.token();
    assert_eq!(three.trust(&acting, carol, "reader", json!({})).await.status, 403);

    let allow = json!({
        "allow_redelegation": true, "redelegation_count": 1, "expires_at": "2099-01-01T00:00:00Z",
        "roles": [{ "name": "member" }, { "name": "reader" }],
    });
    let first = three.trust(&three.alice, bob, "member", allow).await;
    assert_eq!(first.body["trust"]["redelegation_count"], 1, "{}", first.body);
    let bobs = three.act("bob", &first).await.token();
    for (more, why) in [
        (json!({ "roles": [{ "name": "manager" }] }), "a role it does not give"),
        (json!({ "remaining_uses": 1 }), "counted uses"),
        (json!({ "expires_at": "2099-01-02T00:00:00Z" }), "longer"),
        (
            json!({ "allow_redelegation": true, "redelegation_count": 3 }),
            "oftener",
        ),
    ] {
        assert_eq!(three.trust(&bobs, carol, "reader", more).await.status, 403, "{why}");
    }
    let second = three.trust(&bobs, carol, "reader", json!({})).await;
    let trust = &second.body["trust"];
    assert_eq!(second.status, 201, "{}", second.body);
    assert_eq!(trust["redelegated_trust_id"], first.body["trust"]["id"]);
    assert_eq!(trust["expires_at"], first.body["trust"]["expires_at"]);
    let carols = three.act("carol", &second).await;
    assert_eq!(carols.names("roles"), ["reader"]);
    assert_eq!(text(&carols.body["token"]["user"]["id"]), three.ids[0]);
    let carols = carols.token();
    assert_eq!(
        three.trust(&carols, bob, "reader", json!({})).await.status,
        403,
        "no further"
    );

    let user = format!("/v3/users/{bob}");
    let enable = |yes: bool| Some(json!({ "user": { "enabled": yes } }));
    assert_eq!(three.cloud.admin("PATCH", &user, enable(false)).await.status, 200);
    assert_eq!(
        three.cloud.validate(&carols).await.status,
        404,
        "who handed it on is disabled"
    );
    assert_eq!(three.cloud.admin("PATCH", &user, enable(true)).await.status, 200);
    assert_eq!(three.cloud.validate(&carols).await.status, 200);
    let path = format!("{TRUSTS}/{}", text(&first.body["trust"]["id"]));
    assert_eq!(three.cloud.ask(&three.alice, "DELETE", &path, None).await.status, 204);
    assert_eq!(
        three.cloud.validate(&carols).await.status,
        404,
        "all that come from it go"
    );
    let path = format!("{TRUSTS}/{}", text(&trust["id"]));
    assert_eq!(three.cloud.ask(&three.alice, "GET", &path, None).await.status, 404);
}

#[tokio::test]
async fn too_much_handing_on_is_refused() {
    let three = three().await;
    let allow = |count: u32| json!({ "allow_redelegation": true, "redelegation_count": count });
    let bob = &three.ids[1];
    assert_eq!(three.trust(&three.alice, bob, "reader", allow(4)).await.status, 403);
    let mut counted = allow(1);
    counted["remaining_uses"] = 3.into();
    assert_eq!(three.trust(&three.alice, bob, "reader", counted).await.status, 400);
    let most = three
        .trust(&three.alice, bob, "reader", json!({ "allow_redelegation": true }))
        .await;
    assert_eq!(most.body["trust"]["redelegation_count"], 3);
}

#[tokio::test]
async fn a_client_of_oauth_2_is_an_application_credential() {
    let cloud = Cloud::new().await;
    let (user, project) = cloud.member("alice", "member").await;
    let alice = token(&cloud, "alice", &project).await;
    let path = format!("/v3/users/{user}/application_credentials");
    let of = json!({ "application_credential": { "name": "ci", "roles": [{ "name": "reader" }] } });
    let made = cloud.ask(&alice, "POST", &path, Some(of)).await;
    let made = &made.body["application_credential"];
    let (id, secret) = (text(&made["id"]), text(&made["secret"]));
    let ask = async |form: String| {
        let kind = ("content-type", "application/x-www-form-urlencoded");
        cloud
            .send_text(Method::POST, "/v3/OS-OAUTH2/token", &[kind], form)
            .await
    };
    let given = ask(format!(
        "grant_type=client_credentials&client_id={id}&client_secret={secret}"
    ))
    .await;
    assert_eq!(given.status, 200, "{}", given.body);
    assert_eq!(given.body["token_type"], "Bearer");
    assert_eq!(given.body["expires_in"], 3600);
    let bearer = format!("Bearer {}", text(&given.body["access_token"]));
    let own = format!("/test/things/{project}");
    let headers = [("authorization", bearer.as_str())];
    assert_eq!(cloud.send(Method::GET, &own, &headers, None).await.status, 200);
    assert_eq!(
        cloud.send(Method::POST, &own, &headers, None).await.status,
        403,
        "a reader"
    );
    for (form, status, error) in [
        ("".to_owned(), 400, "invalid_request"),
        ("grant_type=password".to_owned(), 400, "unsupported_grant_type"),
        ("grant_type=client_credentials".to_owned(), 401, "invalid_client"),
        (
            format!("grant_type=client_credentials&client_id={id}&client_secret=wrong"),
            401,
            "invalid_client",
        ),
    ] {
        let refused = ask(form).await;
        assert_eq!((refused.status, &refused.body["error"]), (status, &json!(error)));
        assert!(refused.body["error_description"].is_string());
    }
    let basic = {
        use base64::{Engine, engine::general_purpose::STANDARD};
        format!("Basic {}", STANDARD.encode(format!("{id}:{secret}")))
    };
    let headers = [
        ("content-type", "application/x-www-form-urlencoded"),
        ("authorization", basic.as_str()),
    ];
    let form = "grant_type=client_credentials".to_owned();
    let given = cloud
        .send_text(Method::POST, "/v3/OS-OAUTH2/token", &headers, form)
        .await;
    assert_eq!(given.status, 200, "{}", given.body);
    assert_eq!(
        cloud.send(Method::GET, "/v3/OS-OAUTH2/token", &[], None).await.status,
        405
    );
}

#[tokio::test]
async fn a_service_finishes_what_an_expired_token_began() {
    let cloud = Cloud::with(|options| options.token_lifetime = SignedDuration::from_secs(2)).await;
    let (_, project) = cloud.member("alice", "member").await;
    cloud.member("nova", "service").await;
    let old = token(&cloud, "alice", &project).await;
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let password = cloud.begun.admin_password.clone().unwrap();
    let scope = json!({ "project": { "id": cloud.begun.admin_project } });
    let service = cloud.login("nova", "secret", Value::Null).await;
    let found = cloud
        .authenticate(
            json!({ "methods": ["token"], "token": { "id": service.token() } }),
            Value::Null,
        )
        .await;
    assert_eq!(found.status, 201);
    let projects = cloud.ask(&service.token(), "GET", "/v3/auth/projects", None).await;
    let services = text(&projects.body["projects"][0]["id"]);
    let service = token(&cloud, "nova", &services).await;
    let admin = cloud.login("admin", &password, scope).await.token();
    let own = format!("/test/things/{project}");
    let ask = async |beside: Option<&str>| {
        let mut headers = vec![("x-auth-token", old.as_str())];
        headers.extend(beside.map(|token| ("x-service-token", token)));
        cloud.send(Method::GET, &own, &headers, None).await.status
    };
    assert_eq!(ask(None).await, 401, "it is over");
    assert_eq!(ask(Some(&service)).await, 200);
    assert_eq!(ask(Some(&admin)).await, 401, "not a service");
    assert_eq!(ask(Some("nonsense")).await, 401);
}

#[tokio::test]
async fn what_ended_early_is_listed_for_services() {
    let cloud = Cloud::new().await;
    let (user, project) = cloud.member("alice", "member").await;
    let own = token(&cloud, "alice", &project).await;
    let audit = cloud.validate(&own).await.body["token"]["audit_ids"][0].clone();
    let headers = [("x-auth-token", own.as_str()), ("x-subject-token", own.as_str())];
    let ended = cloud.send(Method::DELETE, "/v3/auth/tokens", &headers, None).await;
    assert_eq!(ended.status, 204);
    let path = "/v3/OS-REVOKE/events";
    let events = async |query: &str| {
        let found = cloud.admin("GET", &format!("{path}{query}"), None).await;
        assert_eq!(found.status, 200, "{}", found.body);
        found.body["events"].as_array().unwrap().clone()
    };
    let all = events("").await;
    assert!(all.iter().any(|event| event["audit_id"] == audit), "{all:?}");
    assert!(all.iter().all(|event| event["issued_before"].is_string()));
    let change = json!({ "user": { "password": "other" } });
    let changed = cloud.admin("PATCH", &format!("/v3/users/{user}"), Some(change)).await;
    assert_eq!(changed.status, 200);
    assert!(events("").await.iter().any(|event| event["user_id"] == user.as_str()));
    assert!(events("?since=2099-01-01T00:00:00Z").await.is_empty());
    assert_eq!(
        cloud.admin("GET", &format!("{path}?since=soon"), None).await.status,
        400
    );
    let (_, elsewhere) = cloud.member("bob", "member").await;
    let bob = token(&cloud, "bob", &elsewhere).await;
    assert_eq!(cloud.ask(&bob, "GET", path, None).await.status, 403);
    for (path, status) in [
        ("/v3/auth/tokens/OS-PKI/revoked", 403),
        ("/v3/OS-SIMPLE-CERT/ca", 410),
        ("/v3/OS-SIMPLE-CERT/certificates", 410),
    ] {
        assert_eq!(cloud.send(Method::GET, path, &[], None).await.status, status, "{path}");
    }
}

#[tokio::test]
async fn json_home_says_where_everything_is() {
    let cloud = Cloud::new().await;
    let ask = async |path: &str| {
        let headers = [("accept", "application/json-home")];
        cloud.send(Method::GET, path, &headers, None).await
    };
    let relation = "https://docs.openstack.org/api/openstack-identity/3/rel/projects";
    let below = ask("/v3").await;
    assert_eq!(below.status, 200);
    assert_eq!(below.headers["content-type"], "application/json-home");
    assert_eq!(below.body["resources"][relation]["href"], "/projects");
    assert_eq!(ask("").await.body["resources"][relation]["href"], "/v3/projects");
    // Whatever it names is routed: what is not there is refused in other words than an unknown address.
    for resource in below.body["resources"].as_object().unwrap().values() {
        let path = resource["href"]
            .as_str()
            .or(resource["href-template"].as_str())
            .unwrap();
        let path = format!("/v3{}", path.replace(['{', '}'], ""));
        let found = cloud.admin("GET", &path, None).await;
        let said = found.body["error"]["message"].as_str().unwrap_or_default();
        assert!(!said.contains("requested URL was not found"), "{path}: {said}");
    }
}

#[tokio::test]
async fn secrets_are_sealed_on_disk() {
    let cloud = Cloud::new().await;
    let user = text(&cloud.create("users", "user", json!({ "name": "a" })).await["id"]);
    let of = json!({ "user_id": user, "type": "note", "blob": "open-sesame-4711" });
    let made = cloud.create("credentials", "credential", of).await;
    let path = format!("/v3/credentials/{}", text(&made["id"]));
    let change = json!({ "credential": { "blob": "open-barley-4712" } });
    assert_eq!(cloud.admin("PATCH", &path, Some(change)).await.status, 200);
    let cloud = cloud.restarted().await;
    let shown = cloud.admin("GET", &path, None).await;
    assert_eq!(shown.body["credential"]["blob"], "open-barley-4712");
    let mut files = 0;
    for entry in std::fs::read_dir(cloud.dir()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let bytes = std::fs::read(&path).unwrap();
            assert!(!bytes.windows(5).any(|part| part == b"open-"), "{}", path.display());
            files += 1;
        }
    }
    assert!(files > 0);
    let keys = cloud.dir().join("keys/credentials");
    for entry in std::fs::read_dir(keys).unwrap() {
        use std::os::unix::fs::PermissionsExt;
        let mode = entry.unwrap().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
