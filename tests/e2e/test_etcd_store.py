"""A cloud whose state is in three members of etcd: they die, it restarts, it moves there and back."""

import re
import shutil
import subprocess

import pytest

from lab import wait_for

PORTS = [(2379, 2380), (2479, 2480), (2579, 2580)]
ADDRESS = "etcd://" + ",".join(f"127.0.0.1:{client}" for client, _ in PORTS)


class Etcd:
    """Three members in the lab."""

    def __init__(self, lab):
        for program in ("etcd", "etcdctl"):
            assert shutil.which(program), f"no {program}: `scripts/bootstrap test`, or apt-get install etcd-server etcd-client"
        self.lab = lab
        self.members = [self.start(number) for number in range(3)]
        self.ready()

    def start(self, number):
        client, peer = (f"http://127.0.0.1:{port}" for port in PORTS[number])
        return self.lab.start(
            "etcd", "--name", f"m{number}", "--data-dir", self.lab.scratch / f"etcd-{number}",
            "--listen-client-urls", client, "--advertise-client-urls", client,
            "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
            "--initial-cluster", ",".join(f"m{n}=http://127.0.0.1:{port}" for n, (_, port) in enumerate(PORTS)),
            "--logger", "zap", "--log-level", "error",
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def ctl(self, *arguments):
        endpoints = ADDRESS.removeprefix("etcd://")
        return self.lab.run("etcdctl", f"--endpoints={endpoints}", *arguments)

    def ready(self):
        wait_for("etcd", lambda: self.ctl("endpoint", "health") or True, seconds=60)

    def kill(self, number):
        self.members[number].kill()
        self.members[number].wait()

    def revive(self, number):
        self.members[number] = self.start(number)
        self.ready()


@pytest.fixture(scope="module")
def etcd(lab):
    return Etcd(lab)


@pytest.fixture(scope="module")
def cloud(etcd, clouds):
    madang = clouds("etcd")
    madang.up("--store", ADDRESS, "--simulated-hosts", "2", seconds=600)
    return madang


def refused(cloud, *arguments):
    """A command that has to fail; what it says."""
    command = cloud.lab.enter(cloud.binary, *arguments)
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=cloud.environment())
    assert done.returncode != 0, done.stdout
    assert "panicked" not in done.stderr
    return done.stderr


def boot(cloud, name):
    cloud.openstack(
        "server", "create", "--image", "tiny", "--flavor", "m1.tiny", "--network", "private",
        "--availability-zone", "simulated", name, "--wait",
    )  # fmt: skip


def names(cloud):
    return sorted(server["Name"] for server in cloud.openstack("server", "list"))


def test_the_state_is_in_etcd(cloud, etcd):
    assert not (cloud.data / "store.db").exists()
    assert cloud.openstack("token", "issue")["id"]
    cloud.openstack("network", "create", "ours", openrc="admin-openrc")
    keys = etcd.ctl("get", "--prefix", "--keys-only", "/madang/")
    assert "/madang/head" in keys and "/madang/records/networks/" in keys


def test_servers_are_there_after_restarts_and_without_a_member(cloud, etcd):
    network = cloud.openstack("network", "list", openrc="admin-openrc")
    assert "ours" in [one["Name"] for one in network]
    before = boot_some(cloud, 2)
    etcd.kill(0)
    cloud.openstack("network", "create", "without-a-member", openrc="admin-openrc")
    cloud.kill()
    cloud.up("--simulated-hosts", "2")
    assert names(cloud) == before
    etcd.revive(0)
    cloud.stop()
    cloud.up("--store", ADDRESS, "--simulated-hosts", "2")
    assert names(cloud) == before
    assert "without-a-member" in [one["Name"] for one in cloud.openstack("network", "list", openrc="admin-openrc")]


def boot_some(cloud, count):
    for number in range(count):
        boot(cloud, f"server-{number}")
    found = names(cloud)
    assert len(found) == count
    return found


def test_another_madang_is_kept_out(cloud):
    said = refused(cloud, "up", "--data-dir", cloud.lab.scratch / "second", "--listen", "127.0.0.1:8009", "--store", ADDRESS)
    assert f"belongs to instance {cloud.instance}" in said and "--store-take-over" in said
    cloud.openstack("token", "issue")


def test_a_backup_is_taken_and_restored(cloud, clouds):
    file = cloud.lab.scratch / "state"
    cloud.cli("backup", file)
    restored = clouds("restored", listen="127.0.0.1:8010")
    restored.cli("restore", file)
    assert (restored.data / "store.db").exists()


def test_it_moves_to_sqlite_and_back(cloud, etcd):
    before = names(cloud)
    cloud.stop()
    database = cloud.data / "store.db"
    said = cloud.cli("migrate", "--from", ADDRESS, "--to", f"sqlite:{database}")
    moved = re.search(r"(\d+) records are the same .* SHA-256 ([0-9a-f]{64})", said)
    assert moved and int(moved.group(1)) > 50, said
    said = refused(cloud, "migrate", "--from", ADDRESS, "--to", f"sqlite:{database}")
    assert f"there is a file at {database} already" in said
    cloud.up("--store", "sqlite", "--simulated-hosts", "2")
    assert names(cloud) == before
    assert not (cloud.data / "store.toml").exists()
    boot(cloud, "in-sqlite")
    cloud.stop()
    said = refused(cloud, "migrate", "--from", f"sqlite:{database}", "--to", ADDRESS)
    assert "there is something in etcd below /madang/ already" in said
    said = refused(cloud, "up", "--data-dir", cloud.data, "--listen", cloud.listen, "--store", f"{ADDRESS}/fresh")
    assert f"madang migrate --from sqlite:{database} --to {ADDRESS}/fresh" in said
    assert not etcd.ctl("get", "--prefix", "/fresh/"), "what was refused leaves nothing"
    said = cloud.cli("migrate", "--from", f"sqlite:{database}", "--to", f"{ADDRESS}/fresh")
    assert "records are the same" in said
    cloud.up("--store", f"{ADDRESS}/fresh", "--simulated-hosts", "2")
    assert names(cloud) == sorted([*before, "in-sqlite"])
