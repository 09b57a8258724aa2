//! `madang status`: services, hosts and usage, asked of the APIs as any client would.

use anyhow::Context;
use comfy_table::{Table, presets::NOTHING};
use serde_json::Value;

use crate::{
    client::Client,
    console::line,
    credentials::{Credentials, Endpoint},
    data_dir::DataDir,
};

/// Asks and prints.
///
/// # Errors
/// When nothing is up on the data directory, or it refuses to answer.
pub async fn run(data: &DataDir) -> anyhow::Result<()> {
    data.require_used()?;
    let holder = data.holder();
    let holder =
        holder.with_context(|| format!("nothing is up on {}: start it with `madang up`", data.path().display()))?;
    let endpoint = Endpoint::read(data)?;
    let credentials = Credentials::load(&data.join("credentials.toml"))?.context("there are no credentials")?;
    let mut client = Client::new(&endpoint)?;
    let services = client.log_in("admin", &credentials.admin_password).await?;

    line(&format!(
        "madang {} at {} (process {})",
        env!("CARGO_PKG_VERSION"),
        endpoint.url,
        holder.pid.unwrap_or_default()
    ));
    let mut table = table(["service", "state", "endpoint"]);
    let mut shown = Vec::new();
    for service in &services {
        let root = service.url.split("/v").next().unwrap_or(&service.url);
        // One service may be in the catalog under several names.
        if shown.contains(&root) {
            continue;
        }
        shown.push(root);
        let state = match client.get_url(&format!("{root}/")).await {
            Ok(_) => "up".to_owned(),
            Err(error) => format!("{error:#}"),
        };
        table.add_row([service.kind.as_str(), &state, &service.url]);
    }
    line(&format!("\n{table}"));

    let hosts = client
        .get("/compute/v2.1/os-hypervisors/detail?with_servers=true")
        .await?;
    let providers = client.get("/placement/resource_providers").await?;
    line(&format!("\n{}", host_table(&client, &hosts, &providers).await));

    let servers = client
        .list("/compute/v2.1/servers/detail?all_tenants=1", "servers")
        .await?;
    let mut usage = vec![format!("servers {}", servers.len())];
    usage.push(format!(
        "images {}",
        client.list("/image/v2/images?visibility=all", "images").await?.len()
    ));
    let lists = [
        ("networks", "/network/v2.0/networks"),
        ("ports", "/network/v2.0/ports"),
        ("projects", "/identity/v3/projects"),
    ];
    for (what, path) in lists {
        usage.push(format!("{what} {}", items(&client.get(path).await?, what).count()));
    }
    line(&format!("\n{}", usage.join("   ")));
    for (status, count) in by_status(&servers) {
        line(&format!("  {count} servers {status}"));
    }
    Ok(())
}

fn table<const N: usize>(head: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(head);
    table
}

/// How many simulated hosts are listed one by one.
const HOSTS_SHOWN: usize = 20;

async fn host_table(client: &Client, hosts: &Value, providers: &Value) -> Table {
    let mut table = table(["host", "type", "state", "servers", "processors", "memory", "disk"]);
    let hosts = hosts["hypervisors"].as_array().map(Vec::as_slice).unwrap_or_default();
    for host in hosts.iter().take(HOSTS_SHOWN) {
        let name = host["hypervisor_hostname"].as_str().unwrap_or("?");
        let provider = items(providers, "resource_providers").find(|provider| provider["name"] == name);
        let usage = match provider.and_then(|provider| provider["uuid"].as_str()) {
            Some(uuid) => usage_of(client, uuid).await.unwrap_or_default(),
            None => Vec::new(),
        };
        let used = |class: &str| {
            usage
                .iter()
                .find(|(name, ..)| name == class)
                .map_or("?".to_owned(), |(_, text)| text.clone())
        };
        table.add_row([
            name.to_owned(),
            host["hypervisor_type"].as_str().unwrap_or("?").to_owned(),
            format!(
                "{}, {}",
                host["state"].as_str().unwrap_or("?"),
                host["status"].as_str().unwrap_or("?")
            ),
            host["servers"].as_array().map_or(0, Vec::len).to_string(),
            used("VCPU"),
            used("MEMORY_MB"),
            used("DISK_GB"),
        ]);
    }
    if hosts.len() > HOSTS_SHOWN {
        table.add_row([format!("… and {} more", hosts.len() - HOSTS_SHOWN)]);
    }
    table
}

/// Used of total, by class of resource.
async fn usage_of(client: &Client, provider: &str) -> anyhow::Result<Vec<(String, String)>> {
    let inventories = client
        .get(&format!("/placement/resource_providers/{provider}/inventories"))
        .await?;
    let usages = client
        .get(&format!("/placement/resource_providers/{provider}/usages"))
        .await?;
    let classes = inventories["inventories"].as_object().into_iter().flatten();
    Ok(classes
        .map(|(class, inventory)| {
            let total = inventory["total"].as_u64().unwrap_or_default();
            let ratio = inventory["allocation_ratio"].as_f64().unwrap_or(1.0);
            let reserved = inventory["reserved"].as_u64().unwrap_or_default();
            let capacity = (total.saturating_sub(reserved) as f64 * ratio) as u64;
            let used = usages["usages"][class].as_u64().unwrap_or_default();
            let unit = class.split_once('_').map_or("", |(_, unit)| unit);
            (
                class.clone(),
                format!("{used} of {capacity} {unit}").trim_end().to_owned(),
            )
        })
        .collect())
}

fn items<'a>(answer: &'a Value, list: &str) -> impl Iterator<Item = &'a Value> {
    answer[list].as_array().into_iter().flatten()
}

fn by_status(servers: &[Value]) -> Vec<(String, usize)> {
    let mut counts = std::collections::BTreeMap::new();
    for server in servers {
        *counts
            .entry(server["status"].as_str().unwrap_or("?").to_owned())
            .or_default() += 1;
    }
    counts.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn servers_are_counted_by_status() {
        let servers = [
            json!({"status": "ACTIVE"}),
            json!({"status": "ERROR"}),
            json!({"status": "ACTIVE"}),
        ];
        assert_eq!(by_status(&servers), [("ACTIVE".to_owned(), 2), ("ERROR".to_owned(), 1)]);
    }
}
