//! What the host lets through to and from an interface, set at its tap.
//!
//! To the guest is what leaves the tap: a token bucket that holds packets back. From the guest is what comes in at the tap,
//! where there is nothing to hold back with: what is too much is dropped, and the guest's own protocols slow down.

use std::time::Duration;

use madang_host::{
    netns::Netns,
    process::Command,
    workload::{DriverError, Nic},
};

/// The kernel answers at once; both commands wait for its lock on links at most.
const TIMEOUT: Duration = Duration::from_secs(30);

/// What may pass at once at least, in bytes: packets come in pieces of up to 64 KiB.
const LEAST_BURST: u64 = 128 << 10;

/// Sets the limits of an interface in bytes a second, to and from its guest; where there are none, those it had go.
pub(super) async fn limit(nic: &Nic, (to_guest, from_guest): (Option<u64>, Option<u64>)) -> Result<(), DriverError> {
    let (netns, device) = (Netns::named(nic.netns.clone()), nic.device.as_str());
    if let Some(rate) = to_guest {
        let (bits, burst) = (format!("{}bit", rate.saturating_mul(8)), burst(rate).to_string());
        Command::new("tc")
            .args(["qdisc", "replace", "dev", device, "root", "tbf", "rate", &bits])
            .args(["burst", &burst, "latency", "100ms"])
            .netns(&netns)
            .if_missing("install it with `apt-get install iproute2`")
            .run(TIMEOUT)
            .await?;
    }
    if let Some(rate) = from_guest {
        Command::new("nft")
            .args(["-f", "-"])
            .stdin(rules(device, rate))
            .netns(&netns)
            .if_missing("install it with `apt-get install nftables`")
            .run(TIMEOUT)
            .await?;
    }
    Ok(())
}

/// Replaces what was there.
fn rules(device: &str, rate: u64) -> String {
    let burst = burst(rate);
    format!(
        "table netdev limit-{device}\n\
         delete table netdev limit-{device}\n\
         table netdev limit-{device} {{\n\
         chain from-guest {{\n\
         type filter hook ingress device \"{device}\" priority -300\n\
         limit rate over {rate} bytes/second burst {burst} bytes drop\n\
         }}\n\
         }}\n"
    )
}

/// A tenth of a second's worth.
fn burst(rate: u64) -> u64 {
    (rate / 10).max(LEAST_BURST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_line_still_takes_the_biggest_packet() {
        assert_eq!(burst(1000), LEAST_BURST);
        assert_eq!(burst(100 << 20), 10 << 20);
        assert!(rules("tap1", 5000).contains("over 5000 bytes/second burst 131072 bytes drop"));
    }
}
