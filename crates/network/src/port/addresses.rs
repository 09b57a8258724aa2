//! Which addresses of each subnet look free, kept in memory so that giving one never looks at all ports.
//!
//! This is a hint: what decides is the reservation `ip/<subnet>/<address>` in the store. Each pick moves the subnet's
//! cursor on, so that those who create ports at the same time pick different addresses, and an address that was just
//! given back is the last to be given again.

use std::{net::IpAddr, sync::Arc};

use ahash::AHashMap;
use madang_store::{Change, Store};
use parking_lot::Mutex;

use super::{
    intervals::Intervals,
    number::{address, number},
};
use crate::{AllocationPool, FixedIp, Port};

/// The hints of one store. Filled when first asked, then kept by the changes of ports.
#[derive(Default)]
pub(crate) struct Addresses(Mutex<Known>);

#[derive(Default)]
struct Known {
    follows: bool,
    subnets: AHashMap<String, Taken>,
}

#[derive(Default)]
struct Taken {
    addresses: Intervals,
    cursor: u128,
}

impl Addresses {
    /// An address of the pools that looks free and for which `is_mine` (taken by this very transaction) does not hold.
    pub(crate) fn pick(
        self: &Arc<Self>,
        store: &Store,
        subnet: &str,
        pools: &[AllocationPool],
        is_mine: impl Fn(IpAddr) -> bool,
    ) -> Option<IpAddr> {
        self.follow(store);
        let mut known = self.0.lock();
        if !known.subnets.contains_key(subnet) {
            known.subnets.insert(subnet.to_owned(), Taken::default());
        }
        known.subnets.get_mut(subnet)?.pick(pools, is_mine)
    }

    /// Whether a port has an address, as far as seen.
    pub(crate) fn is_taken(self: &Arc<Self>, store: &Store, subnet: &str, address: IpAddr) -> bool {
        self.follow(store);
        self.0
            .lock()
            .subnets
            .get(subnet)
            .is_some_and(|taken| taken.addresses.contains(number(address)))
    }

    /// Listens before it lists, and holds the lock over both: what changes meanwhile is told right after.
    fn follow(self: &Arc<Self>, store: &Store) {
        let mut known = self.0.lock();
        if known.follows {
            return;
        }
        known.follows = true;
        let ports = store.cache::<Port>();
        let listener = Arc::clone(self);
        ports.on_change(move |change| listener.take_in(change));
        for port in ports.all() {
            known.add(&port.spec.fixed_ips);
        }
    }

    fn take_in(&self, change: &Change<Port>) {
        let old = change.old.as_ref().map_or(&[][..], |port| &port.spec.fixed_ips);
        let new = change.new.as_ref().map_or(&[][..], |port| &port.spec.fixed_ips);
        if old != new {
            let mut known = self.0.lock();
            known.remove(old);
            known.add(new);
        }
    }
}

impl Known {
    fn add(&mut self, ips: &[FixedIp]) {
        for ip in ips {
            self.subnets
                .entry(ip.subnet_id.clone())
                .or_default()
                .addresses
                .insert(number(ip.ip_address));
        }
    }

    fn remove(&mut self, ips: &[FixedIp]) {
        for ip in ips {
            let Some(taken) = self.subnets.get_mut(&ip.subnet_id) else {
                continue;
            };
            taken.addresses.remove(number(ip.ip_address));
            if taken.addresses.is_empty() {
                self.subnets.remove(&ip.subnet_id);
            }
        }
    }
}

impl Taken {
    fn pick(&mut self, pools: &[AllocationPool], is_mine: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
        let start = self.cursor;
        // First everything from the cursor on, then everything before it.
        let found = self.search(pools, start, u128::MAX, &is_mine);
        let found = found.or_else(|| self.search(pools, 0, start, &is_mine))?;
        self.cursor = number(found).saturating_add(1);
        Some(found)
    }

    /// The first address in `from..=to` that is in a pool and free.
    fn search(
        &self,
        pools: &[AllocationPool],
        from: u128,
        to: u128,
        is_mine: &impl Fn(IpAddr) -> bool,
    ) -> Option<IpAddr> {
        let mut best: Option<u128> = None;
        for pool in pools {
            let (first, last) = (number(pool.start).max(from), number(pool.end).min(to));
            let mut at = first;
            while at <= last {
                let Some(free) = self.addresses.next_free(at).filter(|free| *free <= last) else {
                    break;
                };
                if !is_mine(address(free, pool.start.is_ipv4())) {
                    best = Some(best.map_or(free, |known| known.min(free)));
                    break;
                }
                at = free.saturating_add(1);
            }
        }
        best.map(|free| address(free, pools[0].start.is_ipv4()))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    fn pool(from: u8, to: u8) -> AllocationPool {
        AllocationPool {
            start: Ipv4Addr::new(10, 0, 0, from).into(),
            end: Ipv4Addr::new(10, 0, 0, to).into(),
        }
    }

    #[test]
    fn picks_go_round_and_end_when_nothing_is_left() {
        let pools = [pool(10, 12), pool(2, 3)];
        let mut taken = Taken::default();
        let mut given = Vec::new();
        while let Some(ip) = taken.pick(&pools, |_| false) {
            taken.addresses.insert(number(ip));
            given.push(ip.to_string());
        }
        assert_eq!(given, ["10.0.0.2", "10.0.0.3", "10.0.0.10", "10.0.0.11", "10.0.0.12"]);
        taken.addresses.remove(number("10.0.0.3".parse().unwrap()));
        taken.addresses.remove(number("10.0.0.11".parse().unwrap()));
        assert_eq!(taken.pick(&pools, |_| false), Some("10.0.0.3".parse().unwrap()));
        assert_eq!(
            taken.pick(&pools, |_| false),
            Some("10.0.0.11".parse().unwrap()),
            "not the same twice in a row"
        );
        assert_eq!(
            taken.pick(&pools, |ip| ip.to_string() == "10.0.0.3"),
            Some("10.0.0.11".parse().unwrap())
        );
    }

    #[test]
    fn without_pools_there_is_nothing_to_give() {
        assert_eq!(Taken::default().pick(&[], |_| false), None);
    }

    proptest! {
        #[test]
        fn only_free_addresses_of_the_pools_are_given_and_all_of_them(
            steps in prop::collection::vec((any::<bool>(), 0usize..300), 1..200),
            split in 20u8..120,
        ) {
            let pools = [pool(5, split), pool(split + 10, 200)];
            let size = usize::from(split - 5) + 1 + usize::from(200 - split - 10) + 1;
            let mut taken = Taken::default();
            let mut held: Vec<IpAddr> = Vec::new();
            for (take, which) in steps {
                if take {
                    match taken.pick(&pools, |_| false) {
                        Some(ip) => {
                            prop_assert!(!held.contains(&ip), "{} was given twice", ip);
                            prop_assert!(pools.iter().any(|p| p.start <= ip && ip <= p.end));
                            taken.addresses.insert(number(ip));
                            held.push(ip);
                        }
                        None => prop_assert_eq!(held.len(), size),
                    }
                } else if !held.is_empty() {
                    let ip = held.swap_remove(which % held.len());
                    taken.addresses.remove(number(ip));
                }
            }
            while let Some(ip) = taken.pick(&pools, |_| false) {
                prop_assert!(!held.contains(&ip));
                taken.addresses.insert(number(ip));
                held.push(ip);
            }
            prop_assert_eq!(held.len(), size);
        }
    }
}
