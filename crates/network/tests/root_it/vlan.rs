//! Networks of a VLAN: one segment with that VLAN of the way outside.

use madang_host::{
    link::{Change, Links, VethEnd},
    netns::Netns,
};
use madang_network::{Network, NetworkSpec, Rule};

use super::lab::{Lab, allow, in_lab, pings, until_async};

/// What a switch outside has: a link that is in a VLAN, with an address.
async fn join(lab: &Lab, name: &str, vlan: u16, address: &str) {
    let links = Links::open(&lab.outside).await.unwrap();
    let end = |name: String| VethEnd {
        name,
        netns: lab.outside.clone(),
        mac: None,
        mtu: Some(1500),
    };
    links
        .ensure_veth(&end(name.into()), &end(format!("{name}far")))
        .await
        .unwrap();
    let up = Change {
        up: Some(true),
        ..Change::default()
    };
    for link in [name.to_owned(), format!("{name}far")] {
        links.change(&link, &up).await.unwrap();
    }
    links.set_addresses(name, &[address.parse().unwrap()]).await.unwrap();
    let number = |link: &str| {
        let (links, link) = (&links, link.to_owned());
        async move { links.get(&link).await.unwrap().index }
    };
    let trunk = number(&lab.instance.outside_link()).await;
    let own = number(name).await;
    links.tag(own, vlan, trunk).await.unwrap();
    links.untag(trunk, &[(vlan, own)]).await.unwrap();
}

async fn has(netns: &Netns, link: &str) -> bool {
    match Links::open(netns).await {
        Ok(links) => links.get(link).await.is_ok(),
        Err(_) => false,
    }
}

#[test]
fn a_network_of_a_vlan_is_one_segment_with_that_vlan_outside() {
    in_lab(|lab| async move {
        let net = lab.network("10.1.0.0/24").await;
        lab.modify::<Network>(&net.network, |network| {
            network.spec = NetworkSpec {
                network_type: "vlan".into(),
                physical_network: Some("outside".into()),
                segmentation_id: 7,
                ..network.spec.clone()
            };
        })
        .await;
        lab.start();
        let group = lab.group().await;
        lab.create::<Rule>(allow(&group, None, None)).await;
        let guest = lab.guest(&net, 5, &group).await;
        let outside = lab.instance.outside_link();
        until_async("the way out", || has(&lab.outside, &outside)).await;
        join(&lab, "seven", 7, "10.1.0.99/24").await;
        until_async("the VLAN to be joined", || guest.pings("10.1.0.99".parse().unwrap())).await;
        assert!(pings(&lab.outside, guest.address()).await);
        // Another number is another segment.
        let links = Links::open(&lab.outside).await.unwrap();
        links.remove("seven").await.unwrap();
        join(&lab, "eight", 8, "10.1.0.98/24").await;
        assert!(!guest.pings("10.1.0.98".parse().unwrap()).await);
        assert!(!pings(&lab.outside, guest.address()).await);
    });
}
