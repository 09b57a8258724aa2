//! The scheduler's rules through a real store: what is given is counted with the claim, and never more than there is.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use madang_control::TaskGroup;
use madang_scheduler::{
    Claim, ClaimGroup, ClaimSpec, GroupPolicy, Inventory, Provider, ProviderSpec, VCPU, claim::rules::usage_group,
};
use madang_store::{Backend, Cause, Metadata, Resource, Sqlite, SqliteOptions, Store, StoreBuilder, StoreError};
use tempfile::TempDir;
use uuid::Uuid;

async fn store() -> (Store, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let mut builder = StoreBuilder::new();
    madang_scheduler::register(&mut builder);
    let backend = Sqlite::open(SqliteOptions::new(dir.path().join("store.db")))
        .await
        .unwrap();
    (builder.open(Arc::new(backend) as Arc<dyn Backend>).await.unwrap(), dir)
}

async fn provider(store: &Store, name: &str, vcpus: i64) -> Arc<Resource<Provider>> {
    let inventory = Inventory {
        total: vcpus,
        reserved: 0,
        min_unit: 1,
        max_unit: vcpus,
        step_size: 1,
        allocation_ratio: 1.0,
    };
    let spec = ProviderSpec {
        name: name.to_owned(),
        parent: None,
        zone: "nova".to_owned(),
        inventories: [(VCPU.to_owned(), inventory)].into(),
        drivers: vec!["qemu".to_owned()],
        is_enabled: true,
        ..ProviderSpec::default()
    };
    let mut provider = Resource::<Provider>::new(Metadata::with_id(""), spec);
    provider.status.seen = Some(Timestamp::now());
    let mut tx = store.begin(Cause::system("test"));
    let provider = tx.create(provider).unwrap();
    tx.commit().await.unwrap();
    provider
}

fn claim(vcpus: i64, group: Option<ClaimGroup>) -> Resource<Claim> {
    let spec = ClaimSpec {
        user: "u".to_owned(),
        consumer_kind: "servers".to_owned(),
        resources: [(VCPU, vcpus)].into(),
        driver: "qemu".to_owned(),
        group,
        ..ClaimSpec::default()
    };
    Resource::new(Metadata::with_id("p1"), spec)
}

/// A claim that some writer puts on a provider by itself, as Placement's allocations do.
fn placed(on: &Resource<Provider>, vcpus: i64) -> Resource<Claim> {
    let mut claim = claim(vcpus, None);
    claim.status.provider = Some(on.name().to_owned());
    claim.status.host = Some(on.spec.name.clone());
    claim
}

fn used(store: &Store, provider: &Resource<Provider>) -> i64 {
    store
        .counters("", &usage_group(provider.name()))
        .get(VCPU)
        .copied()
        .unwrap_or(0)
}

async fn create(store: &Store, claim: Resource<Claim>) -> Result<(), StoreError> {
    let mut tx = store.begin(Cause::system("test"));
    tx.create(claim)?;
    tx.commit().await.map(|_| ())
}

async fn all_decided(store: &Store) {
    for _ in 0..500 {
        if store.cache::<Claim>().count_by("pending", "yes") == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("claims are still pending after 5 s");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn racing_writers_never_take_more_than_there_is() {
    let (store, _dir) = store().await;
    let host = provider(&store, "a", 10).await;
    let results = futures_util::future::join_all((0..40).map(|_| create(&store, placed(&host, 1)))).await;
    let won = results.iter().filter(|result| result.is_ok()).count();
    assert_eq!((won, used(&store, &host)), (10, 10));
    let lost: Vec<_> = results.iter().filter_map(|result| result.as_ref().err()).collect();
    assert!(
        lost.iter()
            .all(|error| matches!(error, StoreError::LimitExceeded { .. })),
        "{lost:?}"
    );
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_scheduler_and_other_writers_share_one_capacity() {
    let (store, _dir) = store().await;
    let hosts = [provider(&store, "a", 8).await, provider(&store, "b", 8).await];
    let group = TaskGroup::new("test");
    madang_scheduler::control::run(&store, &group);
    // Every third goes to the first host past the scheduler.
    let writes = (0..24).map(|n| {
        create(
            &store,
            if n % 3 == 0 {
                placed(&hosts[0], 1)
            } else {
                claim(1, None)
            },
        )
    });
    futures_util::future::join_all(writes).await;
    all_decided(&store).await;
    let claims = store.cache::<Claim>().all();
    for host in &hosts {
        let on_it = claims
            .iter()
            .filter(|claim| claim.status.host.as_ref() == Some(&host.spec.name))
            .count();
        assert_eq!(used(&store, host), on_it as i64, "what is counted is what is there");
        assert!(on_it <= 8, "{on_it} on {}", host.spec.name);
    }
    let failed: Vec<_> = claims
        .iter()
        .filter_map(|claim| claim.status.failure.as_ref())
        .collect();
    assert!(
        failed.iter().all(|reason| reason.contains("do not have enough left")),
        "{failed:?}"
    );
    assert_eq!(group.shutdown(Duration::from_secs(5)).await, [""; 0]);
    store.close().await;
}

#[tokio::test]
async fn a_claim_gives_back_what_it_took() {
    let (store, _dir) = store().await;
    let host = provider(&store, "a", 4).await;
    let first = placed(&host, 3);
    let key = first.key();
    create(&store, first).await.unwrap();
    assert!(create(&store, placed(&host, 2)).await.is_err(), "3 of 4 are taken");
    let mut tx = store.begin(Cause::system("test"));
    let first = tx.get::<Claim>(&key).unwrap();
    tx.delete(&first).unwrap();
    tx.commit().await.unwrap();
    assert_eq!(used(&store, &host), 0);
    create(&store, placed(&host, 4)).await.unwrap();
    assert_eq!(used(&store, &host), 4);
    store.close().await;
}

#[tokio::test]
async fn anti_affinity_holds_within_one_round() {
    let (store, _dir) = store().await;
    for name in ["a", "b", "c"] {
        provider(&store, name, 8).await;
    }
    let apart = ClaimGroup {
        id: Uuid::new_v4(),
        policy: GroupPolicy::AntiAffinity,
        max_server_per_host: None,
    };
    let mut tx = store.begin(Cause::system("test"));
    for _ in 0..4 {
        tx.create(claim(1, Some(apart.clone()))).unwrap();
    }
    tx.commit().await.unwrap();
    let group = TaskGroup::new("test");
    madang_scheduler::control::run(&store, &group);
    all_decided(&store).await;
    let claims = store.cache::<Claim>().all();
    let mut hosts: Vec<_> = claims.iter().filter_map(|claim| claim.status.host.clone()).collect();
    hosts.sort_unstable();
    assert_eq!(hosts, ["a", "b", "c"], "each host once, and the fourth nowhere");
    assert_eq!(group.shutdown(Duration::from_secs(5)).await, [""; 0]);
    store.close().await;
}

#[tokio::test]
async fn what_is_set_aside_is_kept_until_it_is_let_go_or_taken_back() {
    use madang_scheduler::claim::handover;

    let (store, _dir) = store().await;
    let host = provider(&store, "a", 8).await;
    let first = placed(&host, 3);
    let key = first.key();
    create(&store, first).await.unwrap();
    for confirms in [false, true] {
        // The resize asks for 5, and gets them on the same host beside the 3 that are kept.
        let mut tx = store.begin(Cause::system("test"));
        let claim = tx.get::<Claim>(&key).unwrap();
        let wanted = ClaimSpec {
            resources: [(VCPU, 5)].into(),
            ..claim.spec.clone()
        };
        let kept = handover::set_aside(&mut tx, &claim, "m1", claim.as_owner(), wanted).unwrap();
        tx.commit().await.unwrap();
        assert_eq!((used(&store, &host), kept.status.host.as_deref()), (3, Some("a")));
        let claim = store.get::<Claim>(&key).unwrap();
        assert!(claim.status.is_pending());
        let mut moved = (*claim).clone();
        (moved.status.provider, moved.status.host) = (Some(host.name().to_owned()), Some("a".to_owned()));
        let mut tx = store.begin(Cause::system("test"));
        tx.update(&claim, moved).unwrap();
        tx.commit().await.unwrap();
        assert_eq!(used(&store, &host), 8);

        let mut tx = store.begin(Cause::system("test"));
        let claim = tx.get::<Claim>(&key).unwrap();
        if confirms {
            handover::let_go(&mut tx, claim.project(), "m1").unwrap();
        } else {
            handover::take_back(&mut tx, &claim, "m1").unwrap();
        }
        tx.commit().await.unwrap();
        assert_eq!(used(&store, &host), if confirms { 5 } else { 3 });
    }
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_schedulers_never_give_more_than_there_is() {
    use madang_scheduler::{
        Options,
        control::{Scheduler, follow},
    };

    let (store, _dir) = store().await;
    let mut hosts = Vec::new();
    for name in ["a", "b", "c"] {
        hosts.push(provider(&store, name, 10).await);
    }
    let mut tx = store.begin(Cause::system("test"));
    let mut keys = Vec::new();
    for n in 0..40 {
        keys.push(tx.create(claim(1 + n % 3, None)).unwrap().key());
    }
    tx.commit().await.unwrap();
    // Each has a snapshot of its own and half of the claims, a few at a time.
    let work = keys.chunks(20).map(|half| {
        let (store, half) = (store.clone(), half.to_vec());
        async move {
            let snapshot = follow(&store).await.unwrap();
            let scheduler = Scheduler::new(store, Options::default(), Arc::clone(&snapshot));
            for some in half.chunks(3) {
                scheduler.place(some).await.unwrap();
            }
            snapshot
        }
    });
    let snapshots = futures_util::future::join_all(work).await;
    let claims = store.cache::<Claim>().all();
    assert_eq!(store.cache::<Claim>().count_by("pending", "yes"), 0);
    for host in &hosts {
        let on_it = claims
            .iter()
            .filter(|claim| claim.status.provider.as_deref() == Some(host.name()));
        let had: i64 = on_it.filter_map(|claim| claim.spec.resources.get(VCPU)).sum();
        assert!(had <= 10, "{had} on {}", host.spec.name);
        assert_eq!(used(&store, host), had);
        for snapshot in &snapshots {
            let snapshot = snapshot.lock();
            let seen = snapshot
                .named(&host.spec.name)
                .and_then(|at| snapshot.host(at))
                .unwrap();
            assert_eq!(seen.used.get(VCPU).unwrap_or(0), had, "the snapshot shows what is");
        }
    }
    store.close().await;
}

/// What rounds under way have given away counts once, neither twice nor not at all: the last place is found, and one more
/// is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn rounds_under_way_fill_a_cloud_to_the_last_place() {
    use madang_scheduler::{
        Options,
        control::{Scheduler, follow},
    };

    let (store, _dir) = store().await;
    let mut hosts = Vec::new();
    for n in 0..10 {
        hosts.push(provider(&store, &format!("h{n}"), 200).await);
    }
    let snapshot = follow(&store).await.unwrap();
    let scheduler = Scheduler::new(store.clone(), Options::default(), Arc::clone(&snapshot));
    for count in [2000, 1] {
        let mut tx = store.begin(Cause::system("test"));
        let keys: Vec<_> = (0..count).map(|_| tx.create(claim(1, None)).unwrap().key()).collect();
        tx.commit().await.unwrap();
        scheduler.place(&keys).await.unwrap();
        let placed = keys
            .iter()
            .filter(|key| store.get::<Claim>(key).unwrap().status.host.is_some());
        assert_eq!(placed.count(), if count > 1 { count } else { 0 });
        assert!(
            keys.iter()
                .all(|key| !store.get::<Claim>(key).unwrap().status.is_pending())
        );
    }
    assert!(hosts.iter().all(|host| used(&store, host) == 200));
    for host in &hosts {
        let snapshot = snapshot.lock();
        let at = snapshot.named(&host.spec.name).unwrap();
        assert_eq!(snapshot.host(at).unwrap().used.get(VCPU), Some(200));
    }
    store.close().await;
}

/// A group's members see each other across rounds that are under way at the same time.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_group_is_kept_apart_across_rounds() {
    use madang_scheduler::{
        Options,
        control::{Scheduler, follow},
    };

    let (store, _dir) = store().await;
    for n in 0..8 {
        provider(&store, &format!("h{n}"), 2000).await;
    }
    let group = ClaimGroup {
        id: uuid::Uuid::new_v4(),
        policy: GroupPolicy::AntiAffinity,
        max_server_per_host: Some(1),
    };
    let scheduler = Scheduler::new(store.clone(), Options::default(), follow(&store).await.unwrap());
    let mut tx = store.begin(Cause::system("test"));
    let mut members = Vec::new();
    let mut keys = Vec::new();
    for n in 0..1500 {
        let mut one = claim(1, None);
        one.spec.group = (n % 150 == 0).then(|| group.clone());
        let key = tx.create(one).unwrap().key();
        members.extend((n % 150 == 0).then(|| key.clone()));
        keys.push(key);
    }
    tx.commit().await.unwrap();
    scheduler.place(&keys).await.unwrap();
    let mut hosts: Vec<_> = members
        .iter()
        .filter_map(|key| store.get::<Claim>(key).unwrap().status.host.clone())
        .collect();
    assert_eq!(
        (members.len(), hosts.len()),
        (10, 8),
        "two of ten have no host of their own"
    );
    hosts.sort_unstable();
    hosts.dedup();
    assert_eq!(hosts.len(), 8);
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_snapshot_misses_nothing_that_happens_while_it_is_loaded() {
    let (store, _dir) = store().await;
    let host = provider(&store, "a", 1000).await;
    let writes = (0..60).map(|n| {
        let (store, host) = (store.clone(), Arc::clone(&host));
        async move {
            let first = placed(&host, 2);
            let key = first.key();
            create(&store, first).await.unwrap();
            if n % 2 == 0 {
                let mut tx = store.begin(Cause::system("test"));
                let first = tx.get::<Claim>(&key).unwrap();
                tx.delete(&*first).unwrap();
                tx.commit().await.unwrap();
            }
        }
    });
    let (_, snapshot) = tokio::join!(
        futures_util::future::join_all(writes),
        madang_scheduler::control::follow(&store)
    );
    let snapshot = snapshot.unwrap();
    let newest = store.backend().revision().await.unwrap();
    store.reached(newest).await.unwrap();
    {
        let snapshot = snapshot.lock();
        let seen = snapshot.named("a").and_then(|at| snapshot.host(at)).unwrap();
        assert_eq!((seen.used.get(VCPU), used(&store, &host)), (Some(60), 60));
    }
    store.close().await;
}

#[tokio::test]
async fn what_is_miscounted_is_brought_to_what_claims_have() {
    use madang_scheduler::claim::heal;

    let (store, _dir) = store().await;
    let host = provider(&store, "a", 8).await;
    create(&store, placed(&host, 3)).await.unwrap();
    assert_eq!(heal::drifts(&store), []);
    let mut tx = store.begin(Cause::system("test"));
    let drift = madang_store::Delta {
        field: VCPU.to_owned(),
        add: 4,
        limit: None,
    };
    tx.add("", &usage_group(host.name()), vec![drift]);
    tx.commit().await.unwrap();
    assert_eq!(heal::drifts(&store).len(), 1);
    heal::run(&store).await;
    assert_eq!((used(&store, &host), heal::drifts(&store).len()), (3, 0));
    store.close().await;
}

/// How it once was: a processor that was counted twice, or not at all, stayed so for ever.
#[tokio::test]
async fn seats_that_are_miscounted_are_brought_to_what_claims_have() {
    use madang_scheduler::{Seat, claim::heal, claim::rules::seat_group};

    let (store, _dir) = store().await;
    let host = provider(&store, "a", 8).await;
    let mut claim = placed(&host, 3);
    claim.status.is_handed_over = true; // not held to what the host has
    claim.status.seats = vec![Seat {
        cell: 1,
        cpus: vec![4, 5],
        pages: Some((2048, 7)),
    }];
    create(&store, claim).await.unwrap();
    let group = seat_group(host.name());
    let right = store.counters("", &group);
    assert_eq!((right.len(), right["cpu/4"], right["pages/1/2048"]), (3, 1, 7));
    assert_eq!(heal::drifts(&store), []);
    let delta = |field: &str, add| madang_store::Delta {
        field: field.to_owned(),
        add,
        limit: None,
    };
    let mut tx = store.begin(Cause::system("test"));
    tx.add(
        "",
        &group,
        vec![delta("cpu/4", -1), delta("cpu/9", 1), delta("pages/1/2048", 2)],
    );
    tx.commit().await.unwrap();
    assert_eq!(heal::drifts(&store).len(), 3);
    heal::run(&store).await;
    assert_eq!((store.counters("", &group), heal::drifts(&store)), (right, vec![]));
    store.close().await;
}

#[tokio::test]
async fn a_claim_may_be_given_by_several() {
    let (store, _dir) = store().await;
    let host = provider(&store, "a", 8).await;
    let mut below = (*provider(&store, "a_numa0", 4).await).clone();
    let old = store.get::<Provider>(&below.key()).unwrap();
    below.spec.drivers.clear();
    below.spec.parent = Some(host.name().to_owned());
    below.spec.inventories = [("VGPU".to_owned(), below.spec.inventories[VCPU].clone())].into();
    let mut tx = store.begin(Cause::system("test"));
    tx.update(&old, below).unwrap();
    tx.commit().await.unwrap();
    let group = TaskGroup::new("test");
    madang_scheduler::control::run(&store, &group);
    let mut wanted = claim(2, None);
    wanted.spec.resources = [(VCPU, 2), ("VGPU", 3)].into();
    let key = wanted.key();
    create(&store, wanted).await.unwrap();
    all_decided(&store).await;
    let claim = store.get::<Claim>(&key).unwrap();
    assert_eq!(
        (claim.status.host.as_deref(), claim.status.shares.len()),
        (Some("a"), 2)
    );
    let gpus = || store.counters("", &usage_group(old.name())).get("VGPU").copied();
    assert_eq!((used(&store, &host), gpus()), (2, Some(3)));
    let mut tx = store.begin(Cause::system("test"));
    tx.delete(&*claim).unwrap();
    tx.commit().await.unwrap();
    assert_eq!((used(&store, &host), gpus()), (0, None));
    assert_eq!(group.shutdown(Duration::from_secs(5)).await, [""; 0]);
    store.close().await;
}
