"""A stand-in for a server: the few routes of ComfyUI that the client uses, a queue in memory, and failures to order.

It is no ComfyUI and computes nothing: each SaveImage of a prompt "makes" a file that tells the values it was made from.
The real one is in tests/host/test_queue.py.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from aiohttp import WSMsgType, web

Prompt = dict[str, dict[str, Any]]


class StandIn:
    """Runs in a thread of its own. `ran` holds every prompt that was executed, `log` what was asked for.

    hold: prompts wait in the queue. before: called with the prompt's number (1, 2, ...) when it starts, in the server's
    thread; may be a coroutine, and may call crash() or drop_sockets(). known: node types. errors: class type -> message
    of its exception. cut: how many downloads break off in the middle.
    """

    def __init__(self) -> None:
        self.hold = False
        self.own_ids = False
        self.before: Callable[[int], Any] = lambda number: None
        self.known = {"EmptyImage", "LoadImage", "SaveImage", "Slow", "CLIPTextEncode", "PreviewImage"}
        self.errors: dict[str, str] = {}
        self.ui: dict[str, Any] = {}
        self.lists: dict[str, dict[str, list[str]]] = {}
        self.cut = 0
        self.step_seconds = 0.0
        self.ran: list[Prompt] = []
        self.queued: list[str] = []
        self.uploads: dict[str, bytes] = {}
        self.files: dict[str, bytes] = {}
        self.dropped: list[str] = []
        self.connections = 0
        self.forget()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.port = 0
        self.start()
        self._worker: asyncio.Task[None] = self._call(self._start_worker())

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def forget(self) -> None:
        """What a restart of the process does to a queue in memory."""
        self.running: list[tuple[str, Prompt, str]] = []
        self.pending: list[tuple[str, Prompt, str]] = []
        self.history: dict[str, Any] = {}
        self.sockets: dict[str, web.WebSocketResponse] = getattr(self, "sockets", {})
        self.life = getattr(self, "life", 0) + 1

    def start(self) -> None:
        self._call(self._listen())

    def stop(self) -> None:
        """The port is closed and every connection is cut."""
        self._call(self._close())

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._worker.cancel)
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def crash(self, away: float = 0.0) -> None:
        """From `before`: the queue and the history are lost, and the server is back after `away` seconds."""
        self.forget()
        self._loop.create_task(self._restart(away))

    def drop_sockets(self) -> None:
        for socket in list(self.sockets.values()):
            self._loop.create_task(socket.close())

    def wait_until(self, true: Callable[[], bool], seconds: float = 20) -> None:
        """For tests: in the test's own thread."""
        waited = threading.Event()
        for _ in range(int(seconds / 0.02)):
            if true():
                return
            waited.wait(0.02)
        raise AssertionError("it did not come to pass")

    # ---- the loop's side ---------------------------------------------------------------------------------------------

    def _call(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    async def _start_worker(self) -> asyncio.Task[None]:
        return asyncio.create_task(self._work())

    async def _restart(self, away: float) -> None:
        await self._close()
        await asyncio.sleep(away)
        await self._listen()

    async def _listen(self) -> None:
        app = web.Application()
        app.add_routes(
            [
                web.get("/queue", self._get_queue),
                web.post("/queue", self._post_queue),
                web.post("/interrupt", self._interrupt),
                web.get("/history/{id}", self._get_history),
                web.post("/prompt", self._prompt),
                web.post("/upload/image", self._upload),
                web.get("/view", self._view),
                web.get("/object_info/{name}", self._object_info),
                web.get("/ws", self._ws),
            ]
        )
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def _close(self) -> None:
        for socket in list(self.sockets.values()):
            await socket.close()
        await self._runner.cleanup()

    async def _get_queue(self, request: web.Request) -> web.Response:
        def shown(items):
            return [[0, prompt_id, prompt, {}, []] for prompt_id, prompt, _ in items]

        return web.json_response({"queue_running": shown(self.running), "queue_pending": shown(self.pending)})

    async def _post_queue(self, request: web.Request) -> web.Response:
        gone = (await request.json())["delete"]
        self.dropped += gone
        self.pending = [item for item in self.pending if item[0] not in gone]
        return web.Response()

    async def _interrupt(self, request: web.Request) -> web.Response:
        self.dropped.append((await request.json())["prompt_id"])
        self.running.clear()
        return web.Response()

    async def _get_history(self, request: web.Request) -> web.Response:
        prompt_id = request.match_info["id"]
        return web.json_response({prompt_id: self.history[prompt_id]} if prompt_id in self.history else {})

    async def _object_info(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        required = {key: ["COMBO", {"options": values}] for key, values in self.lists.get(name, {}).items()}
        return web.json_response({name: {"input": {"required": required}}})

    async def _prompt(self, request: web.Request) -> web.Response:
        body = await request.json()
        prompt: Prompt = body["prompt"]
        for node, held in prompt.items():
            if held["class_type"] not in self.known:
                extra = {"node_id": node, "class_type": held["class_type"], "node_title": "?"}
                error = {"type": "missing_node_type", "message": "?", "details": f"Node ID '#{node}'"}
                return web.json_response({"error": error | {"extra_info": extra}, "node_errors": {}}, status=400)
            for name, values in self.lists.get(held["class_type"], {}).items():
                if held["inputs"].get(name) not in values:
                    extra = {"input_name": name, "input_config": None, "received_value": held["inputs"].get(name)}
                    error = {"type": "value_not_in_list", "message": "?", "details": "?", "extra_info": extra}
                    return web.json_response(
                        {"error": {}, "node_errors": {node: {"errors": [error], "class_type": held["class_type"]}}},
                        status=400,
                    )
        prompt_id = f"own-{len(self.queued)}" if self.own_ids else body["prompt_id"]
        self.queued.append(prompt_id)
        self.pending.append((prompt_id, prompt, body["client_id"]))
        return web.json_response({"prompt_id": prompt_id, "number": 1, "node_errors": {}})

    async def _upload(self, request: web.Request) -> web.Response:
        form = await request.post()
        image = form["image"]
        self.uploads[f"{form['subfolder']}/{image.filename}"] = image.file.read()
        return web.json_response({"name": image.filename, "subfolder": form["subfolder"], "type": "input"})

    async def _view(self, request: web.Request) -> web.StreamResponse:
        content = self.files.get(request.query["filename"])
        if content is None:
            return web.Response(status=404)
        if self.cut:
            self.cut -= 1
            answer = web.StreamResponse(headers={"Content-Length": str(len(content))})
            await answer.prepare(request)
            await answer.write(content[:3])
            request.transport.close()
            return answer
        return web.Response(body=content)

    async def _ws(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        client = request.query["clientId"]
        self.sockets[client] = socket
        self.connections += 1
        await socket.send_json({"type": "status", "data": {"sid": client}})
        await socket.send_bytes(b"\x00\x00\x00\x01preview")
        async for message in socket:
            if message.type == WSMsgType.ERROR:
                break
        if self.sockets.get(client) is socket:
            del self.sockets[client]
        return socket

    async def _tell(self, client: str, kind: str, **data: Any) -> None:
        socket = self.sockets.get(client)
        if socket is not None and not socket.closed:
            with suppress(ConnectionError):  # of a client that was killed a moment ago
                await socket.send_json({"type": kind, "data": data})

    async def _work(self) -> None:
        while True:
            await asyncio.sleep(0.01)
            if self.pending and not self.hold:
                life, item = self.life, self.pending.pop(0)
                self.running.append(item)
                waiting = self.before(len(self.ran) + 1)
                if waiting is not None:
                    await waiting
                if life == self.life:
                    await self._run(*item, life)

    async def _run(self, prompt_id: str, prompt: Prompt, client: str, life: int) -> None:
        self.ran.append(prompt)
        outputs: dict[str, Any] = {}
        messages: list[Any] = [["execution_start", {"prompt_id": prompt_id, "timestamp": 1000}]]
        failed = False
        for node, held in prompt.items():
            await self._tell(client, "executing", node=node, display_node=node, prompt_id=prompt_id)
            await self._tell(client, "progress", node=node, value=1, max=4, prompt_id=prompt_id)
            await asyncio.sleep(self.step_seconds)
            if life != self.life or prompt_id in self.dropped:
                return
            if held["class_type"] in self.errors:
                error = {"node_id": node, "node_type": held["class_type"], "timestamp": 3500}
                error |= {"exception_message": self.errors[held["class_type"]] + "\n", "exception_type": "ValueError"}
                messages.append(["execution_error", error])
                failed = True
                break
            if held["class_type"] == "SaveImage":
                name = f"picture_{len(self.files) + 1:05d}_.png"
                self.files[name] = json.dumps(prompt, sort_keys=True).encode()
                outputs[node] = {"images": [{"filename": name, "subfolder": "", "type": "output"}]}
            if held["class_type"] == "PreviewImage":
                name = f"preview_{len(self.files) + 1:05d}_.png"
                self.files[name] = b"preview"
                outputs[node] = {"images": [{"filename": name, "subfolder": "", "type": "temp"}]}
            if node in self.ui:
                outputs.setdefault(node, {})["identity_lock"] = [self.ui[node]]
        if not failed:
            messages.append(["execution_success", {"prompt_id": prompt_id, "timestamp": 3500}])
        status = {"status_str": "error" if failed else "success", "completed": not failed, "messages": messages}
        self.running.clear()
        self.history[prompt_id] = {"prompt": [], "outputs": outputs, "status": status}
        await self._tell(client, "executing", node=None, prompt_id=prompt_id)
