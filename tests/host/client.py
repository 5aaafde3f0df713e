"""Queues graphs on the tests' server and tells how they went; and builds graphs in API format."""

from __future__ import annotations

import io
import json
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from identity_lock.tests.host.server import Server
from identity_lock.tests.host.websocket import EventListener

Prompt = dict[str, dict[str, Any]]
POLL_SECONDS = 0.1


class PromptError(Exception):
    """ComfyUI refused a graph, or a node of it failed. str() is what its user reads in the error dialog."""

    def __init__(self, message: str, *, node: str = "", kind: str = "", traceback: str = "", entry: Any = None) -> None:
        super().__init__(message)
        self.node, self.kind, self.traceback, self.entry = node, kind, traceback, entry


class Interrupted(PromptError):
    """The run was interrupted."""


class Node:
    """A node of a Graph: `node[0]` is a link to its first output."""

    def __init__(self, number: str, inputs: dict[str, Any]) -> None:
        self.number, self.inputs = number, inputs

    def __getitem__(self, output: int) -> list[Any]:
        return [self.number, output]


class Graph:
    """A graph in API format. Widgets that are not named take the default that the server's schema gives."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self.prompt: Prompt = {}
        self._schema = schema

    def add(self, class_type: str, **inputs: Any) -> Node:
        number = str(len(self.prompt) + 1)
        known = self._schema[class_type]["input"]
        unknown = set(inputs) - set(known.get("required", {})) - set(known.get("optional", {}))
        if unknown:
            raise KeyError(f"{class_type} has no input {sorted(unknown)}")
        defaults = {name: default(spec) for name, spec in known.get("required", {}).items()}
        filled = {name: value for name, value in defaults.items() if value is not None} | inputs
        self.prompt[number] = {"class_type": class_type, "inputs": filled}
        return Node(number, self.prompt[number]["inputs"])


def default(spec: list[Any]) -> Any:
    """The default of a widget in /object_info's format; None for a socket."""
    kind, more = spec[0], spec[1] if len(spec) > 1 else {}
    if "default" in more:
        return more["default"]
    options = kind if isinstance(kind, list) else more.get("options") if kind == "COMBO" else None
    if options:
        return options[0]
    return {"STRING": "", "INT": 0, "FLOAT": 0.0, "BOOLEAN": False}.get(kind if isinstance(kind, str) else "")


class Client:
    """One browser tab, so to speak: an id of its own, the events sent to it, and the graphs it queues."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.id = uuid.uuid4().hex
        self._listener: EventListener | None = None
        self._schema: dict[str, Any] = {}

    @property
    def events(self) -> list[tuple[str, dict[str, Any]]]:
        """(type, data) of every event since the latest `prompt` or `queue` began."""
        return self._listener.events if self._listener else []

    @property
    def schema(self) -> dict[str, Any]:
        if not self._schema:
            self._schema = self.server.get("/object_info", timeout=120)
        return self._schema

    def graph(self) -> Graph:
        return Graph(self.schema)

    def prompt(self, graph: Graph | Prompt, timeout: float = 300) -> dict[str, Any]:
        """Run a graph and return its history entry. PromptError tells what a user would read."""
        return self.wait(self.queue(graph), timeout)

    def queue(self, graph: Graph | Prompt) -> str:
        """Queue a graph; returns its prompt id. A graph that ComfyUI refuses raises PromptError."""
        prompt = graph.prompt if isinstance(graph, Graph) else graph
        self.listen()
        try:
            return str(self.post("/prompt", {"prompt": prompt, "client_id": self.id})["prompt_id"])
        except urllib.error.HTTPError as refused:
            raise _refusal(json.loads(refused.read())) from None

    def wait(self, prompt_id: str, timeout: float = 300) -> dict[str, Any]:
        """The history entry of a queued graph, once it is done."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            entry = self.server.get(f"/history/{prompt_id}").get(prompt_id)
            if entry:
                return _checked(entry)
            time.sleep(POLL_SECONDS)
        raise TimeoutError(f"prompt {prompt_id} is not done after {timeout:.0f} s:\n{self.server.tail()}")

    def wait_for_event(self, test: Any, timeout: float = 120) -> dict[str, Any]:
        """Data of the first event since `queue` for which test(type, data) is true."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            for kind, data in list(self.events):
                if test(kind, data):
                    return data
            time.sleep(0.02)
        raise TimeoutError(f"no such event in {timeout:.0f} s:\n{self.server.tail()}")

    def interrupt(self) -> None:
        self.post("/interrupt", {})

    def free(self) -> None:
        """Make the server forget its cached results, so that the same graph runs again."""
        self.post("/free", {"unload_models": True, "free_memory": True})
        time.sleep(1.5)  # its queue worker wakes up once a second to do so

    def listen(self) -> None:
        """Open the websocket anew, with no events yet."""
        self.close()
        self._listener = EventListener(self.server.url, self.id)

    def close(self) -> None:
        if self._listener:
            self._listener.close()
            self._listener = None

    def post(self, route: str, body: Any) -> Any:
        request = urllib.request.Request(
            self.server.url + route, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            text = answer.read()
        return json.loads(text) if text.strip() else None

    def upload(self, path: Path, name: str | None = None) -> str:
        """Upload a picture into ComfyUI's input folder; returns the name that LoadImage takes."""
        border = uuid.uuid4().hex
        name = name or path.name
        body = b"".join(
            [
                f'--{border}\r\nContent-Disposition: form-data; name="overwrite"\r\n\r\ntrue\r\n'.encode(),
                f'--{border}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n'.encode(),
                b"Content-Type: application/octet-stream\r\n\r\n",
                path.read_bytes(),
                f"\r\n--{border}--\r\n".encode(),
            ]
        )
        request = urllib.request.Request(
            f"{self.server.url}/upload/image", body, {"Content-Type": f"multipart/form-data; boundary={border}"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return str(json.load(answer)["name"])

    def picture(self, file: dict[str, str]) -> np.ndarray:
        """A picture of a history entry ({"filename", "subfolder", "type"}) as uint8 RGB (H, W, 3)."""
        query = urllib.parse.urlencode({key: file.get(key, "") for key in ("filename", "subfolder", "type")})
        with urllib.request.urlopen(f"{self.server.url}/view?{query}", timeout=60) as answer:
            return np.asarray(Image.open(io.BytesIO(answer.read())).convert("RGB"))

    def pictures(self, entry: dict[str, Any], node: Node | str) -> list[np.ndarray]:
        """The pictures that a node showed."""
        number = node.number if isinstance(node, Node) else node
        return [self.picture(file) for file in entry["outputs"][number]["images"]]


def _refusal(answer: dict[str, Any]) -> PromptError:
    """A graph that did not pass validation, told as the front end tells it."""
    said = [answer.get("error", {}).get("message", ""), answer.get("error", {}).get("details", "")]
    kinds = []
    for number, node in (answer.get("node_errors") or {}).items():
        for error in node.get("errors", []):
            said.append(f"{node.get('class_type')} ({number}): {error.get('message')}: {error.get('details')}")
            kinds.append(error.get("type", ""))
    node = next(iter(answer.get("node_errors") or {}), "")
    return PromptError("\n".join(filter(None, said)), node=node, kind=" ".join(kinds) or "refused", entry=answer)


def _checked(entry: dict[str, Any]) -> dict[str, Any]:
    status = entry.get("status") or {}
    for kind, data in status.get("messages", []):
        if kind == "execution_error":
            raise PromptError(
                str(data.get("exception_message", "")).strip(),
                node=str(data.get("node_type", "")),
                kind=str(data.get("exception_type", "")),
                traceback="".join(data.get("traceback") or []),
                entry=entry,
            )
        if kind == "execution_interrupted":
            raise Interrupted("interrupted", node=str(data.get("node_type", "")), kind=kind, entry=entry)
    if status.get("status_str") != "success":
        raise PromptError(f"ComfyUI gave no reason: {status}", entry=entry)
    return entry
