"""Bad days: killed in the middle of work, broken images, guests that die, disks that are full."""

import concurrent.futures
import contextlib
import os
import re
import subprocess
from pathlib import Path

import pytest

from lab import wait_for, without
from wire import Wire

CREATES = 50


@pytest.fixture(scope="module")
def cloud(clouds):
    madang = clouds("bad-days")
    madang.up("--simulated-hosts", "5", seconds=600)
    return madang


@pytest.fixture(scope="module")
def ids(cloud):
    demo = Wire(cloud)
    return {
        "image": demo.named("/image/v2/images", "images", "tiny"),
        "flavor": demo.named("/compute/v2.1/flavors", "flavors", "m1.tiny"),
        "network": demo.named("/network/v2.0/networks", "networks", "private"),
    }


def body(ids, name, **changed):
    server = {"name": name, "imageRef": ids["image"], "flavorRef": ids["flavor"], "networks": [{"uuid": ids["network"]}]}
    return {"server": {**server, **changed}}


def servers(wire):
    return wire.get("/compute/v2.1/servers/detail?limit=1000")["servers"]


def settled(wire):
    """All servers, once each is ACTIVE or in ERROR."""

    def look():
        found = servers(wire)
        return found if all(server["status"] in ("ACTIVE", "ERROR") for server in found) else None

    return wait_for("every server ACTIVE or ERROR", lambda: (look() or [None]) if look() is not None else None, seconds=240, every=1)


def test_killed_during_fifty_creates_nothing_is_lost_doubled_or_leaked(cloud, ids):
    admin = Wire(cloud, "admin-openrc")
    for path, quota in (
        (f"/compute/v2.1/os-quota-sets/{admin.project}", {"quota_set": {"instances": -1, "cores": -1, "ram": -1}}),
        (f"/network/v2.0/quotas/{admin.project}", {"quota": {"port": -1}}),
    ):
        assert admin.call("PUT", path, json=quota).status_code == 200
    wires = [Wire(cloud, "admin-openrc") for _ in range(CREATES)]
    accepted = []

    def create(number):
        try:
            answer = wires[number].call("POST", "/compute/v2.1/servers", json=body(ids, f"burst-{number}"))
        except OSError:
            return None  # cut off: it may or may not have been accepted, but was never said to be
        return answer.json()["server"]["id"] if answer.status_code == 202 else None

    with concurrent.futures.ThreadPoolExecutor(CREATES) as pool:
        answers = [pool.submit(create, number) for number in range(CREATES)]
        # When some are in and others on their way.
        concurrent.futures.wait(answers, timeout=20, return_when=concurrent.futures.FIRST_COMPLETED)
        cloud.kill()
        accepted = [answer.result() for answer in answers if answer.result()]
    assert accepted, "the kill came before anything was accepted"

    cloud.up("--simulated-hosts", "5", seconds=120)
    admin = Wire(cloud, "admin-openrc")
    found = wait_for("servers", lambda: settled(admin), seconds=240)
    by_id = {server["id"]: server for server in found}
    assert set(accepted) <= set(by_id), "an accepted server is lost"
    names = [server["name"] for server in found]
    assert len(names) == len(set(names)), "a server is doubled"
    for server in found:
        assert server["status"] == "ACTIVE" or server["fault"]["message"], server
    ports = admin.get(f"/network/v2.0/ports?project_id={admin.project}")["ports"]
    owners = [port["device_id"] for port in ports if port["device_owner"].startswith("compute:")]
    assert sorted(owners) == sorted(by_id), "each server has its one port and no port is without a server"
    addresses = [ip["ip_address"] for port in ports for ip in port["fixed_ips"]]
    assert len(addresses) == len(set(addresses))

    for server in found:
        assert admin.call("DELETE", f"/compute/v2.1/servers/{server['id']}").status_code == 204
    wait_for("no server left", lambda: not servers(admin), seconds=180, every=1)
    left = admin.get(f"/network/v2.0/ports?project_id={admin.project}")["ports"]
    assert [port for port in left if port["device_owner"].startswith("compute:")] == []
    allocations = [
        admin.get(f"/placement/resource_providers/{provider['uuid']}/usages", headers={"OpenStack-API-Version": "placement 1.36"})["usages"]
        for provider in admin.get("/placement/resource_providers", headers={"OpenStack-API-Version": "placement 1.36"})["resource_providers"]
    ]
    assert all(not any(usage.values()) for usage in allocations), allocations
    wait_for("no machine's process left", lambda: not cloud.processes(), seconds=30)
    wait_for("no machine's disk left", lambda: not disks(cloud), seconds=30)


def disks(cloud):
    """What is left of servers below the data directory."""
    return [
        path
        for path in Path(cloud.data).rglob("*")
        if path.is_file() and re.search(r"/(servers|workloads)/[0-9a-f-]{36}/", str(path))
    ]


def becomes(cloud, name, status, seconds=120):
    def look():
        shown = cloud.openstack("server", "show", name)
        return shown if shown["status"] == status else None

    return wait_for(f"{name} {status}", look, seconds, every=0.5)


def in_error(cloud, name):
    """The fault of a server that must come to ERROR."""
    fault = becomes(cloud, name, "ERROR")["fault"]
    message = fault["message"] if isinstance(fault, dict) else fault
    cloud.openstack("server", "delete", name, "--wait", text=True)
    return message


def create(cloud, name, image):
    # On this host, not on a simulated one.
    cloud.openstack(
        "server", "create", "--image", image, "--flavor", "m1.tiny", "--network", "private",
        "--availability-zone", "nova", name,
    )  # fmt: skip


def test_a_port_is_used_again_at_once(cloud, ids):
    """Its device is on its way out when the next server is already bound to it."""
    demo = Wire(cloud)
    port = demo.make("/network/v2.0/ports", {"port": {"network_id": ids["network"]}})["port"]["id"]
    for number in range(12):
        wanted = body(ids, f"again-{number}", networks=[{"port": port}], availability_zone="nova")
        made = demo.make("/compute/v2.1/servers", wanted)["server"]["id"]

        def ended():
            shown = demo.get(f"/compute/v2.1/servers/{made}")["server"]
            return shown if shown["status"] in ("ACTIVE", "ERROR") else None

        shown = wait_for("an end", ended, seconds=60, every=0.02)
        assert shown["status"] == "ACTIVE", shown["fault"]
        assert demo.call("DELETE", f"/compute/v2.1/servers/{made}").status_code == 204
        wait_for("its end", lambda: demo.call("GET", f"/compute/v2.1/servers/{made}").status_code == 404, 60, every=0.002)
    assert demo.call("DELETE", f"/network/v2.0/ports/{port}").status_code == 204


def test_a_broken_image_is_said_to_be_broken(cloud):
    junk = cloud.lab.scratch / "junk.qcow2"
    junk.write_bytes(b"QFI\xfb" + os.urandom(4096))
    made = subprocess.run(
        cloud.lab.enter(cloud.client, "image", "create", "--disk-format", "qcow2", "--container-format", "bare", "--file", junk, "junk"),
        capture_output=True, text=True, env=cloud.environment("openrc"), timeout=60,
    )  # fmt: skip
    if made.returncode != 0:
        assert "qcow2" in made.stdout + made.stderr, "refused at the door, by name"
        return
    create(cloud, "broken", "junk")
    assert "image" in in_error(cloud, "broken").lower()


def test_a_container_image_that_is_none_is_said_to_be(cloud):
    junk = cloud.lab.scratch / "junk.tar"
    junk.write_bytes(os.urandom(10240))
    cloud.openstack("image", "create", "--disk-format", "raw", "--container-format", "docker", "--file", junk, "not-a-container")
    create(cloud, "no-container", "not-a-container")
    message = in_error(cloud, "no-container")
    assert "image" in message.lower() or "archive" in message.lower(), message


def test_a_container_that_dies_at_once_says_why(cloud):
    import container_image

    archive = cloud.lab.scratch / "dies.tar"
    kept = container_image.INIT
    container_image.INIT = "#!/bin/sh\necho 'there is nothing to do'\nexit 7\n"
    try:
        container_image.build(archive)
    finally:
        container_image.INIT = kept
    cloud.openstack("image", "create", "--disk-format", "raw", "--container-format", "docker", "--file", archive, "dies")
    create(cloud, "short-lived", "dies")

    def ended():
        shown = cloud.openstack("server", "show", "short-lived")
        return shown if shown["status"] in ("ERROR", "SHUTOFF") else None

    shown = wait_for("the container's end", ended, seconds=60)
    log = cloud.openstack("console", "log", "show", "short-lived", text=True)
    assert "there is nothing to do" in log
    if shown["status"] == "ERROR":
        assert "7" in str(shown["fault"])
    cloud.openstack("server", "delete", "short-lived", "--wait", text=True)


def test_a_machine_that_is_killed_is_seen_to_be(cloud):
    cloud.openstack("server", "create", "--image", "tiny", "--flavor", "m1.tiny", "--network", "private", "--availability-zone", "nova", "victim", "--wait")
    shown = cloud.openstack("server", "show", "victim")
    found = [pid for pid, line in cloud.processes().items() if "qemu-system" in line and shown["id"] in line]
    assert len(found) == 1, cloud.processes()
    os.kill(found[0], 9)
    found = wait_for(
        "its end to be noticed",
        lambda: (status := cloud.openstack("server", "show", "victim")["status"]) in ("SHUTOFF", "ERROR") and status,
        seconds=60,
    )
    assert found in ("SHUTOFF", "ERROR")
    cloud.openstack("server", "delete", "victim", "--wait", text=True)


def test_without_qemu_a_server_says_so(lab, clouds):
    shown = lab.scratch / "shown"
    shown.mkdir()
    madang = clouds("without-qemu", listen="127.0.0.1:8077")
    madang.data.mkdir()
    madang.prefix = without("qemu-system-x86_64", madang.data, shown)
    # What it sees as `shown` is what everybody else sees as its data directory.
    madang.seen_as = shown
    madang.up(seconds=600)
    assert "no virtual machines" in madang.output()
    create(madang, "no-qemu", "tiny")
    message = in_error(madang, "no-qemu")
    assert "qemu" in message.lower() or "No valid host" in message, message


@pytest.fixture()
def small(lab):
    """Makes small file systems; they go in the end."""
    made = []

    def mount(place, size):
        place.mkdir(parents=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "madang-small", place], check=True)
        made.append(place)
        return place

    yield mount
    for place in made:
        subprocess.run(["umount", "-l", place], check=False, capture_output=True)


def fill(place):
    """Leaves nothing; the file that takes it all. Others may write meanwhile."""
    filler = place / "filler"
    with open(filler, "wb") as file:
        for _ in range(100):
            about = os.statvfs(place)
            free = about.f_bavail * about.f_bsize
            if free == 0:
                break
            with contextlib.suppress(OSError):
                os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, free)
    return filler


def test_a_full_disk_is_said_to_be_full(lab, clouds, small):
    madang = clouds("full", listen="127.0.0.1:8088")
    filler = fill(small(madang.data / "servers", "64m"))
    madang.up(seconds=600)
    create(madang, "full", "tiny")
    assert "disk of this host is full" in in_error(madang, "full")
    # Room again, and it goes on.
    filler.unlink()
    create(madang, "fits", "tiny")
    becomes(madang, "fits", "ACTIVE")
    madang.openstack("server", "delete", "fits", "--wait", text=True)
    madang.stop()
    madang.down()


def test_a_disk_that_is_full_altogether_is_survived(lab, clouds, small):
    # Large enough for one server of the smallest flavor.
    place = small(lab.scratch / "small", "1200m")
    madang = clouds("small/data", listen="127.0.0.1:8089")
    madang.log = lab.scratch / "small.log"
    madang.up(seconds=600)
    filler = fill(place)
    answer = subprocess.run(
        lab.enter(madang.client, "server", "create", "--image", "tiny", "--flavor", "m1.tiny", "--network", "private", "full", "-f", "json"),
        capture_output=True, text=True, env=madang.environment("openrc"), timeout=120,
    )  # fmt: skip
    assert madang.process.poll() is None, "it goes on without a disk"
    filler.unlink()
    if answer.returncode == 0:
        # It could not be said that it is in ERROR either; with room it comes to an end.
        wait_for("an end", lambda: madang.openstack("server", "show", "full")["status"] in ("ERROR", "ACTIVE"), seconds=180, every=1)
    create(madang, "fits", "tiny")
    becomes(madang, "fits", "ACTIVE")
    madang.stop()
    madang.down()
