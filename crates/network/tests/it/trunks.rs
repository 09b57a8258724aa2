//! Trunks: what may be in them, what becomes of their ports.

use http::Method;
use madang_network::Port;
use serde_json::{Value, json};

use super::cloud::{Client, Cloud, cause, text};

async fn port(client: &Client, mtu: u16) -> String {
    let made = client
        .create("/v2.0/networks", json!({ "network": { "mtu": mtu } }))
        .await;
    let network = text(&made, "/network/id").to_owned();
    let made = client
        .create("/v2.0/ports", json!({ "port": { "network_id": network } }))
        .await;
    text(&made, "/port/id").to_owned()
}

fn vlan(port: &str, id: i64) -> Value {
    json!({ "port_id": port, "segmentation_type": "vlan", "segmentation_id": id })
}

async fn refused(client: &Client, path: &str, body: Value, method: Method) -> (u16, String) {
    let (status, answer) = client.call(method, path, Some(body)).await;
    (status, text(&answer, "/NeutronError/type").to_owned())
}

#[tokio::test]
async fn a_trunk_has_its_ports_until_it_goes() {
    let cloud = Cloud::new().await;
    let client = cloud.member("p1");
    let (parent, first, second) = (
        port(&client, 1450).await,
        port(&client, 1400).await,
        port(&client, 1400).await,
    );
    let made = client
        .create(
            "/v2.0/trunks",
            json!({ "trunk": { "port_id": parent, "sub_ports": [vlan(&first, 5)] } }),
        )
        .await;
    let trunk = format!("/v2.0/trunks/{}", text(&made, "/trunk/id"));
    assert_eq!(made["trunk"]["sub_ports"], json!([vlan(&first, 5)]));
    assert_eq!((text(&made, "/trunk/status"), text(&made, "/trunk/name")), ("DOWN", ""));
    let (_, shown) = client.get(&format!("/v2.0/ports/{parent}")).await;
    let mac = client.get(&format!("/v2.0/ports/{first}")).await.1["port"]["mac_address"].clone();
    let mut sub = vlan(&first, 5);
    sub["mac_address"] = mac;
    assert_eq!(
        shown["port"]["trunk_details"],
        json!({ "trunk_id": made["trunk"]["id"], "sub_ports": [sub] })
    );
    let added = client
        .update(
            &format!("{trunk}/add_subports"),
            json!({ "sub_ports": [vlan(&second, 6)] }),
        )
        .await;
    assert_eq!(added["sub_ports"], json!([vlan(&first, 5), vlan(&second, 6)]));
    let (_, shown) = client.get(&format!("/v2.0/ports/{second}")).await;
    assert_eq!(
        (text(&shown, "/port/device_owner"), &shown["port"]["device_id"]),
        ("trunk:subport", &made["trunk"]["id"])
    );
    for (port, why) in [(&parent, "PortInUseAsTrunkParent"), (&second, "PortInUseAsSubPort")] {
        let (status, answer) = client.delete(&format!("/v2.0/ports/{port}")).await;
        assert_eq!((status, text(&answer, "/NeutronError/type")), (409, why));
    }
    let left = client
        .update(
            &format!("{trunk}/remove_subports"),
            json!({ "sub_ports": [{ "port_id": first }] }),
        )
        .await;
    assert_eq!(left["sub_ports"], json!([vlan(&second, 6)]));
    assert_eq!(client.delete(&format!("/v2.0/ports/{first}")).await.0, 204);
    client
        .update(&trunk, json!({ "trunk": { "admin_state_up": false } }))
        .await;
    let (status, answer) = client.delete(&trunk).await;
    assert_eq!((status, text(&answer, "/NeutronError/type")), (409, "TrunkDisabled"));
    client
        .update(&trunk, json!({ "trunk": { "admin_state_up": true } }))
        .await;
    assert_eq!(client.delete(&trunk).await.0, 204);
    let (_, shown) = client.get(&format!("/v2.0/ports/{second}")).await;
    assert_eq!(
        (text(&shown, "/port/device_owner"), text(&shown, "/port/device_id")),
        ("", "")
    );
    assert_eq!(client.delete(&format!("/v2.0/ports/{parent}")).await.0, 204);
}

#[tokio::test]
async fn what_cannot_be_a_trunk_is_refused_as_neutron_does() {
    let cloud = Cloud::new().await;
    let client = cloud.member("p1");
    let (parent, sub, big) = (
        port(&client, 1400).await,
        port(&client, 1400).await,
        port(&client, 1450).await,
    );
    let made = client
        .create(
            "/v2.0/trunks",
            json!({ "trunk": { "port_id": parent, "sub_ports": [vlan(&sub, 5)] } }),
        )
        .await;
    let add = format!("/v2.0/trunks/{}/add_subports", text(&made, "/trunk/id"));
    let other = port(&client, 1400).await;
    let create = "/v2.0/trunks";
    let foreign = port(&cloud.member("p2"), 1400).await;
    let busy = client
        .create(
            "/v2.0/ports",
            json!({ "port": { "network_id": client.get(&format!("/v2.0/ports/{other}")).await.1["port"]["network_id"],
                "device_id": "something" } }),
        )
        .await;
    let busy = text(&busy, "/port/id").to_owned();
    for (path, body, status, why) in [
        (
            create,
            json!({ "trunk": { "port_id": parent } }),
            409,
            "ParentPortInUse",
        ),
        (create, json!({ "trunk": { "port_id": sub } }), 409, "TrunkPortInUse"),
        (create, json!({ "trunk": { "port_id": foreign } }), 404, "PortNotFound"),
        (
            create,
            json!({ "trunk": { "port_id": other, "sub_ports": [vlan(&sub, 5)] } }),
            409,
            "TrunkPortInUse",
        ),
        (
            create,
            json!({ "trunk": { "port_id": other, "sub_ports": [vlan(&busy, 5)] } }),
            409,
            "PortInUse",
        ),
        (
            create,
            json!({ "trunk": { "port_id": other, "sub_ports": [{ "port_id": busy }] } }),
            400,
            "InvalidInput",
        ),
        (
            create,
            json!({ "trunk": { "port_id": other,
                "sub_ports": [{ "port_id": foreign, "segmentation_type": "inherit" }] } }),
            404,
            "PortNotFound",
        ),
        (&add, json!({ "sub_ports": [vlan(&parent, 9)] }), 409, "ParentPortInUse"),
        (&add, json!({ "sub_ports": [vlan(&other, 5)] }), 409, "DuplicateSubPort"),
        (&add, json!({ "sub_ports": [vlan(&other, 4095)] }), 400, "InvalidInput"),
        (&add, json!({ "sub_ports": vlan(&other, 6) }), 400, "InvalidInput"),
        (
            &add,
            json!({ "sub_ports": [{ "port_id": other, "segmentation_type": "inherit" }] }),
            400,
            "InvalidInput",
        ),
        (
            &add,
            json!({ "sub_ports": [vlan(&big, 6)] }),
            409,
            "SubPortMtuGreaterThanTrunkPortMtu",
        ),
    ] {
        let method = if path == create { Method::POST } else { Method::PUT };
        let got = refused(&client, path, body.clone(), method).await;
        assert_eq!(got, (status, why.to_owned()), "{path} {body}");
    }
}

#[tokio::test]
async fn subports_follow_their_parent() {
    let cloud = Cloud::new().await;
    let client = cloud.member("p1");
    let (parent, sub) = (port(&client, 1450).await, port(&client, 1450).await);
    client
        .create(
            "/v2.0/trunks",
            json!({ "trunk": { "port_id": parent, "sub_ports": [vlan(&sub, 5)] } }),
        )
        .await;
    let find = |id: &str| cloud.store.cache::<Port>().by_name(id).unwrap();
    let key = find(&parent).key();
    for host in [Some("a"), Some("b"), None] {
        let bind = cloud
            .store
            .modify::<Port, madang_store::StoreError>(&key, cause(), |port| {
                port.spec.binding_host = host.map(str::to_owned);
                Ok(())
            });
        bind.await.unwrap();
        assert_eq!(find(&sub).spec.binding_host.as_deref(), host);
    }
}
