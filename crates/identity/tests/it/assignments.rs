//! Roles: granted, inherited, implied, and listed.

use serde_json::json;

use crate::cloud::{Cloud, text};

#[tokio::test]
async fn roles_reach_through_groups_and_down_the_tree() {
    let cloud = Cloud::new().await;
    let project = text(&cloud.create("projects", "project", json!({ "name": "p" })).await["id"]);
    let child = cloud
        .create("projects", "project", json!({ "name": "c", "parent_id": project }))
        .await;
    let child = text(&child["id"]);
    let user = text(
        &cloud
            .create("users", "user", json!({ "name": "alice", "password": "secret" }))
            .await["id"],
    );
    let group = text(&cloud.create("groups", "group", json!({ "name": "g" })).await["id"]);
    let login = async |id: &str| cloud.login("alice", "secret", json!({ "project": { "id": id } })).await;

    cloud
        .grant(&format!("projects/{project}/groups/{group}"), "member")
        .await;
    assert_eq!(login(&project).await.status, 401);
    cloud
        .admin("PUT", &format!("/v3/groups/{group}/users/{user}"), None)
        .await;
    assert_eq!(login(&project).await.names("roles"), ["member", "reader"]);
    assert_eq!(
        login(&child).await.status,
        401,
        "a role is not inherited unless it says so"
    );

    let reader = cloud.role("reader").await;
    let inherited = format!("/v3/OS-INHERIT/projects/{project}/users/{user}/roles/{reader}/inherited_to_projects");
    assert_eq!(cloud.admin("PUT", &inherited, None).await.status, 204);
    assert_eq!(cloud.admin("HEAD", &inherited, None).await.status, 204);
    assert_eq!(login(&child).await.names("roles"), ["reader"]);
    assert_eq!(cloud.admin("DELETE", &inherited, None).await.status, 204);
    assert_eq!(cloud.admin("HEAD", &inherited, None).await.status, 404);
    assert_eq!(login(&child).await.status, 401);

    let on_domain = format!("/v3/OS-INHERIT/domains/default/users/{user}/roles");
    cloud
        .admin("PUT", &format!("{on_domain}/{reader}/inherited_to_projects"), None)
        .await;
    assert_eq!(login(&child).await.names("roles"), ["reader"]);
    let listed = cloud
        .admin("GET", &format!("{on_domain}/inherited_to_projects"), None)
        .await;
    assert_eq!(listed.names("roles"), ["reader"]);
    assert_eq!(
        cloud
            .login("alice", "secret", json!({ "domain": { "id": "default" } }))
            .await
            .status,
        401
    );
    let projects = cloud.admin("GET", &format!("/v3/users/{user}/projects"), None).await;
    assert_eq!(projects.names("projects"), ["admin", "c", "demo", "p"]);
}

#[tokio::test]
async fn roles_imply_others_but_none_implies_admin() {
    let cloud = Cloud::new().await;
    let auditor = text(&cloud.create("roles", "role", json!({ "name": "auditor" })).await["id"]);
    let (reader, admin) = (cloud.role("reader").await, cloud.role("admin").await);
    let path = format!("/v3/roles/{auditor}/implies/{reader}");
    assert_eq!(cloud.admin("GET", &path, None).await.status, 404);
    let made = cloud.admin("PUT", &path, None).await;
    assert_eq!(
        (made.status, &made.body["role_inference"]["implies"]["name"]),
        (201, &json!("reader"))
    );
    let (_, project) = cloud.member("alice", "auditor").await;
    let login = async || {
        cloud
            .login("alice", "secret", json!({ "project": { "id": project } }))
            .await
    };
    assert_eq!(login().await.names("roles"), ["auditor", "reader"]);
    assert_eq!(
        cloud
            .admin("PUT", &format!("/v3/roles/{auditor}/implies/{admin}"), None)
            .await
            .status,
        403
    );
    let all = cloud.admin("GET", "/v3/role_inferences", None).await;
    assert_eq!(all.body["role_inferences"].as_array().unwrap().len(), 4);
    assert_eq!(cloud.admin("DELETE", &path, None).await.status, 204);
    assert_eq!(login().await.names("roles"), ["auditor"]);
}

#[tokio::test]
async fn a_domains_own_role_is_only_what_it_implies() {
    let cloud = Cloud::new().await;
    let own = cloud
        .create("roles", "role", json!({ "name": "clerk", "domain_id": "default" }))
        .await;
    let own = text(&own["id"]);
    let reader = cloud.role("reader").await;
    let (user, project) = cloud.member("alice", "member").await;
    cloud
        .admin(
            "DELETE",
            &format!(
                "/v3/projects/{project}/users/{user}/roles/{}",
                cloud.role("member").await
            ),
            None,
        )
        .await;
    let grant = format!("/v3/projects/{project}/users/{user}/roles/{own}");
    assert_eq!(cloud.admin("PUT", &grant, None).await.status, 204);
    let login = async || {
        cloud
            .login("alice", "secret", json!({ "project": { "id": project } }))
            .await
    };
    assert_eq!(login().await.status, 401);
    cloud
        .admin("PUT", &format!("/v3/roles/{own}/implies/{reader}"), None)
        .await;
    assert_eq!(login().await.names("roles"), ["reader"]);
    assert!(
        !cloud
            .admin("GET", "/v3/roles", None)
            .await
            .names("roles")
            .contains(&"clerk".to_owned())
    );
    let listed = cloud.admin("GET", "/v3/roles?domain_id=default", None).await;
    assert_eq!(listed.names("roles"), ["clerk"]);
    let elsewhere = text(&cloud.create("domains", "domain", json!({ "name": "acme" })).await["id"]);
    let theirs = cloud
        .create(
            "projects",
            "project",
            json!({ "name": "theirs", "domain_id": elsewhere }),
        )
        .await;
    let grant = format!("/v3/projects/{}/users/{user}/roles/{own}", text(&theirs["id"]));
    assert_eq!(cloud.admin("PUT", &grant, None).await.status, 403);
}

#[tokio::test]
async fn assignments_are_listed_as_stored_and_as_they_work_out() {
    let cloud = Cloud::new().await;
    let (user, project) = cloud.member("alice", "member").await;
    let group = text(&cloud.create("groups", "group", json!({ "name": "g" })).await["id"]);
    cloud
        .admin("PUT", &format!("/v3/groups/{group}/users/{user}"), None)
        .await;
    cloud
        .grant(&format!("projects/{project}/groups/{group}"), "manager")
        .await;
    let list = async |query: &str| {
        let answer = cloud.admin("GET", &format!("/v3/role_assignments?{query}"), None).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.body["role_assignments"].as_array().unwrap().clone()
    };
    let stored = list(&format!("scope.project.id={project}&include_names")).await;
    assert_eq!(stored.len(), 2);
    let of_user = stored.iter().find(|entry| entry.get("user").is_some()).unwrap();
    assert_eq!(of_user["user"]["name"], "alice");
    assert_eq!(of_user["user"]["domain"], json!({ "id": "default", "name": "Default" }));
    assert_eq!(of_user["role"]["name"], "member");
    let link = format!(
        "http://cloud/identity/v3/projects/{project}/users/{user}/roles/{}",
        cloud.role("member").await
    );
    assert_eq!(of_user["links"]["assignment"], link);

    let effective = list(&format!("user.id={user}&effective&include_names=true")).await;
    let mut roles: Vec<String> = effective.iter().map(|entry| text(&entry["role"]["name"])).collect();
    roles.sort();
    assert_eq!(roles, ["manager", "member", "reader"]);
    let manager = effective
        .iter()
        .find(|entry| entry["role"]["name"] == "manager")
        .unwrap();
    assert_eq!(
        manager["links"]["membership"],
        format!("http://cloud/identity/v3/groups/{group}/users/{user}")
    );

    assert_eq!(list(&format!("group.id={group}")).await.len(), 1);
    assert_eq!(list("scope.system=all").await.len(), 1);
    let reader = cloud.role("reader").await;
    let inherited = format!("/v3/OS-INHERIT/domains/default/users/{user}/roles/{reader}/inherited_to_projects");
    cloud.admin("PUT", &inherited, None).await;
    let entry = &list(&format!("user.id={user}&scope.OS-INHERIT:inherited_to=projects")).await[0];
    assert_eq!(
        entry["scope"],
        json!({ "domain": { "id": "default" }, "OS-INHERIT:inherited_to": "projects" })
    );
    assert_eq!(
        list(&format!("user.id={user}&role.id={reader}&effective")).await.len(),
        3
    );
    for bad in [
        "user.id=a&group.id=b",
        "effective&group.id=b",
        "scope.project.id=a&scope.domain.id=b",
        "include_subtree",
    ] {
        assert_eq!(
            cloud
                .admin("GET", &format!("/v3/role_assignments?{bad}"), None)
                .await
                .status,
            400,
            "{bad}"
        );
    }
}

#[tokio::test]
async fn a_domain_manager_manages_its_domain_only() {
    let cloud = Cloud::new().await;
    let domain = text(&cloud.create("domains", "domain", json!({ "name": "acme" })).await["id"]);
    let chief = json!({ "name": "chief", "password": "secret", "domain_id": domain });
    let chief = text(&cloud.create("users", "user", chief).await["id"]);
    cloud.grant(&format!("domains/{domain}/users/{chief}"), "manager").await;
    let user = json!({ "id": chief, "password": "secret" });
    let proof = json!({ "methods": ["password"], "password": { "user": user } });
    let token = cloud
        .authenticate(proof, json!({ "domain": { "id": domain } }))
        .await
        .token();
    let create = async |domain: &str| {
        let body = json!({ "project": { "name": "p", "domain_id": domain } });
        cloud.ask(&token, "POST", "/v3/projects", Some(body)).await
    };
    let made = create(&domain).await;
    assert_eq!((made.status, create("default").await.status), (201, 403));
    let listed = cloud.ask(&token, "GET", "/v3/projects", None).await;
    assert_eq!(listed.names("projects"), ["p"]);
    assert_eq!(
        cloud.ask(&token, "GET", "/v3/users", None).await.names("users"),
        ["chief"]
    );
    assert_eq!(
        cloud
            .ask(&token, "GET", "/v3/users?domain_id=default", None)
            .await
            .status,
        403
    );
    let project = text(&made.body["project"]["id"]);
    let grant = async |role: &str| {
        let path = format!("/v3/projects/{project}/users/{chief}/roles/{}", cloud.role(role).await);
        cloud.ask(&token, "PUT", &path, None).await.status
    };
    assert_eq!((grant("member").await, grant("admin").await), (204, 403));
}
