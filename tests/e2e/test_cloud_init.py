"""A stock Debian with stock cloud-init finds out what it is: once by its config drive, once by the metadata service.

The first also starts through UEFI that takes signed systems alone, has a trusted platform module, and an agent inside.
Both start at the same time: an emulated one takes a minute.
"""

import base64

import pytest

from guest import Account, Guest, json_of
from lab import wait_for

pytestmark = pytest.mark.walk

GIB = 1 << 30


@pytest.fixture(scope="module")
def cloud(clouds):
    cloud = clouds("cloud-init")
    cloud.up(seconds=600)
    return cloud


@pytest.fixture(scope="module")
def demo(cloud, key):
    return Account.with_key(cloud, key)


def cloud_config(key):
    public = key.with_suffix(".pub").read_text().strip()
    text = f"""#cloud-config
locale: false
ssh_genkeytypes: [ed25519]
users:
  - default
  - name: extra
    sudo: ALL=(ALL) NOPASSWD:ALL
    ssh_authorized_keys: ["{public}"]
write_files:
  - path: /etc/written
    content: by cloud-init
runcmd:
  - [sh, -c, "echo ran as $(id -u) > /var/tmp/ran"]
"""
    return base64.b64encode(text.encode()).decode()


@pytest.fixture(scope="module")
def guests(cloud, demo, key, debian):
    """By the name of what tells them: a server each, started together."""
    admin = Account(cloud, "admin-openrc")
    secure = admin.flavor("secure", 640, disk=4, os__secure_boot="required", hw__tpm_version="2.0")
    plain = admin.flavor("plain", 640, disk=3, ephemeral=1, swap=64)
    image = demo.image("debian", debian, disk_format="qcow2", hw_firmware_type="uefi", hw_qemu_guest_agent="yes")
    data = cloud_config(key)
    started = {
        "drive": Guest.boot(demo, key, "by-drive", image, secure, wait=False, user_data=data, config_drive=True),
        "service": Guest.boot(demo, key, "by-service", image, plain, wait=False, user_data=data),
    }
    for guest in started.values():
        guest.wait("ACTIVE", seconds=180)
    for guest in started.values():
        address(guest)
    return started


def address(guest):
    with guest.account.there() as sdk:
        port = next(iter(sdk.network.ports(device_id=guest.id)))
        public = sdk.network.find_network("public", ignore_missing=False)
        guest.address = sdk.network.create_ip(floating_network_id=public.id, port_id=port.id).floating_ip_address


def inside(guest, command, **options):
    return guest.ssh(command, user="debian", **options)


@pytest.fixture(params=["drive", "service"])
def told(request, guests):
    return request.param, guests[request.param]


def test_cloud_init_comes_to_its_end(told):
    source, guest = told
    wait_for(f"ssh to the one told by {source}", lambda: inside(guest, "echo in") == "in", seconds=600, every=2)

    def result():
        return json_of(inside(guest, "cat /run/cloud-init/result.json"))["v1"]

    result = wait_for("cloud-init's result", result, seconds=180, every=2)
    assert result["errors"] == [], result
    assert {"drive": "ConfigDrive", "service": "OpenStack"}[source] in result["datasource"], result


def test_it_is_who_it_was_asked_to_be(told):
    source, guest = told
    assert inside(guest, "hostname") == f"by-{source}"
    assert inside(guest, "cat /etc/written") == "by cloud-init"
    assert inside(guest, "cat /var/tmp/ran") == "ran as 0"
    assert guest.ssh("sudo id -un", user="extra") == "root"
    size = int(inside(guest, "df --output=size -B1 / | tail -n 1"))
    assert size > {"drive": 3.5, "service": 2.5}[source] * GIB, f"the root has {size} bytes"


def test_it_takes_the_disks_made_for_it(guests):
    guest = guests["service"]
    assert inside(guest, "findmnt -n -o SOURCE,FSTYPE /mnt").split() == ["/dev/vdb", "ext4"]
    assert inside(guest, "cat /proc/swaps").splitlines()[1].split()[:3] == ["/dev/vdc", "partition", str(64 * 1024 - 4)]
    assert inside(guests["drive"], "cat /proc/swaps").splitlines()[1:] == []


def test_only_what_is_signed_was_started(guests):
    variable = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
    value = f"od -An -tu1 -j4 {variable}"
    assert inside(guests["drive"], value) == "1"
    # Its firmware has variables too; newer builds that cannot check signatures leave this one out instead of saying 0.
    assert int(inside(guests["service"], "ls /sys/firmware/efi/efivars | wc -l")) > 0
    assert inside(guests["service"], f"if [ -e {variable} ]; then {value}; else echo 0; fi") == "0"


def test_it_has_a_trusted_platform_module(cloud, guests):
    assert inside(guests["drive"], "cat /sys/class/tpm/tpm0/tpm_version_major") == "2"
    assert inside(guests["service"], "ls /sys/class/tpm") == ""
    modules = [line for line in cloud.processes().values() if "swtpm" in line]
    assert len(modules) == 1, modules


def test_a_password_is_set_through_its_agent(guests):
    guest = guests["drive"]
    before = inside(guest, "sudo getent shadow root")
    wait_for("the agent", lambda: inside(guest, "systemctl is-active qemu-guest-agent") == "active", seconds=60)
    guest.act("changePassword", {"adminPass": "a new secret"})
    after = inside(guest, "sudo getent shadow root")
    assert after != before and after.startswith("root:$"), after


def test_nothing_runs_when_they_are_gone(cloud, guests):
    for guest in guests.values():
        guest.delete()
    wait_for("no process left", lambda: not cloud.processes(), seconds=20)
