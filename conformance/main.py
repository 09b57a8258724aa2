"""Runs the originals' test suites against a madang of its own, and keeps the results.

    conformance/run                       the default lists, then docs/conformance.md is written anew
    conformance/run identity compute      only these
    conformance/run compute --only REGEX  some tests of a list; the page is left alone
    conformance/run --against identity    not a madang of its own: the cloud that the OS_* variables name
    conformance/run --page                write docs/conformance.md from the results that are kept

For each list a cloud is started in a network namespace of its own (tests/e2e/lab.py), with four simulated hosts or, where a
list looks into guests, the real one; for a list of which some do, one of each. What failed and what it said is in `--out`, by list. Exit status 0 only where nothing
failed and nothing was left out.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests/e2e"))

import lab as laboratory  # noqa: E402
import page  # noqa: E402
import results  # noqa: E402

PLAIN = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/root"), "LANG": "C.UTF-8"}
DEFAULT = ["identity", "identity-more", "compute", "interop-compute", "image", "network", "volume", "object", "interop-object"]


def main():
    lists = tomllib.loads((HERE / "lists.toml").read_text())
    options = arguments(lists)
    if options.page:
        return page.write()
    failed = False
    for name in options.lists or DEFAULT:
        outcome = run(name, lists[name], lists["settings"], options)
        print(outcome.line(), flush=True)
        failed = failed or bool(outcome.failed or outcome.not_run)
        if not options.only:
            page.keep(outcome)
    if not options.only:
        page.write()
    return int(failed)


def arguments(lists):
    parser = argparse.ArgumentParser(prog="conformance/run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [name for name in lists if name != "settings"]
    parser.add_argument("lists", nargs="*", metavar="LIST", help=f"one of {', '.join(names)}; default: {' '.join(DEFAULT)}")
    parser.add_argument("--only", metavar="REGEX", help="of these, tests whose id matches")
    parser.add_argument("--against", action="store_true", help="test the cloud of the OS_* variables")
    parser.add_argument("--binary", type=Path, default=laboratory.ROOT / "target/release/madang", help="default: %(default)s")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="tests at the same time (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=laboratory.ROOT / "conformance-results", help="default: %(default)s")
    parser.add_argument("--page", action="store_true", help="only write docs/conformance.md")
    options = parser.parse_args()
    for name in options.lists:
        if name not in names:
            parser.error(f"there is no list {name!r}; there are {', '.join(names)}")
    options.out = options.out.resolve()
    return options


def run(name, chosen, settings, options):
    """Runs one list, each part of it in a cloud that suits it; its outcome."""
    work = options.out / name
    work.mkdir(parents=True, exist_ok=True)
    selected = results.select(listed(work), chosen, options.only, HERE)
    if not selected:
        raise SystemExit(f"{name}: no test is selected")
    guests = chosen.get("guests")
    parts = [(selected, chosen.get("hosts", "simulated"), work)]
    if guests:
        looks = [test for test in selected if re.search(guests["select"], test)]
        others = [test for test in selected if test not in set(looks)]
        parts = [(others, "simulated", work), (looks, "real", work / "guests")]
    outcome = results.Outcome(name, [], {}, {}, [])
    for tests, hosts, place in parts:
        # What does not run now is not told of again.
        shutil.rmtree(work / "guests", ignore_errors=True) if place == work else place.mkdir()
        if tests:
            own = merged(settings, chosen.get("settings", {}))
            if guests and hosts == "real":
                own = merged(own, guests.get("settings", {}))
            outcome.add(run_part(name, tests, hosts, own, chosen.get("minutes", 25), place, options))
    return outcome


def merged(settings, own):
    """Settings with others put over them, option by option."""
    return {section: {**settings.get(section, {}), **own.get(section, {})} for section in settings | own}


def listed(work, configuration="none.conf"):
    """The ids of all tests there are. Their names do not depend on a cloud, but some attributes on its configuration."""
    environment = {**PLAIN, "TEMPEST_CONFIG_DIR": str(work), "TEMPEST_CONFIG": configuration}
    shutil.rmtree(work / ".stestr", ignore_errors=True)
    subprocess.run([*stestr(), "init"], cwd=work, env=environment, check=True, stdout=subprocess.DEVNULL)
    tests = subprocess.run([*stestr(), "list"], cwd=work, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return tests.stdout.splitlines()


def stestr():
    """The command, of tests that run one after the other where they share what their class made."""
    tools = Path(sys.executable).parent
    return [tools / "stestr", "--test-path", site() / "test_discover", "--top-dir", site(), "--group-regex", r"([^\.]*\.)*"]


def run_part(name, selected, hosts, settings, minutes, work, options):
    """Runs tests in a cloud of their own; their outcome."""
    with cloud(hosts, options) as (enter, environment):
        environment = {**environment, "TEMPEST_CONFIG_DIR": str(work), "TEMPEST_CONFIG": "tempest.conf", "OS_TEST_TIMEOUT": "300"}

        def tool(*command, **keywords):
            return subprocess.run(enter(*command), cwd=work, env=environment, check=True, **keywords)

        tool(sys.executable, HERE / "configure.py", work / "tempest.conf", json.dumps(settings), hosts)
        ids = {results.bare(test): test for test in listed(work, "tempest.conf")}
        selected = [ids.get(results.bare(test), test) for test in selected]
        (work / "selected.txt").write_text("".join(f"{test}\n" for test in selected))
        command = [*stestr(), "run", "--concurrency", options.workers, "--load-list", "selected.txt", "--subunit"]
        with open(work / "run.subunit", "wb") as stream, open(work / "run.err", "wb") as errors:
            try:
                # stestr's exit status says no more than the stream does.
                subprocess.run(enter(*command), cwd=work, env=environment, stdout=stream, stderr=errors, timeout=minutes * 60)
            except subprocess.TimeoutExpired:
                print(f"{name}: stopped after {minutes} minutes", file=sys.stderr)
    return results.read(name, selected, work)


@contextlib.contextmanager
def cloud(hosts, options):
    """A cloud to test: how a command is run where it is reached, and the environment of its admin."""
    if options.against:
        named = {key: value for key, value in os.environ.items() if key.startswith("OS_")}
        yield (lambda *command: [str(part) for part in command]), {**PLAIN, **named}
        return
    if not options.binary.exists():
        raise SystemExit(f"{options.binary} is not built: `make build`, or name another with --binary")
    lab = laboratory.Lab()
    try:
        madang = laboratory.Madang(lab, binary=options.binary)
        # Outside of the lab, which does not reach Debian's mirror; what it downloads is kept for `up`.
        laboratory.run(options.binary, "image", "build-tiny", lab.scratch / "tiny.qcow2", timeout=900)
        simulated = [] if hosts == "real" else ["--simulated-hosts", "4"]
        # For what is imported from a server.
        lab.start(sys.executable, "-m", "http.server", "8099", "--bind", "127.0.0.1", "--directory", lab.scratch,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        madang.up("--config", HERE / "madang.toml", *simulated)
        try:
            yield lab.enter, madang.environment("admin-openrc")
        finally:
            (options.out / "madang.log").write_text(madang.output())
            madang.stop()
            madang.down()
    finally:
        lab.close()


def site():
    """Where tempest is installed."""
    import tempest

    return Path(tempest.__file__).parent


if __name__ == "__main__":
    sys.exit(main())
