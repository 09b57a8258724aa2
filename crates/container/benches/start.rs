//! How long a container takes from the call to running: `cargo bench -p madang-container`. Needs root, runc and
//! busybox-static. Reports medians, and the share of a bare `runc run` of the same program on the same machine, which
//! nothing built on runc can be faster than.
#![allow(clippy::unwrap_used, reason = "a measurement that fails has nothing to report")]

#[path = "../tests/support/images.rs"]
mod images;
#[path = "../tests/support/yard.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod yard;

use std::{fs, path::Path, process::Command, time::Duration};

use madang_host::workload::Driver;
use yard::{Yard, busybox, in_a_yard, now};

const RUNS: u8 = 20;

fn main() {
    in_a_yard(async |yard| {
        let bare = bare_runc();
        let image = busybox(&["sleep", "1000"]);
        let first = now();
        let workload = yard.workload(&image);
        yard.driver.start(&workload).await.unwrap();
        let first = first.elapsed();
        yard.driver.remove(workload.id).await.unwrap();
        let (start, remove) = measure(yard, &image, false).await;
        let (with_port, _) = measure(yard, &image, true).await;
        println!("container start, medians of {RUNS}");
        println!("  first of an image (unpacking it)  {:>6.1} ms", ms(first));
        println!("  bare `runc run`                   {:>6.1} ms", ms(bare));
        println!(
            "  without a port                    {:>6.1} ms  {:.2} × bare",
            ms(start),
            ms(start) / ms(bare)
        );
        println!(
            "  with a port                       {:>6.1} ms  {:.2} × bare",
            ms(with_port),
            ms(with_port) / ms(bare)
        );
        println!("  remove                            {:>6.1} ms", ms(remove));
    });
}

async fn measure(yard: &'static Yard, image: &images::Image, port: bool) -> (Duration, Duration) {
    let (mut starts, mut removes) = (Vec::new(), Vec::new());
    for i in 0..RUNS {
        let mut workload = yard.workload(image);
        if port {
            let address: &str = &format!("10.9.0.{}/24", 10 + i);
            workload.nics = vec![yard.port(i + 1, &[address]).await];
        }
        let begin = now();
        yard.driver.start(&workload).await.unwrap();
        starts.push(begin.elapsed());
        let begin = now();
        yard.driver.remove(workload.id).await.unwrap();
        removes.push(begin.elapsed());
    }
    (median(starts), median(removes))
}

/// The least that runc can do: its own default specification.
fn bare_runc() -> Duration {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("rootfs/bin")).unwrap();
    fs::copy("/bin/busybox", dir.path().join("rootfs/bin/sleep")).unwrap();
    runc(dir.path(), &["spec", "--bundle", "."]);
    let file = dir.path().join("config.json");
    let mut spec: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    spec["process"]["terminal"] = false.into();
    spec["process"]["args"] = serde_json::json!(["/bin/sleep", "1000"]);
    fs::write(&file, spec.to_string()).unwrap();
    let mut times = Vec::new();
    for i in 0..RUNS {
        let name = format!("madang-bench-{}-{i}", std::process::id());
        let begin = now();
        runc(dir.path(), &["run", "--detach", &name]);
        times.push(begin.elapsed());
        runc(dir.path(), &["delete", "--force", &name]);
    }
    median(times)
}

fn runc(dir: &Path, args: &[&str]) {
    let status = Command::new("runc")
        .current_dir(dir)
        .args(["--root", "state"])
        .args(args)
        .stdin(std::process::Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "runc {args:?}");
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
