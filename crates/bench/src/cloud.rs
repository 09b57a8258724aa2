//! A real `madang up` of this run's own, and what is read from it.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

use crate::wire::{Answer, Connection};

/// Where the measured cloud listens.
const LISTEN: &str = "127.0.0.1:8000";
/// The first start may build the tiny image.
const PATIENCE: Duration = Duration::from_secs(600);

/// What a run has: the binary, and a place for data directories.
pub struct Bench {
    pub binary: PathBuf,
    pub scratch: PathBuf,
    /// Hosts, and workloads that are placed on them.
    pub placed: (usize, usize),
}

/// A running cloud. Stopped, and its traces removed, by [`Cloud::close`].
pub struct Cloud {
    child: Child,
    binary: PathBuf,
    data: PathBuf,
    /// From starting the process to its line.
    pub took: Duration,
}

impl Bench {
    /// Starts one on the data directory `name`, which may have been used before.
    pub async fn up(&self, name: &str, arguments: &[&str]) -> anyhow::Result<Cloud> {
        let data = self.scratch.join(name);
        let started = Instant::now();
        let mut child = Command::new(&self.binary)
            .args(["up", "--listen", LISTEN, "--data-dir"])
            .arg(&data)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("could not start {}", self.binary.display()))?;
        let stdout = child.stdout.take().context("no standard output")?;
        let mut lines = BufReader::new(stdout).lines();
        let ready = async {
            while let Some(line) = lines.next_line().await? {
                if line.starts_with("madang is ready") {
                    return anyhow::Ok(());
                }
            }
            bail!("madang up ended before it was ready")
        };
        timeout(PATIENCE, ready)
            .await
            .context("madang up was not ready in time")??;
        Ok(Cloud {
            child,
            binary: self.binary.clone(),
            data,
            took: started.elapsed(),
        })
    }
}

impl Cloud {
    /// The process.
    pub fn pid(&self) -> anyhow::Result<i32> {
        Ok(i32::try_from(self.child.id().context("madang has ended")?)?)
    }

    /// A field of `/proc/PID/status` in kibibytes.
    pub fn memory_kib(&self, field: &str) -> anyhow::Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()?))?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(field))
            .with_context(|| format!("no {field}"))?;
        Ok(line.trim_matches([':', ' ', '\t', 'k', 'B']).parse()?)
    }

    /// Processor time used so far, in seconds.
    pub fn cpu_seconds(&self) -> anyhow::Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid()?))?;
        let (_, fields) = stat.rsplit_once(')').context("no stat")?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        // User and system time are the 14th and 15th field of the whole line, in clock ticks, of which Linux gives 100 a second.
        let ticks: f64 = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
        Ok(ticks / 100.0)
    }

    /// SIGTERM, and its end.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        kill(Pid::from_raw(self.pid()?), Signal::SIGTERM)?;
        let status = timeout(Duration::from_secs(30), self.child.wait())
            .await
            .context("madang does not stop")??;
        if !status.success() {
            bail!("madang ended with {status}");
        }
        Ok(())
    }

    /// Stops it and removes its traces from the host.
    pub async fn close(self) -> anyhow::Result<()> {
        let (binary, data) = (self.binary.clone(), self.data.clone());
        self.stop().await?;
        let done = Command::new(binary)
            .arg("down")
            .arg("--data-dir")
            .arg(&data)
            .output()
            .await?;
        if !done.status.success() {
            bail!("madang down: {}", String::from_utf8_lossy(&done.stderr));
        }
        fs::remove_dir_all(&data)?;
        Ok(())
    }

    /// Logs in as `demo` or `admin`.
    pub async fn log_in(&self, account: &str) -> anyhow::Result<Session> {
        let mut connection = Connection::open(LISTEN).await?;
        let body = self.login(account)?;
        let request = connection.prepare("POST", "/identity/v3/auth/tokens", &[], Some(&body));
        let answer = connection.exchange(&request).await?.succeeded()?;
        let project = answer.json()?["token"]["project"]["id"]
            .as_str()
            .context("no project")?
            .to_owned();
        Ok(Session {
            connection,
            token: answer.token.context("no token")?,
            project,
        })
    }

    /// What `demo` or `admin` logs in with.
    pub fn login(&self, account: &str) -> anyhow::Result<Value> {
        let openrc = if account == "demo" { "openrc" } else { "admin-openrc" };
        let variables = read_openrc(&self.data.join(openrc))?;
        let password = variables.get("OS_PASSWORD").context("openrc names no password")?;
        Ok(json!({"auth": {
            "identity": {"methods": ["password"], "password": {"user": {
                "name": account, "domain": {"name": "Default"}, "password": password}}},
            "scope": {"project": {"name": account, "domain": {"name": "Default"}}},
        }}))
    }
}

fn read_openrc(path: &Path) -> anyhow::Result<HashMap<String, String>> {
    let text = fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))?;
    let pairs = text
        .lines()
        .filter_map(|line| line.strip_prefix("export ")?.split_once('='));
    Ok(pairs
        .map(|(name, value)| (name.to_owned(), value.trim_matches('\'').to_owned()))
        .collect())
}

/// A connection with a token.
pub struct Session {
    pub connection: Connection,
    pub token: String,
    /// The project that the token is for.
    pub project: String,
}

impl Session {
    /// Another connection with the same token.
    pub async fn another(&self) -> anyhow::Result<Self> {
        let connection = Connection::open(LISTEN).await?;
        Ok(Self {
            connection,
            token: self.token.clone(),
            project: self.project.clone(),
        })
    }

    /// The bytes of a request of this session.
    pub fn prepare(&self, method: &str, path: &str, body: Option<&Value>) -> Vec<u8> {
        let headers = [
            ("x-auth-token", self.token.as_str()),
            ("openstack-api-version", "compute 2.90"),
        ];
        self.connection.prepare(method, path, &headers, body)
    }

    /// Sends a request; its answer, whatever it says.
    pub async fn ask(&mut self, method: &str, path: &str, body: Option<&Value>) -> anyhow::Result<Answer> {
        let request = self.prepare(method, path, body);
        self.connection.exchange(&request).await
    }

    /// Sends a request that has to succeed; the answer's JSON (null where it has no body).
    pub async fn call(&mut self, method: &str, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        let answer = self.ask(method, path, body).await?.succeeded();
        let answer = answer.with_context(|| format!("{method} {path}"))?;
        if answer.body.is_empty() {
            Ok(Value::Null)
        } else {
            answer.json()
        }
    }

    /// The id of the resource of a name, in a list such as `images` at `/image/v2/images`.
    pub async fn id_of(&mut self, path: &str, list: &str, name: &str) -> anyhow::Result<String> {
        let found = self.call("GET", path, None).await?;
        let items = found[list]
            .as_array()
            .with_context(|| format!("{path} lists no {list}"))?;
        let item = items
            .iter()
            .find(|item| item["name"] == name)
            .with_context(|| format!("no {name} in {list}"))?;
        Ok(item["id"].as_str().context("no id")?.to_owned())
    }

    /// Waits until a server has a status, looking every `every`; fails when it is in ERROR.
    pub async fn until(&mut self, server: &str, wanted: &str, every: Duration) -> anyhow::Result<()> {
        let request = self.prepare("GET", &format!("/compute/v2.1/servers/{server}"), None);
        let deadline = Instant::now() + Duration::from_secs(120);
        while Instant::now() < deadline {
            let answer = self.connection.exchange(&request).await?;
            if answer.status == 404 && wanted == "DELETED" {
                return Ok(());
            }
            let shown = answer.succeeded()?.json()?;
            match shown["server"]["status"].as_str() {
                Some(status) if status == wanted => return Ok(()),
                Some("ERROR") => bail!("the server is in ERROR: {}", shown["server"]["fault"]),
                _ => sleep(every).await,
            }
        }
        bail!("server {server} was not {wanted} within two minutes")
    }
}
