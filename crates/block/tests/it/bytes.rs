//! Never lose a byte: what was written is there, whatever was snapshot, cloned and deleted around it.

use std::{collections::BTreeMap, process::Command};

use madang_block::{Layer, Volume, driver::LayerFile, layer};
use serde_json::{Value, json};

use crate::cloud::Cloud;

/// Where patterns are written: 4 KiB at each of these MiB.
const PLACES: u64 = 4;

impl Cloud {
    pub fn top(&self, volume: &str) -> std::path::PathBuf {
        let volume = self.store.cache::<Volume>().by_name(volume).unwrap();
        let uid = volume.status.layer.unwrap();
        let format = self.store.get::<Layer>(&layer::key(uid)).unwrap().spec.format;
        self.back_end.path(LayerFile { uid, format })
    }

    fn io(&self, volume: &str, command: &str) -> bool {
        let output = Command::new("qemu-io")
            .args(["-f", "qcow2", "-c", command])
            .arg(self.top(volume))
            .output()
            .expect("qemu-io is there: apt-get install qemu-utils");
        let said = String::from_utf8_lossy(&output.stdout);
        output.status.success() && !said.contains("verification failed") && !said.contains("rror")
    }

    pub fn write(&self, volume: &str, place: u64, pattern: u8) {
        assert!(self.io(volume, &format!("write -P {pattern} {place}M 4k")));
    }

    /// Whether a pattern is where volumes begin.
    pub fn reads(&self, volume: &str, pattern: u8) -> bool {
        self.io(volume, &format!("read -P {pattern} 0 4k"))
    }

    pub fn check(&self, volume: &str, wanted: &[u8], what: &str) {
        for (place, pattern) in wanted.iter().enumerate() {
            assert!(
                self.io(volume, &format!("read -P {pattern} {place}M 4k")),
                "{what}: {pattern} at {place} MiB"
            );
        }
    }
}

#[tokio::test]
async fn a_clone_is_made_at_once_and_stays_as_it_was() {
    let cloud = Cloud::new().await;
    let began = tokio::time::Instant::now();
    let volume = cloud
        .create("volumes", "volume", json!({ "size": 1, "imageRef": cloud.image }))
        .await;
    let shown = cloud
        .becomes(&format!("/volumes/{volume}"), "volume", "available")
        .await;
    println!("from an image in {:?}", began.elapsed());
    assert_eq!(shown["bootable"], "true");
    cloud.check(&volume, &[0x55], "the image");
    cloud.write(&volume, 0, 7);
    let clone = cloud
        .create("volumes", "volume", json!({ "source_volid": volume }))
        .await;
    cloud.becomes(&format!("/volumes/{clone}"), "volume", "available").await;
    cloud.write(&volume, 0, 8);
    cloud.check(&clone, &[7], "the clone");
    let (status, _) = cloud.call("DELETE", &format!("/volumes/{volume}"), Value::Null).await;
    assert_eq!(status, 202);
    cloud.check(&clone, &[7], "the clone alone");
    cloud.call("DELETE", &format!("/volumes/{clone}"), Value::Null).await;
    for _ in 0..500 {
        if cloud.files() == 0 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(cloud.files(), 0, "nobody needs any of it");
    cloud.stop().await;
}

/// A source of steps without a clock; the same steps for the same seed.
struct Steps(u64);

impl Steps {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % below.max(1)
    }
}

async fn interleave(seed: u64) {
    let cloud = Cloud::new().await;
    let mut steps = Steps(seed);
    let mut volumes: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut snapshots: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let pick = |of: &BTreeMap<String, Vec<u8>>, at: usize| of.keys().nth(at % of.len().max(1)).cloned();
    for step in 0..40 {
        let at = steps.next(64);
        match steps.next(7) {
            0 if volumes.len() < 5 => {
                let id = cloud.create("volumes", "volume", json!({ "size": 1 })).await;
                cloud.becomes(&format!("/volumes/{id}"), "volume", "available").await;
                volumes.insert(id, vec![0; PLACES as usize]);
            }
            1 | 2 => {
                let Some(id) = pick(&volumes, at) else { continue };
                let (place, pattern) = (steps.next(PLACES as usize), steps.next(250) as u8 + 1);
                cloud.write(&id, place as u64, pattern);
                volumes.get_mut(&id).unwrap()[place] = pattern;
            }
            3 if snapshots.len() < 8 => {
                let Some(id) = pick(&volumes, at) else { continue };
                let snapshot = cloud.create("snapshots", "snapshot", json!({ "volume_id": id })).await;
                cloud
                    .becomes(&format!("/snapshots/{snapshot}"), "snapshot", "available")
                    .await;
                snapshots.insert(snapshot, volumes[&id].clone());
            }
            4 if volumes.len() < 7 => {
                let Some(id) = pick(&snapshots, at) else { continue };
                let made = cloud.create("volumes", "volume", json!({ "snapshot_id": id })).await;
                // Often before the new volume is made.
                if steps.next(2) == 0 {
                    let (status, _) = cloud.call("DELETE", &format!("/snapshots/{id}"), Value::Null).await;
                    assert_eq!(status, 202);
                }
                cloud.becomes(&format!("/volumes/{made}"), "volume", "available").await;
                volumes.insert(made, snapshots[&id].clone());
                if cloud.call("GET", &format!("/snapshots/{id}"), Value::Null).await.0 == 404 {
                    snapshots.remove(&id);
                }
            }
            5 if volumes.len() < 7 => {
                let Some(id) = pick(&volumes, at) else { continue };
                let made = cloud.create("volumes", "volume", json!({ "source_volid": id })).await;
                cloud.becomes(&format!("/volumes/{made}"), "volume", "available").await;
                volumes.insert(made, volumes[&id].clone());
            }
            6 => {
                let Some(id) = pick(&volumes, at) else { continue };
                let (status, _) = cloud.call("DELETE", &format!("/volumes/{id}"), Value::Null).await;
                if status == 202 {
                    volumes.remove(&id);
                }
            }
            _ => {}
        }
        for (id, wanted) in &volumes {
            cloud.check(id, wanted, &format!("seed {seed} step {step}"));
        }
    }
    for (id, wanted) in &snapshots {
        let made = cloud.create("volumes", "volume", json!({ "snapshot_id": id })).await;
        cloud.becomes(&format!("/volumes/{made}"), "volume", "available").await;
        cloud.check(&made, wanted, &format!("seed {seed} at the end"));
        cloud.call("DELETE", &format!("/volumes/{made}"), Value::Null).await;
    }
    cloud.stop().await;
}

#[tokio::test]
async fn no_interleaving_loses_a_byte() {
    for seed in [1, 20, 300] {
        interleave(seed).await;
    }
}

#[tokio::test]
async fn a_start_removes_what_nobody_names() {
    let cloud = Cloud::new().await;
    let volume = cloud.create("volumes", "volume", json!({ "size": 1 })).await;
    cloud
        .becomes(&format!("/volumes/{volume}"), "volume", "available")
        .await;
    let stray = cloud
        .path()
        .join("volumes/layers")
        .join(format!("{}.qcow2", uuid::Uuid::new_v4()));
    std::fs::write(&stray, b"left by a crash").unwrap();
    let dir = cloud.stop().await;
    let again = Cloud::again(dir).await;
    assert!(!stray.exists());
    assert_eq!(again.files(), 1);
    again
        .becomes(&format!("/volumes/{volume}"), "volume", "available")
        .await;
    again.stop().await;
}

#[tokio::test]
async fn layers_that_nobody_else_needs_become_one() {
    let cloud = Cloud::new().await;
    let volume = cloud
        .create("volumes", "volume", json!({ "size": 1, "imageRef": cloud.image }))
        .await;
    let path = format!("/volumes/{volume}");
    cloud.becomes(&path, "volume", "available").await;
    let mut snapshots = Vec::new();
    for step in 1..=10_u8 {
        cloud.write(&volume, u64::from(step), step);
        let snapshot = cloud
            .create("snapshots", "snapshot", json!({ "volume_id": volume }))
            .await;
        let of = format!("/snapshots/{snapshot}");
        cloud.becomes(&of, "snapshot", "available").await;
        snapshots.push(of);
    }
    // The first one stays, and what it stands on with it.
    let kept = snapshots.remove(0);
    for of in snapshots {
        assert_eq!(cloud.call("DELETE", &of, Value::Null).await.0, 202);
    }
    for _ in 0..1500 {
        if cloud.files() <= 3 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert!(cloud.files() <= 3, "{} files are left of 12", cloud.files());
    let wanted: Vec<u8> = (1..=10).collect();
    let check = |id: &str, wanted: &[u8]| {
        for (place, pattern) in wanted.iter().enumerate() {
            let place = place as u64 + 1;
            assert!(
                cloud.io(id, &format!("read -P {pattern} {place}M 4k")),
                "{pattern} at {place} MiB"
            );
        }
        assert!(cloud.io(id, "read -P 0x55 0 4k"), "the image below");
    };
    check(&volume, &wanted);
    let id = kept.rsplit('/').next().unwrap();
    let copy = cloud.create("volumes", "volume", json!({ "snapshot_id": id })).await;
    cloud.becomes(&format!("/volumes/{copy}"), "volume", "available").await;
    check(&copy, &[1, 0, 0]);
    // It goes on.
    cloud.write(&volume, 10, 99);
    assert!(cloud.io(&volume, "read -P 99 10M 4k"));
    cloud.stop().await;
}
