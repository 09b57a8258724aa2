//! The command line. Flags that a configuration file also knows win over it.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};

/// An open cloud in one binary.
#[derive(Debug, Parser)]
#[command(name = "madang", version, about, max_term_width = 100)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the whole cloud in the foreground, until SIGTERM or Ctrl-C; workloads go on
    Up(Up),
    /// Stop the workloads and remove every trace from the host; the data stays
    Down(Place),
    /// Say what this host can do, what is missing and how to get it
    Doctor(Place),
    /// Show services, hosts and usage
    Status(Place),
    /// Write the whole state into one file, whether or not madang is up
    Backup(Backup),
    /// Bring the state of a backup into an empty data directory
    Restore(Backup),
    /// Copy the state of a cloud that is not up from SQLite to etcd or back, and compare every record
    Migrate(Migrate),
    /// Show who did what, when, from where and with which result
    Audit(Audit),
    /// Say what is allowed, and why
    #[command(subcommand)]
    Policy(Policy),
    /// Look into identity, and get back in
    #[command(subcommand)]
    Identity(Identity),
    /// Make guest images
    #[command(subcommand)]
    Image(Image),
    /// Print the configuration file with every key, its meaning and its default
    Config,
    /// Watch over one container; started by the agent
    #[command(hide = true)]
    ContainerShim(Shim),
}

/// Where a madang keeps its data.
#[derive(Clone, Debug, Args)]
pub struct Place {
    /// Where it keeps everything it has [default: ~/.madang]
    #[arg(long, value_name = "DIR", env = "MADANG_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
}

/// `madang up`.
#[derive(Debug, Args)]
pub struct Up {
    #[command(flatten)]
    pub place: Place,
    /// Serve all APIs here; anything but a loopback address gets TLS [default: 127.0.0.1:8000]
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Option<SocketAddr>,
    /// Add hosts that only pretend to run workloads, for tests of scale
    #[arg(long, value_name = "N")]
    pub simulated_hosts: Option<u32>,
    /// Read further settings from this file (see `madang config`)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Keep the state there: `sqlite`, or etcd://HOST:PORT[,HOST:PORT…][/PREFIX] [default: as before, at first sqlite]
    #[arg(long, value_name = "ADDRESS")]
    pub store: Option<String>,
    #[command(flatten)]
    pub store_tls: StoreTls,
    /// Take the store in etcd from the madang it belongs to, which is gone for good
    #[arg(long)]
    pub store_take_over: bool,
}

/// How etcd is spoken to, where it wants TLS.
#[derive(Clone, Debug, Default, Args)]
pub struct StoreTls {
    /// Speak TLS with etcd, and believe whom this authority does (PEM)
    #[arg(long = "store-ca", value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Show this certificate to etcd (PEM)
    #[arg(long = "store-cert", value_name = "FILE", requires = "key")]
    pub certificate: Option<PathBuf>,
    /// Its key (PEM)
    #[arg(long = "store-key", value_name = "FILE", requires = "certificate")]
    pub key: Option<PathBuf>,
}

/// `madang migrate`.
#[derive(Debug, Args)]
pub struct Migrate {
    /// Where the state is: sqlite:FILE (`store.db` of a data directory), or etcd://HOST:PORT[,HOST:PORT…][/PREFIX]
    #[arg(long, value_name = "STORE")]
    pub from: String,
    /// Where it is to be; there must be nothing yet
    #[arg(long, value_name = "STORE")]
    pub to: String,
    #[command(flatten)]
    pub tls: StoreTls,
}

/// `madang backup` and `madang restore`.
#[derive(Debug, Args)]
pub struct Backup {
    /// The file with the state
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    #[command(flatten)]
    pub place: Place,
}

/// `madang audit`.
#[derive(Debug, Args)]
pub struct Audit {
    #[command(flatten)]
    pub place: Place,
    /// Only what was done with tokens for this project, by id or name
    #[arg(long, value_name = "PROJECT")]
    pub project: Option<String>,
    /// Only what this user did, by id or name
    #[arg(long, value_name = "USER")]
    pub user: Option<String>,
    /// Only through this API, such as `compute`
    #[arg(long, value_name = "NAME")]
    pub service: Option<String>,
    /// Only this action, such as `delete`
    #[arg(long, value_name = "ACTION")]
    pub action: Option<String>,
    /// Only this kind of resource, such as `servers`
    #[arg(long, value_name = "KIND")]
    pub resource: Option<String>,
    /// Only the resource with this id
    #[arg(long, value_name = "ID")]
    pub id: Option<String>,
    /// Only this request, or the requests of this chain
    #[arg(long, value_name = "REQ-ID")]
    pub request: Option<String>,
    /// Only what was done, or what was refused
    #[arg(long, value_name = "OUTCOME", value_enum)]
    pub outcome: Option<Outcome>,
    /// From then on: a time such as 2026-01-31T12:00:00Z, or how long ago, such as 30m, 2h, 7d
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Before then
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// The newest so many [default: 100 in a table, all as JSON]
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// Go on with what happens from now
    #[arg(long)]
    pub follow: bool,
    /// A table, or one JSON object per line
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
}

/// `madang policy`.
#[derive(Debug, Subcommand)]
pub enum Policy {
    /// Show every rule: what holds, whether it differs from the default, what it decides
    List(PolicyList),
    /// Ask a rule about somebody, and show each check that led to the answer
    Check(PolicyCheck),
}

/// `madang policy list`.
#[derive(Debug, Args)]
pub struct PolicyList {
    #[command(flatten)]
    pub place: Place,
    /// Only this service's, such as `compute`
    #[arg(long, value_name = "NAME")]
    pub service: Option<String>,
    /// Only those that the file overrides
    #[arg(long)]
    pub changed: bool,
    /// The operator's file [default: policy.yaml or policy.json in the data directory]
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
}

/// `madang policy check`.
#[derive(Debug, Args)]
pub struct PolicyCheck {
    #[command(flatten)]
    pub place: Place,
    /// The rule, such as `os_compute_api:servers:create`
    #[arg(long, value_name = "RULE")]
    pub rule: String,
    /// Who asks, by name or id
    #[arg(long, value_name = "USER")]
    pub user: Option<String>,
    /// What the token is for, by name or id
    #[arg(long, value_name = "PROJECT")]
    pub project: Option<String>,
    /// The token is for the whole deployment
    #[arg(long, conflicts_with = "project")]
    pub system: bool,
    /// Roles of somebody made up, instead of those of a user of the running cloud; repeatable
    #[arg(long, value_name = "ROLE")]
    pub role: Vec<String>,
    /// A field of what is asked about; repeatable. Without any, it is the caller's own
    #[arg(long, value_name = "FIELD=VALUE")]
    pub target: Vec<String>,
    /// The operator's file [default: policy.yaml or policy.json in the data directory]
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
}

/// `madang identity`.
#[derive(Debug, Subcommand)]
pub enum Identity {
    /// Give the user admin a new password and its roles back, whether or not the cloud is up; its tokens end
    ResetAdmin(Place),
    /// Work with mappings of federation
    #[command(subcommand)]
    Mapping(Mapping),
}

/// `madang identity mapping`.
#[derive(Debug, Subcommand)]
pub enum Mapping {
    /// Show whom the rules of a mapping make of an assertion
    Test(MappingTest),
}

/// `madang identity mapping test`.
#[derive(Debug, Args)]
pub struct MappingTest {
    /// The rules, as JSON
    #[arg(long, value_name = "FILE")]
    pub rules: PathBuf,
    /// The assertion: lines such as `OIDC-groups: staff;users`
    #[arg(long, value_name = "FILE")]
    pub input: PathBuf,
    /// Only what is called so at its beginning
    #[arg(long, value_name = "PREFIX")]
    pub prefix: Option<String>,
    /// The version of the rules' language: 1.0, 2.0 or 3.0 [default: as the rules say, else 1.0]
    #[arg(long, value_name = "VERSION")]
    pub schema_version: Option<String>,
}

/// How something is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Outcome {
    /// As asked.
    Success,
    /// Refused or failed.
    Failure,
}

/// `madang image`.
#[derive(Debug, Subcommand)]
pub enum Image {
    /// Build the tiny virtual machine from Debian packages
    BuildTiny(BuildImage),
    /// Build a container image with nothing but busybox, as an OCI archive
    BuildBusybox(BuildImage),
}

/// Where a built image goes.
#[derive(Debug, Args)]
pub struct BuildImage {
    /// The file to write
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

/// `madang container-shim`.
#[derive(Debug, Args)]
pub struct Shim {
    /// As the agent passes them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub arguments: Vec<std::ffi::OsString>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn up_takes_what_the_readme_shows() {
        let line = "madang up --data-dir /tmp/a --listen 127.0.0.1:9000 --simulated-hosts 10 --config m.toml";
        let Command::Up(up) = Arguments::parse_from(line.split(' ')).command else {
            panic!("not up")
        };
        assert_eq!(up.place.data_dir, Some("/tmp/a".into()));
        assert_eq!(up.listen, Some("127.0.0.1:9000".parse().unwrap()));
        assert_eq!(up.simulated_hosts, Some(10));
    }
}
