"""Back in when the credentials are lost: on a running and on a stopped cloud, as whoever owns the data directory."""

import pytest


@pytest.fixture(scope="module")
def cloud(clouds):
    madang = clouds("reset")
    madang.up(seconds=600)
    return madang


def test_a_running_cloud_takes_a_new_admin_and_ends_the_old_ones_tokens(cloud):
    token = cloud.openstack("token", "issue", openrc="admin-openrc")["id"]
    old = cloud.environment("admin-openrc")["OS_PASSWORD"]
    (cloud.data / "credentials.toml").unlink()
    cloud.cli("identity", "reset-admin")
    assert cloud.environment("admin-openrc")["OS_PASSWORD"] != old
    assert "admin" in [user["Name"] for user in cloud.openstack("user", "list", openrc="admin-openrc")]
    cloud.openstack("token", "issue", openrc="openrc")
    asked = cloud.lab.run(
        "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-H", f"X-Auth-Token: {token}", f"http://{cloud.listen}/identity/v3/projects"
    )
    assert asked == "401"
    assert "servers" in cloud.cli("status")


def test_a_stopped_cloud_is_made_whole(cloud):
    for system in (["--project", "admin"], ["--system", "all"]):
        cloud.openstack("role", "remove", "--user", "admin", *system, "admin", openrc="admin-openrc", text=True, check=False)
    cloud.stop()
    (cloud.data / "credentials.toml").write_text("not credentials")
    cloud.cli("identity", "reset-admin")
    cloud.up()
    assert cloud.openstack("project", "list", openrc="admin-openrc")
    assert "servers" in cloud.cli("status")
