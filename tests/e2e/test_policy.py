"""An operator's own policy: taken while the cloud runs, explained, and never half taken."""

import pytest

from lab import wait_for


@pytest.fixture(scope="module")
def cloud(clouds):
    madang = clouds("policy")
    madang.up(seconds=600)
    return madang


def test_a_rule_is_overridden_without_a_restart(cloud):
    cloud.openstack("network", "create", "before")
    (cloud.data / "policy.yaml").write_text('# no networks for now\n"create_network": "role:admin"\n')

    def is_refused():
        return "403" in cloud.refused("network", "create", "never")

    wait_for("the new rule", is_refused, seconds=30)
    assert cloud.openstack("network", "create", "mine", openrc="admin-openrc")["name"] == "mine"
    said = cloud.cli("policy", "list", "--service", "network", "--changed")
    assert "create_network" in said and "line 2" in said


def test_a_mistake_is_named_and_what_held_before_goes_on(cloud):
    (cloud.data / "policy.yaml").write_text('"create_network": "role:admin or"\n')
    log = cloud.data / "madang.log"
    wait_for("the mistake in the log", lambda: "line 1" in log.read_text() and "create_network" in log.read_text(), seconds=30)
    assert "403" in cloud.refused("network", "create", "never")
    cloud.stop()
    said = cloud.lab.run(cloud.binary, "up", "--data-dir", cloud.data, "--listen", cloud.listen, check=False, env=cloud.environment())
    assert "ready" not in said
    (cloud.data / "policy.yaml").unlink()
    cloud.up()
    cloud.openstack("network", "create", "after")


def test_an_answer_is_explained(cloud):
    ask = ["policy", "check", "--rule", "os_compute_api:servers:create", "--user", "demo", "--project", "demo"]
    said = cloud.cli(*ask)
    assert said.splitlines()[-1] == "allowed" and "role:member" in said
    said = cloud.cli(*ask, "--target", "project_id=another")
    assert said.splitlines()[-1] == "refused" and "wanted is another" in said
