//! A cloud of one host: a store, an agent, guests and an outside, each in a namespace of this test.

use std::{
    future::Future,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::Duration,
};

use futures_util::FutureExt;
use madang_control::TaskGroup;
use madang_host::{
    Instance,
    link::{Change, Links, Route},
    netns::Netns,
    process::Command,
    workload::Attachment,
};
use madang_network::{
    AddressGroup, AllocationPool, Direction, EtherType, ExternalGateway, FixedIp, FloatingIp, FloatingIpSpec,
    MeteringLabel, MeteringRule, Network, NetworkSpec, Port, PortSpec, QosPolicy, Router, RouterSpec, Rule, RuleSpec,
    SecurityGroup, SecurityGroupSpec, Subnet, SubnetPool, SubnetSpec, Trunk,
    agent::{self, Options},
};
use madang_store::{Cause, Kind, Metadata, Resource, Sqlite, SqliteOptions, Store, StoreBuilder};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

/// The only host.
pub const HOST: &str = "host-1";
/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(10);

/// One cloud.
pub struct Lab {
    pub dir: TempDir,
    pub store: Store,
    pub instance: Instance,
    /// Stands for the host's own namespace.
    pub outside: Netns,
    pub options: Options,
    group: parking_lot::Mutex<TaskGroup>,
}

/// Runs a test in a cloud of its own and leaves nothing of it, however it ends.
pub fn in_lab<F: Future<Output = ()>>(test: impl FnOnce(Arc<Lab>) -> F) {
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test makes namespaces and links: run it as root"
    );
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let lab = Arc::new(Lab::new().await);
        let result = AssertUnwindSafe(test(Arc::clone(&lab))).catch_unwind().await;
        if result.is_err() {
            lab.describe().await;
        }
        lab.stop().await;
        lab.instance.sweep().await.unwrap();
        lab.store.close().await;
        assert_eq!(lab.instance.traces().await, [""; 0]);
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
}

impl Lab {
    async fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let mut builder = StoreBuilder::new();
        builder
            .kind::<Network>()
            .kind::<Subnet>()
            .kind::<Port>()
            .kind::<SecurityGroup>();
        builder
            .kind::<Rule>()
            .kind::<Router>()
            .kind::<FloatingIp>()
            .kind::<Trunk>()
            .kind::<AddressGroup>()
            .kind::<QosPolicy>()
            .kind::<SubnetPool>()
            .kind::<MeteringLabel>()
            .kind::<MeteringRule>();
        let backend = Sqlite::open(SqliteOptions::new(dir.path().join("db"))).await.unwrap();
        let store = builder.open(Arc::new(backend)).await.unwrap();
        let id = Uuid::new_v4().simple().to_string()[..6].to_owned();
        let instance = Instance::named(&id, dir.path().to_owned()).unwrap();
        let outside = instance.netns("outside");
        outside.ensure().await.unwrap();
        let options = Options {
            outside: outside.clone(),
            metadata: None,
            name_servers: vec![IpAddr::from([127, 0, 0, 53])],
            resync: Duration::from_secs(3600),
            linger: Duration::ZERO,
            ready_after: None,
        };
        let group = parking_lot::Mutex::new(TaskGroup::new("lab"));
        Self {
            dir,
            store,
            instance,
            outside,
            options,
            group,
        }
    }

    /// Starts the agent.
    pub fn start(&self) {
        self.start_with(self.options.clone());
    }

    /// Starts the agent with other options.
    pub fn start_with(&self, options: Options) {
        let group = TaskGroup::new("agent");
        agent::run(&self.store, HOST, self.instance.clone(), options, &group);
        *self.group.lock() = group;
    }

    /// Stops the agent and leaves the kernel as it is.
    pub async fn stop(&self) {
        let group = self.group.lock().clone();
        assert_eq!(group.shutdown(Duration::from_secs(5)).await, [""; 0]);
    }

    /// What a person would look at when a test fails.
    async fn describe(&self) {
        for port in self.store.cache::<Port>().all().iter().take(10) {
            eprintln!(
                "port {} {:?} {:?} {:?}",
                port.name(),
                port.spec.mac_address,
                port.spec.fixed_ips,
                port.status
            );
        }
        for name in Netns::list(&self.instance.netns_prefix()) {
            let netns = Netns::named(&name);
            for command in ["ip addr", "ip route", "nft list ruleset"] {
                let mut words = command.split(' ');
                let program = words.next().unwrap();
                let output = Command::new(program).args(words).netns(&netns).output(PATIENCE).await;
                let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned());
                eprintln!("--- {name}: {command}\n{}", text.unwrap_or_else(|e| e.to_string()));
            }
        }
    }

    /// Stores a resource.
    pub async fn create<K: Kind>(&self, spec: K::Spec) -> Arc<Resource<K>> {
        let mut tx = self.store.begin(Cause::system("test"));
        let resource = tx.create(Resource::<K>::new(Metadata::with_id("p1"), spec)).unwrap();
        tx.commit().await.unwrap();
        resource
    }

    /// Removes a resource.
    pub async fn delete<K: Kind>(&self, resource: &Resource<K>) {
        let mut tx = self.store.begin(Cause::system("test"));
        tx.delete(&*self.store.get::<K>(&resource.key()).unwrap()).unwrap();
        tx.commit().await.unwrap();
    }

    /// Changes a resource.
    pub async fn modify<K: Kind>(&self, resource: &Resource<K>, change: impl Fn(&mut Resource<K>)) {
        let key = resource.key();
        let changed = self
            .store
            .modify::<K, madang_store::StoreError>(&key, Cause::system("test"), |r| {
                change(r);
                Ok(())
            });
        changed.await.unwrap();
    }

    /// A network with one subnet; the DHCP address is .2, the router's .1.
    pub async fn network(&self, cidr: &str) -> Net {
        self.network_of(cidr, false).await
    }

    /// An external network; the host's end has .1.
    pub async fn external(&self, cidr: &str) -> Net {
        self.network_of(cidr, true).await
    }

    async fn network_of(&self, cidr: &str, is_external: bool) -> Net {
        let network = self.create::<Network>(NetworkSpec {
            name: "net".into(),
            description: String::new(),
            admin_state_up: true,
            is_shared: false,
            is_external,
            is_default: false,
            port_security_enabled: true,
            mtu: if is_external { 1500 } else { 1450 },
            segmentation_id: 1,
            network_type: "vxlan".into(),
            physical_network: None,
            dns_domain: String::new(),
            qos_policy_id: None,
            availability_zone_hints: vec![],
            tags: vec![],
        });
        let network = network.await;
        let cidr: ipnet::Ipv4Net = cidr.parse().unwrap();
        let at = |last: u32| IpAddr::from(Ipv4Addr::from_bits(cidr.network().to_bits() + last));
        let subnet = self.create::<Subnet>(SubnetSpec {
            name: "subnet".into(),
            description: String::new(),
            network_id: network.name().into(),
            cidr: cidr.into(),
            gateway_ip: Some(at(1)),
            allocation_pools: vec![AllocationPool {
                start: at(2),
                end: at(254),
            }],
            enable_dhcp: !is_external,
            dns_nameservers: vec![],
            host_routes: vec![],
            ipv6_address_mode: None,
            ipv6_ra_mode: None,
            subnetpool_id: None,
            service_types: vec![],
            tags: vec![],
        });
        let net = Net {
            network,
            subnet: subnet.await,
            cidr,
        };
        if !is_external {
            let dhcp = PortSpec {
                device_owner: "network:dhcp".into(),
                device_id: format!("dhcp-{}", net.network.name()),
                binding_host: None,
                ..net.port(2)
            };
            self.create::<Port>(dhcp).await;
        }
        net
    }

    /// A group that lets everything out and nothing in.
    pub async fn group(&self) -> Arc<Resource<SecurityGroup>> {
        let group = self.create::<SecurityGroup>(SecurityGroupSpec {
            name: "group".into(),
            description: String::new(),
            is_stateful: true,
            is_default: false,
            tags: vec![],
        });
        let group = group.await;
        self.create::<Rule>(RuleSpec {
            direction: Direction::Egress,
            ..allow(&group, None, None)
        })
        .await;
        group
    }

    /// A bound port with groups, wired.
    pub async fn port(&self, spec: PortSpec) -> Arc<Resource<Port>> {
        let port = self.create::<Port>(spec).await;
        self.wired(&port).await;
        port
    }

    /// Waits until a port is wired.
    pub async fn wired(&self, port: &Resource<Port>) {
        until("a port to be wired", || {
            let port = self.store.get::<Port>(&port.key()).unwrap();
            port.status.wired_on.as_deref() == Some(HOST)
        })
        .await;
    }

    /// A guest at a new port of `net` at `.last`, with its address set by hand.
    pub async fn guest(&self, net: &Net, last: u8, group: &Resource<SecurityGroup>) -> Guest {
        let spec = PortSpec {
            security_groups: vec![group.name().into()],
            ..net.port(last)
        };
        let port = self.port(spec).await;
        let guest = self.plug(&port).await;
        guest.configure(net).await;
        guest
    }

    /// Moves a wired port's inner end into a namespace, as a container's driver does, without any address.
    pub async fn plug(&self, port: &Arc<Resource<Port>>) -> Guest {
        let netns = self.instance.netns(&format!("guest-{}", port.metadata.uid));
        netns.ensure().await.unwrap();
        let port = self.store.get::<Port>(&port.key()).unwrap();
        let peer = port.status.peer.as_deref().unwrap();
        let fabric = Links::open(&self.instance.fabric()).await.unwrap();
        fabric.move_to(peer, &netns, Some("eth0")).await.unwrap();
        let links = Links::open(&netns).await.unwrap();
        links
            .change(
                "eth0",
                &Change {
                    up: Some(true),
                    ..Change::default()
                },
            )
            .await
            .unwrap();
        Guest { netns, links, port }
    }

    /// A router of `inside` networks, with `.1` in each, and the address `.last` outside.
    pub async fn router(&self, inside: &[&Net], external: &Net, last: u8) -> Arc<Resource<Router>> {
        let id = Uuid::new_v4();
        let gateway = self.create::<Port>(PortSpec {
            device_owner: "network:router_gateway".into(),
            device_id: id.to_string(),
            binding_host: None,
            ..external.port(last)
        });
        let gateway = gateway.await;
        for net in inside {
            let spec = PortSpec {
                device_owner: "network:router_interface".into(),
                device_id: id.to_string(),
                binding_host: None,
                ..net.port(1)
            };
            self.create::<Port>(spec).await;
        }
        let spec = RouterSpec {
            name: "router".into(),
            description: String::new(),
            admin_state_up: true,
            gateway: Some(ExternalGateway {
                network_id: external.network.name().into(),
                port_id: gateway.name().into(),
                fixed_ips: gateway.spec.fixed_ips.clone(),
                enable_snat: true,
            }),
            routes: vec![],
            distributed: false,
            ha: false,
            availability_zone_hints: vec![],
            tags: vec![],
        };
        let mut tx = self.store.begin(Cause::system("test"));
        let metadata = Metadata::with_uid(id, "p1", id.to_string());
        let router = tx.create(Resource::<Router>::new(metadata, spec)).unwrap();
        tx.commit().await.unwrap();
        router
    }

    /// Leads an outside address to a guest, and waits until it does.
    pub async fn float(&self, external: &Net, last: u8, router: &Resource<Router>, guest: &Guest) -> IpAddr {
        let address = external.at(last);
        let floating = self.create::<FloatingIp>(FloatingIpSpec {
            description: String::new(),
            network_id: external.network.name().into(),
            subnet_id: external.subnet.name().into(),
            address,
            holder_port_id: String::new(),
            port_id: Some(guest.port.name().into()),
            fixed_ip_address: Some(guest.address()),
            port_forwardings: vec![],
            router_id: Some(router.name().into()),
            qos_policy_id: None,
            dns_domain: String::new(),
            dns_name: String::new(),
            tags: vec![],
        });
        let floating = floating.await;
        until("a floating address to be active", || {
            self.store.get::<FloatingIp>(&floating.key()).unwrap().status.is_active
        })
        .await;
        address
    }
}

/// A rule that lets `protocol` (to `port`) in from everywhere over IPv4.
pub fn allow(group: &Resource<SecurityGroup>, protocol: Option<&str>, port: Option<u16>) -> RuleSpec {
    RuleSpec {
        group_id: group.name().into(),
        direction: Direction::Ingress,
        ethertype: EtherType::IPv4,
        protocol: protocol.map(Into::into),
        port_range_min: port,
        port_range_max: port,
        remote_ip_prefix: None,
        remote_group_id: None,
        remote_address_group_id: None,
        description: String::new(),
    }
}

/// A network and its subnet.
pub struct Net {
    pub network: Arc<Resource<Network>>,
    pub subnet: Arc<Resource<Subnet>>,
    cidr: ipnet::Ipv4Net,
}

impl Net {
    /// The address that ends in `.last`.
    pub fn at(&self, last: u8) -> IpAddr {
        Ipv4Addr::from_bits(self.cidr.network().to_bits() + u32::from(last)).into()
    }

    /// The address number `index`.
    pub fn nth(&self, index: u32) -> IpAddr {
        Ipv4Addr::from_bits(self.cidr.network().to_bits() + index).into()
    }

    /// A container's port at `.last`, bound to the host, with no group.
    pub fn port(&self, last: u8) -> PortSpec {
        let mac = Uuid::new_v4();
        let [a, b, c, ..] = mac.as_bytes();
        PortSpec {
            name: String::new(),
            description: String::new(),
            network_id: self.network.name().into(),
            mac_address: format!("fa:16:3e:{a:02x}:{b:02x}:{c:02x}"),
            fixed_ips: vec![FixedIp {
                subnet_id: self.subnet.name().into(),
                ip_address: self.at(last),
            }],
            no_fixed_ips: false,
            device_id: String::new(),
            device_owner: String::new(),
            admin_state_up: true,
            security_groups: vec![],
            explicit_security_groups: true,
            port_security_enabled: true,
            allowed_address_pairs: vec![],
            extra_dhcp_opts: vec![],
            qos_policy_id: None,
            dns_name: String::new(),
            vnic_type: "normal".into(),
            binding_host: Some(HOST.into()),
            attachment: Attachment::Veth,
            tags: vec![],
            device_tag: None,
            device_index: 0,
        }
    }
}

/// A namespace behind a port.
pub struct Guest {
    pub netns: Netns,
    pub links: Links,
    pub port: Arc<Resource<Port>>,
}

impl Guest {
    /// The port's address.
    pub fn address(&self) -> IpAddr {
        self.port.spec.fixed_ips[0].ip_address
    }

    /// Sets the port's address and the default route by hand.
    pub async fn configure(&self, net: &Net) {
        let address = ipnet::IpNet::new(self.address(), net.cidr.prefix_len()).unwrap();
        self.links.set_addresses("eth0", &[address]).await.unwrap();
        let route = Route {
            destination: "0.0.0.0/0".parse().unwrap(),
            gateway: Some(net.at(1)),
            link: None,
        };
        self.links.ensure_route(&route).await.unwrap();
    }

    /// Whether an echo request is answered.
    pub async fn pings(&self, to: IpAddr) -> bool {
        pings(&self.netns, to).await
    }

    /// Answers everything that is sent to `port` with the same, until the test ends.
    pub async fn echo(&self, port: u16) {
        echo(&self.netns, port).await;
    }

    /// Whether a connection is accepted within half a second.
    pub async fn reaches(&self, to: IpAddr, port: u16) -> bool {
        connect(&self.netns, to, port).await.is_some()
    }
}

/// Whether one of a few echo requests from a namespace is answered: the very first may be lost while the kernel finds
/// out that a new link is up.
pub async fn pings(netns: &Netns, to: IpAddr) -> bool {
    let ping = Command::new("ping")
        .args(["-n", "-c3", "-i0.2", "-W1", &to.to_string()])
        .netns(netns);
    ping.output(PATIENCE).await.unwrap().code == 0
}

/// Answers everything that is sent to `port` with the address it came from, a line each, until the test ends.
pub async fn echo(netns: &Netns, port: u16) {
    let listener = netns
        .run(move || TcpListener::bind(("0.0.0.0", port)).unwrap())
        .await
        .unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || {
                let mut stream = stream.unwrap();
                let peer = format!("{}\n", stream.peer_addr().unwrap().ip());
                let mut byte = [0; 1];
                while stream.read_exact(&mut byte).is_ok() {
                    if stream.write_all(peer.as_bytes()).is_err() {
                        break;
                    }
                }
            });
        }
    });
}

/// A connection to an [`echo`], if there is one within half a second.
pub async fn connect(netns: &Netns, to: IpAddr, port: u16) -> Option<Connection> {
    let open = move || TcpStream::connect_timeout(&SocketAddr::new(to, port), Duration::from_millis(500)).ok();
    netns.run(open).await.unwrap().map(Connection)
}

/// An open connection.
pub struct Connection(TcpStream);

impl Connection {
    /// The address that the other side sees us as; none when it does not answer within two seconds.
    pub fn seen_as(&mut self) -> Option<IpAddr> {
        self.0.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        self.0.write_all(b"?").ok()?;
        let mut line = Vec::new();
        let mut byte = [0; 1];
        loop {
            self.0.read_exact(&mut byte).ok()?;
            if byte[0] == b'\n' {
                return String::from_utf8(line).ok()?.parse().ok();
            }
            line.push(byte[0]);
        }
    }
}

/// Waits until something holds; returns how long it took.
pub async fn until(what: &str, holds: impl Fn() -> bool) -> Duration {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "waited in vain for {what}");
        sleep(Duration::from_millis(1)).await;
    }
    begun.elapsed()
}

/// As [`until`], for what has to be asked.
pub async fn until_async<F: Future<Output = bool>>(what: &str, holds: impl Fn() -> F) -> Duration {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < PATIENCE, "waited in vain for {what}");
        sleep(Duration::from_millis(2)).await;
    }
    begun.elapsed()
}
