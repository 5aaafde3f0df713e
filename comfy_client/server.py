"""ComfyUI's HTTP API, as much of it as queueing needs. Every method raises ServerGone where no answer comes."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from ..errors import OutputError
from ..safety.atomic import replacing
from ..safety.pictures import MAX_BYTES
from ..safety.untrusted import FileRefused, parse_json, read_regular
from .address import ServerAddress
from .graph import Nodes
from .pictures import LocalPicture
from .refusals import ServerError, ServerGone

UPLOAD_FOLDER = "identity_lock"
# A server that computes may be slow to answer, but a connection is taken by the system at once.
ANSWER_SECONDS, CONNECT_SECONDS = 120.0, 10.0
MAX_ANSWER, MAX_FILE = 16 << 20, 4 << 30  # bytes
_CHUNK = 1 << 18
_ID = re.compile(r"[\w-]{1,100}", re.ASCII)


class GraphRejected(ServerError):
    """The server's validation refused the graph. body: its answer, {"error": ..., "node_errors": ...}."""

    def __init__(self, body: dict[str, Any]) -> None:
        super().__init__("The server refused the graph.")
        self.body = body


@dataclass(frozen=True)
class QueueState:
    """The prompt ids that the server runs, and those that wait."""

    running: frozenset[str]
    pending: frozenset[str]

    def __contains__(self, prompt_id: str) -> bool:
        return prompt_id in self.running or prompt_id in self.pending


@dataclass(frozen=True)
class ServerFile:
    """A file as ComfyUI names it. kind: "output", "temp" or "input"."""

    filename: str
    subfolder: str
    kind: str


class ComfyServer:
    def __init__(self, address: ServerAddress, session: aiohttp.ClientSession) -> None:
        self.address, self.session = address, session
        self._uploaded: dict[LocalPicture, str] = {}

    async def queue_state(self) -> QueueState:
        """Raises ServerError where what answers is no ComfyUI."""
        body = await self._json("GET", "/queue")
        try:
            running, pending = (
                frozenset(str(item[1]) for item in body[key]) for key in ("queue_running", "queue_pending")
            )
        except (TypeError, KeyError, IndexError) as error:
            raise self._no_comfyui() from error
        return QueueState(running, pending)

    async def history(self, prompt_id: str) -> dict[str, Any] | None:
        """What became of a prompt: outputs and status; None while it waits, runs or is unknown."""
        body = await self._json("GET", f"/history/{prompt_id}")
        entry = body.get(prompt_id) if isinstance(body, dict) else None
        return entry if isinstance(entry, dict) else None

    async def upload(self, picture: LocalPicture) -> str:
        """The name to give to a LoadImage. A picture that the server has already is not stored twice."""
        if picture in self._uploaded:
            return self._uploaded[picture]
        try:
            content = read_regular(picture.path, MAX_BYTES)
        except FileRefused as error:
            raise OutputError(f"The picture {picture.path} cannot be read any more ({error}).") from error
        form = aiohttp.FormData()
        form.add_field("image", content, filename=picture.upload_name)
        form.add_field("subfolder", UPLOAD_FOLDER)
        form.add_field("type", "input")
        async with self._answer("POST", "/upload/image", data=form) as answer:
            if answer.status == 413:
                raise ServerError(
                    f"{picture.path.name} is larger than the server takes; make it smaller, or start ComfyUI with a "
                    "larger --max-upload-size."
                )
            body = await self._body(answer)
        given = body if isinstance(body, dict) else {}
        name = "/".join(part for part in (given.get("subfolder"), given.get("name")) if isinstance(part, str) and part)
        if not name:
            raise self._no_comfyui()
        self._uploaded[picture] = name
        return name

    async def queue(self, nodes: Nodes, prompt_id: str, client_id: str) -> str:
        """The prompt's id: the one asked for, or the server's own where its version gives ids itself.

        Raises GraphRejected where the graph, or one of its outputs, is not valid; then nothing of it stays queued.
        """
        request = {"prompt": nodes, "prompt_id": prompt_id, "client_id": client_id}
        async with self._answer("POST", "/prompt", json=request) as answer:
            body = await self._body(answer, accepted=(200, 400))
        if not isinstance(body, dict):
            raise self._no_comfyui()
        if "prompt_id" not in body:
            raise GraphRejected(body)
        given = str(body["prompt_id"])
        if not _ID.fullmatch(given):  # it becomes part of addresses
            raise self._no_comfyui()
        if body.get("node_errors"):  # the server would run the valid outputs and say nothing of the others
            await self.drop(given)
            raise GraphRejected(body)
        return given

    async def drop(self, prompt_id: str) -> None:
        """Takes a prompt out of the queue, or interrupts it where it runs already."""
        if prompt_id in (await self.queue_state()).running:
            await self._post("/interrupt", {"prompt_id": prompt_id})
        else:
            await self._post("/queue", {"delete": [prompt_id]})

    async def options(self, class_type: str, name: str) -> list[str]:
        """What a list input may hold; empty where it is none or the server does not say."""
        spec = await self._input_spec(class_type, name)
        with contextlib.suppress(IndexError, TypeError, AttributeError):
            found = spec[0] if isinstance(spec[0], list) else spec[1].get("options", [])
            return [str(one) for one in found]
        return []

    async def wants_whole(self, class_type: str, name: str) -> bool:
        """Whether an input takes whole numbers only."""
        return (await self._input_spec(class_type, name))[:1] == ["INT"]

    async def _input_spec(self, class_type: str, name: str) -> list[Any]:
        """[type, {settings}]; empty where the server does not know the node or the input."""
        body = await self._json("GET", f"/object_info/{class_type}")
        with contextlib.suppress(KeyError, TypeError, AttributeError):
            inputs = body[class_type]["input"]
            return list({**inputs.get("required", {}), **inputs.get("optional", {})}[name])
        return []

    async def download(self, file: ServerFile, target: Path) -> int:
        """Writes the file whole or not at all; its size in bytes. Raises ServerError, OutputError."""
        query = {"filename": file.filename, "subfolder": file.subfolder, "type": file.kind}
        async with self._answer("GET", "/view", params=query) as answer:
            if answer.status != 200:
                raise ServerError(
                    f'The server made "{file.filename}" and cannot give it (HTTP {answer.status}); was it moved?'
                )
            size, expected = 0, answer.content_length
            with replacing(target) as temporary:
                with open(temporary, "wb") as out:
                    async for chunk in self._chunks(answer):
                        size += out.write(chunk)
                        if size > MAX_FILE:
                            raise ServerError(f'"{file.filename}" has over {MAX_FILE >> 30} GiB; copy it yourself.')
                if expected is not None and size != expected:
                    raise ServerGone(f'Of "{file.filename}" came {size} bytes and not {expected}.')
                if size == 0:
                    raise ServerError(f'"{file.filename}" is empty on the server.')
        return size

    async def _chunks(self, answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        with self._gone_in_words():
            async for chunk in answer.content.iter_chunked(_CHUNK):
                yield chunk

    async def _post(self, route: str, body: dict[str, Any]) -> None:
        async with self._answer("POST", route, json=body):
            pass

    async def _json(self, method: str, route: str) -> Any:
        async with self._answer(method, route) as answer:
            return await self._body(answer)

    async def _body(self, answer: aiohttp.ClientResponse, accepted: tuple[int, ...] = (200,)) -> Any:
        if answer.status not in accepted:
            raise ServerError(
                f"{self.address.shown} answered HTTP {answer.status} to {answer.url.path}; its console says why."
            )
        content = bytearray()
        async for chunk in self._chunks(answer):
            content += chunk
            if len(content) > MAX_ANSWER:
                raise ServerError(f"{self.address.shown} answered with more than {MAX_ANSWER >> 20} MiB.")
        try:
            return parse_json(bytes(content), finite=False)  # ComfyUI writes NaN for a node that always runs
        except ValueError as error:
            raise self._no_comfyui() from error

    @contextlib.asynccontextmanager
    async def _answer(self, method: str, route: str, **more: Any) -> AsyncIterator[aiohttp.ClientResponse]:
        """Redirects are not followed: another address was not agreed to."""
        with self._gone_in_words():
            answer = await self.session.request(method, self.address.url + route, allow_redirects=False, **more)
        async with answer:
            yield answer

    @contextlib.contextmanager
    def _gone_in_words(self) -> Iterator[None]:
        # Time-outs and most broken connections are OSErrors: left as they are, they would read as a full disk.
        try:
            yield
        except (aiohttp.ClientError, OSError) as error:
            raise ServerGone(f"{self.address.shown} does not answer ({type(error).__name__}).") from error

    def _no_comfyui(self) -> ServerError:
        return ServerError(f"What answers at {self.address.shown} is no ComfyUI; name another with --server.")


@contextlib.asynccontextmanager
async def open_server(address: ServerAddress) -> AsyncIterator[ComfyServer]:
    """A session that uses no proxy and looks names up through Python's sockets, where the offline guard sees them.

    Answers are taken as they come, never unpacked: a small one could unpack to any size."""
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=ANSWER_SECONDS)
    connector = aiohttp.TCPConnector(resolver=aiohttp.ThreadedResolver())
    async with aiohttp.ClientSession(
        timeout=timeout, connector=connector, trust_env=False, auto_decompress=False,
        headers={"Accept-Encoding": "identity"},
    ) as session:  # fmt: skip
        yield ComfyServer(address, session)
