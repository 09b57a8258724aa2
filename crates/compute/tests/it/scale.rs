//! Many servers: nothing is lost between request and end, and lists are cut as asked.

use madang_compute::{Phase, Server, quota};
use madang_store::{Cause, Metadata, Resource};
use serde_json::{Value, json};

use crate::cloud::{Cloud, Options, PROJECT};

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_servers_all_become_active_and_are_listed_in_pages() {
    let cloud = Cloud::new(Options {
        hosts: 20,
        ..Options::default()
    })
    .await;
    let limits = [("instances", -1), ("cores", -1), ("ram", -1)].map(|(name, limit)| (name.to_owned(), limit));
    let spec = quota::QuotaSpec { limits: limits.into() };
    let mut tx = cloud.store.begin(Cause::system("test"));
    tx.create(Resource::<quota::Quota>::new(
        Metadata::new(PROJECT, quota::COUNTERS),
        spec,
    ))
    .unwrap();
    tx.commit().await.unwrap();

    let asks = (0..200).map(|n| {
        cloud
            .call("POST", "/servers", cloud.wanted(&format!("s{n}")))
            .then_status(n)
    });
    let statuses = futures_util::future::join_all(asks).await;
    assert!(statuses.iter().all(|status| *status == 202), "{statuses:?}");
    let servers = cloud.store.cache::<Server>();
    cloud
        .eventually("200 active servers", || {
            servers
                .all()
                .iter()
                .all(|server| server.status.phase == Phase::Active)
                .then_some(())
        })
        .await;
    let hosts: std::collections::BTreeSet<_> = servers.all().iter().filter_map(|s| s.status.host.clone()).collect();
    assert_eq!(hosts.len(), 20, "spread over all hosts");

    let (mut seen, mut path) = (Vec::new(), "/servers?limit=70".to_owned());
    loop {
        let (status, page) = cloud.call("GET", &path, Value::Null).await;
        assert_eq!(status, 200, "{page}");
        seen.extend(
            page["servers"]
                .as_array()
                .unwrap()
                .iter()
                .map(|server| server["id"].as_str().unwrap().to_owned()),
        );
        let Some(next) = page["servers_links"][0]["href"].as_str() else {
            break;
        };
        path = next.split("/v2.1").nth(1).unwrap().to_owned();
    }
    let all: std::collections::BTreeSet<_> = seen.iter().collect();
    assert_eq!((seen.len(), all.len()), (200, 200), "each once");
    let (_, found) = cloud.call("GET", "/servers?name=^s7$", Value::Null).await;
    assert_eq!(found["servers"].as_array().unwrap().len(), 1);
    let (_, none) = cloud.call("GET", "/servers?status=SHUTOFF", json!(null)).await;
    assert_eq!(none["servers"], json!([]));
    cloud.stop().await;
}

/// Keeps a future's status with the number it was asked with, so that failures can be told apart.
trait ThenStatus: Future<Output = (u16, Value)> + Sized {
    async fn then_status(self, number: u32) -> u16 {
        let (status, body) = self.await;
        assert!(status < 500, "request {number}: {body}");
        status
    }
}

impl<F: Future<Output = (u16, Value)>> ThenStatus for F {}
