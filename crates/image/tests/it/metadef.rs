//! Metadata definitions through Glance's API.

use http::StatusCode;
use serde_json::json;

use super::cloud::Cloud;

const NAMESPACES: &str = "/v2/metadefs/namespaces";

#[tokio::test]
async fn a_namespace_comes_with_all_that_is_in_it_and_goes_with_it() {
    let cloud = Cloud::new().await;
    let body = json!({
        "namespace": "OS::Compute::Test", "display_name": "Test", "visibility": "public",
        "resource_type_associations": [{ "name": "OS::Glance::Image", "prefix": "hw_" }],
        "objects": [{ "name": "cpu", "properties": { "cores": { "title": "Cores", "type": "integer", "minimum": 1 } } }],
        "properties": { "mem": { "title": "Memory", "type": "string" } },
        "tags": [{ "name": "quick" }],
    });
    let made = cloud.call("admin", "POST", NAMESPACES, body.clone()).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text());
    assert_eq!(made.headers["location"], "/v2/metadefs/namespaces/OS::Compute::Test");
    let again = cloud.call("admin", "POST", NAMESPACES, body).await;
    assert_eq!(again.status, StatusCode::CONFLICT);
    let of_image = cloud
        .get(
            "demo",
            &format!("{NAMESPACES}/OS::Compute::Test?resource_type=OS::Glance::Image"),
        )
        .await;
    let shown = of_image.json();
    assert_eq!(shown["properties"]["hw_mem"]["title"], "Memory");
    assert_eq!(shown["objects"][0]["properties"]["hw_cores"]["minimum"], 1);
    assert_eq!(shown["tags"], json!([{ "name": "quick" }]));
    let listed = cloud
        .get("demo", &format!("{NAMESPACES}?resource_types=OS::Glance::Image"))
        .await
        .json();
    assert_eq!(listed["namespaces"].as_array().unwrap().len(), 1);
    let renamed = json!({ "namespace": "renamed", "visibility": "private", "protected": true });
    let path = format!("{NAMESPACES}/OS::Compute::Test");
    assert_eq!(cloud.call("admin", "PUT", &path, renamed).await.status, StatusCode::OK);
    assert_eq!(cloud.get("admin", &path).await.status, StatusCode::NOT_FOUND);
    // Private now: nobody else's any more, and protected against its owner too.
    let path = format!("{NAMESPACES}/renamed");
    assert_eq!(cloud.get("demo", &path).await.status, StatusCode::NOT_FOUND);
    assert_eq!(
        cloud.call("admin", "DELETE", &path, json!(null)).await.status,
        StatusCode::FORBIDDEN
    );
    let free = json!({ "namespace": "renamed" });
    assert_eq!(
        cloud.call("admin", "PUT", &path, free.clone()).await.status,
        StatusCode::OK
    );
    assert_eq!(
        cloud.call("admin", "DELETE", &path, json!(null)).await.status,
        StatusCode::NO_CONTENT
    );
    assert_eq!(
        cloud.call("admin", "POST", NAMESPACES, free).await.status,
        StatusCode::CREATED
    );
}

#[tokio::test]
async fn parts_are_made_changed_listed_and_removed() {
    let cloud = Cloud::new().await;
    let body = json!({ "namespace": "ns" });
    assert_eq!(
        cloud.call("admin", "POST", NAMESPACES, body).await.status,
        StatusCode::CREATED
    );
    let bodies = [
        (
            "objects",
            json!({ "name": "a", "description": "one" }),
            json!({ "name": "b" }),
        ),
        (
            "properties",
            json!({ "name": "a", "title": "A", "type": "string" }),
            json!({ "name": "b", "title": "B", "type": "integer" }),
        ),
    ];
    for (parts, first, second) in bodies {
        let all = format!("{NAMESPACES}/ns/{parts}");
        assert_eq!(
            cloud.call("admin", "POST", &all, first.clone()).await.status,
            StatusCode::CREATED
        );
        assert_eq!(
            cloud.call("admin", "POST", &all, first).await.status,
            StatusCode::CONFLICT
        );
        assert_eq!(
            cloud.call("demo", "POST", &all, second.clone()).await.status,
            StatusCode::NOT_FOUND
        );
        let changed = cloud.call("admin", "PUT", &format!("{all}/a"), second).await;
        assert_eq!(
            (changed.status, changed.json()["name"].clone()),
            (StatusCode::OK, json!("b"))
        );
        assert_eq!(
            cloud.get("admin", &format!("{all}/a")).await.status,
            StatusCode::NOT_FOUND
        );
        assert_eq!(cloud.get("admin", &format!("{all}/b")).await.status, StatusCode::OK);
        let removed = cloud.call("admin", "DELETE", &format!("{all}/b"), json!(null)).await;
        assert_eq!(removed.status, StatusCode::NO_CONTENT);
    }
    let tags = format!("{NAMESPACES}/ns/tags");
    for name in ["x", "y"] {
        let made = cloud
            .call("admin", "POST", &format!("{tags}/{name}"), json!(null))
            .await;
        assert_eq!(made.status, StatusCode::CREATED, "{}", made.text());
    }
    assert_eq!(
        cloud
            .call("admin", "POST", &format!("{tags}/X"), json!(null))
            .await
            .status,
        StatusCode::CONFLICT
    );
    let page = cloud.get("admin", &format!("{tags}?limit=1")).await.json();
    assert_eq!(page["tags"][0]["name"], "y");
    assert_eq!(page["next"], "/v2/metadefs/namespaces/ns/tags?limit=1&marker=y");
    let replaced = cloud
        .call("admin", "POST", &tags, json!({ "tags": [{ "name": "z" }] }))
        .await;
    assert_eq!(replaced.status, StatusCode::CREATED);
    let left = cloud.get("admin", &tags).await.json();
    assert_eq!(left["tags"].as_array().unwrap().len(), 1);
    assert_eq!(
        cloud.call("admin", "DELETE", &tags, json!(null)).await.status,
        StatusCode::NO_CONTENT
    );
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    let cloud = Cloud::new().await;
    let long = "n".repeat(81);
    for (body, status, word) in [
        (json!({ "namespace": long }), StatusCode::BAD_REQUEST, "too long"),
        (json!({}), StatusCode::BAD_REQUEST, "namespace"),
        (
            json!({ "namespace": "a", "visibility": "shared" }),
            StatusCode::BAD_REQUEST,
            "shared",
        ),
        (
            json!({ "namespace": "a", "created_at": "now" }),
            StatusCode::FORBIDDEN,
            "created_at",
        ),
    ] {
        let answer = cloud.call("admin", "POST", NAMESPACES, body.clone()).await;
        assert_eq!(answer.status, status, "{body}");
        assert!(answer.text().contains(word), "{body}: {}", answer.text());
    }
    let forbidden = cloud
        .call("demo", "POST", NAMESPACES, json!({ "namespace": "a" }))
        .await;
    assert_eq!(forbidden.status, StatusCode::FORBIDDEN);
}
