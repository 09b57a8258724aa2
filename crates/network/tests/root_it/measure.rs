//! How long things take. Prints; the bounds are generous, they catch a lost batch and not a slow machine.

use std::time::Duration;

use madang_host::workload::Attachment;
use madang_network::{FixedIp, Port, PortSpec, Rule};
use madang_store::{Cause, Metadata, Resource};
use tokio::time::Instant;

use crate::lab::{HOST, Lab, Net, allow, in_lab, until, until_async};

async fn wire(lab: &Lab, nets: &[&Net], from: u32, count: u32, group: &str) -> Duration {
    let before = lab
        .store
        .cache::<Port>()
        .all()
        .iter()
        .filter(|port| port.status.wired_on.is_some())
        .count();
    let mut tx = lab.store.begin(Cause::system("test"));
    for index in from..from + count {
        let net = nets[index as usize % nets.len()];
        let ip = FixedIp {
            subnet_id: net.subnet.name().into(),
            ip_address: net.nth(index),
        };
        let spec = PortSpec {
            fixed_ips: vec![ip],
            security_groups: vec![group.into()],
            attachment: Attachment::Tap,
            ..net.port(0)
        };
        tx.create(Resource::<Port>::new(Metadata::with_id("p1"), spec)).unwrap();
    }
    let begun = Instant::now();
    tx.commit().await.unwrap();
    let committed = begun.elapsed();
    let wanted = before + count as usize;
    until("the ports to be wired", || {
        let ports = lab.store.cache::<Port>().all();
        ports
            .iter()
            .filter(|port| port.status.wired_on.as_deref() == Some(HOST))
            .count()
            >= wanted
    })
    .await;
    println!(
        "{count} more ports wired in {:?}, of which the commit took {committed:?}",
        begun.elapsed()
    );
    begun.elapsed()
}

#[test]
fn ports_are_wired_in_batches() {
    in_lab(|lab| async move {
        // A bridge of the kernel takes 1,023 ports, so a thousand guests are spread over two.
        let nets = [&lab.network("10.0.0.0/16").await, &lab.network("10.0.0.0/16").await];
        lab.start();
        let group = lab.group().await;
        wire(&lab, &nets, 10, 1, group.name()).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let mut one: Vec<Duration> = Vec::new();
        for index in 0..9 {
            one.push(wire(&lab, &nets, 20 + index, 1, group.name()).await);
        }
        one.sort();
        println!("one more port: median {:?}, worst {:?}", one[4], one[8]);
        let fifty = wire(&lab, &nets, 100, 50, group.name()).await;
        assert!(fifty < Duration::from_secs(2), "{fifty:?}");
        let thousand = wire(&lab, &nets, 1000, 1000, group.name()).await;
        assert!(thousand < Duration::from_secs(10), "{thousand:?}");
        wire(&lab, &nets, 3000, 1, group.name()).await;
        let fabric = lab.instance.fabric();
        let begun = Instant::now();
        lab.create::<Rule>(allow(&group, Some("tcp"), Some(4242))).await;
        until_async("the rule", || async {
            madang_host::nft::list(&fabric)
                .await
                .unwrap()
                .contains("dport 4242 accept")
        })
        .await;
        println!(
            "a rule beside 1,000 ports: {:?}, the look at a long list included",
            begun.elapsed()
        );
    });
}
