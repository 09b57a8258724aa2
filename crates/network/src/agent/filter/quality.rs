//! Limits and marks of single ports, as chains of the fabric's bridge table.
//!
//! A limit that is changed starts anew; others keep their count. What comes at once is at least one packet of the largest
//! size that the kernel hands on in one piece, or large packets would never pass, and what may come in a second.

use super::{Direction, Says, Table};

/// The largest packet before it is cut for the wire, in bytes.
const LARGEST: u64 = 65_536 + 14;

/// The map from devices to what their sent frames go through.
pub(super) const SENT: &str = "quality_sent";
/// The map from devices to what frames for them go through.
pub(super) const RECEIVED: &str = "quality_received";

/// Adds what rules say of a device, whose name is given without and with quotes.
pub(super) fn add(bridge: &mut Table, name: &str, device: &str, rules: &[Says]) {
    for (direction, map, word) in [
        (Direction::Egress, SENT, "sent"),
        (Direction::Ingress, RECEIVED, "received"),
    ] {
        let lines: Vec<String> = rules.iter().flat_map(|says| compile(says, direction)).collect();
        if lines.is_empty() {
            continue;
        }
        let chain = format!("{word}_{name}");
        super::map(bridge, map).entry(device.to_owned(), format!("jump {chain}"));
        bridge.chain(chain, None, lines);
    }
}

/// What a rule says of frames that go one way, as lines of a chain.
pub(in crate::agent) fn compile(says: &Says, way: Direction) -> Vec<String> {
    match says {
        Says::BandwidthLimit {
            max_kbps,
            max_burst_kbps,
            direction,
        } if *direction == way => {
            // Without a rate there is nothing to count with, and 0 is what Neutron has for "none".
            if *max_kbps == 0 {
                return Vec::new();
            }
            let bytes = |kilobits: u32| u64::from(kilobits) * 1000 / 8;
            let burst = bytes(*max_burst_kbps);
            let rate = bytes(*max_kbps).max(1);
            // The kernel's bucket holds a second's worth beside what is called burst here. Source: nft_limit_init.
            let burst = burst.max(LARGEST).saturating_sub(rate).max(1);
            vec![format!("limit rate over {rate} bytes/second burst {burst} bytes drop")]
        }
        Says::PacketRateLimit {
            max_kpps,
            max_burst_kpps,
            direction,
        } if *direction == way => {
            if *max_kpps == 0 {
                return Vec::new();
            }
            let packets = |thousands: u32| u64::from(thousands) * 1000;
            let rate = packets(*max_kpps);
            // As with bytes: the bucket has a second's worth beside what is called burst.
            let burst = packets(*max_burst_kpps).saturating_sub(rate).max(1);
            vec![format!("limit rate over {rate}/second burst {burst} packets drop")]
        }
        Says::DscpMarking { dscp_mark } if way == Direction::Egress => {
            vec![
                format!("ether type ip ip dscp set {dscp_mark}"),
                format!("ether type ip6 ip6 dscp set {dscp_mark}"),
            ]
        }
        Says::BandwidthLimit { .. }
        | Says::PacketRateLimit { .. }
        | Says::DscpMarking { .. }
        // Who is placed by these has them.
        | Says::MinimumBandwidth { .. }
        | Says::MinimumPacketRate { .. } => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(max_kbps: u32, max_burst_kbps: u32) -> Says {
        Says::BandwidthLimit {
            max_kbps,
            max_burst_kbps,
            direction: Direction::Egress,
        }
    }

    #[test]
    fn kilobits_become_bytes_and_large_packets_pass() {
        let line = |says: &Says| compile(says, Direction::Egress).join(";");
        assert_eq!(
            line(&limit(8000, 0)),
            "limit rate over 1000000 bytes/second burst 1 bytes drop"
        );
        assert_eq!(
            line(&limit(8, 1)),
            "limit rate over 1000 bytes/second burst 64550 bytes drop"
        );
        assert_eq!(line(&limit(0, 1)), "");
        assert!(compile(&limit(8, 1), Direction::Ingress).is_empty());
        assert!(compile(&Says::DscpMarking { dscp_mark: 26 }, Direction::Ingress).is_empty());
    }
}
