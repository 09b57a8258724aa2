"""Two clouds side by side on one machine, and one on an address that others reach."""

import json
import os
import subprocess

import pytest

from lab import HOST_ADDRESS, difference, snapshot, wait_for


@pytest.fixture(scope="module")
def before(lab):
    return snapshot(lab)


@pytest.fixture(scope="module")
def pair(before, clouds):
    one, two = clouds("one", listen="127.0.0.1:8001"), clouds("two", listen=f"{HOST_ADDRESS}:8002")
    one.up(seconds=600)
    two.up(seconds=600)
    return one, two


def boot(cloud, key):
    """A machine with a floating address; the address."""
    cloud.openstack("keypair", "create", "--public-key", f"{key}.pub", "me")
    cloud.openstack(
        "server", "create", "--image", "tiny", "--flavor", "m1.tiny", "--network", "private", "--key-name", "me",
        "same-name", "--wait",
    )  # fmt: skip
    address = cloud.openstack("floating", "ip", "create", "public")["floating_ip_address"]
    cloud.openstack("server", "add", "floating", "ip", "same-name", address, text=True)
    return address


def test_both_run_machines_that_do_not_meet(pair, key, tmp_path):
    one, two = pair
    assert one.instance != two.instance
    ranges = [
        cloud.openstack("subnet", "list", "--network", "public", openrc="admin-openrc")[0]["Subnet"] for cloud in pair
    ]
    assert ranges[0] != ranges[1], "the second sees the first's route and takes another range"
    for cloud in pair:
        address = boot(cloud, key)
        wait_for("ssh", lambda: cloud.ssh(address, "hostname", key).strip() == "same-name", seconds=90)
    assert len(one.openstack("server", "list")) == len(two.openstack("server", "list")) == 1


def test_an_address_that_others_reach_gets_tls(pair, lab):
    two = pair[1]
    environment = two.environment("openrc")
    assert environment["OS_AUTH_URL"].startswith(f"https://{HOST_ADDRESS}:8002/")
    authority = environment["OS_CACERT"]
    url = f"https://{HOST_ADDRESS}:8002/identity/v3"

    def curl(*arguments):
        command = lab.enter("curl", "-sS", "-o", "/dev/null", *arguments, url)
        return subprocess.run(command, capture_output=True, text=True, timeout=30).returncode

    assert curl("--cacert", authority) == 0
    assert curl() == 60, "who does not know the authority does not trust it"
    assert curl("--cacert", authority, "--tls-max", "1.1") != 0
    catalog = two.openstack("catalog", "list")
    assert all("https://" in json.dumps(entry["Endpoints"]) for entry in catalog)
    for directory, _, files in os.walk(two.data):
        for name in files:
            if name.endswith("-key.pem"):
                assert os.stat(os.path.join(directory, name)).st_mode & 0o077 == 0, name


def test_taking_one_down_leaves_the_other_alone(pair, key):
    one, two = pair
    address = one.openstack("floating", "ip", "list")[0]["Floating IP Address"]
    two.stop()
    two.down()
    assert one.ssh(address, "hostname", key).strip() == "same-name"
    assert one.openstack("server", "show", "same-name")["status"] == "ACTIVE"


def test_after_both_are_down_the_host_is_as_it_was(pair, lab, before):
    one, two = pair
    one.stop()
    one.down()
    left = difference(before, snapshot(lab, [one.instance, two.instance]))
    assert not left, "\n".join(left)
