"""What is malformed, oversized, unauthorised, over quota or in conflict gets the answer that the original gives: its status,
its body's shape, the field and the value. Every row is one request."""

import base64

import pytest

from wire import Wire, login

NOBODY = "11111111-2222-3333-4444-555555555555"


@pytest.fixture(scope="module")
def cloud(clouds):
    madang = clouds("bad-input")
    madang.up("--simulated-hosts", "2", seconds=600)
    return madang


@pytest.fixture(scope="module")
def demo(cloud):
    return Wire(cloud)


@pytest.fixture(scope="module")
def admin(cloud):
    return Wire(cloud, "admin-openrc")


@pytest.fixture(scope="module")
def ids(demo):
    """What a valid request needs."""
    return {
        "image": demo.named("/image/v2/images", "images", "tiny"),
        "flavor": demo.named("/compute/v2.1/flavors", "flavors", "m1.tiny"),
        "network": demo.named("/network/v2.0/networks", "networks", "private"),
        "public": demo.named("/network/v2.0/networks", "networks", "public"),
        "project": demo.project,
        "nobody": NOBODY,
    }


def server(**changed):
    """A server's body, with fields changed; None leaves one out."""
    body = {"name": "bad", "imageRef": "{image}", "flavorRef": "{flavor}", "networks": [{"uuid": "{network}"}], **changed}
    return {"server": {name: value for name, value in body.items() if value is not None}}


def filled(value, ids):
    """The row with ids in place of `{names}`."""
    if isinstance(value, dict):
        return {name: filled(inner, ids) for name, inner in value.items()}
    if isinstance(value, list):
        return [filled(inner, ids) for inner in value]
    if isinstance(value, str):
        for name, known in ids.items():
            value = value.replace("{" + name + "}", known)
    return value


COMPUTE = [
    # what                        method  path                body                                status  the body says
    ("no name", "POST", "/servers", server(name=None), 400, ["badRequest", "name", "required property"]),
    ("empty name", "POST", "/servers", server(name=""), 400, ["badRequest", "Invalid input for field/attribute name"]),
    ("long name", "POST", "/servers", server(name="x" * 256), 400, ["badRequest", "name", "too long"]),
    ("name of a wrong type", "POST", "/servers", server(name=7), 400, ["badRequest", "name", "7", "not of type 'string'"]),
    ("unknown field", "POST", "/servers", server(colour="red"), 400, ["badRequest", "colour"]),
    ("unknown image", "POST", "/servers", server(imageRef="{nobody}"), 400, ["badRequest", "Can not find requested image"]),
    ("unknown flavor", "POST", "/servers", server(flavorRef="nope"), 400, ["badRequest", "nope"]),
    ("unknown network", "POST", "/servers", server(networks=[{"uuid": "{nobody}"}]), 400, ["badRequest", NOBODY]),
    ("unknown keypair", "POST", "/servers", server(key_name="nokey"), 400, ["badRequest", "Invalid key_name provided."]),
    ("unknown group", "POST", "/servers", server(security_groups=[{"name": "nogroup"}]), 400, ["badRequest", "nogroup"]),
    ("user data that is not base64", "POST", "/servers", server(user_data="???"), 400, ["badRequest", "user_data"]),
    ("large user data", "POST", "/servers", server(user_data=base64.b64encode(b"x" * 65536).decode()), 400, ["badRequest", "user_data"]),
    ("too many at once", "POST", "/servers", server(min_count=3, max_count=2), 400, ["badRequest", "min_count"]),
    ("metadata of a wrong type", "POST", "/servers", server(metadata={"a": 1}), 400, ["badRequest", "field/attribute a", "1 is not of type 'string'"]),
    ("no such server", "GET", "/servers/{nobody}", None, 404, ["itemNotFound", NOBODY, "could not be found"]),
    ("delete of no such server", "DELETE", "/servers/{nobody}", None, 404, ["itemNotFound", NOBODY]),
    ("an action on no such server", "POST", "/servers/{nobody}/action", {"os-stop": None}, 404, ["itemNotFound", NOBODY]),
    ("no such flavor", "GET", "/flavors/nope", None, 404, ["itemNotFound", "nope"]),
    ("no such keypair", "GET", "/os-keypairs/nope", None, 404, ["itemNotFound", "nope"]),
    ("a bad public key", "POST", "/os-keypairs", {"keypair": {"name": "k", "public_key": "junk"}}, 400, ["badRequest"]),
    ("a bad limit", "GET", "/servers?limit=-1", None, 400, ["badRequest", "limit"]),
    ("a bad marker", "GET", "/servers?marker={nobody}", None, 400, ["badRequest", NOBODY]),
    ("a flavor by a member", "POST", "/flavors", {"flavor": {"name": "f", "ram": 1, "vcpus": 1, "disk": 1}}, 403, ["forbidden", "os_compute_api:os-flavor-manage:create"]),
    ("quota by a member", "PUT", "/os-quota-sets/{project}", {"quota_set": {"cores": 1}}, 403, ["forbidden"]),
    ("no such path", "GET", "/nothing", None, 404, []),
    ("no such method", "PATCH", "/servers", {}, 405, []),
]  # fmt: skip

NETWORK = [
    ("unknown network", "GET", "/networks/{nobody}", None, 404, ["NeutronError", "NetworkNotFound", NOBODY]),
    ("unknown subnet", "GET", "/subnets/{nobody}", None, 404, ["NeutronError", "SubnetNotFound", NOBODY]),
    ("unknown port", "DELETE", "/ports/{nobody}", None, 404, ["NeutronError", "PortNotFound", NOBODY]),
    ("unknown router", "GET", "/routers/{nobody}", None, 404, ["NeutronError", "RouterNotFound", NOBODY]),
    ("unknown group", "GET", "/security-groups/{nobody}", None, 404, ["NeutronError", "SecurityGroupNotFound", NOBODY]),
    ("unknown floating address", "GET", "/floatingips/{nobody}", None, 404, ["NeutronError", "FloatingIPNotFound", NOBODY]),
    ("network of a wrong type", "POST", "/networks", {"network": {"admin_state_up": "maybe"}}, 400, ["NeutronError", "admin_state_up", "maybe"]),
    ("unknown attribute", "POST", "/networks", {"network": {"colour": "red"}}, 400, ["NeutronError", "colour"]),
    ("external network by a member", "POST", "/networks", {"network": {"router:external": True}}, 403, ["NeutronError", "PolicyNotAuthorized"]),
    ("subnet without a range", "POST", "/subnets", {"subnet": {"network_id": "{network}", "ip_version": 4}}, 400, ["NeutronError"]),
    ("bad range", "POST", "/subnets", {"subnet": {"network_id": "{network}", "ip_version": 4, "cidr": "10.0.0.0/99"}}, 400, ["NeutronError", "10.0.0.0/99"]),
    ("subnet on no network", "POST", "/subnets", {"subnet": {"network_id": "{nobody}", "ip_version": 4, "cidr": "10.9.0.0/24"}}, 404, ["NeutronError", NOBODY]),
    ("port on no network", "POST", "/ports", {"port": {"network_id": "{nobody}"}}, 404, ["NeutronError", NOBODY]),
    ("address outside the subnet", "POST", "/ports", {"port": {"network_id": "{network}", "fixed_ips": [{"ip_address": "203.0.113.9"}]}}, 400, ["NeutronError", "203.0.113.9"]),
    ("bad MAC address", "POST", "/ports", {"port": {"network_id": "{network}", "mac_address": "nope"}}, 400, ["NeutronError", "nope"]),
    ("bad port range", "POST", "/security-group-rules", {"security_group_rule": {"security_group_id": "{group}", "direction": "ingress", "protocol": "tcp", "port_range_min": 9, "port_range_max": 8}}, 400, ["NeutronError"]),
    ("bad direction", "POST", "/security-group-rules", {"security_group_rule": {"security_group_id": "{group}", "direction": "sideways"}}, 400, ["NeutronError", "sideways"]),
    ("floating address on a private network", "POST", "/floatingips", {"floatingip": {"floating_network_id": "{network}"}}, 400, ["NeutronError"]),
    ("no such path", "GET", "/nothing", None, 404, []),
]  # fmt: skip

IMAGE = [
    ("unknown image", "GET", "/images/{nobody}", None, 404, [NOBODY]),
    ("unknown image's bytes", "GET", "/images/{nobody}/file", None, 404, []),
    ("delete of another's image", "DELETE", "/images/{image}", None, 403, []),
    ("bad disk format", "POST", "/images", {"name": "i", "disk_format": "floppy"}, 400, ["'floppy' is not one of", "qcow2"]),
    ("bad visibility", "POST", "/images", {"name": "i", "visibility": "secret"}, 400, ["'secret' is not one of", "shared"]),
    ("public by a member", "POST", "/images", {"name": "i", "visibility": "public"}, 403, []),
    ("bad limit", "GET", "/images?limit=some", None, 400, ["limit"]),
]

IDENTITY = [
    ("unknown project", "GET", "/projects/{nobody}", None, (403, 404), ["error"]),
    ("users by a member", "GET", "/users", None, 403, ["error", "identity:list_users"]),
    ("no auth", "POST", "/auth/tokens", {}, 400, ["error", "auth"]),
    ("no such path", "GET", "/nothing", None, 404, []),
]

ROWS = [
    (f"{prefix} {row[0]}", row[1], prefix_path + row[2], *row[3:])
    for prefix, prefix_path, rows in (
        ("compute:", "/compute/v2.1", COMPUTE),
        ("network:", "/network/v2.0", NETWORK),
        ("image:", "/image/v2", IMAGE),
        ("identity:", "/identity/v3", IDENTITY),
    )
    for row in rows
]


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_refused_as_the_original_does(demo, ids, row):
    if "group" not in ids:
        ids["group"] = demo.named("/network/v2.0/security-groups", "security_groups", "default")
    _, method, path, body, status, said = row
    answer = demo.call(method, filled(path, ids), json=filled(body, ids))
    wanted = status if isinstance(status, tuple) else (status,)
    assert answer.status_code in wanted, f"{answer.status_code}: {answer.text}"
    for words in said:
        assert words in answer.text, answer.text
    assert "panick" not in answer.text and "Traceback" not in answer.text


@pytest.mark.parametrize("path", ["/compute/v2.1/servers", "/network/v2.0/networks", "/image/v2/images", "/identity/v3/users", "/placement/resource_providers"])
@pytest.mark.parametrize("token", [False, "nonsense"])
def test_without_a_good_token_nothing_is_answered(demo, path, token):
    answer = demo.call("GET", path, token=token)
    assert answer.status_code == 401
    if "/identity" in path:
        error = answer.json()["error"]
        assert (error["code"], error["title"]) == (401, "Unauthorized")
    else:
        assert "keystone" in answer.headers.get("WWW-Authenticate", "").lower()


def test_a_wrong_password_is_refused_without_saying_what_was_wrong(demo, cloud):
    environment = cloud.environment("openrc")
    wrong = demo.call("POST", "/identity/v3/auth/tokens", json=login(environment, OS_PASSWORD="wrong"), token=False)
    nobody = demo.call("POST", "/identity/v3/auth/tokens", json=login(environment, OS_USERNAME="nobody"), token=False)
    assert wrong.status_code == nobody.status_code == 401
    assert wrong.json() == nobody.json()


@pytest.mark.parametrize("body", ["{", "[]", "\x00", '{"server": ', "null", '"text"'])
def test_malformed_json_is_a_400(demo, body):
    for path in ("/compute/v2.1/servers", "/network/v2.0/networks", "/identity/v3/auth/tokens", "/image/v2/images"):
        answer = demo.call("POST", path, data=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 400, f"{path}: {answer.status_code} {answer.text}"


def test_an_oversized_body_is_a_413(demo):
    answer = demo.call("POST", "/compute/v2.1/servers", json=server(name="x" * 2_000_000))
    assert answer.status_code == 413, answer.text


def test_an_unknown_microversion_is_a_406(demo):
    answer = demo.call("GET", "/compute/v2.1/servers", headers={"OpenStack-API-Version": "compute 2.999"})
    assert answer.status_code == 406 and "computeFault" in answer.text, answer.text
    answer = demo.call("GET", "/compute/v2.1/servers", headers={"OpenStack-API-Version": "compute two"})
    assert answer.status_code == 400, answer.text


def test_over_quota_is_refused_with_the_numbers(demo, admin, ids):
    path = f"/compute/v2.1/os-quota-sets/{demo.project}"
    assert admin.call("PUT", path, json={"quota_set": {"instances": 0}}).status_code == 200
    try:
        answer = demo.call("POST", "/compute/v2.1/servers", json=filled(server(), ids))
        assert answer.status_code == 403, answer.text
        message = answer.json()["forbidden"]["message"]
        assert "Quota exceeded for instances: Requested 1, but already used 0 of 0 instances" in message
    finally:
        admin.call("PUT", path, json={"quota_set": {"instances": 10}})
    ports = f"/network/v2.0/quotas/{demo.project}"
    used = len(demo.get("/network/v2.0/ports?project_id=" + demo.project)["ports"])
    assert admin.call("PUT", ports, json={"quota": {"port": used}}).status_code == 200
    try:
        answer = demo.call("POST", "/network/v2.0/ports", json={"port": {"network_id": ids["network"]}})
        assert answer.status_code == 409, answer.text
        assert answer.json()["NeutronError"]["type"] == "OverQuota"
    finally:
        admin.call("DELETE", ports)


def test_conflicts_are_409(demo, admin, ids, cloud):
    demo.make("/compute/v2.1/os-keypairs", {"keypair": {"name": "twice"}})
    again = demo.call("POST", "/compute/v2.1/os-keypairs", json={"keypair": {"name": "twice"}})
    assert again.status_code == 409 and "twice" in again.json()["conflictingRequest"]["message"]
    demo.call("DELETE", "/compute/v2.1/os-keypairs/twice")
    user = {"user": {"name": "demo", "domain_id": "default"}}
    assert admin.call("POST", "/identity/v3/users", json=user).status_code == 409
    used = admin.call("DELETE", f"/network/v2.0/networks/{ids['public']}")
    assert used.status_code == 409 and used.json()["NeutronError"]["type"] == "NetworkInUse", used.text


def test_tenants_see_nothing_of_each_other(demo, admin, ids):
    """Another project's things are 404, for reading and for writing."""
    role = admin.get("/identity/v3/roles?name=member")["roles"][0]["id"]
    project = admin.make("/identity/v3/projects", {"project": {"name": "other", "domain_id": "default"}})["project"]["id"]
    user = {"name": "other", "domain_id": "default", "password": "a long enough password"}
    user = admin.make("/identity/v3/users", {"user": user})["user"]["id"]
    assert admin.call("PUT", f"/identity/v3/projects/{project}/users/{user}/roles/{role}").status_code == 204
    environment = {"OS_USERNAME": "other", "OS_PASSWORD": "a long enough password", "OS_PROJECT_NAME": "other"}
    answer = demo.call("POST", "/identity/v3/auth/tokens", json=login(environment), token=False)
    token = answer.headers["X-Subject-Token"]

    network = demo.make("/network/v2.0/networks", {"network": {"name": "mine"}})["network"]["id"]
    subnet = {"network_id": network, "ip_version": 4, "cidr": "10.77.0.0/24"}
    subnet = demo.make("/network/v2.0/subnets", {"subnet": subnet})["subnet"]["id"]
    port = demo.make("/network/v2.0/ports", {"port": {"network_id": network}})["port"]["id"]
    group = demo.make("/network/v2.0/security-groups", {"security_group": {"name": "mine"}})["security_group"]["id"]
    router = demo.make("/network/v2.0/routers", {"router": {"name": "mine"}})["router"]["id"]
    image = demo.make("/image/v2/images", {"name": "mine", "disk_format": "raw", "container_format": "bare"})["id"]
    made = demo.make("/compute/v2.1/servers", filled(server(networks=[{"port": port}]), ids))["server"]["id"]
    paths = [
        f"/network/v2.0/networks/{network}", f"/network/v2.0/subnets/{subnet}", f"/network/v2.0/ports/{port}",
        f"/network/v2.0/security-groups/{group}", f"/network/v2.0/routers/{router}", f"/image/v2/images/{image}",
        f"/compute/v2.1/servers/{made}",
    ]  # fmt: skip
    try:
        for path in paths:
            for method in ("GET", "DELETE"):
                answer = demo.call(method, path, token=token)
                assert answer.status_code == 404, f"{method} {path}: {answer.status_code} {answer.text}"
            assert demo.call("GET", path).status_code == 200, path
        for path, collection in (
            ("/network/v2.0/networks", "networks"), ("/network/v2.0/ports", "ports"), ("/image/v2/images", "images"),
            ("/compute/v2.1/servers", "servers"),
        ):  # fmt: skip
            seen = {entry["id"] for entry in demo.call("GET", path, token=token).json()[collection]}
            assert not seen & {network, port, image, made}, path
    finally:
        for path in reversed(paths):
            demo.call("DELETE", path)
