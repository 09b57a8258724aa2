"""Writes a tempest.conf for the cloud that the OS_* variables name, after asking it what it has.

    configure.py FILE SETTINGS(json) simulated|real

Makes through the API what tempest expects to find and does not make itself: the role ResellerAdmin, two images (two real
guests where hosts are real, else a mebibyte of zeros) and two flavors.
"""

import configparser
import json
import os
import re
import sys
from pathlib import Path

import requests

# tempest's names of services, and the types under which a catalog has them.
SERVICES = {
    "nova": ("compute",), "neutron": ("network",), "glance": ("image",), "placement": ("placement",),
    "cinder": ("block-storage", "volumev3", "volume"), "swift": ("object-store",), "heat": ("orchestration",),
}  # fmt: skip
ZEROS = bytes(1 << 20)


class Cloud:
    """An admin's session."""

    def __init__(self, environment):
        self.auth_url = environment["OS_AUTH_URL"].rstrip("/").removesuffix("/v3") + "/v3"
        self.user, self.password = environment["OS_USERNAME"], environment["OS_PASSWORD"]
        self.project, self.domain = environment["OS_PROJECT_NAME"], environment.get("OS_USER_DOMAIN_NAME", "Default")
        self.region = environment.get("OS_REGION_NAME", "RegionOne")
        self.http = requests.Session()
        self.http.verify = environment.get("OS_CACERT", True)
        scope = {"project": {"name": self.project, "domain": {"name": self.domain}}}
        user = {"name": self.user, "password": self.password, "domain": {"name": self.domain}}
        identity = {"methods": ["password"], "password": {"user": user}}
        answer = self.call("POST", f"{self.auth_url}/auth/tokens", json={"auth": {"identity": identity, "scope": scope}})
        self.http.headers["X-Auth-Token"] = answer.headers["X-Subject-Token"]
        token = answer.json()["token"]
        self.domain_id = token["project"]["domain"]["id"]
        self.catalog = {
            service["type"]: endpoint["url"].rstrip("/")
            for service in token["catalog"]
            for endpoint in service["endpoints"]
            if endpoint["interface"] == "public"
        }

    def call(self, method, url, **options):
        answer = self.http.request(method, url, timeout=120, **options)
        if answer.status_code >= 400:
            raise SystemExit(f"{method} {url}: {answer.status_code} {answer.text[:300]}")
        return answer

    def get(self, url, **params):
        return self.call("GET", url, params=params).json()

    def url(self, service, version=""):
        """A service's address, with its version where the catalog's is without."""
        kind = next((kind for kind in SERVICES[service] if kind in self.catalog), None)
        if kind is None:
            return None
        url = self.catalog[kind]
        return url if re.search(r"/v\d", url) else url + version

    def versions(self, service, prefix):
        """The lowest and the highest microversion."""
        root = re.sub(r"/v\d.*$", "", self.url(service)) + "/"
        found = [v for v in self.get(root)["versions"] if v["id"].startswith(prefix) and v.get("min_version")]
        newest = max(found, key=lambda v: [int(part) for part in (v.get("max_version") or v["version"]).split(".")])
        return newest["min_version"], newest.get("max_version") or newest["version"]


def image(cloud, name, data):
    base = cloud.url("glance", "/v2")
    for found in cloud.get(f"{base}/images", name=name, status="active")["images"]:
        return found["id"]
    body = {"name": name, "container_format": "bare", "disk_format": "raw", "visibility": "public"}
    made = cloud.call("POST", f"{base}/images", json=body).json()["id"]
    headers = {"Content-Type": "application/octet-stream"}
    cloud.call("PUT", f"{base}/images/{made}/file", data=data, headers=headers)
    return made


def flavor(cloud, name, ram, disk):
    base = cloud.url("nova", "/v2.1")
    for found in cloud.get(f"{base}/flavors")["flavors"]:
        if found["name"] == name:
            return found["id"]
    body = {"flavor": {"name": name, "ram": ram, "vcpus": 1, "disk": disk}}
    return cloud.call("POST", f"{base}/flavors", json=body).json()["flavor"]["id"]


def tiny(cloud):
    """The guest that `up` registers, made to say that it knows SCSI disks."""
    base = cloud.url("glance", "/v2")
    images = cloud.get(f"{base}/images", name="tiny")["images"]
    if not images:
        raise SystemExit("the cloud has no image named tiny")
    image = images[0]
    wanted = {"hw_disk_bus": "virtio", "hw_scsi_model": "virtio-scsi"}
    change = [{"op": "add", "path": f"/{name}", "value": value} for name, value in wanted.items() if name not in image]
    headers = {"Content-Type": "application/openstack-images-v2.1-json-patch"}
    cloud.call("PATCH", f"{base}/images/{image['id']}", data=json.dumps(change), headers=headers)
    return image["id"]


def volume_type(cloud, name, specs):
    base = cloud.url("cinder")
    if name not in {kind["name"] for kind in cloud.get(f"{base}/types")["volume_types"]}:
        cloud.call("POST", f"{base}/types", json={"volume_type": {"name": name, "extra_specs": specs}})
    return name


def subnet_pools(cloud, base):
    """Default pools of both versions of IP, which auto-allocation takes its subnets from where the originals are tested."""
    there = {pool["name"] for pool in cloud.get(f"{base}/subnetpools")["subnetpools"]}
    pools = [("conformance-v4", "10.222.0.0/16", 26), ("conformance-v6", "fd5e:6f6d:7000::/48", 64)]
    for name, prefix, length in pools:
        if name not in there:
            pool = {"name": name, "prefixes": [prefix], "default_prefixlen": length, "shared": True, "is_default": True}
            cloud.call("POST", f"{base}/subnetpools", json={"subnetpool": pool})


def sections(cloud, work, is_real):
    """What is found out about the cloud, by section of tempest.conf."""
    there = {service: str(bool(cloud.url(service))).lower() for service in SERVICES}
    conf = {
        "DEFAULT": {"log_dir": work, "log_file": "tempest.log", "debug": "false"},
        "oslo_concurrency": {"lock_path": f"{work}/lock"},
        "auth": {
            "use_dynamic_credentials": "true", "admin_username": cloud.user, "admin_password": cloud.password,
            "admin_project_name": cloud.project, "admin_user_domain_name": cloud.domain,
            "admin_project_domain_name": cloud.domain, "admin_domain_name": cloud.domain,
            "default_credentials_domain_name": cloud.domain, "create_isolated_networks": there["neutron"],
            "admin_system": "all",
        },
        "identity": {
            "uri_v3": cloud.auth_url, "auth_version": "v3", "region": cloud.region, "v3_endpoint_type": "public",
            "default_domain_id": cloud.domain_id, "disable_ssl_certificate_validation": "true",
        },
        "service_available": {"horizon": "false", **there},
        "validation": {"run_validation": str(is_real).lower(), "connect_method": "floating", "image_ssh_user": "tiny", "image_alt_ssh_user": "tiny"},
        "image": {"catalog_type": "image"},
    }  # fmt: skip
    low, high = cloud.versions("nova", "v2")
    images = (tiny(cloud),) * 2 if is_real else (image(cloud, "conformance-1", ZEROS), image(cloud, "conformance-2", ZEROS))
    conf["compute"] = {
        "min_microversion": low, "max_microversion": high, "build_timeout": "120", "image_ref": images[0], "image_ref_alt": images[1],
        "flavor_ref": flavor(cloud, "conformance-1", 128, 1), "flavor_ref_alt": flavor(cloud, "conformance-2", 192, 1),
        "min_compute_nodes": len(cloud.get(cloud.url("nova", "/v2.1") + "/os-hypervisors")["hypervisors"]),
    }  # fmt: skip
    low, high = cloud.versions("placement", "v1")
    conf["placement"] = {"min_microversion": low, "max_microversion": high}
    base = cloud.url("neutron").removesuffix("/v2.0") + "/v2.0"
    aliases = sorted(extension["alias"] for extension in cloud.get(f"{base}/extensions")["extensions"])
    subnet_pools(cloud, base)
    outside = cloud.get(f"{base}/networks", **{"router:external": "true"})["networks"]
    conf["network"] = {"public_network_id": next(network["id"] for network in outside if network["subnets"])}
    conf["network-feature-enabled"] = {
        "api_extensions": ",".join(aliases), "ipv6_subnet_attributes": "true", "port_security": str("port-security" in aliases).lower(),
    }  # fmt: skip
    if cloud.url("cinder"):
        low, high = cloud.versions("cinder", "v3")
        extensions = cloud.get(cloud.url("cinder") + "/extensions")["extensions"]
        conf["volume"] = {"min_microversion": low, "max_microversion": high, "build_timeout": "120", "catalog_type": "block-storage"}
        conf["volume"]["volume_type_multiattach"] = volume_type(cloud, "conformance-multiattach", {"multiattach": "<is> True"})
        conf["volume-feature-enabled"] = {"api_extensions": ",".join(sorted(extension["alias"] for extension in extensions))}
    if cloud.url("swift"):
        root = re.sub(r"/v1(/.*)?$", "", cloud.url("swift"))
        apis = sorted(name for name in cloud.get(f"{root}/info") if name != "swift")
        conf["object-storage-feature-enabled"] = {"discoverable_apis": ",".join(apis), "container_sync": str("container_sync" in apis).lower()}
    return conf


def main(path, settings, hosts):
    cloud = Cloud(os.environ)
    work = Path(path).parent
    (work / "lock").mkdir(exist_ok=True)
    if "ResellerAdmin" not in {role["name"] for role in cloud.get(f"{cloud.auth_url}/roles")["roles"]}:
        cloud.call("POST", f"{cloud.auth_url}/roles", json={"role": {"name": "ResellerAdmin"}})
    conf = configparser.RawConfigParser()
    conf.optionxform = str
    found = sections(cloud, str(work), hosts == "real")
    for section, values in json.loads(settings).items():
        words = {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in values.items()}
        found.setdefault(section, {}).update(words)
    for section, values in found.items():
        if section != "DEFAULT":
            conf.add_section(section)
        for key, value in values.items():
            conf.set(section, key, str(value))
    with open(path, "w") as file:
        conf.write(file)


if __name__ == "__main__":
    main(*sys.argv[1:])
