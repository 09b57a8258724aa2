//! A real machine until SSH answers through its floating address, and a real container until it runs.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, bail};
use serde_json::{Value, json};
use tokio::{
    io::AsyncReadExt,
    net::TcpStream,
    process::Command,
    time::{Instant, sleep, timeout},
};

use crate::{
    cloud::{Bench, Cloud, Session},
    report::{Better, Report},
};

const MACHINES: usize = 5;
const CONTAINERS: usize = 20;
/// Long enough for what a deletion leaves to do.
const PAUSE: Duration = Duration::from_secs(1);
/// Fine enough for milliseconds, coarse enough not to be what is measured.
const LOOK: Duration = Duration::from_millis(1);

pub async fn run(bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
    let cloud = bench.up("workloads", &[]).await?;
    let outcome = measure(&cloud, bench, report).await;
    cloud.close().await?;
    outcome
}

async fn measure(cloud: &Cloud, bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
    let mut demo = cloud.log_in("demo").await?;
    let place = Place::prepare(&mut demo).await?;
    let (mut ssh, mut own) = (Vec::new(), Vec::new());
    for _ in 0..MACHINES {
        let (active, answered) = place.machine(&mut demo).await?;
        own.push(active.as_secs_f64() * 1000.0);
        ssh.push(answered.as_secs_f64());
    }
    report.add("machine: create to SSH answering", "s", &ssh, 6.0, Better::Lower);
    report.add(
        "machine: create to ACTIVE (all but the guest's boot)",
        "ms",
        &own,
        300.0,
        Better::Lower,
    );

    let image = container_image(bench, &mut demo).await?;
    // The first one unpacks the image for all.
    place.container(&mut demo, &image).await?;
    let quiet = place.containers(&mut demo, &image, PAUSE).await?;
    report.add(
        "container: create to running, a second after the last one went",
        "ms",
        &quiet,
        80.0,
        Better::Lower,
    );
    let alone = place.containers(&mut demo, &image, Duration::ZERO).await?;
    report.add(
        "container: create to running, right after the last one went",
        "ms",
        &alone,
        80.0,
        Better::Lower,
    );
    let (resident, _) = place.start_container(&mut demo, &image).await?;
    let beside = place.containers(&mut demo, &image, Duration::ZERO).await?;
    report.add(
        "container: create to running, right after the last one went, beside another",
        "ms",
        &beside,
        80.0,
        Better::Lower,
    );
    delete(&mut demo, &resident).await
}

/// What the servers need, made beforehand.
struct Place {
    network: String,
    image: String,
    flavor: String,
    port: String,
    floating: String,
}

impl Place {
    /// The first project's default security group lets SSH in.
    async fn prepare(demo: &mut Session) -> anyhow::Result<Self> {
        let network = demo.id_of("/network/v2.0/networks", "networks", "private").await?;
        let public = demo.id_of("/network/v2.0/networks", "networks", "public").await?;
        let port = demo
            .call(
                "POST",
                "/network/v2.0/ports",
                Some(&json!({"port": {"network_id": network}})),
            )
            .await?;
        let port = port["port"]["id"].as_str().context("no port")?.to_owned();
        let floating = json!({"floatingip": {"floating_network_id": public, "port_id": port}});
        let floating = demo.call("POST", "/network/v2.0/floatingips", Some(&floating)).await?;
        let floating = floating["floatingip"]["floating_ip_address"]
            .as_str()
            .context("no address")?
            .to_owned();
        Ok(Self {
            network,
            image: demo.id_of("/image/v2/images", "images", "tiny").await?,
            flavor: demo.id_of("/compute/v2.1/flavors", "flavors", "m1.tiny").await?,
            port,
            floating,
        })
    }

    /// Creates a machine, waits for both moments, deletes it.
    async fn machine(&self, demo: &mut Session) -> anyhow::Result<(Duration, Duration)> {
        let wanted = json!({"server": {"name": "bench", "imageRef": self.image, "flavorRef": self.flavor,
            "networks": [{"port": self.port}]}});
        let began = Instant::now();
        let server = create(demo, &wanted).await?;
        demo.until(&server, "ACTIVE", LOOK).await?;
        let active = began.elapsed();
        ssh_answers(&self.floating).await?;
        let answered = began.elapsed();
        delete(demo, &server).await?;
        Ok((active, answered))
    }

    /// How many milliseconds each of many containers took, one after the other with a pause between them.
    async fn containers(&self, demo: &mut Session, image: &str, pause: Duration) -> anyhow::Result<Vec<f64>> {
        let mut running = Vec::new();
        for _ in 0..CONTAINERS {
            sleep(pause).await;
            running.push(self.container(demo, image).await?.as_secs_f64() * 1000.0);
        }
        Ok(running)
    }

    async fn container(&self, demo: &mut Session, image: &str) -> anyhow::Result<Duration> {
        let (server, took) = self.start_container(demo, image).await?;
        delete(demo, &server).await?;
        Ok(took)
    }

    async fn start_container(&self, demo: &mut Session, image: &str) -> anyhow::Result<(String, Duration)> {
        let wanted = json!({"server": {"name": "bench", "imageRef": image, "flavorRef": self.flavor,
            "networks": [{"uuid": self.network}]}});
        let began = Instant::now();
        let server = create(demo, &wanted).await?;
        demo.until(&server, "ACTIVE", LOOK).await?;
        Ok((server, began.elapsed()))
    }
}

async fn create(demo: &mut Session, wanted: &Value) -> anyhow::Result<String> {
    let made = demo.call("POST", "/compute/v2.1/servers", Some(wanted)).await?;
    Ok(made["server"]["id"].as_str().context("no id")?.to_owned())
}

async fn delete(demo: &mut Session, server: &str) -> anyhow::Result<()> {
    demo.call("DELETE", &format!("/compute/v2.1/servers/{server}"), None)
        .await?;
    demo.until(server, "DELETED", Duration::from_millis(20)).await
}

/// Waits until an SSH server says who it is.
async fn ssh_answers(address: &str) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    while Instant::now() < deadline {
        let attempt = async {
            let mut stream = TcpStream::connect((address, 22)).await?;
            let mut banner = [0; 4];
            stream.read_exact(&mut banner).await?;
            std::io::Result::Ok(&banner == b"SSH-")
        };
        // A connection attempt that met nobody is tried anew rather than left to the kernel's ever longer pauses.
        if let Ok(Ok(true)) = timeout(Duration::from_millis(500), attempt).await {
            return Ok(());
        }
        sleep(Duration::from_millis(10)).await;
    }
    bail!("no SSH at {address} within a minute")
}

/// Registers the busybox image; its id.
async fn container_image(bench: &Bench, demo: &mut Session) -> anyhow::Result<String> {
    let file: PathBuf = bench.scratch.join("busybox.tar");
    let done = Command::new(&bench.binary)
        .args(["image", "build-busybox"])
        .arg(&file)
        .output()
        .await?;
    if !done.status.success() {
        bail!("madang image build-busybox: {}", String::from_utf8_lossy(&done.stderr));
    }
    let record = json!({"name": "busybox", "container_format": "docker", "disk_format": "raw"});
    let image = demo.call("POST", "/image/v2/images", Some(&record)).await?;
    let id = image["id"].as_str().context("no image")?.to_owned();
    let bytes = tokio::fs::read(&file).await?;
    let mut request = format!(
        "PUT /image/v2/images/{id}/file HTTP/1.1\r\nhost: bench\r\nx-auth-token: {}\r\n\
         content-type: application/octet-stream\r\ncontent-length: {}\r\n\r\n",
        demo.token,
        bytes.len()
    )
    .into_bytes();
    request.extend_from_slice(&bytes);
    demo.connection.exchange(&request).await?.succeeded()?;
    Ok(id)
}
