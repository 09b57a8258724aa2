"""A laboratory: network namespaces in which madang, its clients and its outside world run.

    the machine's own namespace        nothing is routed here
    ├── lab-PID          "the host":   madang, the clients; 127.0.0.1, 198.51.100.1
    └── lab-PID-out      "outside":    198.51.100.2, knows the way back to the public network

Namespaces are entered with nsenter rather than `ip netns exec`, which would also replace /sys and with it the cgroups.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

HOST_ADDRESS = "198.51.100.1"
OUTSIDE_ADDRESS = "198.51.100.2"

# By its path, so that a test can take everything else away.
NSENTER = shutil.which("nsenter") or "/usr/bin/nsenter"

# Every name that an instance makes on a host carries its id.
INSTANCE_NAME = re.compile(r"(?:mdg-?|madang-)([0-9a-f]{6})")


def run(*command, check=True, timeout=120, **options):
    """Runs a command of the machine; its standard output as text."""
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=timeout, **options
    )
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, command))}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


class Lab:
    """Two namespaces and what was started in them. Everything goes when it is closed, whatever happened before."""

    def __init__(self):
        self.name = f"lab-{os.getpid()}"
        self.outside = f"{self.name}-out"
        self.processes = []
        self.scratch = Path(tempfile.mkdtemp(prefix="madang-lab-"))
        try:
            run("ip", "netns", "add", self.name)
            run("ip", "netns", "add", self.outside)
            link = ["ip", "link", "add", "uplink", "netns", self.name, "type", "veth"]
            run(*link, "peer", "name", "uplink", "netns", self.outside)
            for namespace, own, other in (
                (self.name, HOST_ADDRESS, OUTSIDE_ADDRESS),
                (self.outside, OUTSIDE_ADDRESS, HOST_ADDRESS),
            ):
                inside = ["ip", "-n", namespace]
                run(*inside, "link", "set", "lo", "up")
                # Link-local addresses come seconds later and would look like something left behind.
                run(*inside, "link", "set", "uplink", "addrgenmode", "none")
                run(*inside, "address", "add", f"{own}/24", "dev", "uplink")
                run(*inside, "link", "set", "uplink", "up")
                run(*inside, "route", "add", "default", "via", other)
            # An operator who wants floating addresses reached from beyond the host turns forwarding on; madang does not.
            self.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
        except BaseException:
            self.close()
            raise

    def enter(self, *command, namespace=None):
        """A command as it is run inside the lab."""
        return [NSENTER, f"--net=/run/netns/{namespace or self.name}", "--", *map(str, command)]

    def run(self, *command, namespace=None, **options):
        """Runs a command inside the lab; its standard output."""
        return run(*self.enter(*command, namespace=namespace), **options)

    def start(self, *command, namespace=None, **options):
        """Starts a command inside the lab, which ends with it."""
        process = subprocess.Popen(self.enter(*command, namespace=namespace), start_new_session=True, **options)
        self.processes.append(process)
        return process

    def close(self):
        for process in self.processes:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        for namespace in (self.name, self.outside):
            if Path("/run/netns", namespace).exists():
                # Whoever still lives in there would keep it alive without a name.
                for pid in run("ip", "netns", "pids", namespace, check=False).split():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(pid), signal.SIGKILL)
                run("ip", "netns", "delete", namespace, check=False)
        shutil.rmtree(self.scratch, ignore_errors=True)


def wait_for(what, condition, seconds=60, every=0.2):
    """Waits until the condition is true; its value. The last failure is told when it never is."""
    deadline = time.monotonic() + seconds
    last = None
    while True:
        try:
            value = condition()
            if value:
                return value
        except (AssertionError, OSError, subprocess.SubprocessError) as failure:
            last = failure
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {seconds} s" + (f"; last: {last}" if last else ""))
        time.sleep(every)


# -- the host, before and after ------------------------------------------------------------------------------------


def snapshot(lab=None, instances=()):
    """What a well-behaved guest must leave as it found it: by subject, a set of lines.

    Traces of madang instances other than `instances`, and of other labs, are left out: they live beside this test.
    `lab` adds the lab's own namespace, which is the host of the madang under test.
    """
    namespaces = {"machine": []}
    if lab:
        namespaces["lab"] = lab.enter()
    seen = {
        "network namespaces": set(_names("/run/netns")),
        # Others' come and go with what runs in them; madang's carry its name, wherever they hang.
        "cgroups": {str(path) for path in _directories("/sys/fs/cgroup") if "madang" in str(path) or "mdg" in str(path)},
        "mounts": {line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()},
        "loop devices": {file for file in _loops() if "/madang-lab-" not in file or (lab and str(lab.scratch) in file)},
        "accounts": set(Path("/etc/passwd").read_text().splitlines()),
        "files": {
            str(path)
            for place in ("/run", "/var/lib", "/var/tmp", "/dev/shm", "/etc", "/etc/cron.d", "/etc/systemd/system", "/etc/sysctl.d")
            for path in Path(place).glob("*m*d*g*")
        },
        "processes": {line for line in _processes() if lab is None or str(lab.scratch) in line},
    }
    for name, inside in namespaces.items():
        for subject, command in {
            "links": "ip -j link show",
            "addresses": "ip -j address show",
            "routes": "ip route show table all",
            "rules": "ip rule show",
            "filters": "nft list ruleset",
        }.items():
            text = run(*inside, *command.split())
            lines = _fields(text, subject) if command.startswith("ip -j") else text.splitlines()
            seen[f"{subject} of the {name}"] = {re.sub(r"counter packets \d+ bytes \d+", "counter", line) for line in lines}
        seen[f"settings of the {name}"] = _settings(inside)

    def is_ours(line):
        others = set(INSTANCE_NAME.findall(line)) - set(instances)
        return not others and not (re.search(r"\blab-\w", line) and (lab is None or lab.name not in line))

    return {subject: {line for line in lines if is_ours(line)} for subject, lines in seen.items()}


def difference(before, after):
    """What the second snapshot has that the first has not, and the other way round; empty when all is as before."""
    found = []
    for subject in before:
        found += [f"left behind in {subject}: {line}" for line in sorted(after[subject] - before[subject])]
        if subject != "processes":
            found += [f"gone from {subject}: {line}" for line in sorted(before[subject] - after[subject])]
    return found


def _loops():
    """The files that are block devices now."""
    for path in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            yield path.read_text().strip()


def _names(directory):
    return os.listdir(directory) if os.path.isdir(directory) else []


def _directories(top):
    for directory, below, _ in os.walk(top):
        yield directory
        below[:] = [name for name in below if not os.path.islink(os.path.join(directory, name))]


def _fields(text, subject):
    entries = json.loads(text or "[]")
    if subject == "links":
        return [f"{entry['ifname']} {entry.get('link_type')} {entry.get('mtu')} {entry.get('operstate')}" for entry in entries]
    return [
        f"{entry['ifname']} {address.get('local')}/{address.get('prefixlen')}"
        for entry in entries
        for address in entry.get("addr_info", [])
    ]


def _settings(inside):
    """Everything below net, but for what the kernel counts by itself."""
    text = run(*inside, "grep", "-rsH", ".", "/proc/sys/net", "/proc/sys/kernel/unprivileged_userns_clone", check=False)
    volatile = re.compile(r"nf_conntrack_count|/nf_log/|/mcfilter|tcp_available|/neigh/|fib_.*cache|/stable_secret")
    return {line for line in text.splitlines() if not volatile.search(line)}


def _processes():
    """Processes of the kinds that madang starts. Others come and go on any machine."""
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        with contextlib.suppress(OSError):
            words = Path("/proc", entry, "cmdline").read_bytes().split(b"\0")
            line = b" ".join(words).decode(errors="replace").strip()
            name = os.path.basename(words[0].decode(errors="replace"))
            if re.match(r"madang|qemu-system|runc|dnsmasq|container-shim", name):
                yield f"{entry} {line}"


# -- madang --------------------------------------------------------------------------------------------------------


class Madang:
    """A `madang up` in the lab, its data directory, and the stock clients with its credentials."""

    def __init__(self, lab, name="one", listen="127.0.0.1:8000", binary=None, client=None):
        self.lab = lab
        self.listen = listen
        self.binary = Path(binary or self.default_binary())
        self.client = Path(client or ROOT / ".venv/bin/openstack")
        self.data = lab.scratch / name
        self.home = lab.scratch / f"{name}-home"
        self.home.mkdir(parents=True, exist_ok=True)
        self.log = lab.scratch / f"{name}.log"
        self.prefix = []
        self.seen_as = None  # where it sees its data directory, if not where we do
        self.process = None
        self.ready_line = None

    @staticmethod
    def default_binary():
        """What `make test` has built, or what MADANG_BINARY names."""
        return Path(os.environ.get("MADANG_BINARY") or ROOT / "target/debug/madang")

    def environment(self, openrc=None):
        """What a user's shell has: nothing of ours but what openrc exports."""
        plain = {"PATH": os.environ["PATH"], "HOME": str(self.home), "LANG": "C.UTF-8"}
        if openrc is None:
            return plain
        text = run("bash", "-c", f"set -a; . {self.data / openrc}; env -0", env=plain)
        exported = dict(pair.split("=", 1) for pair in text.split("\0") if "=" in pair)
        return {**plain, **{name: value for name, value in exported.items() if name.startswith("OS_")}}

    def up(self, *arguments, seconds=60):
        """Starts it and waits for its line; the line."""
        assert self.process is None or self.process.poll() is not None, "it is up already"
        with open(self.log, "a") as log:
            start_of_output = log.tell()
            self.process = self.lab.start(
                *self.prefix, self.binary, "up", "--data-dir", self.seen_as or self.data, "--listen", self.listen, *arguments,
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env={**self.environment(), "RUST_BACKTRACE": "1"},
            )

        def ready():
            if self.process.poll() is not None:
                raise RuntimeError(f"madang up ended with {self.process.returncode}:\n{self.output(start_of_output)}")
            return re.search(r"^madang is ready.*$", self.output(start_of_output), re.MULTILINE)

        try:
            self.ready_line = wait_for("madang ready", ready, seconds, every=0.02).group(0)
        except AssertionError as failure:
            raise AssertionError(f"{failure}\n{self.output(start_of_output)}") from None
        return self.ready_line

    def output(self, start=0):
        """What it has printed and logged."""
        return self.log.read_text(errors="replace")[start:] if self.log.exists() else ""

    def stop(self, seconds=30):
        """SIGTERM; must end by itself, cleanly."""
        self.process.terminate()
        assert self.process.wait(seconds) == 0, self.output()[-4000:]

    def kill(self):
        """kill -9."""
        self.process.kill()
        self.process.wait()

    def processes(self):
        """What runs under the instance's control groups: process id and command line."""
        found = {}
        for entry in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                if f"/madang-{self.instance}/" in Path("/proc", entry, "cgroup").read_text() + "/":
                    words = Path("/proc", entry, "cmdline").read_bytes().split(b"\0")
                    found[int(entry)] = b" ".join(words).decode(errors="replace").strip()
        return found

    def cli(self, *arguments, **options):
        """Another subcommand of the binary on the same data directory."""
        options.setdefault("env", self.environment())
        options["env"] = {**options["env"], "MADANG_DATA_DIR": str(self.data)}
        return self.lab.run(self.binary, *arguments, **options)

    def down(self):
        return self.cli("down")

    @property
    def instance(self):
        """The id that all its names on the host carry; none before the first start."""
        file = self.data / "instance"
        return file.read_text().strip() if file.exists() else None

    def openstack(self, *arguments, openrc="openrc", check=True, timeout=180, text=False):
        """The stock client; what it answers, read from JSON where it gives that."""
        formatted = [] if text else ["-f", "json"]
        command = [self.client, *arguments, *formatted]
        answer = self.lab.run(*command, env=self.environment(openrc), check=check, timeout=timeout)
        if text:
            return answer
        return json.loads(answer) if answer.strip() else None

    def refused(self, *arguments, openrc="openrc"):
        """The stock client is expected to fail; what it says."""
        command = self.lab.enter(self.client, *arguments)
        done = subprocess.run(command, env=self.environment(openrc), capture_output=True, text=True, timeout=180)
        assert done.returncode != 0, f"{arguments} was expected to be refused:\n{done.stdout}"
        return done.stdout + done.stderr

    def ssh(self, address, command, key, user="tiny", seconds=10, check=True):
        """Runs a command in a guest."""
        return self.lab.run(
            "ssh", "-i", key, "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
            "-o", "LogLevel=ERROR", "-o", f"ConnectTimeout={seconds}", f"{user}@{address}", command,
            env=self.environment(), timeout=seconds + 60, check=check,
        )  # fmt: skip

    def reachable(self, address, port, seconds=3, namespace=None):
        """Does a TCP connection come about?"""
        probe = (
            "import socket, sys\n"
            f"try: socket.create_connection(({address!r}, {port}), {seconds}).close()\n"
            "except OSError: sys.exit(1)\n"
        )
        command = self.lab.enter("/usr/bin/python3", "-c", probe, namespace=namespace)
        return subprocess.run(command, timeout=seconds + 10).returncode == 0


def without(program, files, data):
    """What goes before a command that must not find a program of the machine's.

    A mount table of its own hides it. madang leaves such a table for the machine's own when that shows it the same data
    directory, so `data` shows it `files` there, and only there.
    """
    script = 'mount --bind /dev/null "$1" && mount --bind "$2" "$3" && shift 3 && exec "$@"'
    path = shutil.which(program)
    assert path, f"{program} is not on this machine"
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", path, str(files), str(data)]


@contextlib.contextmanager
def inside(namespace):
    """This thread's sockets are made in the namespace while in this block (for openstacksdk, in process)."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)

    def enter(descriptor):
        if libc.setns(descriptor, 0x40000000) != 0:  # CLONE_NEWNET
            raise OSError(ctypes.get_errno(), "setns")

    with open("/proc/thread-self/ns/net") as own, open(f"/run/netns/{namespace}") as other:
        enter(other.fileno())
        try:
            yield
        finally:
            enter(own.fileno())


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
