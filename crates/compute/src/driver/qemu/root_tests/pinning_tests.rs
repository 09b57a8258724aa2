//! Processors and pages that a machine has to itself.

use madang_host::workload::{Cpu, NumaNode};

use super::*;

/// Huge pages of 2 MiB, as many as there were again when this is dropped.
struct HugePages {
    before: String,
}

const PAGES: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";

fn pages(name: &str) -> u64 {
    let text = fs::read_to_string(format!("{PAGES}/{name}")).unwrap();
    text.trim().parse().unwrap()
}

impl HugePages {
    fn more(number: u64) -> Self {
        let before = pages("nr_hugepages");
        let this = Self {
            before: before.to_string(),
        };
        fs::write(format!("{PAGES}/nr_hugepages"), (before + number).to_string()).unwrap();
        assert_eq!(
            pages("nr_hugepages"),
            before + number,
            "this machine has no room for {number} huge pages"
        );
        this
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        fs::write(format!("{PAGES}/nr_hugepages"), &self.before).unwrap();
    }
}

/// Where a thread may run.
fn allowed(pid: u32, thread: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/task/{thread}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    line.unwrap().trim().to_owned()
}

#[tokio::test]
async fn what_a_machine_has_to_itself_is_where_it_runs() {
    let fixture = Fixture::new().await;
    let huge = HugePages::more(40);
    let free = pages("free_hugepages");
    let mut workload = fixture.workload().await;
    workload.hardware.cpu = Cpu {
        pinned: vec![1],
        shared: vec![0],
        ..Cpu::default()
    };
    workload.hardware.numa = vec![NumaNode {
        cpus: vec![0],
        memory_mib: 64,
        host_node: Some(0),
        page_kib: Some(2048),
    }];
    fixture.driver.start(&workload).await.unwrap();
    let machine = fixture.machine(workload.id).await;
    let told = machine.ask("query-cpus-fast", serde_json::Value::Null).await.unwrap();
    let own = told[0]["thread-id"].as_u64().unwrap().to_string();
    let pid = fixture.pid(workload.id);
    assert_eq!(allowed(pid, &own), "1");
    assert_eq!(allowed(pid, &pid.to_string()), "0", "QEMU's own work is elsewhere");
    assert_eq!(pages("free_hugepages"), free - 32);
    fixture.driver.remove(workload.id).await.unwrap();
    assert_eq!(pages("free_hugepages"), free);
    drop(huge);

    workload.hardware = Hardware::default();
    workload.hardware.cpu.pinned = vec![900];
    fs::create_dir_all(&workload.dir).unwrap();
    let error = fixture.driver.start(&workload).await.unwrap_err();
    assert!(error.to_string().contains("processors [900]"), "{error}");
    fixture.driver.remove(workload.id).await.unwrap();
    fixture.finish().await;
}
