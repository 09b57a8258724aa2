"""Objects: the stock `swift` and `openstack` clients keep files, share them, and get them back bit for bit."""

import hashlib
import os
import subprocess
import time

import pytest



@pytest.fixture(scope="module")
def cloud(clouds):
    madang = clouds("objects")
    madang.up(seconds=600)
    return madang


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A directory with files of all sizes."""
    place = tmp_path_factory.mktemp("files")
    for name, size in {"empty": 0, "small": 4096, "edge": 131_073, "large": 9 << 20}.items():
        (place / name).write_bytes(os.urandom(size))
    (place / "below").mkdir()
    (place / "below" / "ünïcode name").write_text("hello")
    return place


def swift(cloud, *arguments, check=True, cwd=None, openrc="openrc"):
    command = cloud.lab.enter(cloud.client.parent / "swift", *arguments)
    done = subprocess.run(command, env=cloud.environment(openrc), cwd=cwd, capture_output=True, text=True, timeout=180)
    if check and done.returncode != 0:
        raise AssertionError(f"swift {arguments}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout if check else done.stdout + done.stderr


def curl(cloud, url, *arguments):
    """Status and body, as somebody without a token gets them."""
    text = cloud.lab.run("curl", "-sk", "-w", "\n%{http_code}", *arguments, url)
    body, status = text.rsplit("\n", 1)
    return int(status), body


def storage_url(cloud):
    lines = swift(cloud, "auth").splitlines()
    return next(line.split("=", 1)[1].strip("'") for line in lines if "OS_STORAGE_URL" in line)


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_what_is_uploaded_comes_back_bit_for_bit(cloud, files, tmp_path):
    swift(cloud, "upload", "box", ".", cwd=files)
    names = swift(cloud, "list", "box").splitlines()
    assert names == sorted(["below/ünïcode name", "edge", "empty", "large", "small"])
    swift(cloud, "download", "box", cwd=tmp_path)
    for path in (path for path in files.rglob("*") if path.is_file()):
        assert digest(tmp_path / path.relative_to(files)) == digest(path), path
    assert swift(cloud, "list", "box", "--prefix", "e", "--delimiter", "/").split() == ["edge", "empty"]


def test_segments_are_one_object(cloud, files, tmp_path):
    for kind in ([], ["--use-slo"]):
        swift(cloud, "upload", *kind, "--segment-size", str(1 << 20), "segmented", "large", cwd=files)
        swift(cloud, "download", "segmented", "large", "--output", str(tmp_path / "back"))
        assert digest(tmp_path / "back") == digest(files / "large")
        stat = swift(cloud, "stat", "segmented", "large")
        assert f"Content Length: {9 << 20}" in stat
    swift(cloud, "delete", "segmented", "large")
    assert swift(cloud, "list", "segmented_segments").split() == [], "an SLO goes with its segments"


def test_the_openstack_client_sees_the_same(cloud, files):
    cloud.openstack("container", "create", "boxes")
    made = cloud.openstack("object", "create", "--name", "a/b", "boxes", str(files / "small"))
    assert made[0]["object"] == "a/b"
    shown = cloud.openstack("object", "show", "boxes", "a/b")
    assert shown["content-length"] == "4096" and shown["etag"] == hashlib.md5((files / "small").read_bytes()).hexdigest()
    cloud.openstack("object", "set", "--property", "color=red", "boxes", "a/b", text=True)
    assert "color" in str(cloud.openstack("object", "show", "boxes", "a/b")["properties"]).lower()
    names = [container["Name"] for container in cloud.openstack("container", "list")]
    assert "boxes" in names and "box" in names
    refused = cloud.refused("container", "delete", "boxes")
    assert "409" in refused
    cloud.openstack("container", "delete", "--recursive", "boxes", text=True)
    assert cloud.openstack("object", "store", "account", "show")["Account"].startswith("AUTH_")


def test_ranges_conditions_and_signed_urls(cloud, files):
    url = storage_url(cloud)
    assert curl(cloud, f"{url}/box/small")[0] == 401
    swift(cloud, "post", "-m", "Temp-URL-Key: sesame")
    path = "/" + url.split("/", 3)[3] + "/box/small"
    signed = swift(cloud, "tempurl", "GET", "600", path, "sesame").strip()
    base = url.split("/object-store")[0]
    whole = cloud.lab.run("curl", "-sk", f"{base}{signed}", "-o", str(files / "got"), "-w", "%{http_code}")
    assert whole == "200" and digest(files / "got") == digest(files / "small")
    (files / "got").unlink()
    status, body = curl(cloud, f"{base}{signed}", "-r", "10-19", "-o", "/dev/null", "-w", "%{size_download}\n%{http_code}")
    assert (status, body.strip()) == (206, "10")
    assert curl(cloud, f"{base}{signed}", "-r", "4096-")[0] == 416
    assert curl(cloud, f"{base}{signed[:-3]}999")[0] == 401
    tag = hashlib.md5((files / "small").read_bytes()).hexdigest()
    assert curl(cloud, f"{base}{signed}", "-H", f"If-None-Match: {tag}")[0] == 304


def test_a_container_for_everybody_is_a_web_site(cloud, tmp_path):
    (tmp_path / "index.html").write_text("<h1>at home</h1>")
    (tmp_path / "404error.html").write_text("lost")
    swift(cloud, "upload", "site", "index.html", "404error.html", cwd=tmp_path)
    url = storage_url(cloud)
    assert curl(cloud, f"{url}/site/index.html")[0] == 401
    swift(cloud, "post", "-r", ".r:*", "-m", "web-index:index.html", "-m", "web-error:error.html", "site")
    assert curl(cloud, f"{url}/site/") == (200, "<h1>at home</h1>")
    assert curl(cloud, f"{url}/site/nowhere") == (404, "lost")
    assert curl(cloud, f"{url}/site/x", "-T", str(tmp_path / "index.html"))[0] == 401, "reading is not writing"


def test_another_project_gets_what_it_is_given(cloud, files):
    swift(cloud, "upload", "shared", "small", cwd=files)
    url = storage_url(cloud)
    as_other = ["--os-storage-url", url]
    # A user of no consequence in a project of its own.
    cloud.openstack("project", "create", "guests", openrc="admin-openrc")
    cloud.openstack("user", "create", "--password", "guest", "guest", openrc="admin-openrc")
    grant = ["role", "add", "--user", "guest", "--project", "guests", "member"]
    cloud.openstack(*grant, openrc="admin-openrc", text=True)
    guest = ["--os-username", "guest", "--os-password", "guest", "--os-project-name", "guests"]
    assert "403" in swift(cloud, *guest, *as_other, "stat", "shared", "small", check=False)
    swift(cloud, "post", "-r", "guests:guest", "shared")
    assert "Content Length: 4096" in swift(cloud, *guest, *as_other, "stat", "shared", "small")
    assert "403" in swift(cloud, *guest, *as_other, "upload", "shared", "small", check=False, cwd=files)
    swift(cloud, "post", "-w", "*:guest", "shared")
    swift(cloud, *guest, *as_other, "upload", "--object-name", "theirs", "shared", "small", cwd=files)
    assert "theirs" in swift(cloud, "list", "shared").split()


def test_versions_expiry_and_bulk_delete(cloud, tmp_path):
    swift(cloud, "post", "old")
    swift(cloud, "post", "-H", "X-Versions-Location: old", "versioned")
    for text in ("one", "two"):
        (tmp_path / "note").write_text(text)
        swift(cloud, "upload", "versioned", "note", cwd=tmp_path)
    assert len(swift(cloud, "list", "old").split()) == 1
    swift(cloud, "delete", "versioned", "note")
    assert swift(cloud, "download", "versioned", "note", "--output", "-") == "one"
    swift(cloud, "upload", "-H", "X-Delete-After: 2", "brief", "note", cwd=tmp_path)
    assert "note" in swift(cloud, "list", "brief")
    time.sleep(3)
    assert "404" in swift(cloud, "stat", "brief", "note", check=False)
    for n in range(30):
        (tmp_path / f"many{n:02}").write_text("x")
    swift(cloud, "upload", "many", ".", cwd=tmp_path)
    swift(cloud, "delete", "many")
    assert "many" not in swift(cloud, "list").split()


def test_everything_is_there_after_a_crash(cloud, files, tmp_path):
    swift(cloud, "upload", "kept", "small", "large", cwd=files)
    cloud.kill()
    cloud.up()
    swift(cloud, "download", "kept", cwd=tmp_path)
    for name in ("small", "large"):
        assert digest(tmp_path / name) == digest(files / name)
