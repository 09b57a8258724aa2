"""Volumes that are kept: backups of a disk that a guest writes to, over a crash, and what goes back, moves and is left."""

import json
import time

import pytest

from guest import Account, Guest
from lab import wait_for

# What is written and looked at: the first MiB of the disk, and its last.
WRITTEN = 24


@pytest.fixture(scope="module")
def cloud(clouds):
    cloud = clouds("kept")
    cloud.up(seconds=600)
    return cloud


@pytest.fixture(scope="module")
def demo(cloud, key):
    return Account.with_key(cloud, key)


@pytest.fixture(scope="module")
def admin(cloud):
    return Account(cloud, "admin-openrc")


@pytest.fixture(scope="module")
def guest(demo, key):
    return Guest.boot(demo, key, "writer").reach()


class Kept:
    """What the steps hand on."""

    volume: str
    full: str
    more: str
    sums: dict = {}


def disk_appears(guest, volume):
    return wait_for("the disk inside", lambda: guest.disk_of(volume), seconds=30)


def attach(guest, volume):
    body = {"volumeAttachment": {"volumeId": volume}}
    guest.account.compute("POST", f"/servers/{guest.id}/os-volume_attachments", body)
    guest.account.wait_volume(volume, "in-use")
    return disk_appears(guest, volume)


def detach(guest, volume):
    guest.account.compute("DELETE", f"/servers/{guest.id}/os-volume_attachments/{volume}")
    guest.account.wait_volume(volume, "available")


def write(guest, disk, at, count):
    guest.root(f"dd if=/dev/urandom of=/dev/{disk} bs=1M seek={at} count={count} conv=fsync 2>/dev/null", seconds=120)


def total(guest, disk):
    """What the written parts of a disk are, read from the disk."""
    guest.root("echo 3 > /proc/sys/vm/drop_caches")
    first = guest.root(f"dd if=/dev/{disk} bs=1M count={WRITTEN} 2>/dev/null | sha256sum", seconds=120)
    last = guest.root(f"dd if=/dev/{disk} bs=1M skip=1023 count=1 2>/dev/null | sha256sum", seconds=120)
    return first.split()[0], last.split()[0]


def wait_backup(demo, backup, status="available", seconds=120):
    def reached():
        shown = demo.volume("GET", f"/backups/{backup}")["backup"]
        assert status == "error" or shown["status"] != "error", shown
        return shown["status"] == status and shown

    return wait_for(f"backup {backup} {status}", reached, seconds)


def of_restored(demo, guest, volume):
    """What a volume is, as a guest sees it."""
    disk = attach(guest, volume)
    seen = total(guest, disk)
    detach(guest, volume)
    return seen


@pytest.mark.walk
def test_a_volume_in_use_is_backed_up(cloud, demo, guest):
    Kept.volume = demo.made_volume(size=1, name="ledger")
    disk = attach(guest, Kept.volume)
    write(guest, disk, 0, WRITTEN)
    write(guest, disk, 1023, 1)
    Kept.sums["full"] = total(guest, disk)
    said = cloud.refused("volume", "backup", "create", "--name", "full", Kept.volume)
    assert "force" in said, said
    Kept.full = cloud.openstack("volume", "backup", "create", "--force", "--name", "full", Kept.volume)["id"]
    shown = wait_backup(demo, Kept.full)
    assert (shown["is_incremental"], shown["size"]) == (False, 1)
    assert demo.wait_volume(Kept.volume, "in-use")


@pytest.mark.walk
def test_the_guest_goes_on_writing_and_more_is_backed_up(cloud, demo, guest):
    disk = guest.disk_of(Kept.volume)
    write(guest, disk, 3, 2)
    Kept.sums["more"] = total(guest, disk)
    assert Kept.sums["more"] != Kept.sums["full"]
    made = cloud.openstack("volume", "backup", "create", "--force", "--incremental", "--name", "more", Kept.volume)
    Kept.more = made["id"]
    assert wait_backup(demo, Kept.more)["is_incremental"] is True
    write(guest, disk, 0, WRITTEN)
    Kept.sums["last"] = total(guest, disk)


@pytest.mark.walk
def test_backups_are_restored_bit_for_bit(cloud, demo, guest):
    for name, backup in (("full", Kept.full), ("more", Kept.more)):
        made = cloud.openstack("volume", "backup", "restore", backup, f"restored-{name}")
        volume = made.get("volume_id") or made["id"]
        wait_backup(demo, backup)
        demo.wait_volume(volume, "available")
        assert of_restored(demo, guest, volume) == Kept.sums[name], name
        demo.volume("DELETE", f"/volumes/{volume}")
    assert total(guest, guest.disk_of(Kept.volume)) == Kept.sums["last"], "the disk in use is as it was"


@pytest.mark.walk
def test_a_backup_goes_on_after_a_crash(cloud, demo, guest):
    disk = guest.disk_of(Kept.volume)
    body = {"backup": {"volume_id": Kept.volume, "force": True, "name": "crash"}}
    backup = demo.volume("POST", "/backups", body)["backup"]["id"]
    cloud.kill()
    cloud.up(seconds=600)
    wait_backup(demo, backup)
    demo.wait_volume(Kept.volume, "in-use")
    body = {"restore": {"name": "after"}}
    volume = demo.volume("POST", f"/backups/{backup}/restore", body)["restore"]["volume_id"]
    cloud.kill()
    cloud.up(seconds=600)
    wait_backup(demo, backup)
    demo.wait_volume(volume, "available")
    assert of_restored(demo, guest, volume) == Kept.sums["last"]
    assert total(guest, disk) == Kept.sums["last"], "the guest did not notice"
    demo.volume("DELETE", f"/volumes/{volume}")


@pytest.mark.walk
def test_a_volume_goes_back_to_its_snapshot_and_to_its_backup(demo, guest):
    detach(guest, Kept.volume)
    snapshot = demo.volume("POST", "/snapshots", {"snapshot": {"volume_id": Kept.volume}})["snapshot"]["id"]
    wait_for(
        "the snapshot",
        lambda: demo.volume("GET", f"/snapshots/{snapshot}")["snapshot"]["status"] == "available",
        seconds=30,
    )
    disk = attach(guest, Kept.volume)
    write(guest, disk, 0, 2)
    assert total(guest, disk) != Kept.sums["last"]
    detach(guest, Kept.volume)
    demo.volume("POST", f"/volumes/{Kept.volume}/action", {"revert": {"snapshot_id": snapshot}})
    demo.wait_volume(Kept.volume, "available")
    assert of_restored(demo, guest, Kept.volume) == Kept.sums["last"]
    demo.volume("DELETE", f"/snapshots/{snapshot}")
    demo.volume("POST", f"/backups/{Kept.more}/restore", {"restore": {"volume_id": Kept.volume}})
    wait_backup(demo, Kept.more)
    demo.wait_volume(Kept.volume, "available")
    assert of_restored(demo, guest, Kept.volume) == Kept.sums["more"]


@pytest.mark.walk
def test_another_project_takes_it_and_gives_it_back(cloud, demo, admin, guest):
    made = cloud.openstack("volume", "transfer", "request", "create", "--name", "gift", Kept.volume)
    cloud.openstack(
        "volume", "transfer", "request", "accept", "--auth-key", made["auth_key"], made["id"], openrc="admin-openrc"
    )
    assert cloud.refused("volume", "show", Kept.volume)
    assert admin.volume_shown(Kept.volume)["status"] == "available"
    made = cloud.openstack("volume", "transfer", "request", "create", Kept.volume, openrc="admin-openrc")
    cloud.openstack("volume", "transfer", "request", "accept", "--auth-key", made["auth_key"], made["id"])
    assert of_restored(demo, guest, Kept.volume) == Kept.sums["more"]


@pytest.mark.walk
def test_its_bytes_are_left_to_the_host_and_taken_again(demo, admin, guest):
    host = admin.volume_shown(Kept.volume)["os-vol-host-attr:host"]
    admin.volume("POST", f"/volumes/{Kept.volume}/action", {"os-unmanage": {}})

    def gone():
        listed = demo.volume("GET", "/volumes")["volumes"]
        return Kept.volume not in [one["id"] for one in listed]

    wait_for("the volume gone", gone, seconds=60)
    left = admin.volume("GET", f"/manageable_volumes?host={host.replace('#', '%23')}")["manageable-volumes"]
    assert f"volume-{Kept.volume}" in json.dumps(left), left
    body = {"volume": {"host": host, "ref": {"source-name": f"volume-{Kept.volume}"}, "name": "back"}}
    back = admin.volume("POST", "/manageable_volumes", body)["volume"]["id"]
    admin.wait_volume(back, "available")
    made = admin.volume("POST", "/volume-transfers", {"transfer": {"volume_id": back}})["transfer"]
    body = {"accept": {"auth_key": made["auth_key"]}}
    demo.volume("POST", f"/volume-transfers/{made['id']}/accept", body)
    assert of_restored(demo, guest, back) == Kept.sums["more"]
    Kept.volume = back


@pytest.mark.walk
def test_backups_go_the_newest_first(cloud, demo, guest):
    assert "Incremental backups exist" in cloud.refused("volume", "backup", "delete", Kept.full)
    for backup in (Kept.more, Kept.full):
        cloud.openstack("volume", "backup", "delete", backup, text=True)
        wait_for(
            "the backup gone",
            lambda: backup not in [one["id"] for one in demo.volume("GET", "/backups")["backups"]],
            seconds=30,
        )
    demo.volume("DELETE", f"/volumes/{Kept.volume}")
    began = time.monotonic()
    guest.delete()
    assert time.monotonic() - began < 60
