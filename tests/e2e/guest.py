"""Servers as their users have them: asked for through the SDK, looked into through SSH and their consoles."""

import contextlib
import json
import re
import shlex
import struct

import openstack

from lab import inside, wait_for

NEWEST = "2.104"


class Account:
    """One account of a cloud, with the SDK. Its connections are made in the lab."""

    def __init__(self, cloud, openrc="openrc"):
        self.cloud = cloud
        environment = cloud.environment(openrc)
        self.root = environment["OS_AUTH_URL"].removesuffix("/identity/v3")
        with inside(cloud.lab.name):
            self.sdk = openstack.connect(
                auth_url=environment["OS_AUTH_URL"], username=environment["OS_USERNAME"],
                password=environment["OS_PASSWORD"], project_name=environment["OS_PROJECT_NAME"],
                user_domain_name="Default", project_domain_name="Default", region_name=environment["OS_REGION_NAME"],
                load_yaml_config=False, load_envvars=False,
            )  # fmt: skip
            self.sdk.authorize()

    @contextlib.contextmanager
    def there(self):
        with inside(self.cloud.lab.name):
            yield self.sdk

    @classmethod
    def with_key(cls, cloud, key):
        """The account of the demo project, whose keypair `me` is this key."""
        account = cls(cloud)
        with account.there() as sdk:
            sdk.compute.create_keypair(name="me", public_key=key.with_suffix(".pub").read_text())
        return account

    def compute(self, method, path, body=None, version=NEWEST, expect=None):
        """Plain requests to Nova's API, for what the SDK has no word for."""
        with self.there() as sdk:
            answer = sdk.compute.request(path, method, json=body, microversion=version, raise_exc=False)
        if expect is None:
            assert answer.status_code < 300, f"{method} {path}: {answer.status_code} {answer.text}"
        else:
            assert answer.status_code == expect, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer

    def volume(self, method, path, body=None, version="3.70"):
        with self.there() as sdk:
            answer = sdk.block_storage.request(path, method, json=body, microversion=version, raise_exc=False)
        assert answer.status_code < 300, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.text else None

    def flavor(self, name, ram, vcpus=1, disk=1, ephemeral=0, swap=0, **specs):
        """Makes a flavor (as an admin); its id."""
        with self.there() as sdk:
            made = sdk.compute.create_flavor(name=name, ram=ram, vcpus=vcpus, disk=disk, ephemeral=ephemeral, swap=swap)
            if specs:
                sdk.compute.create_flavor_extra_specs(made, {key.replace("__", ":"): value for key, value in specs.items()})
        return made.id

    def image(self, name, path, disk_format="raw", **properties):
        """Uploads an image; its id."""
        with self.there() as sdk:
            made = sdk.image.create_image(
                name=name, filename=str(path), disk_format=disk_format, container_format="bare", wait=True, **properties
            )
        return made.id

    def find_image(self, name):
        with self.there() as sdk:
            return sdk.image.find_image(name, ignore_missing=False).id

    def made_volume(self, **asked):
        """A new volume, once it can be used."""
        made = self.volume("POST", "/volumes", {"volume": asked})["volume"]["id"]
        self.wait_volume(made, "available")
        return made

    def volume_shown(self, volume):
        return self.volume("GET", f"/volumes/{volume}")["volume"]

    def wait_volume(self, volume, status, seconds=60):
        def reached():
            shown = self.volume_shown(volume)
            assert not shown["status"].startswith("error"), shown
            return shown["status"] == status and shown

        return wait_for(f"volume {volume} {status}", reached, seconds)


class Guest:
    """A server and what is in it."""

    def __init__(self, account, key, server):
        self.account, self.cloud, self.key = account, account.cloud, key
        self.id, self.address = server, None

    @classmethod
    def boot(cls, account, key, name, image="tiny", flavor="1", network="private", wait=True, version=NEWEST, **more):
        """A server that is active. `network` is a name, or the list of `networks` as Nova takes it."""
        body = {"name": name, "flavorRef": flavor, "key_name": "me", **more}
        if image:
            body["imageRef"] = image if re.fullmatch(r"[0-9a-f-]{36}", image) else account.find_image(image)
        if isinstance(network, str):
            with account.there() as sdk:
                network = [{"uuid": sdk.network.find_network(network, ignore_missing=False).id}]
        body["networks"] = network
        made = account.compute("POST", "/servers", {"server": body}, version=version).json()["server"]
        guest = cls(account, key, made["id"])
        guest.password = made.get("adminPass")
        if wait:
            guest.wait("ACTIVE")
        return guest

    def show(self):
        return self.account.compute("GET", f"/servers/{self.id}").json()["server"]

    def wait(self, status, seconds=90, task=None):
        def reached():
            shown = self.show()
            if shown["status"] == "ERROR" and status != "ERROR":
                raise RuntimeError(f"{shown['name']} is in error: {shown.get('fault')}")
            return shown["status"] == status and shown["OS-EXT-STS:task_state"] == task and shown

        return wait_for(f"{self.id} {status}", reached, seconds)

    def act(self, action, arguments=None, expect=None, status=None, **options):
        """Does an action; waits for the status."""
        answer = self.account.compute("POST", f"/servers/{self.id}/action", {action: arguments}, expect=expect, **options)
        if status:
            self.wait(status)
        return answer

    def reach(self):
        """Gives it a floating address, and waits until it can be logged in to."""
        with self.account.there() as sdk:
            port = next(iter(sdk.network.ports(device_id=self.id)))
            public = sdk.network.find_network("public", ignore_missing=False)
            made = sdk.network.create_ip(floating_network_id=public.id, port_id=port.id)
        self.address = made.floating_ip_address
        self.up()
        return self

    def up(self, seconds=90):
        wait_for(f"ssh to {self.address}", lambda: self.ssh("echo in") == "in", seconds)

    def ssh(self, command, user="tiny", **options):
        return self.cloud.ssh(self.address, command, self.key, user=user, **options).strip()

    def root(self, command, **options):
        """As root. The tiny guest's has no password, for who has logged in."""
        return self.ssh(f"su -c {shlex.quote(command)}", **options)

    def boot_id(self):
        return self.ssh("cat /proc/sys/kernel/random/boot_id")

    def rebooted(self, before, seconds=90):
        """Waits for another boot than that one."""

        def other():
            now = self.boot_id()
            return now != before and now

        return wait_for("another boot", other, seconds)

    def memory_mib(self):
        return int(re.search(r"MemTotal:\s+(\d+)", self.ssh("cat /proc/meminfo")).group(1)) // 1024

    def disk_of(self, volume):
        """The name of a volume's disk inside, by its serial number; empty when there is none."""
        return self.ssh(
            f"for d in /sys/block/[svx]d*; do case $(cat $d/serial 2>/dev/null) in {volume[:20]}) basename $d;; esac; done"
        )

    def console(self, length=None):
        return self.act("os-getConsoleOutput", {} if length is None else {"length": length}).json()["output"]

    def metadata(self, path="openstack/latest/meta_data.json"):
        """What the metadata service tells it."""
        return self.ssh(f"wget -q -O - http://169.254.169.254/{path}")

    def delete(self):
        self.account.compute("DELETE", f"/servers/{self.id}")
        self.gone()

    def gone(self, seconds=60):
        """Waits until nobody knows of it."""
        path = f"/servers/{self.id}"
        wait_for(f"{self.id} gone", lambda: self.account.compute("GET", path, expect=404).status_code == 404, seconds)

    def remote_console(self, protocol, kind):
        asked = {"remote_console": {"protocol": protocol, "type": kind}}
        return self.account.compute("POST", f"/servers/{self.id}/remote-consoles", asked).json()["remote_console"]["url"]


def json_of(text):
    return json.loads(text)


# -- consoles ------------------------------------------------------------------------------------------------------


class Screen:
    """A screen over the RFB protocol, through a websocket. Source: RFC 6143."""

    def __init__(self, socket):
        self.socket, self.held = socket, b""
        assert self.take(12).startswith(b"RFB 003.")
        socket.send(b"RFB 003.008\n")
        kinds = self.take(self.take(1)[0])
        assert 1 in kinds, f"the server offers {kinds}"
        socket.send(b"\x01")
        assert self.take(4) == b"\0\0\0\0"
        socket.send(b"\x01")
        self.width, self.height = struct.unpack(">HH", self.take(4))
        self.take(16)
        (length,) = struct.unpack(">I", self.take(4))
        self.name = self.take(length).decode()
        # 32 bits a pixel, true colour; nothing but raw rectangles.
        socket.send(struct.pack(">BxxxBBBBHHHBBBxxx", 0, 32, 24, 0, 1, 255, 255, 255, 16, 8, 0))
        socket.send(struct.pack(">BxHi", 2, 1, 0))

    def take(self, count):
        while len(self.held) < count:
            self.held += self.socket.recv(timeout=20)
        taken, self.held = self.held[:count], self.held[count:]
        return taken

    def picture(self):
        """The whole screen: a line of pixels (4 bytes each) for each row."""
        self.socket.send(struct.pack(">BBHHHH", 3, 0, 0, 0, self.width, self.height))
        rows = [bytearray(4 * self.width) for _ in range(self.height)]
        seen = 0
        while seen < self.width * self.height:
            kind = self.take(1)[0]
            if kind == 2:  # a bell
                continue
            assert kind == 0, f"message {kind}"
            (rectangles,) = struct.unpack(">xH", self.take(3))
            for _ in range(rectangles):
                x, y, width, height, encoding = struct.unpack(">HHHHi", self.take(12))
                assert encoding == 0, f"encoding {encoding}"
                pixels = self.take(4 * width * height)
                for row in range(height):
                    rows[y + row][4 * x : 4 * (x + width)] = pixels[4 * width * row : 4 * width * (row + 1)]
                seen += width * height
        return [bytes(row) for row in rows]

    def press(self, *keys):
        for key in keys:
            for down in (1, 0):
                self.socket.send(struct.pack(">BBxxI", 4, down, key if isinstance(key, int) else ord(key)))


def colours(picture):
    """The different pixels of a picture, the unused byte left out."""
    return {row[at : at + 3] for row in picture for at in range(0, len(row), 4)}
