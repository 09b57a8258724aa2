//! Options of DHCP that ports name: from dnsmasq's words to what goes over the wire. Pure. Source: RFC 2132, dnsmasq(8).

use std::net::{IpAddr, Ipv4Addr};

use crate::ExtraDhcpOption;

/// How a value is written.
#[derive(Clone, Copy)]
enum Shape {
    Text,
    Addresses,
    Short,
    Long,
}

/// Names of options that make sense for a guest, with their codes.
const NAMES: [(&str, u8, Shape); 21] = [
    ("netmask", 1, Shape::Addresses),
    ("time-offset", 2, Shape::Long),
    ("router", 3, Shape::Addresses),
    ("dns-server", 6, Shape::Addresses),
    ("log-server", 7, Shape::Addresses),
    ("lpr-server", 9, Shape::Addresses),
    ("hostname", 12, Shape::Text),
    ("domain-name", 15, Shape::Text),
    ("root-path", 17, Shape::Text),
    ("extension-path", 18, Shape::Text),
    ("mtu", 26, Shape::Short),
    ("broadcast", 28, Shape::Addresses),
    ("nis-domain", 40, Shape::Text),
    ("nis-server", 41, Shape::Addresses),
    ("ntp-server", 42, Shape::Addresses),
    ("netbios-ns", 44, Shape::Addresses),
    ("tftp-server", 66, Shape::Text),
    ("bootfile-name", 67, Shape::Text),
    ("smtp-server", 69, Shape::Addresses),
    ("tftp-server-address", 150, Shape::Addresses),
    ("wpad", 252, Shape::Text),
];
/// Codes that the exchange itself uses: nobody else sets them.
const OURS: [u8; 10] = [0, 50, 51, 53, 54, 55, 57, 61, 121, 255];
/// dnsmasq's name for a field that is not an option.
const BOOT_SERVER: &str = "server-ip-address";
/// Of all further options together: with the usual ones they stay within what one frame takes.
const MAX_BYTES: usize = 700;

/// Codes and values of the options of version 4 that can be told; others are kept by the port and said to nobody.
pub(super) fn wired(options: &[ExtraDhcpOption]) -> Vec<(u8, Vec<u8>)> {
    let mut wired: Vec<(u8, Vec<u8>)> = Vec::new();
    let mut bytes = 0;
    for option in options.iter().filter(|option| option.ip_version == 4) {
        let Some((code, value)) = wire(&option.opt_name, &option.opt_value) else {
            continue;
        };
        bytes += value.len() + 2;
        if bytes <= MAX_BYTES && !OURS.contains(&code) && wired.iter().all(|(known, _)| *known != code) {
            wired.push((code, value));
        }
    }
    wired
}

/// The server a guest boots from, if the port names one.
pub(super) fn boot_server(options: &[ExtraDhcpOption]) -> Option<Ipv4Addr> {
    let named = options
        .iter()
        .find(|option| option.opt_name == BOOT_SERVER && option.ip_version == 4);
    named?.opt_value.parse().ok()
}

fn wire(name: &str, value: &str) -> Option<(u8, Vec<u8>)> {
    let bytes = match NAMES.iter().find(|(known, ..)| *known == name) {
        Some((_, code, Shape::Text)) => return Some((*code, text(value)?)),
        Some((_, code, Shape::Addresses)) => return Some((*code, addresses(value)?)),
        Some((_, code, Shape::Short)) => return Some((*code, value.parse::<u16>().ok()?.to_be_bytes().to_vec())),
        Some((_, code, Shape::Long)) => return Some((*code, value.parse::<u32>().ok()?.to_be_bytes().to_vec())),
        // By number: addresses when it is nothing but addresses.
        None => addresses(value).or_else(|| text(value))?,
    };
    Some((name.parse().ok()?, bytes))
}

fn text(value: &str) -> Option<Vec<u8>> {
    (1..=255).contains(&value.len()).then(|| value.as_bytes().to_vec())
}

fn addresses(value: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    for part in value.split(',') {
        let IpAddr::V4(address) = part.trim().parse().ok()? else {
            return None;
        };
        bytes.extend_from_slice(&address.octets());
    }
    (bytes.len() <= 252).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn option(name: &str, value: &str) -> ExtraDhcpOption {
        ExtraDhcpOption {
            opt_name: name.into(),
            opt_value: value.into(),
            ip_version: 4,
        }
    }

    #[test]
    fn names_and_numbers_become_codes_and_values_bytes() {
        let told = |name, value| wired(&[option(name, value)]).pop();
        assert_eq!(told("bootfile-name", "pxelinux.0"), Some((67, b"pxelinux.0".to_vec())));
        assert_eq!(
            told("ntp-server", "10.0.0.1, 10.0.0.2"),
            Some((42, vec![10, 0, 0, 1, 10, 0, 0, 2]))
        );
        assert_eq!(told("mtu", "1400"), Some((26, vec![5, 120])));
        assert_eq!(told("150", "10.0.0.1"), Some((150, vec![10, 0, 0, 1])));
        assert_eq!(told("224", "x"), Some((224, b"x".to_vec())));
    }

    #[test]
    fn what_cannot_be_told_is_not() {
        for (name, value) in [
            ("53", "5"),
            ("mtu", "many"),
            ("router", "here"),
            ("no-such-name", "x"),
            ("300", "x"),
        ] {
            assert_eq!(wired(&[option(name, value)]), [], "{name}");
        }
        let version_six = ExtraDhcpOption {
            ip_version: 6,
            ..option("bootfile-name", "x")
        };
        assert_eq!(wired(&[version_six]), []);
        let much: Vec<_> = (200..210)
            .map(|code| option(&code.to_string(), &"x".repeat(200)))
            .collect();
        assert_eq!(wired(&much).len(), 3);
    }

    #[test]
    fn the_boot_server_is_a_field_of_its_own() {
        let options = [option("server-ip-address", "10.0.0.9"), option("67", "f")];
        assert_eq!(boot_server(&options), Some(Ipv4Addr::new(10, 0, 0, 9)));
        assert_eq!(wired(&options).len(), 1);
    }
}
