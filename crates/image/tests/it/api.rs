//! What Glance's clients do to images, but for their bytes.

use serde_json::json;

use super::cloud::Cloud;

#[tokio::test]
async fn an_image_is_shown_as_it_was_created() {
    let cloud = Cloud::new().await;
    let body = json!({"name": "a", "disk_format": "raw", "container_format": "bare", "min_disk": 2, "min_ram": 64,
        "protected": false, "visibility": "private", "tags": ["x", "x"], "os_distro": "debian",
        "id": "11111111-2222-4333-8444-555555555555"});
    let created = cloud.call("alice", "POST", "/v2/images", body.clone()).await;
    assert_eq!(created.status, 201);
    let location = created.headers["location"].to_str().unwrap();
    assert_eq!(
        location,
        "http://cloud/image/v2/images/11111111-2222-4333-8444-555555555555"
    );
    let mut image = created.json();
    for (field, value) in [
        ("status", json!("queued")),
        ("owner", json!("alice")),
        ("size", json!(null)),
        ("checksum", json!(null)),
        ("os_hash_value", json!(null)),
        ("os_hidden", json!(false)),
        ("tags", json!(["x"])),
        ("os_distro", json!("debian")),
        ("self", json!("/v2/images/11111111-2222-4333-8444-555555555555")),
        ("file", json!("/v2/images/11111111-2222-4333-8444-555555555555/file")),
        ("schema", json!("/v2/schemas/image")),
    ] {
        assert_eq!(image[field], value, "{field}");
    }
    assert_eq!(
        cloud
            .get("alice", "/v2/images/11111111-2222-4333-8444-555555555555")
            .await
            .json(),
        image
    );
    let again = cloud.call("alice", "POST", "/v2/images", body.clone()).await;
    assert_eq!(again.status, 409);
    // The id is taken for everybody, whoever may see it.
    assert_eq!(cloud.call("bob", "POST", "/v2/images", body).await.status, 409);
    image["name"] = json!("b");
    assert_eq!(cloud.call("alice", "POST", "/v2/images", image).await.status, 403);
}

#[tokio::test]
async fn bad_images_are_refused_with_glances_words() {
    let cloud = Cloud::new().await;
    for (body, status, words) in [
        (
            json!({"disk_format": "nope"}),
            400,
            "Provided object does not match schema 'image': 'nope' is not one of",
        ),
        (json!({"min_disk": "1"}), 400, "'1' is not of type 'integer'"),
        (json!({"min_ram": -1}), 400, "-1 is less than the minimum of 0"),
        (json!({"name": "n".repeat(256)}), 400, "is too long"),
        (json!({"id": "not-an-id"}), 400, "does not match"),
        (json!({"x": {"deep": true}}), 400, "is not of type 'string'"),
        (json!({"status": "active"}), 403, "Attribute 'status' is read-only."),
        (json!({"deleted": "no"}), 403, "Attribute 'deleted' is reserved."),
        (
            json!({"owner": "bob"}),
            403,
            "You are not permitted to create images owned by 'bob'.",
        ),
        (
            json!({"visibility": "public"}),
            403,
            "You are not authorized to complete publicize_image action.",
        ),
        (json!([]), 400, "must be an object"),
    ] {
        let answer = cloud.call("alice", "POST", "/v2/images", body.clone()).await;
        let text = answer.text().replace("&#x27;", "'").replace("&quot;", "\"");
        assert!(
            answer.status == status && text.contains(words),
            "{body}: {} {text}",
            answer.status
        );
    }
    assert_eq!(cloud.call("reader", "POST", "/v2/images", json!({})).await.status, 403);
    let properties: serde_json::Map<_, _> = (0..129).map(|i| (format!("p{i}"), json!("v"))).collect();
    assert_eq!(
        cloud
            .call("alice", "POST", "/v2/images", json!(properties))
            .await
            .status,
        413
    );
    assert!(cloud.names("alice", "").await.is_empty());
}

#[tokio::test]
async fn nobody_sees_what_is_not_theirs() {
    let cloud = Cloud::new().await;
    let id = cloud.create("alice", json!({"name": "mine"})).await;
    let path = format!("/v2/images/{id}");
    let message = cloud.get("bob", &path).await;
    assert_eq!(message.status, 404);
    assert!(message.text().contains(&format!("No image found with ID {id}")));
    assert_eq!(
        cloud
            .patch("bob", &id, json!([{"op": "replace", "path": "/name", "value": "x"}]))
            .await
            .status,
        404
    );
    assert_eq!(cloud.call("bob", "DELETE", &path, json!(null)).await.status, 404);
    assert_eq!(cloud.put_file("bob", &id, "x").await.status, 404);
    assert_eq!(cloud.get("bob", &format!("{path}/file")).await.status, 404);
    assert_eq!(
        cloud
            .call("bob", "PUT", &format!("{path}/tags/t"), json!(null))
            .await
            .status,
        404
    );
    assert_eq!(cloud.get("bob", &format!("{path}/members")).await.status, 404);
    assert_eq!(
        cloud
            .call("bob", "POST", &format!("{path}/actions/deactivate"), json!(null))
            .await
            .status,
        404
    );
    assert!(cloud.names("bob", "?visibility=all").await.is_empty());
    assert_eq!(cloud.names("admin", "").await, ["mine"]);

    // Seen, it is forbidden.
    cloud
        .patch(
            "admin",
            &id,
            json!([{"op": "replace", "path": "/visibility", "value": "public"}]),
        )
        .await;
    assert_eq!(cloud.get("bob", &path).await.status, 200);
    assert_eq!(
        cloud
            .patch("bob", &id, json!([{"op": "replace", "path": "/name", "value": "x"}]))
            .await
            .status,
        403
    );
    assert_eq!(cloud.call("bob", "DELETE", &path, json!(null)).await.status, 403);
}

#[tokio::test]
async fn lists_are_filtered_sorted_and_paged() {
    let cloud = Cloud::new().await;
    for (name, body) in [
        (
            "a",
            json!({"disk_format": "raw", "container_format": "bare", "tags": ["t", "u"], "role": "db"}),
        ),
        (
            "b",
            json!({"disk_format": "qcow2", "container_format": "bare", "tags": ["t"], "min_ram": 5}),
        ),
        ("c,d", json!({"os_hidden": true})),
        ("e", json!({"visibility": "community"})),
    ] {
        let mut body = body;
        body["name"] = json!(name);
        cloud.create("alice", body).await;
    }
    let sorted = |query: &str| format!("?sort=name:asc{query}");
    let names = async |query: &str| cloud.names("alice", &sorted(query)).await.join(" ");
    for (query, found) in [
        ("", "a b e"),
        ("&name=b", "b"),
        ("&name=in:a,b", "a b"),
        ("&os_hidden=true", "c,d"),
        ("&name=in:%22c,d%22,a&os_hidden=true", "c,d"),
        ("&tag=t", "a b"),
        ("&tag=t&tag=u", "a"),
        ("&role=db", "a"),
        ("&role=web", ""),
        ("&disk_format=in:raw,qcow2", "a b"),
        ("&status=active", ""),
        ("&visibility=community", "e"),
        ("&min_ram=5", "b"),
        ("&created_at=gt:2001-01-01T00:00:00Z", "a b e"),
        ("&created_at=lt:2001-01-01T00:00:00", ""),
        ("&size_min=1", ""),
        ("&limit=0", ""),
    ] {
        assert_eq!(names(query).await, found, "{query}");
    }
    for bad in [
        "limit=x",
        "limit=-1",
        "marker=nope",
        "sort_key=nope",
        "visibility=nope",
        "member_status=nope",
        "created_at=gt:nope",
        "size_min=x",
        "sort_dir=up&sort_key=name",
        "name=in:%22a",
    ] {
        assert_eq!(
            cloud.get("alice", &format!("/v2/images?{bad}")).await.status,
            400,
            "{bad}"
        );
    }

    let first = cloud
        .get("alice", "/v2/images?limit=2&sort_key=name&sort_dir=asc")
        .await
        .json();
    assert_eq!(first["first"], "/v2/images?limit=2&sort_key=name&sort_dir=asc");
    let next = first["next"].as_str().unwrap();
    let second = cloud.get("alice", next).await.json();
    assert_eq!(second["images"][0]["name"], "e");
    assert!(second.get("next").is_none());
    // A community image is only in the lists of those who ask for it.
    assert_eq!(cloud.names("bob", "").await, [""; 0]);
    assert_eq!(cloud.names("bob", "?visibility=community").await, ["e"]);
    assert_eq!(cloud.names("bob", "?visibility=all").await, ["e"]);
}

#[tokio::test]
async fn a_shared_image_is_listed_by_who_accepts_it() {
    let cloud = Cloud::new().await;
    let id = cloud.create("alice", json!({"name": "shared"})).await;
    let members = format!("/v2/images/{id}/members");
    assert_eq!(cloud.call("alice", "POST", &members, json!({})).await.status, 400);
    let member = cloud.call("alice", "POST", &members, json!({"member": "bob"})).await;
    assert_eq!(
        (member.status.as_u16(), member.json()["status"].clone()),
        (200, json!("pending"))
    );
    assert_eq!(
        cloud
            .call("alice", "POST", &members, json!({"member": "bob"}))
            .await
            .status,
        409
    );

    assert!(cloud.names("bob", "").await.is_empty());
    assert_eq!(
        cloud.names("bob", "?member_status=pending&visibility=shared").await,
        ["shared"]
    );
    assert_eq!(cloud.get("bob", &format!("/v2/images/{id}")).await.status, 200);
    let own = format!("{members}/bob");
    // The owner may not speak for the member.
    assert_eq!(
        cloud
            .call("alice", "PUT", &own, json!({"status": "accepted"}))
            .await
            .status,
        403
    );
    assert_eq!(
        cloud
            .call("bob", "PUT", &own, json!({"status": "perhaps"}))
            .await
            .status,
        400
    );
    assert_eq!(
        cloud
            .call("bob", "PUT", &own, json!({"status": "accepted"}))
            .await
            .json()["status"],
        "accepted"
    );
    assert_eq!(cloud.names("bob", "").await, ["shared"]);

    // A member knows of itself only, and cannot share on.
    cloud.call("alice", "POST", &members, json!({"member": "carol"})).await;
    assert_eq!(
        cloud.get("bob", &members).await.json()["members"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert_eq!(
        cloud.get("alice", &members).await.json()["members"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    assert_eq!(
        cloud
            .call("bob", "POST", &members, json!({"member": "dave"}))
            .await
            .status,
        403
    );
    assert_eq!(cloud.get("bob", &format!("{members}/carol")).await.status, 404);

    assert_eq!(cloud.call("bob", "DELETE", &own, json!(null)).await.status, 403);
    assert_eq!(cloud.call("alice", "DELETE", &own, json!(null)).await.status, 204);
    assert_eq!(cloud.get("bob", &format!("/v2/images/{id}")).await.status, 404);
    cloud
        .patch(
            "alice",
            &id,
            json!([{"op": "replace", "path": "/visibility", "value": "private"}]),
        )
        .await;
    assert_eq!(cloud.get("alice", &members).await.status, 403);
}

#[tokio::test]
async fn tags_protection_and_what_describes_the_service() {
    let cloud = Cloud::new().await;
    let id = cloud.create("alice", json!({"protected": true})).await;
    let path = format!("/v2/images/{id}");
    assert_eq!(
        cloud
            .call("alice", "PUT", &format!("{path}/tags/blue"), json!(null))
            .await
            .status,
        204
    );
    assert_eq!(cloud.get("alice", &path).await.json()["tags"], json!(["blue"]));
    assert_eq!(
        cloud
            .call("alice", "DELETE", &format!("{path}/tags/blue"), json!(null))
            .await
            .status,
        204
    );
    assert_eq!(
        cloud
            .call("alice", "DELETE", &format!("{path}/tags/blue"), json!(null))
            .await
            .status,
        404
    );
    let deleted = cloud.call("alice", "DELETE", &path, json!(null)).await;
    assert!(deleted.status == 403 && deleted.text().contains("is protected and cannot be deleted."));
    cloud
        .patch(
            "alice",
            &id,
            json!([{"op": "replace", "path": "/protected", "value": false}]),
        )
        .await;
    assert_eq!(cloud.call("alice", "DELETE", &path, json!(null)).await.status, 204);
    assert_eq!(cloud.get("alice", &path).await.status, 404);

    let versions = cloud.get("alice", "/").await;
    assert_eq!(versions.status, 300);
    assert_eq!(
        versions.json()["versions"][0]["links"][0]["href"],
        "http://cloud/image/v2/"
    );
    assert_eq!(cloud.get("alice", "/versions").await.status, 200);
    for name in ["image", "images", "member", "members"] {
        assert_eq!(
            cloud.get("alice", &format!("/v2/schemas/{name}")).await.json()["name"],
            name
        );
    }
    assert_eq!(cloud.get("alice", "/v2/schemas/nope").await.status, 404);
    assert_eq!(
        cloud.get("alice", "/v2/info/stores").await.json()["stores"][0]["id"],
        "local"
    );
    assert_eq!(
        cloud.get("alice", "/v2/info/import").await.json()["import-methods"]["value"],
        json!(["glance-direct", "web-download", "copy-image", "glance-download"])
    );
}

#[tokio::test]
async fn an_admin_gives_an_image_to_another_project() {
    let cloud = Cloud::new().await;
    let id = cloud
        .create(
            "alice",
            json!({"name": "gift", "disk_format": "raw", "container_format": "bare"}),
        )
        .await;
    cloud.put_file("alice", &id, "data").await;
    let before = cloud.get("alice", &format!("/v2/images/{id}")).await.json();
    let change = json!([{"op": "replace", "path": "/owner", "value": "bob"}]);
    assert_eq!(cloud.patch("alice", &id, change.clone()).await.status, 403);
    let given = cloud.patch("admin", &id, change).await;
    assert_eq!(
        (given.status.as_u16(), given.json()["owner"].clone()),
        (200, json!("bob"))
    );
    assert_eq!(cloud.get("alice", &format!("/v2/images/{id}")).await.status, 404);
    let after = cloud.get("bob", &format!("/v2/images/{id}")).await.json();
    assert_eq!(
        (&after["created_at"], &after["checksum"]),
        (&before["created_at"], &before["checksum"])
    );
    assert_eq!(cloud.get("bob", &format!("/v2/images/{id}/file")).await.bytes, b"data");
    let cloud = cloud.reopened().await;
    assert_eq!(cloud.names("bob", "").await, ["gift"]);
}
