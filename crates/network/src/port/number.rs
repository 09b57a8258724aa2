//! Addresses as numbers, to count and compare them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address as a number within its version.
pub(crate) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

/// The address that is a number within its version.
pub(crate) fn address(number: u128, v4: bool) -> IpAddr {
    if v4 {
        // Numbers of version 4 come from 32 bits.
        IpAddr::V4(Ipv4Addr::from(number as u32))
    } else {
        IpAddr::V6(Ipv6Addr::from(number))
    }
}
