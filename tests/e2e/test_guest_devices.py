"""What is plugged into a running machine and taken out again, and what it starts from: looked at from inside."""

import base64
import re
import shlex
import time
from glob import glob

import pytest

from guest import Account, Guest, json_of
from lab import run, wait_for

GIB_SECTORS = 1 << 21


@pytest.fixture(scope="module")
def cloud(clouds):
    cloud = clouds("devices")
    settings = cloud.lab.scratch / "madang.toml"
    settings.write_text('[compute]\nconfig_drive_format = "vfat"\n')
    cloud.up("--config", settings, seconds=600)
    return cloud


@pytest.fixture(scope="module")
def demo(cloud, key):
    return Account.with_key(cloud, key)


@pytest.fixture(scope="module")
def admin(cloud):
    return Account(cloud, "admin-openrc")


@pytest.fixture(scope="module")
def guest(demo, key):
    return Guest.boot(demo, key, "board").reach()


class Kept:
    """What the steps hand on."""

    volume: str
    snapshot: str


def disk_appears(guest, volume):
    return wait_for("the disk inside", lambda: guest.disk_of(volume), seconds=30)


def attach(guest, volume, **more):
    body = {"volumeAttachment": {"volumeId": volume, **more}}
    guest.account.compute("POST", f"/servers/{guest.id}/os-volume_attachments", body)
    guest.account.wait_volume(volume, "in-use")
    return disk_appears(guest, volume)


def detach(guest, volume):
    guest.account.compute("DELETE", f"/servers/{guest.id}/os-volume_attachments/{volume}")
    guest.account.wait_volume(volume, "available")


# -- interfaces ------------------------------------------------------------------------------------------------------


def test_an_interface_comes_and_goes(demo, guest):
    with demo.there() as sdk:
        network = sdk.network.create_network(name="second")
        sdk.network.create_subnet(network_id=network.id, ip_version=4, cidr="10.77.0.0/24", gateway_ip=None)
    asked = {"interfaceAttachment": {"net_id": network.id, "tag": "back"}}
    made = demo.compute("POST", f"/servers/{guest.id}/os-interface", asked).json()["interfaceAttachment"]
    mac, address = made["mac_addr"], made["fixed_ips"][0]["ip_address"]
    wait_for("the interface inside", lambda: mac in guest.ssh("cat /sys/class/net/*/address"), seconds=30)
    (name,) = guest.ssh(f"grep -l {mac} /sys/class/net/*/address").split("/")[4:5]
    guest.root(f"ip link set {name} up && udhcpc -i {name} -n -q -t 10 -T 1 -s /lib/tiny/lease >/dev/null 2>&1; true")
    assert f"inet {address}/24" in guest.ssh(f"ip -4 address show {name}")
    (told,) = json_of(guest.metadata())["devices"]
    assert (told["type"], told["mac"], told["tags"]) == ("nic", mac, ["back"])
    demo.compute("DELETE", f"/servers/{guest.id}/os-interface/{made['port_id']}")
    wait_for("no interface inside", lambda: mac not in guest.ssh("cat /sys/class/net/*/address"), seconds=30)
    assert len(demo.compute("GET", f"/servers/{guest.id}/os-interface").json()["interfaceAttachments"]) == 1


# -- volumes ---------------------------------------------------------------------------------------------------------


@pytest.mark.walk
def test_a_volume_is_plugged_in_and_written(demo, guest):
    Kept.volume = demo.made_volume(size=1, name="data")
    disk = attach(guest, Kept.volume, tag="data")
    assert guest.ssh(f"cat /sys/block/{disk}/size") == str(GIB_SECTORS)
    guest.root(f"mke2fs /dev/{disk} >/dev/null && mkdir -p /data && mount /dev/{disk} /data && echo one > /data/file && sync")


@pytest.mark.walk
def test_the_guest_is_told_of_tagged_disks(guest):
    (told,) = json_of(guest.metadata())["devices"]
    assert (told["type"], told["serial"], told["tags"]) == ("disk", Kept.volume, ["data"])


@pytest.mark.walk
def test_a_snapshot_of_a_volume_in_use_is_of_its_moment(demo, guest):
    asked = {"snapshot": {"volume_id": Kept.volume, "force": True, "name": "moment"}}
    Kept.snapshot = demo.volume("POST", "/snapshots", asked)["snapshot"]["id"]

    def ready():
        shown = demo.volume("GET", f"/snapshots/{Kept.snapshot}")["snapshot"]
        assert shown["status"] != "error", shown
        return shown["status"] == "available"

    wait_for("the snapshot", ready, seconds=30)
    guest.root("echo two > /data/file && sync && echo 3 > /proc/sys/vm/drop_caches")
    assert guest.ssh("cat /data/file") == "two"


@pytest.mark.walk
def test_a_volume_in_use_grows(demo, guest):
    disk = guest.disk_of(Kept.volume)
    demo.volume("POST", f"/volumes/{Kept.volume}/action", {"os-extend": {"new_size": 2}})
    wait_for("the size inside", lambda: guest.ssh(f"cat /sys/block/{disk}/size") == str(2 * GIB_SECTORS), seconds=30)
    assert demo.wait_volume(Kept.volume, "in-use")["size"] == 2


@pytest.mark.walk
def test_what_was_written_stays_on_the_volume(demo, guest):
    guest.root("umount /data")
    detach(guest, Kept.volume)
    assert guest.disk_of(Kept.volume) == ""
    disk = attach(guest, Kept.volume)
    assert guest.root(f"mount /dev/{disk} /data && cat /data/file && umount /data") == "two"
    assert guest.ssh(f"cat /sys/block/{disk}/size") == str(2 * GIB_SECTORS)
    before = demo.made_volume(snapshot_id=Kept.snapshot, name="before")
    disk = attach(guest, before)
    assert guest.root(f"mount /dev/{disk} /data && cat /data/file && umount /data") == "one"
    detach(guest, before)


@pytest.mark.walk
def test_a_stopped_server_has_its_volume_again_and_it_grows_meanwhile(demo, guest):
    before = guest.boot_id()
    guest.act("os-stop", status="SHUTOFF")
    demo.volume("POST", f"/volumes/{Kept.volume}/action", {"os-extend": {"new_size": 3}})
    assert demo.wait_volume(Kept.volume, "in-use")["size"] == 3
    guest.act("os-start", status="ACTIVE")
    guest.rebooted(before)
    disk = disk_appears(guest, Kept.volume)
    assert guest.ssh(f"cat /sys/block/{disk}/size") == str(3 * GIB_SECTORS)
    assert guest.root(f"mount /dev/{disk} /data && cat /data/file && umount /data") == "two"


@pytest.mark.walk
def test_memory_is_taken_up_with_all_that_is_plugged_in(guest):
    boot = guest.boot_id()
    guest.act("suspend", status="SUSPENDED")
    guest.act("resume", status="ACTIVE")
    guest.up()
    assert guest.boot_id() == boot
    disk = guest.disk_of(Kept.volume)
    assert guest.root(f"mount /dev/{disk} /data && cat /data/file && umount /data") == "two"


@pytest.mark.walk
def test_a_swap_is_for_cinder_to_ask(demo, admin, guest):
    other = demo.made_volume(size=3, name="other")
    path = f"/servers/{guest.id}/os-volume_attachments/{Kept.volume}"
    answer = admin.compute("PUT", path, {"volumeAttachment": {"volumeId": other}}, expect=409)
    assert "is not migrating" in answer.text, answer.text
    disk = guest.disk_of(Kept.volume)
    assert guest.root(f"mount /dev/{disk} /data && cat /data/file && umount /data") == "two"


@pytest.mark.walk
def test_a_running_guest_goes_on_with_another_volume(demo, admin, guest):
    disk = guest.disk_of(Kept.volume)
    guest.root(f"mount /dev/{disk} /data && echo three > /data/file && sync")
    # In use meanwhile: what is written goes to the new one, too.
    guest.root("(while :; do date >> /data/writing; sleep 0.1; done) >/dev/null 2>&1 & echo $! > /tmp/writer")
    other = demo.made_volume(size=3, name="next")
    admin.volume("POST", f"/volumes/{Kept.volume}/action", {"os-reset_status": {"migration_status": "migrating"}})
    path = f"/servers/{guest.id}/os-volume_attachments"
    admin.compute("PUT", f"{path}/{Kept.volume}", {"volumeAttachment": {"volumeId": other}})
    demo.wait_volume(other, "in-use")
    demo.wait_volume(Kept.volume, "available")
    attached = demo.compute("GET", path).json()["volumeAttachments"]
    assert [one["volumeId"] for one in attached] == [other], attached
    assert guest.ssh(f"cat /sys/block/{disk}/size") == str(3 * GIB_SECTORS), "the same disk inside"
    written = int(guest.ssh("wc -l < /data/writing"))
    wait_for("writing to go on", lambda: int(guest.ssh("wc -l < /data/writing")) > written, seconds=10)
    guest.root("kill $(cat /tmp/writer); sleep 0.2; sync; echo 3 > /proc/sys/vm/drop_caches")
    assert guest.ssh("cat /data/file") == "three"
    lines = guest.ssh("wc -l < /data/writing")
    guest.root("umount /data")
    detach(guest, other)
    disk = attach(guest, other)
    read = f"mount /dev/{disk} /data && cat /data/file && wc -l < /data/writing && umount /data"
    assert guest.root(read).split() == ["three", lines], "all of it is on the new one"
    detach(guest, other)
    Kept.volume = other


def test_a_server_starts_from_a_volume(demo, key):
    tiny = demo.find_image("tiny")
    mapping = [
        {"boot_index": 0, "uuid": tiny, "source_type": "image", "destination_type": "volume", "volume_size": 1, "tag": "root"}
    ]
    server = Guest.boot(demo, key, "from-volume", image=None, block_device_mapping_v2=mapping).reach()
    (attached,) = demo.compute("GET", f"/servers/{server.id}/os-volume_attachments").json()["volumeAttachments"]
    volume = attached["volumeId"]
    assert demo.volume_shown(volume)["bootable"] == "true"
    assert server.disk_of(volume) == "vda"
    server.ssh("echo on a volume > file && sync")
    server.delete()
    demo.wait_volume(volume, "available")
    mapping = [{"boot_index": 0, "uuid": volume, "source_type": "volume", "destination_type": "volume"}]
    again = Guest.boot(demo, key, "again", image=None, block_device_mapping_v2=mapping).reach()
    assert again.ssh("cat file; hostname").splitlines() == ["on a volume", "again"]
    again.delete()


# -- limits ----------------------------------------------------------------------------------------------------------


def test_limits_of_a_flavor_hold(cloud, demo, admin, guest, key):
    flavor = admin.flavor(
        "limited", 128, quota__disk_read_bytes_sec="2000000", quota__vif_inbound_average="500",
        quota__vif_outbound_average="500", quota__cpu_quota="50000", quota__cpu_period="100000",
    )  # fmt: skip
    limited = Guest.boot(demo, key, "limited", flavor=flavor).reach()
    seconds = limited.root("echo 3 > /proc/sys/vm/drop_caches; s=$(cut -d. -f1 /proc/uptime);"
                           " dd if=/dev/vda of=/dev/null bs=64k count=192 2>/dev/null; echo $(($(cut -d. -f1 /proc/uptime) - s))")  # fmt: skip
    assert int(seconds) >= 4, f"12 MiB in {seconds} s at 2 MB/s"
    # 3 MB at 500 kB/s in either direction; ssh's own share is small.
    for what in ("cat /dev/zero | head -c 3000000 | ssh_in", "ssh_out"):
        began = time.monotonic()
        if what == "ssh_out":
            limited.ssh("head -c 3000000 /dev/zero", seconds=20)
        else:
            command = cloud.lab.enter(
                "ssh", "-i", key, "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
                "-o", "LogLevel=ERROR", f"tiny@{limited.address}", "cat > /dev/null",
            )  # fmt: skip
            run(*command, input="\0" * 3_000_000, timeout=120)
        took = time.monotonic() - began
        assert took >= 3, f"{what}: 3 MB in {took:.1f} s at 500 kB/s"
    (pid,) = [pid for pid, line in cloud.processes().items() if limited.id in line]
    limited.ssh("(while :; do :; done) >/dev/null 2>&1 &")

    def ticks():
        with open(f"/proc/{pid}/stat") as stat:
            fields = stat.read().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    first, began = ticks(), time.monotonic()
    time.sleep(4)
    share = (ticks() - first) / 100 / (time.monotonic() - began)
    assert share < 0.65, f"it had {share:.2f} of a processor; half of one is its limit"
    limited.delete()


def test_what_the_host_has_not_is_refused_by_its_filter(demo, admin, key):
    wanted = {
        "processors": {"hw__cpu_policy": "dedicated"},  # none without `cpu_dedicated_set`
        "pages": {"hw__mem_page_size": "1GB"},  # none unless the machine keeps some
    }
    if len(glob("/sys/devices/system/node/node[0-9]*")) == 1:
        wanted["nodes"] = {"hw__numa_nodes": "2"}
    for name, specs in wanted.items():
        flavor = admin.flavor(f"no-{name}", 1024, vcpus=2, **specs)
        server = Guest.boot(demo, key, f"no-{name}", flavor=flavor, wait=False)
        server.wait("ERROR")
        fault = admin.compute("GET", f"/servers/{server.id}").json()["server"]["fault"]
        assert "No valid host" in fault["message"] and "NUMATopologyFilter" in fault["details"], fault
        server.delete()


def test_a_numa_node_is_seen_inside(demo, admin, key):
    flavor = admin.flavor("nodes", 256, vcpus=2, hw__numa_nodes="1")
    server = Guest.boot(demo, key, "nodes", flavor=flavor).reach()
    assert len(server.ssh("ls -d /sys/devices/system/node/node*").split()) == 1
    server.delete()


def test_a_trusted_platform_module_keeps_what_it_was_told(cloud, demo, admin, key):
    flavor = admin.flavor("trusted", 128, hw__tpm_version="2.0")
    server = Guest.boot(demo, key, "trusted", flavor=flavor).reach()
    assert server.ssh("cat /sys/class/tpm/tpm0/tpm_version_major") == "2"
    before = server.boot_id()
    server.act("suspend", status="SUSPENDED")
    server.act("resume", status="ACTIVE")
    server.up()
    assert server.boot_id() == before
    assert server.root("head -c 16 /sys/class/tpm/tpm0/pcr-sha256/0 | wc -c") == "16", "it still answers"
    assert len([line for line in cloud.processes().values() if "swtpm" in line]) == 1
    server.delete()
    wait_for("no module left", lambda: not any("swtpm" in line for line in cloud.processes().values()), seconds=20)


# -- other ways to start -----------------------------------------------------------------------------------------------


def test_a_config_drive_tells_the_same_and_holds_files(demo, key):
    # Nova has let users put in files until 2.56.
    files = [{"path": "/etc/put-in", "contents": base64.b64encode(b"as it was").decode()}]
    server = Guest.boot(
        demo, key, "drive", version="2.56", config_drive=True, metadata={"from": "drive"}, personality=files,
        adminPass="only for you",
    ).reach()
    wait_for("the file that was put in", lambda: server.ssh("cat /etc/put-in") == "as it was", seconds=20)
    assert "the config drive" in server.console()
    device = server.root("findfs LABEL=config-2 || findfs LABEL=CONFIG-2")
    told = server.root(f"mkdir -p /tmp/d && mount -o ro -t vfat {device} /tmp/d && cat /tmp/d/openstack/latest/meta_data.json")
    told = json_of(told)
    assert told["meta"] == {"from": "drive"} and told["uuid"] == server.id
    assert told["files"] == [{"path": "/etc/put-in", "content_path": "/content/0000"}]
    assert server.root("cat /tmp/d/openstack/content/0000") == "as it was"
    # The password is told on the drive alone, and is the one of the guest's user now.
    assert told["admin_pass"] == server.password == "only for you"
    assert "admin_pass" not in json_of(server.metadata())

    def is_let_in(password):
        return "let in" in server.ssh(f"echo {shlex.quote(password)} | su tiny -c 'echo let in' 2>&1; true")

    wait_for("the password", lambda: is_let_in(server.password), seconds=20)
    assert not is_let_in("another one")
    server.delete()


BOOT_DISC = b"""\xba\xf8\x03\xbe\x17\x7c\x31\xc0\x8e\xd8\xfc\xac\x84\xc0\x74\x03\xee\xeb\xf8\xf4\xeb\xfd\x90the installer is up\r\n\0"""


def bootable_disc(path):
    """A compact disc that a BIOS boots: El Torito, without emulation. Its program writes to the serial line."""
    sector = 2048
    disc = bytearray(21 * sector)

    def both(number):
        return number.to_bytes(4, "little") + number.to_bytes(4, "big")

    root = bytes([34, 0]) + both(20) + both(sector) + bytes([70, 1, 1, 0, 0, 0, 0, 2, 0, 0, 1, 0, 0, 1, 1, 0])
    primary = bytearray(sector)
    primary[0:7] = b"\x01CD001\x01"
    primary[8:72] = b" " * 32 + b"INSTALLER".ljust(32)
    primary[80:88] = both(21)
    primary[120:132] = b"\x01\0\0\x01\x01\0\0\x01\0\x08\x08\0"
    primary[156:190] = root
    primary[881] = 1
    disc[16 * sector : 17 * sector] = primary
    disc[17 * sector : 17 * sector + 75] = b"\0CD001\x01EL TORITO SPECIFICATION".ljust(71, b"\0") + (19).to_bytes(4, "little")
    disc[18 * sector : 18 * sector + 7] = b"\xffCD001\x01"
    validation = bytearray(b"\x01\0\0\0" + b"madang".ljust(24, b"\0") + b"\0\0\x55\xaa")
    words = sum(int.from_bytes(validation[at : at + 2], "little") for at in range(0, 32, 2))
    validation[28:30] = ((-words) & 0xFFFF).to_bytes(2, "little")
    entry = b"\x88\0\0\0\0\0\x04\0" + (20).to_bytes(4, "little")
    disc[19 * sector : 19 * sector + 44] = bytes(validation) + entry
    disc[20 * sector : 20 * sector + len(BOOT_DISC)] = BOOT_DISC
    path.write_bytes(disc)


def test_an_installer_starts_from_its_disc(demo, key, tmp_path):
    disc = tmp_path / "installer.iso"
    bootable_disc(disc)
    image = demo.image("installer", disc, disk_format="iso")
    server = Guest.boot(demo, key, "installer", image=image)
    wait_for("the installer", lambda: "the installer is up" in server.console(), seconds=60, every=1)
    server.delete()


def test_a_rescuer_leaves_the_disks_where_they_are(cloud, demo, key, tmp_path, tiny):
    # A root that does not start, with something on it that is wanted.
    broken = tmp_path / "broken.raw"
    run("truncate", "-s", "64M", broken)
    run("/usr/sbin/mke2fs", "-q", "-t", "ext4", "-L", "broken", broken)
    rescuer = demo.image("rescuer", tiny, disk_format="qcow2", hw_rescue_device="disk", hw_rescue_bus="virtio")
    server = Guest.boot(demo, key, "broken", image=demo.image("broken", broken))
    server.act("rescue", {"rescue_image_ref": rescuer}, status="RESCUE")
    server.reach()
    assert server.root("findfs LABEL=broken") == "/dev/vda"
    assert re.search(r"^/dev/vdb2 / ", server.ssh("cat /proc/mounts"), re.MULTILINE), server.ssh("cat /proc/mounts")
    server.act("unrescue", status="ACTIVE")
    server.delete()
