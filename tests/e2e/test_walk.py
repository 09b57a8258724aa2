"""The walk of the README, taken by the stock clients: one command brings up a cloud, a machine and a container run in it
on one network, madang is restarted under them, and in the end the host is as it was before."""

import json
import os
import re

import pytest

import container_image
from lab import HOST_ADDRESS, OUTSIDE_ADDRESS, difference, inside, snapshot, wait_for

pytestmark = pytest.mark.walk

VARIABLES = (
    "OS_AUTH_URL OS_USERNAME OS_PASSWORD OS_PROJECT_NAME OS_USER_DOMAIN_NAME OS_PROJECT_DOMAIN_NAME OS_REGION_NAME"
    " OS_IDENTITY_API_VERSION"
).split()

USER_DATA = """#!/bin/sh
echo "user data ran as $(id -u)" > /tmp/user-data
"""


class Walk:
    """What the steps hand on."""

    before_machine: dict
    before_lab: dict
    floating_ip: str
    vm_address: str
    container_address: str
    boot_id: str
    qemu: str


@pytest.fixture(scope="module")
def before(lab):
    return snapshot(lab)


@pytest.fixture(scope="module")
def cloud(lab, before, clouds):
    return clouds("walk")


@pytest.fixture(scope="module")
def ssh(cloud, key):
    def run(command, **options):
        return cloud.ssh(Walk.floating_ip, command, key, **options).strip()

    return run


def address_of(server):
    """Its address on `private`."""
    addresses = server["addresses"]
    if isinstance(addresses, str):
        addresses = json.loads(addresses.replace("'", '"'))
    return addresses["private"][0]


def test_one_command_brings_up_a_cloud(cloud):
    line = cloud.up(seconds=600)
    assert re.match(r"madang is ready in \d+\.\d s   API http://127\.0\.0\.1:8000   credentials: \S+/openrc", line), line
    output = cloud.output()
    for check in ("✓ host checked (acceleration: ", "✓ store", "✓ network", "✓ images: tiny"):
        assert check in output, output


def test_credentials_are_generated_and_kept_private(cloud):
    for name in ("openrc", "admin-openrc", "clouds.yaml"):
        assert os.stat(cloud.data / name).st_mode & 0o777 == 0o600, name
    demo, admin = cloud.environment("openrc"), cloud.environment("admin-openrc")
    for variable in VARIABLES:
        assert demo.get(variable) and admin.get(variable), variable
    assert demo["OS_PASSWORD"] != admin["OS_PASSWORD"] and len(demo["OS_PASSWORD"]) >= 20


def test_the_catalog_leads_to_every_service(cloud):
    services = {entry["Type"] for entry in cloud.openstack("catalog", "list")}
    assert {"identity", "compute", "image", "network", "placement"} <= services
    versions = cloud.openstack("versions", "show")
    assert {"identity", "compute", "image", "network"} <= {entry["Service Type"] for entry in versions}
    # Nova says of its v2.0 that it is deprecated.
    assert all(entry["Status"] in ("CURRENT", "SUPPORTED", "DEPRECATED") for entry in versions), versions


def test_what_the_first_server_needs_is_there(cloud):
    assert {"tiny"} <= {image["Name"] for image in cloud.openstack("image", "list", "--status", "active")}
    assert {"m1.tiny"} <= {flavor["Name"] for flavor in cloud.openstack("flavor", "list")}
    networks = {network["Name"] for network in cloud.openstack("network", "list")}
    assert {"private", "public"} <= networks
    assert cloud.openstack("server", "list") == []


def test_a_keypair_is_taken_in(cloud, key):
    made = cloud.openstack("keypair", "create", "--public-key", f"{key}.pub", "me")
    assert made["name"] == "me" and made["fingerprint"]


def test_a_virtual_machine_boots(cloud):
    data = cloud.lab.scratch / "user-data"
    data.write_text(USER_DATA)
    server = cloud.openstack(
        "server", "create", "--image", "tiny", "--flavor", "m1.tiny", "--network", "private", "--key-name", "me",
        "--user-data", data, "--property", "purpose=walk", "demo", "--wait",
    )  # fmt: skip
    assert server["status"] == "ACTIVE" and server["name"] == "demo", server
    Walk.vm_address = address_of(server)


def test_its_console_can_be_read(cloud):
    def booted():
        log = cloud.openstack("console", "log", "show", "demo", text=True)
        return "demo login:" in log and log

    log = wait_for("a login prompt on the console", booted, seconds=90, every=1)
    assert "Linux version" in log or "tiny" in log


def test_a_floating_address_leads_to_it(cloud, ssh):
    made = cloud.openstack("floating", "ip", "create", "public")
    Walk.floating_ip = made["floating_ip_address"]
    cloud.openstack("server", "add", "floating", "ip", "demo", Walk.floating_ip, text=True)
    shown = cloud.openstack("server", "show", "demo")
    assert Walk.floating_ip in json.dumps(shown["addresses"])
    wait_for("ssh through the floating address", lambda: ssh("true") == "", seconds=60)
    assert ssh("hostname") == "demo"
    assert ssh("id -un") == "tiny"
    assert Walk.vm_address in ssh("ip -4 address show eth0")


def test_the_guest_got_its_metadata(ssh):
    metadata = json.loads(ssh("wget -q -O - http://169.254.169.254/openstack/latest/meta_data.json"))
    assert metadata["name"] == "demo" and metadata["meta"] == {"purpose": "walk"}
    assert metadata["public_keys"]["me"].startswith("ssh-ed25519 ")
    assert ssh("wget -q -O - http://169.254.169.254/latest/meta-data/local-ipv4") == Walk.vm_address
    wait_for("the user data's script", lambda: ssh("cat /tmp/user-data") == "user data ran as 0", seconds=20)


def ssh_rules(cloud):
    rules = cloud.openstack("security", "group", "rule", "list", "default", "--protocol", "tcp", "--ingress")
    return [rule["ID"] for rule in rules if rule["Port Range"] == "22:22"]


def test_a_security_group_closes_and_opens_the_door(cloud, ssh):
    # The first project begins with a rule for SSH.
    for rule in ssh_rules(cloud):
        cloud.openstack("security", "group", "rule", "delete", rule, text=True)
    wait_for("port 22 closed", lambda: not cloud.reachable(Walk.floating_ip, 22, seconds=2), seconds=20)
    cloud.openstack("security", "group", "rule", "create", "--protocol", "tcp", "--dst-port", "22", "default")
    wait_for("port 22 open again", lambda: cloud.reachable(Walk.floating_ip, 22), seconds=20)
    # Only what the rule names.
    assert not cloud.reachable(Walk.floating_ip, 8080, seconds=2)


def test_the_machine_reaches_the_outside_and_is_seen_under_the_clouds_address(cloud, lab, ssh):
    script = (
        "import http.server\n"
        "class Echo(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(200); self.end_headers(); self.wfile.write(self.client_address[0].encode())\n"
        "    def log_message(self, *words): pass\n"
        "http.server.HTTPServer(('0.0.0.0', 8080), Echo).serve_forever()\n"
    )
    for namespace, address in ((lab.name, HOST_ADDRESS), (lab.outside, OUTSIDE_ADDRESS)):
        server = lab.start("/usr/bin/python3", "-c", script, namespace=namespace)
        wait_for("a web server", lambda: cloud.reachable(address, 8080), seconds=10)
        # Its own floating address, since it has one.
        assert ssh(f"timeout 10 wget -q -O - http://{address}:8080/") == Walk.floating_ip
        server.kill()


def test_a_container_boots_beside_it(cloud):
    archive = cloud.lab.scratch / "web.tar"
    container_image.build(archive)
    image = cloud.openstack(
        "image", "create", "--container-format", "docker", "--disk-format", "raw", "--file", archive, "web"
    )
    assert cloud.openstack("image", "show", image["id"])["status"] == "active"
    server = cloud.openstack(
        "server", "create", "--image", "web", "--flavor", "m1.tiny", "--network", "private", "web", "--wait"
    )
    assert server["status"] == "ACTIVE", server
    Walk.container_address = address_of(server)
    wait_for(
        "the container's words on its console",
        lambda: "hello from web" in cloud.openstack("console", "log", "show", "web", text=True),
        seconds=20,
    )


def test_machine_and_container_reach_each_other(ssh):
    # From the machine to the container …
    ssh(f"ping -c 1 -W 5 {Walk.container_address}")
    page = wait_for(
        "the container's page", lambda: ssh(f"timeout 5 wget -q -O - http://{Walk.container_address}:8080/"), seconds=20
    )
    assert page == "a page of the container"
    # … and from the container to the machine.
    ssh("mkdir -p /tmp/www && echo a page of the machine > /tmp/www/index.html && httpd -p 8080 -h /tmp/www")
    answer = ssh(f"timeout 30 wget -q -O - 'http://{Walk.container_address}:8080/cgi-bin/reach?{Walk.vm_address}'")
    assert answer.splitlines() == ["ping ok", "a page of the machine"]


def test_sdk_sees_the_same(cloud, lab):
    import openstack

    environment = cloud.environment("openrc")
    with inside(lab.name):
        connection = openstack.connect(
            auth_url=environment["OS_AUTH_URL"], username=environment["OS_USERNAME"], password=environment["OS_PASSWORD"],
            project_name=environment["OS_PROJECT_NAME"], user_domain_name="Default", project_domain_name="Default",
            region_name=environment["OS_REGION_NAME"], load_yaml_config=False, load_envvars=False,
        )  # fmt: skip
        servers = {server.name: server for server in connection.compute.servers(details=True)}
        assert set(servers) == {"demo", "web"}
        assert all(server.status == "ACTIVE" for server in servers.values())
        ports = list(connection.network.ports(device_id=servers["demo"].id))
        assert [ip["ip_address"] for port in ports for ip in port.fixed_ips] == [Walk.vm_address]
        assert {image.name for image in connection.image.images()} >= {"tiny", "web"}
        assert connection.network.find_ip(Walk.floating_ip).port_id == ports[0].id


def machines(cloud):
    """The processes of the cloud's running machines."""
    return {pid for pid, line in cloud.processes().items() if "qemu-system" in line}


def test_a_restart_disturbs_no_workload(cloud, ssh):
    Walk.boot_id = ssh("cat /proc/sys/kernel/random/boot_id")
    running = machines(cloud)
    assert len(running) == 1
    cloud.stop()
    # The control plane is gone, the workloads are not.
    assert ssh("cat /proc/sys/kernel/random/boot_id") == Walk.boot_id
    cloud.up()
    assert machines(cloud) == running
    assert ssh("cat /proc/sys/kernel/random/boot_id") == Walk.boot_id
    states = {server["Name"]: server["Status"] for server in cloud.openstack("server", "list")}
    assert states == {"demo": "ACTIVE", "web": "ACTIVE"}


def test_a_kill_disturbs_no_workload(cloud, ssh):
    cloud.kill()
    assert ssh("cat /proc/sys/kernel/random/boot_id") == Walk.boot_id
    cloud.up()
    assert ssh("cat /proc/sys/kernel/random/boot_id") == Walk.boot_id
    assert ssh(f"timeout 5 wget -q -O - http://{Walk.container_address}:8080/") == "a page of the container"


def test_a_machine_is_stopped_started_and_rebooted(cloud, ssh):
    def status(name, wanted):
        return lambda: cloud.openstack("server", "show", name)["status"] == wanted

    cloud.openstack("server", "stop", "demo", text=True)
    wait_for("SHUTOFF", status("demo", "SHUTOFF"), seconds=90)
    assert not cloud.reachable(Walk.floating_ip, 22, seconds=2)
    cloud.openstack("server", "start", "demo", text=True)
    wait_for("ACTIVE", status("demo", "ACTIVE"), seconds=60)
    second = wait_for("ssh after the start", lambda: ssh("cat /proc/sys/kernel/random/boot_id"), seconds=60)
    assert second != Walk.boot_id
    cloud.openstack("server", "reboot", "--hard", "demo", "--wait", text=True)
    third = wait_for("ssh after the reboot", lambda: ssh("cat /proc/sys/kernel/random/boot_id"), seconds=60)
    assert third not in (Walk.boot_id, second)
    cloud.openstack("server", "reboot", "--soft", "demo", "--wait", text=True)

    def rebooted():
        return ssh("cat /proc/sys/kernel/random/boot_id") != third

    wait_for("a soft reboot", rebooted, seconds=90)


def test_a_container_is_stopped_and_started(cloud, ssh):
    cloud.openstack("server", "stop", "web", text=True)
    wait_for("SHUTOFF", lambda: cloud.openstack("server", "show", "web")["status"] == "SHUTOFF", seconds=60)
    cloud.openstack("server", "start", "web", text=True)
    wait_for("ACTIVE", lambda: cloud.openstack("server", "show", "web")["status"] == "ACTIVE", seconds=60)
    fetch = f"timeout 5 wget -q -O - http://{Walk.container_address}:8080/"
    wait_for("its page again", lambda: ssh(fetch) == "a page of the container", seconds=20)


def test_a_server_is_renamed_and_annotated(cloud):
    cloud.openstack("server", "set", "--name", "renamed", "--property", "colour=blue", "demo", text=True)
    shown = cloud.openstack("server", "show", "renamed")
    assert shown["properties"] == {"purpose": "walk", "colour": "blue"}
    cloud.openstack("server", "set", "--name", "demo", "renamed", text=True)


def test_status_shows_what_runs(cloud):
    text = cloud.cli("status")
    for word in ("compute", "network", "image", "identity"):
        assert word in text, text
    assert re.search(r"QEMU +up, enabled +2 ", text) and "servers 2 " in text and "2 servers ACTIVE" in text, text
    assert text.count("/volume/") == 1, text


def test_everything_is_deleted(cloud):
    cloud.openstack("server", "remove", "floating", "ip", "demo", Walk.floating_ip, text=True)
    cloud.openstack("floating", "ip", "delete", Walk.floating_ip, text=True)
    cloud.openstack("server", "delete", "demo", "web", "--wait", text=True)
    assert cloud.openstack("server", "list") == []
    cloud.openstack("image", "delete", "web", text=True)
    cloud.openstack("keypair", "delete", "me", text=True)
    ports = cloud.openstack("port", "list", "--device-owner", "compute:nova")
    assert ports == []
    wait_for("no process left", lambda: not cloud.processes(), seconds=10)


@pytest.mark.always
def test_down_leaves_the_host_as_it_was(cloud, lab, before):
    if cloud.process and cloud.process.poll() is None:
        cloud.stop()
    cloud.down()
    left = difference(before, snapshot(lab, [cloud.instance]))
    assert not left, "\n".join(left)
