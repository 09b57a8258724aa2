//! The bytes of images: in, out, refused, shared, cleaned up.

use std::{fs, io, path::Path};

use axum::body::{Body, Bytes};
use http::StatusCode;
use madang_identity::{
    catalog::Service,
    limit::{RegisteredLimit, unified},
};
use madang_image::{Cache as _, CacheError, LocalCache};
use madang_store::{Cause, Delta, Metadata, Resource, StoreError};
use serde_json::{Value, json};

use super::cloud::Cloud;

fn raw() -> Value {
    json!({"name": "r", "disk_format": "raw", "container_format": "bare"})
}

fn files(directory: &Path) -> Vec<String> {
    let names = fs::read_dir(directory)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap());
    names.collect()
}

async fn status_of(cloud: &Cloud, id: &str) -> Value {
    cloud.get("alice", &format!("/v2/images/{id}")).await.json()["status"].clone()
}

#[tokio::test]
async fn bytes_come_back_as_they_went_in() {
    let cloud = Cloud::new().await;
    let id = cloud.create("alice", raw()).await;
    let path = format!("/v2/images/{id}/file");
    assert_eq!(cloud.get("alice", &path).await.status, 204);
    // Longer than what is handed on at a time, in pieces that do not divide it.
    let data: Vec<u8> = (0..5_000_001_u32).map(|i| ((i * 31) >> 3) as u8).collect();
    let pieces: Vec<_> = data
        .chunks(70_001)
        .map(|c| Ok::<_, io::Error>(Bytes::copy_from_slice(c)))
        .collect();
    let put = cloud
        .put_file("alice", &id, Body::from_stream(futures_util::stream::iter(pieces)))
        .await;
    assert_eq!(put.status, StatusCode::NO_CONTENT, "{}", put.text());

    let image = cloud.get("alice", &format!("/v2/images/{id}")).await.json();
    assert_eq!(
        (&image["status"], &image["size"]),
        (&json!("active"), &json!(5_000_001))
    );
    assert_eq!(
        (&image["virtual_size"], &image["os_hash_algo"]),
        (&json!(5_000_001), &json!("sha512"))
    );
    assert_eq!(
        files(&cloud.directory().join("blobs")),
        [image["os_hash_value"].as_str().unwrap()]
    );
    let got = cloud.get("alice", &path).await;
    assert!(got.status == 200 && got.bytes == data);
    assert_eq!(got.headers["content-md5"], image["checksum"].as_str().unwrap());
    assert_eq!(got.headers["content-length"], "5000001");

    let part = cloud
        .send(
            "alice",
            "GET",
            &path,
            &[("range", "bytes=1000000-2999999")],
            Body::empty(),
        )
        .await;
    assert_eq!(part.status, StatusCode::PARTIAL_CONTENT);
    assert_eq!(part.headers["content-range"], "bytes 1000000-2999999/5000001");
    assert!(part.bytes == data[1_000_000..3_000_000]);
    let beyond = cloud
        .send("alice", "GET", &path, &[("range", "bytes=5000001-")], Body::empty())
        .await;
    assert_eq!(beyond.status, StatusCode::RANGE_NOT_SATISFIABLE);
    // Bytes are given once.
    assert_eq!(cloud.put_file("alice", &id, "again").await.status, 409);
}

#[tokio::test]
async fn what_cannot_be_taken_leaves_the_image_queued() {
    let cloud = Cloud::new().await;
    let bare = cloud.create("alice", json!({"name": "no formats"})).await;
    assert_eq!(cloud.put_file("alice", &bare, "x").await.status, 400);

    let qcow2 = json!({"disk_format": "qcow2", "container_format": "bare"});
    let id = cloud.create("alice", qcow2).await;
    let path = format!("/v2/images/{id}/file");
    let wrong_type = cloud
        .send(
            "alice",
            "PUT",
            &path,
            &[("content-type", "text/plain")],
            Body::from("x"),
        )
        .await;
    assert_eq!(wrong_type.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let lie = cloud.put_file("alice", &id, "just text").await;
    assert_eq!(lie.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert!(lie.text().contains("did not match disk_format"), "{}", lie.text());
    let headers = [
        ("content-type", "application/octet-stream"),
        ("x-openstack-image-size", "5"),
    ];
    for body in ["four", "and six"] {
        assert_eq!(
            cloud
                .send("alice", "PUT", &path, &headers, Body::from(body))
                .await
                .status,
            400
        );
    }
    let broken = futures_util::stream::iter([Ok(Bytes::from_static(b"QFI\xfb")), Err(io::Error::other("gone"))]);
    assert_eq!(
        cloud.put_file("alice", &id, Body::from_stream(broken)).await.status,
        400
    );
    assert_eq!(cloud.put_file("reader", &id, "x").await.status, 404);

    assert_eq!(status_of(&cloud, &id).await, "queued");
    assert!(files(&cloud.directory().join("incoming")).is_empty());
    assert!(files(&cloud.directory().join("blobs")).is_empty());
}

#[tokio::test]
async fn equal_bytes_are_kept_once_and_as_long_as_anybody_has_them() {
    let cloud = Cloud::new().await;
    let (first, second) = (cloud.create("alice", raw()).await, cloud.create("bob", raw()).await);
    cloud.put_file("alice", &first, "the same").await;
    cloud.put_file("bob", &second, "the same").await;
    assert_eq!(files(&cloud.directory().join("blobs")).len(), 1);
    assert_eq!(
        cloud
            .call("alice", "DELETE", &format!("/v2/images/{first}"), json!(null))
            .await
            .status,
        204
    );
    assert_eq!(
        cloud.get("bob", &format!("/v2/images/{second}/file")).await.bytes,
        b"the same"
    );
    assert_eq!(
        cloud
            .call("bob", "DELETE", &format!("/v2/images/{second}"), json!(null))
            .await
            .status,
        204
    );
    assert!(files(&cloud.directory().join("blobs")).is_empty());
}

#[tokio::test]
async fn a_deactivated_image_keeps_its_bytes_to_itself() {
    let cloud = Cloud::new().await;
    let id = cloud.create("alice", raw()).await;
    let action = |name: &str| format!("/v2/images/{id}/actions/{name}");
    assert_eq!(
        cloud
            .call("alice", "POST", &action("deactivate"), json!(null))
            .await
            .status,
        403
    );
    cloud.put_file("alice", &id, "data").await;
    for _ in 0..2 {
        assert_eq!(
            cloud
                .call("alice", "POST", &action("deactivate"), json!(null))
                .await
                .status,
            204
        );
    }
    assert_eq!(status_of(&cloud, &id).await, "deactivated");
    let path = format!("/v2/images/{id}/file");
    assert_eq!(cloud.get("alice", &path).await.status, 403);
    assert_eq!(cloud.get("admin", &path).await.bytes, b"data");
    assert_eq!(
        cloud
            .call("alice", "POST", &action("reactivate"), json!(null))
            .await
            .status,
        204
    );
    assert_eq!(cloud.get("alice", &path).await.bytes, b"data");
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_nothing() {
    let cloud = Cloud::new().await;
    let id = cloud.create("alice", raw()).await;
    // The request is dropped with its handler while bytes are awaited; its body then ends as a lost connection does.
    let (sender, receiver) = tokio::sync::mpsc::channel::<io::Result<Bytes>>(1);
    let body = Body::from_stream(futures_util::stream::unfold(receiver, async |mut receiver| {
        let piece = receiver
            .recv()
            .await
            .unwrap_or_else(|| Err(io::Error::other("connection lost")));
        Some((piece, receiver))
    }));
    let upload = cloud.put_file("alice", &id, body);
    let begun = async {
        while status_of(&cloud, &id).await != "saving" {
            tokio::task::yield_now().await;
        }
        sender.send(Ok(Bytes::from_static(b"some"))).await.unwrap();
    };
    tokio::select! {
        answer = upload => panic!("answered {}", answer.status),
        () = begun => {}
    }
    drop(sender);
    for _ in 0..200 {
        if status_of(&cloud, &id).await == "queued" {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(status_of(&cloud, &id).await, "queued");
    assert!(files(&cloud.directory().join("incoming")).is_empty());
    assert_eq!(cloud.put_file("alice", &id, "whole").await.status, 204);
}

#[tokio::test]
async fn a_restart_takes_back_what_was_half_way_and_keeps_the_rest() {
    let cloud = Cloud::new().await;
    let (whole, half) = (cloud.create("alice", raw()).await, cloud.create("alice", raw()).await);
    cloud.put_file("alice", &whole, "whole").await;
    // As a crash leaves it: the state is saving, bytes are incoming, and a blob that nobody names yet.
    let key = cloud.store.cache::<madang_image::Image>().by_name(&half).unwrap().key();
    let cause = madang_store::Cause::system("test");
    cloud
        .store
        .modify::<madang_image::Image, madang_store::StoreError>(&key, cause, |image| {
            image.status.state = madang_image::ImageState::Saving;
            Ok(())
        })
        .await
        .unwrap();
    fs::write(cloud.directory().join("incoming/x"), "ha").unwrap();
    fs::write(cloud.directory().join("blobs/0123"), "half").unwrap();

    let cloud = cloud.reopened().await;
    assert_eq!(status_of(&cloud, &half).await, "queued");
    assert_eq!(
        cloud.get("alice", &format!("/v2/images/{whole}/file")).await.bytes,
        b"whole"
    );
    assert!(files(&cloud.directory().join("incoming")).is_empty());
    assert_eq!(files(&cloud.directory().join("blobs")).len(), 1);
    assert_eq!(cloud.put_file("alice", &half, "now whole").await.status, 204);
}

#[tokio::test]
async fn agents_get_a_file_that_outlives_the_image() {
    let cloud = Cloud::new().await;
    let id = cloud.create("alice", raw()).await;
    let cache = LocalCache::new(cloud.store.clone(), std::sync::Arc::clone(cloud.library.blobs()));
    assert!(matches!(cache.fetch(&id).await, Err(CacheError::NotActive { .. })));
    cloud.put_file("alice", &id, "data").await;
    let cached = cache.fetch(&id).await.unwrap();
    assert_eq!((cached.size, cached.virtual_size), (4, Some(4)));
    assert_eq!(
        cloud
            .call("alice", "DELETE", &format!("/v2/images/{id}"), json!(null))
            .await
            .status,
        204
    );
    assert_eq!(fs::read(&cached.path).unwrap(), b"data");
    assert!(matches!(cache.fetch(&id).await, Err(CacheError::NotFound(_))));
    cache.retain(&[cached.digest].into()).await.unwrap();
    assert!(cached.path.exists());
    cache.retain(&Default::default()).await.unwrap();
    assert!(!cached.path.exists());
}

#[tokio::test]
async fn unified_limits_bound_how_many_and_how_large() {
    let cloud = Cloud::new().await;
    let written = cloud.store.transact(Cause::system("test"), |tx| {
        let service = json!({ "type": "image", "enabled": true });
        tx.create(Resource::<Service>::new(
            Metadata::new("", "glance"),
            serde_json::from_value(service).unwrap(),
        ))?;
        for (name, limit) in [("image_count_total", 2), ("image_size_total", 3)] {
            let of = json!({ "service_id": "glance", "resource_name": name, "default_limit": limit });
            tx.create(Resource::<RegisteredLimit>::new(
                Metadata::new("", name),
                serde_json::from_value(of).unwrap(),
            ))?;
        }
        Ok::<_, StoreError>(())
    });
    written.await.unwrap();
    let first = cloud.create("alice", raw()).await;
    unified::decide(&cloud.store, ["image".to_owned()].into(), "RegionOne")
        .await
        .unwrap();
    let second = cloud.create("alice", raw()).await;
    let third = cloud.call("alice", "POST", "/v2/images", raw()).await;
    assert_eq!(third.status, StatusCode::PAYLOAD_TOO_LARGE, "{}", third.text());
    let bytes = |mib: usize| Body::from(vec![7_u8; mib << 20]);
    assert_eq!(cloud.put_file("alice", &first, bytes(2)).await.status, 204);
    let over = cloud.put_file("alice", &second, bytes(2)).await;
    assert_eq!(over.status, StatusCode::PAYLOAD_TOO_LARGE, "{}", over.text());
    assert_eq!(cloud.put_file("alice", &second, bytes(1)).await.status, 204);
    let gone = cloud
        .send("alice", "DELETE", &format!("/v2/images/{first}"), &[], Body::empty())
        .await;
    assert_eq!(gone.status, 204);
    let third = cloud.create("alice", raw()).await;
    assert_eq!(
        cloud.put_file("alice", &third, bytes(2)).await.status,
        204,
        "room again"
    );
}

/// How it once was: counting began with the next image, and the removal of one from before took others' place.
#[tokio::test]
async fn images_from_before_they_were_counted_are_counted_at_the_start() {
    let counters =
        |cloud: &Cloud, project: &str| cloud.store.counters(project, "image").into_iter().collect::<Vec<_>>();
    let some = |fields: &[(&str, i64)]| fields.iter().map(|(f, n)| ((*f).to_owned(), *n)).collect::<Vec<_>>();
    let cloud = Cloud::new().await;
    let first = cloud.create("alice", raw()).await;
    cloud.create("alice", raw()).await;
    let large = cloud.create("alice", raw()).await;
    let bytes = Body::from(vec![7_u8; (1 << 20) + 1]);
    assert_eq!(cloud.put_file("alice", &large, bytes).await.status, 204);
    let right = some(&[("image_count_total", 3), ("image_size_total", 2)]);
    assert_eq!(counters(&cloud, "alice"), right);
    let uncounted = right.iter().map(|(field, amount)| Delta {
        field: field.clone(),
        add: -amount,
        limit: None,
    });
    let mut tx = cloud.store.begin(Cause::system("test"));
    tx.add("alice", "image", uncounted.collect());
    tx.commit().await.unwrap();
    cloud.create("bob", raw()).await;
    let gone = format!("/v2/images/{first}");
    let gone = cloud.send("alice", "DELETE", &gone, &[], Body::empty()).await;
    assert_eq!(gone.status, 204);
    let cloud = cloud.reopened().await;
    assert_eq!(
        counters(&cloud, "alice"),
        some(&[("image_count_total", 2), ("image_size_total", 2)])
    );
    assert_eq!(counters(&cloud, "bob"), some(&[("image_count_total", 1)]));
}
