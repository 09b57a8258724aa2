//! Tokens: giving, validating, rescoping, ending.

use std::time::Duration;

use http::Method;
use jiff::SignedDuration;
use madang_identity::Options;
use serde_json::{Value, json};

use crate::cloud::{Cloud, text};

#[tokio::test]
async fn version_documents_lead_the_way() {
    let cloud = Cloud::new().await;
    for path in ["", "/"] {
        let all = cloud.send(Method::GET, path, &[], None).await;
        let href = &all.body["versions"]["values"][0]["links"][0]["href"];
        assert_eq!((all.status, href), (300, &json!("http://cloud/identity/v3/")), "{path}");
    }

    for path in ["/v3", "/v3/"] {
        let one = cloud.send(Method::GET, path, &[], None).await;
        assert_eq!(
            (one.status, &one.body["version"]["status"]),
            (200, &json!("stable")),
            "{path}"
        );
    }
}

#[tokio::test]
async fn a_token_says_who_where_and_what_is_there() {
    let cloud = Cloud::new().await;
    let (user, project) = cloud.member("alice", "member").await;
    let answer = cloud
        .login("alice", "secret", json!({ "project": { "id": project } }))
        .await;
    let token = answer.token();
    assert!(token.len() <= 255, "{}", token.len());
    let body = &answer.body["token"];
    assert_eq!(body["methods"], json!(["password"]));
    let domain = json!({ "id": "default", "name": "Default" });
    let is_user = json!({ "id": user, "name": "alice", "domain": domain, "password_expires_at": null });
    assert_eq!(body["user"], is_user);
    assert_eq!(
        body["project"],
        json!({ "id": project, "name": "of-alice", "domain": domain })
    );
    assert_eq!(answer.names("roles"), ["member", "reader"]);
    let urls: Vec<&Value> = body["catalog"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| &s["endpoints"][0]["url"])
        .collect();
    assert_eq!(
        urls,
        [
            &json!("http://cloud/identity"),
            &json!(format!("http://cloud/volume/v3/{project}"))
        ]
    );
    assert_eq!(body["audit_ids"].as_array().unwrap().len(), 1);

    let validated = cloud.validate(&token).await;
    assert_eq!((validated.status, &validated.body), (200, &answer.body));
    assert_eq!(validated.headers["x-subject-token"], token.as_str());
    let headers = [("x-auth-token", token.as_str()), ("x-subject-token", token.as_str())];
    let own = cloud.send(Method::HEAD, "/v3/auth/tokens", &headers, None).await;
    assert_eq!((own.status, own.body), (200, Value::Null));
    let bare = cloud
        .send(Method::GET, "/v3/auth/tokens?nocatalog", &headers, None)
        .await;
    assert!(bare.body["token"].get("catalog").is_none());
}

#[tokio::test]
async fn who_may_not_log_in_learns_nothing() {
    let cloud = Cloud::new().await;
    let (user, project) = cloud.member("alice", "member").await;
    let scope = json!({ "project": { "id": project } });
    let words = "The request you have made requires authentication.";
    let refused = json!({ "error": { "code": 401, "message": words, "title": "Unauthorized" } });
    let other = cloud.create("projects", "project", json!({ "name": "other" })).await;
    for (name, password, scope) in [
        ("alice", "wrong", scope.clone()),
        ("nobody", "secret", scope.clone()),
        ("alice", "secret", json!({ "project": { "id": other["id"] } })),
        ("alice", "secret", json!({ "project": { "id": "nowhere" } })),
        ("alice", "secret", json!({ "domain": { "id": "default" } })),
        ("alice", "secret", json!({ "system": { "all": true } })),
    ] {
        let answer = cloud.login(name, password, scope.clone()).await;
        assert_eq!((answer.status, &answer.body), (401, &refused), "{name} {scope}");
        assert_eq!(
            answer.headers["www-authenticate"],
            "Keystone uri=\"http://cloud/identity\""
        );
    }
    cloud
        .admin(
            "PATCH",
            &format!("/v3/users/{user}"),
            Some(json!({ "user": { "enabled": false } })),
        )
        .await;
    assert_eq!(cloud.login("alice", "secret", scope).await.status, 401);
}

#[tokio::test]
async fn malformed_requests_say_what_is_missing() {
    let cloud = Cloud::new().await;
    for body in [
        json!({}),
        json!({ "auth": {} }),
        json!({ "auth": { "identity": { "methods": "x" } } }),
    ] {
        let answer = cloud
            .send(Method::POST, "/v3/auth/tokens", &[], Some(body.clone()))
            .await;
        assert_eq!(
            (answer.status, &answer.body["error"]["title"]),
            (400, &json!("Bad Request")),
            "{body}"
        );
    }
    let user = json!({ "name": "alice", "password": "secret" });
    let answer = cloud
        .authenticate(
            json!({ "methods": ["password"], "password": { "user": user } }),
            Value::Null,
        )
        .await;
    let message = answer.body["error"]["message"].as_str().unwrap();
    assert!(message.starts_with("Expecting to find domain in user."), "{message}");
}

#[tokio::test]
async fn scopes_follow_from_roles_and_defaults() {
    let cloud = Cloud::new().await;
    let (user, project) = cloud.member("alice", "member").await;
    let unscoped = cloud.login("alice", "secret", Value::Null).await;
    for absent in ["roles", "catalog", "project"] {
        assert!(unscoped.body["token"].get(absent).is_none(), "{absent}");
    }
    let change = json!({ "user": { "default_project_id": project } });
    cloud.admin("PATCH", &format!("/v3/users/{user}"), Some(change)).await;
    let scoped = cloud.login("alice", "secret", Value::Null).await;
    assert_eq!(scoped.body["token"]["project"]["id"], project.as_str());
    let explicit = cloud.login("alice", "secret", json!("unscoped")).await;
    assert!(explicit.body["token"].get("project").is_none());

    cloud.grant(&format!("domains/default/users/{user}"), "manager").await;
    let domain = cloud
        .login("alice", "secret", json!({ "domain": { "name": "Default" } }))
        .await;
    assert_eq!(
        domain.body["token"]["domain"],
        json!({ "id": "default", "name": "Default" })
    );
    assert_eq!(domain.names("roles"), ["manager", "member", "reader"]);
    // The volume service's URL needs a project.
    assert_eq!(domain.names("catalog"), ["keystone"]);

    cloud.grant(&format!("system/users/{user}"), "reader").await;
    let system = cloud
        .login("alice", "secret", json!({ "system": { "all": true } }))
        .await;
    assert_eq!(system.body["token"]["system"], json!({ "all": true }));
    let projects = cloud.ask(&unscoped.token(), "GET", "/v3/auth/projects", None).await;
    assert_eq!(projects.names("projects"), ["of-alice"]);
    let domains = cloud.ask(&unscoped.token(), "GET", "/v3/auth/domains", None).await;
    assert_eq!(domains.names("domains"), ["Default"]);
    let system = cloud.ask(&unscoped.token(), "GET", "/v3/auth/system", None).await;
    assert_eq!(system.body["system"], json!([{ "all": true }]));
}

#[tokio::test]
async fn a_token_from_a_token_ends_with_it_and_can_be_ended_alone() {
    let cloud = Cloud::new().await;
    let (_, project) = cloud.member("alice", "member").await;
    let first = cloud.login("alice", "secret", json!("unscoped")).await;
    let proof = json!({ "methods": ["token"], "token": { "id": first.token() } });
    let second = cloud
        .authenticate(proof.clone(), json!({ "project": { "id": project } }))
        .await;
    assert_eq!(second.body["token"]["expires_at"], first.body["token"]["expires_at"]);
    assert_eq!(second.body["token"]["methods"], json!(["password", "token"]));
    assert_eq!(
        second.body["token"]["audit_ids"][1],
        first.body["token"]["audit_ids"][0]
    );

    let token = second.token();
    let headers = [("x-auth-token", token.as_str()), ("x-subject-token", token.as_str())];
    assert_eq!(
        cloud
            .send(Method::DELETE, "/v3/auth/tokens", &headers, None)
            .await
            .status,
        204
    );
    assert_eq!(cloud.validate(&token).await.status, 404);
    assert_eq!(cloud.ask(&token, "GET", "/v3/auth/projects", None).await.status, 401);
    assert_eq!(
        cloud
            .authenticate(proof, json!({ "project": { "id": project } }))
            .await
            .status,
        201
    );
}

#[tokio::test]
async fn whatever_a_token_rests_on_ends_it() {
    let cloud = Cloud::new().await;
    let (user, project) = cloud.member("alice", "member").await;
    let login = async || {
        cloud
            .login("alice", "secret", json!({ "project": { "id": project } }))
            .await
            .token()
    };
    let role = cloud.role("member").await;
    let grant = format!("/v3/projects/{project}/users/{user}/roles/{role}");
    let patch = async |path: &str, body: Value| cloud.admin("PATCH", path, Some(body)).await.status;

    let token = login().await;
    assert_eq!(cloud.validate(&token).await.status, 200);
    cloud.admin("DELETE", &grant, None).await;
    assert_eq!(cloud.validate(&token).await.status, 404, "no role is left");
    cloud.admin("PUT", &grant, None).await;
    assert_eq!(cloud.validate(&token).await.status, 200, "the role is back");

    let path = format!("/v3/projects/{project}");
    patch(&path, json!({ "project": { "enabled": false } })).await;
    assert_eq!(cloud.validate(&token).await.status, 404, "the project is disabled");
    patch(&path, json!({ "project": { "enabled": true } })).await;
    assert_eq!(
        cloud.validate(&token).await.status,
        404,
        "enabling it does not bring old tokens back"
    );

    let token = login().await;
    let change = json!({ "user": { "original_password": "secret", "password": "other" } });
    let path = format!("/v3/users/{user}/password");
    assert_eq!(
        cloud.send(Method::POST, &path, &[], Some(change.clone())).await.status,
        204
    );
    assert_eq!(cloud.validate(&token).await.status, 404, "the password was changed");
    assert_eq!(cloud.send(Method::POST, &path, &[], Some(change)).await.status, 401);
    assert_eq!(cloud.login("alice", "secret", Value::Null).await.status, 401);

    let token = cloud.login("alice", "other", Value::Null).await.token();
    cloud.admin("DELETE", &format!("/v3/users/{user}"), None).await;
    assert_eq!(cloud.validate(&token).await.status, 404, "the user is gone");
}

#[tokio::test]
async fn only_those_concerned_may_ask_about_a_token() {
    let cloud = Cloud::new().await;
    let (_, project) = cloud.member("alice", "member").await;
    let (_, of_bob) = cloud.member("bob", "admin").await;
    let alice = cloud
        .login("alice", "secret", json!({ "project": { "id": project } }))
        .await
        .token();
    let about = |method, subject: &str| {
        let headers = [("x-auth-token", alice.clone()), ("x-subject-token", subject.to_owned())];
        let cloud = &cloud;
        async move {
            let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
            cloud.send(method, "/v3/auth/tokens", &headers, None).await.status
        }
    };
    assert_eq!(about(Method::GET, &alice).await, 200);
    for method in [Method::GET, Method::HEAD, Method::DELETE] {
        assert_eq!(about(method, &cloud.admin).await, 403);
    }
    assert_eq!(about(Method::GET, "junk").await, 404);
    let bob = cloud
        .login("bob", "secret", json!({ "project": { "id": of_bob } }))
        .await
        .token();
    let headers = [("x-auth-token", bob.as_str()), ("x-subject-token", alice.as_str())];
    assert_eq!(
        cloud.send(Method::GET, "/v3/auth/tokens", &headers, None).await.status,
        200
    );
    assert_eq!(cloud.send(Method::GET, "/v3/auth/tokens", &[], None).await.status, 401);
}

#[tokio::test]
async fn tokens_and_everything_else_outlive_the_process() {
    let cloud = Cloud::new().await;
    let (_, project) = cloud.member("alice", "member").await;
    let alice = cloud
        .login("alice", "secret", json!({ "project": { "id": project } }))
        .await
        .token();
    let ended = cloud.login("alice", "secret", Value::Null).await.token();
    let headers = [("x-auth-token", ended.as_str()), ("x-subject-token", ended.as_str())];
    cloud.send(Method::DELETE, "/v3/auth/tokens", &headers, None).await;
    let cloud = cloud.restarted().await;
    assert_eq!(cloud.validate(&alice).await.status, 200);
    assert_eq!(cloud.validate(&ended).await.status, 404);
    assert_eq!(
        cloud
            .login("alice", "secret", json!({ "project": { "id": project } }))
            .await
            .status,
        201
    );
}

#[tokio::test]
async fn an_expired_token_is_taken_only_where_that_is_asked() {
    let brief = |options: &mut Options| options.token_lifetime = SignedDuration::from_millis(1500);
    let cloud = Cloud::with(brief).await;
    let password = cloud.begun.admin_password.clone().unwrap();
    let project = cloud.begun.admin_project.clone().unwrap();
    let scope = json!({ "project": { "id": project } });
    let old = cloud.login("admin", &password, scope.clone()).await.token();
    assert_eq!(cloud.validate(&old).await.status, 200);
    tokio::time::sleep(Duration::from_millis(1600)).await;
    let fresh = cloud.login("admin", &password, scope.clone()).await.token();
    let about = async |path: &str| {
        let headers = [("x-auth-token", fresh.as_str()), ("x-subject-token", old.as_str())];
        cloud.send(Method::GET, path, &headers, None).await.status
    };
    assert_eq!(about("/v3/auth/tokens").await, 404);
    assert_eq!(about("/v3/auth/tokens?allow_expired=1").await, 200);
    assert_eq!(cloud.ask(&old, "GET", "/v3/auth/projects", None).await.status, 401);
    let proof = json!({ "methods": ["token"], "token": { "id": old } });
    assert_eq!(cloud.authenticate(proof, scope).await.status, 404);
}

#[tokio::test]
async fn other_faces_know_the_caller_and_refuse_strangers() {
    let cloud = Cloud::new().await;
    let (_, project) = cloud.member("alice", "reader").await;
    let alice = cloud
        .login("alice", "secret", json!({ "project": { "id": project } }))
        .await
        .token();
    let own = format!("/test/things/{project}");
    assert_eq!(cloud.ask(&alice, "GET", &own, None).await.status, 200);
    let refused = cloud.ask(&alice, "POST", &own, None).await;
    let words = "Policy doesn't allow test:write to be performed.";
    assert_eq!(refused.status, 403, "{}", refused.body);
    assert!(
        text(&refused.body["forbidden"]["message"]).contains("test:write"),
        "{} {words}",
        refused.body
    );
    assert_eq!(
        cloud.ask(&alice, "GET", "/test/things/of-another", None).await.status,
        403
    );
    assert_eq!(cloud.admin("POST", &own, None).await.status, 200);
    for method in ["GET", "POST", "DELETE"] {
        let stranger = cloud.ask("junk", method, &own, None).await;
        assert_eq!((stranger.status, &stranger.body["error"]["code"]), (401, &json!(401)));
        assert_eq!(
            stranger.headers["www-authenticate"],
            "Keystone uri=\"http://cloud/identity\""
        );
    }
}
