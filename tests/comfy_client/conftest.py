"""Graphs of stock nodes, the stand-in server, and the command as a function."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from identity_lock import cli
from identity_lock.comfy_client import follow, listener
from identity_lock.tests.comfy_client.stand_in import StandIn

COLOURS: dict[str, Any] = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "color": 7}, "_meta": {"title": "Colour"}},
    "2": {
        "class_type": "SaveImage",
        "inputs": {"images": ["1", 0], "filename_prefix": "test"},
        "_meta": {"title": "Keep"},
    },
}
PHOTOS: dict[str, Any] = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "{{PHOTO_1: a portrait}}"}, "_meta": {"title": "Photo 1"}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "photo"}},
}


@pytest.fixture(autouse=True)
def environment_as_it_was(monkeypatch) -> None:
    """The command sets offline switches for its process; the tests after it shall not inherit them."""
    monkeypatch.setattr(os, "environ", os.environ.copy())


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> None:
    monkeypatch.setattr(listener, "RECONNECT_SECONDS", 0.05)
    monkeypatch.setattr(follow, "LOOK_SECONDS", 0.5)
    monkeypatch.setattr(follow, "TICK_SECONDS", 0.05)


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    server = StandIn()
    yield server
    server.close()


@pytest.fixture
def write_graph(tmp_path) -> Callable[..., Path]:
    def write(nodes: Any = COLOURS, name: str = "graph.json") -> Path:
        path = tmp_path / name
        path.write_text(json.dumps(nodes))
        return path

    return write


@pytest.fixture
def write_picture(tmp_path) -> Callable[..., Path]:
    def write(name: str, colour: tuple[int, int, int] = (200, 10, 10)) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), colour).save(path)
        return path

    return write


@pytest.fixture
def queue(stand_in, tmp_path, write_graph, capsys) -> Callable[..., Any]:
    """queue(*options, graph=path) runs the command against the stand-in; (exit code, stdout, stderr)."""

    def run(*options: object, graph: Path | None = None) -> tuple[int, str, str]:
        path = graph or write_graph()
        words = ["queue", path, "--server", stand_in.url, "--out", tmp_path / "out", *options]
        code = cli.main([str(word) for word in words])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


@pytest.fixture
def journal(tmp_path) -> Callable[[], list[dict[str, Any]]]:
    """The lines of the command's journal."""

    def read() -> list[dict[str, Any]]:
        return [json.loads(line) for line in (tmp_path / "out" / "queue.jsonl").read_text().splitlines()]

    return read
