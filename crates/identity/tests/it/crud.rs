//! Projects, domains, users, groups, roles and the catalog, as clients keep them.

use http::Method;
use serde_json::{Value, json};

use crate::cloud::{Cloud, text};

#[tokio::test]
async fn projects_form_a_tree_with_unique_names() {
    let cloud = Cloud::new().await;
    let parent = cloud
        .create("projects", "project", json!({ "name": "parent", "color": "red" }))
        .await;
    assert_eq!(
        (&parent["domain_id"], &parent["parent_id"]),
        (&json!("default"), &json!("default"))
    );
    assert_eq!(
        (&parent["color"], &parent["is_domain"], &parent["description"]),
        (&json!("red"), &json!(false), &json!(""))
    );
    let id = text(&parent["id"]);
    assert_eq!(
        parent["links"]["self"],
        format!("http://cloud/identity/v3/projects/{id}")
    );
    let child = cloud
        .create("projects", "project", json!({ "name": "child", "parent_id": id }))
        .await;
    let child_id = text(&child["id"]);
    let shown = cloud
        .admin("GET", &format!("/v3/projects/{child_id}?parents_as_ids"), None)
        .await;
    assert_eq!(
        shown.body["project"]["parents"],
        json!({ id.as_str(): { "default": null } })
    );
    let shown = cloud
        .admin("GET", &format!("/v3/projects/{id}?subtree_as_list"), None)
        .await;
    assert_eq!(shown.body["project"]["subtree"][0]["project"]["name"], "child");

    let taken = cloud
        .admin("POST", "/v3/projects", Some(json!({ "project": { "name": "child" } })))
        .await;
    assert_eq!((taken.status, &taken.body["error"]["title"]), (409, &json!("Conflict")));
    let words =
        "Conflict occurred attempting to store project - Duplicate entry found with name child at domain ID default.";
    assert_eq!(taken.body["error"]["message"], words);

    let not_leaf = cloud.admin("DELETE", &format!("/v3/projects/{id}"), None).await;
    assert_eq!(not_leaf.status, 403);
    let disable = json!({ "project": { "enabled": false } });
    assert_eq!(
        cloud
            .admin("PATCH", &format!("/v3/projects/{id}"), Some(disable))
            .await
            .status,
        403
    );
    assert_eq!(
        cloud
            .admin("DELETE", &format!("/v3/projects/{child_id}"), None)
            .await
            .status,
        204
    );
    assert_eq!(
        cloud.admin("DELETE", &format!("/v3/projects/{id}"), None).await.status,
        204
    );
    let gone = cloud.admin("GET", &format!("/v3/projects/{id}"), None).await;
    assert_eq!(gone.body["error"]["message"], format!("Could not find project: {id}."));
    cloud.create("projects", "project", json!({ "name": "child" })).await;
}

#[tokio::test]
async fn renaming_frees_the_old_name_and_takes_the_new() {
    let cloud = Cloud::new().await;
    let one = cloud
        .create("users", "user", json!({ "name": "one", "email": "a@b" }))
        .await;
    cloud.create("users", "user", json!({ "name": "two" })).await;
    let path = format!("/v3/users/{}", text(&one["id"]));
    let rename = |name: &str| json!({ "user": { "name": name } });
    assert_eq!(cloud.admin("PATCH", &path, Some(rename("two"))).await.status, 409);
    assert_eq!(
        cloud.admin("PATCH", &path, Some(rename("three"))).await.body["user"]["email"],
        "a@b"
    );
    assert_eq!(
        cloud.admin("POST", "/v3/users", Some(rename("three"))).await.status,
        409
    );
    cloud.create("users", "user", json!({ "name": "one" })).await;
}

#[tokio::test]
async fn concurrent_claims_of_a_name_have_one_winner() {
    let cloud = Cloud::new().await;
    let claims = (0..8).map(|_| cloud.admin("POST", "/v3/projects", Some(json!({ "project": { "name": "same" } }))));
    let mut statuses: Vec<u16> = futures(claims).await;
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 409, 409, 409, 409, 409, 409, 409]);
}

async fn futures(all: impl Iterator<Item = impl Future<Output = crate::cloud::Answer>>) -> Vec<u16> {
    let mut set: Vec<_> = all.map(Box::pin).collect();
    let mut done = Vec::new();
    std::future::poll_fn(|cx| {
        set.retain_mut(|future| match future.as_mut().poll(cx) {
            std::task::Poll::Ready(answer) => {
                done.push(answer.status);
                false
            }
            std::task::Poll::Pending => true,
        });
        if set.is_empty() {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    done
}

#[tokio::test]
async fn a_domain_goes_with_all_that_is_in_it_but_not_while_enabled() {
    let cloud = Cloud::new().await;
    let domain = cloud.create("domains", "domain", json!({ "name": "acme" })).await;
    let id = text(&domain["id"]);
    let inside = |name: &str| json!({ "name": name, "domain_id": id });
    let user = cloud.create("users", "user", inside("u")).await;
    let project = cloud.create("projects", "project", inside("p")).await;
    let group = cloud.create("groups", "group", inside("g")).await;
    cloud
        .grant(
            &format!("projects/{}/users/{}", text(&project["id"]), text(&user["id"])),
            "member",
        )
        .await;
    let path = format!("/v3/domains/{id}");
    assert_eq!(cloud.admin("DELETE", &path, None).await.status, 403);
    cloud
        .admin("PATCH", &path, Some(json!({ "domain": { "enabled": false } })))
        .await;
    assert_eq!(cloud.admin("DELETE", &path, None).await.status, 204);
    for (collection, item) in [
        ("users", user),
        ("projects", project),
        ("groups", group),
        ("domains", domain),
    ] {
        let path = format!("/v3/{collection}/{}", text(&item["id"]));
        assert_eq!(cloud.admin("GET", &path, None).await.status, 404, "{path}");
    }
    assert_eq!(
        cloud.create("domains", "domain", json!({ "name": "acme" })).await["name"],
        "acme"
    );
}

#[tokio::test]
async fn bad_bodies_are_refused_in_keystones_words() {
    let cloud = Cloud::new().await;
    for (path, body, words) in [
        (
            "/v3/projects",
            json!({ "project": { "name": "" } }),
            "Invalid input for field 'project/name': '' is too short",
        ),
        (
            "/v3/projects",
            json!({ "project": {} }),
            "Invalid input for field 'project': 'name' is a required property",
        ),
        (
            "/v3/users",
            json!({ "user": { "name": 5 } }),
            "Invalid input for field 'user/name': 5 is not of type 'string'",
        ),
        ("/v3/roles", json!({}), "'role' is a required property"),
    ] {
        let answer = cloud.admin("POST", path, Some(body)).await;
        assert_eq!(
            (answer.status, &answer.body["error"]["message"]),
            (400, &json!(words)),
            "{path}"
        );
    }
    let too_long = json!({ "project": { "name": "x".repeat(65) } });
    assert_eq!(cloud.admin("POST", "/v3/projects", Some(too_long)).await.status, 400);
    let huge = json!({ "project": { "name": "x".repeat(200_000) } });
    assert_eq!(cloud.admin("POST", "/v3/projects", Some(huge)).await.status, 413);
}

#[tokio::test]
async fn lists_are_filtered_and_paged() {
    let cloud = Cloud::new().await;
    for name in ["a1", "a2", "a3", "b1"] {
        cloud
            .create("projects", "project", json!({ "name": name, "enabled": name != "a2" }))
            .await;
    }
    let names = async |query: &str| {
        cloud
            .admin("GET", &format!("/v3/projects?{query}"), None)
            .await
            .names("projects")
    };
    assert_eq!(names("name=a1").await, ["a1"]);
    assert_eq!(names("name__startswith=a&enabled=true").await, ["a1", "a3", "admin"]);
    assert_eq!(names("name__startswith=a&enabled=0").await, ["a2"]);
    let page = cloud
        .admin("GET", "/v3/projects?name__startswith=a&limit=2", None)
        .await;
    assert_eq!(page.names("projects"), ["a1", "a2"]);
    let next = text(&page.body["links"]["next"]);
    let page = cloud
        .admin("GET", next.strip_prefix("http://cloud/identity").unwrap(), None)
        .await;
    assert_eq!(
        (page.names("projects"), &page.body["links"]["next"]),
        (vec!["a3".into(), "admin".into()], &Value::Null)
    );
}

#[tokio::test]
async fn tags_are_kept_and_searched() {
    let cloud = Cloud::new().await;
    let project = cloud
        .create("projects", "project", json!({ "name": "p", "tags": ["a"] }))
        .await;
    let path = format!("/v3/projects/{}/tags", text(&project["id"]));
    assert_eq!(cloud.admin("PUT", &format!("{path}/b"), None).await.status, 201);
    assert_eq!(cloud.admin("GET", &format!("{path}/b"), None).await.status, 204);
    assert_eq!(
        cloud
            .admin("GET", "/v3/projects?tags=a,b", None)
            .await
            .names("projects"),
        ["p"]
    );
    assert_eq!(
        cloud
            .admin("GET", "/v3/projects?tags=a,c", None)
            .await
            .names("projects"),
        [""; 0]
    );
    assert_eq!(cloud.admin("DELETE", &format!("{path}/a"), None).await.status, 204);
    assert_eq!(cloud.admin("DELETE", &format!("{path}/a"), None).await.status, 404);
    let replaced = cloud.admin("PUT", &path, Some(json!({ "tags": ["x", "y"] }))).await;
    assert_eq!((replaced.status, &replaced.body["tags"]), (200, &json!(["x", "y"])));
    assert_eq!(
        cloud.admin("PUT", &path, Some(json!({ "tags": ["x,y"] }))).await.status,
        400
    );
    assert_eq!(cloud.admin("DELETE", &path, None).await.status, 204);
    assert_eq!(cloud.admin("GET", &path, None).await.body, json!({ "tags": [] }));
}

#[tokio::test]
async fn members_come_and_go_in_groups() {
    let cloud = Cloud::new().await;
    let group = text(&cloud.create("groups", "group", json!({ "name": "g" })).await["id"]);
    let user = text(&cloud.create("users", "user", json!({ "name": "u" })).await["id"]);
    let path = format!("/v3/groups/{group}/users/{user}");
    assert_eq!(cloud.admin("HEAD", &path, None).await.status, 404);
    for _ in 0..2 {
        assert_eq!(cloud.admin("PUT", &path, None).await.status, 204);
    }
    assert_eq!(cloud.admin("HEAD", &path, None).await.status, 204);
    assert_eq!(
        cloud
            .admin("GET", &format!("/v3/groups/{group}/users"), None)
            .await
            .names("users"),
        ["u"]
    );
    assert_eq!(
        cloud
            .admin("GET", &format!("/v3/users/{user}/groups"), None)
            .await
            .names("groups"),
        ["g"]
    );
    assert_eq!(cloud.admin("DELETE", &path, None).await.status, 204);
    assert_eq!(
        cloud
            .admin("GET", &format!("/v3/groups/{group}/users"), None)
            .await
            .names("users"),
        [""; 0]
    );
}

#[tokio::test]
async fn the_catalog_is_kept_and_its_endpoints_checked() {
    let cloud = Cloud::new().await;
    let region = cloud.create("regions", "region", json!({ "id": "east" })).await;
    assert_eq!(region["parent_region_id"], Value::Null);
    let service = text(
        &cloud
            .create("services", "service", json!({ "type": "dns", "name": "designate" }))
            .await["id"],
    );
    let endpoint = |url: &str| json!({ "interface": "public", "service_id": service, "region_id": "east", "url": url });
    let made = cloud
        .create("endpoints", "endpoint", endpoint("http://dns/%(tenant_id)s"))
        .await;
    let bad = cloud
        .admin(
            "POST",
            "/v3/endpoints",
            Some(json!({ "endpoint": endpoint("http://dns/$(password)s") })),
        )
        .await;
    assert_eq!(bad.status, 400);
    assert_eq!(cloud.admin("DELETE", "/v3/regions/east", None).await.status, 403);
    let path = format!("/v3/endpoints/{}", text(&made["id"]));
    let moved = cloud
        .admin("PATCH", &path, Some(json!({ "endpoint": { "region": "west" } })))
        .await;
    assert_eq!(
        moved.body["endpoint"]["region_id"], "west",
        "under its old name a region is made"
    );
    let lost = cloud
        .admin("PATCH", &path, Some(json!({ "endpoint": { "region_id": "north" } })))
        .await;
    assert_eq!(lost.status, 404);
    assert_eq!(
        cloud.admin("GET", "/v3/regions/west/", None).await.status,
        200,
        "a slash at the end changes nothing"
    );
    let found = cloud
        .admin("GET", &format!("/v3/endpoints?service_id={service}"), None)
        .await;
    assert_eq!(found.body["endpoints"][0]["id"], made["id"]);
    let catalog = cloud.admin("GET", "/v3/auth/catalog", None).await;
    let project = cloud.begun.admin_project.clone().unwrap();
    let dns = catalog.body["catalog"]
        .as_array()
        .unwrap()
        .iter()
        .find(|service| service["type"] == "dns")
        .unwrap();
    assert_eq!(dns["endpoints"][0]["url"], format!("http://dns/{project}"));
    assert_eq!(
        cloud
            .admin("DELETE", &format!("/v3/services/{service}"), None)
            .await
            .status,
        204
    );
    assert_eq!(
        cloud
            .admin("GET", &format!("/v3/endpoints/{}", text(&made["id"])), None)
            .await
            .status,
        404
    );
    assert_eq!(cloud.admin("DELETE", "/v3/regions/east", None).await.status, 204);
    assert_eq!(
        cloud
            .admin("POST", "/v3/regions", Some(json!({ "region": { "id": "RegionOne" } })))
            .await
            .status,
        409
    );
}

#[tokio::test]
async fn a_project_sees_the_endpoints_chosen_for_it() {
    let cloud = Cloud::new().await;
    let project = cloud.begun.admin_project.clone().unwrap();
    let catalog = async || cloud.admin("GET", "/v3/auth/catalog", None).await.names("catalog");
    assert_eq!(catalog().await, ["keystone", "cinder"]);
    let found = cloud.admin("GET", "/v3/services?type=volumev3", None).await;
    let filters = json!({ "service_id": found.body["services"][0]["id"], "interface": "public" });
    let group = json!({ "endpoint_group": { "name": "volumes", "filters": filters } });
    let made = cloud
        .admin("POST", "/v3/OS-EP-FILTER/endpoint_groups", Some(group))
        .await;
    let group = format!(
        "/v3/OS-EP-FILTER/endpoint_groups/{}",
        text(&made.body["endpoint_group"]["id"])
    );
    let choice = format!("{group}/projects/{project}");
    assert_eq!(cloud.admin("GET", &choice, None).await.status, 404);
    assert_eq!(cloud.admin("PUT", &choice, None).await.status, 204);
    assert_eq!(catalog().await, ["cinder"]);
    let listed = cloud
        .admin("GET", &format!("/v3/OS-EP-FILTER/projects/{project}/endpoints"), None)
        .await;
    assert_eq!(listed.body["endpoints"].as_array().unwrap().len(), 1);
    assert_eq!(
        cloud
            .admin("GET", &format!("{group}/projects"), None)
            .await
            .names("projects"),
        ["admin"]
    );
    let bad = json!({ "endpoint_group": { "name": "x", "filters": { "color": "red" } } });
    assert_eq!(
        cloud
            .admin("POST", "/v3/OS-EP-FILTER/endpoint_groups", Some(bad))
            .await
            .status,
        400
    );
    assert_eq!(cloud.admin("DELETE", &group, None).await.status, 204);
    assert_eq!(catalog().await, ["keystone", "cinder"]);
}

#[tokio::test]
async fn who_is_no_admin_changes_nothing_and_sees_little() {
    let cloud = Cloud::new().await;
    let (user, project) = cloud.member("alice", "member").await;
    let alice = cloud
        .login("alice", "secret", json!({ "project": { "id": project } }))
        .await
        .token();
    let (other, elsewhere) = cloud.member("bob", "member").await;
    let allowed = [
        format!("/v3/users/{user}"),
        format!("/v3/projects/{project}"),
        format!("/v3/users/{user}/projects"),
    ];
    for path in &allowed {
        assert_eq!(cloud.ask(&alice, "GET", path, None).await.status, 200, "{path}");
    }
    let refused = [
        ("GET", "/v3/users".to_owned()),
        ("GET", "/v3/projects".to_owned()),
        ("GET", "/v3/domains".to_owned()),
        ("GET", "/v3/roles".to_owned()),
        ("GET", "/v3/services".to_owned()),
        ("GET", "/v3/role_assignments".to_owned()),
        ("GET", format!("/v3/users/{other}")),
        ("GET", format!("/v3/users/{other}/projects")),
        ("GET", format!("/v3/projects/{elsewhere}")),
        ("GET", "/v3/users/nobody".to_owned()),
        ("DELETE", format!("/v3/users/{user}")),
        ("DELETE", format!("/v3/projects/{project}")),
    ];
    for (method, path) in refused {
        assert_eq!(
            cloud.ask(&alice, method, &path, None).await.status,
            403,
            "{method} {path}"
        );
    }
    for (collection, what) in [
        ("projects", "project"),
        ("users", "user"),
        ("roles", "role"),
        ("domains", "domain"),
    ] {
        let body = json!({ what: { "name": "x" } });
        let answer = cloud
            .ask(&alice, "POST", &format!("/v3/{collection}"), Some(body))
            .await;
        assert_eq!(answer.status, 403, "{collection}");
        let rule = format!("identity:create_{what}");
        assert!(
            text(&answer.body["error"]["message"]).contains(&rule),
            "{}",
            answer.body
        );
    }
    assert_eq!(cloud.send(Method::GET, "/v3/users", &[], None).await.status, 401);
}
