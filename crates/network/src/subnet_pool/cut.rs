//! Cutting prefixes out of a pool. Pure.

use ipnet::IpNet;

/// What is left of `prefixes` without `taken`, as few prefixes as possible, in order.
pub(crate) fn left(prefixes: &[IpNet], taken: &[IpNet]) -> Vec<IpNet> {
    let mut left = Vec::new();
    for prefix in prefixes {
        subtract(*prefix, taken, &mut left);
    }
    left
}

fn subtract(block: IpNet, taken: &[IpNet], left: &mut Vec<IpNet>) {
    let meets = |other: &&IpNet| other.contains(&block) || block.contains(*other);
    let meeting: Vec<IpNet> = taken.iter().filter(meets).copied().collect();
    if meeting.is_empty() {
        left.push(block);
    } else if meeting.iter().all(|other| !other.contains(&block))
        && let Ok(halves) = block.subnets(block.prefix_len() + 1)
    {
        for half in halves {
            subtract(half, &meeting, left);
        }
    }
}

/// The first free prefix of a length, out of the smallest piece that has one, so that large pieces stay whole.
pub(crate) fn first_free(prefixes: &[IpNet], taken: &[IpNet], length: u8) -> Option<IpNet> {
    let pieces = left(prefixes, taken);
    let fitting = pieces.into_iter().filter(|piece| piece.prefix_len() <= length);
    let piece = fitting.max_by(|a, b| a.prefix_len().cmp(&b.prefix_len()).then(b.cmp(a)))?;
    piece.subnets(length).ok()?.next()
}

/// Whether nothing of a prefix of the pool is taken.
pub(crate) fn is_free(prefixes: &[IpNet], taken: &[IpNet], wanted: IpNet) -> bool {
    let is_inside = prefixes.iter().any(|prefix| prefix.contains(&wanted));
    is_inside
        && taken
            .iter()
            .all(|other| !other.contains(&wanted) && !wanted.contains(other))
}

/// In order, neighbours joined, none within another.
pub(crate) fn compact(prefixes: &[IpNet]) -> Vec<IpNet> {
    let truncated: Vec<IpNet> = prefixes.iter().map(IpNet::trunc).collect();
    let mut compact = IpNet::aggregate(&truncated);
    compact.sort_unstable();
    compact
}

/// How much a subnet counts in its pool's quota: addresses of version 4, /64 networks of version 6.
pub(crate) fn units(subnet: IpNet) -> u64 {
    let whole: u32 = if subnet.addr().is_ipv4() { 32 } else { 64 };
    let bits = whole.saturating_sub(u32::from(subnet.prefix_len()));
    1u64.checked_shl(bits).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn the_smallest_piece_that_fits_is_cut() {
        let pool = nets(&["10.0.0.0/24"]);
        let cut = |taken: &[&str], length| first_free(&pool, &nets(taken), length).map(|net| net.to_string());
        assert_eq!(cut(&[], 26).unwrap(), "10.0.0.0/26");
        // Left are 10.0.0.64/26 and 10.0.0.128/25.
        assert_eq!(cut(&["10.0.0.0/26"], 27).unwrap(), "10.0.0.64/27");
        assert_eq!(cut(&["10.0.0.0/26"], 25).unwrap(), "10.0.0.128/25");
        assert_eq!(cut(&["10.0.0.0/26"], 24), None);
        assert_eq!(cut(&["10.0.0.0/16"], 28), None);
    }

    #[test]
    fn what_is_taken_or_elsewhere_is_not_free() {
        let (pool, taken) = (nets(&["10.0.0.0/24", "fd00::/48"]), nets(&["10.0.0.0/28"]));
        let free = |text: &str| is_free(&pool, &taken, text.parse().unwrap());
        assert!(free("10.0.0.16/28") && free("fd00::/64"));
        assert!(!free("10.0.0.0/29") && !free("10.0.0.0/25") && !free("10.0.1.0/28"));
    }

    #[test]
    fn prefixes_are_kept_compact_and_count_in_units() {
        let prefixes = compact(&nets(&["10.0.1.0/24", "10.0.0.0/24", "10.0.0.7/30"]));
        assert_eq!(prefixes, nets(&["10.0.0.0/23"]));
        assert_eq!(units("10.0.0.0/28".parse().unwrap()), 16);
        assert_eq!(units("fd00::/62".parse().unwrap()), 4);
        assert_eq!(units("fd00::/96".parse().unwrap()), 1);
        assert_eq!(units("::/0".parse().unwrap()), u64::MAX);
    }

    proptest! {
        #[test]
        fn cuts_never_overlap_and_a_pool_is_used_up(lengths in proptest::collection::vec(24u8..=28, 1..40)) {
            let pool = nets(&["10.0.0.0/23", "10.0.4.0/24"]);
            let mut taken: Vec<IpNet> = Vec::new();
            for length in lengths {
                match first_free(&pool, &taken, length) {
                    Some(cut) => {
                        prop_assert!(is_free(&pool, &taken, cut), "{cut} of {taken:?}");
                        prop_assert_eq!(cut.prefix_len(), length);
                        taken.push(cut);
                    }
                    None => {
                        let any = pool.iter().flat_map(|p| p.subnets(length).unwrap()).any(|p| is_free(&pool, &taken, p));
                        prop_assert!(!any);
                    }
                }
            }
        }
    }
}
