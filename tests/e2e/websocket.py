"""A websocket client of its own few lines: the handshake of RFC 6455, masked frames, nothing more."""

import base64
import hashlib
import os
import socket
import struct
import time
import urllib.parse

from lab import inside

TEXT, BINARY, CLOSE = 1, 2, 8


class Refused(Exception):
    """The server answered the handshake with something else than 101; its status line."""


class WebSocket:
    def __init__(self, lab, url, origin=None):
        parts = urllib.parse.urlsplit(url)
        with inside(lab.name):
            self.socket = socket.create_connection((parts.hostname, parts.port or 80), 30)
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [
            f"GET {parts.path}?{parts.query} HTTP/1.1", f"Host: {parts.netloc}", "Upgrade: websocket", "Connection: Upgrade",
            f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Protocol: binary",
        ]  # fmt: skip
        if origin:
            lines.append(f"Origin: {origin}")
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode())
        self.held = b""
        while b"\r\n\r\n" not in self.held:
            piece = self.socket.recv(4096)
            if not piece:
                raise Refused(self.held.decode(errors="replace"))
            self.held += piece
        head, self.held = self.held.split(b"\r\n\r\n", 1)
        status = head.split(b"\r\n")[0].decode()
        if " 101 " not in status:
            raise Refused(status)
        accept = base64.b64encode(hashlib.sha1(key.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        assert accept in head, head

    def send(self, payload, kind=BINARY):
        mask = os.urandom(4)
        length = len(payload)
        size = struct.pack("!B", 0x80 | length) if length < 126 else struct.pack("!BH", 0x80 | 126, length)
        masked = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
        self.socket.sendall(bytes([0x80 | kind]) + size + mask + masked)

    def _read(self, count):
        while len(self.held) < count:
            piece = self.socket.recv(65536)
            if not piece:
                raise EOFError
            self.held += piece
        taken, self.held = self.held[:count], self.held[count:]
        return taken

    def receive(self):
        """The next message's kind and bytes."""
        first, second = self._read(2)
        length = second & 0x7F
        if length == 126:
            (length,) = struct.unpack("!H", self._read(2))
        elif length == 127:
            (length,) = struct.unpack("!Q", self._read(8))
        return first & 0x0F, self._read(length)

    def until(self, wanted, seconds=20):
        """Reads until a text has come; all of what came."""
        said, deadline = b"", time.monotonic() + seconds
        while wanted not in said:
            self.socket.settimeout(max(0.1, deadline - time.monotonic()))
            try:
                kind, payload = self.receive()
            except (TimeoutError, EOFError) as failure:
                raise AssertionError(f"no {wanted!r} in {said!r}") from failure
            assert kind != CLOSE, f"closed without {wanted!r}: {said!r}"
            said += payload
        return said.decode(errors="replace")

    def ends(self, seconds=20):
        """Whether the other side ends it."""
        self.socket.settimeout(seconds)
        try:
            while self.receive()[0] != CLOSE:
                pass
        except EOFError:
            pass
        except TimeoutError:
            return False
        return True

    def close(self):
        self.socket.close()
