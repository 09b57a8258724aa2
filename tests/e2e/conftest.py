"""What the end-to-end tests share: a laboratory each module has for itself, and pictures of the host."""

import os
import subprocess

import pytest

import lab as laboratory


def pytest_sessionstart(session):
    if os.geteuid() != 0:
        pytest.exit("the end-to-end tests make network namespaces: run them as root", returncode=2)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """The tiny image is built once, outside of the lab: it comes from Debian's mirror, which a lab does not reach."""
    binary = laboratory.Madang.default_binary()
    assert binary.exists(), f"{binary} is not built: cargo build -p madang"
    path = tmp_path_factory.mktemp("tiny") / "tiny.qcow2"
    laboratory.run(binary, "image", "build-tiny", path, timeout=900)
    return path


@pytest.fixture(scope="session")
def debian(tmp_path_factory):
    """A Debian with stock cloud-init, built likewise; it stays in the cache for a month."""
    path = tmp_path_factory.mktemp("debian") / "debian.qcow2"
    laboratory.run(laboratory.ROOT / "scripts/debian-guest", path, timeout=2400)
    return path


@pytest.fixture(scope="module")
def lab(tiny):
    """Namespaces of this module's own; whatever still runs in them ends with it."""
    made = laboratory.Lab()
    yield made
    made.close()


@pytest.fixture(scope="module")
def clouds(lab):
    """Makes `Madang`s in the lab; all are taken down at the end, also after a failure."""
    made = []

    def make(*arguments, **options):
        made.append(laboratory.Madang(lab, *arguments, **options))
        return made[-1]

    yield make
    for madang in made:
        if madang.process and madang.process.poll() is None:
            madang.kill()
        if madang.instance:
            try:
                madang.down()
            except (AssertionError, subprocess.TimeoutExpired) as failure:
                print(f"madang down: {failure}")


@pytest.fixture(scope="session")
def key(tmp_path_factory):
    """An SSH key: the private file; the public one is beside it."""
    path = tmp_path_factory.mktemp("key") / "id"
    laboratory.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path)
    return path


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Steps of a walk build on each other: after a failed one the rest says so instead of failing in its own ways."""
    outcome = yield
    if call.excinfo is not None and call.when in ("setup", "call") and item.get_closest_marker("walk"):
        report = outcome.get_result()
        if report.failed and not hasattr(item.parent, "stopped_at"):
            item.parent.stopped_at = item.name


def pytest_runtest_setup(item):
    stopped_at = getattr(item.parent, "stopped_at", None)
    if stopped_at and item.get_closest_marker("walk") and not item.get_closest_marker("always"):
        pytest.fail(f"the walk ended at {stopped_at}", pytrace=False)


def pytest_configure(config):
    config.addinivalue_line("markers", "walk: a step that builds on the ones before it")
    config.addinivalue_line("markers", "always: a step that is taken even when the walk has ended")
