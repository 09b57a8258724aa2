//! The configuration: one file, TOML, parsed at the door into usable types. `config/example.toml` documents every key.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};
use ipnet::{IpNet, Ipv4Net};
use madang_compute::{agent::ConfigDriveFormat, server::control::Options};
use madang_identity::directory::LdapOptions;
use serde::Deserialize;

use crate::cli;

pub mod identity;

/// Every key with its meaning and its default, as `madang config` prints it.
pub const EXAMPLE: &str = include_str!("config/example.toml");

/// What can be set. Inside, it is already valid.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where all APIs are served.
    pub listen: SocketAddr,
    /// How clients reach it, without a slash at the end; none for the address listened on.
    pub public_url: Option<String>,
    /// The region's name in the catalog.
    pub region: String,
    /// How many hosts only pretend.
    pub simulated_hosts: u32,
    /// Proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// The operator's policy; none for the data directory's.
    pub policy_file: Option<PathBuf>,
    pub tls: Tls,
    pub store: Store,
    pub audit: Audit,
    pub identity: identity::Identity,
    /// Directories that domains take their users from.
    pub ldap: Vec<LdapOptions>,
    pub network: Network,
    pub host: Host,
    pub compute: Compute,
    pub image: Image,
    pub scheduler: madang_scheduler::Options,
    pub log: Log,
}

/// Servers. Times in seconds.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Compute {
    pub resize_confirm_window: u64,
    pub reclaim_instance_interval: u64,
    /// Negative for never.
    pub shelved_offload_time: i64,
    pub keep_deleted: u64,
    pub console_token_life: u64,
    pub config_drive_format: ConfigDriveFormat,
    /// As Nova's.
    pub cpu_dedicated_set: String,
}

impl Default for Compute {
    fn default() -> Self {
        Self {
            resize_confirm_window: 0,
            reclaim_instance_interval: 0,
            shelved_offload_time: 0,
            keep_deleted: 86_400,
            console_token_life: 600,
            config_drive_format: ConfigDriveFormat::default(),
            cpu_dedicated_set: String::new(),
        }
    }
}

impl Compute {
    /// As compute takes them.
    pub fn options(&self) -> Options {
        Options {
            resize_confirm_window: Duration::from_secs(self.resize_confirm_window),
            reclaim_instance_interval: Duration::from_secs(self.reclaim_instance_interval),
            shelved_offload_time: u64::try_from(self.shelved_offload_time).ok().map(Duration::from_secs),
            keep_deleted: Duration::from_secs(self.keep_deleted),
            console_token_life: Duration::from_secs(self.console_token_life),
            ..Options::default()
        }
    }
}

/// Certificates to serve with.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// PEM, with its chain.
    pub certificate: Option<PathBuf>,
    /// PEM.
    pub key: Option<PathBuf>,
}

/// Where the state is.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Store {
    /// `sqlite` or `etcd://…`; none for where it was before.
    pub address: Option<String>,
    /// PEM.
    pub ca: Option<PathBuf>,
    /// PEM.
    pub certificate: Option<PathBuf>,
    /// PEM.
    pub key: Option<PathBuf>,
    pub max_txn_ops: usize,
    pub max_request_bytes: usize,
    /// Only by the command line, and only once.
    #[serde(skip)]
    pub take_over: bool,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            address: None,
            ca: None,
            certificate: None,
            key: None,
            max_txn_ops: 128,
            max_request_bytes: 3 << 19,
            take_over: false,
        }
    }
}

impl Store {
    /// Takes over what the command line says.
    pub fn add(&mut self, address: Option<&String>, tls: &cli::StoreTls) {
        if address.is_some() {
            self.address = address.cloned();
        }
        if tls.ca.is_some() {
            self.ca.clone_from(&tls.ca);
        }
        if tls.certificate.is_some() {
            self.certificate.clone_from(&tls.certificate);
            self.key.clone_from(&tls.key);
        }
    }
}

/// The audit trail.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Audit {
    /// Older events are forgotten.
    pub keep_days: u32,
    /// The oldest events are forgotten where the trail takes more.
    pub max_mib: u64,
}

impl Default for Audit {
    fn default() -> Self {
        Self {
            keep_days: 90,
            max_mib: 512,
        }
    }
}

/// The networks that `up` makes.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Network {
    /// The range of `private`.
    pub private: Option<Ipv4Net>,
    /// The range of `public`.
    pub public: Option<Ipv4Net>,
    /// What guests' questions for names are passed on to; empty for the host's own.
    pub name_servers: Vec<IpAddr>,
}

/// Images.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Image {
    /// Hosts that users may have images downloaded from although they are not of the open Internet.
    pub download_from: Vec<String>,
}

/// This machine.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Host {
    pub acceleration: Acceleration,
}

/// How virtual machines run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Acceleration {
    /// Really run a guest to find out.
    #[default]
    Auto,
    Kvm,
    Tcg,
}

/// The log file.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// As for tracing's `EnvFilter`.
    pub filter: String,
    pub format: LogFormat,
}

/// How lines of the log look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8000)),
            public_url: None,
            region: "RegionOne".to_owned(),
            simulated_hosts: 0,
            trusted_proxies: Vec::new(),
            policy_file: None,
            tls: Tls::default(),
            store: Store::default(),
            audit: Audit::default(),
            identity: identity::Identity::default(),
            ldap: Vec::new(),
            network: Network::default(),
            host: Host::default(),
            compute: Compute::default(),
            image: Image::default(),
            scheduler: madang_scheduler::Options::default(),
            log: Log::default(),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self {
            filter: "info".to_owned(),
            format: LogFormat::Text,
        }
    }
}

impl Config {
    /// The file, if any, with the command line's flags over it.
    ///
    /// # Errors
    /// When the file cannot be read, has an unknown key or a value of the wrong kind (with its line), or does not fit
    /// together.
    pub fn read(arguments: &cli::Up) -> anyhow::Result<Self> {
        let mut config = match &arguments.config {
            Some(path) => Self::read_file(path)?,
            None => Self::default(),
        };
        if let Some(listen) = arguments.listen {
            config.listen = listen;
        }
        if let Some(hosts) = arguments.simulated_hosts {
            config.simulated_hosts = hosts;
        }
        config.store.add(arguments.store.as_ref(), &arguments.store_tls);
        config.store.take_over = arguments.store_take_over;
        Ok(config)
    }

    fn read_file(path: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("could not use {}", path.display()))
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let config: Self = toml::from_str(text)?;
        if config.tls.certificate.is_some() != config.tls.key.is_some() {
            bail!("tls.certificate and tls.key go together: one of them is missing");
        }
        if config.store.certificate.is_some() != config.store.key.is_some() {
            bail!("store.certificate and store.key go together: one of them is missing");
        }
        if config.store.max_txn_ops < 8 || config.store.max_request_bytes < 64 << 10 {
            bail!("store.max_txn_ops has to be at least 8, store.max_request_bytes at least 65536");
        }
        if config.audit.keep_days == 0 || config.audit.max_mib == 0 {
            bail!("audit.keep_days and audit.max_mib have to be at least 1");
        }
        if let Some(url) = &config.public_url
            && !(url.starts_with("http://") || url.starts_with("https://"))
        {
            bail!("public_url has to begin with http:// or https://: {url}");
        }
        for (key, range) in [("private", config.network.private), ("public", config.network.public)] {
            if let Some(range) = range
                && !(8..=28).contains(&range.prefix_len())
            {
                bail!("network.{key} has to be between /8 and /28: {range}");
            }
        }
        if let (Some(private), Some(public)) = (config.network.private, config.network.public)
            && (private.contains(&public) || public.contains(&private))
        {
            bail!("network.private {private} and network.public {public} overlap");
        }
        config.identity.check()?;
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_shows_the_defaults() {
        assert_eq!(Config::parse(EXAMPLE).unwrap(), Config::default());
    }

    #[test]
    fn the_examples_commented_keys_are_keys() {
        let uncommented: String = EXAMPLE
            .lines()
            .map(|line| {
                line.strip_prefix("# ")
                    .filter(|rest| rest.contains(" = \""))
                    .unwrap_or(line)
            })
            .flat_map(|line| [line, "\n"])
            .collect();
        let config = Config::parse(&uncommented).unwrap();
        assert!(config.public_url.is_some() && config.tls.key.is_some() && config.network.private.is_some());
    }

    #[test]
    fn the_reference_is_the_example() {
        let docs = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md")).unwrap();
        assert!(
            docs.contains(EXAMPLE),
            "docs/configuration.md has to contain the output of `madang config`"
        );
    }

    #[test]
    fn mistakes_are_named() {
        for (text, wanted) in [
            ("lisen = 'x'", "unknown field `lisen`"),
            ("listen = 'everywhere'", "invalid socket address"),
            ("[audit]\nkeep_days = 0", "at least 1"),
            ("[tls]\nkey = 'k'", "go together"),
            ("[store]\nkey = 'k'", "go together"),
            ("[store]\nmax_txn_ops = 1", "at least 8"),
            ("public_url = 'cloud'", "http://"),
            ("[network]\nprivate = '10.0.0.0/30'", "between /8 and /28: 10.0.0.0/30"),
            ("[network]\nprivate = '10.0.0.0/8'\npublic = '10.1.0.0/24'", "overlap"),
        ] {
            let error = format!("{:#}", Config::parse(text).unwrap_err());
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }
}
