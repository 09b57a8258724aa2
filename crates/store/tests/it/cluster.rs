//! Three real members of etcd on loopback, with their data in a directory of their own. The bench uses this, too.

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use tokio::time::Instant;

const MEMBERS: usize = 3;
/// How long members may take to agree on a leader.
const PATIENCE: Duration = Duration::from_secs(60);

/// Members that end with this.
pub(crate) struct Cluster {
    dir: tempfile::TempDir,
    /// Of each member: for clients, for the others.
    ports: Vec<(u16, u16)>,
    members: Vec<Option<Child>>,
    /// `http` or `https` for clients.
    scheme: &'static str,
    /// Further options of etcd's, and of etcdctl's.
    extra: [Vec<String>; 2],
    labs: AtomicUsize,
}

impl Cluster {
    pub(crate) fn start() -> Self {
        Self::with("http", [Vec::new(), Vec::new()])
    }

    /// With further options of etcd's, and of etcdctl's.
    pub(crate) fn with(scheme: &'static str, extra: [Vec<String>; 2]) -> Self {
        let free = || TcpListener::bind("127.0.0.1:0").unwrap();
        let held: Vec<_> = (0..MEMBERS).map(|_| (free(), free())).collect();
        let port = |of: &TcpListener| of.local_addr().unwrap().port();
        let ports = held.iter().map(|(a, b)| (port(a), port(b))).collect();
        drop(held);
        let mut cluster = Self {
            dir: tempfile::tempdir().unwrap(),
            ports,
            members: (0..MEMBERS).map(|_| None).collect(),
            scheme,
            extra,
            labs: AtomicUsize::new(0),
        };
        cluster.revive();
        cluster.ready();
        cluster
    }

    /// Starts the members that are not up.
    pub(crate) fn revive(&mut self) {
        for member in 0..MEMBERS {
            if self.members[member].is_none() {
                self.members[member] = Some(self.spawn(member));
            }
        }
    }

    fn spawn(&self, member: usize) -> Child {
        let (client, peer) = self.ports[member];
        let (client, peer) = (
            format!("{}://127.0.0.1:{client}", self.scheme),
            format!("http://127.0.0.1:{peer}"),
        );
        let peers = self.ports.iter().enumerate();
        let peers: Vec<_> = peers
            .map(|(n, (_, peer))| format!("m{n}=http://127.0.0.1:{peer}"))
            .collect();
        let said = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.path().join(format!("m{member}.log")))
            .unwrap();
        // Ends with this process, however that ends.
        Command::new("setpriv")
            .args([
                "--pdeathsig",
                "KILL",
                "etcd",
                "--name",
                &format!("m{member}"),
                "--data-dir",
            ])
            .arg(self.dir.path().join(format!("m{member}")))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &peers.join(","), "--initial-cluster-state", "new"])
            .args(["--logger", "zap", "--log-level", "warn"])
            .args(&self.extra[0])
            .stdin(Stdio::null())
            .stdout(said.try_clone().unwrap())
            .stderr(said)
            .spawn()
            .expect("these tests need etcd: `scripts/bootstrap test`, or apt-get install etcd-server etcd-client")
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self, member: usize) {
        if let Some(mut child) = self.members[member].take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Waits until all members answer.
    pub(crate) fn ready(&self) {
        let patience = Instant::now() + PATIENCE;
        for member in 0..MEMBERS {
            while !self.ctl(member, &["endpoint", "health"]).0 {
                if Instant::now() > patience {
                    let log = self.dir.path().join(format!("m{member}.log"));
                    let said = std::fs::read_to_string(log).unwrap_or_default();
                    panic!(
                        "etcd does not come up (is it installed? `scripts/bootstrap test`, or apt-get install \
                         etcd-server etcd-client): {said}"
                    );
                }
                std::thread::park_timeout(Duration::from_millis(50));
            }
        }
    }

    /// Whether it worked, and what it said.
    pub(crate) fn ctl(&self, member: usize, arguments: &[&str]) -> (bool, String) {
        self.ctl_within("3s", member, arguments)
    }

    fn ctl_within(&self, timeout: &str, member: usize, arguments: &[&str]) -> (bool, String) {
        let done = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .arg(format!("--endpoints=127.0.0.1:{}", self.ports[member].0))
            .args(["--command-timeout", timeout])
            .args(&self.extra[1])
            .args(arguments)
            .output()
            .expect("these tests need etcdctl: `scripts/bootstrap test`, or apt-get install etcd-server etcd-client");
        (
            done.status.success(),
            String::from_utf8_lossy(&done.stdout).into_owned(),
        )
    }

    /// Which member leads, and the ids of all.
    fn status(&self) -> (usize, Vec<u64>) {
        let (mut ids, mut leader) = (Vec::new(), 0);
        for member in 0..MEMBERS {
            let (_, said) = self.ctl(member, &["endpoint", "status", "-w", "json"]);
            let said: serde_json::Value = serde_json::from_str(&said).expect("a member that is up says how it is");
            let status = &said[0]["Status"];
            ids.push(status["header"]["member_id"].as_u64().unwrap());
            leader = status["leader"].as_u64().unwrap();
        }
        (ids.iter().position(|id| *id == leader).unwrap_or_default(), ids)
    }

    pub(crate) fn leader(&self) -> usize {
        self.status().0
    }

    /// Gives the lead to the next member.
    pub(crate) fn move_leader(&self) {
        let (leader, ids) = self.status();
        let next = format!("{:x}", ids[(leader + 1) % MEMBERS]);
        let (moved, said) = self.ctl(leader, &["move-leader", &next]);
        assert!(moved, "{said}");
    }

    /// What `etcdctl check perf` writes, in its own words: puts of 1 KiB by 500 clients for a minute, 8,000 a second at most.
    #[allow(dead_code, reason = "for the benchmark, which has this file too")]
    pub(crate) fn check_perf(&self) -> (bool, String) {
        self.ctl_within("120s", 0, &["check", "perf", "--load=l"])
    }

    /// The address of a store.
    pub(crate) fn address(&self, prefix: &str) -> String {
        let members: Vec<_> = self.ports.iter().map(|(port, _)| format!("127.0.0.1:{port}")).collect();
        format!("etcd://{}/{prefix}", members.join(","))
    }

    /// The address of a store where there is none yet.
    pub(crate) fn fresh_address(&self) -> String {
        self.address(&format!("lab-{}", self.labs.fetch_add(1, Ordering::Relaxed)))
    }

    /// Takes a store away.
    pub(crate) fn remove_all(&self, prefix: &str) {
        let (removed, said) = self.ctl(0, &["del", "--prefix", &format!("/{prefix}/")]);
        assert!(removed, "{said}");
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for member in 0..MEMBERS {
            self.kill(member);
        }
    }
}
