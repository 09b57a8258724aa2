"""A machine's life, action by action; what each does is looked for inside the guest."""

import base64
import time
import urllib.parse

import pytest
import requests
import websockets.exceptions
import websockets.sync.client

from guest import Account, Guest, Screen, colours, json_of
from lab import inside, run, wait_for

pytestmark = pytest.mark.walk

USER_DATA = "#!/bin/sh\necho \"first $(id -u)\" > /home/tiny/user-data\n"
TOKEN_SECONDS = 8


@pytest.fixture(scope="module")
def cloud(clouds):
    cloud = clouds("life")
    settings = cloud.lab.scratch / "madang.toml"
    settings.write_text(f"[compute]\nreclaim_instance_interval = 3600\nconsole_token_life = {TOKEN_SECONDS}\n")
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
    with demo.there() as sdk:
        network = sdk.network.find_network("private").id
    return Guest.boot(
        demo, key, "walker", network=[{"uuid": network, "tag": "front"}], metadata={"purpose": "walk"},
        user_data=base64.b64encode(USER_DATA.encode()).decode(),
    ).reach()  # fmt: skip


def machines(cloud):
    return [line for line in cloud.processes().values() if "qemu-system" in line]


# -- what a guest learns -------------------------------------------------------------------------------------------


def test_the_metadata_service_speaks_both_formats(guest):
    meta = json_of(guest.metadata())
    assert (meta["uuid"], meta["name"], meta["meta"]) == (guest.id, "walker", {"purpose": "walk"})
    assert meta["public_keys"]["me"].startswith("ssh-ed25519 ")
    mac = guest.ssh("cat /sys/class/net/eth0/address")
    (told,) = meta["devices"]
    assert (told["type"], told["mac"], told["tags"]) == ("nic", mac, ["front"])
    links = json_of(guest.metadata("openstack/latest/network_data.json"))["links"]
    assert [link["ethernet_mac_address"] for link in links] == [mac]
    assert guest.metadata("openstack/latest/user_data") == USER_DATA.strip()
    assert guest.metadata("latest/user-data") == USER_DATA.strip()
    address = guest.metadata("2009-04-04/meta-data/local-ipv4")
    assert f"inet {address}/" in guest.ssh("ip -4 address show eth0")
    assert guest.metadata("latest/meta-data/hostname").split(".")[0] == "walker"
    assert guest.metadata("latest/meta-data/public-keys/0/openssh-key").startswith("ssh-ed25519 ")
    assert guest.metadata("latest/meta-data/instance-type") == "m1.tiny"


def test_user_data_ran_as_root(guest):
    wait_for("the script", lambda: guest.ssh("cat /home/tiny/user-data") == "first 0", seconds=20)


# -- power ---------------------------------------------------------------------------------------------------------


def test_a_file_survives_stop_and_start(cloud, guest):
    guest.ssh("echo kept > kept && sync")
    before = guest.boot_id()
    guest.act("os-stop", status="SHUTOFF")
    assert machines(cloud) == []
    guest.act("os-start", status="ACTIVE")
    guest.rebooted(before)
    assert guest.ssh("cat kept") == "kept"


def test_reboots_soft_and_hard(cloud, guest):
    before, running = guest.boot_id(), set(cloud.processes())
    guest.act("reboot", {"type": "SOFT"}, status="ACTIVE")
    second = guest.rebooted(before)
    assert set(cloud.processes()) == running, "the guest did it by itself"
    cloud.openstack("server", "reboot", "--hard", "walker", "--wait", text=True)
    guest.rebooted(second)
    assert set(cloud.processes()) != running
    assert guest.ssh("cat kept") == "kept"


def test_a_paused_guest_holds_still(cloud, guest):
    boot = guest.boot_id()
    guest.ssh("(while :; do cat /proc/uptime > /tmp/beat; sleep 0.2; done) >/dev/null 2>&1 &")
    guest.act("pause", status="PAUSED")
    assert not cloud.reachable(guest.address, 22, seconds=2)
    guest.act("os-start", expect=409)
    guest.act("unpause", status="ACTIVE")
    guest.up()
    assert guest.boot_id() == boot
    beat = guest.ssh("cat /tmp/beat; sleep 1; cat /tmp/beat").splitlines()
    assert beat[0] != beat[1], "the process goes on"


def test_memory_survives_suspend_and_resume(cloud, guest):
    boot = guest.boot_id()
    pid = guest.ssh("sleep 9999 >/dev/null 2>&1 & echo $!")
    guest.root("mkdir -p /run/x && echo in memory alone > /run/x/file")
    guest.act("suspend", status="SUSPENDED")
    assert machines(cloud) == []
    guest.act("resume", status="ACTIVE")
    guest.up()
    assert guest.boot_id() == boot
    assert guest.ssh("cat /run/x/file") == "in memory alone"
    assert guest.ssh(f"tr '\\0' ' ' < /proc/{pid}/cmdline") == "sleep 9999"


# -- words without a change ------------------------------------------------------------------------------------------


def test_a_locked_server_refuses_others(cloud, guest, admin):
    admin.compute("POST", f"/servers/{guest.id}/action", {"lock": {"locked_reason": "being looked at"}})
    said = guest.act("os-stop", expect=409).json()["conflictingRequest"]["message"]
    assert "locked" in said, said
    shown = guest.show()
    assert shown["locked"] is True and shown["locked_reason"] == "being looked at"
    assert shown["status"] == "ACTIVE"
    guest.act("unlock", expect=403)
    admin.compute("POST", f"/servers/{guest.id}/action", {"unlock": None})
    assert guest.show()["locked"] is False


def test_a_password_takes_an_agent_inside(guest):
    said = guest.act("changePassword", {"adminPass": "secret"}, expect=409).json()["conflictingRequest"]["message"]
    assert "agent" in said, said


def test_a_crash_dump_reaches_the_kernel(guest):
    before = guest.boot_id()
    guest.act("trigger_crash_dump")
    wait_for("the kernel's word", lambda: "NMI" in guest.root("dmesg | tail -n 5"), seconds=20)
    assert guest.boot_id() == before, "what follows is the guest's business"


def test_console_output_is_as_long_as_asked(guest):
    whole = guest.console()
    assert "walker login:" in whole
    assert len(guest.console(5).split("\n")) == 5
    assert whole.endswith(guest.console(5))


def test_diagnostics_and_actions_tell_what_was(guest, admin):
    # Not a file: what is running is never dropped from the cache.
    guest.root("echo 3 > /proc/sys/vm/drop_caches && dd if=/dev/vda of=/dev/null bs=64k count=16")
    told = admin.compute("GET", f"/servers/{guest.id}/diagnostics").json()
    assert told["state"] == "running" and told["driver"] == "libvirt" and told["memory_details"]["maximum"] == 128, told
    assert told["nic_details"][0]["rx_packets"] > 0 and told["disk_details"][0]["read_bytes"] > 0, told
    actions = guest.account.compute("GET", f"/servers/{guest.id}/os-instance-actions").json()["instanceActions"]
    assert {"create", "stop", "start", "reboot", "pause", "unpause", "suspend", "resume"} <= {one["action"] for one in actions}


# -- consoles --------------------------------------------------------------------------------------------------------


def enter(guest, url, **options):
    with inside(guest.cloud.lab.name):
        return websockets.sync.client.connect(url, subprotocols=["binary"], max_size=None, proxy=None, **options)


def screen_url(guest):
    """Where the page's websocket is, once the page is there."""
    url = guest.remote_console("vnc", "novnc")
    parts = urllib.parse.urlsplit(url)
    with inside(guest.cloud.lab.name):
        page = requests.get(url, timeout=10)
    assert page.status_code == 200 and "RFB" in page.text and page.headers["Content-Type"].startswith("text/html")
    (path,) = urllib.parse.parse_qs(parts.query)["path"]
    return f"ws://{parts.netloc}/{path}"


def test_the_screen_shows_a_picture_that_follows_the_keys(guest):
    with enter(guest, screen_url(guest)) as socket:
        screen = Screen(socket)
        assert screen.width >= 640 and screen.height >= 400, (screen.width, screen.height)
        # QEMU draws while somebody looks.
        wait_for("something on the screen", lambda: len(colours(screen.picture())) > 1, seconds=20, every=0.5)
        first = screen.picture()
        screen.press(*"hello")
        wait_for("what was typed", lambda: screen.picture() != first, seconds=20, every=1)


def test_the_serial_console_leads_to_a_prompt(guest):
    url = guest.remote_console("serial", "serial")
    assert url.startswith("ws://")
    with enter(guest, url) as socket:
        seen = b""
        deadline = time.monotonic() + 30
        while b"login:" not in seen:
            assert time.monotonic() < deadline, seen
            socket.send(b"\r")
            try:
                seen += socket.recv(timeout=2)
            except TimeoutError:
                pass
        socket.send(b"nobody\r")
        while b"Password:" not in seen:
            assert time.monotonic() < deadline, seen
            seen += socket.recv(timeout=10)
    assert "Password:" in guest.console(), "what passed is kept"


def test_nobody_enters_with_a_wrong_or_an_old_token(guest):
    good = screen_url(guest)
    made = time.monotonic()
    for url, options in ((good + "x", {}), (good.split("?")[0], {}), (good, {"origin": "http://elsewhere"})):
        with pytest.raises(websockets.exceptions.InvalidStatus) as refused:
            enter(guest, url, **options)
        assert refused.value.response.status_code == 403
    enter(guest, good).close()
    time.sleep(max(0, made + TOKEN_SECONDS + 1 - time.monotonic()))
    with pytest.raises(websockets.exceptions.InvalidStatus) as refused:
        enter(guest, good)
    assert refused.value.response.status_code == 403


# -- roots -----------------------------------------------------------------------------------------------------------


def image_ready(account, name, seconds=90):
    def ready():
        with account.there() as sdk:
            image = sdk.image.find_image(name)
        return image and image.status == "active" and image

    return wait_for(f"image {name}", ready, seconds)


def test_an_image_of_a_running_guest_starts_another(demo, guest, key):
    guest.ssh("echo of the first > origin && sync")
    made = guest.act("createImage", {"name": "copy", "metadata": {"colour": "blue"}}).json()["image_id"]
    image = image_ready(demo, "copy")
    assert image.id == made and image.properties.get("colour") == "blue"
    guest.wait("ACTIVE")
    other = Guest.boot(demo, key, "second", image=made).reach()
    assert other.ssh("cat origin; hostname").splitlines() == ["of the first", "second"]
    other.act("forceDelete")
    other.gone()


def test_backups_rotate(demo, guest):
    for name in ("one", "two", "three"):
        guest.act("createBackup", {"name": name, "backup_type": "daily", "rotation": 2})
        image_ready(demo, name)
        guest.wait("ACTIVE")
    with demo.there() as sdk:
        names = {image.name for image in sdk.image.images()}
    assert {"two", "three"} <= names and "one" not in names, names


def test_a_rescuer_mends_the_root(demo, guest):
    before = guest.boot_id()
    guest.act("rescue", {"adminPass": "mend"}, status="RESCUE")
    guest.rebooted(before)
    assert guest.ssh("ls kept 2>&1 | grep -c 'No such'") == "1", "another root"
    guest.root("mkdir -p /tmp/old && mount -t ext4 /dev/vdb2 /tmp/old")
    assert guest.ssh("cat /tmp/old/home/tiny/kept") == "kept"
    guest.root("echo mended > /tmp/old/home/tiny/mended && umount /tmp/old && sync")
    guest.act("os-stop", expect=409)
    rescued = guest.boot_id()
    guest.act("unrescue", status="ACTIVE")
    guest.rebooted(rescued)
    assert guest.ssh("cat kept mended").splitlines() == ["kept", "mended"]


def test_a_resized_guest_has_more_memory_until_it_is_reverted(guest, admin):
    small = guest.memory_mib()
    bigger = admin.flavor("bigger", 256, vcpus=2, disk=2)
    guest.act("resize", {"flavorRef": bigger}, status="VERIFY_RESIZE")
    guest.up()
    assert guest.memory_mib() > small + 100
    assert guest.ssh("nproc; cat kept").splitlines() == ["2", "kept"]
    guest.act("revertResize", status="ACTIVE")
    guest.up()
    assert guest.memory_mib() == small
    guest.act("resize", {"flavorRef": bigger}, status="VERIFY_RESIZE")
    guest.act("confirmResize", status="ACTIVE")
    guest.up()
    assert guest.memory_mib() > small + 100
    assert guest.ssh("cat /sys/block/vda/size") == str(2 << 21), "the disk is as big as the flavor's"
    assert guest.show()["flavor"]["ram"] == 256


def test_one_host_is_no_place_to_migrate_to(guest, admin):
    path = f"/servers/{guest.id}/action"
    for action, arguments in (("os-migrateLive", {"host": None, "block_migration": "auto"}), ("migrate", {})):
        admin.compute("POST", path, {action: arguments}, expect=202)
        wait_for("the end of the attempt", lambda: guest.show()["OS-EXT-STS:task_state"] is None, seconds=30)
        assert guest.show()["status"] == "ACTIVE"
        (last, *_) = admin.compute("GET", f"/servers/{guest.id}/os-instance-actions").json()["instanceActions"]
        events = admin.compute("GET", f"/servers/{guest.id}/os-instance-actions/{last['request_id']}").json()
        assert "No valid host" in str(events), events
    assert guest.ssh("cat kept") == "kept"


def test_a_file_survives_the_shelf(cloud, guest):
    guest.ssh("echo shelved > shelved && sync")
    guest.act("shelve", status="SHELVED_OFFLOADED")
    assert machines(cloud) == []
    assert guest.show()["OS-EXT-SRV-ATTR:hostname"] == "walker"
    guest.act("unshelve", status="ACTIVE")
    guest.up()
    assert guest.ssh("cat kept shelved").splitlines() == ["kept", "shelved"]


def test_a_rebuilt_guest_is_another_one(demo, guest, tiny, tmp_path):
    other = tmp_path / "other"
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", other)
    with demo.there() as sdk:
        sdk.compute.create_keypair(name="other", public_key=other.with_suffix(".pub").read_text())
    script = "#!/bin/sh\necho second > /home/tiny/user-data\n"
    body = {
        "imageRef": demo.image("another", tiny, disk_format="qcow2"), "name": "rebuilt", "key_name": "other", "metadata": {"built": "again"},
        "user_data": base64.b64encode(script.encode()).decode(),
    }  # fmt: skip
    guest.act("rebuild", body, status="ACTIVE")
    guest.key = other
    guest.up()
    assert guest.ssh("ls origin mended shelved 2>/dev/null | wc -l") == "0"
    assert json_of(guest.metadata())["meta"] == {"built": "again"}
    wait_for("its new user data", lambda: guest.ssh("cat /home/tiny/user-data") == "second", seconds=20)


def test_what_was_deleted_comes_back(cloud, demo, admin, guest):
    demo.compute("DELETE", f"/servers/{guest.id}")
    wait_for(
        "soft deleted", lambda: admin.compute("GET", f"/servers/{guest.id}").json()["server"]["status"] == "SOFT_DELETED"
    )
    wait_for("off", lambda: machines(cloud) == [], seconds=90)
    admin.compute("POST", f"/servers/{guest.id}/action", {"restore": None})
    guest.wait("ACTIVE")
    guest.up()
    assert guest.ssh("cat user-data") == "second"
    admin.compute("POST", f"/servers/{guest.id}/action", {"forceDelete": None})
    guest.gone()
    wait_for("no process left", lambda: not cloud.processes(), seconds=20)
