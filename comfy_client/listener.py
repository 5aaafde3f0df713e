"""ComfyUI's websocket: what is running now. It may drop at any time; nothing but the progress shown depends on it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import aiohttp

from ..safety.untrusted import parse_json
from .server import MAX_ANSWER, ComfyServer

RECONNECT_SECONDS = 1.0
HEARTBEAT_SECONDS = 30.0


class Listener:
    """Calls on_event(type, data) for each text message. Binary ones, the previews, are ignored.

    connected_since: time.monotonic() of the connection that is open, None without one.
    """

    def __init__(self, server: ComfyServer, client_id: str, on_event: Callable[[str, dict[str, Any]], None]) -> None:
        self.server, self.client_id, self.on_event = server, client_id, on_event
        self.connected_since: float | None = None
        self._news = asyncio.Event()

    async def listen(self) -> None:
        """Until cancelled. The same client id after a drop: the server goes on telling it about its prompts."""
        url = f"{self.server.address.url}/ws"
        while True:
            with suppress(aiohttp.ClientError, OSError):
                async with self.server.session.ws_connect(
                    url, params={"clientId": self.client_id}, heartbeat=HEARTBEAT_SECONDS, max_msg_size=MAX_ANSWER
                ) as socket:
                    self.connected_since = time.monotonic()
                    async for message in socket:
                        if message.type == aiohttp.WSMsgType.TEXT:
                            self._hear(message.data)
            self.connected_since = None
            self._news.set()
            await asyncio.sleep(RECONNECT_SECONDS)

    async def connected(self, patience: float) -> None:
        """Waits for the connection, `patience` seconds at most: queueing may go on without it."""
        deadline = time.monotonic() + patience
        while self.connected_since is None and time.monotonic() < deadline:
            await asyncio.sleep(0.02)

    async def news(self, patience: float) -> bool:
        """Waits until a prompt ended or the connection dropped, `patience` seconds at most; whether there was news."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), patience)
        heard = self._news.is_set()
        self._news.clear()
        return heard

    def _hear(self, text: str) -> None:
        try:
            message = parse_json(text, finite=False)
            kind, data = str(message["type"]), message.get("data")
        except (ValueError, KeyError, TypeError, AttributeError):
            return  # another pack's message in a form of its own
        if not isinstance(data, dict):
            return
        self.on_event(kind, data)
        # The end of a prompt. "execution_success" comes too early: the history has nothing of it yet.
        if kind == "executing" and data.get("node") is None:
            self._news.set()
