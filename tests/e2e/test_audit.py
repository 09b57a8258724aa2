"""The audit trail: who did what, as the stock client did it."""

import json

import pytest

from lab import wait_for


@pytest.fixture(scope="module")
def cloud(clouds):
    madang = clouds("audit")
    madang.up(seconds=600)
    return madang


def events(cloud, *arguments):
    lines = cloud.cli("audit", "--format", "json", *arguments).splitlines()
    return [json.loads(line) for line in lines]


def test_what_the_client_did_is_in_the_trail(cloud):
    made = cloud.openstack("network", "create", "traced")
    cloud.openstack("network", "set", "--description", "hush", "traced", text=True)
    cloud.openstack("network", "delete", "traced", text=True)

    def all_three():
        found = [e for e in events(cloud, "--project", "demo", "--resource", "networks") if e.get("resource_id") == made["id"]]
        return found if len(found) == 3 else None

    create, update, delete = wait_for("the events", all_three)
    assert [e["action"] for e in (create, update, delete)] == ["create", "update", "delete"]
    assert create["user_name"] == "demo" and create["project_name"] == "demo" and create["source"] == "127.0.0.1"
    assert create["status"] == 201 and delete["status"] == 204 and create["request_id"].startswith("req-")
    assert "member" in create["roles"] and create["route"] == "/network/v2.0/networks"
    assert "hush" not in json.dumps([create, update, delete])


def test_refused_logins_are_in_the_trail_without_what_was_typed(cloud):
    said = cloud.refused("--os-username", "mallory", "--os-password", "sesame", "token", "issue")
    assert "401" in said

    def refused():
        return events(cloud, "--user", "mallory", "--outcome", "failure")

    event = wait_for("the refused login", refused)[-1]
    assert event["action"] == "authenticate" and event["status"] == 401 and "user_id" not in event
    assert "sesame" not in json.dumps(event)


def test_a_project_reads_its_own_through_the_catalog(cloud):
    script = """
import openstack
cloud = openstack.connect()
asked = cloud.session.get("/v1/events?action=create", endpoint_filter={"service_type": "audit", "interface": "public"})
other = cloud.session.get(
    "/v1/events?project_id=other", endpoint_filter={"service_type": "audit", "interface": "public"}, raise_exc=False)
print(len({event["project_id"] for event in asked.json()["events"]}), asked.status_code, other.status_code)
"""
    python = cloud.client.parent / "python"
    said = cloud.lab.run(python, "-c", script, env=cloud.environment("openrc"))
    assert said.split() == ["1", "200", "403"]


def test_it_survives_a_crash_and_is_read_while_nothing_is_up(cloud):
    before = len(events(cloud))
    cloud.kill()
    assert len(events(cloud)) == before > 0
    assert "authenticate" in cloud.cli("audit", "--limit", "500")
    cloud.up()
    cloud.stop()
