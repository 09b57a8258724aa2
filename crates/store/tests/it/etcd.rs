//! What is etcd's own: who may write, limits, copies there and back, other writers, outages.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use madang_store::{
    Backend, Cause, Delta, Etcd, EtcdOptions, EtcdTls, Expect, Key, Pages, Prefix, Record, Revision, Sqlite,
    SqliteOptions, StoreError, Txn, Write,
};
use tokio::task::JoinSet;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use crate::cluster::Cluster;

fn key(number: impl std::fmt::Display) -> Key {
    Key::new("things", "p", "", number.to_string())
}

fn txn(expects: Vec<Expect>, writes: Vec<Write>) -> Txn {
    Txn {
        expects,
        writes,
        cause: Cause::request("somebody", "req-1"),
        at: Timestamp::UNIX_EPOCH,
    }
}

fn put(number: impl std::fmt::Display, value: &str) -> Write {
    Write::Put(key(number), value.to_owned().into())
}

fn add(n: i64, limit: Option<i64>) -> Write {
    let delta = Delta {
        field: "n".to_owned(),
        add: n,
        limit,
    };
    Write::Add(Key::new("counters", "", "", "c"), vec![delta])
}

async fn records(of: &dyn Backend) -> (Vec<Record>, Revision) {
    let mut pages = Pages::new(of);
    let mut all = Vec::new();
    while let Some(mut some) = pages.next().await.unwrap() {
        all.append(&mut some);
    }
    (all, pages.revision())
}

/// Several engines on one store, as processes side by side: they count together, and see what the others do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_side_by_side_agree() {
    let cluster = Cluster::start();
    let options = EtcdOptions::parse(&cluster.address("shared")).unwrap();
    let mut engines = Vec::new();
    for _ in 0..3 {
        engines.push(Arc::new(Etcd::open(options.clone()).await.unwrap()));
    }
    let mut watch = engines[0].watch(Prefix::all(), Revision(0)).await.unwrap();
    let mut writers = JoinSet::new();
    for writer in 0..24 {
        let engine = Arc::clone(&engines[writer % 3]);
        writers.spawn(async move {
            let mut done = Vec::new();
            for number in 0..10 {
                let fresh = format!("{writer}-{number}");
                let expects = vec![Expect::Absent(key(&fresh))];
                let writes = vec![put(&fresh, "1"), add(1, Some(200))];
                match engine.txn(txn(expects, writes)).await {
                    Ok(revision) => done.push(revision),
                    Err(StoreError::LimitExceeded { used: 200, .. }) => {}
                    Err(failed) => panic!("{failed}"),
                }
                // All want the same key, in all engines.
                let won = engine
                    .txn(txn(
                        vec![Expect::Absent(key(format!("one-{number}")))],
                        vec![put(format!("one-{number}"), "1")],
                    ))
                    .await;
                done.extend(won.ok());
            }
            done
        });
    }
    let mut revisions: Vec<_> = writers.join_all().await.into_iter().flatten().collect();
    revisions.sort_unstable();
    assert_eq!(revisions, (1..=210).map(Revision).collect::<Vec<_>>());
    for revision in revisions {
        let batch = tokio::time::timeout(Duration::from_secs(20), watch.next()).await;
        assert_eq!(batch.expect("a change is missing").unwrap().revision, revision);
    }
    for engine in &engines {
        assert_eq!(engine.revision().await.unwrap(), Revision(210));
        engine.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_keeps_others_out() {
    let cluster = Cluster::start();
    let mut ours = EtcdOptions::parse(&cluster.address("owned")).unwrap();
    ours.owner = Some("madang abc on one".to_owned());
    let engine = Etcd::open(ours.clone()).await.unwrap();
    engine.txn(txn(vec![], vec![put(1, "1")])).await.unwrap();
    let mut theirs = ours.clone();
    theirs.owner = Some("madang def on two".to_owned());
    let failed = Etcd::open(theirs.clone()).await.err().unwrap().to_string();
    assert!(failed.contains("belongs to madang abc on one"), "{failed}");
    theirs.take_over = true;
    let taken = Etcd::open(theirs).await.unwrap();
    taken.txn(txn(vec![], vec![put(2, "2")])).await.unwrap();
    let failed = engine
        .txn(txn(vec![], vec![put(3, "3")]))
        .await
        .unwrap_err()
        .to_string();
    assert!(
        failed.contains("madang def on two has taken the store over"),
        "{failed}"
    );
    assert!(taken.get(&key(3)).await.unwrap().is_none());
    engine.close().await;
    taken.close().await;
}

/// More than etcd takes in one of its transactions goes in; more than it ever takes is said to be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_transactions_are_whole_or_refused() {
    let cluster = Cluster::start();
    let options = EtcdOptions::parse(&cluster.address("large")).unwrap();
    let engine = Etcd::open(options.clone()).await.unwrap();
    let many = |count: usize, value: &str| (0..count).map(|n| put(n, value)).collect::<Vec<_>>();
    engine.txn(txn(vec![], many(3968, "1"))).await.unwrap();
    let mut watch = engine.watch(Prefix::all(), Revision(0)).await.unwrap();
    assert_eq!(watch.next().await.unwrap().events.len(), 3968);
    let failed = engine.txn(txn(vec![], many(3969, "2"))).await.unwrap_err().to_string();
    assert!(failed.contains("--max-txn-ops") && failed.contains("3968"), "{failed}");
    let failed = engine
        .txn(txn(vec![], many(20, &"x".repeat(100_000))))
        .await
        .unwrap_err();
    assert!(matches!(failed, StoreError::Invalid(_)), "{failed}");
    assert!(failed.to_string().contains("--max-request-bytes"), "{failed}");
    engine.txn(txn(vec![], many(14, &"x".repeat(100_000)))).await.unwrap();
    engine.close().await;
    let engine = Etcd::open(options.clone()).await.unwrap();
    let mut watch = engine.watch(Prefix::all(), Revision(0)).await.unwrap();
    assert_eq!(watch.next().await.unwrap().events.len(), 3968, "from etcd's past");
    engine.close().await;
    // A cluster that takes less than it is said to.
    let mut wrong = options;
    wrong.max_txn_ops = 1000;
    let failed = Etcd::open(wrong).await.err().unwrap().to_string();
    assert!(failed.contains("--max-txn-ops"), "{failed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_go_there_and_back() {
    let cluster = Cluster::start();
    let dir = tempfile::tempdir().unwrap();
    let from = Sqlite::open(SqliteOptions::new(dir.path().join("from.db")))
        .await
        .unwrap();
    for number in 0..40 {
        let writes = (0..60)
            .map(|n| put(format!("{}-{n}", number % 30), &format!("{number}")))
            .collect();
        from.txn(txn(vec![], writes)).await.unwrap();
    }
    from.txn(txn(vec![], vec![Write::Delete(key("3-3")), add(7, None)]))
        .await
        .unwrap();
    let before = records(&from).await;
    assert_eq!(before.0.len(), 1800);
    let options = EtcdOptions::parse(&cluster.address("copy")).unwrap();
    assert_eq!(Etcd::copy_from(&from, &options).await.unwrap(), before.1);
    let failed = Etcd::copy_from(&from, &options).await.unwrap_err();
    assert!(
        matches!(&failed, StoreError::Invalid(why) if why.contains("/copy/")),
        "{failed}"
    );
    let there = Etcd::open(options.clone()).await.unwrap();
    assert_eq!(records(&there).await, before);
    let gone = there.watch(Prefix::all(), Revision(1)).await.err();
    assert!(matches!(gone, Some(StoreError::Compacted { .. })), "{gone:?}");
    let path = dir.path().join("back.db");
    Sqlite::copy_from(&there, &path).await.unwrap();
    assert!(matches!(
        Sqlite::copy_from(&there, &path).await,
        Err(StoreError::Invalid(_))
    ));
    let back = Sqlite::open(SqliteOptions::new(path)).await.unwrap();
    assert_eq!(records(&back).await, before);
    let next = back.txn(txn(vec![], vec![put("next", "1")])).await.unwrap();
    assert_eq!(next, before.1.next());
    for engine in [&from as &dyn Backend, &there, &back] {
        engine.close().await;
    }
    // A copy that broke off is no store.
    let broken = EtcdOptions::parse(&cluster.address("broken")).unwrap();
    assert!(cluster.ctl(0, &["put", "/broken/importing", "x"]).0);
    let failed = Etcd::open(broken).await.err().unwrap().to_string();
    assert!(failed.contains("has not come to its end"), "{failed}");
    let other = EtcdOptions::parse(&cluster.address("other")).unwrap();
    assert!(cluster.ctl(0, &["put", "/other/x", "x"]).0);
    let failed = Etcd::open(other).await.err().unwrap().to_string();
    assert!(failed.contains("name another prefix"), "{failed}");
}

/// A writer is told that nobody answers, and nothing of what failed comes to be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_is_told_and_got_over() {
    let mut cluster = Cluster::start();
    let options = EtcdOptions::parse(&cluster.address("outage")).unwrap();
    let engine = Arc::new(Etcd::open(options).await.unwrap());
    engine
        .txn(txn(vec![], vec![put("before", "1"), add(1, None)]))
        .await
        .unwrap();
    (0..3).for_each(|member| cluster.kill(member));
    let mut writers = JoinSet::new();
    for number in 0..40 {
        let engine = Arc::clone(&engine);
        writers.spawn(async move {
            tokio::time::sleep(Duration::from_millis(number * 20)).await;
            (
                number,
                engine.txn(txn(vec![], vec![put(number, "1"), add(1, None)])).await,
            )
        });
    }
    let failed = engine.get(&key("before")).await.unwrap_err();
    assert!(
        matches!(&failed, StoreError::Backend { reason, .. } if reason.contains("127.0.0.1:")),
        "{failed}"
    );
    tokio::time::sleep(Duration::from_secs(3)).await;
    cluster.revive();
    cluster.ready();
    let (mut done, mut refused) = (0, 0);
    while let Some(ended) = writers.join_next().await {
        let (number, result) = ended.unwrap();
        let is_there = engine.get(&key(number)).await.unwrap().is_some();
        match result {
            Ok(_) => done += 1,
            Err(StoreError::Backend { .. }) => refused += 1,
            Err(failed) => panic!("{failed}"),
        }
        assert_eq!(is_there, result.is_ok(), "{number}: {result:?}");
    }
    assert!(refused > 0, "nobody was told");
    engine.txn(txn(vec![], vec![put("after", "1")])).await.unwrap();
    let counter = engine.get(&Key::new("counters", "", "", "c")).await.unwrap().unwrap();
    assert_eq!(counter.value, format!("{{\"n\":{}}}", done + 1));
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_stays_within_its_count_and_its_bytes() {
    let cluster = Cluster::start();
    let mut options = EtcdOptions::parse(&cluster.address("counted")).unwrap();
    options.keep_revisions = 100;
    let engine = Etcd::open(options.clone()).await.unwrap();
    for number in 0..300 {
        engine.txn(txn(vec![], vec![put(number % 7, "1")])).await.unwrap();
    }
    let oldest = async |engine: &Etcd| match engine.watch(Prefix::all(), Revision(0)).await.err() {
        Some(StoreError::Compacted { compacted }) => compacted,
        other => panic!("{other:?}"),
    };
    let compacted = oldest(&engine).await;
    assert!(compacted >= Revision(160) && compacted <= Revision(200), "{compacted}");
    engine.close().await;
    let engine = Etcd::open(options.clone()).await.unwrap();
    let mut watch = engine.watch(Prefix::all(), compacted).await.unwrap();
    assert_eq!(watch.next().await.unwrap().revision, compacted.next());
    engine.close().await;

    options.prefix = "/weighed/".to_owned();
    options.keep_revisions = 100_000;
    options.keep_bytes = 1 << 20;
    let engine = Etcd::open(options).await.unwrap();
    for number in 0..150 {
        engine
            .txn(txn(vec![], vec![put(number % 7, &"x".repeat(20_000))]))
            .await
            .unwrap();
    }
    let compacted = oldest(&engine).await;
    assert!(compacted >= Revision(90) && compacted <= Revision(140), "{compacted}");
    engine.close().await;
}

/// etcd that speaks TLS and wants to know who asks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_sides_show_certificates() {
    let dir = tempfile::tempdir().unwrap();
    let authority = || {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        (
            certificate.clone(),
            Issuer::from_ca_cert_pem(&certificate, key).unwrap(),
        )
    };
    let leaf = |issuer: &Issuer<'_, KeyPair>, name: &str| {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, issuer).unwrap().pem(), key.serialize_pem())
    };
    let file = |name: &str, text: &str| {
        std::fs::write(dir.path().join(name), text).unwrap();
        dir.path().join(name).display().to_string()
    };
    let (ca, issuer) = authority();
    let (server, client) = (leaf(&issuer, "127.0.0.1"), leaf(&issuer, "madang"));
    let ca_file = file("ca.pem", &ca);
    let (server_file, server_key) = (file("server.pem", &server.0), file("server.key", &server.1));
    let (client_file, client_key) = (file("client.pem", &client.0), file("client.key", &client.1));
    let members = format!(
        "--cert-file={server_file} --key-file={server_key} --trusted-ca-file={ca_file} --client-cert-auth=true"
    );
    let ctl = format!("--cacert={ca_file} --cert={client_file} --key={client_key}");
    let cluster = Cluster::with(
        "https",
        [members, ctl].map(|all| all.split(' ').map(str::to_owned).collect()),
    );

    let mut options = EtcdOptions::parse(&cluster.fresh_address()).unwrap();
    let identity = |(certificate, key): (String, String)| Some((certificate.into_bytes(), key.into_bytes()));
    options.tls = Some(EtcdTls {
        ca: ca.clone().into_bytes(),
        identity: identity(client),
    });
    let engine = Etcd::open(options.clone()).await.unwrap();
    engine.txn(txn(vec![], vec![put(1, "1")])).await.unwrap();
    assert!(engine.get(&key(1)).await.unwrap().is_some());
    engine.close().await;

    let (other, stranger) = authority();
    for (ca, identity) in [
        (other.into_bytes(), options.tls.clone().unwrap().identity),
        (ca.clone().into_bytes(), None),
        (ca.into_bytes(), identity(leaf(&stranger, "madang"))),
    ] {
        options.tls = Some(EtcdTls { ca, identity });
        let failed = Etcd::open(options.clone()).await.err().unwrap().to_string();
        // Who is not known is just hung up on.
        assert!(
            failed.contains("the store cannot be opened: etcd: 127.0.0.1:"),
            "{failed}"
        );
    }
}
