//! Metering labels count what really passes.

use madang_network::{
    Direction, MeteringLabel, MeteringLabelSpec, MeteringLabelStatus, MeteringRule, MeteringRuleSpec, Rule,
};

use super::lab::{allow, in_lab, until, until_async};

#[test]
fn a_label_counts_both_ways_but_what_is_excluded() {
    in_lab(|lab| async move {
        let net = lab.network("10.1.0.0/24").await;
        let external = lab.external("172.29.0.0/24").await;
        let router = lab.router(&[&net], &external, 10).await;
        lab.start();
        let group = lab.group().await;
        lab.create::<Rule>(allow(&group, None, None)).await;
        let guest = lab.guest(&net, 5, &group).await;
        let quiet = lab.guest(&net, 6, &group).await;
        until_async("the way out", || guest.pings(external.at(1))).await;
        let label = lab.create::<MeteringLabel>(MeteringLabelSpec::default()).await;
        let rule = |direction, prefix: &str, is_excluded| MeteringRuleSpec {
            label_id: label.name().into(),
            direction,
            is_excluded,
            remote_ip_prefix: Some(prefix.parse().unwrap()),
            source_ip_prefix: None,
            destination_ip_prefix: None,
        };
        lab.create::<MeteringRule>(rule(Direction::Egress, "10.1.0.0/24", false))
            .await;
        lab.create::<MeteringRule>(rule(Direction::Egress, "10.1.0.6/32", true))
            .await;
        let counted = || lab.store.get::<MeteringLabel>(&label.key()).unwrap().status;
        // Three pings of 84 bytes each, until the rules are there.
        until_async("the guest to be counted", || async {
            assert!(guest.pings(external.at(1)).await);
            counted().packets > 0
        })
        .await;
        // What was sent before the counters were looked at comes a little later.
        let settled = |before: MeteringLabelStatus| async move {
            tokio::time::sleep(std::time::Duration::from_secs(11)).await;
            (before, counted())
        };
        let (_, before) = settled(counted()).await;
        assert_eq!(before.bytes, before.packets * 84, "{before:?}");
        assert!(quiet.pings(external.at(1)).await);
        let (before, after) = settled(before).await;
        assert_eq!(after, before, "who is excluded");
        // The other way, too; nothing that was counted is lost by the change.
        lab.create::<MeteringRule>(rule(Direction::Ingress, "10.1.0.0/24", false))
            .await;
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        assert!(guest.pings(external.at(1)).await);
        assert!(quiet.pings(external.at(1)).await);
        until("both ways to be counted", || counted().packets == before.packets + 9).await;
        drop(router);
    });
}
