"""The few frames of RFC 6455 that listening to ComfyUI's events takes, so that the tests need no further package."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import struct
import threading
from typing import Any
from urllib.parse import urlsplit

TEXT, CLOSE, PING, PONG = 1, 8, 9, 10


class EventListener(threading.Thread):
    """Collects the JSON messages of ComfyUI's websocket as (type, data); pictures (binary frames) are counted."""

    def __init__(self, url: str, client_id: str) -> None:
        super().__init__(daemon=True, name="comfyui-events")
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.pictures = 0
        place = urlsplit(url)
        self._socket = socket.create_connection((place.hostname or "127.0.0.1", place.port or 80), timeout=30)
        self._file = self._socket.makefile("rb")
        self._greet(f"{place.hostname}:{place.port}", client_id)
        self._socket.settimeout(None)
        self.start()

    def _greet(self, host: str, client_id: str) -> None:
        key = base64.b64encode(os.urandom(16)).decode()
        self._socket.sendall(
            (
                f"GET /ws?clientId={client_id} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\n"
                f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
            ).encode()
        )
        status = self._file.readline()
        if b" 101 " not in status:
            raise ConnectionError(f"ComfyUI's websocket answered {status!r}")
        while self._file.readline().strip():
            pass

    def run(self) -> None:
        with contextlib.suppress(OSError, ValueError, struct.error):
            while True:
                kind, payload = self._message()
                if kind == CLOSE:
                    return
                if kind == TEXT:
                    message = json.loads(payload)
                    self.events.append((message["type"], message.get("data") or {}))
                else:
                    self.pictures += 1

    def _message(self) -> tuple[int, bytes]:
        """The next whole message, its frames put together; pings are answered on the way."""
        kind, parts = 0, []
        while True:
            first, second = self._exactly(2)
            code, last, length = first & 0x0F, first & 0x80, second & 0x7F
            if length == 126:
                (length,) = struct.unpack(">H", self._exactly(2))
            elif length == 127:
                (length,) = struct.unpack(">Q", self._exactly(8))
            payload = self._exactly(length)
            if code == PING:
                self._send(PONG, payload)
            elif code != PONG:
                kind = kind or code
                parts.append(payload)
                if last:
                    return kind, b"".join(parts)

    def _exactly(self, count: int) -> bytes:
        read = self._file.read(count) if count else b""
        if len(read) != count:
            raise ConnectionError("ComfyUI closed the websocket")
        return read

    def _send(self, code: int, payload: bytes) -> None:
        mask = os.urandom(4)
        hidden = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload[:125]))
        self._socket.sendall(bytes([0x80 | code, 0x80 | len(hidden)]) + mask + hidden)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
