//! Where clients reach the cloud, and what its certificate has to name.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use madang_http::Server;

use crate::{config::Config, credentials::Endpoint, data_dir::DataDir};

/// The endpoint to write into the catalog and the clients' files.
pub fn endpoint(config: &Config, data: &DataDir, server: &Server) -> Endpoint {
    let url = match &config.public_url {
        Some(url) => url.trim_end_matches('/').to_owned(),
        None => {
            let scheme = if server.url().starts_with("https:") {
                "https"
            } else {
                "http"
            };
            format!(
                "{scheme}://{}",
                SocketAddr::new(reached_at(server.address().ip()), server.address().port())
            )
        }
    };
    let own_authority = config.tls.certificate.is_none() && server.url().starts_with("https:");
    let authority = own_authority.then(|| data.join("tls/ca.pem"));
    Endpoint {
        url,
        region: config.region.clone(),
        authority,
    }
}

/// The names and addresses that a certificate of our own is for.
pub fn names(config: &Config) -> Vec<String> {
    let mut names = vec![reached_at(config.listen.ip()).to_string()];
    if config.listen.ip().is_unspecified() {
        names.push("127.0.0.1".to_owned());
        names.push("localhost".to_owned());
        names.extend(nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()));
    }
    let public = config.public_url.as_deref().and_then(|url| url.split("://").nth(1));
    names.extend(public.and_then(|rest| rest.split(['/', ':']).next()).map(str::to_owned));
    names.sort();
    names.dedup();
    names
}

/// An address to write down: of "all addresses", the one that the host speaks to the world with.
fn reached_at(listened: IpAddr) -> IpAddr {
    if !listened.is_unspecified() {
        return listened;
    }
    // Connecting a UDP socket sends nothing; the kernel chooses the address it would send from.
    let chosen = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| {
        socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
        socket.local_addr()
    });
    chosen.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |address| address.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_names_what_clients_ask_for() {
        let mut config = Config {
            listen: "10.1.2.3:8000".parse().unwrap(),
            ..Config::default()
        };
        assert_eq!(names(&config), ["10.1.2.3"]);
        config.public_url = Some("https://cloud.example.org:443/".to_owned());
        assert_eq!(names(&config), ["10.1.2.3", "cloud.example.org"]);
        config.listen = "0.0.0.0:8000".parse().unwrap();
        let all = names(&config);
        assert!(
            all.contains(&"127.0.0.1".to_owned()) && all.contains(&"localhost".to_owned()),
            "{all:?}"
        );
        assert!(!all.contains(&"0.0.0.0".to_owned()));
    }
}
