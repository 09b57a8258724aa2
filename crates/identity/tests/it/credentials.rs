//! Application credentials.

use serde_json::{Value, json};

use crate::cloud::{Cloud, text};

async fn with_credential(cloud: &Cloud, of: Value) -> (String, String, Value) {
    let (user, project) = cloud.member("alice", "member").await;
    let alice = cloud
        .login("alice", "secret", json!({ "project": { "id": project } }))
        .await
        .token();
    let path = format!("/v3/users/{user}/application_credentials");
    let made = cloud
        .ask(&alice, "POST", &path, Some(json!({ "application_credential": of })))
        .await;
    assert_eq!(made.status, 201, "{}", made.body);
    (path, alice, made.body["application_credential"].clone())
}

fn proof(credential: &Value) -> Value {
    let of = json!({ "id": credential["id"], "secret": credential["secret"] });
    json!({ "methods": ["application_credential"], "application_credential": of })
}

#[tokio::test]
async fn a_program_acts_for_a_user_with_some_of_its_roles() {
    let cloud = Cloud::new().await;
    let (path, alice, made) = with_credential(&cloud, json!({ "name": "ci", "roles": [{ "name": "reader" }] })).await;
    let answer = cloud.authenticate(proof(&made), Value::Null).await;
    assert_eq!(answer.names("roles"), ["reader"]);
    assert_eq!(answer.body["token"]["project"]["id"], made["project_id"]);
    assert_eq!(answer.body["token"]["application_credential"]["restricted"], true);
    let token = answer.token();
    let more = cloud
        .ask(
            &token,
            "POST",
            &path,
            Some(json!({ "application_credential": { "name": "two" } })),
        )
        .await;
    assert_eq!(more.status, 403, "a restricted credential makes no further ones");
    let again = json!({ "methods": ["token"], "token": { "id": token } });
    assert_eq!(cloud.authenticate(again, Value::Null).await.status, 403, "nor tokens");
    let secrets = cloud.ask(&token, "GET", "/v3/credentials", None).await;
    assert_eq!(secrets.body["credentials"], json!([]));
    let elsewhere = cloud
        .authenticate(proof(&made), json!({ "project": { "id": made["project_id"] } }))
        .await;
    assert_eq!(elsewhere.status, 401, "it cannot ask for a scope");

    let listed = cloud.ask(&alice, "GET", &path, None).await;
    assert!(listed.body["application_credentials"][0].get("secret").is_none());
    let one = format!("{path}/{}", text(&made["id"]));
    assert_eq!(cloud.ask(&alice, "DELETE", &one, None).await.status, 204);
    assert_eq!(cloud.validate(&token).await.status, 404, "its tokens end with it");
    assert_eq!(cloud.authenticate(proof(&made), Value::Null).await.status, 401);
}

#[tokio::test]
async fn nobody_gives_away_more_than_it_has() {
    let cloud = Cloud::new().await;
    let (path, alice, _) = with_credential(&cloud, json!({ "name": "ci" })).await;
    let more = json!({ "application_credential": { "name": "more", "roles": [{ "name": "admin" }] } });
    assert_eq!(cloud.ask(&alice, "POST", &path, Some(more)).await.status, 400);
    let taken = json!({ "application_credential": { "name": "ci" } });
    assert_eq!(cloud.ask(&alice, "POST", &path, Some(taken)).await.status, 409);
    let over = json!({ "application_credential": { "name": "old", "expires_at": "2020-01-01T00:00:00" } });
    assert_eq!(cloud.ask(&alice, "POST", &path, Some(over)).await.status, 400);
    let foreign = json!({ "application_credential": { "name": "x" } });
    assert_eq!(cloud.admin("POST", &path, Some(foreign)).await.status, 403);
}

#[tokio::test]
async fn access_rules_bound_what_a_credential_is_good_for() {
    let cloud = Cloud::new().await;
    let rule = json!({ "service": "test", "method": "GET", "path": "/things/*" });
    let (_, alice, made) = with_credential(&cloud, json!({ "name": "ci", "access_rules": [rule] })).await;
    let token = cloud.authenticate(proof(&made), Value::Null).await.token();
    let own = format!("/test/things/{}", text(&made["project_id"]));
    assert_eq!(cloud.ask(&alice, "POST", &own, None).await.status, 200);
    assert_eq!(cloud.ask(&token, "GET", &own, None).await.status, 200);
    assert_eq!(cloud.ask(&token, "POST", &own, None).await.status, 401);
    let user = text(&made["user_id"]);
    let rules = cloud
        .ask(&alice, "GET", &format!("/v3/users/{user}/access_rules"), None)
        .await;
    let id = text(&rules.body["access_rules"][0]["id"]);
    let path = format!("/v3/users/{user}/access_rules/{id}");
    assert_eq!(
        cloud.ask(&alice, "DELETE", &path, None).await.status,
        403,
        "it is in use"
    );
}

#[tokio::test]
async fn access_keys_belong_to_who_made_them() {
    let cloud = Cloud::new().await;
    let (user, project) = cloud.member("alice", "member").await;
    let (other, elsewhere) = cloud.member("bob", "member").await;
    let alice = cloud
        .login("alice", "secret", json!({ "project": { "id": project } }))
        .await
        .token();
    let bob = cloud
        .login("bob", "secret", json!({ "project": { "id": elsewhere } }))
        .await
        .token();
    let path = format!("/v3/users/{user}/credentials/OS-EC2");
    let made = cloud
        .ask(&alice, "POST", &path, Some(json!({ "tenant_id": project })))
        .await;
    assert_eq!(
        (made.status, &made.body["credential"]["tenant_id"]),
        (201, &json!(project))
    );
    let one = format!("{path}/{}", text(&made.body["credential"]["access"]));
    assert_eq!(
        cloud.ask(&alice, "GET", &one, None).await.body["credential"]["secret"],
        made.body["credential"]["secret"]
    );
    assert_eq!(cloud.ask(&bob, "GET", &one, None).await.status, 403);
    assert_eq!(
        cloud
            .ask(&bob, "POST", &path, Some(json!({ "tenant_id": project })))
            .await
            .status,
        403
    );
    let bobs = format!(
        "/v3/users/{other}/credentials/OS-EC2/{}",
        text(&made.body["credential"]["access"])
    );
    assert_eq!(
        cloud.ask(&bob, "GET", &bobs, None).await.status,
        403,
        "a known key does not open another's door"
    );

    let listed = cloud.ask(&alice, "GET", "/v3/credentials", None).await;
    assert_eq!(listed.body["credentials"].as_array().unwrap().len(), 1);
    assert_eq!(
        cloud.ask(&bob, "GET", "/v3/credentials", None).await.body["credentials"],
        json!([])
    );
    let id = text(&listed.body["credentials"][0]["id"]);
    let steal = json!({ "credential": { "user_id": other } });
    assert_eq!(
        cloud
            .ask(&alice, "PATCH", &format!("/v3/credentials/{id}"), Some(steal))
            .await
            .status,
        400
    );
    let broken = json!({ "credential": { "blob": "{}" } });
    assert_eq!(
        cloud
            .ask(&alice, "PATCH", &format!("/v3/credentials/{id}"), Some(broken))
            .await
            .status,
        400
    );
    assert_eq!(cloud.ask(&alice, "DELETE", &one, None).await.status, 204);
    assert_eq!(cloud.ask(&alice, "GET", &one, None).await.status, 404);
}

#[tokio::test]
async fn a_trust_gives_some_roles_until_it_ends() {
    let cloud = Cloud::new().await;
    let (alice, project) = cloud.member("alice", "manager").await;
    let (bob, elsewhere) = cloud.member("bob", "member").await;
    let trustor = cloud
        .login("alice", "secret", json!({ "project": { "id": project } }))
        .await
        .token();
    let trustee = cloud
        .login("bob", "secret", json!({ "project": { "id": elsewhere } }))
        .await
        .token();
    let trust = |impersonation: bool, role: &str| {
        json!({ "trust": {
            "trustor_user_id": alice, "trustee_user_id": bob, "project_id": project,
            "impersonation": impersonation, "roles": [{ "name": role }], "remaining_uses": 2,
        } })
    };
    let path = "/v3/OS-TRUST/trusts";
    assert_eq!(
        cloud
            .ask(&trustor, "POST", path, Some(trust(true, "admin")))
            .await
            .status,
        404,
        "not hers to give"
    );
    assert_eq!(
        cloud
            .ask(&trustee, "POST", path, Some(trust(true, "member")))
            .await
            .status,
        403
    );
    let made = cloud.ask(&trustor, "POST", path, Some(trust(true, "member"))).await;
    assert_eq!(
        (made.status, &made.body["trust"]["roles"][0]["name"]),
        (201, &json!("member"))
    );
    let id = text(&made.body["trust"]["id"]);

    let scope = json!({ "OS-TRUST:trust": { "id": id } });
    assert_eq!(
        cloud.login("alice", "secret", scope.clone()).await.status,
        401,
        "it is for the trustee"
    );
    let acting = cloud.login("bob", "secret", scope.clone()).await;
    assert_eq!(acting.names("roles"), ["member", "reader"]);
    assert_eq!(acting.body["token"]["user"]["id"], alice.as_str());
    assert_eq!(
        acting.body["token"]["OS-TRUST:trust"]["trustee_user"]["id"],
        bob.as_str()
    );
    let acting = acting.token();
    let more = json!({ "methods": ["token"], "token": { "id": acting } });
    assert_eq!(
        cloud
            .authenticate(more, json!({ "project": { "id": project } }))
            .await
            .status,
        403
    );
    assert_eq!(
        cloud
            .ask(&acting, "POST", path, Some(trust(false, "reader")))
            .await
            .status,
        403
    );
    let keys = format!("/v3/users/{alice}/credentials/OS-EC2");
    assert_eq!(
        cloud
            .ask(&acting, "POST", &keys, Some(json!({ "tenant_id": project })))
            .await
            .status,
        403
    );
    let credentials = format!("/v3/users/{alice}/application_credentials");
    let lasting = json!({ "application_credential": { "name": "lasting" } });
    assert_eq!(
        cloud.ask(&acting, "POST", &credentials, Some(lasting)).await.status,
        403
    );
    assert_eq!(cloud.login("bob", "secret", scope.clone()).await.status, 201);
    assert_eq!(cloud.login("bob", "secret", scope).await.status, 401, "its uses are up");
    assert_eq!(cloud.validate(&acting).await.status, 200);

    assert_eq!(
        cloud
            .ask(&trustee, "DELETE", &format!("{path}/{id}"), None)
            .await
            .status,
        403
    );
    assert_eq!(
        cloud
            .ask(&trustor, "DELETE", &format!("{path}/{id}"), None)
            .await
            .status,
        204
    );
    assert_eq!(cloud.validate(&acting).await.status, 404, "its tokens end with it");

    let made = cloud.ask(&trustor, "POST", path, Some(trust(false, "reader"))).await;
    let id = text(&made.body["trust"]["id"]);
    let acting = cloud
        .login("bob", "secret", json!({ "OS-TRUST:trust": { "id": id } }))
        .await;
    assert_eq!(
        (&acting.body["token"]["user"]["id"], acting.names("roles")),
        (&json!(bob), vec!["reader".to_owned()])
    );
    let manager = cloud.role("manager").await;
    cloud
        .admin(
            "DELETE",
            &format!("/v3/projects/{project}/users/{alice}/roles/{manager}"),
            None,
        )
        .await;
    assert_eq!(
        cloud.validate(&acting.token()).await.status,
        404,
        "she has nothing to give any more"
    );
}

#[tokio::test]
async fn what_two_things_own_goes_once() {
    let cloud = Cloud::new().await;
    let domain = text(&cloud.create("domains", "domain", json!({ "name": "acme" })).await["id"]);
    let of = |name: &str| json!({ "name": name, "domain_id": domain, "password": "secret" });
    let user = text(&cloud.create("users", "user", of("u")).await["id"]);
    let project = text(&cloud.create("projects", "project", of("p")).await["id"]);
    cloud.grant(&format!("projects/{project}/users/{user}"), "member").await;
    let proof = json!({ "methods": ["password"], "password": { "user": { "id": user, "password": "secret" } } });
    let token = cloud
        .authenticate(proof, json!({ "project": { "id": project } }))
        .await
        .token();
    let path = format!("/v3/users/{user}/application_credentials");
    let made = cloud
        .ask(
            &token,
            "POST",
            &path,
            Some(json!({ "application_credential": { "name": "ci" } })),
        )
        .await;
    assert_eq!(made.status, 201);
    let path = format!("/v3/domains/{domain}");
    cloud
        .admin("PATCH", &path, Some(json!({ "domain": { "enabled": false } })))
        .await;
    assert_eq!(cloud.admin("DELETE", &path, None).await.status, 204);
    assert_eq!(cloud.validate(&token).await.status, 404);
}
