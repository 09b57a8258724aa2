//! Bytes from a server that a user names.
//!
//! Users must not reach what only this host reaches: addresses that are not of the open Internet are refused, whatever name
//! they have, the connection goes to the address that was looked at, and no redirection is followed. An operator may name
//! hosts that are to be trusted all the same.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::Bytes;
use futures_util::Stream;
use madang_http::Failure;
use reqwest::{Client, Url, redirect::Policy};

use crate::library::Library;

/// To be connected, and between two pieces.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);
/// Glance's `allowed_ports`.
const PORTS: [u16; 2] = [80, 443];

/// Refuses an address that nobody may name.
///
/// # Errors
/// 400.
pub(crate) fn check_uri(library: &Library, uri: &str) -> Result<(), Failure> {
    parse(library, uri).map(|_| ())
}

fn parse(library: &Library, uri: &str) -> Result<(Url, String, u16), Failure> {
    let refused = || Failure::invalid(format!("URI for web-download does not pass filtering: {uri}")).at("uri");
    let url = Url::parse(uri).map_err(|_| refused())?;
    if !matches!(url.scheme(), "http" | "https") || !url.username().is_empty() {
        return Err(refused());
    }
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let port = url.port_or_known_default().unwrap_or(80);
    if library.trusts(&host) {
        return Ok((url, host, port));
    }
    let is_local = host.parse::<IpAddr>().is_ok_and(|address| !is_open(address));
    if host.is_empty() || host == "localhost" || is_local || !PORTS.contains(&port) {
        return Err(refused());
    }
    Ok((url, host, port))
}

/// The bytes that a server answers.
///
/// # Errors
/// When the address is refused, or the server does not answer with bytes.
pub(super) async fn fetch(
    library: &Library,
    uri: &str,
) -> Result<impl Stream<Item = Result<Bytes, reqwest::Error>> + Send + use<>, Failure> {
    let (url, host, port) = parse(library, uri)?;
    let failed = |why: String| Failure::unavailable(format!("could not download {uri}: {why}"));
    let found = tokio::net::lookup_host((host.as_str(), port)).await;
    let addresses: Vec<SocketAddr> = found.map_err(|error| failed(error.to_string()))?.collect();
    if !library.trusts(&host)
        && let Some(local) = addresses.iter().find(|address| !is_open(address.ip()))
    {
        return Err(failed(format!(
            "{host} is at {}, which is not of the open Internet",
            local.ip()
        )));
    }
    // The first one to do so decides; all are the same.
    _ = rustls::crypto::ring::default_provider().install_default();
    let client = Client::builder()
        .no_proxy()
        .redirect(Policy::none())
        .connect_timeout(PATIENCE)
        .read_timeout(PATIENCE)
        .resolve_to_addrs(&host, &addresses)
        .build();
    let client = client.map_err(|error| failed(error.to_string()))?;
    let answer = client
        .get(url)
        .send()
        .await
        .map_err(|error| failed(error.to_string()))?;
    if !answer.status().is_success() {
        return Err(failed(format!("the server answers {}", answer.status())));
    }
    Ok(answer.bytes_stream())
}

/// Whether an address is of the open Internet. Source: the IANA registries of special-purpose addresses.
fn is_open(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => is_open_v4(address),
        IpAddr::V6(address) => is_open_v6(address),
    }
}

fn is_open_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let is_special = address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_documentation()
        || address.is_multicast()
        || a == 0
        || a >= 240
        || (a, b) == (100, b & 0x3f | 0x40)
        || (a, b, c) == (192, 0, 0)
        || (a, b & 0xfe) == (198, 18);
    !is_special
}

fn is_open_v6(address: Ipv6Addr) -> bool {
    // What is given out is 2000::/3; documentation, 6to4 and Teredo in it lead elsewhere.
    let [a, b, ..] = address.segments();
    let is_given_out = a & 0xe000 == 0x2000;
    is_given_out && (a, b) != (0x2001, 0xdb8) && a != 0x2002 && (a, b) != (0x2001, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_the_host_reaches_is_not_open() {
        for text in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "100.127.255.255",
            "0.0.0.0",
            "192.0.0.8",
            "198.19.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "fd00::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "2001:db8::1",
            "2002:7f00:1::",
            "64:ff9b::7f00:1",
        ] {
            assert!(!is_open(text.parse().unwrap()), "{text}");
        }
        for text in [
            "1.1.1.1",
            "100.63.0.1",
            "100.128.0.1",
            "198.20.0.1",
            "2606:4700::1111",
            "2001:4860::8888",
        ] {
            assert!(is_open(text.parse().unwrap()), "{text}");
        }
    }
}
