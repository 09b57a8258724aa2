//! Stored versions: a kind that has grown reads what it wrote when it was small.

use std::sync::Arc;

use madang_store::{
    Backend, Cause, Indexes, Kind, Metadata, Resource, Sqlite, SqliteOptions, Store, StoreBuilder, StoreError, samples,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

mod first {
    use super::*;

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    pub struct Spec {
        pub size: String,
    }

    pub struct Lamp;

    impl Kind for Lamp {
        const NAME: &'static str = "lamps";
        type Spec = Spec;
        type Status = ();
    }
}

mod third {
    use super::*;

    /// Version 2 counts watts; version 3 also says where.
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    pub struct Spec {
        pub watts: u32,
        pub room: String,
    }

    #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
    pub struct Status {
        pub is_on: bool,
    }

    pub struct Lamp;

    impl Kind for Lamp {
        const NAME: &'static str = "lamps";
        const VERSION: u32 = 3;
        type Spec = Spec;
        type Status = Status;

        fn indexes() -> Indexes<Self> {
            Indexes::<Self>::new().on("room", |lamp| vec![lamp.spec.room.clone()])
        }

        fn upgrade(from: u32, record: &mut Value) -> Result<(), String> {
            match from {
                1 => {
                    let size = record["spec"]["size"].as_str().ok_or("a lamp has a size")?;
                    let watts = match size {
                        "small" => 5,
                        "large" => 60,
                        other => return Err(format!("{other:?} is no size of a lamp")),
                    };
                    record["spec"] = json!({ "watts": watts });
                    record["status"] = json!({ "is_on": false });
                }
                _ => record["spec"]["room"] = json!("hall"),
            }
            Ok(())
        }
    }
}

const SAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/samples");

async fn open<K: Kind>(path: &std::path::Path) -> Result<Store, StoreError> {
    let engine = Arc::new(Sqlite::open(SqliteOptions::new(path)).await?);
    let mut builder = StoreBuilder::new();
    builder.kind::<K>();
    let opened = builder.open(engine.clone()).await;
    if opened.is_err() {
        engine.close().await;
    }
    opened
}

fn lamp(size: &str) -> Resource<first::Lamp> {
    Resource::new(
        Metadata::new("p", format!("{size}-lamp")),
        first::Spec { size: size.to_owned() },
    )
}

#[tokio::test]
async fn an_old_record_is_read_and_written_as_a_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let old = open::<first::Lamp>(&path).await.unwrap();
    let mut tx = old.begin(Cause::system("test"));
    let small = tx.create(lamp("small")).unwrap();
    tx.create(lamp("large")).unwrap();
    tx.commit().await.unwrap();
    old.close().await;

    let new = open::<third::Lamp>(&path).await.unwrap();
    let lamps = new.cache::<third::Lamp>();
    assert_eq!(lamps.count_by("room", "hall"), 2, "indexes see the new form");
    let read = lamps.get(&small.key()).unwrap();
    assert_eq!(
        read.spec,
        third::Spec {
            watts: 5,
            room: "hall".to_owned()
        }
    );
    assert_eq!(
        (read.metadata.uid, read.metadata.created),
        (small.metadata.uid, small.metadata.created)
    );
    let turn_on = |lamp: &mut Resource<third::Lamp>| {
        lamp.status.is_on = true;
        Ok::<_, StoreError>(())
    };
    new.modify(&small.key(), Cause::system("test"), turn_on).await.unwrap();
    let stored = new.backend().get(&small.key()).await.unwrap().unwrap();
    let stored: Value = serde_json::from_slice(&stored.value).unwrap();
    assert_eq!(
        (&stored["v"], &stored["spec"]["watts"], &stored["status"]["is_on"]),
        (&json!(3), &json!(5), &json!(true))
    );
    new.close().await;

    // The old one refuses to start on what it cannot read, and says which record.
    let failed = open::<first::Lamp>(&path).await.err().unwrap();
    assert!(
        matches!(&failed, StoreError::Decode { key, .. } if *key == small.key()),
        "{failed}"
    );
    assert!(failed.to_string().contains("version 3"), "{failed}");
}

#[tokio::test]
async fn a_record_that_cannot_be_brought_forward_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let old = open::<first::Lamp>(&path).await.unwrap();
    let mut tx = old.begin(Cause::system("test"));
    tx.create(lamp("enormous")).unwrap();
    tx.commit().await.unwrap();
    old.close().await;
    let failed = open::<third::Lamp>(&path).await.err().unwrap();
    assert!(
        failed.to_string().contains("lamps enormous-lamp") && failed.to_string().contains("no size"),
        "{failed}"
    );
}

#[test]
fn samples_of_all_versions_are_loaded() {
    samples::check::<third::Lamp>(SAMPLES).unwrap();
    samples::check::<first::Lamp>(SAMPLES).unwrap();
}

#[test]
fn a_sample_that_is_missing_or_loses_something_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let copy = |name: &str| std::fs::copy(format!("{SAMPLES}/{name}"), dir.path().join(name)).unwrap();
    copy("lamps.v1.json");
    copy("lamps.v3.json");
    let failed = samples::check::<third::Lamp>(dir.path()).unwrap_err();
    assert!(
        failed.contains("lamps.v2.json") && !failed.contains("lamps.v1.json"),
        "{failed}"
    );
    let v1 = std::fs::read_to_string(dir.path().join("lamps.v1.json")).unwrap();
    std::fs::write(
        dir.path().join("lamps.v1.json"),
        v1.replace("\"size\"", "\"dropped\": 1, \"size\""),
    )
    .unwrap();
    let failed = samples::check::<first::Lamp>(dir.path()).unwrap_err();
    assert!(failed.contains("/spec/dropped"), "{failed}");
}
