"""Runs the originals' test suites against a madang of its own, and keeps the results.

    conformance/run                       the default lists, then docs/conformance.md is written anew
    conformance/run identity compute      only these
    conformance/run compute --only REGEX  some tests of a list; the page is left alone
    conformance/run --against identity    not a madang of its own: the cloud that the OS_* variables name
    conformance/run --page                write docs/conformance.md from the results that are kept

For each list a cloud is started in a network namespace of its own (tests/e2e/lab.py), with four simulated hosts or, where a
list looks into guests, the real one. What failed and what it said is in `--out`, by list. Exit status 0 only where nothing
failed and nothing was left out.
"""

import argparse
import contextlib
import json
import os
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

DEFAULT = ["identity", "identity-more", "compute", "interop-compute", "image", "network", "volume"]


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
    """Runs one list; its outcome."""
    work = options.out / name
    work.mkdir(parents=True, exist_ok=True)
    with cloud(chosen, options) as (enter, environment):
        tools = Path(sys.executable).parent
        environment = {**environment, "TEMPEST_CONFIG_DIR": str(work), "TEMPEST_CONFIG": "tempest.conf", "OS_TEST_TIMEOUT": "300"}

        def tool(*command, **keywords):
            return subprocess.run(enter(*command), cwd=work, env=environment, check=True, **keywords)

        tool(sys.executable, HERE / "configure.py", work / "tempest.conf", json.dumps(settings), chosen.get("hosts", "simulated"))
        stestr = [tools / "stestr", "--test-path", site() / "test_discover", "--top-dir", site(), "--group-regex", r"([^\.]*\.)*"]
        shutil.rmtree(work / ".stestr", ignore_errors=True)
        tool(*stestr, "init", stdout=subprocess.DEVNULL)
        listed = tool(*stestr, "list", stdout=subprocess.PIPE, text=True).stdout.splitlines()
        selected = results.select(listed, chosen, options.only, HERE)
        if not selected:
            raise SystemExit(f"{name}: no test is selected")
        (work / "selected.txt").write_text("".join(f"{test}\n" for test in selected))
        command = [*stestr, "run", "--concurrency", options.workers, "--load-list", "selected.txt", "--subunit"]
        minutes = chosen.get("minutes", 25)
        with open(work / "run.subunit", "wb") as stream, open(work / "run.err", "wb") as errors:
            try:
                # stestr's exit status says no more than the stream does.
                subprocess.run(enter(*command), cwd=work, env=environment, stdout=stream, stderr=errors, timeout=minutes * 60)
            except subprocess.TimeoutExpired:
                print(f"{name}: stopped after {minutes} minutes", file=sys.stderr)
    return results.read(name, selected, work)


@contextlib.contextmanager
def cloud(chosen, options):
    """A cloud to test: how a command is run where it is reached, and the environment of its admin."""
    plain = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/root"), "LANG": "C.UTF-8"}
    if options.against:
        named = {key: value for key, value in os.environ.items() if key.startswith("OS_")}
        yield (lambda *command: [str(part) for part in command]), {**plain, **named}
        return
    if not options.binary.exists():
        raise SystemExit(f"{options.binary} is not built: `make build`, or name another with --binary")
    lab = laboratory.Lab()
    try:
        madang = laboratory.Madang(lab, binary=options.binary)
        is_real = chosen.get("hosts") == "real"
        # Outside of the lab, which does not reach Debian's mirror; what it downloads is kept for `up`.
        laboratory.run(options.binary, "image", "build-tiny", lab.scratch / "tiny.qcow2", timeout=900)
        hosts = [] if is_real else ["--simulated-hosts", "4"]
        madang.up("--config", HERE / "madang.toml", *hosts)
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
