//! MAC addresses as ports have them: lower case, with colons.

/// The front of the addresses that are given: locally known as OpenStack's (Neutron's `base_mac`).
const BASE: [u8; 3] = [0xfa, 0x16, 0x3e];
/// How often a taken address is drawn before it is left to the commit to decide; of 2^24 few are taken.
const DRAWS: usize = 16;

/// An address that is not taken, as far as seen.
pub(super) fn random(is_taken: impl Fn(&str) -> bool) -> String {
    let draw = || {
        let [a, b, c] = rand::random::<[u8; 3]>();
        write(&[BASE[0], BASE[1], BASE[2], a, b, c])
    };
    (0..DRAWS)
        .map(|_| draw())
        .find(|mac| !is_taken(mac))
        .unwrap_or_else(draw)
}

/// Reads an address with colons or hyphens, in any case; none for anything else, and for addresses that no one station
/// can have (multicast, zero).
pub(crate) fn parse(text: &str) -> Option<String> {
    let bytes = octets(text)?;
    let is_station = bytes[0] & 1 == 0 && bytes != [0; 6];
    is_station.then(|| write(&bytes))
}

/// The six bytes of an address.
pub(crate) fn octets(text: &str) -> Option<[u8; 6]> {
    let mut bytes = [0; 6];
    let mut parts = text.split([':', '-']);
    for byte in &mut bytes {
        let part = parts
            .next()
            .filter(|part| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit()))?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(bytes)
}

fn write(bytes: &[u8; 6]) -> String {
    let [a, b, c, d, e, f] = bytes;
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_in_the_usual_spellings() {
        assert_eq!(parse("FA-16-3E-00-00-0a").as_deref(), Some("fa:16:3e:00:00:0a"));
        for bad in [
            "",
            "fa:16:3e:00:00",
            "fa:16:3e:00:00:0a:00",
            "fa:16:3e:0:0:a",
            "01:00:5e:00:00:01",
            "zz:16:3e:00:00:0a",
            "00:00:00:00:00:00",
            "+a:16:3e:00:00:0a",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn taken_addresses_are_drawn_again() {
        let first = random(|_| false);
        assert!(first.starts_with("fa:16:3e:") && parse(&first).is_some());
        assert_ne!(random(|mac| mac == first), first);
    }
}
