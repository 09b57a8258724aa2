"""Disks that a server's host makes for it, looked at from inside: made ready, kept while they are to be, and gone."""

import re

import pytest

from guest import Account, Guest, json_of
from lab import wait_for, without

pytestmark = pytest.mark.walk

GIB_SECTORS = 1 << 21
MIB_SECTORS = 1 << 11


@pytest.fixture(scope="module")
def cloud(clouds):
    cloud = clouds("disks")
    cloud.up(seconds=600)
    return cloud


@pytest.fixture(scope="module")
def demo(cloud, key):
    return Account.with_key(cloud, key)


@pytest.fixture(scope="module")
def admin(cloud):
    return Account(cloud, "admin-openrc")


@pytest.fixture(scope="module")
def guest(demo, admin, key):
    flavor = admin.flavor("roomy", 128, ephemeral=1, swap=64)
    return Guest.boot(demo, key, "roomy", flavor=flavor).reach()


def sectors(guest, disk):
    return int(guest.ssh(f"cat /sys/block/{disk}/size"))


def taken(guest):
    """What the guest's own agent does with them, as cloud-init does: the file system at /mnt, and the swap space in KiB."""

    def there():
        mounted = re.search(r"^/dev/(\w+) /mnt (\w+) ", guest.ssh("cat /proc/mounts"), re.MULTILINE)
        swap = re.search(r"^/dev/(\w+)\s+partition\s+(\d+)", guest.ssh("cat /proc/swaps"), re.MULTILINE)
        return mounted and swap and (mounted.groups(), swap.groups())

    return wait_for("the disks in use", there, seconds=30)


def files(guest):
    """The host's files of its disks."""
    directory = guest.cloud.data / "servers" / guest.id
    return sorted(path.name for path in directory.glob("local-*"))


def test_they_are_there_and_ready(guest):
    assert (sectors(guest, "vdb"), sectors(guest, "vdc")) == (GIB_SECTORS, 64 * MIB_SECTORS)
    # A page of the swap space says that it is.
    assert taken(guest) == (("vdb", "ext4"), ("vdc", str(64 * 1024 - 4)))
    assert guest.root("findfs LABEL=ephemeral0") == "/dev/vdb"
    free = int(guest.ssh("df -k /mnt | tail -n 1").split()[3])
    assert free > 900 << 10, f"{free} KiB are free"
    assert files(guest) == ["local-ephemeral0.raw", "local-swap.raw"]
    guest.root("echo mine > /mnt/file && dd if=/dev/zero of=/mnt/some bs=1M count=4 2>/dev/null && sync")


def test_the_guest_is_told_where_they_are(guest):
    names = guest.metadata("latest/meta-data/block-device-mapping/").split()
    assert names == ["ami", "ephemeral0", "root", "swap"]
    where = {name: guest.metadata(f"latest/meta-data/block-device-mapping/{name}") for name in names}
    assert where == {"ami": "vda", "ephemeral0": "/dev/vdb", "root": "/dev/vda", "swap": "/dev/vdc"}


def test_a_volume_comes_after_them(demo, guest):
    volume = demo.made_volume(size=1, name="after")
    path = f"/servers/{guest.id}/os-volume_attachments"
    assert demo.compute("POST", path, {"volumeAttachment": {"volumeId": volume}}).status_code == 202
    demo.wait_volume(volume, "in-use")
    assert demo.compute("GET", f"{path}/{volume}").json()["volumeAttachment"]["device"] == "/dev/vdd"
    assert wait_for("the disk inside", lambda: guest.disk_of(volume), seconds=30) == "vdd"
    demo.compute("DELETE", f"{path}/{volume}")
    demo.wait_volume(volume, "available")


def test_diagnostics_count_them(admin, guest):
    path = f"/servers/{guest.id}/diagnostics"
    flat = admin.compute("GET", path, version="2.1").json()
    assert sorted(name for name in flat if name.endswith("_write_req")) == [f"vd{x}_write_req" for x in "abc"]
    assert flat["vdb_write"] >= 4 << 20, flat
    common = admin.compute("GET", path).json()
    assert common["num_disks"] == 3 and common["disk_details"][1]["write_bytes"] >= 4 << 20, common


@pytest.mark.parametrize("how", ["stop", "reboot", "suspend", "crash"])
def test_they_are_kept(cloud, guest, how):
    before = guest.boot_id()
    if how == "stop":
        guest.act("os-stop", status="SHUTOFF")
        guest.act("os-start", status="ACTIVE")
        guest.rebooted(before)
    elif how == "reboot":
        guest.act("reboot", {"type": "HARD"}, status="ACTIVE")
        guest.rebooted(before)
    elif how == "suspend":
        guest.act("suspend", status="SUSPENDED")
        guest.act("resume", status="ACTIVE")
        guest.up()
    else:
        cloud.kill()
        cloud.up()
    assert taken(guest) == (("vdb", "ext4"), ("vdc", str(64 * 1024 - 4)))
    assert guest.ssh("cat /mnt/file") == "mine"


def test_they_follow_a_resize_and_come_back(admin, guest):
    bigger = admin.flavor("roomier", 128, ephemeral=2, swap=32)
    boot = guest.boot_id()
    guest.act("resize", {"flavorRef": bigger}, status="VERIFY_RESIZE")
    boot = guest.rebooted(boot)
    assert taken(guest) == (("vdb", "ext4"), ("vdc", str(32 * 1024 - 4)))
    assert sectors(guest, "vdb") == 2 * GIB_SECTORS and guest.ssh("cat /mnt/file") == "mine"
    guest.act("revertResize", status="ACTIVE")
    boot = guest.rebooted(boot)
    assert taken(guest)[1] == ("vdc", str(64 * 1024 - 4))
    guest.act("resize", {"flavorRef": bigger}, status="VERIFY_RESIZE")
    guest.rebooted(boot)
    guest.act("confirmResize", status="ACTIVE")
    small = guest.act("resize", {"flavorRef": "1"}, expect=400)
    assert "ephemeral disks of 2 GB cannot become ones of 0 GB" in small.text, small.text


def test_a_rebuild_makes_them_anew(demo, guest):
    tiny = demo.find_image("tiny")
    kept = guest.act("rebuild", {"imageRef": tiny, "preserve_ephemeral": True}, expect=400)
    assert "does not support preserving ephemeral" in kept.text, kept.text
    before = guest.boot_id()
    guest.act("rebuild", {"imageRef": tiny}, status="ACTIVE")
    guest.rebooted(before)
    assert taken(guest) == (("vdb", "ext4"), ("vdc", str(32 * 1024 - 4)))
    assert guest.ssh("ls /mnt") == "lost+found"
    guest.root("echo again > /mnt/file && sync")


def test_the_shelf_keeps_none_of_it(guest):
    guest.act("shelve", status="SHELVED_OFFLOADED")
    assert files(guest) == []
    guest.act("unshelve", status="ACTIVE")
    guest.up()
    assert taken(guest)[0] == ("vdb", "ext4")
    assert guest.ssh("ls /mnt") == "lost+found"


def test_they_go_with_the_server(guest):
    guest.delete()
    assert not (guest.cloud.data / "servers" / guest.id).exists()


def test_a_request_divides_them(demo, admin, key):
    flavor = admin.flavor("divided", 128, ephemeral=3)
    blank = {"source_type": "blank", "destination_type": "local", "boot_index": -1}
    root = {"source_type": "image", "destination_type": "local", "boot_index": 0, "uuid": demo.find_image("tiny")}
    disks = [
        root,
        {**blank, "volume_size": 1, "guest_format": "ext3", "tag": "scratch"},
        {**blank, "volume_size": 2},
    ]
    server = Guest.boot(demo, key, "divided", flavor=flavor, block_device_mapping_v2=disks, config_drive=True).reach()
    assert (sectors(server, "vdb"), sectors(server, "vdc")) == (GIB_SECTORS, 2 * GIB_SECTORS)
    for label, device, kind in [("ephemeral0", "/dev/vdb", "ext3"), ("ephemeral1", "/dev/vdc", "ext4")]:
        assert server.root(f"findfs LABEL={label}") == device
        # What says that it is ext3 would not be so with the features of ext4.
        server.root(f"mkdir -p /tmp/m && mount -t {kind} {device} /tmp/m && umount /tmp/m")
    refused = server.root("mount -t ext3 /dev/vdc /tmp/m 2>/dev/null || echo not ext3")
    assert refused == "not ext3"
    assert server.root("findfs LABEL=config-2 || findfs LABEL=CONFIG-2") == "/dev/vdd", "the drive comes last"
    (tagged,) = json_of(server.metadata())["devices"]
    assert (tagged["type"], tagged["path"], tagged["tags"]) == ("disk", "/dev/vdb", ["scratch"])
    assert server.ssh("cat /sys/block/vdb/serial") == tagged["serial"]
    server.delete()
    too_much = [root, {**blank, "volume_size": 4}]
    body = {"name": "much", "flavorRef": flavor, "imageRef": root["uuid"], "networks": "none",
            "block_device_mapping_v2": too_much}  # fmt: skip
    refused = demo.compute("POST", "/servers", {"server": body}, expect=400)
    assert "larger than the instance type allows" in refused.text, refused.text


def test_a_host_without_swtpm_is_not_asked_for_a_module(lab, clouds, key):
    shown = lab.scratch / "shown"
    shown.mkdir()
    cloud = clouds("without-swtpm", listen="127.0.0.1:8011")
    cloud.data.mkdir()
    cloud.prefix = without("swtpm", cloud.data, shown)
    cloud.seen_as = shown
    cloud.up(seconds=600)
    admin = Account(cloud, "admin-openrc")
    demo = Account.with_key(cloud, key)
    flavor = admin.flavor("trusted", 128, hw__tpm_version="2.0")
    server = Guest.boot(demo, key, "trusted", flavor=flavor, wait=False)
    shown = server.wait("ERROR")
    assert re.search("No valid host was found.*COMPUTE_SECURITY_TPM_2_0", shown["fault"]["message"]), shown["fault"]
    assert admin.compute("GET", f"/servers/{server.id}").json()["server"]["OS-EXT-SRV-ATTR:host"] is None
    server.delete()
