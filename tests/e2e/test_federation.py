"""Users of an OpenID Connect provider, with the stock client, keystoneauth's plugins and a browser's requests."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lab import wait_for

ISSUER = "http://127.0.0.1:9400"
DISCOVERY = f"{ISSUER}/.well-known/openid-configuration"
DASHBOARD = "http://127.0.0.1:9401/auth/websso/"
CONFIGURATION = f"""
[identity.federation]
trusted_dashboards = ["{DASHBOARD}"]

[identity.federation.providers.sso]
issuer = "{ISSUER}"
client_id = "madang"
client_secret = "hush"
userinfo = true
"""
RULES = [{
    "local": [
        {"user": {"name": "{0}"}},
        {"groups": "{1}", "domain": {"name": "Default"}},
    ],
    "remote": [{"type": "OIDC-preferred_username"}, {"type": "HTTP_OIDC_GROUPS", "blacklist": ["chess"]}],
}]  # fmt: skip

# What a client does, inside of the lab: `login PLUGIN JSON` prints the token, `browser` the page that a dashboard gets.
CLIENT = Path(__file__).with_name("oidc_client.py")


@pytest.fixture(scope="module")
def cloud(lab, clouds):
    lab.start(sys.executable, Path(__file__).with_name("oidc_provider.py"), "9400",
              stdout=subprocess.DEVNULL, stderr=(lab.scratch / "provider.log").open("w"))  # fmt: skip
    madang = clouds("federation")
    file = lab.scratch / "federation.toml"
    file.write_text(CONFIGURATION)
    madang.up("--config", file, seconds=600)
    wait_for("the provider", lambda: lab.run("curl", "-fsS", DISCOVERY))
    (madang.home / "rules.json").write_text(json.dumps(RULES))
    admin = {"openrc": "admin-openrc"}
    madang.openstack("group", "create", "staff", **admin)
    madang.openstack("project", "create", "lab", **admin)
    run_admin(madang, "role", "add", "--group", "staff", "--project", "lab", "member")
    madang.openstack("identity", "provider", "create", "sso", "--remote-id", ISSUER, **admin)
    madang.openstack("mapping", "create", "people", "--rules", madang.home / "rules.json", **admin)
    madang.openstack("federation", "protocol", "create", "openid", "--identity-provider", "sso", "--mapping", "people", **admin)
    return madang


def run_admin(madang, *command):
    """For commands that print nothing."""
    madang.lab.run(madang.client, *command, env=madang.environment("admin-openrc"))


def federated(cloud, kind, **options):
    """The client's options for a login of this kind."""
    options = {"auth_type": kind, "identity_provider": "sso", "protocol": "openid", **options}
    if kind != "v3oidcaccesstoken":
        options |= {"discovery_endpoint": DISCOVERY, "client_id": "madang", "client_secret": "hush"}
    environment = {f"OS_{name.upper()}": value for name, value in options.items()}
    return {**cloud.environment(), "OS_AUTH_URL": cloud.environment("openrc")["OS_AUTH_URL"], **environment}


def ask(cloud, command, environment, **options):
    return cloud.lab.run(cloud.client, *command.split(), "-f", "json", env=environment, **options)


def test_a_password_at_the_provider_is_a_login_here(cloud):
    me = federated(cloud, "v3oidcpassword", username="bob", password="secret", project_name="lab", project_domain_name="Default")
    token = json.loads(ask(cloud, "token issue", me))
    project = cloud.openstack("project", "show", "lab", openrc="admin-openrc")
    assert token["project_id"] == project["id"]
    user = cloud.openstack("user", "show", token["user_id"], openrc="admin-openrc")
    assert user["name"] == "bob"
    cloud.lab.run(cloud.client, *"network create made-by-bob".split(), env=me)
    assert "made-by-bob" in ask(cloud, "network list", me)
    assert cloud.openstack("network", "show", "made-by-bob", openrc="admin-openrc")["project_id"] == project["id"]


def test_who_is_in_no_group_gets_in_and_nowhere(cloud):
    eve = {"username": "eve", "password": "secret"}
    unscoped = federated(cloud, "v3oidcpassword", **eve)
    assert json.loads(ask(cloud, "federation project list", unscoped)) == []
    scoped = federated(cloud, "v3oidcpassword", project_name="lab", project_domain_name="Default", **eve)
    with pytest.raises(AssertionError, match="401"):
        ask(cloud, "token issue", scoped)
    wrong = federated(cloud, "v3oidcpassword", username="bob", password="guess")
    with pytest.raises(AssertionError):
        ask(cloud, "token issue", wrong)


def test_a_client_and_a_token_are_logins(cloud):
    robot = federated(cloud, "v3oidcclientcredentials", project_name="lab", project_domain_name="Default")
    robot.pop("OS_USERNAME", None)
    issued = json.loads(ask(cloud, "token issue", robot))
    assert cloud.openstack("user", "show", issued["user_id"], openrc="admin-openrc")["name"] == "robot"
    form = ["-d", "grant_type=password", "-d", "username=bob", "-d", "password=secret", "-u", "madang:hush"]
    answer = json.loads(cloud.lab.run("curl", "-fsS", *form, f"{ISSUER}/oauth2/token"))
    bearer = federated(cloud, "v3oidcaccesstoken", access_token=answer["access_token"])
    assert [p["Name"] for p in json.loads(ask(cloud, "federation project list", bearer))] == ["lab"]
    changed = answer["access_token"][:-6] + ("AAAAAA" if not answer["access_token"].endswith("AAAAAA") else "BBBBBB")
    with pytest.raises(AssertionError, match="401"):
        ask(cloud, "federation project list", federated(cloud, "v3oidcaccesstoken", access_token=changed))


def test_a_browsers_code_is_a_login(cloud):
    said = cloud.lab.run(sys.executable, CLIENT, "code", cloud.environment("openrc")["OS_AUTH_URL"], ISSUER)
    assert said.split() == ["bob", "lab"]


def test_a_dashboard_gets_a_token_by_way_of_the_browser(cloud):
    said = cloud.lab.run(sys.executable, CLIENT, "websso", cloud.environment("openrc")["OS_AUTH_URL"], DASHBOARD)
    assert said.split() == [DASHBOARD, "bob"]


def test_rules_are_tried_out_beforehand(cloud):
    assertion = cloud.home / "assertion"
    assertion.write_text("OIDC-preferred_username: bob\nHTTP_OIDC_GROUPS: staff;chess\n")
    said = json.loads(cloud.cli("identity", "mapping", "test", "--rules", cloud.home / "rules.json", "--input", assertion))
    assert said["user"]["name"] == "bob"
    assert [group["name"] for group in said["group_names"]] == ["staff"]


def test_a_provider_that_is_gone_takes_its_users_along(cloud):
    me = federated(cloud, "v3oidcpassword", username="bob", password="secret")
    user_id = json.loads(ask(cloud, "token issue", me))["user_id"]
    run_admin(cloud, "identity", "provider", "set", "--disable", "sso")
    with pytest.raises(AssertionError, match="403"):
        ask(cloud, "token issue", me)
    run_admin(cloud, "identity", "provider", "delete", "sso")
    assert "No User found" in cloud.refused("user", "show", user_id, openrc="admin-openrc")
