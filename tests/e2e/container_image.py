"""A container image made by nobody's tool: an OCI archive around Debian's static busybox.

It serves a page on port 8080, and `/cgi-bin/reach?ADDRESS` says whether the container itself reaches an address by ping
and by HTTP: so the way back is tested without a shell in the container.
"""

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path

APPLETS = ("sh", "httpd", "ping", "wget", "echo", "cat", "id", "hostname", "sleep", "ls", "touch", "mount", "ip", "kill", "timeout")

INIT = """#!/bin/sh
echo "hello from $(hostname)"
echo "running as $(id -u)"
httpd -f -p 8080 -h /www &
trap "kill $!; exit 0" TERM
wait
"""

REACH = """#!/bin/sh
echo "Content-Type: text/plain"
echo
ping -c 1 -W 5 "$QUERY_STRING" >/dev/null 2>&1 && echo "ping ok" || echo "ping failed"
timeout 5 wget -q -O - "http://$QUERY_STRING:8080/" 2>&1
"""


def build(path, command=("/init",)):
    """Writes the archive of an image that runs this."""
    layer = _layer()
    packed = gzip.compress(layer, mtime=0)
    config = json.dumps({
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": list(command), "Env": ["PATH=/bin", "GREETING=hello"], "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }).encode()  # fmt: skip
    manifest = json.dumps({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": _descriptor("application/vnd.oci.image.config.v1+json", config),
        "layers": [_descriptor("application/vnd.oci.image.layer.v1.tar+gzip", packed)],
    }).encode()  # fmt: skip
    index = json.dumps({
        "schemaVersion": 2,
        "manifests": [_descriptor("application/vnd.oci.image.manifest.v1+json", manifest)],
    }).encode()  # fmt: skip
    with tarfile.open(path, "w") as archive:
        _add(archive, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        _add(archive, "index.json", index)
        for blob in (config, packed, manifest):
            _add(archive, f"blobs/sha256/{hashlib.sha256(blob).hexdigest()}", blob)


def _descriptor(media_type, blob):
    return {"mediaType": media_type, "digest": f"sha256:{hashlib.sha256(blob).hexdigest()}", "size": len(blob)}


def _layer():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as layer:
        for directory in ("bin", "www", "www/cgi-bin", "tmp", "proc", "sys", "dev", "etc"):
            entry = tarfile.TarInfo(directory)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if directory == "tmp" else 0o755
            layer.addfile(entry)
        _add(layer, "bin/busybox", Path("/bin/busybox").read_bytes(), 0o755)
        for applet in APPLETS:
            entry = tarfile.TarInfo(f"bin/{applet}")
            entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
            layer.addfile(entry)
        _add(layer, "init", INIT.encode(), 0o755)
        _add(layer, "www/index.html", b"a page of the container\n")
        _add(layer, "www/cgi-bin/reach", REACH.encode(), 0o755)
    return buffer.getvalue()


def _add(archive, name, content, mode=0o644):
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    archive.addfile(entry, io.BytesIO(content))
