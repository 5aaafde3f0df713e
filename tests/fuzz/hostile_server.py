"""A server that answers whatever the input's files say, and the real client talking to it over HTTP."""

from __future__ import annotations

import asyncio
import io
import json
import time
from pathlib import Path
from typing import Any

from aiohttp import web

from identity_lock.comfy_client import follow, listener
from identity_lock.comfy_client.address import read_address
from identity_lock.comfy_client.fan_out import fan_out
from identity_lock.comfy_client.follow import Limits, QueueRun
from identity_lock.comfy_client.graph import Graph
from identity_lock.comfy_client.journal import Journal
from identity_lock.comfy_client.listener import Listener
from identity_lock.comfy_client.pictures import read_picture
from identity_lock.comfy_client.progress import Progress
from identity_lock.comfy_client.run import _table, _tell_failures
from identity_lock.comfy_client.server import open_server
from identity_lock.errors import OutputError
from identity_lock.safety import index

from .case import Case

ANSWERS = {
    "queue.json": {"queue_running": [], "queue_pending": []},
    "prompt.json": {"prompt_id": "$PROMPT", "number": 1, "node_errors": {}},
    "upload.json": {"name": "photo_1.png", "subfolder": "identity_lock", "type": "input"},
    "info.json": {"SaveImage": {"input": {"required": {"filename_prefix": ["COMBO", {"options": ["a", "b"]}]}}}},
    "history.json": {
        "$PROMPT": {
            "outputs": {
                "2": {
                    "images": [
                        {"filename": "picture_00001_.png", "subfolder": "", "type": "output"},
                        {"filename": "picture_00001_.png", "subfolder": "x", "type": "output"},
                    ],
                    "identity_lock": [
                        {"kind": "drifts", "items": [{"label": "final", "drift": 0.15, "locked": True}]},
                        {"kind": "search", "results": [{"drift": 0.2, "seed": 5}, {"drift": 0.3, "seed": 6}]},
                    ],
                }
            },
            "status": {
                "status_str": "success",
                "completed": True,
                "messages": [
                    ["execution_start", {"prompt_id": "$PROMPT", "timestamp": 1000}],
                    ["execution_success", {"prompt_id": "$PROMPT", "timestamp": 3500}],
                ],
            },
        }
    },
    "ws.jsonl": [
        {"type": "status", "data": {"sid": "x"}},
        {"type": "executing", "data": {"node": "2", "display_node": "2", "prompt_id": "$PROMPT"}},
        {"type": "progress", "data": {"node": "2", "value": 1, "max": 4, "prompt_id": "$PROMPT"}},
        {
            "type": "progress_state",
            "data": {
                "prompt_id": "$PROMPT",
                "nodes": {"2": {"state": "running", "value": 1, "max": 4, "display_node_id": "2"}},
            },
        },
        {"type": "executing", "data": {"node": None, "prompt_id": "$PROMPT"}},
    ],
    "headers.json": {},
}
REFUSED = {
    "error": {"type": "prompt_outputs_failed_validation", "message": "?", "details": "", "extra_info": {}},
    "node_errors": {
        "2": {
            "class_type": "SaveImage",
            "dependent_outputs": ["2"],
            "errors": [
                {
                    "type": "value_not_in_list",
                    "message": "?",
                    "details": "filename_prefix: 'c' not in list",
                    "extra_info": {"input_name": "filename_prefix", "input_config": None, "received_value": "c"},
                }
            ],
        }
    },
}
FAILED = {
    "$PROMPT": {
        "outputs": {},
        "status": {
            "status_str": "error",
            "completed": False,
            "messages": [
                ["execution_start", {"timestamp": 1}],
                ["execution_error", {"node_id": "2", "node_type": "SaveImage", "exception_message": "out of memory"}],
            ],
        },
    }
}
GRAPH: dict[str, Any] = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "?"}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "test"}},
}


def script(**changed: Any) -> Case:
    """The answers of a well-behaved server, but for those that are given: history=..., ws=..."""
    files: dict[str, bytes] = {"view.bin": b"the picture's bytes", "picture.png": _picture()}
    for name, answer in ANSWERS.items():
        held = changed.get(name.partition(".")[0], answer)
        lines = held if name.endswith(".jsonl") and isinstance(held, list) else [held]
        files[name] = held if isinstance(held, bytes) else "\n".join(map(json.dumps, lines)).encode()
    return Case(files | {k: v for k, v in changed.items() if "." in k}, "")


def scripts() -> list[Case]:
    from .corpus import records

    picture = script(**{"view.bin": records()[0].files["a.png"]})
    return [script(), picture, script(history=FAILED), script(prompt=REFUSED), script(history={}), script(queue={})]


def _picture() -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.new("RGB", (8, 8), (9, 9, 9)).save(out, format="PNG")
    return out.getvalue()


def talk(path: Path, folder: Path) -> None:
    """One job on a server that answers with the files of `folder`; what it makes goes to `folder`/out."""
    follow.LOOK_SECONDS, follow.TICK_SECONDS, listener.RECONNECT_SECONDS = 0.02, 0.01, 0.01
    before = {one for one in folder.rglob("*")}
    picture = read_picture(folder / "picture.png")
    out = folder / "out"
    out.mkdir(exist_ok=True)
    graph = Graph("graph.json", GRAPH | {"1": {"class_type": "LoadImage", "inputs": {"image": picture}}})
    journal = Journal(out, graph.name, "fingerprint")
    job = fan_out(graph, ()).jobs[0]
    records = journal.plan([job])
    try:
        asyncio.run(_run(folder, journal, [(job, records[0])]))
    except OutputError as error:
        if not (out / records[0].name).is_symlink():  # which is the user's own doing
            raise AssertionError(f"the server stopped the whole run: {error}") from error
        raise
    finally:
        _table(records, set(), out).encode()
        _tell_failures(records)
        for line in journal.path.read_bytes().splitlines():
            json.loads(line)
    made = {one for one in folder.rglob("*") if index.home() not in (one, *one.parents)} - before
    assert all(one == out or out in one.parents for one in made), made
    allowed = {journal.path, out / records[0].name}
    assert {one for one in out.iterdir()} <= allowed, [one.name for one in out.iterdir()]


async def _run(folder: Path, journal: Journal, jobs: list[Any]) -> None:
    server = _Server(folder)
    await server.start()
    deadline = time.monotonic() + 0.4  # a server may say for ever that it is busy
    try:
        address = read_address(f"http://127.0.0.1:{server.port}")
        graphs: dict[str, Any] = {}
        async with open_server(address) as client:
            progress = Progress(graphs.get, io.StringIO(), bar=True)
            heard = Listener(client, journal.client_id, progress.on_event)
            listening = asyncio.create_task(heard.listen())
            await heard.connected(0.1)
            limits = Limits(timeout=0.2, retries=1, reconnect=0.1)
            run = QueueRun(
                client, heard, journal, progress, limits, graphs, True, lambda: time.monotonic() > deadline
            )
            try:
                await run.run(jobs)
                await client.options("SaveImage", "filename_prefix")
                await client.wants_whole("SaveImage", "filename_prefix")
            finally:
                listening.cancel()
                died = (await asyncio.gather(listening, return_exceptions=True))[0]
                progress.close()
            if not isinstance(died, asyncio.CancelledError):
                raise died
    finally:
        await server.stop()


class _Server:
    def __init__(self, folder: Path) -> None:
        whole = [one for one in folder.iterdir() if one.is_file() and one.stat().st_size <= 64 << 20]
        self.files = {one.name: one.read_bytes() for one in whole}
        self.prompt = "none"
        self.sockets: list[web.WebSocketResponse] = []

    async def start(self) -> None:
        app = web.Application()
        app.add_routes(
            [
                web.get("/queue", self._file("queue.json")),
                web.get("/history/{id:.*}", self._file("history.json")),
                web.get("/object_info/{name:.*}", self._file("info.json")),
                web.get("/view", self._file("view.bin")),
                web.get("/ws", self._ws),
                web.post("/upload/image", self._file("upload.json")),
                web.post("/prompt", self._queue),
                web.post("/{any:.*}", self._file("nothing")),
            ]
        )
        self._runner = web.AppRunner(app, shutdown_timeout=0.05)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        for socket in self.sockets:
            await socket.close()
        await self._runner.cleanup()

    def _content(self, name: str) -> bytes:
        return self.files.get(name, b"").replace(b"$PROMPT", self.prompt.encode())

    def _file(self, name: str) -> Any:
        async def answer(request: web.Request) -> web.Response:
            return web.Response(body=self._content(name), headers=self._headers(name))

        return answer

    def _headers(self, name: str) -> dict[str, str]:
        """headers.json: {"queue.json": {"Content-Encoding": "deflate"}}; what is no such header is left out."""
        try:
            told = json.loads(self.files["headers.json"])[name]
            return {str(key): str(value) for key, value in told.items() if str(key).isascii() and str(value).isascii()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return {}

    async def _queue(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.prompt = body["prompt_id"]
        status = 400 if b"node_errors" in self.files.get("prompt.json", b"")[:300] and b'"error"' in self.files[
            "prompt.json"
        ] else 200
        return web.Response(body=self._content("prompt.json"), status=status, headers=self._headers("prompt.json"))

    async def _ws(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.sockets.append(socket)
        while self.prompt == "none" and not socket.closed:
            await asyncio.sleep(0.005)
        for line in self._content("ws.jsonl").split(b"\n")[:200]:
            try:
                await socket.send_str(line.decode("utf-8", "replace"))
            except ConnectionError:
                break
        async for _ in socket:
            pass
        return socket
