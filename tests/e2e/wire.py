"""Plain HTTP against a cloud in a lab: what the stock clients would not send."""

import json as jsonlib

import requests

from lab import inside


class Wire:
    """Requests as one account, from within the lab's namespace."""

    def __init__(self, cloud, openrc="openrc"):
        self.lab = cloud.lab
        environment = cloud.environment(openrc)
        self.url = environment["OS_AUTH_URL"].removesuffix("/identity/v3")
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.verify = environment.get("OS_CACERT", True)
        self.project = self.token = self.user = None
        self.log_in(environment)

    def log_in(self, environment):
        answer = self.call("POST", "/identity/v3/auth/tokens", json=login(environment))
        assert answer.status_code == 201, answer.text
        token = answer.json()["token"]
        self.token, self.project, self.user = answer.headers["X-Subject-Token"], token["project"]["id"], token["user"]["id"]

    def call(self, method, path, json=None, data=None, headers=(), token=True, timeout=30):
        """Sends it; `data` is sent as it is."""
        sent = {"Accept": "application/json", **dict(headers)}
        if token and self.token:
            sent["X-Auth-Token"] = self.token if token is True else token
        if json is not None:
            sent["Content-Type"] = "application/json"
            data = jsonlib.dumps(json)
        with inside(self.lab.name):
            return self.session.request(method, self.url + path, data=data, headers=sent, timeout=timeout)

    def get(self, path, **options):
        """What is there; it has to be."""
        answer = self.call("GET", path, **options)
        assert answer.status_code == 200, f"GET {path}: {answer.status_code} {answer.text}"
        return answer.json()

    def make(self, path, json, **options):
        """Creates something; it has to succeed."""
        answer = self.call("POST", path, json=json, **options)
        assert answer.status_code in (200, 201, 202), f"POST {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    def named(self, path, collection, name):
        """The id of the one of that name."""
        return next(entry["id"] for entry in self.get(path)[collection] if entry["name"] == name)


def login(environment, **changed):
    """A password login's body."""
    environment = {**environment, **changed}
    return {
        "auth": {
            "identity": {
                "methods": ["password"],
                "password": {
                    "user": {
                        "name": environment["OS_USERNAME"],
                        "domain": {"name": "Default"},
                        "password": environment["OS_PASSWORD"],
                    }
                },
            },
            "scope": {"project": {"name": environment["OS_PROJECT_NAME"], "domain": {"name": "Default"}}},
        }
    }
