//! Whatever a stranger asks of what is another's, nothing comes out and nothing changes: tried with every path and method.

use http::Method;
use serde_json::{Value, json};

use crate::cloud::{Cloud, text};

fn trust(trustor: &str, trustee: &str, project: &str) -> Value {
    json!({
        "trustor_user_id": trustor, "trustee_user_id": trustee, "project_id": project, "impersonation": true,
        "roles": [{ "name": "reader" }],
    })
}

/// What alice has, as the paths under which it is reached.
async fn belongings(cloud: &Cloud, alice: &str, user: &str, project: &str, bob: &str) -> Vec<String> {
    let of_user = format!("/v3/users/{user}");
    let make = async |path: String, what: &str, of: Value| {
        let answer = cloud.ask(alice, "POST", &path, Some(json!({ what: of }))).await;
        assert_eq!(answer.status, 201, "{path}: {}", answer.body);
        answer.body[what].clone()
    };
    let rule = json!({ "service": "compute", "method": "GET", "path": "/v2.1/servers" });
    let credential = json!({ "name": "ci", "access_rules": [rule] });
    let credential = make(
        format!("{of_user}/application_credentials"),
        "application_credential",
        credential,
    )
    .await;
    let blob = json!({ "access": "a", "secret": "s" }).to_string();
    let kept = json!({ "user_id": user, "project_id": project, "type": "ec2", "blob": blob });
    let kept = make("/v3/credentials".to_owned(), "credential", kept).await;
    // A trustee may look at its trust, so this one is for somebody else.
    let carol = text(&cloud.create("users", "user", json!({ "name": "carol" })).await["id"]);
    let trust = trust(user, &carol, project);
    let trust = make("/v3/OS-TRUST/trusts".to_owned(), "trust", trust).await;
    let group = text(&cloud.create("groups", "group", json!({ "name": "g" })).await["id"]);
    cloud
        .admin("PUT", &format!("/v3/groups/{group}/users/{user}"), None)
        .await;
    let reader = cloud.role("reader").await;
    let access_rule = text(&credential["access_rules"][0]["id"]);
    vec![
        of_user.clone(),
        format!("{of_user}/groups"),
        format!("{of_user}/projects"),
        format!("{of_user}/application_credentials"),
        format!("{of_user}/application_credentials/{}", text(&credential["id"])),
        format!("{of_user}/access_rules"),
        format!("{of_user}/access_rules/{access_rule}"),
        format!("{of_user}/credentials/OS-EC2"),
        format!("{of_user}/credentials/OS-EC2/a"),
        format!("/v3/credentials/{}", text(&kept["id"])),
        format!("/v3/OS-TRUST/trusts/{}", text(&trust["id"])),
        format!("/v3/OS-TRUST/trusts/{}/roles", text(&trust["id"])),
        format!("/v3/OS-TRUST/trusts?trustor_user_id={user}"),
        format!("/v3/projects/{project}"),
        format!("/v3/projects/{project}/tags"),
        format!("/v3/projects/{project}/tags/x"),
        format!("/v3/projects/{project}/users/{user}/roles"),
        format!("/v3/projects/{project}/users/{user}/roles/{reader}"),
        format!("/v3/projects/{project}/users/{bob}/roles/{reader}"),
        format!("/v3/OS-INHERIT/projects/{project}/users/{bob}/roles/{reader}/inherited_to_projects"),
        format!("/v3/domains/default/users/{bob}/roles/{reader}"),
        format!("/v3/system/users/{bob}/roles/{reader}"),
        format!("/v3/groups/{group}"),
        format!("/v3/groups/{group}/users"),
        format!("/v3/groups/{group}/users/{user}"),
        format!("/v3/groups/{group}/users/{bob}"),
        format!("/v3/role_assignments?user.id={user}"),
        format!("/v3/roles/{}", cloud.role("admin").await),
        format!("/v3/OS-EP-FILTER/projects/{project}/endpoints"),
    ]
}

#[tokio::test]
async fn a_stranger_reaches_nothing_by_any_path() {
    let cloud = Cloud::new().await;
    let (user, project) = cloud.member("alice", "member").await;
    let (bob_id, elsewhere) = cloud.member("bob", "manager").await;
    let alice = cloud
        .login("alice", "secret", json!({ "project": { "id": project } }))
        .await
        .token();
    let bob = cloud
        .login("bob", "secret", json!({ "project": { "id": elsewhere } }))
        .await
        .token();
    let paths = belongings(&cloud, &alice, &user, &project, &bob_id).await;
    let seen = async || {
        let mut all = Vec::new();
        for path in &paths {
            let answer = cloud.admin("GET", path, None).await;
            all.push((path.clone(), answer.status, answer.body));
        }
        all
    };
    let before = seen().await;

    for path in &paths {
        for method in [
            Method::GET,
            Method::HEAD,
            Method::POST,
            Method::PUT,
            Method::PATCH,
            Method::DELETE,
        ] {
            let body = matches!(method, Method::POST | Method::PUT | Method::PATCH).then(|| {
                let change = json!({ "name": "mine", "enabled": false, "blob": "{}" });
                json!({ "user": change, "project": change, "group": change, "role": change, "credential": change,
                        "application_credential": change, "trust": trust(&user, &bob_id, &project), "tenant_id": project, "tags": ["mine"] })
            });
            let answer = cloud.ask(&bob, method.as_str(), path, body).await;
            assert!(
                matches!(answer.status, 403..=405),
                "{method} {path}: {} {}",
                answer.status,
                answer.body
            );
            for headers in [&[][..], &[("x-auth-token", "junk")][..]] {
                let nobody = cloud.send(method.clone(), path, headers, None).await;
                assert!(
                    matches!(nobody.status, 401 | 405),
                    "{method} {path} by nobody: {}",
                    nobody.status
                );
            }
        }
    }
    for (was, is) in before.into_iter().zip(seen().await) {
        assert_eq!(was, is);
    }
}
