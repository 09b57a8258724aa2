//! Bad input: the status, the exception's name and the words of Neutron.

use http::Method;
use serde_json::{Value, json};

use super::cloud::{Client, Cloud, text};

async fn refused(client: &Client, method: Method, path: &str, body: Value) -> (u16, String, String) {
    let (status, answer) = client.call(method, path, Some(body.clone())).await;
    let error = &answer["NeutronError"];
    assert!(error.is_object(), "{path} {body}: {status} {answer}");
    (
        status,
        text(&answer, "/NeutronError/type").to_owned(),
        text(&answer, "/NeutronError/message").to_owned(),
    )
}

const NO_ID: &str = "8c8b2a1e-5a3c-4a1e-9b6f-0d8f1c5f7a11";

#[tokio::test]
async fn what_cannot_be_is_refused_as_neutron_does() {
    let cloud = Cloud::new().await;
    let client = cloud.member("p1");
    let network = client.create("/v2.0/networks", json!({ "network": {} })).await;
    let network = text(&network, "/network/id");
    let group = client
        .create("/v2.0/security-groups", json!({ "security_group": { "name": "g" } }))
        .await;
    let group = text(&group, "/security_group/id");
    let subnet = json!({ "subnet": { "network_id": network, "ip_version": 4, "cidr": "10.0.0.0/28" } });
    let subnet = client.create("/v2.0/subnets", subnet).await;
    let subnet = text(&subnet, "/subnet/id");
    let long = "x".repeat(256);
    let table: Vec<(&str, Value, u16, &str, String)> = vec![
        (
            "networks",
            json!([]),
            400,
            "HTTPBadRequest",
            "Resource body required".into(),
        ),
        (
            "networks",
            json!({}),
            400,
            "HTTPBadRequest",
            "Unable to find 'network' in request body".into(),
        ),
        (
            "networks",
            json!({ "networks": [] }),
            400,
            "HTTPBadRequest",
            "Resources required".into(),
        ),
        (
            "networks",
            json!({ "network": { "colour": 1 } }),
            400,
            "HTTPBadRequest",
            "Unrecognized attribute(s) 'colour'".into(),
        ),
        (
            "networks",
            json!({ "network": { "id": NO_ID } }),
            400,
            "HTTPBadRequest",
            "Attribute 'id' not allowed in POST".into(),
        ),
        (
            "networks",
            json!({ "network": { "name": long } }),
            400,
            "HTTPBadRequest",
            format!("Invalid input for name. Reason: '{long}' exceeds maximum length of 255."),
        ),
        (
            "networks",
            json!({ "network": { "name": 5 } }),
            400,
            "HTTPBadRequest",
            "Invalid input for name. Reason: '5' is not a valid string.".into(),
        ),
        (
            "networks",
            json!({ "network": { "admin_state_up": "maybe" } }),
            400,
            "HTTPBadRequest",
            "Invalid input for admin_state_up. Reason: 'maybe' cannot be converted to boolean.".into(),
        ),
        (
            "networks",
            json!({ "network": { "mtu": 9000 } }),
            400,
            "InvalidInput",
            "Invalid input for operation: Requested MTU is too big, maximum is 1450.".into(),
        ),
        (
            "subnets",
            json!({ "subnet": { "ip_version": 4, "cidr": "10.1.0.0/24" } }),
            400,
            "HTTPBadRequest",
            "Failed to parse request. Required attribute 'network_id' not specified".into(),
        ),
        (
            "subnets",
            json!({ "subnet": { "network_id": NO_ID, "ip_version": 4, "cidr": "10.1.0.0/24" } }),
            404,
            "NetworkNotFound",
            format!("Network {NO_ID} could not be found."),
        ),
        (
            "subnets",
            json!({ "subnet": { "network_id": network, "ip_version": 4 } }),
            400,
            "BadRequest",
            "Bad subnets request: a subnetpool must be specified in the absence of a cidr.".into(),
        ),
        (
            "subnets",
            json!({ "subnet": { "network_id": network, "ip_version": 5, "cidr": "10.1.0.0/24" } }),
            400,
            "HTTPBadRequest",
            "Invalid input for ip_version. Reason: '5' is not in [4, 6].".into(),
        ),
        (
            "subnets",
            json!({ "subnet": { "network_id": network, "ip_version": 6, "cidr": "10.1.0.0/24" } }),
            400,
            "InvalidInput",
            "Invalid input for operation: cidr '10.1.0.0/24' does not match the ip_version '6'.".into(),
        ),
        (
            "subnets",
            json!({ "subnet": { "network_id": network, "ip_version": 4, "cidr": "10.0.0.0/24" } }),
            400,
            "InvalidInput",
            format!(
                "Invalid input for operation: Requested subnet with cidr: 10.0.0.0/24 for network: {network} overlaps with another subnet."
            ),
        ),
        (
            "subnets",
            json!({ "subnet": { "network_id": network, "ip_version": 4, "cidr": "bogus" } }),
            400,
            "HTTPBadRequest",
            "Invalid input for cidr. Reason: 'bogus' is not a valid IP subnet.".into(),
        ),
        (
            "ports",
            json!({ "port": { "network_id": NO_ID } }),
            404,
            "NetworkNotFound",
            format!("Network {NO_ID} could not be found."),
        ),
        (
            "ports",
            json!({ "port": { "network_id": "x" } }),
            400,
            "HTTPBadRequest",
            "Invalid input for network_id. Reason: 'x' is not a valid UUID.".into(),
        ),
        (
            "ports",
            json!({ "port": { "network_id": network, "mac_address": "01:02:03:04:05:06:07" } }),
            400,
            "HTTPBadRequest",
            "Invalid input for mac_address. Reason: '01:02:03:04:05:06:07' is not a valid MAC address.".into(),
        ),
        (
            "ports",
            json!({ "port": { "network_id": network, "fixed_ips": [{ "ip_address": "192.168.5.5" }] } }),
            400,
            "InvalidIpForNetwork",
            "IP address 192.168.5.5 is not a valid IP for any of the subnets on the specified network.".into(),
        ),
        (
            "ports",
            json!({ "port": { "network_id": network, "fixed_ips": [{}] } }),
            400,
            "HTTPBadRequest",
            "Invalid input for fixed_ips. Reason: IP allocation requires subnet_id or ip_address.".into(),
        ),
        (
            "ports",
            json!({ "port": { "network_id": network, "security_groups": [NO_ID] } }),
            404,
            "SecurityGroupNotFound",
            format!("Security group {NO_ID} does not exist"),
        ),
        (
            "ports",
            json!({ "port": { "network_id": network, "port_security_enabled": false, "security_groups": [group] } }),
            400,
            "PortSecurityAndIPRequiredForSecurityGroups",
            "Port security must be enabled and port must have an IP address in order to use security groups.".into(),
        ),
        (
            "ports",
            json!({ "port": { "network_id": network, "port_security_enabled": false, "allowed_address_pairs": [{ "ip_address": "10.0.0.9" }] } }),
            409,
            "AddressPairAndPortSecurityRequired",
            "Port Security must be enabled in order to have allowed address pairs on a port.".into(),
        ),
        (
            "ports",
            json!({ "port": { "network_id": network, "binding:host_id": "h" } }),
            403,
            "PolicyNotAuthorized",
            "create_port:binding:host_id is disallowed by policy".into(),
        ),
        (
            "security-groups",
            json!({ "security_group": { "name": "default" } }),
            409,
            "SecurityGroupDefaultAlreadyExists",
            "Default security group already exists.".into(),
        ),
        (
            "security-group-rules",
            json!({ "security_group_rule": { "security_group_id": group, "direction": "up" } }),
            400,
            "HTTPBadRequest",
            "Invalid input for direction. Reason: 'up' is not in ['ingress', 'egress'].".into(),
        ),
        (
            "security-group-rules",
            json!({ "security_group_rule": { "security_group_id": group, "direction": "ingress", "ethertype": "ipx" } }),
            400,
            "SecurityGroupRuleInvalidEtherType",
            "Security group rule for ethertype 'ipx' not supported. Allowed values are ['IPv4', 'IPv6'].".into(),
        ),
        (
            "security-group-rules",
            json!({ "security_group_rule": { "security_group_id": group, "direction": "ingress", "protocol": "tcp", "port_range_min": 70000, "port_range_max": 70000 } }),
            400,
            "SecurityGroupInvalidPortValue",
            "Invalid value for port 70000".into(),
        ),
        (
            "routers",
            json!({ "router": { "external_gateway_info": { "network_id": network } } }),
            400,
            "BadRequest",
            format!("Bad router request: Network {network} is not an external network."),
        ),
        (
            "routers",
            json!({ "router": { "external_gateway_info": { "network_id": NO_ID } } }),
            404,
            "NetworkNotFound",
            format!("Network {NO_ID} could not be found."),
        ),
        (
            "floatingips",
            json!({ "floatingip": { "floating_network_id": network } }),
            400,
            "BadRequest",
            format!("Bad floatingip request: Network {network} is not a valid external network."),
        ),
    ];
    for (collection, body, status, reason, message) in table {
        let got = refused(&client, Method::POST, &format!("/v2.0/{collection}"), body.clone()).await;
        assert_eq!(got, (status, reason.to_owned(), message), "{collection} {body}");
    }
    let changes: [(String, Value, u16, &str); 4] = [
        (
            format!("/v2.0/networks/{network}"),
            json!({ "network": { "status": "X" } }),
            400,
            "HTTPBadRequest",
        ),
        (
            format!("/v2.0/subnets/{subnet}"),
            json!({ "subnet": { "cidr": "10.2.0.0/24" } }),
            400,
            "HTTPBadRequest",
        ),
        (
            format!("/v2.0/subnets/{subnet}"),
            json!({ "subnet": { "gateway_ip": "10.0.0.3" } }),
            409,
            "GatewayConflictWithAllocationPools",
        ),
        (
            format!("/v2.0/ports/{NO_ID}"),
            json!({ "port": {} }),
            404,
            "PortNotFound",
        ),
    ];
    for (path, body, status, reason) in changes {
        let got = refused(&client, Method::PUT, &path, body.clone()).await;
        assert_eq!((got.0, got.1.as_str()), (status, reason), "{path} {body}: {}", got.2);
    }
    for (query, message) in [
        ("networks?colour=red", "['colour'] is invalid attribute for filtering"),
        ("networks?limit=-1", "limit param must be positive"),
        ("ports?limit=x", "limit param must be an integer, not x"),
    ] {
        let (status, answer) = client.get(&format!("/v2.0/{query}")).await;
        assert_eq!(
            (status, text(&answer, "/NeutronError/message")),
            (400, message),
            "{query}"
        );
    }
    assert_eq!(client.get("/v2.0/nothing").await.0, 404);
    assert_eq!(client.get("/v2.0/extensions/nothing").await.0, 404);
}

#[tokio::test]
async fn what_is_in_use_does_not_go() {
    let cloud = Cloud::new().await;
    let (admin, client) = (cloud.admin(), cloud.member("p1"));
    let public = admin
        .create("/v2.0/networks", json!({ "network": { "router:external": true } }))
        .await;
    let public = text(&public, "/network/id").to_owned();
    let outside =
        json!({ "subnet": { "network_id": public, "ip_version": 4, "cidr": "172.24.0.0/29", "enable_dhcp": false } });
    admin.create("/v2.0/subnets", outside).await;
    let network = client.create("/v2.0/networks", json!({ "network": {} })).await;
    let network = text(&network, "/network/id").to_owned();
    let subnet = json!({ "subnet": { "network_id": network, "ip_version": 4, "cidr": "10.0.0.0/24" } });
    let subnet = client.create("/v2.0/subnets", subnet).await;
    let subnet = text(&subnet, "/subnet/id").to_owned();
    let group = client
        .create("/v2.0/security-groups", json!({ "security_group": { "name": "g" } }))
        .await;
    let group = text(&group, "/security_group/id").to_owned();
    let port = client
        .create(
            "/v2.0/ports",
            json!({ "port": { "network_id": network, "security_groups": [group] } }),
        )
        .await;
    let port = text(&port, "/port/id").to_owned();
    let router = client.create("/v2.0/routers", json!({ "router": {} })).await;
    let router = text(&router, "/router/id").to_owned();
    let interface = json!({ "subnet_id": subnet });

    // No way outside yet.
    let floating = json!({ "floatingip": { "floating_network_id": public, "port_id": port } });
    let (status, reason, _) = refused(&client, Method::POST, "/v2.0/floatingips", floating.clone()).await;
    assert_eq!((status, reason.as_str()), (404, "ExternalGatewayForFloatingIPNotFound"));
    assert_eq!(
        cloud.store.counters("p1", "network").get("floatingips"),
        None,
        "nothing of it stays"
    );

    client
        .update(
            &format!("/v2.0/routers/{router}"),
            json!({ "router": { "external_gateway_info": { "network_id": public } } }),
        )
        .await;
    let added = client
        .update(
            &format!("/v2.0/routers/{router}/add_router_interface"),
            interface.clone(),
        )
        .await;
    let interface_port = text(&added, "/port_id").to_owned();
    let floating = client.create("/v2.0/floatingips", floating).await;
    assert_eq!(text(&floating, "/floatingip/router_id"), router);
    let floating = text(&floating, "/floatingip/id").to_owned();
    let second = json!({ "floatingip": { "floating_network_id": public, "port_id": port } });
    let (status, reason, _) = refused(&client, Method::POST, "/v2.0/floatingips", second).await;
    assert_eq!((status, reason.as_str()), (409, "FloatingIPPortAlreadyAssociated"));

    let blocked = [
        (
            Method::DELETE,
            format!("/v2.0/networks/{network}"),
            json!(null),
            "NetworkInUse",
        ),
        (
            Method::DELETE,
            format!("/v2.0/subnets/{subnet}"),
            json!(null),
            "SubnetInUse",
        ),
        (
            Method::DELETE,
            format!("/v2.0/security-groups/{group}"),
            json!(null),
            "SecurityGroupInUse",
        ),
        (
            Method::DELETE,
            format!("/v2.0/routers/{router}"),
            json!(null),
            "RouterInUse",
        ),
        (
            Method::DELETE,
            format!("/v2.0/ports/{interface_port}"),
            json!(null),
            "ServicePortInUse",
        ),
        (
            Method::PUT,
            format!("/v2.0/routers/{router}/remove_router_interface"),
            interface.clone(),
            "RouterInterfaceInUseByFloatingIP",
        ),
        (
            Method::PUT,
            format!("/v2.0/routers/{router}"),
            json!({ "router": { "external_gateway_info": null } }),
            "RouterExternalGatewayInUseByFloatingIp",
        ),
        (
            Method::PUT,
            format!("/v2.0/subnets/{subnet}"),
            json!({ "subnet": { "gateway_ip": null } }),
            "GatewayIpInUse",
        ),
        (
            Method::PUT,
            format!("/v2.0/routers/{router}/add_router_interface"),
            json!({ "port_id": port }),
            "",
        ),
    ];
    for (method, path, body, reason) in blocked {
        let (status, got, message) = refused(&client, method.clone(), &path, body).await;
        if !reason.is_empty() {
            assert_eq!((status, got.as_str()), (409, reason), "{method} {path}: {message}");
        } else {
            assert_eq!(status, 400, "{method} {path}: {message}");
        }
    }

    // In order, all of it goes, and nothing stays counted.
    assert_eq!(client.delete(&format!("/v2.0/ports/{port}")).await.0, 204);
    let (_, free) = client.get(&format!("/v2.0/floatingips/{floating}")).await;
    assert_eq!(
        (&free["floatingip"]["port_id"], &free["floatingip"]["router_id"]),
        (&Value::Null, &Value::Null)
    );
    client
        .update(&format!("/v2.0/routers/{router}/remove_router_interface"), interface)
        .await;
    for path in [
        format!("floatingips/{floating}"),
        format!("routers/{router}"),
        format!("networks/{network}"),
        format!("security-groups/{group}"),
    ] {
        let (status, answer) = client.delete(&format!("/v2.0/{path}")).await;
        assert_eq!(status, 204, "{path}: {answer}");
    }
    assert_eq!(admin.delete(&format!("/v2.0/networks/{public}")).await.0, 204);
    let left = cloud.store.counters("p1", "network");
    // The default group and its four rules are the project's for good.
    assert_eq!(
        left.into_iter().collect::<Vec<_>>(),
        [
            ("security_group_rules".to_owned(), 4),
            ("security_groups".to_owned(), 1)
        ]
    );
}
