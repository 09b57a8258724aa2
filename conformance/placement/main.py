"""Placement's own functional tests against ours.

The original's YAML files and fixtures run as they are; only what stands behind the fixtures is another: where theirs
write rows, ours ask our API for the same, and each file gets a server and a store of its own.
"""

import collections
import glob
import http.client
import json
import logging
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
import types
import unittest
import urllib.parse
import uuid

from gabbi import driver
from oslo_utils.fixture import uuidsentinel  # noqa: F401  (the fixtures' own names for ids)
from placement.tests.functional import fixtures as fixtures_package
from placement.tests.functional.fixtures import gabbits as original

HERE = pathlib.Path(__file__).parent
# Files whose subject is not there in ours, and why.
LEFT_OUT = {
    "cors": "cross-origin requests are answered by the front, not by Placement",
    "non-cors": "cross-origin requests are answered by the front, not by Placement",
    "legacy-rbac": "the original's old policy defaults, which it is going to drop",
    "-policy": "needs a policy file of the test's own",
}


# Tests that ours is not to pass, and why.
DIFFERENT = {
    "basic-http_405_on_bad_method_at_root": "HEAD is served, so Allow names it",
    "basic-http_405_on_bad_method_on_app": "HEAD is served, so Allow names it",
    "basic-http_405_on_bad_options_method_on_app": "HEAD is served, so Allow names it",
    "basic-http_bad_content_length_not_int": "a header that no client can send; the HTTP server refuses it",
    "bug-1674694_404_with_other_accept": "failures are always JSON, never HTML",
    "microversion_other_accept_header_bad_version": "failures are always JSON, never HTML",
}


class Server:
    """One server with an empty store."""

    current = None

    def __init__(self, binary):
        self.dir = tempfile.TemporaryDirectory(prefix="madang-placement-")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        log = open(pathlib.Path(self.dir.name) / "log", "wb")
        self.process = subprocess.Popen([binary, str(self.port), self.dir.name], stdout=log, stderr=log)
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended: {(pathlib.Path(self.dir.name) / 'log').read_text()}")
            time.sleep(0.05)
        raise RuntimeError("the server does not answer")

    def ask(self, method, path, body=None, version="1.39", accept=(200, 201, 204)):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        headers = {
            "x-auth-token": "admin",
            "content-type": "application/json",
            "openstack-api-version": f"placement {version}",
        }
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        response = connection.getresponse()
        text = response.read()
        connection.close()
        if response.status not in accept:
            raise RuntimeError(f"{method} {path}: {response.status} {text}")
        return json.loads(text) if text else None

    def stop(self):
        self.process.terminate()
        self.process.wait(30)
        self.dir.cleanup()


def ask(*args, **kwargs):
    return Server.current.ask(*args, **kwargs)


def generation(provider):
    return ask("GET", f"/resource_providers/{provider}")["generation"]


class Provider:
    """What the fixtures hold of a provider."""

    def __init__(self, provider_id):
        self.uuid = provider_id

    def set_aggregates(self, aggregates):
        # Before 1.19 the generation is left alone, as in the original's own fixtures.
        ask("PUT", f"/resource_providers/{self.uuid}/aggregates", aggregates, version="1.18")


def create_provider(_context, name, *aggregates, parent=None, uuid=None, **_):
    body = {"name": name, "uuid": uuid or str(globals()["uuid"].uuid4())}
    if parent:
        body["parent_provider_uuid"] = parent
    ask("POST", "/resource_providers", body)
    provider = Provider(body["uuid"])
    if aggregates:
        provider.set_aggregates(list(aggregates))
    return provider


def add_inventory(provider, resource_class, total, **more):
    if resource_class.startswith("CUSTOM_"):
        ask("PUT", f"/resource_classes/{resource_class}")
    path = f"/resource_providers/{provider.uuid}/inventories"
    ask("POST", path, {"resource_class": resource_class, "total": total, **more})


def set_traits(provider, *traits):
    for trait in traits:
        if trait.startswith("CUSTOM_"):
            ask("PUT", f"/traits/{trait}")
    path = f"/resource_providers/{provider.uuid}/traits"
    ask("PUT", path, {"traits": list(traits), "resource_provider_generation": generation(provider.uuid)})


Consumer = collections.namedtuple("Consumer", "uuid user project")


def ensure_consumer(_context, user, project, consumer_id=None):
    return Consumer(consumer_id or str(uuid.uuid4()), user.external_id, project.external_id)


def create_user_and_project(_context, prefix="fake"):
    return Owner(None, f"{prefix}-user"), Owner(None, f"{prefix}-project")


def set_allocation(_context, provider, consumer, resources):
    known = ask("GET", f"/allocations/{consumer.uuid}")
    allocations = known["allocations"]
    for one in allocations.values():
        one.pop("generation", None)
    of_provider = allocations.setdefault(provider.uuid, {"resources": {}})
    of_provider["resources"].update(resources)
    body = {
        "allocations": allocations,
        "project_id": consumer.project,
        "user_id": consumer.user,
        "consumer_generation": known.get("consumer_generation"),
    }
    # Consumers of the fixtures have no type, as from before there were types.
    ask("PUT", f"/allocations/{consumer.uuid}", body, version="1.37")


class Owner:
    """A user or a project, which are only names."""

    def __init__(self, _context, external_id):
        self.external_id = external_id

    def create(self):
        pass


class ResourceClass:
    def __init__(self, context=None, name=None):
        self.name = name

    def create(self):
        ask("PUT", f"/resource_classes/{self.name}")


def begin(binary):
    """What the original's fixtures do before all else, with our server in place of their database."""

    def start_fixture(self):
        os.environ.update(
            {
                **{name: str(uuid.uuid4()) for name in NAMES},
                "CUSTOM_RES_CLASS": "CUSTOM_IRON_NFV",
                "CUSTOM_RES_CLASS1": "CUSTOM_IRON_NFV1",
                "CUSTOM_RES_CLASS2": "CUSTOM_IRON_NFV2",
            }
        )
        self.context = None
        Server.current = Server(binary)

    return start_fixture


def end(_self):
    Server.current.stop()
    Server.current = None


NAMES = """RP_UUID RP_NAME RP_UUID1 RP_NAME1 RP_UUID2 RP_NAME2 PROJECT_ID ADMIN_PROJECT_ID SERVICE_PROJECT_ID USER_ID
PROJECT_ID_ALT USER_ID_ALT INSTANCE_UUID MIGRATION_UUID CONSUMER_UUID PARENT_PROVIDER_UUID
ALT_PARENT_PROVIDER_UUID""".split()


def bridge():
    """The WSGI application that gabbi talks to: it hands each request to the server of the moment."""

    def application(environ, start_response):
        connection = http.client.HTTPConnection("127.0.0.1", Server.current.port, timeout=60)
        path = urllib.parse.quote(environ["PATH_INFO"].encode("latin-1", "surrogateescape")
                                  if environ["PATH_INFO"].isascii() else environ["PATH_INFO"])
        if environ.get("QUERY_STRING") and "?" not in path:
            path += "?" + environ["QUERY_STRING"]
        headers = {
            name[5:].replace("_", "-").lower(): value for name, value in environ.items() if name.startswith("HTTP_")
        }
        if headers.get("x-auth-token") == "admin":
            # The files that are not about roles let admins do all, as before there was a role of services.
            headers.setdefault("x-roles", "admin,service")
        if environ.get("CONTENT_TYPE"):
            headers["content-type"] = environ["CONTENT_TYPE"]
        length = environ.get("CONTENT_LENGTH") or "0"
        length = int(length) if length.isdigit() else 0
        body = environ["wsgi.input"].read(length) if length else None
        connection.request(environ["REQUEST_METHOD"], path, body, headers)
        response = connection.getresponse()
        text = response.read()
        skipped = ("transfer-encoding", "connection", "date")
        answered = [(name, value) for name, value in response.getheaders() if name.lower() not in skipped]
        start_response(f"{response.status} {response.reason}", answered)
        connection.close()
        return [text]

    return lambda: application


def patch(binary):
    original.APIFixture.start_fixture = begin(binary)
    original.APIFixture.stop_fixture = end
    original.tb = types.SimpleNamespace(
        create_provider=create_provider,
        add_inventory=add_inventory,
        set_traits=set_traits,
        set_allocation=set_allocation,
        ensure_consumer=ensure_consumer,
        create_user_and_project=create_user_and_project,
    )
    original.user_obj = types.SimpleNamespace(User=lambda context, external_id: Owner(context, external_id))
    original.project_obj = types.SimpleNamespace(Project=lambda context, external_id: Owner(context, external_id))
    original.rc_obj = types.SimpleNamespace(ResourceClass=ResourceClass)


def main():
    binary, *wanted = sys.argv[1:]
    logging.disable(logging.CRITICAL)
    patch(binary)
    folder = pathlib.Path(fixtures_package.__file__).parent.parent / "gabbits"
    totals = collections.Counter()
    table = {}
    for path in sorted(glob.glob(str(folder / "*.yaml"))):
        name = pathlib.Path(path).stem
        if wanted and name not in wanted:
            continue
        if not wanted and (why := next((why for part, why in LEFT_OUT.items() if part in name), None)):
            table[name] = {"left out": why}
            totals["files left out"] += 1
            continue
        table[name] = run(path, totals)
    print(json.dumps({"totals": totals, "files": table}, indent=1) if not wanted else "", end="")
    print(f"\n{totals['passed']} of {totals['run']} passed, {totals['different']} differ on purpose, "
          f"{totals['skipped']} skipped, {totals['files left out']} files left out")
    sys.exit(1 if totals["run"] != totals["passed"] + totals["different"] else 0)


def run(path, totals):
    """One file's tests."""
    with tempfile.TemporaryDirectory() as folder:
        os.symlink(path, pathlib.Path(folder) / os.path.basename(path))
        suite = driver.build_tests(
            folder,
            unittest.TestLoader(),
            host=None,
            intercept=bridge(),
            fixture_module=original,
            test_loader_name="gabbi",
        )
        result = unittest.TestResult()
        suite.run(result)
    bad = result.failures + result.errors
    different = [pair for pair in bad if any(f"gabbi.{name}." in pair[0].id() for name in DIFFERENT)]
    bad = [pair for pair in bad if pair not in different]
    totals["run"] += result.testsRun
    totals["passed"] += result.testsRun - len(bad) - len(different) - len(result.skipped)
    totals["different"] += len(different)
    totals["skipped"] += len(result.skipped)
    for test, said in bad:
        lines = [line for line in said.strip().splitlines() if line.strip()]
        print(f"FAILED {test.id()}\n    " + "\n    ".join(lines[-12:]), file=sys.stderr)
    return {"run": result.testsRun, "failed": [test.id() for test, _ in bad]}


if __name__ == "__main__":
    main()
