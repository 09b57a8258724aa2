"""Containers as servers: what a server does, a container does; what it does not, it says why."""

import json

import pytest

import container_image
from lab import difference, snapshot, wait_for
from websocket import TEXT, Refused, WebSocket
from wire import Wire

pytestmark = pytest.mark.walk

MICROVERSION = {"OpenStack-API-Version": "compute 2.104"}


@pytest.fixture(scope="module")
def before(lab):
    return snapshot(lab)


@pytest.fixture(scope="module")
def cloud(lab, before, clouds):
    made = clouds("containers")
    made.up(seconds=600)
    return made


@pytest.fixture(scope="module")
def wire(cloud):
    return Wire(cloud)


def status(cloud, name="box"):
    return cloud.openstack("server", "show", name)["status"]


def reaches(cloud, wanted, name="box", seconds=60):
    wait_for(f"{name} {wanted}", lambda: status(cloud, name) == wanted, seconds=seconds)


def id_of(cloud, name="box"):
    return cloud.openstack("server", "show", name)["id"]


def act(wire, server, action, arguments=None):
    return wire.call("POST", f"/compute/v2.1/servers/{server}/action", json={action: arguments}, headers=MICROVERSION)


class Shell:
    """A shell through the console, as a browser has it."""

    def __init__(self, cloud, wire, name="box"):
        asked = {"remote_console": {"protocol": "serial", "type": "serial"}}
        path = f"/compute/v2.1/servers/{id_of(cloud, name)}/remote-consoles"
        answer = wire.call("POST", path, json=asked, headers=MICROVERSION)
        assert answer.status_code == 200, answer.text
        self.url = answer.json()["remote_console"]["url"]
        self.socket = WebSocket(cloud.lab, self.url)

    def run(self, command):
        self.socket.send(f"{command}; echo do''ne\n".encode())
        return self.socket.until(b"done\r\n")

    def close(self):
        self.socket.close()


@pytest.fixture
def shell(cloud, wire):
    opened = []

    def run(command, name="box"):
        opened.append(Shell(cloud, wire, name))
        return opened[-1].run(command)

    yield run
    for one in opened:
        one.close()


def started(shell):
    """When the container's first process began, in ticks of the machine's clock."""
    return shell("cat /proc/1/stat").split(") ")[-1].split()[19]


def memory_limit(shell):
    said = shell(
        "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null"
    )
    return next(int(line) for line in said.splitlines() if line.strip().isdigit())


def test_a_container_runs(cloud):
    archive = cloud.lab.scratch / "box.tar"
    container_image.build(archive)
    cloud.openstack("image", "create", "--container-format", "docker", "--disk-format", "raw", "--file", archive, "box")
    for name, ram in (("small", 64), ("large", 128)):
        # Of one disk size: a mounted one grows only where root has CAP_SYS_RESOURCE.
        cloud.openstack("flavor", "create", "--ram", str(ram), "--disk", "1", "--vcpus", "1", name, openrc="admin-openrc")
    server = cloud.openstack(
        "server", "create", "--image", "box", "--flavor", "small", "--network", "private", "box", "--wait"
    )
    assert server["status"] == "ACTIVE", server


def test_its_console_is_a_shell(cloud, wire):
    shell = Shell(cloud, wire)
    shell.socket.send(json.dumps({"columns": 101, "rows": 33}).encode(), TEXT)
    said = shell.run("busybox stty size; echo $((6*7)) $(hostname) $GREETING")
    assert "33 101\r\n" in said and "42 box hello\r\n" in said, said
    shell.run("echo it was here > /kept; mkdir /made; rm /www/index.html")
    shell.socket.send(b"exit\n")
    assert shell.socket.ends()
    # A page of another origin does not get in, nor does anybody without the token.
    with pytest.raises(Refused):
        WebSocket(cloud.lab, shell.url, origin="https://elsewhere.example")
    with pytest.raises(Refused):
        WebSocket(cloud.lab, shell.url + "x")
    page = wire.call("GET", "/compute/console/serial.html", token=False)
    assert page.status_code == 200 and "WebSocket" in page.text


def test_it_is_paused_and_goes_on(cloud, wire):
    cloud.openstack("server", "pause", "box", text=True)
    reaches(cloud, "PAUSED")
    answer = wire.call("GET", f"/compute/v2.1/servers/{id_of(cloud)}/diagnostics", headers=MICROVERSION)
    assert answer.status_code in (200, 403), answer.text
    cloud.openstack("server", "unpause", "box", text=True)
    reaches(cloud, "ACTIVE")


def test_it_is_resized_while_it_runs(cloud, shell):
    before = started(shell)
    small = memory_limit(shell)
    assert small == 64 << 20
    cloud.openstack("server", "resize", "--flavor", "large", "box", text=True)
    reaches(cloud, "VERIFY_RESIZE")
    assert memory_limit(shell) == 128 << 20
    cloud.openstack("server", "resize", "revert", "box", text=True)
    reaches(cloud, "ACTIVE")
    assert memory_limit(shell) == small
    cloud.openstack("server", "resize", "--flavor", "large", "box", text=True)
    reaches(cloud, "VERIFY_RESIZE")
    cloud.openstack("server", "resize", "confirm", "box", text=True)
    reaches(cloud, "ACTIVE")
    assert memory_limit(shell) == 128 << 20
    assert started(shell) == before, "the same process all the time"


def test_an_interface_comes_and_goes(cloud, shell):
    cloud.openstack("network", "create", "second")
    cloud.openstack("subnet", "create", "--network", "second", "--subnet-range", "10.77.0.0/24", "second")
    cloud.openstack("server", "add", "network", "box", "second", text=True)
    wait_for("a second interface", lambda: "10.77.0." in shell("ip addr"), seconds=30)
    assert "eth1" in shell("ip addr")
    cloud.openstack("server", "remove", "network", "box", "second", text=True)
    wait_for("the first one only", lambda: "eth1" not in shell("ip addr"), seconds=30)
    # A port of the user's goes back to the user.
    port = cloud.openstack("port", "create", "--network", "second", "mine")["id"]
    cloud.openstack("server", "add", "port", "box", port, text=True)
    wait_for("the port's address", lambda: "10.77.0." in shell("ip addr"), seconds=30)
    cloud.openstack("server", "reboot", "--hard", "box", "--wait", text=True)
    assert "10.77.0." in shell("ip addr"), "it is there after a start, too"
    cloud.openstack("server", "remove", "port", "box", port, text=True)
    wait_for("the first one only", lambda: "10.77.0." not in shell("ip addr"), seconds=30)
    assert cloud.openstack("port", "show", port)["device_id"] == ""


def test_an_image_of_it_has_its_files(cloud, shell):
    image = cloud.openstack("server", "image", "create", "--name", "copy", "--wait", "box")
    shown = cloud.openstack("image", "show", image["id"])
    assert (shown["status"], shown["container_format"], shown["disk_format"]) == ("active", "docker", "raw")
    assert status(cloud) == "ACTIVE"
    cloud.openstack("server", "create", "--image", "copy", "--flavor", "large", "--network", "private", "copied", "--wait")
    said = shell("cat /kept; ls -d /made; ls /www", "copied")
    assert "it was here" in said and "/made" in said and "index.html" not in said and "cgi-bin" in said, said
    cloud.openstack("server", "delete", "--wait", "copied", text=True)


def test_backups_rotate(cloud):
    for name in ("first", "second", "third"):
        cloud.openstack("server", "backup", "create", "--name", name, "--type", "daily", "--rotate", "2", "--wait", "box")
        reaches(cloud, "ACTIVE")
    names = {"first", "second", "third"}

    def left():
        return names & {image["Name"] for image in cloud.openstack("image", "list")}

    wait_for("two backups", lambda: left() == {"second", "third"}, seconds=30)


def test_it_is_shelved_and_comes_back(cloud, shell):
    cloud.openstack("server", "shelve", "--offload", "--wait", "box", text=True)
    reaches(cloud, "SHELVED_OFFLOADED")
    cloud.openstack("server", "unshelve", "--wait", "box", text=True)
    reaches(cloud, "ACTIVE")
    assert "it was here" in shell("cat /kept")


def test_it_is_rebuilt(cloud, shell):
    cloud.openstack("server", "rebuild", "--image", "box", "--wait", "box", text=True)
    reaches(cloud, "ACTIVE")
    assert "index.html" in shell("ls /www") and "No such file" in shell("cat /kept")


def test_what_a_container_does_not_do_says_why(cloud, wire):
    server = id_of(cloud)
    for action, arguments, words in (
        ("suspend", None, "its memory is not written to the disk; pause it instead"),
        ("rescue", {}, "a container has no disk that another system could mend"),
        ("changePassword", {"adminPass": "x"}, "oci cannot set a password"),
        ("trigger_crash_dump", None, "oci cannot trigger a crash dump"),
    ):
        answer = act(wire, server, action, arguments)
        if answer.status_code == 403:
            answer = act(Wire(cloud, "admin-openrc"), server, action, arguments)
        assert answer.status_code in (400, 409) and words in answer.text, f"{action}: {answer.status_code} {answer.text}"
    asked = {"remote_console": {"protocol": "vnc", "type": "novnc"}}
    answer = wire.call("POST", f"/compute/v2.1/servers/{server}/remote-consoles", json=asked, headers=MICROVERSION)
    assert answer.status_code == 400 and "has no screen" in answer.text, answer.text
    volume = cloud.openstack("volume", "create", "--size", "1", "data")["id"]
    wait_for("the volume", lambda: cloud.openstack("volume", "show", volume)["status"] == "available", seconds=30)
    said = cloud.refused("server", "add", "volume", "box", volume)
    assert "not safe" in said, said
    assert cloud.openstack("volume", "show", volume)["status"] == "available"
    cloud.openstack("volume", "delete", volume, text=True)
    assert status(cloud) == "ACTIVE", "nothing of it has changed it"


def test_one_that_ends_at_once_says_with_which_code(cloud):
    archive = cloud.lab.scratch / "ends.tar"
    container_image.build(archive, command=["sh", "-c", "echo leaving; exit 7"])
    cloud.openstack("image", "create", "--container-format", "docker", "--disk-format", "raw", "--file", archive, "ends")
    cloud.openstack("server", "create", "--image", "ends", "--flavor", "small", "--network", "private", "ends", text=True)
    wait_for("its end", lambda: status(cloud, "ends") in ("SHUTOFF", "ERROR"), seconds=60)
    assert "leaving" in cloud.openstack("console", "log", "show", "ends", text=True)


def test_everything_is_deleted(cloud):
    cloud.openstack("server", "delete", "box", "ends", "--wait", text=True)
    wait_for("no process left", lambda: not cloud.processes(), seconds=10)


@pytest.mark.always
def test_down_leaves_the_host_as_it_was(cloud, lab, before):
    if cloud.process and cloud.process.poll() is None:
        cloud.stop()
    cloud.down()
    left = difference(before, snapshot(lab, [cloud.instance]))
    assert not left, "\n".join(left)
